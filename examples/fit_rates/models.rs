//! The models of the published runs: their sizes, and the types of their tensors.

use bramble_fleet::catalog::{Family, Figures, ModelFacts, Stored, TensorShape};
use bramble_fleet::estimate::{Candidate, Tensor};
use bramble_fleet::quant::{Quant, TensorType};
use bramble_fleet::source::Pinned;

/// Key, family, then layers, width, inner width, heads, heads of keys and values, width of a
/// head, vocabulary; and whether the head is tied.
///
/// From the models' published configurations. `olmo2-1b` is counted as a Llama, which differs
/// in norms alone.
#[rustfmt::skip]
const MODELS: &[(&str, Family, [u32; 7], bool)] = &[
    ("gemma-2b", Family::Llama, [18, 2048, 16384, 8, 1, 256, 256_000], true),
    ("gemma3-1b", Family::Gemma3, [26, 1152, 6912, 4, 1, 256, 262_144], true),
    ("gemma3-270m", Family::Gemma3, [18, 640, 2048, 4, 1, 256, 262_144], true),
    ("llama2-13b", Family::Llama, [40, 5120, 13824, 40, 40, 128, 32_000], false),
    ("llama3.1-8b", Family::Llama, [32, 4096, 14336, 32, 8, 128, 128_256], false),
    ("llama3.2-1b", Family::Llama, [16, 2048, 8192, 32, 8, 64, 128_256], true),
    ("llama3.2-3b", Family::Llama, [28, 3072, 8192, 24, 8, 128, 128_256], true),
    ("magistral-24b", Family::Llama, [40, 5120, 32768, 32, 8, 128, 131_072], false),
    ("ministral3-3b", Family::Llama, [26, 3072, 9216, 32, 8, 128, 131_072], true),
    ("ministral3-8b", Family::Llama, [34, 4096, 14336, 32, 8, 128, 131_072], false),
    ("ministral3-14b", Family::Llama, [40, 5120, 16384, 32, 8, 128, 131_072], false),
    ("olmo2-1b", Family::Llama, [16, 2048, 8192, 16, 16, 128, 100_352], false),
    ("phi3-mini", Family::Phi3, [32, 3072, 8192, 32, 32, 96, 32_064], false),
    ("phi4-14b", Family::Phi3, [40, 5120, 17920, 40, 10, 128, 100_352], false),
    ("phi4-mini", Family::Phi3, [32, 3072, 8192, 24, 8, 128, 200_064], true),
    ("qwen1.5-1.8b", Family::Qwen2, [24, 2048, 5504, 16, 16, 128, 151_936], false),
    ("qwen3-0.6b-u", Family::Qwen3, [28, 1024, 3072, 16, 8, 128, 151_936], false),
    ("smollm2-1.7b", Family::Llama, [24, 2048, 8192, 32, 32, 64, 49_152], true),
    ("smollm3-3b", Family::Smollm3, [36, 2048, 11008, 16, 4, 128, 128_256], true),
    ("tinyllama", Family::Llama, [22, 2048, 5632, 32, 4, 64, 32_000], false),
];

/// Models whose blocks are no family of ours: layers with attention, layers with a short
/// convolution, width, inner width; vocabulary 65536, the head tied.
const LFM2: &[(&str, [u64; 4])] = &[("lfm2-350m", [6, 10, 1024, 4608]), ("lfm2-700m", [6, 10, 1536, 6912])];

/// Keys of models whose files have a tensor of factors of positions, with its length.
const ROPE_FACTORS: &[(&str, u64)] = &[("llama3.1-8b", 64), ("llama3.2-1b", 32), ("llama3.2-3b", 64)];

/// Returns the facts of a model of the runs.
pub(crate) fn model(key: &str) -> Option<ModelFacts> {
    if let Some((_, sizes)) = LFM2.iter().find(|(name, _)| *name == key) {
        return Some(lfm2(key, *sizes));
    }
    let (_, family, [layers, hidden, feed_forward, heads, kv_heads, head_dim, vocab], is_tied) =
        *MODELS.iter().find(|(name, ..)| *name == key)?;
    let (context, window, is_unchecked) = (8192, None, true);
    let figures = Figures {
        family,
        layers,
        hidden,
        feed_forward,
        heads,
        kv_heads,
        head_dim,
        vocab,
        context,
        window,
        is_tied,
        is_unchecked,
    };
    let mut facts = figures.facts(pinned(key));
    if let Some((_, length)) = ROPE_FACTORS.iter().find(|(name, _)| *name == key) {
        add(&mut facts, [shape("rope_freqs.weight", &[*length])]);
    }
    Some(facts)
}

fn pinned(key: &str) -> Pinned {
    Pinned { uri: format!("published:{key}"), files: Vec::new(), license: None }
}

fn shape(name: &str, shape: &[u64]) -> TensorShape {
    TensorShape { name: name.to_owned(), shape: shape.to_vec(), tensor_type: None }
}

fn add(facts: &mut ModelFacts, more: impl IntoIterator<Item = TensorShape>) {
    let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &mut facts.stored;
    tensors.extend(more);
}

/// LFM2: of its layers some have attention with 8 heads of keys and values, the others a gated
/// short convolution.
fn lfm2(key: &str, [attention, convolution, hidden, inner]: [u64; 4]) -> ModelFacts {
    const VOCAB: u32 = 65_536;
    let [layers, width, feed_forward, heads] =
        [attention + convolution, hidden, inner, hidden / 64].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let figures = Figures {
        family: Family::Llama,
        layers: 0,
        hidden: width,
        feed_forward,
        heads,
        kv_heads: 8,
        head_dim: 64,
        vocab: VOCAB,
        context: 8192,
        window: None,
        is_tied: true,
        is_unchecked: true,
    };
    let mut facts = figures.facts(pinned(key));
    for layer in 0..attention + convolution {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let one = |part: &str, row: u64, rows: u64| shape(&name(part), &[row, rows]);
        if layer < attention {
            add(
                &mut facts,
                [
                    one("attn_q", hidden, hidden),
                    one("attn_k", hidden, 512),
                    one("attn_v", hidden, 512),
                    one("attn_output", hidden, hidden),
                ],
            );
        } else {
            add(
                &mut facts,
                [one("shortconv.in_proj", hidden, 3 * hidden), one("shortconv.out_proj", hidden, hidden)],
            );
        }
        add(
            &mut facts,
            [one("ffn_gate", hidden, inner), one("ffn_up", hidden, inner), one("ffn_down", inner, hidden)],
        );
    }
    "lfm2".clone_into(&mut facts.architecture);
    facts.layers = layers;
    // attention is counted by layers and heads, and most layers have none
    facts.heads = u32::try_from(hidden / 64 * attention / (attention + convolution)).unwrap_or(1);
    facts
}

/// Returns a model's weights in a mix by its name in the runs; none for mixes of which nothing
/// is known but the size of the file.
pub(crate) fn candidate(model: &ModelFacts, mix: &str) -> Option<Candidate> {
    match mix {
        "IQ3_M" | "IQ3_XS" => Some(of_three_bits(model, mix == "IQ3_XS")),
        // as llama-bench shortens Q5_K_M and Q6_K
        "Q5_K" => Some(Candidate::quantized(model, Quant::Q5KM)),
        name => Some(Candidate::quantized(model, name.parse().ok()?)),
    }
}

/// Returns weights of which the file's size is known and the mix is not, but for its main type.
pub(crate) fn of_one_type(model: &ModelFacts, tensor_type: &str, bytes: u64) -> Candidate {
    let mut weights = Candidate::quantized(model, Quant::F16);
    let all: u64 = weights.tensors.iter().map(Tensor::elements).sum();
    for tensor in &mut weights.tensors {
        tensor_type.clone_into(&mut tensor.tensor_type);
        tensor.bytes =
            u64::try_from(u128::from(bytes) * u128::from(tensor.elements()) / u128::from(all.max(1)))
                .unwrap_or(u64::MAX);
    }
    Candidate { quant: None, ..weights }
}

/// The mixes `IQ3_M` and `IQ3_XS`, which Bramble does not make: llama.cpp's choice for them
/// (`llama_tensor_get_type_impl`), without an importance matrix.
fn of_three_bits(model: &ModelFacts, is_small: bool) -> Candidate {
    let layers = model.layers;
    let shares_values = model.heads / model.kv_heads.max(1) >= 4;
    let mut weights = Candidate::quantized(model, Quant::Q3KS);
    for tensor in &mut weights.tensors {
        // heads and what is never quantized are as in every mix
        if !["Q3_K", "Q4_0", "Q4_K", "Q5_K"].contains(&tensor.tensor_type.as_str()) {
            continue;
        }
        let mut words = tensor.name.split('.');
        let (block, layer) = (words.next(), words.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0));
        let part = words.next().filter(|_| block == Some("blk")).unwrap_or_default();
        let is_middle = (layers / 8..7 * layers / 8).contains(&layer);
        let wanted = match (part, is_small) {
            ("attn_v", true) if shares_values => TensorType::Q4K,
            ("attn_v" | "attn_output", false) => TensorType::Q4K,
            ("ffn_down", false) if layer < layers / 8 => TensorType::Q4K,
            ("attn_k" | "attn_q", true) => TensorType::Iq3Xxs,
            ("ffn_gate" | "ffn_up", true) if is_middle => TensorType::Iq3Xxs,
            _ => TensorType::Iq3S,
        };
        let row = tensor.shape.first().copied().unwrap_or(1);
        let fits = row.is_multiple_of(wanted.block_len());
        let smaller = if wanted == TensorType::Q4K { TensorType::Q5_0 } else { TensorType::Iq4Nl };
        let chosen = if fits { wanted } else { smaller };
        chosen.name().clone_into(&mut tensor.tensor_type);
        tensor.bytes = chosen.bytes(&tensor.shape).unwrap_or(u64::MAX);
    }
    Candidate { quant: None, ..weights }
}
