//! A stream on its way from an upstream to the client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::journey::Journey;
use super::policy::Reason;
use super::proxy::Permit;
use super::reply;
use super::sse::{self, DONE, Scanner};
use super::upstream::Exchange;

/// Events held back while they say nothing yet. Servers send one that names the role,
/// some a few more; one that sends many is passed on as it is.
const MOST_HELD: usize = 8;

/// What comes next from an upstream.
#[derive(Debug)]
enum Item {
    /// An event without text of the answer.
    Preamble(String),
    /// An event of the answer.
    Data(String),
    /// The upstream says that it failed.
    Error(String, Reason),
    /// The answer is whole.
    Done,
}

/// The beginning of a stream: the first event that carries something, and what came
/// before it.
#[derive(Debug)]
pub(super) struct Opening {
    held: VecDeque<String>,
    is_whole: bool,
}

/// The events of one upstream.
pub(super) struct Source {
    exchange: Exchange,
    scanner: Scanner,
    rename: Option<String>,
}

impl Source {
    /// Reads events from `exchange`; in each the model gets the name in `rename`.
    pub(super) fn new(exchange: Exchange, rename: Option<String>) -> Self {
        Self { exchange, scanner: Scanner::default(), rename }
    }

    /// Waits for the first event that carries something. Up to here, nothing has reached
    /// the client. An event that only names the role does not count: engines send it
    /// before they have read the prompt.
    pub(super) async fn open(&mut self) -> Result<Opening, Reason> {
        let mut held = VecDeque::new();
        loop {
            let (data, is_enough) = match self.next().await? {
                Item::Preamble(data) => (data, held.len() + 1 >= MOST_HELD),
                Item::Data(data) => (data, true),
                Item::Error(_, reason) => return Err(reason),
                Item::Done => return Ok(Opening { held, is_whole: true }),
            };
            held.push_back(data);
            if is_enough {
                return Ok(Opening { held, is_whole: false });
            }
        }
    }

    async fn next(&mut self) -> Result<Item, Reason> {
        loop {
            if let Some(data) = self.scanner.next()? {
                return if data == DONE { Ok(Item::Done) } else { self.read(data) };
            }
            match self.exchange.response.body_mut().frame().await {
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

    fn read(&self, data: String) -> Result<Item, Reason> {
        let mut event: Map<String, Value> = serde_json::from_str(&data).map_err(|_| Reason::Malformed)?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            let is_context = error.get("code").is_some_and(|code| code == "context_length_exceeded");
            let reason = if is_context { Reason::ContextExceeded } else { Reason::StreamError };
            return Ok(Item::Error(data, reason));
        }
        let is_preamble = is_preamble(&event);
        let data = match (&self.rename, event.get_mut("model")) {
            (Some(name), Some(model)) => {
                *model = Value::String(name.clone());
                Value::Object(event).to_string()
            }
            _ => data,
        };
        Ok(if is_preamble { Item::Preamble(data) } else { Item::Data(data) })
    }
}

/// Returns whether an event carries nothing of the answer: no text, no call, no end.
fn is_preamble(event: &Map<String, Value>) -> bool {
    let Some(choices) = event.get("choices").and_then(Value::as_array) else { return false };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    choices.iter().all(|choice| {
        let is_silent = |key: &str| choice.get(key).is_none_or(is_empty);
        let delta = choice.get("delta").and_then(Value::as_object);
        is_silent("finish_reason")
            && is_silent("text")
            && delta.is_none_or(|delta| delta.iter().all(|(key, value)| key == "role" || is_empty(value)))
    })
}

/// A stream after its first byte: from here on, what goes wrong is said in the stream.
pub(super) struct Relay {
    source: Box<Source>,
    opening: Opening,
    permit: Permit,
    journey: Journey,
    between_tokens: Duration,
    ends: Instant,
}

impl Relay {
    /// Takes over after the opening; the answer has to be whole at `ends`.
    pub(super) fn new(
        source: Box<Source>,
        opening: Opening,
        permit: Permit,
        journey: Journey,
        between_tokens: Duration,
        ends: Instant,
    ) -> Self {
        Self { source, opening, permit, journey, between_tokens, ends }
    }

    /// Returns the body of the reply. Dropping it drops the upstream's connection.
    pub(super) fn into_body(self) -> impl Body<Data = Bytes, Error = Infallible> + Send {
        StreamBody::new(stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            let (text, is_last) = relay.step().await;
            let rest = if is_last { None } else { Some(relay) };
            Some((Ok(Frame::data(Bytes::from(text))), rest))
        }))
    }

    /// Returns the next of the stream, and whether it is the last.
    async fn step(&mut self) -> (String, bool) {
        if let Some(data) = self.opening.held.pop_front() {
            return (sse::event(&data), false);
        }
        let next = if self.opening.is_whole { Ok(Item::Done) } else { self.wait().await };
        // whatever comes of it, the client was told 200, and hears the rest in the stream
        match next {
            Ok(Item::Preamble(data) | Item::Data(data)) => (sse::event(&data), false),
            Ok(Item::Done) => {
                self.journey.ended(200);
                (sse::event(DONE), true)
            }
            Ok(Item::Error(data, reason)) => {
                self.broke(&reason);
                (sse::event(&data), true)
            }
            Err(reason) => {
                self.broke(&reason);
                let message = format!("the answer broke off: {}: {reason}", self.permit.upstream());
                let error = reply::error_body("server_error", "upstream_failed", &message);
                (sse::event(&error.to_string()), true)
            }
        }
    }

    async fn wait(&mut self) -> Result<Item, Reason> {
        let stop = self.permit.stop().clone();
        let patience = Instant::now() + self.between_tokens;
        let late = if patience < self.ends { Reason::Stalled } else { Reason::TotalLate };
        tokio::select! {
            next = timeout_at(patience.min(self.ends), self.source.next()) => next.unwrap_or(Err(late)),
            () = stop.cancelled() => Err(Reason::Stopping),
        }
    }

    fn broke(&mut self, reason: &Reason) {
        self.permit.learn(reason.outcome());
        self.journey.broke(self.permit.upstream(), reason);
        self.journey.ended(200);
    }
}
