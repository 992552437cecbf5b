//! The llama family: Llama 2 and 3, SmolLM2, TinyLlama, Mistral 7B, Vicuna.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use super::{Arch, Config, Error, Recipe, single};
use crate::checkpoint::Stored;
use crate::convert::Order;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct Llama;

const NAME: &str = "llama";

/// Sizes that everything here is made of.
struct Sizes {
    hidden: u32,
    feed_forward: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocab: u32,
    is_tied: bool,
}

impl Sizes {
    fn of(config: Config<'_>) -> Result<Self, Error> {
        let hidden = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let head_dim = match config.optional_size("head_dim")? {
            Some(given) => given,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(Error::Config(format!("{heads} heads do not divide hidden_size {hidden}"))),
        };
        // real heads have 256 or less
        if head_dim > 1 << 14 {
            return Err(Error::Config(format!("heads of {head_dim}")));
        }
        let layers = config.size("num_hidden_layers")?;
        // the deepest known model of the family has 126
        if layers > 1024 {
            return Err(Error::Config(format!("num_hidden_layers is {layers}")));
        }
        Ok(Self {
            hidden,
            feed_forward: config.size("intermediate_size")?,
            layers,
            heads,
            kv_heads: config.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            vocab: config.size("vocab_size")?,
            is_tied: config.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

/// How positions are scaled beyond what a model was first trained on.
enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

impl Arch for Llama {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        scaling(config)?;
        if let Some(activation) = config.text("hidden_act").filter(|name| !["silu", "swish"].contains(name)) {
            return Err(variant(format!("its activation is {activation}, llama.cpp has silu")));
        }
        if config.optional_size("num_local_experts")?.is_some_and(|experts| experts > 1) {
            return Err(variant("it is a mixture of experts"));
        }
        if config.optional_bool("rope_interleaved")? == Some(true) {
            return Err(variant("its rotary positions are interleaved"));
        }
        if config.optional_float("partial_rotary_factor")?.is_some_and(|part| part < 1.0) {
            return Err(variant("its positions rotate only a part of each head"));
        }
        if sizes.heads % sizes.kv_heads != 0 || sizes.head_dim % 2 != 0 {
            return Err(Error::Config("the numbers of heads and their size do not fit together".to_owned()));
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config)?;
        let context = config.size("max_position_embeddings")?;
        // llama.cpp has no window for this architecture: within its length, full attention is the same
        let context = config.optional_size("sliding_window")?.map_or(context, |window| window.min(context));
        let epsilon = config.optional_float("rms_norm_eps")?.unwrap_or(1e-6);
        let mut keys: Vec<(&'static str, Value)> = vec![
            ("block_count", sizes.layers.into()),
            ("context_length", context.into()),
            ("embedding_length", sizes.hidden.into()),
            ("feed_forward_length", sizes.feed_forward.into()),
            ("attention.head_count", sizes.heads.into()),
            ("attention.head_count_kv", sizes.kv_heads.into()),
            ("rope.freq_base", single(rope_base(config)?).into()),
            ("attention.layer_norm_rms_epsilon", single(epsilon).into()),
        ];
        if config.optional_size("head_dim")?.is_some() {
            keys.push(("attention.key_length", sizes.head_dim.into()));
            keys.push(("attention.value_length", sizes.head_dim.into()));
        }
        keys.push(("vocab_size", sizes.vocab.into()));
        keys.push(("rope.dimension_count", sizes.head_dim.into()));
        if let Scaling::Linear { factor } = scaling(config)? {
            keys.push(("rope.scaling.type", "linear".into()));
            keys.push(("rope.scaling.factor", single(factor).into()));
        }
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let [hidden, inner, vocab] = [sizes.hidden, sizes.feed_forward, sizes.vocab].map(u64::from);
        let width = |heads: u32| u64::from(heads) * u64::from(sizes.head_dim);
        let (queries, values) = (width(sizes.heads), width(sizes.kv_heads));
        let mut list = List::new(stored);
        if !sizes.is_tied {
            list.add("output.weight", "lm_head.weight", &[hidden, vocab]);
        }
        list.add("output_norm.weight", "model.norm.weight", &[hidden]);
        if let Some(factors) = rope_factors(config, sizes.head_dim)? {
            list.add_made("rope_freqs.weight", &[factors.len() as u64], factors);
        }
        list.add("token_embd.weight", "model.embed_tokens.weight", &[hidden, vocab]);
        let same = Order::Same;
        let by_head = |heads| Order::Interleaved { heads };
        for layer in 0..sizes.layers {
            let parts: [(&str, &str, &[u64], Order); 9] = [
                ("attn_k", "self_attn.k_proj", &[hidden, values], by_head(sizes.kv_heads)),
                ("attn_norm", "input_layernorm", &[hidden], same),
                ("attn_output", "self_attn.o_proj", &[queries, hidden], same),
                ("attn_q", "self_attn.q_proj", &[hidden, queries], by_head(sizes.heads)),
                ("attn_v", "self_attn.v_proj", &[hidden, values], same),
                ("ffn_down", "mlp.down_proj", &[inner, hidden], same),
                ("ffn_gate", "mlp.gate_proj", &[hidden, inner], same),
                ("ffn_norm", "post_attention_layernorm", &[hidden], same),
                ("ffn_up", "mlp.up_proj", &[hidden, inner], same),
            ];
            for (ours, theirs, shape, order) in parts {
                let [ours, theirs] =
                    [format!("blk.{layer}.{ours}"), format!("model.layers.{layer}.{theirs}")];
                let bias = format!("{theirs}.bias");
                if list.has(&bias) {
                    list.add_ordered(&format!("{ours}.bias"), &bias, &shape[shape.len() - 1..], order);
                }
                list.add_ordered(&format!("{ours}.weight"), &format!("{theirs}.weight"), shape, order);
            }
        }
        // rotary tables of old checkpoints, and the second copy of a tied head
        list.finish(NAME, |name| {
            name.ends_with(".rotary_emb.inv_freq") || (sizes.is_tied && name == "lm_head.weight")
        })
    }
}

/// The object that tells how positions are scaled: `rope_parameters` since transformers 5.
fn rope(config: Config<'_>) -> Option<Config<'_>> {
    config.object("rope_parameters").or_else(|| config.object("rope_scaling"))
}

fn rope_base(config: Config<'_>) -> Result<f64, Error> {
    let inner = match rope(config) {
        Some(rope) => rope.optional_float("rope_theta")?,
        None => None,
    };
    Ok(inner.or(config.optional_float("rope_theta")?).unwrap_or(10_000.0))
}

fn scaling(config: Config<'_>) -> Result<Scaling, Error> {
    let Some(rope) = rope(config) else { return Ok(Scaling::None) };
    let number = |key: &str, default: f64| {
        let number = rope.optional_float(key)?.unwrap_or(default);
        if number > 0.0 { Ok(number) } else { Err(Error::Config(format!("rope_scaling.{key} is {number}"))) }
    };
    match rope.text("rope_type").or_else(|| rope.text("type")) {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: number("factor", 1.0)? }),
        Some("llama3") => Ok(Scaling::Llama3 {
            factor: number("factor", 8.0)?,
            low: number("low_freq_factor", 1.0)?,
            high: number("high_freq_factor", 4.0)?,
            original: number("original_max_position_embeddings", 8192.0)?,
        }),
        Some(other) => Err(variant(format!("its positions are scaled by {other:?}"))),
    }
}

/// Returns the divisors of each frequency for the scaling of Llama 3.1 and later.
///
/// As `generate_extra_tensors` of llama.cpp's `conversion/llama.py`, in f64 where that has
/// f32 for the frequencies.
fn rope_factors(config: Config<'_>, head_dim: u32) -> Result<Option<Vec<f32>>, Error> {
    let Scaling::Llama3 { factor, low, high, original } = scaling(config)? else { return Ok(None) };
    let base = rope_base(config)?;
    let divisor = |index: u32| {
        let wave = 2.0 * PI * base.powf(f64::from(2 * index) / f64::from(head_dim));
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok(Some((0..head_dim / 2).map(|index| single(divisor(index))).collect()))
}

fn variant(reason: impl Into<String>) -> Error {
    Error::Variant { architecture: NAME, reason: reason.into() }
}
