//! What the parts of a manifest mean together: references, contradictions, and what
//! the rooms behind cannot act on yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::schema::{
    Caps, Deploy, Floor, HostSpec, Imatrix, MAX_PARALLEL, MAX_UNAVAILABLE, Manifest, ModelSpec, On, PORT,
    QuantChoice, Role, Rollout, RouteMode, RoutePolicy, Selector, Serve, SshOptions, Supervisor, Tls, Via,
    Wake,
};
use super::written;
use crate::catalog;
use crate::facts;
use crate::generation::Layout;
use crate::ids::{HostName, ModelName};
use crate::quant::Quant;
use crate::source::SourceRef;
use crate::yaml::{Entry, Faults, Kind, Problem, Record as _, Span, Spanned, Table, Whole, nearest, quoted};

/// The upstream that means the engines of the host itself.
const LOCAL: &str = "local";

/// The most labels of a host or a selection.
const MAX_LABELS: usize = 32;

type Names<K> = Spanned<written::Name<K>>;

/// Checks the parts together. The manifest is whole only if no fault was left, here or before.
pub(super) fn manifest(fleet: written::Root, faults: &mut Faults) -> Option<Manifest> {
    serve_is_possible(&fleet, faults);
    let default_ssh = fleet.defaults.and_then(|defaults| defaults.ssh).map(ssh_options).unwrap_or_default();
    let known_models = Models::of(fleet.models.as_ref());
    let entries = fleet.models.map(|table| table.0).unwrap_or_default();
    let models =
        entries.into_iter().filter_map(|Entry { name, value }| Some((name.value.0, model(value?, faults)?)));
    let models = models.collect();

    let hosts = Hosts::read(fleet.hosts.map(|table| table.0), &default_ssh, &known_models, faults);
    let entries = fleet.deploy.unwrap_or_default();
    let is_unsure = entries.iter().any(|entry| entry.0.is_none());
    let mut homes = Homes { is_unsure, ..Homes::default() };
    let deploy: Vec<Deploy> = entries
        .into_iter()
        .filter_map(|entry| deploy(entry.0?, &known_models, &hosts, &mut homes, faults))
        .collect();
    let routes = fleet.routes.map(|table| table.0).unwrap_or_default();
    let routes =
        routes.into_iter().filter_map(|entry| route(entry, &known_models, &hosts, &homes, faults)).collect();

    let written::Format = fleet.bramble?;
    let serve = fleet.serve.unwrap_or_default();
    let rollout = fleet.rollout.unwrap_or_default();
    Some(Manifest {
        fleet: fleet.fleet?.value.0,
        serve: Serve {
            port: serve.port.map_or(PORT, port),
            tls: serve.tls.map_or(Tls::Fleet, |tls| tls.value),
        },
        rollout: Rollout {
            max_parallel: rollout.max_parallel.map_or(MAX_PARALLEL, |hosts| hosts.0),
            max_unavailable: rollout.max_unavailable.map_or(MAX_UNAVAILABLE, |hosts| hosts.0),
            bandwidth: caps(rollout.bandwidth.unwrap_or_default()),
        },
        models,
        hosts: hosts.known.into_iter().filter_map(|(name, (host, _))| Some((name, host?))).collect(),
        deploy,
        routes,
    })
}

fn caps(written: written::Caps) -> Caps {
    let rate = |rate: written::Bandwidth| rate.0.strip_suffix("/s")?.parse().ok();
    Caps { per_host: written.per_host.and_then(rate), total: written.total.and_then(rate) }
}

/// Certificates from files are for later, and those of the fleet must be able to name everybody.
fn serve_is_possible(fleet: &written::Root, faults: &mut Faults) {
    let tls = fleet.serve.as_ref().and_then(|serve| serve.tls.as_ref());
    match tls {
        Some(Spanned { value: Tls::Off, .. }) => {}
        Some(Spanned { value: Tls::Files, span }) => faults.push(
            Problem::new(Kind::NotYet, *span, "doors with certificates from files")
                .help("leave `tls` out: the fleet makes its own, which clients are told to trust (`bramble keys ca`)"),
        ),
        Some(Spanned { value: Tls::Fleet, .. }) | None => {
            let own = fleet.fleet.iter().map(|name| (name.value.0.as_str(), name.span));
            let hosts = fleet.hosts.iter().flat_map(|table| &table.0);
            let hosts = hosts.map(|entry| (entry.name.value.0.as_str(), entry.name.span));
            for (name, span) in own.chain(hosts).filter(|(name, _)| name.ends_with('-')) {
                let message = format!("{} ends with `-`, and no certificate can name it", quoted(name));
                let help = format!("did you mean {}?", quoted(name.trim_end_matches('-')));
                faults.push(Problem::new(Kind::Invalid, span, message).help(help));
            }
        }
    }
}

fn port<const MIN: u32>(port: Whole<MIN, 65535>) -> u16 {
    // the type's range fits
    u16::try_from(port.0).unwrap_or(u16::MAX)
}

fn ssh_options(ssh: written::Ssh) -> SshOptions {
    SshOptions {
        user: ssh.user.map(|user| user.0),
        port: ssh.port.map(port),
        identity: ssh.identity.map(|i| i.0),
    }
}

fn model(model: written::Model, faults: &mut Faults) -> Option<ModelSpec> {
    let keys = model.keys();
    let (line, _) = faults.line_and_column(keys.place("quant").unwrap_or(keys.span).start);
    let source = model.source.and_then(|source| source_ref(source, faults));
    let floor = model.floor.unwrap_or_default();
    Some(ModelSpec {
        source: source?,
        quant: match model.quant? {
            written::Quants::Auto => QuantChoice::Auto,
            written::Quants::OneOf(quants) => QuantChoice::OneOf(quants),
        },
        prefer: model.prefer?,
        context: model.context.map(|context| context.0),
        slots: model.slots?.0,
        keep_prompts: model.keep_prompts?,
        floor: Floor {
            tokens_per_second: floor.tokens_per_second.map_or(0.5, |rate| rate.0),
            quality: floor.quality.unwrap_or(Quant::Q4_0),
        },
        requantize: model.requantize?,
        imatrix: model.imatrix.map(|Spanned { value, span }| {
            let (line, _) = faults.line_and_column(span.start);
            Imatrix { path: value.0, line }
        }),
        accept_license: model.accept_license.map(|license| license.0),
        line,
    })
}

fn source_ref(Spanned { value, span }: Spanned<written::Source>, faults: &mut Faults) -> Option<SourceRef> {
    let source = match value {
        written::Source::Text(source) => source,
        written::Source::Delta(delta) => {
            let mut part = |part: Option<Spanned<written::SourceText>>| {
                let Spanned { value, span } = part?;
                check_source(&value.0, span, faults);
                Some(Box::new(value.0))
            };
            let (base, delta) = (part(delta.base), part(delta.delta));
            return Some(SourceRef::Delta { base: base?, delta: delta? });
        }
    };
    check_source(&source, span, faults);
    Some(source)
}

/// Refuses what cannot be had as a source.
fn check_source(source: &SourceRef, span: Span, faults: &mut Faults) {
    match source {
        SourceRef::Catalog(name) => {
            if let Err(error) = catalog::find(name) {
                let problem = Problem::new(
                    Kind::UnknownName,
                    span,
                    format!("the catalog has no model {}", quoted(name)),
                );
                faults.push(match error.suggestion() {
                    Some(near) => problem.did_you_mean(Some(&format!("catalog:{near}"))),
                    None => problem.help("`hf:ORG/REPO` names a model that is not in the catalog"),
                });
            }
        }
        SourceRef::Hub { .. } | SourceRef::Url(_) | SourceRef::File(_) | SourceRef::Delta { .. } => {}
    }
}

/// The names of models; none where there is no list of them that could be read. That has its fault already, and
/// nothing that only follows from it is told.
struct Models(Option<BTreeSet<ModelName>>);

impl Models {
    fn of(written: Option<&Table<written::Name<ModelName>, written::Model>>) -> Self {
        Self(written.map(|table| table.0.iter().map(|entry| entry.name.value.0.clone()).collect()))
    }

    fn contains(&self, name: &ModelName) -> bool {
        self.0.as_ref().is_some_and(|names| names.contains(name))
    }

    /// Leaves a problem for a name that no model has.
    fn unknown(&self, name: &ModelName, span: Span, faults: &mut Faults) {
        let Some(models) = &self.0 else { return };
        let mut problem = Problem::new(Kind::UnknownName, span, format!("there is no model `{name}`"));
        if faults.is_open() {
            let names = models.iter().map(ModelName::as_str);
            problem = match nearest(name.as_str(), names.clone()) {
                Some(near) => problem.did_you_mean(Some(near)),
                None => problem.help(format!("the models are {}", listed(names))),
            };
        }
        faults.push(problem);
    }
}

/// The hosts by name; none where one could not be read: the name is known all the same.
struct Hosts {
    known: BTreeMap<HostName, (Option<HostSpec>, Span)>,
    /// Whether there is a list of them that could be read. Where there is none, that has its fault, and nothing
    /// that only follows from it is told.
    are_listed: bool,
}

impl Hosts {
    fn read(
        entries: Option<Vec<Entry<written::Name<HostName>, written::Host>>>,
        default_ssh: &SshOptions,
        models: &Models,
        faults: &mut Faults,
    ) -> Self {
        let are_listed = entries.is_some();
        let entries = entries.unwrap_or_default();
        let mut known = BTreeMap::new();
        let mut doors: HashMap<(String, Option<u16>), HostName> = HashMap::new();
        let mut this_machine: Option<HostName> = None;
        let is_alone = entries.len() == 1;
        for Entry { name: Spanned { value: written::Name(name), span }, value } in entries {
            if name.as_str() == LOCAL {
                let problem = Problem::new(Kind::Conflict, span, "a host cannot be named `local`");
                faults
                    .push(problem.help("in routes, `local` means the host's own engine: take another name"));
            }
            let address_place =
                value.as_ref().and_then(|host| host.address.as_ref()).map(|address| address.span);
            let host = value.and_then(|value| host(value, default_ssh, models, faults));
            if let (Some(host), Some(place)) = (&host, address_place) {
                let (address, port) = match &host.via {
                    Via::Ssh { address, ssh } => (address, ssh.port),
                    Via::Local { address } => (address, None),
                    Via::Board(_) | Via::Upstream { .. } => continue,
                };
                let is_here = matches!(host.via, Via::Local { .. });
                if is_here && !is_alone && (address == "localhost" || address.starts_with("127.")) {
                    let message = format!("other hosts cannot reach {}", quoted(address));
                    let help = "write the address that this machine has on the network";
                    faults.push(Problem::new(Kind::Conflict, place, message).help(help));
                }
                if is_here && let Some(other) = this_machine.replace(name.clone()) {
                    let message = format!("{other} is this machine already");
                    let help = "`connect: local` belongs to one host";
                    faults.push(Problem::new(Kind::Conflict, place, message).help(help));
                }
                if let Some(other) = doors.insert((address.to_ascii_lowercase(), port), name.clone()) {
                    let message = format!("{} is the address of {other} already", quoted(address));
                    faults.push(Problem::new(Kind::Conflict, place, message).help("list each machine once"));
                }
            }
            known.insert(name, (host, span));
        }
        if known.is_empty() && faults.is_empty() {
            let problem = Problem::new(Kind::Missing, Span::default(), "the manifest has no hosts");
            faults.push(problem.help("under `hosts`, write `NAME: { address: … }`"));
        }
        Self { known, are_listed }
    }

    /// Returns whether all of them could be read, so that "none" can be said of them.
    fn are_whole(&self) -> bool {
        self.are_listed && self.known.values().all(|(host, _)| host.is_some())
    }

    fn matching<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a HostName> {
        let matching = |host: &Option<HostSpec>| host.as_ref().is_some_and(|host| selector.matches(host));
        self.known.iter().filter(move |(_, (host, _))| matching(host)).map(|(name, _)| name)
    }

    /// Leaves a problem for a name that no host has.
    fn unknown(&self, name: &HostName, span: Span, with_local: bool, faults: &mut Faults) {
        if !self.are_listed {
            return;
        }
        let mut problem = Problem::new(Kind::UnknownName, span, format!("there is no host `{name}`"));
        if faults.is_open() {
            let names = self.known.keys().map(HostName::as_str).chain(with_local.then_some(LOCAL));
            problem = match nearest(name.as_str(), names.clone()) {
                Some(near) => problem.did_you_mean(Some(near)),
                None => problem.help(format!("the hosts are {}", listed(names))),
            };
        }
        faults.push(problem);
    }
}

/// Returns the first ten names for a message.
fn listed<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let rest = names.clone().count().saturating_sub(10);
    let shown: Vec<String> = names.take(10).map(|name| format!("`{name}`")).collect();
    match (shown.is_empty(), rest) {
        (true, _) => "none".to_owned(),
        (_, 0) => shown.join(", "),
        _ => format!("{} and {rest} more", shown.join(", ")),
    }
}

fn host(
    host: written::Host,
    default_ssh: &SshOptions,
    models: &Models,
    faults: &mut Faults,
) -> Option<HostSpec> {
    let keys = &host.keys().clone();
    let kinds: Vec<&str> = ["address", "board", "upstream"].into_iter().filter(|key| keys.has(key)).collect();
    let kind = match *kinds.as_slice() {
        [kind] => kind,
        [] => {
            let problem =
                Problem::new(Kind::Missing, keys.span, "a host needs `address`, `board` or `upstream`");
            faults.push(
                problem.help("`address` for a host of yours, `upstream` for a server that is not ours"),
            );
            return None;
        }
        [first, second, ..] => {
            let place = keys.place(second).unwrap_or(keys.span);
            let message = format!("`{second}` does not go with `{first}`");
            faults.push(Problem::new(Kind::Conflict, place, message).help("a host has one of them"));
            return None;
        }
    };
    let foreign: &[&str] = match kind {
        "address" if keys.has("connect") => &["ssh", "memory", "bandwidth", "key", "models", "lacks"],
        "address" => &["memory", "bandwidth", "key", "models", "lacks"],
        "board" => &["connect", "ssh", "gpu", "wake", "key", "models", "lacks"],
        _ => &["connect", "ssh", "dir", "gpu", "memory", "bandwidth"],
    };
    for key in foreign {
        if let Some(place) = keys.place(key) {
            let with = if *key == "ssh" && kind == "address" { "connect: local" } else { kind };
            let message = format!("`{key}` does not go with `{with}`");
            faults.push(Problem::new(Kind::Conflict, place, message).help("leave it out"));
        }
    }
    let place = |key: &str| keys.place(key).unwrap_or(keys.span);
    let labels = labels(host.labels, place("labels"), faults);
    let via = match kind {
        "board" => {
            // what is no amount has its fault already
            if keys.has("memory") && host.memory.is_none() {
                return None;
            }
            board(host.board?, host.memory, host.bandwidth, faults)?
        }
        "upstream" => {
            let entries = host.models.map(|table| table.0).unwrap_or_default();
            let mut names = BTreeMap::new();
            for Entry { name, value } in entries {
                if !models.contains(&name.value.0) {
                    models.unknown(&name.value.0, name.span, faults);
                }
                names.extend(value.map(|foreign| (name.value.0, foreign.0)));
            }
            if names.is_empty() && !keys.has("models") {
                let problem =
                    Problem::new(Kind::Missing, place("upstream"), "`models` is missing beside `upstream`");
                faults.push(problem.help("`models: { OUR-NAME: ITS-NAME }` says what it can answer"));
            }
            let lacks = host.lacks.unwrap_or_default();
            let key_env = host.key.map(|key| key.0);
            Via::Upstream { url: host.upstream?.value.0, key_env, models: names, lacks }
        }
        _ => {
            let address = host.address?.value.0;
            match host.connect {
                Some(_) => Via::Local { address },
                None if keys.has("connect") => return None,
                None => {
                    let own = host.ssh.map(ssh_options).unwrap_or_default();
                    let ssh = SshOptions {
                        user: own.user.or_else(|| default_ssh.user.clone()),
                        port: own.port.or(default_ssh.port),
                        identity: own.identity.or_else(|| default_ssh.identity.clone()),
                    };
                    Via::Ssh { address, ssh }
                }
            }
        }
    };
    // what answers for others is a desktop in all that matters here
    let default_role = if kind == "upstream" { Role::Desktop } else { Role::Pi };
    Some(HostSpec {
        via,
        role: match host.role {
            Some(role) => role,
            None if keys.has("role") => return None,
            None => default_role,
        },
        labels,
        dir: host.dir.and_then(|dir| dir_is_ours(dir, faults)),
        supervisor: host.supervisor.unwrap_or(Supervisor::Auto),
        gpu: host.gpu.unwrap_or_default(),
        wake: host.wake.and_then(wake),
    })
}

fn wake(wake: written::Wake) -> Option<Wake> {
    Some(Wake { mac: wake.mac?.0.parse().ok()?, wait_seconds: wake.wait_seconds?.0 })
}

/// Checks a board that is planned for, and what is stated of it.
fn board(
    board: Spanned<written::Label>,
    memory: Option<Spanned<written::Amount>>,
    bandwidth: Option<Spanned<written::Bandwidth>>,
    faults: &mut Faults,
) -> Option<Via> {
    let Spanned { value: written::Label(board), span } = board;
    let stated = facts::Stated {
        board,
        memory: memory.and_then(|memory| memory.value.0.parse().ok()),
        bandwidth: bandwidth.and_then(|bandwidth| bandwidth.value.0.parse().ok()),
    };
    if stated.facts().is_some() {
        return Some(Via::Board(stated));
    }
    let board = stated.board;
    let problem = if facts::board_names().any(|name| name == board) {
        Problem::new(Kind::Missing, span, format!("`memory` is missing: a {board} has any amount of it"))
            .help("such as `memory: 28 GiB`, what models may have of it")
    } else {
        let names: Vec<&str> = facts::board_names().collect();
        let help = match nearest(&board, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are {}", names.join(", ")),
        };
        Problem::new(Kind::UnknownName, span, format!("no board `{board}` is known")).help(help)
    };
    faults.push(problem);
    None
}

fn labels(labels: Option<Vec<written::Label>>, place: Span, faults: &mut Faults) -> Vec<String> {
    let labels = labels.unwrap_or_default();
    if labels.len() > MAX_LABELS {
        let message = format!("{} labels are too many: at most {MAX_LABELS}", labels.len());
        faults.push(Problem::new(Kind::Invalid, place, message));
        return Vec::new();
    }
    labels.into_iter().map(|label| label.0).collect()
}

/// Folders that belong to the system, or are emptied at every boot.
const SYSTEM: [&str; 12] =
    ["bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "usr"];

fn dir_is_ours(dir: Spanned<written::Dir>, faults: &mut Faults) -> Option<String> {
    let first = dir.value.0.split('/').nth(1).unwrap_or_default();
    if SYSTEM.contains(&first) {
        let message = format!("`/{first}` belongs to the system");
        let help = format!("take a folder such as `{}` or `/srv/bramble`", Layout::DEFAULT_ROOT);
        faults.push(Problem::new(Kind::Conflict, dir.span, message).help(help));
        return None;
    }
    Some(dir.value.0)
}

/// Which host has which model, and the line that says so.
#[derive(Default)]
struct Homes {
    lines: HashMap<(ModelName, HostName), usize>,
    /// Models that go to a number of hosts.
    counted: HashMap<ModelName, usize>,
    /// Models whose deploys could not all be read: "none" cannot be said of them.
    unsure: BTreeSet<ModelName>,
    is_unsure: bool,
}

impl Homes {
    fn is_sure_of(&self, model: &ModelName) -> bool {
        !self.is_unsure && !self.unsure.contains(model)
    }
}

fn deploy(
    entry: written::Deploy,
    models: &Models,
    hosts: &Hosts,
    homes: &mut Homes,
    faults: &mut Faults,
) -> Option<Deploy> {
    let entry_place = entry.keys().span;
    let (line, _) = faults.line_and_column(entry_place.start);
    if let Some(model) = entry.model.as_ref().filter(|model| !models.contains(&model.value.0)) {
        models.unknown(&model.value.0, model.span, faults);
        // it may be any of them that was meant
        homes.is_unsure = true;
    }
    let on = entry.on.and_then(|on| on_hosts(on, hosts, faults));
    let Some(Spanned { value: written::Name(model), .. }) = entry.model else {
        homes.is_unsure = true;
        return None;
    };
    let Some((on, matched)) = on else {
        homes.unsure.insert(model);
        return None;
    };
    let is_counted = matches!(on, On::Count(..));
    if is_counted && let Some(first) = homes.counted.insert(model.clone(), line) {
        let place = matched.first().map_or(entry_place, |(_, span)| *span);
        let problem = Problem::new(Kind::Conflict, place, format!("{model} goes to a number of hosts twice"));
        faults.push(problem.help(format!("add the number to that of the deploy on line {first}")));
    }
    for (host, span) in matched {
        if let Some((Some(spec), _)) = hosts.known.get(&host) {
            socket_fits(&model, spec, span, faults);
        }
        if is_counted {
            continue;
        }
        if let Some(first) = homes.lines.insert((model.clone(), host.clone()), line) {
            let message = format!("{model} goes to {host} twice");
            let help = format!("the deploy on line {first} puts it there already");
            faults.push(Problem::new(Kind::Conflict, span, message).help(help));
        }
    }
    Some(Deploy { model, on, line })
}

/// A socket's path has a limit that a long folder and a long name exceed together.
fn socket_fits(model: &ModelName, host: &HostSpec, span: Span, faults: &mut Faults) {
    let root = host.dir.as_deref().unwrap_or(Layout::DEFAULT_ROOT);
    let length = Layout::new(root).engine_socket(model).as_os_str().len();
    if length > Layout::LONGEST_SOCKET {
        let message = format!(
            "the socket of {model} under {root} has a path of {length} characters; Linux allows {}",
            Layout::LONGEST_SOCKET
        );
        faults.push(Problem::new(Kind::Conflict, span, message).help("take a shorter `dir` or model name"));
    }
}

type Matched = Vec<(HostName, Span)>;

/// Returns the checked form of `on` and the hosts that it means, each with the place that names it.
fn on_hosts(on: Spanned<written::On>, hosts: &Hosts, faults: &mut Faults) -> Option<(On, Matched)> {
    let span = on.span;
    match on.value {
        written::On::Hosts(names) if names.is_empty() => {
            let problem = Problem::new(Kind::Missing, span, "the list of hosts is empty");
            faults.push(problem.help("name a host, or remove the deploy"));
            None
        }
        written::On::Hosts(names) => {
            let mut matched = Matched::new();
            for Spanned { value: written::Name(name), span } in &names {
                if is_deployable(name, *span, hosts, faults) {
                    matched.push((name.clone(), *span));
                }
            }
            Some((On::Hosts(names.into_iter().map(|name| name.value.0).collect()), matched))
        }
        written::On::Every(written) => {
            let selector = selector(written, span, faults)?;
            let matched: Matched = hosts.matching(&selector).map(|name| (name.clone(), span)).collect();
            if matched.is_empty() && hosts.are_whole() {
                faults.push(nobody(&selector, span, hosts));
            }
            Some((On::Every(selector), matched))
        }
        written::On::Count(count) => {
            let selector = selector(count.r#where?, span, faults)?;
            let Spanned { value: Whole(number), span: place } = count.count?;
            let matched: Matched = hosts.matching(&selector).map(|name| (name.clone(), span)).collect();
            let most = u32::try_from(matched.len()).unwrap_or(u32::MAX);
            if hosts.are_whole() && matched.is_empty() {
                faults.push(nobody(&selector, span, hosts));
            } else if hosts.are_whole() && most < number {
                let message = format!("{number} hosts are wanted, and {most} match");
                let problem = Problem::new(Kind::Conflict, place, message);
                faults.push(problem.help("ask for fewer, or match more of them"));
            }
            Some((On::Count(number, selector), matched))
        }
    }
}

fn is_deployable(name: &HostName, span: Span, hosts: &Hosts, faults: &mut Faults) -> bool {
    match hosts.known.get(name) {
        None => {
            hosts.unknown(name, span, false, faults);
            false
        }
        Some((Some(HostSpec { via: Via::Upstream { .. }, .. }), _)) => {
            let message = format!("`{name}` is a server that is not ours: nothing is put there");
            let help =
                format!("name the model under `models` of `{name}`, and `{name}` in the route's `order`");
            faults.push(Problem::new(Kind::Conflict, span, message).help(help));
            false
        }
        Some(_) => true,
    }
}

fn selector(written: written::Selector, span: Span, faults: &mut Faults) -> Option<Selector> {
    let has_role = written.keys().has("role");
    if !has_role && !written.keys().has("labels") {
        let problem = Problem::new(Kind::Missing, span, "the selection says neither `role` nor `labels`");
        faults.push(problem.help("such as `{ role: pi }`"));
        return None;
    }
    if has_role && written.role.is_none() {
        return None;
    }
    let place = written.keys().place("labels").unwrap_or(span);
    Some(Selector { role: written.role, labels: labels(written.labels, place, faults) })
}

/// The problem of a selection that no host matches, with the labels that there are.
fn nobody(selector: &Selector, span: Span, hosts: &Hosts) -> Problem {
    let specs = || hosts.known.values().filter_map(|(host, _)| host.as_ref()).filter(|host| host.is_ours());
    let labels: BTreeSet<&str> = specs().flat_map(|host| host.labels.iter().map(String::as_str)).collect();
    let missing = selector.labels.iter().find(|label| !labels.contains(label.as_str()));
    let problem = Problem::new(Kind::UnknownName, span, "no host matches this selection");
    match missing {
        Some(label) => match nearest(label, labels.iter().copied()) {
            Some(near) => problem.help(format!("no host has the label `{label}`: did you mean `{near}`?")),
            None if labels.is_empty() => problem
                .help(format!("no host has a label: write `labels: [{label}]` at those that are meant")),
            None => problem.help(format!(
                "no host has the label `{label}`; the labels are {}",
                listed(labels.iter().copied())
            )),
        },
        None => problem.help("hosts have the role `pi` unless they say `role: desktop`"),
    }
}

fn route(
    Entry { name: Spanned { value: written::Name(model), span: model_place }, value }: Entry<
        written::Name<ModelName>,
        written::Route,
    >,
    models: &Models,
    hosts: &Hosts,
    homes: &Homes,
    faults: &mut Faults,
) -> Option<(ModelName, RoutePolicy)> {
    let is_known = models.contains(&model);
    if !is_known {
        models.unknown(&model, model_place, faults);
    } else if homes.is_sure_of(&model) && hosts.are_whole() && !is_answered(&model, hosts, homes) {
        let message = format!("nobody has the model `{model}`");
        let help = format!("add `- {{ model: {model}, on: … }}` to `deploy`, or remove the route");
        faults.push(Problem::new(Kind::Conflict, model_place, message).help(help));
    }
    let value = value?;
    let place = value.keys().place("order");
    let from = value.from.and_then(|from| {
        let span = from.span;
        let selector = selector(from.value, span, faults)?;
        if hosts.are_whole() && hosts.matching(&selector).next().is_none() {
            faults.push(nobody(&selector, span, hosts));
        }
        Some(selector)
    });
    let mode = value.mode?.value;
    let order = match value.order {
        Some(order) => checked_order(order, &model, is_known, hosts, faults)?,
        None if place.is_some() => return None,
        None if mode == RouteMode::LocalOnly => vec![LOCAL.to_owned()],
        None => {
            let message = format!("`order` is missing in the route of `{model}`");
            let help = "such as `order: [local, desk]`, first choice first";
            faults.push(Problem::new(Kind::Missing, model_place, message).help(help));
            return None;
        }
    };
    if mode == RouteMode::LocalOnly && order != [LOCAL] {
        let problem =
            Problem::new(Kind::Conflict, place.unwrap_or(model_place), "`local-only` asks nobody else");
        faults.push(problem.help("write `order: [local]`, or another `mode`"));
    }
    let overflow = value.overflow;
    let says_nothing = |overflow: &&written::Overflow| {
        ["queue", "wait_seconds", "prompt_tokens"].iter().all(|key| !overflow.keys().has(key))
    };
    if let Some(overflow) = overflow.as_ref().filter(says_nothing) {
        let problem = Problem::new(Kind::Missing, overflow.keys().span, "`overflow` says nothing");
        faults.push(
            problem.help("such as `{ queue: 2 }`, `{ wait_seconds: 30 }` or `{ prompt_tokens: 2000 }`"),
        );
    }
    let continue_on = value.continue_on.map(|names| checked_heirs(names, &order, hosts, faults));
    let policy = RoutePolicy {
        order,
        mode,
        overflow_queue: overflow.as_ref().and_then(|overflow| overflow.queue.as_ref()).map(|most| most.0),
        overflow_wait_seconds: overflow.as_ref().and_then(|it| it.wait_seconds.as_ref()).map(|most| most.0),
        overflow_prompt_tokens: overflow.as_ref().and_then(|it| it.prompt_tokens.as_ref()).map(|most| most.0),
        continue_on,
        from,
    };
    Some((model, policy))
}

/// Checks who may continue answers: each is in the order.
fn checked_heirs(
    names: Vec<Names<HostName>>,
    order: &[String],
    hosts: &Hosts,
    faults: &mut Faults,
) -> Vec<String> {
    let mut heirs: Vec<String> = Vec::new();
    for Spanned { value: written::Name(name), span } in names {
        if name.as_str() != LOCAL && !hosts.known.contains_key(&name) {
            hosts.unknown(&name, span, true, faults);
        } else if !order.iter().any(|other| other == name.as_str()) {
            let problem = Problem::new(Kind::Conflict, span, format!("`{name}` is not in the `order`"));
            faults.push(problem.help(format!("it is {}", listed(order.iter().map(String::as_str)))));
        } else if heirs.iter().any(|other| other == name.as_str()) {
            let problem = Problem::new(Kind::Conflict, span, format!("`{name}` is in `continue_on` twice"));
            faults.push(problem.help("keep one of them"));
        }
        heirs.push(name.into());
    }
    heirs
}

/// Returns whether a host of ours or an upstream has the model.
fn is_answered(model: &ModelName, hosts: &Hosts, homes: &Homes) -> bool {
    let is_foreign =
        |host: &HostSpec| matches!(&host.via, Via::Upstream { models, .. } if models.contains_key(model));
    homes.lines.keys().any(|(home, _)| home == model)
        || homes.counted.contains_key(model)
        || hosts.known.values().filter_map(|(host, _)| host.as_ref()).any(is_foreign)
}

fn checked_order(
    order: Spanned<Vec<Names<HostName>>>,
    model: &ModelName,
    is_known: bool,
    hosts: &Hosts,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    if order.value.is_empty() {
        let problem = Problem::new(Kind::Missing, order.span, "the order is empty");
        faults.push(problem.help("such as `[local, desk]`, first choice first"));
        return None;
    }
    let mut seen = BTreeSet::new();
    for Spanned { value: written::Name(name), span } in &order.value {
        if !seen.insert(name) {
            let problem = Problem::new(Kind::Conflict, *span, format!("`{name}` is in the order twice"));
            faults.push(problem.help("keep one of them"));
            continue;
        }
        if name.as_str() == LOCAL {
            continue;
        }
        let Some((spec, _)) = hosts.known.get(name) else {
            hosts.unknown(name, *span, true, faults);
            continue;
        };
        let Some(spec) = spec else { continue };
        let (message, help) = match &spec.via {
            Via::Upstream { models, .. } if is_known && !models.contains_key(model) => (
                format!("`{name}` does not say what it calls `{model}`"),
                format!("add `{model}: ITS-NAME` to `models` of `{name}`"),
            ),
            _ => continue,
        };
        faults.push(Problem::new(Kind::Conflict, *span, message).help(help));
    }
    Some(order.value.into_iter().map(|name| name.value.0.into()).collect())
}
