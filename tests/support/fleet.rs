//! An operator's desk, and hosts that `bramble` reaches through a real sshd: each is a folder of this machine.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::connect::quote;
use bramble_fleet::ids::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::desk::Desk;
use crate::sshd::Sshd;

/// How long a receiver may go on after its sender has gone.
const LINGERING: Duration = Duration::from_secs(90);

pub(crate) struct Fleet {
    pub(crate) sshd: Sshd,
    pub(crate) desk: Desk,
    hosts: Vec<String>,
}

impl Fleet {
    /// One host, `kitchen`, in the folder `host`.
    pub(crate) fn new() -> Option<Self> {
        let sshd = Sshd::start()?;
        let port = sshd.port;
        Some(Self::of(sshd, "", &[("kitchen", "host", port)]))
    }

    /// Hosts by name, folder and port; `more` is added to the manifest.
    pub(crate) fn of(sshd: Sshd, more: &str, hosts: &[(&str, &str, u16)]) -> Self {
        let target = sshd.target();
        let (user, identity) = (target.user.unwrap(), target.identity.unwrap());
        let mut manifest = format!(
            "bramble: 1
fleet: home
serve: {{ tls: off }}
{more}
models:
  chat: {{ source: \"file:FOLDERmodel\" }}
hosts:
"
        );
        let key = fs::read_to_string(sshd.path("host.pub")).unwrap();
        let mut known = String::new();
        for (name, folder, port) in hosts {
            let _ = write!(
                manifest,
                "  {name}:
    address: 127.0.0.1
    ssh: {{ user: {user}, port: {port}, identity: {} }}
    supervisor: process
    dir: FOLDER{folder}
",
                identity.display()
            );
            let _ = write!(known, "[127.0.0.1]:{port} {key}");
        }
        fs::write(sshd.path("known"), known).unwrap();
        let names: Vec<String> = hosts.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let _ = writeln!(manifest, "deploy:\n  - {{ model: chat, on: [{}] }}", names.join(", "));
        let desk = Desk::new(&manifest);
        // the bundle's program is the one under test, and says what it has read to receive
        // (built with llama.cpp it wants the libraries that cargo names in our environment)
        let libraries = quote(&std::env::var("LD_LIBRARY_PATH").unwrap_or_default());
        let program = env!("CARGO_BIN_EXE_brambled");
        let [told, hook] = ["read", "hook"].map(|name| quote(&desk.path(name).display().to_string()));
        let text = format!(
            "#!/bin/sh
export LD_LIBRARY_PATH={libraries}
[ ! -e {hook} ] || . {hook}
{program} \"$@\"
ended=$?
# of this shell and the programs that it has waited for
[ \"$1\" != receive ] || sed -n 's/^rchar: //p' /proc/$$/io >{told}
exit $ended
"
        );
        fs::write(desk.path("brambled"), text).unwrap();
        let fleet = Self { sshd, desk, hosts: names };
        fleet.sh("chmod +x brambled && tar -czf made.tar.gz brambled");
        fleet.desk.put_bundle(&fs::read(fleet.desk.path("made.tar.gz")).unwrap());
        fleet
    }

    /// Runs a line of shell at the desk.
    pub(crate) fn sh(&self, text: &str) {
        let status = Command::new("sh").args(["-c", text]).current_dir(self.desk.path("")).status();
        assert!(status.unwrap().success(), "{text}");
    }

    /// Has a host run this line of shell before its program, which is `"$program" "$@"`.
    pub(crate) fn hook(&self, text: &str) {
        let program = quote(env!("CARGO_BIN_EXE_brambled"));
        fs::write(self.desk.path("hook"), format!("program={program}\n{text}\n")).unwrap();
    }

    pub(crate) fn unhook(&self) {
        fs::remove_file(self.desk.path("hook")).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.desk.command(arguments);
        command.env("BRAMBLE_KNOWN_HOSTS", self.sshd.path("known"));
        command
    }

    /// Returns the push of a file of the desk to all hosts.
    pub(crate) fn pushing(&self, file: &str) -> Command {
        let mut command = self.command(&["push", file, "--json"]);
        command.args(&self.hosts);
        command
    }

    /// Pushes a file of the desk to all hosts and returns what it says as JSON, or why it failed.
    pub(crate) fn try_push(&self, file: &str) -> Result<Value, String> {
        let output = self.pushing(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(format!("{said}{}", String::from_utf8_lossy(&output.stdout)))
        }
    }

    /// Pushes a file of the desk to all hosts and returns what it says as JSON.
    #[track_caller]
    pub(crate) fn push(&self, file: &str) -> Value {
        self.try_push(file).unwrap()
    }

    pub(crate) fn begin(&self, file: &str) -> Child {
        self.pushing(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Returns where `kitchen` has a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.desk.path("host/blobs/sha256").join(digest.to_string())
    }

    /// Returns where a blob arrives at `kitchen`.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.desk.path("host/partial").join(digest.to_string())
    }

    /// Returns how much of a file has been written at `kitchen`.
    pub(crate) fn written(&self, digest: &Digest) -> u64 {
        fs::metadata(self.partial(digest)).map_or(0, |found| found.len())
    }

    /// Returns what the host's program read in the last push, which is what came and what was read again.
    pub(crate) fn read(&self) -> u64 {
        fs::read_to_string(self.desk.path("read")).unwrap().trim().parse().unwrap()
    }

    /// Returns the receivers at work.
    pub(crate) fn receivers(&self) -> Vec<u32> {
        self.at_work("receive")
    }

    /// Returns what has stayed root of receivers that gave their rights up.
    pub(crate) fn keepers(&self) -> Vec<u32> {
        self.at_work("keeper")
    }

    fn at_work(&self, verb: &str) -> Vec<u32> {
        let root = self.desk.path("host").display().to_string();
        processes(|words| words.get(1).is_some_and(|word| word == verb) && words.contains(&root))
    }

    /// Returns the master of our connection, and what goes through it.
    pub(crate) fn ssh(&self) -> Vec<u32> {
        let run = self.desk.path("run").display().to_string();
        processes(|words| words[0].contains("ssh") && words.iter().any(|word| word.contains(&run)))
    }

    /// Waits until nobody receives or seals any longer.
    #[track_caller]
    pub(crate) fn wait_for_receivers(&self) {
        let end = Instant::now() + LINGERING;
        while !self.receivers().is_empty() || !self.keepers().is_empty() {
            assert!(Instant::now() < end, "the receiver outlives the link");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Returns the processes whose arguments are as wanted.
fn processes(is_wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        is_wanted(&words)
    };
    numbers.filter(has).collect()
}

/// Ends processes at once; one that has just ended is what was wanted.
pub(crate) fn kill(pids: &[u32]) {
    signal(pids, Signal::KILL);
}

/// Sends a signal to processes; one that has just ended is none to mind.
pub(crate) fn signal(pids: &[u32], signal: Signal) {
    for pid in pids {
        let _ = kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), signal);
    }
}

/// Bytes that do not repeat.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ (self.0 >> 29)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(length).collect()
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

pub(crate) fn write_noise(path: &Path, mib: u64, seed: u64) -> Digest {
    let data = Noise(seed).bytes(usize::try_from(mib << 20).unwrap());
    fs::write(path, &data).unwrap();
    Digest::of(&data)
}
