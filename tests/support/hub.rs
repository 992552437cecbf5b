//! A double of the model hub, on loopback: folders `DIR/ORG/REPO/…` as repositories.
//!
//! It speaks as much of the hub as clients use: descriptions with digests, `resolve`
//! with its headers, and redirects of large files to a second port, the "CDN", which
//! honours ranges and refuses requests that carry credentials. What went over the wire
//! is recorded, and faults can be ordered. HTTP is written by hand so that a cut after k
//! bytes is a cut after exactly k bytes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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
    /// The byte at this offset of the file has a bit flipped.
    Flip(u64),
    /// From now on the file has another `ETag`.
    NewEtag,
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

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Text(String),
    File { path: PathBuf, range: Range<u64>, zeros: u64 },
}

impl Reply {
    fn json(value: &Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { status: 200, headers, body: Body::Text(value.to_string()) }
    }

    fn refuse(status: u16, code: &str) -> Self {
        let mut headers = vec![("X-Error-Message", format!("the double says {status}"))];
        if !code.is_empty() {
            headers.push(("X-Error-Code", code.to_owned()));
        }
        Self { status, headers, body: Body::Text(String::new()) }
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
        _ => match door {
            Door::Api => api(shared, &request),
            Door::Resolve => resolve(shared, &request),
            Door::Cdn => cdn(shared, &request, fault.as_ref())?,
        },
    };
    if let (Body::File { zeros, .. }, Some(Fault::Longer(more))) = (&mut reply.body, &fault) {
        *zeros = *more;
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
    let flip = if let Some(Fault::Flip(at)) = fault { Some(at) } else { None };
    send(&mut stream, &request, reply, stop, flip).await?;
    if let Some(Fault::Stall(_)) = fault {
        // until the client gives up
        stream.read_u8().await?;
    }
    stream.shutdown().await
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Request> {
    let mut lines = BufReader::new(stream.take(64 << 10)).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(Request { method, path, headers })
}

async fn send(
    stream: &mut TcpStream,
    request: &Request,
    reply: Reply,
    stop: u64,
    flip: Option<u64>,
) -> io::Result<()> {
    let length = match &reply.body {
        Body::Text(text) => text.len() as u64,
        Body::File { range, zeros, .. } => range.end - range.start + zeros,
    };
    let mut head =
        format!("HTTP/1.1 {} Double\r\nConnection: close\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match reply.body {
        Body::Text(text) => stream.write_all(text.as_bytes()).await,
        Body::File { path, range, zeros } => {
            let mut file = fs::File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let end = range.end.min(range.start.saturating_add(stop));
            let mut at = range.start;
            let mut buffer = vec![0; 64 << 10];
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let n = file.read(&mut buffer[..want])?;
                if n == 0 {
                    break;
                }
                if let Some(offset) = flip.and_then(|flip| flip.checked_sub(at))
                    && let Some(byte) = usize::try_from(offset).ok().and_then(|i| buffer[..n].get_mut(i))
                {
                    *byte ^= 1;
                }
                stream.write_all(&buffer[..n]).await?;
                at += n as u64;
            }
            if stop == u64::MAX && zeros > 0 {
                stream.write_all(&vec![0; usize::try_from(zeros).unwrap_or(0)]).await?;
            }
            stream.flush().await
        }
    }
}

/// `/api/models/ORG/REPO[/revision/REV|/tree/REV]`
fn api(shared: &Shared, request: &Request) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<String> = path.trim_start_matches("/api/models/").split('/').map(decode).collect();
    let [org, name, rest @ ..] = parts.as_slice() else { return Reply::refuse(404, "RepoNotFound") };
    let Some((entries, commit)) = known(shared, org, name) else { return no_repository(request) };
    let (kind, revision) = match rest {
        [] => ("revision", "main"),
        [kind, revision] => (kind.as_str(), revision.as_str()),
        _ => return Reply::refuse(404, ""),
    };
    if revision != "main" && revision != commit {
        return Reply::refuse(404, "RevisionNotFound");
    }
    if kind == "tree" {
        let files = entries.iter().map(|e| {
            let mut file = json!({"type": "file", "oid": e.oid(), "size": e.size, "path": e.name});
            if e.is_large {
                file["lfs"] = json!({"oid": e.sha256, "size": e.size, "pointerSize": 134});
            }
            file
        });
        return Reply::json(&files.collect());
    }
    let mut siblings: Vec<Value> = entries
        .iter()
        .map(|e| {
            let mut file = json!({"rfilename": e.name, "size": e.size, "blobId": e.oid()});
            if e.is_large {
                file["lfs"] = json!({"sha256": e.sha256, "size": e.size, "pointerSize": 134});
            }
            file
        })
        .collect();
    siblings.extend(shared.control().extra_siblings.iter().map(|name| json!({"rfilename": name, "size": 1})));
    let license = license(&shared.dir.join(org).join(name));
    let tags: Vec<String> = license.iter().map(|license| format!("license:{license}")).collect();
    Reply::json(&json!({
        "id": format!("{org}/{name}"), "sha": commit, "private": false, "gated": false, "tags": tags,
        "cardData": { "license": license }, "siblings": siblings,
    }))
}

/// Reads `license:` from the head of a repository's README.md.
fn license(root: &Path) -> Option<String> {
    let card = fs::read_to_string(root.join("README.md")).ok()?;
    card.lines().find_map(|line| line.strip_prefix("license:")).map(|text| text.trim().to_owned())
}

/// `/ORG/REPO/resolve/REV/PATH`
fn resolve(shared: &Shared, request: &Request) -> Reply {
    let parts: Vec<String> = request.path.trim_start_matches('/').split('/').map(decode).collect();
    let [org, name, verb, revision, file @ ..] = parts.as_slice() else { return Reply::refuse(404, "") };
    let Some((entries, commit)) = known(shared, org, name) else { return no_repository(request) };
    if verb != "resolve" {
        return Reply::refuse(404, "");
    }
    if revision != "main" && *revision != commit {
        return Reply::refuse(404, "RevisionNotFound");
    }
    let file = file.join("/");
    let Some(entry) = entries.into_iter().find(|entry| entry.name == file) else {
        return Reply::refuse(404, "EntryNotFound");
    };
    let mut headers = vec![("X-Repo-Commit", commit), ("Accept-Ranges", "bytes".to_owned())];
    if !entry.is_large {
        headers.push(("ETag", format!("\"{}\"", entry.oid())));
        let body = Body::File { path: entry.path, range: 0..entry.size, zeros: 0 };
        return Reply { status: 200, headers, body };
    }
    let mut control = shared.control();
    let signature = format!("s{}", control.signed.len());
    headers.push(("X-Linked-Etag", format!("\"{}\"", entry.sha256)));
    headers.push(("X-Linked-Size", entry.size.to_string()));
    headers.push(("Location", format!("{}/blob?signature={signature}", shared.cdn)));
    control.signed.insert(signature, (entry.path, entry.sha256, request.path.clone()));
    Reply { status: 302, headers, body: Body::Text(String::new()) }
}

/// `/blob?signature=S` at the second port.
fn cdn(shared: &Shared, request: &Request, fault: Option<&Fault>) -> io::Result<Reply> {
    let signature = request.path.rsplit('=').next().unwrap_or_default();
    let Some((path, sha256, _)) = shared.control().signed.get(signature).cloned() else {
        return Ok(Reply::refuse(403, ""));
    };
    if request.headers.contains_key("authorization") {
        // as S3 does: two ways of proving who one is are one too many
        return Ok(Reply::refuse(400, ""));
    }
    if fault == Some(&Fault::NewEtag) {
        *shared.control().etag_salts.entry(path.clone()).or_default() += 1;
    }
    let salt = shared.control().etag_salts.get(&path).copied().unwrap_or(0);
    let etag = format!("\"cdn-{}-{salt}\"", &sha256[..16]);
    let size = fs::metadata(&path)?.len();
    let total = if let Some(Fault::Longer(more)) = fault { size + more } else { size };
    let mut headers = vec![("ETag", etag.clone()), ("Accept-Ranges", "bytes".to_owned())];
    let is_same = request.headers.get("if-range").is_none_or(|wanted| *wanted == etag);
    let range = request.headers.get("range").filter(|_| is_same).and_then(|text| parse_range(text, size));
    let (status, range) = match range {
        None => (200, 0..size),
        Some(range) if range.start >= size => {
            headers.push(("Content-Range", format!("bytes */{total}")));
            return Ok(Reply { status: 416, headers, body: Body::Text(String::new()) });
        }
        Some(range) => {
            headers.push(("Content-Range", format!("bytes {}-{}/{total}", range.start, range.end - 1)));
            (206, range)
        }
    };
    Ok(Reply { status, headers, body: Body::File { path, range, zeros: 0 } })
}

/// Reads `bytes=FIRST-[LAST]`.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
    Some(first.parse().ok()?..end)
}

fn known(shared: &Shared, org: &str, name: &str) -> Option<(Vec<Entry>, String)> {
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('/');
    if !is_plain(org) || !is_plain(name) {
        return None;
    }
    shared.repository(&format!("{org}/{name}")).ok()
}

/// The hub does not tell strangers whether a repository exists.
fn no_repository(request: &Request) -> Reply {
    let status = if request.headers.contains_key("authorization") { 404 } else { 401 };
    Reply::refuse(status, "RepoNotFound")
}

fn decode(part: impl AsRef<str>) -> String {
    let bytes = part.as_ref().as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let escaped = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(value.unwrap_or(bytes[i]));
        i += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
