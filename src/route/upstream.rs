//! The wire to an upstream: connect, ask, and let go of it the moment nobody wants the
//! answer. One connection for each request: dropping it is what cancels the work there,
//! and connecting costs nothing beside a prompt.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::policy::Reason;
use crate::system;

/// Where an upstream listens.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// An engine's socket.
    Unix(PathBuf),
    /// A server.
    Tcp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// What is spoken there.
        tls: Tls,
    },
}

/// What is spoken to a server.
#[derive(Clone)]
pub(super) enum Tls {
    /// Plain HTTP.
    Off,
    /// HTTPS, with a certificate that the system trusts for the server's name.
    System,
    /// HTTPS to a host of the fleet, which is known by this name whatever its address.
    Fleet(TlsConnector, ServerName<'static>),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("Off"),
            Self::System => f.write_str("System"),
            Self::Fleet(_, name) => write!(f, "Fleet({name:?})"),
        }
    }
}

/// All that is needed to ask an upstream.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where it listens.
    pub(super) address: Address,
    /// What stands in `Host`.
    pub(super) authority: String,
    /// What stands before `/chat/completions`, without a slash at the end.
    pub(super) path: String,
    /// What stands in `Authorization`.
    pub(super) bearer: Option<HeaderValue>,
}

impl Target {
    /// Returns the target for an engine of this host.
    pub(super) fn local(socket: PathBuf) -> Self {
        Self {
            address: Address::Unix(socket),
            authority: "localhost".to_owned(),
            path: "/v1".to_owned(),
            bearer: None,
        }
    }
}

/// A connection.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes connections.
#[async_trait]
pub(super) trait Dial: Send + Sync {
    /// Connects to `address`. Waits as long as the system does.
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Wire>>;
}

/// The real network.
#[derive(Default)]
pub(super) struct Net {
    /// Made for the first https upstream that is not ours: most hosts have none, and need no certificates.
    tls: OnceCell<TlsConnector>,
}

impl Net {
    /// Trusts these and nobody else.
    #[cfg(test)]
    pub(super) fn trusting(roots: rustls::RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        Self { tls: OnceCell::new_with(Some(TlsConnector::from(Arc::new(config.with_no_client_auth())))) }
    }
}

/// Trusts what the system trusts.
fn trusting_the_system() -> Result<TlsConnector, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Seconds of silence on a connection before the system asks whether the peer is there,
/// and how often it asks. A desktop that lost power is noticed in about a minute, even while
/// nobody expects a token yet.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// Has the system notice when the other side of `stream` is gone without a word, or takes
/// nothing for a minute.
pub(super) fn watch(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    // it also decides when questions without an answer were enough (tcp(7))
    const TAKES_NOTHING: Duration = Duration::from_mins(1);
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    system::end_where_nothing_is_taken(stream, TAKES_NOTHING)
}

#[async_trait]
impl Dial for Net {
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Wire>> {
        match address {
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tcp { host, port, tls } => {
                let stream = connect(host, *port).await?;
                watch(&stream)?;
                let (tls, name) = match tls {
                    Tls::Off => return Ok(Box::new(stream)),
                    Tls::Fleet(tls, name) => (tls, name.clone()),
                    Tls::System => {
                        let tls = self.tls.get_or_try_init(|| async { trusting_the_system() }).await;
                        let tls = tls.map_err(|error| {
                            tracing::error!(%error, "no trusted certificates for https: install ca-certificates");
                            io::Error::new(io::ErrorKind::InvalidData, error)
                        })?;
                        (tls, ServerName::try_from(host.clone()).map_err(io::Error::other)?)
                    }
                };
                Ok(Box::new(tls.connect(name, stream).await?))
            }
        }
    }
}

/// Connects to whichever address of `host` answers first: a name of the LAN often has an
/// IPv6 address that leads nowhere, and trying one after the other would wait for it.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    const MOST_ADDRESSES: usize = 6;
    let addresses = tokio::net::lookup_host((host, port)).await?.take(MOST_ADDRESSES);
    let mut attempts: FuturesUnordered<_> = addresses.map(TcpStream::connect).collect();
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => return Ok(stream),
            // a refusal says more than an address that cannot be reached
            Err(_) if failure.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

type Connection = http1::Connection<TokioIo<Box<dyn Wire>>, Full<Bytes>>;

/// The body of an upstream's answer, with the connection that it comes by: whoever reads it moves that along. So a
/// part that has come needs no other task to be handed over, and many that came together are passed on together.
/// Dropping it drops the connection.
pub(super) struct Driven {
    body: Incoming,
    /// None once it has ended.
    connection: Option<Connection>,
}

impl Body for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, connection } = &mut *self;
        drive(connection, context, |context| Pin::new(&mut *body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Polls what comes by a connection, and moves that along where it has not come yet: the first asking says to the
/// connection that it is wanted. What goes wrong with it is seen by who is polled as well.
fn drive<T>(
    connection: &mut Option<Connection>,
    context: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    let polled = wanted(context);
    let Some(running) = connection.as_mut().filter(|_| polled.is_pending()) else { return polled };
    if Pin::new(running).poll(context).is_ready() {
        *connection = None;
    }
    wanted(context)
}

/// Connects within `connect`, asks, and waits for the head of the answer.
pub(super) async fn send(
    dial: &dyn Dial,
    target: &Target,
    request: Request<Full<Bytes>>,
    connect: Duration,
) -> Result<Response<Driven>, Reason> {
    let wire = match tokio::time::timeout(connect, dial.dial(&target.address)).await {
        Err(_) => return Err(Reason::ConnectLate),
        Ok(Err(error)) => return Err(not_connected(&error)),
        Ok(Ok(wire)) => wire,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(|_| Reason::Died)?;
    let mut connection = Some(connection);
    let mut response = pin!(sender.send_request(request));
    let response =
        poll_fn(|context| drive(&mut connection, context, |context| response.as_mut().poll(context)));
    let response = response.await.map_err(|e| if e.is_parse() { Reason::Malformed } else { Reason::Died })?;
    Ok(response.map(|body| Driven { body, connection }))
}

fn not_connected(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::InvalidData => Reason::Untrusted,
        io::ErrorKind::TimedOut => Reason::ConnectLate,
        _ => Reason::Unreachable,
    }
}

/// Reads a body to its end, up to `limit` bytes. A body shorter than its length says is
/// an error.
pub(super) async fn read_whole(body: Driven, limit: usize) -> Result<Bytes, Reason> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Reason::TooLarge),
        Err(_) => Err(Reason::Died),
    }
}
