//! The same door behind a real socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::doubles::*;
use super::{CHAT, House, prompt};
use crate::generation::UpstreamKind;
use crate::route::gate::Gate;
use crate::route::serve::listen;
use crate::route::upstream::Net;

/// Lets clients in until `closing`, then drains.
pub(super) async fn open(
    house: &House,
    patience: Duration,
    closing: CancellationToken,
) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let door = Arc::clone(&house.door);
    let serving = tokio::spawn(async move {
        let gate = Gate::new(listener);
        loop {
            tokio::select! {
                () = gate.admit(&door) => {}
                () = closing.cancelled() => break,
            }
        }
        gate.drain(&door, patience).await;
    });
    (port, serving)
}

async fn ask(port: u16) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let body = prompt(true);
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CLIENT}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all((head + &body).as_bytes()).await.unwrap();
    client
}

async fn read_until(client: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let byte = client
            .read_u8()
            .await
            .unwrap_or_else(|_| panic!("no {text} in {}", String::from_utf8_lossy(&all)));
        all.push(byte);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_connection_that_closes_cancels_the_work_upstream() {
    let house = House::new();
    let (port, _serving) = open(&house, Duration::ZERO, CancellationToken::new()).await;
    house.universe.on("local", [Act::Play(vec![Beat::Hang]), stream([say(token("x")), Beat::Hang])]);
    let client = ask(port).await;
    house.universe.arrived("local").await;
    drop(client);
    house.universe.left("local").await;
    let mut client = ask(port).await;
    let head = read_until(&mut client, "\"x\"").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(client);
    house.universe.left("local").await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nobody_new() {
    let house = House::new();
    let closing = CancellationToken::new();
    let (port, serving) = open(&house, Duration::from_secs(30), closing.clone()).await;
    let allowed = Arc::new(tokio::sync::Notify::new());
    house.universe.on(
        "local",
        [stream([say(token("one")), Beat::Until(Arc::clone(&allowed)), say(token("two")), say(DONE)])],
    );
    let mut client = ask(port).await;
    read_until(&mut client, "one").await;
    closing.cancel();
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    allowed.notify_one();
    read_until(&mut client, "[DONE]").await;
    serving.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_while_draining_is_told_so() {
    let house = House::new();
    let closing = CancellationToken::new();
    let (port, serving) = open(&house, Duration::from_millis(50), closing.clone()).await;
    house.universe.on("local", [stream([say(token("one")), Beat::Hang])]);
    let mut client = ask(port).await;
    read_until(&mut client, "one").await;
    closing.cancel();
    let rest = read_until(&mut client, "this router is stopping").await;
    assert!(rest.contains("\"error\"") && !rest.contains("[DONE]"));
    serving.await.unwrap();
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let house = House::new();
    let (port, _serving) = open(&house, Duration::ZERO, CancellationToken::new()).await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // as much as is taken, and no more: with bytes of it unread, the system would take the answer back
    let mut head = b"GET /healthz HTTP/1.1\r\nx: ".to_vec();
    head.resize(32 << 10, b'y');
    client.write_all(&head).await.unwrap();
    let mut reply = Vec::new();
    // far below what a client has for its head
    let read = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut reply)).await;
    assert!(read.is_ok_and(|read| read.is_ok()), "the rest is waited for");
    assert!(reply.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&reply));
}

#[tokio::test]
async fn who_shows_no_key_takes_the_place_of_nobody_who_does() {
    let house = House::new();
    let (port, _serving) = open(&house, Duration::ZERO, CancellationToken::new()).await;
    let allowed = Arc::new(tokio::sync::Notify::new());
    let begun = stream([say(token("one")), Beat::Until(Arc::clone(&allowed)), say(token("two")), say(DONE)]);
    house.universe.on("local", [begun, stream([say(token("late")), say(DONE)])]);
    let mut early = ask(port).await;
    read_until(&mut early, "one").await;
    // more than there are places, each with a request that needs no key, and with the next to come
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stranger.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut stranger, "ok").await;
        strangers.push(stranger);
    }
    let mut late = ask(port).await;
    read_until(&mut late, "[DONE]").await;
    assert_eq!(strangers[0].read(&mut [0]).await.unwrap(), 0, "the first of them is there still");
    allowed.notify_one();
    read_until(&mut early, "[DONE]").await;
}

#[tokio::test]
async fn both_families_of_addresses_are_listened_on() {
    let listener = listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    if listener.local_addr().unwrap().is_ipv6() {
        TcpStream::connect(("::1", port)).await.unwrap();
    }
    assert!(listen(port).is_err());
}

/// Answers one request over TLS as `localhost`, and returns its certificate and port.
async fn tls_double() -> (rustls::pki_types::CertificateDer<'static>, u16) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (wire, _) = listener.accept().await.unwrap();
        let Ok(mut wire) = acceptor.accept(wire).await else { return };
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            seen.push(wire.read_u8().await.unwrap());
        }
        let body = r#"{"model":"mistral","over":"tls"}"#;
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        wire.write_all(reply.as_bytes()).await.unwrap();
        wire.flush().await.unwrap();
    });
    (certificate, port)
}

#[tokio::test]
async fn a_foreign_upstream_over_https_is_asked_only_if_it_is_trusted() {
    for is_trusted in [true, false] {
        let (certificate, port) = tls_double().await;
        let mut roots = rustls::RootCertStore::empty();
        if is_trusted {
            roots.add(certificate).unwrap();
        }
        let mut definition = definition();
        definition.door.routes[0].order.drain(..2);
        definition.door.upstreams[1].kind = UpstreamKind::Foreign {
            url: format!("https://localhost:{port}/v1/"),
            key: Some("GAMING_KEY".to_owned()),
        };
        let house = House::dialling(&definition, Box::new(Net::trusting(roots)), Universe::default());
        let told = house.ask().await;
        if is_trusted {
            assert_eq!((told.status, told.body.as_str()), (200, r#"{"model":"chat","over":"tls"}"#));
        } else {
            assert_eq!(told.status, 503);
            assert!(told.body.contains("gaming: certificate not accepted"), "{}", told.body);
        }
    }
}
