//! Facts from the headers of what is published, before any weights are here.

use std::collections::BTreeMap;

use serde_json::Value;

use super::figures::{self, Keys};
use super::{Error, ModelFacts, Stored, TensorShape, known, tensors};
use crate::quant::Quant;
use crate::source::Pinned;
use crate::units::Bytes;
use crate::{checkpoint, convert, gguf};

impl ModelFacts {
    /// Takes the facts from a checkpoint's `config.json`, the JSON headers of its shards
    /// (without the length that stands before each) and the files of its tokenizer.
    ///
    /// # Errors
    /// Architectures and tokenizers that cannot be converted are refused by name; headers that
    /// cannot be are refused with what is wrong in them.
    pub fn from_headers(
        source: Pinned,
        config: &Value,
        shards: &[Vec<u8>],
        tokenizer: &convert::TokenizerFiles,
    ) -> Result<Self, Error> {
        let refused = |error: convert::Error| Error::Convert(error.to_string());
        let plain = convert::plain(config).map_err(refused)?;
        let keys = convert::tokenizer_keys(&plain, tokenizer).map_err(refused)?;
        let brings_template = keys.iter().any(|(key, _)| key == "tokenizer.chat_template");
        let prompt_style = if brings_template { None } else { known::prompt_style(&source) };
        let mut stored = BTreeMap::new();
        for json in shards {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(json);
            let header =
                checkpoint::Header::parse(&bytes).map_err(|error| Error::Header(error.to_string()))?;
            for (name, tensor) in header.tensors {
                if stored.contains_key(&name) {
                    return Err(Error::Header(format!("tensor {name:?} is in two files")));
                }
                stored.insert(name, tensor);
            }
        }
        let tensors = convert::gguf_tensors(config, &stored).map_err(refused)?;
        let tensors = tensors
            .into_iter()
            .map(|tensor| TensorShape { name: tensor.name, shape: tensor.shape, tensor_type: None })
            .collect();
        let has_chat_template = brings_template || prompt_style.is_some();
        Ok(Self { prompt_style, ..Self::from_checkpoint(source, config, tensors, has_chat_template)? })
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
        let held = header.tensors.iter().fold(0u64, |all, tensor| all.saturating_add(tensor.bytes));
        if header.data_offset.saturating_add(held) > bytes.0 {
            return Err(Error::Overlap { found: bytes, expected: Bytes(held) });
        }
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
        let has_chat_template = header.get("tokenizer.chat_template").is_some();
        let stored = Stored::Gguf { bytes, tensors, quant };
        let facts = figures::facts(source, &Keys(&header.metadata), stored, has_chat_template)?;
        let (Stored::Gguf { tensors, .. } | Stored::Checkpoint { tensors }) = &facts.stored;
        tensors::check(&facts, tensors)?;
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::TokenizerFiles;
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
        let error =
            ModelFacts::from_headers(pinned(4), &config, &[], &TokenizerFiles::default()).unwrap_err();
        assert!(error.to_string().contains("StrangeForCausalLM"), "{error}");
    }

    #[test]
    fn a_tokenizer_that_cannot_be_converted_is_refused_before_headers_are_read() {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 64,
        });
        let refused = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
            let error = ModelFacts::from_headers(pinned(4), &config, &[], &TokenizerFiles::new(files));
            error.unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("there is no tokenizer.json"));
        let word_piece = r#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
        assert!(refused(&[("tokenizer.json", word_piece)]).contains("WordPiece"));
    }
}
