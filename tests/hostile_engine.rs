//! An engine's own door under attack: whatever comes to its socket, in its template or in its weights, it answers with
//! an error of ours, keeps within its memory, and serves others meanwhile and afterwards.
//!
//! `BRAMBLE_TEST_GGUF` names the model, as for `tests/engine.rs`. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bramble_fleet::generation::Layout;
use bramble_fleet::gguf::{Array, Header, Value as Field};
use bramble_fleet::quant::TensorType;
use daemon::{Engine, command, install, model, spec};
use rewrite::{rewritten, with_key};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/rewrite.rs"]
mod rewrite;

const MIB: u64 = 1 << 20;

/// Just under the largest body that is taken.
const GIANT: usize = (4 << 20) - 256;

/// What JSON is made of, and what it is not.
const NOISE: &[u8] = b"{}[]\",:0-9eE\\ \n\x00\xff";

/// Far more than any reply here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A sequence of numbers that is the same each time (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % sides as u64).unwrap()
    }
}

/// What came back: a status, and what is behind the head.
struct Reply {
    status: u16,
    body: Vec<u8>,
}

impl Reply {
    /// Reads all that comes; none if nothing does.
    async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Self> {
        let mut bytes = Vec::new();
        // an end in disorder is one, too
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let status = std::str::from_utf8(&bytes[9..12]).unwrap().parse().unwrap();
        Some(Self { status, body: bytes.split_off(head + 4) })
    }

    fn error(&self) -> Value {
        let value: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.status, String::from_utf8_lossy(&self.body)));
        value["error"].clone()
    }

    fn message(&self) -> String {
        self.error()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Holds it to an answer, or a refusal in OpenAI's form that is no fault of ours.
    #[track_caller]
    fn check(&self, asked: &[u8]) {
        let asked = String::from_utf8_lossy(&asked[..asked.len().min(300)]).into_owned();
        assert!(matches!(self.status, 200 | 400..=499 | 503), "{}: {asked}", self.status);
        if self.status != 200 {
            let error = self.error();
            assert!(error["message"].is_string() && error["type"].is_string(), "{error}: {asked}");
        }
    }
}

async fn connect(engine: &Engine) -> UnixStream {
    let socket = Layout::new(engine.root.path()).engine_socket(&"smol".parse().unwrap());
    let began = Instant::now();
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => return stream,
            // those who came before are not let in yet
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends `parts` one after the other, for as long as they are taken, and reads the reply.
async fn send(engine: &Engine, parts: impl Iterator<Item = Vec<u8>>) -> Option<Reply> {
    let (mut reader, mut writer) = connect(engine).await.into_split();
    let write = async {
        for part in parts {
            if writer.write_all(&part).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(write, Reply::read(&mut reader)).1
}

fn head(path: &str, length: usize) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

async fn post(engine: &Engine, path: &str, body: &[u8]) -> Reply {
    let parts = [head(path, body.len()), body.to_vec()];
    let reply = send(engine, parts.into_iter()).await;
    reply.unwrap_or_else(|| panic!("no reply: {}", String::from_utf8_lossy(&body[..body.len().min(300)])))
}

async fn ask(engine: &Engine, path: &str, body: &Value) -> Reply {
    post(engine, path, body.to_string().as_bytes()).await
}

/// Asks what everybody may ask; returns how long it took.
async fn is_served(engine: &Engine) -> Duration {
    let began = Instant::now();
    let body = json!({"model": "smol", "prompt": "The sea is", "max_tokens": 4, "temperature": 0});
    let reply = ask(engine, "/v1/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    began.elapsed()
}

/// Reads a file that the kernel has of a process.
fn proc(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default()
}

/// The memory of a process that is its own, not a file's.
fn anonymous(process: u32) -> u64 {
    let status = proc(process, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.map_or(0, |line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10)
}

/// The time that a process has computed for.
fn computed(process: u32) -> Duration {
    let stat = proc(process, "stat");
    // the name may have blanks; the eleventh and twelfth behind the state are ticks of 10 ms
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let ticks: u64 = [12, 13].iter().map(|&at: &usize| fields[at].parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Keeps in mind the most memory of its own that a program has while this is here.
struct Watch {
    before: u64,
    is_over: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start(engine: &Engine) -> Self {
        let process = engine.child.id();
        let before = anonymous(process);
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let watching = std::thread::spawn(move || {
            let mut most = 0;
            while !told.load(Ordering::Relaxed) {
                most = most.max(anonymous(process));
                std::thread::sleep(Duration::from_millis(3));
            }
            most
        });
        Self { before, is_over, watching }
    }

    /// Holds the growth to `most`.
    #[track_caller]
    fn end(self, what: &str, most: u64) {
        self.is_over.store(true, Ordering::Relaxed);
        let grown = self.watching.join().unwrap().saturating_sub(self.before);
        println!("{what}: {} MiB more", grown / MIB);
        assert!(grown <= most, "{what}: {} MiB more", grown / MIB);
    }
}

fn text(prompt: &str) -> Value {
    json!({"model": "smol", "prompt": prompt, "max_tokens": 1, "temperature": 0})
}

#[tokio::test]
async fn malformed_requests_are_refused_and_none_is_left_without_a_reply() {
    let Some(engine) = Engine::start(|spec| spec.context = 128) else { return };
    let valid = r#"{"model":"smol","messages":[{"role":"user","content":"hi"}],"prompt":"hi","max_tokens":1,
        "temperature":0.5,"stop":["a"],"n":1,"logit_bias":{"5":-1.5},"response_format":{"type":"text"}}"#;
    let deep = |open: &str, close: &str| {
        format!("{{\"model\":\"smol\",\"prompt\":{}1{}}}", open.repeat(100_000), close.repeat(100_000))
    };
    let refused: Vec<Vec<u8>> = [
        "", "{", "[]", "null", "\"", "7", "{}", "}{", "{\"model\"", "\u{feff}{}", "{\"model\":\"smol\"}",
        r#"{"model":"smol","prompt":"hi"} more"#,
        r#"{"model":"smol","prompt":NaN,"messages":NaN}"#,
        r#"{"model":"smol","prompt":"hi","messages":[{"role":"user","content":"hi"}],"temperature":NaN}"#,
        r#"{"model":"smol","prompt":"hi","messages":[{"role":"user","content":"hi"}],"temperature":1e999}"#,
        r#"{"model":"smol","prompt":"hi","messages":[{"role":"user","content":"hi"}],"max_tokens":1e30}"#,
        r#"{"model":"smol","prompt":"hi","messages":[{"role":"user","content":"hi"}],"max_tokens":-1}"#,
        r#"{"model":"smol","prompt":"hi","messages":[{"role":"user","content":"hi"}],"n":99999999999999999999}"#,
        r#"{"model":"smol","prompt":7,"messages":7}"#,
        r#"{"model":["smol"],"prompt":"hi","messages":[]}"#,
        r#"{"model":"smol","prompt":"hi\ud800","messages":[{"role":"user","content":"hi\ud800"}]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([&b"\xff\xfe"[..], b"{\"model\":\"smol\",\"prompt\":\"\xff\"}", b"{\"model\":\"smol\"\0}"].map(<[u8]>::to_vec))
    .chain([deep("[", "]"), deep("{\"a\":", "}"), deep("[{\"a\":", "}]")].map(String::into_bytes))
    .chain([1, 20, 100, valid.len() - 1].map(|length| valid.as_bytes()[..length].to_vec()))
    .collect();
    for path in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"] {
        for body in &refused {
            let reply = post(&engine, path, body).await;
            reply.check(body);
            assert!(reply.status < 500, "{}", reply.status);
            assert!(reply.status != 200 || path.ends_with("tokenize"), "{}", String::from_utf8_lossy(body));
        }
    }
    // the last of a name that is there twice counts, as in other readers
    let twice = br#"{"model":"other","model":"smol","prompt":"hi","max_tokens":1}"#;
    assert_eq!(post(&engine, "/v1/completions", twice).await.status, 200);
    let mut dice = Dice(7);
    let mut statuses = std::collections::BTreeMap::new();
    for number in 0..400 {
        let mut body = valid.as_bytes().to_vec();
        for _ in 0..=dice.roll(4) {
            let (at, other) = (dice.roll(body.len()), dice.roll(body.len()));
            match dice.roll(6) {
                0 => body[at] = u8::try_from(dice.roll(256)).unwrap(),
                1 => drop(body.remove(at)),
                2 => body.insert(at, NOISE[dice.roll(NOISE.len())]),
                3 => body.swap(at, other),
                4 => body.extend_from_within(at.min(other)..at.max(other)),
                _ => body.truncate(at.max(2)),
            }
        }
        let path = ["/v1/completions", "/v1/chat/completions"][number % 2];
        let reply = post(&engine, path, &body).await;
        reply.check(&body);
        *statuses.entry(reply.status).or_insert(0) += 1;
    }
    println!("mutations: {statuses:?}");
    assert!(statuses[&200] > 0 && statuses[&400] > 100, "{statuses:?}");
    is_served(&engine).await;
    engine.stop();
}

#[tokio::test]
async fn a_body_of_a_hundred_mib_is_refused_and_never_held() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    let watch = Watch::start(&engine);
    let mib = || vec![b' '; 1 << 20];
    let declared = std::iter::once(head("/v1/completions", 100 << 20)).chain((0..100).map(|_| mib()));
    let chunked = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = (0..100).map(|_| [&b"100000\r\n"[..], &mib(), b"\r\n"].concat());
    let chunked = std::iter::once(chunked.as_bytes().to_vec()).chain(chunks);
    for reply in [send(&engine, declared).await, send(&engine, chunked).await] {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 413);
        assert_eq!(reply.message(), "the body is larger than 4194304 bytes");
    }
    watch.end("bodies of 100 MiB", 32 * MIB);
    is_served(&engine).await;
    engine.stop();
}

#[tokio::test]
async fn many_large_bodies_that_never_end_take_a_bounded_part_of_the_memory() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    let watch = Watch::start(&engine);
    let half = async |_| {
        let stream = connect(&engine).await;
        let (reader, mut writer) = stream.into_split();
        // those that give way stop taking it
        let _ = writer.write_all(&head("/v1/completions", GIANT)).await;
        let _ = writer.write_all(&vec![b' '; GIANT - 1]).await;
        (reader, writer)
    };
    let held = futures_util::future::join_all((0..64).map(half)).await;
    is_served(&engine).await;
    let mut statuses = std::collections::BTreeMap::new();
    for (mut reader, writer) in held {
        *statuses.entry(Reply::read(&mut reader).await.map(|reply| reply.status)).or_insert(0) += 1;
        drop(writer);
    }
    println!("{statuses:?}");
    // told to come back, or that it took too long
    assert_eq!(statuses[&Some(503)] + statuses[&Some(408)], 64, "{statuses:?}");
    watch.end("64 bodies of 4 MiB", 96 * MIB);
    engine.stop();
}

#[tokio::test]
async fn a_body_of_a_million_values_is_refused_before_it_is_read() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    let watch = Watch::start(&engine);
    for unit in ["[],", "{\"\":1},", "1,"] {
        let values = unit.repeat(GIANT / unit.len());
        let body = format!(
            r#"{{"model":"smol","prompt":"x","max_tokens":1,"other":[{}]}}"#,
            &values[..values.len() - 1]
        );
        let replies = (0..4).map(|_| post(&engine, "/v1/completions", body.as_bytes()));
        for reply in futures_util::future::join_all(replies).await {
            assert!(reply.status == 400 && reply.message().contains("values"), "{}", reply.message());
        }
    }
    watch.end("millions of values", 64 * MIB);
    is_served(&engine).await;
    engine.stop();
}

/// Sends a byte now and then until the other end closes; returns what came back.
async fn drip(stream: UnixStream, start: Vec<u8>) -> Option<u16> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        let mut is_open = writer.write_all(&start).await.is_ok();
        while is_open {
            tokio::time::sleep(Duration::from_millis(500)).await;
            is_open = writer.write_all(b"x").await.is_ok();
        }
    };
    let ((), reply) = tokio::join!(write, Reply::read(&mut reader));
    reply.map(|reply| reply.status)
}

#[tokio::test]
async fn those_who_never_end_what_they_say_keep_nobody_out_and_are_shown_out() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    allow_descriptors(4000);
    is_served(&engine).await;
    let alone = is_served(&engine).await;
    let began = Instant::now();
    let mut slow = Vec::new();
    for number in 0..1000 {
        let is_head = number < 500;
        let start = if is_head {
            b"POST /v1/completions HTTP/1.1\r\nx: ".to_vec()
        } else {
            head("/v1/completions", 4096)
        };
        slow.push((is_head, tokio::spawn(drip(connect(&engine).await, start))));
    }
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        longest = longest.max(is_served(&engine).await);
    }
    println!("alone {alone:?}, among a thousand who dawdle {longest:?}");
    assert!(slow.iter().filter(|(_, slow)| !slow.is_finished()).count() > 500, "they are still there");
    assert!(longest < 3 * alone + Duration::from_secs(2), "{alone:?} alone, {longest:?} among others");
    for (is_head, slow) in slow {
        let status = slow.await.unwrap();
        assert_eq!(status, if is_head { None } else { Some(408) });
    }
    println!("all gone after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    is_served(&engine).await;
    engine.stop();
}

/// Lets this program have so many descriptors, as far as it may; returns how many it has.
fn allow_descriptors(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|now| now < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(most)), maximum: limit.maximum })
            .unwrap();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn limit_descriptors(engine: &Engine, most: u64) {
    let process = rustix::process::Pid::from_child(&engine.child);
    let limit = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(process), Resource::Nofile, limit).unwrap();
}

fn descriptors(engine: &Engine) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", engine.child.id())).unwrap().count() as u64
}

/// The part of one processor that the engine uses for the next two seconds.
async fn load(engine: &Engine) -> f64 {
    let process = engine.child.id();
    let (began, before) = (Instant::now(), computed(process));
    tokio::time::sleep(Duration::from_secs(2)).await;
    computed(process).saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn ten_thousand_connections_at_once_keep_nobody_out() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    let many = allow_descriptors(11_000).min(11_000) - 1000;
    // as systemd starts it
    limit_descriptors(&engine, 1024);
    is_served(&engine).await;
    let watch = Watch::start(&engine);
    let mut crowd = Vec::new();
    for number in 0..many {
        crowd.push(connect(&engine).await);
        if number % 2500 == 2499 {
            println!("{number}: {:?}", is_served(&engine).await);
        }
    }
    assert!(descriptors(&engine) < 1000, "{}", descriptors(&engine));
    let load = load(&engine).await;
    println!("{many} connections, {} open, {load:.2} of a processor", descriptors(&engine));
    assert!(load < 0.5, "{load}");
    assert!(is_served(&engine).await < Duration::from_secs(5));
    watch.end("ten thousand connections", 64 * MIB);
    assert!(!engine.log().contains("cannot accept"), "{}", engine.log());
    drop(crowd);
    engine.stop();
}

#[tokio::test]
async fn an_engine_without_descriptors_waits_for_some() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    limit_descriptors(&engine, descriptors(&engine) + 20);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(connect(&engine).await);
    }
    let load = load(&engine).await;
    println!("without descriptors: {load:.2} of a processor");
    assert!(engine.log().contains("cannot accept a connection"), "{}", engine.log());
    assert!(load < 0.5, "{load}");
    drop(crowd);
    is_served(&engine).await;
    engine.stop();
}

#[tokio::test]
async fn a_giant_prompt_is_refused_before_it_is_cut_and_holds_nobody_up() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    let alone = is_served(&engine).await;
    let watch = Watch::start(&engine);
    for unit in ["a", " ", "1", "word ", "\u{6f22}", "<|im_start|>"] {
        let prompt = unit.repeat(GIANT / unit.len());
        for (path, body) in [
            ("/v1/completions", text(&prompt)),
            (
                "/v1/chat/completions",
                json!({"model": "smol", "messages": [{"role": "user", "content": prompt}]}),
            ),
            ("/tokenize", json!({"content": prompt})),
        ] {
            let began = Instant::now();
            let (reply, other) = tokio::join!(ask(&engine, path, &body), is_served(&engine));
            let (took, message) = (began.elapsed(), reply.message());
            assert_eq!(
                (reply.status, &reply.error()["code"]),
                (400, &json!("context_length_exceeded")),
                "{message}"
            );
            assert!(message.contains(" 512 tokens,") && message.contains("at least "), "{message}");
            assert!(took < 3 * alone + Duration::from_secs(3), "{path} {unit:?}: {took:?}");
            assert!(other < 3 * alone + Duration::from_secs(3), "{path} {unit:?}: {other:?} for the other");
            println!("{path} {unit:?}: {took:?}, the other {other:?}");
        }
    }
    watch.end("giant prompts", 128 * MIB);
    engine.stop();
}

#[tokio::test]
async fn hostile_schemas_end_soon_and_with_words() {
    let Some(engine) = Engine::start(|_| ()) else { return };
    is_served(&engine).await;
    let watch = Watch::start(&engine);
    let branching: serde_json::Map<String, Value> = (1..60)
        .map(|n| {
            let next = json!({"$ref": format!("#/$defs/d{}", n - 1)});
            (format!("d{n}"), json!({"anyOf": [next, {"type": "array", "items": next}]}))
        })
        .chain([("d0".to_owned(), json!({"type": "string"}))])
        .collect();
    let nested = (0..60).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide: serde_json::Map<String, Value> =
        (0..3000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    for (name, is_refused, schema) in [
        ("huge", true, json!({"enum": (0..60_000).map(|n| format!("{n:050}")).collect::<Vec<_>>()})),
        ("many values", false, json!({"enum": (0..4000).map(|n| format!("{n:050}")).collect::<Vec<_>>()})),
        ("many fields", false, json!({"type": "object", "properties": wide})),
        ("nested", false, nested),
        ("branching", false, json!({"$ref": "#/$defs/d59", "$defs": branching})),
        ("a circle", true, json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
        (
            "a circle of two",
            true,
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}),
        ),
        (
            "without end",
            false,
            json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}),
        ),
        ("false", true, json!({"allOf": [{"type": "string"}, {"type": "integer"}]})),
        ("less than least", true, json!({"type": "integer", "minimum": 9, "maximum": 3})),
        ("nothing", true, json!({"enum": []})),
        ("no kind", true, json!({"type": "animal"})),
        ("nowhere", true, json!({"$ref": "#/nowhere"})),
        ("elsewhere", true, json!({"$ref": "http://127.0.0.1:1/schema"})),
        ("no pattern", true, json!({"type": "string", "pattern": "("})),
        (
            "a pattern that blows up",
            false,
            json!({"type": "string", "pattern": "^(a|b|ab|ba){900}(a?){900}$"}),
        ),
        (
            "repeated repetition",
            false,
            json!({"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"}),
        ),
        ("far back", false, json!({"type": "string", "pattern": "^(a|b)*a(a|b){40}$"})),
        (
            "very long",
            false,
            json!({"type": "array", "minItems": 4_000_000_000_u64, "items": {"type": "integer"}}),
        ),
        ("very long text", false, json!({"type": "string", "minLength": 4_000_000_000_u64})),
    ] {
        let mut body = text("Say it: ");
        body["max_tokens"] = json!(6);
        body["response_format"] =
            json!({"type": "json_schema", "json_schema": {"strict": true, "schema": schema, "name": "x"}});
        let began = Instant::now();
        let reply = ask(&engine, "/v1/completions", &body).await;
        let took = began.elapsed();
        println!(
            "{name}: {} after {took:?}: {}",
            reply.status,
            String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)])
        );
        assert!(
            if is_refused { reply.status == 400 } else { matches!(reply.status, 200 | 400) },
            "{name}: {}",
            reply.status
        );
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
        is_served(&engine).await;
    }
    watch.end("hostile schemas", 512 * MIB);
    engine.stop();
}

/// Templates that do not end, or take all of the memory, each by its name.
const TEMPLATES: [(&str, &str); 15] = [
    ("loop", "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"),
    ("gigabytes", "{% for a in range(90000) %}{{ 'x' * 90000 }}{% endfor %}"),
    ("at once", "{{ 'x' * 4000000000 }}"),
    (
        "doubling",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    ),
    (
        "replacing",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}{{ ns.s }}",
    ),
    (
        "joining",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}{{ ns.s }}",
    ),
    (
        "shared",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    ),
    (
        "shared json",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
    ),
    (
        "nested",
        "{% set ns = namespace(s=[]) %}{% for i in range(90000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}",
    ),
    ("deep", "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
    ("wide", "{{ '{:>4000000000}'.format('x') }}"),
    ("giant", "{{ 'x' * 15000000 }}"),
    ("separators", "{{ 1|tojson(separators=['x' * 1000] * 100000000) }}"),
    ("exception", "{{ raise_exception(['x' * 1000] * 100000000) }}"),
    ("times", "{{ strftime_now('%255Y' * 6000000) }}"),
];

/// One that nothing but its time bounds.
const ENDLESS: &str = "{% set a = namespace(s=[1]) %}{% set b = namespace(s=[1]) %}{% for i in range(60) %}\
    {% set a.s = [a.s, a.s] %}{% set b.s = [b.s, b.s] %}{% endfor %}{{ a.s == b.s }}";

#[tokio::test]
async fn hostile_templates_are_refused_soon_and_texts_are_still_completed() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.gguf");
    let cases = TEMPLATES.iter().chain([&("endless", ENDLESS)]);
    let arm = |(name, template): &(&str, &str)| {
        format!("{{% if messages[0].content == '{name}' %}}{template}{{% endif %}}")
    };
    let arms = cases.map(arm).collect::<Vec<_>>().concat();
    with_key(&weights, &changed, "tokenizer.chat_template", &format!("{arms}Well?"));
    let engine = Engine::start_with(&changed, |_| ());
    is_served(&engine).await;
    let chat = |name: &str| json!({"model": "smol", "max_tokens": 1, "messages": [{"role": "user", "content": name}]});
    assert_eq!(ask(&engine, "/v1/chat/completions", &chat("none of them")).await.status, 200);
    let watch = Watch::start(&engine);
    for (name, _) in TEMPLATES {
        let began = Instant::now();
        let reply = ask(&engine, "/v1/chat/completions", &chat(name)).await;
        println!("{name}: {} after {:?}: {}", reply.status, began.elapsed(), reply.message());
        assert_eq!(reply.status, 400, "{name}");
        assert!(began.elapsed() < Duration::from_secs(12), "{name}: {:?}", began.elapsed());
        is_served(&engine).await;
    }
    watch.end("hostile templates", 300 * MIB);
    let began = Instant::now();
    for _ in 0..2 {
        let reply = ask(&engine, "/v1/chat/completions", &chat("endless")).await;
        assert_eq!(reply.status, 400);
        assert!(reply.message().contains("does not end"), "{}", reply.message());
    }
    println!("endless: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    is_served(&engine).await;
    // its thread still runs
    drop(engine);
    for broken in ["{% for", &"[".repeat(100_000), &format!("{{{{ {}1 }}}}", "(".repeat(100_000))] {
        with_key(&weights, &changed, "tokenizer.chat_template", &format!("{{{{ {broken}"));
        let engine = Engine::start_with(&changed, |_| ());
        let reply = ask(&engine, "/v1/chat/completions", &chat("x")).await;
        assert!(reply.status == 400 && reply.message().contains("cannot be read"), "{}", reply.message());
        is_served(&engine).await;
        engine.stop();
    }
}

/// Runs an engine on weights with this header and nothing behind it; returns how it ended, and its last words.
fn ends(weights: &Path, change: impl FnOnce(&mut Header)) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.gguf");
    rewritten(weights, &changed, false, change);
    let root = tempfile::tempdir().unwrap();
    install(root.path(), &spec(changed.metadata().unwrap().len()), &changed);
    let output = command(root.path()).env("RUST_LOG", "error").output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn set(header: &mut Header, key: &str, value: Field) {
    header.metadata.retain(|(name, _)| name != key);
    header.metadata.push((key.to_owned(), value));
}

#[test]
fn weights_that_llama_would_abort_at_are_refused_in_words() {
    let Some(weights) = model() else { return };
    let texts = |texts: Vec<String>| Field::Array(Array::Text(texts));
    let cases: Vec<(&str, Field, &str)> = vec![
        ("llama.block_count", Field::U32(4_000_000_000), "4000000000 layers"),
        ("llama.block_count", Field::U32(0), "0 layers"),
        ("llama.block_count", Field::I32(-1), "0 layers"),
        ("llama.context_length", Field::U32(u32::MAX), "more than can be counted"),
        ("llama.expert_count", Field::U32(4_000_000), "of 4000000 experts"),
        ("llama.expert_used_count", Field::U32(2), "2 of 0 experts"),
        ("llama.rope.scaling.type", Field::from("odd"), "scaled by 'odd'"),
        ("llama.attention.layer_norm_rms_epsilon", Field::F32(-1.0), "epsilon is"),
        ("llama.attention.layer_norm_rms_epsilon", Field::F32(f32::NAN), "epsilon is"),
        ("tokenizer.ggml.model", Field::from("no_vocab"), "no vocabulary"),
        ("tokenizer.ggml.model", Field::from("llama"), "no token for the byte"),
        ("tokenizer.ggml.tokens", texts(vec!["a".to_owned(); 49_152]), "twice"),
        // these llama.cpp refuses itself
        ("tokenizer.ggml.tokens", texts(vec!["a".to_owned()]), "cannot load the weights"),
        ("tokenizer.ggml.tokens", Field::Array(Array::U32(vec![1; 49_152])), "no list of tokens"),
        ("tokenizer.ggml.token_type", Field::Array(Array::I32(vec![1; 10])), "cannot load the weights"),
        ("tokenizer.ggml.scores", Field::Array(Array::F32(vec![0.0; 10])), "cannot load the weights"),
        ("tokenizer.ggml.merges", Field::Array(Array::U32(vec![1; 10])), "cannot load the weights"),
        ("tokenizer.ggml.pre", Field::from("odd"), "cannot load the weights"),
        ("llama.attention.head_count", Field::U32(0), "cannot load the weights"),
        ("llama.attention.head_count", Field::I32(-3), "cannot load the weights"),
        ("llama.attention.head_count_kv", Field::U32(4_000_000_000), "cannot load the weights"),
        ("llama.embedding_length", Field::U32(0), "cannot load the weights"),
        ("llama.embedding_length", Field::U32(4_000_000_000), "cannot load the weights"),
        ("llama.rope.dimension_count", Field::U32(4_000_000), "cannot load the weights"),
        ("general.architecture", Field::from("odd"), "layers"),
    ];
    for (key, value, words) in cases {
        let (code, said) = ends(&weights, |header| set(header, key, value));
        assert_eq!(code, Some(1), "{key}: {said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{key}, {words}: {said}");
    }
    let (code, said) = ends(&weights, |header| header.tensors[1].tensor_type = TensorType::I32);
    assert!(code == Some(1) && said.contains("is of I32"), "{code:?}: {said}");
    let (code, said) = ends(&weights, |header| header.tensors[1].tensor_type = TensorType::F16);
    assert!(code == Some(1) && said.contains("is of F16"), "{code:?}: {said}");
    let (code, said) = ends(&weights, |header| drop(header.tensors.remove(5)));
    assert!(code == Some(1) && said.contains("cannot load the weights"), "{code:?}: {said}");
}

#[tokio::test]
async fn tokens_that_there_are_not_begin_and_end_no_text() {
    let Some(weights) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.gguf");
    rewritten(&weights, &changed, true, |header| {
        for name in ["bos", "eos", "eot", "unknown", "padding"] {
            set(header, &format!("tokenizer.ggml.{name}_token_id"), Field::U32(4_000_000_000));
        }
        set(header, "tokenizer.ggml.add_bos_token", Field::Bool(true));
    });
    let engine = Engine::start_with(&changed, |_| ());
    is_served(&engine).await;
    let mut body = text("A list: ");
    body["response_format"] = json!({"type": "json_object"});
    ask(&engine, "/v1/completions", &body).await.check(b"json_object");
    is_served(&engine).await;
    engine.stop();
}
