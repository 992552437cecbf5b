use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::arguments::{Global, Status};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{doors, output};
use crate::clock;
use crate::connect::Connection;
use crate::ids::HostName;
use crate::keys::Safe;
use crate::status::{self, Door, Snapshot};
use crate::view;

/// Shows what the hosts run, and how they are.
pub(crate) async fn run(verb: &Status, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, environment)?;
    let mut connections = fleet.connections()?;
    fleet.check_logins(&verb.hosts)?;
    if !verb.hosts.is_empty() {
        connections.retain(|host, _| verb.hosts.contains(host));
    }
    let safe = fleet.safe()?;
    let look = || look(verb, &fleet, &connections, &safe);
    let Some(seconds) = verb.watch else {
        let snapshot = look().await;
        if global.json {
            output::json(&snapshot)?;
        } else {
            output::result(&view::status(&snapshot, environment.style))?;
        }
        return Ok(Exit::Done);
    };
    let mut rounds = tokio::time::interval(Duration::from_secs(seconds));
    // a look that took longer is not made up for
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let next = async {
            rounds.tick().await;
            look().await
        };
        let snapshot = tokio::select! {
            snapshot = next => snapshot,
            _ = &mut interrupted => return Ok(Exit::Interrupted),
        };
        if global.json {
            output::json_line(&snapshot)?;
        } else {
            let at = format!("{}, every {seconds} s, Ctrl-C ends it", clock::now_utc());
            let text =
                format!("{}\n\n{}", environment.style.dim(&at), view::status(&snapshot, environment.style));
            if environment.is_screen { output::redraw(&text)? } else { output::result(&format!("{text}\n"))? }
        }
    }
}

async fn look(
    verb: &Status,
    fleet: &Fleet<'_>,
    connections: &BTreeMap<HostName, Arc<dyn Connection>>,
    safe: &Safe,
) -> Snapshot {
    let inventory = fleet.inventory(connections).await;
    let doors: BTreeMap<HostName, Door> = fleet
        .ours()
        .filter_map(|(host, spec)| {
            // as it is there now: the manifest may say otherwise already
            let facts = inventory.hosts.get(host)?.as_ref().ok()?;
            let (_, running) = facts.installed.as_ref()?.current.as_ref()?;
            let serve = (running.door.port, running.door.tls);
            Some((host.clone(), doors::door(safe, host, spec.via.address()?, serve).ok()?))
        })
        .collect();
    let mut snapshot = status::gather(&inventory, &doors, clock::unix_seconds()).await;
    let mut orphans = fleet.orphans();
    orphans.retain(|host| verb.hosts.is_empty() || verb.hosts.contains(host));
    snapshot.add_orphans(&orphans);
    snapshot
}
