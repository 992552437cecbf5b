//! A double of the model hub, on loopback: folders `DIR/ORG/REPO/…` as repositories.
//!
//! It speaks as much of the hub as clients use: descriptions with digests, `resolve`
//! with its headers, and redirects of large files to a second port, the "CDN", which
//! honours ranges and refuses requests that carry credentials. What went over the wire
//! is recorded, and faults can be ordered.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[path = "hub/answers.rs"]
mod answers;
#[path = "hub/wire.rs"]
mod wire;

use answers::{api, cdn, hex, resolve};
use wire::{Body, Reply, read_request, send};

/// Files larger than this are kept as large ones, as are weights of any size.
const LARGE: u64 = 64 << 10;

/// The two doors of the hub, and the two kinds of questions to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `/api/…`
    Api,
    /// `/ORG/REPO/resolve/…`
    Resolve,
    /// The second port.
    Cdn,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after this many bytes of the body.
    Cut(u64),
    /// Nothing more comes after this many bytes of the body.
    Stall(u64),
    /// 429 with `Retry-After`.
    TooMany(u64),
    /// This status, with this `X-Error-Code`.
    Refuse(u16, &'static str),
    /// The body claims to have, and has, this many bytes more (zeros), its total too.
    Longer(u64),
    /// The body claims to have, and has, this many bytes less, its total too.
    Shorter(u64),
    /// The byte at this offset of the file has a bit flipped.
    Flip(u64),
    /// After this many bytes of the body, some come one by one.
    Drip(u64),
    /// Ranges are not heeded: all of the file comes.
    NoRanges,
    /// A range comes that was not asked for.
    OtherRange,
    /// The answer says that no more requests are allowed for this many seconds.
    LastOne(u64),
    /// Gated, with this message, whatever the token.
    Gated(&'static str),
    /// From now on the file has another `ETag`.
    NewEtag,
    /// A redirect to this address.
    Lead(String),
}

/// A fault, where it happens, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) door: Door,
    /// Part of the path of the file or question.
    pub(crate) path: &'static str,
    /// How many more requests meet it.
    pub(crate) times: u32,
    pub(crate) fault: Fault,
}

/// One request, as it was answered.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) door: Door,
    pub(crate) method: String,
    /// The path as it was asked for; at the CDN that of the file.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) status: u16,
    /// The bytes of the file that were sent.
    pub(crate) sent: Range<u64>,
}

/// What tests order and look at.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) rules: Vec<Rule>,
    pub(crate) seen: Vec<Seen>,
    /// Names that repositories claim to hold besides their files.
    pub(crate) extra_siblings: Vec<String>,
    hashes: HashMap<(PathBuf, u64, SystemTime), String>,
    /// By signature: the file that the CDN serves, its digest and its name.
    signed: HashMap<String, (PathBuf, String, String)>,
    etag_salts: HashMap<PathBuf, u32>,
}

/// The running double; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Hub {
    /// `http://127.0.0.1:PORT`, for `HF_ENDPOINT`.
    pub(crate) endpoint: String,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    cdn: String,
    control: Mutex<Control>,
}

impl Hub {
    /// Serves the repositories under `dir`; port 0 takes a free one.
    pub(crate) async fn serve(dir: &Path, port: u16) -> io::Result<Self> {
        let hub = TcpListener::bind(("127.0.0.1", port)).await?;
        let cdn = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", hub.local_addr()?);
        let cdn_url = format!("http://{}", cdn.local_addr()?);
        let control = Mutex::new(Control::default());
        let shared = Arc::new(Shared { dir: dir.to_owned(), cdn: cdn_url, control });
        let tasks = vec![
            tokio::spawn(accept(hub, Arc::clone(&shared), false)),
            tokio::spawn(accept(cdn, Arc::clone(&shared), true)),
        ];
        Ok(Self { endpoint, shared, tasks })
    }

    /// Gives access to the faults and the record.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.shared.control()
    }

    /// Orders a fault for the next request to `door` whose path contains `path`.
    pub(crate) fn fail(&self, door: Door, path: &'static str, fault: Fault) {
        self.control().rules.push(Rule { door, path, times: 1, fault });
    }

    /// Orders a fault for every request.
    pub(crate) fn fail_always(&self, door: Door, path: &'static str, fault: Fault) {
        self.control().rules.push(Rule { door, path, times: u32::MAX, fault });
    }

    /// Returns and forgets what was seen.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.control().seen)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns and uses up the fault that a request meets.
    fn fault(&self, door: Door, path: &str) -> Option<Fault> {
        let mut control = self.control();
        let rule =
            control.rules.iter_mut().find(|r| r.times > 0 && r.door == door && path.contains(r.path))?;
        rule.times = rule.times.saturating_sub(u32::from(rule.times != u32::MAX));
        Some(rule.fault.clone())
    }

    fn sha256(&self, path: &Path) -> io::Result<String> {
        let meta = fs::metadata(path)?;
        let key = (path.to_owned(), meta.len(), meta.modified()?);
        if let Some(known) = self.control().hashes.get(&key) {
            return Ok(known.clone());
        }
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let digest = hex(&hasher.finalize());
        self.control().hashes.insert(key, digest.clone());
        Ok(digest)
    }

    /// Returns a repository's files, sorted, and the commit that stands for them.
    fn repository(&self, repo: &str) -> io::Result<(Vec<Entry>, String)> {
        let root = self.dir.join(repo);
        let mut entries = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let meta = fs::metadata(&path)?;
                if meta.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                let is_weights = [".safetensors", ".gguf", ".bin"].iter().any(|end| name.ends_with(end));
                let is_large = is_weights || meta.len() > LARGE;
                let sha256 = self.sha256(&path)?;
                entries.push(Entry { name, path, size: meta.len(), sha256, is_large });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let text: Vec<String> = entries.iter().map(|e| format!("{} {}\n", e.sha256, e.name)).collect();
        let commit = hex(&Sha256::digest(text.concat()))[..40].to_owned();
        Ok((entries, commit))
    }
}

struct Entry {
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
    is_large: bool,
}

impl Entry {
    /// Stands for git's hash, which has 40 digits too.
    fn oid(&self) -> &str {
        &self.sha256[..40]
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, is_cdn: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // a client that goes away is its own business
        tokio::spawn(async move { drop(serve_one(stream, &shared, is_cdn).await) });
    }
}

async fn serve_one(mut stream: TcpStream, shared: &Shared, is_cdn: bool) -> io::Result<()> {
    let request = read_request(&mut stream).await?;
    let (door, name) = match (is_cdn, request.path.starts_with("/api/")) {
        (true, _) => {
            let signature = request.path.rsplit('=').next().unwrap_or_default();
            let signed = shared.control().signed.get(signature).map(|(_, _, name)| name.clone());
            (Door::Cdn, signed.unwrap_or_default())
        }
        (false, true) => (Door::Api, request.path.clone()),
        (false, false) => (Door::Resolve, request.path.clone()),
    };
    let fault = shared.fault(door, &name);
    let mut reply = match &fault {
        Some(Fault::TooMany(seconds)) => Reply {
            status: 429,
            headers: vec![("Retry-After", seconds.to_string())],
            body: Body::Text(String::new()),
        },
        Some(Fault::Refuse(status, code)) => Reply::refuse(*status, code),
        Some(Fault::Lead(to)) => {
            Reply { status: 302, headers: vec![("Location", to.clone())], body: Body::Text(String::new()) }
        }
        Some(Fault::Gated(message)) => {
            let mut reply = Reply::refuse(403, "GatedRepo");
            reply.headers =
                vec![("X-Error-Code", "GatedRepo".to_owned()), ("X-Error-Message", (*message).to_owned())];
            reply
        }
        _ => match door {
            Door::Api => api(shared, &request),
            Door::Resolve => resolve(shared, &request),
            Door::Cdn => cdn(shared, &request, fault.as_ref())?,
        },
    };
    if let (Body::File { zeros, .. }, Some(Fault::Longer(more))) = (&mut reply.body, &fault) {
        *zeros = *more;
    }
    if let Some(Fault::LastOne(seconds)) = fault {
        reply.headers.push(("RateLimit", format!("\"resolvers\";r=0;t={seconds}")));
    }
    let stop = match fault {
        Some(Fault::Cut(after) | Fault::Stall(after)) => after,
        _ => u64::MAX,
    };
    let sent = match &reply.body {
        Body::File { range, .. } if request.method != "HEAD" => {
            range.start..range.end.min(range.start.saturating_add(stop))
        }
        _ => 0..0,
    };
    let header = |name: &str| request.headers.get(name).cloned();
    shared.control().seen.push(Seen {
        door,
        path: name,
        authorization: header("authorization"),
        if_range: header("if-range"),
        status: reply.status,
        sent,
        method: request.method.clone(),
    });
    send(&mut stream, &request, reply, stop, fault.as_ref()).await?;
    if let Some(Fault::Stall(_)) = fault {
        // until the client gives up
        stream.read_u8().await?;
    }
    stream.shutdown().await
}
