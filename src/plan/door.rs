//! Who answers at each host's door: the manifest's routes made exact for one host.

use std::collections::{BTreeMap, BTreeSet};

use crate::estimate;
use crate::generation::{
    DoorSpec, DoorTls, EngineSpec, Hop, RouteSpec, UpstreamKind, UpstreamSpec, WakeSpec,
};
use crate::ids::{HostName, ModelName};
use crate::manifest::{HostSpec, Manifest, Role, RouteMode, RoutePolicy, Tls, Via, Wake};

/// The engines that every host will run, by host and model.
pub(crate) type Engines = BTreeMap<HostName, BTreeMap<ModelName, EngineSpec>>;

/// The models that hosts which are left out of this plan run or will run. They stay in
/// the routes of the others: a desktop that sleeps while a fleet is applied is asked again when it wakes.
pub(crate) type Away = BTreeMap<HostName, BTreeSet<ModelName>>;

/// Who is there to answer.
pub(crate) struct Answerers<'a> {
    pub(crate) engines: &'a Engines,
    pub(crate) away: &'a Away,
    /// What the host's door does now.
    pub(crate) before: Option<&'a DoorSpec>,
}

impl Answerers<'_> {
    fn engine(&self, host: &HostName, model: &ModelName) -> Option<&EngineSpec> {
        self.engines.get(host)?.get(model)
    }

    fn is_away(&self, host: &HostName, model: &ModelName) -> bool {
        self.away.get(host).is_some_and(|models| models.contains(model))
    }

    /// Returns how a host that is left out is asked: as before, since nothing is known of it now.
    fn hop_to_away(&self, upstream: &str, model: &ModelName) -> Hop {
        let routes = self.before.map_or(&[][..], |door| &door.routes);
        let before = routes.iter().find(|route| &route.model == model);
        let before = before.and_then(|route| route.order.iter().find(|hop| hop.upstream == upstream));
        before.cloned().unwrap_or_else(|| Hop {
            upstream: upstream.to_owned(),
            model: model.to_string(),
            quant: None,
            pace: None,
            is_desktop: false,
            lacks: Vec::new(),
        })
    }
}

/// How long a first token may take beyond the time that the prompt itself needs, in
/// seconds. An engine that has just been restarted answers 503 and is passed over at once, so
/// this only bounds one that hangs: long enough for a Pi whose SD card pages weights back in
/// (0.1 GB at 40 MB/s is 3 s), short enough that a person still waits.
const FIRST_TOKEN_SECONDS: f64 = 15.0;

/// Returns what the router on `host` does.
pub(crate) fn door(manifest: &Manifest, host: &HostName, there: &Answerers<'_>) -> DoorSpec {
    let mut routes = Vec::new();
    for model in offered(manifest, host, there) {
        let order = order(manifest, host, model, there);
        if !order.is_empty() {
            let policy = manifest.routes.get(model);
            routes.push(RouteSpec {
                model: model.clone(),
                order,
                overflow_queue: policy.and_then(|route| route.overflow_queue),
                overflow_wait_seconds: policy.and_then(|route| route.overflow_wait_seconds),
                overflow_prompt_tokens: policy.and_then(|route| route.overflow_prompt_tokens),
                continue_on: policy.and_then(|route| heirs(host, route)),
                first_token_seconds: FIRST_TOKEN_SECONDS,
            });
        }
    }
    let mut upstreams: BTreeMap<&str, UpstreamSpec> = BTreeMap::new();
    for hop in routes.iter().flat_map(|route| &route.order) {
        if let Some(kind) = upstream(manifest, &hop.upstream) {
            let wake = wake(manifest, &hop.upstream);
            upstreams.insert(&hop.upstream, UpstreamSpec { name: hop.upstream.clone(), kind, wake });
        }
    }
    let upstreams = upstreams.into_values().collect();
    DoorSpec { port: manifest.serve.port, tls: door_tls(manifest), upstreams, routes }
}

/// Returns the models that the door of `host` offers, by name.
fn offered<'a>(manifest: &'a Manifest, host: &HostName, there: &Answerers<'_>) -> Vec<&'a ModelName> {
    let spec = &manifest.hosts[host];
    let has_route = |model: &ModelName| match manifest.routes.get(model) {
        Some(route) => route.from.as_ref().is_none_or(|from| from.matches(spec)),
        None => true,
    };
    let is_local = |model: &ModelName| there.engine(host, model).is_some();
    manifest.models.keys().filter(|model| has_route(model) || is_local(model)).collect()
}

/// Returns the upstreams for `model` at the door of `host`, first choice first. Those that do not
/// have the model are left out.
fn order(manifest: &Manifest, host: &HostName, model: &ModelName, there: &Answerers<'_>) -> Vec<Hop> {
    let route = manifest.routes.get(model);
    let mode = route.map_or(RouteMode::LocalFirst, |route| route.mode);
    let mut names = route.map_or_else(|| default_order(manifest, model, there), |route| route.order.clone());
    match mode {
        RouteMode::LocalFirst => {}
        RouteMode::LocalOnly => names = vec![LOCAL.to_owned()],
        // stable: within desktops and within the rest the order stays as written
        RouteMode::DesktopFirst => names.sort_by_key(|name| !is_desktop(manifest, host, name)),
    }
    let mut hops: Vec<Hop> = Vec::new();
    for name in names {
        let name = own_name(host, name);
        if hops.iter().any(|hop| hop.upstream == name) {
            continue;
        }
        if let Some(hop) = hop(manifest, host, model, &name, there) {
            hops.push(Hop { is_desktop: is_desktop(manifest, host, &name), ..hop });
        }
    }
    hops
}

/// The name of a host's own engines in its routes.
pub(super) const LOCAL: &str = "local";

/// Returns who may continue answers at the door of `host`, where the route says so.
fn heirs(host: &HostName, route: &RoutePolicy) -> Option<Vec<String>> {
    let mut heirs: Vec<String> = Vec::new();
    for name in route.continue_on.as_ref()? {
        let name = own_name(host, name.clone());
        if !heirs.contains(&name) {
            heirs.push(name);
        }
    }
    Some(heirs)
}

/// Returns what `host` calls the upstream `name`: a host is its own `local`, and is never asked through its own door.
fn own_name(host: &HostName, name: String) -> String {
    if name == host.as_str() { LOCAL.to_owned() } else { name }
}

fn is_desktop(manifest: &Manifest, host: &HostName, name: &str) -> bool {
    let name = if name == LOCAL { host.as_str() } else { name };
    find_host(manifest, name).is_some_and(|(_, spec)| spec.role == Role::Desktop)
}

fn find_host<'a>(manifest: &'a Manifest, name: &str) -> Option<(&'a HostName, &'a HostSpec)> {
    manifest.hosts.iter().find(|(host, _)| host.as_str() == name)
}

/// Without a route in the manifest: the local engine, then every desktop that has the
/// model, then servers that are not ours. A Pi is not asked to answer for others unless a
/// route says so.
fn default_order(manifest: &Manifest, model: &ModelName, there: &Answerers<'_>) -> Vec<String> {
    let has = |host: &HostName| there.engine(host, model).is_some() || there.is_away(host, model);
    let desktops = manifest
        .hosts
        .iter()
        .filter(|(host, spec)| spec.role == Role::Desktop && has(host))
        .map(|(host, _)| host);
    let foreign = manifest.hosts.iter().filter_map(|(host, spec)| match &spec.via {
        Via::Upstream { models, .. } if models.contains_key(model) => Some(host),
        _ => None,
    });
    let others = desktops.chain(foreign).map(ToString::to_string);
    std::iter::once(LOCAL.to_owned()).chain(others).collect()
}

fn hop(
    manifest: &Manifest,
    host: &HostName,
    model: &ModelName,
    name: &str,
    there: &Answerers<'_>,
) -> Option<Hop> {
    if name == LOCAL {
        return Some(hop_to_engine(name, model, there.engine(host, model)?));
    }
    let (other, spec) = find_host(manifest, name)?;
    match &spec.via {
        Via::Upstream { models, lacks, .. } => Some(Hop {
            upstream: name.to_owned(),
            model: models.get(model)?.clone(),
            quant: None,
            pace: None,
            is_desktop: false,
            lacks: lacks.clone(),
        }),
        _ => match there.engine(other, model) {
            Some(engine) => Some(hop_to_engine(name, model, engine)),
            None => there.is_away(other, model).then(|| there.hop_to_away(name, model)),
        },
    }
}

fn hop_to_engine(upstream: &str, model: &ModelName, engine: &EngineSpec) -> Hop {
    Hop {
        upstream: upstream.to_owned(),
        model: model.to_string(),
        quant: Some(engine.weights.quant_name().to_owned()),
        // one that goes on as it is has its host's word for it
        pace: Some(estimate::bound(engine.pace)),
        is_desktop: false,
        lacks: Vec::new(),
    }
}

fn upstream(manifest: &Manifest, name: &str) -> Option<UpstreamKind> {
    if name == LOCAL {
        return Some(UpstreamKind::Local);
    }
    let (host, spec) = find_host(manifest, name)?;
    match &spec.via {
        Via::Upstream { url, key_env, .. } => {
            Some(UpstreamKind::Foreign { url: url.clone(), key: key_env.as_ref().map(|_| host.to_string()) })
        }
        via => {
            let url = door_url(via.address()?, manifest.serve.port, door_tls(manifest));
            Some(UpstreamKind::Host { url })
        }
    }
}

/// Returns how the machine of an upstream is woken. Whoever serves itself is awake.
fn wake(manifest: &Manifest, name: &str) -> Option<WakeSpec> {
    let Wake { mac, wait_seconds } = find_host(manifest, name)?.1.wake?;
    Some(WakeSpec { mac, wait_seconds })
}

/// Returns what the doors of a fleet speak.
pub fn door_tls(manifest: &Manifest) -> DoorTls {
    match manifest.serve.tls {
        Tls::Off => DoorTls::Off,
        // `files` is refused before there is a manifest
        Tls::Fleet | Tls::Files => DoorTls::Fleet,
    }
}

/// Returns the URL of a door, without a path. An IPv6 address gets its brackets.
pub fn door_url(address: &str, port: u16, tls: DoorTls) -> String {
    let scheme = match tls {
        DoorTls::Off => "http",
        DoorTls::Fleet => "https",
    };
    if address.contains(':') {
        format!("{scheme}://[{address}]:{port}")
    } else {
        format!("{scheme}://{address}:{port}")
    }
}

/// Returns whether a route of `manifest` has nobody who could answer it on `host`, for the
/// plan's problems.
pub(crate) fn unanswered<'a>(
    manifest: &'a Manifest,
    host: &HostName,
    there: &Answerers<'_>,
) -> Vec<(&'a ModelName, &'a RoutePolicy)> {
    let spec = &manifest.hosts[host];
    // without `from`, a host that nobody can answer on just does not offer the model
    let is_from = |route: &RoutePolicy| route.from.as_ref().is_some_and(|from| from.matches(spec));
    manifest
        .routes
        .iter()
        .filter(|(model, route)| is_from(route) && order(manifest, host, model, there).is_empty())
        .collect()
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
