//! One rate for everything that is fetched, however many connections there are.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::units::Bytes;

/// Spends bytes no faster than a rate, over any stretch of time.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    /// When what was spent is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// `rate` is in bytes a second.
    pub(super) fn new(rate: Bytes) -> Self {
        Self { per_second: (rate.0 as f64).max(1.0), paid: Mutex::default() }
    }

    /// Waits until `bytes` are paid for, after those of everybody who came before.
    pub(super) async fn spend(&self, bytes: Bytes) {
        let price = Duration::from_secs_f64(bytes.0 as f64 / self.per_second);
        let due = {
            let now = Instant::now();
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            // time in which nothing came is not saved up
            let due = paid.filter(|paid| *paid > now).unwrap_or(now) + price;
            *paid = Some(due);
            due
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
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
