//! The numbers of tokens with a part to play, and which of them stand around every text.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::json::Tokenizer;
use super::piece::Model;
use super::{Config, Error, TokenizerFiles};
use crate::gguf::Value;

/// By these texts llama.cpp knows by itself that an answer ends.
const KNOWN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<eos>",
];

/// What the kind of a tokenizer puts around texts when no file says anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub(super) start: bool,
    pub(super) end: bool,
    /// The token that plays every part.
    pub(super) token: Option<&'static str>,
}

/// Finds the numbers, and says what stands around texts.
pub(super) fn keys(
    tokens: &[String],
    files: &TokenizerFiles,
    config: Config<'_>,
    tokenizer: Option<&Tokenizer>,
    model: Option<&Model>,
    around: Around,
) -> Result<Vec<(String, Value)>, Error> {
    let settings = files.json("tokenizer_config.json")?;
    let map = files.json("special_tokens_map.json")?;
    let generation = files.json("generation_config.json")?;
    let numbers: HashMap<&str, u32> = (0..).zip(tokens).map(|(id, text)| (text.as_str(), id)).collect();
    let find = |which: &str| -> Option<u32> {
        let by_text = [&settings, &map].into_iter().find_map(|file| {
            let entry = file.get(format!("{which}_token"))?;
            let text = entry.as_str().or_else(|| entry.get("content")?.as_str())?;
            numbers.get(text).copied()
        });
        let by_number = || {
            let key = format!("{which}_token_id");
            [config.0, &generation].into_iter().find_map(|file| ids(file.get(&key)?).first().copied())
        };
        let by_model = || {
            let model = model?;
            let number = match which {
                "bos" => model.start,
                "eos" => model.end,
                "unk" => model.unknown,
                _ => model.pad,
            };
            u32::try_from(number).ok()
        };
        let by_kind = || numbers.get(around.token.filter(|_| which != "pad")?).copied();
        by_text
            .or_else(by_number)
            .or_else(by_model)
            .or_else(by_kind)
            .filter(|id| (*id as usize) < tokens.len())
    };
    let (start, end) = (find("bos"), find("eos"));
    let mut keys = Vec::new();
    for (key, id) in [("bos", start), ("eos", end), ("unknown", find("unk")), ("padding", find("pad"))] {
        keys.extend(id.map(|id| (format!("{key}_token_id"), Value::from(id))));
    }
    // ends of turns that llama.cpp would not know by their texts
    let ends = generation.get("eos_token_id").map(ids).unwrap_or_default();
    let text = |id: u32| tokens.get(id as usize).map(String::as_str);
    let others = ends.into_iter().filter(|id| Some(*id) != end);
    let unknown = others.filter(|id| text(*id).is_some_and(|text| !KNOWN_ENDS.contains(&text)));
    for (key, id) in ["eot_token_id", "eom_token_id"].into_iter().zip(unknown) {
        keys.push((key.to_owned(), id.into()));
    }
    let (adds_start, adds_end) = adds(&settings, tokenizer, &numbers, start, end, around)?;
    keys.push(("add_bos_token".to_owned(), adds_start.into()));
    keys.push(("add_eos_token".to_owned(), adds_end.into()));
    Ok(keys)
}

/// Returns one number, or those of a list.
fn ids(value: &Json) -> Vec<u32> {
    let number = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(number).collect(),
        None => number(value).into_iter().collect(),
    }
}

/// Tells whether the start and the end token are put around every text.
///
/// Settings come first where the class of `transformers` heeds them, then the
/// post-processor, then settings again, then what the kind of tokenizer does by itself.
fn adds(
    settings: &Json,
    tokenizer: Option<&Tokenizer>,
    numbers: &HashMap<&str, u32>,
    start: Option<u32>,
    end: Option<u32>,
    around: Around,
) -> Result<(bool, bool), Error> {
    let setting = |key: &str| settings.get(key).and_then(Json::as_bool);
    let class = settings.get("tokenizer_class").and_then(Json::as_str).unwrap_or_default();
    let heeds = ["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"]
        .iter()
        .any(|name| class == *name || class.strip_suffix("Fast") == Some(name));
    let by_template = match tokenizer {
        Some(tokenizer) => template(tokenizer, numbers, start, end)?,
        None => None,
    };
    let choose = |key: &str, of_template: Option<bool>, of_kind: bool| {
        let first = if heeds { setting(key) } else { None };
        first.or(of_template).or_else(|| setting(key)).unwrap_or(of_kind)
    };
    let adds_start = choose("add_bos_token", by_template.map(|(start, _)| start), around.start);
    let adds_end = choose("add_eos_token", by_template.map(|(_, end)| end), around.end);
    for (adds, id, what) in [(adds_start, start, "start"), (adds_end, end, "end")] {
        if adds && id.is_none() {
            return Err(Error::Tokenizer(format!("it puts an {what} token around texts, and names none")));
        }
    }
    Ok((adds_start, adds_end))
}

/// Returns what the post-processor puts before and after a text; none if it has no say.
fn template(
    tokenizer: &Tokenizer,
    numbers: &HashMap<&str, u32>,
    start: Option<u32>,
    end: Option<u32>,
) -> Result<Option<(bool, bool)>, Error> {
    let mut found = None;
    for step in super::json::steps(&tokenizer.post_processor, "processors") {
        let no_match = || {
            let shown: String = step.to_string().chars().take(200).collect();
            Error::Tokenizer(format!("llama.cpp has no match for what it puts around texts: {shown}"))
        };
        match step["type"].as_str() {
            Some("ByteLevel") => {}
            Some("TemplateProcessing") if found.is_none() => {
                let pieces = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
                let is_text = |piece: &&Json| piece.get("Sequence").is_some();
                let Some(at) = pieces.iter().position(|piece| is_text(&piece)) else {
                    return Err(no_match());
                };
                let id = |piece: &Json| numbers.get(piece["SpecialToken"]["id"].as_str()?).copied();
                let before: Vec<_> = pieces[..at].iter().map(id).collect();
                let after: Vec<_> = pieces[at + 1..].iter().map(id).collect();
                let is_one = |list: &[Option<u32>], token: Option<u32>| match list {
                    [] => Some(false),
                    [id] if id.is_some() && *id == token => Some(true),
                    _ => None,
                };
                let both = is_one(&before, start).zip(is_one(&after, end));
                found = Some(both.ok_or_else(no_match)?);
            }
            _ => return Err(no_match()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn found(
        files: &[(&str, Json)],
        config: &Json,
        post: Option<Json>,
        around: Around,
    ) -> Result<String, Error> {
        let files = TokenizerFiles::new(
            files.iter().map(|(name, json)| ((*name).to_owned(), json.to_string().into_bytes())),
        );
        let tokenizer = post.map(|post| {
            Tokenizer::deserialize(json!({"post_processor": post, "model": {"vocab": {}}})).unwrap()
        });
        let tokens = ["<s>", "</s>", "<unk>", "<|im_end|>", "<stop>"].map(str::to_owned);
        let keys = keys(&tokens, &files, Config(config), tokenizer.as_ref(), None, around)?;
        let shown = |(key, value): (String, Value)| match value.as_u64() {
            Some(number) => format!("{key} {number}"),
            None => format!("{key} {}", value == Value::from(true)),
        };
        Ok(keys.into_iter().map(shown).collect::<Vec<_>>().join(", "))
    }

    const NONE: Around = Around { start: false, end: false, token: None };

    #[test]
    fn numbers_come_from_texts_before_numbers() {
        let files = [
            ("tokenizer_config.json", json!({"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"})),
            ("special_tokens_map.json", json!({"unk_token": "<unk>", "eos_token": "</s>"})),
            ("generation_config.json", json!({"pad_token_id": 1, "eos_token_id": [3, 1, 4]})),
        ];
        let config = json!({"bos_token_id": 4, "eos_token_id": [1]});
        let expected = "bos_token_id 0, eos_token_id 3, unknown_token_id 2, padding_token_id 1, eot_token_id 4, \
                        add_bos_token false, add_eos_token false";
        assert_eq!(found(&files, &config, None, NONE).unwrap(), expected);
        let beyond = json!({"bos_token_id": 99, "eos_token_id": [1, 4]});
        assert_eq!(
            found(&[], &beyond, None, NONE).unwrap(),
            "eos_token_id 1, add_bos_token false, add_eos_token false"
        );
    }

    #[test]
    fn what_stands_around_texts_is_told_by_the_template_or_the_settings() {
        let ids = json!({"bos_token_id": 0, "eos_token_id": 1});
        let [start, end] = ["<s>", "</s>"].map(|text| json!({"SpecialToken": {"id": text}}));
        let text = json!({"Sequence": {"id": "A"}});
        let template = |single: Json| {
            Some(json!({"type": "Sequence", "processors": [
                {"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": single}]}))
        };
        let both = |settings: Json, post: Option<Json>, around: Around| {
            let shown = found(&[("tokenizer_config.json", settings)], &ids, post, around)?;
            Ok::<_, Error>((shown.contains("add_bos_token true"), shown.contains("add_eos_token true")))
        };
        let all = Around { start: true, end: true, token: None };
        assert_eq!(both(json!({}), template(json!([start, text])), NONE).unwrap(), (true, false));
        assert_eq!(both(json!({}), template(json!([text, end])), all).unwrap(), (false, true));
        assert_eq!(both(json!({"add_bos_token": true}), None, NONE).unwrap(), (true, false));
        assert_eq!(both(json!({"add_bos_token": false}), None, all).unwrap(), (false, true));
        // classes of Llama set the template by the settings; others leave it as it is
        let llama = json!({"add_bos_token": false, "tokenizer_class": "LlamaTokenizerFast"});
        assert_eq!(both(llama, template(json!([start, text])), NONE).unwrap(), (false, false));
        let other = json!({"add_bos_token": false, "tokenizer_class": "PreTrainedTokenizerFast"});
        assert_eq!(both(other, template(json!([start, text])), NONE).unwrap(), (true, false));
        for odd in [json!([start, start, text]), json!([end, text]), json!([start])] {
            assert!(both(json!({}), template(odd), NONE).is_err());
        }
        assert!(both(json!({}), Some(json!({"type": "RobertaProcessing"})), NONE).is_err());
        let error = found(&[], &json!({}), None, all).unwrap_err().to_string();
        assert!(error.contains("names none"), "{error}");
    }
}
