//! An answer as far as the client has it: what somebody else needs to go on with it, and how the rest is made to fit.

use serde_json::{Map, Value, json};

use super::request::Terms;
use super::source::{Event, is_empty, is_preamble, said_in};
use super::state::Kind;
use crate::openai::sse::{self, DONE};

/// The most that is kept of one answer, in bytes. An answer of 128 Ki tokens is half a MiB.
const MOST_WRITTEN: usize = 1 << 20;

/// What stands in every event of an answer, and is the first upstream's.
const HEAD: [&str; 4] = ["id", "object", "created", "model"];

/// What the client was told.
#[derive(Debug)]
pub(super) struct Told {
    terms: Terms,
    /// The fields of [`HEAD`], as the first event had them.
    head: Map<String, Value>,
    has_usage: bool,
    is_finished: bool,
    /// None where nobody can go on with it.
    written: Option<Written>,
    tokens: u32,
    prompt_tokens: Option<u32>,
    /// Who goes on with it; none for whoever began.
    heir: Option<Heir>,
}

/// What the model wrote.
#[derive(Debug)]
struct Written {
    text: String,
    /// The first so many bytes of it were told as they are, as far as it `is_plain`.
    said: usize,
    is_plain: bool,
}

/// Who goes on with an answer.
#[derive(Debug, Clone, Copy)]
struct Heir {
    kind: Kind,
    /// Tokens before it.
    tokens: u32,
}

impl Told {
    /// Begins with nothing told. `is_kept` where somebody may have to go on with it.
    pub(super) fn new(terms: Terms, is_kept: bool) -> Self {
        Self {
            terms,
            head: Map::new(),
            has_usage: false,
            is_finished: false,
            written: (is_kept && terms.is_single).then_some(Written {
                text: String::new(),
                said: 0,
                is_plain: true,
            }),
            tokens: 0,
            prompt_tokens: None,
            heir: None,
        }
    }

    /// Takes note of the next event, and returns it as the client is to have it; none where it tells nothing new.
    pub(super) fn tell(&mut self, event: Event) -> Option<String> {
        let Event { data, mut fields, progress } = event;
        if self.head.is_empty() {
            let head = HEAD.iter().filter_map(|&name| Some((name.to_owned(), fields.get(name)?.clone())));
            self.head.extend(head);
        }
        let is_ours = progress.is_some();
        if let Some(progress) = progress {
            self.write(&progress.text);
            (self.tokens, self.prompt_tokens) = (progress.tokens, Some(progress.prompt_tokens));
        }
        for choice in fields.get("choices").and_then(Value::as_array).into_iter().flatten() {
            self.take_choice(choice, is_ours);
        }
        if let Some(usage) = fields.get_mut("usage").and_then(Value::as_object_mut) {
            self.take_usage(usage);
        }
        if self.heir.is_some() { self.fitted(fields) } else { Some(data) }
    }

    fn take_choice(&mut self, choice: &Value, is_ours: bool) {
        let delta = choice.get("delta").and_then(Value::as_object);
        let said = said_in(choice);
        if !is_ours && !said.is_empty() {
            self.write(&said);
            self.tokens = self.tokens.saturating_add(1);
        }
        let is_more = delta
            .into_iter()
            .flatten()
            .any(|(key, value)| !["role", "content"].contains(&key.as_str()) && !is_empty(value));
        if is_more && !is_ours {
            // what the model wrote to have that said is known to nobody but its server
            self.written = None;
        }
        if let Some(written) = &mut self.written {
            let is_next = written.text.get(written.said..).is_some_and(|rest| rest.starts_with(&said));
            written.is_plain &= is_next && !is_more;
            written.said += if written.is_plain { said.len() } else { 0 };
        }
        let finish = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
        self.is_finished |= self.terms.is_single && !finish.is_empty();
    }

    /// Takes note of what an answer used, and makes it that of the whole answer.
    fn take_usage(&mut self, usage: &mut Map<String, Value>) {
        let number = |usage: &Map<String, Value>, name: &str| {
            usage.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
        };
        let Some(answer) = number(usage, "completion_tokens") else { return };
        let prompt = number(usage, "prompt_tokens");
        self.has_usage = true;
        // our own engines count what was begun elsewhere themselves
        let Some(Heir { tokens, .. }) = self.heir.filter(|heir| heir.kind == Kind::Foreign) else {
            (self.tokens, self.prompt_tokens) = (answer, prompt.or(self.prompt_tokens));
            return;
        };
        self.tokens = answer.saturating_add(tokens);
        let prompt = self.prompt_tokens.or(prompt.map(|prompt| prompt.saturating_sub(tokens))).unwrap_or(0);
        usage.insert("prompt_tokens".to_owned(), prompt.into());
        usage.insert("completion_tokens".to_owned(), self.tokens.into());
        usage.insert("total_tokens".to_owned(), prompt.saturating_add(self.tokens).into());
    }

    /// Makes an event of whoever goes on one of the answer that the client has.
    fn fitted(&self, mut fields: Map<String, Value>) -> Option<String> {
        for (name, value) in &self.head {
            if let Some(other) = fields.get_mut(name) {
                other.clone_from(value);
            }
        }
        let choices = fields.get_mut("choices").and_then(Value::as_array_mut);
        for choice in choices.into_iter().flatten() {
            if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
                delta.shift_remove("role");
            }
        }
        let has_usage = fields.get("usage").is_some_and(Value::is_object);
        if is_preamble(&fields) && !has_usage { None } else { serde_json::to_string(&fields).ok() }
    }

    fn write(&mut self, text: &str) {
        self.written = self.written.take().filter(|written| written.text.len() + text.len() <= MOST_WRITTEN);
        if let Some(written) = &mut self.written {
            written.text.push_str(text);
        }
    }

    /// Keeps nothing any more: nobody will go on with the answer.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// Returns how many bytes are kept.
    pub(super) fn kept(&self) -> usize {
        self.written.as_ref().map_or(0, |written| written.text.len())
    }

    /// Returns whether somebody can go on with it.
    pub(super) fn is_known(&self) -> bool {
        self.written.is_some()
    }

    /// Returns whether nothing is missing but words about it.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns whether it may have no more tokens.
    pub(super) fn is_spent(&self) -> bool {
        self.terms.is_spent(self.tokens)
    }

    /// Returns the answer's tokens so far.
    pub(super) fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Returns what is to be gone on with by an upstream of `kind`; none where one of that kind cannot.
    pub(super) fn written(&self, kind: Kind) -> Option<&str> {
        let written = self.written.as_ref()?;
        match kind {
            Kind::Local | Kind::Host => Some(&written.text),
            Kind::Foreign => {
                written.text.get(..written.said).filter(|_| written.is_plain && self.terms.is_plain)
            }
        }
    }

    /// Takes note that an upstream of `kind` goes on from here.
    pub(super) fn go_on(&mut self, kind: Kind) {
        if kind == Kind::Foreign
            && let Some(written) = &mut self.written
        {
            written.text.truncate(written.said);
        }
        self.heir = Some(Heir { kind, tokens: self.tokens });
    }

    /// Returns what is missing at the end of the answer: that it reached its limit where it is not finished, its usage
    /// where that was asked for and is known, and the mark of the end.
    pub(super) fn ending(&self) -> Vec<u8> {
        let event = |choices: Value, usage: Option<Value>| {
            let mut fields = self.head.clone();
            fields.insert("choices".to_owned(), choices);
            fields.extend(usage.map(|usage| ("usage".to_owned(), usage)));
            sse::encode(&Value::Object(fields).to_string())
        };
        let mut end = Vec::new();
        if !self.is_finished {
            let is_chat = self.head.get("object").is_none_or(|object| object != "text_completion");
            let nothing = if is_chat { ("delta", json!({})) } else { ("text", json!("")) };
            end.extend(event(
                json!([{ "index": 0, (nothing.0): nothing.1, "finish_reason": "length" }]),
                None,
            ));
        }
        if let Some(prompt) = self.prompt_tokens.filter(|_| self.terms.has_usage && !self.has_usage) {
            let total = prompt.saturating_add(self.tokens);
            let usage =
                json!({ "prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": total });
            end.extend(event(json!([]), Some(usage)));
        }
        end.extend(sse::encode(DONE));
        end
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
