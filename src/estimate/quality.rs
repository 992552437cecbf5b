//! What a quant is expected to cost, as the divergence of its answers from the original's.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Candidate, Tensor};
use crate::catalog::ModelFacts;
use crate::quant::Quant;

/// How far a quantized model's next-token distribution is from the original's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Mean Kullback-Leibler divergence, nats per token. 0 is the original.
    pub divergence: f64,
    /// What the figure rests on.
    pub basis: LossBasis,
}

/// What an expected loss rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossBasis {
    /// The measured figure of this mix, on another model of at least as many parameters.
    Mix,
    /// That figure, corrected for the model's size by what smaller models were measured to lose.
    Size,
    /// That figure, corrected for tensors that got another type than the mix's name says.
    Types,
    /// No figure for making it without an importance matrix, or none for a model as small as
    /// this, is known; derived from similar ones.
    Derived,
}

impl Loss {
    /// Two losses closer than this part of the smaller one count as equal. The figure of
    /// one mix differs this much with the data it is measured with (`Q4_K_M` with and
    /// without an importance matrix: 0.0282 and 0.0313).
    pub const ERROR: f64 = 0.1;

    /// Returns whether this loss is no worse than `other`, within their error.
    pub fn is_within(&self, other: &Self) -> bool {
        self.divergence <= other.divergence * (1.0 + Self::ERROR)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.basis == LossBasis::Mix { "" } else { "~" };
        let digits = if self.divergence < 0.01 { 4 } else { 3 };
        f.pad(&format!("{mark}{:.digits$}", self.divergence))
    }
}

/// What keys and values in `Q8_0` add to the divergence of a model of 8 thousand million parameters:
/// published are 0.00098 with them and 0.00019 without, of Llama 3 8B in F16 (llama.cpp, pull
/// request 7412). Less than any step from one mix to the next.
pub const PACKED_KV: f64 = 0.0008;

/// The parameters of the model that the figures of mixes were measured on.
const MEASURED_ON: f64 = 8.03e9;
/// The smallest model that is known to lose more: Qwen2-0.5B.
const SMALLEST_KNOWN: u64 = 490_000_000;
/// A model with a part of the parameters loses as much more as that part to this power.
///
/// Least squares over the perplexities of Qwen2 (README of Qwen2-1.5B-Instruct-GGUF): what 0.5B
/// and 1.5B lose beside 7B under `Q5_0`, `Q4_0`, `Q4_K_M`, `Q5_K_M` and `Q3_K_M`, the mixes of K
/// types left out on 0.5B, whose narrow rows get other types. 0.5B loses 2.3 and 3.0 times as
/// much, 1.5B 1.05 to 2.0 times.
const EXPONENT: f64 = -0.31;

/// Returns how many times more a model of this many parameters loses than the one that mixes
/// were measured on. What larger ones lose less is not known.
fn of_size(parameters: u64) -> f64 {
    (parameters.max(1) as f64 / MEASURED_ON).min(1.0).powf(EXPONENT)
}

/// Returns the divergence of a mix: Llama-3-8B without an importance matrix, llama.cpp's
/// `tools/perplexity/README.md`.
const fn of_mix(quant: Quant) -> (f64, LossBasis) {
    let measured = match quant {
        Quant::F32 => 0.0,
        Quant::F16 => 0.000_551,
        Quant::Q8_0 => 0.001_355,
        Quant::Q6K => 0.005_452,
        Quant::Q5KM => 0.010_762,
        Quant::Q5KS => 0.016_595,
        Quant::Q5_1 => 0.018_045,
        Quant::Q5_0 => 0.022_239,
        Quant::Q4KM => 0.031_273,
        Quant::Q4KS => 0.043_136,
        Quant::Q4_1 => 0.071_683,
        Quant::Q4_0 => 0.071_940,
        Quant::Q3KL => 0.087_176,
        Quant::Q3KM => 0.101_913,
        Quant::Q3KS => 0.228_217,
        Quant::Q2K => 0.445_132,
        // As F16 until somebody measures it: 3 bits fewer of fraction, but most
        // checkpoints are in it to begin with.
        Quant::Bf16 => return (0.000_551, LossBasis::Derived),
        // Known with an importance matrix only (0.035742 and 0.036334); times what leaving
        // it out costs Q4_K_S (0.043136 / 0.031951).
        Quant::Iq4Nl => return (0.048_254, LossBasis::Derived),
        Quant::Iq4Xs => return (0.049_053, LossBasis::Derived),
    };
    (measured, LossBasis::Mix)
}

/// Returns the divergence of a type, for weighing types against each other: that of the
/// mix that is nearly all of this type. Those of 3 bits and fewer by tables are known with an
/// importance matrix only.
fn of_type(tensor_type: &str) -> Option<f64> {
    let mix = match tensor_type {
        "Q4_K" => Quant::Q4KS,
        "Q5_K" => Quant::Q5KS,
        "Q3_K" => Quant::Q3KS,
        "IQ3_S" => return Some(0.111_278),
        "IQ3_XXS" => return Some(0.183_625),
        "IQ2_S" => return Some(0.439_197),
        "IQ2_XS" => return Some(0.546_290),
        "IQ2_XXS" => return Some(0.812_022),
        "IQ1_M" => return Some(1.393_084),
        "IQ1_S" => return Some(2.211_278),
        name => name.parse().ok()?,
    };
    Some(of_mix(mix).0)
}

/// Returns the type that the mix meant a tensor to have: types with blocks of 256 need
/// rows that are multiples of it, and fall back to others where rows are not
/// (`llama-quant.cpp`, `tensor_type_fallback`).
fn meant(tensor: &Tensor, quant: Quant) -> &str {
    let is_narrow = tensor.shape.first().is_some_and(|row| row % 256 != 0);
    let has = tensor.tensor_type.as_str();
    if !is_narrow || has == quant.name() {
        return has;
    }
    match (has, quant) {
        ("Q8_0", _) => "Q6_K",
        ("Q5_1", _) => "Q5_K",
        ("Q5_0", _) => "Q4_K",
        ("Q4_0", Quant::Q2K) => "Q2_K",
        ("Q4_0", _) => "Q3_K",
        ("IQ4_NL", _) => "IQ4_XS",
        _ => has,
    }
}

/// Returns the expected loss of `quant` on `model`; with the tensors' real types where
/// they are known.
pub fn loss_of(model: &ModelFacts, quant: Quant, tensors: Option<&[Tensor]>) -> Loss {
    let (nominal, mix_basis) = of_mix(quant);
    let ratio = tensors.map_or(1.0, |tensors| {
        let weigh = |type_of: &dyn Fn(&Tensor) -> f64| -> f64 {
            tensors.iter().filter(|t| t.shape.len() > 1).map(|t| t.elements() as f64 * type_of(t)).sum()
        };
        // a type that nothing is known of counts as the mix does
        let real = weigh(&|t| of_type(&t.tensor_type).unwrap_or(nominal));
        let meant = weigh(&|t| of_type(meant(t, quant)).unwrap_or(nominal));
        if meant > 0.0 { real / meant } else { 1.0 }
    });
    let is_unknown = |t: &Tensor| t.shape.len() > 1 && of_type(&t.tensor_type).is_none();
    let has_unknown = tensors.is_some_and(|tensors| tensors.iter().any(is_unknown));
    let basis = match mix_basis {
        _ if has_unknown => LossBasis::Derived,
        LossBasis::Mix if (ratio - 1.0).abs() > 1e-9 => LossBasis::Types,
        LossBasis::Mix if model.parameters < SMALLEST_KNOWN && nominal > 0.0 => LossBasis::Derived,
        // within a tenth of the size, the correction is less than the figures' own error
        LossBasis::Mix if of_size(model.parameters) > 1.0 + Loss::ERROR => LossBasis::Size,
        known => known,
    };
    Loss { divergence: nominal * ratio * of_size(model.parameters), basis }
}

impl Candidate {
    /// Returns the expected loss; none for a file that is used as it is and names no quant.
    pub fn loss(&self, model: &ModelFacts) -> Option<Loss> {
        self.quant.map(|quant| loss_of(model, quant, Some(&self.tensors)))
    }
}
