//! What is known of a model before its source is asked: sizes, and what they add up to.

use serde::{Deserialize, Serialize};

use crate::quant::{Quant, mix};
use crate::units::Bytes;
use crate::yaml::word;

/// Sizes of a well-known model, to forecast by; what its source says counts more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// What its blocks are made of.
    pub family: Family,
    /// Transformer blocks; of an encoder and a decoder, in each.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width inside the feed-forward part.
    pub feed_forward: u32,
    /// Attention heads.
    pub heads: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Tokens that the model was trained to look back on.
    pub context: u32,
    /// Tokens that (some of) its blocks look back on, where these are fewer.
    pub window: Option<u32>,
    /// Whether the output head is the embedding.
    pub is_tied: bool,
    /// Whether context and window were not seen in a published configuration.
    pub is_unchecked: bool,
}

/// What the blocks of a model are made of, where families differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama, Vicuna, Mistral, `SmolLM2`.
    Llama,
    /// With biases on queries, keys and values.
    Qwen2,
    /// With normalized queries and keys.
    Qwen3,
    /// With norms after attention and feed-forward, too.
    Gemma2,
    /// Gemma 2 with normalized queries and keys.
    Gemma3,
    /// Llama with fused matrices.
    Phi3,
    /// Llama, some blocks without positions.
    Smollm3,
    /// Attention and feed-forward side by side.
    GptJ,
    /// GPT-2 with a window in every other block.
    GptNeo,
    /// Biases everywhere, positions by slopes.
    Bloom,
    /// An encoder and a decoder.
    T5,
}

word!(Family: Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma2, Family::Gemma3, Family::Phi3,
    Family::Smollm3, Family::GptJ, Family::GptNeo, Family::Bloom, Family::T5);

impl Family {
    /// Returns the architecture that a GGUF of the family names.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
            Self::Smollm3 => "smollm3",
            // llama.cpp has no graph for GPT-J: phi2's does the same
            Self::GptJ => "phi2",
            Self::GptNeo => "gpt2",
            Self::Bloom => "bloom",
            Self::T5 => "t5",
        }
    }
}

impl Figures {
    /// Returns how many parameters these sizes make, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<u64>()).sum()
    }

    /// Forecasts the bytes of all tensors in a GGUF of `quant`: without the vocabulary, and
    /// without what a conversion may add (zeros where a graph wants a bias, factors of positions).
    pub fn bytes(&self, quant: Quant) -> Bytes {
        let tensors = self.tensors();
        let tensors: Vec<(&str, &[u64])> =
            tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        let facts = mix::MixFacts {
            architecture: self.family.architecture(),
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            has_imatrix: false,
        };
        mix::tensor_bytes(&tensors, facts, quant)
    }

    /// Returns the tensors that a GGUF has of these sizes: name, and shape with the row's length first.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let [hidden, inner, vocab] = [self.hidden, self.feed_forward, self.vocab].map(u64::from);
        let mut list = vec![("token_embd.weight".to_owned(), vec![hidden, vocab])];
        if !self.is_tied {
            list.push(("output.weight".to_owned(), vec![hidden, vocab]));
        }
        let vectors: &[&str] = match self.family {
            Family::GptJ | Family::GptNeo => &["output_norm.weight", "output_norm.bias"],
            Family::Bloom => {
                &["output_norm.weight", "output_norm.bias", "token_embd_norm.weight", "token_embd_norm.bias"]
            }
            Family::T5 => &["enc.output_norm.weight", "dec.output_norm.weight"],
            _ => &["output_norm.weight"],
        };
        list.extend(vectors.iter().map(|name| ((*name).to_owned(), vec![hidden])));
        match self.family {
            Family::GptJ => list.push(("output.bias".to_owned(), vec![vocab])),
            Family::GptNeo => {
                list.push(("position_embd.weight".to_owned(), vec![hidden, self.context.into()]));
            }
            Family::T5 => {
                for side in ["enc", "dec"] {
                    let name = format!("{side}.blk.0.attn_rel_b.weight");
                    list.push((name, vec![self.heads.into(), T5_BUCKETS]));
                }
            }
            _ => {}
        }
        let sides: &[(&str, bool)] = match self.family {
            Family::T5 => &[("enc.", false), ("dec.", true)],
            _ => &[("", false)],
        };
        for (side, is_decoder) in sides {
            for layer in 0..self.layers {
                let block = self.block(hidden, inner, *is_decoder);
                list.extend(
                    block.into_iter().map(|(name, shape)| (format!("{side}blk.{layer}.{name}"), shape)),
                );
            }
        }
        list
    }

    /// Returns the tensors of one block.
    fn block(&self, hidden: u64, inner: u64, is_decoder: bool) -> Vec<(&'static str, Vec<u64>)> {
        let [queries, values] =
            [self.heads, self.kv_heads].map(|heads| u64::from(heads) * u64::from(self.head_dim));
        let fused = queries + 2 * values;
        let attention = [
            ("attn_q.weight", vec![hidden, queries]),
            ("attn_k.weight", vec![hidden, values]),
            ("attn_v.weight", vec![hidden, values]),
        ];
        let gated = [("ffn_gate.weight", vec![hidden, inner]), ("ffn_up.weight", vec![hidden, inner])];
        let norms = [("attn_norm.weight", vec![hidden]), ("ffn_norm.weight", vec![hidden])];
        let mut block =
            vec![("attn_output.weight", vec![queries, hidden]), ("ffn_down.weight", vec![inner, hidden])];
        match self.family {
            Family::Llama
            | Family::Smollm3
            | Family::Qwen2
            | Family::Qwen3
            | Family::Gemma2
            | Family::Gemma3 => {
                block.extend(attention.into_iter().chain(gated).chain(norms));
            }
            Family::Phi3 => {
                block.extend(norms);
                block.push(("attn_qkv.weight", vec![hidden, fused]));
                block.push(("ffn_up.weight", vec![hidden, 2 * inner]));
            }
            Family::T5 => {
                block.extend(attention.into_iter().chain(gated).chain(norms));
                if is_decoder {
                    block.push(("cross_attn_norm.weight", vec![hidden]));
                    block.push(("cross_attn_q.weight", vec![hidden, queries]));
                    block.push(("cross_attn_k.weight", vec![hidden, values]));
                    block.push(("cross_attn_v.weight", vec![hidden, values]));
                    block.push(("cross_attn_o.weight", vec![queries, hidden]));
                }
            }
            Family::GptJ => {
                block.extend(attention);
                block.push(("ffn_up.weight", vec![hidden, inner]));
                block.push(("attn_norm.weight", vec![hidden]));
                block.push(("attn_norm.bias", vec![hidden]));
                block.push(("ffn_up.bias", vec![inner]));
                block.push(("ffn_down.bias", vec![hidden]));
            }
            Family::GptNeo | Family::Bloom => {
                block.extend(norms);
                block.push(("attn_qkv.weight", vec![hidden, fused]));
                block.push(("ffn_up.weight", vec![hidden, inner]));
                block.push(("attn_norm.bias", vec![hidden]));
                block.push(("ffn_norm.bias", vec![hidden]));
                block.push(("attn_output.bias", vec![hidden]));
                block.push(("ffn_up.bias", vec![inner]));
                block.push(("ffn_down.bias", vec![hidden]));
            }
        }
        match self.family {
            Family::Qwen2 => {
                block.push(("attn_q.bias", vec![queries]));
                block.push(("attn_k.bias", vec![values]));
                block.push(("attn_v.bias", vec![values]));
            }
            Family::Bloom => block.push(("attn_qkv.bias", vec![fused])),
            _ => {}
        }
        if matches!(self.family, Family::Gemma2 | Family::Gemma3) {
            block.push(("post_attention_norm.weight", vec![hidden]));
            block.push(("post_ffw_norm.weight", vec![hidden]));
        }
        if matches!(self.family, Family::Qwen3 | Family::Gemma3) {
            block.push(("attn_q_norm.weight", vec![self.head_dim.into()]));
            block.push(("attn_k_norm.weight", vec![self.head_dim.into()]));
        }
        block
    }
}

/// Distances that T5 tells apart (`relative_attention_num_buckets`).
const T5_BUCKETS: u64 = 32;
