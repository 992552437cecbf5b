//! Verbs on hosts that need no plan: going back, starting anew, pruning, and taking everything away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::lease::{Leases, Seat};
use super::report::{Outcome, Report, State};
use super::step;
use super::verbs::{VerbError, Verbs};
use crate::causes::with_causes;
use crate::connect::Connection;
use crate::events::{Event, Events};
use crate::facts::{Cordon, Installed};
use crate::generation::{Definition, Layout};
use crate::ids::{Digest, FleetName, Generation, HostName, ModelName};
use crate::install::{
    Activated, ConfirmRequest, CordonRequest, Cordoned, PruneRequest, Pruned, RemoveRequest, Removed,
    RestartRequest, Restarted, RollbackRequest,
};

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
    let leases = &Leases::new(&author.operator, events);
    let report = one_after_another(subjects, async |subject| {
        subject.with_events(events, "going back", subject.roll_back(to, author, leases)).await
    })
    .await;
    leases.release().await;
    report
}

/// Does `work` on each host; the first that does not get through leaves the rest as they are.
async fn one_after_another(subjects: &[Subject], work: impl AsyncFn(&Subject) -> Outcome) -> Report {
    let mut report = Report::default();
    let mut stopped: Option<&HostName> = None;
    for subject in subjects {
        let outcome = match stopped {
            Some(host) => outcome(
                subject.current(),
                State::NotStarted { why: format!("stopped, because {host} did not get through") },
            ),
            None => work(subject).await,
        };
        if !outcome.state.is_well() && stopped.is_none() {
            stopped = Some(&subject.host);
        }
        report.hosts.insert(subject.host.clone(), outcome);
    }
    report
}

/// Starts engines of each host anew, all of them and the door where no `models` are named. One host after
/// another, as [`roll_back`] does. A host without any of the models is left as it is.
pub async fn restart(
    subjects: &[Subject],
    models: &BTreeSet<ModelName>,
    operator: &str,
    events: &Events,
) -> Report {
    let leases = &Leases::new(operator, events);
    let report = one_after_another(subjects, async |subject| {
        let here: BTreeSet<ModelName> = subject.models().intersection(models).cloned().collect();
        if here.is_empty() && !models.is_empty() {
            return outcome(subject.current(), State::Unchanged);
        }
        subject.with_events(events, "starting anew", subject.restart(here, leases)).await
    })
    .await;
    leases.release().await;
    report
}

/// Has the engines of each host take no new work, or take it again where there is no `cordon`; what runs ends as if
/// nothing were. Side by side: nothing is stopped.
pub async fn cordon(
    subjects: &[Subject],
    cordon: Option<&Cordon>,
    operator: &str,
    events: &Events,
) -> Report {
    let leases = &Leases::new(operator, events);
    let what = if cordon.is_some() { "cordoning" } else { "uncordoning" };
    let all = subjects.iter().map(|subject| async move {
        (subject.host.clone(), subject.with_events(events, what, subject.cordon(cordon, what, leases)).await)
    });
    let hosts = futures_util::future::join_all(all).await.into_iter().collect();
    leases.release().await;
    Report { hosts, ..Report::default() }
}

/// Removes from each host what nothing needs, side by side; with `request.is_dry` only says what would go.
/// Returns by host what went, or why nothing did.
pub async fn prune(
    subjects: &[Subject],
    request: &PruneRequest,
    operator: &str,
    events: &Events,
) -> BTreeMap<HostName, Result<Pruned, VerbError>> {
    let leases = &Leases::new(operator, events);
    let all = subjects.iter().map(|subject| async move {
        let program = subject.any_program();
        if subject.definition().is_none() && program.is_none() {
            return (subject.host.clone(), Ok(Pruned::default()));
        }
        let seat = subject.seat(program);
        let pruned = match leases.of(seat.clone()).await {
            Ok(lease) => seat.verbs().under(lease).run("prune", request, step::CLEAN_PATIENCE).await,
            Err(error) => Err(error),
        };
        (subject.host.clone(), pruned)
    });
    let pruned = futures_util::future::join_all(all).await.into_iter().collect();
    leases.release().await;
    pruned
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
    /// Returns the generation in force.
    pub fn current(&self) -> Option<Generation> {
        self.installed.current.as_ref().map(|(generation, _)| *generation)
    }

    /// Returns what it runs.
    pub fn definition(&self) -> Option<&Definition> {
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

    /// Returns the models that the generation in force serves.
    pub fn models(&self) -> BTreeSet<ModelName> {
        let engines = self.definition().map(|definition| definition.engines.as_slice()).unwrap_or_default();
        engines.iter().map(|spec| spec.model.clone()).collect()
    }

    async fn restart(&self, models: BTreeSet<ModelName>, leases: &Leases) -> Outcome {
        let step = "starting anew";
        let failed = |error: &VerbError| outcome(self.current(), step::not_done(step, error));
        let Some(definition) = self.definition() else {
            let error = "no generation is in force".to_owned();
            return outcome(None, State::Failed { step: step.to_owned(), error });
        };
        let deadline_seconds = ROLLBACK_DEADLINE;
        let request = RestartRequest { models, deadline_seconds, probe: step::probe(&definition.engines) };
        let seat = self.seat(None);
        let lease = match leases.of(seat.clone()).await {
            Ok(lease) => lease,
            Err(error) => return failed(&error),
        };
        let limit = Duration::from_secs(2 * deadline_seconds);
        match seat.verbs().under(lease).run::<Restarted>("restart", &request, limit).await {
            Ok(done) => Outcome { measured: done.measured, ..outcome(Some(done.generation), State::Done) },
            Err(error) => failed(&error),
        }
    }

    async fn cordon(&self, cordon: Option<&Cordon>, what: &str, leases: &Leases) -> Outcome {
        if self.definition().is_none() {
            let error = "no generation is in force".to_owned();
            return outcome(None, State::Failed { step: what.to_owned(), error });
        }
        let request = CordonRequest { cordon: cordon.cloned() };
        let seat = self.seat(None);
        let done: Result<Cordoned, VerbError> = match leases.of(seat.clone()).await {
            Ok(lease) => seat.verbs().under(lease).run("cordon", &request, step::CONFIRM_PATIENCE).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(Cordoned { generation, was_so: true }) => outcome(Some(generation), State::Unchanged),
            Ok(Cordoned { generation, .. }) => outcome(Some(generation), State::Done),
            Err(error) => outcome(self.current(), step::not_done(what, &error)),
        }
    }

    /// Returns a bundle whose program can be asked where no generation is in force; none: that of the
    /// generation can.
    fn any_program(&self) -> Option<Digest> {
        self.definition().is_none().then(|| self.installed.programs.last().copied()).flatten()
    }

    async fn remove(&self, fleet: &FleetName, leases: &Leases) -> Outcome {
        let request = RemoveRequest { fleet: fleet.clone(), adopt: false };
        // the program that removes is removed with the rest: any of those that are there will do
        let program = self.any_program();
        if self.definition().is_none() && program.is_none() {
            return outcome(None, State::Done);
        }
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

/// Seconds after which a rollback that nobody confirms is itself taken back, and after which engines that
/// were started anew must be well: loading a model
/// of several gigabytes from a card takes two minutes.
const ROLLBACK_DEADLINE: u64 = 300;
