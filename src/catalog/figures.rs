//! Figures of a model from the keys of its GGUF, be it there or yet to be made.

use super::checkpoint::{limits, parameters};
use super::{Error, ModelFacts, Stored};
use crate::gguf::{Array, Value};
use crate::source::Pinned;

/// Architectures that may come with a sliding window which llama.cpp's graph of them leaves
/// out: longer contexts than the window are not what the model computes.
///
/// Every other architecture whose files name a window reads the key (`src/models/*.cpp` of the
/// llama.cpp in llama-cpp-sys-2 0.1.161); Phi-3's graph reads it and switches it off.
const WINDOW_LEFT_OUT: [&str; 5] = ["gpt2", "llama", "phi3", "qwen2", "qwen3"];

/// A GGUF's keys, read one by one.
pub(super) struct Keys<'a>(pub(super) &'a [(String, Value)]);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn text(&self, key: &str) -> Result<&str, Error> {
        let value = self.get(key).and_then(Value::as_str);
        value.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    /// Reads a whole number from 1 to `largest`.
    fn optional(&self, key: &str, largest: u64) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=largest).contains(number));
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::GgufKey { key: key.to_owned() }),
        }
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
    let heads = keys.number(&of("attention.head_count"), limits::HEADS)?;
    let hidden = keys.number(&of("embedding_length"), limits::WIDTH)?;
    let kv_heads = keys.optional(&of("attention.head_count_kv"), limits::HEADS)?.unwrap_or(heads);
    if kv_heads > heads || heads % kv_heads != 0 {
        return Err(Error::Disagree {
            what: format!("{heads} attention heads over {kv_heads} key-value heads"),
        });
    }
    let head_dim = match keys.optional(&of("attention.key_length"), limits::WIDTH)? {
        Some(head_dim) => head_dim,
        None if hidden >= heads && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::Disagree {
                what: format!("a width of {hidden} over {heads} attention heads"),
            });
        }
    };
    // some converters write 0 where there is no window
    let window_key = of("attention.sliding_window");
    let window = match keys.get(&window_key).and_then(Value::as_u64) {
        Some(0) => None,
        _ => keys.optional(&window_key, limits::CONTEXT)?,
    };
    let context_trained = keys.number(&of("context_length"), limits::CONTEXT)?;
    let is_left_out = WINDOW_LEFT_OUT.contains(&architecture);
    let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &stored;
    Ok(ModelFacts {
        source,
        architecture: architecture.to_owned(),
        parameters: parameters(tensors)?,
        layers: keys.number(&of("block_count"), limits::LAYERS)?,
        decoder_layers: keys.optional(&of("decoder_block_count"), limits::LAYERS)?,
        hidden,
        feed_forward: keys.number(&of("feed_forward_length"), limits::WIDTH)?,
        heads,
        kv_heads,
        head_dim,
        vocab: keys.vocab(architecture, &stored)?,
        context_trained,
        window,
        context_exact: window.filter(|window| is_left_out && *window <= context_trained),
        is_tied: tensors.iter().all(|tensor| tensor.name != "output.weight"),
        has_chat_template,
        prompt_style: None,
        imatrix: None,
        stored,
    })
}
