//! Vocabularies: tokenizer.json and its companions, to the keys under `tokenizer.`.
//!
//! Both kinds are byte pair encodings: over bytes with a pre-tokenizer ([`bpe`]: Llama 3,
//! SmolLM2), or SentencePiece's over characters ([`spm`]: Llama 2, Mistral).

mod bpe;
mod spm;

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

use super::open::read_json;
use super::{Config, Error};
use crate::gguf::Value;

/// The largest known vocabularies have 262 144 tokens.
const VOCABULARY_LIMIT: u32 = 1 << 22;

/// GGUF's kinds of tokens (`tokenizer.ggml.token_type`).
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// The files that say how text becomes tokens.
pub(super) struct Files {
    tokenizer: Json,
    /// `tokenizer_config.json`.
    settings: Json,
    special_tokens: Json,
    generation: Json,
    /// `chat_template.jinja`.
    template: Option<String>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let why = "there is no tokenizer.json, which is the only form that is read";
            return Err(Error::Tokenizer(why.to_owned()));
        }
        let optional = |name: &str| {
            let path = dir.join(name);
            if path.exists() { read_json(&path) } else { Ok(Json::Null) }
        };
        let template = dir.join("chat_template.jinja");
        Ok(Self {
            tokenizer: read_json(&path)?,
            settings: optional("tokenizer_config.json")?,
            special_tokens: optional("special_tokens_map.json")?,
            generation: optional("generation_config.json")?,
            template: if template.exists() {
                let text = std::fs::read_to_string(&template);
                Some(text.map_err(|source| Error::Read { path: template, source })?)
            } else {
                None
            },
        })
    }

    /// Returns the chat template: the file of its own before the one in the settings.
    fn chat_template(&self) -> Option<&str> {
        let stored = self.settings.get("chat_template");
        let named_default = |list: &'_ Json| -> Option<usize> {
            list.as_array()?
                .iter()
                .position(|entry| entry.get("name").and_then(Json::as_str) == Some("default"))
        };
        let inner = match stored {
            Some(Json::String(text)) => Some(text.as_str()),
            Some(list) => named_default(list).and_then(|n| list.get(n)?.get("template")?.as_str()),
            None => None,
        };
        self.template.as_deref().or(inner)
    }

    /// Returns the number of a special token (`bos`, `eos`, `unk`, `pad`).
    fn special(&self, which: &str, config: Config<'_>, tokenizer: &Tokenizer) -> Option<u32> {
        let text = [&self.settings, &self.special_tokens].into_iter().find_map(|file| {
            let entry = file.get(format!("{which}_token"))?;
            entry.as_str().or_else(|| entry.get("content")?.as_str())
        });
        let by_text = text.and_then(|text| tokenizer.id(text));
        let by_number = || {
            [config.0, &self.generation].into_iter().find_map(|file| {
                let entry = file.get(format!("{which}_token_id"))?;
                let number = entry.as_u64().or_else(|| entry.get(0)?.as_u64())?;
                u32::try_from(number).ok()
            })
        };
        by_text.or_else(by_number)
    }
}

/// tokenizer.json, as far as it is read.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default, rename = "pre_tokenizer")]
    word_splitter: Json,
    #[serde(default)]
    post_processor: Json,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// A merge: two texts, in old files joined by a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl Merge {
    fn parts(&self) -> Result<(&str, &str), Error> {
        match self {
            Self::Pair(left, right) => Some((left.as_str(), right.as_str())),
            Self::Joined(text) => text.split_once(' '),
        }
        .filter(|(left, right)| {
            !left.is_empty() && !right.is_empty() && !right.contains(' ') && !left.contains(' ')
        })
        .ok_or_else(|| Error::Tokenizer("a merge is not two texts without spaces".to_owned()))
    }
}

impl Tokenizer {
    fn id(&self, text: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|token| token.content == text).map(|token| token.id);
        added.or_else(|| self.model.vocab.get(text).copied())
    }

    /// Tells whether the post-processor puts tokens before and after a text; none if it
    /// has no say.
    fn adds(&self) -> Option<(bool, bool)> {
        let processors = match self.post_processor.get("processors").and_then(Json::as_array) {
            Some(list) => list.iter().collect(),
            None => vec![&self.post_processor],
        };
        let is_template = |p: &&Json| p.get("type").and_then(Json::as_str) == Some("TemplateProcessing");
        let single = processors.into_iter().find(is_template)?.get("single")?.as_array()?;
        let is_special =
            |piece: Option<&Json>| piece.is_some_and(|piece| piece.get("SpecialToken").is_some());
        Some((is_special(single.first()), single.len() > 1 && is_special(single.last())))
    }
}

/// Texts and kinds of tokens by number, `vocab_size` of them; gaps are named and unused.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
}

impl Vocabulary {
    /// Gathers the vocabulary; `kind_of` tells the kind of a token that was not added.
    fn of(tokenizer: &Tokenizer, size: u32, kind_of: impl Fn(&str) -> i32) -> Result<Self, Error> {
        if size > VOCABULARY_LIMIT {
            return Err(Error::Tokenizer(format!("vocab_size is {size}")));
        }
        let mut slots: Vec<Option<(String, i32)>> = vec![None; size as usize];
        let mut put = |id: u32, text: &str, kind: i32, may_replace: bool| {
            let slot = slots.get_mut(id as usize).ok_or_else(|| {
                Error::Tokenizer(format!("token {id} ({text:?}) is beyond vocab_size, which is {size}"))
            })?;
            match slot {
                Some((other, _)) if other != text || !may_replace => {
                    Err(Error::Tokenizer(format!("token {id} is both {other:?} and {text:?}")))
                }
                _ => {
                    *slot = Some((text.to_owned(), kind));
                    Ok(())
                }
            }
        };
        for (text, id) in &tokenizer.model.vocab {
            put(*id, text, kind_of(text), false)?;
        }
        for token in &tokenizer.added_tokens {
            let is_unknown = tokenizer.model.unk_token.as_deref() == Some(&token.content);
            let kind = match kind_of(&token.content) {
                kind::UNKNOWN if is_unknown => kind::UNKNOWN,
                _ if token.special || looks_special(&token.content) => kind::CONTROL,
                _ => kind::USER_DEFINED,
            };
            put(token.id, &token.content, kind, true)?;
        }
        let named = slots.into_iter().enumerate().map(|(id, slot)| match slot {
            // llama.cpp takes the texts of tokens that users defined with plain spaces
            Some((text, kind::USER_DEFINED)) => (text.replace('\u{2581}', " "), kind::USER_DEFINED),
            Some(token) => token,
            None => (format!("[PAD{id}]"), kind::UNUSED),
        });
        let (tokens, kinds) = named.unzip();
        Ok(Self { tokens, kinds })
    }
}

/// Some files do not mark control tokens as special (`does_token_look_special` of llama.cpp).
fn looks_special(text: &str) -> bool {
    let is_between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || is_between("<|", "|>")
        || is_between("<｜", "｜>")
        || is_between("<unused", ">")
}

/// Returns every key under `tokenizer.`.
pub(super) fn metadata(files: &Files, config: Config<'_>) -> Result<Vec<(String, Value)>, Error> {
    let tokenizer = Tokenizer::deserialize(&files.tokenizer)
        .map_err(|error| Error::Tokenizer(format!("tokenizer.json is not understood ({error})")))?;
    let size = config.size("vocab_size")?;
    // files of old have no type, and no other model has merges
    let is_bpe = match tokenizer.model.r#type.as_deref() {
        Some(name) => name == "BPE",
        None => !tokenizer.model.merges.is_empty(),
    };
    let mut keys = match (is_bpe, tokenizer.model.byte_fallback) {
        (true, false) => bpe::metadata(&tokenizer, size)?,
        (true, true) => spm::metadata(&tokenizer, size)?,
        (false, _) => {
            let name = tokenizer.model.r#type.as_deref().unwrap_or("of no type");
            return Err(Error::Tokenizer(format!("its model is {name}; only BPE is supported")));
        }
    };
    for (which, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some(id) = files.special(which, config, &tokenizer).filter(|id| *id < size) {
            keys.push((format!("{key}_token_id"), id.into()));
        }
    }
    let setting = |key: &str| files.settings.get(key).and_then(Json::as_bool);
    let (bos, eos) = tokenizer.adds().unwrap_or_else(|| {
        let is_added = |key: &str| setting(key).unwrap_or(false);
        (is_added("add_bos_token"), is_added("add_eos_token"))
    });
    keys.push(("add_bos_token".to_owned(), bos.into()));
    keys.push(("add_eos_token".to_owned(), eos.into()));
    let mut keys: Vec<(String, Value)> =
        keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    if let Some(template) = files.chat_template() {
        keys.push(("tokenizer.chat_template".to_owned(), template.into()));
    }
    Ok(keys)
}

/// Returns the steps of a normalizer or pre-tokenizer, nested sequences laid flat.
fn steps<'a>(step: &'a Json, list: &str) -> Vec<&'a Json> {
    match step.get(list).and_then(Json::as_array) {
        Some(inner) => inner.iter().flat_map(|step| steps(step, list)).collect(),
        None if step.is_null() => Vec::new(),
        None => vec![step],
    }
}
