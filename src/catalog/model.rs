use serde::{Deserialize, Serialize};

use crate::convert::PromptStyle;
use crate::quant::TensorType;
use crate::source::{Pinned, PinnedFile};
use crate::units::Bytes;

/// What a plan needs to know of a model's weights, before they are here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Where they come from.
    pub source: Pinned,
    /// The architecture as GGUF names it: `llama`.
    pub architecture: String,
    /// Parameters of all tensors together (a tied head counts once).
    pub parameters: u64,
    /// Transformer blocks; of an encoder, where there is one.
    pub layers: u32,
    /// Blocks of the decoder, where an encoder reads before it writes.
    #[serde(default)]
    pub decoder_layers: Option<u32>,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width inside the feed-forward part.
    pub feed_forward: u32,
    /// Attention heads.
    pub heads: u32,
    /// Heads of keys and values; the most that a block has, where they differ.
    pub kv_heads: u32,
    /// Heads of keys and values of each block, where they differ; else empty.
    pub kv_heads_by_block: Vec<u32>,
    /// Width of one head of queries and keys.
    pub head_dim: u32,
    /// Width of one head of values, where it is another.
    pub value_dim: Option<u32>,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Tokens that the model was trained to look back on.
    pub context_trained: u32,
    /// Tokens of a sliding window, where there is one.
    pub window: Option<u32>,
    /// Which blocks look back through the window only, where llama.cpp's graph lets them; else
    /// empty.
    pub windowed: Vec<bool>,
    /// Whether a block's feed-forward part reads the block's input, beside attention.
    pub is_side_by_side: bool,
    /// Tokens up to which the engine computes what the model does, where there is such a bound:
    /// it leaves out the windows of some architectures.
    #[serde(default)]
    pub context_exact: Option<u32>,
    /// Whether the output head is the embedding.
    pub is_tied: bool,
    /// Whether conversations can be had with it: the source brings a chat template, or gets one.
    pub has_chat_template: bool,
    /// The style of prompts that it was taught, where the source brings no template for it.
    #[serde(default)]
    pub prompt_style: Option<PromptStyle>,
    /// The importance matrix that the manifest wants quants to be made with. It comes beside
    /// the weights, and no header tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<PinnedFile>,
    /// Of a mixture of experts, how many of them each token is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts_used: Option<u32>,
    /// How the weights are stored.
    pub stored: Stored,
}

impl ModelFacts {
    /// Returns the tensors' names and shapes, the row's length first.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[u64])> {
        let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &self.stored;
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
    }

    /// Returns the width of one head of values.
    pub fn value_width(&self) -> u32 {
        self.value_dim.unwrap_or(self.head_dim)
    }

    /// Returns the heads of keys and values of a block.
    pub fn kv_heads_of(&self, block: u32) -> u32 {
        self.kv_heads_by_block.get(block as usize).copied().unwrap_or(self.kv_heads)
    }

    /// Returns whether a block looks back through the window only.
    pub fn is_windowed(&self, block: u32) -> bool {
        self.windowed.get(block as usize).copied().unwrap_or(false)
    }

    /// Returns whether the source is a GGUF whose values are packed in blocks: another quant of it
    /// would be made of what has lost something already.
    pub fn is_quantized(&self) -> bool {
        let Stored::Gguf { tensors, .. } = &self.stored else { return false };
        let type_of = |tensor: &TensorShape| {
            let name = tensor.tensor_type.as_deref()?;
            TensorType::ALL.iter().copied().find(|tensor_type| tensor_type.name() == name)
        };
        tensors.iter().filter_map(type_of).any(TensorType::is_quantized)
    }
}

/// How weights are stored at the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stored", rename_all = "snake_case")]
pub enum Stored {
    /// As a checkpoint: to be converted and quantized. Tensors as the GGUF will have them.
    Checkpoint {
        /// By GGUF name, in the order of the file.
        tensors: Vec<TensorShape>,
    },
    /// As a GGUF: used as it is.
    Gguf {
        /// The size of the file.
        bytes: Bytes,
        /// By GGUF name, in the order of the file.
        tensors: Vec<TensorShape>,
        /// The quant that `general.file_type` names, where it is one we know.
        quant: Option<crate::quant::Quant>,
    },
}

/// Name, shape and type of one tensor of a GGUF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorShape {
    /// The GGUF name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, in GGUF's order: the row's length first.
    pub shape: Vec<u64>,
    /// The type's name (`Q4_K`, `F16`), where the file exists; none before it is made.
    pub tensor_type: Option<String>,
}
