//! GPT-Neo, through the graph of GPT-2.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::sizes::{DEEPEST, Names, Sizes, check_gelu};
use super::{Arch, Config, Error, Recipe, single};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order, Part};
use crate::gguf::{Array, Value};

pub(super) struct GptNeo;

/// Of all graphs only those of this kind have positions that were learnt; none has them
/// together with a window, so the engine puts that in.
const NAME: &str = "gpt2";

const NAMES: Names = Names {
    hidden: &["hidden_size"],
    feed_forward: &["intermediate_size"],
    layers: &["num_layers"],
    heads: &["num_heads"],
    context: &["max_position_embeddings"],
    usual_context: None,
};

impl Arch for GptNeo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["GPTNeoForCausalLM"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        local_layers(config, &sizes)?;
        check_gelu(NAME, config, "activation_function")
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
        let mut keys = sizes.keys(config.optional_float("layer_norm_epsilon")?.unwrap_or(1e-5));
        // llama.cpp's graph does not look at these: the engine does
        let local = local_layers(config, &sizes)?;
        if local.contains(&true) {
            keys.push(("attention.sliding_window", config.size("window_size")?.into()));
            keys.push(("attention.sliding_window_pattern", Value::Array(Array::Bool(local))));
        }
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config, &NAMES)?;
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
        // the graph divides the products of queries and keys by this, the model does not
        let scale = single(f64::from(sizes.head_dim).sqrt());
        for layer in 0..sizes.layers {
            let theirs = |name: &str| format!("{top}h.{layer}.{name}");
            let part = |(name, scale): (&str, f32)| Part::Stored {
                name: theirs(&format!("attn.attention.{name}_proj.weight")),
                order: Order::Same,
                change: Change { scale, offset: 0.0 },
            };
            let parts = [("q", scale), ("k", 1.0), ("v", 1.0)].map(part).to_vec();
            list.add_parts(&format!("blk.{layer}.attn_qkv.weight"), &[hidden, 3 * hidden], parts);
            list.add_zeros(&format!("blk.{layer}.attn_qkv.bias"), 3 * sizes.hidden);
            let pairs: [(&str, &str, &[u64]); 5] = [
                ("attn_norm", "ln_1", &[hidden]),
                ("attn_output", "attn.attention.out_proj", &[hidden, hidden]),
                ("ffn_norm", "ln_2", &[hidden]),
                ("ffn_up", "mlp.c_fc", &[hidden, inner]),
                ("ffn_down", "mlp.c_proj", &[inner, hidden]),
            ];
            for (ours, name, shape) in pairs {
                list.add_both(&format!("blk.{layer}.{ours}"), &theirs(name), shape, Order::Same);
            }
        }
        // masks of old checkpoints, and the second copy of a tied head
        list.finish(NAME, |name| {
            [".attn.attention.bias", ".attn.attention.masked_bias"].iter().any(|end| name.ends_with(end))
                || (is_tied && name == "lm_head.weight")
        })
    }
}

/// Tells of each layer whether it looks back through the window only.
///
/// `attention_types` holds pairs of a pattern and how often it is repeated;
/// `attention_layers`, where it is there, is the same written out.
fn local_layers(config: Config<'_>, sizes: &Sizes) -> Result<Vec<bool>, Error> {
    let odd = |what: String| Error::Config(format!("attention_types {what}"));
    let mut kinds: Vec<&Json> = Vec::new();
    if let Some(layers) = config.get("attention_layers").and_then(Json::as_array) {
        kinds.extend(layers);
    } else {
        let pairs = config.get("attention_types").and_then(Json::as_array);
        for pair in pairs.ok_or_else(|| odd("is missing".to_owned()))? {
            let pattern = pair.get(0).and_then(Json::as_array).filter(|pattern| !pattern.is_empty());
            let times = pair.get(1).and_then(Json::as_u64).filter(|times| *times <= u64::from(DEEPEST));
            let (Some(pattern), Some(times)) = (pattern, times) else {
                return Err(odd("is not of patterns and how often each is repeated".to_owned()));
            };
            for _ in 0..times {
                kinds.extend(pattern);
                if kinds.len() as u64 > u64::from(DEEPEST) {
                    return Err(odd("has too many layers".to_owned()));
                }
            }
        }
    }
    if kinds.len() as u64 != u64::from(sizes.layers) {
        return Err(odd(format!("tells of {} layers, num_layers is {}", kinds.len(), sizes.layers)));
    }
    let is_local = |kind: &Json| match kind.as_str() {
        Some("local") => Ok(true),
        Some("global") => Ok(false),
        _ => Err(odd("knows a kind that is neither local nor global".to_owned())),
    };
    kinds.into_iter().map(is_local).collect()
}
