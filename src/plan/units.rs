//! What of a planned host follows from the manifest and from what the host is, and is nobody's to choose.

use super::door::{door_tls, upstream};
use super::suit::{is_root, root, supervision};
use super::types::{Chosen, HostPlan, Plan};
use crate::facts::{HostFacts, Inventory, Supervision};
use crate::generation::{Definition, Layout};
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
/// rights and where Bramble lives there, what root runs, whom their doors send questions and keys to. Another version has made
/// the plan, the manifest has changed, or somebody has written into it what they would like to happen there.
pub fn written_by_others<'a>(
    plan: &'a Plan,
    manifest: &Manifest,
    inventory: &Inventory,
) -> Vec<&'a HostName> {
    let is_ours = |host: &HostPlan| {
        let spec = manifest.hosts.get(&host.host)?;
        let facts = inventory.hosts.get(&host.host)?.as_ref().ok()?;
        let definition = &host.definition;
        let door = &definition.door;
        let follows = definition.fleet == manifest.fleet
            && definition.host == host.host
            && (host.root.as_str(), host.is_root, host.supervision)
                == (root(spec, facts).as_str(), is_root(spec, facts), supervision(spec, facts))
            && (door.port, door.tls) == (manifest.serve.port, door_tls(manifest))
            && door
                .upstreams
                .iter()
                .all(|known| upstream(manifest, &known.name).as_ref() == Some(&known.kind));
        let units = units(definition, &host.root, host.supervision, facts, &host.choices).ok()?;
        Some(follows && units == host.units)
    };
    plan.hosts.iter().filter(|host| is_ours(host) != Some(true)).map(|host| &host.host).collect()
}
