//! Where clients come in: so many at a time, over TLS where the generation says so, and none that
//! only keeps its place.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::door::Door;
use super::flow::Flow;
use super::guests::{Guest, Guests};
use super::reply::{self, Reply};
use super::state::DoorSide;
use super::upstream;
use crate::authority::{Member, Usage};

/// Connections at the same time; each may need a second one to an upstream, and a service
/// has 1024 descriptors unless told otherwise.
const MOST_CONNECTIONS: usize = 256;

/// Requests that run at the same time over all connections of HTTP/2: as many as without it, where a connection
/// has one.
const MOST_STREAMS: usize = MOST_CONNECTIONS;

/// Requests that run at the same time over one connection of HTTP/2: more than any host has slots.
const STREAMS_EACH: u32 = 32;

/// How long a client may take to say which protocol it speaks, and to agree on keys: twenty round trips on a bad link.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may take to send the head of a request, and how long a connection
/// may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client of HTTP/2 may not take what there is for it, or not answer whether it is there. The same holds
/// for every connection below TLS ([`upstream::watch`]), but there a client that answers for one stream answers for all.
const STALL_PATIENCE: Duration = Duration::from_mins(1);

/// How often a client of HTTP/2 that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The largest head of a request.
const LARGEST_HEAD: usize = 32 << 10;

/// The most header lines.
const MOST_HEADERS: usize = 64;

/// What is held of an answer that a client of HTTP/2 does not take yet, per request.
const HELD_OF_ANSWER: usize = 64 << 10;

/// What a client of HTTP/2 may send before it is asked for more, per request and in all: requests have their own bound
/// ([`Door::handle`]), and this is only how much waits to be read.
const WINDOW: u32 = 64 << 10;

/// How long what was cut off may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much is read of somebody who speaks no TLS, so that our answer is not lost with it.
const PLAIN_READ: u64 = 64 << 10;

/// The first byte of every connection with TLS: the type of a record with a handshake in it (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Where clients come in.
pub(super) struct Gate {
    listener: TcpListener,
    guests: Arc<Guests>,
    streams: Arc<Semaphore>,
    connections: TaskTracker,
    ending: Ending,
}

/// How connections are to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    /// All of them, after the request that runs; those without one at once.
    closing: CancellationToken,
    /// With the next answer, since somebody else takes new ones: none is closed while its client may just be asking.
    leaving: CancellationToken,
}

impl Ending {
    /// Waits until connections are to end in whichever way: over HTTP/2 a client is told before it asks again.
    async fn announced(&self) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.leaving.cancelled() => {}
        }
    }
}

impl Gate {
    /// Lets clients in from `listener`.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            guests: Arc::new(Guests::new(MOST_CONNECTIONS)),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            connections: TaskTracker::new(),
            ending: Ending::default(),
        }
    }

    /// Returns the socket that clients come in by.
    pub(super) fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Has every connection end with its next answer.
    pub(super) fn take_leave(&self) {
        self.ending.leaving.cancel();
    }

    /// Lets new clients stay again; those that were here end with their next answer.
    pub(super) fn stay(&mut self) {
        self.ending.leaving = CancellationToken::new();
    }

    /// Waits until no client is here.
    pub(super) async fn deserted(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Waits for one client and lets it in. Dropping the future loses nobody. Where all places are taken, one who has shown no
    /// key goes for it; where all have, it waits.
    pub(super) async fn admit(&self, door: &Arc<Door>) {
        let (place, accepted) = tokio::select! {
            biased;
            place = self.guests.place() => (place, self.listener.accept().await),
            accepted = self.listener.accept(), if self.guests.has_strangers() => (None, accepted),
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(stay) = self.guests.seat(from.ip().to_canonical(), place) else {
                    tracing::debug!("all who are here have shown a key meanwhile: nobody goes for one more");
                    return;
                };
                let (door, streams) = (Arc::clone(door), Arc::clone(&self.streams));
                let ending = self.ending.clone();
                self.connections.spawn(async move {
                    tokio::select! {
                        () = converse(&door, stream, stay.guest(), streams, &ending) => {}
                        () = stay.ended() => tracing::debug!("one without a key went for another"),
                    }
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
        self.ending.closing.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "cutting off what still runs");
            door.shared.stop.cancel();
            tokio::time::timeout(LAST_WORDS, self.connections.wait()).await.ok();
        }
    }
}

async fn converse(
    door: &Arc<Door>,
    stream: TcpStream,
    guest: &Arc<Guest>,
    streams: Arc<Semaphore>,
    ending: &Ending,
) {
    let came = |over| Came { over, guest: Arc::clone(guest) };
    if let Err(error) = upstream::watch(&stream) {
        tracing::debug!(%error, "cannot watch a connection");
    }
    let Some(tls) = door.state().tls.clone() else {
        return take_turns(door, stream, &came(Over::Plain), ending).await;
    };
    let greeting = tokio::time::timeout(HANDSHAKE_PATIENCE, greet(&tls, stream));
    let greeted = tokio::select! {
        greeted = greeting => greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        () = ending.closing.cancelled() => return,
    };
    let stream = match greeted {
        Ok(Some(stream)) => stream,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "a client did not come in");
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    // what was shown has been verified in the handshake
    let member = shown.and_then(|shown| tls.trust.member(shown, Usage::Client).ok()).map(Arc::new);
    if member.is_some() {
        guest.let_in();
    }
    let came = came(Over::Tls(member));
    if session.alpn_protocol() == Some(b"h2") {
        side_by_side(door, stream, &came, streams, ending).await;
    } else {
        take_turns(door, stream, &came, ending).await;
    }
}

/// Who came in, and how.
#[derive(Clone)]
pub(super) struct Came {
    pub(super) over: Over,
    pub(super) guest: Arc<Guest>,
}

/// How a connection came in.
#[derive(Clone)]
pub(super) enum Over {
    /// In plain HTTP.
    Plain,
    /// Over TLS, and as that host where it has proven to be one.
    Tls(Option<Arc<Member>>),
}

/// Agrees on keys with a client; none where it speaks no TLS, and was told so.
async fn greet(tls: &DoorSide, mut stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Ok(None),
        _ if first[0] == TLS_HANDSHAKE => {
            TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await.map(Some)
        }
        _ => {
            refuse_plain(&mut stream).await?;
            Ok(None)
        }
    }
}

/// Tells a client that speaks plain HTTP what is spoken here. Nothing that it asks is looked at; a key that it sent may
/// have been read on the way, and is not told from a wrong one.
async fn refuse_plain(stream: &mut TcpStream) -> io::Result<()> {
    let body = reply::error_body("invalid_request_error", HTTPS_REQUIRED, HTTPS_MESSAGE).to_string();
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let reply = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    // with bytes of it unread, the system would take our answer back
    tokio::io::copy(&mut stream.take(PLAIN_READ), &mut tokio::io::sink()).await?;
    Ok(())
}

const HTTPS_REQUIRED: &str = "https_required";
const HTTPS_MESSAGE: &str =
    "this door speaks https: ask https://, and take another key if one was sent without it";

/// Lets a request in, with who its connection has proven to be.
async fn answer(door: &Door, came: &Came, mut request: Request<Incoming>) -> Result<Reply, Infallible> {
    match &came.over {
        // the connection is from before the generation in force
        Over::Plain if door.state().tls.is_some() => {
            let mut refused = reply::refuse(StatusCode::BAD_REQUEST, HTTPS_REQUIRED, HTTPS_MESSAGE);
            refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return Ok(refused);
        }
        Over::Tls(Some(member)) => drop(request.extensions_mut().insert(Arc::clone(member))),
        Over::Plain | Over::Tls(None) => {}
    }
    request.extensions_mut().insert(Arc::clone(&came.guest));
    Ok(door.handle(request).await)
}

/// One request after the other: HTTP/1.1.
async fn take_turns(
    door: &Arc<Door>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    came: &Came,
    ending: &Ending,
) {
    let service = service_fn(async |request| {
        let mut reply = answer(door, came, request).await;
        if let Ok(reply) = &mut reply
            && ending.leaving.is_cancelled()
        {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    });
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
        () = ending.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // clients come and go; what they asked is in the log of requests
        tracing::debug!(%error, "a connection ended");
    }
}

/// Several requests at the same time: HTTP/2.
pub(super) async fn side_by_side(
    door: &Arc<Door>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    came: &Came,
    streams: Arc<Semaphore>,
    ending: &Ending,
) {
    let flow = Arc::new(Flow::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (door, came) = (Arc::clone(door), came.clone());
        let (flow, streams) = (flow.begin(), Arc::clone(&streams));
        async move {
            if request.headers().len() > MOST_HEADERS {
                let message = format!("the request has more than {MOST_HEADERS} header lines");
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(flow.watch(reply::refuse(status, "request_too_large", &message), None));
            }
            let Ok(place) = streams.try_acquire_owned() else {
                let message = "too many requests are under way; try again";
                let busy = reply::unable(StatusCode::SERVICE_UNAVAILABLE, "router_busy", message, 1);
                return Ok(flow.watch(busy, None));
            };
            let reply = answer(&door, &came, request).await;
            reply.map(|reply| flow.watch(reply, Some(place)))
        }
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_EACH)
            .max_send_buf_size(HELD_OF_ANSWER)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * STREAMS_EACH)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(STALL_PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = flow.idle(HEAD_PATIENCE) => {
            connection.as_mut().graceful_shutdown();
            // it has nothing to finish; who does not say goodbye is not waited for
            tokio::time::timeout(LAST_WORDS, connection).await.unwrap_or(Ok(()))
        }
        () = flow.stalled(STALL_PATIENCE) => return,
        () = ending.announced() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = flow.stalled(STALL_PATIENCE) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
