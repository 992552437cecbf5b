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
    let prompt = template.render(&[say("system", "x"), say("user", "hi"), say("assistant", "Well, ")], &[]);
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
    let Err(Error::Render(cause)) = template.render(&[say("user", "hi")], &[]) else { panic!("rendered") };
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

/// Real templates, and what `transformers` makes of them.
mod real {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;
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
                    template.render(&request.messages, &request.tools).map_err(|error| chain(&error))
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
}
