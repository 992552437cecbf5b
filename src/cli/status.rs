use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::arguments::{Global, Status};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{doors, output};
use crate::causes::with_causes;
use crate::clock;
use crate::connect::Connection;
use crate::execute::{VerbError, Verbs, Verified};
use crate::ids::HostName;
use crate::keys::Safe;
use crate::plan;
use crate::status::{self, Door, HostStatus, Snapshot};
use crate::view;

/// Hashing goes at 20 MB/s where all is slow: 12 GB take ten minutes.
const HASHING: Duration = Duration::from_hours(1);

/// What is shown.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    snapshot: Snapshot,
    #[serde(flatten)]
    checked: Option<Checked>,
}

/// What hashing the weights on hosts has shown.
#[derive(Default, Serialize)]
struct Checked {
    verified: BTreeMap<HostName, Verified>,
    failed: BTreeMap<HostName, String>,
}

impl Checked {
    fn is_sound(&self) -> bool {
        self.failed.is_empty() && self.verified.values().all(|verified| verified.damaged.is_empty())
    }
}

/// Shows what the hosts run, and how they are.
pub(crate) async fn run(verb: &Status, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    loop {
        if let Some(exit) = run_while_current(verb, global, environment).await? {
            return Ok(exit);
        }
    }
}

/// Does so until hosts were revoked or keys changed meanwhile: then it ends with none, and its connections with it.
async fn run_while_current(
    verb: &Status,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Option<Exit>> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let mut connections = fleet.connections()?;
    fleet.check_logins(&verb.hosts)?;
    if !verb.hosts.is_empty() {
        connections.retain(|host, _| verb.hosts.contains(host));
    }
    let safe = fleet.opened_with();
    let look = || look(verb, &fleet, &connections, safe);
    let Some(seconds) = verb.watch else {
        let checked = if verb.verify { Some(verify(verb, &fleet).await?) } else { None };
        let seen = Seen { snapshot: look().await, checked };
        if global.json {
            output::json(&seen)?;
        } else {
            output::result(&view::status(&seen.snapshot, environment.style))?;
            if let Some(checked) = &seen.checked {
                output::result(&view::verified(&checked.verified, &checked.failed, environment.style))?;
            }
        }
        let is_sound = seen.checked.is_none_or(|checked| checked.is_sound());
        let is_well = !verb.exit_code || seen.snapshot.hosts.iter().all(HostStatus::is_well);
        return Ok(Some(match (is_sound, is_well) {
            (false, _) => Exit::Failed,
            (true, false) => Exit::Partly,
            (true, true) => Exit::Done,
        }));
    };
    let mut rounds = tokio::time::interval(Duration::from_secs(seconds));
    // a look that took longer is not made up for
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let next = async {
            rounds.tick().await;
            // a host that was revoked meanwhile is not asked again, and what it told as it was is not shown
            let snapshot = if safe.is_outdated()? { None } else { Some(look().await) };
            anyhow::Ok(snapshot.filter(|_| !safe.is_outdated().unwrap_or(true)))
        };
        let snapshot = tokio::select! {
            snapshot = next => snapshot?,
            _ = &mut interrupted => return Ok(Some(Exit::Interrupted)),
        };
        let Some(snapshot) = snapshot else { return Ok(None) };
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

/// Has hosts hash the weights that they use, all at once.
async fn verify(verb: &Status, fleet: &Fleet<'_>) -> anyhow::Result<Checked> {
    let (subjects, failed) = fleet.subjects(&fleet.named_or_ours(&verb.hosts)).await?;
    if !subjects.is_empty() {
        output::say(&format!("hashing the weights on {} ...", view::count(subjects.len(), "host")));
    }
    let asked = subjects.iter().map(|subject| async {
        let verbs = Verbs::of_current(subject.connection.as_ref(), &subject.layout, subject.is_root);
        (subject.host.clone(), verbs.run::<Verified>("verify", &(), HASHING).await)
    });
    let mut checked = Checked { failed, ..Checked::default() };
    for (host, said) in futures_util::future::join_all(asked).await {
        match said {
            Ok(verified) => drop(checked.verified.insert(host, verified)),
            Err(error) => drop(checked.failed.insert(host, why(&error))),
        }
    }
    Ok(checked)
}

/// Says why a host was not verified.
fn why(error: &VerbError) -> String {
    /// What a program ends with that does not know the verb.
    const UNKNOWN: i32 = 2;
    match error {
        VerbError::Failed { status: UNKNOWN, .. } => {
            "the program there is older than this one and cannot: run `bramble apply` first".to_owned()
        }
        error => with_causes(error),
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
    for host in &mut snapshot.hosts {
        let facts = inventory.hosts.get(&host.host).and_then(|facts| facts.as_ref().ok());
        host.warnings
            .extend(facts.and_then(|facts| plan::stranger(&fleet.manifest.fleet, &host.host, facts)));
    }
    let mut orphans = fleet.orphans();
    orphans.retain(|host| verb.hosts.is_empty() || verb.hosts.contains(host));
    snapshot.add_orphans(&orphans);
    snapshot
}
