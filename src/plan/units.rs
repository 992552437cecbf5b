//! The units of a planned host: what follows from its definition, and nothing else.

use super::types::{Chosen, Plan};
use crate::facts::{HostFacts, Inventory, Supervision};
use crate::generation::{Definition, Layout};
use crate::ids::HostName;
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

/// Returns the hosts whose units are not what this program writes for what they shall run: another version has made the plan,
/// or somebody has written into it what root would do there.
pub fn with_other_units<'a>(plan: &'a Plan, inventory: &Inventory) -> Vec<&'a HostName> {
    let is_other = |host: &&super::HostPlan| {
        let facts = inventory.hosts.get(&host.host).and_then(|facts| facts.as_ref().ok());
        let written =
            facts.map(|facts| units(&host.definition, &host.root, host.supervision, facts, &host.choices));
        !matches!(written, Some(Ok(written)) if written == host.units)
    };
    plan.hosts.iter().filter(is_other).map(|host| &host.host).collect()
}
