//! A desktop that sleeps: who wakes it, who waits for it, and what clients are told.

use std::io::ErrorKind;
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told};
use crate::generation::{Definition, WakeSpec};

const MAC: &str = "0a:bb:cc:dd:ee:ff";
const WRITER: &str = r#"{"model":"writer","prompt":"x"}"#;

/// The usual door, whose `desk` sleeps. `writer` is answered by nobody else.
fn sleepy() -> Definition {
    let mut definition = definition();
    definition.door.upstreams[0].wake = Some(WakeSpec { mac: MAC.parse().unwrap(), wait_seconds: 60 });
    definition
}

/// A door whose own engine is not there.
fn sleeping(definition: &Definition) -> House {
    let house = House::with(definition);
    house.universe.on("local", [gone()]);
    house
}

fn gone() -> Act {
    Act::Fail(ErrorKind::HostUnreachable)
}

async fn writer(house: &House) -> Told {
    Told::read(house.send(Method::POST, CHAT, CLIENT, WRITER).await).await
}

async fn machine(house: &House) -> (String, Option<u64>) {
    let told = Told::read(house.send(Method::GET, "/health", READER, "").await).await.json();
    let of = |entry: &&serde_json::Value| entry["upstream"] == "desk" && entry["model"] == "writer";
    let machine = &told["upstreams"].as_array().unwrap().iter().find(of).unwrap()["machine"];
    (machine["state"].as_str().unwrap().to_owned(), machine["since_seconds"].as_u64())
}

async fn gauge(house: &House) -> Vec<String> {
    let told = Told::read(house.send(Method::GET, "/metrics", READER, "").await).await;
    let is_ours = |line: &&str| line.starts_with("bramble_machine{") || line.starts_with("bramble_wake");
    told.body.lines().filter(is_ours).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_else_can_answer_waits_for_the_machine_to_come_up() {
    let house = sleeping(&sleepy());
    assert_eq!(machine(&house).await, ("unknown".to_owned(), None));
    // 12 looks in vain beside the request's own; then its system is up, its door is not yet, its engine loads, and it answers
    let acts = std::iter::repeat_n(gone(), 13)
        .chain(std::iter::repeat_n(Act::Fail(ErrorKind::ConnectionRefused), 4))
        .chain(std::iter::repeat_n(answer(503, "{}"), 5))
        .chain([completion("writer", "good morning")]);
    house.universe.on("desk", acts);
    let started = Instant::now();
    let told = writer(&house).await;
    assert_eq!((told.status, told.text().as_str()), (200, "good morning"));
    let seconds = started.elapsed().as_secs();
    assert!((18..25).contains(&seconds), "{seconds}");
    let why = told.header("x-bramble-fallback-reason");
    assert_eq!(why, format!("desk: not there; desk: was woken and came after {seconds} s"));
    assert_eq!(house.universe.packets(), [MAC, MAC]);
    assert_eq!(machine(&house).await.0, "awake");
    assert_eq!(
        gauge(&house).await,
        [r#"bramble_machine{upstream="desk"} 0"#, r#"bramble_wake_bursts_total{upstream="desk"} 2"#]
    );
    // from then on it is like any other
    house.universe.dialled();
    assert_eq!(writer(&house).await.header("x-bramble-fallback-reason"), "");
    assert_eq!((house.universe.dialled().len(), house.universe.packets().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_does_not_come_is_said_to_have_been_woken_and_is_then_left_alone() {
    for act in [gone(), Act::Ignore, Act::Fail(ErrorKind::NotFound)] {
        let house = sleeping(&sleepy());
        house.universe.on("desk", [act]);
        let started = Instant::now();
        let told = writer(&house).await;
        let seconds = started.elapsed().as_secs();
        assert!((60..=63).contains(&seconds), "{seconds}");
        assert_eq!(told.status, 503);
        let message = told.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("desk: was woken and did not come within 6"), "{message}");
        let retry: u64 = told.header("retry-after").parse().unwrap();
        assert!((8..=11).contains(&retry), "{retry}");
        // every ten seconds, or twelve where a look takes three
        assert!((5..=6).contains(&house.universe.packets().len()));
        assert_eq!(machine(&house).await.0, "asleep");
        assert_eq!(gauge(&house).await[0], r#"bramble_machine{upstream="desk"} 2"#);
        // at once after, nobody waits again and no packet is sent
        let started = Instant::now();
        let told = writer(&house).await;
        let message = told.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("was woken before and did not come"), "{message}");
        assert!(started.elapsed() <= Duration::from_secs(3));
        assert_eq!((told.status, house.universe.packets().len()), (503, 0));
        // who comes back when it was told is waited for again
        tokio::time::advance(Duration::from_secs(retry)).await;
        assert_eq!(writer(&house).await.status, 503);
        assert!((5..=6).contains(&house.universe.packets().len()));
    }
}

#[tokio::test(start_paused = true)]
async fn while_others_can_answer_the_machine_is_woken_in_the_background() {
    let mut definition = sleepy();
    definition.door.routes[0].order.rotate_left(1);
    let house = sleeping(&definition);
    house.universe.on("desk", [gone()]).on("gaming", [completion("mistral", "meanwhile")]);
    let started = Instant::now();
    let told = house.ask().await;
    assert_eq!((told.text().as_str(), started.elapsed()), ("meanwhile", Duration::ZERO));
    assert_eq!(told.header("x-bramble-fallback-reason"), "desk: not there");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(machine(&house).await, ("waking".to_owned(), Some(5)));
    // no request pays for looking
    house.universe.on("desk", [Act::Ignore]);
    let started = Instant::now();
    let told = house.ask().await;
    assert_eq!((told.text().as_str(), started.elapsed()), ("meanwhile", Duration::ZERO));
    assert_eq!(told.header("x-bramble-fallback-reason"), "desk: is being woken since 5 s");
    assert_eq!(house.universe.packets(), [MAC]);
    // the next request after it came is its own, whatever its breaker was before
    house.universe.on("desk", [completion("chat", "good morning")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told = house.ask().await;
    assert_eq!((told.text().as_str(), told.header("x-bramble-fallback-reason")), ("good morning", ""));
}

#[tokio::test(start_paused = true)]
async fn one_that_refuses_is_awake_and_gets_no_packet() {
    let house = sleeping(&sleepy());
    house.universe.on("desk", [Act::Fail(ErrorKind::ConnectionRefused)]);
    let started = Instant::now();
    let told = writer(&house).await;
    assert_eq!((told.status, started.elapsed()), (503, Duration::ZERO));
    assert_eq!(house.universe.packets(), Vec::<String>::new());
    assert_eq!(machine(&house).await, ("awake".to_owned(), None));
    // and one that nobody says how to wake is not waited for
    let house = House::new();
    house.universe.on("desk", [gone()]);
    let started = Instant::now();
    assert_eq!((writer(&house).await.status, started.elapsed()), (503, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn many_requests_wake_it_once_and_no_more_wait_than_there_are_places() {
    let house = sleeping(&sleepy());
    let acts = std::iter::repeat_n(gone(), 30).chain([completion("writer", "good morning")]);
    house.universe.on("desk", acts);
    // they come one after the other, so that all but the first find it being woken
    let first = async { writer(&house).await };
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        futures_util::future::join_all((0..100).map(|_| writer(&house))).await
    };
    let (first, others) = tokio::join!(first, others);
    assert_eq!(first.status, 200);
    let answered = others.iter().filter(|told| told.status == 200).count();
    assert_eq!(answered, 63);
    for told in others.iter().filter(|told| told.status != 200) {
        let message = told.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!((told.status, message.contains("too many requests wait for it to wake")), (503, true));
    }
    assert_eq!(house.universe.packets().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_host_wakes_nobody_and_a_router_that_stops_lets_go_of_those_who_wait() {
    let house = sleeping(&sleepy());
    house.universe.on("desk", [gone()]);
    let told = Told::read(house.send(Method::POST, CHAT, PEER, WRITER).await).await;
    assert_eq!((told.status, house.universe.packets().len()), (404, 0));
    let started = Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(7500)).await;
        house.door.shared.stop.cancel();
    };
    let (told, ()) = tokio::join!(writer(&house), stop);
    assert_eq!((told.status, started.elapsed().as_secs()), (503, 7));
    let dialled = house.universe.dialled().len();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((dialled > 2, house.universe.dialled().len()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place_and_the_machine_is_woken_all_the_same() {
    let house = sleeping(&sleepy());
    let acts = std::iter::repeat_n(gone(), 5).chain([completion("writer", "good morning")]);
    house.universe.on("desk", acts);
    for _ in 0..3 {
        tokio::select! {
            _ = writer(&house) => panic!("nobody answers yet"),
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(machine(&house).await.0, "awake");
    assert_eq!(writer(&house).await.text(), "good morning");
}
