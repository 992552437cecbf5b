//! The engine beside llama-server, in pairs that take turns: `scripts/figures engine`.
//!
//! `BRAMBLE_PEER` names a `llama-server` (`tests/peer/build` makes one), `BRAMBLE_TEST_GGUF` the model. Both serve it with
//! the same slots, context, batch and threads. Prints `NAME = VALUE`; run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and read their environment")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement may fail loudly")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::generation::{EngineSpec, Layout};
use bramble_fleet::openai::{TextReply, sse};
use bytes::Bytes;
use daemon::{command, install, model, spec};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use plain::Llama;
use process::Process;
use serde_json::json;
use tokio::net::{TcpStream, UnixStream};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod daemon;
#[path = "support/plain.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod plain;
#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;

/// Pairs of each measure; odd, so that the median is one of them.
const PAIRS: usize = 9;

/// Requests that are served at the same time, and tokens that each may have.
const SLOTS: u32 = 8;
const CONTEXT: u32 = 1024;

const THREADS: u32 = 2;
const BATCH: u32 = 512;

/// One of the two, running.
struct Server {
    child: Child,
    at: At,
    /// Its files; none for the peer.
    _root: Option<tempfile::TempDir>,
    /// From its start until it was ready.
    load: Duration,
}

#[derive(Debug, Clone)]
enum At {
    Socket(PathBuf),
    Port(u16),
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How one answer came.
#[derive(Debug, Clone, Copy)]
struct Came {
    /// From the request to the first token.
    first: Duration,
    /// From the first token to the last.
    rest: Duration,
    prompt: u32,
    tokens: u32,
}

impl At {
    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        match self {
            Self::Socket(path) => {
                let (sender, connection) =
                    handshake(TokioIo::new(UnixStream::connect(path).await.ok()?)).await.ok()?;
                tokio::spawn(connection);
                Some(sender)
            }
            Self::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await.ok()?;
                stream.set_nodelay(true).ok()?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
                tokio::spawn(connection);
                Some(sender)
            }
        }
    }

    /// What it said, of ours.
    fn log(&self) -> String {
        let log = |path: &Path| std::fs::read_to_string(path.parent()?.parent()?.join("log")).ok();
        match self {
            Self::Socket(path) => log(path).unwrap_or_default(),
            Self::Port(_) => String::new(),
        }
    }

    async fn is_ready(&self) -> bool {
        let Some(mut sender) = self.connect().await else { return false };
        let request = Request::get("/health").header("host", "x").body(Full::default()).unwrap();
        sender.send_request(request).await.is_ok_and(|response| response.status().is_success())
    }

    /// Asks for an answer as a stream, and watches it come.
    async fn complete(&self, prompt: &str, tokens: u32) -> Came {
        let body = json!({
            "model": "smol", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": true,
            "stream_options": {"include_usage": true},
        });
        let mut sender = self.connect().await.unwrap();
        let request =
            Request::post("/v1/completions").header("host", "x").header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
        let began = Instant::now();
        let response = sender.send_request(request).await.unwrap();
        assert!(response.status().is_success(), "{:?}", response.status());
        let mut body = response.into_body();
        let mut scanner = sse::Scanner::default();
        let (mut times, mut usage) = (Vec::new(), None);
        'events: while let Some(frame) = body.frame().await {
            let frame = frame.unwrap_or_else(|error| panic!("{self:?}: {error:?} {}", self.log()));
            if let Ok(data) = frame.into_data() {
                scanner.push(&data);
            }
            while let Some(event) = scanner.next().unwrap() {
                if event == sse::DONE {
                    break 'events;
                }
                let reply: TextReply =
                    serde_json::from_str(&event).unwrap_or_else(|error| panic!("{error}: {event}"));
                if reply.choices.iter().any(|choice| !choice.text.is_empty()) {
                    times.push(began.elapsed());
                }
                usage = reply.usage.or(usage);
            }
        }
        let usage = usage.unwrap();
        assert!(usage.completion_tokens >= tokens.min(8), "an answer of {} tokens", usage.completion_tokens);
        let (first, last) = (times[0], times[times.len() - 1]);
        Came {
            first,
            rest: last.saturating_sub(first),
            prompt: usage.prompt_tokens,
            tokens: usage.completion_tokens,
        }
    }
}

async fn wait(child: Child, at: At, root: Option<tempfile::TempDir>, began: Instant) -> Server {
    let mut server = Server { child, at, _root: root, load: Duration::ZERO };
    while !server.at.is_ready().await {
        assert!(server.child.try_wait().unwrap().is_none(), "it ended while it was loading");
        assert!(began.elapsed() < Duration::from_mins(2), "it does not get ready");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.load = began.elapsed();
    server
}

async fn ours(weights: &Path) -> Server {
    let root = tempfile::tempdir().unwrap();
    let spec = EngineSpec {
        slots: SLOTS,
        context: CONTEXT,
        threads: THREADS,
        micro_batch: BATCH,
        ..spec(weights.metadata().unwrap().len())
    };
    install(root.path(), &spec, &weights.canonicalize().unwrap());
    let at = At::Socket(Layout::new(root.path()).engine_socket(&spec.model));
    let log = std::fs::File::create(root.path().join("log")).unwrap();
    let began = Instant::now();
    let child = command(root.path()).stderr(log).spawn().unwrap();
    wait(child, at, Some(root), began).await
}

async fn theirs(program: &Path, weights: &Path) -> Server {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let number = |number: u32| number.to_string();
    let mut command = Command::new(program);
    command.arg("--model").arg(weights);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--alias", "smol"]);
    command.args(["--ctx-size", &number(SLOTS * CONTEXT), "--parallel", &number(SLOTS)]);
    command.args(["--threads", &number(THREADS), "--threads-batch", &number(THREADS)]);
    command.args(["--batch-size", &number(BATCH), "--ubatch-size", &number(BATCH)]);
    // cargo's help for programs in its own folder would give it our libraries
    command.env_remove("LD_LIBRARY_PATH");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let child = command.spawn().unwrap();
    wait(child, At::Port(port), None, began).await
}

/// The middle one, and the ones at a quarter and three quarters.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn show(name: &str, ratios: Vec<f64>) {
    let [low, middle, high] = quartiles(ratios);
    println!("{name} = {middle:.3}");
    println!("{name}.quartiles = {low:.3} {high:.3}");
}

/// Measures both, first one and then the other in turns, and shows the ratio of what `measure` gives: ours to theirs.
async fn pairs(name: &str, servers: &[&Server; 2], measure: impl AsyncFn(&Server, usize) -> f64) {
    let (mut ratios, mut own) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let mut values = [0.0; 2];
        for turn in 0..2 {
            let which = (pair + turn) % 2;
            values[which] = measure(servers[which], pair).await;
        }
        ratios.push(values[0] / values[1]);
        own.push(values[0]);
    }
    println!("{name}.ours = {:.4}", quartiles(own)[1]);
    show(&format!("{name}.vs_server"), ratios);
}

/// A prompt of some `words` that no other `number` shares the beginning of.
fn story(number: usize, words: usize) -> String {
    format!(
        "{number} {number} {number}: Once upon a time {}",
        "there was a king who had a very old garden ".repeat(words / 10)
    )
}

#[tokio::test]
#[ignore = "a measurement"]
async fn beside_llama_server() {
    let Some(weights) = model() else { return };
    let peer = PathBuf::from(
        std::env::var_os("BRAMBLE_PEER").unwrap_or_else(|| panic!("BRAMBLE_PEER names no llama-server")),
    );

    let mut loads = Vec::new();
    for pair in 0..PAIRS {
        let (one, other);
        if pair % 2 == 0 {
            one = ours(&weights).await.load;
            other = theirs(&peer, &weights).await.load;
        } else {
            other = theirs(&peer, &weights).await.load;
            one = ours(&weights).await.load;
        }
        loads.push(one.as_secs_f64() / other.as_secs_f64());
        if pair == 0 {
            println!("load.seconds.ours = {:.3}", one.as_secs_f64());
        }
    }
    show("load.seconds.vs_server", loads);

    let (one, other) = (ours(&weights).await, theirs(&peer, &weights).await);
    let servers = [&one, &other];
    for server in servers {
        // whatever is made at the first request
        server.at.complete("Once upon a time", 8).await;
    }
    pairs("decode", &servers, async |server, pair| {
        let came = server.at.complete(&story(pair, 10), 128).await;
        f64::from(came.tokens - 1) / came.rest.as_secs_f64()
    })
    .await;
    pairs("prefill", &servers, async |server, pair| {
        let came = server.at.complete(&story(100 + pair, 800), 1).await;
        f64::from(came.prompt) / came.first.as_secs_f64()
    })
    .await;
    pairs("ttft_repeat_prefix", &servers, async |server, pair| {
        let prompt = story(200 + pair, 600);
        server.at.complete(&prompt, 1).await;
        server.at.complete(&format!("{prompt} and a dog"), 1).await.first.as_secs_f64()
    })
    .await;
    for streams in [1, 2, 4, 8] {
        let name = if streams == 4 { "four_streams".to_owned() } else { format!("streams.{streams}") };
        pairs(&name, &servers, async |server, pair| {
            let began = Instant::now();
            let prompts: Vec<String> =
                (0..streams).map(|stream| story(1000 * streams + 10 * pair + stream, 10)).collect();
            let all =
                futures_util::future::join_all(prompts.iter().map(|prompt| server.at.complete(prompt, 64)))
                    .await;
            all.iter().map(|came| f64::from(came.tokens)).sum::<f64>() / began.elapsed().as_secs_f64()
        })
        .await;
    }
    let peaks = servers.map(|server| Process(server.child.id()).peak().unwrap() as f64);
    println!("rss.mb.ours = {:.1}\nrss.vs_server = {:.3}", peaks[0] / 1e6, peaks[0] / peaks[1]);
    drop(other);
    overhead(&weights, &one).await;
}

/// Shows what a streamed token takes beside that of a plain loop in turns with it.
async fn overhead(weights: &Path, ours: &Server) {
    const TOKENS: u32 = 128;
    let llama = Llama::load(weights);
    let spec = EngineSpec { context: CONTEXT, threads: THREADS, micro_batch: BATCH, ..spec(0) };
    let (mut over, mut shares) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let prompt = story(5000 + pair, 10);
        let tokens: Vec<i32> = llama.tokens(&prompt);
        let plain = || llama.time(&tokens, TOKENS, &spec).as_secs_f64();
        let streamed = async || {
            let came = ours.at.complete(&prompt, TOKENS).await;
            came.rest.as_secs_f64() / f64::from(came.tokens - 1)
        };
        let (one, other) = if pair % 2 == 0 {
            let plain = plain();
            (plain, streamed().await)
        } else {
            let streamed = streamed().await;
            (plain(), streamed)
        };
        over.push((other - one) * 1e6);
        shares.push(other / one);
    }
    show("overhead_per_token_us", over);
    show("overhead.share", shares);
}
