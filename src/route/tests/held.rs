//! Requests that nobody can answer just now, and whom they wait for.

use std::io::ErrorKind;
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told, prompt};

/// Three times the planned load, and forty seconds.
const PATIENCE: u64 = 3 * 9 + 40;

fn refused() -> Act {
    Act::Fail(ErrorKind::ConnectionRefused)
}

fn not_ready(code: &str) -> Act {
    answer(503, &format!(r#"{{"error":{{"code":"{code}"}}}}"#))
}

/// A house whose engine is the only one that could answer.
fn alone(acts: impl IntoIterator<Item = Act>) -> House {
    let house = House::new();
    house.universe.on("local", acts).on("desk", [answer(500, "")]).on("gaming", [answer(500, "")]);
    house
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_started_anew_is_waited_for_where_nobody_else_can_answer() {
    for away in [refused(), Act::Fail(ErrorKind::NotFound)] {
        // one for the request, the others for looks at whether it is there
        let house = alone(vec![away; 5].into_iter().chain([completion("chat", "back")]));
        let started = Instant::now();
        let told = house.ask().await;
        assert_eq!((told.status, told.text().as_str()), (200, "back"));
        assert_eq!(started.elapsed(), Duration::from_millis(2500));
        assert!(told.header("x-bramble-fallback-reason").ends_with("waited 2 s"), "{:?}", told.headers);
        assert_eq!(told.header("x-bramble-upstream"), "local");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_loads_or_is_about_to_stop_is_waited_for_as_well() {
    for code in ["loading", "draining"] {
        let house = alone([not_ready(code), good_stream("back")]);
        assert_eq!(house.ask_stream().await.text(), "back", "{code}");
    }
    // who has too much to do is not: that he is asked again would not help
    let house = alone([not_ready("overloaded"), completion("chat", "never")]);
    assert_eq!(house.ask().await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_somebody_else_can_answer() {
    let house = House::new();
    house.universe.on("local", [refused()]).on("desk", [completion("chat", "from the desk")]);
    let started = Instant::now();
    assert_eq!(house.ask().await.text(), "from the desk");
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_waited_in_vain_is_told_so_and_the_next_ones_do_not_wait() {
    let house = alone([refused()]);
    let started = Instant::now();
    let told = house.ask().await;
    assert_eq!((told.status, started.elapsed().as_secs()), (503, PATIENCE));
    assert!(told.header("retry-after").parse::<u64>().unwrap() > 0);
    let why = "local: connection refused; desk: failed (500); gaming: failed (500); waited 67 s";
    assert_eq!(told.json()["error"]["message"], format!("nobody could answer: {why}"));
    let started = Instant::now();
    assert_eq!((house.ask().await.status, started.elapsed()), (503, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn one_that_came_while_others_were_asked_in_vain_is_asked_before_the_client_is_refused() {
    let house = House::new();
    house.universe.on("local", [refused(), completion("chat", "back")]);
    house.universe.on("desk", [Act::Play(vec![Beat::Hang])]).on("gaming", [answer(500, "")]);
    // so late that it is not expected any more
    tokio::time::sleep(Duration::from_secs(PATIENCE + 1)).await;
    let told = house.ask().await;
    assert_eq!((told.status, told.text().as_str()), (200, "back"));
}

#[tokio::test(start_paused = true)]
async fn another_host_that_answered_lately_is_waited_for() {
    let ask = async |house: &House| {
        let told = house.send(Method::POST, CHAT, CLIENT, r#"{"model":"writer","prompt":"x"}"#).await;
        Told::read(told).await.status
    };
    let house = House::new();
    house
        .universe
        .on("desk", [completion("writer", "first"), refused(), refused(), completion("writer", "back")]);
    assert_eq!(ask(&house).await, 200);
    assert_eq!(ask(&house).await, 200);
    // one that nobody has heard of is not
    let house = House::new();
    house.universe.on("desk", [refused(), completion("writer", "back")]);
    assert_eq!(ask(&house).await, 503);
}

#[tokio::test(start_paused = true)]
async fn so_many_wait_and_no_more() {
    let house = alone([refused()]);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let door = std::sync::Arc::clone(&house.door);
        waiting.spawn(async move {
            let request = hyper::Request::post(CHAT)
                .header("authorization", format!("Bearer {CLIENT}"))
                .body(http_body_util::Full::new(bytes::Bytes::from(prompt(false))));
            door.handle(request.unwrap()).await.status()
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let metrics = Told::read(house.send(Method::GET, "/metrics", READER, "").await).await.body;
    assert!(metrics.contains("\nbramble_held_requests 32\n"), "{metrics}");
    let started = Instant::now();
    assert_eq!((house.ask().await.status, started.elapsed()), (503, Duration::ZERO));
    house.universe.on("local", [completion("chat", "back")]);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let metrics = Told::read(house.send(Method::GET, "/metrics", READER, "").await).await.body;
    assert!(metrics.contains("\nbramble_held_requests 0\n"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_host_does_not_wait_here() {
    let house = alone([refused(), completion("chat", "never")]);
    let started = Instant::now();
    let told = Told::read(house.send(Method::POST, CHAT, PEER, &prompt(false)).await).await;
    assert_eq!((told.status, started.elapsed()), (503, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_answered_by_the_generation_that_comes() {
    let house = alone(vec![refused(); 9].into_iter().chain([completion("chat", "back")]));
    let (told, ()) = tokio::join!(house.ask(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        install(house.root.path(), 8, &definition());
        house.door.reload().unwrap();
    });
    assert_eq!((told.text().as_str(), told.header("x-bramble-generation")), ("back", "8"));
}
