//! What one host shall run: the contract between the plan that decides it, the
//! install room that lays it out, and the daemons that read it.
//!
//! A [`Definition`] is stored as `generations/<n>/definition.json`. It holds no
//! number, no time and no secret, so that two are equal exactly when a host that runs
//! one needs nothing done to run the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ids::{Digest, FleetName, Generation, HostName, Mac, ModelName};
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

/// The version of the stored form.
pub const FORMAT: u32 = 1;

/// Everything that one generation runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// The fleet that the host belongs to.
    pub fleet: FleetName,
    /// The host's name in the fleet.
    pub host: HostName,
    /// The bundle whose `brambled` runs.
    pub program: Program,
    /// One engine process for each, sorted by model.
    pub engines: Vec<EngineSpec>,
    /// The one door for clients.
    pub door: DoorSpec,
}

/// A bundle: `brambled` with the shared libraries it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The SHA-256 of the bundle's archive.
    pub digest: Digest,
    /// The version of Bramble in it.
    pub version: String,
    /// What its llama.cpp speaks to graphics processors; none where it computes on the CPU alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuApi>,
}

/// What llama.cpp speaks to a graphics processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuApi {
    /// NVIDIA's own.
    Cuda,
    /// The one of all makers.
    Vulkan,
}

impl GpuApi {
    /// Returns its name, as bundles, manifests and cargo's features have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
        }
    }
}

/// What a bundle says of itself, in `<target>.json` or `<target>-<gpu>.json` beside the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The version of this form: 1.
    pub format: u32,
    /// The target triple: `aarch64-unknown-linux-gnu`.
    pub target: String,
    /// The kernel's name of that machine: `aarch64`.
    pub machine: String,
    /// The archive's file name, in the same folder.
    pub file: String,
    /// The SHA-256 of the archive.
    pub digest: Digest,
    /// The size of the archive.
    pub bytes: Bytes,
    /// The size of what it unpacks to.
    pub unpacked_bytes: Bytes,
    /// The version of Bramble in it.
    pub version: String,
    /// The oldest glibc that it runs on: `2.36`.
    pub glibc: String,
    /// What its llama.cpp speaks to graphics processors; none where it computes on the CPU alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuApi>,
}

impl Bundle {
    /// Returns the program that a generation names.
    pub fn program(&self) -> Program {
        Program { digest: self.digest, version: self.version.clone(), gpu: self.gpu }
    }

    /// Returns the glibc as numbers to compare; `None` if the text is not `MAJOR.MINOR`.
    pub fn glibc_version(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.glibc.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// One model, as one engine process serves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineSpec {
    /// The name that clients use.
    pub model: ModelName,
    /// The weights.
    pub weights: Weights,
    /// Tokens that the model accepts, per slot.
    pub context: u32,
    /// Requests that are served at the same time.
    pub slots: u32,
    /// Threads for decoding and prompts.
    pub threads: u32,
    /// Prompt tokens computed at once (llama.cpp's `n_ubatch`).
    pub micro_batch: u32,
    /// How the weights come into memory.
    pub load: LoadMode,
    /// Whether weights are copied into the CPU's own layout while loading: faster
    /// prompts on CPUs with dot products, for a second copy in memory.
    pub repack: bool,
    /// How keys and values are held.
    #[serde(default)]
    pub kv: KvType,
    /// The most memory that the plan expects it to hold, mapped weights included; 0 where no plan has counted.
    #[serde(default)]
    pub need: Bytes,
    /// Whether prompts that were computed are kept on the disk over a restart.
    #[serde(default)]
    pub keep_prompts: bool,
    /// The speed that the plan expects; deadlines scale with it.
    pub pace: Pace,
}

impl EngineSpec {
    /// Returns it without the speed that is expected, which is nothing to the engine itself: what remains is what it runs as.
    #[must_use]
    pub fn without_pace(&self) -> Self {
        let (none, is_guess) = (TokensPerSec(0.0), false);
        Self { pace: Pace { prompt: none, answer: none, load_seconds: 0.0, is_guess }, ..self.clone() }
    }
}

/// The weights of a model, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// How they are made ([`crate::source::Recipe::digest`]).
    pub recipe: Digest,
    /// The SHA-256 of the GGUF. None in a plan whose conversion has not run yet; always
    /// there in an installed generation.
    pub digest: Option<Digest>,
    /// The size of the GGUF. Exact once `digest` is there, else predicted.
    pub bytes: Bytes,
    /// The quant; none for a GGUF that was taken as it is.
    pub quant: Option<Quant>,
    /// The architecture as GGUF names it: `llama`.
    pub architecture: String,
}

impl Weights {
    /// Returns whether these are the same bytes: by recipe, since it fixes them.
    pub fn is_same(&self, other: &Self) -> bool {
        self.recipe == other.recipe
    }

    /// Returns the quant's name, or `as is`.
    pub fn quant_name(&self) -> &'static str {
        self.quant.map_or("as is", Quant::name)
    }
}

/// How weights come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadMode {
    /// The file is mapped: pages are shared with the page cache and may be dropped.
    Mmap,
    /// The file is read into memory of the process.
    Read,
}

/// How keys and values of the context are held in memory.
///
/// Smaller blocks than those of `Q8_0` are left out: what they cost in quality is not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// Two bytes a value.
    #[default]
    F16,
    /// 34 bytes for 32 values. Wants flash attention and heads whose widths are multiples of 32.
    Q8_0,
}

/// Expected speed, to two significant digits so that a plan is stable.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Prompt tokens per second.
    pub prompt: TokensPerSec,
    /// Answer tokens per second.
    pub answer: TokensPerSec,
    /// Seconds to load the weights.
    pub load_seconds: f64,
    /// Whether nothing is known of such a host: these are the slowest to expect then, and foretell nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_guess: bool,
}

/// What the router on a host does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoorSpec {
    /// The TCP port, on all addresses.
    pub port: u16,
    /// What is spoken there.
    #[serde(default)]
    pub tls: DoorTls,
    /// Who may answer, sorted by name.
    pub upstreams: Vec<UpstreamSpec>,
    /// One for each model that clients may ask for here, sorted by model.
    pub routes: Vec<RouteSpec>,
}

/// What a door speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoorTls {
    /// Plain HTTP.
    #[default]
    Off,
    /// HTTPS, with a certificate of the fleet's authority ([`Secrets::identity`]).
    Fleet,
}

/// One that answers requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamSpec {
    /// `local`, or the host's name in the manifest. Replies name it.
    pub name: String,
    /// How it is reached.
    pub kind: UpstreamKind,
    /// How the machine is woken, where it sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<WakeSpec>,
}

/// How a machine that sleeps is woken: by a magic packet on the local network (Wake-on-LAN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeSpec {
    /// The hardware address of its network card.
    pub mac: Mac,
    /// How many seconds a request that nobody else can answer waits for it.
    pub wait_seconds: u32,
}

/// How an upstream is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum UpstreamKind {
    /// The engines of this host, over their Unix sockets ([`Layout::engine_socket`]).
    Local,
    /// The door of another host of the fleet. Over `https` it must be the host of the upstream's name, whatever its
    /// address, and our certificate opens it; over `http`, our peer key does.
    Host {
        /// `https://ADDRESS:PORT` or `http://ADDRESS:PORT`, without a path.
        url: String,
    },
    /// A server that is not ours, with the OpenAI API.
    Foreign {
        /// The base URL, up to and with `/v1`.
        url: String,
        /// The name of its key in [`Secrets::foreign_keys`], where it wants one.
        key: Option<String>,
    },
}

/// Who answers for one model, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// The name that clients use.
    pub model: ModelName,
    /// The upstreams to try, first choice first.
    pub order: Vec<Hop>,
    /// A local engine with more than this many waiting requests is passed over.
    pub overflow_queue: Option<u32>,
    /// Whoever is expected to begin its answer later than in so many seconds, by those that wait and by the prompt, is
    /// passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow_wait_seconds: Option<u32>,
    /// Prompts of more tokens than this go to desktops first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow_prompt_tokens: Option<u32>,
    /// Those of `order` that may go on with an answer that broke off. None: every engine of the fleet, and no server that
    /// is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_on: Option<Vec<String>>,
    /// How long the first token may take, in seconds, for a prompt of no length; the
    /// upstream's pace adds to it.
    pub first_token_seconds: f64,
}

/// One choice of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// The upstream's name.
    pub upstream: String,
    /// The model's name there.
    pub model: String,
    /// What it answers with there, for the reply's headers, where that is known.
    pub quant: Option<String>,
    /// The planned pace there, where that is known.
    pub pace: Option<Pace>,
    /// Whether it answers for small hosts ([`RouteSpec::overflow_prompt_tokens`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_desktop: bool,
    /// What it cannot do there, where that is known. Engines of ours say so themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Capability>,
}

/// What not every model or server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Call tools.
    Tools,
    /// Keep to a JSON Schema, or to JSON at all.
    JsonSchema,
    /// Tell how likely tokens were.
    Logprobs,
    /// Turn texts into vectors.
    Embeddings,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tools, Self::JsonSchema, Self::Logprobs, Self::Embeddings];

    /// Returns the word for it, as manifests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::JsonSchema => "json_schema",
            Self::Logprobs => "logprobs",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Keys of servers that are not ours, by the name in [`UpstreamKind::Foreign`].
pub type ForeignKeys = BTreeMap<String, Zeroizing<String>>;

/// Secrets of a generation: `generations/<n>/secrets.json`, mode 0600. They travel over
/// the SSH channel only and stand in no plan, lock or log.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The keys that open this door.
    pub keys: Vec<KeyEntry>,
    /// The key that this host shows to the doors of other hosts where they speak plain HTTP; empty where they do not.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub peer_key: Zeroizing<String>,
    /// Who this host is to others, where its door speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Keys of servers that are not ours.
    pub foreign_keys: ForeignKeys,
}

fn is_empty(key: &Zeroizing<String>) -> bool {
    key.is_empty()
}

impl Secrets {
    /// Returns what tells these secrets from others, for a plan that must not see them. Keys of servers that are not
    /// ours are left out: they are known to an apply only, and the rest has keys of 256 random bits in it, so that
    /// nobody finds anything out by guessing.
    pub fn digest(&self) -> Digest {
        let own = Self { foreign_keys: ForeignKeys::new(), ..self.clone() };
        // texts, digests and lists of them always become JSON
        Digest::of(&Zeroizing::new(serde_json::to_vec(&own).unwrap_or_default()))
    }
}

/// Who a host is, by certificate: one key for its door and for its requests to other hosts.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate of the fleet's authority, in PEM: who else belongs to the fleet is what it has signed.
    pub authority: String,
    /// The host's own certificate, in PEM.
    pub certificate: String,
    /// The key to it, in PEM.
    pub key: Zeroizing<String>,
    /// Keys of hosts that no longer belong to the fleet, whatever certificate they show, by the SHA-256 of the public key.
    pub revoked: BTreeSet<Digest>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} revoked)", self.revoked.len())
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} keys)", self.keys.len())
    }
}

/// A key that opens the door, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// A name to show and to revoke by.
    pub id: String,
    /// The SHA-256 of the key. Keys are 256 random bits, so no slow hash is needed.
    pub sha256: Digest,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// How much it may ask of one door.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

/// How much a key may ask of one door. Doors do not tell each other what was asked of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Tokens of answers in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
}

impl Limits {
    /// Returns whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask models.
    Infer,
    /// Read the status.
    Status,
    /// Ask models as another host of the fleet: answered by the local engines only, so
    /// that a request is never passed around in a circle.
    Peer,
}

/// Where things are on a host. Plain path arithmetic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The place on a host where Bramble lives unless the manifest says otherwise.
    pub const DEFAULT_ROOT: &'static str = "/var/lib/bramble";

    /// The same for a login that cannot become root, below its home.
    pub const USER_ROOT: &'static str = ".local/share/bramble";

    /// The longest path of a Unix socket on Linux, without its closing zero.
    pub const LONGEST_SOCKET: usize = 107;

    /// The variable of the environment that has an engine enclose itself, where nothing else does.
    pub const ENCLOSE: &'static str = "BRAMBLE_ENCLOSE";

    /// What the names of folders begin with in which engines keep prompts.
    pub const KEPT_PROMPTS: &'static str = "prompts-";

    /// Takes `root`, which is absolute.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the folder that everything is under.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the sealed blob with this digest.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.to_string())
    }

    /// Returns the unfinished upload of that blob, on the same filesystem.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.to_string())
    }

    /// Returns the folder with the lists of the sealed blobs' chunks.
    pub fn chunks(&self) -> PathBuf {
        self.root.join("chunks")
    }

    /// Returns the folder that a bundle is unpacked to; `brambled` and `lib/` are in it.
    pub fn program(&self, digest: &Digest) -> PathBuf {
        self.root.join("programs").join(digest.to_string())
    }

    /// Returns the folder of one install.
    pub fn generation(&self, number: Generation) -> PathBuf {
        self.root.join("generations").join(number.to_string())
    }

    /// Returns the mark of a host whose engines take no new work, whatever the generation.
    pub fn cordon(&self) -> PathBuf {
        self.root.join("cordon.json")
    }

    /// Returns the link to the generation that is in force.
    pub fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    /// Returns the program that the generation under `generation_dir` runs.
    pub fn brambled(generation_dir: &Path) -> PathBuf {
        generation_dir.join("program/brambled")
    }

    /// Returns the definition of the generation under `generation_dir`.
    pub fn definition(generation_dir: &Path) -> PathBuf {
        generation_dir.join("definition.json")
    }

    /// Returns the secrets of the generation under `generation_dir`. Under the system's systemd only root reads
    /// them there, and the door is given a copy of the same name in its folder of credentials.
    pub fn secrets(generation_dir: &Path) -> PathBuf {
        generation_dir.join("secrets.json")
    }

    /// Returns the link to a model's weights in the generation under `generation_dir`.
    pub fn weights(generation_dir: &Path, model: &ModelName) -> PathBuf {
        generation_dir.join("models").join(format!("{model}.gguf"))
    }

    /// Returns the file that says which files the weights were when the generation under `generation_dir` was laid out.
    pub fn inodes(generation_dir: &Path) -> PathBuf {
        generation_dir.join("inodes.json")
    }

    /// Returns the folder of sockets, process ids and kept prompts; empty after a boot is fine.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Returns the Unix socket of a model's engine.
    pub fn engine_socket(&self, model: &ModelName) -> PathBuf {
        self.run_dir().join(format!("engine-{model}.sock"))
    }

    /// Returns the folder in which the engine of a model keeps prompts over a restart.
    pub fn kept_prompts(&self, model: &ModelName) -> PathBuf {
        self.run_dir().join(format!("{}{model}", Self::KEPT_PROMPTS))
    }

    /// Returns what the host was measured at by `brambled bench`.
    pub fn bench(&self) -> PathBuf {
        self.root.join("bench.json")
    }

    /// Returns who has the right to change the host ([`crate::lease`]).
    pub fn lease(&self) -> PathBuf {
        self.root.join("lease")
    }

    /// Returns the diary of what was done here.
    pub fn receipt(&self) -> PathBuf {
        self.root.join("receipt.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_was_installed_before_there_was_a_choice_holds_two_bytes_a_value() {
        let written = serde_json::json!({
            "model": "chat",
            "weights": {"recipe": Digest::of(b"r"), "digest": null, "bytes": 5, "quant": null, "architecture": "llama"},
            "context": 512, "slots": 1, "threads": 4, "micro_batch": 64, "load": "mmap", "repack": false,
            "pace": {"prompt": 1.0, "answer": 1.0, "load_seconds": 1.0},
        });
        let spec: EngineSpec = serde_json::from_value(written).expect("as it was written then");
        assert_eq!(spec.kv, KvType::F16);
        let again = serde_json::to_value(EngineSpec { kv: KvType::Q8_0, ..spec }).expect("plain values");
        assert_eq!(again["kv"], "q8_0");
    }
}
