use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::begun::Begun;
use super::message::{self, Message};
use super::tool::{Tool, ToolChoice};

/// A request that has not the right shape.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The body is not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A field that must be there is not.
    #[error("'{0}' is missing")]
    Missing(&'static str),
    /// A field has the wrong type or an impossible value.
    #[error("'{field}': {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Malformed {
    /// Returns the field that it is about.
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::Missing(field) | Self::Field { field, .. } => Some(field),
            Self::Json(_) | Self::NotAnObject => None,
        }
    }
}

/// What both kinds of request have in common. None: the client leaves it to us.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Parameters {
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// Whether a stream ends with the usage (`stream_options.include_usage`).
    pub include_usage: bool,
    /// The most tokens that the answer may have (`max_completion_tokens`, `max_tokens`).
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token always.
    pub temperature: Option<f32>,
    /// Keeps the likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keeps tokens with at least this part of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Makes the answer repeatable.
    pub seed: Option<u64>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Divides the scores of tokens that were seen (`repeat_penalty`, `repetition_penalty`).
    pub repeat_penalty: Option<f32>,
    /// Taken off the score of tokens that were seen.
    pub presence_penalty: Option<f32>,
    /// Taken off the score of tokens for each time that they were seen.
    pub frequency_penalty: Option<f32>,
    /// What is added to the scores of tokens, by their number in the model's vocabulary; numbers that it has not are
    /// passed over.
    pub logit_bias: Vec<(i32, f32)>,
    /// How many answers are wanted; 1 unless asked for.
    pub n: u32,
    /// How many of the likeliest tokens are told of with each token of the answer, beside that token itself; none
    /// tells nothing (`logprobs` and `top_logprobs` of chats, the number `logprobs` of text).
    pub logprobs: Option<u32>,
    /// What the answer must look like.
    pub format: Format,
    /// What the client has of the answer already; the reply begins behind it.
    pub begun: Option<Begun>,
    /// Fields that are there and ask for something which Bramble does not do yet.
    pub unsupported: Vec<&'static str>,
}

/// What an answer must look like.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub enum Format {
    /// As the model likes.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a JSON Schema holds for.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Whether what it has and we cannot keep to is an error, and not passed over.
        is_strict: bool,
    },
}

/// A text that is given to a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Input {
    /// As it is.
    Text(String),
    /// Cut into tokens already, by their numbers in the model's vocabulary.
    Tokens(Vec<i32>),
}

impl Input {
    /// Reads the value of a field: a text, several, the tokens of one, or those of several; one at least.
    pub(super) fn read_all(name: &'static str, value: &Value) -> Result<Vec<Self>, Malformed> {
        let wrong = || field(name, "must be a text, an array of texts, or tokens by their numbers");
        let token = |item: &Value| {
            let token = item.as_u64().and_then(|token| i32::try_from(token).ok());
            token.ok_or_else(wrong)
        };
        let tokens = |items: &[Value]| items.iter().map(token).collect::<Result<_, _>>().map(Self::Tokens);
        match value {
            Value::String(text) => Ok(vec![Self::Text(text.clone())]),
            Value::Array(items) if items.first().is_some_and(Value::is_number) => Ok(vec![tokens(items)?]),
            Value::Array(items) if !items.is_empty() => {
                let input = |item: &Value| match item {
                    Value::String(text) => Ok(Self::Text(text.clone())),
                    Value::Array(items) => tokens(items),
                    _ => Err(wrong()),
                };
                items.iter().map(input).collect()
            }
            _ => Err(wrong()),
        }
    }
}

/// A request for the next message of a chat.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The chat so far, one message at least.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it is to call.
    pub tool_choice: ToolChoice,
    /// Whether it may call several in one answer.
    pub parallel_tool_calls: bool,
    /// What else the model's template is told: `{"enable_thinking": false}` (`chat_template_kwargs`, as llama-server has it).
    pub template_arguments: Map<String, Value>,
    /// How to answer.
    pub parameters: Parameters,
}

/// A request to go on with a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextRequest {
    /// The model's name.
    pub model: String,
    /// The text.
    pub prompt: Input,
    /// How to answer.
    pub parameters: Parameters,
}

impl ChatRequest {
    /// Reads the body of `POST /v1/chat/completions`.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        let model = required(&fields, "model")?;
        let messages: Vec<Value> = required(&fields, "messages")?;
        if messages.is_empty() {
            return Err(field("messages", "must hold one message at least"));
        }
        let messages = messages.iter().map(message::read).collect::<Result<_, _>>()?;
        let tools = Tool::read_all(&fields)?;
        let tool_choice = ToolChoice::read(&fields, &tools)?;
        let mut parameters = Parameters::read(&fields)?;
        let top: Option<u32> = optional(&fields, "top_logprobs")?;
        parameters.logprobs = match (optional(&fields, "logprobs")?, top) {
            (Some(true), top) => Some(top.unwrap_or(0)),
            (_, Some(1..)) => return Err(field("top_logprobs", "needs 'logprobs' to be true")),
            _ => None,
        };
        let parallel_tool_calls = optional(&fields, "parallel_tool_calls")?.unwrap_or(true);
        let template_arguments = optional(&fields, "chat_template_kwargs")?.unwrap_or_default();
        Ok(Self { model, messages, tools, tool_choice, parallel_tool_calls, template_arguments, parameters })
    }
}

impl TextRequest {
    /// Reads the body of `POST /v1/completions`. A prompt is one text or its tokens, or an array of one.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        let model = required(&fields, "model")?;
        let mut prompts = match fields.get("prompt") {
            None | Some(Value::Null) => return Err(Malformed::Missing("prompt")),
            Some(prompt) => Input::read_all("prompt", prompt)?,
        };
        let prompt = prompts.pop().filter(|_| prompts.is_empty());
        let prompt = prompt.ok_or_else(|| field("prompt", "must be one text; batches are not supported"))?;
        let mut parameters = Parameters::read(&fields)?;
        // some clients of chats say `false` here
        parameters.logprobs = match fields.get("logprobs") {
            Some(Value::Bool(false)) => None,
            _ => optional(&fields, "logprobs")?,
        };
        Ok(Self { model, prompt, parameters })
    }
}

impl Parameters {
    fn read(fields: &Map<String, Value>) -> Result<Self, Malformed> {
        let include_usage = match fields.get("stream_options") {
            None | Some(Value::Null) => false,
            Some(Value::Object(options)) => optional(options, "include_usage")?.unwrap_or(false),
            Some(_) => return Err(field("stream_options", "must be an object")),
        };
        let stop = match fields.get("stop") {
            Some(Value::String(text)) => vec![text.clone()],
            _ => optional::<Vec<String>>(fields, "stop")?.unwrap_or_default(),
        };
        let repeat_penalty = match optional(fields, "repeat_penalty")? {
            Some(penalty) => Some(penalty),
            None => optional(fields, "repetition_penalty")?,
        };
        let max_tokens = match optional(fields, "max_completion_tokens")? {
            Some(limit) => Some(limit),
            None => optional(fields, "max_tokens")?,
        };
        Ok(Self {
            stream: optional(fields, "stream")?.unwrap_or(false),
            include_usage,
            max_tokens,
            temperature: optional(fields, "temperature")?,
            top_p: optional(fields, "top_p")?,
            top_k: optional(fields, "top_k")?,
            min_p: optional(fields, "min_p")?,
            // -1 means any seed, as in llama-server
            seed: optional::<i64>(fields, "seed")?.and_then(|seed| u64::try_from(seed).ok()),
            stop,
            repeat_penalty,
            presence_penalty: optional(fields, "presence_penalty")?,
            frequency_penalty: optional(fields, "frequency_penalty")?,
            logit_bias: logit_bias(fields)?,
            n: optional(fields, "n")?.unwrap_or(1),
            logprobs: None,
            format: format(fields)?,
            begun: Begun::read(fields)?,
            unsupported: unsupported(fields),
        })
    }
}

/// How many tokens may have a bias; OpenAI's own limit.
const MAX_BIASES: usize = 1024;

/// Reads `{"1234": -100}`: each key is a token, each value from -100, which bans it, to 100, which takes it always.
fn logit_bias(fields: &Map<String, Value>) -> Result<Vec<(i32, f32)>, Malformed> {
    let wrong = |reason: String| field("logit_bias", reason);
    let biases: Map<String, Value> = optional(fields, "logit_bias")?.unwrap_or_default();
    if biases.len() > MAX_BIASES {
        return Err(wrong(format!("may hold {MAX_BIASES} tokens, not {}", biases.len())));
    }
    let bias = |(token, value): (&String, &Value)| {
        let number = token.parse().ok().filter(|number: &i32| *number >= 0);
        let number = number.ok_or_else(|| wrong(format!("'{token}' is not the number of a token")))?;
        let bias = f32::deserialize(value).map_err(|error| wrong(error.to_string()))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(wrong(format!("the bias of '{token}' is {bias}, it must be from -100 to 100")));
        }
        Ok((number, bias))
    };
    biases.iter().map(bias).collect()
}

/// Reads `response_format`, or `json_schema` as llama-server has it.
fn format(fields: &Map<String, Value>) -> Result<Format, Malformed> {
    let wrong = |reason: &str| field("response_format", reason);
    let schema_alone = match fields.get("json_schema") {
        None | Some(Value::Null) => Format::Text,
        Some(schema @ Value::Object(_)) => Format::JsonSchema { schema: schema.clone(), is_strict: false },
        Some(_) => return Err(field("json_schema", "must be a JSON Schema: an object")),
    };
    let Some(format) = optional::<Map<String, Value>>(fields, "response_format")? else {
        return Ok(schema_alone);
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(schema_alone),
        // llama-server takes the schema in both, beside the type
        Some(kind @ ("json_object" | "json_schema")) => {
            let within = format.get("json_schema").and_then(|it| it.get("schema"));
            match within.or_else(|| format.get("schema")).filter(|schema| !schema.is_null()) {
                Some(schema @ Value::Object(_)) => {
                    let is_strict =
                        format.get("json_schema").is_some_and(|it| it.get("strict") == Some(&true.into()));
                    Ok(Format::JsonSchema { schema: schema.clone(), is_strict })
                }
                Some(_) => Err(wrong("its 'schema' must be a JSON Schema: an object")),
                None if kind == "json_object" => Ok(Format::JsonObject),
                None => {
                    Err(wrong("of type 'json_schema' needs 'json_schema': {\"name\": …, \"schema\": {…}}"))
                }
            }
        }
        Some(kind) => {
            Err(wrong(&format!("has the type '{kind}'; there are text, json_object and json_schema")))
        }
        None => Err(wrong("needs a 'type': text, json_object or json_schema")),
    }
}

/// Fields that ask for what nobody here does yet.
const ASKING: [&str; 11] = [
    "best_of",
    "functions",
    "function_call",
    "grammar",
    "echo",
    "suffix",
    "audio",
    "modalities",
    "prediction",
    "web_search_options",
    "guided_json",
];

/// Names the fields whose value asks for what nobody here would do. A value that asks for
/// nothing (`"n": 1`, `"tools": []`) is fine, since many clients send it always.
fn unsupported(fields: &Map<String, Value>) -> Vec<&'static str> {
    let is_idle = |name: &str, value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => match name {
            "best_of" => number.as_u64() == Some(1),
            _ => number.as_f64() == Some(0.0),
        },
        Value::String(text) => match name {
            "function_call" => matches!(text.as_str(), "none" | "auto"),
            _ => text.is_empty(),
        },
        Value::Array(items) => match name {
            "modalities" => items.iter().all(|item| item == "text"),
            _ => items.is_empty(),
        },
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    };
    ASKING.into_iter().filter(|name| fields.get(*name).is_some_and(|value| !is_idle(name, value))).collect()
}

pub(super) fn field(field: &'static str, reason: impl Into<String>) -> Malformed {
    Malformed::Field { field, reason: reason.into() }
}

pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(body).map_err(Malformed::Json)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Malformed::NotAnObject),
    }
}

pub(super) fn optional<T: DeserializeOwned>(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<T>, Malformed> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|error| field(name, error.to_string())),
    }
}

pub(super) fn required<T: DeserializeOwned>(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<T, Malformed> {
    optional(fields, name)?.ok_or(Malformed::Missing(name))
}

#[cfg(test)]
#[path = "request_texts_tests.rs"]
mod texts_tests;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(value: &Value) -> Result<ChatRequest, Malformed> {
        ChatRequest::parse(value.to_string().as_bytes())
    }

    #[test]
    fn text_parts_are_joined_and_unknown_fields_passed_over() {
        let request = chat(&json!({
            "model": "m", "user": "someone", "store": false,
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ],
        }));
        assert_eq!(request.unwrap().messages, [Message::new("user", "ab")]);
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        for (name, value) in [
            ("temperature", json!("hot")),
            ("max_tokens", json!(-1)),
            ("stream", json!("yes")),
            ("stop", json!([1])),
            ("messages", json!("hi")),
            ("model", json!(7)),
            ("stream_options", json!([])),
            ("logit_bias", json!([[1, 2]])),
            ("logit_bias", json!({"hello": 1})),
            ("logit_bias", json!({"-1": 1})),
            ("logit_bias", json!({"1": 101})),
            ("logit_bias", json!({"1": "more"})),
            ("n", json!(-1)),
            ("logprobs", json!(3)),
            ("top_logprobs", json!(3)),
            ("response_format", json!("json")),
            ("response_format", json!({"type": "xml"})),
            ("response_format", json!({"type": "json_schema"})),
            ("json_schema", json!([])),
            ("tools", json!({})),
            ("tools", json!([{"type": "function"}])),
            ("tools", json!([{"type": "browser"}])),
            ("tools", json!([{"type": "function", "function": {"name": "f", "parameters": []}}])),
            ("tool_choice", json!("sometimes")),
            ("chat_template_kwargs", json!("thinking")),
            ("tool_choice", json!("required")),
            ("tool_choice", json!({"type": "function", "function": {"name": "f"}})),
        ] {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
            body[name] = value;
            assert_eq!(chat(&body).unwrap_err().param(), Some(name), "{body}");
        }
        assert!(matches!(ChatRequest::parse(b"[]"), Err(Malformed::NotAnObject)));
        assert!(matches!(ChatRequest::parse(b"{"), Err(Malformed::Json(_))));
        let images =
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]});
        assert!(chat(&images).unwrap_err().to_string().contains("image_url"));
    }

    #[test]
    fn what_is_not_done_is_named_unless_it_asks_for_nothing() {
        let mut body = json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}],
            "best_of": 1, "functions": [], "grammar": "", "function_call": "auto", "echo": false,
            "modalities": ["text"], "audio": null, "prediction": {},
        });
        assert!(chat(&body).unwrap().parameters.unsupported.is_empty());
        body["best_of"] = json!(2);
        body["grammar"] = json!("root ::= \"a\"");
        body["functions"] = json!([{"name": "f"}]);
        assert_eq!(chat(&body).unwrap().parameters.unsupported, ["best_of", "functions", "grammar"]);
    }

    #[test]
    fn a_bias_is_of_a_token_by_its_number() {
        let mut body = json!({"model": "m", "prompt": "p", "logit_bias": {"50256": -100, "7": 1.5}});
        let biases =
            |body: &Value| TextRequest::parse(body.to_string().as_bytes()).map(|it| it.parameters.logit_bias);
        assert_eq!(biases(&body).unwrap(), [(50256, -100.0), (7, 1.5)]);
        body["logit_bias"] =
            (0..1025).map(|token| (token.to_string(), json!(1))).collect::<Map<_, _>>().into();
        assert!(biases(&body).unwrap_err().to_string().contains("1024 tokens, not 1025"));
        body["logit_bias"] = Value::Null;
        assert_eq!(biases(&body).unwrap(), []);
    }

    #[test]
    fn the_newer_name_of_the_limit_wins() {
        let body = json!({
            "model": "m", "prompt": ["p"], "max_tokens": 3, "max_completion_tokens": 5, "seed": -1,
            "stop": "x", "repetition_penalty": 1.5,
        });
        let request = TextRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.prompt, Input::Text("p".to_owned()));
        assert_eq!(request.parameters.max_tokens, Some(5));
        assert_eq!(request.parameters.seed, None);
        assert_eq!(request.parameters.stop, ["x"]);
        assert_eq!(request.parameters.repeat_penalty, Some(1.5));
    }
}
