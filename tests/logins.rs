//! Unusual ways to a host, each with a real sshd: one session at a time, jump hosts, certificates, agents, and what a
//! person may have configured.
#![expect(
    clippy::unwrap_used,
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

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bramble_fleet::connect::{
    Connection, Error, Output, Piece, Script, Settings, Ssh, Stdin, Talk, Target, fast_cipher,
};
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
        let counted = ssh.run(&script("wc -c; exit 3"), Stdin::bytes(bytes)).await.unwrap();
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
    let output = ssh.run(&script("cat; echo err >&2; exit 3"), Stdin::bytes(b"in\n".to_vec())).await.unwrap();
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

#[tokio::test]
async fn each_end_may_have_its_own_cipher_put_first() {
    for has_aes in [true, false] {
        let Some(sshd) = Sshd::start_with("LogLevel DEBUG1\n") else { return };
        let first_ciphers = Some(fast_cipher(has_aes).to_owned());
        let ssh = Ssh::new(sshd.target(), Settings { first_ciphers, ..sshd.settings() }).unwrap();
        assert_eq!(run(&ssh, "echo in").await.stdout, b"in\n");
        // both ways, as the host has it
        for way in ["client->server", "server->client"] {
            let agreed = format!("kex: {way} cipher: {} ", fast_cipher(has_aes));
            said(&sshd, &agreed).await;
        }
    }
}

/// Waits until the host has said this.
async fn said(sshd: &Sshd, text: &str) {
    let heard = async {
        while !sshd.log().contains(text) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(10), heard).await;
    assert!(heard.is_ok(), "{text}: {}", sshd.log());
}

#[tokio::test]
async fn a_certificate_lets_in() {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("authority");
    sshd::keygen(&authority);
    let Some(sshd) = Sshd::start_with(&format!("TrustedUserCAKeys {}.pub\n", authority.display())) else {
        return;
    };
    let (mut target, key) = (sshd.target(), sshd.path("stranger"));
    target.identity = Some(key.clone());
    let connect = || Ssh::new(target.clone(), sshd.settings()).unwrap();
    assert!(matches!(failure(connect()).await, Error::Authentication { .. }), "the key alone is nobody's");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-I", "ada", "-V", "-1h:+1h", "-n"]).arg(target.user.as_ref().unwrap());
    assert!(keygen.arg("-s").arg(&authority).arg(key.with_extension("pub")).status().unwrap().success());
    assert_eq!(run(&connect(), "echo in").await.stdout, b"in\n");
    said(&sshd, "ED25519-CERT").await;
}

/// An agent of its own, which ends with the test.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    async fn start(folder: &Path) -> Self {
        let socket = folder.join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let process = agent.spawn().unwrap();
        wait_for(&socket).await;
        Self { process, socket }
    }

    fn add(&self, key: &Path) {
        let mut add = Command::new("ssh-add");
        assert!(add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_key_that_only_an_agent_has_lets_in() {
    let Some(sshd) = Sshd::start() else { return };
    let agent = Agent::start(sshd.dir.path()).await;
    agent.add(&sshd.path("login"));
    std::fs::remove_file(sshd.path("login")).unwrap();
    let config = sshd.path("ssh_config");
    std::fs::write(&config, format!("IdentityAgent {}\n", agent.socket.display())).unwrap();
    let settings = Settings { config: Some(config), ..sshd.settings() };
    let target = Target { identity: None, ..sshd.target() };
    let ssh = Ssh::new(target.clone(), settings).unwrap();
    assert_eq!(run(&ssh, "echo in").await.stdout, b"in\n");
    let error = failure(Ssh::new(target, sshd.settings()).unwrap()).await;
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
}

#[tokio::test]
async fn nothing_that_a_person_forwards_is_forwarded() {
    let Some(sshd) = Sshd::start_with("LogLevel DEBUG1\nPermitTunnel yes\nX11Forwarding yes\n") else {
        return;
    };
    let agent = Agent::start(sshd.dir.path()).await;
    let ports = [sshd::free_port(), sshd::free_port(), sshd::free_port()];
    let config = format!(
        "IdentityAgent {}\nForwardAgent yes\nForwardX11 yes\nForwardX11Trusted yes\nExitOnForwardFailure yes\n\
         LocalForward {} 127.0.0.1:1\nDynamicForward {}\nRemoteForward {} 127.0.0.1:1\n\
         PermitLocalCommand yes\nLocalCommand touch {}\n",
        agent.socket.display(),
        ports[0],
        ports[1],
        ports[2],
        sshd.path("local").display()
    );
    let first = configured(&sshd, &config);
    let second = configured(&sshd, &config);
    // with the login, through it, and by one that logs in without a script
    let look = "echo \"$SSH_AUTH_SOCK$DISPLAY\"; read -r line; [ \"$line\" = on ]";
    let shown = first.run(&script(look), Stdin::bytes(b"on\n".to_vec())).await.unwrap();
    assert_eq!((shown.status, shown.stdout), (0, b"\n".to_vec()));
    for ssh in [&first, &second] {
        let (say, input) = mpsc::channel(1);
        let (output, mut hear) = mpsc::channel(1);
        let script = script(look);
        let lead = async {
            let shown = hear.recv().await.unwrap();
            for port in ports {
                let error = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{port}");
            }
            say.send(Piece::Bytes(b"on\n".to_vec())).await.unwrap();
            shown
        };
        let (ended, shown) = tokio::join!(ssh.talk(&script, Talk { input, output }), lead);
        assert_eq!((ended.unwrap().status, shown), (0, b"\n".to_vec()));
    }
    assert!(!sshd.path("local").exists());
    said(&sshd, "exec").await;
    for asked in ["auth-agent-req", "x11-req", "tcpip-forward", "tun@openssh.com"] {
        assert!(!sshd.log().contains(asked), "{asked}: {}", sshd.log());
    }
}

#[tokio::test]
async fn no_script_is_the_worse_for_what_a_person_has_configured() {
    let Some(sshd) = Sshd::start_with("AcceptEnv *\n") else { return };
    let (own, asked) = (sshd.path("own"), sshd.path("asked"));
    std::fs::create_dir(&own).unwrap();
    let config = format!(
        "Match exec \"echo >>{asked}; echo noise; echo noise >&2\"\n  ServerAliveInterval 1\n\
         Host *\nSessionType none\nStdinNull yes\nForkAfterAuthentication yes\nRemoteCommand false\n\
         RequestTTY force\nEscapeChar ~\nBatchMode no\nLogLevel DEBUG3\nVisualHostKey yes\nTunnel yes\n\
         ControlMaster auto\nControlPath {own}/%r@%h:%p\nControlPersist yes\nCompression yes\n\
         SendEnv LANG LC_* *\nSetEnv LC_MESSAGES=de_DE.UTF-8 POSIXLY_CORRECT=1\nUpdateHostKeys ask\n\
         AddKeysToAgent ask\nStrictHostKeyChecking no\nPermitLocalCommand yes\nLocalCommand echo local\n\
         NumberOfPasswordPrompts 3\nConnectionAttempts 2\nGatewayPorts yes\nIgnoreUnknown Strange\nStrange yes\n",
        asked = asked.display(),
        own = own.display(),
    );
    let ssh = configured(&sshd, &config);
    // what a terminal would take for an escape, and the end of its input
    let bytes = b"in\n~.\n~~\n~&\n\x04\r\n\x00\xff".repeat(1000);
    for text in ["cat; echo err >&2; exit 3"; 2] {
        let output = ssh.run(&script(text), Stdin::bytes(bytes.clone())).await.unwrap();
        assert!(output.stdout == bytes && output.stderr == "err\n" && output.status == 3, "{output:?}");
    }
    let slow = Script { timeout: Duration::from_secs(1), ..script("sleep 1000") };
    let error = ssh.run(&slow, Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    ssh.close().await;
    let (say, input) = mpsc::channel(1);
    let (output, mut hear) = mpsc::channel(1);
    let lead = async {
        say.send(Piece::Bytes(b"~.\nhello\n".to_vec())).await.unwrap();
        drop(say);
        let mut heard = Vec::new();
        while let Some(more) = hear.recv().await {
            heard.extend(more);
        }
        heard
    };
    let talk = script("cat");
    let (ended, heard) = tokio::join!(ssh.talk(&talk, Talk { input, output }), lead);
    assert_eq!((ended.unwrap().status, heard), (0, b"~.\nhello\n".to_vec()));
    assert_eq!(std::fs::read_dir(&own).unwrap().count(), 0, "the person's own connections are not ours");
    assert!(asked.exists(), "it was read");

    // and a host that is not known is refused, whatever it says
    sshd.know("stranger.pub");
    let error = failure(configured(&sshd, &config)).await;
    assert!(matches!(error, Error::HostKeyChanged { .. }), "{error}");
    std::fs::write(sshd.path("known"), "").unwrap();
    let error = failure(configured(&sshd, &config)).await;
    assert!(matches!(error, Error::HostKeyUnknown { fingerprint: Some(_), .. }), "{error}");
}
