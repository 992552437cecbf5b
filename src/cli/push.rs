use std::collections::BTreeMap;

use anyhow::Context as _;

use super::arguments::{Global, Push};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{interrupt, output};
use crate::execute::{self, Delivery, Parcel, Receiver};
use crate::facts::Inventory;
use crate::fetch;
use crate::generation::Layout;
use crate::manifest::Via;
use crate::plan;
use crate::store::Store;
use crate::view::{self};

/// Brings one file to hosts as a blob, ahead of an apply that needs it.
pub(crate) async fn run(verb: &Push, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    anyhow::ensure!(verb.path.is_file(), "{} is no file that can be pushed", verb.path.display());
    let fleet = Fleet::open(global, verb.login, environment)?;
    fleet.check_logins(&verb.hosts)?;
    // beside looking at the hosts, which takes about as long
    let parcel = Parcel::open(&verb.path, Store::open(fetch::Settings::from_env().cache)?);
    let mut connections = fleet.connections()?;
    connections.retain(|host, _| verb.hosts.contains(host));
    let inventory: Inventory = fleet.inventory(&connections).await;
    let connections = fleet.for_weights(connections, &inventory)?;
    let bundles: Vec<_> = fleet.bundles.iter().map(|found| found.bundle.clone()).collect();
    let mut receivers = Vec::new();
    let mut failed = BTreeMap::new();
    for host in verb.hosts.iter().filter(|host| !connections.contains_key(*host)) {
        failed.insert(host.clone(), "it has left the manifest".to_owned());
    }
    for (host, connection) in connections {
        let (Some(facts), Some(spec)) = (inventory.hosts.get(&host), fleet.manifest.hosts.get(&host)) else {
            continue;
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(failure) => {
                failed.insert(host, failure.message.clone());
                continue;
            }
        };
        match plan::suit(Some(&fleet.manifest.fleet), &host, spec, facts, &bundles, &environment.bundles) {
            Ok(suited) => {
                let bundle = fleet.bundles.iter().find(|found| found.bundle.digest == suited.digest);
                receivers.push(Receiver {
                    layout: Layout::new(plan::root(spec, facts)),
                    is_root: plan::is_root(spec, facts),
                    bundle: bundle.context("the bundle is no longer on this machine")?.clone(),
                    link: execute::link(facts),
                    is_here: matches!(spec.via, Via::Local { .. }),
                    connection,
                    host,
                });
            }
            Err(faults) => drop(failed.insert(host, faults.join("; "))),
        }
    }
    let events = output::events(environment);
    let most = usize::try_from(fleet.manifest.rollout.max_parallel).unwrap_or(usize::MAX);
    let limits = fleet.limits();
    let going = execute::push(parcel, &receivers, most, &limits, &environment.operator, &events);
    let stand = "what was sent is kept on the hosts, and the same command goes on from there";
    let Some(pushed) = interrupt::or_stop(going, stand).await else { return Ok(Exit::Interrupted) };
    let mut delivery: Delivery =
        pushed.with_context(|| format!("{} cannot be pushed", verb.path.display()))?;
    delivery.failed.append(&mut failed);
    if global.json {
        output::json(&delivery)?;
    } else {
        output::result(&view::delivery(&delivery, environment.style))?;
    }
    Ok(match (delivery.failed.is_empty(), delivery.arrived.is_empty()) {
        (true, _) => Exit::Done,
        (false, false) => Exit::Partly,
        (false, true) if delivery.failed.keys().all(|host| delivery.locked.contains(host)) => Exit::Locked,
        (false, true) => Exit::Failed,
    })
}
