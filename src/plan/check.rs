//! A second, independent reader of a finished plan: it looks for contradictions and knows
//! nothing of how plans are made.

use std::collections::BTreeSet;

use super::types::{Action, FORMAT, Plan};
use crate::ids::HostName;

/// Returns what contradicts itself in `plan`, a sentence each; a sound plan gives nothing.
///
/// A plan is also a file that people edit and machines damage: `apply` refuses one that has notes.
pub fn check(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.format != FORMAT {
        notes.push(format!("the plan has format {}, and this version reads {FORMAT}", plan.format));
    }
    for artifact in &plan.artifacts {
        if artifact.recipe.digest() != artifact.id {
            notes.push(format!("the recipe of {} is not the one that its name says", artifact.model));
        }
    }
    let mut installed: BTreeSet<&HostName> = BTreeSet::new();
    for step in plan.steps() {
        let is_on_host = !matches!(step.action, Action::Fetch { .. } | Action::Make { .. });
        if is_on_host != step.host.is_some() {
            notes.push(format!("a step stands on the wrong side: {:?}", step.action));
            continue;
        }
        if let Action::Make { artifacts } = &step.action {
            let found: Vec<_> = artifacts.iter().filter_map(|id| plan.artifact(id)).collect();
            let inputs = |at: usize| (&found[at].recipe.source, &found[at].recipe.imatrix);
            let are_of_one = (1..found.len()).all(|at| inputs(at) == inputs(0));
            if found.len() != artifacts.len() || !are_of_one {
                notes.push(
                    "weights are made that the plan does not know, or of several sources or importance matrices"
                        .to_owned(),
                );
            }
        }
        let Some(host) = &step.host else { continue };
        let Some(host_plan) = plan.host(host) else {
            notes.push(format!("a step changes {host}, which the plan does not know"));
            continue;
        };
        match &step.action {
            Action::Push { artifact, .. } => {
                if plan.artifact(artifact).is_none() {
                    notes.push(format!("{host} is sent weights that the plan does not know"));
                }
            }
            Action::Install { generation } => {
                if host_plan.generation != Some(*generation) {
                    notes.push(format!("{host} gets generation {generation}, which is not the planned one"));
                }
                installed.insert(host);
            }
            Action::Activate { generation } => {
                if host_plan.generation != Some(*generation) {
                    notes.push(format!(
                        "{host} activates generation {generation}, which is not the planned one"
                    ));
                }
                if !installed.contains(host) {
                    notes.push(format!("{host} activates generation {generation} before it is laid out"));
                }
            }
            Action::PushProgram { .. } | Action::Prune | Action::Fetch { .. } | Action::Make { .. } => {}
        }
    }
    for planned in &plan.planned {
        let memory: crate::units::Bytes = planned.choices.iter().map(|chosen| chosen.memory).sum();
        if memory > planned.room {
            notes.push(format!("{} would need {memory} and has room for {}", planned.host, planned.room));
        }
    }
    for host in &plan.hosts {
        let memory: crate::units::Bytes = host.choices.iter().map(|chosen| chosen.memory).sum();
        if memory > host.room {
            notes.push(format!("{} would need {memory} and has room for {}", host.host, host.room));
        }
        if host.generation.is_some_and(|new| host.previous.is_some_and(|old| old >= new)) {
            notes.push(format!("{} would get a generation number that does not rise", host.host));
        }
        for engine in &host.definition.engines {
            // an engine that goes on as it is needs nothing made
            if plan.artifact(&engine.weights.recipe).is_none() && engine.weights.digest.is_none() {
                notes.push(format!("{} runs weights that the plan does not know", host.host));
            }
        }
        for route in &host.definition.door.routes {
            for hop in &route.order {
                if host.definition.door.upstreams.iter().all(|upstream| upstream.name != hop.upstream) {
                    notes.push(format!(
                        "{}: the route of {} names {}, which is not there",
                        host.host, route.model, hop.upstream
                    ));
                }
            }
        }
    }
    notes
}
