//! Sizes of the families that came before Llama, each under its own names.

use super::{Config, Error, single};
use crate::gguf::Value;

/// Real heads have 256 rows or less.
pub(super) const WIDEST_HEAD: u32 = 1 << 14;
/// The deepest known models have some 130 blocks.
pub(super) const DEEPEST: u32 = 1024;

/// What a family calls its sizes in config.json: of several names the first that is there counts.
pub(super) struct Names {
    pub(super) hidden: &'static [&'static str],
    /// Four times the width where it is absent.
    pub(super) feed_forward: &'static [&'static str],
    pub(super) layers: &'static [&'static str],
    pub(super) heads: &'static [&'static str],
    pub(super) context: &'static [&'static str],
    /// The context where config.json gives none.
    pub(super) usual_context: Option<u32>,
}

/// The names of the GPT-2 family.
pub(super) const GPT_NAMES: Names = Names {
    hidden: &["n_embd", "hidden_size"],
    feed_forward: &["n_inner", "intermediate_size"],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    context: &["n_positions", "max_position_embeddings", "n_ctx"],
    usual_context: None,
};

/// Sizes of a decoder whose heads are all of one kind.
pub(super) struct Sizes {
    pub(super) hidden: u32,
    pub(super) feed_forward: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) head_dim: u32,
    pub(super) vocab: u32,
    pub(super) context: u32,
}

impl Sizes {
    pub(super) fn of(config: Config<'_>, names: &Names) -> Result<Self, Error> {
        let hidden = config.size_of(names.hidden)?;
        let heads = config.size_of(names.heads)?;
        if !hidden.is_multiple_of(heads) {
            return Err(Error::Config(format!("{heads} heads do not divide {} {hidden}", names.hidden[0])));
        }
        let head_dim = hidden / heads;
        if head_dim > WIDEST_HEAD {
            return Err(Error::Config(format!("heads of {head_dim}")));
        }
        let feed_forward = match config.optional_size_of(names.feed_forward)? {
            Some(inner) => inner,
            None => hidden
                .checked_mul(4)
                .ok_or_else(|| Error::Config(format!("{} is {hidden}", names.hidden[0])))?,
        };
        let layers = config.size_of(names.layers)?;
        if layers > DEEPEST {
            return Err(Error::Config(format!("{} is {layers}", names.layers[0])));
        }
        let context = match (config.optional_size_of(names.context)?, names.usual_context) {
            (Some(context), _) | (None, Some(context)) => context,
            (None, None) => config.size_of(names.context)?,
        };
        Ok(Self { hidden, feed_forward, layers, heads, head_dim, vocab: config.size("vocab_size")?, context })
    }

    /// Returns the keys that llama.cpp wants of every such decoder; `epsilon` is of its layer norms.
    pub(super) fn keys(&self, epsilon: f64) -> Vec<(&'static str, Value)> {
        vec![
            ("block_count", self.layers.into()),
            ("context_length", self.context.into()),
            ("embedding_length", self.hidden.into()),
            ("feed_forward_length", self.feed_forward.into()),
            ("attention.head_count", self.heads.into()),
            ("attention.layer_norm_epsilon", single(epsilon).into()),
        ]
    }

    /// Returns width, feed-forward width and vocabulary, as shapes want them.
    pub(super) fn wide(&self) -> [u64; 3] {
        [self.hidden, self.feed_forward, self.vocab].map(u64::from)
    }
}

/// Refuses what is not a GELU.
///
/// ggml has one, by the formula with tanh and a table of f16. `gelu` of config.json is the
/// one with erf, from which the formula differs by less than 5e-4: llama.cpp's graphs take
/// the one for the other.
pub(super) fn check_gelu(architecture: &'static str, config: Config<'_>, key: &str) -> Result<(), Error> {
    const GELU: [&str; 5] = ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python"];
    match config.text(key).filter(|name| !GELU.contains(name)) {
        None => Ok(()),
        Some(other) => Err(Error::Variant {
            architecture,
            reason: format!("its activation is {other}, llama.cpp has gelu"),
        }),
    }
}
