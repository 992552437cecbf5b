//! A real llama-server as the fallback of a host whose engine is killed in the middle of answers.
//!
//! `BRAMBLE_PEER` names a `llama-server` (`tests/peer/build` makes one: too long for every run of the tests, which pass without it),
//! `BRAMBLE_TEST_GGUF` the model, `BRAMBLE_TEST_CLIENTS` a Python with the clients. `scripts/figures routing` runs it. Prints
//! `NAME = VALUE`; run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::generation::Layout;
use bramble_fleet::ids::Digest;
use bytes::Bytes;
use daemon::{Engine, model};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;

const KEY: &str = "a-key-of-a-client";
const THEIR_KEY: &str = "a-key-of-llama-server";

/// Times that the engine is killed.
const KILLS: usize = 12;

/// Bytes that an answer must have in common with what llama-server says when it is asked directly.
const BEGINNING: usize = 24;

/// A process that ends with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Starts llama-server as its documents say, with a key.
async fn llama_server(program: &Path, weights: &Path) -> (Guarded, u16) {
    let port = free_port();
    let mut command = Command::new(program);
    command.arg("--model").arg(weights);
    command.args([
        "--host",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--alias",
        "theirs",
        "--api-key",
        THEIR_KEY,
    ]);
    // (steps below 64 tokens, as in `support/doors.rs`, whose kernel says the same whatever came before)
    command.args(["--ctx-size", "4096", "--parallel", "4", "--threads", "1", "--ubatch-size", "32"]);
    // cargo's help for programs in its own folder would give it our libraries
    command.env_remove("LD_LIBRARY_PATH");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Guarded(command.spawn().unwrap());
    let began = Instant::now();
    while get(port, "/health").await != Some(StatusCode::OK) {
        assert!(began.elapsed() < Duration::from_mins(2), "llama-server does not get ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (server, port)
}

/// Gives the host of `engine` a door whose fallback is llama-server, and opens it.
async fn open_door(engine: &Engine, theirs: u16) -> (Guarded, u16) {
    let port = free_port();
    let current = Layout::new(engine.root.path()).current();
    let path = Layout::definition(&current);
    let mut definition: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let hop = |upstream: &str, model: &str| json!({"upstream": upstream, "model": model, "quant": null, "pace": null});
    let url = format!("http://127.0.0.1:{theirs}/v1");
    let order = [hop("local", "smol"), hop("gaming", "theirs")];
    definition["door"] = json!({
        "port": port,
        "upstreams": [
            {"name": "local", "kind": {"kind": "local"}},
            {"name": "gaming", "kind": {"kind": "foreign", "url": url, "key": "gaming"}},
        ],
        "routes": [{
            "model": "smol", "order": order, "continue_on": ["gaming"],
            "overflow_queue": null, "first_token_seconds": 120.0,
        }],
    });
    std::fs::write(&path, definition.to_string()).unwrap();
    let secrets = json!({
        "keys": [{"id": "laptop", "sha256": Digest::of(KEY.as_bytes()), "scopes": ["infer"]}],
        "peer_key": "peer", "foreign_keys": {"gaming": THEIR_KEY},
    });
    std::fs::write(Layout::secrets(&current), secrets.to_string()).unwrap();
    let log = std::fs::File::create(engine.root.path().join("route.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
    let command = command.args(["route", "--root"]).arg(engine.root.path()).stdin(Stdio::null()).stderr(log);
    let door = Guarded(command.spawn().unwrap());
    let began = Instant::now();
    while get(port, "/healthz").await != Some(StatusCode::OK) {
        assert!(began.elapsed() < Duration::from_mins(1), "the door does not open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (door, port)
}

async fn get(port: u16, path: &str) -> Option<StatusCode> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "x").body(Full::<Bytes>::default()).unwrap();
    sender.send_request(request).await.ok().map(|reply| reply.status())
}

/// What came of one question.
#[derive(Debug)]
struct Answer {
    upstream: Option<String>,
    /// The text, cut where another upstream went on.
    parts: Vec<String>,
    finish: Option<String>,
    completion_tokens: Option<u64>,
    is_whole: bool,
}

/// Asks for a stream, and calls `after` when so many of its events have come.
async fn ask(port: u16, key: &str, path: &str, body: &Value, events: usize, after: impl FnOnce()) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path).header("host", "x").header("content-type", "application/json");
    let request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    let reply =
        sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let upstream = reply.headers().get("x-bramble-upstream").map(|name| name.to_str().unwrap().to_owned());
    let mut answer = Answer {
        upstream,
        parts: vec![String::new()],
        finish: None,
        completion_tokens: None,
        is_whole: false,
    };
    let (mut reply, mut text, mut seen, mut after) = (reply.into_body(), Vec::new(), 0, Some(after));
    while let Some(frame) = reply.frame().await {
        let Ok(data) = frame.unwrap().into_data() else { continue };
        text.extend_from_slice(&data);
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            answer.add(std::str::from_utf8(&event).unwrap().trim_end());
            seen += 1;
            if seen == events
                && let Some(after) = after.take()
            {
                after();
            }
        }
    }
    assert!(text.is_empty(), "{}", String::from_utf8_lossy(&text));
    answer
}

impl Answer {
    fn add(&mut self, event: &str) {
        assert!(!self.is_whole, "something comes after the end: {event}");
        match event.strip_prefix("data: ") {
            Some("[DONE]") => self.is_whole = true,
            Some(data) => {
                let value: Value = serde_json::from_str(data).unwrap();
                assert!(value.get("error").is_none(), "{value}");
                self.completion_tokens =
                    value["usage"]["completion_tokens"].as_u64().or(self.completion_tokens);
                let choice = &value["choices"][0];
                let texts = [&choice["text"], &choice["delta"]["content"]];
                let part = self.parts.last_mut().unwrap();
                texts.into_iter().filter_map(Value::as_str).for_each(|text| part.push_str(text));
                if let Some(finish) = choice["finish_reason"].as_str() {
                    self.finish = Some(finish.to_owned());
                }
            }
            None if event.starts_with(": continued") => self.parts.push(String::new()),
            None => assert!(event.starts_with(':'), "what is {event:?}?"),
        }
    }
}

fn given() -> Option<(PathBuf, PathBuf)> {
    let Some(program) = std::env::var_os("BRAMBLE_PEER") else {
        println!("skipped: BRAMBLE_PEER is not set");
        return None;
    };
    Some((program.into(), model()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_server_goes_on_with_what_a_killed_engine_began() {
    let Some((program, weights)) = given() else { return };
    let weights = weights.canonicalize().unwrap();
    let (_server, theirs) = llama_server(&program, &weights).await;
    let mut engine = Engine::start_with(&weights, |spec| (spec.context, spec.slots) = (1024, 2));
    let (_door, port) = open_door(&engine, theirs).await;
    let stories = ["a fox", "a lighthouse", "the sea", "a violin"];
    let (mut continued, mut equal) = (0, 0);
    for turn in 0..KILLS {
        let is_chat = turn % 3 != 2;
        let story = format!("Tell me a story about {}.", stories[turn % stories.len()]);
        let path = if is_chat { "/v1/chat/completions" } else { "/v1/completions" };
        let mut body = json!({
            "model": "smol", "stream": true, "temperature": 0, "max_tokens": 120, "stream_options": {"include_usage": true},
        });
        if is_chat {
            body["messages"] = json!([{"role": "user", "content": story}]);
        } else {
            body["prompt"] = format!("{story}\n\nOnce upon a time").into();
        }
        let pid = rustix::process::Pid::from_child(&engine.child);
        let kill = || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let answer = ask(port, KEY, path, &body, 4 + turn * 5, kill).await;
        assert!(answer.is_whole, "{answer:?}");
        assert_eq!(answer.upstream.as_deref(), Some("local"), "{answer:?}");
        assert!(answer.finish.is_some() && answer.completion_tokens.is_some_and(|n| n <= 120), "{answer:?}");
        if let [prefix, rest] = &answer.parts[..] {
            continued += 1;
            // what llama-server says of itself, asked with that prefix
            let tokens = (turn * 5 + 4) as u64;
            let mut again = body.clone();
            again["model"] = "theirs".into();
            if is_chat {
                again["messages"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"role": "assistant", "content": prefix}));
                // without these it says the beginning again
                (again["continue_final_message"], again["add_generation_prompt"]) =
                    (true.into(), false.into());
            } else {
                again["prompt"] = (again["prompt"].as_str().unwrap().to_owned() + prefix).into();
            }
            again["max_tokens"] = (120 - tokens.min(119)).into();
            let direct = ask(theirs, THEIR_KEY, path, &again, usize::MAX, || ()).await.parts.concat();
            // llama-server's cache is another each time, so that a near tie far behind may go otherwise
            let common = rest.bytes().zip(direct.bytes()).take_while(|(one, other)| one == other).count();
            assert!(common >= BEGINNING.min(rest.len()), "after {prefix:?}: {rest:?}, directly {direct:?}");
            // the engine had said some tokens more than came to us before it was killed: the ends differ by as much
            equal += usize::from(common == rest.len().min(direct.len()));
        }
        engine = engine.revive();
        // the breaker closes with the first that asks
        tokio::time::sleep(Duration::from_millis(2_600)).await;
    }
    println!(
        "llama_server.killed = {KILLS}\nllama_server.continued = {continued}\nllama_server.as_asked_directly = {equal}"
    );
    assert!(continued >= KILLS * 3 / 4, "{continued}");
    assert!(equal >= continued * 3 / 4, "{equal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_people_have_are_answered_by_llama_server_while_the_engine_is_gone() {
    let (Some((program, weights)), Some(python)) = (given(), std::env::var_os("BRAMBLE_TEST_CLIENTS")) else {
        return;
    };
    let weights = weights.canonicalize().unwrap();
    let (_server, theirs) = llama_server(&program, &weights).await;
    let mut engine = Engine::start_with(&weights, |_| ());
    let (_door, port) = open_door(&engine, theirs).await;
    engine.child.kill().unwrap();
    engine.child.wait().unwrap();
    let mut suite = Command::new(python);
    suite.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/suite.py"));
    suite.args([&format!("http://127.0.0.1:{port}"), KEY, "smol", "1024", "foreign"]);
    suite.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    let output = suite.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let log = std::fs::read_to_string(engine.root.path().join("route.log")).unwrap();
    assert!(output.status.success(), "{text}\n{log}");
    assert!(log.contains("upstream=\"gaming\""), "{log}");
}
