//! How a text is cut into words before bytes are merged: llama.cpp's `tokenizer.ggml.pre`.
//!
//! llama.cpp has the cuts built in, each under a name that the GGUF gives. A name comes from
//! the fingerprint of the tokenizer, as in llama.cpp's own converter, or from what
//! tokenizer.json says, for the vocabularies of which nobody took a fingerprint. What has
//! neither is refused: a near miss would run and be subtly wrong.

use serde_json::Value as Json;

use super::json::{Tokenizer, steps};
use super::{Error, fingerprint};

/// A way to cut, and llama.cpp's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pre {
    pub(super) name: &'static str,
    pub(super) cut: Cut,
    /// Whether words that are tokens are taken whole, without merging (`ignore_merges`).
    pub(super) takes_whole: bool,
}

/// A pattern by which texts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// GPT-2's.
    Words,
    /// GPT-2's, each digit alone.
    Digits,
    /// Falcon's.
    Falcon,
    Bloom,
    Llama3,
    Qwen2,
    Qwen35,
    Tekken,
    Gpt4o,
    /// One of llama.cpp's that is known by the fingerprint only.
    Other,
}

/// Patterns as tokenizer.json has them, and the plain names for them.
const PATTERNS: [(&str, Cut, &str, bool); 9] = [
    (LLAMA_3, Cut::Llama3, "llama-bpe", true),
    (LLAMA_3, Cut::Llama3, "smaug-bpe", false),
    (QWEN_2, Cut::Qwen2, "qwen2", false),
    (QWEN_35, Cut::Qwen35, "qwen35", false),
    (TEKKEN, Cut::Tekken, "tekken", true),
    (GPT_4O, Cut::Gpt4o, "gpt-4o", false),
    (BLOOM, Cut::Bloom, "bloom", false),
    (BLOOM_PLAIN, Cut::Bloom, "bloom", false),
    (GPT_2, Cut::Words, "gpt-2", false),
];

pub(super) const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const BLOOM_PLAIN: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// Returns llama.cpp's name for how texts are cut.
pub(super) fn name(tokenizer: &Tokenizer) -> Result<&'static str, Error> {
    choose(tokenizer, fingerprint::find(tokenizer))
}

fn choose(tokenizer: &Tokenizer, by_fingerprint: Option<Pre>) -> Result<&'static str, Error> {
    // llama.cpp does not normalize for these; NFC changes only texts that are not in it already
    let normalizers = steps(&tokenizer.normalizer, "normalizers");
    if let Some(step) = normalizers.into_iter().find(|step| step["type"] != "NFC") {
        return Err(no_match("normalizer", step));
    }
    let by_steps = by_steps(tokenizer);
    match (by_fingerprint, by_steps) {
        (Some(known), Some(found)) if (known.cut, known.takes_whole) != (found.cut, found.takes_whole) => {
            Err(Error::Tokenizer(format!(
                "its vocabulary is that of {}, and it cuts texts as {} does: its files do not go together",
                known.name, found.name
            )))
        }
        (Some(known), _) => Ok(known.name),
        (None, Some(found)) => Ok(found.name),
        (None, None) => Err(no_match("pre-tokenizer", &tokenizer.word_splitter)),
    }
}

fn no_match(what: &str, step: &Json) -> Error {
    let shown: String = step.to_string().chars().take(200).collect();
    Error::Tokenizer(format!("llama.cpp has no match for its {what} {shown}"))
}

/// Returns how the steps of tokenizer.json cut a text, where llama.cpp has the same.
fn by_steps(tokenizer: &Tokenizer) -> Option<Pre> {
    let takes_whole = tokenizer.model.ignore_merges;
    let steps = steps(&tokenizer.word_splitter, "pretokenizers");
    let is_bytes = |step: &Json, with_pattern: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == Json::Bool(false)
            && step["use_regex"].as_bool().unwrap_or(true) == with_pattern
    };
    let is_digits = |step: &Json| step["type"] == "Digits" && step["individual_digits"] == Json::Bool(true);
    let pre = |name: &'static str, cut: Cut| Pre { name, cut, takes_whole };
    match steps.as_slice() {
        [bytes] if is_bytes(bytes, true) && !takes_whole => Some(pre("gpt-2", Cut::Words)),
        [digits, bytes] if is_digits(digits) && is_bytes(bytes, true) && !takes_whole => {
            Some(pre("smollm", Cut::Digits))
        }
        [split, bytes] if is_bytes(bytes, false) => {
            let pattern = pattern_of(split)?;
            let is_it = |known: &&(&str, Cut, &str, bool)| known.0 == pattern && known.3 == takes_whole;
            PATTERNS.iter().find(is_it).map(|(_, cut, name, _)| pre(name, *cut))
        }
        _ => None,
    }
}

/// Returns the pattern of a step that keeps each match as a word.
fn pattern_of(step: &Json) -> Option<&str> {
    // the patterns match every character: to remove what they do not match removes nothing
    let is_inverted = step["invert"] == Json::Bool(true);
    let keeps_all = match step["behavior"].as_str()? {
        "Isolated" => !is_inverted,
        "Removed" => is_inverted,
        _ => false,
    };
    step["pattern"]["Regex"].as_str().filter(|pattern| {
        step["type"] == "Split" && keeps_all && !(is_inverted && [BLOOM, BLOOM_PLAIN].contains(pattern))
    })
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

    fn bytes(regex: bool) -> Json {
        json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex})
    }

    fn split(pattern: &str, behavior: &str, invert: bool) -> Json {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert},
            bytes(false),
        ]})
    }

    #[test]
    fn the_pattern_names_the_pre_tokenizer() {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let isolated = |pattern: &str| split(pattern, "Isolated", false);
        let cases = [
            (bytes(true), false, Some("gpt-2")),
            (json!({"type": "ByteLevel", "add_prefix_space": false}), false, Some("gpt-2")),
            (json!({"type": "ByteLevel", "add_prefix_space": true}), false, None),
            (bytes(true), true, None),
            (json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), false, Some("smollm")),
            (isolated(LLAMA_3), true, Some("llama-bpe")),
            (isolated(LLAMA_3), false, Some("smaug-bpe")),
            (isolated(QWEN_2), false, Some("qwen2")),
            (isolated(QWEN_2), true, None),
            (isolated(BLOOM), false, Some("bloom")),
            (split(GPT_4O, "Removed", true), false, Some("gpt-4o")),
            (split(GPT_4O, "Removed", false), false, None),
            (split(GPT_4O, "MergedWithNext", false), false, None),
            (split(BLOOM, "Removed", true), false, None),
            (isolated(r"\s+"), false, None),
            (json!(null), false, None),
            (json!({"type": "Whitespace"}), false, None),
        ];
        for (pre, ignore_merges, expected) in cases {
            let found = choose(&tokenizer(&pre, ignore_merges), None);
            assert_eq!(found.as_ref().ok().copied(), expected, "{pre}");
        }
    }

    #[test]
    fn the_fingerprint_comes_first_and_contradictions_are_refused() {
        let known = |name, cut| Some(Pre { name, cut, takes_whole: false });
        let gpt_2 = tokenizer(&bytes(true), false);
        assert_eq!(choose(&gpt_2, known("olmo", Cut::Words)).unwrap(), "olmo");
        let error = choose(&gpt_2, known("qwen2", Cut::Qwen2)).unwrap_err().to_string();
        assert!(error.contains("qwen2") && error.contains("gpt-2"), "{error}");
        let strange = tokenizer(&json!({"type": "Punctuation"}), false);
        assert_eq!(choose(&strange, known("falcon", Cut::Falcon)).unwrap(), "falcon");
        let error = choose(&strange, None).unwrap_err().to_string();
        assert!(error.contains("Punctuation"), "{error}");
    }

    #[test]
    fn a_normalizer_is_refused_whatever_the_fingerprint_says() {
        let mut lower = tokenizer(&bytes(true), false);
        lower.normalizer =
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]});
        let known = Pre { name: "gpt-2", cut: Cut::Words, takes_whole: false };
        assert!(choose(&lower, Some(known)).unwrap_err().to_string().contains("Lowercase"));
        lower.normalizer = json!({"type": "NFC"});
        assert!(choose(&lower, Some(known)).is_ok());
    }
}
