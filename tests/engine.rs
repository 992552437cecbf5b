//! The engine on llama.cpp with a real model, as a client meets it: `brambled engine` in a
//! process of its own, laid out as on a host.
//!
//! `BRAMBLE_TEST_GGUF` names the model, a small one that chats and has the architecture
//! `llama` (made with SmolLM2-135M-Instruct). Without it the tests say so and pass, unless
//! `BRAMBLE_REQUIRE_MODELS=1`. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bramble_fleet::generation::{
    Definition, DoorSpec, EngineSpec, FORMAT, KvType, Layout, LoadMode, Pace, Program, Weights,
};
use bramble_fleet::gguf::{Header, NewTensor, TAKE_BLANKS, TensorInfo, Writer};
use bramble_fleet::ids::{Digest, Generation};
use bramble_fleet::openai::{ChatChunk, ChatReply, sse};
use bramble_fleet::units::{Bytes as Amount, TokensPerSec};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

/// Far more than any start or answer here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_mins(5);

fn model() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("BRAMBLE_TEST_GGUF") else {
        let must = std::env::var("BRAMBLE_REQUIRE_MODELS").is_ok_and(|text| text == "1");
        assert!(!must, "BRAMBLE_TEST_GGUF is not set, and BRAMBLE_REQUIRE_MODELS=1");
        println!("skipped: BRAMBLE_TEST_GGUF is not set");
        return None;
    };
    Some(path.into())
}

fn spec(bytes: u64) -> EngineSpec {
    EngineSpec {
        model: "smol".parse().unwrap(),
        weights: Weights {
            recipe: Digest::of(b"recipe"),
            digest: Some(Digest::of(b"weights")),
            bytes: Amount(bytes),
            quant: None,
            architecture: "llama".to_owned(),
        },
        context: 512,
        slots: 1,
        // more than one waits for the other on a machine that is busy
        threads: 1,
        micro_batch: 64,
        load: LoadMode::Mmap,
        repack: true,
        kv: KvType::F16,
        pace: Pace { prompt: TokensPerSec(1.0), answer: TokensPerSec(1.0), load_seconds: 1.0 },
    }
}

/// Links where it can, since the libraries are many.
fn place(from: &Path, to: &Path) {
    let from = from.canonicalize().unwrap();
    if std::fs::hard_link(&from, to).is_err() {
        std::fs::copy(&from, to).unwrap();
    }
}

/// Lays out one generation with the program and its libraries, as `scripts/bundle` does.
fn install(root: &Path, spec: &EngineSpec, weights: &Path) -> PathBuf {
    let layout = Layout::new(root);
    let generation = layout.generation(Generation::new(7));
    let program = layout.program(&Digest::of(b"bundle"));
    std::fs::create_dir_all(program.join("lib")).unwrap();
    std::fs::create_dir_all(generation.join("models")).unwrap();
    place(Path::new(env!("CARGO_BIN_EXE_brambled")), &program.join("brambled"));
    let built = Path::new(env!("BRAMBLE_BUILT_LLAMA"));
    let files = ["backends", "lib"].map(|folder| std::fs::read_dir(built.join(folder)).unwrap());
    for file in files.into_iter().flatten().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        if name.ends_with(".so.0") || name.starts_with("libggml-cpu-") {
            place(&file.path(), &program.join("lib").join(name));
        }
    }
    std::os::unix::fs::symlink(&program, generation.join("program")).unwrap();
    std::os::unix::fs::symlink(weights, Layout::weights(&generation, &spec.model)).unwrap();
    std::os::unix::fs::symlink(&generation, layout.current()).unwrap();
    let definition = Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "shed".parse().unwrap(),
        program: Program { digest: Digest::of(b"bundle"), version: "0.1.0".to_owned() },
        engines: vec![spec.clone()],
        door: DoorSpec { port: 8443, upstreams: Vec::new(), routes: Vec::new() },
    };
    std::fs::write(Layout::definition(&generation), serde_json::to_vec(&definition).unwrap()).unwrap();
    program
}

fn command(root: &Path) -> Command {
    let mut command = Command::new(Layout::brambled(&Layout::new(root).current()));
    command.args(["engine", "--model", "smol", "--root"]).arg(root);
    // cargo's help for programs in its own folder must not be what makes this one run
    command.env_remove("LD_LIBRARY_PATH").env_remove("BRAMBLE_BACKENDS").env("RUST_LOG", "info");
    command.current_dir(root).stdin(Stdio::null());
    command
}

struct Engine {
    child: Child,
    root: tempfile::TempDir,
    program: PathBuf,
}

impl Engine {
    /// Starts an engine and waits for its word, as systemd would.
    fn start(change: impl FnOnce(&mut EngineSpec)) -> Option<Self> {
        Some(Self::start_with(&model()?, change))
    }

    fn start_with(weights: &Path, change: impl FnOnce(&mut EngineSpec)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut spec = spec(weights.metadata().unwrap().len());
        change(&mut spec);
        let program = install(root.path(), &spec, &weights.canonicalize().unwrap());
        let path = root.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = std::fs::File::create(root.path().join("log")).unwrap();
        let child = command(root.path()).env("NOTIFY_SOCKET", &path).stderr(log).spawn().unwrap();
        let engine = Self { child, root, program };
        let mut buffer = [0; 256];
        loop {
            let length = systemd.recv(&mut buffer).unwrap_or_else(|_| panic!("no word: {}", engine.log()));
            if buffer[..length].starts_with(b"READY=1\n") {
                return engine;
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Response<Incoming> {
        let socket = Layout::new(self.root.path()).engine_socket(&"smol".parse().unwrap());
        let stream = UnixStream::connect(socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(body.to_string()));
        let request = Request::builder().method(method).uri(path).header("host", "x").body(body).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Bytes) {
        let response = self.send(Method::POST, path, body).await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn chat(&self, body: &Value) -> ChatReply {
        let (status, bytes) = self.ask("/v1/chat/completions", body).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn health(&self) -> Value {
        let response = self.send(Method::GET, "/health", &Value::Null).await;
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    /// Asks it to stop, and waits.
    fn stop(mut self) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        assert_eq!(std::fs::read_dir(Layout::new(self.root.path()).run_dir()).unwrap().count(), 0);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // a test that failed leaves no process behind
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn question(text: &str) -> Value {
    json!({
        "model": "smol", "temperature": 0, "max_tokens": 24,
        "messages": [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": text}],
    })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn said(reply: &ChatReply) -> String {
    reply.choices[0].message.content.clone().unwrap()
}

#[tokio::test]
async fn a_real_model_answers_and_every_way_to_ask_gives_the_same_text() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let paris = question("What is the capital of France?");
    let first = engine.chat(&paris).await;
    let answer = said(&first);
    assert!(answer.contains("Paris"), "{answer}");
    assert!(first.usage.completion_tokens > 1 && first.usage.prompt_tokens > 10);
    let timings = first.timings.unwrap();
    println!(
        "prompt {:.1} tok/s ({}), answer {:.1} tok/s ({}), one thread: {answer}",
        timings.prompt_per_second, timings.prompt_n, timings.predicted_per_second, timings.predicted_n,
    );
    assert_eq!(timings.prompt_n, first.usage.prompt_tokens);

    // again, from the cache
    let again = engine.chat(&paris).await;
    assert_eq!(said(&again), answer);
    assert_eq!((again.usage, again.timings.unwrap().prompt_n), (first.usage, 1));

    // in pieces
    let (_, bytes) = engine.ask("/v1/chat/completions", &with(paris.clone(), "stream", json!(true))).await;
    let mut scanner = sse::Scanner::default();
    scanner.push(&bytes);
    let mut events = Vec::new();
    while let Some(event) = scanner.next().unwrap() {
        events.push(event);
    }
    assert_eq!(events.pop().as_deref(), Some(sse::DONE));
    let chunks: Vec<ChatChunk> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let pieces: String = chunks.iter().filter_map(|chunk| chunk.choices[0].delta.content.clone()).collect();
    assert_eq!(pieces, answer);
    assert!(chunks.last().unwrap().timings.is_some());

    // up to a stop string over a token's border
    let stopped = engine.chat(&with(paris.clone(), "stop", json!(["aris"]))).await;
    assert_eq!(Some(said(&stopped).as_str()), answer.split("aris").next());

    // from the middle of its own answer
    let (before, after) = answer.split_at(answer.find(" Paris").unwrap());
    let mut continued = paris.clone();
    let turn = json!({"role": "assistant", "content": before});
    continued["messages"].as_array_mut().unwrap().push(turn);
    assert_eq!(said(&engine.chat(&continued).await), after);

    // a seed makes chance repeatable
    let dice = with(with(question("Tell me a story."), "temperature", json!(1.5)), "seed", json!(4));
    let (one, two) = (engine.chat(&dice).await, engine.chat(&dice).await);
    assert_eq!(said(&one), said(&two));
    let other = engine.chat(&with(dice, "seed", json!(5))).await;
    assert_ne!(said(&one), said(&other));
    engine.stop();
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let Some(engine) = Engine::start(|spec| spec.context = 256) else { return };
    let (status, bytes) = engine.ask("/v1/chat/completions", &question(&"word ".repeat(600))).await;
    let error: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains(" 256,") && message.contains("the prompt has 6"), "{message}");
    // an answer that reaches the end of the context ends there
    let body = json!({"model": "smol", "prompt": "la ".repeat(200), "temperature": 0});
    let (status, bytes) = engine.ask("/v1/completions", &body).await;
    let reply: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status, &reply["usage"]["total_tokens"]), (StatusCode::OK, &json!(256)), "{reply}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    engine.stop();
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_slot() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let endless = json!({"model": "smol", "prompt": "Once upon a time", "stream": true});
    let response = engine.send(Method::POST, "/v1/completions", &endless).await;
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(engine.health().await["running"], 1);
    drop(body);
    let answer = engine.chat(&question("What is the capital of France?")).await;
    assert!(said(&answer).contains("Paris"));
    assert_eq!(engine.health().await["running"], 0);
    assert!(engine.log().contains("the client is gone"), "{}", engine.log());
    engine.stop();
}

#[tokio::test]
async fn slots_that_work_together_answer_as_they_do_alone() {
    let Some(engine) = Engine::start(|spec| spec.slots = 2) else { return };
    let bodies = [question("What is the capital of France?"), question("What is two plus two?")];
    let alone = [said(&engine.chat(&bodies[0]).await), said(&engine.chat(&bodies[1]).await)];
    let (one, two) = tokio::join!(engine.chat(&bodies[0]), engine.chat(&bodies[1]));
    assert_eq!([said(&one), said(&two)], alone);
    engine.stop();
}

/// Makes `Q4_0`, which CPUs with vectors do repack, from the model whatever it is.
fn to_q4_0(from: &Path, to: &Path) {
    let name = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    #[expect(unsafe_code, reason = "quantization is not in the safe wrapper")]
    // SAFETY: both names outlive the call, and the parameters are llama.cpp's own but for two.
    let outcome = unsafe {
        let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
        params.ftype = llama_cpp_sys_2::LLAMA_FTYPE_MOSTLY_Q4_0;
        params.allow_requantize = true;
        llama_cpp_sys_2::llama_model_quantize(name(from).as_ptr(), name(to).as_ptr(), &raw const params)
    };
    assert_eq!(outcome, 0);
}

/// Writes a model again with one key more.
fn with_key(from: &Path, to: &Path, key: &str, value: &str) {
    let bytes = std::fs::read(from).unwrap();
    let mut header = Header::read(bytes.as_slice()).unwrap();
    header.metadata.push((key.to_owned(), value.into()));
    let new = |tensor: &TensorInfo| NewTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        tensor_type: tensor.tensor_type,
    };
    let tensors: Vec<NewTensor> = header.tensors.iter().map(new).collect();
    let file = std::fs::File::create(to).unwrap();
    let mut writer = Writer::start(file, &header.metadata, &tensors).unwrap();
    for tensor in &header.tensors {
        let start = usize::try_from(header.data_offset + tensor.offset).unwrap();
        writer.data(&bytes[start..][..usize::try_from(tensor.bytes).unwrap()]).unwrap();
    }
    writer.finish().unwrap();
}

#[tokio::test]
async fn white_space_behind_a_marker_that_takes_it_is_not_read() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let marked = folder.path().join("marked.gguf");
    with_key(&weights, &marked, TAKE_BLANKS, r#"["<|im_start|>user\n"]"#);
    for (weights, takes) in [(&weights, false), (&marked, true)] {
        let engine = Engine::start_with(weights, |_| ());
        let mut lengths = Vec::new();
        for text in ["Where  is it?", " \n\t Where  is it?", "Where \n\t is it?"] {
            lengths
                .push(engine.chat(&with(question(text), "max_tokens", json!(1))).await.usage.prompt_tokens);
        }
        assert_eq!(lengths[0] == lengths[1], takes, "{lengths:?}");
        assert_ne!(lengths[0], lengths[2]);
        engine.stop();
    }
}

#[tokio::test]
async fn weights_are_repacked_and_mapped_only_where_the_definition_says_so() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let q4_0 = folder.path().join("q4_0.gguf");
    to_q4_0(&weights, &q4_0);
    for (repack, load) in [(true, LoadMode::Mmap), (false, LoadMode::Mmap), (false, LoadMode::Read)] {
        let engine = Engine::start_with(&q4_0, |spec| (spec.repack, spec.load) = (repack, load));
        let answer = engine.chat(&question("What is the capital of France?")).await;
        assert!(answer.usage.completion_tokens > 0);
        let buffers: Vec<String> =
            engine.log().lines().filter(|line| line.contains("model buffer")).map(str::to_owned).collect();
        println!("repack {repack}, {load:?}: {} {buffers:?}", said(&answer));
        let has = |kind: &str| buffers.iter().any(|line| line.contains(kind));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(has("CPU_REPACK"), repack && std::arch::is_x86_feature_detected!("avx2"));
        #[cfg(not(target_arch = "x86_64"))]
        assert!(repack || !has("CPU_REPACK"));
        assert_eq!(has("CPU_Mapped"), load == LoadMode::Mmap);
        engine.stop();
    }
}

#[tokio::test]
async fn the_libraries_beside_the_program_are_all_that_it_needs() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", engine.child.id())).unwrap();
    let libraries: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.get(line.find('/')?..))
        .filter(|path| path.contains("libggml") || path.contains("libllama"))
        .collect();
    assert!(libraries.iter().any(|path| path.contains("libggml-cpu-")));
    let folder = engine.program.canonicalize().unwrap();
    assert!(libraries.iter().all(|path| Path::new(path).starts_with(&folder)), "{libraries:?}");
    let cpu = engine.health().await["cpu"].as_str().unwrap().to_owned();
    assert!(folder.join(format!("lib/libggml-cpu-{cpu}.so")).exists(), "{cpu}");
    engine.stop();
}

#[test]
fn weights_that_are_not_what_the_definition_says_are_refused() {
    let Some(weights) = model() else { return };
    let refusal = |change: &dyn Fn(&mut EngineSpec), path: &Path| {
        let root = tempfile::tempdir().unwrap();
        let mut spec = spec(path.metadata().unwrap().len());
        change(&mut spec);
        install(root.path(), &spec, path);
        let output = command(root.path()).env("RUST_LOG", "error").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let weights = weights.canonicalize().unwrap();
    let words = refusal(&|spec| spec.weights.architecture = "gpt2".to_owned(), &weights);
    assert!(words.contains("architecture is 'llama', the definition says 'gpt2'"), "{words}");
    let words = refusal(&|spec| spec.weights.bytes = Amount(1), &weights);
    assert!(words.contains("where the definition says 1"), "{words}");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.gguf");
    std::fs::write(&broken, vec![b'x'; 4096]).unwrap();
    assert!(refusal(&|_| (), &broken).contains("does not begin with GGUF"));
}
