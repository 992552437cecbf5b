//! Crashes at every moment of applies, an update, a rollback and clearing up: what a disk may have kept of the host's
//! folder is made from a record of the real thing, and each such state must lead back to a service.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use bramble_fleet::generation::{Definition, Layout};
use bramble_fleet::ids::Digest;
use bramble_fleet::install::{Process, inspect};

#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[path = "support/replay.rs"]
mod replay;
#[path = "support/stub.rs"]
mod stub;

use desk::Desk;
use replay::{Node, Record, State, Tree, lay_down};

/// What comes and goes while services run, and says nothing after a crash.
const LEFT_OUT: [&str; 3] = ["run", "lock", "log"];
/// The fewest states that are worth the name.
const LEAST_STATES: usize = 10_000;
/// Of what was not certain, so many mixtures by chance for each moment.
const MIXTURES: usize = 30;
/// So many where `BRAMBLE_LONG` is set.
const LONG_MIXTURES: usize = 100;
/// Of so many states one is applied to anew, by the real command.
const APPLIED_TO: usize = 2_000;

/// What an operator does, one after the other.
const DEEDS: [&str; 8] = [
    "bramble apply --yes",
    "cp second.yaml fleet.yaml && bramble apply --yes",
    // its engine ends at once, and the host goes back
    "cp bad.yaml fleet.yaml && ! bramble apply --yes && cp second.yaml fleet.yaml",
    "bramble rollback --yes",
    "bramble apply --yes",
    "bramble prune --yes",
    "cp third.yaml fleet.yaml && bramble apply --yes",
    "bramble rollback --yes",
];

struct Story {
    desk: Desk,
    record: Record,
    root: PathBuf,
    /// For each deed, after which event it was done, and which generation was in force then.
    done: Vec<(usize, u64)>,
    /// The program that hosts are given.
    program: Vec<u8>,
}

fn manifest(context: u32, model: &str, port: u16) -> String {
    format!(
        "bramble: 1
fleet: home
serve: {{ port: {port}, tls: off }}
models:
  chat: {{ source: \"file:{model}\", context: {context}, quant: F16 }}
hosts:
  desk: {{ address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }}
deploy:
  - {{ model: chat, on: [desk] }}
"
    )
}

impl Story {
    /// Does all deeds, under the eyes of strace. None: it is not there.
    fn tell() -> Option<Self> {
        if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: strace is not installed (package strace)");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let desk = Desk::new(&manifest(256, "model", port));
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        model::write_model(&desk.path("other"), 1, 64, Some(2));
        let manifests = [("second", 512, "other"), ("bad", stub::CRASHES, "other"), ("third", 128, "model")];
        for (name, context, model) in manifests {
            desk.write(&manifest(context, model, port));
            fs::rename(desk.path("fleet.yaml"), desk.path(&format!("{name}.yaml"))).unwrap();
        }
        desk.write(&manifest(256, "model", port));
        stub::write_program(&desk.path("brambled"), "engine | route");
        let packed =
            Command::new("tar").args(["-czf", "made.tar.gz", "brambled"]).current_dir(desk.path("")).status();
        assert!(packed.unwrap().success());
        desk.put_bundle(&fs::read(desk.path("made.tar.gz")).unwrap());
        fs::create_dir(desk.path("marks")).unwrap();
        let mut script = format!("set -e\nbramble() {{ {} \"$@\"; }}\n", env!("CARGO_BIN_EXE_bramble"));
        for (at, deed) in DEEDS.iter().enumerate() {
            let _ = writeln!(script, "{deed}\nreadlink root/current >marks/{at}");
        }
        // so that the service ends, and the record with it
        script.push_str("bramble remove --all --yes\n");
        fs::write(desk.path("deeds"), script).unwrap();
        let command = desk.command(&[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "--seccomp-bpf", "-y", "-xx", "-s", "8000000", "-o", "log", "-e"]);
        strace.arg(format!("trace={}", replay::CALLS)).args(["sh", "deeds"]);
        let settings = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        strace.env_clear().envs(settings).current_dir(desk.path("")).stdin(Stdio::null());
        let ended = strace.output().unwrap();
        assert!(ended.status.success(), "{}", said(&ended));
        let root = desk.path("root");
        let log = fs::read_to_string(desk.path("log")).unwrap();
        let record = Record::parse(&log, &root, &LEFT_OUT, &desk.path("marks"));
        let done = (0..DEEDS.len()).map(|deed| {
            let link = fs::read_to_string(desk.path("marks").join(deed.to_string())).unwrap();
            (record.mark(&deed.to_string()), number(Path::new(link.trim())))
        });
        let done = done.collect();
        let program = fs::read(desk.path("brambled")).unwrap();
        Some(Self { desk, record, root, done, program })
    }

    /// Returns at which generations the host may be after a crash then: that before the deed, or after it; none is 0.
    fn allowed(&self, at: usize) -> [u64; 2] {
        let done = self.done.partition_point(|(done, _)| *done <= at);
        let before = done.checked_sub(1).map_or(0, |deed| self.done[deed].1);
        [before, self.done.get(done).map_or(before, |(_, generation)| *generation)]
    }

    /// Brings a state that is laid down at `root` back as a host does when it starts, and returns what is wrong then.
    fn recover(&self, root: &Path, tools: &Path, state: &State) -> Result<(), String> {
        if root.join("pending").exists() {
            let guard = root.join("guard/guard.sh");
            if !guard.exists() {
                return Err("something is pending and there is no guard".to_owned());
            }
            let mut command = Command::new("sh");
            command.arg(guard).arg(root).arg("process").env("BRAMBLE_GUARD_START", "no");
            let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
            let ended = command.env("PATH", path).stdin(Stdio::null()).output().unwrap();
            if !ended.status.success() || root.join("pending").exists() {
                return Err(format!(
                    "the guard did not end its work: {}",
                    String::from_utf8_lossy(&ended.stderr)
                ));
            }
        }
        let layout = Layout::new(root);
        let allowed = self.allowed(state.at);
        let current = match fs::read_link(layout.current()) {
            Err(_) if allowed.contains(&0) => return look(&layout),
            Err(error) => return Err(format!("nothing is in force: {error}")),
            Ok(link) => link,
        };
        let number = number(&current);
        if !allowed.contains(&number) {
            return Err(format!("generation {number} is in force, and {allowed:?} may be"));
        }
        let folder = root.join(&current);
        let read = |path: PathBuf| fs::read(&path).map_err(|error| format!("{}: {error}", path.display()));
        let definition: Definition = serde_json::from_slice(&read(Layout::definition(&folder))?)
            .map_err(|error| format!("definition: {error}"))?;
        if read(Layout::brambled(&folder))? != self.program {
            return Err("the program is torn".to_owned());
        }
        for spec in &definition.engines {
            if Some(Digest::of(&read(Layout::weights(&folder, &spec.model))?)) != spec.weights.digest {
                return Err("the weights are torn, or others".to_owned());
            }
        }
        serde_json::from_slice::<serde_json::Value>(&read(Layout::secrets(&folder))?)
            .map_err(|error| format!("secrets: {error}"))?;
        look(&layout)
    }
}

/// Returns the number of a generation, of its folder.
fn number(folder: &Path) -> u64 {
    folder.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Looks at the host as the next plan does.
fn look(layout: &Layout) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let looked = runtime.block_on(inspect(layout, &Process::new(layout)));
    looked.map(drop).map_err(|error| format!("it cannot be looked at: {error}"))
}

/// Returns a folder with a `sync` that has nothing to do: what is not on a disk needs none.
fn tools() -> tempfile::TempDir {
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/true", tools.path().join("sync")).unwrap();
    tools
}

fn recovered(story: &Story, states: &Mutex<Receiver<State>>, faults: &Mutex<Vec<(String, String)>>) {
    let tools = tools();
    loop {
        let next = states.lock().unwrap().recv();
        let Ok(state) = next else { return };
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let root = place.path().join("root");
        lay_down(&state.tree, &root, &story.root);
        if let Err(wrong) = story.recover(&root, tools.path(), &state) {
            let wrong = wrong.replace(&root.display().to_string(), "ROOT");
            let left = listed(&state.tree);
            let fault = format!("after {}, with the loss of\n{}\nwhich leaves\n{left}", state.at, state.lost);
            faults.lock().unwrap().push((wrong, fault));
        }
    }
}

fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout)
}

fn listed(tree: &Tree) -> String {
    let line = |(path, node): (&PathBuf, &Node)| match node {
        Node::File(bytes) => format!("  {} {}\n", path.display(), bytes.len()),
        Node::Folder => format!("  {}/\n", path.display()),
        Node::Link(to) => format!("  {} -> {to}\n", path.display()),
    };
    tree.iter().map(line).collect()
}

#[test]
fn whatever_a_crash_leaves_leads_back_to_a_service() {
    let Some(story) = Story::tell() else { return };
    let begun = Instant::now();
    let mixtures = if std::env::var_os("BRAMBLE_LONG").is_some() { LONG_MIXTURES } else { MIXTURES };
    // what comes then is the removal
    let (end, _) = story.done[DEEDS.len() - 1];
    eprintln!("crash.events = {end}");
    let (mut count, faults, mut kept) = (0, Mutex::new(Vec::new()), Vec::new());
    let (give, states) = sync_channel(64);
    let states = Mutex::new(states);
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..workers {
            scope.spawn(|| recovered(&story, &states, &faults));
        }
        story.record.states(mixtures, end, |state| {
            count += 1;
            if count % APPLIED_TO == 0 {
                kept.push((state.at, state.tree.clone()));
            }
            give.send(state).unwrap();
        });
        drop(give);
    });
    let faults = faults.into_inner().unwrap();
    eprintln!("crash.states = {count}");
    eprintln!("crash.seconds = {:.1}", begun.elapsed().as_secs_f64());
    eprintln!("crash.faults = {}", faults.len());
    let mut kinds: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (kind, fault) in &faults {
        kinds.entry(kind).or_default().push(fault);
    }
    for (kind, faults) in &kinds {
        eprintln!("{} states: {kind}, such as {}", faults.len(), faults[0]);
    }
    assert!(kinds.is_empty());
    assert!(count >= LEAST_STATES, "{count}");
    for (at, tree) in &kept {
        lay_down(tree, &story.root, &story.root);
        for arguments in [["apply", "--yes"].as_slice(), &["remove", "--all", "--yes"]] {
            let ended = story.desk.command(arguments).output().unwrap();
            assert!(ended.status.success(), "{arguments:?} after {at}:\n{}\n{}", said(&ended), listed(tree));
        }
        assert!(!story.root.exists() || fs::read_dir(&story.root).unwrap().count() == 0);
    }
    eprintln!("crash.applied_to = {}", kept.len());
}
