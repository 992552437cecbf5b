//! The last requests, for who looks after the host: who answered and why, and how fast. Not a word of what was asked or
//! answered is in it, and it ends with the process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// As many as somebody reads.
const MOST: usize = 40;

/// The most that is kept of why somebody else answered, in characters.
const LONGEST_WHY: usize = 300;

/// An answer that came faster than this was there at once: its speed is that of the network.
const SHORTEST: Duration = Duration::from_millis(20);

/// One request that has ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    /// When it ended.
    pub(super) at: Duration,
    pub(super) path: &'static str,
    pub(super) key: String,
    /// Whether another door has passed it on.
    pub(super) is_hop: bool,
    pub(super) model: String,
    /// Who answered first; `-` for nobody.
    pub(super) upstream: String,
    /// Who went on with the answer where it broke off, in order.
    pub(super) continued: String,
    /// Why those before did not answer.
    pub(super) why: String,
    pub(super) status: u16,
    pub(super) took: Duration,
    /// From the beginning to the first token.
    pub(super) first: Option<Duration>,
    /// Tokens of the answer, where they are known.
    pub(super) tokens: Option<u32>,
}

impl Past {
    /// Returns the tokens per second from the first token on.
    fn speed(&self) -> Option<f64> {
        let time = self.took.checked_sub(self.first?).filter(|time| *time >= SHORTEST)?;
        let more = self.tokens?.checked_sub(1).filter(|more| *more > 0)?;
        Some(f64::from(more) / time.as_secs_f64())
    }

    fn to_json(&self, now: Duration) -> Value {
        json!({
            "ago_seconds": now.saturating_sub(self.at).as_secs_f64(),
            "path": self.path,
            "key": self.key,
            "passed_on": self.is_hop,
            "model": self.model,
            "upstream": self.upstream,
            "continued": self.continued,
            "why": self.why,
            "status": self.status,
            "seconds": self.took.as_secs_f64(),
            "first_token_seconds": self.first.map(|first| first.as_secs_f64()),
            "tokens": self.tokens,
            "tokens_per_second": self.speed(),
        })
    }
}

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Past>>);

impl Recent {
    fn list(&self) -> MutexGuard<'_, VecDeque<Past>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and forgets the oldest of too many.
    pub(super) fn add(&self, past: Past) {
        let cut = |text: &str, most| text.chars().take(most).collect::<String>();
        // names of models that there are not here come from clients
        let past = Past { why: cut(&past.why, LONGEST_WHY), model: cut(&past.model, 80), ..past };
        let mut list = self.list();
        if list.len() == MOST {
            list.pop_front();
        }
        list.push_back(past);
    }

    /// Returns them, newest first.
    pub(super) fn to_json(&self, now: Duration) -> Value {
        self.list().iter().rev().map(|past| past.to_json(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_newest_first_and_none_is_longer_than_it_may() {
        let recent = Recent::default();
        for nth in 0..100 {
            let at = Duration::from_secs(nth);
            recent.add(Past { at, why: "x".repeat(9000), ..Past::default() });
        }
        let told = recent.to_json(Duration::from_secs(100));
        let list = told.as_array().unwrap();
        assert_eq!(
            (list.len(), &list[0]["ago_seconds"], &list[39]["ago_seconds"]),
            (40, &1.0.into(), &40.0.into())
        );
        assert_eq!(list[0]["why"].as_str().unwrap().len(), LONGEST_WHY);
    }

    #[test]
    fn an_answer_is_as_fast_as_its_tokens_after_the_first() {
        let speed = |tokens, first, took| {
            let seconds = Duration::from_secs_f64;
            Past { tokens, first: Some(seconds(first)), took: seconds(took), ..Past::default() }.speed()
        };
        assert_eq!(speed(Some(21), 1.0, 3.0), Some(10.0));
        assert_eq!((speed(Some(1), 1.0, 3.0), speed(None, 1.0, 3.0)), (None, None));
        assert_eq!(speed(Some(100), 1.0, 1.001), None, "it came at once");
    }
}
