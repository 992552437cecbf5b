//! What the door costs beside nginx: both stand before the same upstream, which answers at once with the same stream,
//! and are asked in turns by the same clients.
//!
//! A measurement, not a test: `scripts/figures routing` runs it, where nginx is installed. Run with `--release`.
#![expect(clippy::disallowed_methods, reason = "a measurement starts programs and reads its environment")]
#![expect(clippy::unwrap_used, reason = "a measurement may fail loudly")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bramble_fleet::ids::Digest;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpStream, UnixListener, UnixStream};

const KEY: &str = "a-key-of-a-client";

/// Rounds of each figure; in each, all are asked in turns.
const ROUNDS: usize = 9;

/// Requests of one round.
const REQUESTS: usize = 640;

/// Events of a canned answer.
const EVENTS: usize = 16;

/// Between two events of a slow one: a fast model.
const SLOW: Duration = Duration::from_millis(5);

/// A process that is killed when the measurement ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Where clients ask.
#[derive(Clone)]
enum At {
    Socket(PathBuf),
    Port(u16),
}

fn event(text: &str) -> Bytes {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "chat",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}],
    });
    Bytes::from(format!("data: {chunk}\n\n"))
}

/// Answers everybody with the same stream: at once, or, asked for a slow one, with the time in each event.
async fn upstream(listener: UnixListener, began: Instant) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = move |request: Request<hyper::body::Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let is_slow = body.windows(4).any(|word| word == b"slow");
            let events = stream::iter(0..=EVENTS).then(move |nth| async move {
                if is_slow {
                    tokio::time::sleep(SLOW).await;
                }
                let data = match nth {
                    EVENTS => Bytes::from_static(b"data: [DONE]\n\n"),
                    _ => event(&format!("<{}>", began.elapsed().as_nanos())),
                };
                Ok::<_, Infallible>(Frame::data(data))
            });
            let reply = Response::builder().header("content-type", "text/event-stream");
            Ok::<_, Infallible>(reply.body(StreamBody::new(events.boxed())).unwrap())
        };
        tokio::spawn(async move {
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(TokioIo::new(stream), service_fn(answer)).await.ok();
        });
    }
}

async fn connect(at: &At) -> SendRequest<Full<Bytes>> {
    let (sender, driver): (_, tokio::task::JoinHandle<()>) = match at {
        At::Socket(path) => {
            let stream = TokioIo::new(UnixStream::connect(path).await.unwrap());
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            (sender, tokio::spawn(async move { drop(connection.await) }))
        }
        At::Port(port) => {
            let stream = TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            (sender, tokio::spawn(async move { drop(connection.await) }))
        }
    };
    drop(driver);
    sender
}

fn request(content: &str) -> Request<Full<Bytes>> {
    let body = json!({
        "model": "chat", "stream": true,
        "messages": [{"role": "user", "content": format!("{content}{}", " and so on".repeat(50))}],
    });
    let request = Request::post("/v1/chat/completions").header("host", "x");
    let request = request.header("authorization", format!("Bearer {KEY}"));
    request.header("content-type", "application/json").body(Full::new(body.to_string().into())).unwrap()
}

/// Asks on `streams` connections at once. Returns how long each request took, in microseconds.
async fn ask(at: &At, streams: usize) -> Vec<f64> {
    let clients = (0..streams).map(|_| {
        let at = at.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut sender = connect(&at).await;
            for _ in 0..REQUESTS / streams {
                if sender.ready().await.is_err() {
                    sender = connect(&at).await;
                }
                let began = Instant::now();
                let reply = sender.send_request(request("quick")).await.unwrap();
                assert_eq!(reply.status(), 200);
                let body = reply.into_body().collect().await.unwrap().to_bytes();
                took.push(began.elapsed().as_secs_f64() * 1e6);
                assert!(body.ends_with(b"data: [DONE]\n\n"));
            }
            took
        })
    });
    let mut all: Vec<f64> =
        futures_util::future::join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Returns how long events were on their way, in microseconds: the median.
async fn delay(at: &At, began: Instant) -> f64 {
    let mut delays = Vec::new();
    let mut sender = connect(at).await;
    for _ in 0..10 {
        if sender.ready().await.is_err() {
            sender = connect(at).await;
        }
        let mut body = sender.send_request(request("slow")).await.unwrap().into_body();
        while let Some(frame) = body.frame().await {
            let now = began.elapsed().as_nanos();
            let data = frame.unwrap().into_data().unwrap();
            let text = std::str::from_utf8(&data).unwrap();
            let sent = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
            delays.extend(sent.map(|(nanos, _)| (now - nanos.parse::<u128>().unwrap()) as f64 / 1e3));
        }
    }
    assert!(delays.len() >= 10 * (EVENTS - 1));
    median(delays)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn install(root: &Path, port: u16) {
    let folder = root.join("generations/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir(root.join("run")).unwrap();
    let definition = json!({
        "format": 1, "fleet": "home", "host": "kitchen", "engines": [],
        "program": {"digest": Digest::of(b""), "version": "0"},
        "door": {
            "port": port,
            "upstreams": [{"name": "local", "kind": {"kind": "local"}}],
            "routes": [{
                "model": "chat",
                "order": [{"upstream": "local", "model": "chat", "quant": "Q4_0", "pace": null}],
                "overflow_queue": null, "first_token_seconds": 5.0,
            }],
        },
    });
    let secrets = json!({
        "keys": [{"id": "laptop", "sha256": Digest::of(KEY.as_bytes()), "scopes": ["infer"]}],
        "peer_key": "peer", "foreign_keys": {},
    });
    std::fs::write(folder.join("definition.json"), definition.to_string()).unwrap();
    std::fs::write(folder.join("secrets.json"), secrets.to_string()).unwrap();
    std::os::unix::fs::symlink(&folder, root.join("current")).unwrap();
}

fn nginx(root: &Path, port: u16, socket: &Path) -> Killed {
    let text = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log {root}/access.log; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
         fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://unix:{socket}:; proxy_http_version 1.1;\n\
         proxy_buffering off; proxy_set_header Connection close; }} }} }}\n",
        root = root.display(),
        socket = socket.display(),
    );
    let path = root.join("nginx.conf");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(std::env::var_os("BRAMBLE_NGINX").unwrap_or("nginx".into()));
    // it looks for its log before it has read where that is
    command.arg("-e").arg("stderr").arg("-c").arg(path);
    Killed(command.stdin(Stdio::null()).spawn().unwrap())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

async fn await_port(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn status(process: u32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Returns the processor time that a process has taken, in microseconds.
fn cpu(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in hundredths of a second
    [11, 12].map(|nth: usize| fields[nth].parse::<f64>().unwrap() * 1e4).iter().sum()
}

/// Returns how often the threads of a process have been woken up.
fn wakeups(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let numbers = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    numbers.map(|task| status(process, &format!("task/{task}/status"), "voluntary_ctxt_switches:")).sum()
}

async fn idle_wakeups(process: u32) -> f64 {
    const IDLE: Duration = Duration::from_secs(10);
    let before = wakeups(process);
    tokio::time::sleep(IDLE).await;
    (wakeups(process) - before) / IDLE.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement beside nginx, which few have: scripts/figures routing"]
async fn the_door_beside_nginx() {
    let root = tempfile::tempdir().unwrap();
    let (door, peer) = (free_port(), free_port());
    install(root.path(), door);
    let socket = root.path().join("run/engine-chat.sock");
    let began = Instant::now();
    tokio::spawn(upstream(UnixListener::bind(&socket).unwrap(), began));
    let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
    let log = std::fs::File::create(root.path().join("door.log")).unwrap();
    command.args(["route", "--root"]).arg(root.path()).stdin(Stdio::null()).stderr(log);
    let router = Killed(command.spawn().unwrap());
    let process = router.0.id();
    let nginx_folder = Arc::new(tempfile::tempdir().unwrap());
    let nginx = nginx(nginx_folder.path(), peer, &socket);
    await_port(door).await;
    await_port(peer).await;
    let [direct, ours, theirs] = [At::Socket(socket), At::Port(door), At::Port(peer)];

    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("idle_wakeups_per_s = {:.1}", idle_wakeups(process).await);
    let idle: Vec<_> = futures_util::future::join_all((0..250).map(|_| connect(&ours))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("idle.connections = {}", idle.len());
    println!("idle.wakeups_per_s = {:.1}", idle_wakeups(process).await);
    println!("idle.rss_mb = {:.1}", status(process, "status", "VmRSS:") / 1024.0);
    drop(idle);
    tokio::time::sleep(Duration::from_secs(1)).await;

    for streams in [1, 16, 64] {
        let mut figures: [Vec<[f64; 2]>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (at, figures) in [&direct, &ours, &theirs].into_iter().zip(&mut figures) {
                let took = ask(at, streams).await;
                figures.push([took[took.len() / 2], took[took.len() * 99 / 100]]);
            }
        }
        for (nth, name) in ["p50", "p99"].into_iter().enumerate() {
            let [direct, ours, theirs] =
                [0, 1, 2].map(|who: usize| figures[who].iter().map(|both| both[nth]).collect::<Vec<f64>>());
            let over = |proxy: &[f64]| {
                median(proxy.iter().zip(&direct).map(|(with, without)| with - without).collect())
            };
            let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect());
            println!("overhead.{streams}.{name}_us = {:.0}", over(&ours));
            println!("overhead.{streams}.{name}_us.nginx = {:.0}", over(&theirs));
            println!("took.{streams}.{name}.vs_nginx = {ratio:.3}");
        }
    }
    for (name, at, process) in [("", &ours, process), (".nginx", &theirs, nginx.0.id())] {
        let before = cpu(process);
        for _ in 0..ROUNDS {
            ask(at, 16).await;
        }
        println!("cpu_us_per_request{name} = {:.0}", (cpu(process) - before) / (ROUNDS * REQUESTS) as f64);
    }
    let mut delays: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (at, delays) in [&direct, &ours, &theirs].into_iter().zip(&mut delays) {
            delays.push(delay(at, began).await);
        }
    }
    let [direct, ours, theirs] = delays;
    let over =
        |proxy: &[f64]| median(proxy.iter().zip(&direct).map(|(with, without)| with - without).collect());
    println!("sse.added_latency_us = {:.0}", over(&ours));
    println!("sse.added_latency_us.nginx = {:.0}", over(&theirs));
    println!("rss_mb = {:.1}", status(process, "status", "VmRSS:") / 1024.0);
}
