//! A hub with one small repository, an empty cache, and a machine that never really waits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_fleet::events::{Event, Events};
use bramble_fleet::fetch::{Fetcher, Lanes, Machine, Settings};
use bramble_fleet::source::{Pinned, SourceRef};
use bramble_fleet::store::Store;
use bramble_fleet::units::Bytes;

use crate::hub::{Door, Hub, Seen};

/// The size of the weights, header included: some pieces of the network and a rest.
pub(crate) const WEIGHTS: usize = 300_001;
pub(crate) const MODEL: &str = "model.safetensors";

/// A hub with `org/tiny`, and an empty cache.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) hub: Hub,
    /// What fetching waited for.
    pub(crate) pauses: Arc<Mutex<Vec<Duration>>>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("hub/org/tiny");
        fs::create_dir_all(repo.join("onnx")).unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(repo.join(name), bytes).unwrap();
        put("README.md", b"---\nlicense: apache-2.0\n---\n");
        put("config.json", br#"{"architectures":["LlamaForCausalLM"]}"#);
        put("tokenizer.json", b"{}");
        put("tokenizer_config.json", br#"{"chat_template":"{{ messages }}"}"#);
        put("onnx/model.onnx", b"not wanted");
        put(MODEL, &safetensors(WEIGHTS));
        let hub = Hub::serve(&dir.path().join("hub"), 0).await.unwrap();
        Self { dir, hub, pauses: Arc::default(), events: Arc::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn repo(&self, name: &str) -> PathBuf {
        self.path("hub/org/tiny").join(name)
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::read(|_| None);
        settings.endpoint.clone_from(&self.hub.endpoint);
        settings.cache = self.path("cache");
        settings.hub_cache = Some(self.path("python"));
        self.dir.path().clone_into(&mut settings.folder);
        settings
    }

    /// A machine that never really waits, and has `free` bytes.
    pub(crate) fn machine(&self, free: Bytes) -> Machine {
        let pauses = Arc::clone(&self.pauses);
        Machine {
            free_space: Arc::new(move |_| Ok(free)),
            pause: Arc::new(move |wait| {
                pauses.lock().unwrap().push(wait);
                Box::pin(tokio::task::yield_now())
            }),
            ..Machine::default()
        }
    }

    pub(crate) fn fetcher(&self, change: impl FnOnce(&mut Settings)) -> Fetcher {
        let mut settings = self.settings();
        change(&mut settings);
        let events = Arc::clone(&self.events);
        let events = Events::new(move |event| events.lock().unwrap().push(event));
        Fetcher::on(settings, events, self.machine(Bytes::gib(1))).unwrap()
    }

    /// A new fetcher, as a new run of the program has it.
    pub(crate) fn plain(&self) -> Fetcher {
        self.fetcher(|_| {})
    }

    /// A new fetcher that fetches the weights over five lanes.
    pub(crate) fn lanes(&self) -> Fetcher {
        self.fetcher(|settings| settings.lanes = Lanes { per_file: 5, total: 8, segment: Bytes::kib(64) })
    }

    /// Pins `org/tiny` and forgets what that took.
    pub(crate) async fn pinned(&self) -> Pinned {
        let pinned = self.plain().pin(&source("org/tiny")).await.unwrap();
        self.hub.take_seen();
        pinned
    }

    /// Asserts that the folder holds what the hub holds.
    pub(crate) fn assert_obtained(&self, folder: &Path) {
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", MODEL] {
            assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(self.repo(name)).unwrap(), "{name}");
        }
    }

    /// The program, in a home of its own, with this hub.
    pub(crate) fn bramble(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bramble"));
        command.args(arguments).current_dir(self.dir.path()).env_clear().kill_on_drop(true);
        command.env("HOME", self.dir.path()).env("XDG_CACHE_HOME", self.path("xdg"));
        command.env("HF_ENDPOINT", &self.hub.endpoint).stdin(std::process::Stdio::null());
        command
    }

    /// Lays out `names` of `org/tiny` as the hub's Python client keeps them, at `commit`.
    pub(crate) fn put_into_python_cache(&self, commit: &str, names: &[&str]) {
        let repo = self.path("python/models--org--tiny");
        let snapshot = repo.join("snapshots").join(commit);
        for folder in [&repo.join("refs"), &repo.join("blobs"), &snapshot] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(repo.join("refs/main"), commit).unwrap();
        for name in names {
            let blob = format!("git-hash-of-{name}");
            fs::copy(self.repo(name), repo.join("blobs").join(&blob)).unwrap();
            std::os::unix::fs::symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
        }
    }

    /// The store of that program.
    pub(crate) fn store(&self) -> Store {
        Store::open(self.path("xdg/bramble")).unwrap()
    }

    pub(crate) fn partials(&self) -> usize {
        fs::read_dir(self.path("cache/partial")).unwrap().count()
    }
}

pub(crate) fn safetensors(size: usize) -> Vec<u8> {
    let data = size - 8 - 128;
    let text = format!(r#"{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}"#);
    let header = format!("{text:<128}");
    let body = (0..data).map(|i| u8::try_from((i * 131 + i / 253) % 256).unwrap());
    128u64.to_le_bytes().into_iter().chain(header.into_bytes()).chain(body).collect()
}

/// The length of the header of [`gguf`]: a chat template, and a text of 200 000 letters.
pub(crate) const GGUF_HEADER: usize = 24 + (8 + 23) + 4 + (8 + 1) + (8 + 1) + 4 + (8 + 200_000);

/// A GGUF of `size` bytes without tensors.
pub(crate) fn gguf(size: usize) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut header = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
    header.extend(2u64.to_le_bytes());
    header.extend([string("tokenizer.chat_template"), 8u32.to_le_bytes().into(), string("x")].concat());
    header.extend([string("v"), 8u32.to_le_bytes().into(), string(&"y".repeat(200_000))].concat());
    header.resize(size, 7);
    header
}

pub(crate) fn source(repo: &str) -> SourceRef {
    SourceRef::Hub { repo: repo.to_owned(), revision: None, file: None }
}

pub(crate) fn gguf_source(file: &str) -> SourceRef {
    SourceRef::Hub { repo: "org/tiny".to_owned(), revision: None, file: Some(file.to_owned()) }
}

/// The bytes of the weights that were sent, in the order of the file.
pub(crate) fn sent(seen: &[Seen]) -> Vec<(u64, u64)> {
    let mut sent: Vec<_> = seen
        .iter()
        .filter(|seen| seen.door == Door::Cdn && matches!(seen.status, 200 | 206))
        .map(|seen| (seen.sent.start, seen.sent.end))
        .collect();
    sent.sort_unstable();
    sent
}

/// Asserts that every byte of the weights was sent, and none of them twice.
pub(crate) fn assert_each_byte_once(seen: &[Seen]) {
    let mut at = 0;
    for (start, end) in sent(seen) {
        assert_eq!(start, at, "{:?}", sent(seen));
        at = end;
    }
    assert_eq!(at, WEIGHTS as u64);
}
