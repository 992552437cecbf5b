use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::choose::{self, Choices};
use super::door::{Answerers, Away, Engines, door, unanswered};
use super::misfit::misfit;
use super::notes::notes;
use super::suit::{is_root, root, suit, supervision};
use super::types::{Artifact, FORMAT, HostPlan, Plan, PlannedHost, Problem, Skipped};
use super::units::units;
use super::wishes::Wishes;
use super::{diff, waves};
use crate::catalog::ModelFacts;
use crate::facts::{HostFacts, Inventory};
use crate::generation::{self, Bundle, Definition, Layout};
use crate::ids::{Digest, Generation, HostName, ModelName};
use crate::lock::Lock;
use crate::manifest::{HostSpec, Manifest, Via};
use crate::source::Pinned;
use crate::units::Bytes;

/// Everything that a plan is made from.
pub struct Inputs<'a> {
    /// What the user wants.
    pub manifest: &'a Manifest,
    /// What the hosts are.
    pub inventory: &'a Inventory,
    /// What the models are, or why that could not be learnt.
    pub models: &'a BTreeMap<ModelName, Result<ModelFacts, String>>,
    /// What was decided before.
    pub lock: &'a Lock,
    /// What tells the secrets that each host shall have from others; none within where they are still to be made. Hosts
    /// that nothing is known of keep theirs.
    pub secrets: &'a BTreeMap<HostName, Option<Digest>>,
    /// The bundles there are.
    pub bundles: &'a [Bundle],
    /// Where they were looked for, for a refusal.
    pub bundle_folders: &'a [PathBuf],
    /// The version of the converter whose output hosts will get.
    pub converter: u32,
    /// Whether hosts of other fleets are taken over; they are refused otherwise.
    pub adopt: bool,
}

/// The shortest time that a host waits for its confirmation, in seconds: the contract's.
const SHORTEST_DEADLINE: f64 = 120.0;

/// The longest: a day.
const LONGEST_DEADLINE: f64 = 86_400.0;

/// How many times the planned load and probe a host waits for its confirmation.
const DEADLINE_FACTOR: f64 = 3.0;

/// Tokens that the probe after an activation reads and writes, for the deadline.
const PROBE_TOKENS: (f64, f64) = (40.0, 16.0);

/// Decides what each host shall run and what must be done for it.
///
/// Problems come back beside the plan of what can be done; a plan that has any must not be
/// carried out unless the user asks for what is possible.
pub fn make(inputs: &Inputs<'_>) -> (Plan, Vec<Problem>) {
    make_without(inputs, moved(inputs))
}

/// Decides without the hosts that `blocked` names, which stay as they are.
fn make_without(inputs: &Inputs<'_>, blocked: Vec<Problem>) -> (Plan, Vec<Problem>) {
    let mut problems = model_problems(inputs);
    let mut skipped = Vec::new();
    let mut able: BTreeMap<&HostName, Able<'_>> = BTreeMap::new();
    for (host, spec) in inputs.manifest.ours() {
        match inputs.inventory.hosts.get(host) {
            Some(Ok(_)) if blocked.iter().any(|problem| problem.host.as_ref() == Some(host)) => {}
            Some(Ok(facts)) => {
                let Inputs { manifest, bundles, bundle_folders, .. } = inputs;
                let fleet = Some(&manifest.fleet).filter(|_| !inputs.adopt);
                match suit(fleet, host, spec, facts, bundles, bundle_folders) {
                    Ok(bundle) => {
                        able.insert(host, Able { spec, facts, bundle });
                    }
                    Err(faults) => problems.extend(faults.into_iter().map(|message| Problem {
                        host: Some(host.clone()),
                        model: None,
                        message,
                    })),
                }
            }
            Some(Err(failure)) => {
                skipped.push(Skipped { host: host.clone(), why: failure.message.clone() });
            }
            None => skipped.push(Skipped { host: host.clone(), why: "it was not looked at".to_owned() }),
        }
    }
    let planned = planned(inputs.manifest);
    let known = able.iter().map(|(host, able)| (*host, able.facts.installed.as_ref()));
    let known = known.chain(planned.keys().map(|host| (*host, None))).collect();
    let wishes = Wishes::of(inputs.manifest, inputs.lock, &known);
    let away: Away =
        skipped.iter().map(|left| (left.host.clone(), wishes.of_away(inputs.manifest, &left.host))).collect();
    let reserved = able.iter().map(|(host, able)| ((*host).clone(), program_bytes(able))).collect();
    let mut facts = able_facts(&able);
    facts.extend(planned.iter().map(|(host, (_, facts))| (*host, facts)));
    let choices = choose::choose(inputs, &facts, &reserved, &wishes);
    problems.extend(choices.problems.iter().cloned());

    // with those of hosts that are not bought yet, which answer nobody but each other
    let all_engines = engines_with_content(inputs, &choices);
    let mut engines = all_engines.clone();
    engines.retain(|host, _| !planned.contains_key(host));
    keep_unplaced(&able, &wishes, &mut engines);
    let hosts: Vec<HostPlan> = able
        .iter()
        .filter_map(|(host, able)| match host_plan(inputs, host, able, &choices, (&engines, &away)) {
            Ok(plan) => Some(plan),
            Err(message) => {
                problems.push(Problem { host: Some((*host).clone()), model: None, message });
                None
            }
        })
        .collect();
    let there = Answerers { engines: &all_engines, away: &away, before: None };
    for host in able.keys().chain(planned.keys()) {
        for (model, _) in unanswered(inputs.manifest, host, &there) {
            // a model that could not be placed has its own problem already
            if problems.iter().all(|problem| problem.model.as_ref() != Some(model)) {
                problems.push(Problem {
                    host: Some((*host).clone()),
                    model: Some(model.clone()),
                    message: format!(
                        "nobody in the route of {model} can answer on {host}: deploy it on one of them"
                    ),
                });
            }
        }
    }
    let mut artifacts = artifacts(inputs, &choices, (&all_engines, &engines));
    let full = disk_problems(inputs, &hosts, &artifacts);
    if !full.is_empty() {
        // what others do without them is decided without them
        let (plan, more) = make_without(inputs, [blocked, full].concat());
        let more: Vec<Problem> = more.into_iter().filter(|problem| !problems.contains(problem)).collect();
        return (plan, [problems, more].concat());
    }
    problems.extend(blocked);
    let waves = waves::waves(inputs.manifest, inputs.inventory, inputs.bundles, &artifacts, &hosts);
    waves::name_givers(&mut artifacts, &waves, &hosts, inputs.inventory);
    let plan = Plan {
        format: FORMAT,
        bramble: env!("CARGO_PKG_VERSION").to_owned(),
        fleet: inputs.manifest.fleet.clone(),
        inventory: fingerprint(inputs.inventory),
        manifest: Some(manifest_digest(inputs.manifest)),
        sources: sources(inputs),
        artifacts,
        hosts,
        planned: planned
            .iter()
            .map(|(host, (board, facts))| PlannedHost {
                host: (*host).clone(),
                board: (*board).to_owned(),
                memory: facts.memory.total,
                room: choices.rooms.get(*host).copied().unwrap_or(Bytes::ZERO),
                choices: choices.chosen.get(*host).cloned().unwrap_or_default(),
                routes: door(inputs.manifest, host, &there).routes,
            })
            .collect(),
        waves,
        skipped,
        orphans: orphans(inputs),
    };
    (plan, problems)
}

/// Returns the exact sources of the models that are known, as the manifest names them.
fn sources(inputs: &Inputs<'_>) -> BTreeMap<String, Pinned> {
    let models = inputs.manifest.models.iter();
    let known = models.filter_map(|(model, spec)| Some((spec, inputs.models.get(model)?.as_ref().ok()?)));
    known.map(|(spec, facts)| (spec.source.to_string(), facts.source.clone())).collect()
}

/// Returns the hosts that were applied to and that the manifest does not name any longer.
fn orphans(inputs: &Inputs<'_>) -> Vec<HostName> {
    let hosts = inputs.lock.hosts.keys();
    hosts.filter(|host| !inputs.manifest.hosts.contains_key(*host)).cloned().collect()
}

/// Returns the hosts that are not bought yet, each with the name of its board and what it will be.
fn planned(manifest: &Manifest) -> BTreeMap<&HostName, (&str, HostFacts)> {
    let mut planned = BTreeMap::new();
    for (host, spec) in &manifest.hosts {
        if let Via::Board(stated) = &spec.via
            && let Some(facts) = stated.facts()
        {
            planned.insert(host, (stated.board.as_str(), facts));
        }
    }
    planned
}

/// A host that can carry Bramble.
pub(super) struct Able<'a> {
    pub(super) spec: &'a HostSpec,
    pub(super) facts: &'a HostFacts,
    pub(super) bundle: &'a Bundle,
}

fn able_facts<'a>(able: &BTreeMap<&'a HostName, Able<'a>>) -> BTreeMap<&'a HostName, &'a HostFacts> {
    able.iter().map(|(host, able)| (*host, able.facts)).collect()
}

/// Returns the disk that the program needs on a host beside weights: packed and unpacked,
/// or nothing where it is there already.
fn program_bytes(able: &Able<'_>) -> Bytes {
    let is_there = able
        .facts
        .installed
        .as_ref()
        .is_some_and(|installed| installed.programs.contains(&able.bundle.digest));
    if is_there { Bytes::ZERO } else { able.bundle.bytes + able.bundle.unpacked_bytes }
}

fn model_problems(inputs: &Inputs<'_>) -> Vec<Problem> {
    let failed = |(model, facts): (&ModelName, &Result<ModelFacts, String>)| {
        let message = match (facts, inputs.manifest.models.get(model)) {
            (Err(message), _) => message.clone(),
            (Ok(facts), spec) => misfit(facts, spec?)?,
        };
        Some(Problem { host: None, model: Some(model.clone()), message: format!("{model}: {message}") })
    };
    inputs.models.iter().filter_map(failed).collect()
}

/// Returns the chosen engines, with the digests of weights that were made before.
fn engines_with_content(inputs: &Inputs<'_>, choices: &Choices) -> Engines {
    let mut engines = choices.engines.clone();
    for engine in engines.values_mut().flat_map(BTreeMap::values_mut) {
        if let Some(made) = inputs.lock.made.get(&engine.weights.recipe) {
            engine.weights.digest = Some(made.digest);
            engine.weights.bytes = made.bytes;
        }
    }
    engines
}

/// What could not be placed anew goes on as it is where it runs: a hub that does not answer, or a
/// wish that cannot be met, takes no engine away.
fn keep_unplaced(able: &BTreeMap<&HostName, Able<'_>>, wishes: &Wishes, engines: &mut Engines) {
    for (host, able) in able {
        let Some(installed) = &able.facts.installed else { continue };
        let Some((_, running)) = &installed.current else { continue };
        // what has no digest was never installed
        for engine in running.engines.iter().filter(|engine| engine.weights.digest.is_some()) {
            let model = &engine.model;
            let keeps = match wishes.counted.get(model) {
                _ if wishes.is_fixed(host, model) => true,
                // one of a number that is short, or could not be chosen at all
                Some(counted) if counted.hosts.contains(*host) => {
                    let has =
                        |host: &&HostName| engines.get(*host).is_some_and(|own| own.contains_key(model));
                    let placed = counted.hosts.iter().filter(has).count();
                    placed < usize::try_from(counted.count).unwrap_or(usize::MAX)
                }
                _ => false,
            };
            if keeps {
                engines
                    .entry((*host).clone())
                    .or_default()
                    .entry(model.clone())
                    .or_insert_with(|| engine.clone());
            }
        }
    }
}

/// Returns the weights that `engines` run and that were chosen somewhere, as those of `chosen` say: an engine that goes on
/// as it is has no more than its host's word.
fn artifacts(
    inputs: &Inputs<'_>,
    choices: &Choices,
    (chosen, engines): (&Engines, &Engines),
) -> Vec<Artifact> {
    let run: BTreeSet<Digest> =
        engines.values().flat_map(BTreeMap::values).map(|engine| engine.weights.recipe).collect();
    let mut artifacts: BTreeMap<Digest, Artifact> = BTreeMap::new();
    for engine in chosen.values().flat_map(BTreeMap::values) {
        let id = engine.weights.recipe;
        if let Some(recipe) = choices.recipes.get(&id).filter(|_| run.contains(&id)) {
            artifacts.entry(id).or_insert_with(|| Artifact {
                id,
                model: engine.model.clone(),
                recipe: recipe.clone(),
                may_requantize: inputs.manifest.models.get(&engine.model).is_some_and(|spec| spec.requantize),
                digest: inputs.lock.made.get(&id).map(|made| made.digest),
                bytes: engine.weights.bytes,
                given_by: Vec::new(),
            });
        }
    }
    artifacts.into_values().collect()
}

fn host_plan(
    inputs: &Inputs<'_>,
    host: &HostName,
    able: &Able<'_>,
    choices: &Choices,
    (engines, away): (&Engines, &Away),
) -> Result<HostPlan, String> {
    let installed = able.facts.installed.as_ref();
    let current = installed.and_then(|installed| installed.current.clone());
    let before = current.as_ref().map(|(_, definition)| &definition.door);
    let definition = Definition {
        format: generation::FORMAT,
        fleet: inputs.manifest.fleet.clone(),
        host: host.clone(),
        program: able.bundle.program(),
        engines: engines.get(host).map(|own| own.values().cloned().collect()).unwrap_or_default(),
        door: door(inputs.manifest, host, &Answerers { engines, away, before }),
    };
    let root = root(able.spec, able.facts);
    socket_fits(host, &root, &definition)?;
    let supervision = supervision(able.spec, able.facts);
    let chosen = choices.chosen.get(host).map(Vec::as_slice).unwrap_or_default();
    let units = units(&definition, &root, supervision, able.facts, chosen)
        .map_err(|error| format!("{host}: the units cannot be written: {error}"))?;
    let reasons = diff::reasons(installed, &definition, inputs.secrets.get(host));
    let next = || next_generation(able.facts).ok_or_else(|| none_left(host));
    let generation = (!reasons.is_empty()).then(next).transpose()?;
    Ok(HostPlan {
        host: host.clone(),
        root,
        is_root: is_root(able.spec, able.facts),
        supervision,
        previous: current.as_ref().map(|(number, _)| *number).or(lost(able.facts)),
        before: current.map(|(_, definition)| definition),
        generation,
        deadline_seconds: deadline(&definition),
        definition,
        units,
        memory: able.facts.memory.total,
        room: choices.rooms.get(host).copied().unwrap_or(Bytes::ZERO),
        choices: chosen.to_vec(),
        reasons,
        notes: notes(able.spec, able.facts, able.bundle),
    })
}

/// Returns the number of what was lost with its program.
fn lost(facts: &HostFacts) -> Option<Generation> {
    facts.lost.filter(|_| facts.installed.is_none())
}

/// Returns the number that a new install on a host gets: one above all that it names; none where there is no such number.
pub(super) fn next_generation(facts: &HostFacts) -> Option<Generation> {
    let installed = facts.installed.as_ref();
    let laid_out = installed.into_iter().flat_map(|installed| installed.generations.iter().copied());
    let current = installed.and_then(|installed| Some(installed.current.as_ref()?.0));
    let pending = installed.and_then(|installed| installed.pending);
    match laid_out.chain(current).chain(pending).chain(lost(facts)).max() {
        Some(newest) => Some(newest.next()).filter(|next| *next > newest),
        None => Some(Generation::FIRST),
    }
}

/// Says of a host why nothing new can be installed on it.
fn none_left(host: &HostName) -> String {
    format!(
        "{host} says that it has the last generation that there is a number for: take it off (`bramble remove {host}`), and apply again"
    )
}

/// The folder of a login without root is known only now.
fn socket_fits(host: &HostName, root: &str, definition: &Definition) -> Result<(), String> {
    let layout = Layout::new(root);
    let socket = |spec: &generation::EngineSpec| layout.engine_socket(&spec.model).as_os_str().len();
    match definition.engines.iter().find(|spec| socket(spec) > Layout::LONGEST_SOCKET) {
        Some(spec) => Err(format!(
            "{host}: the socket of {} under {root} has a path of {} characters; Linux allows {}: set a shorter `dir`",
            spec.model,
            socket(spec),
            Layout::LONGEST_SOCKET
        )),
        None => Ok(()),
    }
}

/// Returns the seconds after which a host goes back by itself: three times the planned load
/// and probe of all its engines, at least 120.
pub(super) fn deadline(definition: &Definition) -> u64 {
    let planned: f64 = definition
        .engines
        .iter()
        .map(|engine| {
            let pace = &engine.pace;
            let per_token = |speed: f64| if speed > 0.0 { 1.0 / speed } else { 10.0 };
            // what a host goes on with is as it says
            pace.load_seconds.clamp(0.0, LONGEST_DEADLINE)
                + PROBE_TOKENS.0 * per_token(pace.prompt.0)
                + PROBE_TOKENS.1 * per_token(pace.answer.0)
        })
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and far below 2^63"
    )]
    let seconds = (planned * DEADLINE_FACTOR).clamp(SHORTEST_DEADLINE, LONGEST_DEADLINE).ceil() as u64;
    seconds
}

/// Room that must stay free on a host's filesystem: 5 %, at least 256 MiB. A full card
/// keeps a host from booting, and logs and updates of the system need theirs.
pub(super) fn disk_margin(total: Bytes) -> Bytes {
    Bytes((total.0 / 20).max(Bytes::mib(256).0))
}

/// Returns a problem for each host that lives in another folder than the manifest says: what is there would stay, and serve.
fn moved(inputs: &Inputs<'_>) -> Vec<Problem> {
    let usual = |dir: &Option<String>| dir.clone().unwrap_or_else(|| "its usual folder".to_owned());
    let mut problems = Vec::new();
    for (host, spec) in inputs.manifest.ours() {
        let Some(known) = inputs.lock.hosts.get(host).filter(|known| known.dir != spec.dir) else { continue };
        problems.push(Problem {
            host: Some(host.clone()),
            model: None,
            message: format!(
                "{host} has Bramble in {}, and the manifest wants it in {}: take it off first (`bramble remove {host}`), or leave `dir` as it was",
                usual(&known.dir),
                usual(&spec.dir)
            ),
        });
    }
    problems
}

/// Returns a problem for each host whose disk cannot take what is new beside what is there.
fn disk_problems(inputs: &Inputs<'_>, hosts: &[HostPlan], artifacts: &[Artifact]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for host in hosts.iter().filter(|host| host.generation.is_some()) {
        let Some(Ok(facts)) = inputs.inventory.hosts.get(&host.host) else { continue };
        let Some(disk) = &facts.disk else { continue };
        let installed = facts.installed.as_ref();
        let mut needed = Bytes::ZERO;
        let mut parts = Vec::new();
        let wanted: BTreeSet<Digest> =
            host.definition.engines.iter().map(|engine| engine.weights.recipe).collect();
        for artifact in artifacts.iter().filter(|artifact| wanted.contains(&artifact.id)) {
            let is_there =
                |digest| installed.is_some_and(|installed| installed.has_room_of(&digest, artifact.bytes));
            if !artifact.digest.is_some_and(is_there) {
                // an upload takes its room when it begins
                let reserved = artifact.digest.and_then(|digest| installed?.reserved.get(&digest).copied());
                needed += Bytes(artifact.bytes.0.saturating_sub(reserved.unwrap_or(Bytes::ZERO).0));
                parts.push(format!("{} for {}", artifact.bytes, artifact.model));
            }
        }
        let program = &host.definition.program.digest;
        if let Some(bundle) = inputs.bundles.iter().find(|bundle| bundle.digest == *program)
            && !installed.is_some_and(|installed| installed.programs.contains(program))
        {
            let bytes = bundle.bytes + bundle.unpacked_bytes;
            needed += bytes;
            parts.push(format!("{bytes} for the program"));
        }
        let margin = disk_margin(disk.total);
        // what writes nothing but its settings needs no room to speak of
        if needed > Bytes::ZERO && needed + margin > disk.free {
            problems.push(Problem {
                host: Some(host.host.clone()),
                model: None,
                message: format!(
                    "{} needs {needed} on disk ({}) and {margin} to spare, and {} has {} free: free {} there (`bramble prune {}` deletes what nothing needs), or set `dir` to a larger disk",
                    host.host,
                    parts.join(", "),
                    disk.path,
                    disk.free,
                    needed + margin - disk.free,
                    host.host,
                ),
            });
        }
    }
    problems
}

/// Returns the name of what a manifest says.
pub fn manifest_digest(manifest: &Manifest) -> Digest {
    Digest::of(&serde_json::to_vec(manifest).unwrap_or_default())
}

/// Returns the name of the hosts' state that a plan depends on: what is installed, and what
/// a host is; free memory and disk, which change by themselves, are left out.
pub fn fingerprint(inventory: &Inventory) -> Digest {
    let state: BTreeMap<&HostName, serde_json::Value> = inventory
        .hosts
        .iter()
        .map(|(host, facts)| {
            let value = match facts {
                Ok(facts) => serde_json::json!([
                    facts.machine,
                    facts.board_name,
                    facts.memory.total,
                    facts.privilege,
                    facts.installed.as_ref().map(|installed| (
                        &installed.current,
                        installed.pending,
                        &installed.generations
                    )),
                ]),
                Err(_) => serde_json::Value::Null,
            };
            (host, value)
        })
        .collect();
    // maps with text keys always become JSON
    Digest::of(serde_json::to_string(&state).unwrap_or_default().as_bytes())
}
