use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::facts::Stated;
use crate::generation::{Capability, GpuApi};
use crate::ids::{FleetName, HostName, Mac, ModelName};
use crate::quant::Quant;
use crate::source::SourceRef;
use crate::units::Bytes;

/// A whole manifest, with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who these hosts belong to.
    pub fleet: FleetName,
    /// How doors are opened.
    pub serve: Serve,
    /// How fast changes spread.
    pub rollout: Rollout,
    /// The models by name.
    pub models: BTreeMap<ModelName, ModelSpec>,
    /// The hosts by name, `defaults` already applied.
    pub hosts: BTreeMap<HostName, HostSpec>,
    /// Which model goes where.
    pub deploy: Vec<Deploy>,
    /// Who answers for a model; a model without an entry is answered by the hosts that have it.
    pub routes: BTreeMap<ModelName, RoutePolicy>,
}

/// `ssh: { user, port, identity }`; anything else comes from `~/.ssh/config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshOptions {
    /// The login.
    pub user: Option<String>,
    /// The TCP port.
    pub port: Option<u16>,
    /// A private key file, `~` allowed.
    pub identity: Option<String>,
}

/// The port of doors where the manifest names none.
pub(super) const PORT: u16 = 8443;

/// How many hosts programs are brought to together, and may be without their engine, where the manifest does not say.
pub(super) const MAX_PARALLEL: u32 = 4;
pub(super) const MAX_UNAVAILABLE: u32 = 1;

/// `serve: { port, tls }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// The TCP port of every door. Default 8443.
    pub port: u16,
    /// How the doors are secured.
    pub tls: Tls,
}

/// `tls: fleet | files | off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Certificates of the fleet's own CA.
    Fleet,
    /// Certificates from files. Not yet: refused.
    Files,
    /// Plain HTTP; keys and prompts are readable on the network.
    Off,
}

/// `rollout: { max_parallel, max_unavailable, bandwidth }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Hosts that programs are brought to, and laid out on, at the same time. Default 4.
    pub max_parallel: u32,
    /// Hosts that may be without their local engine at the same time. Default 1.
    pub max_unavailable: u32,
    /// How fast weights move at most.
    pub bandwidth: Caps,
}

/// `bandwidth: { per_host, total }`, in bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// What each host takes in, from whomever.
    pub per_host: Option<Bytes>,
    /// What leaves the operator's machine, for all hosts and files together.
    pub total: Option<Bytes>,
}

/// One of `models`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Where the weights come from.
    pub source: SourceRef,
    /// Which quant. Default `auto`.
    pub quant: QuantChoice,
    /// What `auto` leans to. Default `balanced`.
    pub prefer: Prefer,
    /// Tokens that the model must accept, per slot. Default 4096, or what the model was trained for if less.
    pub context: Option<u32>,
    /// Requests served at the same time. Default 1.
    pub slots: u32,
    /// Whether prompts that were computed are kept on the host's disk over a restart. Default no.
    pub keep_prompts: bool,
    /// What `auto` never goes below.
    pub floor: Floor,
    /// Whether a GGUF that is quantized already may be quantized again. Default no.
    pub requantize: bool,
    /// The importance matrix that quants are made with.
    pub imatrix: Option<Imatrix>,
    /// The licence that the user says yes to.
    pub accept_license: Option<String>,
    /// The line of the manifest that says the quant, or that the model begins on, for messages.
    pub line: usize,
}

/// `imatrix: PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imatrix {
    /// The file, relative to the manifest.
    pub path: String,
    /// The line of the manifest that it stands on, for messages.
    pub line: usize,
}

/// `quant: auto | NAME | [NAME, …]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantChoice {
    /// Chosen for each host.
    Auto,
    /// The first of these that fits, best first.
    OneOf(Vec<Quant>),
}

/// `prefer: balanced | quality | speed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The fastest of those with good quality.
    Balanced,
    /// One step better than balanced.
    Quality,
    /// One step smaller than balanced.
    Speed,
}

/// `floor: { tokens_per_second, quality }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Answer tokens per second. Default 0.5.
    pub tokens_per_second: f64,
    /// The smallest quant. Default `Q4_0`.
    pub quality: Quant,
}

/// One of `hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSpec {
    /// How the host is reached.
    pub via: Via,
    /// What it is for. Default `pi`, and `desktop` for an upstream.
    pub role: Role,
    /// Free words to select by.
    pub labels: Vec<String>,
    /// Where Bramble lives on it, absolute. Default `/var/lib/bramble`, and
    /// `~/.local/share/bramble` for a login that cannot become root.
    pub dir: Option<String>,
    /// What supervises services on it. Default `auto`.
    pub supervisor: Supervisor,
    /// Whether its engines use its graphics processors. Default `off`.
    #[serde(default, skip_serializing_if = "GpuMode::is_off")]
    pub gpu: GpuMode,
    /// How it is woken, where it sleeps.
    pub wake: Option<Wake>,
}

/// `gpu: off | auto | vulkan | cuda`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GpuMode {
    /// The CPU computes.
    #[default]
    Off,
    /// What the graphics processor speaks and there is a bundle for, CUDA before Vulkan.
    Auto,
    /// Vulkan.
    Vulkan,
    /// CUDA.
    Cuda,
}

impl GpuMode {
    /// Returns what may be spoken to the graphics processors, first choice first.
    pub const fn apis(self) -> &'static [GpuApi] {
        match self {
            Self::Off => &[],
            Self::Auto => &[GpuApi::Cuda, GpuApi::Vulkan],
            Self::Vulkan => &[GpuApi::Vulkan],
            Self::Cuda => &[GpuApi::Cuda],
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// `supervisor: auto | systemd | process`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Supervisor {
    /// systemd where it runs, else Bramble's own.
    Auto,
    /// systemd.
    Systemd,
    /// Bramble's own small supervisor, as a plain process of whoever Bramble is on the host: root, or the login.
    Process,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// `address` over the system's `ssh`.
    Ssh {
        /// A name or address, also an alias of `~/.ssh/config`.
        address: String,
        /// Options of this host over those of `defaults`.
        ssh: SshOptions,
    },
    /// `connect: local`: the machine that `bramble` runs on, known to the others by `address`.
    Local {
        /// A name or address that other hosts reach it by.
        address: String,
    },
    /// `board`: planned for, not bought yet.
    Board(Stated),
    /// `upstream`: a server that is not ours; no SSH.
    Upstream {
        /// The base URL, up to and with `/v1`.
        url: String,
        /// The environment variable with its key (`key: env:NAME`).
        key_env: Option<String>,
        /// Its names for our models.
        models: BTreeMap<ModelName, String>,
        /// What it cannot do.
        lacks: Vec<Capability>,
    },
}

impl Via {
    /// Returns the address that other hosts reach this one by, where it is one of ours.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Ssh { address, .. } | Self::Local { address } => Some(address),
            Self::Board { .. } | Self::Upstream { .. } => None,
        }
    }
}

/// `role: pi | desktop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A small host.
    Pi,
    /// A big one, that answers for the small ones.
    Desktop,
}

/// `wake: { mac, wait_seconds }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// The hardware address of its network card.
    pub mac: Mac,
    /// How many seconds a request that nobody else can answer waits for it. Default 60.
    pub wait_seconds: u32,
}

/// One of `deploy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// The model.
    pub model: ModelName,
    /// The hosts.
    pub on: On,
    /// The line of the manifest that it stands on, for messages; 1 is the first.
    pub line: usize,
}

/// `on:` names, a selection, or a number of hosts of a selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// These hosts.
    Hosts(Vec<HostName>),
    /// Every host that matches.
    Every(Selector),
    /// This many of those that match (`{ count, where }`), beside the hosts that other deploys name
    /// for the model.
    Count(u32, Selector),
}

/// `{ role, labels }`: a host matches when it has the role, if one is named, and all labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// The role.
    pub role: Option<Role>,
    /// All of these.
    pub labels: Vec<String>,
}

impl Manifest {
    /// Returns the hosts that Bramble is installed on, by name.
    pub fn ours(&self) -> impl Iterator<Item = (&HostName, &HostSpec)> {
        self.hosts.iter().filter(|(_, spec)| spec.via.address().is_some())
    }

    /// Returns a manifest with no models and no hosts, and every default: for what is asked before there is one.
    pub fn without_hosts(fleet: FleetName) -> Self {
        Self {
            fleet,
            serve: Serve { port: PORT, tls: Tls::Fleet },
            rollout: Rollout {
                max_parallel: MAX_PARALLEL,
                max_unavailable: MAX_UNAVAILABLE,
                bandwidth: Caps::default(),
            },
            models: BTreeMap::new(),
            hosts: BTreeMap::new(),
            deploy: Vec::new(),
            routes: BTreeMap::new(),
        }
    }
}

impl HostSpec {
    /// Returns whether Bramble runs there, or will: everything but an upstream.
    pub fn is_ours(&self) -> bool {
        !matches!(self.via, Via::Upstream { .. })
    }
}

impl Selector {
    /// Returns whether `host` matches. A server that is not ours never does.
    pub fn matches(&self, host: &HostSpec) -> bool {
        host.is_ours()
            && self.role.is_none_or(|role| role == host.role)
            && self.labels.iter().all(|label| host.labels.contains(label))
    }
}

/// One of `routes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutePolicy {
    /// `local` and names of hosts, first choice first.
    pub order: Vec<String>,
    /// Default `local-first`.
    pub mode: RouteMode,
    /// A local queue longer than this sends new requests on (`overflow: { queue: N }`).
    pub overflow_queue: Option<u32>,
    /// So does an answer that is expected to begin later than in so many seconds (`wait_seconds`).
    pub overflow_wait_seconds: Option<u32>,
    /// Prompts of more tokens than this go to desktops first (`prompt_tokens`).
    pub overflow_prompt_tokens: Option<u32>,
    /// Those of `order` that may continue an answer that broke off; none means every host of ours.
    pub continue_on: Option<Vec<String>>,
    /// The hosts that offer this route (`from`); none means all of ours.
    pub from: Option<Selector>,
}

/// `mode: local-first | desktop-first | local-only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteMode {
    /// As `order` says.
    LocalFirst,
    /// Desktops first while they are awake.
    DesktopFirst,
    /// The local engine or an error.
    LocalOnly,
}
