//! What docs/contract.md says of `--json`, held by running every command; only the engine is played.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use bramble_fleet::execute::{Made, Outcome as OfHost, Report, State};
use bramble_fleet::facts::Measured;
use bramble_fleet::ids::{Digest, HostName};
use bramble_fleet::status::{DoorState, HostStatus, Reach, Snapshot};
use bramble_fleet::store::Store;
use bramble_fleet::tune::{Outcome, Proposal, Trial};
use bramble_fleet::units::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/pages.rs"]
mod pages;
#[path = "support/promised.rs"]
mod promised;
#[path = "support/stub.rs"]
mod stub;

use desk::Desk;
use promised::Promised;

/// A fleet of one host, this machine.
struct Fleet {
    desk: Desk,
    manifest: String,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.desk.command(&["remove", "--all", "--yes"]).output());
    }
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Fleet {
    fn new() -> Self {
        let manifest = format!(
            "bramble: 1\nfleet: home\nserve: {{ port: {} }}\n\
             models:\n  chat: {{ source: \"file:model\", context: 256, quant: F16 }}\n\
             hosts:\n  kitchen: {{ address: 0.0.0.0, connect: local, dir: FOLDERroot, supervisor: process }}\n\
             deploy:\n  - {{ model: chat, on: [kitchen] }}\n",
            closed_port()
        );
        let desk = Desk::new(&manifest);
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        stub::write_program(&desk.path("brambled"), "engine");
        let mut tar = Command::new("tar");
        let packed = tar.args(["-czf", "made.tar.gz", "brambled"]).current_dir(desk.path("")).status();
        assert!(packed.unwrap().success());
        desk.put_bundle(&fs::read(desk.path("made.tar.gz")).unwrap());
        Self { desk, manifest }
    }

    /// Has the manifest name a host, too, that nobody reaches.
    fn add_attic(&self) {
        let attic =
            format!("hosts:\n  attic: {{ address: 127.0.0.1, ssh: {{ port: {} }} }}\n", closed_port());
        self.desk.write(&self.manifest.replace("hosts:\n", &attic));
    }
}

impl Desk {
    /// Runs a command with `--json` that ends with one of `codes`, and returns what it printed.
    #[track_caller]
    fn told(&self, codes: &[i32], arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // whoever reads nothing has closed its end
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let ended = child.wait_with_output().unwrap();
        let said = [ended.stdout.clone(), ended.stderr].concat();
        let is_right = ended.status.code().is_some_and(|code| codes.contains(&code));
        assert!(is_right, "{arguments:?}: {}: {}", ended.status, String::from_utf8_lossy(&said));
        String::from_utf8(ended.stdout).unwrap()
    }

    #[track_caller]
    fn value(&self, code: i32, arguments: &[&str]) -> Value {
        let told = self.told(&[code], arguments, "");
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {told}"))
    }

    /// Starts a command with `--json` that goes on until it is ended, and returns its first line.
    fn first_line(&self, arguments: &[&str]) -> (Child, Value) {
        let mut command = self.command(arguments);
        let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, serde_json::from_str(&line).unwrap())
    }
}

/// Ends a command as Ctrl-C does, and returns its exit code.
fn interrupt(mut child: Child) -> Option<i32> {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap().code()
}

/// Returns every command that can be typed, by what `--help` says.
fn typed(desk: &Desk, above: &[&str], found: &mut BTreeSet<String>) {
    let help = desk.command(&[above, &["--help"]].concat()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let below: Vec<&str> = names.filter(|name| !name.is_empty() && *name != "help").collect();
    if !above.is_empty() && (below.is_empty() || help.contains(" [COMMAND]")) {
        found.insert(above.join(" "));
    }
    for name in below {
        typed(desk, &[above, &[name]].concat(), found);
    }
}

#[test]
fn what_commands_print_as_json_is_what_the_contract_says() {
    let mut promised = Promised::read();
    let mut known = BTreeSet::new();
    typed(&Desk::new(""), &[], &mut known);
    assert!(known.len() > 30 && known.contains("keys ca") && known.contains("keys ca export"), "{known:?}");
    assert_eq!(&known, promised.commands(), "what can be typed, and the table");

    on_the_desk(&mut promised);
    first_steps(&mut promised);
    let fleet = Fleet::new();
    before_an_apply(&fleet, &mut promised);
    on_hosts(&fleet, &mut promised);
    of_keys(&fleet.desk, &mut promised);
    of_bundles(&fleet.desk, &mut promised);
    with_a_host_that_is_lost(&fleet, &mut promised);
    of_the_store(&fleet.desk, &mut promised);
    promised.hold("remove", &fleet.desk.value(0, &["remove", "--all", "--yes"]));
    what_is_not_played(&mut promised);
    // an answer that breaks off and is gone on with takes two hosts
    assert_eq!(promised.unseen(), ["chat: : continued"], "the contract promises what nothing prints");
    assert!(promised.hold_samples() >= 4);
}

/// What needs neither a host nor a fleet.
fn on_the_desk(promised: &mut Promised) {
    let desk = Desk::new("");
    for (name, arguments) in [
        ("catalog", &["catalog"][..]),
        ("fit", &["fit", "tinyllama-1.1b-chat", "--board", "pi4-8gb"]),
        ("schema", &["schema"]),
        ("man", &["man", "pages"]),
        ("bundle key", &["bundle", "key"]),
    ] {
        promised.hold(name, &desk.value(0, arguments));
    }
    for arguments in [&["completions", "bash"][..], &["schema", "--markdown"]] {
        assert!(serde_json::from_str::<Value>(&desk.told(&[0], arguments, "")).is_err(), "{arguments:?}");
    }
    assert!(promised.is_without("completions"));

    desk.write("bramble: 2\n");
    promised.hold("a manifest with faults", &desk.value(3, &["check"]));

    desk.write("bramble: 1\nfleet: home\nmodels:\n  chat: { source: \"file:./model\" }\nhosts:\n  desk: { address: 127.0.0.1, connect: local }\ndeploy:\n  - { model: chat, on: [desk] }\n");
    let lock =
        serde_json::json!({ "format": 1, "fleet": "home", "hosts": { "attic": { "address": "192.0.2.1" } } });
    fs::write(desk.path("bramble.lock"), lock.to_string()).unwrap();
    promised.hold("forget", &desk.value(0, &["forget", "attic"]));

    model::write_model(&desk.path("model"), 1, 64, Some(1));
    promised.hold("fetch", &desk.value(1, &["fetch", "./model", "./nowhere"]));
    promised.hold("convert", &desk.value(0, &["convert", "model", "--quant", "F16", "--out", "out"]));
    let arguments = ["quantize", "out/model-F16.gguf", "--quant", "Q8_0", "--out", "out"];
    promised.hold("quantize", &desk.value(0, &arguments));
}

/// What comes before there is a fleet.
fn first_steps(promised: &mut Promised) {
    let desk = Desk::new("");
    fs::create_dir(desk.path("home/.ssh")).unwrap();
    let config = "Host kitchen-pi\n  HostName 127.0.0.1\n  Port 1\nHost office\n";
    fs::write(desk.path("home/.ssh/config"), config).unwrap();
    promised.hold("init", &desk.value(0, &["init", "-f", "new.yaml"]));

    fs::create_dir(desk.path("card")).unwrap();
    for name in ["config.txt", "cmdline.txt", "user-data", "issue.txt"] {
        fs::write(desk.path("card").join(name), "console=tty1\n").unwrap();
    }
    promised.hold("sdcard", &desk.value(0, &["sdcard", "card", "--name", "kitchen"]));
}

/// What can be had of a fleet that was never applied.
fn before_an_apply(fleet: &Fleet, promised: &mut Promised) {
    let desk = &fleet.desk;
    promised.hold("check", &desk.value(0, &["check"]));
    fleet.add_attic();
    desk.write(
        &fs::read_to_string(desk.path("fleet.yaml"))
            .unwrap()
            .replace("on: [kitchen]", "on: [kitchen, attic]"),
    );
    promised.hold("plan", &desk.value(0, &["plan"]));
    desk.write(&fleet.manifest.replace("file:model", "file:nowhere"));
    promised.hold("plan", &desk.value(3, &["plan"]));
    promised.hold("an apply whose plan is refused", &desk.value(3, &["apply", "--yes"]));
    // nobody can be asked
    desk.write(&fleet.manifest);
    assert_eq!(desk.told(&[3], &["apply"], ""), "");
}

/// What needs a host.
fn on_hosts(fleet: &Fleet, promised: &mut Promised) {
    let desk = &fleet.desk;
    let applied = desk.value(0, &["apply", "--yes"]);
    promised.hold("apply", &applied);
    assert!(!applied.to_string().contains("bramble-"), "a key is in {applied}");
    promised.hold("apply", &desk.value(0, &["apply"]));
    promised.hold("cordon", &desk.value(0, &["cordon", "kitchen"]));
    promised.hold("status", &desk.value(0, &["status"]));
    promised.hold("uncordon", &desk.value(0, &["uncordon", "kitchen"]));
    promised.hold("status", &desk.value(0, &["status", "--verify"]));
    let (watching, line) = desk.first_line(&["status", "--watch"]);
    promised.hold("status", &line);
    assert_eq!(interrupt(watching), Some(130));
    promised.hold("restart", &desk.value(0, &["restart"]));
    let measured = desk.value(0, &["bench"]);
    promised.hold("bench", &measured);
    // a disk that is as fast as memory cannot be told from it: the bench says so instead
    let is_told = |host: &Value| {
        host["storage"].is_null() && host["notes"].to_string().contains("storage was not measured")
    };
    if measured["measured"].as_object().unwrap().values().all(is_told) {
        promised.forgo("bench", "measured{}.storage");
    }
    promised.hold("chat", &desk.value(0, &["chat", "kitchen", "Hello"]));
    let lines = desk.told(&[0], &["logs"], "");
    assert!(!lines.is_empty());
    for line in lines.lines() {
        promised.hold("logs", &serde_json::from_str(line).unwrap());
    }
    let (shown, line) = desk.first_line(&["ui", "--port", "0"]);
    promised.hold("ui", &line);
    assert_eq!(interrupt(shown), Some(0));
    fs::write(desk.path("weights.gguf"), b"weights").unwrap();
    promised.hold("push", &desk.value(0, &["push", "weights.gguf", "kitchen"]));
    promised.hold("doctor", &serde_json::from_str(&desk.told(&[0, 2], &["doctor"], "")).unwrap());
    // with deadlines by what was measured
    promised.hold("apply", &desk.value(0, &["apply", "--yes"]));
    promised.hold("tune", &desk.value(0, &["tune", "--yes", "--quant", "Q8_0"]));
    desk.write(&fleet.manifest.replace("context: 256", "context: 128"));
    promised.hold("apply", &desk.value(0, &["apply", "--yes"]));
    promised.hold("rollback", &desk.value(0, &["rollback", "--yes"]));
    promised.hold("prune", &desk.value(0, &["prune", "--yes"]));
}

fn of_keys(desk: &Desk, promised: &mut Promised) {
    let limits = ["--requests-per-minute", "5", "--concurrent", "1", "--tokens-per-minute", "100"];
    promised.hold("keys add", &desk.value(0, &[&["keys", "add", "phone"][..], &limits].concat()));
    promised.hold("keys rotate", &desk.value(0, &["keys", "rotate", "phone"]));
    promised.hold("keys revoke-host", &desk.value(0, &["keys", "revoke-host", "kitchen"]));
    promised.hold("keys list", &desk.value(0, &["keys", "list"]));
    promised.hold("keys readmit", &desk.value(0, &["keys", "readmit", "kitchen"]));
    promised.hold("keys remove", &desk.value(0, &["keys", "remove", "phone"]));
    promised.hold("keys ca", &desk.value(0, &["keys", "ca"]));
    let passphrase = "correct horse battery staple\n";
    for (name, arguments) in [
        ("keys ca export", &["keys", "ca", "export", "home.age"][..]),
        ("keys ca import", &["keys", "ca", "import", "home.age", "--replace"]),
    ] {
        promised.hold(name, &serde_json::from_str(&desk.told(&[0], arguments, passphrase)).unwrap());
    }
    promised.hold("apply", &desk.value(0, &["apply", "--yes"]));
    promised.hold("keys list", &desk.value(0, &["keys", "list"]));
}

/// What carries an applied fleet to another site.
fn of_bundles(desk: &Desk, promised: &mut Promised) {
    // a file of ours does not go along, and that is said
    let ended = desk.command(&["bundle", "export", "sources.bramble", "--sources"]).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && said.contains("at the same place beside the manifest"), "{said}");
    let exported = desk.value(0, &["bundle", "export", "site.bramble"]);
    promised.hold("bundle export", &exported);
    let site = Desk::new("");
    let file = desk.path("site.bramble").display().to_string();
    let key = exported["key"].as_str().unwrap();
    promised
        .hold("bundle import", &site.value(0, &["bundle", "import", &file, "--key", key, "-f", "new.yaml"]));
}

/// What was done on one host and could not be on another ends with 2.
fn with_a_host_that_is_lost(fleet: &Fleet, promised: &mut Promised) {
    let desk = &fleet.desk;
    fleet.add_attic();
    promised.hold("status", &desk.value(0, &["status"]));
    promised.hold("bench", &desk.value(2, &["bench"]));
    promised.hold("bench", &desk.value(1, &["bench", "attic"]));
    promised.hold("prune", &desk.value(2, &["prune", "--yes"]));
    promised.hold("push", &desk.value(2, &["push", "weights.gguf", "kitchen", "attic"]));
    promised.hold("restart", &desk.value(2, &["restart"]));
    desk.told(&[2], &["logs"], "");
    // who was left out, also where nothing else was to be done
    let manifest = fs::read_to_string(desk.path("fleet.yaml")).unwrap();
    desk.write(&manifest.replace("on: [kitchen]", "on: [kitchen, attic]"));
    promised.hold("apply", &desk.value(2, &["apply", "--yes"]));
    let again = desk.value(2, &["apply", "--yes"]);
    promised.hold("apply", &again);
    assert_eq!(again["hosts"]["attic"]["state"]["state"], "not_started", "{again}");
    desk.write(&fleet.manifest);
}

fn of_the_store(desk: &Desk, promised: &mut Promised) {
    let mut writer = Store::open(desk.path("cache/bramble")).unwrap().create().unwrap();
    writer.write(b"nobody's").unwrap();
    let unused = writer.seal().unwrap().digest;
    promised.hold("store ls", &desk.value(0, &["store", "ls"]));
    promised.hold("store prune", &desk.value(0, &["store", "prune", "--dry-run"]));
    let blob = desk.path("cache/bramble/blobs/sha256").join(unused.to_string());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"somebody's").unwrap();
    promised.hold("store verify", &desk.value(1, &["store", "verify"]));
}

/// What does not come about here, by the types that are printed.
fn what_is_not_played(promised: &mut Promised) {
    let name = |text: &str| text.parse::<HostName>().unwrap();
    let why = || "why".to_owned();
    let states = [
        State::WentBack { why: why() },
        State::Failed { step: why(), error: why() },
        State::Locked { said: why() },
        State::NotStarted { why: why() },
    ];
    let hosts: BTreeMap<_, _> = ["a", "b", "c", "d"].map(name).into_iter().zip(states).collect();
    let measured = Measured {
        model: "chat".parse().unwrap(),
        tokens_per_second: None,
        first_token_ms: None,
        load_seconds: 1.0,
        memory: Some(Bytes(1)),
    };
    let of_host = |state| OfHost { measured: vec![measured.clone()], ..OfHost::without_generation(state) };
    let hosts = hosts.into_iter().map(|(host, state)| (host, of_host(state))).collect();
    let (digest, bytes) = (Digest::of(b""), Bytes(1));
    let made = BTreeMap::from([(digest, Made { digest, bytes })]);
    let report = json!(Report { failures: vec![why()], hosts, made, is_interrupted: false });
    for command in ["apply", "restart", "cordon", "uncordon", "rollback", "remove"] {
        promised.hold(command, &report);
    }

    let host = HostStatus {
        host: name("a"),
        is_orphan: false,
        reach: Reach::Failed { why: why() },
        machine: None,
        generation: None,
        pending: None,
        door: DoorState::Unknown,
        cordon: None,
        models: Vec::new(),
        drift: Vec::new(),
        warnings: vec![why()],
    };
    promised.hold("status", &json!(Snapshot { hosts: vec![host] }));

    let quant = "Q4_K_M".parse().unwrap();
    let trial = Trial { quant, is_installed: false, outcome: Outcome::Failed(why()) };
    let mut tuned = json!(Proposal::Change { quant, why: why() });
    for (key, value) in [("host", json!("a")), ("model", json!("chat")), ("trials", json!([trial]))] {
        tuned[key] = value;
    }
    promised.hold("tune", &json!([tuned]));
}
