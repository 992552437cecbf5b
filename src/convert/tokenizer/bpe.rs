//! Byte pair encoding over bytes: llama.cpp's `gpt2`.
//!
//! llama.cpp has the pre-tokenizers' patterns built in, each under a name that the GGUF
//! gives. Its own converter finds the name by the hash of a text's tokens, a fingerprint
//! of pattern and vocabulary together, which misses on every new vocabulary. Here the
//! pattern itself is compared, which is all that the name stands for; one that is not
//! known is refused, since a near miss would run and be subtly wrong.

use serde_json::Value as Json;

use super::{Error, Tokenizer, Vocabulary, kind, steps};
use crate::gguf::Value;

/// A pattern as tokenizer.json has it, llama.cpp's name for it, and whether llama.cpp
/// takes words that are tokens whole, without merging (`ignore_merges`).
const PATTERNS: [(&str, &str, bool); 5] = [
    (LLAMA_3, "llama-bpe", true),
    (LLAMA_3, "smaug-bpe", false),
    (QWEN_2, "qwen2", false),
    (TEKKEN, "tekken", true),
    (GPT_4O, "gpt-4o", false),
];

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn metadata(tokenizer: &Tokenizer, size: u32) -> Result<Vec<(String, Value)>, Error> {
    let pre = pre_tokenizer(tokenizer)?;
    let Vocabulary { tokens, kinds } = Vocabulary::of(tokenizer, size, |_| kind::NORMAL)?;
    let merges = tokenizer.model.merges.iter().map(|merge| {
        let (left, right) = merge.parts()?;
        Ok(format!("{left} {right}"))
    });
    Ok(vec![
        ("model".to_owned(), "gpt2".into()),
        ("pre".to_owned(), pre.into()),
        ("tokens".to_owned(), tokens.into()),
        ("token_type".to_owned(), kinds.into()),
        ("merges".to_owned(), merges.collect::<Result<Vec<String>, Error>>()?.into()),
    ])
}

/// Returns llama.cpp's name for how text is cut into words.
fn pre_tokenizer(tokenizer: &Tokenizer) -> Result<&'static str, Error> {
    let unknown = |what: &str, step: &Json| {
        let shown: String = step.to_string().chars().take(200).collect();
        Error::Tokenizer(format!("llama.cpp has no match for its {what} {shown}"))
    };
    // llama.cpp does not normalize for these; NFC changes only texts that are not in it already
    if let Some(step) =
        steps(&tokenizer.normalizer, "normalizers").into_iter().find(|step| step["type"] != "NFC")
    {
        return Err(unknown("normalizer", step));
    }
    let ignores = tokenizer.model.ignore_merges;
    let steps = steps(&tokenizer.word_splitter, "pretokenizers");
    let is_bytes = |step: &Json, with_pattern: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == Json::Bool(false)
            && step["use_regex"].as_bool().unwrap_or(true) == with_pattern
    };
    let pattern_of = |step: &Json| {
        let is_split =
            step["type"] == "Split" && step["behavior"] == "Isolated" && step["invert"] != Json::Bool(true);
        step["pattern"]["Regex"].as_str().filter(|_| is_split).map(str::to_owned)
    };
    let is_digits = |step: &Json| step["type"] == "Digits" && step["individual_digits"] == Json::Bool(true);
    let found = match steps.as_slice() {
        [bytes] if is_bytes(bytes, true) && !ignores => Some("gpt-2"),
        [digits, bytes] if is_digits(digits) && is_bytes(bytes, true) && !ignores => Some("smollm"),
        [split, bytes] if is_bytes(bytes, false) => pattern_of(split).and_then(|pattern| {
            let is_it = |(known, _, whole): &&(&str, &str, bool)| *known == pattern && *whole == ignores;
            PATTERNS.iter().find(is_it).map(|(_, name, _)| *name)
        }),
        _ => None,
    };
    found.ok_or_else(|| unknown("pre-tokenizer", &tokenizer.word_splitter))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn tokenizer(pre_tokenizer: &Json, ignore_merges: bool) -> Tokenizer {
        Tokenizer::deserialize(json!({
            "pre_tokenizer": pre_tokenizer,
            "model": {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": ignore_merges},
        }))
        .unwrap()
    }

    #[test]
    fn the_pattern_names_the_pre_tokenizer() {
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
        let digits = json!({"type": "Digits", "individual_digits": true});
        let split = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                bytes(false),
            ]})
        };
        let cases = [
            (bytes(true), false, Some("gpt-2")),
            (bytes(true), true, None),
            (json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), false, Some("smollm")),
            (split(LLAMA_3), true, Some("llama-bpe")),
            (split(LLAMA_3), false, Some("smaug-bpe")),
            (split(QWEN_2), false, Some("qwen2")),
            (split(r"\s+"), false, None),
            (json!(null), false, None),
            (json!({"type": "Whitespace"}), false, None),
        ];
        for (pre, ignore_merges, expected) in cases {
            let found = pre_tokenizer(&tokenizer(&pre, ignore_merges));
            assert_eq!(found.as_ref().ok().copied(), expected, "{pre}");
        }
    }
}
