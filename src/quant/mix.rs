//! Which tensor gets which type: llama.cpp's choice, foretold.
//!
//! A port of `llama_tensor_get_type` and what it calls (`src/llama-quant.cpp` of the
//! llama.cpp in llama-cpp-sys-2 0.1.161), for dense models of every family but Falcon, and
//! the quants of [`Quant`]. So a plan knows the size of a file to the byte before there is
//! one. `tests/quantize.rs` holds it to files that llama.cpp made.

use super::{Quant, TensorType};
use crate::units::Bytes;

/// What the choice depends on, besides names and shapes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MixFacts<'a> {
    /// The architecture as GGUF names it: `llama`.
    pub architecture: &'a str,
    /// Transformer blocks; of an encoder and a decoder, those of the encoder (`block_count`).
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Whether an importance matrix tells which columns matter.
    pub has_imatrix: bool,
}

/// Tells whether llama.cpp mixes the types of an architecture by rules of its own, which [`plan`] has not.
pub fn has_own_rules(architecture: &str) -> bool {
    ["falcon", "glm5-next"].contains(&architecture)
}

/// Returns the type of each of `tensors` (GGUF name and shape, the row's length first) in
/// a file of `quant`, in the order given.
///
/// The head is tied when there is no `output.weight`. Tensors that are never quantized
/// (one dimension, norms, positions) are F32, as [`crate::convert`] writes them.
pub fn plan(tensors: &[(&str, &[u64])], facts: MixFacts<'_>, quant: Quant) -> Vec<TensorType> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| (layer(tensors[index].0), tensors[index].0));
    let mut chooser = Chooser {
        facts,
        quant,
        is_tied: tensors.iter().all(|(name, _)| *name != "output.weight"),
        values: tensors.iter().filter(|(name, _)| Category::of(name) == Category::AttentionV).count(),
        values_seen: 0,
        downs_seen: 0,
    };
    let mut types = vec![TensorType::F32; tensors.len()];
    for index in order {
        let (name, shape) = tensors[index];
        if is_quantizable(name, shape) {
            types[index] = chooser.choose(name, shape);
        }
    }
    types
}

/// Returns the bytes that `tensors` take in a file of `quant`, each padded to the file's
/// alignment of 32.
///
/// Without the header, which holds mostly the vocabulary and is the same for every quant.
/// Saturates where shapes overflow.
pub fn tensor_bytes(tensors: &[(&str, &[u64])], facts: MixFacts<'_>, quant: Quant) -> Bytes {
    let types = plan(tensors, facts, quant);
    let padded = |((_, shape), kind): (&(&str, &[u64]), TensorType)| {
        Bytes(kind.bytes(shape).and_then(|n| n.checked_next_multiple_of(32)).unwrap_or(u64::MAX))
    };
    tensors.iter().zip(types).map(padded).sum()
}

/// Returns the layer that llama.cpp sorts a tensor by, before its name: -1 outside the
/// blocks (`weight_name_comparer`).
pub fn layer(name: &str) -> i64 {
    let digits = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    digits.and_then(|(digits, _)| digits.parse().ok()).unwrap_or(-1)
}

/// Tells whether a tensor may be quantized (`tensor_allows_quantization`): what may not keeps
/// the type that it has.
pub fn is_quantizable(name: &str, shape: &[u64]) -> bool {
    // trailing dimensions of 1 do not count
    shape.iter().rposition(|&len| len != 1).unwrap_or(0) > 0
        && name.ends_with("weight")
        && !NEVER.iter().any(|part| name.contains(part))
        && name != "position_embd.weight"
        && name != "token_types.weight"
}

/// Parts of names of matrices that are too small to gain by it, or too sensitive.
const NEVER: [&str; 34] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "rvq.codebook",
];

/// `tensor_get_category`, as far as the choice below tells categories apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Category {
    Embedding,
    /// Values, alone or fused with queries and keys.
    AttentionV,
    AttentionOutput,
    Down,
    Output,
    Other,
}

impl Category {
    fn of(name: &str) -> Self {
        if name == "output.weight" {
            Self::Output
        } else if name == "token_embd.weight" || name == "per_layer_token_embd.weight" {
            Self::Embedding
        } else if ["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"]
            .iter()
            .any(|part| name.contains(part))
        {
            Self::AttentionV
        } else if name.contains("attn_output.weight") {
            Self::AttentionOutput
        } else if name.contains("ffn_down") {
            Self::Down
        } else {
            Self::Other
        }
    }
}

/// `quantize_state_impl`: the choice depends on how many of a kind have passed.
struct Chooser<'a> {
    facts: MixFacts<'a>,
    quant: Quant,
    is_tied: bool,
    values: usize,
    values_seen: usize,
    downs_seen: usize,
}

impl Chooser<'_> {
    fn choose(&mut self, name: &str, shape: &[u64]) -> TensorType {
        let base = base_type(self.quant);
        if !base.is_quantized() {
            return base;
        }
        let row = shape.first().copied().unwrap_or_default();
        let category = Category::of(name);
        let is_head = category == Category::Output || (self.is_tied && category == Category::Embedding);
        let wanted = if is_head {
            if !row.is_multiple_of(base.block_len()) || base == TensorType::Q8_0 {
                TensorType::Q8_0
            } else {
                TensorType::Q6K
            }
        } else {
            match category {
                Category::AttentionV => self.values_type(base),
                Category::Down => self.down_type(base),
                Category::AttentionOutput => match self.quant {
                    Quant::Q2K => TensorType::Q3K,
                    Quant::Q3KM => TensorType::Q4K,
                    Quant::Q3KL => TensorType::Q5K,
                    _ => base,
                },
                _ => base,
            }
        };
        fit(wanted, row)
    }

    fn values_type(&mut self, base: TensorType) -> TensorType {
        let shares_values = self.facts.heads.checked_div(self.facts.kv_heads).unwrap_or(0) >= 4;
        let seen = self.values_seen;
        self.values_seen += 1;
        let chosen = match self.quant {
            Quant::Q2K if shares_values => TensorType::Q4K,
            Quant::Q2K => TensorType::Q3K,
            Quant::Q3KM if seen < 2 => TensorType::Q5K,
            Quant::Q3KM => TensorType::Q4K,
            Quant::Q3KL => TensorType::Q5K,
            Quant::Iq4Nl | Quant::Iq4Xs if shares_values => TensorType::Q5K,
            Quant::Q4KM | Quant::Q5KM if gets_more_bits(seen, self.values) => TensorType::Q6K,
            Quant::Q4KS if seen < 4 => TensorType::Q5K,
            _ => base,
        };
        // llama.cpp's LLM_TYPE_70B: eight heads share each value, so more bits cost little
        let is_70b = match self.facts.architecture {
            "llama" => self.facts.layers == 80 && self.facts.heads != self.facts.kv_heads,
            "qwen2" => self.facts.layers == 80,
            _ => false,
        };
        if is_70b && matches!(chosen, TensorType::Q3K | TensorType::Q4K) { TensorType::Q5K } else { chosen }
    }

    fn down_type(&mut self, base: TensorType) -> TensorType {
        let seen = self.downs_seen;
        self.downs_seen += 1;
        let layers = self.facts.layers as usize;
        let is_early = seen < layers / 8;
        match self.quant {
            Quant::Q2K => TensorType::Q3K,
            Quant::Q3KM if seen < layers / 16 => TensorType::Q5K,
            Quant::Q3KM => TensorType::Q4K,
            Quant::Q3KL => TensorType::Q5K,
            Quant::Q4KM | Quant::Q5KM if gets_more_bits(seen, layers) => TensorType::Q6K,
            Quant::Q4KS if is_early => TensorType::Q5K,
            Quant::Iq4Nl | Quant::Iq4Xs if is_early && !self.facts.has_imatrix => TensorType::Q5K,
            Quant::Q4_0 if is_early && self.facts.has_imatrix => TensorType::Q4_1,
            Quant::Q5_0 if is_early && self.facts.has_imatrix => TensorType::Q5_1,
            _ => base,
        }
    }
}

/// `use_more_bits`: the first and the last eighth, and every third layer between.
fn gets_more_bits(index: usize, count: usize) -> bool {
    index < count / 8 || index >= 7 * count / 8 || (index - count / 8) % 3 == 2
}

/// `llama_ftype_get_default_type`.
fn base_type(quant: Quant) -> TensorType {
    match quant {
        Quant::F32 => TensorType::F32,
        Quant::F16 => TensorType::F16,
        Quant::Bf16 => TensorType::Bf16,
        Quant::Q8_0 => TensorType::Q8_0,
        Quant::Q6K => TensorType::Q6K,
        Quant::Q5KM | Quant::Q5KS => TensorType::Q5K,
        Quant::Q5_1 => TensorType::Q5_1,
        Quant::Q5_0 => TensorType::Q5_0,
        Quant::Q4KM | Quant::Q4KS => TensorType::Q4K,
        Quant::Iq4Nl => TensorType::Iq4Nl,
        Quant::Iq4Xs => TensorType::Iq4Xs,
        Quant::Q4_1 => TensorType::Q4_1,
        Quant::Q4_0 => TensorType::Q4_0,
        Quant::Q3KL | Quant::Q3KM | Quant::Q3KS => TensorType::Q3K,
        Quant::Q2K => TensorType::Q2K,
    }
}

/// `tensor_type_fallback`: rows that blocks do not divide get a type with smaller blocks.
fn fit(wanted: TensorType, row: u64) -> TensorType {
    let fits = |kind: TensorType| row.is_multiple_of(kind.block_len());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        TensorType::Iq4Xs => TensorType::Iq4Nl,
        TensorType::Q2K | TensorType::Q3K => TensorType::Q4_0,
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K => TensorType::Q5_1,
        TensorType::Q6K => TensorType::Q8_0,
        already_small => already_small,
    };
    if fits(smaller) { smaller } else { TensorType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: MixFacts<'_> =
        MixFacts { architecture: "llama", layers: 16, heads: 32, kv_heads: 8, has_imatrix: false };

    fn types(tensors: &[(&str, &[u64])], facts: MixFacts<'_>, quant: Quant) -> Vec<&'static str> {
        plan(tensors, facts, quant).into_iter().map(TensorType::name).collect()
    }

    #[test]
    fn q4_k_m_gives_more_bits_to_the_ends_and_to_every_third_layer() {
        let names: Vec<String> = (0..16).map(|n| format!("blk.{n}.ffn_down.weight")).collect();
        let tensors: Vec<(&str, &[u64])> =
            names.iter().map(|name| (name.as_str(), &[8192, 2048][..])).collect();
        let found = types(&tensors, FACTS, Quant::Q4KM);
        let richer: Vec<usize> = (0..16).filter(|&n| found[n] == "Q6_K").collect();
        assert_eq!(richer, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert!(found.iter().all(|name| ["Q6_K", "Q4_K"].contains(name)));
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let sorted = ["blk.2.attn_v.weight", "blk.10.attn_v.weight"];
        let facts = MixFacts { layers: 2, ..FACTS };
        let forth: Vec<(&str, &[u64])> = sorted.iter().map(|name| (*name, &[2048, 512][..])).collect();
        let back: Vec<(&str, &[u64])> = forth.iter().rev().copied().collect();
        let mut answer = plan(&back, facts, Quant::Q4KM);
        answer.reverse();
        assert_eq!(answer, plan(&forth, facts, Quant::Q4KM));
    }

    #[test]
    fn rows_that_blocks_do_not_divide_fall_back() {
        let tensors: [(&str, &[u64]); 4] = [
            ("token_embd.weight", &[576, 49_152]),
            ("blk.0.attn_q.weight", &[576, 576]),
            ("blk.0.ffn_up.weight", &[20, 576]),
            ("blk.0.attn_norm.weight", &[576]),
        ];
        assert_eq!(types(&tensors, FACTS, Quant::Q4KM), ["Q8_0", "Q5_0", "F16", "F32"]);
        assert_eq!(types(&tensors, FACTS, Quant::Q2K), ["Q8_0", "Q4_0", "F16", "F32"]);
        assert_eq!(types(&tensors, FACTS, Quant::F16), ["F16", "F16", "F16", "F32"]);
    }

    #[test]
    fn an_untied_embedding_is_not_treated_as_the_head() {
        let tensors: [(&str, &[u64]); 2] =
            [("token_embd.weight", &[2048, 32_000]), ("output.weight", &[2048, 32_000])];
        assert_eq!(types(&tensors, FACTS, Quant::Q4KM), ["Q4_K", "Q6_K"]);
        assert_eq!(types(&tensors[..1], FACTS, Quant::Q4KM), ["Q6_K"]);
        assert_eq!(types(&tensors, FACTS, Quant::Q8_0), ["Q8_0", "Q8_0"]);
    }

    #[test]
    fn the_seventy_billion_model_spends_bits_on_shared_values() {
        let facts = MixFacts { layers: 80, heads: 64, kv_heads: 8, ..FACTS };
        let tensors: [(&str, &[u64]); 1] = [("blk.30.attn_v.weight", &[8192, 1024])];
        assert_eq!(types(&tensors, facts, Quant::Q3KS), ["Q5_K"]);
        assert_eq!(types(&tensors, MixFacts { architecture: "qwen3", ..facts }, Quant::Q3KS), ["Q3_K"]);
        assert_eq!(types(&tensors, FACTS, Quant::Q3KS), ["Q3_K"]);
    }

    #[test]
    fn an_importance_matrix_changes_what_the_first_blocks_get() {
        let tensors: [(&str, &[u64]); 3] =
            ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
                .map(|name| (name, &[2048, 512][..]));
        let guided = MixFacts { has_imatrix: true, ..FACTS };
        assert_eq!(types(&tensors, guided, Quant::Q4_0), ["Q4_1", "Q4_1", "Q4_0"]);
        assert_eq!(types(&tensors, guided, Quant::Q5_0), ["Q5_1", "Q5_1", "Q5_0"]);
        assert_eq!(types(&tensors, guided, Quant::Iq4Nl), ["IQ4_NL"; 3]);
        assert_eq!(types(&tensors, FACTS, Quant::Iq4Nl), ["Q5_K", "Q5_K", "IQ4_NL"]);
        assert_eq!(types(&tensors, FACTS, Quant::Q4_0), ["Q4_0"; 3]);
    }

    #[test]
    fn a_decoder_goes_on_counting_where_its_encoder_ends() {
        let names: Vec<String> = ["dec", "enc"]
            .iter()
            .flat_map(|side| (0..8).map(move |n| format!("{side}.blk.{n}.ffn_down.weight")))
            .collect();
        let tensors: Vec<(&str, &[u64])> =
            names.iter().map(|name| (name.as_str(), &[1024, 512][..])).collect();
        let facts = MixFacts { architecture: "t5", layers: 8, heads: 8, kv_heads: 8, has_imatrix: false };
        let found = types(&tensors, facts, Quant::Q4KM);
        // 16 are counted, and shares are of 8: all of the encoder lies beyond the last eighth
        assert_eq!(
            (0..16).filter(|&n| found[n] == "Q6_K").collect::<Vec<_>>(),
            [0, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        );
    }

    #[test]
    fn bytes_are_padded_tensor_by_tensor() {
        let tensors: [(&str, &[u64]); 2] =
            [("blk.0.attn_norm.weight", &[9]), ("blk.0.ffn_up.weight", &[32, 1])];
        assert_eq!(tensor_bytes(&tensors, FACTS, Quant::F32), Bytes(64 + 128));
    }
}
