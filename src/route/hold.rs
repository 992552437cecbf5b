//! Requests that nobody can answer just now wait for somebody who is expected back: an engine that loads, or a door that is
//! started anew, as in an update. So many of them, and so long: then they are told when to come again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::door::{Door, Shared};
use super::health;
use super::journey::Journey;
use super::policy;
use super::proxy::{self, Unanswered};
use super::reply::Reply;
use super::request::Call;
use super::state::{Kind, Seat, State};

/// How often it is looked whether one of those who are expected is there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Requests that may wait at the same time.
const MOST_HELD: usize = 32;

/// Once an engine is ready, its breaker lets requests pass, whatever it remembers, for so long.
const WELCOME: Duration = Duration::from_secs(5);

/// The places of those who wait.
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_HELD)))
    }
}

impl Places {
    /// Returns how many wait.
    pub(super) fn taken(&self) -> usize {
        MOST_HELD - self.0.available_permits()
    }
}

/// Has `call` answered by the generation in force, be it after a while.
pub(super) async fn infer(
    door: &Door,
    mut call: Call,
    mut room: OwnedSemaphorePermit,
    mut journey: Journey,
) -> Reply {
    let shared = &door.shared;
    let mut held: Option<Held> = None;
    loop {
        let state = door.state();
        let mut unanswered = match proxy::infer(shared, &state, call, room, journey).await {
            Ok(reply) => return reply,
            Err(unanswered) => *unanswered,
        };
        let Some(wait) = held.take().or_else(|| Held::begin(shared, &state, &unanswered)) else {
            return unanswered.refuse();
        };
        let is_over = tokio::select! {
            is_over = wait.somebody(shared, &state, &unanswered) => is_over,
            () = shared.stop.cancelled() => true,
        };
        unanswered.journey.begin_again(wait.began.elapsed().as_secs());
        if is_over {
            return unanswered.refuse();
        }
        held = Some(wait);
        Unanswered { call, room, journey, .. } = unanswered;
    }
}

/// A request that waits.
struct Held {
    began: Instant,
    until: Instant,
    /// Nobody is expected, but our own engine may be there by now.
    is_for_ours: bool,
    _place: OwnedSemaphorePermit,
}

impl Held {
    /// Begins to wait; none where nobody is expected, or too many wait.
    fn begin(shared: &Shared, state: &State, unanswered: &Unanswered) -> Option<Self> {
        // whoever passed it on has others to ask
        if unanswered.call.features.is_hop {
            return None;
        }
        let left = missed(state, unanswered).filter_map(|seat| expected(shared, seat)).max();
        // while others were asked in vain, our own engine may have come
        let may_have_come = unanswered.journey.lasts() > LOOK_EVERY
            && missed(state, unanswered).any(|seat| seat.kind == Kind::Local);
        let is_for_ours = left.is_none();
        let left = left.or_else(|| may_have_come.then_some(LOOK_EVERY))?;
        let place = Arc::clone(&shared.places.0).try_acquire_owned().ok()?;
        let began = Instant::now();
        Some(Self { began, until: began + left, is_for_ours, _place: place })
    }

    /// Waits until one of those who did not answer may; returns whether the time is over.
    async fn somebody(&self, shared: &Shared, state: &State, unanswered: &Unanswered) -> bool {
        while Instant::now() < self.until {
            sleep_until(self.until.min(Instant::now() + LOOK_EVERY)).await;
            for seat in missed(state, unanswered) {
                let now = shared.now();
                if seat.kind == Kind::Local {
                    if health::is_ready(&*shared.dial, seat).await {
                        seat.breaker(|breaker| breaker.expect(now, now + WELCOME));
                        return false;
                    }
                } else if !self.is_for_ours && seat.breaker(|breaker| breaker.wait(now)).is_none() {
                    return false;
                }
            }
        }
        true
    }
}

/// Those who were not there.
fn missed<'a>(state: &'a State, unanswered: &'a Unanswered) -> impl Iterator<Item = &'a Seat> {
    let seats =
        state.routes.get(&unanswered.call.model).map(|route| route.seats.as_slice()).unwrap_or_default();
    unanswered.missed.iter().filter_map(|choice| seats.get(*choice)).map(Arc::as_ref)
}

/// Returns how much longer somebody who is not there is expected to come back.
fn expected(shared: &Shared, seat: &Seat) -> Option<Duration> {
    let answered = seat.breaker(|breaker| breaker.answered()).map(|at| shared.now().saturating_sub(at));
    // an engine of ours was started with its generation
    let started = (seat.kind == Kind::Local).then(|| seat.since.elapsed());
    let seen = [answered, started].into_iter().flatten().min()?;
    policy::patience(seat.load_seconds).checked_sub(seen).filter(|left| !left.is_zero())
}
