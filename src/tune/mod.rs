//! Which quant of a model does best on a host, by what was measured there: what to try, and what to make of it.
//!
//! Asks no host. What a trial is, and how it is made, is the caller's.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::manifest::Prefer;
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

/// A change is proposed where it is worth this much, as a part of the speed: what two measurements of one thing differ by.
const WORTH: f64 = 0.05;

/// What one part in a hundred more bits for each byte of text costs, as a part of the speed. Quants that are a step
/// apart differ by some tenths of a part in a hundred at the top, and by several from four bits on.
const fn price(prefer: Prefer) -> f64 {
    match prefer {
        Prefer::Quality => 40.0,
        Prefer::Balanced => 10.0,
        Prefer::Speed => 2.5,
    }
}

/// What was measured of one quant on a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Answer tokens per second.
    pub answer: TokensPerSec,
    /// Prompt tokens per second.
    pub prompt: TokensPerSec,
    /// Bits for a byte of text; none where it could not be had.
    pub bits_per_byte: Option<f64>,
    /// Seconds from the start to ready.
    pub load_seconds: Option<f64>,
    /// The most memory that it has held.
    pub memory: Option<Bytes>,
}

/// One quant that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// The quant.
    pub quant: Quant,
    /// Whether it is the one in force.
    pub is_installed: bool,
    /// What was measured, or why nothing was.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It was not, for this reason.
    Failed(String),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "proposal", rename_all = "snake_case")]
pub enum Proposal {
    /// Leave it as it is.
    Keep {
        /// Why, in numbers.
        why: String,
    },
    /// Take another quant.
    Change {
        /// Which.
        quant: Quant,
        /// Why, in numbers.
        why: String,
    },
    /// Nothing can be said.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Returns the quants a step better and a step smaller than `now`, of those that there are to choose from, in any order.
pub fn neighbours(now: Quant, choice: impl IntoIterator<Item = Quant>) -> Vec<Quant> {
    let mut choice: Vec<Quant> = choice.into_iter().filter(|quant| *quant != now).collect();
    choice.sort_unstable();
    choice.dedup();
    let better = choice.iter().rev().find(|quant| **quant < now);
    let smaller = choice.iter().find(|quant| **quant > now);
    better.into_iter().chain(smaller).copied().collect()
}

/// Weighs what was measured: speed against how well the text was foretold, as `prefer` wants it.
pub fn propose(trials: &[Trial], prefer: Prefer) -> Proposal {
    let of = |trial: &Trial| match &trial.outcome {
        Outcome::Measured(figures) => Some((trial.quant, figures.clone())),
        Outcome::Failed(_) => None,
    };
    let Some((now, base)) = trials.iter().filter(|trial| trial.is_installed).find_map(of) else {
        return Proposal::Unknown { why: "what is installed was not measured".to_owned() };
    };
    let Some(base_bits) = base.bits_per_byte else {
        return Proposal::Unknown { why: format!("how well {now} foretells a text was not measured") };
    };
    let judged = trials.iter().filter(|trial| !trial.is_installed).filter_map(of);
    let judged = judged.filter_map(|(quant, figures)| {
        let speed = figures.answer.0 / base.answer.0;
        let bits = figures.bits_per_byte? / base_bits - 1.0;
        Some((quant, speed.ln() - price(prefer) * bits, speed, bits))
    });
    let best = judged.max_by(|one, other| one.1.total_cmp(&other.1));
    match best {
        None => Proposal::Unknown { why: "no other quant was measured".to_owned() },
        Some((quant, worth, speed, bits)) => {
            let why = format!(
                "{quant} is {speed:.2} times as fast as {now} and takes {:+.1} % of bits for the text",
                bits * 100.0
            );
            if worth > WORTH { Proposal::Change { quant, why } } else { Proposal::Keep { why } }
        }
    }
}
