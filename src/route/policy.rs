//! Who is asked, in which order, and for how long; and what an upstream's answer means.
//! Pure: values in, values out.

use std::fmt;
use std::time::Duration;

use super::breaker::Outcome;
use super::state::Kind;
use crate::generation::{Capability, Hop, Pace, RouteSpec};

/// How long an upstream may take to accept a connection. Over a Unix socket there is no
/// way to go; over the LAN, three seconds hold one lost SYN (repeated after 1 s) and a
/// slow answer of mDNS.
const CONNECT_UNIX: Duration = Duration::from_secs(1);
const CONNECT_TCP: Duration = Duration::from_secs(3);

/// Seconds on top of the route's own and of reading the prompt: for the template, the
/// tokenizer, and weights that come back from an SD card after memory was short.
const FIRST_TOKEN_GRACE: f64 = 5.0;

/// Seconds without a token before a stream counts as stalled, on top of
/// [`STALLED_TOKENS`]: another slot's prompt may stand between two tokens.
const BETWEEN_TOKENS_GRACE: f64 = 15.0;

/// Tokens that a stream may be late by at the planned pace.
const STALLED_TOKENS: f64 = 20.0;

/// Planned paces are predictions, and a Pi without a fan is throttled: an answer as a
/// whole may take twice as long as planned.
const TOTAL_SLACK: f64 = 2.0;

/// Tokens in an answer whose length the client did not limit: the usual context.
const ANSWER_TOKENS: f64 = 4096.0;

/// The pace of an upstream that nobody planned: slow, so that it is not given up early.
const UNKNOWN_PROMPT_PACE: f64 = 10.0;
const UNKNOWN_ANSWER_PACE: f64 = 1.0;

/// Who is started anew may take this many times the planned load, as for an activation, and seconds on top of that, in which
/// what runs finishes first.
const LOAD_SLACK: f64 = 3.0;
const RESTART_SECONDS: f64 = 40.0;

/// Nobody is waited for longer: clients give up.
const LONGEST_HELD: f64 = 300.0;

/// No deadline is longer, whatever the prompt and the pace.
const LONGEST: f64 = 86_400.0;

/// Why an upstream did not answer a request, or was not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// The connection was refused.
    Refused,
    /// There is nobody at the address: no socket, no host, no route.
    Unreachable,
    /// Nobody accepted the connection in time.
    ConnectLate,
    /// It is https and the certificate was not accepted.
    Untrusted,
    /// The breaker is open.
    BreakerOpen {
        /// How long it will be.
        wait: Duration,
    },
    /// More requests wait there than the route allows.
    Overflow {
        /// How many wait.
        queued: u32,
    },
    /// Its queue is full, or it is not ours and loads: 503 or 429.
    Busy {
        /// The status.
        status: u16,
        /// Its `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// It is loading, or about to stop so that another takes its place.
    NotReady {
        /// Its `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// It failed with this status.
    Status(u16),
    /// It does not accept our key, with this status.
    KeyRefused(u16),
    /// It does not have the model.
    NoModel,
    /// The prompt is longer than its context.
    ContextExceeded,
    /// It cannot do what the request needs: this, or what its refusal says.
    Unable(Option<Capability>),
    /// It is expected to begin its answer in so many seconds, which is later than the route allows.
    WaitTooLong {
        /// In how many.
        seconds: u64,
    },
    /// The prompt is one for desktops.
    LongPrompt {
        /// About how many tokens it has.
        tokens: u64,
    },
    /// The first token was late.
    FirstTokenLate,
    /// No token came for too long.
    Stalled,
    /// The whole answer was late.
    TotalLate,
    /// The connection ended in the middle.
    Died,
    /// What it sent is not what was asked for: broken JSON, a stream that is none.
    Malformed,
    /// What it sent is larger than we take.
    TooLarge,
    /// It sent an error in the stream.
    StreamError,
    /// It was asked to go on with an answer, and would not.
    NotContinued,
    /// It takes no new work, by the wish of who looks after it.
    Cordoned,
    /// Its machine is being woken, for so many seconds now.
    Waking {
        /// For how long.
        seconds: u64,
    },
    /// Its machine was woken and did not come.
    NotWoken {
        /// For how many seconds this request waited; none where an earlier one did.
        seconds: Option<u64>,
        /// In how many seconds it is woken again at the soonest.
        retry_after: Option<u64>,
    },
    /// Its machine was woken, and answers after so many seconds.
    Woken {
        /// For how many seconds this request waited.
        seconds: u64,
    },
    /// Too many requests wait for machines to come up.
    TooManyWait,
    /// This router is stopping.
    Stopping,
}

/// What an attempt says of whether the machine is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Something answered, be it a refusal.
    There,
    /// Nothing did, from its network card on.
    Missing,
    /// It says nothing of that.
    Unknown,
}

impl Reason {
    /// Returns the word for metrics: one of a fixed set.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectLate => "connect_late",
            Self::Untrusted => "untrusted",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Overflow { .. } => "overflow",
            Self::Busy { .. } => "busy",
            Self::NotReady { .. } => "not_ready",
            Self::Status(_) => "status",
            Self::KeyRefused(_) => "key_refused",
            Self::NoModel => "no_model",
            Self::ContextExceeded => "context_exceeded",
            Self::Unable(_) => "unable",
            Self::WaitTooLong { .. } => "wait_too_long",
            Self::LongPrompt { .. } => "long_prompt",
            Self::FirstTokenLate => "first_token_late",
            Self::Stalled => "stalled",
            Self::TotalLate => "total_late",
            Self::Died => "died",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::StreamError => "stream_error",
            Self::NotContinued => "not_continued",
            Self::Cordoned => "cordoned",
            Self::Waking { .. } => "waking",
            Self::NotWoken { .. } => "not_woken",
            Self::Woken { .. } => "woken",
            Self::TooManyWait => "too_many_wait",
            Self::Stopping => "stopping",
        }
    }

    /// Returns whether the machine was there.
    pub(super) fn presence(&self) -> Presence {
        match self {
            // a name that nobody answers for is a machine that is not there, too: mDNS sleeps with it
            Self::Unreachable | Self::ConnectLate => Presence::Missing,
            Self::Refused
            | Self::Untrusted
            | Self::Busy { .. }
            | Self::NotReady { .. }
            | Self::Status(_)
            | Self::KeyRefused(_)
            | Self::NoModel
            | Self::ContextExceeded
            | Self::Unable(None)
            | Self::Malformed
            | Self::TooLarge
            | Self::StreamError
            | Self::NotContinued
            | Self::Woken { .. } => Presence::There,
            // it may have gone to sleep in the middle; the next connection tells
            Self::FirstTokenLate
            | Self::Stalled
            | Self::TotalLate
            | Self::Died
            | Self::BreakerOpen { .. }
            | Self::Overflow { .. }
            | Self::Unable(Some(_))
            | Self::WaitTooLong { .. }
            | Self::LongPrompt { .. }
            | Self::Cordoned
            | Self::Waking { .. }
            | Self::NotWoken { .. }
            | Self::TooManyWait
            | Self::Stopping => Presence::Unknown,
        }
    }

    /// Returns whether a machine that has just come up may well answer in a moment.
    pub(super) fn is_of_starting(&self) -> bool {
        self.is_away() || matches!(self, Self::Busy { .. } | Self::NoModel)
    }

    /// Returns whether it was not there: who is started anew is back in a moment.
    pub(super) fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Unreachable
                | Self::ConnectLate
                | Self::NotReady { .. }
                | Self::Died
                | Self::BreakerOpen { .. }
        )
    }

    /// Returns what it says about the upstream's health.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused | Self::Unreachable | Self::ConnectLate | Self::Untrusted => Outcome::Refused,
            Self::Busy { .. }
            | Self::ContextExceeded
            | Self::Unable(None)
            | Self::NoModel
            | Self::NotContinued => Outcome::Answered,
            // it is there, but it did not answer
            Self::NotReady { .. } => Outcome::Greeted,
            Self::BreakerOpen { .. }
            | Self::Overflow { .. }
            | Self::Unable(Some(_))
            | Self::WaitTooLong { .. }
            | Self::LongPrompt { .. }
            | Self::Cordoned
            | Self::Waking { .. }
            | Self::NotWoken { .. }
            | Self::Woken { .. }
            | Self::TooManyWait
            | Self::Stopping => Outcome::Abandoned,
            Self::Status(_)
            | Self::KeyRefused(_)
            | Self::FirstTokenLate
            | Self::Stalled
            | Self::TotalLate
            | Self::Died
            | Self::Malformed
            | Self::TooLarge
            | Self::StreamError => Outcome::Failed,
        }
    }

    /// Returns whether time ran out, so that a client is told 504 rather than 503.
    pub(super) fn is_deadline(&self) -> bool {
        matches!(self, Self::ConnectLate | Self::FirstTokenLate | Self::Stalled | Self::TotalLate)
    }

    /// Returns whether it is the request that is at fault, where everybody says so.
    pub(super) fn is_clients_own(&self) -> bool {
        matches!(self, Self::ContextExceeded | Self::Unable(_))
    }

    /// Returns whether an answer that broke off for this is at its end: nobody is asked to go on with it.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Stopping)
    }

    /// Returns in how many seconds another try may go better, where that is known.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::BreakerOpen { wait } => Some(wait.as_secs() + 1),
            Self::Busy { retry_after, .. }
            | Self::NotReady { retry_after }
            | Self::NotWoken { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    /// Shows printable ASCII without line breaks: the text stands in a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("not there"),
            Self::ConnectLate => f.write_str("no connection in time"),
            Self::Untrusted => f.write_str("certificate not accepted"),
            Self::BreakerOpen { wait } => {
                write!(f, "passed over after failures for another {} s", wait.as_secs() + 1)
            }
            Self::Overflow { queued } => write!(f, "{queued} requests are waiting"),
            Self::Busy { status, .. } => write!(f, "busy or loading ({status})"),
            Self::NotReady { .. } => f.write_str("loading or stopping"),
            Self::Status(status) => write!(f, "failed ({status})"),
            Self::KeyRefused(status) => write!(f, "does not accept our key ({status})"),
            Self::NoModel => f.write_str("does not have the model"),
            Self::ContextExceeded => f.write_str("prompt exceeds its context"),
            Self::Unable(Some(what)) => write!(f, "cannot do {}", what.name()),
            Self::Unable(None) => f.write_str("cannot do what is asked for"),
            Self::WaitTooLong { seconds } => write!(f, "would begin to answer in {seconds} s"),
            Self::LongPrompt { tokens } => write!(f, "a prompt of about {tokens} tokens is for a desktop"),
            Self::FirstTokenLate => f.write_str("first token late"),
            Self::Stalled => f.write_str("stalled between tokens"),
            Self::TotalLate => f.write_str("answer late"),
            Self::Died => f.write_str("connection ended in the middle"),
            Self::Malformed => f.write_str("sent something that is no answer"),
            Self::TooLarge => f.write_str("sent more than is taken"),
            Self::StreamError => f.write_str("sent an error"),
            Self::NotContinued => f.write_str("does not go on with answers"),
            Self::Cordoned => f.write_str("is cordoned and takes no new work"),
            Self::Waking { seconds: 0 } => f.write_str("is being woken"),
            Self::Waking { seconds } => write!(f, "is being woken since {seconds} s"),
            Self::NotWoken { seconds: Some(seconds), .. } => {
                write!(f, "was woken and did not come within {seconds} s")
            }
            Self::NotWoken { seconds: None, .. } => f.write_str("was woken before and did not come"),
            Self::Woken { seconds } => write!(f, "was woken and came after {seconds} s"),
            Self::TooManyWait => f.write_str("too many requests wait for it to wake"),
            Self::Stopping => f.write_str("this router is stopping"),
        }
    }
}

/// What is known of one choice of the route when a request comes in; same order as
/// [`RouteSpec::order`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// Whose it is.
    pub(super) kind: Kind,
    /// Whether it is to take no new work.
    pub(super) is_cordoned: bool,
    /// How long its breaker stays open; none when a request may pass.
    pub(super) wait: Option<Duration>,
    /// How many requests wait there, where that was asked.
    pub(super) queued: Option<u32>,
    /// In how many seconds there is a slot for another, where that was asked and is known.
    pub(super) slot_in: Option<u64>,
    /// For how long its machine is being woken, where it is.
    pub(super) waking: Option<Duration>,
}

impl Choice {
    fn is_local(&self) -> bool {
        self.kind == Kind::Local
    }
}

/// What a request is like, as far as it matters for routing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    /// About how many tokens the prompt has; rather too many.
    pub(super) prompt_tokens: f64,
    /// How many tokens the client wants at most; none when it did not say.
    pub(super) answer_tokens: Option<f64>,
    /// It came from another host of the fleet and is not passed on.
    pub(super) is_hop: bool,
    /// What not everybody can do.
    pub(super) needs: Needs,
}

/// What a request needs of whoever answers, beside text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs([bool; Capability::ALL.len()]);

impl Needs {
    /// Returns these with `capability` where it `is_needed`.
    pub(super) fn with(mut self, capability: Capability, is_needed: bool) -> Self {
        for (needed, each) in self.0.iter_mut().zip(Capability::ALL) {
            *needed |= each == capability && is_needed;
        }
        self
    }

    /// Returns the first that is needed and among these.
    fn among(self, lacking: &[Capability]) -> Option<Capability> {
        let needed =
            self.0.into_iter().zip(Capability::ALL).filter_map(|(needed, each)| needed.then_some(each));
        needed.into_iter().find(|each| lacking.contains(each))
    }
}

/// How long one attempt may take. All but `connect` and `between_tokens` count from the
/// attempt's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Deadlines {
    /// Until the connection stands.
    pub(super) connect: Duration,
    /// Until the first token; where the upstream sends no stream though it was asked for one,
    /// until the head of its answer.
    pub(super) first_token: Duration,
    /// From one token to the next.
    pub(super) between_tokens: Duration,
    /// Until the answer is whole.
    pub(super) total: Duration,
}

/// One upstream to ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Attempt {
    /// Its place in [`RouteSpec::order`].
    pub(super) choice: usize,
    /// How long it may take.
    pub(super) deadlines: Deadlines,
}

/// Whom to ask for one request.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Decision {
    /// In this order, until one answers.
    pub(super) attempts: Vec<Attempt>,
    /// Those whose machines are being woken: they are waited for when nobody else answers.
    pub(super) waiting: Vec<Attempt>,
    /// Choices that were passed over, with the reason.
    pub(super) passed_over: Vec<(usize, Reason)>,
}

/// Decides whom to ask, from the route and what is known of its choices.
///
/// An upstream whose queue is too long, that would begin too late, or that a long prompt is not for, is asked last, not
/// never: late is better than no answer. One that cannot do what the request needs is not asked; nor is one whose breaker
/// is open, even if it is the only one. One that is being woken is waited for after all others, whatever its breaker says:
/// that is of before.
pub(super) fn decide(route: &RouteSpec, choices: &[Choice], features: &Features) -> Decision {
    let mut decision = Decision::default();
    let mut late = Vec::new();
    let may_be_asked = |hop: &Hop, choice: &Choice| {
        features.needs.among(&hop.lacks).is_none() && (choice.is_local() || !features.is_hop)
    };
    let asked = || route.order.iter().zip(choices).filter(|(hop, choice)| may_be_asked(hop, choice));
    let has_desktop =
        asked().any(|(hop, choice)| hop.is_desktop && choice.wait.is_none() && !choice.is_cordoned);
    for (index, (hop, choice)) in route.order.iter().zip(choices).enumerate() {
        if features.is_hop && !choice.is_local() {
            continue;
        }
        if let Some(lacking) = features.needs.among(&hop.lacks) {
            decision.passed_over.push((index, Reason::Unable(Some(lacking))));
            continue;
        }
        if choice.is_cordoned {
            decision.passed_over.push((index, Reason::Cordoned));
            continue;
        }
        let deadlines = deadlines(route, hop.pace.as_ref(), choice.is_local(), features);
        let attempt = Attempt { choice: index, deadlines };
        if let Some(waking) = choice.waking {
            decision.passed_over.push((index, Reason::Waking { seconds: waking.as_secs() }));
            decision.waiting.push(attempt);
            continue;
        }
        if let Some(wait) = choice.wait {
            decision.passed_over.push((index, Reason::BreakerOpen { wait }));
            continue;
        }
        match overflow(route, hop, choice, features, has_desktop) {
            Some(reason) => {
                decision.passed_over.push((index, reason));
                late.push(attempt);
            }
            None => decision.attempts.push(attempt),
        }
    }
    decision.attempts.append(&mut late);
    decision
}

/// Returns why a choice is asked after the others, where there is a reason. Other routers are not told to wait for: a
/// request that came from one is answered as it is.
fn overflow(
    route: &RouteSpec,
    hop: &Hop,
    choice: &Choice,
    features: &Features,
    has_desktop: bool,
) -> Option<Reason> {
    if let (Some(queued), Some(most)) = (choice.queued, route.overflow_queue)
        && queued > most
    {
        return Some(Reason::Overflow { queued });
    }
    if features.is_hop {
        return None;
    }
    if let Some(most) = route.overflow_prompt_tokens
        && has_desktop
        && !hop.is_desktop
        && features.prompt_tokens > f64::from(most)
    {
        return Some(Reason::LongPrompt { tokens: whole(features.prompt_tokens) });
    }
    let most = route.overflow_wait_seconds?;
    let seconds = begins_in(hop, choice, features);
    (seconds > f64::from(most)).then(|| Reason::WaitTooLong { seconds: whole(seconds) })
}

/// Returns in how many seconds a choice is expected to begin its answer: when it has a slot, as far as it said, and has
/// read the prompt at its planned pace. What of the prompt it has read before is not known, so that it is rather too many.
fn begins_in(hop: &Hop, choice: &Choice, features: &Features) -> f64 {
    let slot_in = choice.slot_in.map_or(0.0, |seconds| seconds as f64);
    let pace = hop.pace.map(|pace| pace.prompt.0).filter(|pace| pace.is_finite() && *pace > 0.0);
    slot_in + pace.map_or(0.0, |pace| features.prompt_tokens / pace)
}

/// Rounds up; what is not a number, or too large for one, becomes the nearest that is.
fn whole(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, as is wanted")]
    let whole = value.ceil() as u64;
    whole
}

/// An answer that broke off after the client had heard of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broken<'a> {
    /// The choices that it broke off at, by their places in [`RouteSpec::order`].
    pub(super) at: &'a [usize],
    /// Its tokens so far.
    pub(super) tokens: u32,
    /// Whether it is plain text that was asked for with nothing else in mind: a server that is not ours knows nothing of
    /// what else a model writes.
    pub(super) is_plain: bool,
}

/// Decides whom to ask to go on with an answer that broke off: as for a request whose prompt has the answer so far at
/// its end, but for those that broke off already, and those that the route does not allow.
pub(super) fn decide_rest(
    route: &RouteSpec,
    choices: &[Choice],
    features: &Features,
    broken: &Broken<'_>,
) -> Decision {
    let told = f64::from(broken.tokens);
    let features = Features {
        prompt_tokens: features.prompt_tokens + told,
        answer_tokens: features.answer_tokens.map(|most| (most - told).max(0.0)),
        ..*features
    };
    let may_go_on = |choice: usize| {
        let is_able =
            choices.get(choice).is_some_and(|choice| broken.is_plain || choice.kind != Kind::Foreign);
        is_able && !broken.at.contains(&choice) && is_allowed(route, choice, choices[choice].kind)
    };
    let mut decision = decide(route, choices, &features);
    // a client that has half an answer is told rather than kept waiting
    decision.waiting.clear();
    decision.attempts.retain(|attempt| may_go_on(attempt.choice));
    decision.passed_over.retain(|(choice, _)| may_go_on(*choice));
    decision
}

/// Returns whether somebody may go on with an answer of `choice`, so that it is worth to keep what that takes.
pub(super) fn has_heir(route: &RouteSpec, kinds: &[Kind], features: &Features, choice: usize) -> bool {
    let mut others = kinds.iter().enumerate().filter(|(other, _)| *other != choice);
    others.any(|(other, &kind)| is_allowed(route, other, kind) && (!features.is_hop || kind == Kind::Local))
}

fn is_allowed(route: &RouteSpec, choice: usize, kind: Kind) -> bool {
    let name = route.order.get(choice).map(|hop| &hop.upstream);
    match &route.continue_on {
        None => kind != Kind::Foreign,
        Some(names) => name.is_some_and(|name| names.contains(name)),
    }
}

/// Returns how long somebody who is not there is waited for after he was there last, by how long he takes to load:
/// as long as an activation or a service manager needs to bring him back, and no longer, since he may not come.
pub(super) fn patience(load_seconds: Option<f64>) -> Duration {
    let load = load_seconds.filter(|load| load.is_finite()).unwrap_or(0.0);
    Duration::from_secs_f64((load * LOAD_SLACK + RESTART_SECONDS).clamp(0.0, LONGEST_HELD))
}

fn deadlines(route: &RouteSpec, pace: Option<&Pace>, is_local: bool, features: &Features) -> Deadlines {
    let or = |pace: Option<f64>, unknown| pace.filter(|p| p.is_finite() && *p > 0.0).unwrap_or(unknown);
    let prompt_pace = or(pace.map(|pace| pace.prompt.0), UNKNOWN_PROMPT_PACE);
    let answer_pace = or(pace.map(|pace| pace.answer.0), UNKNOWN_ANSWER_PACE);
    let first_token = route.first_token_seconds + features.prompt_tokens / prompt_pace + FIRST_TOKEN_GRACE;
    let answer = features.answer_tokens.unwrap_or(ANSWER_TOKENS) / answer_pace;
    Deadlines {
        connect: if is_local { CONNECT_UNIX } else { CONNECT_TCP },
        first_token: seconds(first_token),
        between_tokens: seconds(BETWEEN_TOKENS_GRACE + STALLED_TOKENS / answer_pace),
        total: seconds(first_token + answer * TOTAL_SLACK),
    }
}

/// Bounds whatever arithmetic on foreign numbers gives.
fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(if value.is_finite() { value.clamp(1.0, LONGEST) } else { LONGEST })
}

/// What an upstream's status means for the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the answer.
    Answer,
    /// The client asked for something wrong: it gets the upstream's words.
    ClientsOwn,
    /// The next upstream is asked.
    Next(Reason),
}

/// Judges a status, with `error.code` of the body where it is an error in OpenAI's form, or `error.type` where the code is no
/// word.
pub(super) fn judge(status: u16, code: Option<&str>, retry_after: Option<u64>) -> Verdict {
    match (status, code) {
        (200..=299, _) => Verdict::Answer,
        // the second is llama-server's
        (400, Some("context_length_exceeded" | "exceed_context_size_error")) => {
            Verdict::Next(Reason::ContextExceeded)
        }
        // an engine of ours says so of what its model or its program cannot do; another may
        (400, Some("unsupported_parameter")) => Verdict::Next(Reason::Unable(None)),
        // the name was checked here, so that it is the upstream that lags behind its plan
        (404, Some("model_not_found")) => Verdict::Next(Reason::NoModel),
        (503, Some("loading" | "draining" | "upstreams_unavailable")) => {
            Verdict::Next(Reason::NotReady { retry_after })
        }
        (429 | 503, _) => Verdict::Next(Reason::Busy { status, retry_after }),
        // the client's key was checked here: it is our own that was refused, or not paid for
        (401..=403 | 407, _) => Verdict::Next(Reason::KeyRefused(status)),
        (408, _) => Verdict::Next(Reason::Status(status)),
        (400..=499, _) => Verdict::ClientsOwn,
        // what is left are failures, and redirects, which are never followed
        _ => Verdict::Next(Reason::Status(status)),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
