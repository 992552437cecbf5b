//! Engines that are killed, stopped and cut off under a router that is asked all the while: every answer comes, whole,
//! with nothing in it twice. Three hosts on this machine with a real model each, and a fourth engine that nobody
//! disturbs, for comparison.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`; `BRAMBLE_CHAOS_REQUESTS` how many requests each
//! scenario has (24 unless it is set, 1000 for `scripts/figures routing`). Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use daemon::model;
use doors::{Answer, Fleet};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/doors.rs"]
mod doors;

/// Clients that ask at the same time.
const CLIENTS: usize = 3;

/// Between two kills.
const EVERY: Duration = Duration::from_secs(5);

/// Two tokens whose scores are no further apart may change places with the sizes of batches.
const NEAR_TIE: f64 = 0.05;

/// Tokens by which texts may differ that were cut in one piece or in two.
const SPARE: u64 = 4;

const PROMPTS: [&str; 6] = [
    "The capital of France is",
    "To bake a good bread, you first need",
    "The three laws of thermodynamics say that",
    "In the year 1969, two men",
    "A Raspberry Pi is a small computer that",
    "My favourite season is autumn, because",
];

fn requests() -> usize {
    std::env::var("BRAMBLE_CHAOS_REQUESTS").map_or(24, |text| text.parse().unwrap())
}

/// A sequence of numbers that is the same each time (`SplitMix64`).
struct Dice(Cell<u64>);

impl Dice {
    fn roll(&self, sides: usize) -> usize {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut x = self.0.get();
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % sides as u64).unwrap()
    }
}

/// What a client asks for.
struct Asked {
    path: &'static str,
    body: Value,
}

impl Asked {
    fn new(model: &str, nth: usize, dice: &Dice) -> Self {
        let prompt = PROMPTS[dice.roll(PROMPTS.len())];
        let mut body = json!({
            "model": model, "temperature": 0, "max_tokens": 16 + dice.roll(32), "stream": nth.is_multiple_of(2),
        });
        let path = if dice.roll(2) == 0 {
            body["prompt"] = prompt.into();
            "/v1/completions"
        } else {
            body["messages"] = json!([{"role": "user", "content": prompt}]);
            "/v1/chat/completions"
        };
        if nth.is_multiple_of(2) {
            body["stream_options"] = json!({"include_usage": true});
        }
        Self { path, body }
    }

    /// The same, to be answered at once, from where `said` ends.
    fn after(&self, said: &str, most: u64) -> Value {
        let mut body = self.body.clone();
        body["model"] = "smol".into();
        body["stream"] = false.into();
        body["max_tokens"] = most.into();
        body.as_object_mut().unwrap().remove("stream_options");
        if let Some(prompt) = body.get("prompt") {
            body["prompt"] = format!("{}{said}", prompt.as_str().unwrap()).into();
        } else if !said.is_empty() {
            let messages = body["messages"].as_array_mut().unwrap();
            messages.push(json!({"role": "assistant", "content": said}));
        }
        body
    }
}

/// What came of a scenario.
#[derive(Default)]
struct Tally {
    requests: Cell<u64>,
    failed: Cell<u64>,
    truncated: Cell<u64>,
    continued: Cell<u64>,
    elsewhere: Cell<u64>,
    wrong_chars: Cell<u64>,
    near_ties: Cell<u64>,
    refused: Cell<u64>,
    /// What was wrong, in words.
    notes: RefCell<Vec<String>>,
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl Tally {
    fn note(&self, note: String) {
        println!("{note}");
        self.notes.borrow_mut().push(note);
    }

    fn print(&self, scenario: &str) {
        for (name, cell) in [
            ("requests", &self.requests),
            ("failed", &self.failed),
            ("truncated", &self.truncated),
            ("repeated_or_lost_chars", &self.wrong_chars),
            ("continued", &self.continued),
            ("answered_elsewhere", &self.elsewhere),
            ("near_ties", &self.near_ties),
            ("refused", &self.refused),
        ] {
            doors::figure(&format!("chaos.{scenario}.{name}"), &cell.get().to_string());
        }
    }

    /// Every answer was whole, and nothing in it too much.
    fn check(&self, scenario: &str) {
        self.print(scenario);
        let faults = [&self.failed, &self.truncated, &self.wrong_chars, &self.refused].map(Cell::get);
        assert_eq!(faults, [0; 4], "{:#?}", self.notes.borrow());
    }
}

/// Compares an answer with what an engine says that nobody disturbs: from the beginning, and from each place where
/// another went on.
async fn compare(fleet: &Fleet, asked: &Asked, answer: &Answer, tally: &Tally) {
    let most = asked.body["max_tokens"].as_u64().unwrap();
    let mut said = String::new();
    for (nth, part) in answer.parts.iter().enumerate() {
        // what was said may have taken a token more than it has when it is cut anew
        let left = most + SPARE - fleet.count(&said).await.min(most);
        let expected = fleet.undisturbed(asked.path, &asked.after(&said, left)).await;
        let same = expected.chars().zip(part.chars()).take_while(|(a, b)| a == b).count();
        let is_over = answer.finish.as_deref() == Some("stop") && nth + 1 == answer.parts.len();
        // one that broke off or was limited has the beginning of it, one that came to its end all
        let length = part.chars().count();
        let wanted = if is_over { expected.chars().count() } else { length };
        if same < wanted.max(length) {
            let common: String = said.chars().chain(part.chars().take(same)).collect();
            if fleet.gap(asked.path, &asked.after(&common, 1)).await < NEAR_TIE {
                add(&tally.near_ties, 1);
            } else {
                add(&tally.wrong_chars, (wanted.max(length) - same) as u64);
                tally.note(format!("after {said:?} came {part:?} in place of {expected:?}: {}", asked.body));
            }
        }
        said.push_str(part);
    }
    let is_limited = answer.finish.as_deref() == Some("length");
    if answer.usage.is_none_or(|tokens| tokens > most || (is_limited && tokens < most)) {
        add(&tally.wrong_chars, 1);
        tally.note(format!("{:?} tokens are told of {most}: {}", answer.usage, asked.body));
    }
}

/// Has clients ask `model` until there were enough requests.
async fn ask_all(fleet: &Fleet, model: &str, requests: usize, tally: &Tally) {
    let (dice, next) = (Dice(Cell::new(7)), Cell::new(0));
    let client = async || {
        while next.get() < requests {
            let nth = next.replace(next.get() + 1);
            let asked = Asked::new(model, nth, &dice);
            let answer = fleet.ask(asked.path, &asked.body).await;
            add(&tally.requests, 1);
            if answer.status != 200 || answer.error.is_some() {
                add(&tally.failed, 1);
                tally.note(format!("{}: {:?} ({:?})", answer.status, answer.error, answer.why));
                continue;
            }
            if answer.finish.is_none() || !answer.is_done {
                add(&tally.truncated, 1);
                tally.note(format!("no end: {answer:?}"));
            }
            add(&tally.elsewhere, u64::from(answer.why.is_some()));
            add(&tally.continued, answer.parts.len() as u64 - 1);
            compare(fleet, &asked, &answer, tally).await;
        }
    };
    let clients: [_; CLIENTS] = std::array::from_fn(|_| client());
    futures_util::future::join_all(clients).await;
}

/// Does something over and over while `work` goes on.
async fn meanwhile<T>(work: impl Future<Output = T>, act: impl Future<Output = ()>) -> T {
    tokio::select! {
        done = work => done,
        () = act => panic!("the trouble ended before the work did"),
    }
}

#[tokio::test]
async fn after_the_first_byte_the_answer_is_continued_on_the_next_upstream_when_engines_are_killed() {
    let Some(weights) = model() else { return };
    let fleet = Fleet::start(&weights).await;
    let (tally, kills) = (Tally::default(), RefCell::new(Vec::new()));
    let kill = async {
        for host in (0..3).cycle() {
            let began = Instant::now();
            // at least one that is up and loaded remains
            fleet.await_ready(&[(host + 1) % 3, (host + 2) % 3]).await;
            let is_busy = fleet.running(host).await > 0;
            kills.borrow_mut().push((host, is_busy, Instant::now()));
            fleet.signal(host, Signal::KILL);
            sleep(EVERY.saturating_sub(began.elapsed())).await;
        }
    };
    meanwhile(ask_all(&fleet, "smol", requests(), &tally), kill).await;
    let kills = kills.into_inner();
    doors::figure("chaos.killed.kills", &kills.len().to_string());
    // those of the first host while it spoke
    let moments = kills.iter().filter(|(host, is_busy, _)| *host == 0 && *is_busy);
    let mut failovers: Vec<_> = moments.filter_map(|(_, _, at)| fleet.connected_after(*at)).collect();
    failovers.sort();
    if let Some(slowest) = failovers.last() {
        let nth = (failovers.len() * 99).div_ceil(100) - 1;
        doors::figure("failover.kills", &failovers.len().to_string());
        doors::figure("failover.ms_after_kill.p99", &format!("{:.1}", failovers[nth].as_secs_f64() * 1000.0));
        doors::figure("failover.ms_after_kill.most", &format!("{:.1}", slowest.as_secs_f64() * 1000.0));
    }
    tally.check("killed");
    assert!(!kills.is_empty(), "nothing was killed");
}

#[tokio::test]
async fn an_upstream_that_stalls_between_tokens_is_given_up_and_the_answer_goes_on() {
    let Some(weights) = model() else { return };
    let fleet = Fleet::start(&weights).await;
    let tally = Tally::default();
    let stop = async {
        loop {
            fleet.await_ready(&[0, 1, 2]).await;
            sleep(EVERY / 2).await;
            fleet.signal(0, Signal::STOP);
            // longer than anybody waits between two tokens
            sleep(Duration::from_secs(25)).await;
            fleet.signal(0, Signal::CONT);
        }
    };
    meanwhile(ask_all(&fleet, "smol", requests(), &tally), stop).await;
    tally.check("stopped");
}

#[tokio::test]
async fn a_connection_that_is_cut_at_any_byte_loses_and_repeats_nothing() {
    let Some(weights) = model() else { return };
    let fleet = Fleet::start(&weights).await;
    let tally = Tally::default();
    let dice = Dice(Cell::new(3));
    // the heads alone have about 300 bytes, and an event 200
    fleet.cut((0..requests()).map(|_| 100 + dice.roll(6000)).collect());
    ask_all(&fleet, "cut", requests(), &tally).await;
    tally.check("cut");
}

#[tokio::test]
async fn without_any_upstream_there_are_only_clear_errors() {
    let Some(weights) = model() else { return };
    let fleet = Fleet::start(&weights).await;
    let (tally, dice) = (Tally::default(), Dice(Cell::new(9)));
    let begun = async {
        // one that is in the middle of its answer ends with an error, not as if it were whole
        let body = json!({"model": "smol", "prompt": PROMPTS[0], "stream": true, "max_tokens": 300, "logit_bias": {"0": -100, "2": -100}});
        fleet.ask("/v1/completions", &body).await
    };
    let end = async {
        while fleet.running(0).await == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(300)).await;
        fleet.kill_for_good();
    };
    let (begun, ()) = tokio::join!(begun, end);
    assert!(begun.status == 200 && begun.error.is_some() && !begun.is_done, "{begun:?}");
    for nth in 0..requests() {
        let asked = Asked::new("smol", nth, &dice);
        let answer = fleet.ask(asked.path, &asked.body).await;
        add(&tally.requests, 1);
        let is_clear = answer.status == 503 && answer.retry_after.is_some() && answer.error.is_some();
        assert!(is_clear && answer.parts.is_empty(), "{answer:?}");
        add(&tally.refused, 1);
    }
    tally.print("alone");
}
