//! The process: listens, reloads on SIGHUP, and ends on SIGTERM without cutting anybody
//! off in the middle of a word.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::door::Door;
use super::upstream::{self, Net};
use crate::causes::with_causes;
use crate::notify::Notify;

/// Connections at the same time; each may need a second one to an upstream, and a service
/// has 1024 descriptors unless told otherwise.
const MOST_CONNECTIONS: usize = 256;

/// How long a client may take to send the head of a request, and how long a connection
/// may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// The largest head of a request.
const LARGEST_HEAD: usize = 32 << 10;

/// The most header lines.
const MOST_HEADERS: usize = 64;

/// How long answers that run may take to finish when the router stops.
const DRAIN: Duration = Duration::from_secs(30);

/// How long what was cut off may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

/// Where clients come in.
pub(super) struct Gate {
    listener: TcpListener,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    closing: CancellationToken,
}

impl Gate {
    /// Lets clients in from `listener`.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Waits for one client and lets it in. Dropping the future loses nobody.
    pub(super) async fn admit(&mut self, door: &Arc<Door>) {
        // the semaphore is never closed
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        match self.listener.accept().await {
            Ok((stream, _)) => {
                let door = Arc::clone(door);
                let closing = self.closing.clone();
                self.connections.spawn(async move {
                    converse(&door, stream, &closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                // out of descriptors, most likely: asking again at once would only heat the CPU
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Takes nobody new and lets what runs finish within `patience`; then has it say that
    /// it was cut off.
    pub(super) async fn drain(self, door: &Door, patience: Duration) {
        drop(self.listener);
        self.closing.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "cutting off what still runs");
            door.shared.stop.cancel();
            tokio::time::timeout(LAST_WORDS, self.connections.wait()).await.ok();
        }
    }
}

async fn converse(door: &Arc<Door>, stream: TcpStream, closing: &CancellationToken) {
    if let Err(error) = upstream::watch(&stream) {
        tracing::debug!(%error, "cannot watch a connection");
    }
    let service =
        service_fn(|request| async { Ok::<_, std::convert::Infallible>(door.handle(request).await) });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // clients come and go; what they asked is in the log of requests
        tracing::debug!(%error, "a connection ended");
    }
}
