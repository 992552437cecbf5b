//! Fetching against a double of the hub: what arrives, what goes over the wire, what is said.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_fleet::events::{Event, Events};
use bramble_fleet::fetch::{Error, Fetcher, Machine, RawHeader, Settings, Token};
use bramble_fleet::ids::Digest;
use bramble_fleet::source::{Pinned, PinnedFile, SourceRef};
use bramble_fleet::units::Bytes;

#[path = "support/hub.rs"]
mod hub;

use hub::{Door, Fault, Hub, Seen};

/// The size of the weights, header included: some pieces of the network and a rest.
const WEIGHTS: usize = 300_001;
const MODEL: &str = "model.safetensors";

/// A hub with `org/tiny`, and an empty cache.
struct Bench {
    dir: tempfile::TempDir,
    hub: Hub,
    /// What fetching waited for.
    pauses: Arc<Mutex<Vec<Duration>>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    async fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn repo(&self, name: &str) -> PathBuf {
        self.path("hub/org/tiny").join(name)
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::read(|_| None);
        settings.endpoint.clone_from(&self.hub.endpoint);
        settings.cache = self.path("cache");
        settings.hub_cache = Some(self.path("python"));
        self.dir.path().clone_into(&mut settings.folder);
        settings
    }

    /// A machine that never really waits, and has `free` bytes.
    fn machine(&self, free: Bytes) -> Machine {
        let pauses = Arc::clone(&self.pauses);
        Machine {
            free_space: Arc::new(move |_| Ok(free)),
            pause: Arc::new(move |wait| {
                pauses.lock().unwrap().push(wait);
                Box::pin(tokio::task::yield_now())
            }),
        }
    }

    fn fetcher(&self, change: impl FnOnce(&mut Settings)) -> Fetcher {
        let mut settings = self.settings();
        change(&mut settings);
        let events = Arc::clone(&self.events);
        let events = Events::new(move |event| events.lock().unwrap().push(event));
        Fetcher::on(settings, events, self.machine(Bytes::gib(1))).unwrap()
    }

    /// A new fetcher, as a new run of the program has it.
    fn plain(&self) -> Fetcher {
        self.fetcher(|_| {})
    }

    /// Pins `org/tiny` and forgets what that took.
    async fn pinned(&self) -> Pinned {
        let pinned = self.plain().pin(&source("org/tiny")).await.unwrap();
        self.hub.take_seen();
        pinned
    }

    /// Asserts that the folder holds what the hub holds.
    fn assert_obtained(&self, folder: &Path) {
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", MODEL] {
            assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(self.repo(name)).unwrap(), "{name}");
        }
    }

    fn partials(&self) -> usize {
        fs::read_dir(self.path("cache/partial")).unwrap().count()
    }
}

fn safetensors(size: usize) -> Vec<u8> {
    let data = size - 8 - 128;
    let text = format!(r#"{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}"#);
    let header = format!("{text:<128}");
    let body = (0..data).map(|i| u8::try_from((i * 131 + i / 253) % 256).unwrap());
    128u64.to_le_bytes().into_iter().chain(header.into_bytes()).chain(body).collect()
}

fn source(repo: &str) -> SourceRef {
    SourceRef::Hub { repo: repo.to_owned(), revision: None, file: None }
}

fn gguf_source(file: &str) -> SourceRef {
    SourceRef::Hub { repo: "org/tiny".to_owned(), revision: None, file: Some(file.to_owned()) }
}

/// The bytes of the weights that were sent, in the order of the file.
fn sent(seen: &[Seen]) -> Vec<(u64, u64)> {
    let mut sent: Vec<_> = seen
        .iter()
        .filter(|seen| seen.door == Door::Cdn && matches!(seen.status, 200 | 206))
        .map(|seen| (seen.sent.start, seen.sent.end))
        .collect();
    sent.sort_unstable();
    sent
}

/// Asserts that every byte of the weights was sent, and none of them twice.
fn assert_each_byte_once(seen: &[Seen]) {
    let mut at = 0;
    for (start, end) in sent(seen) {
        assert_eq!(start, at, "{:?}", sent(seen));
        at = end;
    }
    assert_eq!(at, WEIGHTS as u64);
}

#[tokio::test]
async fn a_checkpoint_is_pinned_described_and_obtained() {
    let bench = Bench::new().await;
    let fetcher = bench.plain();
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    let (repo, commit) = pinned.uri.split_once('@').unwrap();
    assert_eq!((repo, commit.len()), ("hf:org/tiny", 40));
    assert_eq!(pinned.license.as_deref(), Some("apache-2.0"));
    let names: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", MODEL, "tokenizer.json", "tokenizer_config.json"]);
    for file in &pinned.files {
        let bytes = fs::read(bench.repo(&file.path)).unwrap();
        assert_eq!((file.bytes, file.sha256), (Bytes(bytes.len() as u64), Digest::of(&bytes)));
    }
    bench.hub.take_seen();

    let raw = fetcher.describe(&pinned).await.unwrap();
    assert!(raw.has_chat_template);
    let RawHeader::Checkpoint { config, shards } = raw.header else { panic!("a checkpoint") };
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!(shards, [safetensors(WEIGHTS)[8..136].to_vec()]);
    assert_eq!(sent(&bench.hub.take_seen()), [(0, 128 << 10)], "the header costs one request of 128 KiB");

    let folder = fetcher.obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert_each_byte_once(&bench.hub.take_seen());
    let events = bench.events.lock().unwrap();
    let whole = Bytes(WEIGHTS as u64);
    assert!(events.iter().any(|e| matches!(e, Event::Started { total: Some(total), .. } if *total == whole)));
    assert!(events.iter().any(|e| matches!(e, Event::Progress { done, .. } if *done == whole)));
    assert!(events.iter().any(|e| matches!(e, Event::Finished { .. })));
}

#[tokio::test]
async fn what_is_here_needs_no_network() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let fetcher = bench.plain();
    let raw = fetcher.describe(&pinned).await.unwrap();
    bench.hub.take_seen();
    assert_eq!(bench.plain().describe(&pinned).await.unwrap(), raw, "before the weights are here too");
    assert!(bench.hub.take_seen().is_empty());
    let folder = fetcher.obtain(&pinned).await.unwrap();
    bench.hub.take_seen();
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    assert_eq!(offline.obtain(&pinned).await.unwrap(), folder);
    assert_eq!(offline.describe(&pinned).await.unwrap(), raw);
    assert_eq!(bench.plain().obtain(&pinned).await.unwrap(), folder);
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut() {
    for cut in [0, 1, 65_535, 65_536, 65_537, 200_000, WEIGHTS as u64 - 1] {
        let bench = Bench::new().await;
        let pinned = bench.pinned().await;
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut));
        let folder = bench.plain().obtain(&pinned).await.unwrap();
        bench.assert_obtained(&folder);
        let seen = bench.hub.take_seen();
        assert_each_byte_once(&seen);
        assert_eq!(sent(&seen).len(), 2, "cut at {cut}");
    }
}

#[tokio::test]
async fn the_next_run_goes_on_where_the_last_one_was_cut() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let mut cuts = 0;
    for cut in [100_000, 1, 150_000] {
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut));
        let error =
            bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        cuts += cut;
        assert_eq!(bench.plain().store().arrived(&pinned.files[1].sha256), Bytes(cuts));
    }
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    let seen = bench.hub.take_seen();
    assert_each_byte_once(&seen);
    let conditions: Vec<bool> =
        seen.iter().filter(|s| s.door == Door::Cdn).map(|s| s.if_range.is_some()).collect();
    assert_eq!(conditions, [false, true, true, true], "a range is asked for of the same version only");
    assert_eq!(bench.partials(), 0);
}

#[tokio::test]
async fn another_version_at_the_cdn_is_fetched_from_its_start() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    bench.hub.fail(Door::Cdn, MODEL, Fault::NewEtag);
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert_eq!(sent(&bench.hub.take_seen()), [(0, 100_000), (0, WEIGHTS as u64)]);
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_nothing_of_it_is_kept() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Flip(123_456));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    let expected = pinned.files[1].sha256;
    assert!(
        matches!(error, Error::Mismatch { expected: e, got, .. } if e == expected && got != e),
        "{error}"
    );
    assert!(!bench.plain().store().has(&expected));
    assert_eq!(bench.partials(), 0);
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
}

#[tokio::test]
async fn bytes_that_rotted_between_two_runs_are_fetched_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    drop(bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err());
    let partial = bench.path("cache/partial").join(pinned.files[1].sha256.to_string());
    fs::write(&partial, vec![0; 100_000]).unwrap();
    bench.hub.take_seen();
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_eq!(sent(&bench.hub.take_seen()), [(0, WEIGHTS as u64), (100_000, WEIGHTS as u64)]);
}

#[tokio::test]
async fn a_blob_that_lost_its_end_is_fetched_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    let blob = bench.plain().store().path(&pinned.files[1].sha256);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    assert_eq!(bench.plain().obtain(&pinned).await.unwrap(), folder);
    bench.assert_obtained(&folder);
}

#[tokio::test]
async fn a_stalled_download_is_taken_up_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Stall(70_000));
    let impatient = bench.fetcher(|settings| settings.patience.idle = Duration::from_secs(1));
    bench.assert_obtained(&impatient.obtain(&pinned).await.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
}

#[tokio::test]
async fn a_file_that_claims_another_size_is_refused() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Longer(5));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    let longer = Bytes(WEIGHTS as u64 + 5);
    assert!(matches!(error, Error::WrongLength { got, .. } if got == longer), "{error}");
    assert_eq!(bench.partials(), 0);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_cdn() {
    let bench = Bench::new().await;
    let fetcher = bench.fetcher(|settings| settings.token = Token::new("hf_secret"));
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    fetcher.describe(&pinned).await.unwrap();
    fetcher.obtain(&pinned).await.unwrap();
    let seen = bench.hub.take_seen();
    let (cdn, hub): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|seen| seen.door == Door::Cdn);
    assert!(cdn.len() >= 2 && cdn.iter().all(|seen| seen.authorization.is_none()));
    assert!(hub.len() >= 5);
    assert!(seen.iter().all(|seen| seen.method == "GET"));
    assert!(hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(!format!("{fetcher:?}").contains("hf_secret"));
}

/// Asks the double something in plain HTTP and returns the whole answer.
fn ask(endpoint: &str, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(endpoint.trim_start_matches("http://")).unwrap();
    stream.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_answers_as_the_hub_does() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let sha256 = pinned.files[1].sha256;
    let endpoint = &bench.hub.endpoint;
    let tree = ask(endpoint, "GET /api/models/org/tiny/tree/main?recursive=true HTTP/1.1");
    assert!(tree.contains(&format!(r#""lfs":{{"oid":"{sha256}""#)), "{tree}");
    let head = ask(endpoint, &format!("HEAD /org/tiny/resolve/main/{MODEL} HTTP/1.1"));
    let linked = format!("X-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {WEIGHTS}\r\n");
    assert!(head.starts_with("HTTP/1.1 302") && head.contains(&linked), "{head}");
    let (cdn, path) = {
        let place = head.split("Location: ").nth(1).unwrap().lines().next().unwrap();
        place.split_at(place.rfind('/').unwrap())
    };
    let get = |headers: &str| ask(cdn, &format!("GET {path} HTTP/1.1\r\n{headers}"));
    assert!(get(&format!("Range: bytes={WEIGHTS}-")).starts_with("HTTP/1.1 416"));
    assert!(get("Range: bytes=8-9").ends_with("\r\n\r\n{\""));
    assert!(get("Authorization: Bearer x").starts_with("HTTP/1.1 400"));
    assert!(ask(cdn, "GET /blob?signature=made-up HTTP/1.1").starts_with("HTTP/1.1 403"));
    let config = ask(endpoint, "GET /org/tiny/resolve/main/config.json HTTP/1.1");
    assert!(config.contains("X-Repo-Commit: ") && config.ends_with("[\"LlamaForCausalLM\"]}"), "{config}");
    assert!(ask(endpoint, "GET /org/tiny/resolve/main/../../x HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(ask(endpoint, "GET /api/models/../tiny HTTP/1.1").starts_with("HTTP/1.1 401"));
    let paths: Vec<String> = bench.hub.take_seen().into_iter().map(|seen| seen.path).collect();
    assert!(paths[2].ends_with(MODEL), "the CDN's requests are recorded by file: {paths:?}");
}

#[tokio::test]
async fn the_hub_is_left_alone_for_as_long_as_it_asks() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Resolve, MODEL, Fault::TooMany(7));
    bench.hub.fail(Door::Cdn, MODEL, Fault::TooMany(11));
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_eq!(*bench.pauses.lock().unwrap(), [Duration::from_secs(7), Duration::from_secs(11)]);
    let note = Event::Note { host: None, text: "the hub asks to wait 7 s".to_owned() };
    assert!(bench.events.lock().unwrap().contains(&note));

    bench.hub.fail(Door::Api, "", Fault::TooMany(86_400));
    let error = bench.plain().pin(&source("org/tiny")).await.unwrap_err().to_string();
    assert!(error.contains("wait 86400 s") && error.contains("HF_TOKEN"), "{error}");
}

#[tokio::test]
async fn a_failing_hub_is_asked_again_and_given_up_at_last() {
    let bench = Bench::new().await;
    bench.hub.fail(Door::Api, "org/tiny", Fault::Refuse(502, ""));
    bench.hub.fail(Door::Resolve, "config.json", Fault::Refuse(500, ""));
    let pinned = bench.plain().pin(&source("org/tiny")).await.unwrap();
    assert_eq!(bench.pauses.lock().unwrap().len(), 2);
    bench.hub.take_seen();
    bench.hub.fail_always(Door::Resolve, MODEL, Fault::Refuse(503, ""));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    assert!(matches!(error, Error::Server { status: 503, .. }) && error.is_transient(), "{error}");
    assert_eq!(bench.hub.take_seen().len(), 6);
}

#[tokio::test]
async fn an_expired_address_is_replaced_by_a_new_one() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    bench.hub.fail(Door::Cdn, MODEL, Fault::Refuse(403, ""));
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    let seen = bench.hub.take_seen();
    assert_each_byte_once(&seen);
    assert_eq!(seen.iter().filter(|seen| seen.door == Door::Resolve).count(), 3);
}

#[tokio::test]
async fn each_refusal_says_what_to_do_next() {
    let bench = Bench::new().await;
    let page = format!("{}/org/tiny", bench.hub.endpoint);
    let with_token = |settings: &mut Settings| settings.token = Token::new("hf_secret");
    let refuse = |status, code| bench.hub.fail(Door::Resolve, "config.json", Fault::Refuse(status, code));
    let tiny = source("org/tiny");

    refuse(401, "GatedRepo");
    let error = bench.plain().pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::NoToken { .. }));
    assert!(error.to_string().contains(&page) && error.to_string().contains("HF_TOKEN"), "{error}");

    refuse(403, "GatedRepo");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::LicenceNotAccepted { .. }));
    assert!(error.to_string().contains(&format!("accept its licence at {page} ")), "{error}");

    refuse(401, "");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::TokenRefused { .. }), "{error}");

    refuse(403, "");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::Denied { status: 403, .. }), "{error}");
    assert!(error.to_string().contains("the double says 403"), "{error}");

    let error = bench.plain().pin(&source("org/none")).await.unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { had_token: false, .. }), "{error}");
    assert!(error.to_string().contains("for a private one set HF_TOKEN"), "{error}");
    let error = bench.fetcher(with_token).pin(&source("org/none")).await.unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { had_token: true, .. }), "{error}");

    let other = SourceRef::Hub { repo: "org/tiny".to_owned(), revision: Some("v9".to_owned()), file: None };
    let error = bench.plain().pin(&other).await.unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == "v9"), "{error}");

    let error = bench.plain().pin(&gguf_source("none.gguf")).await.unwrap_err();
    assert!(matches!(&error, Error::EntryNotFound { what } if what == "org/tiny/none.gguf"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn offline_says_what_is_missing_and_asks_nobody() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    let errors = [
        offline.obtain(&pinned).await.unwrap_err(),
        offline.describe(&pinned).await.unwrap_err(),
        offline.pin(&source("org/tiny")).await.unwrap_err(),
    ];
    for error in &errors {
        assert!(matches!(error, Error::Offline { what } if what.starts_with("org/tiny")), "{error}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE") && !error.is_transient(), "{error}");
    }
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_hub_that_does_not_answer_is_named_with_the_variable_that_changes_it() {
    let bench = Bench::new().await;
    // a port that was free a moment ago
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fetcher = bench.fetcher(|settings| settings.endpoint = format!("http://{free}"));
    let error = fetcher.pin(&source("org/tiny")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient());
    let said = error.to_string();
    assert!(said.contains(&format!("http://{free}")) && said.contains("HF_ENDPOINT"), "{said}");
    assert_eq!(bench.pauses.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn weights_in_the_python_cache_are_used_when_their_hash_is_right() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let blobs = bench.path("python/models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let theirs = blobs.join(pinned.files[1].sha256.to_string());
    let mut bytes = fs::read(bench.repo(MODEL)).unwrap();
    fs::write(&theirs, &bytes).unwrap();
    let folder = bench.fetcher(|settings| settings.is_offline = true).obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert!(bench.hub.take_seen().is_empty());

    // the same once more, with a damaged copy: the hub is asked
    fs::remove_dir_all(bench.path("cache")).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&theirs, &bytes).unwrap();
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
    assert_eq!(fs::read(&theirs).unwrap(), bytes, "what is not ours stays as it is");
}

#[tokio::test]
async fn no_space_is_told_with_both_numbers_before_the_first_byte() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let free = Bytes::mib(64) + Bytes(1000);
    let fetcher = Fetcher::on(bench.settings(), Events::none(), bench.machine(free)).unwrap();
    let error = fetcher.obtain(&pinned).await.unwrap_err();
    let expected = Bytes::mib(64) + Bytes(WEIGHTS as u64);
    assert!(
        matches!(error, Error::NoSpace { need, free: f, .. } if need == expected && f == free),
        "{error}"
    );
    assert!(error.to_string().contains("64.0 MiB free") && error.to_string().contains("64.3 MiB"), "{error}");
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let bench = Bench::new().await;
    let mut pinned = bench.pinned().await;
    for name in ["../x", "/etc/passwd", "a/../../x", "a\\b"] {
        bench.hub.control().extra_siblings = vec![name.to_owned()];
        let error = bench.plain().pin(&source("org/tiny")).await.unwrap_err();
        assert!(matches!(&error, Error::UnsafePath { path, .. } if path == name), "{error}");
    }
    // a lock is text that anybody may have edited
    pinned.files.push(PinnedFile { path: "../../x".to_owned(), ..pinned.files[0].clone() });
    assert!(matches!(bench.plain().obtain(&pinned).await.unwrap_err(), Error::UnsafePath { .. }));
    assert!(matches!(bench.plain().describe(&pinned).await.unwrap_err(), Error::UnsafePath { .. }));
}

#[tokio::test]
async fn a_header_that_claims_too_much_is_refused_without_fetching_it() {
    for claimed in [u64::MAX, 100_000_001, WEIGHTS as u64] {
        let bench = Bench::new().await;
        let mut bytes = safetensors(WEIGHTS);
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        fs::write(bench.repo(MODEL), &bytes).unwrap();
        let pinned = bench.pinned().await;
        let error = bench.plain().describe(&pinned).await.unwrap_err();
        assert!(matches!(&error, Error::BadHeader { what, .. } if what == MODEL), "{error}");
        assert_eq!(sent(&bench.hub.take_seen()), [(0, 128 << 10)]);
    }
}

#[tokio::test]
async fn the_shards_that_the_index_names_are_the_weights() {
    let bench = Bench::new().await;
    fs::remove_file(bench.repo(MODEL)).unwrap();
    let index = r#"{"weight_map":{"a":"model-2.safetensors","b":"model-1.safetensors"}}"#;
    fs::write(bench.repo("model.safetensors.index.json"), index).unwrap();
    for (name, size) in [("model-1", 1000), ("model-2", 2000), ("consolidated", 3000)] {
        fs::write(bench.repo(&format!("{name}.safetensors")), safetensors(size)).unwrap();
    }
    let pinned = bench.pinned().await;
    let shards: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    let weights = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(shards[1..4], weights);
    let raw = bench.plain().describe(&pinned).await.unwrap();
    let RawHeader::Checkpoint { shards, .. } = raw.header else { panic!("a checkpoint") };
    assert_eq!(shards, [1000, 2000].map(|size| safetensors(size)[8..136].to_vec()));
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join(weights[1])).unwrap(), safetensors(2000));
}

#[tokio::test]
async fn a_gguf_is_described_by_its_first_bytes_alone() {
    let bench = Bench::new().await;
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut header = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
    header.extend(2u64.to_le_bytes());
    header.extend([string("tokenizer.chat_template"), 8u32.to_le_bytes().into(), string("x")].concat());
    header.extend([string("v"), 8u32.to_le_bytes().into(), string(&"y".repeat(200_000))].concat());
    fs::create_dir(bench.repo("sub")).unwrap();
    let whole = [header.as_slice(), &vec![7; 1_000_000]].concat();
    fs::write(bench.repo("sub/a b.gguf"), &whole).unwrap();

    let pinned = bench.plain().pin(&gguf_source("sub/a b.gguf")).await.unwrap();
    assert!(pinned.is_gguf() && pinned.uri.ends_with("/sub/a b.gguf"));
    bench.hub.fail(Door::Cdn, "gguf", Fault::Cut(1000));
    let raw = bench.plain().describe(&pinned).await.unwrap();
    assert!(raw.has_chat_template);
    assert_eq!(raw.header, RawHeader::Gguf { header: header.clone() });
    let ranges = sent(&bench.hub.take_seen());
    assert_eq!(ranges.first(), Some(&(0, 1000)));
    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
    assert!(ranges.last().unwrap().1 < 600_000, "{ranges:?}");
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join("sub/a b.gguf")).unwrap(), whole);
}

#[tokio::test]
async fn a_folder_is_a_source_until_it_changes() {
    let bench = Bench::new().await;
    let source = SourceRef::File("hub/org/tiny".to_owned());
    let fetcher = bench.plain();
    let pinned = fetcher.pin(&source).await.unwrap();
    assert_eq!((pinned.uri.as_str(), pinned.files.len()), ("file:hub/org/tiny", 4));
    let raw = fetcher.describe(&pinned).await.unwrap();
    assert!(raw.has_chat_template);
    bench.assert_obtained(&fetcher.obtain(&pinned).await.unwrap());
    assert!(bench.hub.take_seen().is_empty());
    let mut bytes = fs::read(bench.repo(MODEL)).unwrap();
    bytes[1000] ^= 1;
    fs::write(bench.repo(MODEL), bytes).unwrap();
    let error = fetcher.obtain(&pinned).await.unwrap_err();
    assert!(matches!(&error, Error::LocalChanged { path } if path.ends_with(MODEL)), "{error}");
}

#[tokio::test]
async fn sources_that_cannot_be_used_yet_say_what_to_write_instead() {
    let bench = Bench::new().await;
    let fetcher = bench.plain();
    let delta = SourceRef::Delta { base: Box::new(source("a/b")), delta: Box::new(source("c/d")) };
    for other in [SourceRef::Url("https://x/y.gguf".to_owned()), delta, SourceRef::Catalog("x".to_owned())] {
        let error = fetcher.pin(&other).await.unwrap_err();
        assert!(matches!(&error, Error::NotYet { .. }), "{error}");
        assert!(error.to_string().contains("file:PATH") || error.to_string().contains("hf:"), "{error}");
    }
    fs::remove_file(bench.repo(MODEL)).unwrap();
    fs::write(bench.repo("pytorch_model.bin"), b"pickle").unwrap();
    let error = fetcher.pin(&source("org/tiny")).await.unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin") && error.contains(".safetensors"), "{error}");
}

#[tokio::test]
async fn two_runs_at_the_same_time_fetch_each_byte_once() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let patient = || bench.fetcher(|settings| settings.patience.attempts = u32::MAX);
    let (first, second) = (patient(), patient());
    let (first, second) = tokio::join!(first.obtain(&pinned), second.obtain(&pinned));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
}
