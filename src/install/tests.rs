//! The host's side against a folder, with a supervisor that runs services in this
//! process and dies with the power. The guard is the real script.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::task::JoinHandle;

use super::activate::{Moment, activate_with};
use super::record::Pending;
use super::stand::Stand;
use super::*;
use crate::facts::{Foretold, Lingering, Receipt, ReceiptEntry, ServiceState, Supervision};
use crate::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, KvType, Layout, LoadMode, Pace, Program, Secrets,
    Weights,
};
use crate::ids::{Digest, Generation};
use crate::lease::{self, Answer::Granted, Ask, Holder};
use crate::quant::Quant;
use crate::store::{self, Arrival};
use crate::unit::{self, Setting, Unit};
use crate::units::{Bytes, TokensPerSec};

mod cordon;
mod credentials;
mod damage;
mod measured;
mod operators;
mod prune;
mod restart;
mod trust;
mod without_root;

/// Contexts by which an engine of the fake supervisor is told to misbehave.
const NEVER_READY: u32 = 13;
const NO_ANSWER: u32 = 14;

/// The number of the operator's lease.
const LEASE: u64 = 7;

/// A host: a folder, systemd's folder of units, and services in this process.
struct Host {
    _dir: tempfile::TempDir,
    layout: Layout,
    unit_dir: PathBuf,
    port: u16,
    running: Mutex<BTreeMap<String, JoinHandle<()>>>,
    done: Mutex<Vec<Changes>>,
    armed: Mutex<Option<Arming>>,
    supervision: Supervision,
    lingering: Arc<Mutex<Lingering>>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("bramble"));
        let unit_dir = dir.path().join("units");
        fs::create_dir(&unit_dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (running, done, armed) = Default::default();
        let (supervision, lingering) = (Supervision::Systemd { version: 252 }, lingering(Lingering::On));
        Self { _dir: dir, layout, unit_dir, port, running, done, armed, supervision, lingering }
    }

    fn request(&self, number: u64, definition: Definition) -> InstallRequest {
        let now = Stand::current(&self.layout).ok().flatten();
        let from = now.map(|stand| stand.number);
        InstallRequest { from, ..request_for(self.supervision, number, definition) }
    }

    fn put_blob(&self, contents: &[u8]) -> Digest {
        let digest = Digest::of(contents);
        fs::create_dir_all(self.layout.root().join("blobs/sha256")).unwrap();
        fs::write(self.layout.blob(&digest), contents).unwrap();
        store::prove(&self.layout.blob(&digest), &digest).unwrap();
        digest
    }

    fn put_program(&self, version: &str) -> Program {
        let digest = Digest::of(version.as_bytes());
        fs::create_dir_all(self.layout.program(&digest)).unwrap();
        fs::write(self.layout.program(&digest).join("brambled"), version).unwrap();
        Program { digest, version: version.to_owned(), gpu: None }
    }

    /// Defines engines by name and context; what they need is put in place.
    fn definition(&self, engines: &[(&str, u32)]) -> Definition {
        let engine = |&(model, context): &(&str, u32)| {
            let contents = format!("weights of {model}");
            let weights = Weights {
                recipe: Digest::of(model.as_bytes()),
                digest: Some(self.put_blob(contents.as_bytes())),
                bytes: Bytes(contents.len() as u64),
                quant: Some(Quant::Q4KM),
                architecture: "llama".to_owned(),
            };
            let pace = Pace {
                prompt: TokensPerSec(10.0),
                answer: TokensPerSec(2.0),
                load_seconds: 1.0,
                is_guess: false,
            };
            EngineSpec {
                model: model.parse().unwrap(),
                weights,
                context,
                slots: 1,
                threads: 4,
                micro_batch: 512,
                load: LoadMode::Mmap,
                repack: false,
                kv: KvType::F16,
                need: Bytes::ZERO,
                keep_prompts: false,
                pace,
            }
        };
        Definition {
            format: FORMAT,
            fleet: "home".parse().unwrap(),
            host: "kitchen".parse().unwrap(),
            program: self.put_program("0.1.0"),
            engines: engines.iter().map(engine).collect(),
            door: DoorSpec { port: self.port, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
        }
    }

    async fn lay_out(&self, number: u64, engines: &[(&str, u32)]) {
        let request = self.request(number, self.definition(engines));
        install(&self.layout, LEASE, self, request).await.unwrap();
    }

    async fn activate(&self, number: u64) -> Activated {
        activate(&self.layout, LEASE, self, &activation(number)).await.unwrap()
    }

    async fn confirm(&self, number: u64) {
        confirm(&self.layout, LEASE, self, confirmation(number)).await.unwrap();
    }

    /// Installs, activates and confirms.
    async fn bring_in(&self, number: u64, engines: &[(&str, u32)]) {
        self.lay_out(number, engines).await;
        let activated = self.activate(number).await;
        assert!(activated.activated, "{activated:?}");
        let request = ConfirmRequest { measured: activated.measured, ..confirmation(number) };
        confirm(&self.layout, LEASE, self, request).await.unwrap();
    }

    async fn cut_power(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap());
        for service in running.into_values() {
            service.abort();
            let _ = service.await;
        }
        *self.armed.lock().unwrap() = None;
    }

    /// Runs the real guard with a systemctl that does nothing but `also`.
    #[expect(clippy::disallowed_methods, reason = "the guard is a program of the host")]
    fn run_guard(&self, token: &str, also: &str) -> String {
        let bin = self.unit_dir.parent().unwrap().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("systemctl"), format!("#!/bin/sh\necho systemctl \"$@\"\n{also}\n")).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        let is_user = matches!(self.supervision, Supervision::SystemdUser { .. });
        let output = std::process::Command::new("/bin/sh")
            .arg(self.layout.root().join("guard/guard.sh"))
            .arg(self.layout.root())
            .arg(if is_user { "user" } else { "systemd" })
            .arg(&self.unit_dir)
            .args((!token.is_empty()).then_some(token))
            .env("PATH", path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asserts that generation `number`, or nothing, is in force with everything that belongs to it.
    #[track_caller]
    fn assert_whole(&self, number: Option<u64>) {
        assert_eq!(stand::current(&self.layout), number.map(Generation::new));
        assert_eq!(Pending::read(&self.layout).unwrap(), None);
        let wanted = match number {
            Some(number) => Stand::read(&self.layout, Generation::new(number)).unwrap().units,
            None => Vec::new(),
        };
        let found: Vec<Unit> = files::names(&self.unit_dir)
            .unwrap()
            .into_iter()
            .filter(|name| name.starts_with("bramble-"))
            .map(|name| Unit { text: fs::read_to_string(self.unit_dir.join(&name)).unwrap(), name })
            .collect();
        assert_eq!(found, wanted);
        let folders =
            ["multi-user.target.wants", "default.target.wants"].map(|name| self.unit_dir.join(name));
        let linked: Vec<String> = folders.iter().flat_map(|folder| files::names(folder).unwrap()).collect();
        assert!(linked.iter().eq(wanted.iter().map(|unit| &unit.name)), "{linked:?}");
    }
}

fn lingering(state: Lingering) -> Arc<Mutex<Lingering>> {
    Arc::new(Mutex::new(state))
}

fn secrets() -> Secrets {
    Secrets { peer_key: "peer".to_owned().into(), ..Secrets::default() }
}

fn request_for(supervision: Supervision, number: u64, definition: Definition) -> InstallRequest {
    let setting = Setting {
        supervision,
        has_namespaces: true,
        has_render_group: false,
        has_memory_limits: false,
        memory: BTreeMap::new(),
    };
    // a temporary folder may have a name that units do not take
    let units = unit::render(&definition, &Layout::new(Layout::DEFAULT_ROOT), &setting).unwrap();
    let generation = Generation::new(number);
    InstallRequest { generation, definition, units, secrets: secrets(), from: None, adopt: false }
}

fn activation(number: u64) -> ActivateRequest {
    let probe = ProbeSpec { prompt: "Say yes.".to_owned(), max_tokens: 8, least: BTreeMap::new() };
    ActivateRequest { generation: Generation::new(number), deadline_seconds: 3, probe }
}

fn confirmation(number: u64) -> ConfirmRequest {
    ConfirmRequest {
        generation: Generation::new(number),
        plan: "fingerprint".to_owned(),
        at: "2026-11-23T12:00:00Z".to_owned(),
        by: "me@here".to_owned(),
        measured: Vec::new(),
    }
}

/// An engine as far as an activation asks it.
fn engine(context: u32) -> Router {
    let health = move || async move {
        if context == NEVER_READY { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let answer = move || async move {
        let reply = json!({
            "choices": [{ "message": { "content": "Yes." } }], "usage": { "completion_tokens": 8 },
            "timings": { "prompt_ms": 120.0, "predicted_per_second": 5.0 },
        });
        let status = if context == NO_ANSWER { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        (status, Json(reply))
    };
    let answers = post(answer);
    Router::new()
        .route("/health", get(health))
        .route("/v1/chat/completions", answers.clone())
        .route("/v1/completions", answers)
}

#[async_trait]
impl Supervisor for Host {
    fn user(&self) -> Option<&'static str> {
        None
    }

    async fn linger(&self) -> Result<bool, Error> {
        let mut lingering = self.lingering.lock().unwrap();
        match *lingering {
            Lingering::On => Ok(false),
            Lingering::Allowed => {
                *lingering = Lingering::On;
                Ok(true)
            }
            Lingering::Off => {
                Err(Error::Lingering { login: "pi".to_owned(), said: "Access denied".to_owned() })
            }
        }
    }

    async fn end_lingering(&self) -> Result<(), Error> {
        *self.lingering.lock().unwrap() = Lingering::Allowed;
        Ok(())
    }

    async fn verify(&self, _units: &[Unit], at: &Path) -> Result<(), Error> {
        assert!(at.join("program/brambled").exists(), "units are checked where their program is");
        Ok(())
    }

    async fn switch(&self, units: &[Unit], changes: &Changes) -> Result<(), Error> {
        self.done.lock().unwrap().push(changes.clone());
        let (surplus, _) = systemd::put(&self.unit_dir, units)?;
        surplus.iter().try_for_each(|name| systemd::take_away(&self.unit_dir, name))?;
        for name in changes.stop.iter().chain(&changes.restart) {
            let service = self.running.lock().unwrap().remove(name);
            if let Some(service) = service {
                service.abort();
                let _ = service.await;
            }
        }
        let stand = Stand::current(&self.layout)?;
        for name in changes.start.iter().chain(&changes.restart) {
            let definition = &stand.as_ref().unwrap().definition;
            let engines = &definition.engines;
            let spec = engines.iter().find(|spec| unit::engine_service(&spec.model) == *name);
            let service = if let Some(spec) = spec {
                let socket = self.layout.engine_socket(&spec.model);
                let _ = fs::remove_file(&socket);
                let listener = tokio::net::UnixListener::bind(socket).unwrap();
                let engine = engine(spec.context);
                tokio::spawn(async move { axum::serve(listener, engine).await.unwrap() })
            } else {
                let door = Router::new().route("/healthz", get(|| async { "ok" }));
                let listener =
                    tokio::net::TcpListener::bind(("127.0.0.1", definition.door.port)).await.unwrap();
                tokio::spawn(async move { axum::serve(listener, door).await.unwrap() })
            };
            self.running.lock().unwrap().insert(name.clone(), service);
        }
        Ok(())
    }

    async fn restart(&self, services: &[String]) -> Result<(), Error> {
        let units = Stand::current(&self.layout)?.unwrap().units;
        self.switch(&units, &Changes { restart: services.to_vec(), ..Changes::default() }).await
    }

    async fn services(&self, services: &[String]) -> Result<BTreeMap<String, Service>, Error> {
        let running = self.running.lock().unwrap();
        let one = |name: &String| {
            let state =
                if running.contains_key(name) { ServiceState::Running } else { ServiceState::Stopped };
            (name.clone(), Service { state, pid: None, restarts: 0 })
        };
        Ok(services.iter().map(one).collect())
    }

    async fn log(&self, service: &str) -> String {
        format!("the last line of {service}")
    }

    async fn read_log(
        &self,
        service: &str,
        _reading: logs::Reading,
        say: tokio::sync::mpsc::Sender<LogLine>,
    ) -> Result<(), Error> {
        let _ = say.send(LogLine { service: service.into(), at: None, text: self.log(service).await }).await;
        Ok(())
    }

    async fn drift(&self, _units: &[Unit]) -> Vec<String> {
        Vec::new()
    }

    async fn arm(&self, arming: &Arming) -> Result<(), Error> {
        if let Some(unit) = &arming.boot_unit {
            files::write(&self.unit_dir.join(&unit.name), unit.text.as_bytes(), 0o644)?;
        }
        *self.armed.lock().unwrap() = Some(arming.clone());
        Ok(())
    }

    async fn disarm(&self) -> Result<(), Error> {
        *self.armed.lock().unwrap() = None;
        Ok(())
    }

    async fn clear(&self) -> Result<(), Error> {
        let stop = self.running.lock().unwrap().keys().cloned().collect();
        self.switch(&[], &Changes { stop, ..Changes::default() }).await
    }
}

#[tokio::test]
async fn a_first_install_runs_is_measured_and_stays_once_confirmed() {
    let host = Host::new();
    host.lay_out(1, &[("chat", 4096), ("tagger", 512)]).await;
    let activated = host.activate(1).await;
    assert_eq!((activated.activated, &activated.rolled_back), (true, &None));
    let measured: Vec<_> = activated
        .measured
        .iter()
        .map(|m| (m.model.as_str(), m.tokens_per_second, m.first_token_ms))
        .collect();
    let expected = |model| (model, Some(TokensPerSec(5.0)), Some(120.0));
    assert_eq!(measured, [expected("chat"), expected("tagger")]);
    assert_eq!(host.armed.lock().unwrap().as_ref().unwrap().after, Duration::from_secs(3));

    host.confirm(1).await;
    host.assert_whole(Some(1));
    assert!(host.armed.lock().unwrap().is_none());
    assert_eq!(Receipt::read(&host.layout).entries.len(), 1);
    host.confirm(1).await;
    assert_eq!(Receipt::read(&host.layout).entries.len(), 1, "confirming again changes nothing");
    let secrets = fs::metadata(Layout::secrets(&host.layout.generation(Generation::FIRST))).unwrap();
    assert_eq!(secrets.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_engine_that_is_the_same_is_left_alone() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096), ("tagger", 512)]).await;
    host.bring_in(2, &[("chat", 4096), ("tagger", 1024), ("writer", 512)]).await;
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let expected = Changes {
        stop: Vec::new(),
        start: names(&["engine-writer"]),
        restart: names(&["engine-tagger"]),
        reload: names(&["route"]),
        is_program_new: false,
    };
    assert_eq!(host.done.lock().unwrap().last(), Some(&expected));

    let mut request = host.request(3, host.definition(&[("chat", 4096)]));
    request.definition.program = host.put_program("0.2.0");
    install(&host.layout, LEASE, &host, request).await.unwrap();
    let activated = host.activate(3).await;
    let probed: Vec<_> = activated.measured.iter().map(|measured| measured.model.as_str()).collect();
    assert_eq!(probed, ["chat"]);
    let expected = Changes {
        stop: names(&["engine-tagger", "engine-writer"]),
        restart: names(&["engine-chat"]),
        reload: names(&["route"]),
        is_program_new: true,
        ..Changes::default()
    };
    assert_eq!(host.done.lock().unwrap().last(), Some(&expected));
}

#[tokio::test]
async fn an_engine_that_is_never_ready_sends_the_host_back() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    host.lay_out(2, &[("chat", NEVER_READY)]).await;
    let activated = host.activate(2).await;
    assert!(!activated.activated);
    let reason = activated.rolled_back.unwrap();
    assert!(reason.contains("engine-chat is not ready after 2 s: /health says 503"), "{reason}");
    assert!(reason.contains("the last line of engine-chat"), "{reason}");
    host.assert_whole(Some(1));
    assert!(host.armed.lock().unwrap().is_none());
    assert_eq!(host.running.lock().unwrap().len(), 2);
    let late = confirm(&host.layout, LEASE, &host, confirmation(2)).await;
    assert!(matches!(late, Err(Error::NotPending(_))));
}

#[tokio::test]
async fn a_first_install_that_does_not_answer_leaves_nothing_running() {
    let host = Host::new();
    host.lay_out(1, &[("chat", NO_ANSWER)]).await;
    let activated = host.activate(1).await;
    let reason = activated.rolled_back.unwrap();
    assert!(reason.contains("engine-chat answers the prompt with 500"), "{reason}");
    host.assert_whole(None);
    assert!(host.running.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_slower_than_plausible_sends_the_host_back() {
    let host = Host::new();
    host.lay_out(1, &[("chat", 4096)]).await;
    let mut request = activation(1);
    request.probe.least.insert("chat".parse().unwrap(), TokensPerSec(6.0));
    let reason = activate(&host.layout, LEASE, &host, &request).await.unwrap().rolled_back.unwrap();
    assert!(reason.contains("engine-chat answers at 5.0 tok/s, expected 6.0 tok/s or more"), "{reason}");
}

#[tokio::test]
async fn a_power_cut_at_any_moment_leaves_the_old_generation_or_nothing_whole() {
    let moments = [Moment::Armed, Moment::Recorded, Moment::Linked, Moment::Switched, Moment::Well].map(Some);
    for previous in [None, Some(1)] {
        for moment in moments.into_iter().chain([None]) {
            let host = Host::new();
            if previous.is_some() {
                host.bring_in(1, &[("chat", 4096), ("tagger", 512)]).await;
            }
            host.lay_out(2, &[("chat", 8192), ("writer", 512)]).await;
            let hook = |reached: Moment| if Some(reached) == moment { Err(Error::BrokenOff) } else { Ok(()) };
            let result = activate_with(&host.layout, &host, &activation(2), &hook).await;
            assert_eq!(result.is_err(), moment.is_some(), "{moment:?}");
            host.cut_power().await;
            let said = host.run_guard("", "");
            assert_eq!(
                said.contains("was not confirmed"),
                moment != Some(Moment::Armed),
                "{moment:?}: {said}"
            );
            if moment == Some(Moment::Armed) && previous.is_none() {
                // only the guard's own unit is there yet, and nothing for it to do
                assert_eq!(systemd::installed(&host.unit_dir).unwrap(), [unit::BOOT_GUARD]);
                assert!(!host.layout.current().exists());
            } else if moment == Some(Moment::Armed) {
                assert_eq!(stand::current(&host.layout), Some(Generation::FIRST));
            } else {
                host.assert_whole(previous);
            }
            // and running it again converges
            let activated = host.activate(2).await;
            assert!(activated.activated, "{moment:?}: {activated:?}");
            host.confirm(2).await;
            host.assert_whole(Some(2));
            assert_eq!(host.run_guard("", ""), "", "what is confirmed stays");
        }
    }
}

#[tokio::test]
async fn a_guard_that_is_cut_short_finishes_when_it_runs_again() {
    for nth in 1..12 {
        let host = Host::new();
        host.bring_in(1, &[("chat", 4096)]).await;
        host.lay_out(2, &[("chat", 8192), ("writer", 512)]).await;
        assert!(host.activate(2).await.activated);
        host.cut_power().await;
        let count = host.layout.root().join("guard/count");
        let kill = format!("echo x >>{0}; [ $(wc -l <{0}) -ne {nth} ] || kill -KILL $PPID", count.display());
        host.run_guard("", &kill);
        host.run_guard("", "");
        host.assert_whole(Some(1));
    }
}

#[tokio::test]
async fn an_old_timer_does_not_take_back_a_later_activation() {
    let host = Host::new();
    host.lay_out(1, &[("chat", 4096)]).await;
    host.activate(1).await;
    let token = host.armed.lock().unwrap().as_ref().unwrap().token.clone();
    assert_eq!(host.run_guard("0123456789abcdef", ""), "");
    assert!(Pending::read(&host.layout).unwrap().is_some());
    assert!(host.run_guard(&token, "").contains("generation 1 was not confirmed: going back to nothing"));
    host.cut_power().await;
    host.assert_whole(None);
    let drift = inspect(&host.layout, &host).await.unwrap().drift;
    assert_eq!(drift, ["generation 1 was taken back by the host itself: it was not confirmed in time"]);
}

#[tokio::test]
async fn a_rollback_goes_to_the_generation_confirmed_before() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 512)]).await;
    host.bring_in(2, &[("chat", 1024)]).await;
    // 3 was laid out and never worked
    host.lay_out(3, &[("chat", NEVER_READY)]).await;
    host.bring_in(4, &[("chat", 4096)]).await;
    let probe = activation(1).probe;
    let request = RollbackRequest { to: None, deadline_seconds: 3, probe };
    let activated = rollback(&host.layout, LEASE, &host, &request).await.unwrap();
    assert_eq!((activated.generation, activated.activated), (Generation::new(2), true));
    host.confirm(2).await;
    host.assert_whole(Some(2));

    let nowhere = RollbackRequest { to: Some(Generation::new(9)), ..request };
    let result = rollback(&host.layout, LEASE, &host, &nowhere).await;
    assert!(matches!(result, Err(Error::NoGeneration(_))));
    host.assert_whole(Some(2));
}

#[tokio::test]
async fn an_install_refuses_what_is_not_whole() {
    let host = Host::new();
    let definition = host.definition(&[("chat", 4096)]);
    let digest = definition.engines[0].weights.digest.unwrap();
    let install = |definition: Definition| install(&host.layout, LEASE, &host, host.request(1, definition));

    fs::write(host.layout.blob(&digest), b"short").unwrap();
    assert!(matches!(install(definition.clone()).await, Err(Error::BlobSize { found: 5, .. })));
    fs::remove_file(host.layout.blob(&digest)).unwrap();
    assert!(matches!(install(definition.clone()).await, Err(Error::MissingBlob { .. })));
    let definition = host.definition(&[("chat", 4096)]);
    fs::remove_dir_all(host.layout.program(&definition.program.digest)).unwrap();
    assert!(matches!(install(definition.clone()).await, Err(Error::MissingProgram { .. })));
    let newer = Definition { format: FORMAT + 1, ..host.definition(&[("chat", 4096)]) };
    assert!(matches!(install(newer).await, Err(Error::Format { .. })));
    let mut climbing = host.request(1, host.definition(&[("chat", 4096)]));
    climbing.units[0].name = "../../cron.d/x".to_owned();
    assert!(matches!(super::install(&host.layout, LEASE, &host, climbing).await, Err(Error::Units { .. })));
    assert!(!host.layout.root().join("generations").exists());
}

#[tokio::test]
async fn installing_twice_changes_nothing_and_a_generation_in_use_is_never_replaced() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    let again = host.request(1, host.definition(&[("chat", 4096)]));
    assert!(install(&host.layout, LEASE, &host, again).await.unwrap().was_there);
    let other = host.request(1, host.definition(&[("chat", 512)]));
    assert!(matches!(install(&host.layout, LEASE, &host, other).await, Err(Error::InUse(_))));
    // one that is not in use is laid out anew
    host.lay_out(2, &[("chat", 512)]).await;
    host.lay_out(2, &[("chat", 1024)]).await;
    let stand = Stand::read(&host.layout, Generation::new(2)).unwrap();
    assert_eq!(stand.definition.engines[0].context, 1024);
}

#[tokio::test]
async fn nobody_else_can_open_what_is_locked() {
    let host = Host::new();
    let lock = host.layout.root().join("lock");
    // an earlier version left it open to all
    fs::create_dir(host.layout.root()).unwrap();
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    host.bring_in(1, &[("chat", 4096)]).await;
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn remove_leaves_nothing() {
    let host = Host::new();
    host.bring_in(1, &[("chat", 4096)]).await;
    host.lay_out(2, &[("chat", 512)]).await;
    let supervisor = Host { layout: host.layout.clone(), unit_dir: host.unit_dir.clone(), ..Host::new() };
    let fleet = "home".parse().unwrap();
    let request = RemoveRequest { fleet, adopt: false };
    let supervisors: [Box<dyn Supervisor>; 1] = [Box::new(supervisor)];
    assert!(remove(&host.layout, LEASE, &supervisors, &request).await.unwrap().was_there);
    assert!(!host.layout.root().exists());
    // the folder of what a boot starts is the system's own
    assert_eq!(files::names(&host.unit_dir).unwrap(), ["multi-user.target.wants"]);
    assert!(files::names(&host.unit_dir.join("multi-user.target.wants")).unwrap().is_empty());
    assert!(!remove(&host.layout, LEASE, &supervisors, &request).await.unwrap().was_there);
}

#[tokio::test]
async fn a_folder_that_is_not_ours_is_neither_used_nor_removed() {
    let host = Host::new();
    let definition = host.definition(&[("chat", 4096)]);
    let precious = host.layout.root().join("photos");
    fs::create_dir(&precious).unwrap();
    let request = RemoveRequest { fleet: "home".parse().unwrap(), adopt: true };
    let refused = remove(&host.layout, LEASE, &[], &request).await.unwrap_err();
    assert!(matches!(&refused, Error::NotOurs { found, .. } if found == "photos"), "{refused}");
    let install = install(&host.layout, LEASE, &host, host.request(1, definition)).await;
    assert!(matches!(install, Err(Error::NotOurs { .. })));
    assert!(precious.exists() && !host.layout.root().join("lock").exists());

    // what an interrupted first push left is ours, what merely looks like a system folder is not
    fs::remove_dir(&precious).unwrap();
    fs::create_dir(host.layout.root().join("log")).unwrap();
    assert!(remove(&host.layout, LEASE, &[], &request).await.is_err());
    fs::remove_dir(host.layout.root().join("log")).unwrap();
    assert!(remove(&host.layout, LEASE, &[], &request).await.unwrap().was_there);
    assert!(!host.layout.root().exists());
}

#[tokio::test]
async fn inspect_names_what_is_not_what_was_applied() {
    let host = Host::new();
    let bare = inspect(&host.layout, &host).await.unwrap();
    assert!(bare.current.is_none() && bare.drift.is_empty() && bare.generations.is_empty());

    host.bring_in(1, &[("chat", 4096), ("tagger", 512)]).await;
    let sound = inspect(&host.layout, &host).await.unwrap();
    assert_eq!(sound.drift, Vec::<String>::new());
    assert_eq!(sound.services["engine-chat"], ServiceState::Running);
    assert_eq!((sound.blobs.len(), sound.programs.len()), (2, 1));

    let digest = |at: usize| sound.current.as_ref().unwrap().1.engines[at].weights.digest.unwrap();
    fs::write(host.layout.blob(&digest(0)), b"x").unwrap();
    fs::remove_file(host.layout.blob(&digest(1))).unwrap();
    host.running.lock().unwrap().remove("engine-chat").unwrap().abort();
    let drift = inspect(&host.layout, &host).await.unwrap().drift;
    let expected = [
        format!("the blob {} of chat has 1 bytes instead of 15", digest(0).short()),
        format!("the blob {} of tagger is missing", digest(1).short()),
        "engine-chat does not run".to_owned(),
    ];
    assert_eq!(drift, expected);

    fs::remove_dir_all(host.layout.generation(Generation::FIRST)).unwrap();
    let drift = inspect(&host.layout, &host).await.unwrap().drift;
    assert!(drift[0].starts_with("generation 1 is in force and cannot be read: "), "{drift:?}");
}

#[tokio::test]
async fn the_diary_stays_short() {
    let host = Host::new();
    host.bring_in(1, &[]).await;
    let long = ConfirmRequest { by: "x".repeat(5000), ..confirmation(1) };
    for _ in 0..120 {
        let mut receipt = Receipt::read(&host.layout);
        receipt.entries.push(ReceiptEntry { generation: Generation::new(7), ..receipt.entries[0].clone() });
        fs::write(host.layout.receipt(), serde_json::to_vec(&receipt).unwrap()).unwrap();
    }
    confirm(&host.layout, LEASE, &host, long).await.unwrap();
    let receipt = Receipt::read(&host.layout);
    assert_eq!(receipt.entries.len(), 100);
    let last = receipt.entries.last().unwrap();
    assert_eq!((last.generation, last.by.len()), (Generation::FIRST, 200));
}
