//! Unusual ways to a host, each with a real sshd: one session at a time, jump hosts, certificates, agents, and what a
//! person may have configured.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the sshd that the tests talk to"
)]

#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bramble_fleet::connect::{Connection, Error, Output, Piece, Script, Settings, Ssh, Stdin, Talk};
use process::Process;
use sshd::Sshd;
use tokio::sync::mpsc;

fn script(text: impl Into<String>) -> Script {
    Script { text: text.into(), is_root: false, timeout: Duration::from_mins(1) }
}

async fn run(connection: &dyn Connection, text: impl Into<String>) -> Output {
    connection.run(&script(text), Stdin::Empty).await.unwrap()
}

async fn failure(ssh: Ssh) -> Error {
    ssh.run(&script("true"), Stdin::Empty).await.unwrap_err()
}

async fn wait_for(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A script that says that it is there, and goes on until `path` is removed.
fn staying(path: &Path) -> Script {
    script(format!(": >{0}; while [ -e {0} ]; do sleep 0.05; done; echo done", path.display()))
}

#[tokio::test]
async fn a_host_that_permits_one_session_at_a_time_ends_none_for_another() {
    let Some(sshd) = Sshd::start_with("MaxSessions 1\n") else { return };
    let ssh = sshd.connect();
    let is_in = sshd.path("in");
    let long = staying(&is_in);
    let others = async {
        wait_for(&is_in).await;
        // input and status are those of any session
        let bytes = vec![7; 1 << 20];
        let counted = ssh.run(&script("wc -c; exit 3"), Stdin::Bytes(bytes)).await.unwrap();
        assert_eq!((counted.status, counted.stdout.trim_ascii()), (3, &b"1048576"[..]));
        let (one, two) = tokio::join!(run(&ssh, "echo one"), run(&ssh, "echo two"));
        assert_eq!((one.stdout, two.stdout), (b"one\n".to_vec(), b"two\n".to_vec()));

        let (say, input) = mpsc::channel(1);
        let (output, mut hear) = mpsc::channel(1);
        let talk = script("cat");
        let lead = async {
            for word in ["first ", "second"] {
                say.send(Piece::Bytes(word.as_bytes().to_vec())).await.unwrap();
            }
            drop(say);
            let mut said = Vec::new();
            while let Some(more) = hear.recv().await {
                said.extend(more);
            }
            said
        };
        let (talked, said) = tokio::join!(ssh.talk(&talk, Talk { input, output }), lead);
        assert_eq!((talked.unwrap().status, said), (0, b"first second".to_vec()));

        // what is out of time is ended there
        let pid = sshd.path("pid");
        let text = format!("echo $$ >{}; while :; do sleep 0.05; done", pid.display());
        let slow = Script { timeout: Duration::from_secs(1), ..script(text) };
        let begun = std::time::Instant::now();
        let error = ssh.run(&slow, Stdin::Empty).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(40));
        let slow = Process(std::fs::read_to_string(pid).unwrap().trim().parse().unwrap());
        let ended = async {
            while slow.is_running() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
        std::fs::remove_file(&is_in).unwrap();
    };
    let (stayed, ()) = tokio::join!(ssh.run(&long, Stdin::Empty), others);
    assert_eq!(stayed.unwrap().stdout, b"done\n");
}

#[tokio::test]
async fn a_host_that_permits_no_session_says_so() {
    let Some(sshd) = Sshd::start_with("MaxSessions 0\n") else { return };
    let error = failure(sshd.connect()).await;
    assert!(matches!(&error, Error::Refused { said, .. } if said.contains("MaxSessions")), "{error}");
}

/// Returns the way to `sshd` with this configuration in place of the user's and the system's.
fn configured(sshd: &Sshd, text: &str) -> Ssh {
    let config = sshd.path("ssh_config");
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = Settings { config: Some(config), ..sshd.settings() };
    Ssh::new(sshd.target(), settings).unwrap()
}

/// A jump host before `sshd`, which `sshd` knows.
struct Gate {
    gate: Sshd,
    config: String,
}

impl Gate {
    fn before(sshd: &Sshd) -> Option<Self> {
        let gate = Sshd::start()?;
        let user = gate.target().user.unwrap();
        let (port, key) = (gate.port, gate.path("login"));
        // its address is the host's own here, so that the rule for that one goes by what was typed
        let config = format!(
            "Host gate\n  HostName 127.0.0.1\n  HostKeyAlias gate\n  Port {port}\n  User {user}\n  \
             IdentityFile {}\n  IdentitiesOnly yes\n  LogLevel QUIET\n\
             Match originalhost 127.0.0.1\n  ProxyJump gate\n",
            key.display()
        );
        let this = Self { gate, config };
        this.know(sshd, "host.pub");
        Some(this)
    }

    /// Has `sshd` know the key in `file` as the jump host's.
    fn know(&self, sshd: &Sshd, file: &str) {
        sshd.know("host.pub");
        let key = std::fs::read_to_string(self.gate.path(file)).unwrap();
        let known = std::fs::read_to_string(sshd.path("known")).unwrap();
        std::fs::write(sshd.path("known"), format!("{known}gate {key}")).unwrap();
    }
}

fn fingerprint(sshd: &Sshd) -> String {
    let print = Command::new("ssh-keygen").arg("-lf").arg(sshd.path("host.pub")).output().unwrap();
    let print = String::from_utf8(print.stdout).unwrap();
    print.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap().to_owned()
}

#[tokio::test]
async fn a_host_behind_a_jump_host_is_like_any_other() {
    let Some(sshd) = Sshd::start() else { return };
    let gate = Gate::before(&sshd).unwrap();
    let ssh = configured(&sshd, &gate.config);
    let output = ssh.run(&script("cat; echo err >&2; exit 3"), Stdin::Bytes(b"in\n".to_vec())).await.unwrap();
    assert_eq!((output.status, &*output.stdout, &*output.stderr), (3, &b"in\n"[..], "err\n"));
    assert_eq!(run(&ssh, "echo again").await.stdout, b"again\n");
    assert!(gate.gate.log().contains("Accepted publickey"), "it was on the way: {}", gate.gate.log());
}

#[tokio::test]
async fn a_jump_host_with_an_unknown_key_is_refused_with_its_fingerprint_and_accepted_when_told() {
    let Some(sshd) = Sshd::start() else { return };
    let gate = Gate::before(&sshd).unwrap();
    sshd.know("host.pub");
    let asked = format!("{}StrictHostKeyChecking ask\n", gate.config);
    let error = failure(configured(&sshd, &asked)).await;
    let Error::HostKeyUnknown { host, fingerprint: Some(shown) } = &error else { panic!("{error:?}") };
    assert!(host.starts_with("gate, on the way to "), "{host}");
    assert_eq!(*shown, format!("ssh-ed25519 {}", fingerprint(&gate.gate)));
    assert!(error.to_string().contains("--accept-new-host-keys"), "{error}");
    assert!(!std::fs::read_to_string(sshd.path("known")).unwrap().contains("gate"));

    let settings =
        Settings { is_new_host_key_accepted: true, config: Some(sshd.path("ssh_config")), ..sshd.settings() };
    let ssh = Ssh::new(sshd.target(), settings).unwrap();
    assert_eq!(run(&ssh, "echo in").await.stdout, b"in\n");
    assert!(std::fs::read_to_string(sshd.path("known")).unwrap().contains("gate"), "it was remembered");
}

#[tokio::test]
async fn what_is_wrong_with_a_jump_host_is_told_from_what_is_wrong_with_the_host() {
    let Some(sshd) = Sshd::start() else { return };
    let gate = Gate::before(&sshd).unwrap();
    gate.know(&sshd, "stranger.pub");
    let error = failure(configured(&sshd, &gate.config)).await;
    assert!(matches!(&error, Error::HostKeyChanged { host, .. } if host.starts_with("gate, ")), "{error}");

    gate.know(&sshd, "host.pub");
    let login = gate.gate.path("login");
    let stranger =
        gate.config.replace(&login.display().to_string(), &gate.gate.path("stranger").display().to_string());
    let error = failure(configured(&sshd, &stranger)).await;
    assert!(
        matches!(&error, Error::Authentication { host, .. } if host.contains(", on the way to ")),
        "{error}"
    );

    let closed =
        gate.config.replace(&format!("Port {}", gate.gate.port), &format!("Port {}", sshd::free_port()));
    let error = failure(configured(&sshd, &closed)).await;
    assert!(matches!(&error, Error::Refused { said, .. } if said.contains("Connection refused")), "{error}");

    let nowhere = gate.config.replace("HostName 127.0.0.1", "HostName no-such-host.invalid");
    let error = failure(configured(&sshd, &nowhere)).await;
    assert!(matches!(&error, Error::Unreachable { said, .. } if said.contains("resolve")), "{error}");

    // the host's own fault is the host's
    gate.know(&sshd, "host.pub");
    let known = std::fs::read_to_string(sshd.path("known")).unwrap();
    let gates = known.lines().find(|line| line.starts_with("gate ")).unwrap().to_owned();
    std::fs::write(sshd.path("known"), gates + "\n").unwrap();
    let error = failure(configured(&sshd, &gate.config)).await;
    let Error::HostKeyUnknown { host, fingerprint: Some(shown) } = &error else { panic!("{error:?}") };
    assert!(!host.contains("on the way"), "{host}");
    assert_eq!(*shown, format!("ssh-ed25519 {}", fingerprint(&sshd)));
}
