//! Whether an upstream is worth asking, from how it answered before. Pure: the time is
//! that since the router's start, and chance comes in as `jitter`.

use std::time::Duration;

/// Failures in a row that open the breaker. Two, since the first opening is short: a
/// prompt that breaks an engine twice costs others two seconds of the fallback.
const FAILURES_TO_OPEN: u32 = 2;

/// How long the breaker stays open the first time: about what systemd takes to start a
/// process that crashed.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest opening before jitter; each opening in a row is twice as long as the one
/// before. A desktop that wakes up is found within half a minute of requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest opening of one whose machine has just come up: its services may start at any moment.
const PAUSE_OF_STARTING: Duration = Duration::from_secs(1);

/// How an attempt ended, as far as the upstream's health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered; being busy, or refusing a bad request, is an answer too.
    Answered,
    /// It is there, and loads.
    Greeted,
    /// Nobody was there: no use to try again at once.
    Refused,
    /// It failed, died, or was too late.
    Failed,
    /// The client went away before anything could be learned.
    Abandoned,
}

/// What the breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Requests pass.
    Closed,
    /// None pass until then.
    Open {
        /// When the next one may pass, as a probe.
        until: Duration,
    },
    /// One request is under way as a probe; its outcome decides.
    HalfOpen,
}

impl State {
    /// Returns the state's usual name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Leave to make one attempt. Outcomes of attempts that began before the last change of
/// state are old news, and are known by their ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// A circuit breaker for one upstream and one model.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    failures: u32,
    openings: u32,
    epoch: u64,
    /// When it answered last.
    answered: Option<Duration>,
    /// Until when it may start at any moment.
    starting_until: Duration,
}

impl Breaker {
    /// Starts closed.
    pub(super) fn new() -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            openings: 0,
            epoch: 0,
            answered: None,
            starting_until: Duration::ZERO,
        }
    }

    /// Returns the state as it stands.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Returns when it answered last.
    pub(super) fn answered(&self) -> Option<Duration> {
        self.answered
    }

    /// Returns how long a request has to wait; none when it may pass now.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { until } => until.checked_sub(now).filter(|wait| !wait.is_zero()),
            State::HalfOpen => Some(FIRST_PAUSE),
        }
    }

    /// Lets one request pass, or says how long it has to wait.
    pub(super) fn admit(&mut self, now: Duration) -> Result<Ticket, Duration> {
        if let Some(wait) = self.wait(now) {
            return Err(wait);
        }
        if self.state != State::Closed {
            self.turn(State::HalfOpen);
        }
        Ok(Ticket(self.epoch))
    }

    /// Takes note of how an attempt went, and returns the ticket for what may follow in
    /// the same attempt. `jitter` is chance, 0 to 1: it spreads the probes of many hosts.
    pub(super) fn on(&mut self, ticket: Ticket, outcome: Outcome, now: Duration, jitter: f64) -> Ticket {
        if outcome == Outcome::Answered {
            self.answered = Some(now);
        }
        if ticket.0 != self.epoch {
            return ticket;
        }
        match (self.state, outcome) {
            (State::Closed, Outcome::Answered | Outcome::Greeted) => self.failures = 0,
            (State::HalfOpen, Outcome::Answered | Outcome::Greeted) => {
                self.openings = 0;
                self.failures = 0;
                self.turn(State::Closed);
            }
            (State::Closed, Outcome::Failed) => {
                self.failures += 1;
                if self.failures >= FAILURES_TO_OPEN {
                    self.open(now, jitter);
                }
            }
            (State::Closed, Outcome::Refused) | (State::HalfOpen, Outcome::Refused | Outcome::Failed) => {
                self.open(now, jitter);
            }
            // nothing was learned: the next request is the probe
            (State::HalfOpen, Outcome::Abandoned) => self.turn(State::Open { until: now }),
            (State::Closed, Outcome::Abandoned) | (State::Open { .. }, _) => {}
        }
        Ticket(self.epoch)
    }

    /// Takes note that its machine has just come up: a probe may go now, and until then at least one every second.
    pub(super) fn expect(&mut self, now: Duration, until: Duration) {
        self.starting_until = until;
        self.openings = 0;
        if matches!(self.state, State::Open { .. }) {
            self.turn(State::Open { until: now });
        }
    }

    fn open(&mut self, now: Duration, jitter: f64) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.openings.min(8));
        let longest = if now < self.starting_until { PAUSE_OF_STARTING } else { LONGEST_PAUSE };
        let pause = doubled.min(longest).mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        self.openings = self.openings.saturating_add(1);
        self.failures = 0;
        self.turn(State::Open { until: now.saturating_add(pause) });
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Makes an attempt now and ends it at once.
    fn attempt(breaker: &mut Breaker, now: Duration, outcome: Outcome) {
        let ticket = breaker.admit(now).unwrap();
        breaker.on(ticket, outcome, now, 0.5);
    }

    #[test]
    fn refused_connection_opens_at_once_and_a_good_probe_closes() {
        let mut breaker = Breaker::new();
        attempt(&mut breaker, at(10), Outcome::Refused);
        assert_eq!(breaker.state(), State::Open { until: at(12) });
        assert_eq!(breaker.admit(at(11)), Err(at(1)));
        attempt(&mut breaker, at(12), Outcome::Answered);
        assert_eq!(breaker.state(), State::Closed);
        assert!(breaker.admit(at(12)).is_ok());
    }

    #[test]
    fn failures_open_only_when_they_come_in_a_row() {
        let mut breaker = Breaker::new();
        attempt(&mut breaker, at(0), Outcome::Failed);
        attempt(&mut breaker, at(0), Outcome::Answered);
        attempt(&mut breaker, at(0), Outcome::Failed);
        assert_eq!(breaker.state(), State::Closed);
        attempt(&mut breaker, at(0), Outcome::Failed);
        assert_eq!(breaker.state(), State::Open { until: at(2) });
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut breaker = Breaker::new();
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            attempt(&mut breaker, now, Outcome::Refused);
            let pause = breaker.wait(now).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn one_whose_machine_has_just_come_up_is_probed_at_once_and_every_second() {
        let mut breaker = Breaker::new();
        let mut now = at(0);
        for _ in 0..6 {
            attempt(&mut breaker, now, Outcome::Refused);
            now += breaker.wait(now).unwrap();
        }
        attempt(&mut breaker, now, Outcome::Refused);
        assert_eq!(breaker.wait(now), Some(at(30)));
        breaker.expect(now, now + at(5));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(breaker.wait(now), None);
            attempt(&mut breaker, now, Outcome::Refused);
            let pause = breaker.wait(now).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
        }
        // what is still not there after that has failed like any other
        assert_eq!(pauses, [1, 1, 1, 1, 1, 30]);
    }

    #[test]
    fn only_one_probe_at_a_time_and_an_abandoned_one_frees_the_place() {
        let mut breaker = Breaker::new();
        attempt(&mut breaker, at(0), Outcome::Refused);
        let probe = breaker.admit(at(2)).unwrap();
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.admit(at(2)).is_err());
        breaker.on(probe, Outcome::Abandoned, at(3), 0.5);
        assert!(breaker.admit(at(3)).is_ok());
    }

    #[test]
    fn outcomes_from_before_the_opening_are_ignored() {
        let mut breaker = Breaker::new();
        let old = breaker.admit(at(0)).unwrap();
        attempt(&mut breaker, at(1), Outcome::Refused);
        let opened = breaker.state();
        breaker.on(old, Outcome::Answered, at(2), 0.5);
        assert_eq!(breaker.state(), opened);
        breaker.on(old, Outcome::Refused, at(2), 0.5);
        assert_eq!(breaker.state(), opened);
    }

    #[test]
    fn a_probe_that_answers_and_then_stalls_still_counts() {
        let mut breaker = Breaker::new();
        attempt(&mut breaker, at(0), Outcome::Refused);
        let mut ticket = breaker.admit(at(2)).unwrap();
        ticket = breaker.on(ticket, Outcome::Answered, at(3), 0.5);
        breaker.on(ticket, Outcome::Failed, at(4), 0.5);
        attempt(&mut breaker, at(5), Outcome::Failed);
        assert!(matches!(breaker.state(), State::Open { .. }));
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Answered),
            Just(Outcome::Refused),
            Just(Outcome::Failed),
            Just(Outcome::Abandoned)
        ]
    }

    proptest! {
        #[test]
        fn it_never_stays_open_longer_than_the_longest_pause_and_never_lets_two_probes_pass(
            steps in prop::collection::vec((outcome(), 0u64..40_000, 0.0f64..=1.0), 1..80),
        ) {
            let mut breaker = Breaker::new();
            let mut now = Duration::ZERO;
            for (outcome, millis, jitter) in steps {
                now += Duration::from_millis(millis);
                let was_closed = breaker.state() == State::Closed;
                let Ok(ticket) = breaker.admit(now) else {
                    prop_assert!(breaker.wait(now).unwrap() <= LONGEST_PAUSE.mul_f64(1.25));
                    continue;
                };
                prop_assert_eq!(breaker.admit(now).is_ok(), was_closed);
                breaker.on(ticket, outcome, now, jitter);
                // every attempt that was ended leaves it decided: closed, or open until a time
                prop_assert!(breaker.state() != State::HalfOpen);
                if outcome == Outcome::Refused {
                    prop_assert!(breaker.wait(now).unwrap() >= FIRST_PAUSE.mul_f64(0.75));
                }
            }
            // whatever happened, one good probe after the longest pause closes it
            now += LONGEST_PAUSE.mul_f64(1.25);
            let ticket = breaker.admit(now).unwrap();
            breaker.on(ticket, Outcome::Answered, now, 0.0);
            prop_assert_eq!(breaker.state(), State::Closed);
        }
    }
}
