//! GPT-J, through the graph of Phi-2: both add attention and feed-forward to one norm.

use std::collections::BTreeMap;

use super::sizes::{GPT_NAMES, Sizes, check_gelu};
use super::{Arch, Config, Error, Recipe, single};
use crate::checkpoint::Stored;
use crate::convert::Order;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct GptJ;

/// llama.cpp knows GPT-J by name only. Its Phi-2 differs in which values of a head it rotates
/// together, which the order of rows mends, and in biases, which are zero then.
const NAME: &str = "phi2";

impl Arch for GptJ {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["GPTJForCausalLM"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config, &GPT_NAMES)?;
        rotary(config, &sizes)?;
        check_gelu(NAME, config, "activation_function")
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config, &GPT_NAMES)?;
        let mut keys = sizes.keys(config.optional_float("layer_norm_epsilon")?.unwrap_or(1e-5));
        keys.push(("attention.head_count_kv", sizes.heads.into()));
        keys.push(("rope.dimension_count", rotary(config, &sizes)?.into()));
        keys.push(("rope.freq_base", single(10_000.0).into()));
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config, &GPT_NAMES)?;
        let [hidden, inner, vocab] = sizes.wide();
        let is_tied = config.is_tied(false)?;
        let mut list = List::new(stored);
        let top = list.prefix("transformer.", "wte.weight");
        let embedding = format!("{top}wte.weight");
        list.add("token_embd.weight", &embedding, &[hidden, vocab]);
        list.add_both("output_norm", &format!("{top}ln_f"), &[hidden], Order::Same);
        let head = if is_tied { embedding.as_str() } else { "lm_head.weight" };
        list.add("output.weight", head, &[hidden, vocab]);
        list.add_or_zeros("output.bias", "lm_head.bias", sizes.vocab);
        let rotated = Order::Deinterleaved { heads: sizes.heads, rotary: rotary(config, &sizes)? };
        for layer in 0..sizes.layers {
            let names = |(ours, theirs)| (format!("blk.{layer}.{ours}"), format!("{top}h.{layer}.{theirs}"));
            let weights: [(&str, &str, Order); 4] = [
                ("attn_q", "attn.q_proj", rotated),
                ("attn_k", "attn.k_proj", rotated),
                ("attn_v", "attn.v_proj", Order::Same),
                ("attn_output", "attn.out_proj", Order::Same),
            ];
            for (ours, theirs, order) in weights {
                let (ours, theirs) = names((ours, theirs));
                let weight = format!("{theirs}.weight");
                list.add_ordered(&format!("{ours}.weight"), &weight, &[hidden, hidden], order);
            }
            list.add_zeros(&format!("blk.{layer}.attn_output.bias"), sizes.hidden);
            let pairs: [(&str, &str, &[u64]); 3] = [
                ("attn_norm", "ln_1", &[hidden]),
                ("ffn_up", "mlp.fc_in", &[hidden, inner]),
                ("ffn_down", "mlp.fc_out", &[inner, hidden]),
            ];
            for (ours, theirs, shape) in pairs {
                let (ours, theirs) = names((ours, theirs));
                list.add_both(&ours, &theirs, shape, Order::Same);
            }
        }
        // masks and rotary tables, and the second copy of a tied head
        list.finish(NAME, |name| {
            [".attn.bias", ".attn.masked_bias", ".attn.embed_positions"].iter().any(|end| name.ends_with(end))
                || (is_tied && name == "lm_head.weight")
        })
    }
}

/// Returns how many rows of each head are rotated: all, where config.json says none.
fn rotary(config: Config<'_>, sizes: &Sizes) -> Result<u32, Error> {
    match config.optional_size("rotary_dim")?.unwrap_or(sizes.head_dim) {
        rotary if rotary % 2 == 0 && rotary <= sizes.head_dim => Ok(rotary),
        rotary => Err(Error::Config(format!("rotary_dim is {rotary} in heads of {}", sizes.head_dim))),
    }
}
