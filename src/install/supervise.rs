//! `brambled supervise`: the supervisor of hosts without systemd.
//!
//! SIGHUP: read `current` again and start, stop or restart what changed. SIGTERM: stop
//! everything. A service that ends is started again, after a pause that doubles from one
//! second to a minute.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::process::{self, ServiceStatus, Status};
use super::record::Pending;
use super::stand::Stand;
use super::{Error, files, guard, program};
use crate::clock;
use crate::facts::ServiceState;
use crate::generation::{EngineSpec, Layout};
use crate::ids::Digest;
use crate::unit::{ROUTE, engine_service};

/// A log is put aside when it is longer than this; one older one is kept.
pub(super) const MAX_LOG_BYTES: u64 = 1 << 20;

/// The first pause before a service is started again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, and the time after which a service counts as having run well.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long a service may take to end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What a service runs; another value means another process.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    program: Digest,
    engine: Option<EngineSpec>,
    /// Of the door: where it listens, for as long as it runs.
    port: Option<u16>,
    args: Vec<String>,
    /// How often it was told to start anew.
    turn: u64,
}

enum Order {
    Reload,
    Stop,
}

struct Running {
    task: Task,
    orders: mpsc::Sender<Order>,
    done: JoinHandle<()>,
}

/// Supervises the services of `layout` until SIGTERM.
///
/// # Errors
/// [`Error::Busy`] when another one supervises this folder already.
pub async fn supervise(layout: &Layout) -> Result<(), Error> {
    // a session of our own, so that no terminal or login takes us along; fails when we lead one
    let _ = rustix::process::setsid();
    let cannot_listen = |source| Error::Start { program: "signal handling".to_owned(), source };
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot_listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot_listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_listen)?;

    let mut pid_file = process::open_pid_file(layout)?;
    if pid_file.try_lock().is_err() {
        return Err(Error::Busy { holder: "another `brambled supervise`".to_owned() });
    }
    let pid_path = process::pid_path(layout);
    pid_file.set_len(0).map_err(Error::io("empty", &pid_path))?;
    take_back_from_earlier_boot(layout).await?;
    end_orphans(layout).await;
    let _ = files::remove(&process::status_path(layout));
    let written = pid_file.rewind().and_then(|()| writeln!(pid_file, "{}", std::process::id()));
    written.map_err(Error::io("write", &pid_path))?;

    let board = Board::new(layout);
    let mut running = BTreeMap::new();
    loop {
        follow(layout, &mut running, &board).await;
        board.round();
        tokio::select! {
            _ = hangup.recv() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    stop(running.into_values().collect()).await;
    let _ = files::remove(&process::status_path(layout));
    Ok(())
}

/// Takes back what was activated before the host went down and not confirmed since.
async fn take_back_from_earlier_boot(layout: &Layout) -> Result<(), Error> {
    match Pending::read(layout)? {
        Some(pending) if pending.boot != clock::boot_id() => {}
        _ => return Ok(()),
    }
    let mut command = program::detached("/bin/sh", &[guard::script_path(layout)]);
    command.arg(layout.root()).arg("process").env("BRAMBLE_GUARD_START", "no");
    let ended = command.status().await;
    ended.map(drop).map_err(|source| Error::Start { program: "/bin/sh".to_owned(), source })
}

/// Ends services of a supervisor that was killed and could not stop them.
async fn end_orphans(layout: &Layout) {
    let status: Status = files::read_json(&process::status_path(layout)).ok().flatten().unwrap_or_default();
    let root = layout.root().display().to_string();
    for pid in status.services.values().filter_map(|service| service.pid) {
        let is_ours = || process::is_process_of(pid, &["--root", &root]);
        if is_ours() {
            process::signal(pid, Signal::TERM);
            let end = Instant::now() + STOP_LIMIT;
            while is_ours() && Instant::now() < end {
                sleep(Duration::from_millis(50)).await;
            }
            if is_ours() {
                process::signal(pid, Signal::KILL);
            }
        }
    }
}

/// Makes what runs what `current` says.
async fn follow(layout: &Layout, running: &mut BTreeMap<String, Running>, board: &Arc<Board>) {
    // a definition that cannot be read changes nothing: what runs, runs on
    let wanted = match Stand::current(layout) {
        Ok(stand) => stand.map(|stand| tasks(layout, &stand)).unwrap_or_default(),
        Err(error) => {
            tracing::error!(
                error = crate::causes::with_causes(&error),
                "cannot read the generation in force"
            );
            return;
        }
    };
    let is_wrong = |name: &String, running: &Running| wanted.get(name) != Some(&running.task);
    let wrong: Vec<String> = running.iter().filter(|(n, r)| is_wrong(n, r)).map(|(n, _)| n.clone()).collect();
    stop(wrong.iter().filter_map(|name| running.remove(name)).collect()).await;
    wrong.iter().filter(|name| !wanted.contains_key(*name)).for_each(|name| board.forget(name));

    if let Some(route) = running.get(ROUTE) {
        let _ = route.orders.send(Order::Reload).await;
    }
    for (name, task) in wanted {
        running.entry(name.clone()).or_insert_with(|| {
            let (orders, received) = mpsc::channel(4);
            board.post(&name, ServiceState::Starting, None, 0);
            let service = Keeper { layout: layout.clone(), name, task: task.clone() };
            let done = tokio::spawn(service.keep(received, Arc::clone(board)));
            Running { task, orders, done }
        });
    }
}

async fn stop(services: Vec<Running>) {
    for service in &services {
        let _ = service.orders.send(Order::Stop).await;
    }
    for service in services {
        let _ = service.done.await;
    }
}

fn tasks(layout: &Layout, stand: &Stand) -> BTreeMap<String, Task> {
    let root = layout.root().display().to_string();
    let program = stand.definition.program.digest;
    let turns = process::turns(layout);
    let turn = |name: &str| turns.get(name).copied().unwrap_or_default();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let engine = |spec: &EngineSpec| {
        let args = words(&["engine", "--root", &root, "--model", spec.model.as_str()]);
        let name = engine_service(&spec.model);
        let task = Task { program, engine: Some(spec.clone()), port: None, args, turn: turn(&name) };
        (name, task)
    };
    let mut tasks: BTreeMap<_, _> = stand.definition.engines.iter().map(engine).collect();
    let args = words(&["route", "--root", &root]);
    let port = Some(stand.definition.door.port);
    tasks.insert(ROUTE.to_owned(), Task { program, engine: None, port, args, turn: turn(ROUTE) });
    tasks
}

/// Keeps one service running.
struct Keeper {
    layout: Layout,
    name: String,
    task: Task,
}

impl Keeper {
    async fn keep(self, mut orders: mpsc::Receiver<Order>, board: Arc<Board>) {
        let mut pause = FIRST_PAUSE;
        let mut restarts = 0;
        loop {
            let started = Instant::now();
            if self.run_once(&mut orders, &board, restarts).await {
                board.post(&self.name, ServiceState::Stopped, None, restarts);
                return;
            }
            pause = if started.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { pause };
            board.post(&self.name, ServiceState::Failed, None, restarts);
            if wait_or_stop(&mut orders, pause).await {
                board.post(&self.name, ServiceState::Stopped, None, restarts);
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            restarts += 1;
        }
    }

    /// Runs the service until it ends; says whether that was ordered.
    async fn run_once(&self, orders: &mut mpsc::Receiver<Order>, board: &Board, restarts: u32) -> bool {
        let mut log = Log::open(process::log_path(&self.layout, &self.name)).await;
        let mut command = Command::new(Layout::brambled(&self.layout.current()));
        if self.task.engine.is_some() {
            // there is no unit that would
            command.env(Layout::ENCLOSE, "1");
        }
        command.args(&self.task.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                log.write(format!("cannot start: {error}\n").as_bytes()).await;
                return false;
            }
        };
        board.post(&self.name, ServiceState::Running, child.id(), restarts);
        let log = Arc::new(tokio::sync::Mutex::new(log));
        let copies = [
            child.stdout.take().map(|pipe| tokio::spawn(copy(pipe, Arc::clone(&log)))),
            child.stderr.take().map(|pipe| tokio::spawn(copy(pipe, Arc::clone(&log)))),
        ];
        let is_ordered = loop {
            let order = tokio::select! {
                _ = child.wait() => break false,
                order = orders.recv() => order,
            };
            let send = |wanted| child.id().is_some_and(|pid| process::signal(pid, wanted));
            if let Some(Order::Reload) = order {
                send(Signal::HUP);
                continue;
            }
            send(Signal::TERM);
            if timeout(STOP_LIMIT, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
            break true;
        };
        // a grandchild may hold the pipes; what it says later is nobody's
        for copy in copies.into_iter().flatten() {
            let abort = copy.abort_handle();
            if timeout(Duration::from_secs(1), copy).await.is_err() {
                abort.abort();
            }
        }
        is_ordered
    }
}

async fn wait_or_stop(orders: &mut mpsc::Receiver<Order>, pause: Duration) -> bool {
    let end = Instant::now() + pause;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => return false,
            order = orders.recv() => if !matches!(order, Some(Order::Reload)) { return true },
        }
    }
}

/// What everybody may know: the status file, written anew at each change.
struct Board {
    layout: Layout,
    status: Mutex<Status>,
}

impl Board {
    fn new(layout: &Layout) -> Arc<Self> {
        Arc::new(Self { layout: layout.clone(), status: Mutex::default() })
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        let written = files::json("the status", &*status)
            .and_then(|json| files::write(&process::status_path(&self.layout), &json, 0o644));
        if let Err(error) = written {
            tracing::error!(error = crate::causes::with_causes(&error), "cannot write the status");
        }
    }

    fn round(&self) {
        self.change(|status| status.rounds += 1);
    }

    fn post(&self, name: &str, state: ServiceState, pid: Option<u32>, restarts: u32) {
        self.change(|status| {
            status.services.insert(name.to_owned(), ServiceStatus { state, pid, restarts });
        });
    }

    fn forget(&self, name: &str) {
        self.change(|status| {
            status.services.remove(name);
        });
    }
}

async fn copy(mut pipe: impl AsyncRead + Unpin, log: Arc<tokio::sync::Mutex<Log>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(count) = pipe.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        log.lock().await.write(&buffer[..count]).await;
    }
}

/// A log file that never grows past its limit. What cannot be written is dropped: a full
/// disk must not stop a service.
struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    async fn open(path: PathBuf) -> Self {
        if let Some(dir) = path.parent() {
            let _ = files::make_dir(dir);
        }
        let file = OpenOptions::new().append(true).create(true).open(&path).await.ok();
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, file, bytes }
    }

    async fn write(&mut self, text: &[u8]) {
        if self.bytes + text.len() as u64 > MAX_LOG_BYTES {
            let _ = tokio::fs::rename(&self.path, self.path.with_extension("log.1")).await;
            *self = Self::open(self.path.clone()).await;
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(text).await;
            let _ = file.flush().await;
            self.bytes += text.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_never_grows_past_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("route.log");
        let mut log = Log::open(path.clone()).await;
        let line = vec![b'x'; 8192];
        for _ in 0..300 {
            log.write(&line).await;
        }
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("route.log") <= MAX_LOG_BYTES && size("route.log.1") <= MAX_LOG_BYTES);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
