//! SentencePiece's byte pair encoding over characters: llama.cpp's `llama`.
//!
//! llama.cpp joins by score, tokenizer.json by the rank of a merge. A token's score is the
//! rank of the first merge that makes it, negated; a token that no merge makes must never
//! be joined up. (Scores by number of token are wrong: runs of spaces have late ranks.)

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{Error, Tokenizer, Vocabulary, kind, steps};
use crate::gguf::Value;

/// The score of a token that no merge makes.
const NEVER: f32 = -1e9;

pub(super) fn metadata(tokenizer: &Tokenizer, size: u32) -> Result<Vec<(String, Value)>, Error> {
    let adds_space = adds_space(tokenizer)?;
    let is_byte = |text: &str| {
        let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let unknown = tokenizer.model.unk_token.as_deref();
    let Vocabulary { tokens, kinds } = Vocabulary::of(tokenizer, size, |text| {
        if unknown == Some(text) {
            kind::UNKNOWN
        } else if is_byte(text) {
            kind::BYTE
        } else {
            kind::NORMAL
        }
    })?;
    let mut ranks: HashMap<String, u32> = HashMap::new();
    for (rank, merge) in (0u32..).zip(&tokenizer.model.merges) {
        let (left, right) = merge.parts()?;
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |(text, kind): (&String, &i32)| match ranks.get(text) {
        Some(rank) if *kind == kind::NORMAL => -(*rank as f32),
        _ if *kind == kind::NORMAL => NEVER,
        _ => 0.0,
    };
    let scores: Vec<f32> = tokens.iter().zip(&kinds).map(score).collect();
    Ok(vec![
        ("model".to_owned(), "llama".into()),
        ("pre".to_owned(), "default".into()),
        ("tokens".to_owned(), tokens.into()),
        ("scores".to_owned(), scores.into()),
        ("token_type".to_owned(), kinds.into()),
        ("add_space_prefix".to_owned(), adds_space.into()),
    ])
}

/// Tells whether a text gets a space in front; refuses any other change to texts.
fn adds_space(tokenizer: &Tokenizer) -> Result<bool, Error> {
    let mut adds_space = false;
    let mut marks_spaces = false;
    let normalizers = steps(&tokenizer.normalizer, "normalizers");
    for step in normalizers.into_iter().chain(steps(&tokenizer.word_splitter, "pretokenizers")) {
        let is_prefix = step["type"] == "Prepend" && step["prepend"] == "\u{2581}";
        let is_mark =
            step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "\u{2581}";
        let is_metaspace = step["type"] == "Metaspace"
            && step["replacement"] == "\u{2581}"
            && step["split"] == Json::Bool(false);
        if is_prefix {
            adds_space = true;
        } else if is_mark {
            marks_spaces = true;
        } else if is_metaspace {
            marks_spaces = true;
            adds_space |= step["prepend_scheme"] != "never";
        } else {
            let shown: String = step.to_string().chars().take(200).collect();
            return Err(Error::Tokenizer(format!("llama.cpp has no match for its step {shown}")));
        }
    }
    if marks_spaces {
        Ok(adds_space)
    } else {
        Err(Error::Tokenizer("spaces are not marked as SentencePiece marks them".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn sample() -> Json {
        json!({
            "added_tokens": [
                {"id": 0, "content": "<unk>", "special": true},
                {"id": 1, "content": "<s>", "special": true},
            ],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
            ]},
            "model": {
                "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
                "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "ab": 5, "abab": 6, "bb": 7},
                "merges": ["a b", "ab ab"],
            },
        })
    }

    #[test]
    fn scores_are_ranks_and_tokens_that_no_merge_makes_are_never_joined() {
        let keys = metadata(&Tokenizer::deserialize(sample()).unwrap(), 9).unwrap();
        let get = |name: &str| &keys.iter().find(|(key, _)| key == name).unwrap().1;
        let scores = vec![0.0, 0.0, 0.0, NEVER, NEVER, 0.0, -1.0, NEVER, 0.0];
        assert_eq!(*get("scores"), Value::from(scores));
        assert_eq!(*get("token_type"), Value::from(vec![2, 3, 6, 1, 1, 1, 1, 1, 5]));
        assert_eq!(*get("add_space_prefix"), Value::from(true));
    }

    #[test]
    fn a_step_that_llama_cpp_does_not_have_is_refused() {
        let mut file = sample();
        file["normalizer"] = json!({"type": "Lowercase"});
        let tokenizer = Tokenizer::deserialize(file).unwrap();
        assert!(metadata(&tokenizer, 9).unwrap_err().to_string().contains("Lowercase"));
    }
}
