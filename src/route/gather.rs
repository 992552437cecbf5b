//! One answer out of the events of a stream: what the upstream would have answered if it
//! had not been asked for a stream.
//!
//! Upstreams are asked for a stream even where the client wants the answer whole, since
//! only a stream tells one that works from one that hangs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::policy::Reason;
use super::request::Endpoint;
use super::source::{Item, Opening, Source};

/// The most that is kept of one answer, in bytes of memory. An answer of 128 Ki tokens is
/// half a MiB; log probabilities may make it twenty times as much.
const MOST_KEPT: usize = 16 << 20;

/// The most calls of tools in one choice. Answers have a few, and each piece of one is looked for among them all.
const MOST_CALLS: usize = 256;

/// About what a value takes beside its text, and a field beside its name and value.
const PER_VALUE: usize = 32;
const PER_FIELD: usize = 64;

type Fields = Map<String, Value>;

/// Reads a stream that has begun to its end, and returns the body of the answer. No event
/// comes later than `between_tokens` after the one before, and the last one by `ends`.
pub(super) async fn gather(
    mut source: Box<Source>,
    opening: Opening,
    endpoint: Endpoint,
    between_tokens: Duration,
    ends: Instant,
) -> Result<Bytes, Reason> {
    let mut gathered = Gathered::default();
    for event in opening.held {
        gathered.add(event.fields)?;
    }
    let mut is_whole = opening.is_whole;
    while !is_whole {
        match source.next_within(between_tokens, ends).await? {
            Item::Preamble(event) | Item::Data(event) => gathered.add(event.fields)?,
            Item::Error(_, reason) => return Err(reason),
            Item::Done => is_whole = true,
        }
    }
    let answer = gathered.finish(endpoint).ok_or(Reason::Malformed)?;
    serde_json::to_vec(&answer).map(Bytes::from).map_err(|_| Reason::Malformed)
}

/// An answer as far as it came.
#[derive(Debug, Default)]
struct Gathered {
    /// What stands beside the choices: the last that was said of each.
    fields: Fields,
    /// By `index`.
    choices: BTreeMap<u64, Choice>,
    /// About how much memory all this takes.
    kept: usize,
}

#[derive(Debug, Default)]
struct Choice {
    /// All `delta`s as one.
    message: Fields,
    /// What stands beside them.
    fields: Fields,
}

impl Gathered {
    /// Takes the next event.
    fn add(&mut self, event: Fields) -> Result<(), Reason> {
        for (key, value) in event {
            match (key.as_str(), value) {
                ("choices", Value::Array(choices)) => {
                    for choice in choices {
                        self.add_choice(choice)?;
                    }
                }
                // OpenAI's padding against those who count bytes; whole answers have none
                ("choices" | "object" | "obfuscation", _) => {}
                (_, value) => replace(&mut self.fields, key, value, &mut self.kept),
            }
        }
        if self.kept > MOST_KEPT { Err(Reason::TooLarge) } else { Ok(()) }
    }

    fn add_choice(&mut self, choice: Value) -> Result<(), Reason> {
        let Value::Object(fields) = choice else { return Err(Reason::Malformed) };
        let index = fields.get("index").and_then(Value::as_u64).unwrap_or(0);
        let kept = &mut self.kept;
        let choice = self.choices.entry(index).or_insert_with(|| {
            *kept += PER_FIELD;
            Choice::default()
        });
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("delta", Value::Object(delta)) => join(&mut choice.message, delta, kept)?,
                ("text" | "logprobs", value) => join_one(&mut choice.fields, key, value, kept)?,
                // some servers repeat in `message` all that came so far
                ("delta" | "message" | "index", _) => {}
                (_, value) => replace(&mut choice.fields, key, value, kept),
            }
        }
        Ok(())
    }

    /// Returns the whole answer; none when there is nothing that could be one.
    fn finish(mut self, endpoint: Endpoint) -> Option<Value> {
        if self.choices.is_empty() {
            return None;
        }
        let object = match endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
            Endpoint::Embeddings | Endpoint::Tokenize | Endpoint::Detokenize => return None,
        };
        let choices = self.choices.into_iter().map(|(index, choice)| choice.finish(index, endpoint));
        self.fields.insert("object".to_owned(), object.into());
        self.fields.insert("choices".to_owned(), choices.collect());
        // said to be none in each event of a server that never told it
        self.fields.retain(|key, value| key != "usage" || !value.is_null());
        Some(Value::Object(self.fields))
    }
}

impl Choice {
    fn finish(mut self, index: u64, endpoint: Endpoint) -> Value {
        let mut whole = Fields::new();
        whole.insert("index".to_owned(), index.into());
        if endpoint == Endpoint::Chat {
            whole.insert("message".to_owned(), message(self.message));
        } else {
            self.fields.entry("text").or_insert_with(|| "".into());
        }
        whole.append(&mut self.fields);
        whole.entry("finish_reason").or_insert(Value::Null);
        Value::Object(whole)
    }
}

/// Makes a message of all deltas.
fn message(mut delta: Fields) -> Value {
    let mut message = Fields::new();
    message.insert("role".to_owned(), delta.shift_remove("role").unwrap_or_else(|| "assistant".into()));
    let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
    let calls_tools = calls.is_some_and(|calls| {
        for call in calls.iter_mut().filter_map(Value::as_object_mut) {
            // it only tells which pieces belong together
            call.shift_remove("index");
        }
        !calls.is_empty()
    });
    let nothing = if calls_tools { Value::Null } else { "".into() };
    message.insert("content".to_owned(), delta.shift_remove("content").unwrap_or(nothing));
    message.append(&mut delta);
    Value::Object(message)
}

/// Adds to what there is: text to text, list to list, field by field.
fn join(into: &mut Fields, new: Fields, kept: &mut usize) -> Result<(), Reason> {
    for (key, value) in new {
        match (key.as_str(), value) {
            ("tool_calls", Value::Array(pieces)) => {
                let calls = into.entry(key).or_insert_with(|| {
                    *kept += PER_FIELD;
                    Value::Array(Vec::new())
                });
                // some say in every event that there are none
                if !calls.is_array() {
                    *calls = Value::Array(Vec::new());
                }
                for piece in pieces {
                    join_call(calls, piece, kept)?;
                }
            }
            // who or what it is, not a piece of text: some servers say it in every event
            ("role" | "id" | "type" | "name", value) => {
                if value.as_str() != Some("") || !into.contains_key(&key) {
                    replace(into, key, value, kept);
                }
            }
            (_, value) => join_one(into, key, value, kept)?,
        }
    }
    Ok(())
}

fn join_one(into: &mut Fields, key: String, new: Value, kept: &mut usize) -> Result<(), Reason> {
    match (into.get_mut(&key), new) {
        (Some(Value::String(text)), Value::String(more)) => {
            *kept += more.len();
            text.push_str(&more);
        }
        (Some(Value::Array(items)), Value::Array(more)) => {
            *kept += more.iter().map(weight).sum::<usize>();
            items.extend(more);
        }
        (Some(Value::Object(fields)), Value::Object(more)) => join(fields, more, kept)?,
        (_, new) => replace(into, key, new, kept),
    }
    Ok(())
}

/// Sets a field, unless that would only forget what is known.
fn replace(into: &mut Fields, key: String, new: Value, kept: &mut usize) {
    match into.get_mut(&key) {
        Some(_) if new.is_null() => {}
        Some(old) => {
            *kept = (*kept + weight(&new)).saturating_sub(weight(old));
            *old = new;
        }
        None => {
            *kept += PER_FIELD + key.len() + weight(&new);
            into.insert(key, new);
        }
    }
}

/// Adds a piece of a call to the call that it belongs to: the last one with its index and no
/// other id. There are servers that number every call 0
/// (<https://github.com/ollama/ollama/issues/15457>), and some that number none.
///
/// What is kept is looked at after each piece, since one event may have as many as it likes.
fn join_call(calls: &mut Value, piece: Value, kept: &mut usize) -> Result<(), Reason> {
    let (Value::Array(calls), Value::Object(piece)) = (calls, piece) else { return Ok(()) };
    // those that came inside another piece were not counted
    if calls.len() > MOST_CALLS {
        return Err(Reason::TooLarge);
    }
    let (index, new_id) = (piece.get("index").cloned(), id(&piece).to_owned());
    let is_its_call = |call: &Fields| {
        let same_index = index.is_none() || call.get("index") == index.as_ref();
        let same_id =
            |old_id: &str| new_id.is_empty() || old_id == new_id || (old_id.is_empty() && index.is_some());
        same_index && same_id(id(call))
    };
    let mut known = calls.iter_mut().rev().filter_map(Value::as_object_mut);
    if let Some(call) = known.find(|call| is_its_call(call)) {
        join(call, piece, kept)?;
    } else if calls.len() < MOST_CALLS {
        let piece = Value::Object(piece);
        *kept += weight(&piece);
        calls.push(piece);
    } else {
        return Err(Reason::TooLarge);
    }
    if *kept > MOST_KEPT { Err(Reason::TooLarge) } else { Ok(()) }
}

/// Returns the id of a call, or an empty text.
fn id(call: &Fields) -> &str {
    call.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// About how much memory a value takes.
fn weight(value: &Value) -> usize {
    PER_VALUE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => {
                fields.iter().map(|(key, value)| PER_FIELD + key.len() + weight(value)).sum()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
