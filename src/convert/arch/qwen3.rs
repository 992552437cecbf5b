//! Qwen3, dense: no biases, and queries and keys that are normalized within each head.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Bias, Norm, Sizes};
use super::rope;
use super::{Arch, Config, Error, Recipe, activation, chosen_window, decoder_keys, scaled_evenly, variant};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct Qwen3;

const NAME: &str = "qwen3";

impl Arch for Qwen3 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn defaults(&self, _: &str) -> Vec<(&'static str, Json)> {
        vec![("head_dim", json!(128))]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        Sizes::of(config)?;
        scaled_evenly(NAME, config)?;
        activation(NAME, config, "hidden_act", &["silu", "swish"])?;
        if config.optional_bool("attention_bias")? == Some(true) {
            return Err(variant(NAME, "its attention has biases, which llama.cpp's graph does not add"));
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut keys = decoder_keys(config, &Sizes::of(config)?)?;
        keys.extend(rope::scaling(config)?.keys());
        Ok(keys)
    }

    fn exact_context(&self, config: Config<'_>) -> Result<Option<u32>, Error> {
        chosen_window(config)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        sizes.add_ends(&mut list, "model", "lm_head.weight", Change::NONE);
        let attention = sizes.attention(|_| Order::Same, [Bias::Never; 2]).into_iter();
        let matrices: Vec<_> = attention.chain(sizes.gated(Bias::Never)).collect();
        let norms = [
            Norm::plain("attn_norm", "input_layernorm", sizes.hidden),
            Norm::plain("attn_q_norm", "self_attn.q_norm", sizes.head_dim),
            Norm::plain("attn_k_norm", "self_attn.k_norm", sizes.head_dim),
            Norm::plain("ffn_norm", "post_attention_layernorm", sizes.hidden),
        ];
        sizes.finish(NAME, list, &matrices, &norms)
    }
}
