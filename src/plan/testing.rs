//! A small fleet for tests: a Pi 5 with 8 GB (`attic`), a Pi 4 with 1 GB of which 220 MiB
//! are available (`shed`), and an x86 desktop (`desk`), with SmolLM2-135M on each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Inputs, Plan, Problem, make};
use crate::catalog::ModelFacts;
use crate::estimate::testing::{LLAMA32_1B, LLAMA32_3B, MISTRAL_7B, SMOLLM2_135M, TINYLLAMA, host, model};
use crate::facts::{Disk, HostFacts, Installed, Inventory, Privilege, ProbeFailure, Supervision};
use crate::generation::{Bundle, Definition};
use crate::ids::{Digest, Generation, HostName, ModelName};
use crate::lock::{Lock, Made};
use crate::manifest::{self, Manifest};
use crate::source::PinnedFile;
use crate::units::Bytes;

/// The manifest of the fleet, to change in one place.
pub(crate) const MANIFEST: &str = "\
bramble: 1
fleet: home
serve: { port: 8080, tls: off }
models:
  chat: { source: hf:org/chat, context: 1024 }
hosts:
  attic: { address: 10.0.0.11 }
  shed: { address: 10.0.0.12 }
  desk: { address: 10.0.0.1, connect: local, role: desktop, dir: /srv/bramble, supervisor: process }
deploy:
  - { model: chat, on: { role: pi } }
  - { model: chat, on: [desk] }
routes:
  chat: { order: [local, desk] }
";

/// Everything that a plan is made from, owned.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) manifest: Manifest,
    pub(crate) inventory: Inventory,
    pub(crate) models: BTreeMap<ModelName, Result<ModelFacts, String>>,
    pub(crate) lock: Lock,
    pub(crate) secrets: BTreeMap<HostName, Option<Digest>>,
    pub(crate) bundles: Vec<Bundle>,
    pub(crate) adopt: bool,
}

pub(crate) fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

pub(crate) fn bundle(machine: &str) -> Bundle {
    Bundle {
        format: 1,
        target: format!("{machine}-unknown-linux-gnu"),
        machine: machine.to_owned(),
        file: format!("{machine}.tar.gz"),
        digest: Digest::of(machine.as_bytes()),
        bytes: Bytes::mib(9),
        unpacked_bytes: Bytes::mib(27),
        version: "0.1.0".to_owned(),
        glibc: "2.36".to_owned(),
        gpu: None,
    }
}

pub(crate) fn bare(board: &str, board_name: &str, available: Bytes) -> HostFacts {
    let path = "/var/lib".to_owned();
    HostFacts {
        board_name: Some(board_name.to_owned()),
        glibc: Some((2, 36)),
        disk: Some(Disk {
            path,
            filesystem: None,
            free: Bytes::gib(20),
            total: Bytes::gib(29),
            medium: None,
            inodes_free: Some(1_000_000),
        }),
        ..host(board, available)
    }
}

fn desktop() -> HostFacts {
    let mut facts = bare("pi5-16gb", "", Bytes::gib(14));
    facts.machine = "x86_64".to_owned();
    (facts.board, facts.board_name, facts.page_size) = (None, None, Some(4096));
    facts.cpu.cores = 8;
    facts.cpu.features = ["sse4_2", "avx", "avx2", "fma", "f16c"].map(str::to_owned).into();
    facts.supervision = Supervision::Process;
    facts.privilege = Privilege::None;
    facts
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self::of(MANIFEST)
    }

    /// The fleet with one text of its manifest replaced.
    pub(crate) fn with(from: &str, to: &str) -> Self {
        let mut fleet = Self::new();
        fleet.change(from, to);
        fleet
    }

    /// Makes the fleet of a manifest whose hosts are among the three.
    pub(crate) fn of(text: &str) -> Self {
        let manifest = manifest::parse("fleet.yaml", text).unwrap();
        let facts = |name: &str| match name {
            "attic" => bare("pi5-8gb", "Raspberry Pi 5 Model B Rev 1.0", Bytes::mib(7300)),
            "shed" => bare("pi4-1gb", "Raspberry Pi 4 Model B Rev 1.5", Bytes::mib(220)),
            _ => desktop(),
        };
        let ours = ["attic", "shed", "desk"].map(name).into_iter();
        let hosts = ours.filter(|host| manifest.hosts.contains_key(host));
        let hosts = hosts.map(|host| (host.clone(), Ok(facts(host.as_str())))).collect();
        let mut fleet = Self {
            lock: Lock::new(manifest.fleet.clone()),
            secrets: BTreeMap::new(),
            adopt: false,
            inventory: Inventory { hosts },
            models: BTreeMap::new(),
            bundles: vec![bundle("aarch64"), bundle("x86_64")],
            manifest,
        };
        fleet.learn_models();
        fleet
    }

    /// Makes a fleet of so many hosts, of five boards by turns, and a desktop, with six models that go to
    /// every Pi, to a number of them, or to the desktop.
    pub(crate) fn of_many(hosts: usize) -> Self {
        let name_of = |n: usize| format!("h{n}");
        let line = |n: usize| format!("  {}: {{ address: 10.1.{}.{} }}\n", name_of(n), n / 250, n % 250 + 1);
        let count = (hosts / 3).max(1);
        let model = |name: &str| format!("  {name}: {{ source: hf:org/{name}, context: 2048 }}\n");
        let some = |name: &str| {
            format!("  - {{ model: {name}, on: {{ count: {count}, where: {{ role: pi }} }} }}\n")
        };
        let text = [
            MANIFEST.split("models:").next().unwrap_or_default().to_owned(),
            format!("models:\n{}", ["a", "b", "c", "d", "e", "f"].map(model).concat()),
            format!("hosts:\n{}", (0..hosts).map(line).collect::<String>()),
            "  desk: { address: 10.0.0.1, connect: local, role: desktop, dir: /srv/bramble, supervisor: process }\n".to_owned(),
            format!("deploy:\n  - {{ model: a, on: {{ role: pi }} }}\n{}", ["b", "c", "d", "e"].map(some).concat()),
            "  - { model: f, on: [desk] }\n".to_owned(),
        ]
        .concat();
        let mut fleet = Self::of(&text);
        let boards =
            [("pi4-2gb", 1500), ("pi4-4gb", 3300), ("pi4-8gb", 7200), ("pi5-4gb", 3500), ("pi5-8gb", 7300)];
        for n in 0..hosts {
            let (board, available) = boards[n % boards.len()];
            // no two hosts have quite the same left
            let facts = bare(board, "", Bytes::mib(available - (n as u64 * 7) % 200));
            fleet.inventory.hosts.insert(name(&name_of(n)), Ok(facts));
        }
        let sizes = [SMOLLM2_135M, TINYLLAMA, LLAMA32_1B, LLAMA32_1B, LLAMA32_3B, MISTRAL_7B];
        for (facts, widths) in fleet.models.values_mut().zip(sizes) {
            if let Ok(facts) = facts {
                *facts =
                    ModelFacts { source: facts.source.clone(), ..crate::estimate::testing::model(widths) };
            }
        }
        fleet
    }

    /// Replaces one text of the manifest, hosts and lock staying as they are.
    pub(crate) fn change(&mut self, from: &str, to: &str) {
        assert_eq!(MANIFEST.matches(from).count(), 1, "{from:?} names one place");
        self.manifest = manifest::parse("fleet.yaml", &MANIFEST.replace(from, to)).unwrap();
        self.learn_models();
    }

    fn learn_models(&mut self) {
        for name in self.manifest.models.keys() {
            let mut facts = model(SMOLLM2_135M);
            facts.source.uri = format!("hf:org/{name}@0123456789abcdef0123456789abcdef01234567");
            let bytes = Bytes(269_060_552);
            let path = "model.safetensors".to_owned();
            facts.source.files.push(PinnedFile { path, bytes, sha256: Digest::of(b"weights") });
            self.models.insert(name.clone(), Ok(facts));
        }
    }

    pub(crate) fn facts(&mut self, host: &str) -> &mut HostFacts {
        self.inventory.hosts.get_mut(&name(host)).unwrap().as_mut().unwrap()
    }

    /// Makes a host impossible to look at.
    pub(crate) fn lose(&mut self, host: &str) {
        let message = format!("{host} cannot be reached: No route to host");
        self.inventory
            .hosts
            .insert(name(host), Err(ProbeFailure { message, is_transient: true, takes_password: false }));
    }

    pub(crate) fn make(&self) -> (Plan, Vec<Problem>) {
        make(&Inputs {
            manifest: &self.manifest,
            inventory: &self.inventory,
            models: &self.models,
            lock: &self.lock,
            secrets: &self.secrets,
            bundles: &self.bundles,
            bundle_folders: &[PathBuf::from("/usr/share/bramble/bundles"), PathBuf::from("/home/pi/bundles")],
            converter: 1,
            adopt: self.adopt,
        })
    }

    /// Returns the plan of a fleet that has no problems.
    #[track_caller]
    pub(crate) fn plan(&self) -> Plan {
        let (plan, problems) = self.make();
        assert_eq!(problems, []);
        plan
    }

    /// Returns what is wrong, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.make().1.into_iter().map(|problem| problem.message).collect()
    }

    /// Makes the hosts and the lock what they are after `plan` was applied.
    pub(crate) fn applied(&mut self, plan: &Plan) {
        for artifact in &plan.artifacts {
            // what is made is never as long as was predicted to the byte
            let (digest, bytes) =
                (Digest::of(artifact.id.to_string().as_bytes()), artifact.bytes + Bytes(4321));
            let quant = artifact.recipe.quant;
            self.lock.made.entry(artifact.id).or_insert(Made { digest, bytes, quant });
        }
        for host in &plan.hosts {
            let Some(generation) = host.generation else { continue };
            let (definition, blobs) = self.with_content(&host.definition);
            let Ok(facts) = self.inventory.hosts.get_mut(&host.host).unwrap() else { continue };
            let mut installed = facts.installed.take().unwrap_or_else(|| Installed {
                current: None,
                pending: None,
                generations: Vec::new(),
                blobs: BTreeMap::new(),
                touched: BTreeSet::new(),
                programs: BTreeSet::new(),
                partials: BTreeMap::new(),
                reserved: BTreeMap::new(),
                services: BTreeMap::new(),
                memory: Bytes::ZERO,
                drift: Vec::new(),
                bench: None,
                secrets: None,
                measured: Vec::new(),
                cordon: None,
            });
            // what our engines hold is no longer available to others
            facts.memory.available = facts.memory.available + installed.memory - Bytes::mib(90);
            installed.memory = Bytes::mib(90);
            installed.programs.insert(definition.program.digest);
            installed.current = Some((generation, definition));
            installed.generations.push(generation);
            (installed.pending, installed.drift) = (None, Vec::new());
            installed.services.clear();
            installed.blobs.extend(blobs);
            facts.installed = Some(installed);
        }
    }

    /// Returns a definition as it lies on a host: through JSON, with the weights' digests.
    fn with_content(&self, definition: &Definition) -> (Definition, BTreeMap<Digest, Bytes>) {
        let mut definition = definition.clone();
        let mut blobs = BTreeMap::new();
        for engine in &mut definition.engines {
            let made = &self.lock.made[&engine.weights.recipe];
            (engine.weights.digest, engine.weights.bytes) = (Some(made.digest), made.bytes);
            blobs.insert(made.digest, made.bytes);
        }
        let text = serde_json::to_string(&definition).unwrap();
        (serde_json::from_str(&text).unwrap(), blobs)
    }

    /// Applies the plan of now.
    #[track_caller]
    pub(crate) fn apply(&mut self) -> Plan {
        let plan = self.plan();
        self.applied(&plan);
        plan
    }
}

/// Returns the generation that a plan gives to a host.
pub(crate) fn generation(plan: &Plan, host: &str) -> Option<Generation> {
    plan.host(&name(host)).unwrap().generation
}
