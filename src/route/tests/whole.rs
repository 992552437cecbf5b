//! Clients that want the answer whole: upstreams are asked for a stream all the same, so
//! that one that hangs is known by its silence.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told};
use crate::engine;
use crate::route::upstream::{Address, Dial, Wire};

const USAGE: &str = "data: {\"model\":\"chat\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";

fn end(reason: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"model": "chat", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    )
}

/// The bodies that arrived at an upstream.
fn bodies(house: &House, upstream: &str) -> Vec<Value> {
    let requests = house.universe.requests().into_iter().filter(|(name, _)| name == upstream);
    requests
        .map(|(_, request)| serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_gathered_into_one_answer_with_its_end_and_its_usage() {
    let house = House::new();
    let beats = [ROLE, &token("Pa"), &token("ris"), &end("length"), USAGE, DONE].map(say);
    house.universe.on("local", [stream(beats)]);
    let told = house.ask().await;
    assert_eq!((told.status, told.header("content-type")), (200, "application/json"));
    assert_eq!((told.header("x-bramble-upstream"), told.header("x-bramble-fallback-reason")), ("local", ""));
    assert_eq!(
        told.json(),
        json!({
            "object": "chat.completion", "model": "chat",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        })
    );
    let body = json!({"model": "chat", "prompt": "", "max_tokens": 10, "stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(bodies(&house, "local"), [body]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_before_its_first_token_is_left_at_the_deadline_for_it() {
    for beats in [vec![Beat::Hang], vec![say(EVENTS), Beat::Hang], vec![say(EVENTS), say(ROLE), Beat::Hang]] {
        let house = House::new();
        house.universe.on("local", [Act::Play(beats)]).on("desk", [good_stream("from the desk")]);
        let started = Instant::now();
        let told = house.ask().await;
        assert_eq!(started.elapsed(), Duration::from_secs(25));
        assert_eq!((told.text().as_str(), told.header("x-bramble-upstream")), ("from the desk", "desk"));
        assert_eq!(told.header("x-bramble-fallback-reason"), "local: first token late");
        house.universe.left("local").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_in_the_middle_is_begun_again_elsewhere_unseen() {
    let error = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    let cases = [
        (vec![Beat::Hang], "stalled between tokens", 25),
        (vec![say(": still here\n\n"), Beat::Hang], "stalled between tokens", 25),
        (vec![Beat::Wait(24), say(token("b")), Beat::Hang], "answer late", 35),
        (vec![], "connection ended in the middle", 0),
        (vec![say(end("stop"))], "connection ended in the middle", 0),
        (vec![say("data: {\"cho")], "connection ended in the middle", 0),
        (vec![say(error)], "sent an error", 0),
        (vec![say("data: {\"choices\":[1]}\n\n")], "sent something that is no answer", 0),
        (vec![say("data: "), say(vec![b'x'; 2 << 20])], "sent more than is taken", 0),
    ];
    for (rest, reason, seconds) in cases {
        let house = House::new();
        let beats = [say(ROLE), say(token("half of "))].into_iter().chain(rest);
        house.universe.on("local", [stream(beats)]).on("desk", [good_stream("from the desk")]);
        let started = Instant::now();
        let told = house.ask().await;
        assert_eq!(started.elapsed().as_secs(), seconds, "{reason}");
        assert_eq!((told.status, told.text().as_str()), (200, "from the desk"), "{reason}");
        assert_eq!(told.header("x-bramble-fallback-reason"), format!("local: {reason}"));
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_break_in_the_middle_nothing_of_their_halves_is_told() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [stream([say(token("half of ")), Beat::Hang])]);
    }
    let told = house.ask().await;
    assert_eq!((told.status, told.body.contains("half of")), (504, false));
    let text = house.door.shared.metrics.render(&house.door.state());
    assert!(text.contains(r#"upstream="-",reason="stalled",status="504"} 1"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_at_once_though_asked_for_a_stream_is_passed_through() {
    let house = House::new();
    let text = r#"{"choices":[{"message":{"content":"all at once"}}],"theirs":1.0e0}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    // its body has the time of a whole answer
    house.universe.on("local", [Act::Play(vec![say(head), Beat::Wait(30), say(text)])]);
    assert_eq!(house.ask().await.body, text);
    house.universe.on("local", [Act::Play(vec![say(head), Beat::Hang])]).on("desk", [good_stream("desk")]);
    let told = house.ask().await;
    assert_eq!(
        (told.text().as_str(), told.header("x-bramble-fallback-reason")),
        ("desk", "local: answer late")
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_server_that_refuses_streams_is_asked_as_the_client_asked() {
    for status in [400, 422, 500, 501] {
        let house = House::new();
        house.universe.on("local", [answer(503, "")]).on("desk", [answer(503, "")]);
        house.universe.on("gaming", [answer(status, "no streams"), completion("mistral", "plain")]);
        let told = house.ask().await;
        assert_eq!(
            (told.text().as_str(), told.json()["model"].as_str()),
            ("plain", Some("chat")),
            "{status}"
        );
        let bodies = bodies(&house, "gaming");
        let streams: Vec<&Value> = bodies.iter().map(|body| &body["stream"]).collect();
        assert_eq!(streams, [&json!(true), &json!(false)]);
        assert_eq!((&bodies[1]["stream_options"], &bodies[1]["model"]), (&Value::Null, &json!("mistral")));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_foreign_server_says_to_the_clients_own_request_is_what_the_client_hears() {
    let house = House::new();
    house.universe.on("local", [answer(503, "")]).on("desk", [answer(503, "")]);
    let words = r#"{"error":{"message":"your fault"}}"#;
    house
        .universe
        .on("gaming", [answer(400, r#"{"error":{"message":"streams and all"}}"#), answer(400, words)]);
    let told = house.ask().await;
    assert_eq!((told.status, told.body.as_str()), (400, words));
    // a stream that the client wants is not refused on our account
    house.universe.on("gaming", [answer(400, words), good_stream("never asked")]);
    assert_eq!(house.ask_stream().await.body, words);
}

#[tokio::test(start_paused = true)]
async fn embeddings_are_asked_for_as_they_came() {
    let house = House::new();
    let body = r#"{"model":"chat","input":["x"],"stream":true}"#;
    house.universe.on("local", [answer(200, r#"{"data":[]}"#)]);
    let told = Told::read(house.send(Method::POST, "/v1/embeddings", CLIENT, body).await).await;
    assert_eq!(told.body, r#"{"data":[]}"#);
    assert!(house.universe.requests()[0].1.ends_with(&format!("\r\n\r\n{body}")));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_has_begun_to_answer_is_asked_by_others_meanwhile() {
    let house = House::new();
    let go_on = Arc::new(tokio::sync::Notify::new());
    let slow = stream([say(token("slow")), Beat::Until(Arc::clone(&go_on)), say(DONE)]);
    let refused = Act::Fail(io::ErrorKind::ConnectionRefused);
    house.universe.on("local", [refused, slow, good_stream("quick")]).on("desk", [good_stream("desk")]);
    house.ask().await;
    tokio::time::advance(Duration::from_millis(2500)).await;
    // the probe closes the breaker with its first token
    let (slow, ()) = tokio::join!(house.ask(), async {
        house.universe.arrived("local").await;
        while house.door.state().routes["chat"].seats[0]
            .breaker(|breaker| breaker.wait(Duration::ZERO))
            .is_some()
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(house.ask().await.text(), "quick");
        go_on.notify_one();
    });
    assert_eq!(slow.text(), "slow");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_answer_is_gathered_cancels_the_work() {
    let house = House::new();
    let here = Arc::new(tokio::sync::Notify::new());
    house.universe.on("local", [stream([say(token("x")), Beat::Until(Arc::clone(&here)), Beat::Hang])]);
    tokio::select! {
        _ = house.ask() => panic!("nobody answers"),
        () = house.universe.arrived("local") => here.notify_one(),
    }
    house.universe.left("local").await;
    assert!(house.door.shared.metrics.render(&house.door.state()).contains("status=\"499\"} 1"));
}

/// Leads to one engine, whoever is dialled.
struct ToEngine(std::path::PathBuf);

#[async_trait]
impl Dial for ToEngine {
    async fn dial(&self, _: &Address) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

#[tokio::test]
async fn through_the_router_an_engines_answer_is_the_same_as_from_the_engine() {
    let engine = engine::tests::start(1, Some(engine::tests::CHAT), None).await;
    let mut definition = definition();
    definition.engines[0].model = "parrot".parse().unwrap();
    definition.door.routes.truncate(1);
    definition.door.routes[0].model = "parrot".parse().unwrap();
    definition.door.routes[0].order.truncate(1);
    definition.door.routes[0].order[0].model = "parrot".to_owned();
    let house = House::dialling(&definition, Box::new(ToEngine(engine.socket())), Universe::default());
    let chat = |text: &str| json!({"model": "parrot", "messages": [{"role": "user", "content": text}]});
    let mut limited = chat("what? 🦀");
    limited["max_tokens"] = json!(7);
    let cases = [
        (CHAT, chat("hi 🦀")),
        (CHAT, limited),
        ("/v1/completions", json!({"model": "parrot", "prompt": "naïve", "stop": ["v"]})),
        ("/v1/completions", json!({"model": "parrot", "prompt": "x", "stop": "x"})),
        (CHAT, json!({"model": "parrot", "messages": []})),
        ("/v1/completions", json!({"model": "parrot", "prompt": "!"})),
    ];
    for (path, body) in cases {
        let (status, mut straight) = engine.post(path, &body).await;
        let told = Told::read(house.send(Method::POST, path, CLIENT, &body.to_string()).await).await;
        if status == 500 {
            // an engine that fails has not answered
            assert_eq!(told.status, 503, "{body}");
            continue;
        }
        assert_eq!(told.status, status.as_u16(), "{body}");
        let mut routed = told.json();
        for answer in [&mut straight, &mut routed].into_iter().filter_map(Value::as_object_mut) {
            if status == 200 {
                let id = answer.shift_remove("id").unwrap();
                answer.insert("id".to_owned(), id.as_str().unwrap().split('-').next().unwrap().into());
                assert!(answer.shift_remove("created").unwrap().is_u64());
                assert!(answer.shift_remove("timings").unwrap().is_object());
            }
        }
        assert_eq!(routed, straight, "{body}");
    }
    drop(house);
    engine.end().await.unwrap();
}
