//! The form in which a manifest is written: the one source of what is read and of the
//! JSON Schema. What the parts mean together is `check`'s matter.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::schema::{GpuMode, MAX_PARALLEL, MAX_UNAVAILABLE, PORT, Prefer, Role, RouteMode, Supervisor, Tls};
use crate::generation::Capability;
use crate::ids::{FleetName, HostName, ModelName, is_name};
use crate::quant::Quant;
use crate::source::SourceRef;
use crate::terminal;
use crate::units::{Bytes, BytesPerSec};
use crate::yaml::record_parts::read_word;
use crate::yaml::{
    Faults, Kind, Maybe, Node, Problem, Read, Spanned, Table, Value, Whole, expected, expected_unquoted,
    nearest, quoted, record, text, word,
};

record! {
    /// A Bramble manifest: which models run on which hosts, and who answers.
    Root: "the manifest" {
        /// The format of this file: 1.
        need bramble: Format;
        /// Who these hosts belong to. A host of another fleet is refused.
        need fleet: Spanned<Name<FleetName>>;
        /// What hosts inherit.
        may defaults: Defaults;
        /// How doors are opened.
        may serve: Serve;
        /// How fast changes spread.
        may rollout: Rollout;
        /// The models by name. Clients ask for them by these names.
        need models: Table<Name<ModelName>, Model>;
        /// The hosts by name.
        need hosts: Table<Name<HostName>, Host>;
        /// Which model goes where.
        need deploy: Vec<Maybe<Deploy>>;
        /// Who answers for a model, by the model's name.
        may routes: Table<Name<ModelName>, Route>;
    }
}

record! {
    /// What hosts inherit.
    Defaults: "`defaults`" {
        /// SSH options for hosts that do not set them.
        may ssh: Ssh;
    }
}

record! {
    /// SSH options; anything else comes from `~/.ssh/config`.
    Ssh: "`ssh`" {
        /// The login.
        may user: User;
        /// The TCP port of the SSH server.
        may port: Whole<1, 65535>;
        /// A private key file; `~` is allowed.
        may identity: Identity;
    }
}

record! {
    /// How the doors of hosts are opened.
    Serve: "`serve`" {
        /// The TCP port of every door. Daemons are not root: 1024 or more.
        may port: Whole<1024, 65535> = Whole(u32::from(PORT));
        /// How the doors are secured. Without it: `fleet`.
        may tls: Spanned<Tls>;
    }
}

record! {
    /// How fast changes spread.
    Rollout: "`rollout`" {
        /// Hosts that programs are brought to, and laid out on, at the same time. Weights go to all at once.
        may max_parallel: Whole<1, 256> = Whole(MAX_PARALLEL);
        /// Hosts that may be without their local engine at the same time.
        may max_unavailable: Whole<1, 256> = Whole(MAX_UNAVAILABLE);
        /// How fast weights move. Without it: as fast as they can.
        may bandwidth: Caps;
    }
}

record! {
    /// How fast weights move at most.
    Caps: "`bandwidth`" {
        /// What each host takes in, from whomever.
        may per_host: Bandwidth;
        /// What leaves the operator's machine, for all hosts and files together.
        may total: Bandwidth;
    }
}

record! {
    /// A model.
    Model: "a model" {
        /// Where the weights come from: `hf:ORG/REPO[@REV][/FILE.gguf]`, `file:PATH`, `catalog:NAME`.
        need source: Spanned<Source>;
        /// `auto`, one quant, or a list of them, best first.
        may quant: Quants = Quants::Auto;
        /// What `auto` leans to.
        may prefer: Prefer = Prefer::Balanced;
        /// Tokens that the model must accept, per slot. Without it: 4096, or what the model was trained for if less.
        may context: Whole<32, 16_777_216>;
        /// Requests served at the same time.
        may slots: Whole<1, 64> = Whole(1);
        /// Whether a restart keeps the prompts that were computed, in files that only the service reads: a long system
        /// prompt is not computed again. Not for models that read with an encoder.
        may keep_prompts: bool = false;
        /// What `auto` never goes below.
        may floor: Floor;
        /// Whether a GGUF that is quantized already may be quantized again, which costs quality twice.
        may requantize: bool = false;
        /// An importance matrix to make quants with: a file of llama.cpp's `imatrix`, relative to this manifest.
        may imatrix: Spanned<FilePath>;
        /// The licence that you say yes to, by its name.
        may accept_license: License;
    }
}

record! {
    /// What `auto` never goes below.
    Floor: "`floor`" {
        /// Answer tokens per second.
        may tokens_per_second: Rate = Rate(0.5);
        /// The smallest quant.
        may quality: Quant = Quant::Q4_0;
    }
}

record! {
    /// Published differences to be added to weights that you have.
    Difference: "a delta source" {
        /// The weights that you have.
        need base: Spanned<SourceText>;
        /// The differences.
        need delta: Spanned<SourceText>;
    }
}

record! {
    /// A host: one of ours (`address`), one that is planned (`board`), or a server that is not ours (`upstream`).
    Host: "a host" {
        /// A name or address that the host is reached by, also an alias of `~/.ssh/config`.
        may address: Spanned<Address>;
        /// `local`: this is the machine that `bramble` runs on; `address` is how the others reach it.
        may connect: Spanned<Connect>;
        /// SSH options of this host, over those of `defaults`.
        may ssh: Ssh;
        /// A board that is not bought yet, to plan for: `pi5-8gb`, or `desktop`.
        may board: Spanned<Label>;
        /// What the board will leave to models of its memory: `7.2 GiB`. Without it: what a Lite system leaves.
        may memory: Spanned<Amount>;
        /// What all cores of the board together read of its memory: `48 GB/s`. Without it a desktop's
        /// speed is unknown.
        may bandwidth: Spanned<Bandwidth>;
        /// What the host is for. Without it: `pi`, and `desktop` for an upstream.
        may role: Role;
        /// Free words to select by.
        may labels: Vec<Label>;
        /// Where Bramble lives on the host. Without it: /var/lib/bramble, or
        /// ~/.local/share/bramble where the login cannot become root.
        may dir: Spanned<Dir>;
        /// What supervises services on the host. Without it: `auto`, systemd where it runs.
        may supervisor: Supervisor;
        /// Whether engines on the host use its graphics processors, and by what. Without it: `off`.
        may gpu: GpuMode;
        /// How the host is woken, where it sleeps.
        may wake: Wake;
        /// The base URL of an OpenAI-compatible server that is not ours, up to and with `/v1`.
        may upstream: Spanned<BaseUrl>;
        /// The environment variable with its key: `env:NAME`.
        may key: KeyName;
        /// Its names for our models.
        may models: Table<Name<ModelName>, ForeignName>;
        /// What it cannot do: requests that need that are not passed on to it.
        may lacks: Vec<Capability>;
    }
}

record! {
    /// How a host is woken.
    Wake: "`wake`" {
        /// The hardware address of its network card.
        need mac: Mac;
        /// How many seconds a request that nobody else can answer waits for it to come up.
        may wait_seconds: Whole<1, 600> = Whole(60);
    }
}

record! {
    /// A model and the hosts that it goes to.
    Deploy: "a deploy" {
        /// The model, by its name.
        need model: Spanned<Name<ModelName>>;
        /// The hosts: a name, a list of names, `{ role, labels }`, or `{ count, where }`.
        need on: Spanned<On>;
    }
}

record! {
    /// The hosts that have the role, if one is named, and all labels.
    Selector: "a selection of hosts" {
        /// The role.
        may role: Role;
        /// All of these.
        may labels: Vec<Label>;
    }
}

record! {
    /// A number of hosts of a selection.
    Number: "a number of hosts" {
        /// How many.
        need count: Spanned<Whole<1, 10_000>>;
        /// Of which.
        need r#where: Selector;
    }
}

record! {
    /// Who answers for a model.
    Route: "a route" {
        /// `local` and names of hosts, first choice first.
        may order: Spanned<Vec<Spanned<Name<HostName>>>>;
        /// `local-first`: as `order` says; `desktop-first`: desktops first; `local-only`: the local engine or an error.
        may mode: Spanned<RouteMode> = Spanned { value: RouteMode::LocalFirst, span: crate::yaml::Span::default() };
        /// When somebody is passed over.
        may overflow: Overflow;
        /// Those of `order` that may continue an answer that broke off; an empty list: nobody. Without it: every host of
        /// ours, and no server that is not.
        may continue_on: Vec<Spanned<Name<HostName>>>;
        /// The hosts that offer this route. Without it: all of ours.
        may from: Spanned<Selector>;
    }
}

record! {
    /// When somebody is passed over, who is asked after all others then.
    Overflow: "`overflow`" {
        /// The local engine with more waiting requests than this.
        may queue: Whole<0, 1000>;
        /// Whoever is expected to begin its answer later than in so many seconds, by those that wait and by the prompt.
        may wait_seconds: Whole<1, 3600>;
        /// Whoever is no desktop, where the prompt has more tokens than this, by its length.
        may prompt_tokens: Whole<1, 16_777_216>;
    }
}

word!(Tls: Tls::Fleet, Tls::Files, Tls::Off);
word!(Prefer: Prefer::Balanced, Prefer::Quality, Prefer::Speed);
word!(Role: Role::Pi, Role::Desktop);
word!(Supervisor: Supervisor::Auto, Supervisor::Systemd, Supervisor::Process);
word!(GpuMode: GpuMode::Off, GpuMode::Auto, GpuMode::Vulkan, GpuMode::Cuda);
word!(RouteMode: RouteMode::LocalFirst, RouteMode::DesktopFirst, RouteMode::LocalOnly);
word!(Connect: Connect::Local);
word!(Capability: Capability::Tools, Capability::JsonSchema, Capability::Logprobs, Capability::Embeddings);

/// `connect: local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Connect {
    /// The machine that `bramble` runs on.
    Local,
}

impl Read for Quant {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        read_word(Self::ALL, node, faults)
    }
}

/// The version of the format.
#[derive(Debug)]
pub(super) struct Format;

impl Read for Format {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match node.value {
            Value::Int(1) => Some(Self),
            Value::Int(other) if other > 1 => {
                let message = format!("this manifest has format {other}, and this program reads format 1");
                faults.push(Problem::new(Kind::Invalid, node.span, message).help("install a newer bramble"));
                None
            }
            _ => expected_unquoted("`1`, the format of this file", node, faults),
        }
    }
}

impl JsonSchema for Format {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Format".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": 1 })
    }
}

/// A name of one of the kinds of `ids`.
#[derive(Debug, Clone)]
pub(super) struct Name<T>(pub(super) T);

impl<T: FromStr> Read for Name<T> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) => text,
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                let message = format!("expected a name, found {}", node.value.describe());
                faults.push(Problem::new(Kind::Invalid, node.span, message).help("put it in quotes"));
                return None;
            }
            _ => return expected("a name", node, faults),
        };
        if let Ok(name) = text.parse() {
            return Some(Self(name));
        }
        let message = format!("{} is not a name: use a-z, 0-9 and '-', at most 63 characters", quoted(text));
        let tame: String = text
            .chars()
            .take(64)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let tame = tame.trim_matches('-');
        let problem = Problem::new(Kind::Invalid, node.span, message);
        faults.push(problem.did_you_mean(is_name(tame).then_some(tame)));
        None
    }
}

impl<T> JsonSchema for Name<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "a name", "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$" })
    }
}

/// A finite number of tokens per second, 0 or more.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Rate(pub(super) f64);

impl Read for Rate {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match node.value {
            Value::Float(value) if (0.0..=10_000.0).contains(&value) => Some(Self(value)),
            Value::Int(value) if (0..=10_000).contains(&value) => Some(Self(value as f64)),
            _ => expected_unquoted("a number of tokens per second from 0 to 10000", node, faults),
        }
    }
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 10_000 })
    }
}

/// `auto`, a quant, or a list of quants.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Quants {
    #[serde(serialize_with = "auto")]
    Auto,
    OneOf(Vec<Quant>),
}

fn auto<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("auto")
}

impl Read for Quants {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "auto" => Some(Self::Auto),
            Value::Text(text) if Quant::ALL.iter().all(|quant| quant.name() != text) => {
                let names = Quant::ALL.iter().map(|quant| quant.name());
                let message = format!("expected `auto` or a quant such as `Q4_K_M`, found {}", quoted(text));
                let problem = Problem::new(Kind::Invalid, node.span, message);
                let near = nearest(text, names.chain(["auto"]));
                let all = Quant::ALL.iter().map(|quant| quant.name()).collect::<Vec<_>>().join(", ");
                faults.push(match near {
                    Some(_) => problem.did_you_mean(near),
                    None => problem.help(format!("the quants are {all}")),
                });
                None
            }
            Value::Text(_) => Quant::read(node, faults).map(|quant| Self::OneOf(vec![quant])),
            Value::List(items) if !items.is_empty() => {
                let all = items.iter().map(|item| Some((Quant::read(item, faults)?, item.span)));
                let all: Vec<Option<(Quant, crate::yaml::Span)>> = all.collect();
                let mut quants = Vec::new();
                for (quant, span) in all.into_iter().collect::<Option<Vec<_>>>()? {
                    if quants.contains(&quant) {
                        let message = format!("{quant} is in the list twice");
                        faults.push(Problem::new(Kind::Conflict, span, message).help("keep one of them"));
                        return None;
                    }
                    quants.push(quant);
                }
                Some(Self::OneOf(quants))
            }
            _ => expected("`auto`, a quant, or a list of quants", node, faults),
        }
    }
}

impl JsonSchema for Quants {
    fn schema_name() -> Cow<'static, str> {
        "Quants".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let quant = generator.subschema_for::<Quant>();
        json_schema!({ "anyOf": [
            { "const": "auto" }, quant,
            { "type": "array", "items": quant, "minItems": 1, "uniqueItems": true },
        ] })
    }
}

/// A source in one of the forms that are a text.
#[derive(Debug, Clone)]
pub(super) struct SourceText(pub(super) SourceRef);

impl Read for SourceText {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let Value::Text(text) = &node.value else {
            return expected("a source such as `hf:ORG/REPO`", node, faults);
        };
        match text.parse() {
            Ok(source) => Some(Self(source)),
            Err(error) => {
                let mut problem = Problem::new(Kind::Invalid, node.span, shown(&error.to_string()));
                let repo = text.trim_start_matches("https://").trim_start_matches("huggingface.co/");
                let hub = format!("hf:{repo}");
                let path = format!("file:{text}");
                if hub.parse::<SourceRef>().is_ok() && !text.starts_with(['.', '~']) {
                    problem = problem.did_you_mean(Some(&hub));
                } else if text.starts_with(['.', '/', '~']) && path.parse::<SourceRef>().is_ok() {
                    problem = problem.did_you_mean(Some(&path));
                } else if text.starts_with("http://") {
                    problem = problem.help("weights are fetched over https only");
                }
                faults.push(problem);
                None
            }
        }
    }
}

/// Foreign text inside a message of ours, harmless to a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if terminal::is_plain(c) { c } else { '\u{fffd}' }).collect()
}

impl JsonSchema for SourceText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "SourceText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "a source such as `hf:ORG/REPO`", "type": "string", "pattern": "^(hf:|https://|file:|catalog:)." })
    }
}

/// A source as a text, or a delta.
#[derive(Debug)]
pub(super) enum Source {
    Text(SourceRef),
    Delta(Box<Difference>),
}

impl Read for Source {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match &node.value {
            Value::Map(_) => Difference::read(node, faults).map(|delta| Self::Delta(Box::new(delta))),
            _ => SourceText::read(node, faults).map(|source| Self::Text(source.0)),
        }
    }
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (text, delta) =
            (generator.subschema_for::<SourceText>(), generator.subschema_for::<Difference>());
        json_schema!({ "anyOf": [text, delta] })
    }
}

/// The forms of `on`.
#[derive(Debug)]
pub(super) enum On {
    Hosts(Vec<Spanned<Name<HostName>>>),
    Every(Selector),
    Count(Number),
}

impl Read for On {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::read(node, faults).map(Self::Hosts),
            Value::Text(_) => Spanned::read(node, faults).map(|host| Self::Hosts(vec![host])),
            Value::Map(entries)
                if entries.iter().any(|(key, _)| matches!(key.text.as_str(), "count" | "where")) =>
            {
                Number::read(node, faults).map(Self::Count)
            }
            Value::Map(_) => Selector::read(node, faults).map(Self::Every),
            _ => expected("a host, a list of hosts, or `{ role: … }`", node, faults),
        }
    }
}

impl JsonSchema for On {
    fn schema_name() -> Cow<'static, str> {
        "On".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<Name<HostName>>();
        let (every, count) = (generator.subschema_for::<Selector>(), generator.subschema_for::<Number>());
        json_schema!({ "anyOf": [name, { "type": "array", "items": name }, every, count] })
    }
}

/// Whether `text` is made of letters, digits and `extra`, and begins with one of them but `-`.
fn is_plain(text: &str, extra: &[u8], longest: usize) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || extra.contains(&b);
    !text.is_empty() && text.len() <= longest && !text.starts_with('-') && text.bytes().all(inner)
}

fn no_hint(_: &str) -> Option<String> {
    None
}

/// The hint for a number that lacks its unit.
fn needs_unit(text: &str, unit: &str) -> Option<String> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (is_number && text.len() <= 6).then(|| format!("with its unit: `{text} {unit}`"))
}

text! {
    /// What reaches `ssh`'s command line and other hosts' URLs: never an option, never two words.
    Address: "a host name or an IPv4 address",
    pattern "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,252}$",
    check |text| is_plain(text, b"_.-", 253),
    hint |text| {
        if text.parse::<IpAddr>().is_ok() {
            return Some("IPv6 addresses are not supported yet: give the host a name".to_owned());
        }
        if let Some((user, host)) = text.split_once('@').filter(|(user, _)| is_plain(user, b"_.-", 32)) {
            return Some(format!("write `address: {}` and `ssh: {{ user: {user} }}`", shown(host)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        Some(format!("write `address: {}` and `ssh: {{ port: {port} }}`", shown(host)))
    }
}

text! {
    /// The login: it reaches `ssh`'s command line.
    User: "a login of letters, digits, '_', '.' and '-'",
    pattern "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$",
    check |text| is_plain(text, b"_.-", 32), hint no_hint
}

text! {
    /// A key file: it reaches `ssh`'s command line, which would expand `%` and `$`.
    Identity: "the path of a private key, without spaces, quotes, '%' or '$'",
    pattern "^[A-Za-z0-9_./~@+][A-Za-z0-9_./~@+-]{0,254}$",
    check |text| is_plain(text, b"_./~@+-", 255), hint no_hint
}

text! {
    /// A word to select by.
    Label: "a word of a-z, 0-9 and '-'",
    pattern "^[a-z0-9][a-z0-9-]{0,62}$",
    check is_name, hint no_hint
}

text! {
    /// A file on the operator's machine. It reaches no command line.
    FilePath: "the path of a file",
    pattern "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,1024}$",
    check |text| (1..=1024).contains(&text.chars().count()) && !text.chars().any(char::is_control),
    hint no_hint
}

text! {
    /// The name of a licence: `llama2`, `apache-2.0`.
    License: "the name of a licence",
    pattern "^[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,63}$",
    check |text| is_plain(text, b"_.+-", 64), hint no_hint
}

text! {
    /// A folder of ours on a host: it reaches unit files, and `remove` empties it.
    Dir: "an absolute path of two or more folders, of letters, digits, '_', '.' and '-'",
    pattern "^(/([A-Za-z0-9_][A-Za-z0-9_.-]*|\\.[A-Za-z0-9_-][A-Za-z0-9_.-]*)){2,}$",
    check |text| {
        let is_folder = |part: &str| is_plain(part, b"_.-", 90) && part != "." && !part.starts_with("..");
        let parts = text.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
        parts.is_some_and(|parts| parts.len() >= 2 && parts.into_iter().all(is_folder))
    },
    hint |_| Some("such as `/var/lib/bramble`".to_owned())
}

text! {
    /// An amount of memory.
    Amount: "an amount such as `28 GiB`",
    pattern "^[0-9]{1,6}(\\.[0-9]{1,3})? ?(MiB|GiB|MB|GB)$",
    check |text| text.len() <= 16 && text.parse::<Bytes>().is_ok_and(|amount| amount > Bytes::ZERO),
    hint |text| needs_unit(text, "GiB")
}

text! {
    /// Bytes in a second.
    Bandwidth: "a rate such as `50 MB/s`",
    pattern "^[0-9]{1,6}(\\.[0-9]{1,3})? ?(MiB|GiB|MB|GB)/s$",
    check |text| text.len() <= 18 && text.parse::<BytesPerSec>().is_ok_and(|rate| rate.0 > 0.0),
    hint |text| needs_unit(text, "GB/s")
}

text! {
    /// A hardware address.
    Mac: "a hardware address such as `aa:bb:cc:dd:ee:ff`",
    pattern "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
    check |text| text.parse::<crate::ids::Mac>().is_ok(),
    hint |text| {
        let mended = text.replace('-', ":");
        mended.parse::<crate::ids::Mac>().is_ok().then(|| format!("write `{mended}`"))
    }
}

text! {
    /// The base URL of a server that is not ours.
    BaseUrl: "a URL such as `http://gaming.local:11434/v1`",
    pattern "^https?://[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]{1,5})?(/[A-Za-z0-9_.~-]+)+$",
    check is_base_url,
    hint |text| {
        let whole = format!("{}/v1", text.trim_end_matches('/'));
        if is_base_url(text.trim_end_matches('/')) {
            Some(format!("did you mean `{}`?", text.trim_end_matches('/')))
        } else if is_base_url(&whole) {
            Some(format!("did you mean `{whole}`?"))
        } else if text.contains('@') {
            Some("a login does not belong here: use `key: env:NAME`".to_owned())
        } else {
            None
        }
    }
}

fn is_base_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let Some((authority, path)) = rest.split_once('/') else { return false };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let is_folder = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.~-".contains(&b))
    };
    is_plain(host, b"_.-", 253)
        && !host.starts_with('.')
        && port.is_none_or(is_port)
        && text.len() <= 512
        && path.split('/').all(is_folder)
}

text! {
    /// What a foreign server calls a model.
    ForeignName: "the server's name for the model",
    pattern "^[!-~]{1,200}$",
    check |text| (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()),
    hint no_hint
}

/// `env:NAME`, the environment variable that has a key.
#[derive(Debug, Clone)]
pub(super) struct KeyName(pub(super) String);

impl Read for KeyName {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_name = |name: &&str| {
            is_plain(name, b"_", 128) && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(is_inner)
        };
        if let Value::Text(text) = &node.value
            && let Some(name) = text.strip_prefix("env:").filter(is_name)
        {
            return Some(Self(name.to_owned()));
        }
        // whatever stands there may be the key itself: it is not shown
        let message = "expected `env:NAME`, the environment variable that has the key";
        let problem = Problem::new(Kind::Invalid, node.span, message);
        faults.push(problem.help("a manifest holds no secrets: `export NAME=…` in the shell").secret());
        None
    }
}

impl JsonSchema for KeyName {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "KeyName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "`env:NAME`", "type": "string", "pattern": "^env:[A-Za-z_][A-Za-z0-9_]{0,127}$" })
    }
}
