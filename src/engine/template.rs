use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::openai::{Message, Tool, ToolCall};

/// What a template may do: an instruction costs 1, so do 64 bytes of text. Enough for
/// thousands of messages, and some 60 MB at most; a hostile template ends within a second.
const FUEL: u64 = 1_000_000;

/// Marks where a message ends that is to be continued. No text has it by accident.
const MARK: &str = "\u{2}bramble\u{3}";

/// The chat template that came with a model's weights, in Jinja as `transformers` reads it.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
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
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(Error::Parse)?);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned("chat", source.to_owned()).map_err(Error::Parse)?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Makes `messages` into a prompt that ends where the model is to speak: at the
    /// beginning of its turn, or at the end of the last message if that is its own and calls
    /// nothing. The model is told of `tools`.
    pub(super) fn render(&self, messages: &[Message], tools: &[Tool]) -> Result<String, Error> {
        match messages.split_last() {
            Some((last, before)) if last.role == "assistant" && last.tool_calls.is_empty() => {
                let marked = Message { content: format!("{}{MARK}", last.content), ..last.clone() };
                let mut messages = before.to_vec();
                messages.push(marked);
                let mut prompt = self.run(&messages, tools, false)?;
                let end = prompt.rfind(MARK).ok_or(Error::Continue)?;
                prompt.truncate(end);
                Ok(prompt)
            }
            _ => self.run(messages, tools, true),
        }
    }

    fn run(
        &self,
        messages: &[Message],
        tools: &[Tool],
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
            })
            .map_err(Error::Render)
    }
}

/// Shows a message as templates expect it: with only the fields that it has, and arguments as
/// objects.
fn said(message: &Message) -> Value {
    let mut fields =
        vec![("role", Value::from(message.role.as_str())), ("content", message.content.as_str().into())];
    if !message.tool_calls.is_empty() {
        fields.push(("tool_calls", message.tool_calls.iter().map(called).collect()));
    }
    let others = [("tool_call_id", &message.tool_call_id), ("name", &message.name)];
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

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Shows today's date, which some templates put into their system message.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let wrong = |reason: String| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
    let seconds = i64::try_from(crate::clock::unix_seconds()).unwrap_or(0);
    let now = jiff::Timestamp::from_second(seconds).map_err(|error| wrong(error.to_string()))?;
    jiff::fmt::strtime::format(format, now).map_err(|error| wrong(error.to_string()))
}

/// Writes JSON as Python does: with spaces after `,` and `:`, or indented, and without
/// escapes for HTML.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands arguments over")]
fn tojson(value: &Value, options: minijinja::value::Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let wrong = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "cannot be JSON").with_source(error)
    };
    let mut out = Vec::new();
    if let Some(width) = indent {
        let indent = " ".repeat(width.min(16));
        let format = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        let mut writer = serde_json::Serializer::with_formatter(&mut out, format);
        serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
    } else {
        let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
        serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Python's `json.dumps` without arguments.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn say(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn the_prompt_ends_where_the_model_speaks() {
        let template = Template::new(CHATML, "<s>", "</s>").unwrap();
        assert_eq!(
            template.render(&[say("user", "hi")], &[]).unwrap(),
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        );
    }

    #[test]
    fn the_models_own_last_message_is_continued_to_the_letter() {
        let template = Template::new(CHATML, "", "").unwrap();
        let prompt =
            template.render(&[say("system", "x"), say("user", "hi"), say("assistant", "Well, ")], &[]);
        assert!(prompt.unwrap().ends_with("<|im_start|>assistant\nWell, "));
        let deaf = Template::new("{{ messages[0].content }}", "", "").unwrap();
        assert!(matches!(deaf.render(&[say("user", "a"), say("assistant", "b")], &[]), Err(Error::Continue)));
    }

    #[test]
    fn templates_written_for_python_work() {
        let source = "{%- set ns = namespace(found=false) %}\n{%- for m in messages %}\n    \
            {%- if m.role.startswith('us') and not ns.found %}{% set ns.found = true %}\n\
            {{- bos_token ~ m.content.strip().split(' ')[0] | upper }}\n    {%- endif %}\n{%- endfor %}\
            {{ {'a': [1, '<é>'], 'b': none} | tojson }}{{ strftime_now('%Y') | length }}\
            {{ 'no tools' if tools is none }}{{ 'x' if messages[0].get('nothing') is none }}";
        let template = Template::new(source, "<s>", "</s>").unwrap();
        let prompt = template.render(&[say("user", " good day ")], &[]).unwrap();
        assert_eq!(prompt, "<s>GOOD{\"a\": [1, \"<é>\"], \"b\": null}4no toolsx");
    }

    #[test]
    fn a_template_that_refuses_says_why() {
        let template = Template::new("{{ raise_exception('roles must alternate') }}", "", "").unwrap();
        let Err(Error::Render(cause)) = template.render(&[say("user", "hi")], &[]) else {
            panic!("rendered")
        };
        assert!(cause.to_string().contains("roles must alternate"));
    }

    #[test]
    fn a_template_without_end_runs_out_of_fuel() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}\
            {% endfor %}{% endfor %}";
        let template = Template::new(source, "", "").unwrap();
        assert!(matches!(template.render(&[say("user", "hi")], &[]), Err(Error::Render(_))));
        let swelling = "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}\
            {% endfor %}{{ ns.s }}";
        let template = Template::new(swelling, "", "").unwrap();
        assert!(matches!(template.render(&[say("user", "hi")], &[]), Err(Error::Render(_))));
    }
}
