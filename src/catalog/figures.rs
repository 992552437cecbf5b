//! Figures of a model from the keys of its GGUF, be it there or yet to be made.

use super::checkpoint::{limits, parameters};
use super::{Error, ModelFacts, Stored, windows};
use crate::gguf::{Array, Value};
use crate::source::Pinned;

/// A GGUF's keys, read one by one.
pub(super) struct Keys<'a>(pub(super) &'a [(String, Value)]);

impl Keys<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn text(&self, key: &str) -> Result<&str, Error> {
        let value = self.get(key).and_then(Value::as_str);
        value.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    /// Reads a whole number from 1 to `largest`.
    pub(super) fn optional(&self, key: &str, largest: u64) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=largest).contains(number));
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::GgufKey { key: key.to_owned() }),
        }
    }

    /// Reads whole numbers up to `largest`, one for each block; one for all of them may stand
    /// in its place.
    fn by_block(&self, key: &str, largest: u64, blocks: u32) -> Result<Option<Vec<u32>>, Error> {
        let Some(list) = self.get(key).and_then(Value::as_array) else {
            return Ok(self.optional(key, largest)?.map(|number| vec![number; blocks as usize]));
        };
        let number = |number: u64| u32::try_from(number).ok().filter(|_| number <= largest);
        let numbers: Option<Vec<u32>> =
            list.as_u64s().and_then(|numbers| numbers.into_iter().map(number).collect());
        numbers
            .filter(|numbers| numbers.len() == blocks as usize && most(numbers) > 0)
            .map(Some)
            .ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    fn each_block(&self, key: &str, largest: u64, blocks: u32) -> Result<Vec<u32>, Error> {
        self.by_block(key, largest, blocks)?.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    fn number(&self, key: &str, largest: u64) -> Result<u32, Error> {
        self.optional(key, largest)?.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    /// Returns how many tokens there are: the embedding's rows, which padding is part of.
    fn vocab(&self, architecture: &str, stored: &Stored) -> Result<u32, Error> {
        let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = stored;
        let embedding = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        let rows =
            embedding.and_then(|tensor| tensor.shape.get(1)).copied().filter(|rows| *rows <= limits::VOCAB);
        if let Some(rows) = rows.and_then(|rows| u32::try_from(rows).ok()) {
            return Ok(rows);
        }
        if let Some(vocab) = self.optional(&format!("{architecture}.vocab_size"), limits::VOCAB)? {
            return Ok(vocab);
        }
        let tokens = self.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(Array::len);
        tokens
            .and_then(|tokens| u32::try_from(tokens).ok())
            .ok_or_else(|| Error::GgufKey { key: "tokenizer.ggml.tokens".to_owned() })
    }
}

/// Takes the facts from the keys under the architecture's name.
pub(super) fn facts(
    source: Pinned,
    keys: &Keys<'_>,
    stored: Stored,
    has_chat_template: bool,
) -> Result<ModelFacts, Error> {
    let architecture = keys.text("general.architecture")?;
    let of = |key: &str| format!("{architecture}.{key}");
    let layers = keys.number(&of("block_count"), limits::LAYERS)?;
    let hidden = keys.number(&of("embedding_length"), limits::WIDTH)?;
    let heads = keys.each_block(&of("attention.head_count"), limits::HEADS, layers)?;
    let kv_heads_by_block = keys.by_block(&of("attention.head_count_kv"), limits::HEADS, layers)?;
    let kv_heads_by_block = kv_heads_by_block.unwrap_or_else(|| heads.clone());
    let (heads, kv_heads) = (most(&heads), most(&kv_heads_by_block));
    if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
        return Err(Error::Disagree {
            what: format!("{heads} attention heads over {kv_heads} key-value heads"),
        });
    }
    let evenly = (hidden >= heads && hidden.is_multiple_of(heads)).then(|| hidden / heads);
    let head_dim = keys.optional(&of("attention.key_length"), limits::WIDTH)?.or(evenly);
    let head_dim = head_dim.ok_or_else(|| Error::Disagree {
        what: format!("a width of {hidden} over {heads} attention heads"),
    })?;
    let value_dim = keys.optional(&of("attention.value_length"), limits::WIDTH)?.or(evenly);
    // some converters write 0 where there is no window
    let window_key = of("attention.sliding_window");
    let window = match keys.get(&window_key).and_then(Value::as_u64) {
        Some(0) => None,
        _ => keys.optional(&window_key, limits::CONTEXT)?,
    };
    let context_trained = keys.number(&of("context_length"), limits::CONTEXT)?;
    let is_left_out = windows::is_left_out(architecture);
    let windowed = windows::windowed(keys, architecture, layers)?;
    let window = window.or_else(|| windows::usual(architecture).filter(|_| !windowed.is_empty()));
    let decoder_layers = keys.optional(&of("decoder_block_count"), limits::LAYERS)?;
    let side_by_side = keys.get(&of("use_parallel_residual")).and_then(Value::as_bool);
    let feed_forward = keys.each_block(&of("feed_forward_length"), limits::WIDTH, layers)?;
    let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &stored;
    Ok(ModelFacts {
        source,
        architecture: architecture.to_owned(),
        parameters: parameters(tensors)?,
        layers,
        decoder_layers: decoder_layers.or((architecture == "t5").then_some(layers)),
        hidden,
        feed_forward: most(&feed_forward),
        heads,
        kv_heads,
        kv_heads_by_block: if kv_heads_by_block.iter().all(|heads| *heads == kv_heads) {
            Vec::new()
        } else {
            kv_heads_by_block
        },
        head_dim,
        value_dim: value_dim.filter(|width| *width != head_dim),
        vocab: keys.vocab(architecture, &stored)?,
        context_trained,
        window,
        windowed,
        is_side_by_side: side_by_side.unwrap_or(false),
        context_exact: window.filter(|window| is_left_out && *window <= context_trained),
        is_tied: tensors.iter().all(|tensor| tensor.name != "output.weight"),
        has_chat_template,
        prompt_style: None,
        imatrix: None,
        experts_used: keys.optional(&of("expert_used_count"), limits::HEADS)?,
        stored,
    })
}

fn most(numbers: &[u32]) -> u32 {
    numbers.iter().copied().max().unwrap_or(0)
}
