//! The engine on llama.cpp with a real model, as a client meets it: `brambled engine` in a
//! process of its own, laid out as on a host.
//!
//! `BRAMBLE_TEST_GGUF` names the model, a small one that chats and has the architecture
//! `llama` (made with SmolLM2-135M-Instruct). Without it the tests say so and pass, unless
//! `BRAMBLE_REQUIRE_MODELS=1`. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::path::Path;

use bramble_fleet::catalog::ModelFacts;
use bramble_fleet::estimate::{self, Attention, Buffers, Candidate, Estimate, Serving, Tensor};
use bramble_fleet::facts::planned;
use bramble_fleet::generation::{EngineSpec, KvType, Layout, LoadMode};
use bramble_fleet::gguf::{Header, TAKE_BLANKS};
use bramble_fleet::ids::Digest;
use bramble_fleet::openai::{ChatChunk, ChatReply, sse};
use bramble_fleet::source::{Pinned, PinnedFile};
use bramble_fleet::units::Bytes as Amount;
use daemon::{Engine, command, install, model, spec};
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use process::Process;
use rewrite::with_key;
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;
#[path = "support/rewrite.rs"]
mod rewrite;

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
async fn an_engine_that_encloses_itself_answers_and_keeps_prompts() {
    let Some(weights) = model() else { return };
    let enclosed = [(Layout::ENCLOSE, "1")];
    let mut engine = Engine::start_in(&weights, &enclosed, |spec| spec.keep_prompts = true, |_| ());
    let paris = question("What is the capital of France?");
    let first = said(&engine.chat(&paris).await);
    assert!(first.contains("Paris"), "{first}");
    for _ in 0..2 {
        engine = engine.restart();
        assert!(engine.log().contains("kept prompts are back"), "{}", engine.log());
        assert_eq!(said(&engine.chat(&paris).await), first);
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.child.id())).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
            assert!(status.contains(&format!("\n{line}\n")), "{line}: {status}");
        }
    }
    // another one does not take its place
    let second = command(engine.root.path()).env(Layout::ENCLOSE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another engine listens on"), "{said}");
    assert_eq!(engine.health().await["running"], 0);
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let Some(engine) = Engine::start(|spec| spec.context = 256) else { return };
    let (status, bytes) = engine.ask("/v1/chat/completions", &question(&"word ".repeat(600))).await;
    let error: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains(" 256 tokens,") && message.contains("the prompt has 6"), "{message}");
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
    let words = refusal(&|spec| spec.need = Amount(1 << 50), &weights);
    assert!(words.contains("needs 1024 TiB of memory, and") && words.contains(" are available"), "{words}");
    let words = refusal(&|spec| spec.weights.bytes = Amount(1), &weights);
    assert!(words.contains("where the definition says 1"), "{words}");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.gguf");
    std::fs::write(&broken, vec![b'x'; 4096]).unwrap();
    assert!(refusal(&|_| (), &broken).contains("does not begin with GGUF"));
}

/// What is planned for the engine of `spec` on this machine: all of it, and the buffers.
fn plan(weights: &Path, spec: &EngineSpec) -> (Estimate, Buffers) {
    let bytes = std::fs::read(weights).unwrap();
    let path = "model.gguf".to_owned();
    let file = PinnedFile { path, bytes: Amount(bytes.len() as u64), sha256: Digest::of(b"model") };
    let source = Pinned { uri: "file:model.gguf".to_owned(), files: vec![file], license: None };
    let facts = ModelFacts::from_gguf(source, &bytes).unwrap();
    let tensors = Header::read(bytes.as_slice()).unwrap().tensors.into_iter().map(|tensor| Tensor {
        name: tensor.name,
        shape: tensor.shape,
        tensor_type: tensor.tensor_type.name().to_owned(),
        bytes: tensor.bytes,
    });
    let candidate = Candidate { quant: None, tensors: tensors.collect(), recipe: None };
    let mut host = planned("pi4-8gb").unwrap();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap();
    host.cpu.features = flags.split_whitespace().map(str::to_owned).collect();
    let serving = Serving::from(spec);
    let buffers = estimate::buffers(&facts, &candidate, &serving, &host, Attention::Flash);
    (estimate::footprint(&facts, &candidate, &serving, &host), buffers)
}

/// Adds up the MiB that llama.cpp says after `words`.
fn reported(log: &str, words: &str) -> f64 {
    let after = log.lines().filter_map(|line| line.split_once(words));
    after.map(|(_, rest)| rest.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn an_engine_whose_context_is_full_takes_the_memory_that_was_planned() {
    let Some(given) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let q4_0 = folder.path().join("q4_0.gguf");
    to_q4_0(&given, &q4_0);
    let mut worst: f64 = 0.0;
    for (weights, load, repack, kv, context, slots, micro_batch) in [
        (&given, LoadMode::Mmap, false, KvType::F16, 2048, 1, 512),
        (&q4_0, LoadMode::Read, true, KvType::F16, 1024, 2, 256),
        (&given, LoadMode::Read, false, KvType::Q8_0, 2048, 1, 64),
    ] {
        let mut planned = None;
        let engine = Engine::start_with(weights, |spec| {
            (spec.load, spec.repack, spec.kv) = (load, repack, kv);
            (spec.context, spec.slots, spec.micro_batch) = (context, slots, micro_batch);
            planned = Some(plan(weights, spec));
        });
        let (planned, buffers) = planned.unwrap();
        for (bytes, words) in [
            (buffers.weights + buffers.repacked, "model buffer size"),
            (buffers.kv, "KV buffer size"),
            (buffers.compute, "compute buffer size"),
            (buffers.output, "output buffer size"),
        ] {
            let reported = reported(&engine.log(), words);
            assert!((bytes.as_mib() - reported).abs() < 0.03, "{words}: {bytes} for {reported} MiB");
        }
        let fill = |word: &str| {
            let prompt = format!("{word} ").repeat(context as usize - 32);
            json!({"model": "smol", "prompt": prompt, "temperature": 0})
        };
        let prompts: Vec<Value> = ["la", "no"].iter().take(slots as usize).map(|word| fill(word)).collect();
        let asked = prompts.iter().map(|body| engine.ask("/v1/completions", body));
        for (status, bytes) in futures_util::future::join_all(asked).await {
            let reply: Value = serde_json::from_slice(&bytes).unwrap();
            let total = &reply["usage"]["total_tokens"];
            assert_eq!((status, total), (StatusCode::OK, &json!(context)), "{reply}");
        }
        let peak = Amount(Process(engine.child.id()).peak().unwrap());
        let off = 100.0 * (planned.need.0 as f64 / peak.0 as f64 - 1.0);
        println!(
            "{load:?} {kv:?}: planned {} {:?}, at most {peak}: {off:+.2} %",
            planned.need, planned.parts
        );
        worst = worst.max(off.abs());
        engine.stop();
    }
    println!("memory.rss_error_pct = {worst:.2}");
    assert!(worst <= 5.0, "{worst} %");
}
