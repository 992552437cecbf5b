use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::{Malformed, field};

/// One message of a chat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or another word that the model's template knows.
    pub role: String,
    /// The text; OpenAI's array of text parts is joined while reading. None where an assistant says nothing, as with
    /// most calls.
    #[serde(default)]
    pub content: Option<String>,
    /// What the assistant thought before it said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What the assistant called in this message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a message of a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Who says it: the tool, or one of several speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// Makes a message that is only text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }
}

/// One call of a tool by the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Ties the tool's answer to the call: `call_…`.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A function and what it is called with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments: a JSON object as text. A model's text need not be one.
    pub arguments: String,
}

fn function() -> String {
    "function".to_owned()
}

/// Reads one element of `messages`.
pub(super) fn read(value: &Value) -> Result<Message, Malformed> {
    let bad = |reason: String| field("messages", reason);
    let Value::Object(fields) = value else { return Err(bad("each message must be an object".to_owned())) };
    let Some(Value::String(role)) = fields.get("role") else {
        return Err(bad("each message needs a 'role'".to_owned()));
    };
    let tool_calls = match fields.get("tool_calls") {
        None | Some(Value::Null) => Vec::new(),
        Some(calls) => Vec::<ToolCall>::deserialize(calls)
            .map_err(|error| bad(format!("the 'tool_calls' of a message: {error}")))?,
    };
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(format!("'{name}' must be a text"))),
    };
    Ok(Message {
        role: role.clone(),
        content: content(role, fields)?,
        reasoning_content: text("reasoning_content")?,
        tool_calls,
        tool_call_id: text("tool_call_id")?,
        name: text("name")?,
    })
}

fn content(role: &str, fields: &Map<String, Value>) -> Result<Option<String>, Malformed> {
    let bad = |reason: String| field("messages", reason);
    match fields.get("content") {
        None | Some(Value::Null) if role == "assistant" => Ok(None),
        None | Some(Value::Null) => Err(bad(format!("the message of '{role}' has no 'content'"))),
        Some(Value::String(text)) => Ok(Some(text.clone())),
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
            Ok(Some(joined))
        }
        Some(_) => Err(bad("'content' must be a text or an array of text parts".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_and_their_answers_are_read() {
        let call = json!({"id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Bern\"}"}});
        let said = read(&json!({"role": "assistant", "content": null, "tool_calls": [call]})).unwrap();
        assert_eq!((said.content.as_deref(), said.tool_calls[0].function.name.as_str()), (None, "weather"));
        assert_eq!(serde_json::to_value(&said.tool_calls[0]).unwrap(), call);
        let answer = read(&json!({"role": "tool", "tool_call_id": "call_1", "content": "rain"})).unwrap();
        assert_eq!(
            (answer.tool_call_id.as_deref(), answer.content.as_deref()),
            (Some("call_1"), Some("rain"))
        );
    }

    #[test]
    fn a_call_without_a_function_is_named() {
        for wrong in [json!([{"id": "x"}]), json!([{"function": {"name": "f", "arguments": {}}}]), json!("f")]
        {
            let message = json!({"role": "assistant", "tool_calls": wrong});
            let reason = read(&message).unwrap_err().to_string();
            assert!(reason.contains("'tool_calls' of a message"), "{reason}");
        }
    }
}
