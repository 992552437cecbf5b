use std::collections::{BTreeMap, BTreeSet};

use super::stand::Stand;
use crate::facts::ServiceState;
use crate::generation::EngineSpec;
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
    /// Services that read their definition again and run on. The door, where the program is another one, has that take
    /// its place.
    pub reload: Vec<String>,
    /// Whether another program runs from now on.
    pub is_program_new: bool,
}

impl Changes {
    /// Compares two generations; `states` says how the services of both are now, and `replaced` which engines have loaded
    /// weights that were sent again since.
    ///
    /// An engine with the same spec, unit and program is left alone, also where it is expected to be faster or slower than
    /// before: only doors count with that. The router reads
    /// its definition again in any case: its replies name the generation. One that is still
    /// starting cannot be told to, and is started again; so is one that systemd gave its secrets to, when
    /// these are others now, and one that shall listen on another port.
    pub(super) fn between(
        old: Option<&Stand>,
        new: Option<&Stand>,
        states: &BTreeMap<String, ServiceState>,
        replaced: &BTreeSet<String>,
    ) -> Self {
        let mut changes = Self::default();
        let wanted: BTreeSet<String> = new.map(Stand::services).unwrap_or_default().into_iter().collect();
        let before = states.keys().cloned().chain(old.map(Stand::services).unwrap_or_default());
        let gone: BTreeSet<String> = before.filter(|service| !wanted.contains(service)).collect();
        changes.stop = gone.into_iter().collect();
        let Some(new) = new else { return changes };
        changes.is_program_new = old.is_some_and(|old| old.definition.program != new.definition.program);
        for service in new.services() {
            // the door hands over to a new program by itself
            let may_stay = !changes.is_program_new || service == ROUTE;
            let is_kept = may_stay
                && !replaced.contains(&service)
                && old.is_some_and(|old| is_same(old, new, &service));
            match states.get(&service) {
                // one that has failed is started, whatever it ran
                None | Some(ServiceState::Stopped | ServiceState::Failed) => changes.start.push(service),
                Some(ServiceState::Running) if is_kept && service == ROUTE => changes.reload.push(service),
                Some(ServiceState::Starting) if is_kept && service == ROUTE => changes.restart.push(service),
                Some(_) if is_kept => {}
                Some(_) => changes.restart.push(service),
            }
        }
        changes
    }

    /// Returns whether a service is started anew by this.
    pub(super) fn starts(&self, service: &str) -> bool {
        self.start.iter().chain(&self.restart).any(|started| started == service)
    }
}

fn is_same(old: &Stand, new: &Stand, service: &str) -> bool {
    let spec = |stand: &Stand| {
        let mut engines = stand.definition.engines.iter();
        engines.find(|s| engine_service(&s.model) == service).map(EngineSpec::without_pace)
    };
    let is_given_others = service == ROUTE && new.is_given_secrets() && old.secrets != new.secrets;
    let is_elsewhere = service == ROUTE && old.definition.door.port != new.definition.door.port;
    // how long it may take to start is known to systemd without that it starts
    let unit = |stand: &Stand| {
        let unit = stand.unit(service)?;
        let lines = unit.text.lines().filter(|line| !line.starts_with("TimeoutStartSec="));
        Some((unit.name.clone(), lines.map(str::to_owned).collect::<Vec<_>>()))
    };
    unit(old) == unit(new) && spec(old) == spec(new) && !is_given_others && !is_elsewhere
}
