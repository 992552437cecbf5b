//! Facts of a model from its checkpoint's `config.json` and its tensors.

use serde_json::Value;

use super::figures::{self, Keys};
use super::{Error, ModelFacts, Stored, TensorShape};
use crate::convert;
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
    /// Takes the facts from a checkpoint: `config` is its `config.json`, `tensors` are those that
    /// the GGUF will have, by GGUF name.
    ///
    /// The figures are read of the keys that the GGUF will have, so that they are the same before
    /// and after, for every family that can be converted.
    ///
    /// # Errors
    /// Architectures that cannot be converted; names the key that is missing or not to be
    /// believed, or the tensor.
    pub fn from_checkpoint(
        source: Pinned,
        config: &Value,
        tensors: Vec<TensorShape>,
        has_chat_template: bool,
    ) -> Result<Self, Error> {
        let keys = convert::gguf_keys(config).map_err(|error| Error::Convert(error.to_string()))?;
        let stored = Stored::Checkpoint { tensors };
        let facts = figures::facts(source, &Keys(&keys), stored, has_chat_template);
        let mut facts = facts.map_err(|error| match error {
            Error::GgufKey { key } => Error::Figure { key },
            other => other,
        })?;
        let exact = convert::exact_context(config).map_err(|error| Error::Convert(error.to_string()))?;
        facts.context_exact = facts.context_exact.or(exact);
        Ok(facts)
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
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
            "tie_word_embeddings": true, "head_dim": null
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

    /// Layers, of a decoder, width, feed-forward, heads, width of one, context, window, exact context.
    type Figures = (u32, Option<u32>, u32, u32, u32, u32, u32, Option<u32>, Option<u32>);

    #[test]
    fn each_family_gives_its_facts_whatever_it_calls_them() {
        let cases: [(&str, Value, Figures); 9] = [
            // GPT-2
            (
                "gpt2",
                json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
                    "n_positions": 1024, "vocab_size": 50257}),
                (12, None, 768, 3072, 12, 64, 1024, None, None),
            ),
            // GPT-Neo 1.3B
            (
                "gpt2",
                json!({"architectures": ["GPTNeoForCausalLM"], "hidden_size": 2048, "num_heads": 16,
                    "num_layers": 24, "max_position_embeddings": 2048, "vocab_size": 50257, "window_size": 256,
                    "intermediate_size": null, "attention_types": [[["global", "local"], 12]]}),
                (24, None, 2048, 8192, 16, 128, 2048, Some(256), None),
            ),
            // GPT-J 6B
            (
                "phi2",
                json!({"architectures": ["GPTJForCausalLM"], "n_embd": 4096, "n_head": 16, "n_layer": 28,
                    "n_positions": 2048, "vocab_size": 50400, "rotary_dim": 64, "n_inner": null}),
                (28, None, 4096, 16384, 16, 256, 2048, None, None),
            ),
            // Pythia 410M
            (
                "gptneox",
                json!({"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 1024, "num_attention_heads": 16,
                    "num_hidden_layers": 24, "intermediate_size": 4096, "max_position_embeddings": 2048,
                    "vocab_size": 50304, "rotary_pct": 0.25}),
                (24, None, 1024, 4096, 16, 64, 2048, None, None),
            ),
            // BLOOM 560M, whose config.json names no context
            (
                "bloom",
                json!({"architectures": ["BloomForCausalLM"], "n_embed": 1024, "num_attention_heads": 16,
                    "n_layer": 24, "vocab_size": 250_880}),
                (24, None, 1024, 4096, 16, 64, 2048, None, None),
            ),
            // FLAN-T5 small
            (
                "t5",
                json!({"architectures": ["T5ForConditionalGeneration"], "d_model": 512, "d_kv": 64, "d_ff": 1024,
                    "num_heads": 6, "num_layers": 8, "num_decoder_layers": 7, "vocab_size": 32128,
                    "n_positions": 512, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}),
                (8, Some(7), 512, 1024, 6, 64, 512, None, None),
            ),
            // Mistral 7B v0.1: the GGUF ends where the window does
            (
                "llama",
                json!({"architectures": ["MistralForCausalLM"], "hidden_size": 4096, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "num_hidden_layers": 32, "intermediate_size": 14336,
                    "max_position_embeddings": 32768, "vocab_size": 32000, "sliding_window": 4096}),
                (32, None, 4096, 14336, 32, 128, 32768, Some(4096), None),
            ),
            // Phi-3 mini 4k, whose window is one short of half
            (
                "phi3",
                json!({"architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "num_attention_heads": 32,
                    "num_key_value_heads": 32, "num_hidden_layers": 32, "intermediate_size": 8192,
                    "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
                    "vocab_size": 32064, "sliding_window": 2047}),
                (32, None, 3072, 8192, 32, 96, 4096, Some(2047), None),
            ),
            // Gemma 3 4B, which sees: the part for text is an object of its own
            (
                "gemma3",
                json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                        "max_position_embeddings": 131_072, "sliding_window": 1024, "vocab_size": 262_208,
                        "query_pre_attn_scalar": 256}}),
                (34, None, 2560, 10240, 8, 256, 131_072, Some(1024), None),
            ),
        ];
        for (architecture, config, expected) in cases {
            let facts = facts(&config).expect(architecture);
            assert_eq!(facts.architecture, architecture);
            let found = (
                facts.layers,
                facts.decoder_layers,
                facts.hidden,
                facts.feed_forward,
                facts.heads,
                facts.head_dim,
                facts.context_trained,
                facts.window,
                facts.context_exact,
            );
            assert_eq!(found, expected, "{config}");
        }
    }

    #[test]
    fn every_key_that_is_missing_is_named() {
        let needed = [
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
            ("hidden_size", json!(9 << 26)),
            ("num_hidden_layers", json!(u64::MAX)),
            ("max_position_embeddings", json!(u32::MAX)),
            ("vocab_size", json!("many")),
            ("architectures", json!(["made-up"])),
        ];
        for (key, value) in bad {
            let mut config = smol();
            config[key] = value.clone();
            assert!(facts(&config).is_err(), "{key} {value}");
        }
        assert!(facts(&json!(null)).is_err() && facts(&json!([1])).is_err());
        let mut config = smol();
        config["max_position_embeddings"] = json!(u32::MAX);
        assert_eq!(
            facts(&config).expect_err("too long").to_string(),
            "config.json gives a `llama.context_length` that cannot be: take another checkpoint of the model"
        );
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
            "tensor \"blk.0\" has a shape that cannot be: [35184372088832]; take the file from another publisher"
        );
    }
}
