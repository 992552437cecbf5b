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
        template.render(&[say("user", "hi")], &[], &Map::new()).unwrap(),
        "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    );
}

#[test]
fn the_models_own_last_message_is_continued_to_the_letter() {
    let template = Template::new(CHATML, "", "").unwrap();
    let prompt = template.render(
        &[say("system", "x"), say("user", "hi"), say("assistant", "Well, ")],
        &[],
        &Map::new(),
    );
    assert!(prompt.unwrap().ends_with("<|im_start|>assistant\nWell, "));
    let deaf = Template::new("{{ messages[0].content }}", "", "").unwrap();
    assert!(matches!(
        deaf.render(&[say("user", "a"), say("assistant", "b")], &[], &Map::new()),
        Err(Error::Continue)
    ));
}

#[test]
fn templates_written_for_python_work() {
    let source = "{%- set ns = namespace(found=false) %}\n{%- for m in messages %}\n    \
        {%- if m.role.startswith('us') and not ns.found %}{% set ns.found = true %}\n\
        {{- bos_token ~ m.content.strip().split(' ')[0] | upper }}\n    {%- endif %}\n{%- endfor %}\
        {{ {'a': [1, '<é>'], 'b': none} | tojson }}{{ strftime_now('%Y') | length }}\
        {{ 'no tools' if tools is none }}{{ 'x' if messages[0].get('nothing') is none }}";
    let template = Template::new(source, "<s>", "</s>").unwrap();
    let prompt = template.render(&[say("user", " good day ")], &[], &Map::new()).unwrap();
    assert_eq!(prompt, "<s>GOOD{\"a\": [1, \"<é>\"], \"b\": null}4no toolsx");
}

#[test]
fn tags_for_training_are_passed_over() {
    let source = "{{ '{%' }}{%- generation -%}\n a{% set b = 1 %}\n {%endgeneration%}\n{{ b is defined }}\
        {% generation_id %}";
    let expected =
        "{{ '{%' }}{%- with -%}\n a{% set b = 1 %}\n {%endwith%}\n{{ b is defined }}{% generation_id %}";
    assert_eq!(without_generation(source), expected);
    let template = Template::new(&source.replace("{% generation_id %}", " %}"), "", "").unwrap();
    assert_eq!(template.render(&[say("user", "hi")], &[], &Map::new()).unwrap(), "{%aFalse %}");
}

#[test]
fn an_assistant_that_only_calls_says_nothing_unless_it_must() {
    let call = ToolCall {
        id: "call_1".to_owned(),
        kind: "function".to_owned(),
        function: FunctionCall { name: "f".to_owned(), arguments: "{}".to_owned() },
    };
    let called = Message { role: "assistant".to_owned(), tool_calls: vec![call], ..Message::default() };
    let messages = [say("user", "hi"), called];
    for (source, expected) in [
        ("{{ messages[1].content is defined }}", "False"),
        ("{{ messages[0].content + '|' + messages[1].content }}", "hi|"),
    ] {
        assert_eq!(
            Template::new(source, "", "").unwrap().render(&messages, &[], &Map::new()).unwrap(),
            expected
        );
    }
}

#[test]
fn what_a_template_trims_is_not_continued() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}";
    let template = Template::new(source, "", "").unwrap();
    let continued =
        |text: &str| template.render(&[say("user", "hi"), say("assistant", text)], &[], &Map::new());
    assert_eq!(continued(" Well,  ").unwrap(), "user: hi\nassistant: Well,");
    let thoughtless =
        Template::new("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}", "", "")
            .unwrap();
    let half = [say("user", "hi"), say("assistant", "so</think>Well")];
    assert!(matches!(thoughtless.render(&half, &[], &Map::new()), Err(Error::Continue)));
}

#[test]
fn a_template_that_writes_calls_otherwise_is_not_understood() {
    let calls = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}CALL{% endfor %}{% endfor %}\
        {{ tools is none }}{# <tool_call> #}";
    for (written, is_understood) in [
        ("<tool_call>{{ c.function | tojson }}</tool_call>", true),
        ("<tool_call>{{ c.function.name }}: {{ c.function.arguments | tojson }}</tool_call>", false),
        ("{{ raise_exception('no calls') }}", false),
        ("", true),
    ] {
        let template = Template::new(&calls.replace("CALL", written), "", "").unwrap();
        assert_eq!(template.syntax().is_some(), is_understood, "{written}");
    }
}

#[test]
fn what_our_own_functions_are_given_is_paid_for() {
    // a list of so many texts costs nothing until somebody looks at it
    for endless in [
        "{{ 1|tojson(separators=['x' * 1000] * 100000000) }}",
        "{{ 1|tojson(separators=[['x' * 1000] * 100000000, ':']) }}",
        "{{ raise_exception(['x' * 1000] * 100000000) }}",
        "{{ strftime_now('%255Y' * 6000000) }}",
    ] {
        let template = Template::new(endless, "", "").unwrap();
        let Err(Error::Render(cause)) = template.render(&[say("user", "hi")], &[], &Map::new()) else {
            panic!("{endless} is rendered")
        };
        assert!(cause.to_string().len() < 8192, "{endless}");
    }
}

#[test]
fn a_template_that_refuses_says_why() {
    let template = Template::new("{{ raise_exception('roles must alternate') }}", "", "").unwrap();
    let Err(Error::Render(cause)) = template.render(&[say("user", "hi")], &[], &Map::new()) else {
        panic!("rendered")
    };
    assert!(cause.to_string().contains("roles must alternate"));
}

#[tokio::test]
async fn what_a_template_nests_is_let_go_of_on_a_stack_that_holds_it() {
    let nested = "{% set ns = namespace(x=[]) %}{% for a in range(9999) %}{% for b in range(99) %}{% set ns.x = [ns.x] %}\
        {% endfor %}{% endfor %}{{ ns.x | length }}";
    let filled = on_deep_stack(move || {
        let template = Template::new(nested, "", "").unwrap();
        template.render(&[say("user", "hi")], &[], &Map::new()).map_err(|error| error.to_string())
    });
    assert!(filled.await.unwrap().is_err());
}

#[test]
fn a_template_without_end_runs_out_of_fuel() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}\
        {% endfor %}{% endfor %}";
    let template = Template::new(source, "", "").unwrap();
    assert!(matches!(template.render(&[say("user", "hi")], &[], &Map::new()), Err(Error::Render(_))));
    let swelling = "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}\
        {% endfor %}{{ ns.s }}";
    let template = Template::new(swelling, "", "").unwrap();
    assert!(matches!(template.render(&[say("user", "hi")], &[], &Map::new()), Err(Error::Render(_))));
    for (grown, times) in [("[ns.x, ns.x]", 60), ("[ns.x]", 500)] {
        let plain: &[&str] =
            if times == 60 { &["ns.x", "ns.x | string", "'{:>4000000000}'.format('x')"] } else { &[] };
        for shown in plain.iter().chain(&["ns.x | tojson(indent=9)", "ns.x | tojson(sort_keys=true)"]) {
            let source = format!(
                "{{% set ns = namespace(x=[]) %}}{{% for a in range({times}) %}}{{% set ns.x = {grown} %}}{{% endfor %}}\
                {{{{ {shown} }}}}"
            );
            let template = Template::new(&source, "", "").unwrap();
            let rendered = template.render(&[say("user", "hi")], &[], &Map::new());
            assert!(matches!(rendered, Err(Error::Render(_))), "{source}");
        }
    }
}

/// Real templates, and what `transformers` makes of them.
mod real {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::engine::tools::{Part, Scanner, Syntax};
    use crate::openai::ChatRequest;

    #[derive(Deserialize)]
    struct Conversation {
        name: String,
        body: serde_json::Value,
    }

    #[derive(Deserialize)]
    struct Real {
        name: String,
        source: String,
        expected: BTreeMap<String, Expected>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Expected {
        Text { text: String },
        Refused { refused: String, raised: bool },
    }

    #[derive(Deserialize)]
    struct Settings {
        bos_token: String,
        eos_token: String,
        now: String,
    }

    fn now() -> DateTime {
        jiff::civil::date(2026, 3, 5).at(9, 7, 4, 0)
    }

    /// Returns the folder that `tests/reference/templates.py` makes, or says that it is not there.
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment where the files are")]
    fn folder() -> Option<PathBuf> {
        let found = std::env::var_os("BRAMBLE_TEST_TEMPLATES").map(PathBuf::from);
        if found.is_none() {
            let is_required = std::env::var("BRAMBLE_REQUIRE_TEMPLATES").is_ok_and(|value| value == "1");
            assert!(!is_required, "BRAMBLE_TEST_TEMPLATES names no templates, and they are required");
            println!("skipped: BRAMBLE_TEST_TEMPLATES names no templates");
        }
        found
    }

    fn read<T: DeserializeOwned>(path: &Path) -> T {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn read_all(folder: &Path) -> (Vec<Real>, BTreeMap<String, ChatRequest>, Settings) {
        let templates: Vec<Real> = read(&folder.join("templates.json"));
        let conversations: Vec<Conversation> = read(&folder.join("conversations.json"));
        let settings: Settings = read(&folder.join("settings.json"));
        assert!(templates.len() > 50 && conversations.len() > 20, "{} templates", templates.len());
        assert_eq!(settings.now.parse::<DateTime>().unwrap(), now());
        let parse = |conversation: Conversation| {
            let request = ChatRequest::parse(conversation.body.to_string().as_bytes()).unwrap();
            (conversation.name, request)
        };
        (templates, conversations.into_iter().map(parse).collect(), settings)
    }

    /// Shows where two texts part, with what stands around that.
    fn difference(found: &str, expected: &str) -> String {
        let same = found.chars().zip(expected.chars()).take_while(|(one, other)| one == other).count();
        let around = |text: &str| text.chars().skip(same.saturating_sub(40)).take(90).collect::<String>();
        format!("{:?}, not {:?}", around(found), around(expected))
    }

    fn chain(error: &dyn std::error::Error) -> String {
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// Where a prompt is not that of `transformers`: which template, with which error there (none: with all of its
    /// prompts that tell of tools), and why.
    const OTHERWISE: [(&str, Option<&str>, &str); 5] = [
        ("CohereForAI-c4ai-command-r-plus-tool_use", Some(NONE_IS_NO_LIST), NO_TOOLS),
        ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", Some(NONE_IS_NO_LIST), NO_TOOLS),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", Some(NONE_IS_NO_LIST), NO_TOOLS),
        (
            "llama-cpp-deepseek-r1",
            Some("TypeError: Object of type generator is not JSON serializable"),
            "what `map` gives is JSON for minijinja, as the template's author wanted it",
        ),
        (
            "meetkai-functionary-medium-v3.1",
            None,
            "adding a text to one that is safe escapes it for HTML in Python, though nothing else is escaped",
        ),
    ];
    const NONE_IS_NO_LIST: &str = "TypeError: 'NoneType' object is not iterable";
    const NO_TOOLS: &str =
        "to minijinja, no tools are as an empty list, and there is a prompt where Python has none";

    #[test]
    fn prompts_are_those_of_transformers() {
        let Some(folder) = folder() else { return };
        let (templates, conversations, settings) = read_all(&folder);
        let (mut count, mut alike, mut wrong) = (0, 0, Vec::new());
        for real in &templates {
            let template = Template::at(&real.source, &settings.bos_token, &settings.eos_token, now);
            for (of, request) in &conversations {
                let expected = &real.expected[of];
                let found = template.as_ref().map_err(|error| chain(error)).and_then(|template| {
                    template
                        .render(&request.messages, &request.tools, &Map::new())
                        .map_err(|error| chain(&error))
                });
                let known = OTHERWISE.iter().find(|(name, error, _)| {
                    let is_it = match (expected, error) {
                        (Expected::Refused { refused, .. }, Some(error)) => refused == error,
                        (Expected::Text { .. }, None) => !request.tools.is_empty(),
                        _ => false,
                    };
                    *name == real.name && is_it
                });
                let difference = differ(&found, expected);
                count += 1;
                alike += usize::from(difference.is_none());
                match (difference, known) {
                    (Some(what), None) => wrong.push(format!("{} / {of}: {what}", real.name)),
                    (None, Some((.., why))) => {
                        wrong.push(format!("{} / {of}: alike, though {why}", real.name));
                    }
                    _ => (),
                }
            }
        }
        println!("{alike} of {count} prompts alike");
        assert!(wrong.is_empty(), "{} are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Says how a prompt is not what it is to be.
    fn differ(found: &Result<String, String>, expected: &Expected) -> Option<String> {
        match (found, expected) {
            (Ok(found), Expected::Text { text }) => (found != text).then(|| difference(found, text)),
            (Err(found), Expected::Text { .. }) => Some(format!("refused: {found}")),
            // what Python says of its own errors is not for us to say
            (Err(found), Expected::Refused { refused, raised }) => {
                (*raised && !found.contains(refused)).then(|| format!("refused: {found}, not {refused}"))
            }
            (Ok(_), Expected::Refused { refused, .. }) => Some(format!("not refused: {refused}")),
        }
    }

    /// Returns what the model says in the last message, as it would write it, without what ends it.
    fn said_last(template: &Template, request: &ChatRequest) -> Result<String, String> {
        let run = |messages: &[Message]| {
            template.fill(messages, &request.tools, &Map::new(), false).map_err(|error| chain(&error))
        };
        let before = &request.messages[..request.messages.len() - 1];
        let [called, text] = [request.messages.last().unwrap().clone(), say("assistant", "SAID")]
            .map(|last| run(&[before, &[last]].concat()));
        let (called, text) = (called?, text?);
        let (start, end) = text.rsplit_once("SAID").unwrap();
        // some write something else before a call than before a text
        let same = start.char_indices().zip(called.chars()).find(|((_, one), other)| one != other);
        let said = &called[same.map_or(start.len(), |((at, _), _)| at)..];
        Ok(said.strip_suffix(end).unwrap_or(said).to_owned())
    }

    /// The templates whose calls are understood, and whether they write them down: what they are told of calls that
    /// were made is how the model is to make them.
    const UNDERSTOOD: [(&str, bool); 18] = [
        ("Bielik-11B-v3.0-Instruct", true),
        ("MiMo-VL", true),
        ("Mistral-Small-3.2-24B-Instruct-2506", true),
        ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", true),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", true),
        ("Qwen-QwQ-32B", true),
        ("Qwen-Qwen2.5-7B-Instruct", true),
        ("Qwen-Qwen3-0.6B", true),
        ("Reka-Edge", true),
        ("ibm-granite-granite-3.3-2B-Instruct", false),
        ("ibm-granite-granite-4.0", true),
        ("ibm-granite-granite-4.1", true),
        ("meta-llama-Llama-3.1-8B-Instruct", true),
        ("meta-llama-Llama-3.2-3B-Instruct", true),
        ("meta-llama-Llama-3.3-70B-Instruct", true),
        ("mistralai-Ministral-3-14B-Reasoning-2512", true),
        ("mistralai-Mistral-Nemo-Instruct-2407", true),
        ("unsloth-mistral-Devstral-Small-2507", true),
    ];

    #[test]
    fn calls_are_read_as_templates_write_them() {
        let Some(folder) = folder() else { return };
        let (templates, conversations, settings) = read_all(&folder);
        let (mut understood, mut wrong) = (Vec::new(), Vec::new());
        for real in &templates {
            let template = Template::at(&real.source, &settings.bos_token, &settings.eos_token, now).unwrap();
            let Some(syntax) = template.syntax() else { continue };
            let mut writes = false;
            for of in ["call at the end", "parallel calls at the end"] {
                let request = &conversations[of];
                // Llama's take one call at a time
                let Ok(said) = said_last(&template, request) else { continue };
                writes |= !said.is_empty();
                let (texts, found) = scan(syntax, &said);
                let calls = request.messages.last().unwrap().tool_calls.iter();
                let expected: Vec<_> = calls.map(named).collect();
                if !said.is_empty() && (!texts.trim().is_empty() || found != expected) {
                    wrong.push(format!("{} / {of}: {said:?} is {texts:?} and {found:?}", real.name));
                }
            }
            understood.push((real.name.as_str(), writes));
        }
        println!("the calls of {} templates of {}", understood.len(), templates.len());
        assert!(wrong.is_empty(), "{} are read otherwise:\n{}", wrong.len(), wrong.join("\n"));
        assert_eq!(understood, UNDERSTOOD);
    }

    fn scan(syntax: Syntax, said: &str) -> (String, Vec<(String, serde_json::Value)>) {
        let mut scanner = Scanner::new(syntax);
        let parts = scanner.push(said).into_iter().chain(scanner.finish());
        let (mut texts, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Thought(thought) => panic!("{thought}"),
                Part::Text(text) => texts.push_str(&text),
                Part::Call(call) => calls.push(named(&call)),
            }
        }
        (texts, calls)
    }

    fn named(call: &ToolCall) -> (String, serde_json::Value) {
        let FunctionCall { name, arguments } = &call.function;
        (name.clone(), serde_json::from_str(arguments).unwrap())
    }
}
