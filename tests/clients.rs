//! The clients that people have, against a door with a real model behind it: `brambled engine` and `brambled route`
//! as on a host, and `tests/clients/suite.py`.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`, and `BRAMBLE_TEST_CLIENTS` a Python that has the clients
//! (`tests/clients/prepare`), `BRAMBLE_TEST_GEMMA` Gemma 3 270M (`tests/clients/gemma`). Without them the tests say so and pass, unless `BRAMBLE_REQUIRE_MODELS=1`. Run with
//! `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::ffi::{OsStr, OsString};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::generation::Layout;
use bramble_fleet::ids::Digest;
use daemon::{Engine, model};
use rewrite::with_key;
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/rewrite.rs"]
mod rewrite;
#[path = "support/tools.rs"]
mod tools;

const KEY: &str = "a-key-of-a-client";

/// A process that ends with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives the host of `engine` a door, and opens it.
fn open_door(engine: &Engine) -> (Guarded, u16) {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let current = Layout::new(engine.root.path()).current();
    let path = Layout::definition(&current);
    let mut definition: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    definition["door"] = json!({
        "port": port,
        "upstreams": [{"name": "local", "kind": {"kind": "local"}}],
        "routes": [{
            "model": "smol", "order": [{"upstream": "local", "model": "smol", "quant": "Q4_1", "pace": null}],
            "overflow_queue": null, "first_token_seconds": 120.0,
        }],
    });
    std::fs::write(&path, definition.to_string()).unwrap();
    let secrets = json!({
        "keys": [{"id": "laptop", "sha256": Digest::of(KEY.as_bytes()), "scopes": ["infer"]}],
        "peer_key": "peer", "foreign_keys": {},
    });
    std::fs::write(current.join("secrets.json"), secrets.to_string()).unwrap();
    let log = std::fs::File::create(engine.root.path().join("route.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
    let command = command.args(["route", "--root"]).arg(engine.root.path()).stderr(log);
    let door = Guarded(command.spawn().unwrap());
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_mins(1), "the door does not open");
        std::thread::sleep(Duration::from_millis(20));
    }
    (door, port)
}

/// What a variable of the environment names; none, with words, where it is not set and need not be.
fn given(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name);
    if value.is_none() {
        let must = std::env::var("BRAMBLE_REQUIRE_MODELS").is_ok_and(|text| text == "1");
        assert!(!must, "{name} is not set, and BRAMBLE_REQUIRE_MODELS=1");
        println!("skipped: {name} is not set");
    }
    value
}

#[test]
fn clients_that_people_have_miss_nothing() {
    let (Some(weights), Some(python)) = (model(), given("BRAMBLE_TEST_CLIENTS")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let trained = folder.path().join("tools.gguf");
    with_key(&weights, &trained, "tokenizer.chat_template", tools::TEMPLATE);
    suite(&python, &trained, "llama", &[]);
}

#[test]
fn they_miss_nothing_that_a_base_model_of_another_family_can_do() {
    let (Some(weights), Some(python)) = (given("BRAMBLE_TEST_GEMMA"), given("BRAMBLE_TEST_CLIENTS")) else {
        return;
    };
    suite(&python, Path::new(&weights), "gemma3", &["base"]);
}

/// Serves the weights, and lets the clients have their way with them.
fn suite(python: &OsStr, weights: &Path, architecture: &str, more: &[&str]) {
    let context = 1024;
    let engine = Engine::start_with(weights, |spec| {
        architecture.clone_into(&mut spec.weights.architecture);
        (spec.context, spec.slots, spec.threads) = (context, 4, 2);
    });
    let (_door, port) = open_door(&engine);
    let mut suite = Command::new(python);
    // it would look for prices on the network first
    suite.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    suite.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/suite.py"));
    suite.args([&format!("http://127.0.0.1:{port}"), KEY, "smol", &context.to_string()]).args(more);
    let output = suite.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let door = std::fs::read_to_string(engine.root.path().join("route.log")).unwrap();
    assert!(output.status.success(), "{text}\n{door}\n{}", engine.log());
    engine.stop();
}
