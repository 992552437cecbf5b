//! T5 and FLAN-T5: an encoder that reads, a decoder that writes.

use std::collections::BTreeMap;

use super::sizes::{DEEPEST, WIDEST_HEAD};
use super::{Arch, Config, Error, Recipe, single};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct T5;

const NAME: &str = "t5";
/// The distance beyond which positions share a bucket is fixed in llama.cpp.
const FARTHEST: u32 = 128;

struct Sizes {
    hidden: u32,
    feed_forward: u32,
    encoder: u32,
    decoder: u32,
    heads: u32,
    head_dim: u32,
    vocab: u32,
    buckets: u32,
    is_gated: bool,
    is_tied: bool,
}

impl Sizes {
    fn of(config: Config<'_>) -> Result<Self, Error> {
        let encoder = config.size("num_layers")?;
        let decoder = config.optional_size("num_decoder_layers")?.unwrap_or(encoder);
        if encoder > DEEPEST {
            return Err(Error::Config(format!("num_layers is {encoder}")));
        }
        let head_dim = config.size("d_kv")?;
        if head_dim > WIDEST_HEAD {
            return Err(Error::Config(format!("heads of {head_dim}")));
        }
        let is_gated = match config.text("feed_forward_proj").unwrap_or("relu") {
            "relu" => false,
            "gated-gelu" => true,
            other => {
                return Err(variant(format!(
                    "its feed-forward is {other}, llama.cpp has relu and gated-gelu"
                )));
            }
        };
        Ok(Self {
            hidden: config.size("d_model")?,
            feed_forward: config.size("d_ff")?,
            encoder,
            decoder,
            heads: config.size("num_heads")?,
            head_dim,
            vocab: config.size("vocab_size")?,
            buckets: config.optional_size("relative_attention_num_buckets")?.unwrap_or(32),
            is_gated,
            is_tied: config.is_tied(true)?,
        })
    }
}

impl Arch for T5 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["T5ForConditionalGeneration", "T5WithLMHeadModel"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let Sizes { encoder, decoder, .. } = Sizes::of(config)?;
        if decoder > encoder {
            // llama.cpp fails on these while it makes a context
            let reason = format!("its decoder has {decoder} layers, more than the {encoder} of its encoder");
            return Err(variant(reason));
        }
        if let Some(far) = config.optional_size("relative_attention_max_distance")?
            && far != FARTHEST
        {
            return Err(variant(format!("it tells distances up to {far}, llama.cpp up to {FARTHEST}")));
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config)?;
        let epsilon = single(config.optional_float("layer_norm_epsilon")?.unwrap_or(1e-6));
        // positions are relative, so there is no end; both families were trained on this much
        let context = config.optional_size("n_positions")?.unwrap_or(512);
        // the token of padding starts an answer, and it is the first where nothing else is said
        let start = ["decoder_start_token_id", "pad_token_id"].iter().find_map(|key| config.get(key));
        let start = match start.map(serde_json::Value::as_u64) {
            None => 0,
            Some(token) => token
                .and_then(|token| u32::try_from(token).ok())
                .filter(|token| *token < sizes.vocab)
                .ok_or_else(|| Error::Config("decoder_start_token_id is no token".to_owned()))?,
        };
        Ok(vec![
            ("context_length", context.into()),
            ("embedding_length", sizes.hidden.into()),
            ("feed_forward_length", sizes.feed_forward.into()),
            ("block_count", sizes.encoder.into()),
            ("decoder_block_count", sizes.decoder.into()),
            ("attention.head_count", sizes.heads.into()),
            ("attention.key_length", sizes.head_dim.into()),
            ("attention.value_length", sizes.head_dim.into()),
            ("attention.layer_norm_epsilon", epsilon.into()),
            ("attention.layer_norm_rms_epsilon", epsilon.into()),
            ("attention.relative_buckets_count", sizes.buckets.into()),
            ("decoder_start_token_id", start.into()),
        ])
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let [hidden, vocab] = [sizes.hidden, sizes.vocab].map(u64::from);
        let mut list = List::new(stored);
        // encoder and decoder look up the same table; files hold one, two or three copies
        let copies = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
        let embedding = copies.into_iter().find(|name| list.has(name)).unwrap_or(copies[0]);
        list.add("token_embd.weight", embedding, &[hidden, vocab]);
        if sizes.is_tied {
            // what the model does to the decoder's result, which the graph does not
            let change = Change { scale: single(f64::from(sizes.hidden).powf(-0.5)), offset: 0.0 };
            list.add_changed("output.weight", embedding, &[hidden, vocab], Order::Same, change);
        } else {
            list.add("output.weight", "lm_head.weight", &[hidden, vocab]);
        }
        for (ours, theirs, layers) in [("enc", "encoder", sizes.encoder), ("dec", "decoder", sizes.decoder)] {
            let norm = format!("{theirs}.final_layer_norm.weight");
            list.add(&format!("{ours}.output_norm.weight"), &norm, &[hidden]);
            // stored with the first layer, for all
            let bias = format!("{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
            let shape = [sizes.heads, sizes.buckets].map(u64::from);
            list.add(&format!("{ours}.blk.0.attn_rel_b.weight"), &bias, &shape);
            for layer in 0..layers {
                let (ours, theirs) = (format!("{ours}.blk.{layer}"), format!("{theirs}.block.{layer}.layer"));
                sizes.add_block(&mut list, &ours, &theirs, theirs.starts_with("decoder"));
            }
        }
        // copies, and a table that the models were saved with and never looked at
        list.finish(NAME, |name| {
            copies.contains(&name)
                || name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
                || (sizes.is_tied && name == "lm_head.weight")
        })
    }
}

impl Sizes {
    /// Adds a block, whose parts the checkpoint counts: attention, in the decoder attention to
    /// what was read, feed-forward; a norm before each.
    fn add_block(&self, list: &mut List<'_>, ours: &str, theirs: &str, is_decoder: bool) {
        let [hidden, inner] = [self.hidden, self.feed_forward].map(u64::from);
        let width = u64::from(self.heads) * u64::from(self.head_dim);
        let mut add = |name: &str, part: u32, theirs_name: &str, shape: &[u64]| {
            list.add(
                &format!("{ours}.{name}.weight"),
                &format!("{theirs}.{part}.{theirs_name}.weight"),
                shape,
            );
        };
        let mut attention = vec![("attn", 0, "SelfAttention")];
        if is_decoder {
            attention.push(("cross_attn", 1, "EncDecAttention"));
        }
        for (name, part, theirs_name) in attention {
            add(&format!("{name}_norm"), part, "layer_norm", &[hidden]);
            for letter in ["q", "k", "v"] {
                add(&format!("{name}_{letter}"), part, &format!("{theirs_name}.{letter}"), &[hidden, width]);
            }
            add(&format!("{name}_o"), part, &format!("{theirs_name}.o"), &[width, hidden]);
        }
        let feeding = if is_decoder { 2 } else { 1 };
        add("ffn_norm", feeding, "layer_norm", &[hidden]);
        if self.is_gated {
            add("ffn_gate", feeding, "DenseReluDense.wi_0", &[hidden, inner]);
        }
        let up = if self.is_gated { "DenseReluDense.wi_1" } else { "DenseReluDense.wi" };
        add("ffn_up", feeding, up, &[hidden, inner]);
        add("ffn_down", feeding, "DenseReluDense.wo", &[inner, hidden]);
    }
}

fn variant(reason: String) -> Error {
    Error::Variant { architecture: NAME, reason }
}
