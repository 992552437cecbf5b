//! `tokenizer.json`, and the two files that GPT-2 had before it.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::added::Added;
use super::{Error, TokenizerFiles};

/// tokenizer.json, as far as it is read.
#[derive(Deserialize)]
pub(super) struct Tokenizer {
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    #[serde(default)]
    pub(super) normalizer: Json,
    #[serde(default, rename = "pre_tokenizer")]
    pub(super) word_splitter: Json,
    #[serde(default)]
    pub(super) post_processor: Json,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) unk_id: Option<u32>,
    vocab: Json,
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

/// What a tokenizer.json describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pairs of bytes that are merged, within words.
    Bytes,
    /// Pairs of characters that are merged, as SentencePiece does.
    Characters,
    /// The likeliest of all ways to cut.
    Unigram,
}

impl Tokenizer {
    /// Reads tokenizer.json, or makes it of GPT-2's first files; none where there is neither.
    pub(super) fn of(files: &TokenizerFiles) -> Result<Option<Self>, Error> {
        let not_understood = |error| Error::Tokenizer(format!("tokenizer.json is not understood ({error})"));
        let json = match files.bytes("tokenizer.json") {
            Some(_) => files.json("tokenizer.json")?,
            None => match of_first_files(files)? {
                Some(json) => json,
                None => return Ok(None),
            },
        };
        Self::deserialize(json).map(Some).map_err(not_understood)
    }

    /// Returns what it describes, refusing what llama.cpp has no match for.
    pub(super) fn kind(&self) -> Result<Kind, Error> {
        let model = &self.model;
        let refuse = |what: &str| Err(Error::Tokenizer(format!("llama.cpp has no match for {what}")));
        // files of old have no type, and no other model has merges
        let name = match model.r#type.as_deref() {
            Some(name) => name,
            None if model.vocab.is_array() => "Unigram",
            None if !model.merges.is_empty() => "BPE",
            None => "of no type",
        };
        if model.dropout.is_some_and(|chance| chance > 0.0) {
            return refuse("merges that are left out by chance");
        }
        let is_some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if is_some(&model.continuing_subword_prefix) || is_some(&model.end_of_word_suffix) {
            return refuse("marks at the ends of words");
        }
        match (name, model.byte_fallback) {
            ("BPE", false) => Ok(Kind::Bytes),
            ("BPE", true) => Ok(Kind::Characters),
            ("Unigram", false) => Ok(Kind::Unigram),
            ("Unigram", true) => refuse("a Unigram model that falls back on bytes"),
            _ => {
                let shown: String = name.chars().take(40).collect();
                Err(Error::Tokenizer(format!("its model is {shown}; BPE and Unigram are supported")))
            }
        }
    }
}

impl Model {
    /// Returns the tokens with their numbers, in no order.
    pub(super) fn tokens(&self) -> Result<Vec<(&str, u32)>, Error> {
        let wrong = || Error::Tokenizer("the vocabulary is no list of texts with numbers".to_owned());
        let number = |id: &Json| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        let all = self.vocab.as_object().ok_or_else(wrong)?;
        all.iter().map(|(text, id)| Ok((text.as_str(), number(id)?))).collect()
    }

    /// Returns the tokens of a Unigram model with their scores, in the order of their numbers.
    pub(super) fn scored(&self) -> Result<Vec<(&str, f32)>, Error> {
        let wrong = || Error::Tokenizer("the vocabulary is no list of texts with scores".to_owned());
        #[expect(clippy::cast_possible_truncation, reason = "scores were f32 where they come from")]
        let score = |score: f64| Some(score as f32).filter(|score| score.is_finite());
        let list = self.vocab.as_array().ok_or_else(wrong)?;
        let pairs = list.iter().map(|entry| Some((entry.get(0)?.as_str()?, score(entry.get(1)?.as_f64()?)?)));
        pairs.map(|pair| pair.ok_or_else(wrong)).collect()
    }

    /// Returns the merges, the best first.
    pub(super) fn merges(&self) -> Result<Vec<(&str, &str)>, Error> {
        self.merges.iter().map(Merge::parts).collect()
    }

    /// Returns the number of each token.
    pub(super) fn numbers(&self) -> Result<HashMap<&str, u32>, Error> {
        Ok(self.tokens()?.into_iter().collect())
    }
}

/// Returns the steps of a normalizer or pre-tokenizer, nested sequences laid flat.
pub(super) fn steps<'a>(step: &'a Json, list: &str) -> Vec<&'a Json> {
    match step.get(list).and_then(Json::as_array) {
        Some(inner) => inner.iter().flat_map(|step| steps(step, list)).collect(),
        None if step.is_null() => Vec::new(),
        None => vec![step],
    }
}

/// The one special token of GPT-2, by which its class starts, ends and does not know.
pub(super) const FIRST_END: &str = "<|endoftext|>";

/// Makes a tokenizer.json of `vocab.json` and `merges.txt`, as `transformers` does for its
/// class of GPT-2, which knows the rest by itself.
fn of_first_files(files: &TokenizerFiles) -> Result<Option<Json>, Error> {
    let (vocab, Some(merges)) = (files.json("vocab.json")?, files.text("merges.txt")?) else {
        return Ok(None);
    };
    if vocab.is_null() {
        return Ok(None);
    }
    let settings = files.json("tokenizer_config.json")?;
    // other classes (of RoBERTa, of CLIP) have files of the same names, and cut otherwise
    match settings.get("tokenizer_class").and_then(Json::as_str) {
        None | Some("GPT2Tokenizer" | "GPT2TokenizerFast") => {}
        Some(other) => {
            let shown: String = other.chars().take(60).collect();
            return Err(Error::Tokenizer(format!(
                "there is no tokenizer.json, and vocab.json with merges.txt are read for GPT2Tokenizer only, not {shown}"
            )));
        }
    }
    let end = vocab.get(FIRST_END).map(|id| json!({"id": id, "content": FIRST_END, "special": true}));
    let adds_space = settings.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(false);
    let pairs = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let merges: Vec<&str> = pairs.map(|line| line.trim_end_matches('\r')).collect();
    Ok(Some(json!({
        "added_tokens": end.into_iter().collect::<Vec<Json>>(),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": adds_space, "use_regex": true},
        "post_processor": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> TokenizerFiles {
        TokenizerFiles::new(list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())))
    }

    fn kind(model: &Json) -> Result<Kind, Error> {
        Tokenizer::deserialize(json!({"model": model})).unwrap().kind()
    }

    #[test]
    fn the_model_tells_the_kind() {
        let cases = [
            (json!({"type": "BPE", "vocab": {}}), Some(Kind::Bytes)),
            (json!({"type": "BPE", "vocab": {}, "byte_fallback": true}), Some(Kind::Characters)),
            (json!({"vocab": {}, "merges": ["a b"]}), Some(Kind::Bytes)),
            (json!({"type": "Unigram", "vocab": [], "unk_id": 0}), Some(Kind::Unigram)),
            (json!({"vocab": []}), Some(Kind::Unigram)),
            (json!({"type": "Unigram", "vocab": [], "byte_fallback": true}), None),
            (json!({"type": "WordPiece", "vocab": {}}), None),
            (json!({"vocab": {}}), None),
            (json!({"type": "BPE", "vocab": {}, "dropout": 0.1}), None),
            (json!({"type": "BPE", "vocab": {}, "dropout": 0.0}), Some(Kind::Bytes)),
            (json!({"type": "BPE", "vocab": {}, "end_of_word_suffix": "</w>"}), None),
            (json!({"type": "BPE", "vocab": {}, "continuing_subword_prefix": "##"}), None),
            (json!({"type": "BPE", "vocab": {}, "continuing_subword_prefix": ""}), Some(Kind::Bytes)),
        ];
        for (model, expected) in cases {
            assert_eq!(kind(&model).ok(), expected, "{model}");
        }
    }

    #[test]
    fn the_first_files_of_gpt_2_make_a_tokenizer() {
        let merges = "#version: 0.2\na b\n# a\nab b\r\n\n";
        let both = [
            ("vocab.json", r##"{"a": 0, "b": 1, "ab": 2, "#": 3, "#a": 4, "<|endoftext|>": 5}"##),
            ("merges.txt", merges),
        ];
        let tokenizer = Tokenizer::of(&files(&both)).unwrap().unwrap();
        assert_eq!(tokenizer.kind().unwrap(), Kind::Bytes);
        assert_eq!(tokenizer.model.merges().unwrap(), [("a", "b"), ("#", "a"), ("ab", "b")]);
        assert_eq!((tokenizer.added_tokens[0].id, tokenizer.added_tokens[0].special), (5, true));
        assert!(Tokenizer::of(&files(&both[..1])).unwrap().is_none());
        assert!(Tokenizer::of(&files(&both[1..])).unwrap().is_none());
        let roberta = ("tokenizer_config.json", r#"{"tokenizer_class": "RobertaTokenizer"}"#);
        let error = Tokenizer::of(&files(&[both[0], both[1], roberta])).err().unwrap().to_string();
        assert!(error.contains("RobertaTokenizer"), "{error}");
    }

    #[test]
    fn merges_that_are_not_two_texts_are_refused() {
        for bad in ["a", "a b c", " b", "a "] {
            let model = json!({"type": "BPE", "vocab": {}, "merges": [bad]});
            let tokenizer = Tokenizer::deserialize(json!({"model": model})).unwrap();
            assert!(tokenizer.model.merges().is_err(), "{bad:?}");
        }
    }
}
