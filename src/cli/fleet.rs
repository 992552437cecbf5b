//! What most verbs begin with: the manifest, the lock, the ways to the hosts, the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::arguments::{DEFAULT_MANIFEST, Global, Login};
use super::environment::{self, Environment};
use super::files::{self, LONGEST_MANIFEST};
use super::output;
use crate::bundle::{self, Found};
use crate::catalog::{self, ModelFacts};
use crate::causes::with_causes;
use crate::clock;
use crate::connect::{Connection, Local, Settings, Ssh, SudoPassword, Target, fast_cipher, has_aes};
use crate::convert;
use crate::events::Events;
use crate::execute::{self, Reconnect, Subject};
use crate::facts::{HostFacts, Inventory, ProbeFailure};
use crate::fetch;
use crate::fetch::{Fetcher, RawHeader};
use crate::generation::{Bundle, DoorTls, ForeignKeys, Layout};
use crate::ids::{FleetName, HostName, ModelName};
use crate::keys::Safe;
use crate::lock::{Lock, LockedHost};
use crate::manifest::{
    self, GpuMode, HostSpec, Imatrix, Manifest, ModelSpec, Role, SshOptions, Supervisor, Via,
};
use crate::plan::{self, HostPlan, Plan, Problem};
use crate::probe;
use crate::source::{Pinned, SourceRef};
use crate::store::{Store, User};
use crate::system;
use crate::weights;

/// Hosts that are looked at together: a probe is one short login.
const PROBED_TOGETHER: usize = 16;

/// What each model is, or why that is not known.
pub(crate) type Models = BTreeMap<ModelName, Result<ModelFacts, String>>;

/// A manifest with everything that was decided for it before.
pub(crate) struct Fleet<'a> {
    pub(crate) manifest: Manifest,
    pub(crate) lock: Lock,
    pub(crate) lock_path: PathBuf,
    pub(crate) bundles: Vec<Found>,
    pub(super) environment: &'a Environment,
    is_new_host_key_accepted: bool,
    pub(super) sudo: SudoPasswords,
    /// Whether plans take over hosts of other fleets.
    pub(crate) adopts: bool,
    /// What was known of keys and hosts as this was opened, from which `barred` is.
    safe: Safe,
    /// Hosts that somebody else may be by now, and as whom they were barred: nobody logs in there.
    barred: BTreeMap<HostName, HostName>,
}

/// What sudo asks for on each host, once it is known: for all ways to it.
#[derive(Clone, Default)]
pub(super) struct SudoPasswords(Arc<Mutex<BTreeMap<HostName, SudoPassword>>>);

impl SudoPasswords {
    pub(super) fn of(&self, host: &HostName) -> SudoPassword {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(host.clone()).or_default().clone()
    }
}

/// Reads and checks a manifest.
pub(crate) fn load(path: &Path) -> anyhow::Result<Manifest> {
    let next = if path == Path::new(DEFAULT_MANIFEST) {
        ": name it with --file, or have `bramble init` write one"
    } else {
        ""
    };
    let size = fs::metadata(path)
        .with_context(|| format!("cannot read the manifest {}{next}", path.display()))?
        .len();
    anyhow::ensure!(
        size <= LONGEST_MANIFEST,
        "{} has {size} bytes, and a manifest has at most {LONGEST_MANIFEST}",
        path.display()
    );
    let bytes = files::read(path, LONGEST_MANIFEST)
        .with_context(|| format!("cannot read the manifest {}", path.display()))?;
    Ok(manifest::parse_bytes(&path.display().to_string(), &bytes)?)
}

/// Reads the lock of `fleet`; an empty one where there is none yet.
pub(crate) fn lock(path: &Path, fleet: &FleetName) -> anyhow::Result<Lock> {
    match files::read_text(path, files::LONGEST_LOCK) {
        Ok(text) => Lock::parse(&text).with_context(|| format!("cannot use {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Lock::new(fleet.clone())),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl<'a> Fleet<'a> {
    /// Reads the manifest, its lock and the bundles of this machine.
    pub(crate) fn open(global: &Global, login: Login, environment: &'a Environment) -> anyhow::Result<Self> {
        let manifest = load(&global.file)?;
        let lock_path = Environment::lock_path(&global.file);
        let mut lock = lock(&lock_path, &manifest.fleet)?;
        let safe = Safe::open(&environment.state, &manifest.fleet)?;
        let barred = barred(&safe, &lock, &manifest);
        forget_renamed(&mut lock, &manifest, &barred);
        let bundles = bundle::find(&environment.bundles)?;
        let is_new_host_key_accepted = login.accept_new_host_keys;
        let sudo = SudoPasswords::default();
        Ok(Self {
            safe,
            barred,
            manifest,
            lock,
            lock_path,
            bundles,
            environment,
            is_new_host_key_accepted,
            sudo,
            adopts: false,
        })
    }

    /// Does as [`Self::open`]; where there is no manifest and none was named, takes a fleet without hosts.
    pub(crate) fn open_or_bare(
        global: &Global,
        login: Login,
        environment: &'a Environment,
    ) -> anyhow::Result<Self> {
        if global.file != Path::new(DEFAULT_MANIFEST) || global.file.exists() {
            return Self::open(global, login, environment);
        }
        Self::bare(global, login, environment)
    }

    /// Takes a fleet without hosts.
    pub(crate) fn bare(global: &Global, login: Login, environment: &'a Environment) -> anyhow::Result<Self> {
        let manifest = Manifest::without_hosts("home".parse()?);
        Ok(Self {
            safe: Safe::open(&environment.state, &manifest.fleet)?,
            lock: Lock::new(manifest.fleet.clone()),
            lock_path: Environment::lock_path(&global.file),
            bundles: bundle::find(&environment.bundles)?,
            environment,
            is_new_host_key_accepted: login.accept_new_host_keys,
            sudo: SudoPasswords::default(),
            adopts: false,
            barred: BTreeMap::new(),
            manifest,
        })
    }

    /// Returns the hosts that Bramble is installed on.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&HostName, &HostSpec)> {
        self.manifest.ours()
    }

    /// Returns `hosts`, or, where none are named, those that Bramble is installed on.
    pub(crate) fn named_or_ours(&self, hosts: &[HostName]) -> Vec<HostName> {
        if hosts.is_empty() { self.ours().map(|(host, _)| host.clone()).collect() } else { hosts.to_vec() }
    }

    /// Returns the hosts that left the manifest and still have something of ours. Those that are barred are nobody's to ask.
    pub(crate) fn orphans(&self) -> Vec<HostName> {
        let has_left = |host: &&HostName| !self.manifest.hosts.contains_key(*host) && !self.is_barred(host);
        self.lock.hosts.keys().filter(has_left).cloned().collect()
    }

    /// Returns whether nobody logs in to a host: it was revoked, or is where such a one was.
    pub(crate) fn is_barred(&self, host: &HostName) -> bool {
        self.barred.contains_key(host)
    }

    /// Returns how a host is reached: as the manifest says, or as the lock remembers.
    pub(super) fn spec(&self, host: &HostName) -> Option<HostSpec> {
        let known = self.lock.hosts.get(host);
        let Some(named) = self.manifest.hosts.get(host).cloned() else { return known.map(from_lock) };
        // it is where it was put, until it was taken off there
        Some(match known {
            Some(known) => HostSpec { dir: known.dir.clone(), ..named },
            None => named,
        })
    }

    /// Returns the folder on a host, where it is known before the host was looked at.
    fn dir(&self, host: &HostName) -> Option<String> {
        let spec = self.spec(host)?;
        let is_process = spec.supervisor == Supervisor::Process;
        spec.dir.or_else(|| is_process.then(|| Layout::DEFAULT_ROOT.to_owned()))
    }

    /// Opens a way to each of `hosts` and looks at them; those with nothing of ours are left
    /// out. Failures come back as sentences by host, of which one is that it belongs to another fleet.
    pub(crate) async fn subjects(
        &self,
        hosts: &[HostName],
    ) -> anyhow::Result<(Vec<Subject>, BTreeMap<HostName, String>)> {
        self.check_logins(hosts)?;
        let specs: BTreeMap<HostName, HostSpec> =
            hosts.iter().filter_map(|host| Some((host.clone(), self.spec(host)?))).collect();
        let mut connections: BTreeMap<HostName, Arc<dyn Connection>> = BTreeMap::new();
        for (host, spec) in &specs {
            connections.insert(host.clone(), self.connect(host, spec)?);
        }
        let inventory = self.inventory(&connections).await;
        let (mut subjects, mut failures) = (Vec::new(), BTreeMap::new());
        for (host, connection) in connections {
            let (Some(facts), Some(spec)) = (inventory.hosts.get(&host), specs.get(&host)) else { continue };
            match facts {
                Err(failure) => {
                    failures.insert(host, failure.message.clone());
                }
                Ok(facts) => {
                    if let Some(stranger) = plan::stranger(&self.manifest.fleet, &host, facts) {
                        failures.insert(host, stranger);
                    } else if let Some(installed) = facts.installed.clone() {
                        subjects.push(Subject {
                            layout: Layout::new(plan::root(spec, facts)),
                            is_root: plan::is_root(spec, facts),
                            installed,
                            connection,
                            fresh: self.connect(&host, spec)?,
                            host,
                        });
                    }
                }
            }
        }
        Ok((subjects, failures))
    }

    /// Returns what brings weights here. Its `file:` sources are relative to the manifest.
    pub(crate) fn fetcher(&self, events: Events) -> anyhow::Result<Fetcher> {
        Ok(Fetcher::new(self.settings_of_fetch()?, events)?)
    }

    /// Returns what [`Self::fetcher`] is set up with.
    pub(crate) fn settings_of_fetch(&self) -> anyhow::Result<fetch::Settings> {
        let folder = self.lock_path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = std::path::absolute(folder.unwrap_or(Path::new(".")))?;
        Ok(fetch::Settings { folder, ..fetch::Settings::from_env() })
    }

    /// Opens a way to each host. Nothing is sent yet.
    pub(crate) fn connections(&self) -> anyhow::Result<BTreeMap<HostName, Arc<dyn Connection>>> {
        self.ours().map(|(host, spec)| Ok((host.clone(), self.connect(host, spec)?))).collect()
    }

    /// Opens another way to each host without AES instructions, which is faster at another cipher than
    /// the one that all begin with: weights are to be sent. One more login is nothing to such a host's
    /// minutes.
    pub(crate) fn for_weights(
        &self,
        mut connections: BTreeMap<HostName, Arc<dyn Connection>>,
        inventory: &Inventory,
    ) -> anyhow::Result<BTreeMap<HostName, Arc<dyn Connection>>> {
        for (host, connection) in &mut connections {
            let (Some(Ok(facts)), Some(spec)) = (inventory.hosts.get(host), self.spec(host)) else {
                continue;
            };
            let is_ssh = matches!(spec.via, Via::Ssh { .. });
            if is_ssh && has_aes() && !facts.cpu.features.contains("aes") {
                let first_ciphers = Some(fast_cipher(false).to_owned());
                let settings = Settings { first_ciphers, ..self.settings() };
                *connection = connect(&spec, settings, self.sudo.of(host))?;
            }
        }
        Ok(connections)
    }

    /// Returns how the hosts reach each other.
    pub(crate) fn links(inventory: &Inventory) -> BTreeMap<HostName, execute::Link> {
        let looked_at = inventory.hosts.iter().filter_map(|(host, facts)| Some((host, facts.as_ref().ok()?)));
        looked_at.filter_map(|(host, facts)| Some((host.clone(), execute::link(facts)?))).collect()
    }

    /// Returns the hosts that are this machine.
    pub(crate) fn here(&self) -> BTreeSet<HostName> {
        let is_here = |spec: &HostSpec| matches!(spec.via, Via::Local { .. });
        self.ours().filter(|(_, spec)| is_here(spec)).map(|(host, _)| host.clone()).collect()
    }

    /// Returns how fast weights may move.
    pub(crate) fn limits(&self) -> execute::Limits {
        let manifest::Caps { per_host, total } = self.manifest.rollout.bandwidth;
        execute::Limits::new(per_host, total)
    }

    fn connect(&self, host: &HostName, spec: &HostSpec) -> anyhow::Result<Arc<dyn Connection>> {
        connect(spec, self.settings(), self.sudo.of(host))
    }

    /// Returns the way to a host over SSH; none where there is another.
    pub(super) fn ssh(&self, host: &HostName) -> anyhow::Result<Option<Ssh>> {
        let target = self.spec(host).and_then(|spec| target(&spec));
        target.map(|target| Ok(Ssh::new(target, self.settings())?)).transpose()
    }

    /// Refuses hosts that nobody can log in to, all that were named at once.
    pub(crate) fn check_logins(&self, hosts: &[HostName]) -> anyhow::Result<()> {
        let fault = |host: &HostName| match self.spec(host).map(|spec| spec.via) {
            None => Some(format!("neither the manifest nor its lock knows a host {host}")),
            Some(Via::Board(stated)) => Some(not_bought(host, &stated.board)),
            Some(Via::Upstream { .. }) => {
                Some(format!("{host} is a server that is not ours: there is nothing of Bramble on it"))
            }
            Some(Via::Ssh { .. } | Via::Local { .. }) => None,
        };
        let faults: Vec<String> = hosts.iter().filter_map(fault).collect();
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            is_new_host_key_accepted: self.is_new_host_key_accepted,
            known_hosts: self.environment.known_hosts.clone(),
            runtime_dir: Some(self.environment.runtime.clone()),
            // most hosts have AES instructions; of the others, only weights are worth another login
            first_ciphers: has_aes().then(|| fast_cipher(true).to_owned()),
            withheld: self.secret_variables(),
            ..Settings::default()
        }
    }

    /// Returns what opens a second, independent way to a host.
    pub(crate) fn reconnect(&self) -> Reconnect {
        let (hosts, settings, sudo) = (self.manifest.hosts.clone(), self.settings(), self.sudo.clone());
        Box::new(move |host| connect(hosts.get(host)?, settings.clone(), sudo.of(host)).ok())
    }

    /// Looks at every host but those that are barred: nothing is sent there, no login, and no password for sudo. Where there
    /// is a person, those that only a password lets in are asked for.
    pub(crate) async fn inventory(&self, connections: &BTreeMap<HostName, Arc<dyn Connection>>) -> Inventory {
        let hosts: Vec<_> = connections
            .iter()
            .filter(|(host, _)| !self.barred.contains_key(*host))
            .map(|(host, connection)| {
                (host.clone(), self.dir(host).unwrap_or_default(), Arc::clone(connection))
            })
            .collect();
        let mut inventory = probe::gather(&hosts, PROBED_TOGETHER).await;
        if self.environment.can_ask {
            self.let_in(&hosts, &mut inventory).await;
        }
        let barred = connections.keys().filter_map(|host| Some((host.clone(), self.barred.get(host)?)));
        inventory.hosts.extend(barred.map(|(host, known_as)| {
            let failure = refusal_of_barred(known_as, self.manifest.hosts.contains_key(&host));
            (host, Err(failure))
        }));
        inventory
    }

    /// Learns what the models are, and pins their sources in the lock. What is learnt of a
    /// pinned source is kept: a second run asks nobody.
    pub(crate) async fn models(&mut self, fetcher: &Fetcher) -> Models {
        let mut pins = self.lock.sources.clone();
        let models = describe(&self.manifest, &mut pins, fetcher).await;
        self.lock.sources = pins;
        models
    }

    /// Pins the manifest's sources in the lock as a kept plan has them; what is pinned already stays so.
    pub(crate) fn pin(&mut self, plan: &Plan) {
        for source in self.manifest.models.values().map(|spec| spec.source.to_string()) {
            if let Some(pinned) = plan.sources.get(&source) {
                self.lock.sources.entry(source).or_insert_with(|| pinned.clone());
            }
        }
    }

    /// Looks at every host while it learns what the models are: neither needs the other.
    pub(crate) async fn look(
        &mut self,
        connections: &BTreeMap<HostName, Arc<dyn Connection>>,
        fetcher: &Fetcher,
    ) -> (Inventory, Models) {
        let mut pins = self.lock.sources.clone();
        let models = describe(&self.manifest, &mut pins, fetcher);
        let looked = tokio::join!(self.inventory(connections), models);
        self.lock.sources = pins;
        looked
    }

    /// Returns what this machine keeps of the fleet's keys and certificates.
    pub(crate) fn safe(&self) -> anyhow::Result<Safe> {
        Ok(Safe::open(&self.environment.state, &self.manifest.fleet)?)
    }

    /// Returns the same as it was when this fleet was opened.
    pub(crate) const fn opened_with(&self) -> &Safe {
        &self.safe
    }

    /// Decides, and looks whether this machine has room for what has to be fetched and made.
    pub(crate) fn plan(
        &self,
        inventory: &Inventory,
        models: &Models,
        fetcher: &Fetcher,
        safe: &Safe,
    ) -> (Plan, Vec<Problem>) {
        let (tls, now) = (plan::door_tls(&self.manifest), clock::unix_seconds());
        let secrets = self
            .ours()
            .filter_map(|(host, _)| Some((host.clone(), safe.expected(host, tls, now)?)))
            .collect();
        let bundles: Vec<Bundle> = self.bundles.iter().map(|found| found.bundle.clone()).collect();
        let (plan, mut problems) = plan::make(&plan::Inputs {
            manifest: &self.manifest,
            inventory,
            models,
            lock: &self.lock,
            secrets: &secrets,
            bundles: &bundles,
            bundle_folders: &self.environment.bundles,
            converter: convert::VERSION,
            adopt: self.adopts,
        });
        let room = execute::check_room(&plan, fetcher);
        let lacks = [room.err(), self.lacks_authority(inventory, safe)].into_iter().flatten();
        problems.extend(lacks.map(|message| Problem { host: None, model: None, message }));
        (plan, problems)
    }

    /// Says why keys and an authority must not be made here: the fleet's hosts have some that another machine made. Its
    /// clients would lose theirs, and its hosts each other.
    pub(crate) fn lacks_authority(&self, inventory: &Inventory, safe: &Safe) -> Option<String> {
        let fleet = &self.manifest.fleet;
        if safe.is_complete() || plan::door_tls(&self.manifest) == DoorTls::Off {
            return None;
        }
        let has_certificate = |facts: &HostFacts| {
            let current = facts.installed.as_ref().and_then(|installed| installed.current.as_ref());
            current.is_some_and(|(_, runs)| runs.fleet == *fleet && runs.door.tls == DoorTls::Fleet)
        };
        let mut facts = inventory.hosts.iter().filter_map(|(host, facts)| Some((host, facts.as_ref().ok()?)));
        let (host, _) = facts.find(|(_, facts)| has_certificate(facts))?;
        Some(format!(
            "{host} has a certificate of the fleet {fleet}, whose authority is on another machine: bring it from there with `bramble keys ca export` and `import`, or make all keys and certificates anew with `bramble apply --new-ca`"
        ))
    }

    /// Says what becomes of keys that another machine made for doors without certificates, where a plan changes hosts: none
    /// of them are here, so that others are made.
    pub(crate) fn warn_of_other_keys(&self, plan: &Plan, safe: &Safe) {
        let has_keys = |host: &HostPlan| host.before.as_ref().is_some_and(|runs| runs.fleet == plan.fleet);
        let is_here = safe.keys().is_some() || plan::door_tls(&self.manifest) == DoorTls::Fleet;
        if let Some(host) =
            plan.hosts.iter().find(|host| has_keys(host)).filter(|_| !is_here && !plan.is_empty())
        {
            output::say(&format!(
                "{} has keys of the fleet {}, and this machine has none: hosts that change get other ones, and clients lose theirs there. Bring them from the machine that made them with `bramble keys ca export` and `import`.",
                host.host, plan.fleet
            ));
        }
    }

    /// Writes the lock, whole or not at all.
    pub(crate) fn save_lock(&self) -> anyhow::Result<()> {
        let text = self.lock.render();
        self.remember_in_store();
        if fs::read_to_string(&self.lock_path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let unfinished = self.lock_path.with_extension("lock.new");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &self.lock_path))
            .with_context(|| format!("cannot write {}", self.lock_path.display()))
    }

    /// Says in the store that this lock names blobs of it, so that pruning keeps them.
    fn remember_in_store(&self) {
        let digests = self.lock.digests();
        let Ok(path) = std::path::absolute(&self.lock_path) else { return };
        if digests.is_empty() {
            return;
        }
        let remembered = Store::open(fetch::Settings::from_env().cache)
            .and_then(|store| store.remember_user(&User { path, digests }));
        if let Err(error) = remembered {
            // pruning then costs this fleet a second download, nothing else
            tracing::warn!(error = with_causes(&error), "the store does not know of this lock");
        }
    }

    /// Returns a `brambled` that runs on this machine, where it makes weights in a process of its own.
    pub(crate) fn brambled(&self, store: &Store) -> anyhow::Result<PathBuf> {
        brambled(self.environment, &self.bundles, store)
    }

    /// Returns the environment variables that have secrets.
    fn secret_variables(&self) -> Vec<String> {
        let named = self.manifest.hosts.values().filter_map(|spec| match &spec.via {
            Via::Upstream { key_env, .. } => key_env.clone(),
            Via::Ssh { .. } | Via::Local { .. } | Via::Board(_) => None,
        });
        named.chain([fetch::TOKEN_VARIABLE.to_owned()]).collect()
    }

    /// Returns the keys of servers that are not ours, from the environment variables that
    /// the manifest names.
    pub(crate) fn foreign_keys(&self) -> anyhow::Result<ForeignKeys> {
        let mut keys = ForeignKeys::new();
        for (host, spec) in &self.manifest.hosts {
            if let Via::Upstream { key_env: Some(name), .. } = &spec.via {
                let key = environment::named(name).with_context(|| {
                    format!("{host} wants its key from the environment variable {name}, which is not set")
                })?;
                keys.insert(host.to_string(), Zeroizing::new(key));
            }
        }
        Ok(keys)
    }
}

/// Returns a `brambled` that runs on this machine: that of its bundle, or the one beside this program.
pub(crate) fn brambled(
    environment: &Environment,
    bundles: &[Found],
    store: &Store,
) -> anyhow::Result<PathBuf> {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    // weights are made on the CPU
    let own = bundles.iter().filter(|found| system::IS_LINUX && found.bundle.machine == machine);
    match (own.min_by_key(|found| found.bundle.gpu), &environment.brambled) {
        (Some(found), _) => Ok(bundle::unpack(found, &store.root().join("programs"))?),
        (None, Some(beside)) => Ok(beside.clone()),
        (None, None) => {
            let folders: Vec<String> =
                environment.bundles.iter().map(|folder| folder.display().to_string()).collect();
            anyhow::bail!(
                "there is no bundle for this machine ({machine}), which must make weights, in {}: make one with scripts/bundle",
                folders.join(", ")
            )
        }
    }
}

/// Says why nothing can be asked of a host that is planned for.
pub(crate) fn not_bought(host: &HostName, board: &str) -> String {
    format!(
        "{host} is not bought yet: the manifest plans for a {board} there; give it an `address` once it is"
    )
}

/// Has the lock forget hosts that the manifest has by another name now: the same folder of the same machine. As hosts that
/// have left, they would be taken off, and the one of the new name with them.
fn forget_renamed(lock: &mut Lock, manifest: &Manifest, barred: &BTreeMap<HostName, HostName>) {
    let of_manifest: Vec<LockedHost> = manifest.hosts.values().filter_map(to_lock).collect();
    let is_same = |one: &LockedHost, other: &LockedHost| is_same_machine(one, other) && one.dir == other.dir;
    lock.hosts.retain(|name, locked| {
        manifest.hosts.contains_key(name)
            || barred.contains_key(name)
            || !of_manifest.iter().any(|now| is_same(now, locked))
    });
}

fn is_same_machine(one: &LockedHost, other: &LockedHost) -> bool {
    one.is_local == other.is_local
        && one.address == other.address
        && one.port.unwrap_or(22) == other.port.unwrap_or(22)
}

/// Returns what the lock remembers of a host, so that it can be reached after it has left the
/// manifest.
pub(crate) fn to_lock(spec: &HostSpec) -> Option<LockedHost> {
    let address = spec.via.address()?.to_owned();
    let ssh = match &spec.via {
        Via::Ssh { ssh, .. } => ssh.clone(),
        _ => SshOptions::default(),
    };
    Some(LockedHost {
        address,
        user: ssh.user,
        port: ssh.port,
        identity: ssh.identity,
        is_local: matches!(spec.via, Via::Local { .. }),
        dir: spec.dir.clone(),
        is_process: spec.supervisor == Supervisor::Process,
    })
}

/// Returns a host as the manifest would name it, from what the lock remembers.
fn from_lock(host: &LockedHost) -> HostSpec {
    let address = host.address.clone();
    let via = if host.is_local {
        Via::Local { address }
    } else {
        let ssh = SshOptions { user: host.user.clone(), port: host.port, identity: host.identity.clone() };
        Via::Ssh { address, ssh }
    };
    HostSpec {
        via,
        role: Role::Pi,
        labels: Vec::new(),
        dir: host.dir.clone(),
        supervisor: if host.is_process { Supervisor::Process } else { Supervisor::Auto },
        gpu: GpuMode::Off,
        wake: None,
    }
}

fn connect(spec: &HostSpec, settings: Settings, sudo: SudoPassword) -> anyhow::Result<Arc<dyn Connection>> {
    match (&spec.via, target(spec)) {
        (_, Some(target)) => Ok(Arc::new(Ssh::new(target, settings)?.with_sudo(sudo))),
        (Via::Local { .. }, _) => Ok(Arc::new(Local::new().with_sudo(sudo))),
        _ => anyhow::bail!("there is no way to log in"),
    }
}

/// Returns whom to log in to over SSH.
fn target(spec: &HostSpec) -> Option<Target> {
    let Via::Ssh { address, ssh } = &spec.via else { return None };
    Some(Target {
        address: address.clone(),
        user: ssh.user.clone(),
        port: ssh.port,
        identity: ssh.identity.as_ref().map(PathBuf::from),
    })
}

/// Learns what the manifest's models are. `pins` gets the sources that it did not have.
async fn describe(manifest: &Manifest, pins: &mut BTreeMap<String, Pinned>, fetcher: &Fetcher) -> Models {
    let mut models = BTreeMap::new();
    for (model, spec) in &manifest.models {
        let facts = describe_one(spec, pins, fetcher).await;
        let facts = match (facts, &spec.imatrix) {
            (Ok(facts), Some(imatrix)) => with_imatrix(facts, imatrix, fetcher).await,
            (facts, _) => facts,
        };
        models.insert(model.clone(), facts.map_err(|error| with_causes(error.as_ref())));
    }
    models
}

async fn describe_one(
    spec: &ModelSpec,
    pins: &mut BTreeMap<String, Pinned>,
    fetcher: &Fetcher,
) -> anyhow::Result<ModelFacts> {
    let source = &spec.source;
    let resolved = resolve(source)?;
    let key = source.to_string();
    let pinned = match pins.get(&key) {
        Some(pinned) => pinned.clone(),
        None => fetcher.pin(&resolved).await?,
    };
    // what was pinned offline may turn out not to be all of it: it stays once it has proven itself
    if !fetcher.is_offline() {
        pins.insert(key.clone(), pinned.clone());
    }
    fetcher.check_license(&pinned, spec.accept_license.as_deref())?;
    let facts = read_facts(&pinned, fetcher).await?;
    pins.insert(key, pinned);
    Ok(facts)
}

/// Keeps what a model is, for plans to find.
pub(crate) fn keep_facts(store: &Store, facts: &ModelFacts) -> anyhow::Result<()> {
    let path = facts_path(store, &facts.source)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let kept = fs::create_dir_all(folder).and_then(|()| fs::write(&path, serde_json::to_vec(facts)?));
    kept.with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what a pinned source is, from its headers, or from what was kept of them.
pub(crate) async fn read_facts(pinned: &Pinned, fetcher: &Fetcher) -> anyhow::Result<ModelFacts> {
    let kept = facts_path(fetcher.store(), pinned)?;
    if let Ok(text) = fs::read(&kept)
        && let Ok(facts) = serde_json::from_slice::<ModelFacts>(&text)
        && facts.source == *pinned
    {
        return Ok(facts);
    }
    let raw = fetcher.describe(pinned).await?;
    let facts = match &raw.header {
        RawHeader::Checkpoint { config, shards } => {
            let tokenizer = convert::TokenizerFiles::new(raw.small.iter().cloned());
            ModelFacts::from_headers(pinned.clone(), config, shards, &tokenizer)?
        }
        RawHeader::Gguf { header } => ModelFacts::from_gguf(pinned.clone(), header)?,
    };
    // only a cache: a run that cannot write it is slower, not wrong
    drop(keep_facts(fetcher.store(), &facts));
    Ok(facts)
}

/// Reads the importance matrix that quants are to be made with, and holds it to the model.
async fn with_imatrix(facts: ModelFacts, imatrix: &Imatrix, fetcher: &Fetcher) -> anyhow::Result<ModelFacts> {
    let file = fetcher.pin_file(&imatrix.path).await;
    let file = file.with_context(|| format!("cannot use the importance matrix of line {}", imatrix.line))?;
    let checked = weights::check_imatrix(&fetcher.find_file(&file).await?, facts.shapes());
    checked.with_context(|| format!("cannot use the importance matrix of line {}", imatrix.line))?;
    Ok(ModelFacts { imatrix: Some(file), ..facts })
}

/// Returns the source that the catalog has for a name of it; of differences, that of either part.
pub(crate) fn resolve(source: &SourceRef) -> Result<SourceRef, catalog::Error> {
    Ok(match source {
        SourceRef::Catalog(name) => catalog::find(name)?.source.clone(),
        SourceRef::Delta { base, delta } => {
            SourceRef::Delta { base: Box::new(resolve(base)?), delta: Box::new(resolve(delta)?) }
        }
        other => other.clone(),
    })
}

/// Returns where the facts of a pinned source are kept.
fn facts_path(store: &Store, pinned: &Pinned) -> anyhow::Result<PathBuf> {
    let key = serde_json::to_vec(&(pinned, convert::VERSION, env!("CARGO_PKG_VERSION")))?;
    Ok(store.root().join("facts").join(format!("{}.json", crate::ids::Digest::of(&key))))
}

/// Returns who is barred, and as whom: hosts that were revoked, and what the manifest has under another name at the address
/// of such a one.
fn barred(safe: &Safe, lock: &Lock, manifest: &Manifest) -> BTreeMap<HostName, HostName> {
    let mut barred = BTreeMap::new();
    for host in safe.barred() {
        let known = lock.hosts.get(&host);
        let is_there = |spec: &HostSpec| {
            to_lock(spec).zip(known).is_some_and(|(now, known)| is_same_machine(&now, known))
        };
        let others = manifest.hosts.iter().filter(|(_, spec)| is_there(spec));
        barred.extend(others.map(|(other, _)| (other.clone(), host.clone())));
        barred.insert(host.clone(), host);
    }
    barred
}

fn refusal_of_barred(host: &HostName, is_in_manifest: bool) -> ProbeFailure {
    let or_without = if is_in_manifest { ", or take it out of the manifest" } else { "" };
    let message = format!(
        "its certificate was revoked, and whoever has its disk may be who answers there, so that nobody logs in; `bramble keys readmit {host}` once it is yours again or another machine is in its place{or_without}"
    );
    ProbeFailure { message, is_transient: false, takes_password: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_got_another_name_has_not_left_the_manifest() {
        let text = "bramble: 1\nfleet: home\nmodels:\n  chat: { source: \"file:./none\" }\nhosts:\n  barn: { address: 10.0.0.2 }\n  \
            loft: { address: 10.0.0.3, dir: /srv/loft }\ndeploy:\n  - { model: chat, on: [barn, loft] }\n";
        let manifest = manifest::parse_bytes("fleet.yaml", text.as_bytes()).unwrap();
        let mut lock = Lock::new("home".parse().unwrap());
        let at = |address: &str, dir: Option<&str>| LockedHost {
            address: address.to_owned(),
            dir: dir.map(str::to_owned),
            ..LockedHost::default()
        };
        let known = [
            ("shed", at("10.0.0.2", None)),
            ("cellar", at("10.0.0.4", None)),
            // what is in another folder is not what goes by the new name
            ("attic", at("10.0.0.3", None)),
            ("barn", at("10.0.0.2", None)),
        ];
        lock.hosts.extend(known.map(|(name, host)| (name.parse().unwrap(), host)));
        forget_renamed(&mut lock, &manifest, &BTreeMap::new());
        let left: Vec<&str> = lock.hosts.keys().map(HostName::as_str).collect();
        assert_eq!(left, ["attic", "barn", "cellar"]);
    }

    #[test]
    fn a_host_that_is_barred_is_so_under_another_name_too() {
        let text = "bramble: 1\nfleet: home\nmodels:\n  chat: { source: \"file:./none\" }\nhosts:\n  garden: { address: 10.0.0.2 }\n  \
            loft: { address: 10.0.0.3 }\ndeploy:\n  - { model: chat, on: [garden, loft] }\n";
        let manifest = manifest::parse_bytes("fleet.yaml", text.as_bytes()).unwrap();
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let mut lock = Lock::new("home".parse().unwrap());
        let at = |address: &str| LockedHost { address: address.to_owned(), ..LockedHost::default() };
        lock.hosts.extend([(host("shed"), at("10.0.0.2")), (host("attic"), at("10.0.0.9"))]);
        let state = tempfile::tempdir().unwrap();
        let mut safe = Safe::open(state.path(), &manifest.fleet).unwrap();
        safe.complete(&[host("shed")], DoorTls::Fleet, 0).unwrap();
        safe.revoke(&host("shed")).unwrap();
        let barred = barred(&safe, &lock, &manifest);
        assert_eq!(barred, [("garden", "shed"), ("shed", "shed")].map(|(a, b)| (host(a), host(b))).into());
        // and it stays known
        forget_renamed(&mut lock, &manifest, &barred);
        assert!(lock.hosts.contains_key(&host("shed")));
    }
}
