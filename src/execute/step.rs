//! The switchboard: from an action to the room that does it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Doors;
use super::apply::Run;
use super::lease::Seat;
use super::program::Program;
use super::report::State;
use super::verbs::{VerbError, Verbs};
use super::weights;
use crate::causes::with_causes;
use crate::connect::Connection;
use crate::generation::{Definition, EngineSpec, Layout};
use crate::ids::{Digest, Generation, HostName};
use crate::install::{
    ActivateRequest, Activated, ConfirmRequest, InstallRequest, Installation, ProbeSpec, PruneRequest, Pruned,
};
use crate::plan::{Action, HostPlan};
use crate::transfer::{self, Cargo, ChunkList, Reason, Target, Way};
use crate::units::{Bytes, TokensPerSec};

/// Laying out files, and `systemd-analyze verify` on a slow card.
const INSTALL_PATIENCE: Duration = Duration::from_mins(3);

/// What is new of the weights is read once when it is laid out: bytes per second of a bad card.
const SLOWEST_READ: u64 = 8 << 20;

/// One short command over a new connection.
pub(super) const CONFIRM_PATIENCE: Duration = Duration::from_mins(1);

/// Deleting gigabytes from a slow card, or stopping services that finish their answers first.
pub(super) const CLEAN_PATIENCE: Duration = Duration::from_mins(3);

/// What going back may take beyond the deadline: stopping and starting all services.
const BACK_PATIENCE: u64 = 180;

/// The question that proves an engine. Any model answers something; what it says is not judged.
const PROBE_PROMPT: &str = "What is the capital of France?";

/// The length of the answer that is asked for: enough to measure a rate.
const PROBE_TOKENS: u32 = 16;

/// An engine at less than this share of its planned speed is taken for broken, not for slow. The
/// prediction may miss by half, and llama.cpp's threads, which wait for each other by
/// spinning, fall to a fortieth where a neighbour keeps the processors busy (16 to 0.4 tok/s
/// measured): a busy host is no reason to go back.
const PLAUSIBLE_SHARE: f64 = 0.01;

/// And one that does this, in tokens per second, works, whatever was planned: beside a busy neighbour a model of 15M
/// parameters fell from 200 to 2, a hundredth of what was planned.
const PLAUSIBLE: f64 = 1.0;

/// Returns whether an action may be dropped in the middle and taken up again later.
pub(super) fn is_resumable(action: &Action) -> bool {
    matches!(action, Action::Fetch { .. } | Action::Push { .. } | Action::PushProgram { .. })
}

/// Does what is done on the operator's machine; an error is a sentence with its causes.
pub(super) async fn on_operator(run: &Run<'_>, action: &Action) -> Result<(), String> {
    match action {
        Action::Fetch { artifact, .. } => weights::fetch(run, artifact).await,
        Action::Make { artifacts } => weights::make(run, artifacts).await,
        Action::PushProgram { .. }
        | Action::Push { .. }
        | Action::Install { .. }
        | Action::Activate { .. }
        | Action::Prune => Err("the plan does a host's step without a host".to_owned()),
    }
}

/// Does what is done to one host; an error is the state that the host is left in.
pub(super) async fn on_host(run: &Run<'_>, host: &HostName, action: &Action) -> Result<(), State> {
    let at = At::new(run, host).ok_or_else(no_way)?;
    match action {
        Action::PushProgram { digest, .. } => at.push_program(digest).await,
        Action::Install { generation } => at.install(*generation).await,
        Action::Activate { generation } => at.activate(*generation).await,
        Action::Prune => at.prune().await,
        // weights go to all hosts of a wave at once: `push`
        Action::Push { .. } | Action::Fetch { .. } | Action::Make { .. } => Err(State::Failed {
            step: "following the plan".to_owned(),
            error: "it has a step on one host that is not done there".to_owned(),
        }),
    }
}

/// Brings the weights of one recipe to hosts, and returns what came of it, in their order.
pub(super) async fn push(run: &Run<'_>, recipe: &Digest, hosts: &[&HostName]) -> Vec<Result<(), State>> {
    let all = |state: State| vec![Err(state); hosts.len()];
    let Some(artifact) = run.plan.artifact(recipe) else {
        return all(failed("pushing", "the plan has no such weights"));
    };
    let quant = artifact.recipe.quant.map_or("as it is", crate::quant::Quant::name);
    let what = format!("{} ({quant})", artifact.model);
    let step = format!("pushing {what}");
    let Some(made) = run.made(recipe) else {
        return all(failed(&step, "the weights were not made"));
    };
    let path = run.doors.fetcher.store().path(&made.digest);
    let cargo = Cargo { what: &what, digest: &made.digest, bytes: made.bytes, path: &path };
    let list = match chunks(run, cargo).await {
        Ok(list) => list,
        Err(error) => return all(failed(&step, error)),
    };
    let ats: Vec<Option<At<'_>>> = hosts.iter().map(|host| At::new(run, host)).collect();
    let targets = ats.iter().map(|at| async {
        let at = at.as_ref().ok_or_else(no_way)?;
        let lease = at.lease().await.map_err(|error| not_done(&step, &error))?;
        Ok((at, at.target(lease)))
    });
    let targets: Vec<Result<(&At<'_>, Target<'_>), State>> = futures_util::future::join_all(targets).await;
    let givers: Vec<At<'_>> = artifact.given_by.iter().filter_map(|host| run.giver(host)).collect();
    // who only reads there needs no lease
    let giving = givers.iter().map(|at| Target { gives: true, ..at.target(0) });
    let mut ready: Vec<Target<'_>> = targets.iter().flatten().map(|(_, target)| *target).collect();
    if !ready.is_empty() {
        ready.extend(giving);
    }
    let mut pushed = transfer::push(&ready, cargo, &list, &run.doors.limits, run.events).await.into_iter();
    let of_host = |target: Result<(&At<'_>, Target<'_>), State>| {
        let (at, _) = target?;
        let pushed = pushed.next().ok_or_else(no_way)?;
        at.count(&pushed.map_err(|error| not_pushed(&step, &error))?);
        Ok(())
    };
    targets.into_iter().map(of_host).collect()
}

impl Run<'_> {
    /// Returns a host that is to give what it has; none: it takes no part in that.
    fn giver<'a>(&'a self, host: &'a HostName) -> Option<At<'a>> {
        At::new(self, host).filter(|at| !at.is_here() && !self.is_out(host))
    }
}

fn not_pushed(step: &str, error: &transfer::Error) -> State {
    match error {
        transfer::Error::Refused { reason: Reason::Over, message, .. } => {
            State::Locked { said: message.clone() }
        }
        error => failed(step, with_causes(error)),
    }
}

/// Returns the chunks of weights, cut at their tensors.
async fn chunks(run: &Run<'_>, cargo: Cargo<'_>) -> Result<ChunkList, String> {
    let cache = run.doors.fetcher.store().chunks();
    let (path, digest) = (cargo.path.to_owned(), *cargo.digest);
    let name = path.display().to_string();
    let hashing = tokio::task::spawn_blocking(move || {
        ChunkList::of_file(&path, &digest, &cache, || weights::tensor_starts(&path))
    });
    let listed = hashing.await.map_err(std::io::Error::other).flatten();
    listed
        .map_err(|error| format!("{name} cannot be sent: {}: fetch or convert it again", with_causes(&error)))
}

/// One host in one run.
struct At<'a> {
    run: &'a Run<'a>,
    host: &'a HostName,
    plan: &'a HostPlan,
    layout: Layout,
    connection: Arc<dyn Connection>,
}

impl<'a> At<'a> {
    fn new(run: &'a Run<'a>, host: &'a HostName) -> Option<Self> {
        let plan = run.plan.host(host)?;
        let connection = Arc::clone(run.doors.connections.get(host)?);
        Some(Self { run, host, plan, layout: Layout::new(&plan.root), connection })
    }

    fn way(&self) -> Way<'_> {
        Way {
            host: self.host,
            connection: self.connection.as_ref(),
            layout: &self.layout,
            is_root: self.plan.is_root,
        }
    }

    /// Returns whether it is this machine.
    fn is_here(&self) -> bool {
        self.run.doors.here.contains(self.host)
    }

    fn target(&self, lease: u64) -> Target<'_> {
        let link = self.run.doors.links.get(self.host).copied();
        Target {
            way: self.way(),
            program: &self.plan.definition.program.digest,
            lease,
            link,
            is_here: self.is_here(),
            gives: false,
        }
    }

    /// Returns the number of our lease of the host, which is taken before the first change.
    async fn lease(&self) -> Result<u64, VerbError> {
        self.run.leases.of(self.seat()).await
    }

    fn seat(&self) -> Seat {
        Seat {
            host: self.host.clone(),
            connection: Arc::clone(&self.connection),
            layout: self.layout.clone(),
            program: Some(self.plan.definition.program.digest),
            is_root: self.plan.is_root,
        }
    }

    async fn verbs<'c>(&'c self, connection: &'c dyn Connection) -> Result<Verbs<'c>, VerbError> {
        let program = &self.plan.definition.program.digest;
        let verbs = Verbs::of_program(connection, &self.layout, program, self.plan.is_root);
        Ok(verbs.under(self.lease().await?))
    }

    /// Runs a verb that changes the host.
    async fn tell<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        request: &impl Serialize,
        patience: Duration,
    ) -> Result<T, VerbError> {
        self.verbs(self.connection.as_ref()).await?.run(verb, request, patience).await
    }

    async fn push_program(&self, digest: &Digest) -> Result<(), State> {
        let step = "pushing the program";
        let found = self.run.doors.bundles.iter().find(|found| found.bundle.digest == *digest);
        let found = found.ok_or_else(|| failed(step, "the bundle is no longer on this machine"))?;
        let is_installed = self.plan.previous.is_some();
        let program = Program { seat: self.seat(), found, is_here: self.is_here(), is_installed };
        let Doors { operator, limits, .. } = self.run.doors;
        let pushed = program.push(operator, limits, self.run.events).await;
        self.count(&pushed.map_err(|error| not_pushed(step, &error))?);
        Ok(())
    }

    fn count(&self, pushed: &transfer::Pushed) {
        self.run.outcome(self.host, |outcome| {
            outcome.bytes_sent += pushed.bytes_sent;
            outcome.bytes_from_hosts += pushed.bytes_from_hosts;
            outcome.bytes_reused += pushed.bytes_reused;
        });
    }

    /// Returns the definition with the digests of weights that have become known on the way.
    fn definition(&self) -> Result<Definition, State> {
        let mut definition = self.plan.definition.clone();
        for engine in &mut definition.engines {
            match self.run.made(&engine.weights.recipe) {
                Some(made) => {
                    engine.weights.digest = Some(made.digest);
                    engine.weights.bytes = made.bytes;
                }
                // an engine that goes on as it is
                None if engine.weights.digest.is_some() => {}
                None => {
                    let error = format!("the weights of {} were not made", engine.model);
                    return Err(failed("installing", error));
                }
            }
        }
        Ok(definition)
    }

    async fn install(&self, generation: Generation) -> Result<(), State> {
        let step = format!("installing generation {generation}");
        let weights: Bytes = self.plan.definition.engines.iter().map(|spec| spec.weights.bytes).sum();
        let patience = INSTALL_PATIENCE + Duration::from_secs(weights.0 / SLOWEST_READ);
        let request = InstallRequest {
            generation,
            definition: self.definition()?,
            units: self.plan.units.clone(),
            secrets: self.run.doors.secrets.get(self.host).cloned().unwrap_or_default(),
            from: self.plan.previous,
            adopt: self.plan.is_adopted(),
        };
        let done: Result<Installation, VerbError> = self.tell("install", &request, patience).await;
        done.map(|_| ()).map_err(|error| not_done(&step, &error))
    }

    /// Switches the host over, and confirms over a new connection that it can still be reached.
    async fn activate(&self, generation: Generation) -> Result<(), State> {
        let step = format!("activating generation {generation}");
        let key = format!("{}:activate", self.host);
        self.run.started(&key, self.host, &step);
        let outcome = self.try_activate(generation, &step).await;
        match &outcome {
            Ok(()) => self.run.finished(&key, None),
            Err(State::WentBack { why }) => self.run.failed(&key, &format!("went back: {why}")),
            Err(State::Failed { error, .. } | State::Locked { said: error }) => self.run.failed(&key, error),
            Err(_) => self.run.failed(&key, "not done"),
        }
        outcome
    }

    async fn try_activate(&self, generation: Generation, step: &str) -> Result<(), State> {
        let probe = probe(&self.plan.definition.engines);
        let deadline_seconds = self.plan.deadline_seconds;
        let request = ActivateRequest { generation, deadline_seconds, probe };
        // once for the activation, and once for what was there before to serve again
        let patience = Duration::from_secs(2 * deadline_seconds + BACK_PATIENCE);
        let activated: Activated =
            self.tell("activate", &request, patience).await.map_err(|error| not_done(step, &error))?;
        if let Some(why) = activated.rolled_back {
            return Err(State::WentBack { why });
        }
        self.run.outcome(self.host, |outcome| {
            outcome.generation = Some(generation);
            outcome.measured.clone_from(&activated.measured);
        });
        let request = ConfirmRequest {
            generation,
            plan: self.run.plan.inventory.to_string(),
            at: self.run.doors.now.clone(),
            by: self.run.doors.operator.clone(),
            measured: activated.measured,
        };
        let fresh = (self.run.doors.reconnect)(self.host)
            .ok_or_else(|| failed(step, "there is no second way to it"))?;
        let confirmed: Result<serde_json::Value, VerbError> = match self.verbs(fresh.as_ref()).await {
            Ok(verbs) => verbs.run("confirm", &request, CONFIRM_PATIENCE).await,
            Err(error) => Err(error),
        };
        fresh.close().await;
        confirmed.map(|_| ()).map_err(|error| State::Failed {
            step: format!("confirming generation {generation}"),
            error: format!(
                "{}; the host goes back by itself within {deadline_seconds} s",
                with_causes(&error)
            ),
        })?;
        self.run.outcome(self.host, |outcome| outcome.state = State::Done);
        Ok(())
    }

    async fn prune(&self) -> Result<(), State> {
        let request = PruneRequest { keep_unnamed: true, ..PruneRequest::default() };
        let pruned: Result<Pruned, VerbError> = self.tell("prune", &request, CLEAN_PATIENCE).await;
        // the host serves what was planned: a card that is fuller than it could be is a note
        if let Err(error) = pruned {
            self.run.note(self.host, &format!("could not prune: {}", with_causes(&error)));
        }
        Ok(())
    }
}

/// Returns what proves that engines work.
pub(super) fn probe(engines: &[EngineSpec]) -> ProbeSpec {
    let least = engines
        .iter()
        .map(|engine| (engine.model.clone(), (engine.pace.answer.0 * PLAUSIBLE_SHARE).min(PLAUSIBLE)))
        .map(|(model, least)| (model, TokensPerSec(least)));
    ProbeSpec { prompt: PROBE_PROMPT.to_owned(), max_tokens: PROBE_TOKENS, least: least.collect() }
}

/// Returns the state of a host that did not do as it was told.
pub(super) fn not_done(step: &str, error: &VerbError) -> State {
    match error {
        VerbError::Locked { said } => State::Locked { said: said.clone() },
        error => failed(step, with_causes(error)),
    }
}

fn no_way() -> State {
    failed("reaching it", "there is no way to it")
}

fn failed(step: &str, error: impl Into<String>) -> State {
    State::Failed { step: step.to_owned(), error: error.into() }
}
