//! Verbs on hosts that need no plan: going back, and taking everything away.

use std::sync::Arc;
use std::time::Duration;

use super::lease::{Leases, Seat};
use super::report::{Outcome, Report, State};
use super::step;
use super::verbs::{VerbError, Verbs};
use crate::causes::with_causes;
use crate::connect::Connection;
use crate::events::{Event, Events};
use crate::facts::Installed;
use crate::generation::{Definition, Layout};
use crate::ids::{Digest, FleetName, Generation, HostName};
use crate::install::{Activated, ConfirmRequest, RemoveRequest, Removed, RollbackRequest};

/// A host with something of ours on it.
pub struct Subject {
    /// Its name.
    pub host: HostName,
    /// Where Bramble lives there.
    pub layout: Layout,
    /// Whether our programs there are run as root.
    pub is_root: bool,
    /// What of ours is there.
    pub installed: Installed,
    /// The way to it.
    pub connection: Arc<dyn Connection>,
    /// A second way, sharing nothing with the first.
    pub fresh: Arc<dyn Connection>,
}

/// Who does something, and when: for the receipts.
#[derive(Debug, Clone)]
pub struct Author {
    /// `user@machine`.
    pub operator: String,
    /// The time.
    pub now: String,
}

/// Makes each host run the generation `to`, or the one confirmed before the one in force. One
/// host after another: each is proven before the next one is touched, and the first
/// failure leaves the rest as they are.
pub async fn roll_back(
    subjects: &[Subject],
    to: Option<Generation>,
    author: &Author,
    events: &Events,
) -> Report {
    let mut report = Report::default();
    let leases = Leases::new(&author.operator, events);
    let mut stopped: Option<&HostName> = None;
    for subject in subjects {
        let outcome = match stopped {
            Some(host) => outcome(
                subject.current(),
                State::NotStarted { why: format!("stopped, because {host} did not get through") },
            ),
            None => subject.with_events(events, "going back", subject.roll_back(to, author, &leases)).await,
        };
        if !outcome.state.is_well() && stopped.is_none() {
            stopped = Some(&subject.host);
        }
        report.hosts.insert(subject.host.clone(), outcome);
    }
    leases.release().await;
    report
}

/// Takes everything of ours off each host, side by side. `operator` is `user@machine`.
pub async fn remove(subjects: &[Subject], fleet: &FleetName, operator: &str, events: &Events) -> Report {
    let leases = &Leases::new(operator, events);
    let removals = subjects.iter().map(|subject| async move {
        (subject.host.clone(), subject.with_events(events, "removing", subject.remove(fleet, leases)).await)
    });
    let hosts = futures_util::future::join_all(removals).await.into_iter().collect();
    leases.release().await;
    Report { hosts, ..Report::default() }
}

fn outcome(generation: Option<Generation>, state: State) -> Outcome {
    Outcome { generation, ..Outcome::without_generation(state) }
}

impl Subject {
    fn current(&self) -> Option<Generation> {
        self.installed.current.as_ref().map(|(generation, _)| *generation)
    }

    fn definition(&self) -> Option<&Definition> {
        self.installed.current.as_ref().map(|(_, definition)| definition)
    }

    async fn with_events(&self, events: &Events, what: &str, work: impl Future<Output = Outcome>) -> Outcome {
        let key = format!("{}:{what}", self.host);
        let host = Some(self.host.clone());
        events.send(Event::Started { key: key.clone(), host, what: what.to_owned(), total: None });
        let outcome = work.await;
        events.send(match &outcome.state {
            State::Done | State::Unchanged => Event::Finished { key, outcome: None },
            State::WentBack { why } | State::NotStarted { why } => Event::Failed { key, error: why.clone() },
            State::Failed { error, .. } | State::Locked { said: error } => {
                Event::Failed { key, error: error.clone() }
            }
        });
        outcome
    }

    async fn roll_back(&self, to: Option<Generation>, author: &Author, leases: &Leases) -> Outcome {
        let failed = |step: &str, error: String| {
            outcome(self.current(), State::Failed { step: step.to_owned(), error })
        };
        let Some(definition) = self.definition() else {
            return failed("going back", "no generation is in force".to_owned());
        };
        let deadline_seconds = ROLLBACK_DEADLINE;
        let request = RollbackRequest { to, deadline_seconds, probe: step::probe(&definition.engines) };
        let lease = match leases.of(self.seat(None)).await {
            Ok(lease) => lease,
            Err(error) => return outcome(self.current(), step::not_done("going back", &error)),
        };
        let verbs = Verbs::of_current(self.connection.as_ref(), &self.layout, self.is_root).under(lease);
        let done: Activated =
            match verbs.run("rollback", &request, Duration::from_secs(2 * deadline_seconds)).await {
                Ok(done) => done,
                Err(error) => return outcome(self.current(), step::not_done("going back", &error)),
            };
        if let Some(why) = done.rolled_back {
            return outcome(self.current(), State::WentBack { why });
        }
        let request = ConfirmRequest {
            generation: done.generation,
            plan: format!("rollback from {}", self.current().map_or(0, Generation::number)),
            at: author.now.clone(),
            by: author.operator.clone(),
            measured: done.measured.clone(),
        };
        let verbs = Verbs::of_current(self.fresh.as_ref(), &self.layout, self.is_root).under(lease);
        let confirmed: Result<serde_json::Value, _> =
            verbs.run("confirm", &request, step::CONFIRM_PATIENCE).await;
        self.fresh.close().await;
        match confirmed {
            Ok(_) => Outcome { measured: done.measured, ..outcome(Some(done.generation), State::Done) },
            Err(error) => failed("confirming", with_causes(&error)),
        }
    }

    async fn remove(&self, fleet: &FleetName, leases: &Leases) -> Outcome {
        let request = RemoveRequest { fleet: fleet.clone(), adopt: false };
        // the program that removes is removed with the rest: any of those that are there will do
        let program = match (self.definition(), self.installed.programs.last()) {
            (Some(_), _) => None,
            (None, Some(program)) => Some(*program),
            (None, None) => return outcome(None, State::Done),
        };
        let seat = self.seat(program);
        let removed: Result<Removed, VerbError> = match leases.of(seat.clone()).await {
            Ok(lease) => seat.verbs().under(lease).run("remove", &request, step::CLEAN_PATIENCE).await,
            Err(error) => Err(error),
        };
        match removed {
            Ok(_) => {
                leases.forget(&self.host);
                outcome(None, State::Done)
            }
            Err(error) => outcome(self.current(), step::not_done("removing", &error)),
        }
    }

    /// Returns what is changed there, by `program` or by that of the generation in force.
    fn seat(&self, program: Option<Digest>) -> Seat {
        Seat {
            host: self.host.clone(),
            connection: Arc::clone(&self.connection),
            layout: self.layout.clone(),
            program,
            is_root: self.is_root,
        }
    }
}

/// Seconds after which a rollback that nobody confirms is itself taken back: loading a model
/// of several gigabytes from a card takes two minutes.
const ROLLBACK_DEADLINE: u64 = 300;
