//! BLOOM and BLOOMZ, whose positions are a slope on attention (`ALiBi`).

use std::collections::BTreeMap;

use super::sizes::{Names, Sizes};
use super::{Arch, Config, Error, Recipe};
use crate::checkpoint::Stored;
use crate::convert::Order;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct Bloom;

const NAME: &str = "bloom";

const NAMES: Names = Names {
    hidden: &["hidden_size", "n_embed"],
    feed_forward: &["n_inner"],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    context: &["seq_length"],
    // what every BLOOM was trained on; many a config.json does not say it
    usual_context: Some(2048),
};

impl Arch for Bloom {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["BloomForCausalLM", "BloomModel"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        Sizes::of(config, &NAMES)?;
        if config.optional_bool("apply_residual_connection_post_layernorm")? == Some(true) {
            let reason = "its residual stream passes through the norms".to_owned();
            return Err(Error::Variant { architecture: NAME, reason });
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        let mut keys = sizes.keys(config.optional_float("layer_norm_epsilon")?.unwrap_or(1e-5));
        keys.push(("attention.head_count_kv", sizes.heads.into()));
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        let [hidden, inner, vocab] = sizes.wide();
        let is_tied = config.is_tied(true)?;
        let mut list = List::new(stored);
        let top = list.prefix("transformer.", "word_embeddings.weight");
        list.add("token_embd.weight", &format!("{top}word_embeddings.weight"), &[hidden, vocab]);
        let norm = format!("{top}word_embeddings_layernorm");
        list.add_both("token_embd_norm", &norm, &[hidden], Order::Same);
        list.add_both("output_norm", &format!("{top}ln_f"), &[hidden], Order::Same);
        if !is_tied {
            list.add("output.weight", "lm_head.weight", &[hidden, vocab]);
        }
        let by_part = Order::ByPart { heads: sizes.heads, parts: 3 };
        list.add_blocks(
            sizes.layers,
            &format!("{top}h"),
            &[
                ("attn_norm", "input_layernorm", &[hidden], Order::Same),
                ("attn_qkv", "self_attention.query_key_value", &[hidden, 3 * hidden], by_part),
                ("attn_output", "self_attention.dense", &[hidden, hidden], Order::Same),
                ("ffn_norm", "post_attention_layernorm", &[hidden], Order::Same),
                ("ffn_up", "mlp.dense_h_to_4h", &[hidden, inner], Order::Same),
                ("ffn_down", "mlp.dense_4h_to_h", &[inner, hidden], Order::Same),
            ],
        );
        list.finish(NAME, |name| is_tied && name == "lm_head.weight")
    }
}
