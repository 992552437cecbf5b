//! Tokens that were added to a model's own: markers of turns, runs of spaces, padding.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{Error, TokenizerFiles, kind};

/// How many tokens settings may name as special: as many as the largest known vocabularies have.
const SPECIAL_LIMIT: usize = 1 << 18;

/// A token that is looked for in a text before anything else.
#[expect(clippy::struct_excessive_bools, reason = "as the files have them")]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Added {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    /// Takes the blanks on its left with it.
    #[serde(default)]
    pub(super) lstrip: bool,
    /// Takes the blanks on its right with it.
    #[serde(default)]
    pub(super) rstrip: bool,
    /// Is found only where no letters touch it.
    #[serde(default)]
    pub(super) single_word: bool,
    /// Is looked for after the text was normalized.
    #[serde(default)]
    pub(super) normalized: bool,
}

impl Added {
    fn plain(id: u32, content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self { id, content, special, lstrip: false, rstrip: false, single_word: false, normalized: false }
    }

    /// Returns a marker that a class of tokenizers knows by itself.
    pub(super) fn marker(id: u32, content: &str) -> Self {
        Self::plain(id, content, true)
    }

    /// Returns GGUF's kind of it.
    pub(super) fn kind(&self) -> i32 {
        if self.special || looks_special(&self.content) { kind::CONTROL } else { kind::USER_DEFINED }
    }
}

/// Gathers the tokens that were added: those of tokenizer.json, then what
/// `tokenizer_config.json` says of them and besides; for tokenizers without tokenizer.json,
/// `added_tokens.json`. `known` has every token of the model itself.
pub(super) fn gather(
    files: &TokenizerFiles,
    listed: &[Added],
    known: &HashSet<&str>,
) -> Result<Vec<Added>, Error> {
    let settings = files.json("tokenizer_config.json")?;
    let map = files.json("special_tokens_map.json")?;
    let mut all: BTreeMap<u32, Added> = BTreeMap::new();
    for token in listed {
        put(&mut all, token.clone())?;
    }
    for (id, entry) in settings.get("added_tokens_decoder").and_then(Json::as_object).into_iter().flatten() {
        let not_understood =
            || Error::Tokenizer(format!("tokenizer_config.json has no sense at token {id:?}"));
        let mut token = Added::deserialize(entry).map_err(|_| not_understood())?;
        token.id = id.parse().map_err(|_| not_understood())?;
        put(&mut all, token)?;
    }
    let special = special_texts(&settings, &map);
    if special.len() > SPECIAL_LIMIT {
        return Err(Error::Tokenizer(format!("its settings name {} tokens as special", special.len())));
    }
    if files.bytes("tokenizer.json").is_none() {
        let is_special: HashSet<&str> = special.iter().copied().collect();
        for (text, id) in files.json("added_tokens.json")?.as_object().into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id =
                id.ok_or_else(|| Error::Tokenizer(format!("added_tokens.json has no number for {text:?}")))?;
            if !all.contains_key(&id) {
                put(&mut all, Added::plain(id, text, is_special.contains(text.as_str())))?;
            }
        }
    }
    // what is named as special and is no token yet becomes the next one, as `transformers` does it
    let mut texts: HashSet<String> = all.values().map(|token| token.content.clone()).collect();
    let mut count =
        known.len() + all.values().filter(|token| !known.contains(token.content.as_str())).count();
    for text in special {
        if !known.contains(text) && !texts.contains(text) {
            let next = u32::try_from(count).unwrap_or(u32::MAX);
            if !all.contains_key(&next) {
                put(&mut all, Added::plain(next, text, true))?;
                texts.insert(text.to_owned());
                count += 1;
            }
        }
    }
    Ok(all.into_values().collect())
}

fn put(all: &mut BTreeMap<u32, Added>, token: Added) -> Result<(), Error> {
    match all.get(&token.id) {
        Some(other) if other.content != token.content => Err(Error::Tokenizer(format!(
            "token {} is both {:?} and {:?}: the files of its tokenizer do not go together",
            token.id, other.content, token.content
        ))),
        _ => {
            all.insert(token.id, token);
            Ok(())
        }
    }
}

/// Returns the texts that settings name as special, in the order in which they are added.
fn special_texts<'a>(settings: &'a Json, map: &'a Json) -> Vec<&'a str> {
    let mut texts = Vec::new();
    for which in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"] {
        let named = |file: &'a Json| {
            let entry = file.get(format!("{which}_token"))?;
            entry.as_str().or_else(|| entry.get("content")?.as_str())
        };
        texts.extend(named(settings).or_else(|| named(map)));
    }
    for file in [settings, map] {
        for entry in file.get("additional_special_tokens").and_then(Json::as_array).into_iter().flatten() {
            texts.extend(entry.as_str().or_else(|| entry.get("content").and_then(Json::as_str)));
        }
    }
    texts.retain(|text| !text.is_empty());
    texts
}

/// Some files do not mark control tokens as special (`does_token_look_special` of llama.cpp).
fn looks_special(text: &str) -> bool {
    let is_between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || is_between("<|", "|>")
        || is_between("<｜", "｜>")
        || is_between("<unused", ">")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(list: &[(&str, Json)]) -> TokenizerFiles {
        TokenizerFiles::new(
            list.iter().map(|(name, json)| ((*name).to_owned(), json.to_string().into_bytes())),
        )
    }

    fn shown(tokens: &[Added]) -> Vec<(u32, &str, i32)> {
        tokens.iter().map(|token| (token.id, token.content.as_str(), token.kind())).collect()
    }

    #[test]
    fn tokens_come_from_every_file_that_names_them() {
        let json = Added::plain(3, "<|im_end|>", false);
        let files = files(&[
            ("tokenizer.json", json!({})),
            (
                "tokenizer_config.json",
                json!({"added_tokens_decoder": {
                "3": {"content": "<|im_end|>", "special": true, "rstrip": true},
                "4": {"content": "<tool>", "special": false}}}),
            ),
            ("added_tokens.json", json!({"ignored": 5})),
        ]);
        let all = gather(&files, &[json], &HashSet::from(["a", "b", "c"])).unwrap();
        assert_eq!(shown(&all), [(3, "<|im_end|>", kind::CONTROL), (4, "<tool>", kind::USER_DEFINED)]);
        assert!(all[0].rstrip);
    }

    #[test]
    fn a_padding_token_of_alpaca_is_the_next_after_the_model() {
        let known = HashSet::from(["<unk>", "<s>", "</s>"]);
        let expected = [(3, "[PAD]", kind::CONTROL)];
        // as it was saved, and as it is made where only its name is left
        let saved = files(&[
            ("added_tokens.json", json!({"[PAD]": 3})),
            ("special_tokens_map.json", json!({"pad_token": "[PAD]", "bos_token": "<s>"})),
        ]);
        assert_eq!(shown(&gather(&saved, &[], &known).unwrap()), expected);
        let named =
            files(&[("tokenizer_config.json", json!({"pad_token": {"content": "[PAD]"}, "eos_token": ""}))]);
        assert_eq!(shown(&gather(&named, &[], &known).unwrap()), expected);
    }

    #[test]
    fn special_tokens_are_numbered_in_their_order_and_not_without_end() {
        let named = |texts: Vec<String>| {
            let settings = json!({"additional_special_tokens": texts});
            gather(&files(&[("tokenizer_config.json", settings)]), &[], &HashSet::from(["a", "b"]))
        };
        let all = named((0..10_000).map(|n| format!("<{n}>")).chain(["b".to_owned()]).collect()).unwrap();
        assert_eq!((all.len(), shown(&all[9_999..])), (10_000, vec![(10_001, "<9999>", kind::CONTROL)]));
        let error = named(vec!["c".to_owned(); SPECIAL_LIMIT + 1]).unwrap_err().to_string();
        assert!(error.contains("262145 tokens as special"), "{error}");
    }

    #[test]
    fn files_that_contradict_each_other_are_refused() {
        let files =
            files(&[("tokenizer_config.json", json!({"added_tokens_decoder": {"3": {"content": "x"}}}))]);
        let error = gather(&files, &[Added::plain(3, "y", true)], &HashSet::new()).unwrap_err().to_string();
        assert!(error.contains("token 3 is both"), "{error}");
    }
}
