//! SentencePiece's byte pair encoding over characters: llama.cpp's `llama`.
//!
//! llama.cpp joins two neighbours to whatever token their texts make, the best score first.
//! SentencePiece's own file has the scores. tokenizer.json has merges instead: there a
//! token's score is the rank of the first merge that makes it, negated (scores by number of
//! token are wrong: runs of spaces have late ranks), and merges by which the library would
//! join in another order, or leave apart what llama.cpp joins, are refused.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::added::{Added, gather};
use super::json::{Tokenizer, steps};
use super::piece::{Model, ModelKind};
use super::vocabulary::{NEVER, Own, Vocabulary};
use super::{Error, TokenizerFiles, kind};
use crate::gguf::Value;

/// The longest token that merges may make, in bytes: all ways to make it are looked at. Real ones
/// have some 100.
const LONGEST: usize = 1024;

/// The keys of a vocabulary, and what else its tokens ask for.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) keys: Vec<(String, Value)>,
    /// Whether its markers take the blanks on their right along, as Phi-3's do.
    pub(super) strips: bool,
}

/// Converts SentencePiece's own file, to which settings may have added tokens.
pub(super) fn of_model(model: &Model, files: &TokenizerFiles, size: u32) -> Result<Keys, Error> {
    check_model(model)?;
    let known = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let added = gather(files, &[], &known)?;
    let own = (0..).zip(&model.pieces).map(|(id, piece)| Own {
        id,
        text: &piece.text,
        kind: piece.kind,
        score: piece.score,
    });
    let settings = files.json("tokenizer_config.json")?;
    let adds_space =
        settings.get("add_prefix_space").and_then(Json::as_bool).map_or(model.adds_space, |setting| setting);
    finish(Vocabulary::of(own, &added, size)?, &added, adds_space)
}

/// Converts tokenizer.json; scores come from SentencePiece's own file where it is there and
/// has the same tokens. `is_chat` tells whether the model has a chat template.
pub(super) fn of_json(
    tokenizer: &Tokenizer,
    model: Option<&Model>,
    files: &TokenizerFiles,
    size: u32,
    is_chat: bool,
) -> Result<Keys, Error> {
    let adds_space = adds_space(tokenizer, is_chat)?;
    if tokenizer.model.ignore_merges {
        return Err(Error::Tokenizer("it takes whole texts that are tokens, without merging".to_owned()));
    }
    let numbers = tokenizer.model.numbers()?;
    let known: HashSet<&str> = numbers.keys().copied().collect();
    let added = gather(files, &tokenizer.added_tokens, &known)?;
    let is_added: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let unknown = tokenizer.model.unk_token.as_deref();
    let kind_of = |text: &str| {
        if unknown == Some(text) {
            kind::UNKNOWN
        } else if byte_of(text).is_some() {
            kind::BYTE
        } else {
            kind::NORMAL
        }
    };
    let is_same = |model: &&Model| {
        model.kind == ModelKind::Bpe
            && (0..).zip(&model.pieces).all(|(id, piece)| numbers.get(piece.text.as_str()) == Some(&id))
    };
    let scores: HashMap<&str, f32> = match model.filter(is_same) {
        Some(model) => {
            check_model(model)?;
            model.pieces.iter().map(|piece| (piece.text.as_str(), piece.score)).collect()
        }
        None => scores_of_merges(&tokenizer.model.merges()?, &numbers, |text| {
            kind_of(text) == kind::NORMAL && !is_added.contains(text)
        })?,
    };
    let own = numbers.iter().map(|(text, id)| {
        let kind = kind_of(text);
        let without = if kind == kind::NORMAL { NEVER } else { 0.0 };
        Own { id: *id, text, kind, score: scores.get(text).copied().unwrap_or(without) }
    });
    finish(Vocabulary::of(own, &added, size)?, &added, adds_space)
}

fn finish(vocabulary: Vocabulary, added: &[Added], adds_space: bool) -> Result<Keys, Error> {
    let has: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let bytes: HashSet<u8> = vocabulary.tokens.iter().filter_map(|text| byte_of(text)).collect();
    if bytes.len() < 256 {
        let missing = 256 - bytes.len();
        return Err(Error::Tokenizer(format!("{missing} of the 256 bytes have no token to fall back on")));
    }
    let strips = strips(added, &has)?;
    let mut keys = vocabulary.keys("llama", "default", true);
    keys.push(("add_space_prefix".to_owned(), adds_space.into()));
    Ok(Keys { keys, strips })
}

/// Returns the byte that a token like `<0x0A>` stands for.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex =
        digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn check_model(model: &Model) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Tokenizer(format!("llama.cpp has no match for {why}")));
    if !model.charsmap.is_empty() {
        return refuse("its rules of normalization");
    }
    if model.merges_spaces {
        return refuse("how it merges spaces that follow each other");
    }
    if !model.escapes_spaces || model.marks_word_ends {
        return refuse("how it marks spaces");
    }
    Ok(())
}

/// Returns the scores by which llama.cpp joins as the merges do.
///
/// It joins by the text that comes out, whichever two tokens make it. So every way to make
/// a token of two must be a merge, and all merges to one token must follow each other.
fn scores_of_merges<'a>(
    merges: &[(&str, &str)],
    numbers: &HashMap<&'a str, u32>,
    is_joined: impl Fn(&str) -> bool,
) -> Result<HashMap<&'a str, f32>, Error> {
    struct Made {
        first: usize,
        last: usize,
        ways: usize,
    }
    let mut made: HashMap<&str, Made> = HashMap::new();
    let mut text = String::new();
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        text.clear();
        text.extend([*left, *right]);
        // a merge to what is no token, or a second time, has no effect
        let Some((token, _)) = numbers.get_key_value(text.as_str()) else { continue };
        if numbers.contains_key(left) && numbers.contains_key(right) && seen.insert((left, right)) {
            let made = made.entry(token).or_insert(Made { first: rank, last: rank, ways: 0 });
            made.last = rank;
            made.ways += 1;
        }
    }
    let mut in_order: Vec<(&str, &Made)> = Vec::new();
    for token in numbers.keys().copied().filter(|token| is_joined(token)) {
        if token.len() > LONGEST {
            let shown: String = token.chars().take(60).collect();
            let bytes = token.len();
            return Err(Error::Tokenizer(format!(
                "its token {shown:?} goes on for {bytes} bytes, and no more than {LONGEST} are taken"
            )));
        }
        let ends = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let possible = ends.filter(|(left, right)| numbers.contains_key(left) && numbers.contains_key(right));
        let ways = made.get(token).map_or(0, |made| made.ways);
        if possible.count() != ways {
            return Err(Error::Tokenizer(format!(
                "its merges leave out a way to make {token:?}, which llama.cpp would take"
            )));
        }
        // runs of spaces are let through: Llama's share one score, so that the library orders
        // their merges by length alone
        let is_run = token.chars().all(|character| character == '\u{2581}');
        in_order.extend(made.get(token).filter(|_| !is_run).map(|made| (token, made)));
    }
    in_order.sort_unstable_by_key(|(_, made)| made.first);
    if let Some(pair) = in_order.windows(2).find(|pair| pair[0].1.last > pair[1].1.first) {
        let (one, other) = (pair[0].0, pair[1].0);
        return Err(Error::Tokenizer(format!(
            "its merges to {one:?} and to {other:?} alternate, which llama.cpp has no match for"
        )));
    }
    Ok(made.into_iter().map(|(token, made)| (token, -(made.first as f32))).collect())
}

/// Tells whether a text gets a space in front; refuses any other change to texts.
fn adds_space(tokenizer: &Tokenizer, is_chat: bool) -> Result<bool, Error> {
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
        // Gemma's: when spaces are marked, there is none left to cut at
        let is_idle = marks_spaces && step["type"] == "Split" && step["pattern"]["String"] == " ";
        if is_prefix && !marks_spaces {
            adds_space = true;
        } else if is_mark {
            marks_spaces = true;
        } else if is_metaspace {
            marks_spaces = true;
            // Before the first word of a text it puts a space if there is none. llama.cpp puts
            // one after every marker as well, whatever follows: right for plain texts, wrong
            // within prompts, where templates write the spaces themselves.
            adds_space |= match step["prepend_scheme"].as_str() {
                Some("never") => false,
                Some("first") => !is_chat,
                _ => true,
            };
        } else if !is_idle {
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

/// Tells whether markers take blanks on their right along, in the one way that llama.cpp has.
///
/// It does so for models whose name says Phi-3: for all tokens that were added but these.
fn strips(added: &[Added], has: &HashSet<&str>) -> Result<bool, Error> {
    const NOT: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
    let wrong = |token: &Added, what: &str| {
        Err(Error::Tokenizer(format!(
            "token {} ({:?}) {what}, which a GGUF cannot say",
            token.id, token.content
        )))
    };
    let strips = added.iter().any(|token| token.rstrip);
    for token in added {
        if token.lstrip || token.single_word {
            return wrong(token, "takes blanks on its left along or stands alone only");
        }
        if strips && token.rstrip == NOT.contains(&token.content.as_str()) {
            return wrong(token, "takes blanks on its right along, or not, other than Phi-3's");
        }
    }
    if strips && !NOT.into_iter().chain(["</s>"]).all(|text| has.contains(text)) {
        let why = "its markers take blanks on their right along, which llama.cpp has for Phi-3 only";
        return Err(Error::Tokenizer(why.to_owned()));
    }
    Ok(strips)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::super::piece::tests::written;
    use super::*;

    fn bytes(first: u32) -> Vec<(String, u32)> {
        (0..=255).map(|byte| (format!("<0x{byte:02X}>"), first + byte)).collect()
    }

    fn sample() -> Json {
        let mut vocab: serde_json::Map<String, Json> =
            bytes(8).into_iter().map(|(text, id)| (text, id.into())).collect();
        for (id, text) in ["<unk>", "<s>", "a", "b", "ab", "abab", "ba", "aba"].into_iter().enumerate() {
            vocab.insert(text.to_owned(), id.into());
        }
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
                "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab,
                "merges": ["a b", "ab ab", "aba b", "b a", "ab a", "a ba"],
            },
        })
    }

    fn converted(file: Json, model: Option<&Model>) -> Result<Keys, Error> {
        let files = TokenizerFiles::new([("tokenizer.json".to_owned(), b"{}".to_vec())]);
        of_json(&Tokenizer::deserialize(file).unwrap(), model, &files, 266, false)
    }

    fn get<'a>(keys: &'a Keys, name: &str) -> &'a Value {
        &keys.keys.iter().find(|(key, _)| key == name).unwrap().1
    }

    #[test]
    fn scores_are_ranks_and_kinds_are_those_of_the_model() {
        let keys = converted(sample(), None).unwrap();
        let [scores, kinds] = ["scores", "token_type"].map(|name| get(&keys, name));
        let mut expected = vec![0.0, NEVER, NEVER, NEVER, 0.0, -1.0, -3.0, -4.0];
        expected.extend([0.0; 256]);
        expected.extend([NEVER; 2]);
        assert_eq!(*scores, Value::from(expected));
        let mut expected = vec![2, 3, 1, 1, 1, 1, 1, 1];
        expected.extend([6; 256]);
        expected.extend([5; 2]);
        assert_eq!(*kinds, Value::from(expected));
        assert_eq!(*get(&keys, "add_space_prefix"), Value::from(true));
    }

    #[test]
    fn scores_come_from_the_models_own_file_where_it_has_the_same_tokens() {
        let texts = ["<unk>", "<s>", "a", "b", "ab", "abab", "ba", "aba"];
        let pieces: Vec<(&str, f32, u8)> = texts.iter().map(|text| (*text, -0.5, 1)).collect();
        let model =
            |pieces: &[(&str, f32, u8)]| Model::parse("m", &written(2, pieces, &[4 << 3, 0])).unwrap();
        let score = |model: &Model| match get(&converted(sample(), Some(model)).unwrap(), "scores").as_array()
        {
            Some(array) => format!("{array:?}"),
            None => String::new(),
        };
        assert!(score(&model(&pieces)).contains("-0.5"));
        // a stale file, as fine-tunes leave it behind
        assert!(!score(&model(&[("x", -0.5, 1)])).contains("-0.5"));
    }

    #[test]
    fn merges_that_llama_cpp_would_follow_otherwise_are_refused() {
        let with = |merges: &[&str]| {
            let mut file = sample();
            file["model"]["merges"] = json!(merges);
            converted(file, None).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(with(&["a b", "ab ab", "aba b", "b a", "ab a", "a ba"]), "");
        assert!(with(&["a b", "ab ab", "aba b", "b a", "ab a"]).contains("leave out"));
        assert!(with(&["ab ab", "aba b", "b a", "ab a", "a ba"]).contains("leave out"));
        assert!(with(&["a b", "ab ab", "b a", "ab a", "aba b", "a ba"]).contains("alternate"));
    }

    #[test]
    fn a_token_without_end_is_refused_before_its_parts_are_looked_for() {
        let with = |bytes: usize| {
            let mut file = sample();
            file["model"]["vocab"]["z".repeat(bytes)] = 264.into();
            converted(file, None).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(with(LONGEST), "");
        let error = with(LONGEST + 1);
        assert!(error.contains("zzz") && error.contains("1025 bytes"), "{error}");
    }

    #[test]
    fn a_step_that_llama_cpp_does_not_have_is_refused() {
        let with = |key: &str, step: Json| {
            let mut file = sample();
            file[key] = step;
            converted(file, None).map(|keys| *get(&keys, "add_space_prefix") == Value::from(true))
        };
        assert!(
            with("normalizer", json!({"type": "Lowercase"})).unwrap_err().to_string().contains("Lowercase")
        );
        assert!(with("normalizer", json!(null)).is_err());
        let mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        assert!(!with("normalizer", mark.clone()).unwrap());
        let cut = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"});
        let mut gemma = sample();
        (gemma["normalizer"], gemma["pre_tokenizer"]) = (mark, cut);
        assert!(converted(gemma, None).is_ok());
        let metaspace = |scheme: &str, split: bool| {
            json!({"type": "Sequence", "normalizers": [
            {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split}]})
        };
        assert!(with("normalizer", metaspace("first", false)).unwrap());
        assert!(!with("normalizer", metaspace("never", false)).unwrap());
        assert!(with("normalizer", metaspace("first", true)).is_err());
    }

    #[test]
    fn markers_that_take_blanks_along_are_those_of_phi_3_or_refused() {
        let token = |id: u32, text: &str, rstrip: bool| json!({"id": id, "content": text, "special": true, "rstrip": rstrip});
        let with = |list: Vec<Json>| {
            let mut file = sample();
            file["added_tokens"] = json!(list);
            converted(file, None).map(|keys| keys.strips)
        };
        let [unk, s] = [token(0, "<unk>", false), token(1, "<s>", false)];
        let phi = [token(264, "</s>", true), token(265, "<|endoftext|>", false)];
        assert!(with([&unk, &s, &phi[0], &phi[1]].map(Clone::clone).to_vec()).unwrap());
        assert!(!with(vec![unk.clone(), s.clone()]).unwrap());
        assert!(with(vec![unk.clone(), token(264, "</s>", true)]).is_err());
        assert!(with([&unk, &s, &phi[0]].map(Clone::clone).to_vec()).is_err());
        assert!(with(vec![unk, s, token(264, "</s>", true), token(265, "<|endoftext|>", true)]).is_err());
        let left = json!({"id": 264, "content": "<|x|>", "lstrip": true});
        assert!(with(vec![left]).unwrap_err().to_string().contains("<|x|>"));
    }

    #[test]
    fn a_vocabulary_without_all_bytes_is_refused() {
        let mut file = sample();
        file["model"]["vocab"].as_object_mut().unwrap().remove("<0x7F>");
        assert!(converted(file, None).unwrap_err().to_string().contains("1 of the 256"));
    }

    #[test]
    fn sentencepieces_own_file_is_enough() {
        let named = bytes(0);
        let mut pieces: Vec<(&str, f32, u8)> =
            named.iter().map(|(text, _)| (text.as_str(), 0.0, 6)).collect();
        pieces.extend([("\u{2581}a", -3.0, 1), ("\u{2581}\u{2581}", 0.0, 4)]);
        let files = TokenizerFiles::new([("added_tokens.json".to_owned(), br#"{"[PAD]": 258}"#.to_vec())]);
        let convert = |normalizer: &[u8]| {
            let model = Model::parse("tokenizer.model", &written(2, &pieces, normalizer)).unwrap();
            of_model(&model, &files, 260)
        };
        let keys = convert(&[3 << 3, 0, 4 << 3, 0]).unwrap();
        assert_eq!(*get(&keys, "add_space_prefix"), Value::from(false));
        let Value::Array(tokens) = get(&keys, "tokens") else { panic!("no list") };
        assert_eq!(tokens.len(), 260);
        assert_eq!(*get(&convert(&[4 << 3, 0]).unwrap(), "add_space_prefix"), Value::from(true));
        assert!(convert(&[]).unwrap_err().to_string().contains("merges spaces"));
        assert!(
            convert(&[2 << 3 | 2, 1, b'x', 4 << 3, 0]).unwrap_err().to_string().contains("normalization")
        );
    }
}
