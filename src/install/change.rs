use std::collections::BTreeSet;

use super::stand::Stand;
use crate::unit::{ROUTE, engine_service};

/// What must happen to services so that one generation's run instead of another's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that the new generation does not have.
    pub stop: Vec<String>,
    /// Services that do not run and shall.
    pub start: Vec<String>,
    /// Services that run something else than they shall.
    pub restart: Vec<String>,
    /// Services that read their definition again and run on.
    pub reload: Vec<String>,
    /// Whether another program runs from now on.
    pub is_program_new: bool,
}

impl Changes {
    /// Compares two generations; `running` names the services that run now.
    ///
    /// An engine with the same spec, unit and program is left alone. The router reads
    /// its definition again in any case: its replies name the generation.
    pub(super) fn between(old: Option<&Stand>, new: Option<&Stand>, running: &BTreeSet<String>) -> Self {
        let mut changes = Self::default();
        let wanted: BTreeSet<String> = new.map(Stand::services).unwrap_or_default().into_iter().collect();
        let before = running.iter().cloned().chain(old.map(Stand::services).unwrap_or_default());
        let gone: BTreeSet<String> = before.filter(|service| !wanted.contains(service)).collect();
        changes.stop = gone.into_iter().collect();
        let Some(new) = new else { return changes };
        changes.is_program_new = old.is_some_and(|old| old.definition.program != new.definition.program);
        for service in new.services() {
            if !running.contains(&service) {
                changes.start.push(service);
            } else if changes.is_program_new || !is_same(old, new, &service) {
                changes.restart.push(service);
            } else if service == ROUTE {
                changes.reload.push(service);
            }
        }
        changes
    }

    /// Returns whether a service is started anew by this.
    pub(super) fn starts(&self, service: &str) -> bool {
        self.start.iter().chain(&self.restart).any(|started| started == service)
    }
}

fn is_same(old: Option<&Stand>, new: &Stand, service: &str) -> bool {
    let Some(old) = old else { return false };
    let spec = |stand: &Stand| {
        stand.definition.engines.iter().find(|s| engine_service(&s.model) == service).cloned()
    };
    old.unit(service) == new.unit(service) && spec(old) == spec(new)
}
