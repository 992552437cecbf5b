//! What users may rely on, line by line: a test for each, named after it. The cases in detail are in the other files.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told, prompt};
use crate::generation::Definition;

fn refused() -> Act {
    Act::Fail(ErrorKind::ConnectionRefused)
}

/// The route of `chat` in that order.
fn ordered(names: &[&str]) -> Definition {
    let mut definition = definition();
    let route = &mut definition.door.routes[0];
    let order =
        names.iter().map(|name| route.order.iter().find(|hop| hop.upstream == *name).unwrap().clone());
    route.order = order.collect();
    definition
}

/// Has the engine do this, and asks for a whole answer and for a stream: the desk answers both, and it is said why.
async fn goes_on(act: Act, reason: &str) {
    for is_stream in [false, true] {
        let house = House::new();
        house.universe.on("local", [act.clone()]);
        house.universe.on("desk", [good_stream("from the desk")]);
        let told = if is_stream { house.ask_stream().await } else { house.ask().await };
        assert_eq!((told.status, told.text().as_str()), (200, "from the desk"), "{reason}");
        assert_eq!(told.header("x-bramble-fallback-reason"), format!("local: {reason}"));
    }
}

#[tokio::test(start_paused = true)]
async fn one_door_per_host_openai_compatible_always_up() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [answer(500, "")]);
    }
    // with nobody behind it, it answers in OpenAI's form all the same
    let models = Told::read(house.send(Method::GET, "/v1/models", CLIENT, "").await).await;
    assert_eq!((models.status, &models.json()["object"]), (200, &"list".into()));
    let told = house.ask().await;
    assert_eq!((told.status, told.json()["error"]["type"].as_str()), (503, Some("server_error")));
}

#[tokio::test(start_paused = true)]
async fn the_local_engines_then_the_fallback_in_the_order_that_the_route_says() {
    for order in [["local", "desk", "gaming"], ["gaming", "local", "desk"], ["desk", "gaming", "local"]] {
        let house = House::with(&ordered(&order));
        for upstream in order {
            house.universe.on(upstream, [answer(502, "")]);
        }
        house.ask().await;
        assert_eq!(house.universe.dialled(), order);
    }
}

#[tokio::test(start_paused = true)]
async fn local_only_fails_closed() {
    let house = House::with(&ordered(&["local"]));
    house.universe.on("local", [answer(500, "")]);
    assert_eq!(house.ask().await.status, 503);
    assert_eq!(house.universe.dialled(), ["local"], "and nobody else was asked");
}

#[tokio::test(start_paused = true)]
async fn desktop_first_uses_the_desktop_while_it_is_awake() {
    let house = House::with(&ordered(&["desk", "local"]));
    let asleep = Act::Fail(ErrorKind::HostUnreachable);
    house.universe.on("desk", [completion("chat", "from the desk"), asleep]);
    house.universe.on("local", [completion("chat", "from here")]);
    assert_eq!(house.ask().await.text(), "from the desk");
    assert_eq!(house.ask().await.text(), "from here");
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_is_not_there_or_still_loading() {
    goes_on(Act::Fail(ErrorKind::NotFound), "not there").await;
    goes_on(answer(503, r#"{"error":{"code":"loading"}}"#), "loading or stopping").await;
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_refuses_the_connection() {
    goes_on(refused(), "connection refused").await;
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_has_a_queue_longer_than_the_route_allows() {
    let mut definition = definition();
    definition.door.routes[0].overflow_queue = Some(2);
    let house = House::with(&definition);
    house.universe.health(r#"{"status":"ready","queued":3}"#);
    house
        .universe
        .on("local", [completion("chat", "late")])
        .on("desk", [completion("chat", "from the desk")]);
    let told = house.ask().await;
    assert_eq!(told.text(), "from the desk");
    assert_eq!(told.header("x-bramble-fallback-reason"), "local: 3 requests are waiting");
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_cannot_hold_the_prompt_in_its_context() {
    let long = answer(400, r#"{"error":{"code":"context_length_exceeded"}}"#);
    goes_on(long, "prompt exceeds its context").await;
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_misses_its_first_token_deadline() {
    goes_on(stream([say(ROLE), Beat::Hang]), "first token late").await;
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_local_one_stalls_between_tokens_or_dies() {
    for (end, reason) in [(Beat::Hang, "stalled between tokens"), (say(""), "connection ended in the middle")]
    {
        let house = House::new();
        house.universe.on("local", [stream([say(token("half")), end])]);
        house.universe.on("desk", [good_stream("whole")]);
        let told = house.ask().await;
        assert_eq!((told.status, told.text().as_str()), (200, "whole"));
        assert_eq!(told.header("x-bramble-fallback-reason"), format!("local: {reason}"));
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_separate_and_scale_with_the_planned_pace_and_the_prompts_length() {
    // (what the engine does, the prompt's characters, when it is given up)
    let cases = [
        (Act::Ignore, 0, 1),
        (stream([Beat::Hang]), 0, 25),
        // a thousand tokens are a hundred seconds at the planned ten a second
        (stream([Beat::Hang]), 3000, 125),
        (stream([say(token("x")), Beat::Hang]), 0, 25),
    ];
    for (act, length, seconds) in cases {
        let house = House::new();
        house.universe.on("local", [act]).on("desk", [good_stream("from the desk")]);
        let body = format!(r#"{{"model":"chat","max_tokens":10,"prompt":"{}"}}"#, "x".repeat(length));
        let started = Instant::now();
        assert_eq!(
            Told::read(house.send(Method::POST, CHAT, CLIENT, &body).await).await.text(),
            "from the desk"
        );
        assert_eq!(started.elapsed().as_secs(), seconds, "{length}");
    }
    // and a Pi may rightly need minutes
    let house = House::new();
    house.universe.on("local", [stream([Beat::Wait(120), say(token("slow but right")), say(DONE)])]);
    let body = format!(r#"{{"model":"chat","prompt":"{}"}}"#, "x".repeat(3000));
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &body).await).await;
    assert_eq!(told.text(), "slow but right");
}

#[tokio::test(start_paused = true)]
async fn connection_refused_opens_the_breaker_at_once_and_half_open_probes_close_it() {
    let house = House::new();
    house.universe.on("local", [refused(), completion("chat", "back")]);
    house.universe.on("desk", [completion("chat", "from the desk")]);
    house.ask().await;
    house.universe.dialled();
    house.ask().await;
    assert_eq!(house.universe.dialled(), ["desk"], "it is not asked again at once");
    tokio::time::advance(Duration::from_millis(2500)).await;
    assert_eq!(house.ask().await.text(), "back");
    assert_eq!(house.ask().await.header("x-bramble-fallback-reason"), "");
}

#[tokio::test(start_paused = true)]
async fn a_single_upstream_is_no_exception() {
    let house = House::with(&ordered(&["desk"]));
    house.universe.on("desk", [refused()]);
    house.ask().await;
    house.universe.dialled();
    assert_eq!(house.ask().await.status, 503);
    assert!(house.universe.dialled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte_to_the_client_it_is_retried_elsewhere_invisibly() {
    let plain = House::new();
    plain.universe.on("local", [good_stream("the same")]);
    let mended = House::new();
    mended.universe.on("local", [stream([say(ROLE)])]).on("desk", [good_stream("the same")]);
    assert_eq!(mended.ask_stream().await.body, plain.ask_stream().await.body);
}

#[tokio::test(start_paused = true)]
async fn after_it_the_stream_ends_with_an_error_event_where_the_route_does_not_allow_more() {
    let mut definition = definition();
    definition.door.routes[0].continue_on = Some(Vec::new());
    let house = House::with(&definition);
    house.universe.on("local", [stream([say(token("half"))])]).on("desk", [good_stream("a second copy")]);
    let told = house.ask_stream().await;
    assert_eq!(told.text(), "half", "never a second copy of text");
    let events = told.events();
    assert!(events.last().unwrap().contains("\"error\""), "never a silent truncation: {events:?}");
    assert!(!events.contains(&"[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn never_a_200_for_half_an_answer() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [stream([say(token("half"))])]);
    }
    let told = house.ask().await;
    assert_eq!(told.status, 503);
    assert!(!told.body.contains("half"), "{}", told.body);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_cancels_the_work_upstream() {
    let house = House::new();
    house.universe.on("local", [stream([say(token("x")), Beat::Hang])]);
    drop(house.begin().await);
    house.universe.left("local").await;
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_runs_and_sends_new_work_to_the_fallback() {
    let house = House::new();
    let allowed = Arc::new(tokio::sync::Notify::new());
    let running =
        stream([say(token("one ")), Beat::Until(Arc::clone(&allowed)), say(token("two")), say(DONE)]);
    let draining = answer(503, r#"{"error":{"code":"draining"}}"#);
    house.universe.on("local", [running, draining]).on("desk", [completion("chat", "from the desk")]);
    let reply = house.begin().await;
    house.universe.arrived("local").await;
    assert_eq!(house.ask().await.text(), "from the desk");
    allowed.notify_one();
    assert_eq!(Told::read(reply).await.text(), "one two");
}

#[tokio::test(start_paused = true)]
async fn each_reply_names_who_answered_and_why_it_was_not_the_first_choice() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "here"), refused()]);
    house.universe.on("desk", [completion("chat", "there")]);
    let told = house.ask().await;
    let names = ["host", "model", "quant", "generation"]
        .map(|name| told.header(&format!("x-bramble-{name}")).to_owned());
    assert_eq!(names, ["kitchen", "chat", "Q4_0", "7"]);
    assert_eq!(told.header("x-bramble-fallback-reason"), "");
    let told = house.ask().await;
    assert_eq!((told.header("x-bramble-host"), told.header("x-bramble-quant")), ("desk", "Q8_0"));
    assert_eq!(told.header("x-bramble-fallback-reason"), "local: connection refused");
    // and metrics for each
    let metrics = Told::read(house.send(Method::GET, "/metrics", READER, "").await).await.body;
    for line in [
        r#"bramble_requests_total{model="chat",upstream="local",reason="-",status="200"} 1"#,
        r#"bramble_requests_total{model="chat",upstream="desk",reason="refused",status="200"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_listens_without_a_key() {
    let house = House::new();
    let paths = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/health",
        "/metrics",
        "/status",
    ];
    for path in paths.into_iter().chain(["/tokenize", "/detokenize", "/index.html", "/v1/anything"]) {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let told = Told::read(house.send(method, path, "a-wrong-key", &prompt(false)).await).await;
            assert_eq!(told.status, 401, "{path}");
        }
    }
    assert!(house.universe.dialled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_clients_authorization_and_cookie_headers_never_leave_the_first_router() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [answer(502, "")]);
    }
    house.ask().await;
    let requests = house.universe.requests();
    assert_eq!(requests.len(), 3);
    for (upstream, request) in requests {
        assert!(!request.contains(CLIENT) && !request.contains("canary"), "{upstream}: {request}");
    }
}
