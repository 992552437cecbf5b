//! Chunks from host to host: TLS in which both ends show certificates that were made for this
//! transfer and are known by their digests, which came over SSH.
//!
//! A guest also shows the transfer's token, and gets chunks of that one blob, by their place in its
//! list. What it gets it proves itself: whoever gives it is trusted with nothing.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};

use super::frame::{
    self, Course, DoorPlate, Guest, MOST_DOORS, MOST_GUEST_MESSAGE, NoChunk, Peer, Reply, Token,
};
use super::packing::{Packer, Packing, Seen, pieces};
use super::shelf::{Bringer, Patient, READ_TICK, Shelf, is_ready};
use crate::connect::has_aes;
use crate::ids::Digest;

/// What certificates are made out to; who shows them is known by their digests alone.
const NAME: &str = "bramble";
/// Hosts on a wire answer within milliseconds; a firewall that says nothing costs this much.
const CONNECTING: Duration = Duration::from_secs(3);
/// How long a door is tried before anything moves: the first packet may be lost, and comes again after a second.
const TRYING: Duration = Duration::from_millis(1500);
/// A wait that is worth a word.
const WAITED: Duration = Duration::from_millis(20);
/// Those who have come, until they are let in or known to be gone.
const MOST_TRYING: i32 = 1024;
/// What is set aside for each door that is tried.
const TRYING_STACK: usize = 64 << 10;
/// How long a guest may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// How long bytes may wait to be taken by the other end.
const STUCK: Duration = Duration::from_secs(20);
/// Those who have not said who they are yet, beside all who are invited: they may come at once.
const MOST_KNOCKING: usize = 16;
/// What waits to be read where a rate is kept.
const PACED_BUFFER: usize = 128 << 10;
/// A guest whose connection broke comes again, and the old one may not be gone yet.
const PER_GUEST: usize = 2;

/// A key and its certificate, for one transfer.
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    digest: Digest,
}

impl Identity {
    /// Makes a new one.
    pub(super) fn new() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let digest = Digest::of(&certificate);
        Ok(Self { certificate, key, digest })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// Where others get chunks.
pub(super) struct Door {
    listener: TcpListener,
    identity: Arc<Identity>,
}

impl Door {
    /// Listens on a port that the system chooses. Nobody is let in yet.
    pub(super) fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        // a whole fleet may try it before the first is let in
        rustix::net::listen(&listener, MOST_TRYING)?;
        Ok(Self { listener, identity: Arc::new(Identity::new()?) })
    }

    /// Returns what others must know of it.
    pub(super) fn said(&self) -> io::Result<DoorPlate> {
        Ok(DoorPlate { port: self.listener.local_addr()?.port(), certificate: self.identity.digest })
    }

    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }

    /// Lets the guests of `course` in, on threads of their own, until they are closed.
    pub(super) fn welcome(self, course: &Course, stock: &Arc<Shelf>) -> io::Result<()> {
        let pins = Arc::new(Pins::new(course.guests.clone()));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&pins.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(pins)
            .with_single_cert(vec![self.identity.certificate.clone()], self.identity.key())
            .map_err(io::Error::other)?;
        // the end that has no AES instructions says what is used
        config.ignore_client_order = !has_aes();
        let lobby = Arc::new(Lobby {
            config: Arc::new(config),
            token: course.token.clone(),
            most: course.guests.len() * PER_GUEST,
            most_knocking: course.guests.len() + MOST_KNOCKING,
            knocking: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
        });
        let stock = Arc::clone(stock);
        let open = move || {
            while !stock.is_closed() {
                let socket = match is_ready(&self.listener, READ_TICK) {
                    Ok(true) => self.listener.accept(),
                    _ => continue,
                };
                let Ok((socket, _)) = socket else { continue };
                if is_over(&socket) {
                    continue;
                }
                let Some(knocking) = Counted::take(&lobby, |lobby| &lobby.knocking, lobby.most_knocking)
                else {
                    continue;
                };
                let (lobby, stock) = (Arc::clone(&lobby), Arc::clone(&stock));
                // a guest that goes away, or is none, is no matter here
                thread::spawn(move || drop(lobby.receive(socket, knocking, &stock)));
            }
        };
        thread::Builder::new().name("door".to_owned()).spawn(open).map(drop)
    }
}

/// Returns whether somebody only tried the door, and has gone.
fn is_over(socket: &TcpStream) -> bool {
    let looked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
    if socket.set_nonblocking(false).is_err() {
        return true;
    }
    match looked {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Comes to each of `doors`, at most [`MOST_DOORS`], and goes again. Returns the places of those where that works: the
/// system of the host there takes whoever comes, before anybody is let in.
pub(super) fn reached(doors: &[SocketAddr]) -> Vec<usize> {
    let doors = &doors[..doors.len().min(MOST_DOORS)];
    let comes = |door: &SocketAddr| TcpStream::connect_timeout(door, TRYING).is_ok();
    thread::scope(|scope| {
        let visit = |door| {
            let trying = thread::Builder::new().stack_size(TRYING_STACK);
            trying.spawn_scoped(scope, move || comes(door))
        };
        let begun: Vec<_> = doors.iter().map(visit).collect();
        // what nobody could be sent to try counts as reached: it is found out when it is gone to
        let reached = begun.into_iter().enumerate().filter_map(|(at, begun)| {
            let comes = begun.map_or(true, |trying| trying.join().unwrap_or(false));
            comes.then_some(at)
        });
        reached.collect()
    })
}

/// Where guests say who they are.
struct Lobby {
    config: Arc<ServerConfig>,
    token: Token,
    most: usize,
    most_knocking: usize,
    knocking: AtomicUsize,
    inside: AtomicUsize,
}

/// One of a number that has a bound, until dropped.
struct Counted {
    lobby: Arc<Lobby>,
    number: fn(&Lobby) -> &AtomicUsize,
}

impl Counted {
    fn take(lobby: &Arc<Lobby>, number: fn(&Lobby) -> &AtomicUsize, most: usize) -> Option<Self> {
        let is_one = number(lobby).fetch_add(1, Ordering::Relaxed) < most;
        let counted = Self { lobby: Arc::clone(lobby), number };
        is_one.then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.number)(&self.lobby).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lobby {
    /// Gives one guest what it asks for, until it goes.
    fn receive(self: &Arc<Self>, socket: TcpStream, knocking: Counted, stock: &Shelf) -> io::Result<()> {
        let socket = Timed::new(socket)?;
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut tick = |_| !stock.is_closed();
        let hello = frame::hear(&mut Patient { from: &mut stream, tick: &mut tick }, MOST_GUEST_MESSAGE)?;
        let is_known = matches!(hello, Some(Guest::Hello { token, digest })
            if token == self.token && digest == stock.list.digest);
        let inside = Counted::take(self, |lobby| &lobby.inside, self.most);
        drop(knocking);
        if !is_known || inside.is_none() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.sock.until = None;
        let (mut packer, mut packing, mut seen) = (Packer::new()?, Packing::default(), Seen::default());
        loop {
            let mut tick = |_| !stock.is_closed();
            let asked = frame::hear(&mut Patient { from: &mut stream, tick: &mut tick }, MOST_GUEST_MESSAGE)?;
            let Some(Guest::Ask { at }) = asked else { return Ok(()) };
            let begun = Instant::now();
            let is_here = loop {
                match stock.wait_for(at, READ_TICK) {
                    Some(is_here) => break is_here,
                    None => frame::say(&mut stream, &NoChunk::Waiting)?,
                }
            };
            if is_here && begun.elapsed() >= WAITED {
                // what is waited for here is not how fast this host is
                frame::say(&mut stream, &NoChunk::Waiting)?;
            }
            let Some(chunk) = stock.list.chunks.get(at).filter(|_| is_here) else {
                return frame::say(&mut stream, &NoChunk::Never);
            };
            let length = chunk.range.end - chunk.range.start;
            packing.asked(length, Instant::now());
            let is_packed = packing.is_next();
            let mut took = Duration::ZERO;
            for piece in pieces(chunk.range.clone()) {
                let begun = Instant::now();
                let smaller = stock.pack(&mut packer, piece, is_packed.then_some(&mut seen))?;
                took += begun.elapsed();
                let (head, bytes) = match &smaller {
                    Some(bytes) => (frame::packed_head(bytes.len() as u64), bytes.as_slice()),
                    None => (frame::data_head(packer.raw().len() as u64), packer.raw()),
                };
                stream.write_all(&head)?;
                stream.write_all(bytes)?;
            }
            if is_packed {
                packing.tried(length, took);
            }
            stream.flush()?;
        }
    }
}

/// A socket whose reads give up waiting now and then, and have an end at first: who knows nothing yet
/// of the other end waits for no slow handshake.
struct Timed {
    socket: TcpStream,
    until: Option<Instant>,
}

impl Timed {
    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(READ_TICK))?;
        socket.set_write_timeout(Some(STUCK))?;
        Ok(Self { socket, until: Some(Instant::now() + HELLO) })
    }
}

impl io::Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        io::Read::read(&mut self.socket, buffer)
    }
}

impl io::Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The way to another host's door.
pub(super) struct Visit {
    stream: StreamOwned<ClientConnection, Timed>,
}

impl Visit {
    /// Connects, and says who it is. Nothing is known yet of what the other end says to that.
    pub(super) fn new(peer: &Peer, identity: &Identity, token: &Token, shelf: &Shelf) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&peer.address, CONNECTING)?;
        if shelf.is_paced() {
            // what is not read is not sent
            set_socket_recv_buffer_size(&socket, PACED_BUFFER)?;
        }
        let socket = Timed::new(socket)?;
        let pins = Arc::new(Pins::new(vec![peer.certificate]));
        let config = ClientConfig::builder_with_provider(Arc::clone(&pins.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(pins)
            .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())
            .map_err(io::Error::other)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            match stream.conn.complete_io(&mut stream.sock) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        stream.sock.until = None;
        frame::say(&mut stream, &Guest::Hello { token: token.clone(), digest: shelf.list.digest })?;
        Ok(Self { stream })
    }
}

impl Bringer for Visit {
    fn ask(&mut self, at: usize) -> io::Result<()> {
        frame::say(&mut self.stream, &Guest::Ask { at })
    }

    fn reply(
        &mut self,
        length: u64,
        data: &mut Vec<u8>,
        tick: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<Reply> {
        frame::reply(&mut Patient { from: &mut self.stream, tick }, length, data)
    }
}

/// Takes the certificates with these digests and no other, whatever is written in them.
#[derive(Debug)]
struct Pins {
    certificates: Vec<Digest>,
    provider: Arc<CryptoProvider>,
}

impl Pins {
    fn new(certificates: Vec<Digest>) -> Self {
        let mut provider = ring::default_provider();
        // ChaCha20 first where AES is slow, and otherwise AES of the shorter key
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => u8::from(has_aes()),
            CipherSuite::TLS13_AES_128_GCM_SHA256 => u8::from(!has_aes()),
            _ => 2,
        });
        Self { certificates, provider: Arc::new(provider) }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.certificates.contains(&Digest::of(certificate)) {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

/// How both ends check that the other one has the key of the certificate that it shows.
macro_rules! signatures_of_tls_1_3 {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    signatures_of_tls_1_3!();
}

impl ClientCertVerifier for Pins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    signatures_of_tls_1_3!();
}
