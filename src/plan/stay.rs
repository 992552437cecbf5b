//! What runs stays as it is while the free memory of its host only wavers.
//!
//! Quants lie a few MiB apart, and what other programs leave free moves by more than that
//! from minute to minute. Without this, applying twice would change something on every host that
//! is nearly full.

use std::collections::BTreeMap;

use crate::estimate;
use crate::facts::HostFacts;
use crate::ids::{HostName, ModelName};
use crate::placement::{self, Capacity, Choice, Demand, Placed, Placement};
use crate::units::Bytes;

/// What runs on each host now, seen as choices: only hosts all of whose models run in a form
/// that is still wanted.
pub(crate) type Standing = BTreeMap<HostName, BTreeMap<ModelName, Choice>>;

/// Returns how far free memory may have moved before a choice is made anew: 2 % of the
/// memory. The margin that is left free, 5 % and more, takes it up.
pub(crate) fn tolerance(facts: &HostFacts) -> Bytes {
    Bytes(facts.memory.total.0 / 50)
}

/// Puts what runs now in the place of what would be chosen anew, where the difference is no
/// more than the tolerance: what runs fits into the memory there is and the tolerance, and lies in
/// quality between what would be chosen with that much less and that much more memory.
pub(crate) fn stay(
    placement: &mut Placement,
    demands: &[Demand<'_>],
    capacities: &[Capacity<'_>],
    standing: &Standing,
) {
    let fresh = by_host(placement);
    let moved: Vec<&HostName> = standing
        .iter()
        .filter(|(host, running)| {
            let chosen = fresh.get(host);
            running.iter().any(|(model, choice)| {
                let chosen = chosen.and_then(|chosen| chosen.get(model));
                chosen.is_none_or(|chosen| (chosen.quant, chosen.serving) != (choice.quant, choice.serving))
            })
        })
        .map(|(host, _)| host)
        .collect();
    if moved.is_empty() {
        return;
    }
    let less = by_host(&with_memory(demands, capacities, |available, by| available - by));
    let more = by_host(&with_memory(demands, capacities, |available, by| available + by));
    for host in moved {
        let (Some(running), Some(capacity)) =
            (standing.get(host), capacities.iter().find(|c| c.name == *host))
        else {
            continue;
        };
        let need: Bytes = running.values().map(|choice| choice.estimate.need).sum();
        let fits = need <= estimate::room(capacity.facts) + tolerance(capacity.facts);
        // where one of a number of hosts is another now, it was chosen so
        let is_counted = |model: &ModelName| {
            demands.iter().any(|d| d.count.is_some() && d.name == *model && d.hosts.contains(host))
        };
        let has = |choices: Option<&BTreeMap<ModelName, Choice>>, model: &ModelName| {
            choices.is_some_and(|choices| choices.contains_key(model))
        };
        let is_moved = running
            .keys()
            .chain(fresh.get(host).into_iter().flat_map(BTreeMap::keys))
            .any(|model| is_counted(model) && has(Some(running), model) != has(fresh.get(host), model));
        let lies_between = running.iter().all(|(model, choice)| {
            let at =
                |all: &BTreeMap<HostName, BTreeMap<ModelName, Choice>>| all.get(host)?.get(model).cloned();
            is_between(choice, at(&less).as_ref(), at(&more).as_ref())
        });
        if fits && lies_between && !is_moved {
            placement.placed.retain(|placed| placed.host != *host);
            placement.refused.retain(|refused| refused.host != *host);
            placement.placed.extend(running.iter().map(|(model, choice)| Placed {
                host: host.clone(),
                model: model.clone(),
                choice: choice.clone(),
            }));
        }
    }
    placement.placed.sort_by(|a, b| (&a.host, &a.model).cmp(&(&b.host, &b.model)));
}

/// Returns whether a choice could be made with memory somewhere between `less` and `more`.
fn is_between(choice: &Choice, less: Option<&Choice>, more: Option<&Choice>) -> bool {
    let cost = |choice: &Choice| choice.loss.as_ref().map_or(0.0, |loss| loss.divergence);
    let is_served_alike = |other: &Choice| {
        (other.serving.context, other.serving.slots, other.serving.threads)
            == (choice.serving.context, choice.serving.slots, choice.serving.threads)
    };
    more.is_some_and(|more| is_served_alike(more) && cost(more) <= cost(choice))
        && less.is_none_or(|less| cost(less) >= cost(choice))
}

fn by_host(placement: &Placement) -> BTreeMap<HostName, BTreeMap<ModelName, Choice>> {
    let mut hosts: BTreeMap<HostName, BTreeMap<ModelName, Choice>> = BTreeMap::new();
    for placed in &placement.placed {
        hosts.entry(placed.host.clone()).or_default().insert(placed.model.clone(), placed.choice.clone());
    }
    hosts
}

/// Places everything on hosts whose free memory is another.
fn with_memory(
    demands: &[Demand<'_>],
    capacities: &[Capacity<'_>],
    change: impl Fn(Bytes, Bytes) -> Bytes,
) -> Placement {
    let facts: Vec<HostFacts> = capacities
        .iter()
        .map(|capacity| {
            let mut facts = capacity.facts.clone();
            facts.memory.available = change(facts.memory.available, tolerance(&facts));
            facts
        })
        .collect();
    let capacities: Vec<Capacity<'_>> = capacities
        .iter()
        .zip(&facts)
        .map(|(capacity, facts)| Capacity { facts, ..capacity.clone() })
        .collect();
    placement::solve(demands, &capacities)
}
