//! One rate for everything that is fetched, however many connections there are.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Instant, sleep_until};

use crate::pace;
use crate::units::Bytes;

/// Spends bytes no faster than a rate, over any stretch of time.
#[derive(Debug)]
pub(super) struct Pace(Mutex<pace::Pace>);

impl Pace {
    /// `rate` is in bytes a second.
    pub(super) fn new(rate: Bytes) -> Self {
        Self(Mutex::new(pace::Pace::new(rate)))
    }

    /// Waits until `bytes` are paid for, after those of everybody who came before.
    pub(super) async fn spend(&self, bytes: Bytes) {
        let now = Instant::now().into_std();
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner).spend(bytes, now);
        sleep_until(due.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lanes_share_one_rate_and_save_nothing_up() {
        let pace = Pace::new(Bytes(1000));
        let begun = Instant::now();
        let lane = || async {
            for _ in 0..5 {
                pace.spend(Bytes(100)).await;
            }
        };
        tokio::join!(lane(), lane(), lane());
        assert_eq!(begun.elapsed().as_millis(), 1500);
        tokio::time::advance(Duration::from_mins(1)).await;
        let begun = Instant::now();
        lane().await;
        assert_eq!(begun.elapsed().as_millis(), 500);
    }
}
