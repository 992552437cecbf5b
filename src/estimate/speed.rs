//! Tokens per second and seconds to load.

use serde::{Deserialize, Serialize};

use super::memory::Layouts;
use super::{Candidate, Serving, Tensor};
use crate::catalog::ModelFacts;
use crate::facts::{HostFacts, Rates};
use crate::generation::Pace;
use crate::units::{Bytes, TokensPerSec};

/// The prompt that [`Speed::prompt`] is for, in tokens: what the fitted runs had.
const PROMPT: f64 = 512.0;

/// What a figure rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A prior for machines of which nothing is known.
    Estimated,
    /// Constants fitted to runs on this kind of board.
    Calibrated,
    /// Measured on this host.
    Measured,
}

impl Basis {
    /// Returns the word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Estimated => "estimated",
            Self::Calibrated => "calibrated on this board",
            Self::Measured => "measured on this host",
        }
    }
}

/// A rate with the range it is expected in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The slowest to expect.
    pub low: TokensPerSec,
    /// The single best figure.
    pub expected: TokensPerSec,
    /// The fastest to expect.
    pub high: TokensPerSec,
}

/// How fast a model is on a host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Prompt tokens per second, for a prompt of 512 tokens.
    pub prompt: Interval,
    /// Answer tokens per second, for one request near the start of its context.
    pub answer: Interval,
    /// Seconds from starting the engine to being ready.
    pub load_seconds: f64,
    /// What the figures rest on.
    pub basis: Basis,
    /// Seconds that a prompt token takes beside attention.
    seconds_per_token: f64,
    /// Seconds that it takes for each token before it.
    seconds_per_pair: f64,
}

impl Speed {
    /// Returns the seconds to the first token of an answer to a prompt of this many tokens,
    /// with nothing else running.
    pub fn first_token_seconds(&self, prompt_tokens: u32) -> f64 {
        let n = f64::from(prompt_tokens);
        n * (self.seconds_per_token + n * self.seconds_per_pair) + 1.0 / self.answer.expected.0.max(1e-9)
    }

    /// Returns these figures with those that were measured on the host in place of the
    /// predicted ones.
    #[must_use]
    pub fn measured(self, prompt: TokensPerSec, answer: TokensPerSec) -> Self {
        let one = |rate| Interval { low: rate, expected: rate, high: rate };
        let slower = self.prompt.expected.0 / prompt.0.max(1e-9);
        Self {
            prompt: one(prompt),
            answer: one(answer),
            basis: Basis::Measured,
            seconds_per_token: self.seconds_per_token * slower,
            seconds_per_pair: self.seconds_per_pair * slower,
            ..self
        }
    }

    /// Returns the expected figures to two significant digits.
    pub fn pace(&self) -> Pace {
        Pace {
            prompt: TokensPerSec(two_digits(self.prompt.expected.0)),
            answer: TokensPerSec(two_digits(self.answer.expected.0)),
            load_seconds: two_digits(self.load_seconds),
        }
    }
}

fn two_digits(value: f64) -> f64 {
    // by way of text, so that the stored number is the short one
    format!("{value:.1e}").parse().unwrap_or(value)
}

pub(super) fn of(
    model: &ModelFacts,
    candidate: &Candidate,
    serving: &Serving,
    host: &HostFacts,
    file: Bytes,
    repacked: Bytes,
) -> Speed {
    let (rates, layouts) = (Rates::of(host), Layouts::of(host));
    let layers = f64::from(model.layers);

    // every weight is read once for each token, but for the rows of an embedding
    let is_read = |tensor: &&Tensor| !tensor.is_embedding() || model.is_tied;
    let read: f64 = candidate
        .tensors
        .iter()
        .filter(is_read)
        .map(|tensor| tensor.bytes as f64 / rates.decode(&tensor.tensor_type))
        .sum();
    let (layer, layer_slow) = rates.layer_seconds();
    let expected = 1.0 / (read + layer * layers);
    let (slow, fast) = rates.answer_spread;
    let answer = Interval {
        low: TokensPerSec((expected * slow).min(1.0 / (read + layer_slow * layers))),
        expected: TokensPerSec(expected),
        high: TokensPerSec(expected * fast),
    };

    // Of the last token only, the head's logits and the last block's feed-forward are computed.
    let last = format!("blk.{}.ffn_", model.layers.saturating_sub(1));
    let is_computed = |tensor: &&Tensor| {
        tensor.is_product() && tensor.name != "output.weight" && !tensor.name.starts_with(&last)
    };
    let seconds_per_token: f64 = candidate
        .tensors
        .iter()
        .filter(is_computed)
        .map(|tensor| {
            let is_repacked = serving.repack && layouts.has(tensor);
            2.0 * tensor.elements() as f64 / rates.prefill(&tensor.tensor_type, is_repacked)
        })
        .sum();
    let width = f64::from(model.heads) * f64::from(model.head_dim);
    let seconds_per_pair = 4.0 * layers * width / rates.attention();
    let expected = 1.0 / (seconds_per_token + PROMPT * seconds_per_pair);
    let (slow, fast) = rates.prompt_spread;
    let prompt = Interval {
        low: TokensPerSec(expected * slow),
        expected: TokensPerSec(expected),
        high: TokensPerSec(expected * fast),
    };
    Speed {
        prompt,
        answer,
        load_seconds: file.0 as f64 / rates.storage.0 + repacked.0 as f64 / rates.repack(),
        basis: if rates.is_calibrated { Basis::Calibrated } else { Basis::Estimated },
        seconds_per_token,
        seconds_per_pair,
    }
}
