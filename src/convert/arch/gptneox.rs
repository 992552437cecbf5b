//! GPT-NeoX: Pythia, GPT-NeoX 20B, Dolly.

use std::collections::BTreeMap;

use super::sizes::{Names, Sizes, check_gelu};
use super::{Arch, Config, Error, Recipe, single};
use crate::checkpoint::Stored;
use crate::convert::Order;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct GptNeoX;

const NAME: &str = "gptneox";

const NAMES: Names = Names {
    hidden: &["hidden_size"],
    feed_forward: &["intermediate_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    context: &["max_position_embeddings"],
    usual_context: None,
};

impl Arch for GptNeoX {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["GPTNeoXForCausalLM"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        rotary(config, &sizes)?;
        let scaled = rope(config).and_then(|rope| rope.text("rope_type").or_else(|| rope.text("type")));
        if let Some(kind) = scaled.filter(|kind| *kind != "default") {
            let reason = format!("its positions are scaled by {kind:?}");
            return Err(Error::Variant { architecture: NAME, reason });
        }
        check_gelu(NAME, config, "hidden_act")
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        let mut keys = sizes.keys(config.optional_float("layer_norm_eps")?.unwrap_or(1e-5));
        let base = match rope(config) {
            Some(rope) => rope.optional_float("rope_theta")?,
            None => None,
        };
        let base =
            base.or(config.optional_float("rotary_emb_base")?).or(config.optional_float("rope_theta")?);
        keys.push(("rope.dimension_count", rotary(config, &sizes)?.into()));
        keys.push(("rope.freq_base", single(base.unwrap_or(10_000.0)).into()));
        let is_parallel = config.optional_bool("use_parallel_residual")?.unwrap_or(true);
        keys.push(("use_parallel_residual", Value::Bool(is_parallel)));
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        let [hidden, inner, vocab] = sizes.wide();
        let is_tied = config.is_tied(false)?;
        let mut list = List::new(stored);
        let top = list.prefix("gpt_neox.", "embed_in.weight");
        let embedding = format!("{top}embed_in.weight");
        list.add("token_embd.weight", &embedding, &[hidden, vocab]);
        list.add_both("output_norm", &format!("{top}final_layer_norm"), &[hidden], Order::Same);
        // the graph wants a head of its own
        let head = if is_tied { embedding.as_str() } else { "embed_out.weight" };
        list.add("output.weight", head, &[hidden, vocab]);
        let by_part = Order::ByPart { heads: sizes.heads, parts: 3 };
        list.add_blocks(
            sizes.layers,
            &format!("{top}layers"),
            &[
                ("attn_norm", "input_layernorm", &[hidden], Order::Same),
                ("attn_qkv", "attention.query_key_value", &[hidden, 3 * hidden], by_part),
                ("attn_output", "attention.dense", &[hidden, hidden], Order::Same),
                ("ffn_norm", "post_attention_layernorm", &[hidden], Order::Same),
                ("ffn_up", "mlp.dense_h_to_4h", &[hidden, inner], Order::Same),
                ("ffn_down", "mlp.dense_4h_to_h", &[inner, hidden], Order::Same),
            ],
        );
        // masks and rotary tables, and the second copy of a tied head
        let ends = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
        list.finish(NAME, |name| {
            ends.iter().any(|end| name.ends_with(end)) || (is_tied && name == "embed_out.weight")
        })
    }
}

/// The object that tells how positions are rotated: `rope_parameters` since transformers 5.
fn rope(config: Config<'_>) -> Option<Config<'_>> {
    config.object("rope_parameters").or_else(|| config.object("rope_scaling"))
}

/// Returns how many values of each head are rotated.
fn rotary(config: Config<'_>, sizes: &Sizes) -> Result<u32, Error> {
    let newer = match config.object("rope_parameters") {
        Some(rope) => rope.optional_float("partial_rotary_factor")?,
        None => None,
    };
    let part = newer.or(config.optional_float("rotary_pct")?).unwrap_or(0.25);
    let rotary = (0..=sizes.head_dim).rfind(|rotary| f64::from(*rotary) <= f64::from(sizes.head_dim) * part);
    match rotary {
        Some(rotary) if rotary > 0 && rotary % 2 == 0 && part <= 1.0 => Ok(rotary),
        _ => Err(Error::Config(format!("rotary_pct is {part} in heads of {}", sizes.head_dim))),
    }
}
