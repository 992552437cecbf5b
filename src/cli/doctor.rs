use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::{by_address, plain_host};
use super::arguments::{Doctor, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::output;
use crate::connect::Connection;
use crate::doctor::{self, Diagnosis, HostDiagnosis, Level, Other, Patient};
use crate::draft;
use crate::facts::{Answer, HostFacts};
use crate::generation::Bundle;
use crate::ids::HostName;
use crate::manifest::{HostSpec, Via};
use crate::plan;
use crate::probe::{self, Places};
use crate::view;

/// How long a port may take to answer this machine.
const PATIENCE: Duration = Duration::from_secs(3);

/// What this machine is called where the manifest does not name it.
const HERE: &str = "this machine";

/// Looks at hosts, or at this machine, and says what to do about them. Nothing is changed anywhere.
pub(crate) async fn run(verb: &Doctor, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open_or_bare(global, verb.login, environment)?;
    let known = fleet.manifest.hosts.clone();
    let asked = asked(verb, &mut fleet)?;
    let names: Vec<HostName> = asked.iter().map(|(host, _)| host.clone()).collect();
    fleet.check_logins(&names)?;
    let mut connections = fleet.connections()?;
    connections.retain(|host, _| names.contains(host));
    let inventory = fleet.inventory(&connections).await;

    let others: Vec<Other> =
        known.iter().filter_map(|(host, spec)| other(host, spec, fleet.manifest.serve.port)).collect();
    let looks = asked.into_iter().map(|(host, label)| {
        let (fleet, others) = (&fleet, &others);
        let (facts, connection) = (inventory.hosts.get(&host), connections.get(&host).cloned());
        async move {
            match (facts, connection) {
                (Some(Ok(facts)), Some(connection)) => {
                    look(fleet, &host, label, facts, connection, others).await
                }
                (Some(Err(failure)), _) => lost(label, &failure.message),
                _ => lost(label, "it was not looked at"),
            }
        }
    });
    let diagnosis = Diagnosis { hosts: futures_util::future::join_all(looks).await };
    if global.json {
        output::json(&diagnosis)?;
    } else {
        output::result(&view::diagnosis(&diagnosis, environment.style, environment.width))?;
    }
    Ok(if diagnosis.count(Level::Error) > 0 { Exit::Partly } else { Exit::Done })
}

/// Returns the hosts to look at, each with what to call it. Those that the manifest does not name are added to `fleet`.
fn asked(verb: &Doctor, fleet: &mut Fleet<'_>) -> anyhow::Result<Vec<(HostName, String)>> {
    if verb.all {
        let all: Vec<_> = fleet.ours().map(|(host, _)| (host.clone(), host.to_string())).collect();
        anyhow::ensure!(!all.is_empty(), "the manifest names no host that can be looked at");
        return Ok(all);
    }
    if verb.hosts.is_empty() {
        let here = fleet.manifest.hosts.iter().find(|(_, spec)| matches!(spec.via, Via::Local { .. }));
        if let Some((host, _)) = here {
            return Ok(vec![(host.clone(), host.to_string())]);
        }
        let spec = plain_host(Via::Local { address: "127.0.0.1".to_owned() });
        return Ok(vec![(add(fleet, "this-machine", spec), HERE.to_owned())]);
    }
    let mut asked = Vec::new();
    for text in &verb.hosts {
        let named = text.parse::<HostName>().ok().filter(|host| fleet.manifest.hosts.contains_key(host));
        let host = match named {
            Some(host) => host,
            None => add(fleet, text, plain_host(by_address(text)?)),
        };
        asked.push((host, text.clone()));
    }
    Ok(asked)
}

/// Adds a host under a name that is like `wish`.
fn add(fleet: &mut Fleet<'_>, wish: &str, spec: HostSpec) -> HostName {
    let taken = fleet.manifest.hosts.keys().cloned().collect();
    let name = draft::names(&[wish.to_owned()], &taken).remove(0);
    fleet.manifest.hosts.insert(name.clone(), spec);
    name
}

/// Returns where other hosts find this one.
fn other(host: &HostName, spec: &HostSpec, port: u16) -> Option<Other> {
    if let Via::Upstream { url, .. } = &spec.via {
        let url = reqwest::Url::parse(url).ok()?;
        let address = url.host_str()?.trim_matches(['[', ']']).to_owned();
        return Some(Other { host: host.clone(), address, port: url.port_or_known_default()? });
    }
    Some(Other { host: host.clone(), address: spec.via.address()?.to_owned(), port })
}

fn lost(host: String, why: &str) -> HostDiagnosis {
    HostDiagnosis { host, machine: None, findings: vec![doctor::unreachable(why)] }
}

async fn look(
    fleet: &Fleet<'_>,
    host: &HostName,
    label: String,
    facts: &HostFacts,
    connection: Arc<dyn Connection>,
    others: &[Other],
) -> HostDiagnosis {
    let Some(spec) = fleet.manifest.hosts.get(host) else { return lost(label, "it was not looked at") };
    let others: Vec<Other> = others.iter().filter(|other| other.host != *host).cloned().collect();
    let port = fleet.manifest.serve.port;
    let root = plan::root(spec, facts);
    let places = Places {
        disk: facts.disk.as_ref().map_or_else(|| root.clone(), |disk| disk.path.clone()),
        root,
        port,
        others: others.iter().map(|other| (other.address.clone(), other.port)).collect(),
    };
    let (checkup, from_here) =
        tokio::join!(probe::check_up(&places, connection.as_ref()), knock(&spec.via, port));
    let checkup = match checkup {
        Ok(checkup) => checkup,
        Err(failure) => return lost(label, &failure.message),
    };
    let bundles: Vec<Bundle> = fleet.bundles.iter().map(|found| found.bundle.clone()).collect();
    let bundle = plan::bundle(spec, facts, &bundles);
    let (what, next) = plan::no_bundle(&facts.machine, &bundles, &fleet.environment.bundles);
    let patient = Patient {
        facts,
        checkup: &checkup,
        port,
        no_bundle: bundle.is_none().then_some((what.as_str(), next.as_str())),
        glibc_needed: bundle.and_then(Bundle::glibc_version),
        from_here,
        others: &others,
    };
    let machine = facts.board_name.clone().unwrap_or_else(|| facts.machine.clone());
    let machine = facts.os.iter().fold(machine, |machine, os| format!("{machine}, {os}"));
    HostDiagnosis { host: label, machine: Some(machine), findings: doctor::diagnose(&patient) }
}

/// Connects to the port of a host's door from here. None where it is this machine, or only `ssh` knows the way.
async fn knock(via: &Via, port: u16) -> Option<Answer> {
    let Via::Ssh { address, .. } = via else { return None };
    match timeout(PATIENCE, TcpStream::connect((address.as_str(), port))).await {
        Err(_) => Some(Answer::Silent),
        Ok(Ok(_)) => Some(Answer::Open),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused => Some(Answer::Refused),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Answer::NoRoute),
            _ => None,
        },
    }
}
