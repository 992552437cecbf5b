use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::ids::{FleetName, Generation, HostName, ModelName};
use crate::quant::Quant;
use crate::signature::PublicKey;
use crate::source::SourceRef;
use crate::units::Bytes;

/// The manifest where none is named.
pub(crate) const DEFAULT_MANIFEST: &str = "fleet.yaml";

/// Deploy language models to a fleet of Raspberry Pis
#[derive(Debug, Parser)]
#[command(name = "bramble", version, about, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The manifest
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_MANIFEST)]
    pub(crate) file: PathBuf,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// How hosts are logged in to: of commands that do.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Login {
    /// Take host keys that are not known yet, and remember them
    #[arg(long)]
    pub(crate) accept_new_host_keys: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a first manifest from what is found here and on the network
    Init(Init),
    /// Give a flashed SD card a name, a login and a network, so that its Pi can be reached from its first boot on
    Sdcard(Sdcard),
    /// Check the manifest, without asking any host
    Check(Check),
    /// Show what apply would do, and why
    Plan(Plan),
    /// Bring the models' weights to this machine, ahead of an apply
    Fetch(Fetch),
    /// Make GGUFs of a checkpoint, in every quant asked for
    Convert(Convert),
    /// Make GGUFs of a GGUF, in every quant asked for
    Quantize(Quantize),
    /// Bring a file to hosts, ahead of an apply
    Push(Push),
    /// Make the hosts run what the manifest says
    Apply(Apply),
    /// Show what the hosts run, and how they are
    Status(Status),
    /// Look at hosts, or this machine, and say what to do about them
    Doctor(Doctor),
    /// Measure what hosts can do, for the plans to come
    Bench(Bench),
    /// Try other quants on hosts, and say which does best there
    Tune(Tune),
    /// Ask a host's model, and say who answered
    Chat(Chat),
    /// Show the fleet in a browser, with a chat
    Ui(Ui),
    /// Show what the services of hosts say
    Logs(Logs),
    /// Start engines anew, and prove that they work
    Restart(Restart),
    /// Have hosts take no new work: it goes to others, and what runs ends
    Cordon(Cordon),
    /// Have hosts take new work again
    Uncordon(Cordon),
    /// Make hosts run the generation before
    Rollback(Rollback),
    /// Remove from hosts what nothing needs any more
    Prune(Prune),
    /// Take everything of Bramble off hosts
    Remove(Remove),
    /// Forget hosts that have left the manifest and will never come back
    Forget(Forget),
    /// Look after the keys of clients, and the certificates of hosts
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Look after the weights on this machine
    #[command(subcommand)]
    Store(StoreVerb),
    /// Carry what a site without the internet needs, in one signed file
    #[command(subcommand)]
    Bundle(BundleVerb),
    /// List the well-known models, and what they take
    Catalog,
    /// Show how a model would do on boards, before there is a manifest
    Fit(Fit),
    /// Print the manifest's JSON Schema, for editors
    Schema(Schema),
    /// Print what completes words of the command line in a shell
    Completions(Completions),
    /// Write a manual page for each command
    Man(Man),
}

#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// A machine to take, and no others that are found; may be given more than once
    #[arg(long = "host", value_name = "[USER@]ADDRESS[:PORT]")]
    pub(crate) hosts: Vec<String>,
    /// A name for your hosts: one that another fleet has is refused
    #[arg(long, value_name = "NAME", default_value = "home")]
    pub(crate) fleet: FleetName,
    /// Leave this machine out: nobody answers when a Pi cannot
    #[arg(long)]
    pub(crate) no_desktop: bool,
    /// Look neither into ~/.ssh/config nor on the network
    #[arg(long)]
    pub(crate) offline: bool,
    /// Write over a manifest that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask: take what looks like a Raspberry Pi, and this machine
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Sdcard {
    /// The folder that the card's first partition is mounted at (bootfs, system-boot)
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The host's name, in the manifest and on the network: NAME.local
    #[arg(long, value_name = "NAME")]
    pub(crate) name: HostName,
    /// Who logs in, with sudo; the manifest's for this host, or pi, where it is not given
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The public key that logs in, in place of the one that ssh would offer; may be given more than once
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// A Wi-Fi to join; its password is asked for, and is not on the card
    #[arg(long, value_name = "SSID", requires = "country")]
    pub(crate) wifi: Option<String>,
    /// Where the Wi-Fi is, in two letters
    #[arg(long, value_name = "COUNTRY", requires = "wifi")]
    pub(crate) country: Option<String>,
    /// Read the Wi-Fi's password from a file
    #[arg(long, value_name = "FILE", requires = "wifi")]
    pub(crate) wifi_password_file: Option<PathBuf>,
    /// A fixed address with its network's length, in place of DHCP's
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = fixed_address)]
    pub(crate) address: Option<String>,
    /// Who leads out of the network, with a fixed address
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    pub(crate) gateway: Option<IpAddr>,
    /// Who knows names, with a fixed address; may be given more than once
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    pub(crate) dns: Vec<IpAddr>,
    /// Such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    pub(crate) timezone: Option<String>,
    /// Let the host make its own host key, which nobody knows at the first login
    #[arg(long)]
    pub(crate) no_host_key: bool,
    /// Take the place of a host of that name whose host key is known
    #[arg(long)]
    pub(crate) force: bool,
}

/// Reads `192.168.1.20/24`.
fn fixed_address(text: &str) -> anyhow::Result<String> {
    let read = || {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (1..=most).contains(&length).then(|| format!("{address}/{length}"))
    };
    read().ok_or_else(|| {
        anyhow::anyhow!("expected an address with its network's length, such as 192.168.1.20/24")
    })
}

#[derive(Debug, Args)]
pub(crate) struct Check {}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Keep the plan in this file, for `bramble apply FILE`
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the plan into this file as a page for a browser
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) latitude: Latitude,
    /// Exit with 2 when there is something to do, 0 when there is not
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

/// What a plan may do that it refuses otherwise.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Latitude {
    /// Serve what can be placed, leave out the rest
    #[arg(long)]
    pub(crate) partial: bool,
    /// Take over hosts that belong to another fleet
    #[arg(long)]
    pub(crate) adopt: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Only these models; or sources, without a manifest: `hf:ORG/REPO`, a path, a name of the catalog
    #[arg(value_name = "MODEL or SOURCE")]
    pub(crate) wanted: Vec<Wanted>,
    /// At most this many bytes a second for everything together, as `5MB` or `512KiB`
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_rate: Option<Bytes>,
    /// Say yes to this licence, for sources that are named here
    #[arg(long, value_name = "NAME")]
    pub(crate) accept_license: Option<String>,
}

/// What to fetch.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// A model of the manifest; where it has none of that name, a source.
    Name(ModelName),
    /// A source.
    Source(SourceRef),
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.parse() {
            Ok(name) => Self::Name(name),
            Err(_) => Self::Source(text.parse::<AnySource>()?.0),
        })
    }
}

/// Reads a number of bytes a second. `k` is a thousand and `Ki` 1024; a `B` and `/s` may follow.
fn rate(text: &str) -> anyhow::Result<Bytes> {
    let plain = text.trim().strip_suffix("/s").unwrap_or(text.trim()).to_ascii_lowercase();
    let plain = plain.strip_suffix('b').unwrap_or(&plain);
    let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let (number, unit) = plain.split_at(end);
    let unit = match unit.trim() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "ki" => 1024.0,
        "mi" => 1_048_576.0,
        "gi" => 1_073_741_824.0,
        _ => anyhow::bail!("expected a rate such as 5MB or 512KiB"),
    };
    let bytes = number.parse::<f64>().unwrap_or(0.0) * unit;
    anyhow::ensure!((1.0..1e15).contains(&bytes), "expected a rate such as 5MB or 512KiB");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its bounds were checked")]
    Ok(Bytes(bytes as u64))
}

/// Look after the weights on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// List the blobs, and whether a lock file names them
    Ls,
    /// Hash every blob again, and name what is damaged
    Verify,
    /// Remove what no lock file names
    Prune(StorePrune),
}

#[derive(Debug, Args)]
pub(crate) struct StorePrune {
    /// Show what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// A source as a manifest names it: `hf:ORG/REPO`, `catalog:NAME`; a path; or a plain name of the catalog
    #[arg(value_name = "SOURCE")]
    pub(crate) source: AnySource,
    #[command(flatten)]
    pub(crate) making: Making,
    /// Accept the licence of this name, where the source wants that
    #[arg(long, value_name = "LICENCE")]
    pub(crate) accept_license: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Quantize {
    /// The GGUF
    #[arg(value_name = "GGUF")]
    pub(crate) gguf: PathBuf,
    #[command(flatten)]
    pub(crate) making: Making,
    /// Quantize also what is quantized already, which costs quality twice
    #[arg(long)]
    pub(crate) allow_requantize: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Making {
    /// What to make, such as `Q4_K_M` or `Q4_K_M,Q8_0`
    #[arg(short, long = "quant", value_name = "QUANT", value_delimiter = ',', required = true)]
    pub(crate) quants: Vec<Quant>,
    /// The folder for the files, NAME-QUANT.gguf
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Which columns matter: a file of llama.cpp's `imatrix`
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
    /// Threads; 0 takes one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A plan that `bramble plan --out` kept; it is carried out without asking
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) latitude: Latitude,
    /// Make another authority and other certificates for all hosts: the old one is lost, or somebody else has it
    #[arg(long, conflicts_with = "plan")]
    pub(crate) new_ca: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

/// What is changed here reaches the hosts with the next apply.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// List keys and certificates; of keys, only hashes are kept
    List,
    /// Make a key for a client, and show it once
    Add(KeysAdd),
    /// Make another key in the place of one, which is good until it is removed with --old
    Rotate {
        /// The key's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// End a key
    Remove {
        /// The key's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Only the one before a rotation
        #[arg(long)]
        old: bool,
    },
    /// Have the other hosts refuse a host that was stolen or is lost: every key that it ever had; nothing is sent to it
    RevokeHost {
        /// The host
        #[arg(value_name = "HOST")]
        host: HostName,
    },
    /// Give a certificate to a host that was revoked, once it is yours again or another is in its place
    Readmit {
        /// The host
        #[arg(value_name = "HOST")]
        host: HostName,
    },
    /// Print the certificate of the fleet's authority, for clients to trust; or bring all keys to another machine
    Ca {
        #[command(subcommand)]
        verb: Option<CaVerb>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Seal the authority, certificates and keys behind a passphrase, in a file that age opens, too
    Export {
        /// The file, which must not be there
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Keep what another machine has sealed, so that this one can apply the fleet
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        path: PathBuf,
        /// Have it take the place of other keys of this fleet
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeysAdd {
    /// The key's name, which logs show
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it may do: ask models, read status and metrics; may be given more than once
    #[arg(long = "scope", value_name = "SCOPE", value_enum, default_value = "infer")]
    pub(crate) scopes: Vec<KeyScope>,
    /// At most this many requests in a minute, at each door
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests_per_minute: Option<u32>,
    /// At most this many requests at the same time, at each door
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrent: Option<u32>,
    /// At most this many tokens of answers in a minute, at each door
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens_per_minute: Option<u32>,
}

/// What a client's key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum KeyScope {
    /// Ask models
    Infer,
    /// Read status and metrics
    Status,
}

/// Programs for hosts, weights, manifest and lock, with every digest and licence.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleVerb {
    /// Write what the manifest's site needs into one file, and sign it
    Export(BundleExport),
    /// Take in what another machine has exported: nothing of it is fetched again
    Import(BundleImport),
    /// Print the key that this machine's files are verified with, here or by minisign
    Key,
}

#[derive(Debug, Args)]
pub(crate) struct BundleExport {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// Also the files that weights are made of, so that every quant can be made at the site
    #[arg(long)]
    pub(crate) sources: bool,
    /// Write over a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BundleImport {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// Whose files are taken in, from now on: what `bundle key` prints on the machine that exports
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<PublicKey>,
    /// Take the file's manifest in the place of another one
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only these hosts
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Hash the weights that hosts use before, all of them, which takes a card minutes: what a disk has lost shows
    #[arg(long, conflicts_with = "watch")]
    pub(crate) verify: bool,
    /// Look again and again, with so many seconds between, until Ctrl-C; with --json, an object a line
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "5",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) watch: Option<u64>,
    /// Exit with 2 when a host cannot be reached, does not serve, is not as it was applied or has a warning
    #[arg(long, conflicts_with = "watch")]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Hosts of the manifest, or any that ssh reaches, as [USER@]ADDRESS[:PORT]; without one, this machine
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Every host of the manifest
    #[arg(long, conflicts_with = "hosts")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The file; what hosts have of it, also in other files, is not sent
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// The hosts of the manifest to bring it to
    #[arg(value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<HostName>,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Only these hosts
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Tune {
    /// Only these hosts
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Only this model; may be given more than once
    #[arg(short, long = "model", value_name = "MODEL")]
    pub(crate) models: Vec<ModelName>,
    /// These quants, in place of a step better and a step smaller
    #[arg(short, long = "quant", value_name = "QUANT", value_delimiter = ',')]
    pub(crate) quants: Vec<Quant>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The host to ask; the first one by name where it is not given
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// What to ask; where it is not given, a conversation on the terminal, or what standard input has
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,
    /// The model; the first one by name where it is not given
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<ModelName>,
    /// What the model is told before the question: how to answer
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// At most this many tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: u32,
    /// 0 always gives the likeliest answer
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f32,
}

#[derive(Debug, Args)]
pub(crate) struct Ui {
    /// The port on this machine, which nobody else's can reach; 0 takes one that is free
    #[arg(long, value_name = "PORT", default_value_t = 4178)]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Fit {
    /// The model: a source as a manifest names it, `hf:ORG/REPO`; a path; or a plain name of the catalog
    #[arg(value_name = "MODEL")]
    pub(crate) model: AnySource,
    /// A board such as `pi5-8gb`; may be given more than once
    #[arg(short, long = "board", value_name = "BOARD", value_delimiter = ',')]
    pub(crate) boards: Vec<String>,
    /// Tokens that a conversation may have
    #[arg(short, long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) context: u32,
    /// Only these quants
    #[arg(short, long = "quant", value_name = "QUANT", value_delimiter = ',')]
    pub(crate) quants: Vec<Quant>,
    /// Every quant that `auto` chooses among
    #[arg(long, conflicts_with = "quants")]
    pub(crate) all: bool,
}

/// A source as a manifest names it, the path of what is here, or a name of the catalog.
#[derive(Debug, Clone)]
pub(crate) struct AnySource(pub(crate) SourceRef);

impl FromStr for AnySource {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let is_gguf = || Path::new(text).extension().is_some_and(|extension| extension == "gguf");
        let is_path = || text.contains('/') || is_gguf() || Path::new(text).exists();
        let scheme = match text {
            _ if text.contains(':') => "",
            _ if is_path() => "file:",
            _ => "catalog:",
        };
        Ok(Self(format!("{scheme}{text}").parse()?))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Print the same as a page for people, docs/manifest.md
    #[arg(long)]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum, required_unless_present = "words")]
    pub(crate) shell: Option<clap_complete::Shell>,
    /// A command line up to the word that is completed: the names that may stand there are printed, as the scripts ask for them
    #[arg(last = true, hide = true, conflicts_with = "shell")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder for the pages, bramble.1 and bramble-COMMAND.1; made where it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// These hosts; all of the manifest's where none is given
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// To this generation, not to the one before
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<Generation>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// These hosts; all of the manifest's where none is given
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Only the engines of these models
    #[arg(short, long = "model", value_name = "MODEL", value_delimiter = ',')]
    pub(crate) models: Vec<ModelName>,
    /// Only the door
    #[arg(long, conflicts_with = "models")]
    pub(crate) door: bool,
    /// Begin with the last lines of each service
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) lines: u32,
    /// Go on showing lines as they come, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// These hosts, one after another; all of the manifest's where none is given
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Only the engines of these models, not the door
    #[arg(short, long = "model", value_name = "MODEL", value_delimiter = ',')]
    pub(crate) models: Vec<ModelName>,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Cordon {
    /// These hosts
    #[arg(value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<HostName>,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// These hosts; all of the manifest's where none is given
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Keep so many generations besides the one in force and the one to go back to
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep: usize,
    /// Show what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["hosts", "all"])))]
pub(crate) struct Remove {
    /// These hosts
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Every host of the manifest
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// These hosts
    #[arg(value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<HostName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_taken_by_commands_that_log_in_alone() {
        let command = <Arguments as clap::CommandFactory>::command();
        let takes = |verb: &&clap::Command| {
            verb.get_arguments().any(|argument| argument.get_id() == "accept_new_host_keys")
        };
        let those: Vec<&str> = command.get_subcommands().filter(takes).map(clap::Command::get_name).collect();
        let all = "init plan push apply status doctor bench tune logs restart cordon uncordon rollback prune remove";
        assert_eq!(those.join(" "), all);
        assert!(Arguments::try_parse_from(["bramble", "catalog", "--accept-new-host-keys"]).is_err());
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, expected) in [
            ("5MB", 5_000_000),
            ("512KiB/s", 524_288),
            ("1.5g", 1_500_000_000),
            ("100", 100),
            ("2 Mi", 2 << 20),
        ] {
            assert_eq!(rate(text).unwrap(), Bytes(expected), "{text}");
        }
        for text in ["", "fast", "0", "-5MB", "5XB", "1e9", "999999999999GB"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
