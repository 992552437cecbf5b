//! A real sshd on the loopback interface, with keys and configuration of its own.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bramble_fleet::connect::{Settings, Ssh, Target};

const SSHD: &str = "/usr/sbin/sshd";

/// Ends with the test.
pub(crate) struct Sshd {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    process: Child,
}

impl Sshd {
    /// Starts one; none, with words, where sshd is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// Starts one that listens on more ports.
    pub(crate) fn start_on(ports: &[u16]) -> Option<Self> {
        let ports: Vec<String> = ports.iter().map(|port| format!("Port {port}\n")).collect();
        // everybody may be about to log in at once
        Self::start_with(&format!("{}MaxStartups 200\n", ports.concat()))
    }

    fn start_with(more: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: {SSHD} is not installed (package openssh-server)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for key in ["host", "login", "stranger"] {
            keygen(&dir.path().join(key));
        }
        let port = free_port();
        let is_root = fs_uid() == 0;
        if is_root {
            // sshd started as root wants its empty folder; systemd makes it for the real one
            let _ = std::fs::create_dir("/run/sshd");
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM {}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nUseDNS no\nSubsystem sftp internal-sftp\n{more}",
            at("host"),
            at("login.pub"),
            if is_root { "yes" } else { "no" },
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let mut process = Command::new(SSHD)
            .args(["-D", "-e", "-f", &at("config")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said: Vec<String> = lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|line| !line.contains("Server listening"))
            .collect();
        assert!(process.try_wait().unwrap().is_none(), "sshd ended: {said:?}");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let sshd = Self { dir, port, process };
        sshd.know("host.pub");
        Some(sshd)
    }

    /// Writes the key in `file` as the one known for this host.
    pub(crate) fn know(&self, file: &str) {
        let key = std::fs::read_to_string(self.path(file)).unwrap();
        std::fs::write(self.path("known"), format!("[127.0.0.1]:{} {key}", self.port)).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            address: "127.0.0.1".into(),
            user: Some(std::env::var("USER").unwrap_or_else(|_| "root".into())),
            port: Some(self.port),
            identity: Some(self.path("login")),
        }
    }

    /// Settings that look at no file of the user's.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            known_hosts: Some(self.path("known")),
            config: Some("/dev/null".into()),
            connect_timeout: Duration::from_secs(5),
            ..Settings::default()
        }
    }

    pub(crate) fn connect(&self) -> Ssh {
        Ssh::new(self.target(), self.settings()).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port of this machine that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fs_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn keygen(path: &Path) {
    let status =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(status.success());
}
