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
    /// The measured figure of this mix, on another model.
    Mix,
    /// The measured figure of the mix, corrected for tensors that got another type than
    /// its name says.
    Types,
    /// No figure for making it without an importance matrix is known; derived from similar ones.
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

/// Models below this many parameters suffer about twice as much. Not measured as
/// divergence; perplexities of Qwen2 from 0.5B to 7B point that way.
const SMALL: u64 = 1_000_000_000;
const SMALL_FACTOR: f64 = 2.0;

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
/// mix that is nearly all of this type.
fn of_type(tensor_type: &str) -> Option<f64> {
    let mix = match tensor_type {
        "Q4_K" => Quant::Q4KS,
        "Q5_K" => Quant::Q5KS,
        "Q3_K" => Quant::Q3KS,
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
    let (nominal, basis) = of_mix(quant);
    let size = if model.parameters < SMALL { SMALL_FACTOR } else { 1.0 };
    let ratio = tensors.map_or(1.0, |tensors| {
        let weigh = |type_of: &dyn Fn(&Tensor) -> f64| -> f64 {
            tensors.iter().filter(|t| t.shape.len() > 1).map(|t| t.elements() as f64 * type_of(t)).sum()
        };
        let real = weigh(&|t| of_type(&t.tensor_type).unwrap_or(0.0));
        let meant = weigh(&|t| of_type(meant(t, quant)).unwrap_or(0.0));
        if meant > 0.0 { real / meant } else { 1.0 }
    });
    let is_corrected = (ratio - 1.0).abs() > 1e-9;
    let basis = if is_corrected && basis == LossBasis::Mix { LossBasis::Types } else { basis };
    Loss { divergence: nominal * ratio * size, basis }
}

impl Candidate {
    /// Returns the expected loss; none for a file that is used as it is and names no quant.
    pub fn loss(&self, model: &ModelFacts) -> Option<Loss> {
        self.quant.map(|quant| loss_of(model, quant, Some(&self.tensors)))
    }
}
