//! Gemma 2: four norms in each block, capped logits, a window in every other block.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Bias, Matrix, Norm, Sizes};
use super::rope;
use super::{Arch, Config, Error, Recipe, activation, decoder_keys, single, variant};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct Gemma2;

const NAME: &str = "gemma2";

/// Gemma's norms multiply by one more than what is stored.
pub(super) const ONE_MORE: Change = Change { scale: 1.0, offset: 1.0 };

/// Blocks of the 27B, whose queries llama.cpp scales in another way, by this number alone.
const BLOCKS_OF_27B: u32 = 46;

impl Arch for Gemma2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn defaults(&self, _: &str) -> Vec<(&'static str, Json)> {
        vec![
            ("tie_word_embeddings", json!(true)),
            ("head_dim", json!(256)),
            ("query_pre_attn_scalar", json!(256)),
            ("sliding_window", json!(4096)),
            ("attn_logit_softcapping", json!(50.0)),
            ("final_logit_softcapping", json!(30.0)),
            ("max_position_embeddings", json!(8192)),
        ]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        activation(NAME, config, "hidden_activation", &["gelu_pytorch_tanh"])?;
        if let Some(reason) = rope::scaling(config)?.refusal() {
            return Err(variant(NAME, reason));
        }
        check_queries(NAME, config, &sizes, BLOCKS_OF_27B)?;
        if !sizes.is_tied {
            return Err(variant(NAME, "its head is not the embedding, which llama.cpp's graph takes for it"));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping", "sliding_window"] {
            if config.get(key).is_none() {
                return Err(variant(NAME, format!("it has no {key}, and llama.cpp's graph always has one")));
            }
        }
        check_pattern(NAME, config, sizes.layers, 2)
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut keys = decoder_keys(config, &Sizes::of(config)?)?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            keys.extend(config.optional_float(key)?.map(|cap| (key, single(cap).into())));
        }
        keys.push(("attention.sliding_window", config.size("sliding_window")?.into()));
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        sizes.add_ends(&mut list, "model", "lm_head.weight", ONE_MORE);
        sizes.add_blocks(&mut list, "model", &matrices(&sizes), &norms(&sizes));
        list.finish(NAME, |name| sizes.is_left_over(name))
    }
}

/// Returns the matrices of each block.
pub(super) fn matrices(sizes: &Sizes) -> Vec<Matrix> {
    let attention = sizes.attention(|_| Order::Same, [Bias::Never; 2]);
    attention.into_iter().chain(sizes.gated(Bias::Never)).collect()
}

/// Returns the norms of each block.
pub(super) fn norms(sizes: &Sizes) -> Vec<Norm> {
    let norm = |ours, theirs| Norm { ours, theirs, size: sizes.hidden, change: ONE_MORE };
    vec![
        norm("attn_norm", "input_layernorm"),
        norm("post_attention_norm", "post_attention_layernorm"),
        norm("ffn_norm", "pre_feedforward_layernorm"),
        norm("post_ffw_norm", "post_feedforward_layernorm"),
    ]
}

/// Refuses what no key tells llama.cpp of Gemma's attention: biases, both directions, and queries
/// that are not scaled by the size of a head (in models of `largest` blocks: by another).
pub(super) fn check_queries(
    name: &'static str,
    config: Config<'_>,
    sizes: &Sizes,
    largest: u32,
) -> Result<(), Error> {
    if config.optional_bool("attention_bias")? == Some(true) {
        return Err(variant(name, "its attention has biases, which llama.cpp's graph does not add"));
    }
    if config.optional_bool("use_bidirectional_attention")? == Some(true) {
        return Err(variant(name, "it looks forward, too: it makes embeddings and writes no text"));
    }
    let known = if sizes.layers == largest { sizes.hidden / sizes.heads } else { sizes.head_dim };
    let scalar = config.optional_float("query_pre_attn_scalar")?;
    match scalar.filter(|scalar| (scalar - f64::from(known)).abs() > 1e-6) {
        None => Ok(()),
        Some(other) => {
            Err(variant(name, format!("query_pre_attn_scalar is {other}, llama.cpp's graph has {known}")))
        }
    }
}

/// Refuses a model that does not have full attention in just every `step`-th block.
pub(super) fn check_pattern(
    name: &'static str,
    config: Config<'_>,
    layers: u32,
    step: u32,
) -> Result<(), Error> {
    let is_full = |layer: u32| (layer + 1).is_multiple_of(step);
    let is_known = match config.get("layer_types").and_then(Json::as_array) {
        Some(types) => {
            types.len() as u64 == u64::from(layers)
                && types.iter().zip(0..).all(|(found, layer)| {
                    let expected = if is_full(layer) { "full_attention" } else { "sliding_attention" };
                    found.as_str() == Some(expected)
                })
        }
        None => ["sliding_window_pattern", "_sliding_window_pattern"]
            .into_iter()
            .all(|key| config.get(key).is_none_or(|pattern| pattern.as_u64() == Some(step.into()))),
    };
    if is_known {
        return Ok(());
    }
    Err(variant(
        name,
        format!(
            "llama.cpp's graph has full attention in every block whose number {step} divides, and this model in others"
        ),
    ))
}
