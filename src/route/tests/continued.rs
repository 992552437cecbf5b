//! An answer that breaks off after its first byte is gone on with elsewhere, from what the client has.

use std::io::ErrorKind;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::doubles::*;
use super::{CHAT, House, Told};
use crate::generation::Definition;

/// A head that says that the answer begins behind what the client has.
const GOES_ON: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-bramble-goes-on: 1\r\n\r\n";

/// The rest of an answer by one of our own.
fn rest(beats: impl IntoIterator<Item = Beat>) -> Act {
    Act::Play([say(GOES_ON)].into_iter().chain(beats).collect())
}

fn event(id: &str, delta: &Value, finish: &Value, progress: Option<(&str, u32)>) -> String {
    let mut event = json!({"id": id, "object": "chat.completion.chunk", "created": 7, "model": "chat",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    if let Some((text, tokens)) = progress {
        event["bramble_progress"] = json!({"text": text, "tokens": tokens, "prompt_tokens": 5});
    }
    format!("data: {event}\n\n")
}

/// An event of one of our own engines: the model wrote `text` and that is said.
fn own(id: &str, text: &str, tokens: u32) -> String {
    event(id, &json!({"content": text}), &Value::Null, Some((text, tokens)))
}

fn finish(id: &str, tokens: u32) -> String {
    event(id, &json!({}), &json!("stop"), Some(("", tokens)))
}

fn usage(id: &str, prompt: u32, answer: u32) -> String {
    let usage =
        json!({"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer});
    format!("data: {}\n\n", json!({"id": id, "model": "chat", "choices": [], "usage": usage}))
}

fn role(id: &str) -> String {
    event(id, &json!({"role": "assistant", "content": ""}), &Value::Null, None)
}

/// The route of `chat` with that `continue_on`.
fn allowing(names: &[&str]) -> Definition {
    let mut definition = definition();
    definition.door.routes[0].continue_on = Some(names.iter().map(|&name| name.to_owned()).collect());
    definition
}

async fn ask(house: &House, more: &Value) -> Told {
    let mut body = json!({"model": "chat", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Told::read(house.send(Method::POST, CHAT, CLIENT, &body.to_string()).await).await
}

/// The bodies of requests that arrived at `upstream`.
fn asked(house: &House, upstream: &str) -> Vec<Value> {
    let requests = house.universe.requests();
    let of_it = requests.iter().filter(|(name, _)| name == upstream);
    of_it.map(|(_, text)| serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()).collect()
}

fn last(told: &Told) -> Value {
    serde_json::from_str(told.events().last().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn after_the_first_byte_the_answer_is_continued_from_the_text_already_sent() {
    let crab = own("a", "🦀", 3);
    let half = &crab.as_bytes()[..crab.find('🦀').unwrap() + 2];
    let broken_character = [half, b"\"}}]}\n\n"].concat();
    let died = "connection ended in the middle";
    let cases = [
        (vec![], died),
        (vec![say("data: {\"cho")], died),
        (vec![say(half)], died),
        (vec![say(broken_character)], "sent something that is no answer"),
        (vec![say("data: {}{}\n\n"), say(DONE)], "sent something that is no answer"),
        (vec![Beat::Hang], "stalled between tokens"),
        (
            vec![say(": still here\n\n"), Beat::Wait(20), say(": and here\n\n"), Beat::Hang],
            "stalled between tokens",
        ),
        (vec![say("data: {\"error\":{\"message\":\"out of memory\"}}\n\n")], "sent an error"),
        (vec![say("data: "), say(vec![b'x'; 2 << 20])], "sent more than is taken"),
    ];
    for (breaks, reason) in cases {
        let house = House::new();
        let begins = [say(role("a")), say(own("a", "naïve ", 1)), say(own("a", "🦀", 2))];
        house.universe.on("local", [stream(begins.into_iter().chain(breaks))]);
        house.universe.on(
            "desk",
            [rest([say(own("b", " goes", 3)), say(own("b", " on", 4)), say(finish("b", 4)), say(DONE)])],
        );
        let told = ask(&house, &json!({})).await;
        assert_eq!((told.status, told.text().as_str()), (200, "naïve 🦀 goes on"), "{reason}");
        assert!(told.body.contains(&format!(": continued on desk (local: {reason})\n\n")), "{}", told.body);
        // one answer: one identity, one role, one end; and nothing of ours
        let events: Vec<Value> =
            told.events().iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
        assert!(events.iter().all(|event| event["id"] == "a" && event["created"] == 7), "{events:?}");
        for (part, times) in [("\"assistant\"", 1), ("\"stop\"", 1), ("[DONE]", 1), ("bramble_", 0)] {
            assert_eq!(told.body.matches(part).count(), times, "{part} in {}", told.body);
        }
        assert_eq!(asked(&house, "desk")[0]["bramble_begun"], json!({"text": "naïve 🦀", "tokens": 2}));
        assert_eq!(asked(&house, "local")[0].get("bramble_begun"), None);
        let requests = house.universe.requests();
        assert!(requests.iter().all(|(_, request)| request.contains("x-bramble-with-progress: 1\r\n")));
        let metrics = house.door.shared.metrics.render(&house.door.state());
        let line = r#"bramble_continuations_total{model="chat",from="local",to="desk",reason=""#;
        assert!(metrics.contains(line), "{metrics}");
        assert!(
            metrics.contains("status=\"200\"} 1") && metrics.contains("bramble_in_flight 0"),
            "{metrics}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_again_goes_on_again_from_all_that_was_sent() {
    let house = House::with(&allowing(&["desk", "gaming"]));
    house.universe.on("local", [stream([say(role("a")), say(own("a", "one ", 1))])]);
    house.universe.on("desk", [rest([say(own("b", "two ", 2))])]);
    let theirs = |text: &str| event("c", &json!({"content": text}), &Value::Null, None);
    let end = event("c", &json!({}), &json!("stop"), None);
    house.universe.on("gaming", [stream([say(role("c")), say(theirs("three")), say(end), say(DONE)])]);
    let told = ask(&house, &json!({"max_tokens": 10})).await;
    assert_eq!(told.text(), "one two three");
    assert_eq!(told.events().last(), Some(&"[DONE]"));
    assert_eq!(told.body.matches("\"assistant\"").count(), 1);
    let asked = asked(&house, "gaming").remove(0);
    assert_eq!(asked["messages"][1], json!({"role": "assistant", "content": "one two "}));
    assert_eq!((&asked["model"], &asked["max_tokens"]), (&json!("mistral"), &json!(8)));
    assert_eq!(
        (&asked["continue_final_message"], &asked["add_generation_prompt"]),
        (&json!(true), &json!(false))
    );
    assert!(told.body.contains(": continued on gaming (desk: connection ended in the middle)\n\n"));
}

#[tokio::test(start_paused = true)]
async fn when_the_route_does_not_allow_it_the_stream_ends_with_an_error_event() {
    let plain = json!({});
    for (names, request, dialled) in [
        (Some(&[][..]), &plain, &["local"][..]),
        (Some(&["local"]), &plain, &["local"]),
        (Some(&["gaming"]), &plain, &["local", "gaming"]),
        (None, &plain, &["local", "desk"]),
        (None, &json!({"n": 2}), &["local"]),
        (Some(&["gaming"]), &json!({"response_format": {"type": "json_object"}}), &["local"]),
        (Some(&["gaming"]), &json!({"response_format": {"type": "text"}}), &["local", "gaming"]),
        (Some(&["gaming"]), &json!({"logprobs": true}), &["local"]),
        (Some(&["gaming"]), &json!({"messages": [{"role": "assistant", "content": [1]}]}), &["local"]),
    ] {
        let house = House::with(&names.map_or_else(definition, allowing));
        house.universe.on("local", [stream([say(role("a")), say(own("a", "one ", 1))])]);
        for upstream in ["desk", "gaming"] {
            house.universe.on(upstream, [Act::Fail(ErrorKind::ConnectionRefused)]);
        }
        let told = ask(&house, request).await;
        assert_eq!((told.status, told.text().as_str()), (200, "one "), "{names:?} {request}");
        let message = last(&told)["error"]["message"].as_str().unwrap().to_owned();
        assert!(
            message.starts_with("the answer broke off: local: connection ended in the middle"),
            "{message}"
        );
        assert!(!told.body.contains("[DONE]"));
        assert_eq!(house.universe.dialled(), dialled, "{names:?} {request}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_nobody_can_go_on_each_is_named_with_its_reason_and_nothing_looks_whole() {
    let house = House::with(&allowing(&["desk", "gaming"]));
    house.universe.on("local", [stream([say(own("a", "one ", 1))])]);
    // one that knows nothing of it would say the answer again from its beginning
    house.universe.on("desk", [good_stream("one two")]);
    house.universe.on("gaming", [answer(422, r#"{"error":{"message":"no such field"}}"#)]);
    let told = ask(&house, &json!({})).await;
    assert_eq!((told.status, told.text().as_str()), (200, "one "));
    assert_eq!(
        last(&told)["error"]["message"],
        "the answer broke off: local: connection ended in the middle; desk: does not go on with answers; \
         gaming: does not go on with answers"
    );
    assert!(!told.body.contains("[DONE]") && !told.body.contains(": continued"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_the_answer_again_does_not_go_on_and_the_next_one_is_asked() {
    const SAID: &str = "The king had a horse. ";
    let mut definition = allowing(&["gaming", "desk"]);
    definition.door.routes[0].order.swap(1, 2);
    let theirs = |text: &str| say(event("c", &json!({"content": text}), &Value::Null, None));
    // again, with other cuts and blanks; again, as far as it gets; and not again, though it begins alike
    let again = [theirs(" The king"), theirs(" had a horse. It"), theirs(" was"), say(DONE)];
    let alike = [theirs("The king had"), theirs(" a dog."), say(finish("c", 9)), say(DONE)];
    for (gaming, told_text, dialled) in [
        (again.to_vec(), format!("{SAID}It was."), ["local", "gaming", "desk"].as_slice()),
        (again[..1].to_vec(), format!("{SAID}It was."), &["local", "gaming", "desk"]),
        (alike.to_vec(), format!("{SAID}The king had a dog."), &["local", "gaming"]),
    ] {
        let house = House::with(&definition);
        house.universe.on("local", [stream([say(role("a")), say(own("a", SAID, 6))])]);
        house.universe.on("gaming", [stream(gaming)]);
        house.universe.on("desk", [rest([say(own("b", "It was.", 9)), say(finish("b", 9)), say(DONE)])]);
        let told = ask(&house, &json!({})).await;
        assert_eq!(told.text(), told_text, "{}", told.body);
        assert_eq!(house.universe.dialled(), dialled);
    }

    // one that says nothing, at length, and does not end
    let filled = event("c", &json!({"content": "", "x": "y".repeat(600_000)}), &Value::Null, None);
    let house = House::with(&definition);
    house.universe.on("local", [stream([say(own("a", SAID, 6))])]);
    house
        .universe
        .on("gaming", [stream([say(filled.clone()), say(filled.clone()), say(filled), Beat::Hang])]);
    house.universe.on("desk", [rest([say(own("b", "It was.", 9)), say(finish("b", 9)), say(DONE)])]);
    let begun = Instant::now();
    let told = ask(&house, &json!({})).await;
    assert_eq!((told.text(), begun.elapsed()), (format!("{SAID}It was."), Duration::ZERO));

    let house = House::with(&allowing(&["gaming"]));
    house.universe.on("local", [stream([say(own("a", SAID, 6))])]);
    house.universe.on("gaming", [stream(again)]);
    let told = ask(&house, &json!({})).await;
    assert_eq!(told.body.matches("king").count(), 1, "{}", told.body);
    let message = last(&told)["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("gaming: does not go on with answers"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_ours_breaks_off_and_one_of_ours_goes_on() {
    let mut definition = definition();
    definition.door.routes[0].order.reverse();
    let theirs = |delta: &Value| event("a", delta, &Value::Null, None);
    let ends = || rest([say(own("b", "two", 2)), say(finish("b", 3)), say(usage("b", 5, 3)), say(DONE)]);
    let house = House::with(&definition);
    house.universe.on("gaming", [stream([say(role("a")), say(theirs(&json!({"content": "one "})))])]);
    house.universe.on("desk", [ends()]);
    let told = ask(&house, &json!({})).await;
    assert_eq!(told.text(), "one two");
    assert_eq!(asked(&house, "desk")[0]["bramble_begun"], json!({"text": "one ", "tokens": 1}));
    let theirs_request = &house.universe.requests()[0].1;
    assert!(!theirs_request.contains("bramble-with-progress"), "ours speak of it among themselves");

    // what its model wrote to think, or to call, only it knows
    for delta in [
        json!({"reasoning_content": "Hm."}),
        json!({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": "{\"a"}}]}),
    ] {
        let house = House::with(&definition);
        house.universe.on("gaming", [stream([say(theirs(&delta))])]);
        let told = ask(&house, &json!({})).await;
        assert!(last(&told)["error"]["message"].as_str().unwrap().contains("broke off"), "{}", told.body);
        assert_eq!(house.universe.dialled(), ["gaming"]);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_thoughts_and_json_go_on_at_our_own_engines_and_nowhere_else() {
    let thought = event("a", &json!({"reasoning_content": "Hm."}), &Value::Null, Some(("<think>\nHm.", 4)));
    let call = json!({"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let calls = event("a", &call, &Value::Null, Some(("</think>[TOOL_CALLS]f{}[TOOL_CALLS]g{\"a", 9)));
    let mut definition = allowing(&["gaming", "desk"]);
    definition.door.routes[0].order.swap(1, 2);
    let house = House::with(&definition);
    house.universe.on("local", [stream([say(role("a")), say(&thought), say(&calls)])]);
    let second = json!({"tool_calls": [{"index": 1, "id": "y", "type": "function", "function": {"name": "g", "arguments": "{\"a\":1}"}}]});
    let second = event("b", &second, &json!("tool_calls"), Some(("\": 1}", 11)));
    house.universe.on("desk", [rest([say(second), say(DONE)])]);
    let told = ask(&house, &json!({"tools": []})).await;
    let written = "<think>\nHm.</think>[TOOL_CALLS]f{}[TOOL_CALLS]g{\"a";
    assert_eq!(asked(&house, "desk")[0]["bramble_begun"], json!({"text": written, "tokens": 9}));
    assert_eq!(house.universe.dialled(), ["local", "desk"], "the foreign one is not asked");
    assert!(told.body.contains("\"index\":1") && told.body.ends_with(DONE), "{}", told.body);

    let house = House::new();
    house.universe.on("local", [stream([say(own("a", "{\"a\"", 3))])]);
    house.universe.on("desk", [rest([say(own("b", ": 1}", 6)), say(finish("b", 7)), say(DONE)])]);
    let told = ask(&house, &json!({"response_format": {"type": "json_object"}})).await;
    assert_eq!(told.text(), "{\"a\": 1}");
}

#[tokio::test(start_paused = true)]
async fn the_usage_is_told_once_and_is_that_of_the_whole_answer() {
    let asks = json!({"stream_options": {"include_usage": true}, "max_completion_tokens": 9});
    // an engine of ours counts what was begun elsewhere itself
    let house = House::with(&allowing(&["desk", "gaming"]));
    house.universe.on("local", [stream([say(own("a", "one ", 3))])]);
    house.universe.on(
        "desk",
        [
            rest([say(own("b", "two", 4)), say(finish("b", 5)), say(usage("b", 5, 5)), say(DONE)]),
            answer(503, ""),
        ],
    );
    let told = ask(&house, &asks).await;
    assert_eq!(told.body.matches("\"usage\"").count(), 1);
    assert!(
        told.body.contains(r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}"#),
        "{}",
        told.body
    );

    // another counts that as a part of its prompt
    let house = House::with(&allowing(&["gaming"]));
    house.universe.on("local", [stream([say(own("a", "one ", 3))])]);
    let theirs = event("c", &json!({"content": "two"}), &json!("stop"), None);
    house.universe.on("gaming", [stream([say(theirs), say(usage("c", 9, 2)), say(DONE)])]);
    let told = ask(&house, &asks).await;
    assert_eq!(asked(&house, "gaming")[0]["max_completion_tokens"], 6);
    assert_eq!(told.body.matches("\"usage\"").count(), 1);
    assert!(
        told.body.contains(r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}"#),
        "{}",
        told.body
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_its_limit_ends_there_and_nobody_is_asked() {
    let house = House::new();
    house.universe.on("local", [stream([say(role("a")), say(own("a", "one ", 1)), say(own("a", "two", 2))])]);
    let told = ask(&house, &json!({"max_tokens": 2, "stream_options": {"include_usage": true}})).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("one two", Some(&"[DONE]")));
    assert!(told.body.contains(r#""delta":{},"finish_reason":"length""#), "{}", told.body);
    assert!(
        told.body.contains(r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}"#),
        "{}",
        told.body
    );
    assert_eq!(house.universe.dialled(), ["local"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_ended_wants_nothing_but_its_mark() {
    let house = House::with(&allowing(&[]));
    house.universe.on("local", [stream([say(own("a", "one", 1)), say(finish("a", 2))])]);
    let told = ask(&house, &json!({})).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("one", Some(&"[DONE]")));
    assert_eq!(house.universe.dialled(), ["local"]);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_but_the_role_was_sent_the_answer_is_begun_anew() {
    let house = House::new();
    // so many empty events that the first of them are passed on
    let empty = || (0..9).map(|_| say(role("a")));
    house.universe.on("local", [stream(empty())]);
    house.universe.on("desk", [good_stream("all of it")]);
    let told = ask(&house, &json!({})).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("all of it", Some(&"[DONE]")));
    assert_eq!(asked(&house, "desk")[0].get("bramble_begun"), None);
    assert!(told.body.split(": continued").nth(1).is_some_and(|rest| !rest.contains("assistant")));
}

#[tokio::test(start_paused = true)]
async fn each_upstream_has_the_time_that_its_pace_and_the_rest_of_the_answer_take() {
    // 25 s for the first token and 0.6 s for the question, and 10 tokens at 2 tok/s, twice: 35.6 s
    let house = House::new();
    house.universe.on("local", [stream([say(own("a", "one ", 1)), Beat::Wait(20)])]);
    house.universe.on("desk", [rest([Beat::Wait(10), say(own("b", "two ", 2)), Beat::Wait(20), say(DONE)])]);
    let started = Instant::now();
    let told = ask(&house, &json!({"max_tokens": 10})).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("one two ", Some(&"[DONE]")));
    assert_eq!(started.elapsed(), Duration::from_secs(50));

    // whoever is slower than that is left in the middle, too
    let house = House::new();
    let slow = [say(own("a", "one ", 1)), Beat::Wait(24), say(own("a", "two ", 2)), Beat::Wait(24)];
    house.universe.on("local", [stream(slow)]);
    house.universe.on("desk", [rest([say(own("b", "three", 3)), say(DONE)])]);
    let started = Instant::now();
    let told = ask(&house, &json!({"max_tokens": 10})).await;
    assert_eq!((told.text().as_str(), told.events().last()), ("one two three", Some(&"[DONE]")));
    assert!(told.body.contains(": continued on desk (local: answer late)"), "{}", told.body);
    assert_eq!(started.elapsed(), Duration::from_millis(35_600));

    // and whoever says nothing is not waited for longer than for a first token
    let house = House::new();
    house.universe.on("local", [stream([say(own("a", "one ", 1)), Beat::Wait(20)])]);
    house.universe.on("desk", [rest([Beat::Hang])]);
    let started = Instant::now();
    let told = ask(&house, &json!({"max_tokens": 10})).await;
    assert_eq!(told.text(), "one ");
    let message = "the answer broke off: local: connection ended in the middle; desk: first token late";
    assert_eq!(last(&told)["error"]["message"], message);
    assert_eq!(started.elapsed(), Duration::from_millis(45_700));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_somebody_is_sought_cancels_the_work_there() {
    let house = House::new();
    house.universe.on("local", [stream([say(own("a", "one ", 1))])]);
    house.universe.on("desk", [Act::Play(vec![Beat::Hang])]);
    let mut body = house.begin().await.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    tokio::select! {
        _ = body.frame() => panic!("nobody goes on"),
        () = house.universe.arrived("desk") => {}
    }
    drop(body);
    house.universe.left("desk").await;
}

#[tokio::test(start_paused = true)]
async fn another_hosts_router_passes_on_what_its_engine_says_and_asks_nobody_else() {
    let house = House::new();
    let beats = || [say(own("b", "two", 2)), say(finish("b", 3)), say(DONE)];
    house.universe.on("local", [rest(beats()), rest([say(own("b", "two", 2))])]);
    let body = json!({"model": "chat", "stream": true, "messages": [],
        "bramble_begun": {"text": "one ", "tokens": 1}});
    let hop = async || {
        let request = hyper::Request::post(CHAT)
            .header("authorization", format!("Bearer {PEER}"))
            .header("x-bramble-with-progress", "1")
            .body(http_body_util::Full::new(bytes::Bytes::from(body.to_string())))
            .unwrap();
        Told::read(house.door.handle(request).await).await
    };
    let told = hop().await;
    assert_eq!(told.header("x-bramble-goes-on"), "1");
    assert_eq!(told.body, own("b", "two", 2) + &finish("b", 3) + DONE);
    assert_eq!(asked(&house, "local")[0]["bramble_begun"], json!({"text": "one ", "tokens": 1}));
    // and what breaks off here, the router that asked goes on with
    let told = hop().await;
    assert!(last(&told)["error"]["message"].as_str().unwrap().contains("broke off"), "{}", told.body);
    assert_eq!(house.universe.dialled(), ["local", "local"]);
    let requests = house.universe.requests();
    assert!(requests.iter().all(|(_, request)| request.contains("x-bramble-with-progress: 1\r\n")));

    let told = ask(&house, &json!({"bramble_begun": {"text": "one ", "tokens": 1}})).await;
    assert_eq!(told.status, 400, "clients have no say in it: {}", told.body);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_unknown_length_gives_back_the_memory_that_it_did_not_need() {
    let house = House::new();
    house.universe.on("local", [stream([say(own("a", "one ", 1)), Beat::Hang])]);
    let mut running = Vec::new();
    // eight of them would fill it, if each kept what the longest could need
    for _ in 0..20 {
        let body = json!({"model": "chat", "stream": true, "prompt": "hi"}).to_string();
        let body = http_body_util::StreamBody::new(futures_util::stream::iter([Ok::<_, std::io::Error>(
            hyper::body::Frame::data(bytes::Bytes::from(body)),
        )]));
        let request = hyper::Request::post(CHAT)
            .header("authorization", format!("Bearer {CLIENT}"))
            .body(body)
            .unwrap();
        let mut reply = house.door.handle(request).await;
        assert_eq!(reply.status(), 200);
        assert!(reply.body_mut().frame().await.unwrap().unwrap().is_data());
        running.push(reply);
    }
}
