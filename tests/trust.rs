//! Keys and certificates of a fleet, by the real commands, the real host's program and the real door over TLS; only the
//! engine is played.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[path = "support/stub.rs"]
mod stub;

use desk::Desk;

/// One host, this machine, whose services end with the test.
struct Fleet {
    desk: Desk,
    port: u16,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // nobody logs in to one that was revoked, to take it off either
        self.run(&["keys", "readmit", "desk"]);
        self.run(&["remove", "--all", "--yes"]);
    }
}

impl Fleet {
    fn new(tls: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let desk = Desk::new(&manifest(port, tls));
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        stub::write_program(&desk.path("brambled"), "engine");
        let packed =
            Command::new("tar").args(["-czf", "made.tar.gz", "brambled"]).current_dir(desk.path("")).status();
        assert!(packed.unwrap().success());
        desk.put_bundle(&fs::read(desk.path("made.tar.gz")).unwrap());
        Self { desk, port }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.desk.command(arguments).output().unwrap()
    }

    /// Runs a command that ends with `code`, and returns what it printed.
    #[track_caller]
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let told = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.code(), Some(code), "bramble {}: {said}{told}", arguments.join(" "));
        told
    }

    /// Applies, and looks that there is nothing left to apply.
    #[track_caller]
    fn apply(&self, more: &[&str]) -> String {
        let said = self.run(&[&["apply", "--yes"], more].concat());
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{words}{}", String::from_utf8_lossy(&said.stdout));
        self.ends(0, &["plan", "--exit-code"]);
        words
    }

    /// Runs a command that is told something on standard input, and returns how it ended.
    fn fed(&self, arguments: &[&str], input: &str) -> Option<i32> {
        let mut command = self.desk.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // one that refuses before it reads has closed its end
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait().unwrap().code()
    }

    fn authority(&self) -> String {
        self.ends(0, &["keys", "ca"])
    }

    /// Asks as an ordinary client that trusts `authority`; none where it takes the door for somebody else's.
    fn asks(&self, authority: &str, name: &str, key: &str) -> Option<u16> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let trusted = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            .resolve(name, address)
            .no_proxy()
            .build()
            .unwrap();
        let asked = client.get(format!("https://{name}:{}/v1/models", self.port)).bearer_auth(key).send();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(asked).ok().map(|reply| reply.status().as_u16())
    }

    fn generation(&self) -> String {
        fs::read_link(self.desk.path("root/current")).unwrap().file_name().unwrap().to_str().unwrap().into()
    }
}

fn manifest(port: u16, tls: &str) -> String {
    format!(
        "bramble: 1
fleet: home
serve: {{ port: {port}{tls} }}
models:
  chat: {{ source: \"file:model\", context: 256, quant: F16 }}
hosts:
  desk: {{ address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }}
deploy:
  - {{ model: chat, on: [desk] }}
"
    )
}

const NAME: &str = "desk.home.internal";

/// The key in what an apply says.
fn shown(words: &str) -> String {
    words
        .lines()
        .find_map(|line| line.trim().strip_prefix("bramble-").map(|_| line.trim()))
        .unwrap()
        .to_owned()
}

#[test]
fn keys_and_certificates_change_by_applies_and_only_by_them() {
    let fleet = Fleet::new("");
    let first = shown(&fleet.apply(&[]));
    let authority = fleet.authority();
    assert_eq!(fleet.asks(&authority, NAME, &first), Some(200));
    assert_eq!(fleet.asks(&authority, "desk.local", &first), Some(200));
    assert_eq!(fleet.asks(&authority, "kitchen.home.internal", &first), None);
    // the operator asks at the address, and knows the host all the same
    assert!(fleet.ends(0, &["chat", "desk", "Hello"]).contains("Yes."));
    let status: Value = serde_json::from_str(&fleet.ends(0, &["status", "--json"])).unwrap();
    assert_eq!(status["hosts"][0]["door"], "open");
    // what was done was told to whoever looked, and is told no more as something that runs
    let doing = fs::read(fleet.desk.path("state/bramble/fleets/home/doing.json")).unwrap();
    let doing: Value = serde_json::from_slice(&doing).unwrap();
    assert_eq!((&doing["verb"], &doing["state"]), (&"apply".into(), &"done".into()));
    let works: Vec<&Value> = doing["works"].as_array().unwrap().iter().collect();
    assert!(works.iter().any(|work| work["what"] == "activating generation 1"), "{doing}");
    assert!(works.iter().all(|work| work["state"] == "done"), "{doing}");
    // applying again changes nothing
    fleet.apply(&[]);
    assert_eq!(fleet.generation(), "1");

    // a key that was added is good after an apply, which a plan asks for
    let phone = fleet.ends(0, &["keys", "add", "phone"]);
    assert_eq!(fleet.asks(&authority, NAME, phone.trim()), Some(401));
    assert!(
        fleet
            .ends(2, &["plan", "--exit-code"])
            .contains("the fleet's keys or certificates have changed since")
    );
    fleet.apply(&[]);
    assert_eq!((fleet.asks(&authority, NAME, phone.trim()), fleet.generation()), (Some(200), "2".to_owned()));
    // and so is the one in its place, without a moment in which none is
    let other = fleet.ends(0, &["keys", "rotate", "phone"]);
    fleet.apply(&[]);
    for key in [&phone, &other] {
        assert_eq!(fleet.asks(&authority, NAME, key.trim()), Some(200));
    }
    fleet.ends(0, &["keys", "remove", "phone", "--old"]);
    fleet.apply(&[]);
    assert_eq!(fleet.asks(&authority, NAME, phone.trim()), Some(401));
    assert_eq!(fleet.asks(&authority, NAME, other.trim()), Some(200));

    // another certificate by the same authority, and then another authority
    let before = fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap();
    fleet.ends(0, &["keys", "revoke-host", "desk"]);
    // until it is said who is there now, nobody logs in, and nothing is sent, not by another authority either
    for verb in [&["plan"][..], &["status"], &["apply", "--yes"], &["apply", "--yes", "--new-ca"]] {
        let refused = fleet.run(verb);
        let said = [refused.stdout, refused.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(said.concat().contains("`bramble keys readmit desk`"), "{verb:?}: {said:?}");
        assert!(verb[0] != "apply" || !refused.status.success(), "{said:?}");
    }
    assert_eq!(fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap(), before);
    // it stays known where it was, under another name and out of the manifest, until somebody says who is there
    let manifest = fs::read_to_string(fleet.desk.path("fleet.yaml")).unwrap();
    fleet.desk.write(&manifest.replace("desk:", "table:").replace("[desk]", "[table]"));
    fleet.ends(3, &["forget", "desk"]);
    let said = fleet.ends(0, &["status"]);
    assert!(said.contains("table") && said.contains("`bramble keys readmit desk`"), "{said}");
    assert!(!said.contains("`bramble remove desk`") && !said.contains("`bramble forget desk`"), "{said}");
    fleet.desk.write(&manifest);
    fleet.ends(0, &["keys", "readmit", "desk"]);
    fleet.ends(1, &["keys", "readmit", "desk"]);
    fleet.ends(0, &["keys", "remove", "phone"]);
    let tablet = fleet.ends(0, &["keys", "add", "tablet"]);
    assert!(fleet.ends(2, &["plan", "--exit-code"]).contains("it gets a certificate of the fleet's"));
    fleet.apply(&[]);
    assert_eq!(fleet.authority(), authority);
    assert_eq!(fleet.asks(&authority, NAME, &first), Some(200));
    let after: Value =
        serde_json::from_str(&fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap())
            .unwrap();
    assert!(!before.contains(&serde_json::to_string(&after["identity"]["key"]).unwrap()));
    assert_eq!(after["identity"]["revoked"].as_array().unwrap().len(), 1);

    // who goes back to what ran before lets nobody in again who was let go since, and nobody out who came
    fleet.ends(0, &["rollback", "--yes"]);
    let back: Value =
        serde_json::from_str(&fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap())
            .unwrap();
    assert_eq!((&back["identity"], &back["keys"]), (&after["identity"], &after["keys"]));
    // the generation that it is was laid out with this key, and without the next
    assert_eq!(fleet.asks(&authority, NAME, other.trim()), Some(401));
    assert_eq!(fleet.asks(&authority, NAME, tablet.trim()), Some(200));
    fleet.apply(&["--new-ca"]);
    let founded = fleet.authority();
    assert_ne!(founded, authority);
    assert_eq!(fleet.asks(&authority, NAME, &first), None);
    assert_eq!(fleet.asks(&founded, NAME, &first), Some(200));
    assert!(fleet.ends(0, &["chat", "desk", "Hello"]).contains("Yes."));

    // nothing of it stands where others read
    let plan = fleet.ends(0, &["plan", "--json"]) + &fleet.ends(0, &["keys", "list"]);
    let listed = fleet.ends(0, &["keys", "list", "--json"]);
    let lock = fs::read_to_string(fleet.desk.path("bramble.lock")).unwrap();
    for text in [plan, listed, lock] {
        for secret in ["PRIVATE", first.as_str(), phone.trim(), other.trim()] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn another_machine_changes_nothing_until_it_has_the_authority_or_founds_another() {
    let fleet = Fleet::new("");
    let first = shown(&fleet.apply(&[]));
    let (kept, away) = (fleet.desk.path("state/bramble/fleets/home"), fleet.desk.path("away"));
    fs::rename(&kept, &away).unwrap();
    fleet.desk.write(&manifest(fleet.port, "").replace("context: 256", "context: 128"));
    // a plan says so before anything is asked, and nothing of it can be left out
    for verb in [&["plan"][..], &["apply", "--yes"], &["apply", "--yes", "--partial"]] {
        let refused = fleet.run(verb);
        let said = [refused.stdout, refused.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert_eq!(refused.status.code(), Some(3), "{said:?}");
        assert!(said.concat().contains("whose authority is on another machine"), "{said:?}");
    }
    assert!(!kept.exists() && fleet.generation() == "1");
    // with what the other one has sealed it is the other one
    let passphrase = "correct horse battery staple\n";
    fs::rename(&away, &kept).unwrap();
    assert_eq!(fleet.fed(&["keys", "ca", "export", "home.age"], "short\n"), Some(1));
    assert_eq!(fleet.fed(&["keys", "ca", "export", "home.age"], passphrase), Some(0));
    // it is never written over
    assert_eq!(fleet.fed(&["keys", "ca", "export", "home.age"], passphrase), Some(1));
    fs::rename(&kept, &away).unwrap();
    assert_eq!(fleet.fed(&["keys", "ca", "import", "home.age"], "correct horse\n"), Some(1));
    assert!(!kept.exists());
    assert_eq!(fleet.fed(&["keys", "ca", "import", "home.age"], passphrase), Some(0));
    fs::remove_dir_all(&away).unwrap();
    fleet.apply(&[]);
    assert_eq!(fleet.asks(&fleet.authority(), NAME, &first), Some(200));
    // and without, trust is founded anew, and the keys with it
    fs::rename(&kept, &away).unwrap();
    let second = shown(&fleet.apply(&["--new-ca"]));
    assert_eq!(fleet.asks(&fleet.authority(), NAME, &first), Some(401));
    assert_eq!(fleet.asks(&fleet.authority(), NAME, &second), Some(200));
}

#[test]
fn a_fleet_in_plain_http_gets_certificates_and_gives_them_up() {
    let fleet = Fleet::new(", tls: off");
    let first = shown(&fleet.apply(&[]));
    fleet.ends(1, &["keys", "ca"]);
    fleet.ends(3, &["apply", "--yes", "--new-ca"]);
    assert!(fleet.ends(0, &["chat", "desk", "Hello"]).contains("Yes."));
    // from another machine, whose keys would take the place of these
    let (kept, away) = (fleet.desk.path("state/bramble/fleets/home"), fleet.desk.path("away"));
    let warns = |arguments: &[&str]| {
        let said = String::from_utf8_lossy(&fleet.run(arguments).stderr).into_owned();
        said.contains("desk has keys of the fleet home, and this machine has none: ")
    };
    fs::rename(&kept, &away).unwrap();
    assert!(!warns(&["plan"]), "nothing is done");
    fleet.desk.write(&manifest(fleet.port, ", tls: off").replace("context: 256", "context: 128"));
    assert!(warns(&["plan"]) && warns(&["apply"]));
    fs::rename(&away, &kept).unwrap();
    assert!(!warns(&["plan"]));
    fleet.desk.write(&manifest(fleet.port, ""));
    fleet.ends(2, &["plan", "--exit-code"]);
    // what is there now is asked as it is
    let status: Value = serde_json::from_str(&fleet.ends(0, &["status", "--json"])).unwrap();
    assert_eq!(status["hosts"][0]["door"], "open");
    fleet.apply(&[]);
    assert_eq!(fleet.asks(&fleet.authority(), NAME, &first), Some(200));
    let secrets = fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap();
    assert!(!secrets.contains("peer"), "{secrets}");
    fleet.desk.write(&manifest(fleet.port, ", tls: off"));
    fleet.apply(&[]);
    assert!(fleet.ends(0, &["chat", "desk", "Hello"]).contains("Yes."));
    assert_eq!(fleet.asks(&fleet.authority(), NAME, &first), None);
}

#[test]
fn a_machine_that_never_applied_says_what_is_missing() {
    let fleet = Fleet::new("");
    for words in [&["keys", "add", "phone"][..], &["keys", "ca"], &["keys", "revoke-host", "desk"]] {
        fleet.ends(1, words);
    }
    assert_eq!(fleet.ends(0, &["keys", "list"]).lines().count(), 1);
    let added = fleet.run(&["keys", "add", "phone"]);
    let said = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(said.contains("the fleet home was never applied from here"), "{said}");
}

/// What is in a folder, by its path; links are not followed.
fn all(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn has(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|part| part == word.as_bytes())
}

/// Nobody else changes anything at rest, nor reads what the operator keeps, an export of it, or a door's secrets.
fn is_private_at_rest(fleet: &Fleet) {
    assert_eq!(fleet.fed(&["keys", "ca", "export", "home.age"], "a passphrase of some length\n"), Some(0));
    let mut files = Vec::new();
    all(&fleet.desk.path(""), &mut files);
    let mut private = 0;
    for file in files {
        let mode = fs::symlink_metadata(&file).unwrap().permissions().mode() & 0o777;
        let name = file.strip_prefix(fleet.desk.path("")).unwrap();
        assert_eq!(mode & 0o022, 0, "{} has mode {mode:o}", name.display());
        let is_private =
            name.starts_with("state") || name.ends_with("home.age") || name.ends_with("secrets.json");
        assert!(!is_private || mode.trailing_zeros() >= 7, "{} has mode {mode:o}", name.display());
        private += usize::from(is_private);
    }
    assert!(private >= 4, "what is private is not where it was looked for: {private}");
    let kept = fs::metadata(fleet.desk.path("state/bramble/fleets/home")).unwrap().permissions().mode();
    assert_eq!(kept & 0o777, 0o700);
}

/// The hub's token, a foreign server's key, the operator's and the client's key, and all private keys are searched for in
/// everything that an apply says and leaves behind: files, arguments, environments, sockets' folders, logs, plans.
#[test]
fn canaries_are_in_the_files_of_their_owner_and_nowhere_else() {
    const TOKEN: &str = "hf_canaryCANARYcanaryCANARY";
    const FOREIGN: &str = "sk-canary-of-a-foreign-server";
    let fleet = Fleet::new("");
    let gaming = "hosts:\n  gaming: { upstream: \"http://127.0.0.1:1/v1\", key: env:GAMING_KEY, models: { chat: m } }\n";
    let routes = "routes:\n  chat: { order: [local, gaming] }\n";
    // with another host beside it, this machine wants an address that is not the loopback's, and this one leads here
    let text = manifest(fleet.port, "")
        .replace("hosts:\n", gaming)
        .replace("127.0.0.1, connect", "0.0.0.0, connect");
    fleet.desk.write(&(text + routes));
    let run = |arguments: &[&str]| {
        let mut command = fleet.desk.command(arguments);
        let ended =
            command.env("HF_TOKEN", TOKEN).env("GAMING_KEY", FOREIGN).env("RUST_LOG", "trace").output();
        let ended = ended.unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        [ended.stdout, ended.stderr].concat()
    };
    let planned = [run(&["plan", "--json"]), run(&["plan", "--out", "kept.json"])].concat();
    let applied = run(&["apply", "--yes"]);
    let client = shown(&String::from_utf8_lossy(&applied));
    let asked =
        [run(&["chat", "desk", "Hello"]), run(&["status", "--json"]), run(&["logs", "--json"])].concat();
    let listed = [run(&["keys", "list", "--json"]), run(&["doctor", "--json"])].concat();
    let keys = fs::read_to_string(fleet.desk.path("state/bramble/fleets/home/keys.json")).unwrap();
    let operator: Value = serde_json::from_str(&keys).unwrap();
    let operator = operator["operator_key"].as_str().unwrap().to_owned();
    let secrets = fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap();
    let secrets: Value = serde_json::from_str(&secrets).unwrap();
    // a line of the key itself, as it stands in no certificate
    let private = secrets["identity"]["key"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
    assert!(secrets.to_string().contains(FOREIGN), "the door needs it");

    let canaries = [TOKEN, FOREIGN, &client, &operator, &private, "PRIVATE KEY"];
    for (what, said) in [("plan", &planned), ("apply", &applied), ("chat", &asked), ("list", &listed)] {
        for canary in canaries.iter().filter(|canary| what != "apply" || **canary != client) {
            assert!(!has(said, canary), "{canary} is in what {what} said");
        }
    }
    let mut files = Vec::new();
    all(&fleet.desk.path(""), &mut files);
    let mut owners = 0;
    for file in files {
        let Some(canary) = canaries.iter().find(|canary| has(&fs::read(&file).unwrap_or_default(), canary))
        else {
            continue;
        };
        let name = file.strip_prefix(fleet.desk.path("")).unwrap();
        let is_owners =
            ["state/bramble/fleets/home", "root/generations"].iter().any(|at| name.starts_with(at))
                && ["secrets.json", "keys.json", "authority.json"].iter().any(|end| name.ends_with(end));
        // the program that plays an engine has these words in it
        assert!(
            is_owners || has(&fs::read(&file).unwrap(), "\u{7f}ELF"),
            "{canary} is in {}",
            name.display()
        );
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert!(!is_owners || mode.trailing_zeros() >= 6, "{} has mode {mode:o}", name.display());
        owners += usize::from(is_owners);
    }
    assert!(owners >= 3, "the canaries were not found where they live: {owners}");

    is_private_at_rest(&fleet);

    let (mut seen, mut sockets) = (0, Vec::new());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let (words, environment) = (read("cmdline"), read("environ"));
        if !has(&words, &fleet.desk.path("root").display().to_string()) {
            continue;
        }
        seen += 1;
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        sockets
            .extend(descriptors.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_str()?.to_owned())));
        for canary in canaries {
            assert!(!has(&words, canary) && !has(&environment, canary), "{canary} in {entry:?}");
        }
    }
    assert!(seen >= 2, "the door and the engine run: {seen}");
    println!("secrets_in_argv_env_logs_plans.local = 0");

    // what these processes listen on, and what says who has no key
    let ports: BTreeSet<u16> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| {
            fs::read_to_string(table).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_theirs = |inode: &&str| sockets.contains(&format!("socket:[{inode}]"));
            words.get(9).filter(|inode| words[3] == "0A" && is_theirs(inode))?;
            u16::from_str_radix(words[1].rsplit_once(':')?.1, 16).ok()
        })
        .collect();
    assert_eq!(ports, BTreeSet::from([fleet.port]), "nothing but the door listens");
    let authority = fleet.authority();
    let wrong = "bramble-0000000000000000000000000000000000000000000000000000000000000000";
    assert_eq!(fleet.asks(&authority, NAME, wrong), Some(401));
    assert_eq!(fleet.asks(&authority, NAME, &client), Some(200));
}
