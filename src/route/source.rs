//! The events of one upstream, read one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::policy::Reason;
use super::upstream::Driven;
use crate::openai::Progress;
use crate::openai::sse::{self, DONE, MAX_EVENT, Scanner};

/// Events held back while they say nothing yet. Servers send one that names the role,
/// some a few more; one that sends many is passed on as it is.
const MOST_HELD: usize = 8;

/// Bytes by which it is told that a server begins anew in place of going on: where it has said as many of those that the
/// client has, or all of fewer.
const REPEATED: usize = 200;

/// The fewest bytes that tell it: a short beginning is soon said again.
const LEAST_REPEATED: usize = 16;

/// One event, as it came and as it reads. In both, the model has the client's name for it.
#[derive(Debug)]
pub(super) struct Event {
    /// The text of the event.
    pub(super) data: String,
    /// What it says.
    pub(super) fields: Map<String, Value>,
    /// How far the answer is, where that was asked for; it stands in none of the others.
    pub(super) progress: Option<Progress>,
}

/// What comes next from an upstream.
#[derive(Debug)]
pub(super) enum Item {
    /// An event without text of the answer.
    Preamble(Event),
    /// An event of the answer.
    Data(Event),
    /// The upstream says that it failed.
    Error(String, Reason),
    /// The answer is whole.
    Done,
}

/// The beginning of a stream: the first event that carries something, and what came
/// before it.
#[derive(Debug)]
pub(super) struct Opening {
    /// The events so far.
    pub(super) held: VecDeque<Event>,
    /// There are no more.
    pub(super) is_whole: bool,
}

/// The events of one upstream. Dropping it drops the connection.
pub(super) struct Source {
    body: Driven,
    scanner: Scanner,
    rename: Option<String>,
    takes_progress: bool,
}

impl Source {
    /// Reads events from `body`; in each the model gets the name in `rename`, and out of each is taken how far the
    /// answer is, where `takes_progress`.
    pub(super) fn new(body: Driven, rename: Option<String>, takes_progress: bool) -> Self {
        Self { body, scanner: Scanner::default(), rename, takes_progress }
    }

    /// Waits for the first event that carries something. Up to here, nothing has reached
    /// the client. An event that only names the role does not count: engines send it
    /// before they have read the prompt.
    pub(super) async fn open(&mut self) -> Result<Opening, Reason> {
        let mut held = VecDeque::new();
        loop {
            let (event, is_enough) = match self.next().await? {
                Item::Preamble(event) => (event, held.len() + 1 >= MOST_HELD),
                Item::Data(event) => (event, true),
                Item::Error(_, reason) => return Err(reason),
                Item::Done => return Ok(Opening { held, is_whole: true }),
            };
            held.push_back(event);
            if is_enough {
                return Ok(Opening { held, is_whole: false });
            }
        }
    }

    /// Waits until it is clear that this goes on behind `said` and does not say that again: some servers begin anew with
    /// whatever answer they are given. Each event may take so long as `between_tokens`, and none comes beyond `ends`.
    pub(super) async fn behind(
        &mut self,
        said: &str,
        mut opening: Opening,
        between_tokens: Duration,
        ends: Instant,
    ) -> Result<Opening, Reason> {
        let said = said.trim_start();
        let said = &said.as_bytes()[..said.len().min(REPEATED)];
        if said.len() < LEAST_REPEATED {
            return Ok(opening);
        }
        let mut text: String = opening.held.iter().map(|event| text_of(&event.fields)).collect();
        let mut bytes: usize = opening.held.iter().map(|event| event.data.len()).sum();
        loop {
            let again = text.trim_start().as_bytes();
            let length = again.len().min(said.len());
            if again[..length] != said[..length] {
                return Ok(opening);
            }
            if length == said.len() {
                return Err(Reason::NotContinued);
            }
            if opening.is_whole {
                return Ok(opening);
            }
            match self.next_within(between_tokens, ends).await? {
                Item::Preamble(event) | Item::Data(event) => {
                    text += &text_of(&event.fields);
                    bytes += event.data.len();
                    if bytes > MAX_EVENT {
                        return Err(Reason::TooLarge);
                    }
                    opening.held.push_back(event);
                }
                Item::Error(_, reason) => return Err(reason),
                Item::Done => opening.is_whole = true,
            }
        }
    }

    /// Waits for what comes next: for so long `between_tokens`, and never beyond `ends`.
    pub(super) async fn next_within(
        &mut self,
        between_tokens: Duration,
        ends: Instant,
    ) -> Result<Item, Reason> {
        let patience = Instant::now() + between_tokens;
        let late = if patience < ends { Reason::Stalled } else { Reason::TotalLate };
        timeout_at(patience.min(ends), self.next()).await.unwrap_or(Err(late))
    }

    async fn next(&mut self) -> Result<Item, Reason> {
        loop {
            if let Some(data) = self.scanner.next().map_err(unreadable)? {
                return if data == DONE { Ok(Item::Done) } else { self.read(data) };
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.scanner.push(bytes);
                    }
                }
                None if self.scanner.ends_with_done() => return Ok(Item::Done),
                Some(Err(_)) | None => return Err(Reason::Died),
            }
        }
    }

    fn read(&self, mut data: String) -> Result<Item, Reason> {
        let mut fields: Map<String, Value> = serde_json::from_str(&data).map_err(|_| Reason::Malformed)?;
        if let Some(error) = fields.get("error").filter(|error| !error.is_null()) {
            let is_context = error.get("code").is_some_and(|code| code == "context_length_exceeded");
            let reason = if is_context { Reason::ContextExceeded } else { Reason::StreamError };
            return Ok(Item::Error(data, reason));
        }
        let mut is_changed = false;
        if let (Some(name), Some(model)) = (&self.rename, fields.get_mut("model")) {
            *model = Value::String(name.clone());
            is_changed = true;
        }
        let progress = if self.takes_progress { fields.shift_remove(Progress::FIELD) } else { None };
        is_changed |= progress.is_some();
        if is_changed {
            data = serde_json::to_string(&fields).map_err(|_| Reason::Malformed)?;
        }
        let progress = progress.map(serde_json::from_value).transpose().map_err(|_| Reason::Malformed)?;
        let is_preamble = is_preamble(&fields);
        let event = Event { data, fields, progress };
        Ok(if is_preamble { Item::Preamble(event) } else { Item::Data(event) })
    }
}

fn unreadable(error: sse::Error) -> Reason {
    match error {
        sse::Error::TooLong => Reason::TooLarge,
        sse::Error::NotText => Reason::Malformed,
    }
}

/// Returns the text of an answer that an event has.
fn text_of(event: &Map<String, Value>) -> String {
    let choices = event.get("choices").and_then(Value::as_array);
    choices.into_iter().flatten().map(said_in).collect()
}

/// Returns the text that a choice of an event has.
pub(super) fn said_in(choice: &Value) -> String {
    let said = [choice.get("delta").and_then(|delta| delta.get("content")), choice.get("text")];
    said.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns whether a field of an event says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Returns whether an event carries nothing of the answer: no text, no call, no end.
pub(super) fn is_preamble(event: &Map<String, Value>) -> bool {
    let Some(choices) = event.get("choices").and_then(Value::as_array) else { return false };
    choices.iter().all(|choice| {
        let is_silent = |key: &str| choice.get(key).is_none_or(is_empty);
        let delta = choice.get("delta").and_then(Value::as_object);
        is_silent("finish_reason")
            && is_silent("text")
            && delta.is_none_or(|delta| delta.iter().all(|(key, value)| key == "role" || is_empty(value)))
    })
}
