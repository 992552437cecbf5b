//! How much a key may ask: a [`Meter`] that is told what happened and when, and the [`Leave`] that a
//! request has while it runs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderValue, RETRY_AFTER};

use super::auth::Visitor;
use super::door::Shared;
use super::reply::{self, Reply};
use crate::generation::Limits;

const MINUTE: f64 = 60.0;

/// How soon to try again where other requests of the same key must end first: nobody knows when they will.
const RUNNING_SECONDS: u64 = 1;

/// What one key has asked of this door.
#[derive(Debug, Default)]
struct Meter {
    requests: Bucket,
    tokens: Bucket,
    running: u32,
}

/// A bucket that what was used fills, and time empties: the limit of a minute in a minute.
#[derive(Debug, Default)]
struct Bucket {
    used: f64,
    at: Duration,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    what: What,
    limit: u32,
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Requests,
    Running,
    Tokens,
}

impl Bucket {
    /// Returns how much is used at `now`.
    fn used(&mut self, limit: u32, now: Duration) -> f64 {
        let emptied = now.saturating_sub(self.at).as_secs_f64() * f64::from(limit) / MINUTE;
        self.used = (self.used - emptied).max(0.0);
        self.at = self.at.max(now);
        self.used
    }

    /// Returns the whole seconds until there is room for `more`, rounded up; none where there is.
    fn wait(&mut self, limit: u32, more: f64, now: Duration) -> Option<u64> {
        let over = self.used(limit, now) + more - f64::from(limit);
        if over <= 0.0 {
            return None;
        }
        let seconds = (over * MINUTE / f64::from(limit.max(1))).ceil().clamp(1.0, 86_400.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between a second and a day"
        )]
        let seconds = seconds as u64;
        Some(seconds)
    }
}

impl Meter {
    /// Lets a request begin at `now`, or says why it must wait. A token is asked for with the request, so that a key
    /// whose tokens are used up begins nothing; how many it takes is known when they are there ([`Self::spend`]).
    fn begin(&mut self, limits: &Limits, now: Duration) -> Result<(), Refusal> {
        if let Some(limit) = limits.concurrent.filter(|limit| self.running >= *limit) {
            return Err(Refusal { what: What::Running, limit, seconds: RUNNING_SECONDS });
        }
        let waits = [
            (What::Requests, limits.requests_per_minute, &mut self.requests),
            (What::Tokens, limits.tokens_per_minute, &mut self.tokens),
        ];
        for (what, limit, bucket) in waits {
            if let Some(limit) = limit
                && let Some(seconds) = bucket.wait(limit, 1.0, now)
            {
                return Err(Refusal { what, limit, seconds });
            }
        }
        self.requests.used += 1.0;
        self.running += 1;
        Ok(())
    }

    /// Counts tokens that were answered by `now`. They may be more than the limit: then nothing begins until the time
    /// has made up for them.
    fn spend(&mut self, limits: &Limits, tokens: u64, now: Duration) {
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.used(limit, now);
            self.tokens.used += tokens as f64;
        }
    }

    fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

impl Refusal {
    /// Returns what the client is told.
    pub(super) fn reply(self, key: &str) -> Reply {
        let Self { what, limit, seconds } = self;
        let (kind, per) = match what {
            What::Requests => ("requests", "requests a minute"),
            What::Running => ("requests", "requests at the same time"),
            What::Tokens => ("tokens", "tokens a minute"),
        };
        let message =
            format!("the key {key:?} may have {limit} {per} at this door; try again in {seconds} s");
        let body = reply::error_body(kind, "rate_limit_exceeded", &message);
        let mut reply = reply::json(StatusCode::TOO_MANY_REQUESTS, &body);
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        reply
    }
}

/// The meters of all keys that have limits, by the key's name: a key and the one that takes its place share one.
#[derive(Default)]
pub(super) struct Meters(Mutex<BTreeMap<String, Meter>>);

impl Meters {
    fn of(&self) -> MutexGuard<'_, BTreeMap<String, Meter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to make one request, until its answer has ended.
pub(super) struct Leave {
    shared: Arc<Shared>,
    key: String,
    limits: Limits,
}

impl Leave {
    /// Takes leave for a visitor; none is needed where its key has no limits.
    pub(super) fn take(shared: &Arc<Shared>, visitor: &Visitor) -> Result<Option<Self>, Refusal> {
        if visitor.limits.is_none() {
            return Ok(None);
        }
        let (key, limits) = (visitor.key_id.clone(), visitor.limits);
        shared.meters.of().entry(key.clone()).or_default().begin(&limits, shared.now())?;
        Ok(Some(Self { shared: Arc::clone(shared), key, limits }))
    }

    /// Returns the reply so that its tokens are counted, and that it runs until its end.
    pub(super) fn watch(self, reply: Reply) -> Reply {
        reply.map(|inner| Counted { inner, leave: self, told: 0 }.boxed_unsync())
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(meter) = self.shared.meters.of().get_mut(&self.key) {
            meter.end();
        }
    }
}

/// An answer whose tokens are counted as they go.
struct Counted {
    inner: UnsyncBoxBody<Bytes, Infallible>,
    leave: Leave,
    /// Tokens that were counted so far.
    told: u64,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            let tokens = tokens(bytes, self.told);
            self.told += tokens;
            let Leave { shared, key, limits } = &self.leave;
            if let Some(meter) = shared.meters.of().get_mut(key) {
                meter.spend(limits, tokens, shared.now());
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns how many tokens of an answer this part has, where `told` were counted before. An answer that says how many it
/// has in all (`completion_tokens`) is believed; of a stream that does not, each event with a text is one.
fn tokens(part: &[u8], told: u64) -> u64 {
    let text = String::from_utf8_lossy(part);
    let said = text.rsplit_once("\"completion_tokens\":").map(|(_, rest)| rest.trim_start());
    let said = said.and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<u64>().ok()
    });
    if let Some(all) = said {
        return all.saturating_sub(told);
    }
    let has_text = |event: &&str| {
        let says = |field: &&str| event.contains(field) && !event.contains(&format!("{field}\""));
        event.starts_with("data: {") && TEXTS.iter().any(says)
    };
    text.lines().filter(has_text).count() as u64
}

/// How the fields begin that a model's words are in.
const TEXTS: [&str; 4] = ["\"content\":\"", "\"text\":\"", "\"reasoning_content\":\"", "\"arguments\":\""];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits(requests: u32, concurrent: u32, tokens: u32) -> Limits {
        let some = |limit| (limit > 0).then_some(limit);
        Limits {
            requests_per_minute: some(requests),
            concurrent: some(concurrent),
            tokens_per_minute: some(tokens),
        }
    }

    /// Whether a request may begin and end at once, or after how many seconds it may.
    fn asked(meter: &mut Meter, limits: &Limits, now: Duration) -> Result<(), u64> {
        let begun = meter.begin(limits, now).map_err(|refusal| refusal.seconds);
        if begun.is_ok() {
            meter.end();
        }
        begun
    }

    #[test]
    fn a_minute_has_as_many_requests_as_it_may() {
        let (mut meter, six) = (Meter::default(), limits(6, 0, 0));
        for _ in 0..6 {
            assert_eq!(asked(&mut meter, &six, at(100)), Ok(()));
        }
        // one every ten seconds from here on, and what is refused costs nothing
        for _ in 0..3 {
            assert_eq!(asked(&mut meter, &six, at(100)), Err(10));
        }
        assert_eq!(asked(&mut meter, &six, at(107)), Err(3));
        assert_eq!(asked(&mut meter, &six, at(110)), Ok(()));
        assert_eq!(asked(&mut meter, &six, at(110)), Err(10));
        // never more than a minute's worth is saved up
        for _ in 0..6 {
            assert_eq!(asked(&mut meter, &six, at(90_000)), Ok(()));
        }
        assert_eq!(asked(&mut meter, &six, at(90_000)), Err(10));
    }

    #[test]
    fn what_runs_is_counted_until_it_ends() {
        let (mut meter, two) = (Meter::default(), limits(0, 2, 0));
        assert_eq!((meter.begin(&two, at(0)), meter.begin(&two, at(0))), (Ok(()), Ok(())));
        assert_eq!(meter.begin(&two, at(5000)).map_err(|refusal| refusal.what), Err(What::Running));
        meter.end();
        assert_eq!(meter.begin(&two, at(5000)), Ok(()));
    }

    #[test]
    fn tokens_are_made_up_for_before_anything_begins() {
        let (mut meter, limits) = (Meter::default(), limits(0, 0, 60));
        assert_eq!(asked(&mut meter, &limits, at(0)), Ok(()));
        meter.spend(&limits, 90, at(0));
        assert_eq!(asked(&mut meter, &limits, at(0)), Err(31));
        assert_eq!(asked(&mut meter, &limits, at(30)), Err(1));
        assert_eq!(asked(&mut meter, &limits, at(31)), Ok(()));
    }

    #[test]
    fn time_that_stands_still_or_goes_back_gives_nothing() {
        let (mut meter, one) = (Meter::default(), limits(1, 0, 0));
        assert_eq!(asked(&mut meter, &one, at(1000)), Ok(()));
        assert_eq!(asked(&mut meter, &one, at(1000)), Err(60));
        assert_eq!(asked(&mut meter, &one, at(0)), Err(60));
        let none = limits(0, 0, 0);
        for _ in 0..1000 {
            assert_eq!(asked(&mut meter, &none, at(1000)), Ok(()));
        }
    }

    #[test]
    fn tokens_are_those_that_the_answer_tells_or_the_parts_of_it() {
        let event =
            |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let usage = |n: u32| format!("data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":{n}}}}}\n\n");
        for (part, told, expected) in [
            (event("a"), 0, 1),
            (event("a") + &event("b") + "data: [DONE]\n\n", 7, 2),
            (event(""), 0, 0),
            ("data: [DONE]\n\n".to_owned(), 5, 0),
            // it says how many it were: those that were counted before are among them
            (usage(9), 4, 5),
            (usage(3), 4, 0),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens": 12,"total_tokens":17}}"#
                    .to_owned(),
                0,
                12,
            ),
            (r#"{"error":{"message":"no"}}"#.to_owned(), 0, 0),
        ] {
            assert_eq!(tokens(part.as_bytes(), told), expected, "{part}");
        }
    }
}
