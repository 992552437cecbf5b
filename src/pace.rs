//! A rate that is not exceeded over any stretch of time.

use std::time::{Duration, Instant};

use crate::units::Bytes;

/// Says when bytes may move, so that no more than a rate do. Time in which nothing moved is not saved
/// up. Whoever asks waits; nothing here does.
#[derive(Debug, Clone)]
pub struct Pace {
    per_second: f64,
    /// When what was spent is paid for.
    paid: Option<Instant>,
}

impl Pace {
    /// Makes a pace of `rate` bytes a second.
    pub fn new(rate: Bytes) -> Self {
        Self { per_second: (rate.0 as f64).max(1.0), paid: None }
    }

    /// Spends `bytes` at `now`, after all that was spent before, and returns when they are paid for.
    pub fn spend(&mut self, bytes: Bytes, now: Instant) -> Instant {
        let price = Duration::from_secs_f64(bytes.0 as f64 / self.per_second);
        let due = self.paid.filter(|paid| *paid > now).unwrap_or(now) + price;
        self.paid = Some(due);
        due
    }

    /// Returns when what was spent is paid for; `now` if it is.
    pub fn paid(&self, now: Instant) -> Instant {
        self.paid.filter(|paid| *paid > now).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_paid_for_in_turn_and_nothing_is_saved_up() {
        let mut pace = Pace::new(Bytes(1000));
        let begun = Instant::now();
        let after = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        assert_eq!(pace.paid(begun), begun);
        assert_eq!(pace.spend(Bytes(500), begun), after(0.5));
        assert_eq!(pace.spend(Bytes(500), after(0.1)), after(1.0));
        assert_eq!(pace.paid(after(0.2)), after(1.0));
        assert_eq!(pace.spend(Bytes(100), after(60.0)), after(60.1));
    }
}
