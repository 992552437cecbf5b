//! `brambled engine` in a process of its own, laid out as on a host.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bramble_fleet::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, KvType, Layout, LoadMode, Pace, Program, Weights,
};
use bramble_fleet::ids::{Digest, Generation};
use bramble_fleet::openai::ChatReply;
use bramble_fleet::units::{Bytes as Amount, TokensPerSec};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Far more than any start or answer here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_mins(5);

pub(crate) fn model() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("BRAMBLE_TEST_GGUF") else {
        let must = std::env::var("BRAMBLE_REQUIRE_MODELS").is_ok_and(|text| text == "1");
        assert!(!must, "BRAMBLE_TEST_GGUF is not set, and BRAMBLE_REQUIRE_MODELS=1");
        println!("skipped: BRAMBLE_TEST_GGUF is not set");
        return None;
    };
    Some(path.into())
}

pub(crate) fn spec(bytes: u64) -> EngineSpec {
    EngineSpec {
        model: "smol".parse().unwrap(),
        weights: Weights {
            recipe: Digest::of(b"recipe"),
            digest: Some(Digest::of(b"weights")),
            bytes: Amount(bytes),
            quant: None,
            architecture: "llama".to_owned(),
        },
        context: 512,
        slots: 1,
        // more than one waits for the other on a machine that is busy
        threads: 1,
        micro_batch: 64,
        load: LoadMode::Mmap,
        repack: true,
        kv: KvType::F16,
        need: Amount::ZERO,
        keep_prompts: false,
        pace: Pace {
            prompt: TokensPerSec(1.0),
            answer: TokensPerSec(1.0),
            load_seconds: 1.0,
            is_guess: false,
        },
    }
}

/// Links where it can, since the libraries are many.
fn place(from: &Path, to: &Path) {
    let from = from.canonicalize().unwrap();
    if std::fs::hard_link(&from, to).is_err() {
        std::fs::copy(&from, to).unwrap();
    }
}

/// Lays out one generation with the program and its libraries, as `scripts/bundle` does.
pub(crate) fn install(root: &Path, spec: &EngineSpec, weights: &Path) -> PathBuf {
    let layout = Layout::new(root);
    let generation = layout.generation(Generation::new(7));
    let program = layout.program(&Digest::of(b"bundle"));
    std::fs::create_dir_all(program.join("lib")).unwrap();
    std::fs::create_dir_all(generation.join("models")).unwrap();
    // the one that is published is optimized, whatever the tests are
    let brambled = std::env::var_os("BRAMBLE_TEST_BRAMBLED").unwrap_or(env!("CARGO_BIN_EXE_brambled").into());
    place(Path::new(&brambled), &program.join("brambled"));
    let built = Path::new(env!("BRAMBLE_BUILT_LLAMA"));
    let files = ["backends", "lib"].map(|folder| std::fs::read_dir(built.join(folder)).unwrap());
    for file in files.into_iter().flatten().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        // a build with other features may have left more there
        let is_for_gpu = cfg!(feature = "vulkan") && name == "libggml-vulkan.so";
        if name.ends_with(".so.0") || name.starts_with("libggml-cpu-") || is_for_gpu {
            place(&file.path(), &program.join("lib").join(name));
        }
    }
    std::os::unix::fs::symlink(&program, generation.join("program")).unwrap();
    std::os::unix::fs::symlink(weights, Layout::weights(&generation, &spec.model)).unwrap();
    std::os::unix::fs::symlink(&generation, layout.current()).unwrap();
    let definition = Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "shed".parse().unwrap(),
        program: Program { digest: Digest::of(b"bundle"), version: "0.1.0".to_owned(), gpu: None },
        engines: vec![spec.clone()],
        door: DoorSpec { port: 8443, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
    };
    std::fs::write(Layout::definition(&generation), serde_json::to_vec(&definition).unwrap()).unwrap();
    program
}

pub(crate) fn command(root: &Path) -> Command {
    let mut command = Command::new(Layout::brambled(&Layout::new(root).current()));
    command.args(["engine", "--model", "smol", "--root"]).arg(root);
    // cargo's help for programs in its own folder must not be what makes this one run
    command.env_remove("LD_LIBRARY_PATH").env_remove("BRAMBLE_BACKENDS").env("RUST_LOG", "info");
    command.current_dir(root).stdin(Stdio::null());
    command
}

pub(crate) struct Engine {
    pub(crate) child: Child,
    pub(crate) root: tempfile::TempDir,
    pub(crate) program: PathBuf,
    environment: Vec<(String, String)>,
}

impl Engine {
    /// Starts an engine and waits for its word, as systemd would.
    pub(crate) fn start(change: impl FnOnce(&mut EngineSpec)) -> Option<Self> {
        Some(Self::start_with(&model()?, change))
    }

    pub(crate) fn start_with(weights: &Path, change: impl FnOnce(&mut EngineSpec)) -> Self {
        Self::start_in(weights, &[], change, |_| ())
    }

    /// The same in an environment of its own, with a program whose folder is changed before.
    pub(crate) fn start_in(
        weights: &Path,
        environment: &[(&str, &str)],
        change: impl FnOnce(&mut EngineSpec),
        change_program: impl FnOnce(&Path),
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut spec = spec(weights.metadata().unwrap().len());
        change(&mut spec);
        let program = install(root.path(), &spec, &weights.canonicalize().unwrap());
        change_program(&program);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self::launch(root, program, environment.iter().map(own).collect())
    }

    /// Stops it in good order, and starts it again.
    pub(crate) fn restart(self) -> Self {
        self.restart_after(|| ())
    }

    /// The same, with something done between both.
    pub(crate) fn restart_after(mut self, act: impl FnOnce()) -> Self {
        self.terminate();
        act();
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        Self::launch(root, self.program.clone(), std::mem::take(&mut self.environment))
    }

    /// Kills it, and starts it again.
    pub(crate) fn revive(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        Self::launch(root, self.program.clone(), std::mem::take(&mut self.environment))
    }

    fn launch(root: tempfile::TempDir, program: PathBuf, environment: Vec<(String, String)>) -> Self {
        let path = root.path().join("notify");
        // left by one that was there before
        let _ = std::fs::remove_file(&path);
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = std::fs::File::create(root.path().join("log")).unwrap();
        let mut command = command(root.path());
        command.envs(environment.iter().cloned()).env("NOTIFY_SOCKET", &path);
        let child = command.stderr(log).spawn().unwrap();
        let engine = Self { child, root, program, environment };
        let mut buffer = [0; 256];
        loop {
            let length = systemd.recv(&mut buffer).unwrap_or_else(|_| panic!("no word: {}", engine.log()));
            if buffer[..length].starts_with(b"READY=1\n") {
                return engine;
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap()
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Response<Incoming> {
        let socket = Layout::new(self.root.path()).engine_socket(&"smol".parse().unwrap());
        let stream = UnixStream::connect(socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(body.to_string()));
        let request = Request::builder().method(method).uri(path).header("host", "x").body(body).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    pub(crate) async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Bytes) {
        let response = self.send(Method::POST, path, body).await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn chat(&self, body: &Value) -> ChatReply {
        let (status, bytes) = self.ask("/v1/chat/completions", body).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) async fn health(&self) -> Value {
        let response = self.send(Method::GET, "/health", &Value::Null).await;
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(mut self) {
        self.terminate();
        assert_eq!(std::fs::read_dir(Layout::new(self.root.path()).run_dir()).unwrap().count(), 0);
    }

    fn terminate(&mut self) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // a test that failed leaves no process behind
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
