//! What the engine counts, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::care::State;

use crate::openai::FinishReason;

/// How the work for an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The model or a stop string ended it.
    Stop,
    /// It reached its limit.
    Length,
    /// The client went away.
    Cancelled,
    /// There was an error.
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl From<FinishReason> for Outcome {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop | FinishReason::ToolCalls => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// All counts since the start. Only the worker writes them.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    answers: [AtomicU64; Outcome::ALL.len()],
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    prompt_micros: AtomicU64,
    answer_tokens: AtomicU64,
    answer_micros: AtomicU64,
    steps: AtomicU64,
    step_tokens: AtomicU64,
}

/// What is true at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) running: usize,
    pub(super) queued: usize,
    pub(super) slots: u32,
    /// Layers that graphics processors compute; none before the model is loaded.
    pub(super) gpu_layers: Option<u32>,
    pub(super) host: State,
}

impl Metrics {
    /// Counts an answer that came to its end, or to none.
    pub(super) fn ended(&self, outcome: Outcome) {
        add(&self.answers[outcome as usize], 1);
    }

    /// Counts a prompt: tokens that were computed, and tokens that were in the cache.
    pub(super) fn prompt(&self, computed: usize, cached: usize, time: Duration) {
        add(&self.prompt_tokens, computed as u64);
        add(&self.cached_tokens, cached as u64);
        add(&self.prompt_micros, micros(time));
    }

    /// Counts the tokens of an answer that is over, from the end of its prompt.
    pub(super) fn answer(&self, tokens: u32, time: Duration) {
        add(&self.answer_tokens, u64::from(tokens));
        add(&self.answer_micros, micros(time));
    }

    /// Counts a step of so many tokens.
    pub(super) fn step(&self, tokens: usize) {
        add(&self.steps, 1);
        add(&self.step_tokens, tokens as u64);
    }

    /// Renders everything; `model` is a name of the definition.
    pub(super) fn render(&self, model: &str, now: Now) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "microseconds, of which 53 bits are 285 years")]
        let seconds = |count: &AtomicU64| get(count) as f64 / 1e6;
        let mut text = "# TYPE bramble_engine_answers_total counter\n".to_owned();
        for outcome in Outcome::ALL {
            let (name, count) = (outcome.name(), get(&self.answers[outcome as usize]));
            // writing to a string does not fail
            let _ = writeln!(
                text,
                "bramble_engine_answers_total{{model=\"{model}\",outcome=\"{name}\"}} {count}"
            );
        }
        for (name, kind, value) in [
            ("prompt_tokens_total", "counter", get(&self.prompt_tokens).to_string()),
            ("cached_tokens_total", "counter", get(&self.cached_tokens).to_string()),
            ("prompt_seconds_total", "counter", seconds(&self.prompt_micros).to_string()),
            ("answer_tokens_total", "counter", get(&self.answer_tokens).to_string()),
            ("answer_seconds_total", "counter", seconds(&self.answer_micros).to_string()),
            ("steps_total", "counter", get(&self.steps).to_string()),
            ("step_tokens_total", "counter", get(&self.step_tokens).to_string()),
            ("running", "gauge", now.running.to_string()),
            ("queued", "gauge", now.queued.to_string()),
            ("slots", "gauge", now.slots.to_string()),
        ] {
            let _ = writeln!(
                text,
                "# TYPE bramble_engine_{name} {kind}\nbramble_engine_{name}{{model=\"{model}\"}} {value}"
            );
        }
        let State { memory, throttled, .. } = now.host;
        for (name, value) in [
            ("gpu_layers", now.gpu_layers.map(u64::from)),
            ("memory_available_bytes", memory.map(|memory| memory.0)),
            ("under_voltage", throttled.map(|throttled| u64::from(throttled.is_under_voltage()))),
            ("slowed", throttled.map(|throttled| u64::from(throttled.is_slowed()))),
        ] {
            let Some(value) = value else { continue };
            let _ = writeln!(
                text,
                "# TYPE bramble_engine_{name} gauge\nbramble_engine_{name}{{model=\"{model}\"}} {value}"
            );
        }
        text
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
