//! What of a planned host follows from the manifest and from what the host is, and is nobody's to choose.

use std::collections::BTreeMap;

use super::door::{Answerers, Away, Engines, door};
use super::make::{deadline, next_generation};
use super::suit::{is_root, root, supervision};
use super::types::{Chosen, HostPlan, Plan};
use crate::facts::{HostFacts, Inventory, Supervision};
use crate::generation::{Definition, DoorSpec, Hop, Layout, RouteSpec};
use crate::ids::HostName;
use crate::manifest::Manifest;
use crate::unit::{self, Unit};

/// Renders the units of a host that is to run `definition` under `root`; none where our own supervisor runs.
pub(super) fn units(
    definition: &Definition,
    root: &str,
    supervision: Supervision,
    facts: &HostFacts,
    choices: &[Chosen],
) -> Result<Vec<Unit>, unit::Error> {
    if supervision == Supervision::Process {
        return Ok(Vec::new());
    }
    let setting = unit::Setting {
        supervision,
        has_namespaces: facts.user_manager.as_ref().is_some_and(|own| own.has_namespaces),
        has_render_group: facts.has_render_group,
        has_memory_limits: facts.memory_cgroup.unwrap_or(false),
        memory: choices.iter().map(|chosen| (chosen.model.clone(), chosen.memory)).collect(),
    };
    unit::render(definition, &Layout::new(root), &setting)
}

/// Returns the hosts of a kept plan for which it says what does not follow from the manifest and from what they are: by which
/// rights and where Bramble lives there, whose they are, what root runs, when they go back by themselves, whom their doors send
/// questions and keys to. Another version has made the plan, the manifest has changed, or somebody has written into it what they
/// would like to happen there.
pub fn written_by_others<'a>(
    plan: &'a Plan,
    manifest: &Manifest,
    inventory: &Inventory,
) -> Vec<&'a HostName> {
    let own = |host: &HostPlan| {
        let engines = host.definition.engines.iter();
        engines.map(|engine| (engine.model.clone(), engine.clone())).collect()
    };
    let engines: Engines = plan.hosts.iter().map(|host| (host.host.clone(), own(host))).collect();
    // who may answer, be it that they have nothing to answer with
    let models = || manifest.models.keys().cloned().collect();
    let away: Away = manifest.ours().map(|(host, _)| (host.clone(), models())).collect();
    let there = Answerers { engines: &engines, away: &away, before: None };
    let is_ours = |host: &HostPlan| {
        let spec = manifest.hosts.get(&host.host)?;
        let facts = inventory.hosts.get(&host.host)?.as_ref().ok()?;
        let definition = &host.definition;
        let current = facts.installed.as_ref().and_then(|installed| installed.current.as_ref());
        let fleet_before = host.before.as_ref().map(|before| &before.fleet);
        let follows = definition.fleet == manifest.fleet
            && definition.host == host.host
            && fleet_before == current.map(|(_, running)| &running.fleet)
            && host.generation.is_none_or(|new| Some(new) == next_generation(facts))
            // a speed that was read is the one that was written but for its last digit
            && host.deadline_seconds.abs_diff(deadline(definition)) <= 1
            && (host.root.as_str(), host.is_root, host.supervision)
                == (root(spec, facts).as_str(), is_root(spec, facts), supervision(spec, facts))
            && is_within(&definition.door, &door(manifest, &host.host, &there));
        let units = units(definition, &host.root, host.supervision, facts, &host.choices).ok()?;
        Some(follows && units == host.units)
    };
    plan.hosts.iter().filter(|host| is_ours(host) != Some(true)).map(|host| &host.host).collect()
}

/// Returns whether `door` asks nobody whom `most` does not, nor in another order, and does all else as that does.
fn is_within(door: &DoorSpec, most: &DoorSpec) -> bool {
    // with what, and how fast, depends on what was chosen
    let who = |hop: &Hop| Hop { quant: None, pace: None, ..hop.clone() };
    let rest = |route: &RouteSpec| RouteSpec { order: Vec::new(), ..route.clone() };
    let is_route = |route: &RouteSpec, most: &RouteSpec| {
        let mut asked = most.order.iter();
        rest(route) == rest(most) && route.order.iter().all(|hop| asked.any(|one| who(one) == who(hop)))
    };
    let routes: BTreeMap<_, _> = most.routes.iter().map(|route| (&route.model, route)).collect();
    (door.port, door.tls) == (most.port, most.tls)
        && door.upstreams.iter().all(|known| most.upstreams.contains(known))
        && door.routes.iter().all(|route| routes.get(&route.model).is_some_and(|most| is_route(route, most)))
}
