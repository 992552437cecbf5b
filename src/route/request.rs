//! What a router must know of a request's body, read without keeping it.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::policy::Features;

/// The paths that are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/tokenize` and `/v1/tokenize`.
    Tokenize,
    /// `/detokenize` and `/v1/detokenize`.
    Detokenize,
}

impl Endpoint {
    /// Returns the path behind `/v1`.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
        }
    }

    /// Returns whether its answers can come as streams.
    pub(super) fn has_streams(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }
}

/// A request that is to be answered by an upstream.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// What is asked for.
    pub(super) endpoint: Endpoint,
    /// The model as the client named it.
    pub(super) model: String,
    /// Whether the client wants the answer as a stream.
    pub(super) is_stream: bool,
    /// What matters for routing.
    pub(super) features: Features,
    /// The body as it came.
    pub(super) body: Bytes,
}

#[derive(Deserialize)]
struct Peek {
    model: String,
    stream: Option<bool>,
    max_tokens: Option<f64>,
    max_completion_tokens: Option<f64>,
    n: Option<f64>,
    #[serde(default)]
    messages: Weight,
    #[serde(default)]
    prompt: Weight,
    #[serde(default)]
    input: Weight,
    #[serde(default)]
    tools: Weight,
}

impl Call {
    /// Reads `body`. The error is for the client: what is wrong with its JSON.
    pub(super) fn parse(endpoint: Endpoint, body: Bytes, is_hop: bool) -> Result<Self, serde_json::Error> {
        let peek: Peek = serde_json::from_slice(&body)?;
        let limit = peek.max_completion_tokens.or(peek.max_tokens).filter(|limit| *limit >= 0.0);
        let answers = peek.n.filter(|n| *n >= 1.0).unwrap_or(1.0);
        let answer_tokens = match endpoint {
            Endpoint::Chat | Endpoint::Completions => limit.map(|limit| limit * answers),
            Endpoint::Embeddings | Endpoint::Tokenize | Endpoint::Detokenize => Some(0.0),
        };
        let prompt_tokens = peek.messages.0 + peek.prompt.0 + peek.input.0 + peek.tools.0;
        Ok(Self {
            endpoint,
            model: peek.model,
            is_stream: peek.stream.unwrap_or(false) && endpoint.has_streams(),
            features: Features { prompt_tokens, answer_tokens, is_hop },
            body,
        })
    }

    /// Returns the body with these fields in place of the client's own, however those were
    /// spelt: Go's reader takes `MODEL` for `model`, so that such a key could name a model
    /// that the route does not allow. All else stays as it was written.
    pub(super) fn body_with(&self, fields: &[(&str, Value)]) -> Result<Bytes, serde_json::Error> {
        let mut body = serde_json::Deserializer::from_slice(&self.body);
        body.deserialize_map(Rewriter { fields, room: self.body.len() }).map(Bytes::from)
    }
}

/// Copies an object without ever having it in memory as a tree, which would take many times
/// the request's size.
struct Rewriter<'a> {
    fields: &'a [(&'a str, Value)],
    /// The size of the object as it came.
    room: usize,
}

impl<'de> Visitor<'de> for Rewriter<'_> {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vec<u8>, A::Error> {
        let mut body = Vec::with_capacity(self.room + 128);
        let mut write = |key: &str, value: &str| {
            body.push(if body.is_empty() { b'{' } else { b',' });
            body.extend(Value::from(key).to_string().bytes());
            body.push(b':');
            body.extend(value.bytes());
        };
        for (key, value) in self.fields {
            write(key, &value.to_string());
        }
        while let Some((key, value)) = entries.next_entry::<String, &RawValue>()? {
            if !self.fields.iter().any(|(set, _)| set.eq_ignore_ascii_case(&key)) {
                write(&key, value.get());
            }
        }
        if body.is_empty() {
            body.push(b'{');
        }
        body.push(b'}');
        Ok(body)
    }
}

/// About how many tokens are in a JSON value; rather too many, since a deadline that is
/// too long costs less than an answer given up. English has four bytes to the token, code
/// three; scripts outside ASCII have two bytes to the token and more.
#[derive(Default, Clone, Copy)]
struct Weight(f64);

/// Tokens that a chat template puts around a message.
const TOKENS_PER_OBJECT: f64 = 4.0;

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WeightVisitor)
    }
}

struct WeightVisitor;

impl<'de> Visitor<'de> for WeightVisitor {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(self, text: &str) -> Result<Weight, E> {
        let ascii = text.bytes().filter(u8::is_ascii).count();
        Ok(Weight(ascii as f64 / 3.0 + (text.len() - ascii) as f64 / 2.0))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Weight, E> {
        Ok(Weight(1.0)) // a prompt may come as token numbers
    }
    fn visit_i64<E>(self, _: i64) -> Result<Weight, E> {
        Ok(Weight(1.0))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Weight, E> {
        Ok(Weight(1.0))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Weight, E> {
        Ok(Weight(0.0))
    }
    fn visit_unit<E>(self) -> Result<Weight, E> {
        Ok(Weight(0.0))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Weight, A::Error> {
        let mut sum = 0.0;
        while let Some(Weight(weight)) = items.next_element()? {
            sum += weight;
        }
        Ok(Weight(sum))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Weight, A::Error> {
        let mut sum = TOKENS_PER_OBJECT;
        while let Some((IgnoredAny, Weight(weight))) = entries.next_entry()? {
            sum += weight;
        }
        Ok(Weight(sum))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Call, serde_json::Error> {
        Call::parse(Endpoint::Chat, Bytes::copy_from_slice(text.as_bytes()), false)
    }

    #[test]
    fn a_chat_request_is_read_for_what_routing_needs() {
        let call = parse(
            r#"{"model":"ch\u0061t","messages":[{"role":"user","content":[{"type":"text","text":"xxxxxxxxx"}]}],
                "stream":true,"max_tokens":7,"temperature":0.1,"n":2}"#,
        )
        .unwrap();
        assert_eq!((call.model.as_str(), call.is_stream), ("chat", true));
        assert_eq!(call.features.answer_tokens, Some(14.0));
        // two objects, "user", "text" and nine characters
        assert!((call.features.prompt_tokens - (8.0 + 17.0 / 3.0)).abs() < 1e-9);
    }

    #[test]
    fn nulls_and_negative_limits_mean_no_limit() {
        let call = parse(r#"{"model":"chat","prompt":[1,2,3],"stream":null,"max_tokens":-1}"#).unwrap();
        assert_eq!((call.is_stream, call.features.answer_tokens), (false, None));
        assert!((call.features.prompt_tokens - 3.0).abs() < 1e-9);
    }

    #[test]
    fn two_models_in_one_request_are_refused() {
        assert!(parse(r#"{"model":"chat","model":"other"}"#).is_err());
        assert!(parse(r#"{"prompt":"no model"}"#).is_err());
        assert!(
            parse(&format!(r#"{{"model":"chat","prompt":{}1{}}}"#, "[".repeat(9999), "]".repeat(9999)))
                .is_err()
        );
    }

    #[test]
    fn renaming_changes_the_model_and_leaves_no_other_spelling_of_it() {
        let call =
            parse(r#"{"MODEL":"secret","model":"chat","Model":"x","prompt":"p","seed":9007199254740993}"#);
        let body = call.unwrap().body_with(&[("model", "mistral".into())]).unwrap();
        assert_eq!(body, r#"{"model":"mistral","prompt":"p","seed":9007199254740993}"#);
    }

    #[test]
    fn what_is_not_set_anew_stays_as_it_was_written() {
        let text = r#" { "model":"chat", "é\u0022\n" : [1.0e0,  {"stream": 1}], "Stream":false, "STREAM_OPTIONS":{} } "#;
        let fields =
            [("stream", Value::Bool(true)), ("stream_options", serde_json::json!({"include_usage": true}))];
        let body = parse(text).unwrap().body_with(&fields).unwrap();
        assert_eq!(
            body,
            "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"model\":\"chat\",\"é\\\"\\n\":[1.0e0,  {\"stream\": 1}]}"
        );
        assert_eq!(parse(r#"{"model":"x"}"#).unwrap().body_with(&[]).unwrap(), r#"{"model":"x"}"#);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Call::parse(Endpoint::Completions, Bytes::from(bytes), true);
        }

        #[test]
        fn a_longer_prompt_weighs_more(text in "\\PC{0,50}", more in "\\PC{1,50}") {
            let weight = |text: &str| {
                parse(&serde_json::json!({"model": "m", "prompt": text}).to_string()).unwrap().features.prompt_tokens
            };
            let (short, long) = (weight(&text), weight(&(text + &more)));
            prop_assert!(short < long);
        }
    }
}
