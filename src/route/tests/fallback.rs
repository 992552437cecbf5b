//! Who answers when the first choice does not.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told, prompt};
use crate::generation::Capability;

const CONTEXT: &str = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;

const LLAMA_SERVERS: &str = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#;

fn raw(text: impl AsRef<[u8]>) -> Act {
    Act::Play(vec![say(text)])
}

/// What may go wrong with a whole answer, with the reason that the client is told.
fn mishaps() -> Vec<(Act, &'static str)> {
    let half_character =
        [b"HTTP/1.1 200 OK\r\n\r\n{\"a\":\"".as_slice(), &"🦀".as_bytes()[..2], b"\"}"].concat();
    vec![
        (Act::Fail(ErrorKind::ConnectionRefused), "connection refused"),
        (Act::Fail(ErrorKind::NotFound), "not there"),
        (Act::Fail(ErrorKind::HostUnreachable), "not there"),
        (Act::Ignore, "no connection in time"),
        (answer(429, "{}"), "busy or loading (429)"),
        (answer(503, "{}"), "busy or loading (503)"),
        (answer(500, "oops"), "failed (500)"),
        (answer(502, ""), "failed (502)"),
        (answer(401, "{}"), "does not accept our key (401)"),
        (answer(404, r#"{"error":{"code":"model_not_found"}}"#), "does not have the model"),
        (answer(400, CONTEXT), "prompt exceeds its context"),
        (answer(400, LLAMA_SERVERS), "prompt exceeds its context"),
        (raw("HTTP/1.1 302 Found\r\nlocation: http://gaming/\r\ncontent-length: 0\r\n\r\n"), "failed (302)"),
        (raw(""), "connection ended in the middle"),
        (raw("HTTP/1.1 200 OK\r\ncont"), "connection ended in the middle"),
        (raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "sent something that is no answer"),
        (raw("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"a\":1}"), "connection ended in the middle"),
        (raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"a\":1}"), "sent something that is no answer"),
        (raw("HTTP/1.1 200 OK\r\n\r\n{\"choices\":[{\"mess"), "sent something that is no answer"),
        (raw(half_character), "sent something that is no answer"),
        (
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n"),
            "connection ended in the middle",
        ),
        (Act::Play(vec![Beat::Hang]), "first token late"),
    ]
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_before_the_first_byte_is_mended_elsewhere_unseen() {
    for (act, reason) in mishaps() {
        let house = House::new();
        house.universe.on("local", [act]).on("desk", [completion("chat", "from the desk")]);
        let told = house.ask().await;
        assert_eq!((told.status, told.text().as_str()), (200, "from the desk"), "{reason}");
        assert_eq!(told.header("x-bramble-upstream"), "desk");
        assert_eq!(told.header("x-bramble-fallback-reason"), format!("local: {reason}"));
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_mended_unseen_until_something_of_the_answer_came() {
    let dies = "connection ended in the middle";
    let streams = [
        (stream([Beat::Hang]), "first token late"),
        (stream([say(": still here\n\n"), Beat::Hang]), "first token late"),
        (stream([say(ROLE), Beat::Hang]), "first token late"),
        (stream([]), dies),
        (stream([say(ROLE)]), dies),
        (stream([say(&token("x")[..20])]), dies),
        (stream([say("data: {\"error\":{\"message\":\"no\"}}\n\n")]), "sent an error"),
        (stream([say(format!("data: {CONTEXT}\n\n"))]), "prompt exceeds its context"),
        (stream([say("data: what?\n\n")]), "sent something that is no answer"),
        (completion("chat", "all at once"), "sent something that is no answer"),
    ];
    let whole = mishaps().into_iter().filter(|(_, reason)| {
        // what is wrong with a body is wrong as a stream for another reason
        !["sent something that is no answer", dies, "first token late"].contains(reason)
    });
    for (act, reason) in whole.chain(streams) {
        let house = House::new();
        house.universe.on("local", [act]).on("desk", [good_stream("from the desk")]);
        let told = house.ask_stream().await;
        assert_eq!((told.status, told.text().as_str()), (200, "from the desk"), "{reason}");
        assert_eq!(told.events().last(), Some(&"[DONE]"));
        assert_eq!(told.header("x-bramble-fallback-reason"), format!("local: {reason}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_token_may_take_as_long_as_the_plan_says_and_no_longer() {
    let started = Instant::now();
    let house = House::new();
    house.universe.on("local", [stream([say(ROLE), Beat::Wait(24), say(token("late")), say(DONE)])]);
    assert_eq!(house.ask_stream().await.text(), "late");
    assert_eq!(started.elapsed().as_secs(), 24);

    house.universe.on("local", [stream([Beat::Wait(26), say(token("too late")), say(DONE)])]);
    house.universe.on("desk", [good_stream("from the desk")]);
    let started = Instant::now();
    assert_eq!(house.ask_stream().await.text(), "from the desk");
    assert_eq!(started.elapsed().as_secs(), 25);

    // 3000 characters are 1000 tokens, 100 seconds at the planned pace
    let house = House::new();
    house.universe.on("local", [stream([Beat::Wait(120), say(token("slow but right")), say(DONE)])]);
    let long = format!(r#"{{"model":"chat","stream":true,"prompt":"{}"}}"#, "x".repeat(3000));
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &long).await).await;
    assert_eq!(told.text(), "slow but right");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_clients_own_making_come_back_as_they_are() {
    for status in [400, 404, 413, 422] {
        let house = House::new();
        let words = r#"{"error":{"message":"your fault","code":"bad"}}"#;
        house.universe.on("local", [answer(status, words)]);
        for told in [house.ask().await, house.ask_stream().await] {
            assert_eq!((told.status, told.body.as_str()), (status, words));
        }
        assert_eq!(house.universe.dialled(), ["local", "local"]);
    }
}

#[tokio::test(start_paused = true)]
async fn when_nobody_answers_each_is_named_with_its_reason() {
    let house = House::new();
    let refused = Act::Fail(ErrorKind::ConnectionRefused);
    let busy = raw("HTTP/1.1 503 X\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n");
    house.universe.on("local", [refused]).on("desk", [busy]).on("gaming", [answer(500, "")]);
    let told = house.ask().await;
    assert_eq!((told.status, told.header("retry-after")), (503, "9"));
    assert_eq!(
        told.json()["error"]["message"],
        "nobody could answer: local: connection refused; desk: busy or loading (503); gaming: failed (500); waited 67 s"
    );
}

#[tokio::test(start_paused = true)]
async fn when_all_were_late_the_gateway_timed_out() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [stream([Beat::Hang])]);
    }
    assert_eq!(house.ask_stream().await.status, 504);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_too_long_for_everybody_is_the_clients_own_error() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [answer(400, CONTEXT)]);
    }
    let told = house.ask().await;
    assert_eq!((told.status, told.body.as_str()), (400, CONTEXT));
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_the_second_request_goes_straight_to_the_fallback() {
    let house = House::new();
    let killed = Act::Fail(ErrorKind::ConnectionRefused);
    house.universe.on("local", [killed, completion("chat", "back again")]);
    house.universe.on("desk", [completion("chat", "from the desk")]);
    assert_eq!(house.ask().await.text(), "from the desk");
    assert_eq!(house.universe.dialled(), ["local", "desk"]);
    let told = house.ask().await;
    assert_eq!(house.universe.dialled(), ["desk"]);
    assert!(told.header("x-bramble-fallback-reason").starts_with("local: passed over after failures"));
    // the next request after the pause is the probe, and closes the breaker
    tokio::time::advance(Duration::from_millis(2500)).await;
    assert_eq!(house.ask().await.text(), "back again");
    assert_eq!(house.ask().await.header("x-bramble-fallback-reason"), "");
}

#[tokio::test(start_paused = true)]
async fn a_single_upstream_has_a_breaker_too() {
    let house = House::new();
    house.universe.on("desk", [Act::Ignore]);
    let ask = async || {
        let told = house.send(Method::POST, CHAT, CLIENT, r#"{"model":"writer","prompt":"x"}"#).await;
        Told::read(told).await
    };
    assert_eq!(ask().await.status, 504);
    let started = Instant::now();
    let told = ask().await;
    assert_eq!((told.status, started.elapsed()), (503, Duration::ZERO));
    assert!(told.header("retry-after").parse::<u64>().unwrap() <= 4);
    assert_eq!(house.universe.dialled(), ["desk"]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_client_leaves_does_not_lock_the_breaker() {
    let house = House::new();
    let refused = Act::Fail(ErrorKind::ConnectionRefused);
    house.universe.on("local", [refused, Act::Play(vec![Beat::Hang]), completion("chat", "back")]);
    house.universe.on("desk", [completion("chat", "from the desk")]);
    house.ask().await;
    tokio::time::advance(Duration::from_millis(2500)).await;
    tokio::select! {
        _ = house.ask() => panic!("nobody answers"),
        () = house.universe.arrived("local") => {}
    }
    assert_eq!(house.ask().await.text(), "back");
}

#[tokio::test(start_paused = true)]
async fn an_engine_with_a_long_queue_is_asked_last() {
    let mut definition = definition();
    definition.door.routes[0].overflow_queue = Some(2);
    let house = House::with(&definition);
    house.universe.on("local", [completion("chat", "local")]).on("desk", [completion("chat", "desk")]);
    house.universe.on("gaming", [Act::Fail(ErrorKind::NotFound)]);
    for (report, text, why) in [
        (r#"{"status":"ok","queued":2}"#, "local", ""),
        (r#"{"status":"ok","queued":3}"#, "desk", "local: 3 requests are waiting"),
        (r#"{"status":"ok"}"#, "local", ""),
        ("nonsense", "local", ""),
    ] {
        house.universe.health(report);
        let told = house.ask().await;
        assert_eq!((told.text().as_str(), told.header("x-bramble-fallback-reason")), (text, why), "{report}");
    }
    house.universe.health(r#"{"queued":3}"#);
    house.universe.on("desk", [Act::Fail(ErrorKind::NotFound)]);
    assert_eq!(house.ask().await.text(), "local");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_would_begin_too_late_is_asked_last() {
    let mut definition = definition();
    definition.door.routes[0].overflow_wait_seconds = Some(30);
    let house = House::with(&definition);
    house.universe.on("local", [completion("chat", "local")]).on("desk", [completion("chat", "desk")]);
    house.universe.on("gaming", [Act::Fail(ErrorKind::NotFound)]);
    // 300 tokens take 30 s at the planned 10 tok/s, 30 take 3 s
    let ask = async |tokens: usize| {
        let body = serde_json::json!({"model": "chat", "prompt": "x".repeat(3 * tokens)}).to_string();
        Told::read(house.send(Method::POST, CHAT, CLIENT, &body).await).await
    };
    for (report, tokens, text, why) in [
        (r#"{"queued":0,"wait_seconds":0}"#, 300, "local", ""),
        (r#"{"queued":1,"wait_seconds":27}"#, 30, "local", ""),
        (r#"{"queued":1,"wait_seconds":28}"#, 30, "desk", "local: would begin to answer in 31 s"),
        (r#"{"queued":1}"#, 30, "local", ""),
        ("nonsense", 30, "local", ""),
    ] {
        house.universe.health(report);
        let told = ask(tokens).await;
        assert_eq!((told.text().as_str(), told.header("x-bramble-fallback-reason")), (text, why), "{report}");
    }
    // late is better than no answer
    house.universe.health(r#"{"wait_seconds":500}"#).on("desk", [Act::Fail(ErrorKind::NotFound)]);
    assert_eq!(ask(30).await.text(), "local");
}

#[tokio::test(start_paused = true)]
async fn a_long_prompt_goes_to_the_desktop_and_back_where_that_is_away() {
    let mut definition = definition();
    definition.door.routes[0].overflow_prompt_tokens = Some(100);
    let house = House::with(&definition);
    house.universe.on("local", [completion("chat", "local")]).on("desk", [completion("chat", "desk")]);
    let long = format!(r#"{{"model":"chat","prompt":"{}"}}"#, "x".repeat(600));
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &long).await).await;
    let why = "local: a prompt of about 200 tokens is for a desktop";
    assert_eq!((told.text().as_str(), told.header("x-bramble-fallback-reason")), ("desk", why));
    assert_eq!(house.ask().await.text(), "local");
    house.universe.on("desk", [answer(503, "")]).on("gaming", [answer(503, "")]);
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &long).await).await;
    assert_eq!(told.text(), "local");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_do_is_the_clients_own_error_and_what_somebody_can_goes_there() {
    const UNABLE: &str = r#"{"error":{"message":"this model's chat template has no tools","type":"invalid_request_error","param":"tools","code":"unsupported_parameter"}}"#;
    let mut definition = definition();
    definition.door.routes[0].order[2].lacks = vec![Capability::Tools, Capability::Embeddings];
    let house = House::with(&definition);
    let tools = r#"{"model":"chat","messages":[],"tools":[{"type":"function"}]}"#;
    let ask =
        async |path: &str, body: &str| Told::read(house.send(Method::POST, path, CLIENT, body).await).await;
    // the engine says so of itself, and the desktop can
    house.universe.on("local", [answer(400, UNABLE)]).on("desk", [completion("chat", "desk")]);
    let told = ask(CHAT, tools).await;
    assert_eq!((told.status, told.text().as_str()), (200, "desk"));
    assert_eq!(told.header("x-bramble-fallback-reason"), "local: cannot do what is asked for");
    assert_eq!(house.universe.dialled(), ["local", "desk"]);
    // nobody can: the words of one that said so, at once, and no breaker minds
    house.universe.on("desk", [answer(400, UNABLE)]);
    for _ in 0..3 {
        let told = ask(CHAT, tools).await;
        assert_eq!((told.status, told.body.as_str()), (400, UNABLE));
        assert_eq!(house.universe.dialled(), ["local", "desk"]);
    }
    // one that is away could, for all that is known
    house.universe.on("desk", [Act::Fail(ErrorKind::ConnectionRefused)]);
    assert_eq!(ask(CHAT, tools).await.status, 503);

    // where nobody need be asked, nobody is
    let mut definition = super::doubles::definition();
    definition.door.routes[0].order.drain(..2);
    definition.door.routes[0].order[0].lacks = vec![Capability::Embeddings];
    let house = House::with(&definition);
    let body = r#"{"model":"chat","input":"x"}"#;
    let told = Told::read(house.send(Method::POST, "/v1/embeddings", CLIENT, body).await).await;
    let error = &told.json()["error"];
    assert_eq!((told.status, error["type"].as_str()), (400, Some("invalid_request_error")));
    assert_eq!(error["message"], "nobody here can answer this: gaming: cannot do embeddings");
    assert_eq!((error["code"].as_str(), house.universe.dialled().len()), (Some("unsupported_parameter"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_host_finishes_what_runs_and_sends_what_is_new_elsewhere() {
    let house = House::new();
    let allowed = Arc::new(Notify::new());
    let slow = stream([
        say(ROLE),
        say(token("first ")),
        Beat::Until(Arc::clone(&allowed)),
        say(token("and last")),
        say(DONE),
    ]);
    house.universe.on("local", [slow, completion("chat", "local")]).on("desk", [completion("chat", "desk")]);
    let running = house.begin().await;
    let mark = house.root.path().join("cordon.json");
    std::fs::write(&mark, "{}").unwrap();
    house.door.reload().unwrap();
    let told = house.ask().await;
    let why = told.header("x-bramble-fallback-reason");
    assert_eq!((told.text().as_str(), why), ("desk", "local: is cordoned and takes no new work"));
    allowed.notify_one();
    let told = Told::read(running).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("first and last", Some(&"[DONE]")));
    // other doors are told to go elsewhere, and clients whom nobody else can answer, to come back
    let told = Told::read(house.send(Method::POST, CHAT, PEER, &prompt(false)).await).await;
    assert_eq!((told.status, told.header("retry-after")), (503, "5"));
    let health = Told::read(house.send(Method::GET, "/health", READER, "").await).await;
    assert_eq!(health.json()["cordoned"], true);
    std::fs::remove_file(&mark).unwrap();
    house.door.reload().unwrap();
    assert_eq!(house.ask().await.text(), "local");
}

#[tokio::test(start_paused = true)]
async fn replies_say_who_answered() {
    let house = House::new();
    let by = |told: &Told| {
        ["host", "model", "quant", "generation", "upstream"]
            .map(|name| told.header(&format!("x-bramble-{name}")).to_owned())
    };
    house.universe.on("local", [completion("chat", "x"), answer(503, "")]);
    assert_eq!(by(&house.ask().await), ["kitchen", "chat", "Q4_0", "7", "local"]);
    let signed = "HTTP/1.1 200 OK\r\nx-bramble-host: desk\r\nx-bramble-model: chat\r\nx-bramble-quant: Q6_K\r\n\
                  x-bramble-generation: 12\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\n{}";
    house.universe.on("desk", [raw(signed), answer(503, "")]);
    let told = house.ask().await;
    assert_eq!(by(&told), ["desk", "chat", "Q6_K", "12", "desk"]);
    assert_eq!(told.header("set-cookie"), "");
    // one that is not ours is not believed
    house.universe.on("gaming", [raw(signed)]);
    assert_eq!(by(&house.ask().await), ["gaming", "mistral", "", "", "gaming"]);
}

#[tokio::test(start_paused = true)]
async fn the_model_has_the_name_that_the_client_used() {
    let house = House::new();
    house.universe.on("local", [answer(503, "")]).on("desk", [answer(503, "")]);
    let renamed = token("x").replace(r#""chat""#, r#""mistral""#);
    house.universe.on("gaming", [completion("mistral", "x"), stream([say(&renamed), say(DONE)])]);
    assert_eq!(house.ask().await.json()["model"], "chat");
    let told = house.ask_stream().await;
    assert_eq!(told.body, token("x") + DONE);
    for (_, request) in house.universe.requests().iter().filter(|(name, _)| name == "gaming") {
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
        assert!(request.contains(r#""model":"mistral""#));
    }
    assert_eq!(prompt(true).matches("chat").count(), 1);
}
