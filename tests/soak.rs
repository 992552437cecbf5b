//! Many clients at once that ask for this and that, and some go away in the middle: every answer is its own prompt's, every
//! slot comes back, and the memory stays.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`; `BRAMBLE_SOAK_SECONDS` how long it takes (20 unless it is set,
//! 1800 for `scripts/figures engine`). Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use bramble_fleet::openai::{EmbeddingReply, Numbers, TextReply, sse};
use daemon::Engine;
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use process::Process;
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;

const CLIENTS: usize = 8;
const SLOTS: u32 = 4;

/// Memory is compared from here on: what is made once is there by then.
const WARM: Duration = Duration::from_mins(5);

/// What must be told apart: prompts whose answers share no beginning.
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

/// So many characters of an answer must be those of the answer alone; behind them, sums in another order may tell.
const SURE: usize = 12;

/// A sequence of numbers that is the same each time (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }
}

#[derive(Default)]
struct Tally {
    answers: Cell<u64>,
    left: Cell<u64>,
    refused: Cell<u64>,
    parted: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

async fn text(engine: &Engine, body: &Value) -> Option<TextReply> {
    let (status, bytes) = engine.ask("/v1/completions", body).await;
    match status {
        StatusCode::OK => Some(serde_json::from_slice(&bytes).unwrap()),
        StatusCode::SERVICE_UNAVAILABLE => None,
        _ => panic!("{body}: {}", String::from_utf8_lossy(&bytes)),
    }
}

async fn embedding(engine: &Engine, text: &str) -> Option<Vec<f32>> {
    let (status, bytes) = engine.ask("/v1/embeddings", &json!({"model": "smol", "input": text})).await;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let mut reply: EmbeddingReply = serde_json::from_slice(&bytes).unwrap();
    match reply.data.remove(0).embedding {
        Numbers::Floats(values) => Some(values),
        Numbers::Base64(_) => panic!("it was not asked for Base64"),
    }
}

/// One request of one kind or another.
async fn ask(
    engine: &Engine,
    dice: &RefCell<Dice>,
    (alone, states): (&[String], &[Vec<f32>]),
    tally: &Tally,
) {
    let roll = |sides| dice.borrow_mut().roll(sides);
    let which = usize::try_from(roll(PROMPTS.len() as u64)).unwrap();
    let mut body =
        json!({"model": "smol", "prompt": PROMPTS[which], "temperature": 0, "max_tokens": 4 + roll(28)});
    let check = |said: &str| {
        count(&tally.answers);
        let sure = alone[which].chars().zip(said.chars()).take(SURE).all(|(one, other)| one == other);
        assert!(sure, "not the answer to {:?}: {said:?} for {:?}", PROMPTS[which], alone[which]);
        if !alone[which].starts_with(said) {
            count(&tally.parted);
        }
    };
    match roll(7) {
        0 => {
            // leaves after the first piece, or before it
            body["stream"] = json!(true);
            body["max_tokens"] = json!(200);
            let mut frames = engine.send(Method::POST, "/v1/completions", &body).await.into_body();
            if roll(2) == 0 {
                let _ = frames.frame().await;
            }
            count(&tally.left);
        }
        1 => {
            body["stream"] = json!(true);
            let response = engine.send(Method::POST, "/v1/completions", &body).await;
            if response.status() != StatusCode::OK {
                return count(&tally.refused);
            }
            let mut scanner = sse::Scanner::default();
            scanner.push(&response.into_body().collect().await.unwrap().to_bytes());
            let mut said = String::new();
            while let Some(event) = scanner.next().unwrap() {
                if event != sse::DONE {
                    said.push_str(&serde_json::from_str::<TextReply>(&event).unwrap().choices[0].text);
                }
            }
            check(&said);
        }
        2 => {
            body["n"] = json!(2);
            body["logprobs"] = json!(2);
            let Some(reply) = text(engine, &body).await else { return count(&tally.refused) };
            for choice in reply.choices {
                assert_eq!(choice.logprobs.unwrap().tokens.concat(), choice.text);
                check(&choice.text);
            }
        }
        3 => {
            let marks: Vec<String> = (0..3).map(|_| format!("mark-{}", roll(1 << 40))).collect();
            body["json_schema"] = json!({"enum": marks});
            body["max_tokens"] = json!(40);
            let Some(reply) = text(engine, &body).await else { return count(&tally.refused) };
            let said: String = serde_json::from_str(&reply.choices[0].text).unwrap();
            assert!(marks.contains(&said), "{said} is none of {marks:?}");
            count(&tally.answers);
        }
        4 => {
            let Some(values) = embedding(engine, PROMPTS[which]).await else { return count(&tally.refused) };
            let nearness: f32 = values.iter().zip(&states[which]).map(|(one, other)| one * other).sum();
            assert!(nearness > 0.99, "not the embedding of {:?}: {nearness}", PROMPTS[which]);
            count(&tally.answers);
        }
        _ => match text(engine, &body).await {
            Some(reply) => check(&reply.choices[0].text),
            None => count(&tally.refused),
        },
    }
}

fn resident(engine: &Engine) -> f64 {
    Process(engine.child.id()).resident().unwrap() as f64 / f64::from(1 << 20)
}

#[tokio::test]
async fn a_crowd_is_served_for_long_without_a_mix_up_or_a_leak() {
    let seconds = std::env::var("BRAMBLE_SOAK_SECONDS").map_or(20, |text| text.parse().unwrap());
    let Some(engine) = Engine::start(|spec| (spec.slots, spec.context) = (SLOTS, 512)) else { return };
    let (mut alone, mut states) = (Vec::new(), Vec::new());
    for prompt in PROMPTS {
        states.push(embedding(&engine, prompt).await.unwrap());
        let body = json!({"model": "smol", "prompt": prompt, "temperature": 0, "max_tokens": 32});
        alone.push(text(&engine, &body).await.unwrap().choices[0].text.clone());
    }
    let (tally, began) = (Tally::default(), Instant::now());
    let warm = Cell::new(None);
    let client = async |number: u64| {
        let dice = RefCell::new(Dice(number));
        while began.elapsed() < Duration::from_secs(seconds) {
            ask(&engine, &dice, (&alone, &states), &tally).await;
            if began.elapsed() > WARM && warm.get().is_none() {
                warm.set(Some((began.elapsed(), resident(&engine))));
            }
        }
    };
    futures_util::future::join_all((0..CLIENTS as u64).map(client)).await;
    // all slots are there again, and none is left behind
    let patience = Instant::now();
    loop {
        let health = engine.health().await;
        if health["running"] == 0 && health["queued"] == 0 {
            break;
        }
        assert!(patience.elapsed() < Duration::from_mins(1), "{health}");
    }
    let last = resident(&engine);
    println!(
        "soak.seconds = {seconds}\nsoak.answers = {}\nsoak.left = {}",
        tally.answers.get(),
        tally.left.get()
    );
    println!(
        "soak.refused = {}\nsoak.parted = {}\nsoak.rss.mib = {last:.1}",
        tally.refused.get(),
        tally.parted.get()
    );
    assert!(tally.answers.get() > 0 && tally.left.get() > 0);
    if let Some((since, first)) = warm.get() {
        let hours = (began.elapsed().saturating_sub(since)).as_secs_f64() / 3600.0;
        println!("soak.leak.mib_per_hour = {:.2}", (last - first) / hours);
    }
    engine.stop();
}
