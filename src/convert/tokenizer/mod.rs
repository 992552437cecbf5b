//! Vocabularies: what the hub's files say of a tokenizer, to the keys under `tokenizer.`.
//!
//! Three kinds: pairs of bytes within words ([`bpe`]: GPT-2, BLOOM, Llama 3, Qwen),
//! SentencePiece's pairs of characters ([`spm`]: Llama 2, Mistral, Gemma, Phi-3) and its
//! unigram model ([`unigram`]: T5). llama.cpp must make the same tokens of a text as the
//! hub's library does; a tokenizer with a step that it does not have is refused, in words,
//! from these files alone, before a weight is fetched.
//!
//! Three liberties are taken, the first two as llama.cpp's own converter takes them: texts
//! are not brought to NFC where a model wants that, since almost all are in it; of words that
//! mix cases or hold combining marks outside ASCII, `gpt-4o` and `tekken` cut some elsewhere;
//! and a space that is put before the first word of a text only (`first` of Metaspace) is put
//! behind markers as well, but for chat models, which get none at all.

mod added;
mod bpe;
mod encode;
mod files;
mod fingerprint;
mod json;
mod pattern;
mod piece;
mod pre;
mod special;
mod spm;
mod template;
mod unigram;
mod vocabulary;

use serde_json::Value as Json;

pub use files::{TOKENIZER_FILES, TokenizerFiles};
use json::{Kind, Tokenizer};
use piece::{Model, ModelKind};
use special::Around;
pub use template::PromptStyle;

use super::{Config, Error};
use crate::gguf::{TAKE_BLANKS, Value};

/// GGUF's kinds of tokens (`tokenizer.ggml.token_type`).
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Returns every key of the GGUF that the tokenizer decides: those under `tokenizer.`,
/// `general.name`, by which llama.cpp tells Phi-3's tokens, which take blanks along, and our own
/// [`TAKE_BLANKS`] for others that do. `config` is config.json as [`plain`](super::plain) gives it.
///
/// # Errors
/// [`Error::Tokenizer`] for what llama.cpp could not follow exactly, or what is not understood.
pub fn tokenizer_keys(config: &Json, files: &TokenizerFiles) -> Result<Vec<(String, Value)>, Error> {
    let config = Config(config);
    let size = config.size("vocab_size")?;
    let template = template::find(files)?;
    let tokenizer = Tokenizer::of(files)?;
    let model = own_file(files)?;
    let model = model.as_ref();
    let mut strips = false;
    let mut take_blanks = Vec::new();
    let (mut keys, around) = match (&tokenizer, model) {
        (Some(tokenizer), _) => match tokenizer.kind()? {
            Kind::Bytes => {
                let found = bpe::keys(tokenizer, files, size)?;
                take_blanks = found.strips;
                let is_first = files.bytes("tokenizer.json").is_none();
                (found.keys, if is_first { FIRST_FILES } else { BYTES })
            }
            Kind::Characters => {
                let found = spm::of_json(tokenizer, model, files, size, template.is_some())?;
                strips = found.strips;
                (found.keys, CHARACTERS)
            }
            Kind::Unigram => (unigram::of_json(tokenizer, files, size)?, UNIGRAM),
        },
        (None, Some(model)) => match model.kind {
            ModelKind::Bpe => {
                let found = spm::of_model(model, files, size)?;
                strips = found.strips;
                (found.keys, CHARACTERS)
            }
            ModelKind::Unigram => (unigram::of_model(model, files, size)?, UNIGRAM),
        },
        (None, None) => {
            let why =
                "there is no tokenizer.json, tokenizer.model or spiece.model, nor vocab.json with merges.txt";
            return Err(Error::Tokenizer(why.to_owned()));
        }
    };
    let tokens = tokens_of(&keys);
    let model = if tokenizer.is_some() { None } else { model };
    keys.extend(special::keys(tokens, files, config, tokenizer.as_ref(), model, around)?);
    let mut named: Vec<(String, Value)> = Vec::new();
    named.extend(name(config, strips).map(|name| ("general.name".to_owned(), name.into())));
    named.extend(keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)));
    if !take_blanks.is_empty() {
        named.push((TAKE_BLANKS.to_owned(), Json::from(take_blanks).to_string().into()));
    }
    named.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), text.into())));
    Ok(named)
}

/// What the classes of `transformers` put around texts when no file says anything.
const BYTES: Around = Around { start: false, end: false, token: None };
const FIRST_FILES: Around = Around { token: Some(json::FIRST_END), ..BYTES };
const CHARACTERS: Around = Around { start: true, ..BYTES };
const UNIGRAM: Around = Around { end: true, ..BYTES };

/// Reads SentencePiece's own file, if there is one.
///
/// Beside a tokenizer.json it is a help only, and may be of another kind: Llama 3 has a
/// list of base 64 under the same name.
fn own_file(files: &TokenizerFiles) -> Result<Option<Model>, Error> {
    let found =
        ["tokenizer.model", "spiece.model"].into_iter().find_map(|name| Some((name, files.bytes(name)?)));
    match found.map(|(name, bytes)| Model::parse(name, bytes)) {
        Some(Err(_)) if files.bytes("tokenizer.json").is_some() => Ok(None),
        other => other.transpose(),
    }
}

fn tokens_of(keys: &[(String, Value)]) -> &[String] {
    let tokens = keys.iter().find(|(key, _)| key == "tokens").and_then(|(_, value)| value.as_array());
    match tokens {
        Some(crate::gguf::Array::Text(tokens)) => tokens,
        _ => &[],
    }
}

/// Returns the model's name, kept so that it says Phi-3 if and only if llama.cpp shall
/// let markers take the blanks on their right along.
fn name(config: Config<'_>, strips: bool) -> Option<String> {
    let name = config.text("_name_or_path").and_then(|path| path.rsplit('/').next());
    let name = name.filter(|name| !name.is_empty());
    let says = name.is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        name.contains("phi-3") || name.contains("phi3")
    });
    match (strips, says) {
        (true, true) | (false, false) => name.map(str::to_owned),
        (true, false) => Some(name.map_or("Phi-3".to_owned(), |name| format!("{name} (Phi-3)"))),
        (false, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(files: &[(&str, &str)]) -> String {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        tokenizer_keys(&json!({"vocab_size": 4}), &TokenizerFiles::new(files)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_or_not_understood_is_named() {
        assert!(error(&[]).contains("tokenizer.json, tokenizer.model or spiece.model"));
        assert!(error(&[("tokenizer.json", "{}")]).contains("tokenizer.json is not understood"));
        assert!(error(&[("tokenizer.json", "[")]).contains("tokenizer.json"));
        assert!(error(&[("tokenizer.model", "IQ== 0")]).contains("not a model of SentencePiece"));
        let word_piece = r#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
        assert!(error(&[("tokenizer.json", word_piece)]).contains("WordPiece"));
    }

    #[test]
    fn tokens_that_take_blanks_on_their_right_are_named_in_a_key() {
        let keys = |token: Json| {
            let file = json!({
                "added_tokens": [{"id": 1, "content": "<|end|>", "special": true}, token],
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
                "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
            });
            let files = TokenizerFiles::new([("tokenizer.json".to_owned(), file.to_string().into_bytes())]);
            let keys = tokenizer_keys(&json!({"vocab_size": 4}), &files)?;
            Ok::<_, Error>(keys.into_iter().find(|(key, _)| key == TAKE_BLANKS).map(|(_, value)| value))
        };
        let user = |what: &str| keys(json!({"id": 2, "content": "<|user|>", "special": true, what: true}));
        assert_eq!(user("rstrip").unwrap(), Some(Value::from(r#"["<|user|>"]"#)));
        assert_eq!(user("normalized").unwrap(), None);
        for what in ["lstrip", "single_word"] {
            assert!(user(what).unwrap_err().to_string().contains(r#"token 2 ("<|user|>")"#));
        }
    }

    #[test]
    fn the_name_says_phi_3_only_where_markers_strip() {
        let named = |path: &str, strips: bool| name(Config(&json!({"_name_or_path": path})), strips);
        assert_eq!(named("org/Phi-3-mini", true).as_deref(), Some("Phi-3-mini"));
        assert_eq!(named("org/tuned", true).as_deref(), Some("tuned (Phi-3)"));
        assert_eq!(named("", true).as_deref(), Some("Phi-3"));
        assert_eq!(named("org/llama-like-phi3", false), None);
        assert_eq!(named("org/Llama", false).as_deref(), Some("Llama"));
        assert_eq!(named("", false), None);
    }
}
