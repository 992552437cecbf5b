//! Rotary positions: their base, and how they are scaled beyond what was trained first.

use std::f64::consts::PI;

use super::{Config, Error, single};
use crate::gguf::Value;

/// How positions are scaled.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Each frequency has a divisor by its wavelength against the trained context.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Each frequency has two divisors: for contexts up to the first trained one, and beyond.
    Long(Box<TwoSets>),
    /// One that no graph here has.
    Other(String),
}

/// Phi's way (`longrope`, of old `su`).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TwoSets {
    pub(super) short: Vec<f32>,
    pub(super) long: Vec<f32>,
    /// What rotated queries and keys are multiplied by, where it is given.
    pub(super) attention: Option<f64>,
    /// How many times longer than the first context the last one is, where it is given.
    pub(super) factor: Option<f64>,
}

/// The object that tells how positions are scaled: `rope_parameters` since transformers 5.
///
/// Where layers differ, `of` (`full_attention`, `sliding_attention`) names those that are meant.
fn object<'a>(config: Config<'a>, of: &str) -> Option<Config<'a>> {
    let object = config.object("rope_parameters").or_else(|| config.object("rope_scaling"))?;
    Some(object.object(of).unwrap_or(object))
}

/// Returns the base of the frequencies.
pub(super) fn base(config: Config<'_>) -> Result<f64, Error> {
    let inner = match object(config, "full_attention") {
        Some(rope) => rope.optional_float("rope_theta")?,
        None => None,
    };
    Ok(inner.or(config.optional_float("rope_theta")?).unwrap_or(10_000.0))
}

/// Returns the base of the frequencies in layers with a window, where they have their own.
pub(super) fn base_in_window(config: Config<'_>) -> Result<Option<f64>, Error> {
    let own = config.object("rope_parameters").and_then(|rope| rope.object("sliding_attention"));
    match own {
        Some(own) => own.optional_float("rope_theta"),
        None => config.optional_float("rope_local_base_freq"),
    }
}

/// Returns how positions are scaled in layers without a window.
pub(super) fn scaling(config: Config<'_>) -> Result<Scaling, Error> {
    let Some(rope) = object(config, "full_attention") else { return Ok(Scaling::None) };
    let number = |key: &str, default: f64| {
        let number = rope.optional_float(key)?.unwrap_or(default);
        if number > 0.0 { Ok(number) } else { Err(Error::Config(format!("rope_scaling.{key} is {number}"))) }
    };
    match rope.text("rope_type").or_else(|| rope.text("type")) {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: number("factor", 1.0)? }),
        Some("llama3") => Ok(Scaling::Llama3 {
            factor: number("factor", 8.0)?,
            low: number("low_freq_factor", 1.0)?,
            high: number("high_freq_factor", 4.0)?,
            original: number("original_max_position_embeddings", 8192.0)?,
        }),
        Some("longrope" | "su") => Ok(Scaling::Long(Box::new(TwoSets {
            short: factors(rope, "short_factor")?,
            long: factors(rope, "long_factor")?,
            attention: rope.optional_float("attention_factor")?,
            factor: rope.optional_float("factor")?,
        }))),
        Some(other) => Ok(Scaling::Other(other.chars().take(40).collect())),
    }
}

/// Reads a list of divisors, one for each frequency.
fn factors(rope: Config<'_>, key: &str) -> Result<Vec<f32>, Error> {
    let odd = || Error::Config(format!("rope_scaling.{key} is no list of positive numbers"));
    let list = rope.get(key).and_then(serde_json::Value::as_array).ok_or_else(odd)?;
    let read = |value: &serde_json::Value| value.as_f64().map(single).filter(|factor| *factor > 0.0);
    list.iter().map(|value| read(value).ok_or_else(odd)).collect()
}

impl Scaling {
    /// Says that a graph does not have this scaling, in words that follow "this variant cannot be converted".
    pub(super) fn refusal(&self) -> Option<String> {
        let name = match self {
            Self::None => return None,
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } => "llama3",
            Self::Long(_) => "longrope",
            Self::Other(name) => name,
        };
        Some(format!("its positions are scaled by {name:?}"))
    }

    /// Returns the keys that tell it to llama.cpp, where it is by keys alone.
    pub(super) fn keys(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Linear { factor } => {
                vec![("rope.scaling.type", "linear".into()), ("rope.scaling.factor", single(*factor).into())]
            }
            _ => Vec::new(),
        }
    }

    /// Returns the divisors of each frequency for the scaling of Llama 3.1 and later.
    ///
    /// As `generate_extra_tensors` of llama.cpp's `conversion/llama.py`, in f64 where that has
    /// f32 for the frequencies.
    pub(super) fn divisors(&self, base: f64, head_dim: u32) -> Option<Vec<f32>> {
        let Self::Llama3 { factor, low, high, original } = *self else { return None };
        let divisor = |index: u32| {
            let wave = 2.0 * PI * base.powf(f64::from(2 * index) / f64::from(head_dim));
            if wave < original / high {
                1.0
            } else if wave > original / low {
                factor
            } else {
                let smooth = (original / wave - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..head_dim / 2).map(|index| single(divisor(index))).collect())
    }
}
