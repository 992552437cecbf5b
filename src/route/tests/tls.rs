//! The door over TLS: real sockets, real handshakes, certificates that are made for each test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::doubles::*;
use super::gate::open;
use super::{CHAT, Door, House, prompt};
use crate::authority::{Authority, Certified, full_name};
use crate::generation::{Definition, DoorTls, Identity, Secrets, UpstreamKind};
use crate::route::gate::{Came, Ending, Over, side_by_side};
use crate::route::guests::Guest;
use crate::route::upstream::Net;

const NOW: u64 = 1_795_000_000;

fn authority(fleet: &str) -> Authority {
    Authority::new(&fleet.parse().unwrap(), NOW).unwrap()
}

fn certify(authority: &Authority, host: &str) -> Certified {
    authority.certify(&host.parse().unwrap(), NOW).unwrap()
}

fn identity(authority: &Authority, certified: &Certified, revoked: &[&Certified]) -> Identity {
    Identity {
        authority: authority.certificate().to_owned(),
        certificate: certified.certificate.clone(),
        key: certified.key.clone(),
        revoked: revoked.iter().map(|one| one.fingerprint).collect::<BTreeSet<_>>(),
    }
}

fn over_tls(definition: Definition) -> Definition {
    let mut definition = definition;
    definition.door.tls = DoorTls::Fleet;
    for upstream in &mut definition.door.upstreams {
        if let UpstreamKind::Host { url } = &mut upstream.kind {
            *url = url.replace("http://", "https://");
        }
    }
    definition
}

/// A house whose door speaks TLS as `kitchen`.
fn house(identity: Identity) -> House {
    let house = House::new();
    rewrite(&house, 8, &over_tls(definition()), identity);
    house
}

/// Brings another generation into force.
fn rewrite(house: &House, number: u64, definition: &Definition, identity: Identity) {
    let secrets = Secrets { peer_key: String::new().into(), identity: Some(identity), ..secrets() };
    install_with(house.root.path(), number, definition, &secrets);
    house.door.reload().unwrap();
}

/// Opens it to the world, and returns its port.
async fn serve(house: &House) -> u16 {
    open(house, Duration::ZERO, CancellationToken::new()).await.0
}

/// How an ordinary client asks: it trusts the authority, goes by dates, and may show a certificate.
fn client(authority: &Authority, shown: Option<&Certified>, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(shown) => {
            let certificate = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

async fn connect(config: ClientConfig, port: u16, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let wire = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, wire).await
}

const KITCHEN: &str = "kitchen.home.internal";

/// Asks over HTTP/1.1; `None` where the door closed the connection instead.
async fn ask(wire: &mut TlsStream<TcpStream>, path: &str, key: Option<&str>) -> Option<(u16, String)> {
    let body = prompt(false);
    let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let method = if path == CHAT { "POST" } else { "GET" };
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{key}content-length: {length}\r\n\r\n{body}");
    wire.write_all(head.as_bytes()).await.ok()?;
    let mut seen = String::new();
    while !seen.contains("\r\n\r\n") {
        seen.push(char::from(wire.read_u8().await.ok()?));
    }
    let status = seen.split(' ').nth(1)?.parse().ok()?;
    let length = seen.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    wire.read_exact(&mut body).await.ok()?;
    Some((status, String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn a_client_that_trusts_the_fleet_comes_in_with_its_key_by_either_name() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    house.universe.on("local", [completion("chat", "over tls")]);
    let port = serve(&house).await;
    for name in [KITCHEN, "kitchen.local"] {
        let mut wire = connect(client(&home, None, &[]), port, name).await.unwrap();
        assert_eq!(ask(&mut wire, "/healthz", None).await.unwrap(), (200, "ok".to_owned()));
        let (status, body) = ask(&mut wire, CHAT, Some(CLIENT)).await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("over tls"), "{body}");
        for key in [None, Some("wrong"), Some("our-peer-key"), Some(PEER)] {
            let status = ask(&mut wire, "/health", key).await.unwrap().0;
            assert_eq!(status, if key == Some(PEER) { 403 } else { 401 }, "{key:?}");
        }
    }
    // never by its address, nor as another host, nor by who trusts another fleet
    for name in ["127.0.0.1", "shed.home.internal", "kitchen.work.internal", "localhost"] {
        let error = connect(client(&home, None, &[]), port, name).await.unwrap_err();
        assert!(error.to_string().contains("not valid for"), "{name}: {error}");
    }
    let error = connect(client(&authority("home"), None, &[]), port, KITCHEN).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn a_client_of_tls_1_2_comes_in_too() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let port = serve(&house).await;
    let desk = certify(&home, "desk");
    let mut config = client(&home, Some(&desk), &[]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(home.certificate().as_bytes()).unwrap()).unwrap();
    let resolver = Arc::clone(&config.client_auth_cert_resolver);
    config = old.unwrap().with_root_certificates(roots).with_client_cert_resolver(resolver);
    let mut wire = connect(config, port, KITCHEN).await.unwrap();
    // as the host that it has proven to be
    assert_eq!(ask(&mut wire, "/health", None).await.unwrap().0, 403);
}

/// What a client says first that wants this version and knows of none later. Of TLS 1.2 it is all that is needed.
fn hello_of(version: [u8; 2]) -> Vec<u8> {
    let more = [
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23][..], // curves
        &[0, 13, 0, 4, 0, 2, 4, 3],             // signatures: ECDSA with SHA-256
        &[0, 11, 0, 2, 1, 0],                   // points
        &[0, 23, 0, 0],                         // the extended master secret
    ]
    .concat();
    // no session; suites of TLS 1.2 and of those before it; no compression
    let suites = [0, 6, 0xc0, 0x2b, 0xc0, 0x09, 0, 0x2f];
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let body = [&version[..], &[7; 32], &[0], &suites, &[1, 0], &[0, length(&more)], &more].concat();
    let message = [&[1, 0, 0, length(&body)][..], &body].concat();
    [&[0x16, 3, 0, 0, length(&message)][..], &message].concat()
}

#[tokio::test]
async fn versions_before_tls_1_2_are_refused_and_nothing_else_is_said() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let port = serve(&house).await;
    for version in [[3, 0], [3, 1], [3, 2]] {
        let mut wire = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        wire.write_all(&hello_of(version)).await.unwrap();
        let mut said = Vec::new();
        // a door that hangs up may do so with a reset
        let _ = wire.read_to_end(&mut said).await;
        // one alert, fatal: the version
        assert_eq!((said.first(), &said[3..]), (Some(&0x15), &[0, 2, 2, 70][..]), "{version:?}");
    }
    // the same words with another version are answered
    let mut wire = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    wire.write_all(&hello_of([3, 3])).await.unwrap();
    assert_eq!(wire.read_u8().await.unwrap(), 0x16);
}

#[tokio::test]
async fn a_host_of_the_fleet_needs_no_key_and_is_answered_from_here_alone() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    house.universe.on("local", [completion("chat", "mine"), answer(503, "")]);
    let port = serve(&house).await;
    let mut wire = connect(client(&home, Some(&certify(&home, "desk")), &[]), port, KITCHEN).await.unwrap();
    let (status, body) = ask(&mut wire, CHAT, None).await.unwrap();
    assert_eq!(status, 200, "{body}");
    // its certificate is who it is, whatever key it shows beside: nothing is passed on for it
    assert_eq!(ask(&mut wire, CHAT, Some(CLIENT)).await.unwrap().0, 503);
    assert_eq!(house.universe.dialled(), ["local", "local"]);
    assert_eq!(ask(&mut wire, "/metrics", Some(READER)).await.unwrap().0, 403);
}

#[tokio::test]
async fn who_shows_a_certificate_that_proves_nothing_is_refused_even_with_a_good_key() {
    let (home, work, again) = (authority("home"), authority("work"), authority("home"));
    let stolen = certify(&home, "shed");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[&stolen]));
    house.universe.on("local", [completion("chat", "mine")]);
    let port = serve(&house).await;
    // of another fleet, of another authority of the same name, and revoked
    for shown in [certify(&work, "desk"), certify(&again, "desk"), stolen] {
        let wire = connect(client(&home, Some(&shown), &[]), port, KITCHEN).await;
        // in TLS 1.3 the client hears of it with the first answer
        let told = match wire {
            Ok(mut wire) => ask(&mut wire, CHAT, Some(CLIENT)).await,
            Err(_) => None,
        };
        assert_eq!(told, None);
    }
    assert!(house.universe.dialled().is_empty());
    // one that has long ended, as hosts' clocks may have it, is good between hosts
    let name = full_name(home.fleet(), &"desk".parse().unwrap());
    let ended = home.sign(&"desk".parse().unwrap(), vec![name], (NOW - 9, NOW - 8)).unwrap();
    let mut wire = connect(client(&home, Some(&ended), &[]), port, KITCHEN).await.unwrap();
    assert_eq!(ask(&mut wire, CHAT, None).await.unwrap().0, 200);
}

#[tokio::test]
async fn who_is_revoked_while_connected_is_a_host_no_longer() {
    let home = authority("home");
    let (kitchen, shed) = (certify(&home, "kitchen"), certify(&home, "shed"));
    let house = house(identity(&home, &kitchen, &[]));
    let port = serve(&house).await;
    let mut wire = connect(client(&home, Some(&shed), &[]), port, KITCHEN).await.unwrap();
    assert_eq!(ask(&mut wire, "/v1/models", None).await.unwrap().0, 200);
    rewrite(&house, 9, &over_tls(definition()), identity(&home, &kitchen, &[&shed]));
    assert_eq!(ask(&mut wire, "/v1/models", None).await.unwrap().0, 401);
}

#[tokio::test]
async fn plain_http_is_told_so_and_not_acted_on() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    house.universe.on("local", [completion("chat", "never")]);
    let port = serve(&house).await;
    let body = prompt(false);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CLIENT}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let mut wire = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    wire.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("https_required"), "{told}");
    assert!(told.ends_with('}') && !told.contains(CLIENT), "{told}");
    assert!(house.universe.dialled().is_empty());
    // with more than anybody reads of it, the answer still arrives
    let mut wire = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    wire.write_all("x".repeat(32 << 10).as_bytes()).await.unwrap();
    let mut told = String::new();
    wire.read_to_string(&mut told).await.unwrap();
    assert!(told.contains("https_required"), "{told}");
}

#[tokio::test]
async fn a_connection_in_plain_does_not_outlive_the_change_to_https() {
    let home = authority("home");
    let house = House::new();
    house.universe.on("local", [completion("chat", "in plain")]);
    let mut wire = TcpStream::connect(("127.0.0.1", serve(&house).await)).await.unwrap();
    let body = prompt(false);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CLIENT}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    while !told.contains("in plain") {
        told.push(char::from(wire.read_u8().await.unwrap()));
    }
    rewrite(&house, 8, &over_tls(definition()), identity(&home, &certify(&home, "kitchen"), &[]));
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    wire.read_to_string(&mut told).await.unwrap();
    assert!(told.contains("HTTP/1.1 400 ") && told.contains("https_required"), "{told}");
    assert_eq!(house.universe.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_finish_the_handshake_is_not_waited_for() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let port = serve(&house).await;
    // silence, the beginning of a record, and a record of which most is missing
    for beginning in [&b""[..], &[22], &[22, 3, 1, 64, 0, 1, 0]] {
        let started = tokio::time::Instant::now();
        let mut wire = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        wire.write_all(beginning).await.unwrap();
        let mut told = Vec::new();
        wire.read_to_end(&mut told).await.ok();
        assert_eq!(started.elapsed().as_secs(), 10, "{beginning:?}");
    }
}

/// The kitchen, which has no engine, with the desk behind it at a real port, each a door over TLS.
struct Fleet {
    kitchen: House,
    desk: House,
    /// What is in front of the desk's door.
    port: u16,
}

impl Fleet {
    /// Has the kitchen trust `home`, and the desk's door show what `shown` says.
    async fn new(home: &Authority, shown: Identity, revoked: &[&Certified]) -> Self {
        let desk = house(shown);
        let port = serve(&desk).await;
        let kitchen = House::dialling(&definition(), Box::new(Net::default()), desk.universe.clone());
        let mut wanted = over_tls(definition());
        wanted.door.upstreams[0].kind = UpstreamKind::Host { url: format!("https://127.0.0.1:{port}") };
        wanted.door.routes[0].order.retain(|hop| hop.upstream == "desk");
        rewrite(&kitchen, 8, &wanted, identity(home, &certify(home, "kitchen"), revoked));
        Self { kitchen, desk, port }
    }
}

#[tokio::test]
async fn a_host_asks_another_by_certificate_and_no_canary_comes_out() {
    let home = authority("home");
    let fleet = Fleet::new(&home, identity(&home, &certify(&home, "desk"), &[]), &[]).await;
    fleet.desk.universe.on("local", [good_stream("from the desk"), good_stream("in parts")]);
    let port = serve(&fleet.kitchen).await;
    let mut wire = connect(client(&home, None, &[]), port, KITCHEN).await.unwrap();
    let (status, body) = ask(&mut wire, CHAT, Some(CLIENT)).await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("from the desk"), "{body}");
    // and a stream, with a cookie and an address
    let told = fleet.kitchen.ask_stream().await;
    assert_eq!((told.text().as_str(), told.header("x-bramble-upstream")), ("in parts", "desk"));
    let requests = fleet.desk.universe.requests();
    assert_eq!(requests.len(), 2);
    for (_, request) in requests {
        for canary in [CLIENT, "cookie-canary", "address-canary", "authorization"] {
            assert!(!request.contains(canary), "the desk's engine was shown {canary}: {request}");
        }
    }
}

#[tokio::test]
async fn what_answers_at_a_hosts_address_and_is_not_that_host_is_not_asked() {
    let (home, work, again) = (authority("home"), authority("work"), authority("home"));
    let stolen = certify(&home, "desk");
    for (case, shown) in [
        ("another host of the fleet", identity(&home, &certify(&home, "shed"), &[])),
        ("a host of another fleet", identity(&work, &certify(&work, "desk"), &[])),
        ("another authority of the same name", identity(&again, &certify(&again, "desk"), &[])),
        ("one that was revoked", identity(&home, &stolen, &[])),
    ] {
        let fleet = Fleet::new(&home, shown, &[&stolen]).await;
        fleet.desk.universe.on("local", [completion("chat", "never")]);
        let told = fleet.kitchen.ask().await;
        assert_eq!(told.status, 503, "{case}");
        assert!(told.body.contains("desk: certificate not accepted"), "{case}: {}", told.body);
        assert!(fleet.desk.universe.requests().is_empty(), "{case}");
    }
}

#[tokio::test]
async fn a_host_that_was_revoked_is_refused_by_the_others() {
    let home = authority("home");
    let fleet = Fleet::new(&home, identity(&home, &certify(&home, "desk"), &[]), &[]).await;
    fleet.desk.universe.on("local", [completion("chat", "never")]);
    // the desk's next generation knows that the kitchen's card was stolen
    let state = fleet.kitchen.root.path().join("current/secrets.json");
    let secrets: Secrets = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let shown = CertificateDer::from_pem_slice(secrets.identity.unwrap().certificate.as_bytes()).unwrap();
    let key = webpki::EndEntityCert::try_from(&shown).unwrap().subject_public_key_info().as_ref().to_vec();
    let mut own = identity(&home, &certify(&home, "desk"), &[]);
    own.revoked.insert(crate::ids::Digest::of(&key));
    rewrite(&fleet.desk, 9, &over_tls(definition()), own);
    let told = fleet.kitchen.ask().await;
    assert_eq!(told.status, 503, "{}", told.body);
    assert!(fleet.desk.universe.requests().is_empty());
    // while the door is there for others
    let mut wire = connect(client(&home, None, &[]), fleet.port, "desk.home.internal").await.unwrap();
    assert_eq!(ask(&mut wire, "/healthz", None).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_door_without_its_certificate_does_not_open_in_plain() {
    let root = tempfile::tempdir().unwrap();
    let mut wanted = over_tls(definition());
    // with nobody behind it, so that it is the door alone that misses it
    wanted.door.upstreams.clear();
    wanted.door.routes.clear();
    install(root.path(), 7, &wanted);
    let Err(error) =
        Door::open(root.path(), None, Box::new(Universe::default()), Box::new(Universe::default()))
    else {
        panic!("it opened");
    };
    assert!(error.to_string().contains("no certificate among the secrets; apply again"), "{error}");
}

/// A client of HTTP/2.
struct SideBySide {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<()>,
}

impl SideBySide {
    async fn over(wire: impl tokio::io::AsyncRead + AsyncWriteExt + Send + Unpin + 'static) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(wire)).await.unwrap();
        Self { sender, driver: tokio::spawn(async move { drop(connection.await) }) }
    }

    async fn connect(home: &Authority, port: u16) -> Self {
        let wire = connect(client(home, None, &["h2", "http/1.1"]), port, KITCHEN).await.unwrap();
        assert_eq!(wire.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(wire).await
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

fn chat(stream: bool) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(prompt(stream)));
    let request = Request::post(format!("https://{KITCHEN}{CHAT}"));
    request.header(AUTHORIZATION, format!("Bearer {CLIENT}")).body(body).unwrap()
}

async fn next(body: &mut hyper::body::Incoming) -> String {
    let frame = body.frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn several_streams_share_a_connection_and_none_is_held_back() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let allowed = Arc::new(tokio::sync::Notify::new());
    let waiting =
        stream([say(token("one")), Beat::Until(Arc::clone(&allowed)), say(token("two")), say(DONE)]);
    house.universe.on("local", [waiting, good_stream("whole")]);
    let mut client = SideBySide::connect(&home, serve(&house).await).await;
    let mut first = client.send(chat(true)).await.unwrap();
    assert_eq!((first.status().as_u16(), first.version()), (200, hyper::Version::HTTP_2));
    // a token is there before the next one is made
    assert!(next(first.body_mut()).await.contains("one"));
    let second = client.send(chat(true)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&second).contains("whole"));
    allowed.notify_one();
    let rest = first.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&rest).contains("two"));
}

#[tokio::test]
async fn tokens_are_not_held_back_over_tls() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let allowed = Arc::new(tokio::sync::Notify::new());
    let beats = [say(token("one")), Beat::Until(Arc::clone(&allowed)), say(token("two")), say(DONE)];
    house.universe.on("local", [stream(beats)]);
    let mut wire = connect(client(&home, None, &[]), serve(&house).await, KITCHEN).await.unwrap();
    let (head, body) = (format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n"), prompt(true));
    let key = format!("authorization: Bearer {CLIENT}\r\n");
    let request = format!("{head}{key}content-length: {}\r\n\r\n{body}", body.len());
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    for word in ["one", "two"] {
        while !seen.contains(word) {
            seen.push(char::from(wire.read_u8().await.unwrap()));
        }
        allowed.notify_one();
    }
}

#[tokio::test]
async fn a_stream_that_is_given_up_cancels_its_work_and_no_other() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let begun = || stream([say(token("x")), Beat::Hang]);
    house.universe.on("local", [begun(), begun(), good_stream("still here")]);
    let mut client = SideBySide::connect(&home, serve(&house).await).await;
    let mut one = client.send(chat(true)).await.unwrap();
    let mut two = client.send(chat(true)).await.unwrap();
    next(one.body_mut()).await;
    next(two.body_mut()).await;
    drop(one);
    house.universe.left("local").await;
    let third = client.send(chat(true)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&third).contains("still here"));
    // and with the connection, what is left of it
    client.driver.abort();
    drop((two, client));
    house.universe.left("local").await;
}

#[tokio::test]
async fn heads_are_limited_over_http_2_as_well() {
    let home = authority("home");
    let house = house(identity(&home, &certify(&home, "kitchen"), &[]));
    let mut client = SideBySide::connect(&home, serve(&house).await).await;
    let with = |count: usize, length: usize| {
        let mut request = Request::get(format!("https://{KITCHEN}/healthz"));
        for number in 0..count {
            request = request.header(format!("x-{number}"), "y".repeat(length));
        }
        request.body(Full::<Bytes>::default()).unwrap()
    };
    assert_eq!(client.send(with(60, 10)).await.unwrap().status(), 200);
    assert_eq!(client.send(with(70, 10)).await.unwrap().status(), 431);
    // more than 32 KiB are not read
    let refused = client.send(with(1, 60 << 10)).await;
    assert!(refused.as_ref().map_or(true, |reply| reply.status() == 431), "{refused:?}");
    // who smuggles what belongs to HTTP/1.1 is refused by the protocol
    let smuggled = Request::get(format!("https://{KITCHEN}/healthz")).header("transfer-encoding", "chunked");
    let smuggled = client.send(smuggled.body(Full::<Bytes>::default()).unwrap()).await;
    assert!(smuggled.as_ref().map_or(true, |reply| reply.status() != 500), "{smuggled:?}");
}

/// Serves one connection of HTTP/2 in memory, with room for that many streams in all.
fn in_memory(house: &House, streams: usize) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    let door = Arc::clone(&house.door);
    let serving = tokio::spawn(async move {
        let streams = Arc::new(tokio::sync::Semaphore::new(streams));
        let guest = Arc::new(Guest::new([127, 0, 0, 1].into(), None));
        let came = Came { over: Over::Tls(None), guest };
        side_by_side(&door, theirs, &came, streams, &Ending::default()).await;
    });
    (ours, serving)
}

fn healthz() -> Request<Full<Bytes>> {
    Request::get("http://x/healthz").body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_http_2_that_asks_nothing_is_ended() {
    let house = House::new();
    let started = tokio::time::Instant::now();
    let (wire, serving) = in_memory(&house, 9);
    let mut client = SideBySide::over(wire).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(client.send(healthz()).await.unwrap().status(), 200);
    }
    serving.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 4 * 20 + 30);
    // and one that never asks
    let started = tokio::time::Instant::now();
    let (wire, serving) = in_memory(&house, 9);
    let _client = SideBySide::over(wire).await;
    serving.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
    // and one that does not even begin: it may not say goodbye either
    let (_wire, serving) = in_memory(&house, 9);
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_that_takes_nothing_loses_its_answer() {
    let house = House::new();
    let long = "x".repeat(100);
    house.universe.on("local", [stream([say(token(&long)), say(token(&long)), Beat::Hang])]);
    let started = tokio::time::Instant::now();
    let (wire, serving) = in_memory(&house, 9);
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(10)
        .handshake(TokioIo::new(wire))
        .await
        .unwrap();
    let _driver = tokio::spawn(connection);
    let request = Request::post(format!("http://x{CHAT}")).header(AUTHORIZATION, format!("Bearer {CLIENT}"));
    let request = request.body(Full::new(Bytes::from(prompt(true)))).unwrap();
    let _reply = sender.send_request(request).await.unwrap();
    house.universe.left("local").await;
    serving.await.unwrap();
    let seconds = started.elapsed().as_secs();
    assert!((60..=70).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn streams_of_all_connections_together_are_limited() {
    let house = House::new();
    house.universe.on("local", [stream([say(token("x")), Beat::Hang]), good_stream("now")]);
    let (wire, _serving) = in_memory(&house, 1);
    let mut client = SideBySide::over(wire).await;
    let first = client.send(chat(true)).await.unwrap();
    assert_eq!(first.status(), 200);
    let second = client.send(chat(true)).await.unwrap();
    assert_eq!(second.status(), 503);
    assert_eq!(second.headers()["retry-after"], "1");
    // its place is given back
    drop(first);
    house.universe.left("local").await;
    assert_eq!(client.send(chat(true)).await.unwrap().status(), 200);
}
