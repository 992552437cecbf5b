use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::TokensPerSec;

/// The rule of verdicts, for people.
pub const RULE: &str = "good: 5 tok/s or more; slow: 1 or more; borderline: fewer, or less than a tenth of the memory left; no: does not fit";

/// How a model does on a host, in one word. Nothing is stored: it follows from the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does not fit.
    No,
    /// It fits, with little left, or runs too slowly to wait for.
    Borderline,
    /// For those who can wait: slower than people read.
    Slow,
    /// About as fast as people read.
    Good,
}

/// Answers that people read along: about 240 words a minute.
const READING: f64 = 5.0;
/// Slower than this, a short answer takes minutes.
const WAITING: f64 = 1.0;
/// With less of the memory left, whatever else starts on the host may end the engine.
const LEFT: f64 = 0.1;

impl Verdict {
    /// Judges what fits or not, leaves a part of the memory, and answers at a rate.
    pub fn of(fits: bool, left: f64, answer: TokensPerSec) -> Self {
        match answer.0 {
            _ if !fits => Self::No,
            _ if left < LEFT => Self::Borderline,
            READING.. => Self::Good,
            WAITING.. => Self::Slow,
            _ => Self::Borderline,
        }
    }

    /// Returns the word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Borderline => "borderline",
            Self::Slow => "slow",
            Self::Good => "good",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let cases = [
            (false, 0.5, 9.0, Verdict::No),
            (true, 0.09, 9.0, Verdict::Borderline),
            (true, 0.1, 5.0, Verdict::Good),
            (true, 0.1, 4.99, Verdict::Slow),
            (true, 0.9, 1.0, Verdict::Slow),
            (true, 0.9, 0.99, Verdict::Borderline),
        ];
        for (fits, left, rate, verdict) in cases {
            assert_eq!(Verdict::of(fits, left, TokensPerSec(rate)), verdict, "{fits} {left} {rate}");
        }
        for verdict in [Verdict::No, Verdict::Borderline, Verdict::Slow, Verdict::Good] {
            assert!(RULE.contains(&format!("{verdict}:")), "{verdict}");
        }
    }
}
