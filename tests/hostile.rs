//! Hostile names, addresses, users and paths reach no shell and no `ssh` as anything but one word: they are
//! refused, or run for real, beside a file that only an injected command would make.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the program under test"
)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bramble_fleet::facts::Supervision;
use bramble_fleet::generation::Layout;
use bramble_fleet::ids::Digest;
use bramble_fleet::unit::{self, Setting};
use bramble_fleet::units::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "support/definition.rs"]
mod definition;
#[path = "support/desk.rs"]
mod desk;
#[path = "support/hostile.rs"]
mod hostile;

use definition::definition;
use desk::Desk;
use hostile::{drawn, texts};

/// Keeps its arguments, and does with them what `ssh` does: what follows the address is joined by spaces, and
/// a shell of the login runs it.
const SSH: &str = r#"#!/bin/sh
printf '%s\0' "$@" >"$(mktemp "$CALLS/XXXXXXXX")"
is_bare=
while getopts 'MNTfl:p:i:o:F:S:' option; do
    case $option in
    N) is_bare=1 ;;
    '?') exit 255 ;;
    esac
done
shift $((OPTIND - 1))
# it logs in, and nothing more
[ -z "$is_bare" ] || exit 0
shift
exec sh -c "$*"
"#;

/// The options that we give to `ssh`, by how they begin.
const OPTIONS: [&str; 23] = [
    "BatchMode=yes",
    "Ciphers=^",
    "ClearAllForwardings=yes",
    "Compression=no",
    "ConnectTimeout=",
    "ControlMaster=no",
    "ControlPersist=2",
    "ForkAfterAuthentication=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "GlobalKnownHostsFile=none",
    "IdentitiesOnly=yes",
    "LogLevel=",
    "PermitLocalCommand=no",
    "ProxyCommand=sh -c 'echo bramble-has-no-master >&2'",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ServerAlive",
    "SessionType=default",
    "StdinNull=no",
    "StrictHostKeyChecking=yes",
    "Tunnel=no",
    "UserKnownHostsFile=",
];

/// A desk whose `ssh` is the double, and whose hosts are this machine.
struct Bench {
    desk: Desk,
}

impl Bench {
    fn new() -> Self {
        let desk = Desk::new("");
        for folder in ["bin", "calls"] {
            fs::create_dir(desk.path(folder)).unwrap();
        }
        fs::write(desk.path("bin/ssh"), SSH).unwrap();
        fs::set_permissions(desk.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let libraries = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let program = env!("CARGO_BIN_EXE_brambled");
        let text = format!("#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec {program} \"$@\"\n");
        fs::write(desk.path("brambled"), text).unwrap();
        let pack = "chmod +x brambled && tar -czf made.tar.gz brambled";
        assert!(Command::new("sh").args(["-c", pack]).current_dir(desk.path("")).status().unwrap().success());
        desk.put_bundle(&fs::read(desk.path("made.tar.gz")).unwrap());
        Self { desk }
    }

    /// Where an injected command leaves its trace; the shells of the double run in this folder.
    fn canary(&self) -> PathBuf {
        self.desk.path("canary")
    }

    fn run(&self, arguments: &[&OsStr]) -> Output {
        let mut command = self.desk.command(&[]);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.desk.path("bin").display());
        command.args(arguments).env("PATH", path).env("CALLS", self.desk.path("calls")).output().unwrap()
    }

    /// Holds what `ssh` was given since the last look to what is safe. Returns the number of calls.
    fn check_calls(&self, why: &str) -> usize {
        let mut calls = 0;
        for entry in fs::read_dir(self.desk.path("calls")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read(&path).unwrap();
            fs::remove_file(path).unwrap();
            let words: Vec<&OsStr> =
                text.strip_suffix(b"\0").unwrap().split(|b| *b == 0).map(OsStr::from_bytes).collect();
            check_call(&words, why);
            calls += 1;
        }
        assert!(!self.canary().exists(), "a command was injected: {why}");
        calls
    }
}

/// Checks that the arguments are ours, that the address is none of them, and that OpenSSH itself reads them so.
#[track_caller]
fn check_call(words: &[&OsStr], why: &str) {
    let mut rest = words.iter().map(|word| word.to_str().unwrap());
    let (mut user, mut is_master) = (None, false);
    loop {
        match rest.next().unwrap() {
            "--" => break,
            "-M" => is_master = true,
            "-N" | "-T" | "-f" => {}
            "-o" => {
                let option = rest.next().unwrap();
                let is_ours = OPTIONS.iter().any(|known| option.starts_with(known));
                assert!(is_ours && !option.contains('\n'), "-o {option:?}: {why}");
            }
            "-l" => user = rest.next(),
            "-p" | "-i" | "-F" | "-S" => drop(rest.next().unwrap()),
            other => unreachable!("{other:?} is no option of ours: {why}"),
        }
    }
    let address = rest.next().unwrap();
    assert!(
        !address.starts_with('-') && !address.contains(['/', ' ', '\n', '$', '`', ';']),
        "{address:?}: {why}"
    );
    // ssh reads options behind the address, too
    assert!(rest.next().is_none_or(|command| !command.starts_with('-')), "{why}");
    assert!(rest.next().is_none(), "the command is one argument: {why}");
    if !is_master {
        return;
    }
    // our configuration is gone with the call
    let at = words.iter().position(|word| *word == "-F").unwrap();
    let words = [&words[..at], &words[at + 2..]].concat();
    let given = words.iter().filter(|word| !["-M", "-N", "-f"].map(OsStr::new).contains(word));
    let read = Command::new("/usr/bin/ssh").args(["-G", "-F", "none"]).args(given).output().unwrap();
    // OpenSSH refuses some logins by itself, which is as good
    if read.status.success() && user.is_none_or(|user| !user.contains('\n')) {
        let text = String::from_utf8(read.stdout).unwrap();
        let found = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert_eq!(found("hostname"), Some(address.to_ascii_lowercase().as_str()), "{why}");
        assert!(user.is_none_or(|user| found("user") == Some(user.trim_end())), "{why}: {text}");
        for name in ["proxycommand", "proxyjump", "localcommand", "remotecommand", "knownhostscommand"] {
            assert!(found(name).is_none_or(|value| value == "none"), "{name}: {why}: {text}");
        }
    }
}

/// The parts of a manifest that a person writes; `None` of them, or one, is hostile.
#[derive(Debug, Clone)]
struct Parts {
    hostile: Option<usize>,
    texts: Vec<String>,
}

/// Their places in [`Parts::texts`].
const NAMES: [&str; 12] = [
    "fleet", "host", "address", "user", "identity", "dir", "label", "model", "source", "imatrix", "license",
    "version",
];

impl Parts {
    fn any(canary: &Path) -> impl Strategy<Value = Self> {
        // what is odd and right
        let odd: [&[&str]; NAMES.len()] = [
            &["home", "0", "a--"],
            &["kitchen", "0-", "x-oa"],
            &["127.0.0.1", "a-oProxyCommand", "_", "A_b.C-", "kitchen.local"],
            &["pi", "_-F", "a-oX", "root.", ".."],
            &["~/key", "@", "+", "./-i", "key@+~", "~root/-oX"],
            &["host", ".x", "_-", "a--root/_.-"],
            &["pi", "0-", "a--b"],
            &["chat", "0--x", "a-"],
            &["file:model", "file:$(touch canary)", "file:-oX/';touch canary;'"],
            &["imatrix.dat", "$(touch canary)", "';touch canary;'"],
            &["llama2", "apache-2.0", "_.+-"],
            &["1"],
        ];
        let odd = odd.map(|texts| prop::sample::select(texts.to_vec()).prop_map(str::to_owned)).to_vec();
        let place = prop_oneof![1 => Just(None), 2 => (0..NAMES.len()).prop_map(Some)];
        (odd, place, texts(canary)).prop_map(|(mut texts, hostile, text)| {
            if let Some(at) = hostile {
                texts[at] = text;
            }
            Self { hostile, texts }
        })
    }

    fn get(&self, name: &str) -> &str {
        &self.texts[NAMES.iter().position(|known| *known == name).unwrap()]
    }

    /// Returns the folder on the host, which is inside the desk's.
    fn dir(&self, desk: &Desk) -> String {
        format!("{}{}", desk.path("hosts/").display(), self.get("dir"))
    }

    fn manifest(&self, desk: &Desk) -> String {
        let version: Value =
            self.get("version").parse::<u8>().map_or_else(|_| self.get("version").into(), Value::from);
        json!({
            "bramble": version,
            "fleet": self.get("fleet"),
            "serve": { "tls": "off" },
            "models": { self.get("model"): {
                "source": self.get("source"), "imatrix": self.get("imatrix"), "accept_license": self.get("license"),
            } },
            "hosts": { self.get("host"): {
                "address": self.get("address"), "labels": [self.get("label")], "dir": self.dir(desk),
                "ssh": { "user": self.get("user"), "identity": self.get("identity") },
                "supervisor": "process",
            } },
            "deploy": [{ "model": self.get("model"), "on": { "labels": [self.get("label")] } }],
        })
        .to_string()
    }
}

/// Names of files, also of bytes that are no text.
fn file_names() -> impl Strategy<Value = OsString> {
    let bytes = prop::sample::select(vec![&b"\xff\xfe"[..], b"\xc3", b"x", b" "]).prop_map(<[u8]>::to_vec);
    let part = prop_oneof![3 => texts(Path::new("canary")).prop_map(String::into_bytes), 1 => bytes];
    prop::collection::vec(part, 1..3).prop_map(|parts| {
        let mut name = parts.concat();
        name.retain(|b| !b"/\0".contains(b));
        OsString::from_vec([name, b"x".to_vec()].concat())
    })
}

#[test]
fn a_hostile_manifest_is_refused_in_words_or_what_it_says_are_words_to_every_shell() {
    let bench = Bench::new();
    let (mut refused, mut run) = (0, 0);
    for seed in 0..60 {
        let parts = drawn(Parts::any(&bench.canary()), seed);
        let file = drawn(file_names(), seed);
        let why = format!("seed {seed}, {file:?}, {parts:?}");
        fs::write(bench.desk.path("fleet.yaml"), parts.manifest(&bench.desk)).unwrap();
        fs::write(bench.desk.path("").join(&file), &why).unwrap();
        let host = parts.get("host").replace('\0', "");
        let words = ["push", "--json", "--"].map(OsStr::new);
        let output = bench.run(&[&words[..], &[file.as_os_str(), OsStr::new(&host)]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let calls = bench.check_calls(&why);
        let planned = bench.run(&["plan", "--json"].map(OsStr::new));
        bench.check_calls(&why);
        if output.status.success() {
            let blob = Layout::new(parts.dir(&bench.desk)).blob(&Digest::of(why.as_bytes()));
            assert!(fs::read(blob).unwrap() == why.as_bytes() && calls > 3, "{why}");
            run += 1;
        } else {
            assert!(parts.hostile.is_some(), "{why}: {stderr}");
            assert!(calls == 0 && stderr.trim().len() > 20, "{why}: {stderr}");
            assert!(!planned.status.success(), "{why}");
            refused += 1;
        }
        assert!(!stderr.contains("panicked") && !stderr.contains('\u{1b}'), "{why}: {stderr}");
        fs::remove_file(bench.desk.path("").join(&file)).unwrap();
    }
    // both happen, and neither now and then
    assert!(refused >= 15 && run >= 15, "{refused} were refused and {run} were run");
}

#[test]
fn what_a_hostile_lock_remembers_of_a_host_is_no_option_and_no_command() {
    let bench = Bench::new();
    let parts = drawn(Parts::any(&bench.canary()), 0);
    let plain = Parts { hostile: None, texts: parts.texts };
    fs::write(bench.desk.path("fleet.yaml"), plain.manifest(&bench.desk)).unwrap();
    let mut calls = 0;
    for seed in 0..40 {
        let text = || texts(&bench.canary());
        let address = prop_oneof![Just("127.0.0.1".to_owned()), Just("a%h".to_owned()), text()];
        let (address, user, identity, dir) = drawn((address, text(), text(), text()), seed);
        let host = json!({ "address": address, "user": user, "identity": identity, "dir": dir, "port": 22 });
        let lock = json!({ "format": 1, "fleet": plain.get("fleet"), "hosts": { "gone": host } }).to_string();
        fs::write(bench.desk.path("bramble.lock"), &lock).unwrap();
        let output = bench.run(&["remove", "--yes", "gone"].map(OsStr::new));
        let stderr = String::from_utf8_lossy(&output.stderr);
        calls += bench.check_calls(&format!("seed {seed}, {lock}: {stderr}"));
        assert!(!stderr.contains("panicked"), "{lock}: {stderr}");
    }
    assert!(calls > 20, "only {calls} calls were made");
}

#[test]
fn a_folder_that_is_more_than_a_word_to_systemd_stands_in_no_unit() {
    let setting = Setting {
        supervision: Supervision::Systemd { version: 252 },
        has_namespaces: true,
        has_render_group: false,
        has_memory_limits: true,
        memory: [("chat".parse().unwrap(), Bytes::mib(1))].into(),
    };
    let definition = definition(Digest::of(b"program"), Digest::of(b"weights"), 7);
    let units = |root: &str| unit::render(&definition, &Layout::new(root), &setting);
    let plain = units("/srv/plain").unwrap();
    let (mut refused, mut rendered) = (0, 0);
    for seed in 0..500 {
        let odd = prop::sample::select(vec!["-x", "_.-", "a/b", ".x"]).prop_map(str::to_owned);
        let text = drawn(prop_oneof![3 => texts(Path::new("/canary")), 1 => odd], seed);
        let root = format!("/srv/{text}");
        match units(&root) {
            Ok(units) => {
                rendered += 1;
                assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)), "{text:?}");
                for (unit, plain) in units.iter().zip(&plain) {
                    assert_eq!(unit.text, plain.text.replace("/srv/plain", &root));
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("cannot stand in a unit"), "{error}");
            }
        }
    }
    assert!(refused > 100 && rendered > 50, "{refused} were refused and {rendered} were rendered");
}

#[test]
fn the_guard_takes_its_folder_and_what_is_pending_there_as_words() {
    for seed in 0..12 {
        let place = tempfile::tempdir().unwrap();
        let canary = place.path().join("canary");
        let text = || texts(&canary).prop_map(|text| text.replace('\0', ""));
        let (folder, one, two) = drawn((text(), text(), text()), seed);
        let root = place.path().join("root").join(folder.trim_start_matches('/'));
        fs::create_dir_all(&root).unwrap();
        let pending = root.join("pending");
        fs::write(&pending, format!("generation={one}\nprevious={two}\ntoken={one}\n")).unwrap();
        let output = Command::new("sh")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/guard.sh"))
            .arg(&root)
            .args(["process", "/nonexistent"])
            .env("BRAMBLE_GUARD_START", "no")
            .current_dir(place.path())
            .output()
            .unwrap();
        assert!(!canary.exists(), "seed {seed}, {folder:?}, {one:?}, {two:?}");
        assert!(output.status.success() && !pending.exists(), "seed {seed}, {root:?}: {output:?}");
        assert!(root.join("taken-back").exists(), "seed {seed}, {root:?}: {output:?}");
    }
}
