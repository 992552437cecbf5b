//! Event streams (`text/event-stream`): what OpenAI's streams are carried in.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// The data that ends every stream of OpenAI's.
pub const DONE: &str = "[DONE]";

/// The longest event that is taken. A token with all its log probabilities is a few KiB.
pub const MAX_EVENT: usize = 1 << 20;

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
    /// An event does not end.
    #[error("an event of the stream is longer than {MAX_EVENT} bytes")]
    TooLong,
    /// The data is no UTF-8.
    #[error("an event of the stream is no text")]
    NotText,
}

/// Cuts a stream of bytes into the data of events. Bytes of an event that has not ended
/// are kept back, so that a character is never cut in half.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes of the lines that have not ended yet.
    rest: Vec<u8>,
    /// Where in `rest` no line end was found yet.
    seen: usize,
    /// The data lines of the event that has not ended yet.
    data: Option<String>,
    /// Comments that nobody has taken yet, where they are wanted.
    comments: Option<Vec<String>>,
}

/// So many comments are kept until they are taken, and so many bytes of each.
const KEPT_COMMENTS: (usize, usize) = (16, 1024);

impl Scanner {
    /// Returns one that keeps comments, too.
    pub fn with_comments() -> Self {
        Self { comments: Some(Vec::new()), ..Self::default() }
    }

    /// Takes the comments out that stood before the events that were returned.
    pub fn take_comments(&mut self) -> Vec<String> {
        self.comments.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// Returns the data of the next whole event, if there is one. Comments and events
    /// without data are left out. Lines end with LF or CRLF.
    #[expect(clippy::should_implement_trait, reason = "more may come after it has none")]
    pub fn next(&mut self) -> Result<Option<String>, Error> {
        let mut start = 0;
        let mut whole = None;
        while let Some(length) = self.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + length;
            let line = &self.rest[start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            (start, self.seen) = (end + 1, end + 1);
            if line.is_empty() {
                if self.data.is_some() {
                    whole = self.data.take();
                    break;
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let text = std::str::from_utf8(value.strip_prefix(b" ").unwrap_or(value));
                let text = text.map_err(|_| Error::NotText)?;
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(text);
                    }
                    none => *none = Some(text.to_owned()),
                }
            } else if let (Some(text), Some(comments)) = (line.strip_prefix(b":"), &mut self.comments)
                && comments.len() < KEPT_COMMENTS.0
            {
                let text = &text[..text.len().min(KEPT_COMMENTS.1)];
                comments.push(String::from_utf8_lossy(text).trim().to_owned());
            }
            if self.data.as_ref().is_some_and(|data| data.len() > MAX_EVENT) {
                return Err(Error::TooLong);
            }
        }
        self.rest.drain(..start);
        self.seen -= start;
        if whole.is_none() {
            self.seen = self.rest.len();
            if self.rest.len() > MAX_EVENT {
                return Err(Error::TooLong);
            }
        }
        Ok(whole)
    }

    /// Returns whether the stream, which is at its end, ended with [`DONE`] but for the
    /// empty line: some servers leave it out.
    pub fn ends_with_done(&self) -> bool {
        let rest = self.rest.strip_prefix(b"data:").map(<[u8]>::trim_ascii);
        match &self.data {
            Some(data) => data == DONE && self.rest.is_empty(),
            None => rest == Some(DONE.as_bytes()),
        }
    }
}

#[cfg(test)]
#[path = "sse_texts_tests.rs"]
mod texts_tests;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(chunks: &[&[u8]]) -> Result<(Vec<String>, Scanner), Error> {
        let mut scanner = Scanner::default();
        let mut events = Vec::new();
        for chunk in chunks {
            scanner.push(chunk);
            while let Some(event) = scanner.next()? {
                events.push(event);
            }
        }
        Ok((events, scanner))
    }

    const STREAM: &str =
        ": hi\n\ndata: {\"a\":1}\n\nevent: x\r\ndata:two\r\ndata: lines é🦀\r\n\r\n\n\ndata: [DONE]\n\n";

    #[test]
    fn comments_are_kept_where_they_are_wanted() {
        let stream = b": continued on desk (local: gone)\ndata: a\n\n:\n: ping\n\ndata: b\n\n";
        let mut scanner = Scanner::with_comments();
        scanner.push(stream);
        assert_eq!(scanner.next().unwrap().as_deref(), Some("a"));
        assert_eq!(scanner.take_comments(), ["continued on desk (local: gone)"]);
        assert_eq!(scanner.next().unwrap().as_deref(), Some("b"));
        assert_eq!(scanner.take_comments(), ["", "ping"]);
        let mut plain = Scanner::default();
        plain.push(stream);
        assert_eq!(plain.next().unwrap().as_deref(), Some("a"));
        assert!(plain.take_comments().is_empty());
    }

    #[test]
    fn events_are_found_between_comments_names_and_empty_lines() {
        let (events, _) = scan(&[STREAM.as_bytes()]).unwrap();
        assert_eq!(events, ["{\"a\":1}", "two\nlines é🦀", "[DONE]"]);
    }

    #[test]
    fn half_a_character_is_an_error_only_when_its_line_ends() {
        let crab = "🦀".as_bytes();
        assert!(scan(&[b"data: ", &crab[..2]]).unwrap().0.is_empty());
        assert_eq!(scan(&[b"data: ", &crab[..2], &crab[2..], b"\n\n"]).unwrap().0, ["🦀"]);
        assert_eq!(scan(&[b"data: ", &crab[..2], b"\n\n"]).unwrap_err(), Error::NotText);
    }

    #[test]
    fn an_event_without_end_does_not_grow_for_ever() {
        let chunk = vec![b'x'; MAX_EVENT / 2];
        assert_eq!(scan(&[b"data: ", &chunk, &chunk, &chunk]).unwrap_err(), Error::TooLong);
        let line = [b"data: ".as_slice(), &chunk, b"\n"].concat();
        assert_eq!(scan(&[&line, &line, &line]).unwrap_err(), Error::TooLong);
    }

    #[test]
    fn done_without_its_empty_line_is_seen_at_the_end() {
        for (tail, done) in
            [("data: [DONE]\n", true), ("data: [DONE]", true), ("data: [DO", false), ("", false)]
        {
            let (_, scanner) = scan(&[b"data: 1\n\n", tail.as_bytes()]).unwrap();
            assert_eq!(scanner.ends_with_done(), done, "{tail:?}");
        }
    }

    proptest! {
        #[test]
        fn where_chunks_are_cut_does_not_matter(cuts in prop::collection::vec(0usize..STREAM.len(), 0..9)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                chunks.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(scan(&chunks).unwrap().0, scan(&[STREAM.as_bytes()]).unwrap().0);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&[&bytes]);
        }

        #[test]
        fn what_is_written_is_read_again(data in "[^\r]{0,40}") {
            prop_assert_eq!(scan(&[&encode(&data)]).unwrap().0, [data]);
        }
    }
}
