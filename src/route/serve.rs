//! The process: listens, reloads on SIGHUP, and ends on SIGTERM without cutting anybody
//! off in the middle of a word.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use super::Error;
use super::door::Door;
use super::gate::Gate;
use super::upstream::Net;
use crate::causes::with_causes;
use crate::notify::Notify;

/// How long answers that run may take to finish when the router stops.
const DRAIN: Duration = Duration::from_secs(30);

/// What the service manager shows while all is well.
const SERVING: &str = "taking requests";

/// Serves the generation in force under `root` until SIGTERM or SIGINT.
///
/// `credentials` is the folder of secrets that systemd made for this process, where it made one.
///
/// SIGHUP has it read the generation in force then, without dropping a request; when that
/// one cannot be read, or wants another port, the log says so.
///
/// # Errors
///
/// When there is no readable generation, or the port is taken.
pub async fn serve(root: &Path, credentials: Option<PathBuf>) -> Result<(), Error> {
    let door = Arc::new(Door::open(root, credentials, Box::new(Net::default()))?);
    let signals = |source| Error::Signals { source };
    let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let port = door.state().port;
    let listener = listen(port).map_err(|source| Error::Listen { port, source })?;
    let notify = Notify::from_environment();
    let mut gate = Gate::new(listener);
    // without a watchdog the beat is a formality
    let mut beat = tokio::time::interval(notify.watchdog().unwrap_or(Duration::from_hours(1)));
    notify.ready(SERVING);
    tracing::info!(port, generation = %door.state().generation, "taking requests");
    loop {
        tokio::select! {
            () = gate.admit(&door) => {}
            _ = hangup.recv() => {
                notify.reloading();
                match door.reload() {
                    Ok(state) if state.port != port => {
                        tracing::error!(port, wanted = state.port, "another port needs a restart");
                    }
                    Ok(state) => tracing::info!(generation = %state.generation, "reloaded"),
                    Err(error) => {
                        tracing::error!(error = %with_causes(&error), "cannot reload, the old definition stays in force");
                    }
                }
                notify.ready(SERVING);
            }
            _ = beat.tick() => notify.alive(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify.stopping();
    gate.drain(&door, DRAIN).await;
    Ok(())
}

/// Listens on all addresses of both families, or of the one that this host has.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 1024;
    let both = || {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    };
    both().or_else(|error: io::Error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return Err(error);
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    })
}
