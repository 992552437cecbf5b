//! How models write calls of tools: recognised by their templates, found in their answers, and
//! forced where the client wants a call.

use std::fmt::Write as _;

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::constraint::{Grammars, with_options};
#[cfg(doc)]
use super::template::Template;
use crate::openai::{FunctionCall, Tool, ToolCall, ToolChoice};

/// One family's way to write calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax {
    /// A template that has this makes the model write so.
    sign: &'static str,
    /// Stands before calls; where it is a control token, that token does.
    opens: &'static str,
    /// Stands after them; empty where they go on to the end of the answer.
    closes: &'static str,
    shape: Shape,
    /// The name of the field that has the arguments.
    arguments: &'static str,
}

/// What stands between the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `{"name": …, "arguments": …}`, each call between marks of its own.
    Each,
    /// `[{"name": …, "arguments": …}, …]`.
    List,
    /// `name[ARGS]{…}`, in v11 `name[CALL_ID]…[ARGS]{…}`.
    Named,
    /// `{"name": …, "parameters": …}` as the whole answer, with or without the mark.
    Bare,
}

/// The ways that are known. The first whose sign a template has is its model's.
const SYNTAXES: [Syntax; 5] = [
    // Qwen 2.5 and 3, Hermes, SmolLM3
    Syntax {
        sign: "<tool_call>",
        opens: "<tool_call>",
        closes: "</tool_call>",
        shape: Shape::Each,
        arguments: "arguments",
    },
    // Mistral from v11 on
    Syntax { sign: "[ARGS]", opens: "[TOOL_CALLS]", closes: "", shape: Shape::Named, arguments: "arguments" },
    // Mistral 7B v0.3, Nemo
    Syntax {
        sign: "[TOOL_CALLS]",
        opens: "[TOOL_CALLS]",
        closes: "",
        shape: Shape::List,
        arguments: "arguments",
    },
    // Phi-4-mini, Granite
    Syntax {
        sign: "<|tool_call|>",
        opens: "<|tool_call|>",
        closes: "<|/tool_call|>",
        shape: Shape::List,
        arguments: "arguments",
    },
    // Llama 3.1 to 3.3
    Syntax {
        sign: "\"parameters\"",
        opens: "<|python_tag|>",
        closes: "",
        shape: Shape::Bare,
        arguments: "parameters",
    },
];

/// Between a name and its arguments, in [`Shape::Named`].
const ARGS: &str = "[ARGS]";

/// Between a name and the call's identifier there.
const CALL_ID: &str = "[CALL_ID]";

impl Syntax {
    /// Returns the way that the text of a `template` speaks of; none where tools are not in it, or in a way that is not
    /// known. [`Template::syntax`] holds it to the calls that the template writes.
    pub(super) fn of(template: &str) -> Option<Self> {
        let has_tools = template.contains("tools");
        SYNTAXES.into_iter().find(|syntax| has_tools && template.contains(syntax.sign))
    }

    /// Returns whether `said` has this `call` as models of this way write it, whatever is around it.
    pub(super) fn has(self, said: &str, call: &FunctionCall) -> bool {
        let start = match self.shape {
            Shape::Bare => said.find('{'),
            Shape::Each | Shape::List | Shape::Named => {
                said.find(self.opens).map(|start| start + self.opens.len())
            }
        };
        let body = start.map_or("", |start| &said[start..]).trim_start();
        let (name, json) = match self.shape {
            Shape::Named => split_named(body).unwrap_or_default(),
            Shape::Each | Shape::List | Shape::Bare => ("", body),
        };
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else { return false };
        let wanted: Option<Value> = serde_json::from_str(&call.arguments).ok();
        if self.shape == Shape::Named {
            return name == call.name && Some(value) == wanted;
        }
        let first = if self.shape == Shape::List { value.get(0) } else { Some(&value) };
        let field = |name: &str| first?.get(name);
        field("name").and_then(Value::as_str) == Some(&call.name) && field(self.arguments) == wanted.as_ref()
    }

    /// Returns the marks that must be seen in an answer though they may be control tokens.
    pub(super) fn marks(self) -> Vec<String> {
        let within: &[&str] = if self.shape == Shape::Named { &[ARGS, CALL_ID] } else { &[] };
        let marks = [self.opens, self.closes].into_iter().chain(within.iter().copied());
        marks.filter(|mark| !mark.is_empty()).map(str::to_owned).collect()
    }

    /// Returns the grammar of an answer that calls as `choice` wants: `many` calls or just one. None where a call is
    /// not forced.
    pub(super) fn grammar(
        self,
        tools: &[Tool],
        choice: &ToolChoice,
        many: bool,
        grammars: &Grammars,
    ) -> Option<TopLevelGrammar> {
        let is_wanted = |tool: &&Tool| match choice {
            ToolChoice::None | ToolChoice::Auto => false,
            ToolChoice::Required => true,
            ToolChoice::Function(name) => tool.name == *name,
        };
        let wanted: Vec<&Tool> = tools.iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            return None;
        }
        let mark = |mark: &str| grammars.mark(mark);
        let (opens, closes) = (mark(self.opens), mark(self.closes));
        let calls = match (self.shape, many) {
            (Shape::Each, true) => format!(
                "{opens} \"\\n\" call \"\\n\" {closes} (\"\\n\" {opens} \"\\n\" call \"\\n\" {closes})*"
            ),
            (Shape::Each, false) => format!("{opens} \"\\n\" call \"\\n\" {closes}"),
            (Shape::List, true) => format!("{opens} \"[\" call (\", \" call)* \"]\" {closes}"),
            (Shape::List, false) => format!("{opens} \"[\" call \"]\" {closes}"),
            (Shape::Named, true) => format!("({opens} call)+"),
            (Shape::Named, false) => format!("{opens} call"),
            (Shape::Bare, _) => "call".to_owned(),
        };
        let mut lark = format!("start: {calls}\ncall: ");
        let names: Vec<String> = (0..wanted.len()).map(|nth| format!("call_{nth}")).collect();
        lark.push_str(&names.join(" | "));
        for (nth, tool) in wanted.iter().enumerate() {
            let name = json!(tool.name);
            let (before, after) = if self.shape == Shape::Named {
                (format!("{name} {}", mark(ARGS)), String::new())
            } else {
                let before = format!("{{\"name\": {name}, \"{}\": ", self.arguments);
                (json!(before).to_string(), " \"}\"".to_owned())
            };
            // each schema is a document of its own, so that its references lead to what they are to
            let schema = tool
                .parameters
                .clone()
                .unwrap_or_else(|| json!({"type": "object", "additionalProperties": false}));
            let schema = with_options(schema, false);
            let _ = write!(
                lark,
                "\ncall_{nth}: {before} arguments_{nth}{after}\narguments_{nth}: %json {schema}"
            );
        }
        Some(TopLevelGrammar::from_lark(lark))
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// What the model thinks before it speaks.
    Thought(String),
    /// Text for the user.
    Text(String),
    /// A call.
    Call(ToolCall),
}

/// Finds the calls in an answer that comes piece by piece. What may be the beginning of a call is kept back until it
/// is known; what turns out to be none is text.
#[derive(Debug)]
pub(super) struct Scanner {
    syntax: Syntax,
    /// The end of the answer that is not given out.
    held: String,
    /// Whether `held` begins behind an opening mark.
    is_open: bool,
    /// Whether anything but blanks came already.
    has_begun: bool,
    /// Whether a call came and no text since: blanks between calls are no text.
    is_after_call: bool,
}

impl Scanner {
    pub(super) fn new(syntax: Syntax) -> Self {
        Self { syntax, held: String::new(), is_open: false, has_begun: false, is_after_call: false }
    }

    /// Takes more of the answer.
    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        loop {
            if self.is_open {
                let closes = self.syntax.closes;
                let Some(end) =
                    Some(closes).filter(|mark| !mark.is_empty()).and_then(|mark| self.held.find(mark))
                else {
                    return parts;
                };
                let rest = self.held.split_off(end + closes.len());
                let body = std::mem::replace(&mut self.held, rest);
                self.take_calls(&body[..end], closes, &mut parts);
                continue;
            }
            if let Some(start) = self.held.find(self.syntax.opens) {
                let before = self.held[..start].to_owned();
                self.give(before, &mut parts);
                self.held.drain(..start + self.syntax.opens.len());
                self.is_open = true;
                continue;
            }
            let may_be_bare = self.syntax.shape == Shape::Bare
                && !self.has_begun
                && (self.held.trim_start().is_empty() || self.held.trim_start().starts_with('{'));
            if !may_be_bare {
                let opens = self.syntax.opens.as_bytes();
                let longest = (opens.len() - 1).min(self.held.len());
                let suspicious = (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&opens[..n]));
                let rest = self.held.split_off(self.held.len() - suspicious.unwrap_or(0));
                let text = std::mem::replace(&mut self.held, rest);
                self.give(text, &mut parts);
            }
            return parts;
        }
    }

    /// Takes the end of the answer.
    pub(super) fn finish(mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        if self.is_open
            || (self.syntax.shape == Shape::Bare && !self.has_begun && held.trim_start().starts_with('{'))
        {
            self.take_calls(&held, "", &mut parts);
        } else {
            self.give(held, &mut parts);
        }
        parts
    }

    fn give(&mut self, mut text: String, parts: &mut Vec<Part>) {
        if self.is_after_call {
            text.drain(..text.len() - text.trim_start().len());
            self.is_after_call = text.is_empty();
        }
        self.has_begun |= !text.trim().is_empty();
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
    }

    /// Reads what stood between two marks.
    fn take_calls(&mut self, body: &str, closes: &str, parts: &mut Vec<Part>) {
        let read = match self.syntax.shape {
            Shape::Named => body.split(self.syntax.opens).map(read_named).collect(),
            Shape::Each | Shape::List | Shape::Bare => read_calls(body),
        };
        if let Some(calls) = read.filter(|calls| !calls.is_empty()) {
            (self.has_begun, self.is_after_call) = (true, true);
            parts.extend(calls.into_iter().map(Part::Call));
        } else {
            let opens = if self.is_open { self.syntax.opens } else { "" };
            self.give(format!("{opens}{body}{closes}"), parts);
        }
        self.is_open = false;
    }
}

/// Reads calls that follow each other, or are in a list. None where anything else is among them.
fn read_calls(body: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if rest.is_empty() {
            return Some(calls);
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next()?.ok()? {
            Value::Array(items) => {
                for item in &items {
                    calls.push(read_call(item)?);
                }
            }
            value => calls.push(read_call(&value)?),
        }
        let read = values.byte_offset();
        rest = &rest[read..];
    }
}

fn read_call(value: &Value) -> Option<ToolCall> {
    let value = value.get("function").filter(|function| function.is_object()).unwrap_or(value);
    let name = value.get("name")?.as_str()?;
    let arguments = ["arguments", "parameters"].into_iter().find_map(|field| value.get(field));
    Some(call(name, arguments.unwrap_or(&json!({}))))
}

/// Reads `name[ARGS]{…}`.
fn read_named(body: &str) -> Option<ToolCall> {
    let (name, arguments) = split_named(body)?;
    let arguments: Value = serde_json::from_str(arguments.trim()).ok()?;
    (!name.is_empty()).then(|| call(name, &arguments))
}

/// Returns the name of `name[ARGS]{…}`, and what follows from the bracket on.
fn split_named(body: &str) -> Option<(&str, &str)> {
    let (before, arguments) = body.split_at(body.find('{')?);
    let before = before.trim().trim_end_matches(ARGS);
    let name = before.split_once(CALL_ID).map_or(before, |(name, _)| name);
    Some((name.trim(), arguments))
}

fn call(name: &str, arguments: &Value) -> ToolCall {
    let arguments = match arguments {
        // some models write the text that clients get, and not the object
        Value::String(text) => text.clone(),
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    };
    let id = format!("call_{:016x}", getrandom::u64().unwrap_or_default());
    ToolCall { id, kind: "function".to_owned(), function: FunctionCall { name: name.to_owned(), arguments } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shows an answer cut into pieces of `size` characters: texts as they are, calls as `name(arguments)`.
    fn scan(sign: &str, answer: &str, size: usize) -> (String, Vec<String>) {
        let syntax = Syntax::of(&format!("{{{{ tools }}}} {sign}")).unwrap();
        let mut scanner = Scanner::new(syntax);
        let letters: Vec<char> = answer.chars().collect();
        let mut parts = Vec::new();
        for piece in letters.chunks(size) {
            parts.extend(scanner.push(&piece.iter().collect::<String>()));
        }
        parts.extend(scanner.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Thought(thought) => panic!("{thought}"),
                Part::Text(more) => text.push_str(&more),
                Part::Call(call) => {
                    calls.push(format!("{}({})", call.function.name, call.function.arguments));
                }
            }
        }
        (text, calls)
    }

    fn same_in_all_pieces(sign: &str, answer: &str, text: &str, calls: &[&str]) {
        for size in [1, 2, 3, 7, 1000] {
            let (said, called) = scan(sign, answer, size);
            assert_eq!(
                (said.as_str(), called),
                (text, calls.iter().map(|&call| call.to_owned()).collect()),
                "{size}"
            );
        }
    }

    #[test]
    fn each_family_is_understood() {
        let hermes = "Let me see.<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"<é>\"}}\n</tool_call>\n\
            <tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>";
        same_in_all_pieces("<tool_call>", hermes, "Let me see.", &["f({\"a\":\"<é>\"})", "g({})"]);
        let list = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}, {\"name\": \"g\"}]";
        same_in_all_pieces("[TOOL_CALLS]", list, "", &["f({\"a\":[1,2]})", "g({})"]);
        let named = "[TOOL_CALLS]f[CALL_ID]call00000[ARGS]{\"a\": 1}[TOOL_CALLS]g{}";
        same_in_all_pieces("[TOOL_CALLS][ARGS]", named, "", &["f({\"a\":1})", "g({})"]);
        let phi = "<|tool_call|>[{\"name\": \"f\", \"arguments\": \"{}\"}]<|/tool_call|>";
        same_in_all_pieces("<|tool_call|>", phi, "", &["f({})"]);
        let llama = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
        same_in_all_pieces("\"parameters\"", llama, "", &["f({\"a\":1})", "g({})"]);
        same_in_all_pieces(
            "\"parameters\"",
            &format!("<|python_tag|>{llama}"),
            "",
            &["f({\"a\":1})", "g({})"],
        );
    }

    #[test]
    fn what_is_no_call_is_text() {
        for broken in [
            "<tool_call>{\"name\": 7}</tool_call>",
            "<tool_call>\n{\"name\": \"f\"",
            "a <tool_ca",
            "{\"a\": 1}",
            "<tool_call></tool_call>",
        ] {
            same_in_all_pieces("<tool_call>", broken, broken, &[]);
        }
        for broken in [" {\"a\": 1}", "{ not JSON", "so {\"name\": \"f\", \"parameters\": {}}"] {
            same_in_all_pieces("\"parameters\"", broken, broken, &[]);
        }
    }

    #[test]
    fn a_template_without_tools_has_no_syntax() {
        assert_eq!(Syntax::of("{{ messages }} <tool_call>"), None);
        assert_eq!(Syntax::of("{{ tools }}"), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_said_twice(answer in "([ab{}\\[\\]\"<]|<tool_call>|</tool_call>|<tool_c){0,12}", size in 1usize..4) {
            let (text, calls) = scan("<tool_call>", &answer, size);
            prop_assert!(calls.is_empty());
            prop_assert_eq!(text, answer);
        }
    }
}
