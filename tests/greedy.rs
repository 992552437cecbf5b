//! The engine's tokens beside those of a plain loop over `llama_decode`, in the same build: alone, token for token; with
//! neighbours, a known beginning or other sizes of step, but for places where two tokens are all but equally likely.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use bramble_fleet::openai::{TextReply, TokenList};
use daemon::{Engine, model};
use hyper::StatusCode;
use plain::{LENGTH, Llama, Plain};
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/plain.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod plain;

/// Two tokens whose scores are nearer than this may change places when sums are made in another order.
const EQUAL: f32 = 0.02;

const PROMPTS: [&str; 8] = [
    "Once upon a time there was a king who",
    "The capital of France is",
    "To bake a good bread, you first need",
    "def fibonacci(n):\n",
    "The three laws of thermodynamics say that",
    "My favourite season is autumn, because",
    "In the year 1969, two men",
    "A Raspberry Pi is a small computer that",
];

async fn tokens(engine: &Engine, prompt: &str) -> Vec<i32> {
    let (status, bytes) = engine.ask("/tokenize", &json!({"content": prompt, "add_special": true})).await;
    assert_eq!(status, StatusCode::OK);
    match serde_json::from_slice(&bytes).unwrap() {
        TokenList::Numbers { tokens } => tokens,
        TokenList::Pieces { .. } => panic!("pieces"),
    }
}

fn body(prompt: &str) -> Value {
    json!({"model": "smol", "prompt": prompt, "temperature": 0, "max_tokens": LENGTH, "logprobs": 0})
}

async fn answer(engine: &Engine, prompt: &str) -> Vec<String> {
    let (status, bytes) = engine.ask("/v1/completions", &body(prompt)).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    let reply: TextReply = serde_json::from_slice(&bytes).unwrap();
    reply.choices[0].logprobs.clone().unwrap().tokens
}

/// Returns the first place where an answer is another than the plain loop's; behind the end of one is no other.
fn parting(plain: &Plain, answer: &[String]) -> Option<usize> {
    let is_same = |(bytes, text): &(&Vec<u8>, &String)| *String::from_utf8_lossy(bytes) == **text;
    let same = plain.tokens.iter().zip(answer).take_while(is_same).count();
    (same < plain.tokens.len() || same < answer.len()).then_some(same)
}

#[tokio::test]
async fn it_says_what_llama_decode_says_in_a_plain_loop() {
    let Some(weights) = model() else { return };
    let llama = Llama::load(&weights);
    let mut alone = None;
    let engine = Engine::start_with(&weights, |spec| alone = Some(spec.clone()));
    let alone = alone.unwrap();
    let mut plain = Vec::new();
    for prompt in PROMPTS {
        let made = llama.run(&tokens(&engine, prompt).await, &alone);
        assert!(made.tokens.len() > 8, "{prompt} ends at once");
        let said = answer(&engine, prompt).await;
        assert_eq!(parting(&made, &said), None, "{prompt}: {said:?}");
        plain.push(made);
    }
    // from the cache: the last token of the prompt is computed by itself
    let mut partings = Vec::new();
    for (prompt, plain) in PROMPTS.iter().zip(&plain) {
        partings.push((
            *prompt,
            "again",
            parting(plain, &answer(&engine, prompt).await).map(|place| plain.gaps.get(place).copied()),
        ));
    }
    engine.stop();

    // all eight at once, and in steps that are not those of the plain loop
    let engine = Engine::start_with(&weights, |spec| (spec.slots, spec.micro_batch) = (8, 8));
    let answers = futures_util::future::join_all(PROMPTS.iter().map(|prompt| answer(&engine, prompt))).await;
    for ((prompt, plain), said) in PROMPTS.iter().zip(&plain).zip(&answers) {
        partings.push((
            *prompt,
            "with seven",
            parting(plain, said).map(|place| plain.gaps.get(place).copied()),
        ));
    }
    engine.stop();
    let parted = partings.iter().filter(|(_, _, gap)| gap.is_some()).count();
    println!("greedy.partings = {parted} of {}", partings.len());
    for (prompt, how, gap) in partings {
        let Some(gap) = gap else { continue };
        println!("{prompt} ({how}): {gap:?}");
        assert!(gap.is_some_and(|gap| gap < EQUAL), "{prompt} ({how}) parts where tokens are {gap:?} apart");
    }
}
