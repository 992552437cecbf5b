//! Pushes over a real sshd: whole, interrupted, concurrent, damaged, and onto a full disk.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the sshd that the tests talk to"
)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bramble_fleet::connect::{self, Connection, Local, Output, Script, Settings, Ssh, Stdin, Talk, quote};
use bramble_fleet::events::{Event, Events};
use bramble_fleet::execute::Verbs;
use bramble_fleet::generation::Layout;
use bramble_fleet::ids::{Digest, HostName};
use bramble_fleet::lease;
use bramble_fleet::probe;
use bramble_fleet::transfer::{
    Cargo, ChunkList, Error, Limits, Link, Pushed, Reason, Target, Way, push, push_bundle,
};
use bramble_fleet::units::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use sshd::Sshd;

/// A folder that stands for a host's, and what to push there.
struct Place {
    dir: tempfile::TempDir,
    layout: Layout,
    host: HostName,
    bundle: Artifact,
}

#[derive(Clone)]
struct Artifact {
    path: PathBuf,
    digest: Digest,
    bytes: Bytes,
}

impl Artifact {
    fn of(path: PathBuf) -> Self {
        let data = std::fs::read(&path).unwrap();
        Self { digest: Digest::of(&data), bytes: Bytes(data.len() as u64), path }
    }

    fn cargo(&self) -> Cargo<'_> {
        Cargo { what: "chat (Q8_0)", digest: &self.digest, bytes: self.bytes, path: &self.path }
    }
}

impl Place {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap(), "root")
    }

    fn at(dir: tempfile::TempDir, root: &str) -> Self {
        // the bundle's program is the one under test
        // (built with llama.cpp it wants the libraries that cargo names in our environment)
        let libraries = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let (libraries, program) = (quote(&libraries), env!("CARGO_BIN_EXE_brambled"));
        let text = format!("#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program} \"$@\"\n");
        let program = dir.path().join("brambled");
        std::fs::write(&program, text).unwrap();
        sh(&format!("cd {0} && chmod +x brambled && tar -czf bundle.tar.gz brambled", dir.path().display()));
        let bundle = Artifact::of(dir.path().join("bundle.tar.gz"));
        let layout = Layout::new(dir.path().join(root));
        Self { layout, bundle, dir, host: "kitchen".parse().unwrap() }
    }

    /// A file of bytes that do not repeat.
    fn artifact(&self, name: &str, mib: u64) -> Artifact {
        let path = self.dir.path().join(name);
        let mut state = mib + 1;
        let words = (0..mib << 17).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        });
        std::fs::write(&path, words.collect::<Vec<u8>>()).unwrap();
        Artifact::of(path)
    }

    fn way<'a>(&'a self, connection: &'a dyn Connection) -> Way<'a> {
        Way { host: &self.host, connection, layout: &self.layout, is_root: false }
    }

    async fn bootstrap(&self, connection: &dyn Connection) -> Pushed {
        self.bootstrap_seen(connection, "").await.unwrap()
    }

    /// Brings the bundle to a host whose lease was `seen` before.
    async fn bootstrap_seen(&self, connection: &dyn Connection, seen: &str) -> Result<Pushed, Error> {
        let seen = std::future::ready(Ok(seen.to_owned()));
        let (cargo, limits, events) = (self.bundle.cargo(), Limits::default(), Events::none());
        push_bundle(self.way(connection), cargo, seen, &limits, &events).await
    }

    async fn push(&self, connection: &dyn Connection, artifact: &Artifact) -> Result<Pushed, Error> {
        self.push_as(connection, artifact, &Events::none()).await
    }

    async fn push_as(
        &self,
        connection: &dyn Connection,
        artifact: &Artifact,
        events: &Events,
    ) -> Result<Pushed, Error> {
        let list = self.list(artifact);
        let targets = [self.target(connection, None)];
        let mut pushed = push(&targets, artifact.cargo(), &list, &Limits::default(), events).await;
        pushed.remove(0)
    }

    fn list(&self, artifact: &Artifact) -> ChunkList {
        let cache = self.dir.path().join("chunks");
        ChunkList::of_file(&artifact.path, &artifact.digest, &cache, Vec::new).unwrap()
    }

    fn target<'a>(&'a self, connection: &'a dyn Connection, link: Option<Link>) -> Target<'a> {
        Target {
            way: self.way(connection),
            program: &self.bundle.digest,
            lease: 0,
            link,
            is_here: false,
            gives: false,
        }
    }

    fn is_sealed(&self, artifact: &Artifact) -> bool {
        let blob = self.layout.blob(&artifact.digest);
        std::fs::read(blob).is_ok_and(|data| Digest::of(&data) == artifact.digest)
    }
}

fn sh(text: &str) {
    assert!(Command::new("sh").args(["-c", text]).status().unwrap().success(), "{text}");
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn refusal(result: Result<Pushed, Error>) -> (Reason, String) {
    match result {
        Err(Error::Refused { reason, message, .. }) => (reason, message),
        other => unreachable!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_bare_host_gets_the_bundle_and_then_a_blob_and_a_second_time_nothing() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    let place = Place::new();
    let first = place.bootstrap(&ssh).await;
    assert_eq!((first.bytes_sent, first.bytes_reused), (place.bundle.bytes, Bytes::ZERO));
    assert!(place.layout.program(&place.bundle.digest).join("brambled").exists());
    assert_eq!(place.bootstrap(&ssh).await.bytes_sent, Bytes::ZERO);

    let artifact = place.artifact("weights", 5);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events = Events::new(move |event| sink.lock().unwrap().push(event));
    let pushed = place.push_as(&ssh, &artifact, &events).await.unwrap();
    assert_eq!((pushed.bytes_sent, pushed.bytes_reused), (artifact.bytes, Bytes::ZERO));
    assert!(place.is_sealed(&artifact));
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(matches!(&seen[0], Event::Started { total, .. } if *total == Some(artifact.bytes)));
    assert!(matches!(&seen[seen.len() - 2], Event::Progress { done, .. } if *done == artifact.bytes));
    assert!(matches!(&seen[seen.len() - 1], Event::Finished { outcome: None, .. }));

    let again = place.push(&ssh, &artifact).await.unwrap();
    assert_eq!((again.bytes_sent, again.bytes_reused), (Bytes::ZERO, artifact.bytes));
}

#[tokio::test]
async fn a_push_that_was_cut_off_goes_on_where_it_stopped() {
    let Some(sshd) = Sshd::start() else { return };
    let place = Place::new();
    let artifact = place.artifact("weights", 64);
    let partial = place.layout.partial(&artifact.digest);
    let ssh = sshd.connect();
    place.bootstrap(&ssh).await;
    tokio::select! {
        result = place.push(&ssh, &artifact) => unreachable!("it ended before it was cut off: {result:?}"),
        () = async {
            while size(&partial) < 9 << 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } => {}
    }
    drop(ssh);
    let ssh = sshd.connect();
    let pushed = place.push(&ssh, &artifact).await.unwrap();
    assert!(pushed.bytes_reused >= Bytes(8 << 20), "{pushed:?}");
    assert_eq!(pushed.bytes_sent, artifact.bytes - pushed.bytes_reused);
    assert!(place.is_sealed(&artifact) && !partial.exists());
}

#[tokio::test]
async fn a_bundle_that_was_cut_off_goes_on_where_it_stopped() {
    let place = Place::new();
    let partial = place.layout.partial(&place.bundle.digest);
    std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let data = std::fs::read(&place.bundle.path).unwrap();
    std::fs::write(&partial, &data[..100]).unwrap();
    let pushed = place.bootstrap(&Local::new()).await;
    assert_eq!(pushed.bytes_reused, Bytes(100));
    assert!(place.layout.program(&place.bundle.digest).join("brambled").exists() && !partial.exists());
}

#[tokio::test]
async fn what_was_there_and_wrong_is_found_out_and_sent_anew() {
    let local = Local::new();
    let place = Place::new();
    let artifact = place.artifact("weights", 1);
    let archive = place.layout.partial(&place.bundle.digest);
    std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
    std::fs::write(&archive, [0; 100]).unwrap();
    let pushed = place.bootstrap(&local).await;
    assert_eq!((pushed.bytes_sent, pushed.bytes_reused), (place.bundle.bytes, Bytes::ZERO));
    assert!(place.layout.program(&place.bundle.digest).join("brambled").exists() && !archive.exists());

    // a file without a journal, of an older version or of nobody: nothing of it counts
    let partial = place.layout.partial(&artifact.digest);
    std::fs::write(&partial, vec![0; 2 << 20]).unwrap();
    assert_eq!(place.push(&local, &artifact).await.unwrap().bytes_sent, artifact.bytes);
    assert!(place.is_sealed(&artifact));

    // what is here has changed since its list was made: it is sent twice and never sealed
    let artifact = place.artifact("others", 9);
    let cache = place.dir.path().join("chunks");
    ChunkList::of_file(&artifact.path, &artifact.digest, &cache, Vec::new).unwrap();
    let mut data = std::fs::read(&artifact.path).unwrap();
    data[5 << 20] ^= 1;
    std::fs::write(&artifact.path, &data).unwrap();
    let (reason, message) = refusal(place.push(&local, &artifact).await);
    assert_eq!(reason, Reason::WrongDigest);
    let said = "chunks come with another digest again and again, so they were not kept: look for damage on ";
    assert!(message.starts_with(said), "{message}");
    assert!(!place.layout.blob(&artifact.digest).exists());
    data[5 << 20] ^= 1;
    std::fs::write(&artifact.path, &data).unwrap();
    assert_eq!(place.push(&local, &artifact).await.unwrap().bytes_sent, Bytes(4 << 20));
    assert!(place.is_sealed(&artifact));
}

#[tokio::test]
async fn two_operators_at_once_end_with_one_whole_blob() {
    let Some(sshd) = Sshd::start() else { return };
    let place = Place::new();
    let artifact = place.artifact("weights", 8);
    let (one, two) = (sshd.connect(), sshd.connect());
    let (first, second) = tokio::join!(place.bootstrap(&one), place.bootstrap(&two));
    assert_eq!(first.bytes_sent + second.bytes_sent, place.bundle.bytes);
    let (first, second) = tokio::join!(place.push(&one, &artifact), place.push(&two, &artifact));
    assert_eq!(first.unwrap().bytes_sent + second.unwrap().bytes_sent, artifact.bytes);
    assert!(place.is_sealed(&artifact));
}

#[tokio::test]
async fn a_sender_of_another_release_is_refused_with_words() {
    let (place, local) = (Place::new(), Local::new());
    place.bootstrap(&local).await;
    let artifact = place.artifact("weights", 1);
    // the host hears another number than we say
    let program = place.layout.program(&place.bundle.digest).join("brambled");
    let text = std::fs::read_to_string(&program).unwrap();
    let other = "#!/bin/sh\nset -- $(echo \"$@\" | sed 's/--protocol [0-9]*/--protocol 1/')\n";
    // it is sealed, and may be replaced
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, text.replace("#!/bin/sh\n", other)).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (reason, message) = refusal(place.push(&local, &artifact).await);
    assert_eq!(reason, Reason::Protocol);
    assert!(message.contains("version 1 of the protocol") && message.contains("of one release"), "{message}");
    assert!(!place.is_sealed(&artifact));
}

#[tokio::test]
async fn a_file_of_another_size_is_not_even_started() {
    let place = Place::new();
    let mut artifact = place.artifact("weights", 1);
    artifact.bytes = Bytes(7);
    let error = place.push(&Local::new(), &artifact).await.unwrap_err();
    assert!(matches!(error, Error::Local { expected: Bytes(7), .. }), "{error}");
}

#[tokio::test]
async fn a_host_whose_lease_is_another_by_then_gets_no_bundle_and_what_was_removed_is_not_made_again() {
    let (place, local) = (Place::new(), Local::new());
    let root = place.layout.root();
    // removed since
    let (reason, message) = refusal(place.bootstrap_seen(&local, "{}").await);
    assert!(
        reason == Reason::Over && message.starts_with("somebody else has taken this host over"),
        "{message}"
    );
    assert!(!root.exists());
    // taken since
    std::fs::create_dir_all(root).unwrap();
    let holder = lease::Holder { operator: "bob's".to_owned(), boot: String::new(), process: 1 };
    lease::answer(&place.layout, lease::Ask::Take { holder, in_place_of: None }).unwrap();
    let (reason, message) = refusal(place.bootstrap_seen(&local, "").await);
    assert_eq!(reason, Reason::Over, "{message}");
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 2, "nothing but the lease and its lock");
    let seen = std::fs::read_to_string(place.layout.lease()).unwrap();
    place.bootstrap_seen(&local, &seen).await.unwrap();
}

/// How hosts on one machine reach each other.
fn loopback() -> Link {
    Link { address: std::net::Ipv4Addr::LOCALHOST.into(), is_wireless: false, megabits: None }
}

#[tokio::test]
async fn hosts_bring_a_blob_on_to_each_other_and_one_copy_leaves_the_operator() {
    let Some(sshd) = Sshd::start() else { return };
    let places: Vec<Place> = (0..4).map(|_| Place::new()).collect();
    let ways: Vec<Ssh> = places.iter().map(|_| sshd.connect()).collect();
    for (place, way) in places.iter().zip(&ways) {
        place.bootstrap(way).await;
    }
    let artifact = places[0].artifact("weights", 24);
    let list = places[0].list(&artifact);
    let targets: Vec<Target<'_>> =
        places.iter().zip(&ways).map(|(place, way)| place.target(way, Some(loopback()))).collect();
    let to_all = async |most: Limits| {
        let pushed = push(&targets, artifact.cargo(), &list, &most, &Events::none()).await;
        pushed.into_iter().map(Result::unwrap).collect::<Vec<Pushed>>()
    };
    let pushed = to_all(Limits::default()).await;
    assert!(places.iter().all(|place| place.is_sealed(&artifact)));
    let sent: Bytes = pushed.iter().map(|one| one.bytes_sent).sum();
    let between: Bytes = pushed.iter().map(|one| one.bytes_from_hosts).sum();
    assert_eq!((sent, between), (artifact.bytes, Bytes(3 * artifact.bytes.0)), "{pushed:?}");

    // the third has lost it: whoever has it gives it, and nothing leaves the operator
    std::fs::remove_file(places[2].layout.blob(&artifact.digest)).unwrap();
    let pushed = to_all(Limits::default()).await;
    assert!(places[2].is_sealed(&artifact));
    assert_eq!((pushed[2].bytes_sent, pushed[2].bytes_from_hosts), (Bytes::ZERO, artifact.bytes));
    assert!(pushed.iter().all(|one| one.bytes_sent == Bytes::ZERO));

    // a rate is kept, from whomever it comes
    for place in &places[..2] {
        std::fs::remove_file(place.layout.blob(&artifact.digest)).unwrap();
    }
    let begun = Instant::now();
    to_all(Limits::new(Some(Bytes::mib(16)), None)).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(places.iter().all(|place| place.is_sealed(&artifact)));
}

#[tokio::test]
async fn a_host_that_has_the_blob_already_gives_it_and_nothing_is_told_of_it_or_written_to_it() {
    let local = Local::new();
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    for place in &places {
        place.bootstrap(&local).await;
    }
    let artifact = places[0].artifact("weights", 9);
    let list = places[0].list(&artifact);
    places[0].push(&local, &artifact).await.unwrap();
    // another operator holds the giver, and the second one lost what it had
    let holder = lease::Holder { operator: "bob@desk".to_owned(), boot: String::new(), process: 1 };
    lease::answer(&places[0].layout, lease::Ask::Take { holder, in_place_of: None }).unwrap();
    let target = |place: usize| places[place].target(&local, Some(loopback()));
    let giver = |place| Target { gives: true, ..target(place) };
    let targets = [giver(0), target(2), giver(1)];
    let (told, hear) = std::sync::mpsc::channel();
    let events = Events::new(move |event| told.send(event).unwrap());
    let begun = Instant::now();
    let pushed = push(&targets, artifact.cargo(), &list, &Limits::default(), &events).await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let got = pushed[1].as_ref().unwrap();
    assert_eq!((got.bytes_sent, got.bytes_from_hosts), (Bytes::ZERO, artifact.bytes));
    assert!(places[2].is_sealed(&artifact));
    drop(events);
    let keys: std::collections::BTreeSet<String> = hear
        .iter()
        .map(|event| match event {
            Event::Started { key, .. } | Event::Progress { key, .. } | Event::Finished { key, .. } => key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(pushed[2].is_err(), "{:?}", pushed[2]);
    assert!(!places[1].layout.blob(&artifact.digest).exists());
    assert!(!places[1].layout.partial(&artifact.digest).exists());
}

#[tokio::test]
async fn this_machine_has_a_blob_from_its_own_store_and_from_no_other_host() {
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    let local = Local::new();
    for place in &places {
        place.bootstrap(&local).await;
    }
    let artifact = places[0].artifact("weights", 9);
    let list = places[0].list(&artifact);
    let targets: Vec<Target<'_>> = places
        .iter()
        .enumerate()
        .map(|(at, place)| Target { is_here: at == 0, ..place.target(&local, Some(loopback())) })
        .collect();
    // a rate that would take it half an hour holds for wires
    let limits = Limits::new(Some(Bytes::kib(8)), Some(Bytes::kib(8)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events = Events::new(move |event| sink.lock().unwrap().push(event));
    let pushed = push(&targets[..1], artifact.cargo(), &list, &limits, &events).await;
    let pushed = pushed.into_iter().next().unwrap().unwrap();
    let moved = |pushed: &Pushed| (pushed.bytes_sent, pushed.bytes_from_hosts, pushed.bytes_reused);
    assert_eq!(moved(&pushed), (Bytes::ZERO, Bytes::ZERO, Bytes::ZERO));
    let ended = seen.lock().unwrap().pop();
    assert!(
        matches!(&ended, Some(Event::Finished { outcome: Some(how), .. }) if how == "copied"),
        "{ended:?}"
    );
    std::fs::remove_file(places[0].layout.blob(&artifact.digest)).unwrap();

    // beside others it takes nothing from them, though one has all of it already
    push(&targets[1..2], artifact.cargo(), &list, &Limits::default(), &Events::none()).await;
    let begun = Instant::now();
    let pushed = push(&targets, artifact.cargo(), &list, &Limits::default(), &Events::none()).await;
    let pushed: Vec<Pushed> = pushed.into_iter().map(Result::unwrap).collect();
    assert!(begun.elapsed() < Duration::from_secs(12), "nobody waits for it: {:?}", begun.elapsed());
    assert!(places.iter().all(|place| place.is_sealed(&artifact)));
    assert_eq!(moved(&pushed[0]), (Bytes::ZERO, Bytes::ZERO, Bytes::ZERO));
    assert_eq!(pushed[2].bytes_from_hosts, artifact.bytes, "{pushed:?}");
}

#[tokio::test]
async fn what_leaves_the_operator_keeps_to_its_rate() {
    let places = [Place::new(), Place::new()];
    let local = Local::new();
    let artifact = places[0].artifact("weights", 3);
    let list = places[0].list(&artifact);
    for place in &places {
        place.bootstrap(&local).await;
    }
    let targets: Vec<Target<'_>> = places.iter().map(|place| place.target(&local, None)).collect();
    let limits = Limits::new(None, Some(Bytes::mib(4)));
    let begun = Instant::now();
    let pushed = push(&targets, artifact.cargo(), &list, &limits, &Events::none()).await;
    // twice 3 MiB, since nobody reaches anybody
    assert!(pushed.iter().all(|one| one.as_ref().unwrap().bytes_sent == artifact.bytes));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());

    // two files side by side have one rate, and so has a program that comes before them
    let files = [places[0].artifact("others", 2), places[0].artifact("more", 4)];
    let lists = [places[0].list(&files[0]), places[0].list(&files[1])];
    let begun = Instant::now();
    let events = Events::none();
    let one = |at: usize| push(&targets[at..=at], files[at].cargo(), &lists[at], &limits, &events);
    tokio::join!(one(0), one(1));
    assert!(places.iter().zip(&files).all(|(place, file)| place.is_sealed(file)));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
    let mut bare = Place::new();
    bare.artifact("padding", 3);
    sh(&format!("cd {} && tar -czf bundle.tar.gz brambled padding", bare.dir.path().display()));
    bare.bundle = Artifact::of(bare.dir.path().join("bundle.tar.gz"));
    let (begun, least) = (Instant::now(), bare.bundle.bytes.0 as f64 / f64::from(4 << 20));
    assert!(least > 0.7, "{least}");
    let seen = std::future::ready(Ok(String::new()));
    push_bundle(bare.way(&local), bare.bundle.cargo(), seen, &limits, &events).await.unwrap();
    assert!(begun.elapsed().as_secs_f64() >= 0.9 * least, "{:?}, not {least} s", begun.elapsed());
}

#[tokio::test]
async fn a_host_that_cannot_take_part_holds_nobody_up() {
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    let local = Local::new();
    for place in &places[..2] {
        place.bootstrap(&local).await;
    }
    let artifact = places[0].artifact("weights", 9);
    let list = places[0].list(&artifact);
    // the third has no program
    let targets: Vec<Target<'_>> =
        places.iter().map(|place| place.target(&local, Some(loopback()))).collect();
    let mut pushed = push(&targets, artifact.cargo(), &list, &Limits::default(), &Events::none()).await;
    let third = pushed.pop().unwrap().unwrap_err();
    assert!(third.to_string().contains("gave no answer that makes sense"), "{third}");
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    assert!(places[..2].iter().all(|place| place.is_sealed(&artifact)));
}

#[tokio::test]
async fn a_folder_of_any_name_is_one_word_to_every_shell_on_the_host() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh: Arc<dyn Connection> = Arc::new(sshd.connect());
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        let root = hostile::texts(&canary).prop_map(|text| format!("-root/{}", text.replace('\0', "")));
        let root = hostile::drawn(root, seed);
        let place = Place::at(dir, &root);
        let artifact = place.artifact("weights", 1);
        place.bootstrap(ssh.as_ref()).await;
        place.push(ssh.as_ref(), &artifact).await.unwrap();
        assert!(place.is_sealed(&artifact), "seed {seed}, {root:?}");
        let text = place.layout.root().to_str().unwrap().to_owned();
        let looked = probe::gather(&[(place.host.clone(), text, Arc::clone(&ssh))], 1).await;
        looked.hosts[&place.host].as_ref().unwrap();
        let verbs = Verbs::of_program(ssh.as_ref(), &place.layout, &place.bundle.digest, false);
        verbs.run::<Value>("inspect", &Value::Null, Duration::from_secs(20)).await.unwrap();
        assert!(!canary.exists(), "seed {seed}, {root:?}: a command was injected");
    }
}

/// A host that says what it is told to, and hears nothing.
struct Hostile {
    says: Vec<Value>,
    ends: bool,
}

#[async_trait::async_trait]
impl Connection for Hostile {
    async fn run(&self, script: &Script, _: Stdin) -> Result<Output, connect::Error> {
        unreachable!("{}", script.text)
    }

    async fn talk(&self, _: &Script, talk: Talk) -> Result<Output, connect::Error> {
        for message in &self.says {
            let body = message.to_string();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            talk.output.send([b"m", length.as_slice(), body.as_bytes()].concat()).await.unwrap();
        }
        if !self.ends {
            std::future::pending::<()>().await;
        }
        Ok(Output { status: 0, stdout: Vec::new(), stderr: String::new() })
    }

    fn describe(&self) -> String {
        "mallory".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_hostile_host_says_fails_it_alone_and_holds_nobody_up() {
    let place = Place::new();
    let artifact = place.artifact("weights", 9);
    let missing = |chunks| json!({ "say": "missing", "chunks": chunks, "door": null });
    let refused =
        json!({ "outcome": "refused", "reason": "disk", "message": "no \u{1b}[2J room", "partial": 0 });
    let sealed = json!({ "outcome": "sealed", "sealed": true, "bytes": 1, "received": u64::MAX, "from_hosts": u64::MAX });
    for (says, ends, why) in [
        (vec![missing(json!([[0, u64::MAX]]))], true, "does not have"),
        (vec![missing(json!([[2, 1]]))], true, "does not have"),
        (vec![missing(json!([[1, 1], [0, 0]]))], true, "does not have"),
        (vec![missing(json!([[0, 3]]))], true, "does not have"),
        (vec![json!({ "say": "ask", "at": 3 })], false, "does not have"),
        (vec![json!({ "say": "reached", "doors": [0] })], true, "was not asked"),
        (
            vec![missing(json!([[0, 0]])), json!({ "say": "reached", "doors": [u64::MAX] })],
            true,
            "was not asked",
        ),
        (vec![json!({ "say": "sing" })], false, "makes sense"),
        (vec![json!({ "say": "ended", "answer": refused })], false, "no [2J room"),
        (vec![json!({ "say": "here", "bytes": 1, "from_hosts": 0 })], false, "did not finish"),
        (vec![], false, "did not finish"),
        (vec![json!({ "say": "ended", "answer": sealed })], false, ""),
    ] {
        let said = format!("{says:?}");
        let hostile = Hostile { says, ends };
        let honest = Hostile {
            says: vec![
                json!({ "say": "ended", "answer": { "outcome": "sealed", "sealed": true, "bytes": 1, "received": 1 } }),
            ],
            ends: true,
        };
        let targets = [place.target(&hostile, Some(loopback())), place.target(&honest, Some(loopback()))];
        let list = place.list(&artifact);
        let mut pushed = push(&targets, artifact.cargo(), &list, &Limits::default(), &Events::none()).await;
        assert!(pushed.pop().unwrap().is_ok(), "{said}");
        match pushed.pop().unwrap() {
            Ok(pushed) => assert!(why.is_empty() && pushed.bytes_from_hosts <= artifact.bytes, "{pushed:?}"),
            Err(error) => {
                let words = bramble_fleet::causes::with_causes(&error);
                assert!(!why.is_empty() && words.contains(why), "{said}: {words}");
            }
        }
    }
}

/// A host that asks for the first chunk twice, and has the last one.
struct Forgetful;

#[async_trait::async_trait]
impl Connection for Forgetful {
    async fn run(&self, script: &Script, _: Stdin) -> Result<Output, connect::Error> {
        unreachable!("{}", script.text)
    }

    async fn talk(&self, _: &Script, mut talk: Talk) -> Result<Output, connect::Error> {
        let answer = json!({ "outcome": "sealed", "sealed": true, "bytes": 9 << 20, "received": 8 << 20 });
        let asks = [0, 0, 1].map(|at| json!({ "say": "ask", "at": at }));
        for message in asks.into_iter().chain([json!({ "say": "ended", "answer": answer })]) {
            let body = message.to_string();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            talk.output.send([b"m", length.as_slice(), body.as_bytes()].concat()).await.unwrap();
        }
        while talk.input.recv().await.is_some() {}
        Ok(Output { status: 0, stdout: Vec::new(), stderr: String::new() })
    }

    fn describe(&self) -> String {
        "attic".to_owned()
    }
}

#[tokio::test]
async fn what_is_sent_twice_is_counted_as_sent_and_not_taken_off_what_was_there() {
    let place = Place::new();
    let pushed = place.push(&Forgetful, &place.artifact("weights", 9)).await.unwrap();
    assert_eq!((pushed.bytes_sent, pushed.bytes_reused), (Bytes::mib(12), Bytes::mib(1)));
}

/// A small filesystem, for root only.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(dir).output();
        if !mount.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: cannot mount a small filesystem (needs root)");
            return None;
        }
        Some(Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_without_room_is_named_with_both_figures_and_nothing_is_sealed() {
    let place = Place::new();
    let root = place.layout.root().to_owned();
    let Some(_disk) = SmallDisk::mount(&root, "size=80m") else { return };
    let local = Local::new();
    place.bootstrap(&local).await;
    let artifact = place.artifact("weights", 24);
    let (reason, message) = refusal(place.push(&local, &artifact).await);
    assert_eq!(reason, Reason::NoRoom);
    assert!(message.starts_with("it needs 24.0 MiB and 64.0 MiB to spare, and "), "{message}");
    assert!(message.contains("/partial has 8") || message.contains("/partial has 79.9 MiB"), "{message}");
    assert!(!place.layout.blob(&artifact.digest).exists());
    let small = place.artifact("small", 8);
    place.push(&local, &small).await.unwrap();
    assert!(place.is_sealed(&small));
}

#[tokio::test]
async fn a_disk_without_inodes_is_named() {
    let place = Place::new();
    let root = place.layout.root().to_owned();
    let Some(_disk) = SmallDisk::mount(&root, "size=200m,nr_inodes=40") else { return };
    let local = Local::new();
    place.bootstrap(&local).await;
    let artifact = place.artifact("weights", 1);
    let (reason, message) = refusal(place.push(&local, &artifact).await);
    assert!(reason == Reason::NoRoom && message.contains("inodes"), "{message}");
}

/// Prints `push.vs_scp`: how fast a push is, hashing and sealing included, as a multiple
/// of scp's rate for the same file and cipher. Both open their own connection. Wants a
/// release build: `cargo test --release --test transfer -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, for a release build on a quiet machine"]
async fn push_compares_with_scp() {
    const CIPHER: &str = "aes128-gcm@openssh.com";
    let Some(sshd) = Sshd::start() else { return };
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::at(memory, "root");
    place.bootstrap(&sshd.connect()).await;
    let artifact = place.artifact("weights", 200);
    let copy = place.dir.path().join("copy");
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let scp = Command::new("scp")
            .args(["-q", "-F", "/dev/null", "-c", CIPHER, "-P", &sshd.port.to_string(), "-i"])
            .arg(sshd.path("login"))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", sshd.path("known").display()))
            .arg(&artifact.path)
            .arg(format!("{}@127.0.0.1:{}", sshd.target().user.unwrap(), copy.display()))
            .status();
        assert!(scp.unwrap().success());
        let scp = begun.elapsed().as_secs_f64();
        std::fs::remove_file(&copy).unwrap();

        let begun = Instant::now();
        let settings = Settings { first_ciphers: Some(CIPHER.into()), ..sshd.settings() };
        let ssh = Ssh::new(sshd.target(), settings).unwrap();
        let pushed = place.push(&ssh, &artifact).await.unwrap();
        drop(ssh);
        let push = begun.elapsed().as_secs_f64();
        assert_eq!(pushed.bytes_sent, artifact.bytes);
        std::fs::remove_file(place.layout.blob(&artifact.digest)).unwrap();
        eprintln!("scp {scp:.2} s, push {push:.2} s, ratio {:.2}", scp / push);
        ratios.push(scp / push);
    }
    ratios.sort_by(f64::total_cmp);
    eprintln!("push.vs_scp = {:.2} (median of 5)", ratios[2]);
}
