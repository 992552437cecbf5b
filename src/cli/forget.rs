use super::arguments::{Forget, Global, Login};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::Fleet;
use super::output;
use crate::ids::HostName;

/// Forgets hosts that have left the manifest and are gone for good. Nobody is asked anything.
pub(crate) fn run(verb: &Forget, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open(global, Login::default(), environment)?;
    for host in &verb.hosts {
        anyhow::ensure!(
            !fleet.manifest.hosts.contains_key(host),
            "{host} is in the manifest: take it out there first"
        );
        anyhow::ensure!(
            fleet.lock.hosts.contains_key(host),
            "{host} is not known here{}",
            known(&fleet.orphans())
        );
    }
    if let Some(host) = verb.hosts.iter().find(|host| fleet.is_barred(host)) {
        let why = format!(
            "{host} was revoked and stays known, so that nobody logs in at its address: `bramble keys readmit {host}` first, once another machine is there"
        );
        return Err(Expected::Refused(why).into());
    }
    for host in &verb.hosts {
        fleet.lock.hosts.remove(host);
    }
    fleet.save_lock()?;
    if global.json {
        output::json(&serde_json::json!({ "forgotten": verb.hosts }))?;
    } else {
        let line = |host: &HostName| {
            format!(
                "{host} is forgotten; where it comes back, it serves what it served. `bramble keys revoke-host {host}` has the \
                 others refuse it.\n"
            )
        };
        output::result(&verb.hosts.iter().map(line).collect::<String>())?;
    }
    Ok(Exit::Done)
}

fn known(orphans: &[HostName]) -> String {
    if orphans.is_empty() {
        return ": no host has left the manifest without `bramble remove`".to_owned();
    }
    let names: Vec<&str> = orphans.iter().map(HostName::as_str).collect();
    format!(": those that have left the manifest are {}", names.join(", "))
}
