//! The llama family: Llama 1 to 3, Alpaca, Vicuna, SmolLM2, TinyLlama, Mistral 7B.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Bias, Sizes};
use super::rope::{self, Scaling};
use super::{Arch, Config, Error, Recipe, activation, decoder_keys, variant, window};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct Llama;

const NAME: &str = "llama";
const MISTRAL: &str = "MistralForCausalLM";

impl Arch for Llama {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", "LLaMAForCausalLM", MISTRAL]
    }

    fn defaults(&self, class: &str) -> Vec<(&'static str, Json)> {
        // Mistral has no window where config.json says null, and this one where it says nothing
        if class == MISTRAL { vec![("sliding_window", json!(4096))] } else { Vec::new() }
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        Sizes::of(config)?;
        if let scaling @ (Scaling::Long(_) | Scaling::Other(_)) = rope::scaling(config)? {
            return Err(variant(NAME, scaling.refusal().unwrap_or_default()));
        }
        activation(NAME, config, "hidden_act", &["silu", "swish"])?;
        if config.optional_size("num_local_experts")?.is_some_and(|experts| experts > 1) {
            return Err(variant(NAME, "it is a mixture of experts"));
        }
        if config.optional_bool("rope_interleaved")? == Some(true) {
            return Err(variant(NAME, "its rotary positions are interleaved"));
        }
        if config.optional_float("partial_rotary_factor")?.is_some_and(|part| part < 1.0) {
            return Err(variant(NAME, "its positions rotate only a part of each head"));
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config)?;
        let mut keys = decoder_keys(config, &sizes)?;
        keys.push(("vocab_size", sizes.vocab.into()));
        keys.push(("rope.dimension_count", sizes.head_dim.into()));
        keys.extend(rope::scaling(config)?.keys());
        // llama.cpp's graph does not look at it: the engine does
        let longest = config.size("max_position_embeddings")?;
        if let Some(window) = window(config)?.filter(|window| *window < longest) {
            keys.push(("attention.sliding_window", window.into()));
        }
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        sizes.add_ends(&mut list, "model", "lm_head.weight", Change::NONE);
        if let Some(factors) = rope::scaling(config)?.divisors(rope::base(config)?, sizes.head_dim) {
            list.add_made("rope_freqs.weight", &[factors.len() as u64], factors);
        }
        // the graph adds whichever biases there are; those that are promised must be
        let bias = |key: &str| -> Result<Bias, Error> {
            let is_promised = config.optional_bool(key)? == Some(true);
            Ok(if is_promised { Bias::Always } else { Bias::IfStored })
        };
        let attention =
            sizes.attention(|heads| Order::Interleaved { heads }, [bias("attention_bias")?; 2]).into_iter();
        let matrices: Vec<_> = attention.chain(sizes.gated(bias("mlp_bias")?)).collect();
        sizes.finish(NAME, list, &matrices, &sizes.two_norms())
    }
}
