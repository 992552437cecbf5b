//! `brambled` on a host without systemd: the real program, its supervisor, and the guard's
//! timer. Engine and router are stubs: this test binary plays them.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;
#[path = "support/stub.rs"]
mod stub;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufRead as _;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::facts::{Cordon, Installed, ServiceState};
use bramble_fleet::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, KvType, Layout, LoadMode, Pace, Program, Secrets,
    Weights,
};
use bramble_fleet::ids::{Digest, Generation};
use bramble_fleet::install::{
    ActivateRequest, Activated, ConfirmRequest, CordonRequest, InstallRequest, ProbeSpec, RemoveRequest,
    RestartRequest,
};
use bramble_fleet::units::{Bytes, TokensPerSec};
use process::Process;
use serde::Serialize;
use serde_json::Value;

struct Host {
    dir: tempfile::TempDir,
    layout: Layout,
    port: u16,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("bramble"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir, layout, port }
    }

    /// Puts a bundle in place whose `brambled` is the real one but for engine and router.
    fn put_program(&self) -> Program {
        let digest = Digest::of(b"program");
        let folder = self.layout.program(&digest);
        if !folder.exists() {
            fs::create_dir_all(&folder).unwrap();
            stub::write_program(&folder.join("brambled"), "engine | route");
        }
        Program { digest, version: "0.1.0".to_owned(), gpu: None }
    }

    fn definition(&self, engines: &[(&str, u32)]) -> Definition {
        let weights = b"weights";
        let blob = self.layout.blob(&Digest::of(weights));
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(blob, weights).unwrap();
        let engine = |&(model, context): &(&str, u32)| EngineSpec {
            model: model.parse().unwrap(),
            weights: Weights {
                recipe: Digest::of(b"recipe"),
                digest: Some(Digest::of(weights)),
                bytes: Bytes(weights.len() as u64),
                quant: None,
                architecture: "llama".to_owned(),
            },
            context,
            slots: 1,
            threads: 1,
            micro_batch: 512,
            load: LoadMode::Mmap,
            repack: false,
            kv: KvType::F16,
            need: Bytes::ZERO,
            keep_prompts: false,
            pace: Pace {
                prompt: TokensPerSec(10.0),
                answer: TokensPerSec(2.0),
                load_seconds: 1.0,
                is_guess: false,
            },
        };
        Definition {
            format: FORMAT,
            fleet: "home".parse().unwrap(),
            host: "kitchen".parse().unwrap(),
            program: self.put_program(),
            engines: engines.iter().map(engine).collect(),
            door: DoorSpec { port: self.port, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
        }
    }

    /// Runs a verb; returns its exit status and the JSON it printed.
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    fn brambled(&self, verb: &str, request: &impl Serialize) -> (i32, Value) {
        let input = self.dir.path().join("request.json");
        fs::write(&input, serde_json::to_vec(request).unwrap()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_brambled"))
            .args([verb, "--root"])
            .arg(self.layout.root())
            .args(if verb == "inspect" { &[][..] } else { &["--lease", "0"] })
            .stdin(fs::File::open(input).unwrap())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    fn lay_out(&self, number: u64, engines: &[(&str, u32)]) {
        let request = InstallRequest {
            generation: Generation::new(number),
            definition: self.definition(engines),
            units: Vec::new(),
            secrets: Secrets::default(),
            from: fs::read_link(self.layout.current())
                .ok()
                .and_then(|current| current.file_name()?.to_str()?.parse().ok()),
            adopt: false,
        };
        assert_eq!(self.brambled("install", &request).0, 0);
    }

    fn probe() -> ProbeSpec {
        ProbeSpec { prompt: "Say yes.".to_owned(), max_tokens: 8, least: BTreeMap::new() }
    }

    /// Returns the lines that `brambled logs` prints.
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    fn logs(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brambled"));
        command.args(["logs", "--root"]).arg(self.layout.root()).args(arguments).stdin(Stdio::null());
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    fn activate(&self, number: u64, deadline_seconds: u64) -> (i32, Activated) {
        let probe = Self::probe();
        let request = ActivateRequest { generation: Generation::new(number), deadline_seconds, probe };
        let (status, answer) = self.brambled("activate", &request);
        (status, serde_json::from_value(answer).unwrap())
    }

    fn bring_in(&self, number: u64, engines: &[(&str, u32)]) {
        self.lay_out(number, engines);
        let (status, activated) = self.activate(number, 60);
        assert!(status == 0 && activated.activated, "{activated:?}");
        let request = ConfirmRequest {
            generation: Generation::new(number),
            plan: "fingerprint".to_owned(),
            at: "2026-11-23T12:00:00Z".to_owned(),
            by: "me@here".to_owned(),
            measured: activated.measured,
        };
        assert_eq!(self.brambled("confirm", &request).0, 0);
    }

    fn inspect(&self) -> Installed {
        serde_json::from_value(self.brambled("inspect", &()).1).unwrap()
    }

    fn current(&self) -> Option<u64> {
        self.inspect().current.map(|(number, _)| number.number())
    }

    /// Returns the process of a service.
    fn pid(&self, service: &str) -> Option<u32> {
        let status = fs::read(self.layout.run_dir().join("supervise.json")).ok()?;
        serde_json::from_slice::<Value>(&status).ok()?["services"][service]["pid"].as_u64()?.try_into().ok()
    }

    fn remove(&self) -> i32 {
        self.brambled("remove", &RemoveRequest { fleet: "home".parse().unwrap(), adopt: false }).0
    }
}

impl Drop for Host {
    /// Leaves no process behind when a test fails.
    fn drop(&mut self) {
        if self.layout.root().exists() {
            self.remove();
        }
    }
}

/// Waits until `is_so`; the processes under test have no event to wait on.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "polls other processes")]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(40);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn services_run_are_started_again_and_change_without_touching_others() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096), ("tagger", 512)]);
    let sound = host.inspect();
    assert_eq!(sound.drift, Vec::<String>::new());
    assert!(sound.memory > Bytes::kib(100), "{}", sound.memory);
    let chat = host.pid("engine-chat").unwrap();
    let (tagger, route) = (host.pid("engine-tagger"), host.pid("route"));

    let pid = i32::try_from(chat).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let is_again = || {
        let state = host.inspect().services["engine-chat"];
        state == ServiceState::Running && host.pid("engine-chat").is_some_and(|pid| pid != chat)
    };
    wait_until("the engine is started again", is_again);

    host.bring_in(2, &[("chat", 8192), ("tagger", 512)]);
    assert_eq!((host.pid("engine-tagger"), host.pid("route")), (tagger, route), "what is the same runs on");

    let (chat, probe) = (host.pid("engine-chat"), Host::probe());
    let request = RestartRequest {
        models: ["chat".parse().unwrap()].into(),
        deadline_seconds: 60,
        probe: probe.clone(),
    };
    let (status, answer) = host.brambled("restart", &request);
    assert!(status == 0 && answer["measured"][0]["model"] == "chat", "{answer}");
    assert_ne!(host.pid("engine-chat"), chat);
    assert_eq!((host.pid("engine-tagger"), host.pid("route")), (tagger, route), "the others run on");
    let cordon = Cordon { by: "me@here".to_owned(), at: "2026-11-23T12:00:00Z".to_owned() };
    let reloads = || {
        let lines = host.logs(&["--lines", "999", "--door"]);
        lines.iter().filter(|line| line["text"].as_str().unwrap().contains("reloaded")).count()
    };
    let before = reloads();
    let (status, answer) = host.brambled("cordon", &CordonRequest { cordon: Some(cordon.clone()) });
    assert_eq!((status, &answer["was_so"]), (0, &Value::Bool(false)), "{answer}");
    assert_eq!(host.inspect().cordon, Some(cordon));
    wait_until("the door has read it", || reloads() > before);
    assert_eq!(host.brambled("cordon", &CordonRequest { cordon: None }).0, 0);
    assert_eq!(host.inspect().cordon, None);
    assert_eq!((host.pid("engine-tagger"), host.pid("route")), (tagger, route), "nothing is started anew");
    let all = RestartRequest { models: BTreeSet::new(), deadline_seconds: 60, probe };
    assert_eq!(host.brambled("restart", &all).0, 0);
    let (tagger, route) = (again(&host, "engine-tagger", tagger), again(&host, "route", route));
    assert_eq!(host.inspect().drift, Vec::<String>::new());

    let said = host.logs(&["--lines", "1"]);
    let services: BTreeSet<&str> = said.iter().map(|line| line["service"].as_str().unwrap()).collect();
    assert!(services.len() == said.len() && services.contains("route"), "{said:?}");
    assert!(host.logs(&["--lines", "3", "--door"]).iter().all(|line| line["service"] == "route"));
    assert_eq!(host.remove(), 0);
    assert!(!host.layout.root().exists());
    let is_gone = |pid: Option<u32>| !Process(pid.unwrap()).is_running();
    wait_until("nothing runs after a removal", || is_gone(tagger) && is_gone(route));
}

/// Returns the process of a service that is another one than `before`.
#[track_caller]
fn again(host: &Host, service: &str, before: Option<u32>) -> Option<u32> {
    let now = host.pid(service);
    assert!(now.is_some() && now != before, "{service}: {before:?}, {now:?}");
    now
}

#[test]
fn a_generation_that_crashes_sends_the_host_back_and_never_exits_as_success() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]);
    host.lay_out(2, &[("chat", stub::CRASHES)]);
    let (status, activated) = host.activate(2, 60);
    let reason = activated.rolled_back.unwrap();
    assert_eq!((status, activated.activated), (1, false), "{reason}");
    assert!(reason.contains("engine-chat") && reason.contains("as the test told me"), "{reason}");
    assert_eq!(host.current(), Some(1));
    wait_until("the old engine runs", || host.inspect().drift.is_empty());
}

#[test]
fn what_is_not_confirmed_is_taken_back_by_the_timer() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]);
    host.lay_out(2, &[("chat", 8192)]);
    let (status, activated) = host.activate(2, 10);
    assert!(status == 0 && activated.activated, "{activated:?}");
    assert_eq!((host.current(), host.inspect().pending), (Some(2), Some(Generation::new(2))));
    wait_until("the timer takes it back", || host.inspect().pending.is_none());
    assert_eq!(host.current(), Some(1));
    let taken_back = "generation 2 was taken back by the host itself: it was not confirmed in time";
    wait_until("the old engine runs", || host.inspect().drift == [taken_back]);
}

#[test]
fn a_first_install_that_is_not_confirmed_leaves_nothing_running() {
    let host = Host::new();
    host.lay_out(1, &[("chat", 4096)]);
    let (_, activated) = host.activate(1, 10);
    assert!(activated.activated, "{activated:?}");
    let route = host.pid("route").unwrap();
    wait_until("the timer takes it back", || host.inspect().pending.is_none());
    assert_eq!(host.current(), None);
    wait_until("the door is gone", || !Process(route).is_running());
}

#[test]
fn what_was_pending_when_the_host_went_down_is_taken_back_at_the_next_start() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]);
    host.lay_out(2, &[("chat", 8192)]);
    assert!(host.activate(2, 600).1.activated);
    // as after a power cut: nothing runs, and the boot is another one
    let supervisor = fs::read_to_string(host.layout.run_dir().join("supervise.pid")).unwrap();
    let supervisor = Process(supervisor.trim().parse().unwrap());
    supervisor.signal(rustix::process::Signal::TERM);
    wait_until("all stops", || !supervisor.is_running());
    let timer = host.layout.root().join("guard/timer.pid");
    let timer = rustix::process::Pid::from_raw(fs::read_to_string(timer).unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process_group(timer, rustix::process::Signal::KILL).unwrap();
    let pending = host.layout.root().join("pending");
    let text = fs::read_to_string(&pending).unwrap();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("boot=")).collect();
    fs::write(&pending, text.join("\n") + "\nboot=another\n").unwrap();

    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut started = Command::new(host.layout.current().join("program/brambled"))
        .args(["supervise", "--root"])
        .arg(host.layout.root())
        .spawn()
        .unwrap();
    wait_until("it is taken back", || host.inspect().pending.is_none());
    assert_eq!(host.current(), Some(1));
    wait_until("the old generation runs", || host.pid("engine-chat").is_some());
    assert_eq!(host.remove(), 0);
    assert!(started.wait().unwrap().success());
}
