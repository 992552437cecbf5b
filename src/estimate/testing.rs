//! Models and mixes for tests: llama-like ones, with llama.cpp's choice of types.

use super::{Candidate, Tensor};
use crate::catalog::{ModelFacts, Stored, TensorShape};
use crate::facts::{HostFacts, planned};
use crate::quant::Quant;
use crate::source::Pinned;
use crate::units::Bytes;

/// Widths of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    pub(crate) feed_forward: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) vocab: u32,
    pub(crate) is_tied: bool,
}

const fn widths(n: [u32; 7], is_tied: bool) -> Widths {
    let [layers, hidden, feed_forward, heads, kv_heads, head_dim, vocab] = n;
    Widths { layers, hidden, feed_forward, heads, kv_heads, head_dim, vocab, is_tied }
}

pub(crate) const SMOLLM2_135M: Widths = widths([30, 576, 1536, 9, 3, 64, 49152], true);
pub(crate) const LLAMA32_1B: Widths = widths([16, 2048, 8192, 32, 8, 64, 128_256], true);
pub(crate) const LLAMA32_3B: Widths = widths([28, 3072, 8192, 24, 8, 128, 128_256], true);
pub(crate) const LLAMA31_8B: Widths = widths([32, 4096, 14336, 32, 8, 128, 128_256], false);
pub(crate) const MISTRAL_7B: Widths = widths([32, 4096, 14336, 32, 8, 128, 32000], false);
pub(crate) const TINYLLAMA: Widths = widths([22, 2048, 5632, 32, 4, 64, 32000], false);

/// Makes the facts of a llama-like model.
pub(crate) fn model(widths: Widths) -> ModelFacts {
    let Widths { layers, hidden, feed_forward, heads, kv_heads, head_dim, vocab, is_tied } = widths;
    let (d, ff, q, kv) = (
        u64::from(hidden),
        u64::from(feed_forward),
        u64::from(heads * head_dim),
        u64::from(kv_heads * head_dim),
    );
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[u64]| {
        tensors.push(TensorShape { name, shape: shape.to_vec(), tensor_type: None });
    };
    add("token_embd.weight".into(), &[d, u64::from(vocab)]);
    for layer in 0..layers {
        let parts: [(&str, &[u64]); 9] = [
            ("attn_norm", &[d]),
            ("attn_q", &[d, q]),
            ("attn_k", &[d, kv]),
            ("attn_v", &[d, kv]),
            ("attn_output", &[q, d]),
            ("ffn_norm", &[d]),
            ("ffn_gate", &[d, ff]),
            ("ffn_up", &[d, ff]),
            ("ffn_down", &[ff, d]),
        ];
        for (part, shape) in parts {
            add(format!("blk.{layer}.{part}.weight"), shape);
        }
    }
    add("output_norm.weight".into(), &[d]);
    if !is_tied {
        add("output.weight".into(), &[d, u64::from(vocab)]);
    }
    let parameters = tensors.iter().map(|t| t.shape.iter().product::<u64>()).sum();
    ModelFacts {
        source: Pinned { uri: "file:test".into(), files: vec![], license: None },
        architecture: "llama".into(),
        parameters,
        layers,
        decoder_layers: None,
        hidden,
        feed_forward,
        heads,
        kv_heads,
        kv_heads_by_block: Vec::new(),
        head_dim,
        value_dim: None,
        vocab,
        context_trained: 131_072,
        window: None,
        windowed: Vec::new(),
        is_side_by_side: false,
        context_exact: None,
        is_tied,
        has_chat_template: true,
        prompt_style: None,
        imatrix: None,
        experts_used: None,
        stored: Stored::Checkpoint { tensors },
    }
}

/// Elements and bytes of a block.
fn block(tensor_type: &str) -> (u64, u64) {
    match tensor_type {
        "F32" => (1, 4),
        "F16" => (1, 2),
        "Q8_0" => (32, 34),
        "Q5_1" => (32, 24),
        "Q5_0" => (32, 22),
        "Q4_1" => (32, 20),
        "Q4_0" => (32, 18),
        "Q6_K" => (256, 210),
        "Q5_K" => (256, 176),
        "Q4_K" => (256, 144),
        "Q3_K" => (256, 110),
        "Q2_K" => (256, 84),
        other => panic!("{other}"),
    }
}

/// Makes a tensor of this type.
pub(crate) fn tensor(shape: &TensorShape, tensor_type: &str) -> Tensor {
    let (elements, bytes) = block(tensor_type);
    Tensor::new(shape, tensor_type, shape.shape[0] / elements * bytes)
}

fn type_of(shape: &TensorShape, quant: Quant, model: &ModelFacts) -> &'static str {
    use Quant as Q;
    if shape.shape.len() < 2 {
        return "F32";
    }
    let base = match quant {
        Q::F16 => return "F16",
        Q::Q8_0 => "Q8_0",
        Q::Q6K => "Q6_K",
        Q::Q5KM | Q::Q5KS => "Q5_K",
        Q::Q5_1 => "Q5_1",
        Q::Q5_0 => "Q5_0",
        Q::Q4KM | Q::Q4KS => "Q4_K",
        Q::Q4_1 => "Q4_1",
        Q::Q4_0 => "Q4_0",
        Q::Q3KL | Q::Q3KM | Q::Q3KS => "Q3_K",
        Q::Q2K => "Q2_K",
        other => panic!("{other}"),
    };
    let mut words = shape.name.split('.').skip(1);
    let layer: u32 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let part = words.next().unwrap_or_default();
    let n = model.layers;
    let more = layer < n / 8 || layer >= 7 * n / 8 || (layer.wrapping_sub(n / 8)) % 3 == 2;
    let is_head = shape.name == "output.weight" || (model.is_tied && shape.name == "token_embd.weight");
    let wanted = match (part, quant) {
        _ if is_head => {
            if base == "Q8_0" {
                base
            } else {
                "Q6_K"
            }
        }
        ("attn_v" | "ffn_down", Q::Q4KM | Q::Q5KM) if more => "Q6_K",
        ("attn_v", Q::Q4KS) if layer < 4 => "Q5_K",
        ("ffn_down", Q::Q4KS) if layer < n / 8 => "Q5_K",
        ("attn_v", Q::Q3KM) if layer < 2 => "Q5_K",
        ("ffn_down", Q::Q3KM) if layer < n / 16 => "Q5_K",
        ("attn_v" | "ffn_down" | "attn_output", Q::Q3KM) => "Q4_K",
        ("attn_v" | "ffn_down" | "attn_output", Q::Q3KL) => "Q5_K",
        ("attn_v", Q::Q2K) if model.heads / model.kv_heads >= 4 => "Q4_K",
        ("attn_v" | "ffn_down" | "attn_output", Q::Q2K) => "Q3_K",
        _ => base,
    };
    if shape.shape[0].is_multiple_of(block(wanted).0) {
        return wanted;
    }
    match wanted {
        "Q6_K" => "Q8_0",
        "Q5_K" => "Q5_1",
        "Q4_K" => "Q5_0",
        "Q3_K" | "Q2_K" => "Q4_0",
        _ => "F16",
    }
}

/// Makes the model's weights under `quant`.
pub(crate) fn candidate(model: &ModelFacts, quant: Quant) -> Candidate {
    let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &model.stored;
    let tensors = tensors.iter().map(|shape| tensor(shape, type_of(shape, quant, model))).collect();
    Candidate { quant: Some(quant), tensors, recipe: None }
}

/// Makes all candidates that the mixes above know, best first.
pub(crate) fn candidates(model: &ModelFacts) -> Vec<Candidate> {
    let is_known = |quant: &&Quant| !matches!(quant, Quant::F32 | Quant::Bf16 | Quant::Iq4Nl | Quant::Iq4Xs);
    Quant::ALL.iter().filter(is_known).map(|quant| candidate(model, *quant)).collect()
}

/// Makes a board's facts with this much memory available.
pub(crate) fn host(board: &str, available: Bytes) -> HostFacts {
    let mut host = planned(board).unwrap();
    host.memory.available = available;
    host
}
