//! Answers that begin where another engine's broke off, over the socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::fake::MARK;
use super::tests::{Running, connect, request, start};
use crate::openai::{GOES_ON, WITH_PROGRESS, sse};

/// Speaks of tools and of thoughts, and says what the first message says.
const TEMPLATE: &str = "{#<think>#}{% if tools %}{% endif %}{#<tool_call>#}{{ messages[0].content }}";

/// Asks for a stream that tells its progress; returns its events, and whether it goes on with an answer.
async fn stream(running: &Running, path: &str, body: &Value) -> (Vec<Value>, bool) {
    let mut asked: Request<Full<Bytes>> = request(Method::POST, path, body);
    asked.headers_mut().insert(WITH_PROGRESS, "1".parse().unwrap());
    let stream = UnixStream::connect(running.socket()).await.unwrap();
    let response = connect(stream).await.send_request(asked).await.unwrap();
    let goes_on = response.headers().contains_key(GOES_ON);
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    let mut scanner = sse::Scanner::default();
    scanner.push(&bytes);
    let mut events: Vec<String> = std::iter::from_fn(|| scanner.next().unwrap()).collect();
    assert_eq!(events.pop().as_deref(), Some(sse::DONE));
    (events.iter().map(|event| serde_json::from_str(event).unwrap()).collect(), goes_on)
}

/// What a client has of events: text, thoughts, calls without their numbers of chance, places of tokens, end and usage.
fn heard(events: &[Value]) -> Value {
    let (mut said, mut thought, mut calls, mut places) =
        (String::new(), String::new(), Vec::new(), Vec::new());
    let (mut finish, mut usage, mut roles) = (Value::Null, Value::Null, 0);
    for event in events {
        let choice = &event["choices"][0];
        for text in [&choice["delta"]["content"], &choice["text"]] {
            said.push_str(text.as_str().unwrap_or_default());
        }
        thought.push_str(choice["delta"]["reasoning_content"].as_str().unwrap_or_default());
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            calls.push(json!([call["index"], call["function"]]));
        }
        let lists = &choice["logprobs"];
        for list in [&lists["text_offset"], &lists["content"]] {
            places.extend(list.as_array().into_iter().flatten().cloned());
        }
        roles += usize::from(choice["delta"].get("role").is_some());
        for (value, new) in [(&mut finish, &choice["finish_reason"]), (&mut usage, &event["usage"])] {
            if !new.is_null() {
                *value = new.clone();
            }
        }
    }
    json!([said, thought, calls, places, finish, usage, roles])
}

fn begun(events: &[Value]) -> Value {
    let told: Vec<&Value> =
        events.iter().map(|event| &event["bramble_progress"]).filter(|told| !told.is_null()).collect();
    let text: String = told.iter().filter_map(|progress| progress["text"].as_str()).collect();
    let tokens = told.last().map_or(json!(0), |progress| progress["tokens"].clone());
    json!({"text": text, "tokens": tokens})
}

fn chat(said: &str, more: &Value) -> (&'static str, Value) {
    let mut body =
        json!({"model": "parrot", "messages": [{"role": "user", "content": format!("{said}{MARK}")}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ("/v1/chat/completions", body)
}

fn text(said: &str, more: &Value) -> (&'static str, Value) {
    let mut body = json!({"model": "parrot", "prompt": format!("{said}{MARK}")});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ("/v1/completions", body)
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false,
    }}}])
}

#[tokio::test]
async fn an_answer_goes_on_exactly_where_it_broke_off() {
    let running = start(1, Some(TEMPLATE), None).await;
    let schema = json!({"type": "object", "properties": {"ok": {"enum": ["naïve", "no"]}, "n": {"type": "integer"}},
        "required": ["ok", "n"], "additionalProperties": false});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    let call = "<think>Hm.</think> Well.<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n\
        </tool_call> <tool_call>{\"name\": \"weather\"}</tool_call>";
    let prompt: Vec<u32> = format!("tokens, naïve{MARK}").bytes().map(u32::from).collect();
    let forced = json!({"tools": weather(), "tool_choice": "required", "parallel_tool_calls": false});
    for (path, mut body) in [
        chat("naïve 🦀 text", &json!({})),
        chat("a text that is cut", &json!({"max_tokens": 9})),
        chat("to a stop here", &json!({"stop": ["stop he"], "logprobs": true})),
        chat("<think>Hm.\n</think>\n\nYes.", &json!({})),
        chat(call, &json!({"tools": weather()})),
        chat("no call", &forced),
        chat("no JSON", &json!({"response_format": format, "seed": 3})),
        text("of one two three", &json!({"logprobs": 1, "max_tokens": 12})),
        text("{\"a\": [1, 2]}", &json!({"response_format": {"type": "json_object"}, "max_tokens": 300})),
        ("/v1/completions", json!({"model": "parrot", "prompt": prompt})),
    ] {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let (whole, goes_on) = stream(&running, path, &body).await;
        assert!(!goes_on && whole.len() >= 4, "{whole:?}");
        let expected = heard(&whole);
        let end = whole.iter().position(|event| !event["choices"][0]["finish_reason"].is_null()).unwrap();
        for cut in 1..=end {
            body["bramble_begun"] = begun(&whole[..cut]);
            let (rest, goes_on) = stream(&running, path, &body).await;
            assert!(goes_on);
            let all = heard(&[&whole[..cut], &rest].concat());
            assert_eq!(all, expected, "{cut} of {body}");
        }
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_wanted_goes_on_within_its_own_marks() {
    let running = start(1, Some(TEMPLATE), None).await;
    let (path, mut body) = chat("no call", &json!({"tools": weather(), "tool_choice": "required"}));
    body["stream"] = json!(true);
    let (whole, _) = stream(&running, path, &body).await;
    let written = begun(&whole)["text"].as_str().unwrap().to_owned();
    let expected = heard(&whole)[2].clone();
    assert!(written.starts_with("<tool_call>") && expected[0][1]["name"] == "weather", "{written}");
    // nothing of it is told before its end, which is where the last event may be cut off
    for (at, _) in written.char_indices().filter(|(at, _)| written[..*at].find("</tool_call>").is_none()) {
        body["bramble_begun"] = json!({"text": &written[..at], "tokens": at});
        let (rest, _) = stream(&running, path, &body).await;
        assert_eq!(
            (&heard(&rest)[2], &heard(&rest)[4]),
            (&expected, &json!("tool_calls")),
            "{}",
            &written[..at]
        );
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_with_nothing_to_add_ends_at_once() {
    let running = start(1, Some(TEMPLATE), None).await;
    let object = json!({"response_format": {"type": "json_object"}});
    // what ends by itself ends with a token
    for ((path, mut body), written, tokens, finish, all) in [
        (text("never said", &object), "{\"a\": 1}", 8, "stop", 9),
        (text("never said", &json!({"max_tokens": 5})), "never", 5, "length", 5),
        (text("never said", &json!({"max_tokens": 5})), "never s", 7, "length", 7),
    ] {
        body["bramble_begun"] = json!({"text": written, "tokens": tokens});
        let (status, reply) = running.post(path, &body).await;
        let choice = &reply["choices"][0];
        assert_eq!(
            (status, &choice["text"], &choice["finish_reason"]),
            (StatusCode::OK, &json!(""), &json!(finish))
        );
        assert_eq!(
            reply["usage"],
            json!({"prompt_tokens": 11, "completion_tokens": all, "total_tokens": 11 + all})
        );
        assert_eq!(reply["timings"]["prompt_n"], 0, "nothing is computed");
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_gone_on_with_is_refused_with_the_reason() {
    let running = start(1, Some(TEMPLATE), None).await;
    let object = json!({"response_format": {"type": "json_object"}});
    for ((path, mut body), written, part) in [
        (text("x", &object), "{\"a\": 1} and", "cannot be kept to"),
        (text("x", &json!({"n": 2})), "x", "only one answer"),
        (text("x", &json!({})), &*"x".repeat(401), "400 tokens"),
        (chat("x", &json!({"tools": weather(), "tool_choice": "required"})), "no", "cannot be kept to"),
    ] {
        body["bramble_begun"] = json!({"text": written, "tokens": 1});
        let (status, reply) = running.post(path, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(part), "{reply}");
    }
    // what no router asks for is not told
    let (_, mut body) = text("x", &json!({"stream": true}));
    body["bramble_begun"] = Value::Null;
    let told = super::tests::chunks(&running, "/v1/completions", &body).await;
    assert!(told.iter().all(|event| event.get("bramble_progress").is_none()), "{told:?}");
    running.end().await.unwrap();
}
