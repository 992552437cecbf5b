//! Making weights by the real programs: killed at any point, interrupted, on a full disk, two at
//! a time, and in bounded memory.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, start the programs under test, and watch them from outside"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

#[path = "support/desk.rs"]
mod desk;
#[path = "support/disk.rs"]
#[expect(dead_code, reason = "a disk that fails is for other tests")]
mod disk;
#[path = "support/model.rs"]
mod model;
#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;

use desk::Desk;
use disk::Disk;
use model::write_model;
use process::Process;

/// Points of a run at which it is killed.
const POINTS: u64 = 16;

/// Of these, how many must find it still running. The last may come too late.
const IN_TIME: u64 = 12;

/// A desk with a model in `model/`, and what is made of it in `out/`.
struct Bench {
    desk: Desk,
    /// What every file must be in the end, by its name.
    right: BTreeMap<String, Vec<u8>>,
}

const QUANTS: &str = "F16,Q8_0,F32";

impl Bench {
    /// A model of some 8 MiB, which becomes some 28 in three files.
    fn new() -> Self {
        let desk = Desk::new("");
        write_model(&desk.path("model"), 2, 448, Some(1));
        let mut bench = Self { desk, right: BTreeMap::new() };
        let ended = bench.convert("right").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        bench.right = bench
            .files("right")
            .into_iter()
            .map(|name| {
                let bytes = fs::read(bench.desk.path("right").join(&name)).unwrap();
                (name, bytes)
            })
            .collect();
        assert_eq!(bench.right.len(), 3);
        bench
    }

    fn convert(&self, out: &str) -> Command {
        self.desk.command(&["convert", "model", "--quant", QUANTS, "--out", out])
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.desk.path(folder)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn total(&self) -> u64 {
        self.right.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Holds whatever has its final name to what it must be, to the byte.
    #[track_caller]
    fn assert_whole(&self, out: &str, point: &str) {
        for name in self.files(out).iter().filter(|name| !name.ends_with(".partial")) {
            let bytes = fs::read(self.desk.path(out).join(name)).unwrap();
            assert!(self.right[name] == bytes, "{point}: {name} has {} bytes", bytes.len());
        }
    }

    /// Runs once more, and holds everything to what it must be.
    #[track_caller]
    fn assert_next_is_right(&self, out: &str, point: &str) {
        let ended = self.convert(out).output().unwrap();
        assert!(ended.status.success(), "{point}: {}", said(&ended));
        assert_eq!(self.files(out), self.right.keys().cloned().collect::<Vec<_>>(), "{point}");
        self.assert_whole(out, point);
    }
}

/// Starts a run, and waits until its child has written `until` bytes or has ended.
fn start(mut command: Command, until: u64) -> (Child, Option<Process>) {
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = None;
    while run.try_wait().unwrap().is_none() {
        child = child.or_else(|| Process::child_of(run.id(), "weights"));
        if child.and_then(Process::written).is_some_and(|written| written > until) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    (run, child)
}

fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// Kills runs at every point by `kill`, with and without files of an earlier run in place.
fn killed_at_every_point(kill: impl Fn(&mut Child, Process), check: impl Fn(&Bench, &str, &Output)) {
    let bench = Bench::new();
    let mut in_time = 0;
    for number in 0..POINTS {
        let (out, point) = (format!("out-{}", number / 2), format!("point {number} of {POINTS}"));
        let (mut run, child) = start(bench.convert(&out), bench.total() * number / POINTS);
        let child = child.unwrap();
        in_time += u64::from(run.try_wait().unwrap().is_none());
        kill(&mut run, child);
        let ended = run.wait_with_output().unwrap();
        bench.assert_whole(&out, &point);
        check(&bench, &out, &ended);
        bench.assert_next_is_right(&out, &point);
    }
    assert!(in_time >= IN_TIME, "only {in_time} of {POINTS} runs were killed in time");
}

#[test]
fn an_operator_that_is_killed_at_any_point_leaves_nothing_that_is_not_whole() {
    killed_at_every_point(|run, _| run.kill().unwrap(), |_, _, _| {});
}

#[test]
fn a_child_that_is_killed_at_any_point_is_told_of_and_leaves_nothing() {
    killed_at_every_point(
        |_, child| child.signal(Signal::KILL),
        |bench, out, ended| {
            if !ended.status.success() {
                let said = said(ended);
                assert_eq!(ended.status.code(), Some(1), "{said}");
                assert!(said.contains("was killed, perhaps for want of memory"), "{said}");
            }
            let left = bench.files(out).into_iter().filter(|name| name.ends_with(".partial"));
            assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
        },
    );
}

#[test]
fn both_killed_at_once_as_by_a_loss_of_power_are_taken_over_by_the_next_run() {
    killed_at_every_point(
        |run, child| {
            child.signal(Signal::STOP);
            run.kill().unwrap();
            child.signal(Signal::KILL);
        },
        |_, _, _| {},
    );
}

#[test]
fn an_interrupted_run_ends_soon_says_where_it_was_and_leaves_nothing() {
    let bench = Bench::new();
    for number in [1, 8, 14] {
        let (run, child) = start(bench.convert("out"), bench.total() * number / POINTS);
        let asked = Instant::now();
        Process(run.id()).signal(Signal::INT);
        let ended = run.wait_with_output().unwrap();
        let (took, said) = (asked.elapsed(), said(&ended));
        if ended.status.success() {
            assert_eq!(number, 14, "it was asked long before its end");
            continue;
        }
        eprintln!("ended {} ms after it was interrupted", took.as_millis());
        assert_eq!(ended.status.code(), Some(130), "{said}");
        assert!(said.contains("Interrupted at "), "{said}");
        assert!(said.contains("nothing was kept"), "{said}");
        assert!(!child.unwrap().is_running(), "its child has ended before it");
        assert_eq!(bench.files("out"), [""; 0]);
    }
    bench.assert_next_is_right("out", "after interruptions");
}

#[test]
fn two_conversions_into_one_folder_do_not_spoil_each_other() {
    let bench = Bench::new();
    let both =
        [(); 2].map(|()| bench.convert("out").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let ended = both.map(|run| run.wait_with_output().unwrap());
    assert!(ended.iter().any(|ended| ended.status.success()));
    for ended in ended.iter().filter(|ended| !ended.status.success()) {
        // on a busy machine one may not wait as long as the other takes
        assert!(said(ended).contains("is being written by another process: wait for it"), "{}", said(ended));
    }
    assert_eq!(bench.files("out"), bench.right.keys().cloned().collect::<Vec<_>>());
    bench.assert_whole("out", "both");
}

/// Converts onto a disk that has room for some of it.
fn onto_full(disk: impl Fn(&Path, u64) -> Option<Disk>) {
    let bench = Bench::new();
    let folder = bench.desk.path("small");
    // room for two of the three
    let Some(small) = disk(&folder, bench.total() * 2 / 3) else { return };
    fs::create_dir(folder.join("out")).unwrap();
    let ended = bench.convert("small/out").output().unwrap();
    let said = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(".gguf needs ") && said.contains("there is no room for it"), "{said}");
    assert_eq!(bench.files("small/out"), [""; 0]);
    drop(small);
    let large = disk(&folder, bench.total() * 2);
    assert!(large.is_some(), "it could be mounted before");
    bench.assert_next_is_right("small/out", "with room");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_made() {
    onto_full(Disk::in_memory);
}

#[test]
fn a_disk_that_is_found_full_on_the_way_is_left_as_it_was() {
    onto_full(Disk::without_reservations);
}

/// What the program that makes weights may have resident, whatever the model's size: itself and
/// its vocabulary, and some MiB for each thread.
const MEMORY: u64 = 64 << 20;

#[test]
fn memory_does_not_grow_with_the_model() {
    let desk = Desk::new("");
    write_model(&desk.path("model"), 1, 4096, None);
    let size = fs::metadata(desk.path("model/model.safetensors")).unwrap().len();
    assert!(size > 300 << 20, "{size}");
    let mut command = desk.command(&["convert", "model", "--quant", "Q8_0,F16", "--out", "out"]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut child, mut peaks) = (None, [0, 0]);
    let ended = loop {
        let ended = run.try_wait().unwrap();
        child = child.or_else(|| Process::child_of(run.id(), "weights"));
        for (peak, process) in peaks.iter_mut().zip([Some(Process(run.id())), child]) {
            *peak = (*peak).max(process.and_then(Process::peak).unwrap_or(0));
        }
        if let Some(ended) = ended {
            break ended;
        }
        thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success());
    eprintln!("of {} MiB: operator {} MiB, child {} MiB", size >> 20, peaks[0] >> 20, peaks[1] >> 20);
    assert!(peaks[1] > 1 << 20, "it was seen");
    assert!(peaks.iter().all(|peak| *peak < MEMORY), "{peaks:?}");
    let made = fs::metadata(desk.path("out/model-F16.gguf")).unwrap().len();
    assert!(made > size);
}

/// One host, this machine, whose folder is inside a file: weights are made, and then nothing can be
/// laid out. Engines are not what is looked at here.
const MANIFEST: &str = "\
bramble: 1
fleet: home
serve: { port: 18080, tls: off }
models:
  chat: { source: \"file:FOLDERmodel\", context: 256, quant: [Q8_0] }
hosts:
  desk: { address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERfleet.yaml/root, supervisor: process }
deploy:
  - { model: chat, on: [desk] }
";

/// A desk whose bundle has the real program, and whose store is `cache`.
fn applying(cache: &Path) -> (Desk, Command) {
    let desk = Desk::new(MANIFEST);
    write_model(&desk.path("model"), 2, 448, Some(1));
    let program = desk.path("program");
    fs::create_dir(&program).unwrap();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_brambled"));
    fs::write(program.join("brambled"), script).unwrap();
    fs::set_permissions(program.join("brambled"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = desk.path("bundle.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&program).arg("brambled").status();
    assert!(tar.unwrap().success());
    desk.put_bundle(&fs::read(archive).unwrap());
    let mut command = desk.command(&["apply", "--yes"]);
    command.env("XDG_CACHE_HOME", cache).stdout(Stdio::piped()).stderr(Stdio::piped());
    (desk, command)
}

/// Returns the one file that the lock of a desk says was made, read from the store.
fn made(desk: &Desk, cache: &Path) -> Vec<u8> {
    let lock: Value = serde_json::from_slice(&fs::read(desk.path("bramble.lock")).unwrap()).unwrap();
    let made: Vec<&Value> = lock["made"].as_object().unwrap().values().collect();
    assert_eq!(made.len(), 1, "{lock}");
    fs::read(cache.join("bramble/blobs/sha256").join(made[0]["digest"].as_str().unwrap())).unwrap()
}

/// Holds a store to have nothing in it that is half done.
#[track_caller]
fn assert_tidy(cache: &Path) {
    let store = cache.join("bramble");
    assert_eq!(fs::read_dir(store.join("partial")).unwrap().count(), 0);
    let mut folders = vec![store];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_left = name.starts_with("new-") || name == "unfinished";
            assert!(!is_left && path.extension().is_none_or(|extension| extension != "lock"), "{name}");
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn two_runs_at_once_on_one_store_make_weights_once() {
    let bench = Bench::new();
    let cache = bench.desk.path("shared");
    let both = [applying(&cache), applying(&cache)];
    let running: Vec<(Desk, Child)> =
        both.into_iter().map(|(desk, mut command)| (desk, command.spawn().unwrap())).collect();
    let mut times_made = 0;
    for (desk, run) in running {
        let said = said(&run.wait_with_output().unwrap());
        times_made += said.lines().filter(|line| line.contains("making Q8_0 of chat: ")).count();
        assert!(made(&desk, &cache) == bench.right["model-Q8_0.gguf"], "{said}");
    }
    assert_eq!(times_made, 1);
    assert_tidy(&cache);
}

#[test]
fn an_apply_goes_on_to_its_end_when_nobody_reads_what_it_says() {
    let bench = Bench::new();
    let cache = |name: &str| bench.desk.path(name);
    let (_read, mut command) = applying(&cache("read"));
    let expected = command.output().unwrap();
    let (desk, mut command) = applying(&cache("unread"));
    let mut run = command.spawn().unwrap();
    drop((run.stdout.take(), run.stderr.take()));
    assert_eq!(run.wait().unwrap().code(), expected.status.code(), "{}", said(&expected));
    assert!(made(&desk, &cache("unread")) == bench.right["model-Q8_0.gguf"]);
    assert_tidy(&cache("unread"));
    // a full disk is found out before anything is done
    let (desk, mut command) = applying(&cache("full"));
    let ended = command.stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said(&ended).contains("error: cannot write the result to standard output: "), "{}", said(&ended));
    assert!(!desk.path("bramble.lock").exists());
}

#[test]
fn an_apply_that_is_killed_at_any_point_is_taken_up_by_the_next() {
    let bench = Bench::new();
    let right = &bench.right["model-Q8_0.gguf"];
    for number in 0..POINTS {
        let cache = bench.desk.path(&format!("cache-{number}"));
        let (desk, command) = applying(&cache);
        let (mut run, child) = start(command, right.len() as u64 * number / POINTS);
        run.kill().unwrap();
        // every other time the child goes with it, as with a loss of power
        if number % 2 == 0
            && let Some(child) = child
        {
            child.signal(Signal::KILL);
        }
        run.wait().unwrap();
        let mut again = desk.command(&["apply", "--yes"]);
        let ended = again.env("XDG_CACHE_HOME", &cache).output().unwrap();
        assert!(made(&desk, &cache) == *right, "point {number}: {}", said(&ended));
        assert_tidy(&cache);
        drop(fs::remove_dir_all(cache));
    }
}

#[test]
fn an_apply_that_is_interrupted_says_where_it_was_and_leaves_nothing_half_made() {
    let bench = Bench::new();
    let right = &bench.right["model-Q8_0.gguf"];
    let cache = bench.desk.path("cache-of-interrupted");
    let (desk, command) = applying(&cache);
    let (run, child) = start(command, right.len() as u64 / 4);
    Process(run.id()).signal(Signal::INT);
    let ended = run.wait_with_output().unwrap();
    let said = said(&ended);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    // why is in the report alone, and there once
    let report = String::from_utf8_lossy(&ended.stdout);
    let why = "cannot make chat: stopped before it was done; nothing was kept";
    assert_eq!((said.matches(why).count(), report.matches(why).count()), (0, 1), "{said}{report}");
    assert!(said.contains("making Q8_0 of chat: FAILED ("), "{said}");
    assert!(!child.unwrap().is_running(), "its child has ended before it");
    assert_tidy(&cache);
    drop(desk);
}
