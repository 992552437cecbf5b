//! The template that makes a prompt of a conversation.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Error, TokenizerFiles};

/// The form of prompts that a family was trained on and never shipped as a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptStyle {
    /// Stanford Alpaca's: an instruction, and the response to it.
    Alpaca,
    /// Vicuna's from version 1.1: a chat between user and assistant.
    Vicuna,
}

impl PromptStyle {
    /// Every style.
    pub const ALL: [Self; 2] = [Self::Alpaca, Self::Vicuna];

    /// Returns its name: `alpaca`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alpaca => "alpaca",
            Self::Vicuna => "vicuna",
        }
    }

    /// Returns its chat template, in Jinja as `transformers` reads it.
    pub const fn template(self) -> &'static str {
        match self {
            Self::Alpaca => include_str!("../../../templates/chat-alpaca.jinja"),
            Self::Vicuna => include_str!("../../../templates/chat-vicuna.jinja"),
        }
    }
}

impl FromStr for PromptStyle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|style| style.name() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let known = Self::ALL.map(Self::name).join(", ");
            Error::Tokenizer(format!("there is no prompt style {shown:?}; there are {known}"))
        })
    }
}

/// Returns the chat template: a file of its own before the one in the settings, and that of
/// the prompt style where there is neither.
pub(super) fn find(files: &TokenizerFiles) -> Result<Option<String>, Error> {
    if let Some(text) = files.text("chat_template.jinja")? {
        return Ok(Some(text.to_owned()));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let file = files.json(name)?;
        if let Some(text) = file.get("chat_template").and_then(of_entry) {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(files.prompt_style().map(|style| style.template().to_owned()))
}

/// Returns the text of an entry: a template, or a list of named ones with a default.
fn of_entry(entry: &Json) -> Option<&str> {
    let named = |list: &'_ Vec<Json>| {
        list.iter().position(|one| one.get("name").and_then(Json::as_str) == Some("default"))
    };
    match entry {
        Json::String(text) => Some(text),
        Json::Array(list) => list.get(named(list)?)?.get("template")?.as_str(),
        _ => entry.get("default")?.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;
    use serde_json::json;

    use super::*;

    fn found(list: &[(&str, String)]) -> Option<String> {
        let files = list.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into_bytes()));
        find(&TokenizerFiles::new(files)).unwrap()
    }

    #[test]
    fn the_file_of_its_own_comes_before_the_settings() {
        let jinja = ("chat_template.jinja", "J".to_owned());
        let own = ("chat_template.json", json!({"chat_template": "O"}).to_string());
        let settings = ("tokenizer_config.json", json!({"chat_template": "S"}).to_string());
        assert_eq!(found(&[jinja, own.clone(), settings.clone()]).as_deref(), Some("J"));
        assert_eq!(found(&[own, settings.clone()]).as_deref(), Some("O"));
        assert_eq!(found(&[settings]).as_deref(), Some("S"));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_prompt_style_is_for_those_that_ship_no_template() {
        let settings = ("tokenizer_config.json".to_owned(), br#"{"chat_template": "S"}"#.to_vec());
        let styled = |files: TokenizerFiles| find(&files.with_prompt_style(PromptStyle::Vicuna)).unwrap();
        assert_eq!(styled(TokenizerFiles::new([settings])).as_deref(), Some("S"));
        assert_eq!(styled(TokenizerFiles::default()).as_deref(), Some(PromptStyle::Vicuna.template()));
        for style in PromptStyle::ALL {
            assert_eq!(style.name().parse::<PromptStyle>().unwrap(), style);
        }
        assert!("llama".parse::<PromptStyle>().unwrap_err().to_string().contains("alpaca, vicuna"));
    }

    /// Renders as the engine does, but for what these templates make no use of.
    fn rendered(style: PromptStyle, messages: &[(&str, &str)]) -> String {
        let mut environment = minijinja::Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.unwrap());
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let said = messages.iter().map(|(role, content)| context! { role => *role, content => *content });
        let said: minijinja::Value = said.collect();
        let context = context! { messages => said, bos_token => "<s>", eos_token => "</s>" };
        environment.render_str(style.template(), context).unwrap()
    }

    #[test]
    fn an_alpaca_prompt_is_that_of_its_training() {
        // PROMPT_DICT["prompt_no_input"] of train.py in tatsu-lab/stanford_alpaca
        let published = "<s>Below is an instruction that describes a task. Write a response that appropriately \
                         completes the request.\n\n### Instruction:\nAdd 1 & 2.\n\n### Response:";
        assert_eq!(rendered(PromptStyle::Alpaca, &[("user", "Add 1 & 2.")]), published);
        let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")];
        insta::assert_snapshot!(rendered(PromptStyle::Alpaca, &turns));
    }

    #[test]
    fn a_vicuna_prompt_is_that_of_its_training() {
        // the example of docs/vicuna_weights_version.md in lm-sys/FastChat
        let published = "<s>A chat between a curious user and an artificial intelligence assistant. The assistant \
                         gives helpful, detailed, and polite answers to the user's questions. USER: Hello! \
                         ASSISTANT: Hello!</s>USER: How are you? ASSISTANT: I am good.</s>";
        let turns = [
            ("user", "Hello!"),
            ("assistant", "Hello!"),
            ("user", "How are you?"),
            ("assistant", "I am good."),
        ];
        assert_eq!(rendered(PromptStyle::Vicuna, &turns), published);
        let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")];
        insta::assert_snapshot!(rendered(PromptStyle::Vicuna, &turns));
    }

    #[test]
    fn of_several_templates_the_default_is_taken() {
        let with =
            |entry: Json| found(&[("tokenizer_config.json", json!({"chat_template": entry}).to_string())]);
        let list = json!([{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]);
        assert_eq!(with(list).as_deref(), Some("D"));
        assert_eq!(with(json!({"default": "D", "tools": "T"})).as_deref(), Some("D"));
        assert_eq!(with(json!([{"name": "tools", "template": "T"}])), None);
        assert_eq!(with(json!(null)), None);
    }
}
