use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::error::tame;
use super::logs::{self, Reading};
use super::{Arming, Changes, Error, LogLine, Service, Supervisor, files, guard, program};
use crate::causes::with_causes;
use crate::facts::ServiceState;
use crate::generation::Layout;
use crate::unit::Unit;
use crate::units::Bytes;

/// How long our supervisor may take to come up, or to have read a new definition.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to stop everything; services are killed after 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// How often its status is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Our own supervisor, on hosts without systemd: `brambled supervise`, one process that
/// starts the services and starts them again, spoken to by signals and a status file.
#[derive(Debug, Clone)]
pub struct Process {
    layout: Layout,
}

/// What the supervising process writes of itself: `run/supervise.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The times that it read `current` and did what is there.
    pub(super) rounds: u64,
    pub(super) services: BTreeMap<String, ServiceStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServiceStatus {
    pub(super) state: ServiceState,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u32,
}

pub(super) fn status_path(layout: &Layout) -> PathBuf {
    layout.run_dir().join("supervise.json")
}

fn turns_path(layout: &Layout) -> PathBuf {
    layout.run_dir().join("turns.json")
}

/// Returns how often each service was told to start anew. Another number means another process.
pub(super) fn turns(layout: &Layout) -> BTreeMap<String, u64> {
    files::read_json(&turns_path(layout)).ok().flatten().unwrap_or_default()
}

pub(super) fn pid_path(layout: &Layout) -> PathBuf {
    layout.run_dir().join("supervise.pid")
}

pub(super) fn log_path(layout: &Layout, service: &str) -> PathBuf {
    layout.root().join("log").join(format!("{service}.log"))
}

/// Opens the file that the supervising process holds locked while it lives.
pub(super) fn open_pid_file(layout: &Layout) -> Result<File, Error> {
    files::make_dir(&layout.run_dir())?;
    let path = pid_path(layout);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    opened.map_err(Error::io("open", &path))
}

/// Returns whether process `pid` runs with all of `words` among its arguments. One that has ended
/// has none, also where nobody asks for its status: not every container's first process does.
pub(super) fn is_process_of(pid: u32, words: &[&str]) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    words.iter().all(|word| arguments.split('\0').any(|argument| argument == *word))
}

/// Returns whether process `pid` runs the program in the file `program`; none where that cannot be told: where we may not
/// see it, and of a script, whose process is its interpreter's.
pub(super) fn runs(pid: u32, program: &Path) -> Option<bool> {
    let mut start = [0; 2];
    File::open(program).and_then(|mut file| file.read_exact(&mut start)).ok()?;
    if start == *b"#!" {
        return None;
    }
    let file = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    Some(file(Path::new(&format!("/proc/{pid}/exe")))? == file(program)?)
}

/// Returns the most memory that a process has held, mapped files included.
pub(super) fn peak_memory(pid: u32) -> Option<Bytes> {
    memory(pid, "VmHWM")
}

/// Returns `RssAnon` of a process: what would be free without it. Mapped weights are page
/// cache and count as available already.
pub(super) fn anonymous_memory(pid: u32) -> Option<Bytes> {
    memory(pid, "RssAnon")
}

fn memory(pid: u32, key: &str) -> Option<Bytes> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
}

pub(super) fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

impl Process {
    /// The supervisor for this folder.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Returns the supervising process, if one lives.
    fn supervising(&self) -> Option<u32> {
        let file = File::open(pid_path(&self.layout)).ok()?;
        if file.try_lock().is_ok() {
            return None;
        }
        std::fs::read_to_string(pid_path(&self.layout)).ok()?.trim().parse().ok()
    }

    fn status(&self) -> Status {
        files::read_json(&status_path(&self.layout)).ok().flatten().unwrap_or_default()
    }

    async fn start(&self) -> Result<(), Error> {
        let brambled = Layout::brambled(&self.layout.current());
        let cannot = |source| Error::Start { program: brambled.display().to_string(), source };
        let root = self.layout.root().as_os_str();
        let args = ["supervise".as_ref(), "--root".as_ref(), root];
        let mut child = program::detached(&brambled, &args).spawn().map_err(cannot)?;
        let end = Instant::now() + START_LIMIT;
        loop {
            if self.supervising().is_some() && self.status().rounds > 0 {
                return Ok(());
            }
            let ended = child.try_wait().map_err(cannot)?;
            if ended.is_some() || Instant::now() > end {
                let said = ended.map_or("it does not come up".to_owned(), |status| status.to_string());
                return Err(Error::Failed { program: format!("{} supervise", brambled.display()), said });
            }
            sleep(TICK).await;
        }
    }

    /// Has the supervising process look at what shall run, and waits until it has; starts it where none lives.
    async fn follow(&self) -> Result<(), Error> {
        let Some(pid) = self.supervising() else { return self.start().await };
        let seen = self.status().rounds;
        signal(pid, Signal::HUP);
        let end = Instant::now() + STOP_LIMIT;
        while self.status().rounds == seen {
            if Instant::now() > end {
                let said = format!("process {pid} does not read its definition again");
                return Err(Error::Failed { program: "brambled supervise".to_owned(), said });
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn stop(&self) -> Result<(), Error> {
        let Some(pid) = self.supervising() else { return Ok(()) };
        signal(pid, Signal::TERM);
        let end = Instant::now() + STOP_LIMIT;
        while self.supervising().is_some() {
            if Instant::now() > end {
                let said = format!("process {pid} does not end");
                return Err(Error::Failed { program: "brambled supervise".to_owned(), said });
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    fn timer_path(&self) -> PathBuf {
        self.layout.root().join("guard/timer.pid")
    }
}

#[async_trait]
impl Supervisor for Process {
    fn user(&self) -> Option<&'static str> {
        None
    }

    async fn verify(&self, _units: &[Unit], _at: &Path) -> Result<(), Error> {
        Ok(())
    }

    async fn switch(&self, _units: &[Unit], changes: &Changes) -> Result<(), Error> {
        if !self.layout.current().exists() {
            return self.stop().await;
        }
        if changes.is_program_new {
            self.stop().await?;
        }
        self.follow().await
    }

    async fn restart(&self, services: &[String]) -> Result<(), Error> {
        let mut turns = turns(&self.layout);
        for service in services {
            *turns.entry(service.clone()).or_default() += 1;
        }
        let text = files::json("the turns of services", &turns)?;
        files::write(&turns_path(&self.layout), &text, 0o644)?;
        self.follow().await
    }

    async fn services(&self, services: &[String]) -> Result<BTreeMap<String, Service>, Error> {
        let is_supervised = self.supervising().is_some();
        let status = if is_supervised { self.status() } else { Status::default() };
        let one = |name: &String| {
            let found = status.services.get(name);
            let service = found.map_or(Service::STOPPED, |service| Service {
                state: service.state,
                pid: service.pid,
                restarts: service.restarts,
            });
            (name.clone(), service)
        };
        Ok(services.iter().map(one).collect())
    }

    async fn log(&self, service: &str) -> String {
        match files::read(&log_path(&self.layout, service)) {
            Ok(bytes) => tame(&String::from_utf8_lossy(&bytes.unwrap_or_default()), 1500),
            Err(error) => with_causes(&error),
        }
    }

    async fn read_log(
        &self,
        service: &str,
        reading: Reading,
        say: mpsc::Sender<LogLine>,
    ) -> Result<(), Error> {
        logs::tail(&log_path(&self.layout, service), service, reading, say).await
    }

    async fn drift(&self, _units: &[Unit]) -> Vec<String> {
        match self.supervising() {
            Some(_) => Vec::new(),
            None => vec!["our supervisor does not run".to_owned()],
        }
    }

    async fn arm(&self, arming: &Arming) -> Result<(), Error> {
        self.disarm().await?;
        let script = guard::script_path(&self.layout);
        let seconds = arming.after.as_secs().to_string();
        // UNITS is not used without systemd, but stands before TOKEN
        let wait = r#"sleep "$2"; exec /bin/sh "$0" "$1" process - "$3""#;
        let args = [
            "-c".as_ref(),
            wait.as_ref(),
            script.as_os_str(),
            self.layout.root().as_os_str(),
            seconds.as_ref(),
            arming.token.as_ref(),
        ];
        let cannot = |source| Error::Start { program: "/bin/sh".to_owned(), source };
        let child = program::detached("/bin/sh", &args).spawn().map_err(cannot)?;
        let pid = child.id().unwrap_or_default().to_string();
        files::write(&self.timer_path(), pid.as_bytes(), 0o644)
    }

    async fn disarm(&self) -> Result<(), Error> {
        let text = files::read(&self.timer_path())?.unwrap_or_default();
        let pid: Option<u32> = String::from_utf8_lossy(&text).trim().parse().ok();
        let script = guard::script_path(&self.layout).display().to_string();
        // only while it still waits: a guard at work waits for our lock and finds nothing pending
        if let Some(pid) = pid.filter(|pid| is_process_of(*pid, &["-c", &script]))
            && let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::TERM);
        }
        files::remove(&self.timer_path())
    }

    async fn clear(&self) -> Result<(), Error> {
        self.disarm().await?;
        self.stop().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_the_file_that_it_runs_but_a_script_is_not() {
        let own = std::env::current_exe().unwrap();
        let pid = std::process::id();
        assert_eq!(runs(pid, &own), Some(true));
        assert_eq!(runs(pid, Path::new("/bin/sh")), Some(false));
        assert_eq!(runs(pid, Path::new("/nowhere")), None);
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(runs(pid, &script), None);
    }
}
