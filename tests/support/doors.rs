//! Three hosts on this machine, each with a door and an engine that is started again when it ends, and one engine more
//! that nobody disturbs. Clients ask the first host; the others are its fallback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bramble_fleet::generation::Layout;
use bramble_fleet::ids::Digest;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{Instant, sleep};

use crate::daemon;

const KEY: &str = "a-key-of-a-client";
const PEER: &str = "a-key-between-hosts";
const NAMES: [&str; 3] = ["kitchen", "desk", "attic"];

/// How long systemd would wait before it starts an engine again that has ended.
const RESTART: Duration = Duration::from_millis(500);

/// Tokens of a step. From 64 on llama.cpp attends by another function, which sums in another precision: what an engine
/// says would depend on how much of a prompt it computed at once long before, by far more than a near tie (0.37 between
/// the likeliest two of the first difference, measured). Below, answers are the same to the last digit.
const EVEN: u32 = 32;

/// Prints a figure.
pub(crate) fn figure(name: &str, value: &str) {
    println!("{name} = {value}");
}

/// A process that is killed when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An engine that is started again when it ends.
struct Kept {
    process: Arc<AtomicI32>,
    is_over: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Kept {
    fn start(root: PathBuf) -> Self {
        let (process, is_over) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let (number, over) = (Arc::clone(&process), Arc::clone(&is_over));
        let keeper = std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let log =
                    std::fs::OpenOptions::new().append(true).create(true).open(root.join("log")).unwrap();
                let mut child = daemon::command(&root).stderr(log).spawn().unwrap();
                number.store(Pid::from_child(&child).as_raw_nonzero().get(), Ordering::SeqCst);
                if over.load(Ordering::SeqCst) {
                    child.kill().ok();
                }
                child.wait().unwrap();
                number.store(0, Ordering::SeqCst);
                std::thread::sleep(RESTART);
            }
        });
        Self { process, is_over, keeper: Some(keeper) }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = Pid::from_raw(self.process.load(Ordering::SeqCst)) {
            kill_process(process, signal).ok();
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.signal(Signal::KILL);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
        self.keeper.take().map(JoinHandle::join);
    }
}

/// One host.
struct Host {
    socket: PathBuf,
    engine: Kept,
    _router: Killed,
    _root: tempfile::TempDir,
}

impl Host {
    fn start(nth: usize, weights: &Path, ports: [u16; 3], far: u16) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut spec = daemon::spec(weights.metadata().unwrap().len());
        (spec.slots, spec.micro_batch) = (2, EVEN);
        daemon::install(root.path(), &spec, &weights.canonicalize().unwrap());
        let generation = Layout::new(root.path()).current().canonicalize().unwrap();
        let hop = |upstream: &str| {
            let pace = json!({"prompt": 200.0, "answer": 50.0, "load_seconds": 1.0});
            json!({"upstream": upstream, "model": "smol", "quant": "Q4_1", "pace": pace})
        };
        let route = |model: &str, order: Vec<Value>| json!({"model": model, "order": order, "overflow_queue": null, "first_token_seconds": 5.0});
        let host = |name: &str, port: u16| json!({"name": name, "kind": {"kind": "host", "url": format!("http://127.0.0.1:{port}")}});
        let mut order = vec![hop("local")];
        if nth == 0 {
            order.extend(["far", "attic"].map(hop));
        }
        let path = Layout::definition(&generation);
        let mut definition: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        definition["host"] = NAMES[nth].into();
        definition["door"]["port"] = ports[nth].into();
        definition["door"]["upstreams"] = json!([
            {"name": "local", "kind": {"kind": "local"}},
            host("far", far), host("attic", ports[2]),
        ]);
        definition["door"]["routes"] =
            json!([route("smol", order), route("cut", vec![hop("far"), hop("attic")])]);
        std::fs::write(path, definition.to_string()).unwrap();
        let key = |id: &str, key: &str, scope: &str| json!({"id": id, "sha256": Digest::of(key.as_bytes()), "scopes": [scope]});
        let secrets = json!({
            "keys": [key("laptop", KEY, "infer"), key("peer", PEER, "peer")],
            "peer_key": PEER, "foreign_keys": {},
        });
        std::fs::write(Layout::secrets(&generation), secrets.to_string()).unwrap();

        let socket = Layout::new(root.path()).engine_socket(&spec.model);
        let engine = Kept::start(root.path().to_owned());
        let log = std::fs::File::create(root.path().join("door.log")).unwrap();
        let mut router = Command::new(env!("CARGO_BIN_EXE_brambled"));
        router.args(["route", "--root"]).arg(root.path()).stdin(Stdio::null()).stderr(log);
        Self { socket, engine, _router: Killed(router.spawn().unwrap()), _root: root }
    }

    async fn health(&self) -> Option<Value> {
        let stream = UnixStream::connect(&self.socket).await.ok()?;
        let health = exchange(stream, Method::GET, "/health", "");
        let health = tokio::time::timeout(Duration::from_secs(5), health).await;
        serde_json::from_slice(&health.ok()??.body).ok()
    }
}

/// What a client was told.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Why it was not the first choice.
    pub(crate) why: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) error: Option<Value>,
    pub(crate) finish: Option<String>,
    pub(crate) is_done: bool,
    /// What each upstream said, in turn.
    pub(crate) parts: Vec<String>,
    /// Tokens of the answer.
    pub(crate) usage: Option<u64>,
}

struct Exchanged {
    status: u16,
    why: Option<String>,
    retry_after: Option<u64>,
    body: Bytes,
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    path: &str,
    body: &str,
) -> Option<Exchanged> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "x");
    let request = request.header(AUTHORIZATION, format!("Bearer {KEY}"));
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let reply = sender.send_request(request).await.ok()?;
    let header = |name: &str| Some(reply.headers().get(name)?.to_str().unwrap().to_owned());
    let status = reply.status().as_u16();
    let (why, retry_after) = (header("x-bramble-fallback-reason"), header("retry-after"));
    let retry_after = retry_after.map(|seconds| seconds.parse().unwrap());
    let body = reply.into_body().collect().await.ok()?.to_bytes();
    Some(Exchanged { status, why, retry_after, body })
}

impl Answer {
    fn read(told: Exchanged, is_stream: bool) -> Self {
        let Exchanged { status, why, retry_after, body } = told;
        let mut answer = Self { status, why, retry_after, ..Self::default() };
        let text = std::str::from_utf8(&body).unwrap();
        if status != 200 || !is_stream {
            let value: Value = serde_json::from_str(text).unwrap();
            if status == 200 {
                answer.parts.push(String::new());
                answer.is_done = true;
            }
            answer.add(&value);
            return answer;
        }
        answer.parts.push(String::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(!answer.is_done, "something comes after the end: {text}");
            match line.strip_prefix("data: ") {
                Some("[DONE]") => answer.is_done = true,
                Some(data) => answer.add(&serde_json::from_str(data).unwrap()),
                None if line.starts_with(": continued") => answer.parts.push(String::new()),
                None => panic!("what is {line:?}?"),
            }
        }
        answer
    }

    fn add(&mut self, value: &Value) {
        if let Some(error) = value.get("error") {
            self.error = Some(error.clone());
        }
        self.usage = value["usage"]["completion_tokens"].as_u64().or(self.usage);
        let choice = &value["choices"][0];
        let texts = [&choice["text"], &choice["delta"]["content"], &choice["message"]["content"]];
        if let Some(part) = self.parts.last_mut() {
            texts.into_iter().filter_map(Value::as_str).for_each(|text| part.push_str(text));
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            assert!(self.finish.is_none(), "it ends twice");
            self.finish = Some(finish.to_owned());
        }
    }

    fn text(&self) -> String {
        self.parts.concat()
    }
}

/// All of them.
pub(crate) struct Fleet {
    hosts: [Host; 3],
    calm: daemon::Engine,
    door: u16,
    way: Arc<Mutex<Way>>,
}

/// The way from the first host to the second.
#[derive(Default)]
struct Way {
    /// How many bytes the next answers may have; when there are no more, as many as they like.
    lengths: Vec<usize>,
    /// When the first host connected.
    connections: Vec<Instant>,
}

impl Fleet {
    pub(crate) async fn start(weights: &Path) -> Self {
        let ports: [u16; 3] = std::array::from_fn(|_| free_port());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let far = listener.local_addr().unwrap().port();
        let way = Arc::new(Mutex::new(Way::default()));
        tokio::spawn(relay(listener, ports[1], Arc::clone(&way)));
        let hosts = std::array::from_fn(|nth| Host::start(nth, weights, ports, far));
        let calm = daemon::Engine::start_with(weights, |spec| (spec.slots, spec.micro_batch) = (1, EVEN));
        let fleet = Self { hosts, calm, door: ports[0], way };
        fleet.await_ready(&[0, 1, 2]).await;
        for port in ports {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        }
        fleet
    }

    /// Waits until the engines of these hosts are loaded.
    pub(crate) async fn await_ready(&self, hosts: &[usize]) {
        for &host in hosts {
            while self.hosts[host].health().await.is_none_or(|health| health["status"] != "ready") {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Returns how many answers the engine of a host computes.
    pub(crate) async fn running(&self, host: usize) -> u64 {
        let health = self.hosts[host].health().await;
        health.and_then(|health| health["running"].as_u64()).unwrap_or(0)
    }

    pub(crate) fn signal(&self, host: usize, signal: Signal) {
        self.hosts[host].engine.signal(signal);
    }

    /// Kills all engines, none of which is started again.
    pub(crate) fn kill_for_good(&self) {
        self.hosts.iter().for_each(|host| host.engine.end());
    }

    /// Changes what is done to the answers of the second host that come through the proxy.
    pub(crate) fn cut(&self, lengths: Vec<usize>) {
        self.way.lock().unwrap().lengths = lengths;
    }

    /// Returns how long after `then` the first host connected to the second.
    pub(crate) fn connected_after(&self, then: Instant) -> Option<Duration> {
        let way = self.way.lock().unwrap();
        way.connections.iter().find(|at| **at >= then).map(|at| *at - then)
    }

    /// Asks the door.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Answer {
        let stream = TcpStream::connect(("127.0.0.1", self.door)).await.unwrap();
        let told = exchange(stream, Method::POST, path, &body.to_string()).await;
        let told = told.unwrap_or_else(|| panic!("the door did not answer {body}"));
        Answer::read(told, body["stream"] == true)
    }

    /// Returns what an engine says that nobody disturbs.
    pub(crate) async fn undisturbed(&self, path: &str, body: &Value) -> String {
        self.calmly(path, body).await.0.text()
    }

    async fn calmly(&self, path: &str, body: &Value) -> (Answer, Value) {
        let (status, bytes) = self.calm.ask(path, body).await;
        let whole: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status, 200, "{body}: {whole}");
        let told = Exchanged { status: 200, why: None, retry_after: None, body: bytes };
        (Answer::read(told, false), whole)
    }

    /// Returns how many tokens `text` has.
    pub(crate) async fn count(&self, text: &str) -> u64 {
        let (_, bytes) = self.calm.ask("/tokenize", &json!({"content": text})).await;
        let list: Value = serde_json::from_slice(&bytes).unwrap();
        list["tokens"].as_array().unwrap().len() as u64
    }

    /// Returns by how much the likeliest next token is likelier than the second, as logarithms.
    pub(crate) async fn gap(&self, path: &str, body: &Value) -> f64 {
        let mut body = body.clone();
        let chat = body.get("messages").is_some();
        body["logprobs"] = if chat { true.into() } else { 2.into() };
        if chat {
            body["top_logprobs"] = 2.into();
        }
        let (_, whole) = self.calmly(path, &body).await;
        let logprobs = &whole["choices"][0]["logprobs"];
        let text = logprobs["top_logprobs"][0].as_object().into_iter().flat_map(|top| top.values());
        let tokens = logprobs["content"][0]["top_logprobs"].as_array().into_iter().flatten();
        let all = text.chain(tokens.map(|token| &token["logprob"]));
        let mut top: Vec<f64> = all.filter_map(Value::as_f64).collect();
        top.sort_by(|a, b| b.total_cmp(a));
        if let [first, second, ..] = top[..] { first - second } else { f64::INFINITY }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Passes everything on to `port`, and cuts answers off.
async fn relay(listener: TcpListener, port: u16, way: Arc<Mutex<Way>>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let most = {
            let mut way = way.lock().unwrap();
            way.connections.push(Instant::now());
            way.lengths.pop()
        };
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let mut left = most.unwrap_or(usize::MAX);
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                let length = length.min(left);
                left -= length;
                if to_client.write_all(&buffer[..length]).await.is_err() || left == 0 {
                    break;
                }
            }
            asking.abort();
        });
    }
}
