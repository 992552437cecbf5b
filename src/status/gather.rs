use std::collections::BTreeMap;
use std::time::Duration;

use rustls::ClientConfig;

use super::snapshot::{DoorState, HostStatus, ModelStatus, Reach, Snapshot};
use crate::authority::RENEWAL;
use crate::facts::{EngineBench, Foretold, HostFacts, Installed, Inventory, Measured, ServiceState};
use crate::generation::EngineSpec;
use crate::ids::HostName;

/// How long a door may take to say that it lives.
const DOOR_PATIENCE: Duration = Duration::from_secs(3);

/// A host's door, as the operator's machine reaches it.
#[derive(Debug, Clone)]
pub struct Door {
    /// `https://ADDRESS:PORT`, or `http://ADDRESS:PORT`.
    pub url: String,
    /// How it proves over https that it is that host.
    pub tls: Option<ClientConfig>,
    /// When its certificate ends for those who go by dates, in seconds since 1970, where that is known.
    pub certificate_ends: Option<u64>,
}

impl Door {
    /// Returns what asks at the door, with so long to connect and for everything. It asks there and nowhere else: no
    /// proxy sees the key, and where a door sends it on to, it does not go.
    pub fn client(&self, connect: Duration, patience: Duration) -> reqwest::Result<reqwest::Client> {
        let client = reqwest::Client::builder()
            .connect_timeout(connect)
            .timeout(patience)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        match &self.tls {
            Some(config) => client.tls_backend_preconfigured(config.clone()).https_only(true).build(),
            None => client.build(),
        }
    }
}

/// Reads what a door has answered, of at most `most` bytes; none where it is more.
///
/// # Errors
///
/// When the answer breaks off.
pub async fn body(reply: &mut reqwest::Response, most: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// A clock this many seconds off is worth a word: clients that go by dates compare certificates with theirs, and logs
/// are of another time.
const CLOCK: i64 = 120;

/// Looks at every door and puts it together with what the probe found, at `now` in seconds since 1970.
pub async fn gather(inventory: &Inventory, doors_of: &BTreeMap<HostName, Door>, now: u64) -> Snapshot {
    let asked = inventory.hosts.keys().map(|host| async { (host.clone(), ask(doors_of.get(host)).await) });
    let doors: BTreeMap<HostName, DoorState> =
        futures_util::future::join_all(asked).await.into_iter().collect();
    let hosts = inventory.hosts.iter().map(|(host, facts)| {
        let door = doors.get(host).copied().unwrap_or(DoorState::Unknown);
        match facts {
            Ok(facts) => {
                let ends = doors_of.get(host).and_then(|door| door.certificate_ends);
                HostStatus { warnings: warnings(facts, ends, now), ..of_facts(host, facts, door) }
            }
            Err(failure) => HostStatus {
                host: host.clone(),
                is_orphan: false,
                reach: Reach::Failed { why: failure.message.clone() },
                machine: None,
                generation: None,
                pending: None,
                door,
                cordon: None,
                models: Vec::new(),
                drift: Vec::new(),
                warnings: Vec::new(),
            },
        }
    });
    Snapshot { hosts: hosts.collect() }
}

async fn ask(door: Option<&Door>) -> DoorState {
    let Some(door) = door else { return DoorState::Unknown };
    let Ok(client) = door.client(DOOR_PATIENCE, DOOR_PATIENCE) else { return DoorState::Unknown };
    match client.get(format!("{}/healthz", door.url)).send().await {
        Ok(reply) if reply.status().is_success() => DoorState::Open,
        _ => DoorState::Closed,
    }
}

fn of_facts(host: &HostName, facts: &HostFacts, door: DoorState) -> HostStatus {
    let installed = facts.installed.as_ref();
    let current = installed.and_then(|installed| installed.current.as_ref());
    let models = current.map(|(_, definition)| {
        let model = |engine: &EngineSpec| ModelStatus {
            model: engine.model.clone(),
            quant: engine.weights.quant_name().to_owned(),
            state: state_of(installed, &format!("engine-{}", engine.model)),
            foretold: Foretold::from(engine),
            measured: installed.and_then(|installed| measured(installed, engine)),
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
        cordon: installed.and_then(|installed| installed.cordon.clone()),
        models: models.unwrap_or_default(),
        drift: installed.map(|installed| installed.drift.clone()).unwrap_or_default(),
        warnings: Vec::new(),
    }
}

/// Returns what an engine was measured at: its speed by the longer measurement, where one was made with these weights.
fn measured(installed: &Installed, engine: &EngineSpec) -> Option<Measured> {
    let started = installed.measured.iter().find(|known| known.model == engine.model)?;
    let bench = installed.bench.iter().flat_map(|bench| &bench.engines);
    let same = |bench: &&EngineBench| bench.model == engine.model && bench.recipe == engine.weights.recipe;
    let speed = bench.filter(same).map(|bench| bench.answer).next_back();
    Some(Measured { tokens_per_second: speed.or(started.tokens_per_second), ..started.clone() })
}

/// Says what will matter to clients that go by dates. No host stops serving for it.
fn warnings(facts: &HostFacts, certificate_ends: Option<u64>, now: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(ahead) = facts.health.clock_ahead.filter(|ahead| ahead.abs() > CLOCK) {
        let word = if ahead > 0 { "ahead of" } else { "behind" };
        let by = ahead.abs();
        warnings
            .push(format!("its clock is {by} s {word} this machine's: let it set its time (timedatectl)"));
    }
    if let Some(ends) = certificate_ends.filter(|ends| *ends < now.saturating_add(RENEWAL)) {
        let days = ends.saturating_sub(now) / (24 * 60 * 60);
        let when = if ends <= now { "has ended".to_owned() } else { format!("ends in {days} days") };
        warnings.push(format!(
            "its certificate {when}; hosts do not mind, but clients that go by dates do: `bramble apply` makes another"
        ));
    }
    warnings
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::authority::{self, Authority, Trust};
    use crate::generation::Identity;

    #[tokio::test]
    async fn a_door_over_https_is_open_when_it_is_that_hosts_own() {
        let home = Authority::new(&"home".parse().unwrap(), 0).unwrap();
        let made = home.certify(&"kitchen".parse().unwrap(), 0).unwrap();
        let (certificate, key) = (made.certificate, made.key);
        let authority = home.certificate().to_owned();
        let identity = Identity { authority, certificate, key, revoked: [].into() };
        let trust = Arc::new(Trust::of(home.fleet(), &identity).unwrap());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(
            authority::door(Arc::clone(&trust), &identity).unwrap(),
        ));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (wire, _) = listener.accept().await.unwrap();
                let Ok(mut wire) = acceptor.accept(wire).await else { continue };
                wire.read_u8().await.unwrap();
                wire.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                wire.flush().await.unwrap();
            }
        });
        // it is asked at its address, which no certificate names
        for (host, state) in [("kitchen", DoorState::Open), ("shed", DoorState::Closed)] {
            let tls = authority::visit(Arc::clone(&trust), &host.parse().unwrap(), None).unwrap();
            let door = Door { url: url.clone(), tls: Some(tls), certificate_ends: None };
            assert_eq!(ask(Some(&door)).await, state, "{host}");
        }
    }
}
