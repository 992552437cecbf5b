//! A real sshd on the loopback interface, with keys and configuration of its own.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bramble_fleet::connect::{Settings, Ssh, Target};

const SSHD: &str = "/usr/sbin/sshd";
/// More than these one sshd does not listen on.
const MOST_PORTS: usize = 16;

/// Ends with the test.
pub(crate) struct Sshd {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    processes: Vec<Child>,
}

impl Sshd {
    /// Starts one; none, with words, where sshd is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(&[free_port()])
    }

    /// Starts one that listens on all of these ports; the first is its own.
    pub(crate) fn start_on(ports: &[u16]) -> Option<Self> {
        Self::start_as(ports, "")
    }

    /// Starts one with these lines before the others of its configuration.
    pub(crate) fn start_with(lines: &str) -> Option<Self> {
        Self::start_as(&[free_port()], lines)
    }

    fn start_as(ports: &[u16], first: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: {SSHD} is not installed (package openssh-server)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for key in ["host", "login", "stranger"] {
            keygen(&dir.path().join(key));
        }
        let processes = ports.chunks(MOST_PORTS).map(|ports| listen(dir.path(), ports, first)).collect();
        let sshd = Self { dir, port: ports[0], processes };
        sshd.know("host.pub");
        Some(sshd)
    }

    /// Writes the key in `file` as the one known for this host.
    pub(crate) fn know(&self, file: &str) {
        let key = std::fs::read_to_string(self.path(file)).unwrap();
        std::fs::write(self.path("known"), format!("[127.0.0.1]:{} {key}", self.port)).unwrap();
    }

    /// Returns what it said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.processes[0].id()
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
            // what is named in it is of this test
            runtime_dir: Some(self.dir.path().to_owned()),
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
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts the program, with the keys in `dir`.
fn listen(dir: &Path, ports: &[u16], first: &str) -> Child {
    let is_root = fs_uid() == 0;
    if is_root {
        // sshd started as root wants its empty folder; systemd makes it for the real one
        let _ = std::fs::create_dir("/run/sshd");
    }
    let at = |name: &str| dir.join(name).display().to_string();
    let lines: Vec<String> = ports.iter().map(|port| format!("Port {port}\n")).collect();
    // bash in a bash, as it believes then, reads no file of the user's, which may take longer than all else
    let config = format!(
        "{first}SetEnv SHLVL=1\nListenAddress 127.0.0.1\n{}HostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         StrictModes no\nUsePAM {}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nUseDNS no\nSubsystem sftp internal-sftp\nMaxStartups 100\n",
        lines.concat(),
        at("host"),
        at("login.pub"),
        if is_root { "yes" } else { "no" },
    );
    let path = at(&format!("config.{}", ports[0]));
    std::fs::write(&path, config).unwrap();
    let mut process = Command::new(SSHD)
        .args(["-D", "-e", "-f", &path])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut listening = 0;
    let mut said = Vec::new();
    while listening < ports.len()
        && let Some(Ok(line)) = lines.next()
    {
        listening += usize::from(line.contains("Server listening"));
        said.push(line);
    }
    assert!(process.try_wait().unwrap().is_none(), "sshd ended: {said:?}");
    let log = dir.join("log");
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // the folder goes before the last words do
            let Ok(mut log) = File::options().append(true).create(true).open(&log) else { return };
            let _ = writeln!(log, "{line}");
        }
    });
    process
}

/// A port of this machine that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fs_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid()
}

pub(crate) fn keygen(path: &Path) {
    let status =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(status.success());
}
