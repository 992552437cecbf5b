//! Whether a machine that sleeps is there, and when it is woken. Pure: the time is that since the router's start.

use std::time::Duration;

/// No machine is sent packets more often than this, however many requests want it: a packet that was lost is worth
/// another, and no network card needs two at once.
const BURST_EVERY: Duration = Duration::from_secs(10);

/// How long a machine that was woken and did not come is left alone the first time, and at most: each time in a row is
/// twice as long as the one before. One without power is not worth a minute of every request.
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_mins(5);

/// What is known of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has asked it yet.
    Unknown,
    /// It answered last, be it by refusing.
    Awake,
    /// It did not answer, and is being woken.
    Waking {
        /// Since when.
        since: Duration,
    },
    /// It was woken and did not come.
    Asleep {
        /// Since when it is given up.
        since: Duration,
    },
}

impl Standing {
    /// Returns the word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Awake => "awake",
            Self::Waking { .. } => "waking",
            Self::Asleep { .. } => "asleep",
        }
    }

    /// Returns since when it is so, where that is known.
    pub(super) fn since(self) -> Option<Duration> {
        match self {
            Self::Unknown | Self::Awake => None,
            Self::Waking { since } | Self::Asleep { since } => Some(since),
        }
    }
}

/// What is to be done for a machine that is being woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Its packets are sent, and it is looked for.
    Send,
    /// It is looked for.
    Look,
    /// Nothing more: it came, or is given up.
    Nothing,
}

/// A machine that may be asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sleeper {
    standing: Standing,
    /// How often in a row it was woken in vain.
    in_vain: u32,
    /// When its packets were sent last.
    sent: Option<Duration>,
    /// How often they were.
    bursts: u64,
}

impl Sleeper {
    /// Nothing is known of it.
    pub(super) fn new() -> Self {
        Self { standing: Standing::Unknown, in_vain: 0, sent: None, bursts: 0 }
    }

    /// Returns what is known of it.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Returns how often its packets were sent.
    pub(super) fn bursts(&self) -> u64 {
        self.bursts
    }

    /// Takes note that it did not answer, and returns whether somebody has to begin to wake it ([`Sleeper::step`]).
    pub(super) fn missed(&mut self, now: Duration) -> bool {
        let begins = match self.standing {
            Standing::Unknown | Standing::Awake => true,
            Standing::Waking { .. } => false,
            Standing::Asleep { .. } => self.rest(now).is_none(),
        };
        if begins {
            self.standing = Standing::Waking { since: now };
        }
        begins
    }

    /// Takes note that it answered, and returns whether that is news of one that was away.
    pub(super) fn heard(&mut self) -> bool {
        let was_away = matches!(self.standing, Standing::Waking { .. } | Standing::Asleep { .. });
        (self.standing, self.in_vain) = (Standing::Awake, 0);
        was_away
    }

    /// Returns what is to be done now for one that is being woken, which is given up after `patience`.
    pub(super) fn step(&mut self, now: Duration, patience: Duration) -> Step {
        let Standing::Waking { since } = self.standing else { return Step::Nothing };
        if now.saturating_sub(since) >= patience {
            self.standing = Standing::Asleep { since: now };
            self.in_vain = self.in_vain.saturating_add(1);
            return Step::Nothing;
        }
        if self.sent.is_some_and(|sent| now.saturating_sub(sent) < BURST_EVERY) {
            return Step::Look;
        }
        self.sent = Some(now);
        self.bursts += 1;
        Step::Send
    }

    /// Returns how long one that did not come is still left alone; none where it may be woken.
    pub(super) fn rest(&self, now: Duration) -> Option<Duration> {
        let Standing::Asleep { since } = self.standing else { return None };
        let doubled = FIRST_REST.saturating_mul(1 << self.in_vain.saturating_sub(1).min(8));
        since.saturating_add(doubled.min(LONGEST_REST)).checked_sub(now).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = at(60);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn packets_are_sent_at_once_and_then_every_ten_seconds_until_it_comes() {
        let mut sleeper = Sleeper::new();
        assert!(sleeper.missed(at(100)));
        assert_eq!(sleeper.standing(), Standing::Waking { since: at(100) });
        assert!(!sleeper.missed(at(100)), "one at a time wakes it");
        let steps = [100, 101, 109, 110, 119, 120].map(|now| sleeper.step(at(now), PATIENCE));
        let (send, look) = (Step::Send, Step::Look);
        assert_eq!(steps, [send, look, look, send, look, send]);
        assert!(sleeper.heard());
        assert!(!sleeper.heard(), "it is news once");
        assert_eq!(sleeper.step(at(121), PATIENCE), Step::Nothing);
        assert_eq!((sleeper.standing(), sleeper.bursts()), (Standing::Awake, 3));
    }

    #[test]
    fn one_that_does_not_come_is_given_up_and_left_alone_for_longer_each_time() {
        let mut sleeper = Sleeper::new();
        let mut now = at(0);
        let mut rests = Vec::new();
        for _ in 0..7 {
            assert!(sleeper.missed(now));
            assert_eq!(sleeper.step(now + at(59), PATIENCE), Step::Send);
            now += PATIENCE;
            assert_eq!(sleeper.step(now, PATIENCE), Step::Nothing);
            assert_eq!(sleeper.standing(), Standing::Asleep { since: now });
            let rest = sleeper.rest(now).unwrap();
            assert!(!sleeper.missed(now + rest.mul_f64(0.99)));
            rests.push(rest.as_secs());
            now += rest;
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 300, 300]);
        // once it came, all is forgotten
        assert!(sleeper.heard());
        assert!(sleeper.missed(now));
        sleeper.step(now + PATIENCE, PATIENCE);
        assert_eq!(sleeper.rest(now + PATIENCE), Some(FIRST_REST));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Missed,
        Heard,
        Step,
    }

    proptest! {
        #[test]
        fn whatever_happens_bursts_are_ten_seconds_apart_and_no_waking_is_longer_than_the_patience(
            events in prop::collection::vec(
                (prop::sample::select(vec![Event::Missed, Event::Heard, Event::Step]), 0u64..20_000), 1..200,
            ),
        ) {
            let mut sleeper = Sleeper::new();
            let mut now = Duration::ZERO;
            let mut sent: Option<Duration> = None;
            for (event, millis) in events {
                now += Duration::from_millis(millis);
                match event {
                    Event::Missed => drop(sleeper.missed(now)),
                    Event::Heard => drop(sleeper.heard()),
                    Event::Step => {
                        let since = match sleeper.standing() {
                            Standing::Waking { since } => Some(since),
                            _ => None,
                        };
                        let step = sleeper.step(now, PATIENCE);
                        let is_in_time = since.is_some_and(|since| now < since + PATIENCE);
                        prop_assert_eq!(step != Step::Nothing, is_in_time);
                        if step == Step::Send {
                            prop_assert!(sent.is_none_or(|sent| now >= sent + BURST_EVERY));
                            sent = Some(now);
                        }
                    }
                }
                prop_assert!(sleeper.rest(now).is_none_or(|rest| rest <= LONGEST_REST));
            }
        }
    }
}
