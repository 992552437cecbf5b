//! GPT-2, whose linear layers are stored with inputs as rows.

use std::collections::BTreeMap;

use super::sizes::{GPT_NAMES, Sizes, check_gelu};
use super::{Arch, Config, Error, Recipe};
use crate::checkpoint::Stored;
use crate::convert::Order;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct Gpt2;

const NAME: &str = "gpt2";

impl Arch for Gpt2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["GPT2LMHeadModel"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        Sizes::of(config, &GPT_NAMES)?;
        check_gelu(NAME, config, "activation_function")?;
        let odd = [
            ("scale_attn_weights", false, "its attention is not scaled"),
            ("scale_attn_by_inverse_layer_idx", true, "its attention is scaled layer by layer"),
            ("add_cross_attention", true, "it has cross-attention"),
        ];
        for (key, is_odd, reason) in odd {
            if config.optional_bool(key)? == Some(is_odd) {
                return Err(Error::Variant { architecture: NAME, reason: reason.to_owned() });
            }
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config, &GPT_NAMES)?;
        Ok(sizes.keys(config.optional_float("layer_norm_epsilon")?.unwrap_or(1e-5)))
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config, &GPT_NAMES)?;
        let [hidden, inner, vocab] = sizes.wide();
        let is_tied = config.is_tied(true)?;
        let mut list = List::new(stored);
        let top = list.prefix("transformer.", "wte.weight");
        list.add("token_embd.weight", &format!("{top}wte.weight"), &[hidden, vocab]);
        list.add("position_embd.weight", &format!("{top}wpe.weight"), &[hidden, sizes.context.into()]);
        list.add_both("output_norm", &format!("{top}ln_f"), &[hidden], Order::Same);
        if !is_tied {
            list.add("output.weight", "lm_head.weight", &[hidden, vocab]);
        }
        list.add_blocks(
            sizes.layers,
            &format!("{top}h"),
            &[
                ("attn_norm", "ln_1", &[hidden], Order::Same),
                ("attn_qkv", "attn.c_attn", &[hidden, 3 * hidden], Order::Transposed),
                ("attn_output", "attn.c_proj", &[hidden, hidden], Order::Transposed),
                ("ffn_norm", "ln_2", &[hidden], Order::Same),
                ("ffn_up", "mlp.c_fc", &[hidden, inner], Order::Transposed),
                ("ffn_down", "mlp.c_proj", &[inner, hidden], Order::Transposed),
            ],
        );
        // masks of old checkpoints, and the second copy of a tied head
        list.finish(NAME, |name| {
            [".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end))
                || (is_tied && name == "lm_head.weight")
        })
    }
}
