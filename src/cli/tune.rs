use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::arguments::{Global, Tune};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::Fleet;
use super::{apply, bench, interrupt, output};
use crate::clock;
use crate::connect::Connection;
use crate::events::Events;
use crate::execute::{self, Author, Subject};
use crate::facts::{EngineBench, Inventory};
use crate::fetch::Fetcher;
use crate::generation::EngineSpec;
use crate::ids::{Generation, HostName, ModelName};
use crate::manifest::{Prefer, QuantChoice};
use crate::placement;
use crate::plan::{Action, Plan};
use crate::quant::Quant;
use crate::tune::{self, Figures, Outcome, Proposal, Trial};
use crate::units::Bytes;
use crate::view::{Style, Table};

/// What would be done to one host, and what that takes.
struct Planned {
    plan: Plan,
    /// What stands against it.
    problems: Vec<String>,
    inventory: Inventory,
    connections: BTreeMap<HostName, Arc<dyn Connection>>,
    fetcher: Fetcher,
}

/// What was tried of one model on one host.
#[derive(Serialize)]
struct Tuned {
    host: HostName,
    model: ModelName,
    trials: Vec<Trial>,
    #[serde(flatten)]
    proposal: Proposal,
}

/// Measures the quants in force and their neighbours on hosts, one after another, and proposes what to write into the
/// manifest. Each host is left with the generation that it had.
pub(crate) async fn run(verb: &Tune, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let events = output::events(environment);
    let mut fleet = Fleet::open(global, verb.login, environment)?;
    let (subjects, failed) = fleet.subjects(&fleet.named_or_ours(&verb.hosts)).await?;
    for (host, why) in &failed {
        output::say(&format!("{host}: {why}"));
    }
    let wanted = wanted(verb, &fleet, &subjects);
    anyhow::ensure!(!wanted.is_empty(), "no engine whose quant could be another runs on these hosts");
    let question = format!(
        "Try other quants on {}? Each is brought there, takes the model's place for a minute or more, and goes again.",
        names(&wanted)
    );
    if !verb.yes && !apply::may_change(&question, environment)? {
        return Ok(Exit::Refused);
    }
    let cancel = CancellationToken::new();
    let mut tuned = Vec::new();
    for (host, spec, now) in wanted {
        if cancel.is_cancelled() {
            return Ok(Exit::Interrupted);
        }
        let trials = Tuning { fleet: &mut fleet, host: &host, spec: &spec, events: &events, cancel: &cancel };
        let trials = trials.run(now, verb.quants.clone());
        let Some(trials) = interrupt::or_end(Box::pin(trials), &cancel).await else {
            return Ok(Exit::Interrupted);
        };
        let trials = trials?;
        let prefer = fleet.manifest.models.get(&spec.model).map_or(Prefer::Balanced, |model| model.prefer);
        let proposal = tune::propose(&trials, prefer);
        let one = Tuned { host, model: spec.model, trials, proposal };
        if !global.json {
            output::result(&shown(&one, environment.style))?;
        }
        tuned.push(one);
    }
    if global.json {
        output::json(&tuned)?;
    } else {
        output::result(&advice(&tuned))?;
    }
    let is_whole = failed.is_empty() && !cancel.is_cancelled();
    Ok(if cancel.is_cancelled() {
        Exit::Interrupted
    } else if is_whole {
        Exit::Done
    } else {
        Exit::Partly
    })
}

/// Returns the engines to tune: those whose weights are made here, in a quant of which there are others.
fn wanted(verb: &Tune, fleet: &Fleet<'_>, subjects: &[Subject]) -> Vec<(HostName, EngineSpec, Quant)> {
    let mut wanted = Vec::new();
    for subject in subjects {
        let Some((_, definition)) = &subject.installed.current else { continue };
        for spec in &definition.engines {
            let is_named = verb.models.is_empty() || verb.models.contains(&spec.model);
            // one that has left the manifest has no place to write a quant to
            if let (true, Some(now)) =
                (is_named && fleet.manifest.models.contains_key(&spec.model), spec.weights.quant)
            {
                wanted.push((subject.host.clone(), spec.clone(), now));
            }
        }
    }
    wanted
}

fn names(wanted: &[(HostName, EngineSpec, Quant)]) -> String {
    let names: Vec<String> =
        wanted.iter().map(|(host, spec, now)| format!("{host} ({} {now})", spec.model)).collect();
    names.join(", ")
}

/// The trials of one model on one host.
struct Tuning<'a, 'b> {
    fleet: &'a mut Fleet<'b>,
    host: &'a HostName,
    spec: &'a EngineSpec,
    events: &'a Events,
    cancel: &'a CancellationToken,
}

impl Tuning<'_, '_> {
    async fn run(mut self, now: Quant, named: Vec<Quant>) -> anyhow::Result<Vec<Trial>> {
        let generation = self.generation().await?;
        let choice = self.fleet.manifest.models.get(&self.spec.model).map(|model| model.quant.clone());
        let quants = match (named.is_empty(), choice) {
            (false, _) => named.into_iter().filter(|quant| *quant != now).collect(),
            (true, Some(QuantChoice::OneOf(some))) if some.len() > 1 => tune::neighbours(now, some),
            (true, _) => tune::neighbours(now, placement::auto_quants()),
        };
        let mut trials = vec![Trial { quant: now, is_installed: true, outcome: self.measure().await }];
        let mut is_changed = false;
        for quant in quants {
            if self.cancel.is_cancelled() {
                break;
            }
            // one that failed late may have left it in force
            is_changed = true;
            let outcome = match self.install(quant).await {
                Ok(()) => self.measure().await,
                Err(why) => Outcome::Failed(format!("{why:#}")),
            };
            trials.push(Trial { quant, is_installed: false, outcome });
        }
        if is_changed {
            self.go_back(generation).await?;
        }
        Ok(trials)
    }

    /// Returns what is in force, and refuses a host on which an apply has something to do: what is tried would bring
    /// it along.
    async fn generation(&mut self) -> anyhow::Result<Generation> {
        let planned = self.plan(None).await?;
        let host = planned.plan.host(self.host);
        if let Some(pending) = host.and_then(|host| host.generation) {
            return Err(Expected::Refused(format!(
                "{}: generation {pending} of the manifest is not applied yet: run `bramble apply` first",
                self.host
            ))
            .into());
        }
        let subject = self.subject().await?;
        let current = subject.installed.current.map(|(generation, _)| generation);
        current.ok_or_else(|| anyhow::anyhow!("nothing is in force on {}", self.host))
    }

    async fn subject(&self) -> anyhow::Result<Subject> {
        let (mut subjects, mut failed) = self.fleet.subjects(std::slice::from_ref(self.host)).await?;
        match subjects.pop() {
            Some(subject) => Ok(subject),
            None => anyhow::bail!(
                "{}: {}",
                self.host,
                failed.remove(self.host).unwrap_or_else(|| "nothing of Bramble is on it".to_owned())
            ),
        }
    }

    /// Plans the host anew, with one quant for the model where there is one.
    async fn plan(&mut self, quant: Option<Quant>) -> anyhow::Result<Planned> {
        let fetcher = self.fleet.fetcher(self.events.clone())?;
        let connections = self.fleet.connections()?;
        let (inventory, models) = self.fleet.look(&connections, &fetcher).await;
        let safe = self.fleet.safe()?;
        let before = self.fleet.manifest.clone();
        if let (Some(quant), Some(model)) = (quant, self.fleet.manifest.models.get_mut(&self.spec.model)) {
            model.quant = QuantChoice::OneOf(vec![quant]);
        }
        let (plan, problems) = self.fleet.plan(&inventory, &models, &fetcher, &safe);
        self.fleet.manifest = before;
        let is_ours = |host: &Option<HostName>| host.as_ref().is_none_or(|host| host == self.host);
        let problems =
            problems.into_iter().filter(|problem| is_ours(&problem.host)).map(|problem| problem.message);
        let (plan, problems) = (only(plan, self.host), problems.collect());
        Ok(Planned { plan, problems, inventory, connections, fetcher })
    }

    async fn install(&mut self, quant: Quant) -> anyhow::Result<()> {
        let Planned { plan, problems, inventory, connections, fetcher } = self.plan(Some(quant)).await?;
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
        let model = &self.spec.model;
        let is_it = |engine: &EngineSpec| engine.model == *model && engine.weights.quant == Some(quant);
        let planned = plan.host(self.host);
        if !planned.is_some_and(|host| host.definition.engines.iter().any(is_it)) {
            // others would take the model, where the manifest leaves its hosts open
            let room = planned.map_or(Bytes::ZERO, |host| host.room);
            anyhow::bail!(
                "{model} in {quant} does not fit into the {room} that engines may have on {}: \
                 try a smaller one with -q, or give it less `context` in the manifest",
                self.host
            );
        }
        let mut safe = self.fleet.safe()?;
        let (report, _) = apply::carry_out(
            self.fleet,
            &plan,
            (connections, &inventory),
            fetcher,
            &mut safe,
            (self.events, self.cancel),
        )
        .await?;
        apply::remember(self.fleet, &plan, &report);
        self.fleet.save_lock()?;
        let state = report.hosts.get(self.host).map(|outcome| outcome.state.clone());
        match state {
            Some(state) if state.is_well() => Ok(()),
            Some(state) => anyhow::bail!("{}", said(&state)),
            None => anyhow::bail!("{}", report.failures.join("; ")),
        }
    }

    /// Has the host measure the engine in force.
    async fn measure(&self) -> Outcome {
        let measured = async {
            let subject = self.subject().await?;
            let (_, bench) = bench::measure(&subject, true, self.events).await;
            let bench = bench.map_err(anyhow::Error::msg)?;
            let known =
                subject.installed.measured.iter().find(|known| known.model == self.spec.model).cloned();
            let engine = bench.engines.into_iter().find(|engine| engine.model == self.spec.model);
            let EngineBench { answer, prompt, text, .. } =
                engine.ok_or_else(|| anyhow::anyhow!("{}", bench.notes.join("; ")))?;
            anyhow::Ok(Figures {
                answer,
                prompt,
                bits_per_byte: text.map(|text| text.bits_per_byte),
                load_seconds: known.as_ref().map(|known| known.load_seconds),
                memory: known.and_then(|known| known.memory),
            })
        };
        measured.await.map_or_else(|why| Outcome::Failed(format!("{why:#}")), Outcome::Measured)
    }

    async fn go_back(&self, generation: Generation) -> anyhow::Result<()> {
        let author = Author { operator: self.fleet.environment.operator.clone(), now: clock::now_utc() };
        let subjects = [self.subject().await?];
        if subjects[0].current() == Some(generation) {
            return Ok(());
        }
        let report = execute::roll_back(&subjects, Some(generation), &author, self.events).await;
        anyhow::ensure!(
            report.is_complete(),
            "{} could not go back to generation {generation}: `bramble apply` brings back what the manifest says",
            self.host
        );
        Ok(())
    }
}

/// Leaves of a plan what is done to one host and for it, and nothing that deletes.
fn only(mut plan: Plan, host: &HostName) -> Plan {
    plan.hosts.retain(|other| other.host == *host);
    for wave in &mut plan.waves {
        wave.steps.retain(|step| {
            step.host.as_ref().is_none_or(|other| other == host) && !matches!(step.action, Action::Prune)
        });
    }
    plan.waves.retain(|wave| !wave.steps.is_empty());
    plan
}

fn said(state: &execute::State) -> String {
    use execute::State;
    match state {
        State::Done | State::Unchanged => String::new(),
        State::WentBack { why } | State::NotStarted { why } => why.clone(),
        State::Failed { step, error } => format!("{step} failed: {error}"),
        State::Locked { said } => said.clone(),
    }
}

fn shown(tuned: &Tuned, style: Style) -> String {
    let mut table = Table::new(["QUANT", "ANSWER", "PROMPT", "TEXT", "MEMORY", "LOADED IN"]);
    let none = || "-".to_owned();
    let mut failed = String::new();
    for trial in &tuned.trials {
        let mark = if trial.is_installed { " (now)" } else { "" };
        match &trial.outcome {
            Outcome::Measured(figures) => table.row([
                format!("{}{mark}", trial.quant),
                figures.answer.to_string(),
                figures.prompt.to_string(),
                figures.bits_per_byte.map_or_else(none, |bits| format!("{bits:.3} bits/byte")),
                figures.memory.map_or_else(none, |memory| memory.to_string()),
                figures.load_seconds.map_or_else(none, |seconds| format!("{seconds:.1} s")),
            ]),
            // writing to a String cannot fail
            Outcome::Failed(why) => drop(writeln!(failed, "  {}{mark}: {why}", trial.quant)),
        }
    }
    let proposal = match &tuned.proposal {
        Proposal::Keep { why } => format!("keep it: {why}"),
        Proposal::Change { quant, why } => format!("take {quant}: {why}"),
        Proposal::Unknown { why } => format!("no advice: {why}"),
    };
    format!("{} {}\n{}{failed}  {proposal}\n\n", tuned.host, tuned.model, table.render(2, style))
}

/// Returns what to write into the manifest.
fn advice(tuned: &[Tuned]) -> String {
    let mut by_model: BTreeMap<&ModelName, Vec<&Tuned>> = BTreeMap::new();
    for one in tuned {
        by_model.entry(&one.model).or_default().push(one);
    }
    let mut text = String::new();
    for (model, all) in by_model {
        let mut best: Vec<Quant> = all.iter().filter_map(|one| after(one)).collect();
        best.sort_unstable();
        best.dedup();
        let is_change = all.iter().any(|one| matches!(one.proposal, Proposal::Change { .. }));
        if !is_change {
            continue;
        }
        let line = match &best[..] {
            [one] => format!("quant: {one}"),
            // the first that fits, best first
            several => {
                let names: Vec<&str> = several.iter().map(|quant| quant.name()).collect();
                format!("quant: [{}]", names.join(", "))
            }
        };
        let _ = writeln!(text, "In the manifest, at models.{model}:\n  {line}\nand then `bramble apply`.");
    }
    if text.is_empty() { "Nothing to change.\n".to_owned() } else { text }
}

/// Returns the quant that a host is to have.
fn after(tuned: &Tuned) -> Option<Quant> {
    match &tuned.proposal {
        Proposal::Change { quant, .. } => Some(*quant),
        _ => tuned.trials.iter().find(|trial| trial.is_installed).map(|trial| trial.quant),
    }
}
