use std::sync::OnceLock;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde_json::{Map, Value as Json, json};
use tokio::sync::oneshot;

use super::python;
use super::tools::Syntax;
use crate::openai::{FunctionCall, Message, Tool, ToolCall};

/// What a template may do: an instruction costs 1, so do 64 bytes of text. Enough for
/// thousands of messages, and some 60 MB at most; a hostile template ends within a second.
const FUEL: u64 = 1_000_000;

/// The stack on which templates are filled. Values that a hostile one nests are dropped one within the other, as many
/// as there is fuel for; what is not used takes no memory.
const STACK: usize = 1 << 30;

/// Does `work` on a thread with room for what templates nest; none if it panics or there is no thread.
pub(super) async fn on_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, done) = oneshot::channel();
    let work = move || {
        // whoever asked may be gone
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name("template".to_owned()).stack_size(STACK).spawn(work).ok()?;
    done.await.ok()
}

/// Marks where a message ends that is to be continued. No text has it by accident. A template that takes blanks from
/// a message's end takes this one.
const MARK: &str = "\u{2}bramble\u{3} ";

/// The chat template that came with a model's weights, in Jinja as `transformers` reads it.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    syntax: OnceLock<Option<Syntax>>,
}

/// A chat that cannot be made into a prompt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The template is not Jinja that we understand.
    #[error("the model's chat template cannot be read")]
    Parse(#[source] minijinja::Error),
    /// The template stopped, often by its own `raise_exception`.
    #[error("the model's chat template refuses these messages")]
    Render(#[source] minijinja::Error),
    /// The last message cannot be continued.
    #[error("the model's chat template does not show where the last message ends, so it cannot be continued")]
    Continue,
}

impl Template {
    /// Reads `source`. `bos` and `eos` are the texts of those tokens.
    pub(super) fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        Self::at(source, bos, eos, crate::clock::local)
    }

    /// Reads `source`, for which it is the time that `now` tells.
    fn at(source: &str, bos: &str, eos: &str, now: fn() -> DateTime) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(Error::Parse)?);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        python::add_to(&mut environment, now);
        environment.add_template_owned("chat", without_generation(source)).map_err(Error::Parse)?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned(), syntax: OnceLock::new() })
    }

    /// Makes `messages` into a prompt that ends where the model is to speak: at the
    /// beginning of its turn, or at the end of the last message if that is its own and calls
    /// nothing. The model is told of `tools`, the template of `arguments` beside what it is
    /// always told.
    pub(super) fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        arguments: &Map<String, Json>,
    ) -> Result<String, Error> {
        let fill = |messages: &[Message], opens_turn| self.fill(messages, tools, arguments, opens_turn);
        match messages.split_last() {
            Some((last, before)) if last.role == "assistant" && last.tool_calls.is_empty() => {
                let said = last.content.as_deref().unwrap_or_default();
                let mut messages = before.to_vec();
                messages.push(Message { content: Some(format!("{said}{MARK}")), ..last.clone() });
                let mut prompt = fill(&messages, false)?;
                let end = prompt.rfind(MARK.trim_end()).filter(|_| prompt.contains(said.trim()));
                let end = end.ok_or(Error::Continue)?;
                let keeps_blanks = prompt[end..].starts_with(MARK);
                prompt.truncate(end);
                if !keeps_blanks {
                    prompt.truncate(prompt.trim_end().len());
                }
                Ok(prompt)
            }
            _ => fill(messages, true),
        }
    }

    /// Returns how the model calls tools: as its template speaks of, unless that writes calls in another way. None where
    /// no way is known.
    pub(super) fn syntax(&self) -> Option<Syntax> {
        *self.syntax.get_or_init(|| {
            let syntax = Syntax::of(self.environment.get_template("chat").ok()?.source())?;
            let call =
                FunctionCall { name: "call_it".to_owned(), arguments: r#"{"with": "this"}"#.to_owned() };
            let said = self.written(&call).ok()?;
            // some pass over calls, as Granite's does
            (!said.contains(&call.name) || syntax.has(&said, &call)).then_some(syntax)
        })
    }

    /// Returns what the template writes after a question which is answered by a call.
    fn written(&self, call: &FunctionCall) -> Result<String, Error> {
        const ASKED: &str = "What is asked?";
        let parameters =
            json!({"type": "object", "properties": {"with": {"type": "string", "description": "it"}}});
        let definition = json!({"type": "function", "function": {
            "name": "another", "description": "it", "parameters": parameters,
        }});
        let tool = Tool { name: "another".to_owned(), parameters: Some(parameters), definition };
        // Mistral's want an identifier of nine letters
        let (id, kind) = ("call00000".to_owned(), "function".to_owned());
        let call = ToolCall { id, kind, function: call.clone() };
        let answer = Message { role: "assistant".to_owned(), tool_calls: vec![call], ..Message::default() };
        let mut all = self.fill(&[Message::new("user", ASKED), answer], &[tool], &Map::new(), false)?;
        let start = all.rfind(ASKED).map_or(0, |start| start + ASKED.len());
        Ok(all.split_off(start))
    }

    /// Runs the template. One that cannot do without the content of a message that only calls has it empty.
    fn fill(
        &self,
        messages: &[Message],
        tools: &[Tool],
        arguments: &Map<String, Json>,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let prompt = self.run(messages, tools, arguments, add_generation_prompt);
        if prompt.is_ok() || messages.iter().all(|message| message.content.is_some()) {
            return prompt;
        }
        let filled = |message: &Message| Message {
            content: Some(message.content.clone().unwrap_or_default()),
            ..message.clone()
        };
        let messages: Vec<Message> = messages.iter().map(filled).collect();
        self.run(&messages, tools, arguments, add_generation_prompt)
    }

    fn run(
        &self,
        messages: &[Message],
        tools: &[Tool],
        arguments: &Map<String, Json>,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let template = self.environment.get_template("chat").map_err(Error::Render)?;
        let said: Value = messages.iter().map(said).collect();
        // to templates, no tools are none
        let tools: Option<Value> = (!tools.is_empty())
            .then(|| tools.iter().map(|tool| Value::from(Serde(&tool.definition))).collect());
        template
            .render(context! {
                messages => said,
                add_generation_prompt => add_generation_prompt,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                tools => tools,
                documents => (),
                ..Value::from(Serde(arguments))
            })
            .map_err(Error::Render)
    }
}

/// Takes out the tags around what a model is trained to say, which only training needs. A name that is set within them
/// is not known behind them.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, behind)) = rest.split_once("%}") {
        let (text, tag) = before.split_at(before.rfind("{%").unwrap_or(before.len()));
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let inner = tag.trim_start_matches("{%").trim_matches(|letter| !is_name(letter));
        out.push_str(text);
        if matches!(inner, "generation" | "endgeneration") {
            out.push_str(&tag.replace("generation", "with"));
        } else {
            out.push_str(tag);
        }
        out.push_str("%}");
        rest = behind;
    }
    out + rest
}

/// Shows a message as templates expect it: with only the fields that it has, and arguments as
/// objects.
fn said(message: &Message) -> Value {
    let mut fields = vec![("role", Value::from(message.role.as_str()))];
    fields.extend(message.content.as_deref().map(|content| ("content", content.into())));
    if !message.tool_calls.is_empty() {
        fields.push(("tool_calls", message.tool_calls.iter().map(called).collect()));
    }
    let others = [
        ("reasoning_content", &message.reasoning_content),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    fields.extend(others.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?.into()))));
    Value::from_pairs(fields)
}

fn called(call: &ToolCall) -> Value {
    let arguments = &call.function.arguments;
    let arguments =
        serde_json::from_str::<serde_json::Value>(arguments).ok().filter(serde_json::Value::is_object);
    let arguments = arguments
        .map_or_else(|| call.function.arguments.as_str().into(), |object| Value::from(Serde(object)));
    context! {
        id => call.id.as_str(),
        type => call.kind.as_str(),
        function => context! { name => call.function.name.as_str(), arguments => arguments },
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "template_texts_tests.rs"]
mod texts_tests;
