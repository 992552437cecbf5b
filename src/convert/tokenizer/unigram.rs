//! SentencePiece's unigram model: llama.cpp's `t5`.

use std::collections::HashSet;

use base64::Engine as _;
use serde_json::Value as Json;

use super::added::{Added, gather};
use super::json::{Tokenizer, steps};
use super::piece::Model;
use super::vocabulary::{Own, Vocabulary, check_size};
use super::{Error, TokenizerFiles, kind};
use crate::gguf::{Array, Value};

/// How many `<extra_id_N>` T5 has besides the tokens of its `spiece.model`.
const EXTRA: u32 = 100;

/// How many of them settings may ask for.
const EXTRA_LIMIT: u32 = 1 << 16;

/// Converts SentencePiece's own file, to which T5's class adds its markers of gaps.
pub(super) fn of_model(
    model: &Model,
    files: &TokenizerFiles,
    size: u32,
) -> Result<Vec<(String, Value)>, Error> {
    check_size(size)?;
    if model.marks_word_ends || !model.escapes_spaces {
        return Err(Error::Tokenizer("llama.cpp has no match for how it marks spaces".to_owned()));
    }
    let known: HashSet<&str> = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let settings = files.json("tokenizer_config.json")?;
    let is_t5 = settings
        .get("tokenizer_class")
        .and_then(Json::as_str)
        .is_none_or(|class| ["T5Tokenizer", "T5TokenizerFast"].contains(&class));
    let extra = settings.get("extra_ids").and_then(Json::as_u64).and_then(|count| u32::try_from(count).ok());
    let extra = if is_t5 && !known.contains("<extra_id_0>") { extra.unwrap_or(EXTRA) } else { 0 };
    if extra > EXTRA_LIMIT {
        return Err(Error::Tokenizer(format!("extra_ids is {extra}")));
    }
    let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
    // the last of them comes first
    let markers: Vec<Added> = (0..extra.min(size))
        .map(|n| Added::marker(count.saturating_add(extra - 1 - n), &format!("<extra_id_{n}>")))
        .collect();
    let added = gather(files, &markers, &known)?;
    let own = (0..).zip(&model.pieces).map(|(id, piece)| Own {
        id,
        text: &piece.text,
        kind: piece.kind,
        score: piece.score,
    });
    let vocabulary = Vocabulary::of(own, &added, size)?;
    finish(vocabulary, &added, &model.charsmap, model.adds_space, model.merges_spaces)
}

/// Converts tokenizer.json.
pub(super) fn of_json(
    tokenizer: &Tokenizer,
    files: &TokenizerFiles,
    size: u32,
) -> Result<Vec<(String, Value)>, Error> {
    let charsmap = charsmap_of(tokenizer)?;
    let pieces = tokenizer.model.scored()?;
    let known: HashSet<&str> = pieces.iter().map(|(text, _)| *text).collect();
    let added = gather(files, &tokenizer.added_tokens, &known)?;
    let unknown = tokenizer.model.unk_id;
    let own = (0..).zip(&pieces).map(|(id, (text, score))| {
        let kind = if unknown == Some(id) { kind::UNKNOWN } else { kind::NORMAL };
        Own { id, text, kind, score: *score }
    });
    finish(Vocabulary::of(own, &added, size)?, &added, &charsmap, true, true)
}

fn finish(
    vocabulary: Vocabulary,
    added: &[Added],
    charsmap: &[u8],
    adds_space: bool,
    merges_spaces: bool,
) -> Result<Vec<(String, Value)>, Error> {
    let refuse = |why: String| Err(Error::Tokenizer(why));
    if !vocabulary.kinds.contains(&kind::UNKNOWN) {
        return refuse("it has no token for what it does not know, which llama.cpp needs".to_owned());
    }
    // blanks beside a marker are dropped as all that are not between words, whoever takes them
    let strips = |token: &&Added| token.single_word || (!merges_spaces && (token.lstrip || token.rstrip));
    if let Some(token) = added.iter().find(strips) {
        return refuse(format!("token {} ({:?}) is looked for as no GGUF can say", token.id, token.content));
    }
    let mut keys = vocabulary.keys("t5", "default", true);
    keys.push(("add_space_prefix".to_owned(), adds_space.into()));
    keys.push(("remove_extra_whitespaces".to_owned(), merges_spaces.into()));
    if !charsmap.is_empty() {
        check_charsmap(charsmap)?;
        keys.push(("precompiled_charsmap".to_owned(), Value::Array(Array::U8(charsmap.to_vec()))));
    }
    Ok(keys)
}

/// Checks that lengths in the rules of normalization stay inside: llama.cpp does not.
fn check_charsmap(charsmap: &[u8]) -> Result<(), Error> {
    let fits = || {
        let (length, rest) = charsmap.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let texts = rest.get(length..)?;
        (length > 0 && length % 4 == 0 && texts.last() == Some(&0)).then_some(())
    };
    fits()
        .ok_or_else(|| Error::Tokenizer("its rules of normalization are cut off: fetch it again".to_owned()))
}

/// Returns the rules of normalization, refusing steps that are not SentencePiece's own.
///
/// `transformers` writes these steps in one of two ways; in both, spaces are merged and one
/// stands before the first word.
fn charsmap_of(tokenizer: &Tokenizer) -> Result<Vec<u8>, Error> {
    let no_match = |step: &Json| {
        let shown: String = step.to_string().chars().take(200).collect();
        Error::Tokenizer(format!("llama.cpp has no match for its step {shown}"))
    };
    let (mut charsmap, mut strips_end, mut merges) = (Vec::new(), false, false);
    for step in steps(&tokenizer.normalizer, "normalizers") {
        let is_kind = |kind: &str| step["type"] == kind;
        let content = step["content"].as_str().unwrap_or_default();
        if is_kind("Precompiled") && charsmap.is_empty() {
            let text = step["precompiled_charsmap"].as_str().unwrap_or_default();
            charsmap = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| no_match(step))?;
        } else if is_kind("Strip") && step["strip_right"] == Json::Bool(true) {
            strips_end = true;
        } else if is_kind("Replace")
            && step["pattern"]["Regex"] == " {2,}"
            && [" ", "\u{2581}"].contains(&content)
        {
            merges = true;
        } else {
            return Err(no_match(step));
        }
    }
    let is_metaspace = |step: &Json| {
        let is_before_all = match step["prepend_scheme"].as_str() {
            Some(scheme) => scheme == "always",
            None => step["add_prefix_space"] != Json::Bool(false),
        };
        step["type"] == "Metaspace" && step["replacement"] == "\u{2581}" && is_before_all
    };
    match steps(&tokenizer.word_splitter, "pretokenizers").as_slice() {
        [split, spaces] if split["type"] == "WhitespaceSplit" && is_metaspace(spaces) => Ok(charsmap),
        [spaces] if is_metaspace(spaces) && strips_end && merges => Ok(charsmap),
        _ => Err(no_match(&tokenizer.word_splitter)),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::super::piece::tests::written;
    use super::*;

    /// Rules with one empty node, and one empty text.
    const RULES: [u8; 9] = [4, 0, 0, 0, 0, 0, 0, 0, 0];

    fn files(list: &[(&str, &str)]) -> TokenizerFiles {
        TokenizerFiles::new(list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())))
    }

    fn get<'a>(keys: &'a [(String, Value)], name: &str) -> &'a Value {
        &keys.iter().find(|(key, _)| key == name).unwrap().1
    }

    fn sample() -> Json {
        json!({
            "added_tokens": [
                {"id": 0, "content": "<pad>", "special": true},
                {"id": 3, "content": "<extra_id_0>", "special": true, "lstrip": true, "rstrip": true},
            ],
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "\u{2581}", "add_prefix_space": true},
            ]},
            "model": {"type": "Unigram", "unk_id": 1, "vocab": [
                ["<pad>", 0.0], ["<unk>", 0.0], ["\u{2581}a", -2.5], ["<extra_id_0>", 0.0]]},
        })
    }

    fn converted(file: Json) -> Result<Vec<(String, Value)>, Error> {
        let files = files(&[("tokenizer.json", "{}")]);
        of_json(&Tokenizer::deserialize(file).unwrap(), &files, 5)
    }

    #[test]
    fn scores_rules_and_kinds_of_tokenizer_json_are_kept() {
        let keys = converted(sample()).unwrap();
        assert_eq!(*get(&keys, "model"), Value::from("t5"));
        assert_eq!(*get(&keys, "scores"), Value::from(vec![0.0, 0.0, -2.5, 0.0, -1e9]));
        assert_eq!(*get(&keys, "token_type"), Value::from(vec![3, 2, 1, 3, 5]));
        assert_eq!(*get(&keys, "precompiled_charsmap"), Value::Array(Array::U8(RULES.to_vec())));
        assert_eq!(*get(&keys, "remove_extra_whitespaces"), Value::from(true));
    }

    #[test]
    fn markers_of_gaps_are_numbered_from_the_last() {
        let pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("\u{2581}a", -2.5, 1)];
        let mut normalizer = vec![2 << 3 | 2, 9];
        normalizer.extend(RULES);
        let model = Model::parse("spiece.model", &written(1, &pieces, &normalizer)).unwrap();
        let keys = of_model(&model, &files(&[]), 110).unwrap();
        let tokens = format!("{:?}", get(&keys, "tokens"));
        assert!(tokens.contains(r#""<extra_id_99>", "<extra_id_98>""#), "{tokens}");
        assert!(tokens.contains(r#""<extra_id_0>", "[PAD104]""#), "{tokens}");
        let few = files(&[(
            "tokenizer_config.json",
            r#"{"extra_ids": 2, "additional_special_tokens": ["<extra_id_0>"]}"#,
        )]);
        let tokens = format!("{:?}", get(&of_model(&model, &few, 7).unwrap(), "tokens"));
        assert!(tokens.contains(r#""<extra_id_1>", "<extra_id_0>", "[PAD6]""#), "{tokens}");
        let many = files(&[("tokenizer_config.json", r#"{"extra_ids": 65537}"#)]);
        let error = |size: u32| of_model(&model, &many, size).unwrap_err().to_string();
        assert!(error(110).contains("extra_ids is 65537") && error(u32::MAX).contains("vocab_size is"));
        let other = files(&[("tokenizer_config.json", r#"{"tokenizer_class": "XLNetTokenizer"}"#)]);
        assert!(
            !format!("{:?}", get(&of_model(&model, &other, 110).unwrap(), "tokens")).contains("extra_id")
        );
    }

    #[test]
    fn other_steps_and_broken_rules_are_refused() {
        let with = |change: &dyn Fn(&mut Json)| {
            let mut file = sample();
            change(&mut file);
            converted(file).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let rules = |text: &'static str| {
            move |f: &mut Json| f["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": text})
        };
        assert!(with(&|f| f["normalizer"] = json!({"type": "NFKC"})).contains("NFKC"));
        assert!(with(&|f| f["pre_tokenizer"] = json!({"type": "Whitespace"})).contains("Whitespace"));
        assert!(with(&|f| f["model"]["unk_id"] = json!(null)).contains("does not know"));
        assert!(with(&rules("CAAAAAAAAAAA")).contains("cut off"));
        assert!(with(&rules("////fwAA")).contains("cut off"));
        assert!(with(&rules("?")).contains("Precompiled"));
        let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"});
        let other_way = |f: &mut Json| {
            f["pre_tokenizer"] = metaspace.clone();
            f["normalizer"] = json!({"type": "Sequence", "normalizers": [
                f["normalizer"], {"type": "Strip", "strip_left": false, "strip_right": true},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"}]});
        };
        assert_eq!(with(&other_way), "");
        assert!(with(&|f| f["pre_tokenizer"] = metaspace.clone()).contains("Metaspace"));
    }
}
