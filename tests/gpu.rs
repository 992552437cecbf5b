//! The engine on a graphics processor, beside the same program on the CPU alone.
//!
//! Without a card, Mesa's software driver stands in for one: llama.cpp takes it where it is named by its number. So this
//! shows that the way is right, and nothing of real cards. `BRAMBLE_TEST_GGUF` names the model, as for
//! `tests/engine.rs`. Run with `just gpu`.
#![cfg(feature = "vulkan")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::path::Path;

use bramble_fleet::gguf::Value as Key;
use bramble_fleet::openai::TextReply;
use bramble_fleet::units::Bytes;
use daemon::{Engine, model};
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/rewrite.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod rewrite;

/// How far the likelihood of a token may be from what the CPU says. The CPU rounds what goes into a block of `Q4_1` to eight
/// bits, which cards need not do: 0.25 was seen with Mesa's driver, with `F16` in it or without, and 0.04 for weights in F16.
const FAR: f64 = 0.4;

/// Two tokens that the CPU finds so near to each other may change places; 0.26 was seen.
const NEAR: f64 = 0.5;

/// The first device, whatever it is; none.
const FIRST: [(&str, &str); 1] = [("GGML_VK_VISIBLE_DEVICES", "0")];
const NONE: [(&str, &str); 1] = [("GGML_VK_VISIBLE_DEVICES", "")];

const PROMPTS: [&str; 6] = [
    "Once upon a time there was a king who",
    "The capital of France is",
    "To bake a good bread, you first need",
    "def fibonacci(n):\n",
    "The three laws of thermodynamics say that",
    "A Raspberry Pi is a small computer that",
];

/// A token of an answer.
#[derive(Debug, PartialEq)]
struct Step {
    token: String,
    logprob: f64,
    /// How much likelier it was than the next.
    gap: f64,
}

async fn answer(engine: &Engine, prompt: &str) -> Vec<Step> {
    let body = json!({"model": "smol", "prompt": prompt, "temperature": 0, "max_tokens": 24, "logprobs": 2});
    let (status, bytes) = engine.ask("/v1/completions", &body).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    let reply: TextReply = serde_json::from_slice(&bytes).unwrap();
    let told = reply.choices[0].logprobs.clone().unwrap();
    let gap = |top: &serde_json::Map<String, Value>| {
        let mut likely: Vec<f64> = top.values().map(|value| value.as_f64().unwrap()).collect();
        likely.sort_by(|a, b| b.total_cmp(a));
        likely.first().zip(likely.get(1)).map_or(f64::INFINITY, |(first, second)| first - second)
    };
    let gaps: Vec<f64> = told.top_logprobs.iter().map(gap).collect();
    let likely = told.token_logprobs.iter().copied().zip(gaps);
    let step = |(token, (logprob, gap))| Step { token, logprob: f64::from(logprob), gap };
    told.tokens.into_iter().zip(likely).map(step).collect()
}

async fn answers(engine: &Engine) -> Vec<Vec<Step>> {
    let mut all = Vec::new();
    for prompt in PROMPTS {
        all.push(answer(engine, prompt).await);
    }
    all
}

/// Holds answers to the CPU's: the same tokens, as likely, up to one that the CPU finds nearly as likely as another.
fn compare(cpu: &[Vec<Step>], gpu: &[Vec<Step>]) {
    let (mut same, mut widest) = (0, 0.0f64);
    let mut partings = Vec::new();
    for ((prompt, cpu), gpu) in PROMPTS.iter().zip(cpu).zip(gpu) {
        let place = cpu.iter().zip(gpu).position(|(a, b)| a.token != b.token);
        let agreed = place.unwrap_or(cpu.len());
        for (a, b) in cpu.iter().zip(gpu).take(agreed) {
            widest = widest.max((a.logprob - b.logprob).abs());
        }
        match place {
            None => {
                assert_eq!(cpu.len(), gpu.len(), "{prompt}");
                same += 1;
            }
            Some(place) => partings.push((*prompt, place, cpu[place].gap)),
        }
    }
    println!("gpu.same_answers = {same}\ngpu.widest_logprob = {widest}\n{partings:?}");
    assert!(widest < FAR, "a token's likelihood is {widest} off");
    for (prompt, place, gap) in partings {
        assert!(gap < NEAR, "{prompt}: token {place} is another, and they are {gap} apart");
    }
}

async fn vector(engine: &Engine) -> Vec<f64> {
    let (status, bytes) =
        engine.ask("/v1/embeddings", &json!({"model": "smol", "input": "the sea in autumn"})).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    let reply: Value = serde_json::from_slice(&bytes).unwrap();
    let numbers = reply["data"][0]["embedding"].as_array().unwrap();
    numbers.iter().map(|number| number.as_f64().unwrap()).collect()
}

async fn layers_told(engine: &Engine) -> String {
    let response = engine.send(Method::GET, "/metrics", &Value::Null).await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("bramble_engine_gpu_layers{"));
    line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next().unwrap().to_owned()
}

fn start(weights: &Path, environment: &[(&str, &str)]) -> Engine {
    Engine::start_in(weights, environment, |_| (), |_| ())
}

#[tokio::test]
async fn a_graphics_processor_answers_as_the_cpu_does() {
    let Some(weights) = model() else { return };
    let engine = start(&weights, &NONE);
    assert!(engine.log().contains("no graphics processor answers by vulkan"), "{}", engine.log());
    assert_eq!((&engine.health().await["gpu"], layers_told(&engine).await.as_str()), (&Value::Null, "0"));
    let (cpu, cpu_vector) = (answers(&engine).await, vector(&engine).await);
    engine.stop();

    let engine = start(&weights, &FIRST);
    let gpu = engine.health().await["gpu"].clone();
    println!("{gpu}");
    assert_eq!((&gpu["layers"], &gpu["of"]), (&json!(31), &json!(31)));
    assert_eq!(layers_told(&engine).await, "31");
    let log = engine.log();
    let name = gpu["cards"][0].as_str().unwrap();
    assert!(log.contains("a graphics processor computes") && log.contains(name), "{log}");
    compare(&cpu, &answers(&engine).await);
    let likeness: f64 = cpu_vector.iter().zip(vector(&engine).await).map(|(a, b)| a * b).sum();
    println!("gpu.embedding_likeness = {likeness}");
    assert!(likeness > 0.999, "{likeness}");
    engine.stop();
}

#[tokio::test]
async fn a_model_that_is_too_large_for_the_card_goes_there_in_part() {
    let Some(weights) = model() else { return };
    let cpu = start(&weights, &NONE);
    let expected = answers(&cpu).await;
    cpu.stop();
    // without a digest nobody compares the size: it is what layers are counted by
    let large = |bytes| {
        move |spec: &mut bramble_fleet::generation::EngineSpec| {
            (spec.weights.digest, spec.weights.bytes) = (None, bytes);
        }
    };
    let mut sizes = (0..8).map(|half| Bytes::gib(512 >> half));
    // the first size of which anything has room is one of which not all has
    let (engine, gpu) = loop {
        let size = sizes.next().unwrap_or_else(|| panic!("not one layer of 4 GiB has room"));
        let engine = Engine::start_in(&weights, &FIRST, large(size), |_| ());
        let gpu = engine.health().await["gpu"].clone();
        if gpu.is_null() {
            engine.stop();
        } else {
            break (engine, gpu);
        }
    };
    println!("{gpu}");
    assert!((1..31).contains(&gpu["layers"].as_u64().unwrap()), "{gpu}");
    compare(&expected, &answers(&engine).await);
    engine.stop();

    let engine = Engine::start_in(&weights, &FIRST, large(Bytes::gib(60_000)), |_| ());
    assert!(engine.log().contains("not one layer has room"), "{}", engine.log());
    assert_eq!((&engine.health().await["gpu"], layers_told(&engine).await.as_str()), (&Value::Null, "0"));
    engine.stop();
}

#[tokio::test]
async fn without_the_systems_vulkan_the_cpu_computes_and_says_so() {
    let Some(weights) = model() else { return };
    let unlink = |program: &Path| {
        let path = program.join("lib/libggml-vulkan.so");
        let mut bytes = std::fs::read(&path).unwrap();
        let name = b"libvulkan.so.1\0";
        let place = bytes.windows(name.len()).position(|part| part == name).unwrap();
        bytes[place..][..name.len()].copy_from_slice(b"libabsent.so.1\0");
        // what was built is linked to
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    let engine = Engine::start_in(&weights, &FIRST, |_| (), unlink);
    let log = engine.log();
    assert!(log.contains("cannot be loaded: vulkan (is libvulkan1 installed?): the CPU computes"), "{log}");
    assert_eq!(engine.health().await["gpu"], Value::Null);
    assert!(!answer(&engine, PROMPTS[1]).await.is_empty());
    engine.stop();
}

#[tokio::test]
async fn a_model_whose_masks_are_changed_is_left_to_the_cpu() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let windowed = folder.path().join("windowed.gguf");
    rewrite::rewritten(&weights, &windowed, true, |header| {
        header.metadata.push(("llama.attention.sliding_window".to_owned(), Key::from(16)));
    });
    let mut told = Vec::new();
    for environment in [NONE, FIRST] {
        let engine = start(&windowed, &environment);
        assert_eq!(engine.health().await["gpu"], Value::Null);
        told.push((
            engine.log().contains("models of this kind are computed by the CPU"),
            answer(&engine, PROMPTS[0]).await,
        ));
        engine.stop();
    }
    assert_eq!((told[0].0, told[1].0), (false, true));
    assert_eq!(told[0].1, told[1].1, "a card that is there changes nothing");
}
