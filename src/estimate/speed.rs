//! Tokens per second and seconds to load.

use serde::{Deserialize, Serialize};

use super::{Candidate, Serving, work};
use crate::catalog::ModelFacts;
use crate::facts::{Basis, EngineBench, HostFacts, Phase, Rates, Terms};
use crate::generation::Pace;
use crate::units::{Bytes, TokensPerSec};

/// The prompt that [`Speed::prompt`] is for, in tokens: what the fitted runs had.
const PROMPT: u32 = 512;

/// Tokens before the answer token that [`Speed::answer`] is for: the middle of the fitted
/// runs' 128.
const DEPTH: u32 = 64;

/// The slowest and the fastest pace that a definition has, in tokens per second: a token in eleven days, and more than
/// any machine does.
const PACES: (f64, f64) = (1e-6, 1e9);

/// The longest that a definition has weights load, in seconds: eleven days.
const LONGEST_LOAD: f64 = 1e6;

/// A rate with the range it is expected in, nine times of ten.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The slowest to expect.
    pub low: TokensPerSec,
    /// The single best figure.
    pub expected: TokensPerSec,
    /// The fastest to expect.
    pub high: TokensPerSec,
}

impl Interval {
    /// Returns this interval with every rate multiplied.
    fn times(self, factor: f64) -> Self {
        let of = |rate: TokensPerSec| TokensPerSec(rate.0 * factor);
        Self { low: of(self.low), expected: of(self.expected), high: of(self.high) }
    }
}

/// How fast a model is on a host. Of an unknown basis, it only tells which of two models is faster there.
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
    /// Seconds that an answer token takes for each token before it.
    #[serde(default)]
    seconds_per_depth: f64,
}

impl Speed {
    /// Returns the answer tokens per second that can be counted on; none where the host's speed is
    /// unknown.
    pub fn least(&self) -> Option<TokensPerSec> {
        (self.basis != Basis::Unknown).then_some(self.answer.low)
    }

    /// Returns the seconds to the first token of an answer to a prompt of this many tokens,
    /// with nothing else running.
    pub fn first_token_seconds(&self, prompt_tokens: u32) -> f64 {
        let n = f64::from(prompt_tokens);
        let answer = self.answer_at(prompt_tokens).expected;
        n * (self.seconds_per_token + n * self.seconds_per_pair) + 1.0 / answer.0.max(1e-9)
    }

    /// Returns the answer tokens per second with `depth` tokens before.
    pub fn answer_at(&self, depth: u32) -> Interval {
        let more = f64::from(depth) - f64::from(DEPTH);
        let near = 1.0 / self.answer.expected.0.max(1e-9);
        let far = (near + more * self.seconds_per_depth).max(near / 2.0);
        self.answer.times(near / far)
    }

    /// Returns these figures for when `busy` models of the host, this one among them, work at
    /// the same time.
    ///
    /// They share the memory's bandwidth and the cores: each gets its part of both. What that
    /// does to caches was not measured.
    #[must_use]
    pub fn shared(self, busy: u32) -> Self {
        let busy = f64::from(busy.max(1));
        Self {
            prompt: self.prompt.times(1.0 / busy),
            answer: self.answer.times(1.0 / busy),
            seconds_per_token: self.seconds_per_token * busy,
            seconds_per_pair: self.seconds_per_pair * busy,
            seconds_per_depth: self.seconds_per_depth * busy,
            ..self
        }
    }

    /// Returns these figures with those that were measured on the host in place of the
    /// predicted ones, where both can be.
    #[must_use]
    pub fn measured(self, prompt: TokensPerSec, answer: TokensPerSec) -> Self {
        if !(Rates::believes(prompt.0) && Rates::believes(answer.0)) {
            return self;
        }
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

    /// Returns the expected figures to two significant digits; where the speed is unknown, the slowest
    /// to expect, since they become deadlines.
    pub fn pace(&self) -> Pace {
        let of = |rate: Interval| match self.basis {
            Basis::Unknown => rate.low,
            _ => rate.expected,
        };
        bound(Pace {
            prompt: TokensPerSec(two_digits(of(self.prompt).0)),
            answer: TokensPerSec(two_digits(of(self.answer).0)),
            load_seconds: two_digits(self.load_seconds),
            is_guess: self.basis == Basis::Unknown,
        })
    }
}

/// Returns a pace that every host can read and count with, whatever one has said of itself: the definitions of others
/// name it, too, and JSON has no word for what is no number.
pub fn bound(pace: Pace) -> Pace {
    let within = |value: f64, (low, high): (f64, f64), unknown: f64| {
        if value.is_nan() { unknown } else { value.clamp(low, high) }
    };
    let rate = |rate: TokensPerSec| TokensPerSec(within(rate.0, PACES, PACES.0));
    Pace {
        prompt: rate(pace.prompt),
        answer: rate(pace.answer),
        load_seconds: within(pace.load_seconds, (0.0, LONGEST_LOAD), LONGEST_LOAD),
        ..pace
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
    let rates = Rates::of(host);
    let work = work(model, candidate, serving, &host.cpu);
    let interval = |phase, terms: &Terms| {
        let rate = 1.0 / rates.seconds(phase, terms).max(1e-12);
        let spread = rates.spread(phase, terms);
        Interval {
            low: TokensPerSec(rate * spread.slow),
            expected: TokensPerSec(rate),
            high: TokensPerSec(rate * spread.fast),
        }
    };
    let mut answer = interval(Phase::Answer, &work.of_answer(DEPTH.into()));
    if let Some(least) = rates.least_seconds(&work) {
        answer = below(answer, 1.0 / least.max(1e-12));
    }
    let (near, far) = (work.of_prompt(0.0), work.of_prompt(1.0));
    let seconds_per_token = rates.seconds(Phase::Prompt, &near);
    let speed = Speed {
        prompt: interval(Phase::Prompt, &work.of_prompt(PROMPT.into())),
        answer,
        load_seconds: file.0 as f64 / rates.storage.0 + repacked.0 as f64 / rates.repack(),
        basis: rates.basis,
        seconds_per_token,
        seconds_per_pair: rates.seconds(Phase::Prompt, &far) - seconds_per_token,
        seconds_per_depth: rates.seconds(Phase::Answer, &work.of_answer(1.0))
            - rates.seconds(Phase::Answer, &work.of_answer(0.0)),
    };
    match measured(candidate, serving, host) {
        Some(engine) => {
            // the figure is for the depth that it was measured at
            let near = speed.answer.expected.0 / speed.answer_at(depth_of(engine)).expected.0;
            speed.measured(engine.prompt, TokensPerSec(engine.answer.0 * near))
        }
        None => speed,
    }
}

/// Nothing is faster than its ceiling.
fn below(rate: Interval, ceiling: f64) -> Interval {
    let of = |rate: TokensPerSec| TokensPerSec(rate.0.min(ceiling));
    Interval { low: of(rate.low), expected: of(rate.expected), high: of(rate.high) }
}

/// Returns what these very weights were measured at on the host, with as many threads.
fn measured<'a>(candidate: &Candidate, serving: &Serving, host: &'a HostFacts) -> Option<&'a EngineBench> {
    let recipe = candidate.recipe?;
    let bench = host.installed.as_ref()?.bench.as_ref()?;
    let is_it = |engine: &&EngineBench| {
        (engine.recipe, engine.threads, engine.repack) == (recipe, serving.threads, serving.repack)
    };
    bench.engines.iter().find(is_it)
}

fn depth_of(engine: &EngineBench) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "two sums of small counts")]
    let depth = engine.depth().round() as u32;
    depth
}
