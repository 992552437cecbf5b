use serde::Serialize;
use serde_json::{Map, Value};

use super::request::{Malformed, field, optional};

/// How many tools one request may have; OpenAI's own limit.
const MAX_TOOLS: usize = 128;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// The JSON Schema of its arguments; none where it takes none, or any.
    pub parameters: Option<Value>,
    /// All that the client says of it, as templates want it: `{"type": "function", "function": {…}}`.
    pub definition: Value,
}

/// Whether the model is to call a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum ToolChoice {
    /// It does not, and is not told of any.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// It calls one at least.
    Required,
    /// It calls this one.
    Function(String),
}

impl Tool {
    pub(super) fn read_all(fields: &Map<String, Value>) -> Result<Vec<Self>, Malformed> {
        let definitions: Vec<Value> = optional(fields, "tools")?.unwrap_or_default();
        if definitions.len() > MAX_TOOLS {
            return Err(field("tools", format!("may hold {MAX_TOOLS} tools, not {}", definitions.len())));
        }
        definitions.into_iter().map(Self::read).collect()
    }

    fn read(definition: Value) -> Result<Self, Malformed> {
        let wrong = |reason: &str| field("tools", reason);
        match definition.get("type").and_then(Value::as_str) {
            Some("function") => (),
            Some(kind) => return Err(wrong(&format!("a tool of type '{kind}' is not supported"))),
            None => return Err(wrong("each tool needs a 'type': function")),
        }
        let name =
            definition.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("each tool needs a 'function' with a 'name'"))?.to_owned();
        let parameters = match definition.get("function").and_then(|function| function.get("parameters")) {
            None | Some(Value::Null) => None,
            Some(schema @ Value::Object(_)) => Some(schema.clone()),
            Some(_) => return Err(wrong(&format!("the 'parameters' of '{name}' must be a JSON Schema"))),
        };
        Ok(Self { name, parameters, definition })
    }
}

impl ToolChoice {
    pub(super) fn read(fields: &Map<String, Value>, tools: &[Tool]) -> Result<Self, Malformed> {
        let wrong = |reason: &str| field("tool_choice", reason);
        let choice = match fields.get("tool_choice") {
            None | Some(Value::Null) => return Ok(Self::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => return Ok(Self::None),
                "auto" => return Ok(Self::Auto),
                "required" => Self::Required,
                other => {
                    return Err(wrong(&format!(
                        "is '{other}'; there are none, auto, required, or a function"
                    )));
                }
            },
            Some(choice) => {
                let name = choice.get("function").and_then(|function| function.get("name"));
                let name = name.and_then(Value::as_str);
                Self::Function(name.ok_or_else(|| wrong("needs a 'function' with a 'name'"))?.to_owned())
            }
        };
        match &choice {
            Self::Function(name) if !tools.iter().any(|tool| tool.name == *name) => {
                Err(wrong(&format!("wants '{name}', which is not among the tools")))
            }
            Self::Required if tools.is_empty() => Err(wrong("is 'required', but there are no tools")),
            _ => Ok(choice),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tool_keeps_all_that_the_client_said_of_it() {
        let definition = json!({"type": "function", "function": {
            "name": "f", "description": "does it", "strict": true, "parameters": {"type": "object"},
        }});
        let fields =
            json!({"tools": [definition], "tool_choice": {"type": "function", "function": {"name": "f"}}});
        let fields = fields.as_object().unwrap();
        let tools = Tool::read_all(fields).unwrap();
        assert_eq!((tools[0].name.as_str(), &tools[0].definition), ("f", &definition));
        assert_eq!(tools[0].parameters, Some(json!({"type": "object"})));
        assert_eq!(ToolChoice::read(fields, &tools).unwrap(), ToolChoice::Function("f".to_owned()));
    }

    #[test]
    fn there_are_so_many_tools_at_most() {
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let fields = json!({"tools": vec![tool; MAX_TOOLS + 1]});
        let reason = Tool::read_all(fields.as_object().unwrap()).unwrap_err().to_string();
        assert!(reason.contains("may hold 128 tools, not 129"), "{reason}");
    }
}
