//! The steps, in the order in which they keep every promise.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::types::{Action, Artifact, HostPlan, Step, Wave};
use crate::facts::{HostFacts, Inventory};
use crate::generation::Bundle;
use crate::ids::{Digest, HostName};
use crate::manifest::{Manifest, Role};

/// How many hosts give what they have: more would only wait, since each host asks few.
const MOST_GIVERS: usize = 3;

/// Returns the waves that bring `hosts` to their definitions.
///
/// Weights are made, then brought to every host while the old generation still serves;
/// then one host changes, then the others in groups of `max_unavailable`. Desktops come
/// first: they answer for the Pis while those change.
pub(crate) fn waves(
    manifest: &Manifest,
    inventory: &Inventory,
    bundles: &[Bundle],
    artifacts: &[Artifact],
    hosts: &[HostPlan],
) -> Vec<Wave> {
    let changing: Vec<&HostPlan> = hosts.iter().filter(|host| host.generation.is_some()).collect();
    if changing.is_empty() {
        return Vec::new();
    }
    let mut staging = Vec::new();
    let mut wanted: BTreeSet<Digest> = BTreeSet::new();
    for host in &changing {
        let facts = inventory.hosts.get(&host.host).and_then(|facts| facts.as_ref().ok());
        staging.extend(stage(host, facts, bundles, artifacts, &mut wanted));
    }
    let mut waves = Vec::new();
    let making = make_weights(artifacts, &wanted);
    if !making.is_empty() {
        waves.push(Wave { title: "weights".to_owned(), max_parallel: 1, is_gate: true, steps: making });
    }
    waves.push(Wave {
        title: "staging".to_owned(),
        max_parallel: manifest.rollout.max_parallel,
        // a host that cannot be staged takes no further step; the others go on
        is_gate: false,
        steps: staging,
    });
    let mut order = changing.clone();
    order.sort_by_key(|host| (manifest.hosts[&host.host].role != Role::Desktop, host.host.clone()));
    let (first, rest) = order.split_at(1);
    waves.push(activation("first host", first, true));
    for group in rest.chunks(usize::try_from(manifest.rollout.max_unavailable.max(1)).unwrap_or(1)) {
        waves.push(activation("rollout", group, false));
    }
    waves
}

fn make_weights(artifacts: &[Artifact], wanted: &BTreeSet<Digest>) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut fetched, mut passes) = (BTreeSet::new(), BTreeSet::new());
    let wanted = || artifacts.iter().filter(|artifact| wanted.contains(&artifact.id));
    for artifact in wanted() {
        let source = &artifact.recipe.source;
        if fetched.insert(&source.uri) {
            steps.push(Step {
                host: None,
                action: Action::Fetch { artifact: artifact.id, bytes: source.bytes() },
                why: format!("{} comes from {}", artifact.model, source.uri),
            });
        }
        // one pass makes everything of a source, with one importance matrix or with none
        let pass =
            |artifact: &'_ Artifact| (artifact.recipe.source.uri.clone(), artifact.recipe.imatrix.clone());
        if artifact.recipe.quant.is_none() || !passes.insert(pass(artifact)) {
            continue;
        }
        let made = || wanted().filter(|other| other.recipe.quant.is_some() && pass(other) == pass(artifact));
        let quants: Vec<&str> = made().filter_map(|other| Some(other.recipe.quant?.name())).collect();
        steps.push(Step {
            host: None,
            action: Action::Make { artifacts: made().map(|other| other.id).collect() },
            why: format!("{} is wanted as {}", artifact.model, quants.join(" and ")),
        });
    }
    steps
}

fn stage(
    host: &HostPlan,
    facts: Option<&HostFacts>,
    bundles: &[Bundle],
    artifacts: &[Artifact],
    wanted: &mut BTreeSet<Digest>,
) -> Vec<Step> {
    let installed = facts.and_then(|facts| facts.installed.as_ref());
    let mut steps = Vec::new();
    let mut add = |action, why| steps.push(Step { host: Some(host.host.clone()), action, why });
    let program = &host.definition.program.digest;
    if let Some(bundle) = bundles.iter().find(|bundle| bundle.digest == *program)
        && !installed.is_some_and(|installed| installed.programs.contains(program))
    {
        let why = format!("brambled {} for {} is not there", bundle.version, bundle.target);
        add(Action::PushProgram { digest: *program, bytes: bundle.bytes }, why);
    }
    let mut seen = BTreeSet::new();
    for engine in &host.definition.engines {
        let Some(artifact) = artifacts.iter().find(|artifact| artifact.id == engine.weights.recipe) else {
            continue;
        };
        let has = |digest| installed.is_some_and(|installed| installed.holds(&digest, artifact.bytes));
        if artifact.digest.is_some_and(has) || !seen.insert(artifact.id) {
            continue;
        }
        wanted.insert(artifact.id);
        let is_touched = |digest| installed.is_some_and(|installed| installed.touched.contains(&digest));
        let is = if artifact.digest.is_some_and(is_touched) { "may be damaged" } else { "is not there" };
        let why = format!("{} {} {is}", engine.model, engine.weights.quant_name());
        add(Action::Push { artifact: artifact.id, bytes: artifact.bytes }, why);
    }
    if let Some(generation) = host.generation {
        add(Action::Install { generation }, host.reasons.join("; "));
    }
    steps
}

/// Names for what is pushed the hosts that have it already and can give it: those on wires, the fastest first. Over the
/// air each would take the same air twice.
pub(crate) fn name_givers(
    artifacts: &mut [Artifact],
    waves: &[Wave],
    hosts: &[HostPlan],
    inventory: &Inventory,
) {
    let pushes = waves.iter().flat_map(|wave| &wave.steps).filter_map(|step| match &step.action {
        Action::Push { artifact, .. } => Some((artifact, step.host.as_ref())),
        _ => None,
    });
    let pushes: BTreeSet<(&Digest, Option<&HostName>)> = pushes.collect();
    for artifact in artifacts {
        let Some(digest) = artifact.digest else { continue };
        if pushes.iter().all(|(id, _)| **id != artifact.id) {
            continue;
        }
        let speed = |host: &HostName| {
            let facts = inventory.hosts.get(host)?.as_ref().ok()?;
            let is_wired = facts.link.as_ref().is_none_or(|link| !link.is_wireless);
            let has_it = facts.installed.as_ref()?.holds(&digest, artifact.bytes);
            (is_wired && has_it).then(|| facts.link.as_ref().and_then(|link| link.megabits))
        };
        let others = hosts.iter().filter(|plan| !pushes.contains(&(&artifact.id, Some(&plan.host))));
        let mut givers: Vec<_> =
            others.filter_map(|plan| Some((Reverse(speed(&plan.host)?), &plan.host))).collect();
        givers.sort();
        artifact.given_by = givers.into_iter().take(MOST_GIVERS).map(|(_, host)| host.clone()).collect();
    }
}

fn activation(title: &str, hosts: &[&HostPlan], is_gate: bool) -> Wave {
    let mut steps = Vec::new();
    for host in hosts {
        let Some(generation) = host.generation else { continue };
        let why = match host.previous {
            Some(previous) => {
                format!("goes back to {previous} unless confirmed within {} s", host.deadline_seconds)
            }
            None => format!("goes back to nothing unless confirmed within {} s", host.deadline_seconds),
        };
        steps.push(Step { host: Some(host.host.clone()), action: Action::Activate { generation }, why });
        let why = "what neither this generation nor the one before needs".to_owned();
        steps.push(Step { host: Some(host.host.clone()), action: Action::Prune, why });
    }
    let max_parallel = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    Wave { title: title.to_owned(), max_parallel, is_gate, steps }
}
