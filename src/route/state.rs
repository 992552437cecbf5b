//! One generation as the router sees it: read, checked, and then trusted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use rustls::ServerConfig;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Error;
use super::auth::Keys;
use super::breaker::{Breaker, Outcome, Ticket};
use super::upstream::{Address, Target, Tls};
use crate::authority::{self, Trust};
use crate::generation::{
    Definition, DoorTls, EngineSpec, FORMAT, Hop, Identity, Layout, Program, RouteSpec, Secrets,
    UpstreamKind, UpstreamSpec, WakeSpec,
};
use crate::ids::{Digest, Generation, ModelName, is_name};

/// What the router needs of one generation. Requests keep the one that they began with.
#[derive(Debug)]
pub(super) struct State {
    /// This host's name.
    pub(super) host: String,
    /// The fleet's name.
    pub(super) fleet: String,
    /// What browsers may call this host, beside its addresses.
    pub(super) names: Vec<String>,
    /// What runs beside the door.
    pub(super) engines: Vec<EngineSpec>,
    /// The number of the generation.
    pub(super) generation: Generation,
    /// The program that serves it.
    pub(super) program: Digest,
    /// The port to listen on.
    pub(super) port: u16,
    /// How TLS is spoken there; none where it is not.
    pub(super) tls: Option<DoorSide>,
    /// Who may come in.
    pub(super) keys: Keys,
    /// Whether the engines of this host are to take no new work.
    pub(super) is_cordoned: bool,
    /// By the model's name.
    pub(super) routes: BTreeMap<String, Route>,
}

/// TLS at the door.
#[derive(Debug, Clone)]
pub(super) struct DoorSide {
    /// For each connection.
    pub(super) config: Arc<ServerConfig>,
    /// Who is a host of the fleet.
    pub(super) trust: Arc<Trust>,
}

/// Who answers for one model.
#[derive(Debug)]
pub(super) struct Route {
    /// As the plan decided it.
    pub(super) spec: RouteSpec,
    /// In the order of [`RouteSpec::order`].
    pub(super) seats: Vec<Arc<Seat>>,
}

/// What kind of upstream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An engine of this host.
    Local,
    /// Another host's door.
    Host,
    /// A server that is not ours.
    Foreign,
}

/// One upstream in one route.
#[derive(Debug)]
pub(super) struct Seat {
    /// The upstream's name.
    pub(super) name: String,
    /// What kind it is.
    pub(super) kind: Kind,
    /// How it is reached.
    pub(super) target: Target,
    /// The model's name there.
    pub(super) model: HeaderValue,
    /// What it answers with, where that is known.
    pub(super) quant: Option<HeaderValue>,
    /// How its machine is woken, where it sleeps.
    pub(super) wake: Option<WakeSpec>,
    /// How long it takes to load, in seconds, as planned.
    pub(super) load_seconds: Option<f64>,
    /// Since when it is in this generation.
    pub(super) since: Instant,
    breaker: Mutex<Breaker>,
}

impl Seat {
    /// Looks at or changes the breaker. Nothing waits inside.
    pub(super) fn breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the breaker how an attempt went.
    pub(super) fn learn(&self, ticket: Ticket, outcome: Outcome, now: Duration) -> Ticket {
        // without randomness the probes of many hosts come together: harmless
        let jitter = getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX));
        self.breaker(|breaker| breaker.on(ticket, outcome, now, jitter))
    }
}

impl State {
    /// Reads the generation that is in force under `root`; its secrets from `credentials`, the folder that systemd
    /// makes for one service, where they are in it.
    pub(super) fn load(root: &Path, credentials: Option<&Path>) -> Result<Self, Error> {
        let layout = Layout::new(root);
        let (generation, folder, definition) = in_force(&layout)?;
        let given = credentials.map(Layout::secrets).filter(|given| given.exists());
        let secrets = read(&given.unwrap_or_else(|| Layout::secrets(&folder)))?;
        Self::new(&layout, generation, &definition, &secrets)
    }

    /// Checks a definition and makes it ready to serve.
    pub(super) fn new(
        layout: &Layout,
        generation: Generation,
        definition: &Definition,
        secrets: &Secrets,
    ) -> Result<Self, Error> {
        let wrong = |what: String| Error::Definition { what };
        if definition.format != FORMAT {
            return Err(wrong(format!("its format is {}, this program reads {FORMAT}", definition.format)));
        }
        let mut upstreams = BTreeMap::new();
        for upstream in &definition.door.upstreams {
            if !is_name(&upstream.name) {
                return Err(wrong(format!("{:?} is no name for an upstream", upstream.name)));
            }
            upstreams.insert(upstream.name.as_str(), upstream);
        }
        let fleet = Fleet::of(definition, secrets)?;
        let mut routes = BTreeMap::new();
        for spec in &definition.door.routes {
            let mut seats = Vec::new();
            for hop in &spec.order {
                let Some(upstream) = upstreams.get(hop.upstream.as_str()) else {
                    return Err(wrong(format!("route {} names no upstream {:?}", spec.model, hop.upstream)));
                };
                seats.push(Arc::new(seat(layout, definition, secrets, &fleet, upstream, hop)?));
            }
            routes.insert(spec.model.to_string(), Route { spec: spec.clone(), seats });
        }
        Ok(Self {
            host: definition.host.to_string(),
            fleet: definition.fleet.to_string(),
            names: names(definition),
            engines: definition.engines.clone(),
            generation,
            program: definition.program.digest,
            port: definition.door.port,
            tls: fleet.door()?,
            keys: Keys::new(&secrets.keys),
            is_cordoned: layout.cordon().exists(),
            routes,
        })
    }
}

/// Returns the names that certificates have for this host, and its bare one.
fn names(definition: &Definition) -> Vec<String> {
    let Definition { host, fleet, .. } = definition;
    vec![host.to_string(), format!("{host}.local"), format!("{host}.{fleet}.internal")]
}

/// Returns the generation in force, its folder, and its definition.
fn in_force(layout: &Layout) -> Result<(Generation, PathBuf, Definition), Error> {
    let current = layout.current();
    let folder = fs::canonicalize(&current).map_err(|source| Error::Current { path: current, source })?;
    let number = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let Some(generation) = number else { return Err(Error::NotAGeneration { path: folder }) };
    let definition = read(&Layout::definition(&folder))?;
    Ok((generation, folder, definition))
}

/// Returns the program of the generation in force under `root`: what else is in its definition may be of a later version
/// than this program can read.
pub(super) fn program_in_force(root: &Path) -> Option<Digest> {
    #[derive(serde::Deserialize)]
    struct Named {
        program: Program,
    }
    let folder = fs::canonicalize(Layout::new(root).current()).ok()?;
    read::<Named>(&Layout::definition(&folder)).ok().map(|named| named.program.digest)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    // it may be the secrets
    let text =
        Zeroizing::new(fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?);
    serde_json::from_slice(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

fn seat(
    layout: &Layout,
    definition: &Definition,
    secrets: &Secrets,
    fleet: &Fleet<'_>,
    upstream: &UpstreamSpec,
    hop: &Hop,
) -> Result<Seat, Error> {
    let wrong = |what: String| Error::Definition { what };
    let name = &upstream.name;
    let mut quant = hop.quant.clone();
    let (kind, target) = match &upstream.kind {
        UpstreamKind::Local => {
            let model: ModelName = hop.model.parse().map_err(|error| wrong(format!("{name}: {error}")))?;
            let engine = definition.engines.iter().find(|engine| engine.model == model);
            quant = quant.or_else(|| engine.map(|engine| engine.weights.quant_name().to_owned()));
            (Kind::Local, Target::local(layout.engine_socket(&model)))
        }
        UpstreamKind::Host { url } => {
            let mut target = target(name, url, None)?;
            if !target.path.is_empty() {
                return Err(wrong(format!("upstream {name} has a path in its URL")));
            }
            "/v1".clone_into(&mut target.path);
            if let Address::Tcp { tls: tls @ Tls::System, .. } = &mut target.address {
                *tls = fleet.visit(name)?;
            } else {
                target.bearer = Some(bearer(name, &secrets.peer_key)?);
            }
            (Kind::Host, target)
        }
        UpstreamKind::Foreign { url, key } => {
            let key = match key {
                Some(key) => Some(secrets.foreign_keys.get(key).ok_or_else(|| {
                    wrong(format!("the key {key:?} of upstream {name} is not among the secrets"))
                })?),
                None => None,
            };
            (Kind::Foreign, target(name, url, key)?)
        }
    };
    let header = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| wrong(format!("upstream {name}: {text:?} fits in no header")))
    };
    Ok(Seat {
        name: name.clone(),
        kind,
        target,
        model: header(&hop.model)?,
        quant: quant.as_deref().map(header).transpose()?,
        wake: upstream.wake.filter(|_| kind != Kind::Local),
        load_seconds: hop.pace.as_ref().map(|pace| pace.load_seconds),
        since: Instant::now(),
        breaker: Mutex::new(Breaker::new()),
    })
}

/// Reads `http://HOST[:PORT][/PATH]`, or https.
fn target(name: &str, url: &str, key: Option<&Zeroizing<String>>) -> Result<Target, Error> {
    let wrong = |what: &str| Error::Definition { what: format!("the URL of upstream {name} {what}") };
    let uri: Uri = url.parse().map_err(|_| wrong("is none"))?;
    let tls = match uri.scheme_str() {
        Some("http") => Tls::Off,
        Some("https") => Tls::System,
        _ => return Err(wrong("begins with neither http:// nor https://")),
    };
    let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("has credentials in it: they belong into the secrets"));
    }
    if uri.query().is_some() {
        return Err(wrong("has a query"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if matches!(tls, Tls::Off) { 80 } else { 443 });
    Ok(Target {
        address: Address::Tcp { host, port, tls },
        authority: authority.to_string(),
        path: uri.path().trim_end_matches('/').to_owned(),
        bearer: key.map(|key| bearer(name, key)).transpose()?,
    })
}

/// Returns what shows a key to an upstream.
fn bearer(name: &str, key: &str) -> Result<HeaderValue, Error> {
    let text = Zeroizing::new(format!("Bearer {key}"));
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Error::Definition { what: format!("the key for upstream {name} fits in no header") })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What this host is in its fleet: by certificate, where it has one.
struct Fleet<'a> {
    tls: DoorTls,
    own: Option<(&'a Identity, Arc<Trust>)>,
}

impl<'a> Fleet<'a> {
    fn of(definition: &Definition, secrets: &'a Secrets) -> Result<Self, Error> {
        let own = match &secrets.identity {
            Some(identity) => Some((identity, Arc::new(Trust::of(&definition.fleet, identity)?))),
            None => None,
        };
        Ok(Self { tls: definition.door.tls, own })
    }

    fn own(&self) -> Result<&(&'a Identity, Arc<Trust>), Error> {
        let what = || "it wants TLS, and there is no certificate among the secrets".to_owned();
        self.own.as_ref().ok_or_else(|| Error::Definition { what: what() })
    }

    /// Returns how the door speaks TLS, where it does.
    fn door(&self) -> Result<Option<DoorSide>, Error> {
        if self.tls == DoorTls::Off {
            return Ok(None);
        }
        let (identity, trust) = self.own()?;
        let config = Arc::new(authority::door(Arc::clone(trust), identity)?);
        Ok(Some(DoorSide { config, trust: Arc::clone(trust) }))
    }

    /// Returns how the door of another host is asked: as the host that the plan means, whatever its address.
    fn visit(&self, name: &str) -> Result<Tls, Error> {
        let (identity, trust) = self.own()?;
        let host =
            name.parse().map_err(|error| Error::Definition { what: format!("upstream {name}: {error}") })?;
        let config = authority::visit(Arc::clone(trust), &host, Some(identity))?;
        Ok(Tls::Fleet(TlsConnector::from(Arc::new(config)), trust.full_name(&host)?))
    }
}
