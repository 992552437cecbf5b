//! A `brambled` of which some services are played by the test binary that this is a part of; all else of it
//! is the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use bramble_fleet::generation::{Definition, Layout};
use bramble_fleet::openai::sse;
use serde_json::{Value, json};

/// The context by which an engine is told to end at once.
pub(crate) const CRASHES: u32 = 15;
/// What an engine says of its speed, in tokens per second.
const SPEED: f64 = 500.0;

/// Writes the program. Those services are played: `engine`, or `engine | route`.
pub(crate) fn write_program(path: &Path, played: &str) {
    let script = format!(
        "#!/bin/sh\ncase $1 in\n{played}) BRAMBLE_STUB=\"$*\" exec {} --ignored --exact stub::plays_a_service \
         --nocapture ;;\n*) exec {} \"$@\" ;;\nesac\n",
        std::env::current_exe().unwrap().display(),
        env!("CARGO_BIN_EXE_brambled")
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Plays `engine` and `route`: started by the program that [`write_program`] writes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a stub that other tests start as a program"]
#[expect(clippy::disallowed_methods, reason = "it is told by its environment what to play")]
async fn plays_a_service() {
    let words = std::env::var("BRAMBLE_STUB").unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let layout = Layout::new(words[2]);
    let generation = fs::canonicalize(layout.current()).unwrap();
    let definition = fs::read(Layout::definition(&generation)).unwrap();
    let definition: Definition = serde_json::from_slice(&definition).unwrap();
    let mut hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            eprintln!("reloaded");
        }
    });
    if words[0] == "route" {
        let door = Router::new().route("/healthz", get(|| async { "ok" }));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", definition.door.port)).await.unwrap();
        ready();
        return axum::serve(listener, door).await.unwrap();
    }
    let spec = definition.engines.iter().find(|spec| spec.model.as_str() == words[4]).unwrap();
    if spec.context == CRASHES {
        // not a panic: with a backtrace its message is not among the last lines
        eprintln!("ending as the test told me");
        #[expect(clippy::disallowed_methods, reason = "it plays a program that ends badly")]
        std::process::exit(1);
    }
    let reply = json!({
        "choices": [{ "message": { "content": "Yes." } }], "usage": { "completion_tokens": 8 },
        "timings": { "prompt_ms": 120.0, "predicted_per_second": SPEED },
    });
    let answer = |Json(asked): Json<Value>| async move {
        if asked["stream"] == true { streamed(&reply).into_response() } else { Json(reply).into_response() }
    };
    let engine = Router::new()
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/v1/chat/completions", post(answer))
        .route("/tokenize", post(|| async { Json(json!({ "tokens": [1, 2, 3] })) }))
        .route("/v1/completions", post(|| async { Json(text()) }));
    let socket = layout.engine_socket(&spec.model);
    let _ = fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    ready();
    axum::serve(listener, engine).await.unwrap();
}

/// Goes on with a text, as one is that is measured.
fn text() -> Value {
    let told = json!({ "tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{}], "text_offset": [0] });
    json!({
        "id": "cmpl-1", "object": "text_completion", "created": 0, "model": "chat",
        "choices": [{ "index": 0, "text": "x", "finish_reason": "length", "logprobs": told }],
        "timings": {
            "prompt_n": 64, "prompt_ms": 80.0, "prompt_per_second": 800.0,
            "predicted_n": 32, "predicted_ms": 64.0, "predicted_per_second": SPEED,
        },
    })
}

/// Gives the same answer as a stream: its text, its end, and what it took.
fn streamed(reply: &Value) -> impl IntoResponse {
    let chunk = |choices: Value| {
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "chat", "choices": choices,
        })
    };
    let content = &reply["choices"][0]["message"]["content"];
    let mut end = chunk(json!([]));
    end["usage"] = json!({ "prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12 });
    let chunks = [
        chunk(json!([{ "index": 0, "delta": { "content": content }, "finish_reason": null }])),
        chunk(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }])),
        end,
    ];
    let events = chunks.iter().map(Value::to_string).chain([sse::DONE.to_owned()]);
    let body: Vec<u8> = events.flat_map(|event| sse::encode(&event)).collect();
    ([(CONTENT_TYPE, "text/event-stream")], body)
}

/// Tells systemd, where that listens.
#[expect(clippy::disallowed_methods, reason = "systemd names its socket in the environment")]
fn ready() {
    if let Ok(path) = std::env::var("NOTIFY_SOCKET") {
        std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", path).unwrap();
    }
}
