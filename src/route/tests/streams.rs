//! What a client is told when a stream breaks after its first byte and nobody may go on with it, and what an upstream
//! learns when a client leaves.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::Instant;

use super::doubles::*;
use super::{House, Told};
use crate::generation::Definition;

/// The definition with nobody who may go on with an answer.
fn alone() -> Definition {
    let mut definition = definition();
    definition.door.routes[0].continue_on = Some(Vec::new());
    definition
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_ends_with_an_error_and_never_looks_whole() {
    let crab = &token("🦀").into_bytes()[..];
    let cut = crab.iter().position(|byte| *byte == 0xf0).unwrap() + 2;
    let broken_character = [&crab[..cut], b"\"}}]}\n\n"].concat();
    let cases = [
        (vec![Beat::Hang], "stalled between tokens"),
        (
            vec![say(": still here\n\n"), Beat::Wait(20), say(": and here\n\n"), Beat::Hang],
            "stalled between tokens",
        ),
        (vec![], "connection ended in the middle"),
        (vec![say("data: {\"cho")], "connection ended in the middle"),
        (vec![say(&crab[..cut])], "connection ended in the middle"),
        (vec![say(broken_character)], "sent something that is no answer"),
        (vec![say("data: {}{}\n\n"), say(DONE)], "sent something that is no answer"),
        (vec![say("data: "), say(vec![b'x'; 2 << 20])], "sent more than is taken"),
    ];
    for (rest, reason) in cases {
        let house = House::with(&alone());
        house.universe.on(
            "local",
            [stream([say(ROLE), say(token("one ")), say(token("two"))].into_iter().chain(rest))],
        );
        let told = house.ask_stream().await;
        assert_eq!((told.status, told.text().as_str()), (200, "one two"), "{reason}");
        let last: Value = serde_json::from_str(told.events().last().unwrap()).unwrap();
        assert_eq!(last["error"]["message"], format!("the answer broke off: local: {reason}"));
        assert!(!told.body.contains("[DONE]"));
        assert_eq!(house.universe.dialled(), ["local"], "an answer that began is not begun again");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_own_error_in_the_stream_is_passed_on_once() {
    let house = House::with(&alone());
    let error = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    house.universe.on("local", [stream([say(token("x")), say(error)])]);
    assert_eq!(house.ask_stream().await.body, token("x") + error);
}

#[tokio::test(start_paused = true)]
async fn tokens_may_take_as_long_as_the_planned_pace_says_and_no_longer() {
    let house = House::with(&alone());
    let slow = [say(token("a")), Beat::Wait(24), say(token("b")), Beat::Wait(24), say(token("c")), say(DONE)];
    house.universe.on("local", [stream(slow)]);
    // ten tokens at 2 tok/s, twice, and 25 s to the first: 35 s for the whole
    let started = Instant::now();
    let told = house.ask_stream().await;
    assert_eq!(told.text(), "ab");
    assert!(told.body.contains("answer late"));
    assert_eq!(started.elapsed(), Duration::from_secs(35));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_passed_on_byte_for_byte_however_it_is_cut() {
    let house = House::new();
    let text = format!("{ROLE}{}{}{DONE}", token("naïve "), token("🦀"));
    let crumbs = text.bytes().map(|byte| say([byte]));
    house.universe.on("local", [stream(crumbs)]);
    assert_eq!(house.ask_stream().await.body, text);
    // and the end is the end, even if the server keeps the connection
    house.universe.on("local", [stream([say(&text), Beat::Hang])]);
    assert_eq!(house.ask_stream().await.body, text);
    house.universe.left("local").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_the_work_upstream() {
    let house = House::new();
    // before the head
    house.universe.on("local", [Act::Play(vec![Beat::Hang])]);
    tokio::select! {
        _ = house.ask() => panic!("nobody answers"),
        () = house.universe.arrived("local") => {}
    }
    house.universe.left("local").await;

    // in the middle of a stream
    let house = House::new();
    house.universe.on("local", [stream([say(token("x")), Beat::Hang])]);
    let mut body = house.begin().await.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    drop(body);
    house.universe.left("local").await;
    let metrics = house.door.shared.metrics.render(&house.door.state());
    let line = r#"bramble_requests_total{model="chat",upstream="local",reason="-",status="499"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("bramble_in_flight 0"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_running_streams_alone() {
    let house = House::new();
    house.universe.on(
        "local",
        [
            stream([say(token("old ")), Beat::Wait(10), say(token("but whole")), say(DONE)]),
            good_stream("new"),
        ],
    );
    let running = house.begin().await;
    let mut next = definition();
    next.host = "pantry".parse().unwrap();
    install(house.root.path(), 8, &next);
    house.door.reload().unwrap();
    let told = house.ask_stream().await;
    assert_eq!((told.header("x-bramble-host"), told.header("x-bramble-generation")), ("pantry", "8"));
    let told = Told::read(running).await;
    assert_eq!((told.header("x-bramble-host"), told.header("x-bramble-generation")), ("kitchen", "7"));
    assert_eq!(told.text(), "old but whole");
    assert_eq!(told.events().last(), Some(&"[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_cannot_be_read_changes_nothing() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "still here")]);
    let before = house.door.state();
    let mut broken = Vec::new();
    for change in [
        (|d| d.format = 99) as fn(&mut Definition),
        |d| d.door.upstreams.clear(),
        |d| d.door.upstreams[2].name = "x\"y".to_owned(),
        |d| d.door.routes[0].order[0].model = "../../etc/shadow".to_owned(),
        |d| {
            d.door.upstreams[0].kind = crate::generation::UpstreamKind::Host { url: "file:///etc".to_owned() }
        },
    ] {
        let mut definition = definition();
        change(&mut definition);
        broken.push(definition);
    }
    for definition in broken {
        install(house.root.path(), 9, &definition);
        house.door.reload().unwrap_err();
    }
    std::fs::remove_file(house.root.path().join("current")).unwrap();
    assert!(house.door.reload().unwrap_err().to_string().contains("apply a manifest"));
    assert!(Arc::ptr_eq(&before, &house.door.state()));
    assert_eq!(house.ask().await.text(), "still here");
}
