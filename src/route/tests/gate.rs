//! The same door behind a real socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::doubles::*;
use super::{CHAT, House, prompt};
use crate::route::serve::Gate;

/// Lets clients in until `closing`, then drains.
async fn open(
    house: &House,
    patience: Duration,
    closing: CancellationToken,
) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let door = Arc::clone(&house.door);
    let serving = tokio::spawn(async move {
        let mut gate = Gate::new(listener);
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
    house.universe.on("local", [stream([say(token("one")), Beat::Wait(1), say(token("two")), say(DONE)])]);
    let mut client = ask(port).await;
    read_until(&mut client, "one").await;
    closing.cancel();
    read_until(&mut client, "[DONE]").await;
    serving.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
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
    let head = format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(64 << 10));
    client.write_all(head.as_bytes()).await.ok();
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).await.ok();
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&reply));
}
