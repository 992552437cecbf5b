//! Check values that publishers of differences tell, computed as their tools do.

use super::{Error, Stored};

/// The sum of all parameters, as a publisher tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    sum: f64,
    tolerance: f64,
}

/// Returns what is told of the differences in `ORG/REPO`.
pub(super) fn of(repo: &str) -> Option<Published> {
    // github.com/tatsu-lab/stanford_alpaca, weight_diff.py: the "naive integrity check"
    (repo == "tatsu-lab/alpaca-7b-wdiff").then_some(Published { sum: 50_637.183_6, tolerance: 1e-2 })
}

impl Published {
    pub(super) fn check(self, found: f32) -> Result<(), Error> {
        if (f64::from(found) - self.sum).abs() <= self.tolerance {
            return Ok(());
        }
        Err(Error::Published { found, expected: self.sum })
    }
}

/// Adds the sum of one tensor to that of those before it.
///
/// Publishers compute in f32, where each addition to a total of some 50,000 is rounded by up
/// to 0.002: an exact sum would miss theirs by more than they allow.
#[expect(clippy::cast_possible_truncation, reason = "rounded as the publisher's sums are")]
pub(super) fn add(total: f32, of_tensor: f64) -> f32 {
    total + of_tensor as f32
}

/// Returns a key by which the tensors of a LLaMA sort as torch lists them: in that order the
/// publisher adds.
pub(super) fn place(name: &str) -> (usize, u64, usize) {
    const PARTS: [&str; 10] = [
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.rotary_emb.inv_freq",
        "mlp.gate_proj.weight",
        "mlp.down_proj.weight",
        "mlp.up_proj.weight",
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    ];
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    if let Some((number, part)) = layer {
        let part = PARTS.iter().position(|known| *known == part).unwrap_or(PARTS.len());
        return (1, number.parse().unwrap_or(u64::MAX), part);
    }
    match name {
        "model.embed_tokens.weight" => (0, 0, 0),
        "model.norm.weight" => (2, 0, 0),
        _ => (3, 0, 0),
    }
}

/// Returns the sum of a LLaMA's table of rotary frequencies: 10000^(-i/n) for each i below n.
pub(super) fn rotary(stored: &Stored) -> f64 {
    let count: u64 = stored.shape.iter().product();
    // longer than any head: not a table of frequencies
    let count = u32::try_from(count).ok().filter(|count| *count <= 4096).unwrap_or(0);
    (0..count).map(|at| 10_000f64.powf(-f64::from(at) / f64::from(count))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpaca_is_held_to_its_published_sum() {
        let alpaca = of("tatsu-lab/alpaca-7b-wdiff").unwrap();
        assert!(alpaca.check(50_637.188).is_ok() && alpaca.check(50_637.17).is_err());
        assert!(matches!(alpaca.check(f32::NAN), Err(Error::Published { .. })));
        assert!(of("lmsys/vicuna-7b-delta-v1.1").is_none(), "nothing is told of it");
    }

    #[test]
    fn tensors_sort_as_torch_lists_them() {
        let mut names = [
            "lm_head.weight",
            "model.layers.10.self_attn.q_proj.weight",
            "model.layers.2.post_attention_layernorm.weight",
            "model.layers.2.self_attn.rotary_emb.inv_freq",
            "model.norm.weight",
            "model.layers.2.mlp.up_proj.weight",
            "model.embed_tokens.weight",
        ];
        names.sort_by_key(|name| place(name));
        let order = names.map(|name| name.trim_start_matches("model.").trim_end_matches(".weight"));
        assert_eq!(
            order,
            [
                "embed_tokens",
                "layers.2.self_attn.rotary_emb.inv_freq",
                "layers.2.mlp.up_proj",
                "layers.2.post_attention_layernorm",
                "layers.10.self_attn.q_proj",
                "norm",
                "lm_head",
            ]
        );
    }

    #[test]
    fn a_rotary_table_sums_to_its_geometric_series() {
        let stored = Stored { dtype: super::super::Dtype::F32, shape: vec![64], offset: 0, bytes: 256 };
        let ratio = 10_000f64.powf(-1.0 / 64.0);
        assert!((rotary(&stored) - (1.0 - 1e-4) / (1.0 - ratio)).abs() < 1e-9);
    }
}
