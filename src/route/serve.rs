//! The process: listens, reloads on SIGHUP, and ends on SIGTERM without cutting anybody
//! off in the middle of a word.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Error;
use super::door::Door;
use super::gate::Gate;
use super::heir::{self, Entrance, Heir};
use super::magic::Broadcast;
use super::upstream::Net;
use crate::causes::with_causes;
use crate::notify::Notify;

/// How long answers that run may take to finish when the router stops.
const DRAIN: Duration = Duration::from_secs(30);

/// What the service manager shows while all is well.
const SERVING: &str = "taking requests";

/// How long answers may take to finish once another program takes new ones: 4,096 tokens at 1.2 tokens a second.
const FINISH: Duration = Duration::from_hours(1);

/// Serves the generation in force under `root` until SIGTERM or SIGINT.
///
/// `credentials` is the folder of secrets that systemd made for this process, where it made one.
///
/// SIGHUP has it read the generation in force then, without dropping a request; when that
/// one cannot be read, or wants another port, the log says so. Where that generation has another program and a service
/// manager listens, that program is started on the same socket and becomes the service; this process finishes
/// what runs, and ends. If the other one ends first, this one takes requests again.
///
/// # Errors
///
/// When there is no readable generation, or the port is taken.
pub async fn serve(root: &Path, credentials: Option<PathBuf>, entrance: Entrance) -> Result<(), Error> {
    let door = Arc::new(Door::open(root, credentials, Box::new(Net::default()), Box::new(Broadcast))?);
    let signals = |source| Error::Signals { source };
    let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let (port, own) = (door.state().port, door.state().program);
    let notify = Notify::from_environment();
    let is_heir = matches!(entrance, Entrance::Inherited(_));
    let listener = enter(entrance, port).map_err(|source| Error::Listen { port, source })?;
    let mut gate = Gate::new(listener);
    if is_heir {
        // the one before us says it to the service manager: it is the service until then
        heir::announce().map_err(|source| Error::Listen { port, source })?;
    } else {
        notify.keep(gate.listener());
        notify.ready(SERVING);
    }
    // without a watchdog the beat is a formality
    let mut beat = tokio::time::interval(notify.watchdog().unwrap_or(Duration::from_hours(1)));
    tracing::info!(port, generation = %door.state().generation, "taking requests");
    let mut raising = JoinSet::new();
    let (mut heir, mut is_asked_again) = (None::<Heir>, false);
    let mut finish = std::pin::pin!(tokio::time::sleep(FINISH));
    loop {
        tokio::select! {
            () = gate.admit(&door), if heir.is_none() => {}
            _ = hangup.recv(), if heir.is_none() => {
                if !raising.is_empty() {
                    // who is on its way may have read the generation before
                    is_asked_again = true;
                    continue;
                }
                notify.reloading();
                if notify.is_heard() && door.program_in_force().is_some_and(|new| new != own) {
                    let listener = gate.listener().as_fd().try_clone_to_owned();
                    raising.spawn(Heir::raise(root.to_owned(), listener));
                } else {
                    reload(&door, port);
                    notify.ready(SERVING);
                }
            }
            Some(raised) = raising.join_next() => match raised.map_err(io::Error::other).flatten() {
                Ok(raised) => {
                    tracing::info!(pid = raised.pid, "another program takes requests, finishing what runs");
                    notify.succeeded(raised.pid, SERVING);
                    if std::mem::take(&mut is_asked_again) {
                        raised.reload();
                    }
                    gate.take_leave();
                    finish.as_mut().reset(Instant::now() + FINISH);
                    heir = Some(raised);
                }
                Err(error) => {
                    tracing::error!(error = %with_causes(&error), "another program cannot take our place");
                    if std::mem::take(&mut is_asked_again) && door.program_in_force() == Some(own) {
                        reload(&door, port);
                    }
                    notify.ready(SERVING);
                }
            },
            () = ended(&mut heir), if heir.is_some() => {
                tracing::error!("the program that took our place has ended, taking requests again");
                notify.succeeded(std::process::id(), SERVING);
                heir = None;
                gate.stay();
            }
            () = gate.deserted(), if heir.is_some() => return Ok(()),
            () = &mut finish, if heir.is_some() => break,
            _ = beat.tick(), if heir.is_none() => notify.alive(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    if heir.is_none() {
        notify.stopping();
    }
    gate.drain(&door, DRAIN).await;
    Ok(())
}

fn reload(door: &Door, port: u16) {
    match door.reload() {
        Ok(state) if state.port != port => {
            tracing::error!(port, wanted = state.port, "another port needs a restart");
        }
        Ok(state) => tracing::info!(generation = %state.generation, "reloaded"),
        Err(error) => {
            tracing::error!(error = %with_causes(&error), "cannot reload, the old definition stays in force");
        }
    }
}

/// Waits until whoever took our place has ended.
async fn ended(heir: &mut Option<Heir>) {
    if let Some(heir) = heir
        && let Err(error) = heir.ended().await
    {
        tracing::warn!(%error, "cannot watch the program that took our place");
    }
}

/// Returns the socket that clients come in by: the one that was here before, where it is on that port.
fn enter(entrance: Entrance, port: u16) -> io::Result<TcpListener> {
    let (Entrance::Started(Some(kept)) | Entrance::Inherited(kept)) = entrance else { return listen(port) };
    if kept.local_addr()?.port() != port {
        drop(kept);
        return listen(port);
    }
    kept.set_nonblocking(true)?;
    TcpListener::from_std(kept)
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
