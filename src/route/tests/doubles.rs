//! Upstreams that misbehave on demand, over pipes in memory: tokio's paused clock moves on
//! only when everybody waits, so that deadlines of minutes are tested to the second.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

use crate::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, Hop, KeyEntry, KvType, Limits, LoadMode, Pace,
    Program, RouteSpec, Scope, Secrets, UpstreamKind, UpstreamSpec, Weights,
};
use crate::ids::{Digest, Mac};
use crate::quant::Quant;
use crate::route::magic::Rouse;
use crate::route::upstream::{Address, Dial, Wire};
use crate::units::{Bytes, TokensPerSec};

/// What a double does with one connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Fails to connect.
    Fail(io::ErrorKind),
    /// Never accepts.
    Ignore,
    /// Reads the request, then does this and closes.
    Play(Vec<Beat>),
}

#[derive(Debug, Clone)]
pub(crate) enum Beat {
    Send(Vec<u8>),
    Wait(u64),
    /// Says nothing until the test allows it.
    Until(Arc<Notify>),
    /// Says nothing until the other side leaves.
    Hang,
}

pub(crate) fn say(text: impl AsRef<[u8]>) -> Beat {
    Beat::Send(text.as_ref().to_vec())
}

/// A whole answer with that status.
pub(crate) fn answer(status: u16, body: &str) -> Act {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    Act::Play(vec![say(head), say("\r\n"), say(body)])
}

pub(crate) fn completion(model: &str, text: &str) -> Act {
    let choice =
        json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
    answer(200, &json!({"id": "x", "model": model, "choices": [choice]}).to_string())
}

pub(crate) const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
pub(crate) const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
pub(crate) const DONE: &str = "data: [DONE]\n\n";

pub(crate) fn token(text: &str) -> String {
    let delta = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
    format!("data: {}\n\n", json!({"model": "chat", "choices": [delta]}))
}

/// A stream of that: head, then beats.
pub(crate) fn stream(beats: impl IntoIterator<Item = Beat>) -> Act {
    Act::Play([say(EVENTS)].into_iter().chain(beats).collect())
}

pub(crate) fn good_stream(text: &str) -> Act {
    stream([say(ROLE), say(token(text)), say(DONE)])
}

/// All upstreams of a test, by `local`, or the host's name in the URL.
#[derive(Clone, Default)]
pub(crate) struct Universe(Arc<Inner>);

#[derive(Default)]
struct Inner {
    acts: Mutex<BTreeMap<String, VecDeque<Act>>>,
    dialled: Mutex<Vec<String>>,
    requests: Mutex<Vec<(String, String)>>,
    health: Mutex<Option<String>>,
    left: Mutex<Vec<String>>,
    packets: Mutex<Vec<Mac>>,
    changed: Notify,
}

impl Universe {
    /// Has the upstream do these, one for each connection; the last one for all that follow.
    pub(crate) fn on(&self, upstream: &str, acts: impl IntoIterator<Item = Act>) -> &Self {
        self.0.acts.lock().unwrap().insert(upstream.to_owned(), acts.into_iter().collect());
        self
    }

    /// Has local engines report this.
    pub(crate) fn health(&self, report: &str) -> &Self {
        *self.0.health.lock().unwrap() = Some(report.to_owned());
        self
    }

    /// Returns what cards packets were sent to so far, and forgets it.
    pub(crate) fn packets(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.packets.lock().unwrap()).iter().map(Mac::to_string).collect()
    }

    /// Returns who was dialled so far, and forgets it.
    pub(crate) fn dialled(&self) -> Vec<String> {
        std::mem::take(&mut self.0.dialled.lock().unwrap())
    }

    /// Returns the requests that arrived, byte for byte, with the upstream's name.
    pub(crate) fn requests(&self) -> Vec<(String, String)> {
        self.0.requests.lock().unwrap().clone()
    }

    /// Waits until a request has arrived at the upstream.
    pub(crate) async fn arrived(&self, upstream: &str) {
        self.wait(|inner| inner.requests.lock().unwrap().iter().any(|(name, _)| name == upstream)).await;
    }

    /// Waits until the router has dropped a connection to the upstream, one for each call.
    pub(crate) async fn left(&self, upstream: &str) {
        self.wait(|inner| {
            let mut left = inner.left.lock().unwrap();
            let found = left.iter().position(|name| name == upstream);
            found.map(|index| left.remove(index)).is_some()
        })
        .await;
    }

    async fn wait(&self, is_so: impl Fn(&Inner) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if is_so(&self.0) {
                return;
            }
            changed.await;
        }
    }

    fn next(&self, name: &str) -> Act {
        let mut acts = self.0.acts.lock().unwrap();
        let queue = acts.get_mut(name).unwrap_or_else(|| panic!("nobody expected a call to {name}"));
        if queue.len() > 1 { queue.pop_front().unwrap() } else { queue[0].clone() }
    }

    fn peek(&self, name: &str) -> Option<Act> {
        self.0.acts.lock().unwrap().get(name).map(|queue| queue[0].clone())
    }

    async fn play(self, name: String, mut wire: DuplexStream) {
        let request = read_request(&mut wire).await;
        if request.is_empty() {
            // somebody only looked whether it is there
            return;
        }
        if request.starts_with("GET /health ") {
            let report = self.0.health.lock().unwrap().clone().unwrap_or_default();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", report.len());
            wire.write_all((head + &report).as_bytes()).await.ok();
            return;
        }
        self.0.requests.lock().unwrap().push((name.clone(), request));
        self.0.changed.notify_waiters();
        let Act::Play(beats) = self.next(&name) else { panic!("{name} changed its mind") };
        for beat in beats {
            match beat {
                Beat::Send(bytes) => {
                    wire.write_all(&bytes).await.ok();
                }
                Beat::Wait(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                Beat::Until(allowed) => allowed.notified().await,
                Beat::Hang => {
                    while wire.read_u8().await.is_ok() {}
                    self.0.left.lock().unwrap().push(name.clone());
                    self.0.changed.notify_waiters();
                }
            }
        }
    }
}

async fn read_request(wire: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match wire.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => return text,
        }
    }
}

#[async_trait]
impl Rouse for Universe {
    async fn rouse(&self, mac: Mac) -> io::Result<()> {
        self.0.packets.lock().unwrap().push(mac);
        Ok(())
    }
}

#[async_trait]
impl Dial for Universe {
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Wire>> {
        let name = match address {
            Address::Unix(path) => {
                assert!(path.ends_with("run/engine-chat.sock"), "{}", path.display());
                "local".to_owned()
            }
            Address::Tcp { host, .. } => host.clone(),
        };
        self.0.dialled.lock().unwrap().push(name.clone());
        match self.peek(&name) {
            Some(Act::Fail(kind)) => {
                self.next(&name);
                Err(kind.into())
            }
            Some(Act::Ignore) => {
                self.next(&name);
                std::future::pending().await
            }
            Some(Act::Play(_)) => {
                let (ours, theirs) = tokio::io::duplex(64 << 10);
                tokio::spawn(self.clone().play(name, theirs));
                Ok(Box::new(ours))
            }
            None => panic!("nobody expected a call to {name}"),
        }
    }
}

/// The keys that clients of the test have; the text is the key.
pub(crate) const CLIENT: &str = "client-key-0123456789";
pub(crate) const READER: &str = "reader-key-0123456789";
pub(crate) const PEER: &str = "peer-key-0123456789";

pub(crate) fn secrets() -> Secrets {
    let entry = |id: &str, key: &str, scope| KeyEntry {
        id: id.into(),
        sha256: Digest::of(key.as_bytes()),
        scopes: vec![scope],
        limits: Limits::default(),
    };
    Secrets {
        keys: vec![
            entry("laptop", CLIENT, Scope::Infer),
            entry("dashboard", READER, Scope::Status),
            entry("fleet", PEER, Scope::Peer),
        ],
        peer_key: "our-peer-key".to_owned().into(),
        identity: None,
        foreign_keys: [("GAMING_KEY".to_owned(), "foreign-secret".to_owned().into())].into(),
    }
}

/// A host with the model `chat`: local, then the host `desk`, then the foreign `gaming`,
/// where it is called `mistral`; and with `writer`, on the desk only.
///
/// For a prompt of no length, the first token may take 20 + 5 s; between tokens 15 + 20 / 2 s.
pub(crate) fn definition() -> Definition {
    let planned =
        Pace { prompt: TokensPerSec(10.0), answer: TokensPerSec(2.0), load_seconds: 9.0, is_guess: false };
    let hop = |upstream: &str, model: &str, quant: Option<&str>| Hop {
        upstream: upstream.to_owned(),
        model: model.to_owned(),
        quant: quant.map(str::to_owned),
        pace: Some(planned),
        is_desktop: upstream != "local",
        lacks: Vec::new(),
    };
    let upstream = |name: &str, kind| UpstreamSpec { name: name.to_owned(), kind, wake: None };
    let route = |model: &str, order| RouteSpec {
        model: model.parse().unwrap(),
        order,
        overflow_queue: None,
        overflow_wait_seconds: None,
        overflow_prompt_tokens: None,
        continue_on: None,
        first_token_seconds: 20.0,
    };
    Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "kitchen".parse().unwrap(),
        program: Program { digest: Digest::of(b"program"), version: "0".to_owned(), gpu: None },
        engines: vec![EngineSpec {
            model: "chat".parse().unwrap(),
            weights: Weights {
                recipe: Digest::of(b"recipe"),
                digest: None,
                bytes: Bytes(1),
                quant: Some(Quant::Q4_0),
                architecture: "llama".to_owned(),
            },
            context: 512,
            slots: 1,
            threads: 1,
            micro_batch: 64,
            load: LoadMode::Mmap,
            repack: false,
            kv: KvType::F16,
            need: Bytes::ZERO,
            keep_prompts: false,
            pace: planned,
        }],
        door: DoorSpec {
            port: 1,
            tls: DoorTls::Off,
            upstreams: vec![
                upstream("desk", UpstreamKind::Host { url: "http://desk:8443".to_owned() }),
                upstream(
                    "gaming",
                    UpstreamKind::Foreign {
                        url: "http://gaming:11434/v1".to_owned(),
                        key: Some("GAMING_KEY".to_owned()),
                    },
                ),
                upstream("local", UpstreamKind::Local),
            ],
            routes: vec![
                route(
                    "chat",
                    vec![
                        hop("local", "chat", None),
                        hop("desk", "chat", Some("Q8_0")),
                        hop("gaming", "mistral", None),
                    ],
                ),
                route("writer", vec![hop("desk", "writer", None)]),
            ],
        },
    }
}

/// Installs a generation under `root` and makes it current.
pub(crate) fn install(root: &Path, number: u64, definition: &Definition) -> PathBuf {
    install_with(root, number, definition, &secrets())
}

/// The same with other secrets.
pub(crate) fn install_with(root: &Path, number: u64, definition: &Definition, secrets: &Secrets) -> PathBuf {
    let folder = root.join(format!("generations/{number}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("definition.json"), serde_json::to_vec(definition).unwrap()).unwrap();
    std::fs::write(folder.join("secrets.json"), serde_json::to_vec(secrets).unwrap()).unwrap();
    let current = root.join("current");
    std::fs::remove_file(&current).ok();
    std::os::unix::fs::symlink(&folder, current).unwrap();
    folder
}
