//! Facts of a model from its checkpoint's `config.json` and its tensors.

use serde_json::Value;

use super::{Error, ModelFacts, Stored, TensorShape};
use crate::source::Pinned;

/// The largest of each figure that is believed: some ten times the largest model that
/// is published, so that nothing computed from them overflows.
pub(super) mod limits {
    pub(in crate::catalog) const LAYERS: u64 = 1_000;
    pub(in crate::catalog) const WIDTH: u64 = 1 << 20;
    pub(in crate::catalog) const HEADS: u64 = 4_096;
    pub(in crate::catalog) const VOCAB: u64 = 1 << 24;
    pub(in crate::catalog) const CONTEXT: u64 = 1 << 28;
    pub(in crate::catalog) const TENSORS: usize = 1 << 20;
    pub(in crate::catalog) const PARAMETERS: u64 = 1 << 44;
}

impl ModelFacts {
    /// Takes the facts from a checkpoint: `config` is its `config.json`, of the families that are
    /// configured like Llama; `tensors` are those that the GGUF will have, by GGUF name.
    ///
    /// # Errors
    /// Names the key that is missing or not to be believed, or the tensor.
    pub fn from_checkpoint(
        source: Pinned,
        config: &Value,
        tensors: Vec<TensorShape>,
        has_chat_template: bool,
    ) -> Result<Self, Error> {
        let config = Config(config);
        let model_type = config.text("model_type")?;
        let heads = config.number("num_attention_heads", limits::HEADS)?;
        let hidden = config.number("hidden_size", limits::WIDTH)?;
        let kv_heads = config.optional("num_key_value_heads", limits::HEADS)?.unwrap_or(heads);
        if kv_heads > heads || heads % kv_heads != 0 {
            return Err(Error::Disagree {
                what: format!("{heads} attention heads over {kv_heads} key-value heads"),
            });
        }
        let head_dim = match config.optional("head_dim", limits::WIDTH)? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(Error::Disagree {
                    what: format!("a width of {hidden} over {heads} attention heads"),
                });
            }
        };
        let window = match config.is_true("use_sliding_window") {
            Some(false) => None,
            _ => config.optional("sliding_window", limits::CONTEXT)?,
        };
        let parameters = parameters(&tensors)?;
        let has_head = tensors.iter().any(|tensor| tensor.name == "output.weight");
        Ok(Self {
            source,
            architecture: architecture(model_type)?.to_owned(),
            parameters,
            layers: config.number("num_hidden_layers", limits::LAYERS)?,
            hidden,
            feed_forward: config.number("intermediate_size", limits::WIDTH)?,
            heads,
            kv_heads,
            head_dim,
            vocab: config.number("vocab_size", limits::VOCAB)?,
            context_trained: config.number("max_position_embeddings", limits::CONTEXT)?,
            window,
            is_tied: !has_head,
            has_chat_template,
            stored: Stored::Checkpoint { tensors },
        })
    }
}

/// Returns GGUF's name for an architecture of `config.json`: those that the facts are read of.
fn architecture(model_type: &str) -> Result<&'static str, Error> {
    match model_type {
        // GGUF knows Mistral's weights as Llama's: they differ in the window only
        "llama" | "mistral" => Ok("llama"),
        "qwen2" => Ok("qwen2"),
        "gemma2" => Ok("gemma2"),
        "phi3" => Ok("phi3"),
        _ => Err(Error::Architecture { model_type: model_type.chars().take(60).collect() }),
    }
}

/// Counts elements, each tensor's size believed only within bounds.
pub(super) fn parameters(tensors: &[TensorShape]) -> Result<u64, Error> {
    if tensors.is_empty() || tensors.len() > limits::TENSORS {
        return Err(Error::Disagree { what: format!("a checkpoint of {} tensors", tensors.len()) });
    }
    let elements = |tensor: &TensorShape| {
        let count = tensor.shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
        count.filter(|&count| count > 0)
    };
    let add = |sum: u64, tensor: &TensorShape| {
        elements(tensor)
            .and_then(|count| sum.checked_add(count))
            .filter(|&sum| sum <= limits::PARAMETERS)
            .ok_or_else(|| Error::Tensor {
                name: tensor.name.chars().take(120).collect(),
                shape: tensor.shape.iter().copied().take(8).collect(),
            })
    };
    tensors.iter().try_fold(0, add)
}

/// `config.json`, read key by key.
struct Config<'a>(&'a Value);

impl Config<'_> {
    fn text(&self, key: &'static str) -> Result<&str, Error> {
        self.0.get(key).and_then(Value::as_str).ok_or(Error::MissingKey { key })
    }

    fn is_true(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    /// Reads a whole number from 1 to `largest`; null counts as not there.
    fn optional(&self, key: &'static str, largest: u64) -> Result<Option<u32>, Error> {
        let Some(value) = self.0.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=largest).contains(number));
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::BadKey { key, found: value.to_string().chars().take(60).collect(), largest }),
        }
    }

    fn number(&self, key: &'static str, largest: u64) -> Result<u32, Error> {
        self.optional(key, largest)?.ok_or(Error::MissingKey { key })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source() -> Pinned {
        Pinned { uri: "hf:org/repo@0123".to_owned(), files: Vec::new(), license: None }
    }

    fn tensor(name: &str, shape: &[u64]) -> TensorShape {
        TensorShape { name: name.to_owned(), shape: shape.to_vec(), tensor_type: None }
    }

    /// The figures of SmolLM2-135M-Instruct.
    fn smol() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "max_position_embeddings": 8192, "tie_word_embeddings": true, "head_dim": null
        })
    }

    fn tensors() -> Vec<TensorShape> {
        vec![tensor("token_embd.weight", &[576, 49152]), tensor("output_norm.weight", &[576])]
    }

    fn facts(config: &Value) -> Result<ModelFacts, Error> {
        ModelFacts::from_checkpoint(source(), config, tensors(), true)
    }

    #[test]
    fn a_llama_like_configuration_gives_the_facts() {
        let facts = facts(&smol()).expect("complete");
        assert_eq!((facts.architecture.as_str(), facts.layers, facts.hidden), ("llama", 30, 576));
        assert_eq!((facts.heads, facts.kv_heads, facts.head_dim), (9, 3, 64));
        assert_eq!((facts.vocab, facts.context_trained, facts.window), (49152, 8192, None));
        assert_eq!(facts.parameters, 576 * 49152 + 576);
        assert!(facts.is_tied && facts.has_chat_template);
    }

    #[test]
    fn a_window_counts_only_where_it_is_used() {
        let mut config = smol();
        config["sliding_window"] = json!(4096);
        assert_eq!(facts(&config).expect("complete").window, Some(4096));
        config["use_sliding_window"] = json!(false);
        assert_eq!(facts(&config).expect("complete").window, None);
    }

    #[test]
    fn every_key_that_is_missing_is_named() {
        let needed = [
            "model_type",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
        ];
        for key in needed {
            let mut config = smol();
            config.as_object_mut().expect("an object").shift_remove(key);
            let error = facts(&config).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        let bad = [
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(2)),
            ("num_key_value_heads", json!(18)),
            ("num_attention_heads", json!(7)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!(1.5)),
            ("num_hidden_layers", json!(u64::MAX)),
            ("vocab_size", json!("many")),
            ("model_type", json!("made-up")),
        ];
        for (key, value) in bad {
            let mut config = smol();
            config[key] = value.clone();
            assert!(facts(&config).is_err(), "{key} {value}");
        }
        assert!(facts(&json!(null)).is_err() && facts(&json!([1])).is_err());
    }

    #[test]
    fn tensors_that_would_overflow_are_named() {
        let bad = [vec![], vec![tensor("x", &[0, 5])], vec![tensor("x", &[1 << 40, 1 << 40])]];
        for tensors in bad {
            assert!(ModelFacts::from_checkpoint(source(), &smol(), tensors, false).is_err());
        }
        let error = ModelFacts::from_checkpoint(source(), &smol(), vec![tensor("blk.0", &[1 << 45])], false);
        assert_eq!(
            error.expect_err("too large").to_string(),
            "tensor \"blk.0\" has a shape that cannot be: [35184372088832]"
        );
    }
}
