//! Event streams (`text/event-stream`): what OpenAI's streams are carried in.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// The data that ends every stream of OpenAI's.
pub const DONE: &str = "[DONE]";

/// The longest line and the largest event that [`Decoder`] takes unless told otherwise.
/// A chunk of an answer has some hundred bytes; a foreign server's last one with
/// log-probabilities may have many thousand.
pub const MAX_EVENT: usize = 1 << 20;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its data, the lines joined with `\n`.
    pub data: String,
}

impl Event {
    /// Returns whether this ends the stream.
    pub fn is_done(&self) -> bool {
        self.data == DONE
    }
}

/// Writes `text` as one event.
pub fn encode(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 8);
    // a bare CR ends a line as well, so it must not stay inside one
    for line in text.split(['\n', '\r']) {
        out.put_slice(b"data: ");
        out.put_slice(line.as_bytes());
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// Writes `value` as one event of JSON.
pub fn encode_json(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    serde_json::to_string(value).map(|text| encode(&text))
}

/// A stream that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line or an event is longer than the decoder takes.
    #[error("an event of the stream is longer than {0} bytes")]
    TooLong(usize),
}

/// Reads events out of bytes that arrive in pieces of any size. After an error it stays in
/// error: the place where the next event begins is unknown then.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a CR, so that an LF right after it ends no second line.
    after_cr: bool,
    at_start: bool,
    data: Option<String>,
    name: Option<String>,
    failed: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(MAX_EVENT)
    }
}

impl Decoder {
    /// Takes lines and events of `limit` bytes at most.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            data: None,
            name: None,
            failed: false,
        }
    }

    /// Takes more bytes, and appends the events that they complete to `events`. Events that
    /// were complete before an error are there as well.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        for &byte in bytes {
            if self.failed {
                return Err(Error::TooLong(self.limit));
            }
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => self.end_line(events)?,
                _ if self.line.len() >= self.limit => return Err(self.fail()),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// Returns whether nothing of an unfinished event is held: a stream that ends
    /// elsewhere was cut off.
    pub fn is_at_rest(&self) -> bool {
        self.line.is_empty() && self.data.is_none() && self.name.is_none()
    }

    fn fail(&mut self) -> Error {
        self.failed = true;
        Error::TooLong(self.limit)
    }

    fn end_line(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let line = std::mem::take(&mut self.line);
        let mut text = String::from_utf8_lossy(&line);
        if std::mem::replace(&mut self.at_start, false)
            && let Some(rest) = text.strip_prefix('\u{feff}')
        {
            text = rest.to_owned().into();
        }
        if text.is_empty() {
            let name = self.name.take();
            if let Some(data) = self.data.take() {
                events.push(Event { name, data });
            }
            return Ok(());
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let held = self.data.as_ref().map_or(0, String::len);
                if held + value.len() > self.limit {
                    return Err(self.fail());
                }
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
            "event" => self.name = Some(value.to_owned()),
            // comments (an empty name), ids and retry times are nothing to us
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        Decoder::default().push(bytes, &mut events).unwrap();
        events
    }

    #[test]
    fn every_way_to_end_a_line_is_one_end() {
        for end in ["\n", "\r\n", "\r"] {
            let text = [": hello", "event: error", "data: a", "data:b", "id: 7", "", "data: [DONE]", "", ""]
                .join(end);
            let events = decode(text.as_bytes());
            assert_eq!(events.len(), 2, "{text:?}");
            assert_eq!(events[0], Event { name: Some("error".into()), data: "a\nb".into() });
            assert!(events[1].is_done());
        }
    }

    #[test]
    fn an_unfinished_event_is_not_given_out() {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        decoder.push(b"\xef\xbb\xbfdata: {\"a\"", &mut events).unwrap();
        assert!(events.is_empty() && !decoder.is_at_rest());
        decoder.push(b":1}\n\n", &mut events).unwrap();
        assert_eq!(events[0].data, "{\"a\":1}");
        assert!(decoder.is_at_rest());
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_decoder_stays_in_error() {
        let mut decoder = Decoder::new(10);
        let mut events = Vec::new();
        assert_eq!(decoder.push(b"data: 0123456789", &mut events), Err(Error::TooLong(10)));
        assert_eq!(decoder.push(b"\n\n", &mut events), Err(Error::TooLong(10)));
        let mut decoder = Decoder::new(10);
        assert!(decoder.push(b"data: 012\ndata: 345\n", &mut events).is_ok());
        assert_eq!(decoder.push(b"data: 678\ndata: 9ab\n", &mut events), Err(Error::TooLong(10)));
        assert!(events.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back_whatever_the_cuts(
            texts in prop::collection::vec("[^\r]{0,20}", 0..5),
            cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| encode(text)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut decoder = Decoder::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                decoder.push(&bytes[pair[0]..pair[1]], &mut events).unwrap();
            }
            let back: Vec<String> = events.into_iter().map(|event| event.data).collect();
            prop_assert_eq!(back, texts);
        }
    }
}
