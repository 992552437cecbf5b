//! What a router must know of a request's body, read without keeping it.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::policy::{Features, Needs};
use crate::generation::Capability;
use crate::openai::Begun;

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
    /// What matters once the answer has begun.
    pub(super) terms: Terms,
    /// Whether the answer was begun elsewhere: the request comes from a router that has the beginning.
    pub(super) is_begun: bool,
    /// Whether the router of another host asks how far the answer is with each event.
    pub(super) wants_progress: bool,
    /// The body as it came.
    pub(super) body: Bytes,
}

/// What an answer has to be like, for whoever goes on with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// It is one answer, not several side by side.
    pub(super) is_single: bool,
    /// It is asked for as text and nothing but text.
    pub(super) is_plain: bool,
    /// Its usage is told at the end of the stream.
    pub(super) has_usage: bool,
    /// The most tokens that it may have, by `max_completion_tokens`.
    pub(super) most_completion: Option<u32>,
    /// The same by `max_tokens`, which gives way to the other.
    pub(super) most: Option<u32>,
}

impl Terms {
    /// Returns whether an answer of so many tokens may have no more.
    pub(super) fn is_spent(&self, tokens: u32) -> bool {
        self.most_completion.or(self.most).is_some_and(|most| most <= tokens)
    }
}

#[derive(Deserialize)]
struct Peek<'a> {
    model: String,
    stream: Option<bool>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<f64>,
    max_completion_tokens: Option<f64>,
    n: Option<f64>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    json_schema: Option<IgnoredAny>,
    grammar: Option<IgnoredAny>,
    // vLLM's
    guided_json: Option<IgnoredAny>,
    guided_regex: Option<IgnoredAny>,
    guided_choice: Option<IgnoredAny>,
    guided_grammar: Option<IgnoredAny>,
    structured_outputs: Option<IgnoredAny>,
    echo: Option<IgnoredAny>,
    suffix: Option<IgnoredAny>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
    bramble_begun: Option<IgnoredAny>,
    #[serde(default)]
    messages: Weight,
    #[serde(default)]
    prompt: Weight,
    #[serde(default)]
    input: Weight,
    #[serde(default)]
    tools: Weight,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    top_logprobs: Option<IgnoredAny>,
}

// what is not of these forms is refused elsewhere, or means nothing

fn is_text(format: &RawValue) -> bool {
    serde_json::from_str::<Typed>(format.get()).is_ok_and(|format| format.kind == "text")
}

fn is_off(value: &RawValue) -> bool {
    value.get() == "false"
}

impl Peek<'_> {
    fn needs(&self, endpoint: Endpoint) -> Needs {
        // an empty list weighs nothing
        let calls = self.tools.0 > 0.0 && self.tool_choice.is_none_or(|choice| choice.get() != "\"none\"");
        let shaped =
            self.response_format.is_some_and(|format| !is_text(format)) || self.json_schema.is_some();
        let likely = self.logprobs.is_some_and(|value| !is_off(value)) || self.top_logprobs.is_some();
        let writes = endpoint.has_streams();
        Needs::default()
            .with(Capability::Tools, endpoint == Endpoint::Chat && calls)
            .with(Capability::JsonSchema, writes && shaped)
            .with(Capability::Logprobs, writes && likely)
            .with(Capability::Embeddings, endpoint == Endpoint::Embeddings)
    }

    fn terms(&self) -> Terms {
        let options = self.stream_options.map(|options| serde_json::from_str::<StreamOptions>(options.get()));
        let shapes = [
            &self.json_schema,
            &self.grammar,
            &self.guided_json,
            &self.guided_regex,
            &self.guided_choice,
            &self.guided_grammar,
            &self.structured_outputs,
            &self.echo,
            &self.suffix,
        ];
        Terms {
            is_single: self.n.is_none_or(|n| n <= 1.0),
            is_plain: self.response_format.is_none_or(is_text)
                && shapes.iter().all(|shape| shape.is_none())
                && self.logprobs.is_none_or(is_off),
            has_usage: options.is_some_and(|options| options.is_ok_and(|it| it.include_usage == Some(true))),
            most_completion: self.max_completion_tokens.and_then(whole),
            most: self.max_tokens.and_then(whole),
        }
    }
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

fn whole(number: f64) -> Option<u32> {
    let is_whole = (0.0..=f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a whole number in the range"
    )]
    is_whole.then_some(number as u32)
}

impl Call {
    /// Reads `body`. The error is for the client: what is wrong with its JSON.
    pub(super) fn parse(endpoint: Endpoint, body: Bytes, is_hop: bool) -> Result<Self, serde_json::Error> {
        let peek: Peek<'_> = serde_json::from_slice(&body)?;
        let (terms, needs) = (peek.terms(), peek.needs(endpoint));
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
            features: Features { prompt_tokens, answer_tokens, is_hop, needs },
            terms,
            is_begun: peek.bramble_begun.is_some(),
            wants_progress: false,
            body,
        })
    }

    /// Returns the body with these fields in place of the client's own, however those were
    /// spelt: Go's reader takes `MODEL` for `model`, so that such a key could name a model
    /// that the route does not allow. All else stays as it was written.
    pub(super) fn body_with(&self, fields: &[Field]) -> Result<Bytes, serde_json::Error> {
        let mut body = serde_json::Deserializer::from_slice(&self.body);
        body.deserialize_map(Rewriter { fields, room: self.body.len() }).map(Bytes::from)
    }

    /// Returns the fields by which one of our own engines goes on behind `text`, which has so many tokens.
    pub(super) fn going_on(text: &str, tokens: u32) -> Result<Vec<Field>, serde_json::Error> {
        let begun = Begun { text: text.to_owned(), tokens };
        Ok(vec![(Begun::FIELD, to_raw_value(&begun)?)])
    }

    /// Returns the fields by which a server that is not ours goes on behind `text`; none where the request is not of a
    /// kind that one can go on with.
    ///
    /// In a chat, `text` becomes the end of what the assistant says last. llama-server and Ollama take an answer that
    /// ends a chat for one to go on with (<https://github.com/ollama/ollama/issues/6778>); vLLM, and llama-server since
    /// May 2026 whatever its options, want the two flags
    /// (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>,
    /// <https://github.com/ggml-org/llama.cpp/pull/23012>). Ollama passes over fields that it does not know; servers
    /// that refuse them, as OpenAI's and Mistral's do, go on with nobody's answer anyway.
    pub(super) fn going_on_elsewhere(&self, text: &str, tokens: u32) -> Option<Vec<Field>> {
        let on = |value: bool| to_raw_value(&value).ok();
        let mut fields = if self.endpoint == Endpoint::Chat {
            let Chat { mut messages } = serde_json::from_slice(&self.body).ok()?;
            let last: Said<'_> = serde_json::from_str(messages.last()?.get()).ok()?;
            let mut said = String::new();
            if last.role == "assistant" {
                // what it calls cannot be gone on with
                let content = last.content.filter(|_| last.tool_calls.is_none())?;
                said = serde_json::from_str(content.get()).ok()?;
                messages.pop();
            }
            said.push_str(text);
            let said = to_raw_value(&json!({ "role": "assistant", "content": said })).ok()?;
            messages.push(&said);
            vec![
                ("messages", to_raw_value(&messages).ok()?),
                ("continue_final_message", on(true)?),
                ("add_generation_prompt", on(false)?),
            ]
        } else {
            let Prompted { prompt } = serde_json::from_slice(&self.body).ok()?;
            let (Prompt::One(prompt) | Prompt::List([prompt])) = prompt;
            vec![("prompt", to_raw_value(&(prompt + text)).ok()?)]
        };
        let limits = [("max_completion_tokens", self.terms.most_completion), ("max_tokens", self.terms.most)];
        for (name, most) in limits {
            if let Some(most) = most {
                fields.push((name, to_raw_value(&most.saturating_sub(tokens)).ok()?));
            }
        }
        Some(fields)
    }
}

/// A field of a request, and what stands in it instead.
pub(super) type Field = (&'static str, Box<RawValue>);

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Said<'a> {
    role: String,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    tool_calls: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Prompted {
    prompt: Prompt,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    One(String),
    List([String; 1]),
}

/// Copies an object without ever having it in memory as a tree, which would take many times
/// the request's size.
struct Rewriter<'a> {
    fields: &'a [Field],
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
            body.extend(json!(key).to_string().bytes());
            body.push(b':');
            body.extend(value.bytes());
        };
        for (key, value) in self.fields {
            write(key, value.get());
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
    fn what_a_request_needs_beside_text_is_read_from_what_it_asks_for() {
        let needs = |endpoint, more: &str| {
            let body = Bytes::from(format!(r#"{{"model":"chat"{more}}}"#));
            Call::parse(endpoint, body, false).unwrap().features.needs
        };
        let of = |capability| Needs::default().with(capability, true);
        let [tools, schema, logprobs, embeddings] = Capability::ALL.map(of);
        let tool = r#","tools":[{"type":"function"}]"#;
        for (more, expected) in [
            (String::new(), Needs::default()),
            (tool.to_owned(), tools),
            (format!(r#"{tool},"tool_choice":"auto""#), tools),
            (format!(r#"{tool},"tool_choice":"none""#), Needs::default()),
            (r#","tools":[]"#.to_owned(), Needs::default()),
            (r#","response_format":{"type":"json_schema"}"#.to_owned(), schema),
            (r#","response_format":{"type":"text"},"json_schema":null"#.to_owned(), Needs::default()),
            (r#","logprobs":true"#.to_owned(), logprobs),
            (r#","logprobs":false"#.to_owned(), Needs::default()),
            (format!(r#"{tool},"top_logprobs":2"#), tools.with(Capability::Logprobs, true)),
        ] {
            assert_eq!(needs(Endpoint::Chat, &more), expected, "{more}");
        }
        assert_eq!(needs(Endpoint::Embeddings, r#","input":"x","logprobs":true"#), embeddings);
        assert_eq!(needs(Endpoint::Completions, r#","logprobs":2"#), logprobs);
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
        let body = call.unwrap().body_with(&[("model", to_raw_value("mistral").unwrap())]).unwrap();
        assert_eq!(body, r#"{"model":"mistral","prompt":"p","seed":9007199254740993}"#);
    }

    #[test]
    fn what_is_not_set_anew_stays_as_it_was_written() {
        let text = r#" { "model":"chat", "é\u0022\n" : [1.0e0,  {"stream": 1}], "Stream":false, "STREAM_OPTIONS":{} } "#;
        let fields = [
            ("stream", to_raw_value(&true).unwrap()),
            ("stream_options", to_raw_value(&json!({"include_usage": true})).unwrap()),
        ];
        let body = parse(text).unwrap().body_with(&fields).unwrap();
        assert_eq!(
            body,
            "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"model\":\"chat\",\"é\\\"\\n\":[1.0e0,  {\"stream\": 1}]}"
        );
        assert_eq!(parse(r#"{"model":"x"}"#).unwrap().body_with(&[]).unwrap(), r#"{"model":"x"}"#);
    }

    #[test]
    fn what_an_answer_has_to_be_like_is_read_for_whoever_goes_on_with_it() {
        let terms = |more: &str| parse(&format!(r#"{{"model":"chat"{more}}}"#)).unwrap().terms;
        let plain = Terms { is_single: true, is_plain: true, ..Terms::default() };
        for (more, expected) in [
            ("", plain),
            (r#","n":1,"response_format":{"type":"text"},"logprobs":false,"grammar":null"#, plain),
            (r#","n":2"#, Terms { is_single: false, ..plain }),
            (r#","response_format":{"type":"json_object"}"#, Terms { is_plain: false, ..plain }),
            (r#","response_format":7"#, Terms { is_plain: false, ..plain }),
            (r#","json_schema":{}"#, Terms { is_plain: false, ..plain }),
            (r#","guided_regex":"a+""#, Terms { is_plain: false, ..plain }),
            (r#","logprobs":2"#, Terms { is_plain: false, ..plain }),
            (
                r#","max_tokens":9,"max_completion_tokens":7"#,
                Terms { most: Some(9), most_completion: Some(7), ..plain },
            ),
            (r#","max_tokens":-1,"max_completion_tokens":1.5"#, plain),
            (r#","stream_options":{"include_usage":true}"#, Terms { has_usage: true, ..plain }),
            (r#","stream_options":"all""#, plain),
        ] {
            assert_eq!(terms(more), expected, "{more}");
        }
        let both = Terms { most: Some(9), most_completion: Some(7), ..plain };
        assert!(both.is_spent(7) && !both.is_spent(6) && !plain.is_spent(u32::MAX));
        assert!(Terms { most: Some(9), ..plain }.is_spent(9));
        assert!(parse(r#"{"model":"chat","bramble_begun":{}}"#).unwrap().is_begun);
    }

    #[test]
    fn a_server_that_is_not_ours_is_given_the_text_to_go_on_with() {
        let asked = |endpoint, text: &str| {
            let call = Call::parse(endpoint, Bytes::copy_from_slice(text.as_bytes()), false).unwrap();
            let fields = call.going_on_elsewhere("é\n", 3)?;
            Some(String::from_utf8(call.body_with(&fields).unwrap().to_vec()).unwrap())
        };
        let flags = r#""continue_final_message":true,"add_generation_prompt":false"#;
        for (messages, expected) in [
            (
                r#"{"role":"user","content":[1, 2]}"#,
                r#"{"role":"user","content":[1, 2]},{"role":"assistant","content":"é\n"}"#,
            ),
            // an answer that the client began itself is one with what came of it
            (
                r#"{"role":"user"},{"role":"assistant","content":"So: "}"#,
                r#"{"role":"user"},{"role":"assistant","content":"So: é\n"}"#,
            ),
        ] {
            assert_eq!(
                asked(
                    Endpoint::Chat,
                    &format!(r#"{{"model":"chat","messages":[{messages}],"max_tokens":9}}"#)
                )
                .unwrap(),
                format!(r#"{{"messages":[{expected}],{flags},"max_tokens":6,"model":"chat"}}"#)
            );
        }
        for prompt in [r#""So: ""#, r#"["So: "]"#] {
            assert_eq!(
                asked(Endpoint::Completions, &format!(r#"{{"model":"chat","prompt":{prompt}}}"#)).unwrap(),
                r#"{"prompt":"So: é\n","model":"chat"}"#
            );
        }
        for (endpoint, text) in [
            (Endpoint::Chat, r#"{"model":"chat","messages":[]}"#),
            (
                Endpoint::Chat,
                r#"{"model":"chat","messages":[{"role":"assistant","content":"x","tool_calls":[]}]}"#,
            ),
            (Endpoint::Chat, r#"{"model":"chat","messages":[{"role":"assistant","content":[]}]}"#),
            (Endpoint::Completions, r#"{"model":"chat","prompt":[1,2]}"#),
            (Endpoint::Completions, r#"{"model":"chat","prompt":["a","b"]}"#),
        ] {
            assert_eq!(asked(endpoint, text), None, "{text}");
        }
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
