//! `brambled route` as a process, with an engine's double on a real Unix socket and a
//! desktop's on a real port.
#![expect(clippy::unwrap_used, reason = "a test is a claim that may fail loudly")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::ids::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const KEY: &str = "a-key-of-a-client";

/// The process; killed when the test ends, however it ends.
struct Router {
    child: Child,
    port: u16,
    manager: UnixDatagram,
    root: tempfile::TempDir,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Router {
    /// Starts it on generation 1, and waits until it says that it is ready.
    fn start(desk: u16) -> Self {
        let root = tempfile::tempdir().unwrap();
        let port = free_port();
        install(root.path(), 1, port, desk);
        let manager_path = root.path().join("notify");
        let manager = UnixDatagram::bind(&manager_path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
        let command = command.args(["route", "--root"]).arg(root.path()).env("NOTIFY_SOCKET", &manager_path);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let router = Self { child, port, manager, root };
        router.hears("READY=1");
        router
    }

    /// Listens where the engine does.
    fn engine(&self) -> UnixListener {
        let run = self.root.path().join("run");
        std::fs::create_dir(&run).unwrap();
        UnixListener::bind(run.join("engine-chat.sock")).unwrap()
    }

    /// Waits for the next word to the service manager.
    fn hears(&self, word: &str) {
        let mut buffer = [0; 300];
        let length = self.manager.recv(&mut buffer).unwrap();
        let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(heard.starts_with(word), "{heard}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ask(&self) -> BufReader<TcpStream> {
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        post(&mut client, true);
        BufReader::new(client)
    }
}

fn post(client: &mut impl Write, stream: bool) {
    let body =
        json!({"model": "chat", "stream": stream, "messages": [{"role": "user", "content": "canary"}]})
            .to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
    let length = body.len();
    let request = format!("{head}authorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{body}");
    client.write_all(request.as_bytes()).unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn install(root: &Path, generation: u64, port: u16, desk: u16) {
    let folder = root.join(format!("generations/{generation}"));
    std::fs::create_dir_all(&folder).unwrap();
    let hop = |upstream: &str| json!({"upstream": upstream, "model": "chat", "quant": "Q4_0", "pace": null});
    let definition = json!({
        "format": 1, "fleet": "home", "host": "kitchen", "engines": [],
        "program": {"digest": Digest::of(b""), "version": "0"},
        "door": {
            "port": port,
            "upstreams": [
                {"name": "desk", "kind": {"kind": "host", "url": format!("http://127.0.0.1:{desk}")}},
                {"name": "local", "kind": {"kind": "local"}},
            ],
            "routes": [{
                "model": "chat", "order": [hop("local"), hop("desk")],
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
    let link = root.join("next");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    std::fs::rename(link, root.join("current")).unwrap();
}

/// Reads a request, or a reply with a length; returns whether there was one.
fn read_message(wire: &mut BufReader<impl Read>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return wire.read_exact(&mut vec![0; length]).is_ok();
        }
    }
}

fn read_until(client: &mut BufReader<TcpStream>, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        assert_ne!(client.read_line(&mut all).unwrap(), 0, "no {text} in {all}");
    }
    all
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

fn event(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}))
}

#[test]
fn a_stream_outlives_reload_and_shutdown_and_the_desk_takes_over_from_a_dead_engine() {
    let desk = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let desk_port = desk.local_addr().unwrap().port();
    let mut router = Router::start(desk_port);
    let engine = router.engine();

    // a stream from the engine begins
    let mut client = router.ask();
    let (wire, _) = engine.accept().unwrap();
    let mut wire = BufReader::new(wire);
    assert!(read_message(&mut wire));
    wire.get_mut().write_all((EVENTS.to_owned() + &event("one")).as_bytes()).unwrap();
    let head = read_until(&mut client, "one");
    assert!(head.contains("x-bramble-upstream: local\r\n") && head.contains("x-bramble-generation: 1\r\n"));

    // a new generation comes into force
    install(router.root.path(), 2, router.port, desk_port);
    router.signal(Signal::HUP);
    router.hears("RELOADING=1\nMONOTONIC_USEC=");
    router.hears("READY=1");

    // the engine takes nobody any more: the desk answers, unseen
    drop(engine);
    let mut second = router.ask();
    let (other, _) = desk.accept().unwrap();
    let mut other = BufReader::new(other);
    assert!(read_message(&mut other));
    let answer = EVENTS.to_owned() + &event("from the desk") + "data: [DONE]\n\n";
    other.get_mut().write_all(answer.as_bytes()).unwrap();
    let told = read_until(&mut second, "[DONE]");
    assert!(told.contains("x-bramble-upstream: desk\r\n") && told.contains("from the desk"), "{told}");
    assert!(told.contains("x-bramble-fallback-reason: local: connection refused\r\n"), "{told}");

    // the first stream still runs, and finishes though the router is told to stop
    router.signal(Signal::TERM);
    router.hears("STOPPING=1");
    wire.get_mut().write_all((event("two") + "data: [DONE]\n\n").as_bytes()).unwrap();
    assert!(read_until(&mut client, "[DONE]").contains("two"));
    assert!(router.child.wait().unwrap().success());

    let mut log = String::new();
    router.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("key=\"laptop\"").count(), 2, "{log}");
    assert!(!log.contains(KEY) && !log.contains("canary"), "{log}");
}

#[test]
fn without_a_generation_it_ends_and_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
    let ended = command.args(["route", "--root"]).arg(root.path()).output().unwrap();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("apply a manifest to this host first"));
}

/// Prints what the router adds to a request; run with `--run-ignored all --no-capture`.
#[test]
#[ignore = "measures"]
fn added_latency() {
    const BODY: &str = r#"{"model":"chat","choices":[]}"#;
    const ROUNDS: usize = 200;
    let door = Router::start(1);
    let engine = door.engine();
    let socket = door.root.path().join("run/engine-chat.sock");
    let serving = std::thread::spawn(move || {
        for _ in 0..2 * ROUNDS {
            let (wire, _) = engine.accept().unwrap();
            let mut wire = BufReader::new(wire);
            assert!(read_message(&mut wire));
            let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
            wire.get_mut().write_all(reply.as_bytes()).unwrap();
        }
    });
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let to_engine = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let mut wire = UnixStream::connect(&socket).unwrap();
        post(&mut wire, false);
        assert!(read_message(&mut BufReader::new(wire)));
        start.elapsed()
    });
    let direct = median(to_engine.collect());
    let mut client = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    client.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let via_router = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        post(&mut client, false);
        assert!(read_message(&mut reader));
        start.elapsed()
    });
    let routed = median(via_router.collect());
    println!("direct {direct:?}, routed {routed:?}, added {:?}", routed.saturating_sub(direct));
    serving.join().unwrap();
}
