use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::care::State;
use super::metrics::Metrics;
use super::{Loaded, Offload};

/// Where an engine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The weights are coming into memory.
    Loading,
    /// It takes requests.
    Ready,
    /// It finishes what runs and takes nothing new.
    Draining,
    /// It is broken and about to end.
    Failed,
}

/// The body of `GET /health`. The status code is 200 when ready, else 503.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Where it is in its life.
    pub status: Status,
    /// The model's name.
    pub model: String,
    /// The quant of its weights.
    pub quant: String,
    /// The generation that it serves.
    pub generation: u64,
    /// The CPU variant that was chosen; none before that.
    pub cpu: Option<String>,
    /// What of the model graphics processors compute; none where that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Offload>,
    /// Requests that it serves at the same time.
    pub slots: u32,
    /// Tokens that each of them may have.
    pub context: u32,
    /// Requests that are being served.
    pub running: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// In about how many seconds a slot is free for another request, by what answers took: 0 where one is; none where
    /// nothing is known yet.
    #[serde(default)]
    pub wait_seconds: Option<u64>,
    /// How much of the weights is loaded, from 0 to 1.
    pub loaded: f64,
    /// Memory that the host can still give, in bytes; none where it does not tell.
    #[serde(default)]
    pub memory_available: Option<u64>,
    /// What a Pi's firmware says of its supply and heat (`vcgencmd get_throttled`).
    #[serde(default)]
    pub throttled: Option<u32>,
}

/// So many requests may wait for a slot always, and so many at most.
const WAITING: RangeInclusive<u64> = 8..=64;

/// How long the last of those that wait may have to, by what answers took: more are better off elsewhere.
const WAIT: Duration = Duration::from_mins(1);

/// When to come back, in seconds, where nothing is known yet.
const UNKNOWN: u64 = 5;

/// Rounds up to seconds from 1 to 600.
fn seconds(time: Duration) -> u64 {
    (time + Duration::from_millis(999)).as_secs().clamp(1, 600)
}

/// What the worker and the HTTP side tell each other without waiting.
#[derive(Debug, Default)]
pub(super) struct Shared {
    loaded: OnceLock<Loaded>,
    /// Thousandths of the weights that are loaded.
    progress: AtomicU32,
    draining: AtomicBool,
    stopping: AtomicBool,
    failed: AtomicBool,
    running: AtomicUsize,
    queued: AtomicUsize,
    /// Milliseconds that an answer takes in its slot: the mean of the last ones; 0 before the first.
    pace: AtomicU64,
    /// What is counted.
    pub(super) metrics: Metrics,
    /// How the host was when it was looked at last.
    host: Mutex<State>,
    /// When loading began.
    began: OnceLock<Instant>,
    /// Counts the worker's steps; a watchdog sees by it whether there are any.
    beat: AtomicU64,
}

impl Shared {
    pub(super) fn status(&self) -> Status {
        if self.failed.load(Ordering::Acquire) {
            Status::Failed
        } else if self.draining.load(Ordering::Acquire) {
            Status::Draining
        } else if self.loaded.get().is_some() {
            Status::Ready
        } else {
            Status::Loading
        }
    }

    pub(super) fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    pub(super) fn set_loaded(&self, loaded: Loaded) {
        // the first one stands: a process loads once
        let _ = self.loaded.set(loaded);
    }

    /// Returns when to come back, in seconds: about when the weights are in memory, by how fast they come.
    pub(super) fn until_loaded(&self) -> u64 {
        let progress = self.progress();
        let passed = self.began.get_or_init(Instant::now).elapsed();
        if progress > 0.0 { seconds(passed.mul_f64((1.0 - progress).max(0.0) / progress)) } else { UNKNOWN }
    }

    /// Returns when to come back, in seconds: about when a slot is free for one more than those that wait.
    pub(super) fn until_free(&self, slots: u32) -> u64 {
        match self.pace.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            pace => {
                let turns = u64::try_from(self.queued()).unwrap_or(u64::MAX).saturating_add(1);
                seconds(Duration::from_millis(pace.saturating_mul(turns) / u64::from(slots.max(1))))
            }
        }
    }

    /// Returns in about how many seconds another request has a slot; none where that is not known yet.
    pub(super) fn wait(&self, slots: u32) -> Option<u64> {
        if self.queued() == 0 && self.running() < slots as usize {
            return Some(0);
        }
        (self.pace.load(Ordering::Relaxed) > 0).then(|| self.until_free(slots))
    }

    /// Returns how many requests may wait for a slot.
    pub(super) fn most_waiting(&self, slots: u32) -> usize {
        let most = match self.pace.load(Ordering::Relaxed) {
            0 => *WAITING.end(),
            pace => u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX) * u64::from(slots) / pace,
        };
        usize::try_from(most.clamp(*WAITING.start(), *WAITING.end())).unwrap_or(usize::MAX)
    }

    /// Tells how long an answer took in its slot. Only the worker does.
    pub(super) fn took(&self, time: Duration) {
        let new = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let mean = match self.pace.load(Ordering::Relaxed) {
            0 => new,
            old => (old.saturating_mul(3).saturating_add(new)) / 4,
        };
        self.pace.store(mean, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> f64 {
        if self.loaded.get().is_some() {
            return 1.0;
        }
        f64::from(self.progress.load(Ordering::Relaxed)) / 1000.0
    }

    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "only llama.cpp tells of progress"))]
    pub(super) fn set_progress(&self, part: f32) {
        self.began.get_or_init(Instant::now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1000 after the clamp"
        )]
        self.progress.store((part.clamp(0.0, 1.0) * 1000.0) as u32, Ordering::Relaxed);
    }

    pub(super) fn host(&self) -> State {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_host(&self, state: State) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Takes no new requests from here on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Gives up what runs, and loading as well.
    pub(super) fn stop(&self) {
        self.drain();
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn set_running(&self, count: usize) {
        self.running.store(count, Ordering::Release);
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Takes a place in the queue; none is left where this returns false.
    pub(super) fn enqueue(&self, most: usize) -> bool {
        let more = |queued: usize| (queued < most).then_some(queued + 1);
        self.queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    pub(super) fn dequeue(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn beat(&self) {
        self.beat.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_worked_out_from_what_answers_took_and_how_many_wait() {
        let shared = Shared::default();
        assert_eq!(shared.until_free(2), UNKNOWN);
        shared.took(Duration::from_secs(8));
        assert_eq!(shared.until_free(2), 4);
        for _ in 0..3 {
            assert!(shared.enqueue(9));
        }
        assert_eq!((shared.until_free(2), shared.until_free(1)), (16, 32));
        shared.took(Duration::from_secs(4));
        // three parts of what was, one of what is new: 7 s
        assert_eq!(shared.until_free(1), 28);
    }

    #[test]
    fn another_request_waits_for_a_slot_only_where_none_is_free() {
        let shared = Shared::default();
        assert_eq!(shared.wait(1), Some(0));
        shared.set_running(1);
        assert_eq!((shared.wait(1), shared.wait(2)), (None, Some(0)));
        shared.took(Duration::from_secs(8));
        assert_eq!((shared.wait(1), shared.wait(2)), (Some(8), Some(0)));
        assert!(shared.enqueue(9));
        assert_eq!((shared.wait(1), shared.wait(2)), (Some(16), Some(8)));
    }

    #[test]
    fn fewer_may_wait_where_answers_are_slow() {
        let shared = Shared::default();
        assert_eq!(shared.most_waiting(1), 64);
        shared.took(Duration::from_secs(3));
        assert_eq!((shared.most_waiting(1), shared.most_waiting(2)), (20, 40));
        shared.took(Duration::from_hours(1));
        assert_eq!(shared.most_waiting(4), 8);
    }

    #[test]
    fn a_wait_is_a_second_at_least_and_ten_minutes_at_most() {
        assert_eq!((seconds(Duration::ZERO), seconds(Duration::from_millis(1001))), (1, 2));
        assert_eq!(seconds(Duration::from_hours(2)), 600);
    }
}
