//! What the hub's library makes of a text, for tokenizers of bytes.
//!
//! Only a fingerprint is taken by it, of one short text. Steps that it does not have give
//! none, and the tokenizer is told by other means.

use std::collections::HashMap;

use fancy_regex::Regex;
use serde_json::Value as Json;

use super::json::{Tokenizer, steps};
use super::pattern::Patterns;
use super::pre::GPT_2;

/// How many steps a pre-tokenizer may have; real ones have up to 7.
const STEPS_LIMIT: usize = 32;

/// Returns the numbers of a text's tokens, with what stands around every text.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str) -> Option<Vec<u32>> {
    let numbers = tokenizer.model.numbers().ok()?;
    let merges = tokenizer.model.merges().ok()?;
    let ranks: HashMap<(&str, &str), usize> =
        merges.into_iter().enumerate().map(|(rank, pair)| (pair, rank)).collect();
    let (mut before, after) = around(tokenizer)?;
    for (part, added) in parts(tokenizer, text) {
        if let Some(id) = added {
            before.push(id);
            continue;
        }
        for word in words(tokenizer, part)? {
            let word: String = word.bytes().map(letter).collect();
            if let Some(id) = numbers.get(word.as_str()).filter(|_| tokenizer.model.ignore_merges) {
                before.push(*id);
            } else {
                let symbols = merge(&word, &ranks);
                before.extend(symbols.into_iter().filter_map(|symbol| numbers.get(symbol)));
            }
        }
    }
    before.extend(after);
    Some(before)
}

/// Cuts a text at the tokens that were added, the longest first at each place.
fn parts<'a>(tokenizer: &Tokenizer, text: &'a str) -> Vec<(&'a str, Option<u32>)> {
    let (mut found, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let tokens = tokenizer.added_tokens.iter().filter(|token| !token.content.is_empty());
        let fits = tokens.filter(|token| rest.starts_with(token.content.as_str()));
        if let Some(token) = fits.max_by_key(|token| token.content.len()) {
            let end = at + token.content.len();
            found.extend([(&text[start..at], None), (&text[at..end], Some(token.id))]);
            (start, at) = (end, end);
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found.push((&text[start..], None));
    found.retain(|(part, _)| !part.is_empty());
    found
}

/// Cuts a text into words as the pre-tokenizer says; none for steps that are not known here.
fn words<'a>(tokenizer: &Tokenizer, text: &'a str) -> Option<Vec<&'a str>> {
    let steps = steps(&tokenizer.word_splitter, "pretokenizers");
    if steps.len() > STEPS_LIMIT {
        return None;
    }
    let mut words = vec![text];
    let mut is_bytes = false;
    let mut patterns = Patterns::default();
    for step in steps {
        let is_kind = |kind: &str| step["type"] == kind;
        let is_inverted = step["invert"] == Json::Bool(true);
        words = if is_kind("Split") {
            let pattern = patterns.compile(step["pattern"]["Regex"].as_str()?)?;
            match (step["behavior"].as_str()?, is_inverted) {
                ("Isolated", false) => cut(words, |word| matches(&pattern, word), true)?,
                ("Removed", true) => cut(words, |word| matches(&pattern, word), false)?,
                _ => return None,
            }
        } else if is_kind("Digits") && step["individual_digits"] == Json::Bool(true) {
            cut(words, digits, true)?
        } else if is_kind("ByteLevel") && step["add_prefix_space"] == Json::Bool(false) {
            is_bytes = true;
            if step["use_regex"] == Json::Bool(false) {
                words
            } else {
                let pattern = patterns.compile(GPT_2)?;
                cut(words, |word| matches(&pattern, word), true)?
            }
        } else {
            return None;
        };
    }
    is_bytes.then_some(words)
}

/// Cuts words at the ranges that `find` finds in each; what is between them is a word, too,
/// if it is kept.
fn cut(
    words: Vec<&str>,
    find: impl Fn(&str) -> Option<Vec<(usize, usize)>>,
    keeps_between: bool,
) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    for word in words {
        let mut end = 0;
        for (from, to) in find(word)? {
            if keeps_between {
                found.push(word.get(end..from)?);
            }
            found.push(word.get(from..to)?);
            end = to;
        }
        if keeps_between {
            found.push(word.get(end..)?);
        }
    }
    found.retain(|word| !word.is_empty());
    Some(found)
}

fn matches(pattern: &Regex, word: &str) -> Option<Vec<(usize, usize)>> {
    pattern.find_iter(word).map(|found| found.ok().map(|found| (found.start(), found.end()))).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "patterns may fail, and are asked in the same way")]
fn digits(word: &str) -> Option<Vec<(usize, usize)>> {
    let digits = word.char_indices().filter(|(_, character)| character.is_numeric());
    Some(digits.map(|(at, digit)| (at, at + digit.len_utf8())).collect())
}

/// Returns the letter that stands for a byte: itself where it can be printed, else one from
/// U+0100 on, in the order of the bytes.
fn letter(byte: u8) -> char {
    let others = |until: u8| (0..until).filter(|byte| !is_printed(*byte)).count();
    match byte {
        _ if is_printed(byte) => char::from(byte),
        _ => u32::try_from(others(byte)).ok().and_then(|n| char::from_u32(0x100 + n)).unwrap_or_default(),
    }
}

fn is_printed(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Merges the letters of a word, the best pair first and the leftmost of these.
fn merge<'a>(word: &'a str, ranks: &HashMap<(&str, &str), usize>) -> Vec<&'a str> {
    let mut ends: Vec<usize> = word.char_indices().map(|(at, _)| at).skip(1).chain([word.len()]).collect();
    loop {
        let mut best: Option<(usize, usize)> = None;
        let mut start = 0;
        for (at, pair) in ends.windows(2).enumerate() {
            let (left, right) = (&word[start..pair[0]], &word[pair[0]..pair[1]]);
            if let Some(rank) =
                ranks.get(&(left, right)).filter(|rank| best.is_none_or(|(least, _)| **rank < least))
            {
                best = Some((*rank, at));
            }
            start = pair[0];
        }
        match best {
            Some((_, at)) => drop(ends.remove(at)),
            None => break,
        }
    }
    let mut start = 0;
    ends.into_iter().map(|end| &word[std::mem::replace(&mut start, end)..end]).collect()
}

/// Returns the numbers that the post-processor puts before and after every text.
fn around(tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    // of two with one text the first counts
    let added = tokenizer.added_tokens.iter().rev().map(|token| (token.content.as_str(), token.id));
    let added: HashMap<&str, u32> = added.collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in steps(&tokenizer.post_processor, "processors") {
        match step["type"].as_str()? {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let mut list = &mut before;
                for piece in step["single"].as_array()? {
                    match piece["SpecialToken"]["id"].as_str() {
                        Some(text) => list.push(*added.get(text)?),
                        None => list = &mut after,
                    }
                }
            }
            _ => return None,
        }
    }
    Some((before, after))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_have_letters_as_gpt_2_gave_them() {
        assert_eq!([b'a', b' ', b'\n', 0, 0x7f, 0xad, 0xff].map(letter), ['a', 'Ġ', 'Ċ', 'Ā', 'ġ', 'Ń', 'ÿ']);
    }

    #[test]
    fn a_text_is_cut_at_added_tokens_then_into_words_then_merged() {
        let file = json!({
            "added_tokens": [{"id": 9, "content": "<s>"}, {"id": 8, "content": "<s>!"}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                {"type": "ByteLevel", "add_prefix_space": false}]},
            "post_processor": {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>!"}}]},
            "model": {"type": "BPE", "merges": ["a b", "Ġ ab", "ab ab", "1 1"],
                "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "abab": 5, "1": 6, "11": 7}},
        });
        let tokenizer = Tokenizer::deserialize(file).unwrap();
        let ids = encode(&tokenizer, "abab abab<s>!<s>11ba").unwrap();
        assert_eq!(ids, [9, 5, 4, 3, 8, 9, 6, 6, 1, 0, 8]);
    }

    #[test]
    fn steps_that_are_not_known_and_patterns_that_run_away_give_nothing() {
        let with = |step: Json| {
            let file = json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                step, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
                "model": {"type": "BPE", "merges": [], "vocab": {"a": 0}}});
            encode(&Tokenizer::deserialize(file).unwrap(), &"a".repeat(64))
        };
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        assert_eq!(with(split("a")).map(|ids| ids.len()), Some(64));
        assert_eq!(with(json!({"type": "Punctuation"})), None);
        assert_eq!(with(split("(")), None);
        assert_eq!(with(split("(a|aa)+b(?!c)")), None);
        assert_eq!(with(split(r"a(?:|b\g<0>)")), None);
        let digits = json!({"type": "Digits", "individual_digits": true});
        let many = |count: usize| with(json!({"type": "Sequence", "pretokenizers": vec![&digits; count]}));
        assert_eq!(many(31).map(|ids| ids.len()), Some(64));
        assert_eq!(many(32), None);
    }
}
