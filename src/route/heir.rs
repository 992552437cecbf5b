//! Another program in this one's place, without a client that notices: it is started on the same socket, and this one
//! takes nobody new once it serves.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::generation::Layout;
use crate::notify;

/// How long another program may take until it serves: a Pi's worst SD card reads it in less.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an heir says on standard output when it takes requests.
const SERVING: &str = "serving";

/// How this process came to be, and with which socket.
#[derive(Debug)]
pub enum Entrance {
    /// Started by the service manager or by hand; with the socket that the process before it left, if one did.
    Started(Option<TcpListener>),
    /// Started by the process that served until now, with its socket.
    Inherited(TcpListener),
}

impl Entrance {
    /// Finds the socket: as standard input, for an heir, else with the service manager. To be called before there is a
    /// second thread, since it changes the environment.
    ///
    /// # Errors
    /// Where what is there is no socket that listens.
    pub fn find(is_heir: bool) -> io::Result<Self> {
        if !is_heir {
            return notify::kept_listener().map(Self::Started);
        }
        let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        // what is no socket says so here
        listener.local_addr()?;
        Ok(Self::Inherited(listener))
    }
}

/// The program of the generation in force, which serves in our place.
#[derive(Debug)]
pub(super) struct Heir {
    child: Child,
    /// Its process.
    pub(super) pid: u32,
}

impl Heir {
    /// Starts it, and waits until it takes requests from `listener`. One that does not is ended, as is one that nobody
    /// waits for any more.
    pub(super) async fn raise(root: PathBuf, listener: io::Result<OwnedFd>) -> io::Result<Self> {
        let mut unborn = Unborn(Some(start(&root, listener?)?));
        let (Some(child), late) = (&mut unborn.0, io::ErrorKind::TimedOut) else { return Err(gone()) };
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let heard = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line));
        heard.await.map_err(|_| io::Error::new(late, "it does not serve in time"))??;
        if line.trim_end() != SERVING {
            return Err(gone());
        }
        let child = unborn.0.take().ok_or_else(gone)?;
        let pid = child.id().ok_or_else(gone)?;
        Ok(Self { child, pid })
    }

    /// Has it read the generation in force again.
    pub(super) fn reload(&self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // it may have ended, which is seen elsewhere
            let _ = kill_process(pid, Signal::HUP);
        }
    }

    /// Waits until it ends.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

#[expect(clippy::disallowed_methods, reason = "the door starts its own successor")]
fn start(root: &Path, listener: OwnedFd) -> io::Result<Child> {
    let brambled = Layout::brambled(&Layout::new(root).current());
    let mut command = std::process::Command::new(brambled);
    command.args(["route", "--heir", "--root"]).arg(root);
    command.stdin(listener).stdout(Stdio::piped());
    Command::from(command).spawn()
}

fn gone() -> io::Error {
    io::Error::other("it ended before it served")
}

/// Says that this process takes requests, to the one that started it.
pub(super) fn announce() -> io::Result<()> {
    use std::io::Write as _;
    writeln!(io::stdout(), "{SERVING}")
}

/// Ends a process that does not serve yet when nobody waits for it.
struct Unborn(Option<Child>);

impl Drop for Unborn {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // it may have ended by itself
            let _ = child.start_kill();
        }
    }
}
