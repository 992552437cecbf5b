//! Phi-3, Phi-3.5 and Phi-4-mini: Llama's shape with fused matrices, positions that may turn a
//! part of each head only, and two sets of divisors for their frequencies.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Bias, Matrix, Sizes};
use super::rope::{self, Scaling, TwoSets};
use super::{Arch, Config, Error, Recipe, activation, decoder_keys, single, variant, window};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct Phi3;

const NAME: &str = "phi3";

impl Arch for Phi3 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn defaults(&self, _: &str) -> Vec<(&'static str, Json)> {
        vec![("rms_norm_eps", json!(1e-5)), ("original_max_position_embeddings", json!(4096))]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        activation(NAME, config, "hidden_act", &["silu", "swish"])?;
        for key in ["attention_bias", "mlp_bias"] {
            if config.optional_bool(key)? == Some(true) {
                return Err(variant(NAME, format!("it has {key}, which llama.cpp's graph does not add")));
            }
        }
        if sizes.queries() != u64::from(sizes.hidden) {
            return Err(variant(NAME, "its heads together are not as wide as the model"));
        }
        let rotated = rotated(config, &sizes)?;
        match rope::scaling(config)? {
            Scaling::None => Ok(()),
            Scaling::Long(long) => {
                let expected = u64::from(rotated / 2);
                if [&long.short, &long.long].into_iter().all(|list| list.len() as u64 == expected) {
                    Ok(())
                } else {
                    let (short, long) = (long.short.len(), long.long.len());
                    Err(Error::Config(format!(
                        "rope_scaling has {short} short and {long} long factors, where {expected} frequencies call for as many"
                    )))
                }
            }
            other => Err(variant(NAME, other.refusal().unwrap_or_default())),
        }
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config)?;
        let mut keys = decoder_keys(config, &sizes)?;
        keys.push(("rope.dimension_count", rotated(config, &sizes)?.into()));
        keys.push(("rope.scaling.original_context_length", original(config)?.into()));
        if let Scaling::Long(long) = rope::scaling(config)? {
            keys.push(("rope.scaling.attn_factor", single(attention_factor(config, &long)?).into()));
        }
        // passed over by the graph, and put in by the engine; 0 is how llama.cpp tells Phi-4 from the others
        let window = window(config)?.unwrap_or(0);
        keys.push(("attention.sliding_window", window.into()));
        Ok(keys)
    }

    fn exact_context(&self, config: Config<'_>) -> Result<Option<u32>, Error> {
        // With room for more than the first trained context, llama.cpp takes the long factors for
        // short texts too, where transformers takes the short ones until a text is longer.
        match rope::scaling(config)? {
            Scaling::Long(_) => Ok(Some(original(config)?)),
            _ => Ok(None),
        }
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        sizes.add_ends(&mut list, "model", "lm_head.weight", Change::NONE);
        if let Scaling::Long(long) = rope::scaling(config)? {
            let TwoSets { short, long, .. } = *long;
            list.add_made("rope_factors_long.weight", &[long.len() as u64], long);
            list.add_made("rope_factors_short.weight", &[short.len() as u64], short);
        }
        let [hidden, inner] = [sizes.hidden, sizes.feed_forward].map(u64::from);
        let matrix =
            |ours, theirs, shape| Matrix { ours, theirs, shape, order: Order::Same, bias: Bias::Never };
        let matrices = [
            matrix("attn_qkv", "self_attn.qkv_proj", [hidden, sizes.queries() + 2 * sizes.values()]),
            matrix("attn_output", "self_attn.o_proj", [sizes.queries(), hidden]),
            // the gate's rows before the others, as the graph takes them apart again
            matrix("ffn_up", "mlp.gate_up_proj", [hidden, 2 * inner]),
            matrix("ffn_down", "mlp.down_proj", [inner, hidden]),
        ];
        sizes.finish(NAME, list, &matrices, &sizes.two_norms())
    }
}

/// Returns how many values of each head are rotated.
fn rotated(config: Config<'_>, sizes: &Sizes) -> Result<u32, Error> {
    let part = match config.object("rope_parameters") {
        Some(rope) => rope.optional_float("partial_rotary_factor")?,
        None => None,
    };
    let part = part.or(config.optional_float("partial_rotary_factor")?).unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within a head of 16384")]
    let rotated = (f64::from(sizes.head_dim) * part.clamp(0.0, 1.0)) as u32;
    if rotated == 0 || !rotated.is_multiple_of(2) {
        return Err(Error::Config(format!(
            "partial_rotary_factor is {part}, of heads of {}",
            sizes.head_dim
        )));
    }
    Ok(rotated)
}

/// Returns the context that the model was trained on first.
fn original(config: Config<'_>) -> Result<u32, Error> {
    let inner = match config.object("rope_parameters") {
        Some(rope) => rope.optional_size("original_max_position_embeddings")?,
        None => None,
    };
    match inner {
        Some(inner) => Ok(inner),
        None => config.size("original_max_position_embeddings"),
    }
}

/// Returns what rotated queries and keys are multiplied by: given, or after `LongRoPE`'s paper.
fn attention_factor(config: Config<'_>, long: &TwoSets) -> Result<f64, Error> {
    let [all, first] = [config.size("max_position_embeddings")?, original(config)?].map(f64::from);
    let factor = long.factor.unwrap_or(all / first);
    Ok(long.attention.unwrap_or(if factor > 1.0 { (1.0 + factor.ln() / first.ln()).sqrt() } else { 1.0 }))
}
