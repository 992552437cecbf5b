//! What can befall a host in the middle of `bramble push`: its link, its disk, its memory and its clock fail.
//! Whatever it is, the file is there whole or not at all, the next push completes, and what lay beside it is as it
//! was. Each fault has a short form, and a long one that counts and prints `NAME = VALUE`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the programs under test"
)]

#[path = "support/definition.rs"]
mod definition;
#[path = "support/desk.rs"]
mod desk;
#[path = "support/disk.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod disk;
#[path = "support/fleet.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod fleet;
#[path = "support/relay.rs"]
mod relay;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use bramble_fleet::generation::Secrets;
use bramble_fleet::ids::{Digest, Generation};
use bramble_fleet::install::InstallRequest;
use definition::definition;
use disk::Disk;
use fleet::{Fleet, Noise, write_noise};
use relay::{Fate, Relay};
use sshd::Sshd;

const MIB: u64 = 1 << 20;
/// What is pushed.
const SIZE: u64 = 12 * MIB;
/// A push that takes longer has lost its way.
const PATIENCE: Duration = Duration::from_mins(2);

/// A push that something befalls, again and again, beside a blob that is there already.
struct Trial {
    fleet: Fleet,
    digest: Digest,
    beside: (Digest, Vec<u8>),
    random: Noise,
    name: &'static str,
    rounds: u64,
    /// Rounds in which it happened before all was there.
    in_the_middle: u64,
    not_whole_or_absent: u64,
    not_completed: u64,
    harmed: u64,
    /// Files of the way that lie beside a blob that is whole: its end came just before theirs.
    left: u64,
}

impl Trial {
    fn new(name: &'static str, fleet: Fleet) -> Self {
        let digest = write_noise(&fleet.desk.path("weights"), SIZE / MIB, 7);
        let beside = write_noise(&fleet.desk.path("beside"), 4, 8);
        fleet.push("beside");
        let data = fs::read(fleet.blob(&beside)).unwrap();
        Self {
            fleet,
            digest,
            beside: (beside, data),
            random: Noise(name.len() as u64),
            name,
            rounds: 0,
            in_the_middle: 0,
            not_whole_or_absent: 0,
            not_completed: 0,
            harmed: 0,
            left: 0,
        }
    }

    /// Waits for a push that was begun, and for whoever received it. Returns whether it completed, which it says of none
    /// that did not.
    #[track_caller]
    fn ended(&self, mut operator: Child) -> bool {
        let end = Instant::now() + PATIENCE;
        while operator.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{}: a push does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        self.fleet.wait_for_receivers();
        let is_done = operator.wait().unwrap().success();
        assert!(!is_done || self.is_whole(), "{}: a push that failed says that it did not", self.name);
        is_done
    }

    /// Waits until so much of the file is at the host, or the push has ended.
    fn wait_for(&self, bytes: u64, operator: &mut Child) {
        while self.fleet.written(&self.digest) < bytes
            && !self.fleet.blob(&self.digest).exists()
            && operator.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Counts a round: what is there now, and what is after another push, where nothing happens.
    fn count(&mut self) {
        self.rounds += 1;
        let blob = self.fleet.blob(&self.digest);
        self.in_the_middle += u64::from(!blob.exists());
        self.not_whole_or_absent += u64::from(blob.exists() && !self.is_whole());
        if let Err(why) = self.fleet.try_push("weights") {
            eprintln!("{}: round {}: not completed: {why}", self.name, self.rounds);
            self.not_completed += 1;
        } else if !self.is_whole() {
            eprintln!("{}: round {}: completed, and not whole", self.name, self.rounds);
            self.not_whole_or_absent += 1;
        }
        let left = fs::read_dir(self.fleet.desk.path("host/partial")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        let is_beside = fs::read(self.fleet.blob(&self.beside.0)).is_ok_and(|data| data == self.beside.1);
        if !left.is_empty() {
            eprintln!("{}: round {}: {left:?} is left", self.name, self.rounds);
            self.left += left.len() as u64;
            self.fleet.sh("rm host/partial/*");
        }
        self.harmed += u64::from(!is_beside);
        self.forget();
    }

    fn is_whole(&self) -> bool {
        fs::read(self.fleet.blob(&self.digest)).is_ok_and(|data| Digest::of(&data) == self.digest)
    }

    fn forget(&self) {
        // a push that did not complete has left none
        drop(fs::remove_file(self.fleet.blob(&self.digest)));
        drop(fs::remove_file(self.fleet.desk.path("host/chunks").join(self.digest.to_string())));
    }

    /// Prints what was counted, and holds it to what is promised.
    #[track_caller]
    fn tell(&self, more: &[(&str, String)]) {
        let counted = [
            ("rounds", self.rounds),
            ("in_the_middle", self.in_the_middle),
            ("not_whole_or_absent", self.not_whole_or_absent),
            ("not_completed", self.not_completed),
            ("harmed", self.harmed),
            ("files_left", self.left),
        ];
        for (what, count) in counted {
            eprintln!("faults.{}.{what} = {count}", self.name);
        }
        for (what, value) in more {
            eprintln!("faults.{}.{what} = {value}", self.name);
        }
        assert_eq!((self.not_whole_or_absent, self.not_completed, self.harmed), (0, 0, 0), "{}", self.name);
    }
}

/// A fleet whose link is a relay.
fn linked() -> Option<(Relay, Fleet)> {
    let sshd = Sshd::start()?;
    let relay = Relay::to(sshd.port);
    let fleet = Fleet::of(sshd, "", &[("kitchen", "host", relay.port)]);
    Some((relay, fleet))
}

/// The link is cut after any number of bytes, that of the login included.
fn link_cut(rounds: u64) {
    let Some((relay, fleet)) = linked() else { return };
    let mut trial = Trial::new("link_cut", fleet);
    let mut not_cut = 0;
    for round in 0..rounds {
        let most = if round % 4 == 3 { 16 << 10 } else { SIZE };
        let at = trial.random.within(0..most);
        relay.doom(at, Fate::Cut);
        trial.ended(trial.fleet.begin("weights"));
        // a login that takes too long on a busy machine ends before it
        not_cut += u64::from(!relay.has_come_to_pass());
        relay.spare();
        trial.count();
    }
    trial.tell(&[("not_cut", not_cut.to_string())]);
}

/// The link is down for a moment, and comes back: the push goes on by itself.
fn link_held(rounds: u64) {
    let Some((relay, fleet)) = linked() else { return };
    let mut trial = Trial::new("link_held", fleet);
    let mut failed = 0;
    for _ in 0..rounds {
        let time = Duration::from_millis(trial.random.within(100..2000));
        relay.doom(trial.random.within(0..SIZE), Fate::Held(time));
        failed += u64::from(!trial.ended(trial.fleet.begin("weights")));
        assert!(relay.has_come_to_pass());
        trial.count();
    }
    trial.tell(&[("not_completed_by_itself", failed.to_string())]);
    assert_eq!(failed, 0);
}

/// The operator goes, and the host does not learn it: what is half received is not anybody else's for a minute.
fn link_dead(rounds: u64) {
    let Some((relay, fleet)) = linked() else { return };
    let mut trial = Trial::new("link_dead", fleet);
    for _ in 0..rounds {
        let at = trial.random.within(MIB..SIZE);
        relay.doom(at, Fate::Dead);
        let mut operator = trial.fleet.begin("weights");
        while !relay.has_come_to_pass() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fleet::kill(&[operator.id()]);
        fleet::kill(&trial.fleet.ssh());
        operator.wait().unwrap();
        trial.count();
    }
    trial.tell(&[]);
}

/// A fleet whose host has a disk of its own, and takes in no more than so many MiB a second.
fn with_disk(make: impl FnOnce(&Path, u64) -> Option<Disk>, rate: u64) -> Option<(Disk, Fleet)> {
    let slow = format!("rollout: {{ bandwidth: {{ per_host: {rate} MiB/s }} }}");
    let sshd = Sshd::start()?;
    let port = sshd.port;
    let fleet = Fleet::of(sshd, &slow, &[("kitchen", "host", port)]);
    // 64 MiB are always left to others
    let disk = make(&fleet.desk.path("host"), SIZE + 96 * MIB)?;
    // what is new on a filesystem belongs to it
    drop(fs::remove_dir(fleet.desk.path("host/lost+found")));
    Some((disk, fleet))
}

/// Writes to `path` until the disk takes no more.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for step in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; step]).is_ok() {}
    }
    // what was taken and has no room is only found out now
    drop(file.sync_all());
}

/// Somebody else fills the disk while the push goes on, where room is taken beforehand and where it cannot be.
fn disk_fills(rounds: u64) {
    type Make = fn(&Path, u64) -> Option<Disk>;
    for (name, make) in [
        ("disk_fills", Disk::without_reservations as Make),
        ("disk_with_reservations_fills", Disk::journaled as Make),
    ] {
        let Some((_disk, fleet)) = with_disk(make, 6) else { return };
        let mut trial = Trial::new(name, fleet);
        for _ in 0..rounds {
            let mut operator = trial.fleet.begin("weights");
            let at = trial.random.within(1..SIZE);
            trial.wait_for(at, &mut operator);
            let filler = trial.fleet.desk.path("host/filler");
            fill(&filler);
            trial.ended(operator);
            fs::remove_file(&filler).unwrap();
            trial.count();
        }
        trial.tell(&[]);
    }
}

/// The disk takes nothing from the beginning.
fn read_only_from_the_beginning(rounds: u64) {
    let Some((disk, fleet)) = with_disk(Disk::journaled, 24) else { return };
    let mut trial = Trial::new("read_only_from_the_beginning", fleet);
    for _ in 0..rounds {
        assert!(disk.remount("ro"));
        let why = trial.fleet.try_push("weights").unwrap_err();
        assert!(why.contains("Read-only file system"), "{why}");
        assert!(disk.remount("rw"));
        trial.count();
    }
    trial.tell(&[]);
}

/// The disk fails and takes nothing any longer, until it is looked after and mounted again.
fn read_only_in_the_middle(rounds: u64) {
    let Some((disk, fleet)) = with_disk(Disk::journaled, 24) else { return };
    let mut trial = Trial::new("read_only_in_the_middle", fleet);
    for _ in 0..rounds {
        let at = trial.random.within(1..SIZE);
        let mut operator = trial.fleet.begin("weights");
        trial.wait_for(at, &mut operator);
        disk.remount("abort");
        trial.ended(operator);
        disk.mount_again();
        // what was on its way to the disk is lost with it: also the end of the round before
        if fs::read(trial.fleet.blob(&trial.beside.0)).is_err() {
            trial.harmed += 1;
        }
        trial.count();
        trial.fleet.sh("sync -f host");
    }
    trial.tell(&[]);
}

fn flip(path: &Path, at: u64) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// Lays out a generation that names the blob, as an apply does; returns what was said against it.
fn first_use(trial: &Trial, number: u64) -> Option<String> {
    let programs = fs::read_dir(trial.fleet.desk.path("host/programs")).unwrap();
    let program = programs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).next().unwrap();
    let definition = definition(program.parse().unwrap(), trial.digest, SIZE);
    let request = InstallRequest {
        generation: Generation::new(number),
        definition,
        units: Vec::new(),
        secrets: Secrets::default(),
        from: None,
        adopt: false,
    };
    let input = trial.fleet.desk.path("request.json");
    fs::write(&input, serde_json::to_vec(&request).unwrap()).unwrap();
    // under the lease that the push before had
    let lease = fs::read(trial.fleet.desk.path("host/lease")).unwrap();
    let lease: serde_json::Value = serde_json::from_slice(&lease).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_brambled"))
        .args(["install", "--lease", &lease["number"].to_string(), "--root"])
        .arg(trial.fleet.desk.path("host"))
        .stdin(File::open(input).unwrap())
        .output()
        .unwrap();
    // the next round is another first use
    drop(fs::remove_dir_all(trial.fleet.desk.path("host/generations")));
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A byte of what has arrived changes on the disk, between a push that was cut off and the next one. Nothing that has
/// arrived is read again by a push: it is found before its first use, and only the damage is sent.
fn flipped_at_rest(rounds: u64) {
    let Some((relay, fleet)) = linked() else { return };
    let mut trial = Trial::new("flipped_at_rest", fleet);
    let (mut sealed, mut unnoticed, mut resent) = (0, 0, 0);
    for round in 0..rounds {
        relay.doom(trial.random.within(6 * MIB..SIZE), Fate::Cut);
        trial.ended(trial.fleet.begin("weights"));
        assert!(relay.has_come_to_pass());
        trial.in_the_middle += 1;
        trial.rounds += 1;
        let here = trial.fleet.written(&trial.digest);
        flip(&trial.fleet.partial(&trial.digest), trial.random.within(0..here));
        trial.fleet.push("weights");
        if !trial.is_whole() {
            sealed += 1;
            let said = first_use(&trial, round + 1).unwrap_or_default();
            unnoticed += u64::from(!said.contains("is not to be trusted"));
            let pushed = trial.fleet.push("weights");
            resent = resent.max(pushed["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap());
        }
        trial.not_completed += u64::from(!trial.is_whole());
        assert_eq!(first_use(&trial, round + 1), None);
        trial.forget();
    }
    trial.tell(&[
        ("sealed_with_it", sealed.to_string()),
        ("not_found_before_first_use", unnoticed.to_string()),
        ("resent_mib", format!("{:.1}", resent as f64 / MIB as f64)),
    ]);
    assert_eq!(unnoticed, 0);
    assert!(resent <= 4 * MIB, "{resent} bytes were sent for one");
}

/// Passes on what it reads, but for one byte, which it changes.
const FLIPPER: &str = r#"
binmode STDIN; binmode STDOUT;
my ($at, $n) = (0, shift);
while (my $read = sysread STDIN, my $data, 65536) {
    substr($data, $n - $at, 1) ^= "\x01" if $at <= $n && $n < $at + $read;
    $at += $read;
    for (my $done = 0; $done < $read;) {
        $done += syswrite(STDOUT, $data, $read - $done, $done) // exit;
    }
}
"#;

/// A byte changes between the host's sshd and its program, or on the way back: what ssh protects ends there.
fn flipped_in_flight(rounds: u64) {
    let Some(fleet) = Fleet::new() else { return };
    let mut trial = Trial::new("flipped_in_flight", fleet);
    fs::write(trial.fleet.desk.path("flipper"), FLIPPER).unwrap();
    let flipper = trial.fleet.desk.path("flipper").display().to_string();
    let mut completed = 0;
    for round in 0..rounds {
        // of what the host says, of the list of chunks, and of the chunks
        let (at, is_back) = match round % 4 {
            0 => (trial.random.within(0..200), true),
            1 => (trial.random.within(0..600), false),
            _ => (trial.random.within(0..SIZE), false),
        };
        let way = if is_back {
            format!("\"$program\" \"$@\" | perl {flipper} {at}")
        } else {
            format!("perl {flipper} {at} | \"$program\" \"$@\"")
        };
        trial.fleet.hook(&format!("case $1 in receive) {way}; exit ;; esac"));
        completed += u64::from(trial.ended(trial.fleet.begin("weights")));
        trial.fleet.unhook();
        trial.count();
    }
    trial.tell(&[("completed_all_the_same", completed.to_string())]);
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clocks of two hosts jump by years to and fro while they have a file from each other: its certificates have
/// dates, and nothing else of a transfer knows the time of day.
fn clock_jumps(rounds: u64) {
    if !Path::new(FAKETIME).exists() {
        eprintln!("SKIPPED: {FAKETIME} is not installed (package libfaketime)");
        return;
    }
    let slow = "rollout: { bandwidth: { per_host: 24 MiB/s } }";
    let ports = [sshd::free_port(), sshd::free_port()];
    let Some(sshd) = Sshd::start_on(&ports) else { return };
    let fleet = Fleet::of(sshd, slow, &[("kitchen", "host", ports[0]), ("cellar", "other", ports[1])]);
    let mut trial = Trial::new("clock_jumps", fleet);
    let clock = trial.fleet.desk.path("clock").display().to_string();
    // also a receiver that has given up what root may reads the clock
    fs::set_permissions(trial.fleet.desk.path(""), PermissionsExt::from_mode(0o711)).unwrap();
    let set = |trial: &mut Trial| {
        let days = trial.random.within(0..20_000);
        let sign = if trial.random.next().is_multiple_of(2) { '+' } else { '-' };
        let new = format!("{clock}.new");
        fs::write(&new, format!("{sign}{days}d\n")).unwrap();
        fs::rename(new, &clock).unwrap();
    };
    set(&mut trial);
    let faked = format!(
        "export LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1"
    );
    trial.fleet.hook(&format!("{faked}; date +%s >>{clock}.seen"));
    let (mut failed, mut jumps, mut between) = (0, 0, 0);
    for _ in 0..rounds {
        let mut operator = trial.fleet.begin("weights");
        while operator.try_wait().unwrap().is_none() {
            set(&mut trial);
            jumps += 1;
            std::thread::sleep(Duration::from_millis(trial.random.within(1..60)));
        }
        failed += u64::from(!trial.ended(operator));
        fs::remove_file(trial.fleet.desk.path("other/blobs/sha256").join(trial.digest.to_string())).unwrap();
        // kitchen has it: the other one has it from there
        let said = trial.fleet.push("weights");
        between += said["arrived"]["cellar"]["bytes_from_hosts"].as_u64().unwrap();
        trial.count();
        drop(fs::remove_file(trial.fleet.desk.path("other/blobs/sha256").join(trial.digest.to_string())));
    }
    let seen = fs::read_to_string(format!("{clock}.seen")).unwrap();
    let seconds: Vec<i64> = seen.lines().map(|line| line.parse().unwrap()).collect();
    let spread = seconds.iter().max().unwrap() - seconds.iter().min().unwrap();
    assert!(spread > 365 * 86_400, "the clocks did not jump: {seen}");
    assert!(between > 0, "nothing went from host to host");
    trial.tell(&[
        ("jumps", jumps.to_string()),
        ("not_completed_by_itself", failed.to_string()),
        ("mib_from_host_to_host", (between / MIB).to_string()),
    ]);
    assert_eq!(failed, 0);
}

#[test]
fn a_link_that_is_cut_or_held_up_anywhere_costs_nothing_but_another_push() {
    link_cut(4);
    link_held(1);
}

#[test]
fn a_disk_that_somebody_else_fills_takes_the_file_whole_or_not_at_all() {
    disk_fills(1);
}

#[test]
fn a_disk_that_takes_nothing_is_named_and_harmed_in_nothing() {
    read_only_from_the_beginning(1);
    read_only_in_the_middle(2);
}

#[test]
fn a_byte_that_flips_is_found_before_it_is_used() {
    flipped_at_rest(1);
    flipped_in_flight(4);
}

#[test]
fn the_time_of_day_is_nothing_to_a_transfer() {
    clock_jumps(1);
}

/// These print `NAME = VALUE` for each fault.
#[test]
#[ignore = "minutes: a measurement"]
fn many_links() {
    link_cut(50);
    link_held(20);
    link_dead(2);
}

#[test]
#[ignore = "minutes: a measurement"]
fn many_disks() {
    disk_fills(25);
    read_only_from_the_beginning(10);
    read_only_in_the_middle(30);
}

#[test]
#[ignore = "minutes: a measurement"]
fn many_bytes() {
    flipped_at_rest(20);
    flipped_in_flight(60);
}

#[test]
#[ignore = "minutes: a measurement"]
fn many_clocks() {
    clock_jumps(20);
}
