//! What is counted, in Prometheus' text form. Labels come from the definition and from
//! fixed sets, never from clients, so that the number of series is bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::breaker::State as BreakerState;
use super::rouse::Dormitory;
use super::state::State;
use super::wake::Standing;

/// Upper bounds of the buckets for the first token, in seconds: a desktop answers in
/// tenths, a Pi with a long prompt in minutes.
const BUCKETS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// How one request went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// The route's name; `-` where there is no such route.
    pub(super) model: String,
    /// Who answered; `-` for nobody.
    pub(super) upstream: String,
    /// Why the first choice did not, or why the answer broke; `-` for all well.
    pub(super) reason: &'static str,
    /// What the client was told; 499 when it left.
    pub(super) status: u16,
}

/// How an answer that broke off was gone on with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Continuation {
    /// The route's name.
    pub(super) model: String,
    /// Whose answer broke off.
    pub(super) from: String,
    /// Who went on with it.
    pub(super) to: String,
    /// Why it broke off.
    pub(super) reason: &'static str,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<Kind, u64>,
    first_token: BTreeMap<(String, String), Histogram>,
    continuations: BTreeMap<Continuation, u64>,
    in_flight: u64,
}

/// All counts since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that begins.
    pub(super) fn begin(&self) {
        self.counts().in_flight += 1;
    }

    /// Counts a request that ended.
    pub(super) fn end(&self, kind: Kind) {
        let mut counts = self.counts();
        counts.in_flight = counts.in_flight.saturating_sub(1);
        *counts.requests.entry(kind).or_default() += 1;
    }

    /// Returns how many requests are under way.
    pub(super) fn in_flight(&self) -> u64 {
        self.counts().in_flight
    }

    /// Counts an answer that somebody else went on with.
    pub(super) fn continued(&self, continuation: Continuation) {
        *self.counts().continuations.entry(continuation).or_default() += 1;
    }

    /// Counts the time to the first token, or to the whole of an answer that came at once.
    pub(super) fn first_token(&self, model: &str, upstream: &str, after: Duration) {
        let seconds = after.as_secs_f64();
        let mut counts = self.counts();
        let histogram = counts.first_token.entry((model.to_owned(), upstream.to_owned())).or_default();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    /// Renders everything, with the breakers of `state`.
    pub(super) fn render(&self, state: &State) -> String {
        let mut text = String::new();
        // writing to a string does not fail
        self.write(&mut text, state).ok();
        text
    }

    fn write(&self, text: &mut String, state: &State) -> std::fmt::Result {
        let counts = self.counts();
        text.push_str("# TYPE bramble_requests_total counter\n");
        for (Kind { model, upstream, reason, status }, count) in &counts.requests {
            let labels =
                format!(r#"model="{model}",upstream="{upstream}",reason="{reason}",status="{status}""#);
            writeln!(text, "bramble_requests_total{{{labels}}} {count}")?;
        }
        text.push_str("# TYPE bramble_continuations_total counter\n");
        for (Continuation { model, from, to, reason }, count) in &counts.continuations {
            let labels = format!(r#"model="{model}",from="{from}",to="{to}",reason="{reason}""#);
            writeln!(text, "bramble_continuations_total{{{labels}}} {count}")?;
        }
        text.push_str("# TYPE bramble_first_token_seconds histogram\n");
        for ((model, upstream), histogram) in &counts.first_token {
            let labels = format!(r#"model="{model}",upstream="{upstream}""#);
            for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
                writeln!(text, "bramble_first_token_seconds_bucket{{{labels},le=\"{bound}\"}} {count}")?;
            }
            writeln!(
                text,
                "bramble_first_token_seconds_bucket{{{labels},le=\"+Inf\"}} {count}\n\
                 bramble_first_token_seconds_sum{{{labels}}} {sum}\n\
                 bramble_first_token_seconds_count{{{labels}}} {count}",
                count = histogram.count,
                sum = histogram.sum,
            )?;
        }
        writeln!(text, "# TYPE bramble_in_flight gauge\nbramble_in_flight {}", counts.in_flight)?;
        text.push_str("# HELP bramble_breaker 0 closed, 1 half-open, 2 open\n# TYPE bramble_breaker gauge\n");
        for (model, route) in &state.routes {
            for seat in &route.seats {
                let value = match seat.breaker(|breaker| breaker.state()) {
                    BreakerState::Closed => 0,
                    BreakerState::HalfOpen => 1,
                    BreakerState::Open { .. } => 2,
                };
                writeln!(text, r#"bramble_breaker{{model="{model}",upstream="{}"}} {value}"#, seat.name)?;
            }
        }
        let cordoned = u8::from(state.is_cordoned);
        writeln!(text, "# TYPE bramble_cordoned gauge\nbramble_cordoned {cordoned}")?;
        writeln!(text, "# TYPE bramble_generation gauge\nbramble_generation {}", state.generation)
    }
}

/// Renders how many requests wait for somebody who is expected back.
pub(super) fn held(requests: usize) -> String {
    format!("# TYPE bramble_held_requests gauge\nbramble_held_requests {requests}\n")
}

/// Renders the machines that may be asleep, by the upstreams that are on them.
pub(super) fn machines(state: &State, dormitory: &Dormitory) -> String {
    let seats = state.routes.values().flat_map(|route| &route.seats);
    let sleepers: BTreeMap<&str, _> =
        seats.filter_map(|seat| Some((seat.name.as_str(), dormitory.sleeper(seat.wake?)))).collect();
    let mut text = String::new();
    if sleepers.is_empty() {
        return text;
    }
    text.push_str(
        "# HELP bramble_machine 0 awake, 1 being woken, 2 woken and did not come; none before it is asked\n\
         # TYPE bramble_machine gauge\n",
    );
    for (upstream, sleeper) in &sleepers {
        let value = match sleeper.standing() {
            Standing::Unknown => continue,
            Standing::Awake => 0,
            Standing::Waking { .. } => 1,
            Standing::Asleep { .. } => 2,
        };
        writeln!(text, r#"bramble_machine{{upstream="{upstream}"}} {value}"#).ok();
    }
    text.push_str("# TYPE bramble_wake_bursts_total counter\n");
    for (upstream, sleeper) in &sleepers {
        let bursts = sleeper.bursts();
        writeln!(text, r#"bramble_wake_bursts_total{{upstream="{upstream}"}} {bursts}"#).ok();
    }
    text
}
