use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::report::{Report, State};
use super::{Author, Doors, Left, Subject, apply, check_room, left, remove, roll_back};
use crate::bundle::Found;
use crate::connect::fake::{Call, Fake, ended};
use crate::connect::{Connection, Error, Output};
use crate::events::{Event, Events};
use crate::facts::Installed;
use crate::fetch::{Fetcher, Machine, Settings};
use crate::generation::{Layout, Secrets};
use crate::ids::{Digest, Generation, HostName};
use crate::plan::Plan;
use crate::plan::testing::{Fleet, name};
use crate::units::Bytes;

mod hosts;

/// Stands in every secret that hosts are given.
const SECRET: &str = "not-for-any-eye";

/// What was asked of a host: its name, which way (`first`, `fresh`), and the call.
type Log = Arc<Mutex<Vec<(String, &'static str, Call)>>>;

/// What a host answers beyond what a sound one would: the first whose text is in the script.
type Oddity = (&'static str, &'static str, Arc<dyn Fn() -> Result<Output, Error> + Send + Sync>);

fn oddity(
    host: &'static str,
    text: &'static str,
    status: i32,
    stdout: &Value,
    stderr: &'static str,
) -> Oddity {
    let stdout = if stdout.is_null() { String::new() } else { stdout.to_string() };
    (host, text, Arc::new(move || Ok(ended(status, stdout.clone(), stderr))))
}

/// A fleet to apply to: fake hosts, a store with the weights made already, and no network.
struct World {
    fleet: Fleet,
    plan: Plan,
    folder: tempfile::TempDir,
    log: Log,
    events: Arc<Mutex<Vec<Event>>>,
    oddities: Vec<Oddity>,
    cancel: CancellationToken,
}

/// Says messages in frames, as a host that receives does.
fn ended_with<const N: usize>(said: [Value; N]) -> Output {
    let mut frames = Vec::new();
    for message in said {
        let body = message.to_string();
        frames.push(b'm');
        frames.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        frames.extend(body.as_bytes());
    }
    ended(0, frames, "")
}

/// Answers as a host does on which everything works.
fn sound(call: &Call) -> Output {
    let request: Value = serde_json::from_slice(&call.stdin).unwrap_or_default();
    let text = &call.script.text;
    let answer = if text.contains(" receive --root ") {
        // the weights of these tests are one chunk
        let ended = json!({ "say": "ended", "answer": { "outcome": "sealed", "sealed": true, "bytes": 0, "received": 0 } });
        return ended_with([json!({ "say": "ask", "at": 0 }), ended]);
    } else if text.contains("tar -xzof") {
        let bytes = call.stdin.len();
        json!({ "outcome": "sealed", "sealed": true, "bytes": bytes, "received": bytes })
    } else if text.contains("echo sealed") {
        return ended(0, "0\n", "");
    } else if text.contains("/boot_id") {
        return ended(0, "there\n\n0\n", "");
    } else if text.contains(" lease --root ") {
        json!({ "answer": "granted", "number": 7 })
    } else if text.contains(" install --root ") {
        json!({ "generation": request["generation"], "was_there": false })
    } else if text.contains(" activate --root ") || text.contains(" rollback --root ") {
        let generation = if text.contains("rollback") { json!(1) } else { request["generation"].clone() };
        let measured = json!([{ "model": "chat", "tokens_per_second": 71.0, "first_token_ms": 90.0, "load_seconds": 0.5 }]);
        json!({ "generation": generation, "activated": true, "measured": measured, "rolled_back": null })
    } else if text.contains(" restart --root ") {
        let measured = json!([{ "model": "chat", "tokens_per_second": 9.0, "first_token_ms": 90.0, "load_seconds": 0.5 }]);
        json!({ "generation": 1, "measured": measured })
    } else if text.contains(" cordon --root ") {
        json!({ "generation": 1, "was_so": false })
    } else if text.contains(" confirm --root ") {
        json!({ "confirmed": true })
    } else if text.contains(" prune --root ") {
        json!({ "generations": [], "blobs": [], "programs": [], "freed": 0 })
    } else if text.contains(" remove --root ") {
        json!({ "was_there": true })
    } else {
        return ended(127, "", "no such command");
    };
    ended(0, answer.to_string(), "")
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::new();
        for bundle in &mut fleet.bundles {
            let archive = format!("the bundle for {}", bundle.machine);
            fs::write(folder.path().join(&bundle.file), &archive).unwrap();
            (bundle.digest, bundle.bytes) = (Digest::of(archive.as_bytes()), Bytes(archive.len() as u64));
        }
        let plan = fleet.plan();
        Self {
            fleet,
            plan,
            folder,
            log: Log::default(),
            events: Arc::default(),
            oddities: Vec::new(),
            cancel: CancellationToken::new(),
        }
    }

    fn with(oddity: Oddity) -> Self {
        let mut world = Self::new();
        world.oddities.push(oddity);
        world
    }

    fn way(&self, host: &str, way: &'static str) -> Arc<dyn Connection> {
        connection(host, way, &self.log, &self.oddities)
    }

    fn doors(&self) -> Doors {
        let settings = Settings {
            endpoint: "http://127.0.0.1:1".to_owned(),
            cache: self.folder.path().join("cache"),
            hub_cache: None,
            is_offline: true,
            folder: self.folder.path().to_owned(),
            ..Settings::read(|_| None)
        };
        let fetcher = Fetcher::new(settings, Events::none()).unwrap();
        for artifact in &self.plan.artifacts {
            let scratch = fetcher.store().scratch(&artifact.id);
            fs::write(&scratch, format!("the weights of {}", artifact.id)).unwrap();
            let made = fetcher.store().take(&scratch).unwrap();
            fetcher.store().remember(&artifact.id, &made).unwrap();
        }
        let hosts: Vec<HostName> = self.plan.hosts.iter().map(|host| host.host.clone()).collect();
        let secrets = Secrets {
            peer_key: SECRET.to_owned().into(),
            foreign_keys: BTreeMap::from([("gaming".to_owned(), format!("{SECRET} either").into())]),
            ..Secrets::default()
        };
        let (log, oddities) = (Arc::clone(&self.log), self.oddities.clone());
        Doors {
            connections: hosts.iter().map(|host| (host.clone(), self.way(host.as_str(), "first"))).collect(),
            links: BTreeMap::new(),
            here: BTreeSet::new(),
            limits: crate::transfer::Limits::default(),
            reconnect: Box::new(move |host| Some(connection(host.as_str(), "fresh", &log, &oddities))),
            fetcher,
            brambled: PathBuf::from("/nowhere/brambled"),
            bundles: self
                .fleet
                .bundles
                .iter()
                .map(|bundle| Found {
                    bundle: bundle.clone(),
                    archive: self.folder.path().join(&bundle.file),
                })
                .collect(),
            secrets: hosts.iter().map(|host| (host.clone(), secrets.clone())).collect(),
            operator: "ada@desk".to_owned(),
            now: "2026-11-23T12:00:00Z".to_owned(),
        }
    }

    async fn apply(&self) -> Report {
        let seen = Arc::clone(&self.events);
        let events = Events::new(move |event| seen.lock().unwrap().push(event));
        apply(&self.plan, &self.doors(), &events, &self.cancel).await
    }

    fn calls(&self) -> Vec<(String, &'static str, Call)> {
        self.log.lock().unwrap().clone()
    }

    /// Returns what `host` was asked, in short: the verb of each script, `!` after those over a
    /// new connection.
    fn asked(&self, host: &str) -> Vec<String> {
        self.calls().iter().filter(|(at, ..)| at == host).map(|(_, way, call)| verb(way, call)).collect()
    }
}

fn connection(host: &str, way: &'static str, log: &Log, oddities: &[Oddity]) -> Arc<dyn Connection> {
    let (at, log) = (host.to_owned(), Arc::clone(log));
    let oddities: Vec<Oddity> = oddities.iter().filter(|(of, ..)| *of == host).cloned().collect();
    let fake = Fake::new(host).on("", move |call| {
        log.lock().unwrap().push((at.clone(), way, call.clone()));
        let odd = oddities.iter().find(|(_, text, _)| call.script.text.contains(text));
        odd.map_or_else(|| Ok(sound(call)), |(_, _, answer)| answer())
    });
    Arc::new(fake)
}

fn verb(way: &str, call: &Call) -> String {
    let text = &call.script.text;
    let verb = if text.contains("tar -xzof") {
        "unpack"
    } else if text.contains("/boot_id") {
        "look"
    } else if text.contains("echo sealed") {
        "ask"
    } else if text.contains(" receive ") {
        "receive"
    } else {
        let after = text.split("brambled").nth(1).unwrap_or_default().trim_start_matches('\'');
        after.split_whitespace().next().unwrap_or_default()
    };
    format!("{verb}{}", if way == "fresh" { "!" } else { "" })
}

fn state(report: &Report, host: &str) -> State {
    report.hosts[&name(host)].state.clone()
}

const ALL: [&str; 10] =
    ["ask", "look", "unpack", "lease", "receive", "install", "activate", "confirm!", "prune", "lease"];

#[tokio::test]
async fn weights_that_a_killed_run_has_made_whole_are_taken() {
    let world = World::new();
    let doors = world.doors();
    let store = doors.fetcher.store();
    for artifact in &world.plan.artifacts {
        let made = store.made(&artifact.id).unwrap();
        fs::rename(store.path(&made.digest), store.scratch(&artifact.id)).unwrap();
        fs::remove_file(store.root().join("made").join(artifact.id.to_string())).unwrap();
        for file in &artifact.recipe.source.files {
            fs::File::create(store.path(&file.sha256)).unwrap().set_len(file.bytes.0).unwrap();
        }
    }
    let report = apply(&world.plan, &doors, &Events::none(), &world.cancel).await;
    assert!(report.is_complete(), "{report:?}");
    for artifact in &world.plan.artifacts {
        assert!(store.made(&artifact.id).is_some() && !store.scratch(&artifact.id).exists());
    }
    let made = fs::read_dir(store.root().join("made")).unwrap();
    assert_eq!(made.count(), world.plan.artifacts.len(), "and no lock is left behind");
}

#[tokio::test]
async fn room_for_all_that_is_fetched_and_made_is_looked_for_together() {
    let world = World::new();
    let plan = &world.plan;
    let sources: Bytes = plan.artifacts[0].recipe.source.bytes();
    let made: Bytes = plan.artifacts.iter().map(|artifact| artifact.bytes).sum();
    let need = sources + made + Bytes::mib(64);
    let fetcher = |cache: &str, free: Bytes| {
        let settings =
            Settings { cache: world.folder.path().join(cache), hub_cache: None, ..Settings::read(|_| None) };
        let free_space = Arc::new(move |_: &std::path::Path| Ok(free));
        let machine = Machine { free_space, ..Machine::default() };
        Fetcher::on(settings, Events::none(), machine).unwrap()
    };
    let check = |cache: &str, free: Bytes| check_room(plan, &fetcher(cache, free));
    let left_in = |cache: &str| left(plan, &fetcher(cache, Bytes::ZERO));
    assert_eq!(left_in("empty"), Ok(Left { fetch: sources, make: plan.artifacts.len() }));
    assert_eq!(check("empty", need), Ok(()));
    let error = check("empty", need - Bytes(1)).unwrap_err();
    assert!(error.contains("hf:org/chat@") && error.contains("and the weights that are made"), "{error}");
    assert!(error.contains(&need.to_string()) && error.contains("free 1 B"), "{error}");
    drop(world.doors());
    assert_eq!(check("cache", Bytes::ZERO), Ok(()), "all of it is made");
    assert_eq!(left_in("cache"), Ok(Left { fetch: Bytes::ZERO, make: 0 }));
}

#[tokio::test]
async fn a_host_gets_program_weights_generation_and_is_confirmed_over_a_new_connection() {
    let world = World::new();
    let report = world.apply().await;
    assert!(report.is_complete(), "{report:?}");
    for host in ["attic", "desk", "shed"] {
        assert_eq!(world.asked(host), ALL, "{host}");
        assert_eq!(report.hosts[&name(host)].generation, Some(Generation::FIRST));
        assert_eq!(report.hosts[&name(host)].measured.len(), 1);
    }
    let scripts: Vec<String> = world
        .calls()
        .iter()
        .filter(|(host, ..)| host == "attic")
        .map(|(_, way, call)| {
            let who = if call.script.is_root { "root" } else { "login" };
            let seconds = call.script.timeout.as_secs();
            // the number of this process has as many digits as it likes
            let ours = format!("\"process\":{}", std::process::id());
            let bytes = String::from_utf8_lossy(&call.stdin).replace(&ours, "\"process\":1234567").len();
            format!("--- {way} as {who}, {seconds} s, {bytes} bytes on stdin\n{}\n", call.script.text)
        })
        .collect();
    insta::assert_snapshot!(scripts.concat());
    // the desktop keeps its own folder, without root, and is the first to change
    let calls = world.calls();
    assert!(calls.iter().filter(|(host, ..)| host == "desk").all(|(_, _, call)| !call.script.is_root));
    let activations: Vec<&str> = calls
        .iter()
        .filter(|(_, _, call)| call.script.text.contains(" activate "))
        .map(|(host, ..)| host.as_str())
        .collect();
    assert_eq!(activations, ["desk", "attic", "shed"]);
    // every host is staged before the first one changes
    let last_install = calls.iter().rposition(|(_, _, call)| call.script.text.contains(" install ")).unwrap();
    let first_change = calls.iter().position(|(_, _, call)| call.script.text.contains(" activate ")).unwrap();
    assert!(last_install < first_change);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_somebody_else_is_changing_is_not_even_sent_the_program() {
    let (begun, mut world) = (tokio::time::Instant::now(), World::new());
    let bobs = move || {
        let up = 100 + begun.elapsed().as_secs();
        let lease = json!({
            "number": 3, "holder": { "operator": "bob@desk", "boot": "elsewhere", "process": 1 },
            "is_over": false, "touched": { "boot": "first", "seconds": up / 6 * 6 },
        });
        Ok(ended(0, format!("there\nfirst\n{up}\n{lease}"), ""))
    };
    world.oddities.push(("attic", "/boot_id", Arc::new(bobs)));
    let report = world.apply().await;
    assert!(
        matches!(state(&report, "attic"), State::Locked { said } if said.contains("bob@desk (process 1)"))
    );
    let asked = world.asked("attic");
    assert!(asked[0] == "ask" && asked[1..].iter().all(|verb| verb == "look"), "{asked:?}");
}

#[tokio::test]
async fn each_host_is_sent_the_bundle_for_its_machine() {
    let world = World::new();
    assert!(world.apply().await.is_complete());
    for (host, machine) in [("attic", "aarch64"), ("shed", "aarch64"), ("desk", "x86_64")] {
        let calls = world.calls();
        let unpacked =
            calls.iter().filter(|(at, _, call)| at == host && call.script.text.contains("tar -xzof"));
        let sent: Vec<_> = unpacked.map(|(.., call)| String::from_utf8_lossy(&call.stdin)).collect();
        assert_eq!(sent, [format!("the bundle for {machine}")], "{host}");
    }
}

#[tokio::test]
async fn hosts_are_told_the_digests_that_became_known_and_who_applied() {
    let world = World::new();
    let report = world.apply().await;
    let sent = |verb: &str| -> Value {
        let calls = world.calls();
        let (.., call) =
            calls.iter().find(|(host, _, call)| host == "attic" && call.script.text.contains(verb)).unwrap();
        serde_json::from_slice(&call.stdin).unwrap()
    };
    let weights = &sent(" install ")["definition"]["engines"][0]["weights"];
    let recipe: Digest = serde_json::from_value(weights["recipe"].clone()).unwrap();
    let content = format!("the weights of {recipe}");
    assert_eq!(weights["digest"], json!(Digest::of(content.as_bytes())));
    assert_eq!(weights["bytes"], json!(content.len()));
    assert_eq!(report.made[&recipe].digest, Digest::of(content.as_bytes()));
    let bundle = &world.fleet.bundles[0];
    assert_eq!(report.hosts[&name("attic")].bytes_sent, bundle.bytes + Bytes(content.len() as u64));
    let activation = sent(" activate ");
    assert_eq!((&activation["generation"], &activation["deadline_seconds"]), (&json!(1), &json!(120)));
    let planned = world.plan.host(&name("attic")).unwrap().definition.engines[0].pace.answer.0;
    let least = activation["probe"]["least"]["chat"].as_f64().unwrap();
    // a host that is slower than planned is not broken; one that is slower by far is
    assert!(least > 0.0 && least <= planned / 10.0, "{least} of {planned}");
    let confirmation = sent(" confirm ");
    assert_eq!(confirmation["by"], "ada@desk");
    assert_eq!(confirmation["plan"], json!(world.plan.inventory));
    assert_eq!(confirmation["measured"][0]["tokens_per_second"], json!(71.0));
}

#[tokio::test]
async fn no_secret_is_in_a_script_an_event_or_the_report() {
    let world = World::new();
    let report = world.apply().await;
    let calls = world.calls();
    for (host, _, call) in &calls {
        assert!(!call.script.text.contains(SECRET), "{host}: {}", call.script.text);
        let is_install = call.script.text.contains(" install --root ");
        assert_eq!(String::from_utf8_lossy(&call.stdin).contains(SECRET), is_install, "{}", call.script.text);
    }
    let events = world.events.lock().unwrap();
    assert!(!events.is_empty() && !format!("{events:?}").contains(SECRET));
    assert!(!format!("{report:?}{:?}", world.plan).contains(SECRET));
}

#[tokio::test]
async fn when_the_first_host_fails_the_others_are_not_changed() {
    let world =
        World::with(oddity("desk", " activate ", 1, &Value::Null, "brambled: the engine ended with 1"));
    let report = world.apply().await;
    let step = "activating generation 1".to_owned();
    assert_eq!(state(&report, "desk"), State::Failed { step, error: "the engine ended with 1".to_owned() });
    for host in ["attic", "shed"] {
        let why = "stopped, because desk did not get through".to_owned();
        assert_eq!(state(&report, host), State::NotStarted { why });
        assert_eq!(world.asked(host), ["ask", "look", "unpack", "lease", "receive", "install", "lease"]);
    }
    assert!(!report.is_complete() && !report.has_success() && !report.is_interrupted);
    assert_eq!(world.asked("desk")[6..], ["activate", "lease"], "no confirmation, no pruning");
}

#[tokio::test]
async fn a_host_that_cannot_be_staged_does_not_stop_the_others() {
    let world = World::with(oddity("attic", " install ", 1, &Value::Null, "brambled: no room"));
    let report = world.apply().await;
    let step = "installing generation 1".to_owned();
    assert_eq!(state(&report, "attic"), State::Failed { step, error: "no room".to_owned() });
    assert_eq!([state(&report, "desk"), state(&report, "shed")], [State::Done, State::Done]);
    assert_eq!(world.asked("attic")[5..], ["install", "lease"]);
    assert!(!report.is_complete() && report.has_success());
}

#[tokio::test]
async fn when_the_first_host_cannot_be_staged_the_next_one_is_the_first() {
    let broken = || oddity("desk", "tar -xzof", 1, &Value::Null, "tar: not found");
    let report = World::with(broken()).apply().await;
    assert!(matches!(state(&report, "desk"), State::Failed { .. }));
    assert_eq!([state(&report, "attic"), state(&report, "shed")], [State::Done, State::Done]);

    let mut world = World::with(broken());
    world.oddities.push(oddity("attic", " activate ", 1, &Value::Null, "brambled: it does not start"));
    let report = world.apply().await;
    let why = "stopped, because attic did not get through".to_owned();
    assert_eq!(state(&report, "shed"), State::NotStarted { why });
    assert!(!world.asked("shed").contains(&"activate".to_owned()));
}

#[tokio::test]
async fn a_host_that_breaks_away_during_a_push_is_named_with_the_cause() {
    let gone = || Err(Error::Lost { host: "pi@attic".to_owned(), said: "Broken pipe".to_owned() });
    let world = World::with(("attic", " receive ", Arc::new(gone)));
    let report = world.apply().await;
    let State::Failed { step, error } = state(&report, "attic") else { panic!("{report:?}") };
    assert_eq!(step, "pushing chat (Q8_0)");
    assert!(error.contains("Broken pipe"), "{error}");
    assert_eq!(state(&report, "shed"), State::Done);
}

#[tokio::test]
async fn going_back_is_reported_and_is_never_a_success() {
    let why = "chat answered at 0.1 tok/s, and 7.0 are plausible";
    let answer = json!({ "generation": 1, "activated": false, "measured": [], "rolled_back": why });
    for status in [0, 1] {
        let world = World::with(oddity("desk", " activate ", status, &answer, ""));
        let report = world.apply().await;
        assert_eq!(state(&report, "desk"), State::WentBack { why: why.to_owned() });
        assert_eq!(report.hosts[&name("desk")].generation, None);
        assert!(!report.has_success() && !report.is_complete());
        assert!(!world.asked("desk").contains(&"confirm!".to_owned()));
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_anew_is_not_confirmed() {
    let world = World::with(oddity("desk", " confirm ", 1, &Value::Null, "brambled: it went back already"));
    let report = world.apply().await;
    let State::Failed { step, error } = state(&report, "desk") else { panic!("{report:?}") };
    assert_eq!(step, "confirming generation 1");
    assert_eq!(error, "it went back already; the host goes back by itself within 120 s");
    assert!(!report.has_success());
}

#[tokio::test]
async fn a_host_that_somebody_else_is_changing_is_locked() {
    let said = "brambled: eve@elsewhere holds the lock";
    let world = World::with(oddity("desk", " install ", 4, &Value::Null, said));
    let report = world.apply().await;
    assert_eq!(state(&report, "desk"), State::Locked { said: "eve@elsewhere holds the lock".to_owned() });
    assert!(report.has_locked() && !report.is_complete());
    assert!(!world.asked("desk").contains(&"activate".to_owned()));
}

#[tokio::test]
async fn an_operator_whose_lease_is_over_goes_on_nowhere() {
    let said = "brambled: bob@desk has taken this host over since (lease 8, yours was 7)";
    let world = World::with(oddity("desk", " activate ", 4, &Value::Null, said));
    let report = world.apply().await;
    assert!(
        matches!(state(&report, "desk"), State::Locked { said } if said.starts_with("bob@desk has taken"))
    );

    let message = "bob@desk has taken this host over since (lease 8, yours was 7)";
    let answer = json!({ "outcome": "refused", "reason": "over", "message": message, "partial": 0 });
    let ended = ended_with([json!({ "say": "ended", "answer": answer })]);
    let world = World::with(("desk", " receive ", Arc::new(move || Ok(ended.clone()))));
    let report = world.apply().await;
    assert_eq!(state(&report, "desk"), State::Locked { said: message.to_owned() });
    assert!(!world.asked("desk").contains(&"install".to_owned()));
}

#[tokio::test]
async fn a_failed_pruning_is_a_note_and_no_failure() {
    let world = World::with(oddity("attic", " prune ", 1, &Value::Null, "brambled: the card is read-only"));
    let report = world.apply().await;
    assert!(report.is_complete());
    let events = world.events.lock().unwrap();
    let is_note = |event: &&Event| matches!(event, Event::Note { text, .. } if text.contains("read-only"));
    assert_eq!(events.iter().filter(is_note).count(), 1);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failure() {
    for text in [" install ", " activate ", " receive ", "echo sealed"] {
        let world = World::with(oddity("desk", text, 0, &json!({ "hello": "world" }), ""));
        let report = world.apply().await;
        assert!(matches!(state(&report, "desk"), State::Failed { .. }), "{text}: {report:?}");
    }
}

#[tokio::test]
async fn an_interruption_before_activation_leaves_every_host_as_it_was() {
    let mut world = World::new();
    let cancel = world.cancel.clone();
    let stop = move || {
        cancel.cancel();
        Ok(ended(0, json!({ "generation": 1, "was_there": false }).to_string(), ""))
    };
    world.oddities.push(("attic", " install ", Arc::new(stop)));
    let report = world.apply().await;
    assert!(report.is_interrupted && !report.is_complete() && !report.has_success());
    for (host, outcome) in &report.hosts {
        assert!(matches!(outcome.state, State::NotStarted { .. }), "{host}: {outcome:?}");
        assert_eq!(outcome.generation, None);
    }
    assert!(world.calls().iter().all(|(_, _, call)| !call.script.text.contains(" activate ")));
}

#[tokio::test]
async fn an_interruption_during_activation_lets_the_host_finish() {
    let mut world = World::new();
    let cancel = world.cancel.clone();
    let stop = move || {
        cancel.cancel();
        let answer = json!({ "generation": 1, "activated": true, "measured": [], "rolled_back": null });
        Ok(ended(0, answer.to_string(), ""))
    };
    world.oddities.push(("desk", " activate ", Arc::new(stop)));
    let report = world.apply().await;
    assert!(report.is_interrupted);
    assert_eq!(state(&report, "desk"), State::Done);
    assert!(world.asked("desk").contains(&"confirm!".to_owned()));
    assert!(matches!(state(&report, "attic"), State::NotStarted { .. }));
    assert!(!world.asked("attic").contains(&"activate".to_owned()));
}

#[tokio::test]
async fn weights_that_cannot_be_had_stop_everything_before_a_host_is_touched() {
    let mut world = World::new();
    let doors = world.doors();
    let artifact = &world.plan.artifacts[0];
    let made = doors.fetcher.store().made(&artifact.id).unwrap();
    doors.fetcher.store().remove(&made.digest).unwrap();
    let events = Events::none();
    let report = apply(&world.plan, &doors, &events, &world.cancel).await;
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert!(report.hosts.values().all(|outcome| matches!(outcome.state, State::NotStarted { .. })));
    assert!(world.calls().is_empty());

    // what came out otherwise than the lock says is not sent
    world.plan.artifacts[0].digest = Some(Digest::of(b"what the lock says"));
    let report = world.apply().await;
    assert!(report.failures[0].contains("bramble.lock says"), "{report:?}");
    assert!(world.calls().is_empty());
}

#[tokio::test]
async fn hosts_without_changes_are_not_asked_and_those_left_out_are_in_the_report() {
    let mut world = World::new();
    let plan = world.plan.clone();
    world.fleet.applied(&plan);
    world.fleet.lose("shed");
    world.fleet.facts("attic").installed.as_mut().unwrap().drift.push("the link is gone".to_owned());
    world.plan = world.fleet.plan();
    let report = world.apply().await;
    assert_eq!(report.hosts[&name("attic")].generation, Some(Generation::new(2)));
    assert_eq!(world.asked("attic"), ["lease", "install", "activate", "confirm!", "prune", "lease"]);
    assert_eq!((state(&report, "desk"), world.asked("desk").len()), (State::Unchanged, 0));
    assert!(matches!(state(&report, "shed"), State::NotStarted { why } if why.contains("No route to host")));
    assert!(!report.is_complete() && report.has_success());
}

fn subjects(world: &mut World) -> Vec<Subject> {
    let plan = world.plan.clone();
    world.fleet.applied(&plan);
    let hosts: Vec<_> = world.plan.hosts.clone();
    hosts
        .iter()
        .map(|host| Subject {
            host: host.host.clone(),
            layout: Layout::new(&host.root),
            is_root: host.is_root,
            installed: world.fleet.facts(host.host.as_str()).installed.clone().unwrap(),
            connection: world.way(host.host.as_str(), "first"),
            fresh: world.way(host.host.as_str(), "fresh"),
        })
        .collect()
}

fn author() -> Author {
    Author { operator: "ada@desk".to_owned(), now: "2026-11-23T12:00:00Z".to_owned() }
}

#[tokio::test]
async fn going_back_is_asked_of_the_generation_in_force_and_confirmed_anew() {
    let mut world = World::new();
    let subjects = subjects(&mut world);
    let report = roll_back(&subjects, None, &author(), &Events::none()).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(world.asked("attic"), ["lease", "rollback", "confirm!", "lease"]);
    let calls = world.calls();
    let texts: Vec<&str> = calls.iter().skip(1).take(2).map(|(.., call)| call.script.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "'/var/lib/bramble/current/program/brambled' rollback --root '/var/lib/bramble' --lease 7",
            "'/var/lib/bramble/current/program/brambled' confirm --root '/var/lib/bramble' --lease 7",
        ]
    );
}

#[tokio::test]
async fn going_back_stops_after_the_first_host_that_fails() {
    let mut world =
        World::with(oddity("desk", " rollback ", 1, &Value::Null, "brambled: there is none before"));
    let subjects = subjects(&mut world);
    let report = roll_back(&subjects, None, &author(), &Events::none()).await;
    assert_eq!(state(&report, "attic"), State::Done, "by name, it comes first");
    assert!(matches!(state(&report, "desk"), State::Failed { error, .. } if error == "there is none before"));
    let why = "stopped, because desk did not get through".to_owned();
    assert_eq!(state(&report, "shed"), State::NotStarted { why });
    assert!(world.asked("shed").is_empty());
}

#[tokio::test]
async fn a_rollback_that_is_taken_back_is_no_success() {
    let answer =
        json!({ "generation": 1, "activated": false, "measured": [], "rolled_back": "it does not answer" });
    let mut world = World::with(oddity("attic", " rollback ", 1, &answer, ""));
    let subjects = subjects(&mut world);
    let report = roll_back(&subjects[..1], Some(Generation::FIRST), &author(), &Events::none()).await;
    assert_eq!(state(&report, "attic"), State::WentBack { why: "it does not answer".to_owned() });
    assert!(!report.has_success());
    assert_eq!(world.asked("attic"), ["lease", "rollback", "lease"]);
}

#[tokio::test]
async fn removing_goes_on_where_one_host_fails_and_a_host_with_nothing_is_fine() {
    let mut world = World::with(oddity("attic", " remove ", 4, &Value::Null, "brambled: eve holds the lock"));
    let mut subjects = subjects(&mut world);
    // one with a program and no generation, one with nothing
    subjects[1].installed.current = None;
    subjects[2].installed = Installed { current: None, programs: [].into(), ..subjects[2].installed.clone() };
    let report = remove(&subjects, &world.plan.fleet, "ada@desk", &Events::none()).await;
    assert_eq!(state(&report, "attic"), State::Locked { said: "eve holds the lock".to_owned() });
    assert_eq!([state(&report, "desk"), state(&report, "shed")], [State::Done, State::Done]);
    assert_eq!(
        (world.asked("desk"), world.asked("shed").len()),
        (vec!["lease".to_owned(), "remove".to_owned()], 0)
    );
    let calls = world.calls();
    let (.., call) =
        calls.iter().find(|(host, _, call)| host == "desk" && call.script.text.contains(" remove ")).unwrap();
    let program = world.fleet.bundles[1].digest;
    assert_eq!(
        call.script.text,
        format!("'/srv/bramble/programs/{program}/brambled' remove --root '/srv/bramble' --lease 7")
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&call.stdin).unwrap(),
        json!({ "fleet": "home", "adopt": false })
    );
}
