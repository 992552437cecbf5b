//! Keys and certificates of a fleet, by the real commands, the real host's program and the real door over TLS; only the
//! engine is played.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
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
        fleet.ends(2, &["plan", "--exit-code"]).contains("its keys and certificates are not the fleet's")
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
    assert!(fleet.ends(2, &["plan", "--exit-code"]).contains("it gets a certificate of the fleet's"));
    fleet.apply(&[]);
    assert_eq!(fleet.authority(), authority);
    assert_eq!(fleet.asks(&authority, NAME, &first), Some(200));
    let after: Value =
        serde_json::from_str(&fs::read_to_string(fleet.desk.path("root/current/secrets.json")).unwrap())
            .unwrap();
    assert!(!before.contains(&serde_json::to_string(&after["identity"]["key"]).unwrap()));
    assert_eq!(after["identity"]["revoked"].as_array().unwrap().len(), 1);
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
    let refused = fleet.run(&["apply", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("whose authority is on another machine"), "{said}");
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
