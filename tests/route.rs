//! `brambled route` as a process, with an engine's double on a real Unix socket and a
//! desktop's on a real port.
#![expect(clippy::unwrap_used, reason = "a test is a claim that may fail loudly")]

use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bramble_fleet::ids::Digest;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// Far more than anything here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);

const KEY: &str = "a-key-of-a-client";

/// The process; killed when the test ends, however it ends.
struct Router {
    child: Child,
    port: u16,
    manager: UnixDatagram,
    /// The socket that it left with the service manager.
    kept: OwnedFd,
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
        install(root.path(), 1, port, desk, "one");
        Self::launch(root, port)
    }

    /// Kills it and starts it again on what is there.
    fn again(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.kept = std::fs::File::open("/dev/null").unwrap().into();
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        std::fs::remove_file(root.path().join("notify")).unwrap();
        Self::launch(root, self.port)
    }

    fn launch(root: tempfile::TempDir, port: u16) -> Self {
        let manager = UnixDatagram::bind(root.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command(root.path()).spawn().unwrap();
        assert_eq!(hear(&manager).0, "FDSTOREREMOVE=1\nFDNAME=door");
        let (word, kept) = hear(&manager);
        assert_eq!(word, "FDSTORE=1\nFDNAME=door");
        let router = Self { child, port, manager, kept: kept.unwrap(), root };
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
    fn hears(&self, word: &str) -> String {
        let heard = hear(&self.manager).0;
        assert!(heard.starts_with(word), "{heard}");
        heard
    }

    /// Waits for the process that is the service from now on, and takes requests.
    fn hears_of_successor(&self) -> Successor {
        let heard = self.hears("MAINPID=");
        let (pid, rest) = heard["MAINPID=".len()..].split_once('\n').unwrap();
        assert!(rest.starts_with("READY=1\n"), "{heard}");
        Successor(Pid::from_raw(pid.parse().unwrap()).unwrap())
    }

    /// Brings a generation into force, and has the door read it.
    fn bring_in(&self, generation: u64, program: &str) {
        install(self.root.path(), generation, self.port, 1, program);
        self.signal(Signal::HUP);
        self.hears("RELOADING=1\nMONOTONIC_USEC=");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ask(&self) -> BufReader<TcpStream> {
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        post(&mut client, true);
        BufReader::new(client)
    }
}

/// Returns the next word to the service manager, and the descriptor that came with it.
fn hear(manager: &UnixDatagram) -> (String, Option<OwnedFd>) {
    let (mut buffer, mut space) = ([0; 300], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    let length = recvmsg(manager, slices, &mut ancillary, RecvFlags::empty()).unwrap().bytes;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptor)
}

/// A process that is no child of ours; killed when the test ends.
struct Successor(Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

/// Returns what starts the program of the generation in force.
#[expect(clippy::disallowed_methods, reason = "the program under test")]
fn command(root: &Path) -> Command {
    let mut command = Command::new(root.join("current/program/brambled"));
    command.args(["route", "--root"]).arg(root).env("NOTIFY_SOCKET", root.join("notify"));
    command.stderr(Stdio::piped());
    command
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

/// Lays a generation out whose program is ours by that name, or what the test has put there.
fn install(root: &Path, generation: u64, port: u16, desk: u16, program: &str) {
    let folder = root.join(format!("generations/{generation}"));
    std::fs::create_dir_all(&folder).unwrap();
    let programs = root.join("programs").join(program);
    std::fs::create_dir_all(&programs).unwrap();
    let brambled = programs.join("brambled");
    let ours = Path::new(env!("CARGO_BIN_EXE_brambled")).canonicalize().unwrap();
    if !brambled.exists() && std::fs::hard_link(&ours, &brambled).is_err() {
        std::fs::copy(ours, brambled).unwrap();
    }
    std::os::unix::fs::symlink(programs, folder.join("program")).unwrap();
    let hop = |upstream: &str| json!({"upstream": upstream, "model": "chat", "quant": "Q4_0", "pace": null});
    let definition = json!({
        "format": 1, "fleet": "home", "host": "kitchen", "engines": [],
        "program": {"digest": Digest::of(program.as_bytes()), "version": "0"},
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

    let stream = Stream::begin(&router, &engine, 1);

    // a new generation comes into force
    install(router.root.path(), 2, router.port, desk_port, "one");
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
    stream.finish();
    assert!(router.child.wait().unwrap().success());

    let mut log = String::new();
    router.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("key=\"laptop\"").count(), 2, "{log}");
    assert!(!log.contains(KEY) && !log.contains("canary"), "{log}");
}

/// An engine's stream, which is in its middle.
struct Stream {
    client: BufReader<TcpStream>,
    wire: BufReader<UnixStream>,
}

impl Stream {
    fn begin(router: &Router, engine: &UnixListener, generation: u64) -> Self {
        let mut client = router.ask();
        let (wire, _) = engine.accept().unwrap();
        let mut wire = BufReader::new(wire);
        assert!(read_message(&mut wire));
        wire.get_mut().write_all((EVENTS.to_owned() + &event("one")).as_bytes()).unwrap();
        let head = read_until(&mut client, "one");
        assert!(head.contains("x-bramble-upstream: local\r\n"), "{head}");
        assert!(head.contains(&format!("x-bramble-generation: {generation}\r\n")), "{head}");
        Self { client, wire }
    }

    fn finish(mut self) {
        self.wire.get_mut().write_all((event("two") + "data: [DONE]\n\n").as_bytes()).unwrap();
        assert!(read_until(&mut self.client, "[DONE]").contains("two"));
    }
}

const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

/// Somebody who asks without end, half of the time over one connection as long as he may, and tells of each answer: all
/// of them are whole.
fn ask_without_end(port: u16, told: &mpsc::Sender<()>) {
    let mut kept = None;
    for turn in 0_u32.. {
        let mut wire = kept.take().unwrap_or_else(|| {
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(client)
        });
        wire.get_mut().write_all(HEALTHZ).unwrap();
        let head = read_head(&mut wire);
        assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
        if told.send(()).is_err() {
            return;
        }
        let stays = turn % 50 < 25 && !head.contains("connection: close");
        kept = stays.then_some(wire);
    }
}

/// Reads a reply with a length, and returns its head in lower case.
fn read_head(wire: &mut BufReader<impl Read>) -> String {
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        assert_ne!(wire.read_line(&mut line).unwrap(), 0, "cut off after {head}");
        head += &line.to_ascii_lowercase();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    wire.read_exact(&mut vec![0; length.unwrap().parse().unwrap()]).unwrap();
    head
}

#[test]
fn a_new_program_takes_over_and_no_client_notices() {
    let mut router = Router::start(1);
    let engine = router.engine();
    let stream = Stream::begin(&router, &engine, 1);
    let port = router.port;
    let successor = std::thread::scope(|scope| {
        let (told, answers) = mpsc::channel();
        for told in std::iter::repeat_n(told, 4) {
            scope.spawn(move || ask_without_end(port, &told));
        }
        let hear = |number| (0..number).for_each(|_| answers.recv_timeout(PATIENCE).unwrap());
        hear(200);
        router.bring_in(2, "two");
        let successor = router.hears_of_successor();
        hear(2000);
        drop(answers);
        successor
    });
    assert_ne!(successor.0, Pid::from_child(&router.child));

    // new requests are the new program's; the old stream is finished by the old one, which then ends
    let second = Stream::begin(&router, &engine, 2);
    assert!(router.child.try_wait().unwrap().is_none());
    stream.finish();
    assert!(router.child.wait().unwrap().success());
    second.finish();

    // and so on
    install(router.root.path(), 3, router.port, 1, "three");
    kill_process(successor.0, Signal::HUP).unwrap();
    router.hears("RELOADING=1\nMONOTONIC_USEC=");
    let third = router.hears_of_successor();
    assert_ne!(third.0, successor.0);
    Stream::begin(&router, &engine, 3).finish();
    kill_process(third.0, Signal::TERM).unwrap();
    router.hears("STOPPING=1");
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    let router = Router::start(1);
    let engine = router.engine();
    for (generation, script) in
        [(2, "#!/bin/sh\nexit 1\n"), (3, "#!/bin/sh\necho nonsense\n"), (4, "nothing")]
    {
        let program = format!("bad-{generation}");
        let folder = router.root.path().join("programs").join(&program);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("brambled"), script).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join("brambled"), executable).unwrap();
        router.bring_in(generation, &program);
        router.hears("READY=1");
        Stream::begin(&router, &engine, 1).finish();
    }
    // the way back
    router.bring_in(5, "one");
    router.hears("READY=1");
    Stream::begin(&router, &engine, 5).finish();
}

#[test]
fn a_successor_that_dies_is_stood_in_for_by_who_still_finishes() {
    let mut router = Router::start(1);
    let engine = router.engine();
    let stream = Stream::begin(&router, &engine, 1);
    router.bring_in(2, "two");
    let successor = router.hears_of_successor();
    kill_process(successor.0, Signal::KILL).unwrap();
    let again = router.hears_of_successor();
    assert_eq!(again.0, Pid::from_child(&router.child));
    Stream::begin(&router, &engine, 1).finish();
    stream.finish();
    // told to stop while it only finishes
    let stream = Stream::begin(&router, &engine, 1);
    router.bring_in(3, "three");
    let _third = router.hears_of_successor();
    router.signal(Signal::TERM);
    stream.finish();
    assert!(router.child.wait().unwrap().success());
}

#[test]
fn clients_wait_for_a_door_that_died_and_are_not_refused() {
    let mut router = Router::start(1);
    let engine = router.engine();
    router.child.kill().unwrap();
    router.child.wait().unwrap();

    // nobody is there
    let mut client = router.ask();
    let brambled = command(router.root.path());
    #[expect(clippy::disallowed_methods, reason = "what starts the program under test")]
    let mut next = Command::new("sh");
    // as systemd gives it: the third descriptor, and words about it for this very process
    let exec = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=door LISTEN_PID=$$ exec "$0" "$@""#;
    next.args(["-c", exec]).arg(brambled.get_program()).args(brambled.get_args());
    next.env("NOTIFY_SOCKET", router.root.path().join("notify")).stderr(Stdio::piped());
    router.child = next.stdin(router.kept.try_clone().unwrap()).spawn().unwrap();
    for word in ["FDSTOREREMOVE=1", "FDSTORE=1", "READY=1"] {
        router.hears(word);
    }
    let (wire, _) = engine.accept().unwrap();
    let mut wire = BufReader::new(wire);
    assert!(read_message(&mut wire));
    wire.get_mut().write_all((EVENTS.to_owned() + &event("late") + "data: [DONE]\n\n").as_bytes()).unwrap();
    assert!(read_until(&mut client, "[DONE]").contains("late"));

    // a socket on another port than it shall serve is not taken
    router.signal(Signal::TERM);
    router.child.wait().unwrap();
    router.hears("STOPPING=1");
    router.port = free_port();
    install(router.root.path(), 2, router.port, 1, "one");
    router.child = next.stdin(router.kept.try_clone().unwrap()).spawn().unwrap();
    for word in ["FDSTOREREMOVE=1", "FDSTORE=1", "READY=1"] {
        router.hears(word);
    }
    Stream::begin(&router, &engine, 2).finish();
}

#[test]
fn a_cordoned_host_sends_new_requests_elsewhere_also_after_it_was_started_again() {
    let desk = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let router = Router::start(desk.local_addr().unwrap().port());
    // it would answer
    let _engine = router.engine();
    std::fs::write(router.root.path().join("cordon.json"), "{}").unwrap();
    router.signal(Signal::HUP);
    router.hears("RELOADING=1\nMONOTONIC_USEC=");
    router.hears("READY=1");
    let answer = EVENTS.to_owned() + &event("from the desk") + "data: [DONE]\n\n";
    let elsewhere = |router: &Router| {
        let mut client = router.ask();
        let (wire, _) = desk.accept().unwrap();
        let mut wire = BufReader::new(wire);
        assert!(read_message(&mut wire));
        wire.get_mut().write_all(answer.as_bytes()).unwrap();
        let told = read_until(&mut client, "[DONE]");
        let why = "x-bramble-fallback-reason: local: is cordoned and takes no new work\r\n";
        assert!(told.contains("x-bramble-upstream: desk\r\n") && told.contains(why), "{told}");
    };
    elsewhere(&router);
    let router = router.again();
    elsewhere(&router);
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
