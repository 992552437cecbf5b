use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another word that the model's template knows.
    pub role: String,
    /// The text; OpenAI's array of text parts is joined while reading.
    pub content: String,
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
    /// Fields that are there and ask for something which Bramble does not do yet.
    pub unsupported: Vec<&'static str>,
}

/// A request for the next message of a chat.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The chat so far, one message at least.
    pub messages: Vec<Message>,
    /// How to answer.
    pub parameters: Parameters,
}

/// A request to go on with a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextRequest {
    /// The model's name.
    pub model: String,
    /// The text.
    pub prompt: String,
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
        let messages = messages.iter().map(message).collect::<Result<_, _>>()?;
        Ok(Self { model, messages, parameters: Parameters::read(&fields)? })
    }
}

impl TextRequest {
    /// Reads the body of `POST /v1/completions`. A prompt is one text, or an array of one.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        let model = required(&fields, "model")?;
        let prompt = match fields.get("prompt") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(items)) => match items.as_slice() {
                [Value::String(text)] => text.clone(),
                _ => {
                    return Err(field("prompt", "must be one text; batches and token ids are not supported"));
                }
            },
            None | Some(Value::Null) => return Err(Malformed::Missing("prompt")),
            Some(_) => return Err(field("prompt", "must be a text")),
        };
        Ok(Self { model, prompt, parameters: Parameters::read(&fields)? })
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
            unsupported: unsupported(fields),
        })
    }
}

/// Fields that ask for what nobody here does yet.
const ASKING: [&str; 19] = [
    "n",
    "best_of",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "grammar",
    "json_schema",
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
            "n" | "best_of" => number.as_u64() == Some(1),
            // 0 is a real request in the old completions API
            "logprobs" => false,
            _ => number.as_f64() == Some(0.0),
        },
        Value::String(text) => match name {
            "tool_choice" | "function_call" => matches!(text.as_str(), "none" | "auto"),
            _ => text.is_empty(),
        },
        Value::Array(items) => match name {
            "modalities" => items.iter().all(|item| item == "text"),
            _ => items.is_empty(),
        },
        Value::Object(map) => match name {
            "response_format" => map.get("type").is_some_and(|kind| kind == "text"),
            _ => map.is_empty(),
        },
        Value::Bool(true) => false,
    };
    ASKING.into_iter().filter(|name| fields.get(*name).is_some_and(|value| !is_idle(name, value))).collect()
}

fn field(field: &'static str, reason: impl Into<String>) -> Malformed {
    Malformed::Field { field, reason: reason.into() }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(body).map_err(Malformed::Json)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Malformed::NotAnObject),
    }
}

fn optional<T: DeserializeOwned>(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<T>, Malformed> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|error| field(name, error.to_string())),
    }
}

fn required<T: DeserializeOwned>(fields: &Map<String, Value>, name: &'static str) -> Result<T, Malformed> {
    optional(fields, name)?.ok_or(Malformed::Missing(name))
}

fn message(value: &Value) -> Result<Message, Malformed> {
    let bad = |reason: String| field("messages", reason);
    let Value::Object(fields) = value else { return Err(bad("each message must be an object".to_owned())) };
    let Some(Value::String(role)) = fields.get("role") else {
        return Err(bad("each message needs a 'role'".to_owned()));
    };
    if fields.get("tool_calls").is_some_and(|calls| !calls.is_null() && calls != &Value::Array(Vec::new())) {
        return Err(bad("tool calls are not supported yet".to_owned()));
    }
    let content = match fields.get("content") {
        None | Some(Value::Null) if role == "assistant" => String::new(),
        None | Some(Value::Null) => return Err(bad(format!("the message of '{role}' has no 'content'"))),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let mut joined = String::new();
            for part in parts {
                match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
                    (Some("text"), Some(text)) => joined.push_str(text),
                    (Some(kind), _) => {
                        return Err(bad(format!("content of type '{kind}' is not supported yet")));
                    }
                    (None, _) => return Err(bad("each part of a 'content' needs a 'type'".to_owned())),
                }
            }
            joined
        }
        Some(_) => return Err(bad("'content' must be a text or an array of text parts".to_owned())),
    };
    Ok(Message { role: role.clone(), content })
}

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
        assert_eq!(request.unwrap().messages, [Message { role: "user".into(), content: "ab".into() }]);
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
            "n": 1, "tools": [], "logprobs": false, "logit_bias": {}, "tool_choice": "auto",
            "response_format": {"type": "text"}, "top_logprobs": null,
        });
        assert!(chat(&body).unwrap().parameters.unsupported.is_empty());
        body["n"] = json!(2);
        body["response_format"] = json!({"type": "json_object"});
        body["tools"] = json!([{"type": "function"}]);
        assert_eq!(chat(&body).unwrap().parameters.unsupported, ["n", "tools", "response_format"]);
    }

    #[test]
    fn the_newer_name_of_the_limit_wins() {
        let body = json!({
            "model": "m", "prompt": ["p"], "max_tokens": 3, "max_completion_tokens": 5, "seed": -1,
            "stop": "x", "repetition_penalty": 1.5,
        });
        let request = TextRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.prompt, "p");
        assert_eq!(request.parameters.max_tokens, Some(5));
        assert_eq!(request.parameters.seed, None);
        assert_eq!(request.parameters.stop, ["x"]);
        assert_eq!(request.parameters.repeat_penalty, Some(1.5));
    }
}
