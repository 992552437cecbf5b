//! How long to wait: after a failure by our own choice, and as long as the hub asks.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::Error;
use super::settings::Patience;
use crate::clock;

/// Counts failures in a row and says how long to pause.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Bytes came: what failed before does not count any more.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Returns the pause after `error`; none when trying again makes no sense. `random` is
    /// in 0..1 and keeps many clients from coming back at the same moment.
    pub(super) fn after(&mut self, error: &Error, patience: &Patience, random: f64) -> Option<Duration> {
        self.failures += 1;
        if !error.is_transient() || self.failures >= patience.attempts {
            return None;
        }
        if let Some(wait) = error.wanted_wait() {
            return (wait <= patience.longest_wait).then_some(wait);
        }
        let doubled = patience.first_pause.saturating_mul(1 << (self.failures - 1).min(16));
        Some(doubled.min(patience.longest_pause).mul_f64(0.5 + random / 2.0))
    }
}

pub(super) fn random() -> f64 {
    getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX))
}

/// Returns a header's text, at most 300 characters of it, without control characters.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
}

/// Reads `Retry-After` (seconds or a date), else the hub's `RateLimit: …;t=SECONDS`.
pub(super) fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let after = text(headers, RETRY_AFTER.as_str());
    if let Some(after) = after.as_deref().map(str::trim) {
        if let Ok(seconds) = after.parse() {
            return Some(Duration::from_secs(seconds));
        }
        if let Ok(date) = jiff::fmt::rfc2822::parse(after) {
            let until = u64::try_from(date.timestamp().as_second()).unwrap_or(0);
            return Some(Duration::from_secs(until.saturating_sub(clock::unix_seconds())));
        }
    }
    limit(headers, "t").map(Duration::from_secs)
}

/// Returns how long a window of requests lasts of which none is left. Read from answers that
/// are none of 429, so that there is none.
pub(super) fn used_up(headers: &HeaderMap) -> Option<Duration> {
    (limit(headers, "r") == Some(0)).then(|| limit(headers, "t").map(Duration::from_secs))?
}

/// Reads one number of the hub's `RateLimit: "api";r=REMAINING;t=SECONDS`.
fn limit(headers: &HeaderMap, key: &str) -> Option<u64> {
    let limit = text(headers, "ratelimit")?;
    limit.split(';').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::units::Bytes;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_hub_says_how_long_to_wait_in_three_ways() {
        let wait = |pairs| wait_of(&headers(pairs)).map(|wait| wait.as_secs());
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), Some(0), "in the past");
        assert!(wait(&[("retry-after", "Wed, 21 Oct 2105 07:28:00 GMT")]).is_some_and(|s| s > 1 << 30));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(used_up(&headers(&[("ratelimit", "\"api\";r=0;t=55")])), Some(Duration::from_secs(55)));
        assert_eq!(used_up(&headers(&[("ratelimit", "\"api\";r=1;t=55")])), None);
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let patience = Patience { attempts: 9, ..Patience::default() };
        let broken = Error::EndedEarly { what: String::new(), got: Bytes(1), expected: Bytes(2) };
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        while let Some(pause) = backoff.after(&broken, &patience, 1.0) {
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.progressed();
        assert!(backoff.after(&broken, &patience, 0.0).is_some_and(|pause| pause.as_millis() == 250));
    }

    #[test]
    fn a_wait_beyond_all_patience_is_told_at_once() {
        let patience = Patience::default();
        let asked = |seconds| {
            let error = Error::TooManyRequests { wait: Some(Duration::from_secs(seconds)) };
            Backoff::default().after(&error, &patience, 0.0)
        };
        assert_eq!(asked(301), Some(Duration::from_secs(301)));
        assert_eq!(asked(86_400), None);
    }

    #[test]
    fn what_cannot_get_better_is_not_tried_again() {
        let error = Error::EntryNotFound { what: "x".to_owned() };
        assert_eq!(Backoff::default().after(&error, &Patience::default(), 0.0), None);
    }
}
