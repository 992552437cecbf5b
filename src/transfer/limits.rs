//! How fast blobs may move.

use std::sync::{Arc, Mutex, PoisonError};

use super::push::SLOWEST;
use crate::pace::Pace;
use crate::units::Bytes;

/// Bytes that are sent at once where there is a rate to keep, at most.
const PACED: u64 = 64 << 10;
/// Within so many seconds each host is sent something, whatever the rate: one that hears nothing for a minute takes
/// the sender for gone. Only a rate of fewer than eight bytes a second, shared by all that may share it, is too low
/// for that.
const TURN: u64 = 30;
/// How many hosts may share a rate in all: those of all files that move side by side. A transfer that hangs is
/// noticed by what it says, and not by this.
const SHARERS: u64 = 256;

/// How fast blobs may move. Clones keep to one rate in all, whatever they are used for side by side.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    per_host: Option<Bytes>,
    in_all: Option<InAll>,
}

/// What leaves this machine at most, by whomever it is sent.
#[derive(Debug, Clone)]
struct InAll {
    rate: Bytes,
    pace: Arc<Mutex<Pace>>,
}

impl Limits {
    /// Returns limits in bytes per second: what each host takes in at most, from whomever, and what leaves
    /// this machine at most. What this machine copies for itself keeps to none.
    pub fn new(per_host: Option<Bytes>, in_all: Option<Bytes>) -> Self {
        Self {
            per_host,
            in_all: in_all.map(|rate| InAll { rate, pace: Arc::new(Mutex::new(Pace::new(rate))) }),
        }
    }

    /// Returns what each host takes in at most.
    pub(super) fn per_host(&self) -> Option<Bytes> {
        self.per_host
    }

    /// Returns the least that is taken for a transfer that goes on, in bytes per second.
    pub(super) fn slowest(&self) -> u64 {
        let in_all = self.in_all.as_ref().map(|all| all.rate.0 / SHARERS);
        let most = self.per_host.map(|rate| rate.0).into_iter().chain(in_all).min();
        // nothing keeps a rate exactly
        most.map_or(SLOWEST, |most| SLOWEST.min(most / 2)).max(1)
    }

    /// Returns what one host is sent by.
    pub(super) fn to_one_host(&self) -> Pacing {
        let own = self.per_host.map(|rate| Arc::new(Mutex::new(Pace::new(rate))));
        let in_turn = |rate: Bytes| rate.0.saturating_mul(TURN);
        let steps = [self.per_host.map(in_turn), self.in_all.as_ref().map(|all| in_turn(all.rate) / SHARERS)];
        Pacing {
            paces: own.into_iter().chain(self.in_all.as_ref().map(|all| Arc::clone(&all.pace))).collect(),
            step: steps.into_iter().flatten().fold(PACED, u64::min).max(1),
        }
    }
}

/// Keeps what is sent to one host to the rates that hold for it.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    paces: Vec<Arc<Mutex<Pace>>>,
    /// Bytes that are sent at once, where there are any.
    step: u64,
}

impl Pacing {
    /// Returns how much of `length` bytes is sent at once.
    pub(super) fn step(&self, length: u64) -> u64 {
        if self.paces.is_empty() { length.max(1) } else { self.step }
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn wait_to_send(&self, bytes: u64) {
        let now = tokio::time::Instant::now().into_std();
        let spend = |pace: &Arc<Mutex<Pace>>| {
            pace.lock().unwrap_or_else(PoisonError::into_inner).spend(Bytes(bytes), now)
        };
        if let Some(due) = self.paces.iter().map(spend).max() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_share_a_rate_may_be_as_slow_as_that_makes_them() {
        let slowest = |per_host, in_all| Limits::new(per_host, in_all).slowest();
        assert_eq!(slowest(None, None), SLOWEST);
        assert_eq!(slowest(Some(Bytes::mib(4)), Some(Bytes::gib(1))), SLOWEST);
        // eight hosts with a file each have 62,500 bytes per second each
        assert!(slowest(None, Some(Bytes(500_000))) < 62_500 / 2);
        assert_eq!(slowest(Some(Bytes(1000)), None), 500);
        assert_eq!(slowest(Some(Bytes(1)), Some(Bytes(1))), 1);
    }

    #[test]
    fn however_low_a_rate_is_no_host_waits_a_minute_for_something() {
        let step = |per_host, in_all| Limits::new(per_host, in_all).to_one_host().step(1 << 20);
        assert_eq!(step(Some(Bytes::mib(1)), Some(Bytes::mib(1))), PACED);
        assert_eq!(step(Some(Bytes(500)), None), 15_000);
        assert!(step(None, Some(Bytes(20_000))) * SHARERS < 60 * 20_000);
        assert_eq!(step(Some(Bytes(1)), Some(Bytes(1))), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_in_all_is_shared_by_whatever_is_sent_and_one_of_a_host_is_its_own() {
        let limits = Limits::new(Some(Bytes::mib(4)), Some(Bytes::mib(6)));
        let one_host = async |limits: Limits| {
            let pacing = limits.to_one_host();
            let mut left = 12_u64 << 20;
            while left > 0 {
                let step = pacing.step(left).min(left);
                pacing.wait_to_send(step).await;
                left -= step;
            }
        };
        let begun = tokio::time::Instant::now();
        one_host(limits.clone()).await;
        let alone = begun.elapsed().as_secs_f64();
        assert!((2.95..3.15).contains(&alone), "{alone}");
        let begun = tokio::time::Instant::now();
        tokio::join!(one_host(limits.clone()), one_host(limits));
        let together = begun.elapsed().as_secs_f64();
        assert!((3.95..4.25).contains(&together), "{together}");
        let free = Limits::default().to_one_host();
        assert_eq!(free.step(12 << 20), 12 << 20);
        free.wait_to_send(u64::MAX).await;
    }
}
