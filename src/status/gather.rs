use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{DoorState, HostStatus, ModelStatus, Reach, Snapshot};
use crate::facts::{HostFacts, Installed, Inventory, ServiceState};
use crate::ids::HostName;

/// How long a door may take to say that it lives.
const DOOR_PATIENCE: Duration = Duration::from_secs(3);

/// A host's door, as the operator's machine reaches it: `http://ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door(pub String);

/// Looks at every door and puts it together with what the probe found.
pub async fn gather(inventory: &Inventory, doors: &BTreeMap<HostName, Door>) -> Snapshot {
    let client = reqwest::Client::builder().timeout(DOOR_PATIENCE).build().ok();
    let asked = inventory.hosts.keys().map(|host| {
        let (client, door) = (client.clone(), doors.get(host));
        async move { (host.clone(), ask(client, door).await) }
    });
    let doors: BTreeMap<HostName, DoorState> =
        futures_util::future::join_all(asked).await.into_iter().collect();
    let hosts = inventory.hosts.iter().map(|(host, facts)| {
        let door = doors.get(host).copied().unwrap_or(DoorState::Unknown);
        match facts {
            Ok(facts) => of_facts(host, facts, door),
            Err(failure) => HostStatus {
                host: host.clone(),
                is_orphan: false,
                reach: Reach::Failed { why: failure.message.clone() },
                machine: None,
                generation: None,
                pending: None,
                door,
                models: Vec::new(),
                drift: Vec::new(),
            },
        }
    });
    Snapshot { hosts: hosts.collect() }
}

async fn ask(client: Option<reqwest::Client>, door: Option<&Door>) -> DoorState {
    let (Some(client), Some(Door(url))) = (client, door) else { return DoorState::Unknown };
    match client.get(format!("{url}/healthz")).send().await {
        Ok(reply) if reply.status().is_success() => DoorState::Open,
        _ => DoorState::Closed,
    }
}

fn of_facts(host: &HostName, facts: &HostFacts, door: DoorState) -> HostStatus {
    let installed = facts.installed.as_ref();
    let current = installed.and_then(|installed| installed.current.as_ref());
    let models = current.map(|(_, definition)| {
        let model = |engine: &crate::generation::EngineSpec| ModelStatus {
            model: engine.model.clone(),
            quant: engine.weights.quant_name().to_owned(),
            state: state_of(installed, &format!("engine-{}", engine.model)),
        };
        definition.engines.iter().map(model).collect()
    });
    let door = if current.is_some() { door } else { DoorState::Unknown };
    HostStatus {
        host: host.clone(),
        is_orphan: false,
        reach: Reach::Reached,
        machine: Some(facts.board_name.clone().unwrap_or_else(|| facts.machine.clone())),
        generation: current.map(|(generation, _)| *generation),
        pending: installed.and_then(|installed| installed.pending),
        door,
        models: models.unwrap_or_default(),
        drift: installed.map(|installed| installed.drift.clone()).unwrap_or_default(),
    }
}

fn state_of(installed: Option<&Installed>, service: &str) -> String {
    let state = installed.and_then(|installed| installed.services.get(service));
    match state {
        Some(ServiceState::Running) => "running",
        Some(ServiceState::Starting) => "starting",
        Some(ServiceState::Failed) => "failed",
        Some(ServiceState::Stopped) => "stopped",
        None => "unknown",
    }
    .to_owned()
}
