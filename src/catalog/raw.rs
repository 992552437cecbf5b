//! Facts from the headers of what is published, before any weights are here.

use std::collections::BTreeMap;

use serde_json::Value;

use super::checkpoint::{limits, parameters};
use super::{Error, ModelFacts, Stored, TensorShape};
use crate::quant::Quant;
use crate::source::Pinned;
use crate::units::Bytes;
use crate::{checkpoint, convert, gguf};

impl ModelFacts {
    /// Takes the facts from a checkpoint's `config.json` and the JSON headers of its shards
    /// (without the length that stands before each).
    ///
    /// # Errors
    /// Architectures that cannot be converted are refused by name; headers that cannot be are
    /// refused with what is wrong in them.
    pub fn from_headers(
        source: Pinned,
        config: &Value,
        shards: &[Vec<u8>],
        has_chat_template: bool,
    ) -> Result<Self, Error> {
        convert::check(config).map_err(|error| Error::Convert(error.to_string()))?;
        let mut stored = BTreeMap::new();
        for json in shards {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(json);
            let header =
                checkpoint::Header::parse(&bytes).map_err(|error| Error::Header(error.to_string()))?;
            stored.extend(header.tensors);
        }
        let tensors =
            convert::gguf_tensors(config, &stored).map_err(|error| Error::Convert(error.to_string()))?;
        let tensors = tensors
            .into_iter()
            .map(|tensor| TensorShape { name: tensor.name, shape: tensor.shape, tensor_type: None })
            .collect();
        Self::from_checkpoint(source, config, tensors, has_chat_template)
    }

    /// Takes the facts from the first bytes of a GGUF, up to the end of its list of tensors.
    ///
    /// # Errors
    /// Names the key that is missing or not to be believed; a file that is shorter than its
    /// header says is refused with both sizes.
    pub fn from_gguf(source: Pinned, header: &[u8]) -> Result<Self, Error> {
        let header = gguf::Header::read(header).map_err(|error| Error::Header(error.to_string()))?;
        let bytes = source.bytes();
        if header.file_bytes() > bytes.0 {
            return Err(Error::Short { found: bytes, expected: Bytes(header.file_bytes()) });
        }
        let keys = Keys(&header);
        let architecture = keys.text("general.architecture")?;
        let of = |key: &str| format!("{architecture}.{key}");
        let heads = keys.number(&of("attention.head_count"), limits::HEADS)?;
        let hidden = keys.number(&of("embedding_length"), limits::WIDTH)?;
        let kv_heads = keys.optional(&of("attention.head_count_kv"), limits::HEADS)?.unwrap_or(heads);
        let head_dim = keys.optional(&of("attention.key_length"), limits::WIDTH)?.unwrap_or(hidden / heads);
        let tokens =
            header.get("tokenizer.ggml.tokens").and_then(gguf::Value::as_array).map(gguf::Array::len);
        let vocab = match keys.optional(&of("vocab_size"), limits::VOCAB)? {
            Some(vocab) => vocab,
            None => tokens
                .and_then(|tokens| u32::try_from(tokens).ok())
                .ok_or_else(|| Error::GgufKey { key: "tokenizer.ggml.tokens".to_owned() })?,
        };
        let tensors: Vec<TensorShape> = header
            .tensors
            .iter()
            .map(|tensor| TensorShape {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                tensor_type: Some(tensor.tensor_type.name().to_owned()),
            })
            .collect();
        let file_type = header.get("general.file_type").and_then(gguf::Value::as_u64);
        let quant = Quant::ALL.iter().copied().find(|quant| Some(u64::from(quant.ftype())) == file_type);
        Ok(Self {
            architecture: architecture.to_owned(),
            parameters: parameters(&tensors)?,
            layers: keys.number(&of("block_count"), limits::LAYERS)?,
            hidden,
            feed_forward: keys.number(&of("feed_forward_length"), limits::WIDTH)?,
            heads,
            kv_heads,
            head_dim,
            vocab,
            context_trained: keys.number(&of("context_length"), limits::CONTEXT)?,
            window: keys.optional(&of("attention.sliding_window"), limits::CONTEXT)?,
            is_tied: tensors.iter().all(|tensor| tensor.name != "output.weight"),
            has_chat_template: header.get("tokenizer.chat_template").is_some(),
            stored: Stored::Gguf { bytes, tensors, quant },
            source,
        })
    }
}

/// A GGUF's keys, read one by one.
struct Keys<'a>(&'a gguf::Header);

impl Keys<'_> {
    fn text(&self, key: &str) -> Result<&str, Error> {
        let value = self.0.get(key).and_then(gguf::Value::as_str);
        value.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }

    /// Reads a whole number from 1 to `largest`.
    fn optional(&self, key: &str, largest: u64) -> Result<Option<u32>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=largest).contains(number));
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::GgufKey { key: key.to_owned() }),
        }
    }

    fn number(&self, key: &str, largest: u64) -> Result<u32, Error> {
        self.optional(key, largest)?.ok_or_else(|| Error::GgufKey { key: key.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::source::PinnedFile;

    fn pinned(bytes: u64) -> Pinned {
        let file = PinnedFile { path: "m.gguf".to_owned(), bytes: Bytes(bytes), sha256: Digest::of(b"m") };
        Pinned { uri: "file:m.gguf".to_owned(), files: vec![file], license: None }
    }

    #[test]
    fn a_file_that_is_no_gguf_is_refused() {
        let error = ModelFacts::from_gguf(pinned(4), b"GGML").unwrap_err();
        assert!(matches!(error, Error::Header(_)), "{error}");
    }

    #[test]
    fn an_unknown_architecture_is_named_before_headers_are_read() {
        let config = serde_json::json!({ "architectures": ["StrangeForCausalLM"], "model_type": "strange" });
        let error = ModelFacts::from_headers(pinned(4), &config, &[], false).unwrap_err();
        assert!(error.to_string().contains("StrangeForCausalLM"), "{error}");
    }
}
