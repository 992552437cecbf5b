use std::collections::BTreeMap;

use super::arguments::{Global, Status};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{doors, output};
use crate::clock;
use crate::ids::HostName;
use crate::status::{self, Door};
use crate::view;

/// Shows what the hosts run, and how they are.
pub(crate) async fn run(verb: &Status, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, environment)?;
    let mut connections = fleet.connections()?;
    fleet.check_logins(&verb.hosts)?;
    if !verb.hosts.is_empty() {
        connections.retain(|host, _| verb.hosts.contains(host));
    }
    let inventory = fleet.inventory(&connections).await;
    let safe = fleet.safe()?;
    let doors: BTreeMap<HostName, Door> = fleet
        .ours()
        .filter_map(|(host, spec)| {
            // as it is there now: the manifest may say otherwise already
            let facts = inventory.hosts.get(host)?.as_ref().ok()?;
            let (_, running) = facts.installed.as_ref()?.current.as_ref()?;
            let serve = (running.door.port, running.door.tls);
            Some((host.clone(), doors::door(&safe, host, spec.via.address()?, serve).ok()?))
        })
        .collect();
    let mut snapshot = status::gather(&inventory, &doors, clock::unix_seconds()).await;
    let mut orphans = fleet.orphans();
    orphans.retain(|host| verb.hosts.is_empty() || verb.hosts.contains(host));
    snapshot.add_orphans(&orphans);
    if global.json {
        output::json(&snapshot)?;
    } else {
        output::result(&view::status(&snapshot, environment.style))?;
    }
    Ok(Exit::Done)
}
