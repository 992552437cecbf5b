use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::lease::Leases;
use super::report::{Made, Outcome, Report, State};
use super::{Doors, step};
use crate::events::{Event, Events};
use crate::ids::{Digest, HostName};
use crate::plan::{Action, Plan, Step, Wave};
use crate::units::Bytes;

/// What stands for a host until it is known why its turn did not come.
const NOT_YET: &str = "its turn did not come";

/// What one run knows and changes while it goes on. One owner: [`apply`].
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) doors: &'a Doors,
    pub(super) events: &'a Events,
    pub(super) cancel: &'a CancellationToken,
    pub(super) leases: Leases,
    report: Mutex<Report>,
}

/// Carries out `plan` and tells what came of it.
///
/// Waves run one after another, the hosts of a wave side by side, the steps of a host in
/// order; weights go to all hosts of a wave at once. A host that fails takes no further step. When a wave that is a gate fails on any host,
/// later waves do not start. `cancel` stops the run between steps, and in the middle of one that
/// can be resumed (fetching, pushing); a host is never left between two generations.
pub async fn apply(plan: &Plan, doors: &Doors, events: &Events, cancel: &CancellationToken) -> Report {
    let mut report = Report::default();
    for artifact in &plan.artifacts {
        if let Some(digest) = artifact.digest {
            report.made.insert(artifact.id, Made { digest, bytes: artifact.bytes });
        }
    }
    for host in &plan.hosts {
        let state = if host.generation.is_none() {
            State::Unchanged
        } else {
            State::NotStarted { why: NOT_YET.to_owned() }
        };
        let outcome = Outcome { generation: host.previous, ..Outcome::without_generation(state) };
        report.hosts.insert(host.host.clone(), outcome);
    }
    for skipped in &plan.skipped {
        let state = State::NotStarted { why: skipped.why.clone() };
        report.hosts.insert(skipped.host.clone(), Outcome::without_generation(state));
    }
    let leases = Leases::new(&doors.operator, events);
    let run = Run { plan, doors, events, cancel, leases, report: Mutex::new(report) };
    // a first host that could not be staged proves nothing: the next one is the first then
    let mut owes_proof = false;
    for wave in &plan.waves {
        let is_gate = wave.is_gate || owes_proof;
        match run.wave(wave, is_gate).await {
            Ok(is_tried) => owes_proof = is_gate && !is_tried,
            Err(why) => {
                run.stop(&why);
                break;
            }
        }
    }
    run.leases.release().await;
    run.finish()
}

/// The steps of one host in a wave: weights go to all hosts at once.
struct Legs<'a> {
    before: Vec<&'a Step>,
    /// The recipes of the weights that it gets.
    pushes: Vec<Digest>,
    after: Vec<&'a Step>,
}

impl<'a> Legs<'a> {
    fn of(steps: &[&'a Step]) -> Self {
        let mut legs = Self { before: Vec::new(), pushes: Vec::new(), after: Vec::new() };
        for step in steps {
            match &step.action {
                Action::Push { artifact, .. } => legs.pushes.push(*artifact),
                _ if legs.pushes.is_empty() => legs.before.push(step),
                _ => legs.after.push(step),
            }
        }
        legs
    }
}

/// A file that hosts are to get.
struct Wanted<'h> {
    digest: Digest,
    recipe: Digest,
    hosts: Vec<&'h HostName>,
}

/// The state of a host whose transfer was interrupted.
fn cut_short() -> State {
    State::NotStarted { why: "interrupted; what was sent is kept and used by the next run".to_owned() }
}

impl Run<'_> {
    /// Runs one wave and returns whether anything of it was tried: hosts that have failed before
    /// take no part. An error says why later waves must not start.
    async fn wave(&self, wave: &Wave, is_gate: bool) -> Result<bool, String> {
        let mut by_host: BTreeMap<Option<&HostName>, Vec<&Step>> = BTreeMap::new();
        for step in &wave.steps {
            by_host.entry(step.host.as_ref()).or_default().push(step);
        }
        by_host.retain(|host, _| host.is_none_or(|host| !self.is_out(host)));
        let is_tried = !by_host.is_empty();
        // the operator's own steps come first: hosts need what they make
        if let Some(steps) = by_host.remove(&None) {
            for step in steps {
                if let Err(error) = self.on_operator(step).await {
                    self.with(|report| report.failures.push(error.clone()));
                    return Err(error);
                }
            }
        }
        let limit = usize::try_from(wave.max_parallel.max(1)).unwrap_or(1);
        let mut hosts = Vec::new();
        for (host, steps) in by_host {
            let Some(host) = host else { continue };
            hosts.push((host, Legs::of(&steps)));
        }
        let mut failed =
            self.side_by_side(limit, hosts.iter().map(|(host, legs)| (*host, &legs.before))).await;
        failed.extend(self.pushes(&hosts, &failed).await);
        let rest = hosts.iter().filter(|(host, _)| !failed.contains(host));
        let fell = self.side_by_side(limit, rest.map(|(host, legs)| (*host, &legs.after))).await;
        failed.extend(fell);
        if self.cancel.is_cancelled() {
            return Err("interrupted".to_owned());
        }
        if is_gate && !failed.is_empty() {
            let names: Vec<&str> = failed.iter().map(|host| host.as_str()).collect();
            return Err(format!("stopped, because {} did not get through", names.join(", ")));
        }
        Ok(is_tried)
    }

    /// Takes the steps of each host, at most `limit` hosts at a time. Returns the hosts that are not well.
    async fn side_by_side<'h>(
        &self,
        limit: usize,
        hosts: impl Iterator<Item = (&'h HostName, &'h Vec<&'h Step>)>,
    ) -> BTreeSet<&'h HostName> {
        let hosts: Vec<_> = hosts.filter(|(_, steps)| !steps.is_empty()).collect();
        futures_util::stream::iter(hosts)
            .map(|(host, steps)| async move { (host, self.on_host(host, steps).await) })
            .buffer_unordered(limit)
            .filter_map(|(host, is_well)| async move { (!is_well).then_some(host) })
            .collect()
            .await
    }

    /// Brings weights to all `hosts` that want them and have not `failed`: to each host one file after the
    /// other, to different hosts side by side. Returns those that did not get all of theirs.
    async fn pushes<'h>(
        &self,
        hosts: &[(&'h HostName, Legs<'_>)],
        failed: &BTreeSet<&HostName>,
    ) -> BTreeSet<&'h HostName> {
        let mut fell = BTreeSet::new();
        let mut wanted: Vec<Wanted<'h>> = Vec::new();
        for (host, legs) in hosts.iter().filter(|(host, _)| !failed.contains(host)) {
            for recipe in &legs.pushes {
                // two recipes may have made the same file
                let digest = self.made(recipe).map_or(*recipe, |made| made.digest);
                match wanted.iter_mut().find(|other| other.digest == digest) {
                    Some(other) if other.hosts.contains(host) => {}
                    Some(other) => other.hosts.push(host),
                    None => wanted.push(Wanted { digest, recipe: *recipe, hosts: vec![*host] }),
                }
            }
        }
        while !wanted.is_empty() {
            let mut taken = BTreeSet::new();
            let (now, later) = wanted.into_iter().partition::<Vec<_>, _>(|file| {
                let is_free = file.hosts.iter().all(|host| !taken.contains(host));
                if is_free {
                    taken.extend(file.hosts.iter().copied());
                }
                is_free
            });
            wanted = later;
            let transfers = now.iter().map(|file| async {
                let hosts: Vec<_> = file.hosts.iter().filter(|host| !fell.contains(*host)).copied().collect();
                let pushed = tokio::select! {
                    () = self.cancel.cancelled() => vec![Err(cut_short()); hosts.len()],
                    pushed = step::push(self, &file.recipe, &hosts) => pushed,
                };
                hosts.into_iter().zip(pushed).collect::<Vec<_>>()
            });
            let pushed = futures_util::future::join_all(transfers).await;
            for (host, pushed) in pushed.into_iter().flatten() {
                if let Err(state) = pushed {
                    self.fail(host, state);
                    fell.insert(host);
                }
            }
        }
        fell
    }

    async fn on_operator(&self, step: &Step) -> Result<(), String> {
        let work = step::on_operator(self, &step.action);
        if step::is_resumable(&step.action) { self.unless_cancelled(work).await } else { work.await }
    }

    /// Does what may be dropped in the middle.
    pub(super) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::select! {
            () = self.cancel.cancelled() => Err("interrupted".to_owned()),
            done = work => done,
        }
    }

    /// Takes the steps of one host; returns whether it is well.
    async fn on_host(&self, host: &HostName, steps: &[&Step]) -> bool {
        for step in steps {
            if self.cancel.is_cancelled() {
                // a host that is confirmed is as planned: pruning can wait
                if !self.is_done(host) {
                    self.fail(
                        host,
                        State::NotStarted { why: "interrupted before it was changed".to_owned() },
                    );
                }
                return false;
            }
            let result = if step::is_resumable(&step.action) {
                tokio::select! {
                    () = self.cancel.cancelled() => {
                        Err(cut_short())
                    }
                    done = step::on_host(self, host, &step.action) => done,
                }
            } else {
                step::on_host(self, host, &step.action).await
            };
            if let Err(state) = result {
                self.fail(host, state);
                return false;
            }
        }
        true
    }

    fn is_done(&self, host: &HostName) -> bool {
        self.with(|report| report.hosts.get(host).is_some_and(|outcome| outcome.state == State::Done))
    }

    /// Returns whether `host` has already failed.
    pub(super) fn is_out(&self, host: &HostName) -> bool {
        self.with(|report| {
            report.hosts.get(host).is_some_and(|outcome| {
                matches!(outcome.state, State::Failed { .. } | State::Locked { .. } | State::WentBack { .. })
            })
        })
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn outcome<T>(&self, host: &HostName, change: impl FnOnce(&mut Outcome) -> T) -> Option<T> {
        self.with(|report| report.hosts.get_mut(host).map(change))
    }

    /// Tells that work on a host began.
    pub(super) fn started(&self, key: &str, host: &HostName, what: &str) {
        let (key, host, what) = (key.to_owned(), Some(host.clone()), what.to_owned());
        self.events.send(Event::Started { key, host, what, total: None });
    }

    /// Tells that work on this machine began.
    pub(super) fn work(&self, key: &str, what: &str, total: Option<Bytes>) {
        let (key, what) = (key.to_owned(), what.to_owned());
        self.events.send(Event::Started { key, host: None, what, total });
    }

    pub(super) fn finished(&self, key: &str, outcome: Option<String>) {
        self.events.send(Event::Finished { key: key.to_owned(), outcome });
    }

    pub(super) fn failed(&self, key: &str, error: &str) {
        self.events.send(Event::Failed { key: key.to_owned(), error: error.to_owned() });
    }

    /// Tells how work ended.
    pub(super) fn ended(&self, key: &str, outcome: Result<String, &String>) {
        match outcome {
            Ok(outcome) => self.finished(key, Some(outcome)),
            Err(error) => self.failed(key, error),
        }
    }

    pub(super) fn note(&self, host: &HostName, text: &str) {
        self.events.send(Event::Note { host: Some(host.clone()), text: text.to_owned() });
    }

    /// Returns the weights that `recipe` makes, once they are known.
    pub(super) fn made(&self, recipe: &Digest) -> Option<Made> {
        self.with(|report| report.made.get(recipe).copied())
    }

    fn fail(&self, host: &HostName, state: State) {
        self.outcome(host, |outcome| outcome.state = state);
    }

    /// Tells every host whose turn did not come why.
    fn stop(&self, why: &str) {
        self.with(|report| {
            for outcome in report.hosts.values_mut() {
                if let State::NotStarted { why: reason } = &mut outcome.state
                    && reason == NOT_YET
                {
                    why.clone_into(reason);
                }
            }
        });
    }

    fn finish(self) -> Report {
        let mut report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.is_interrupted = self.cancel.is_cancelled();
        report
    }
}
