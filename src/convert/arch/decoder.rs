use super::{Config, Error, Recipe};
use crate::convert::recipe::List;
use crate::convert::{Change, Order};

/// Sizes that every decoder of Llama's kind is made of, and the weights that follow from them.
pub(super) struct Sizes {
    pub(super) hidden: u32,
    pub(super) feed_forward: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) vocab: u32,
    pub(super) is_tied: bool,
}

impl Sizes {
    /// Reads the sizes, and refuses those that do not go together.
    pub(super) fn of(config: Config<'_>) -> Result<Self, Error> {
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
        // the deepest known model has 126
        if layers > 1024 {
            return Err(Error::Config(format!("num_hidden_layers is {layers}")));
        }
        let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
            return Err(Error::Config("the numbers of heads and their size do not fit together".to_owned()));
        }
        Ok(Self {
            hidden,
            feed_forward: config.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab: config.size("vocab_size")?,
            is_tied: config.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        })
    }

    /// Returns the length of all queries of a token.
    pub(super) fn queries(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Returns the length of all keys, or all values, of a token.
    pub(super) fn values(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Returns the four matrices of attention; `rotation` gives the order of rows for so many heads.
    pub(super) fn attention(&self, rotation: fn(u32) -> Order, biases: [Bias; 2]) -> [Matrix; 4] {
        let [hidden, queries, values] = [self.hidden.into(), self.queries(), self.values()];
        let [inner, outer] = biases;
        let matrix = |ours, theirs, shape, order, bias| Matrix { ours, theirs, shape, order, bias };
        [
            matrix("attn_q", "self_attn.q_proj", [hidden, queries], rotation(self.heads), inner),
            matrix("attn_k", "self_attn.k_proj", [hidden, values], rotation(self.kv_heads), inner),
            matrix("attn_v", "self_attn.v_proj", [hidden, values], Order::Same, inner),
            matrix("attn_output", "self_attn.o_proj", [queries, hidden], Order::Same, outer),
        ]
    }

    /// Returns the three matrices of a gated feed-forward part.
    pub(super) fn gated(&self, bias: Bias) -> [Matrix; 3] {
        let [hidden, inner] = [self.hidden, self.feed_forward].map(u64::from);
        let matrix = |ours, theirs, shape| Matrix { ours, theirs, shape, order: Order::Same, bias };
        [
            matrix("ffn_gate", "mlp.gate_proj", [hidden, inner]),
            matrix("ffn_up", "mlp.up_proj", [hidden, inner]),
            matrix("ffn_down", "mlp.down_proj", [inner, hidden]),
        ]
    }

    /// Adds what stands before and after the blocks. `model` is what the hub's names start with.
    pub(super) fn add_ends(&self, list: &mut List<'_>, model: &str, head: &str, norm: Change) {
        let [hidden, vocab] = [self.hidden, self.vocab].map(u64::from);
        list.add("token_embd.weight", &format!("{model}.embed_tokens.weight"), &[hidden, vocab]);
        let theirs = format!("{model}.norm.weight");
        list.add_changed("output_norm.weight", &theirs, &[hidden], Order::Same, norm);
        if !self.is_tied {
            list.add("output.weight", head, &[hidden, vocab]);
        }
    }

    /// Adds every block.
    pub(super) fn add_blocks(&self, list: &mut List<'_>, model: &str, matrices: &[Matrix], norms: &[Norm]) {
        for layer in 0..self.layers {
            let names = |ours: &str, theirs: &str| {
                (format!("blk.{layer}.{ours}"), format!("{model}.layers.{layer}.{theirs}"))
            };
            for Matrix { ours, theirs, shape, order, bias } in matrices {
                let (ours, theirs) = names(ours, theirs);
                list.add_ordered(&format!("{ours}.weight"), &format!("{theirs}.weight"), shape, *order);
                let stored = format!("{theirs}.bias");
                if *bias == Bias::Always || (*bias == Bias::IfStored && list.has(&stored)) {
                    list.add_ordered(&format!("{ours}.bias"), &stored, &shape[1..], *order);
                }
            }
            for Norm { ours, theirs, size, change } in norms {
                let (ours, theirs) = names(ours, theirs);
                let [ours, theirs] = [ours, theirs].map(|name| format!("{name}.weight"));
                list.add_changed(&ours, &theirs, &[u64::from(*size)], Order::Same, *change);
            }
        }
    }

    /// Adds every block with the hub's usual names, and ends the list.
    pub(super) fn finish(
        &self,
        architecture: &'static str,
        mut list: List<'_>,
        matrices: &[Matrix],
        norms: &[Norm],
    ) -> Result<Vec<Recipe>, Error> {
        self.add_blocks(&mut list, "model", matrices, norms);
        list.finish(architecture, |name| self.is_left_over(name))
    }

    /// Returns the scales before attention and before the feed-forward part.
    pub(super) fn two_norms(&self) -> [Norm; 2] {
        [
            Norm::plain("attn_norm", "input_layernorm", self.hidden),
            Norm::plain("ffn_norm", "post_attention_layernorm", self.hidden),
        ]
    }

    /// Tells whether a tensor that no recipe uses may be left: rotary tables of old
    /// checkpoints, and the second copy of a tied head.
    pub(super) fn is_left_over(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq") || (self.is_tied && name.ends_with("lm_head.weight"))
    }
}

/// A matrix that each block has.
pub(super) struct Matrix {
    /// Its name within the block, in the GGUF.
    pub(super) ours: &'static str,
    /// Its name within the block, in the checkpoint.
    pub(super) theirs: &'static str,
    /// The row's length, and the rows.
    pub(super) shape: [u64; 2],
    /// The order of its rows.
    pub(super) order: Order,
    /// Whether a vector is added to what it gives.
    pub(super) bias: Bias,
}

/// Whether a matrix has a bias; one that is stored where there is [`Bias::Never`] one is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    Never,
    IfStored,
    Always,
}

/// A vector that scales, in each block.
pub(super) struct Norm {
    /// Its name within the block, in the GGUF.
    pub(super) ours: &'static str,
    /// Its name within the block, in the checkpoint.
    pub(super) theirs: &'static str,
    /// How many values it has.
    pub(super) size: u32,
    /// What is done to each.
    pub(super) change: Change,
}

impl Norm {
    /// Returns a scale that is stored as it is used.
    pub(super) fn plain(ours: &'static str, theirs: &'static str, size: u32) -> Self {
        Self { ours, theirs, size, change: Change::NONE }
    }
}
