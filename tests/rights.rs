//! What `brambled receive` may do: run as root, it gives that up before it speaks with other hosts, and what
//! stays root seals or ends.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the programs under test"
)]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/fleet.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod fleet;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::ids::Digest;
use fleet::{Fleet, Noise, write_noise};
use sshd::Sshd;

const MIB: u64 = 1 << 20;
/// What is pushed: more than is brought to the disk at once, so that there is a thread for that.
const SIZE: u64 = 72 * MIB;
/// What a receiver and its keeper may take of a host's memory together, beside the program itself: that is a
/// few MiB of 32 in a release build, and anything in others.
const MOST_OWN_MEMORY: u64 = 26 * MIB;
/// What takes longer has lost its way.
const PATIENCE: Duration = Duration::from_mins(1);

/// Two hosts that take in so much in a second that there is a middle, where receivers run as root.
fn of_root() -> Option<(Fleet, Digest)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not run as root");
        return None;
    }
    let ports = [sshd::free_port(), sshd::free_port()];
    let sshd = Sshd::start_on(&ports)?;
    let slow = "rollout: { bandwidth: { per_host: 24 MiB/s } }";
    let fleet = Fleet::of(sshd, slow, &[("kitchen", "host", ports[0]), ("cellar", "other", ports[1])]);
    // nobody else gets as far as the hosts' folders
    fs::set_permissions(fleet.desk.path(""), PermissionsExt::from_mode(0o700)).unwrap();
    write_noise(&fleet.desk.path("small"), 1, 3);
    fleet.push("small");
    let digest = write_noise(&fleet.desk.path("weights"), SIZE / MIB, 7);
    Some((fleet, digest))
}

#[track_caller]
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Begins a push, and returns when some of it is at `kitchen`.
#[track_caller]
fn in_the_middle(fleet: &Fleet, digest: &Digest) -> Child {
    let child = fleet.pushing("weights").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the push", || fleet.written(digest) >= 8 * MIB);
    child
}

/// Returns what a push said that did not complete.
#[track_caller]
fn refusal(push: Child) -> String {
    let output = push.wait_with_output().unwrap();
    let said =
        [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!output.status.success(), "{said}");
    said
}

#[track_caller]
fn completes(fleet: &Fleet, digest: &Digest) -> u64 {
    let said = fleet.push("weights");
    let blob = fleet.blob(digest);
    assert!(Digest::of(&fs::read(&blob).unwrap()) == *digest);
    let list = fleet.desk.path("host/chunks").join(digest.to_string());
    let [blob, list] = [blob, list].map(|path| fs::metadata(path).unwrap());
    assert_eq!((blob.uid(), blob.gid(), blob.mode() & 0o7777), (0, 0, 0o444));
    assert_eq!((list.uid(), list.gid()), (0, 0));
    assert_eq!(fs::read_dir(fleet.desk.path("host/partial")).unwrap().count(), 0);
    said["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap()
}

/// Returns fields of what the kernel says of a process or thread.
fn fields(folder: &Path, names: [&str; 5]) -> [String; 5] {
    let status = fs::read_to_string(folder.join("status")).unwrap();
    names.map(|name| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Returns how much a process has in memory of its own, and how much of files, while it runs.
fn resident(process: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let bytes = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some((bytes("RssAnon:")?, bytes("RssFile:")?))
}

#[test]
fn a_receiver_gives_up_what_root_may_and_seals_as_before() {
    const NAMES: [&str; 5] = ["Uid:", "Gid:", "Groups:", "CapEff:", "NoNewPrivs:"];
    let Some((fleet, digest)) = of_root() else { return };
    let mut push = in_the_middle(&fleet, &digest);
    let (receivers, keepers) = (fleet.receivers(), fleet.keepers());
    let (&[receiver], &[keeper]) = (&receivers[..], &keepers[..]) else { panic!("none at work") };
    let tasks = fs::read_dir(format!("/proc/{receiver}/task")).unwrap();
    let tasks: Vec<_> = tasks.map(|task| fields(&task.unwrap().path(), NAMES)).collect();
    assert!(tasks.len() > 2, "{tasks:?}");
    let own = [65_529.to_string().as_str(); 4].join(" ");
    for task in tasks {
        assert_eq!(task, [&own, &own, "", "0000000000000000", "1"]);
    }
    // the other one is root, has no thread beside its first and nothing open but the file and the ways to the first
    let folder = Path::new("/proc").join(keeper.to_string());
    assert_eq!(
        fields(&folder, ["Uid:", "Gid:", "Threads:", "PPid:", "Name:"]),
        ["0 0 0 0", "0 0 0 0", "1", &receiver.to_string(), "brambled"]
    );
    let open = fs::read_dir(folder.join("fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap());
    let mut open: Vec<String> = open.map(|path| path.display().to_string()).collect();
    open.sort();
    open.dedup();
    let is_known = |path: &String| {
        *path == fleet.partial(&digest).display().to_string()
            || path.starts_with("socket:")
            || path.starts_with("pipe:")
    };
    assert!(open.len() == 3 && open.iter().all(is_known), "{open:?}");
    let (mut most, mut with_program) = (0, 0);
    while push.try_wait().unwrap().is_none() {
        if let [Some((own, of_files)), Some((keepers, keepers_of_files))] = [receiver, keeper].map(resident) {
            most = most.max(own + keepers);
            // what is mapped from files is mostly the program, which they share
            with_program = with_program.max(own + keepers + of_files.max(keepers_of_files));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("receive.root.own_memory_mib = {:.1}", most as f64 / MIB as f64);
    eprintln!("receive.root.memory_mib = {:.1}", with_program as f64 / MIB as f64);
    assert!(most > 0 && most <= MOST_OWN_MEMORY, "{most}");
    let output = push.wait_with_output().unwrap();
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        said["arrived"].as_object().unwrap().values().any(|host| host["bytes_from_hosts"].as_u64() > Some(0)),
        "{said}"
    );
    fleet.wait_for_receivers();
    assert_eq!(completes(&fleet, &digest), 0, "it is there");
}

#[test]
fn a_receiver_that_is_killed_leaves_nobody_and_nothing_sealed() {
    let Some((fleet, digest)) = of_root() else { return };
    let push = in_the_middle(&fleet, &digest);
    fleet::kill(&fleet.receivers());
    wait("the keeper's end", || fleet.keepers().is_empty());
    assert!(!fleet.blob(&digest).exists());
    refusal(push);
    fleet.wait_for_receivers();
    let here = fleet.written(&digest);
    let sent = completes(&fleet, &digest);
    assert!(sent <= SIZE - here + 4 * MIB, "{sent} were sent, and {here} were here");
}

#[test]
fn a_keeper_that_is_killed_is_named_and_the_next_push_completes() {
    let Some((fleet, digest)) = of_root() else { return };
    let push = in_the_middle(&fleet, &digest);
    fleet::kill(&fleet.keepers());
    let said = refusal(push);
    assert!(said.contains("the part of the receiver that seals has ended"), "{said}");
    assert!(!fleet.blob(&digest).exists());
    fleet.wait_for_receivers();
    assert!(completes(&fleet, &digest) < SIZE - 4 * MIB);
}

#[test]
fn a_lease_that_is_over_is_seen_without_rights() {
    let Some((fleet, digest)) = of_root() else { return };
    let push = in_the_middle(&fleet, &digest);
    let lease: serde_json::Value =
        serde_json::from_slice(&fs::read(fleet.desk.path("host/lease")).unwrap()).unwrap();
    let ask = serde_json::json!({
        "ask": "take",
        "holder": { "operator": "ada@desk", "boot": "", "process": 1 },
        "in_place_of": lease["number"],
    });
    fs::write(fleet.desk.path("ask"), ask.to_string()).unwrap();
    // only root reads the new one
    fleet.sh(&format!("umask 077; {} lease --root host <ask >granted", env!("CARGO_BIN_EXE_brambled")));
    let said = refusal(push);
    assert!(said.contains("ada@desk has taken this host over since"), "{said}");
    fleet.wait_for_receivers();
    assert!(!fleet.blob(&digest).exists());
}

#[test]
fn what_an_earlier_release_has_left_half_counts() {
    let Some((fleet, digest)) = of_root() else { return };
    let data = fs::read(fleet.desk.path("weights")).unwrap();
    let here = 64 * MIB;
    fs::write(fleet.partial(&digest), &data[..usize::try_from(here).unwrap()]).unwrap();
    let journal = format!("bramble-partial 1 {SIZE}\nboot another\nsynced 0 {here}\nwrote {here} {SIZE}\n");
    fs::write(fleet.partial(&digest).with_added_extension("journal"), journal).unwrap();
    let sent = completes(&fleet, &digest);
    assert!(sent < SIZE - here + MIB, "{sent}");
}

#[test]
fn a_receiver_that_cannot_give_its_rights_up_does_not_go_on() {
    let Some((fleet, digest)) = of_root() else { return };
    // there is no user but root there
    let only_root = "unshare --user --map-root-user";
    if !Command::new("sh").args(["-c", &format!("{only_root} true")]).status().unwrap().success() {
        eprintln!("SKIPPED: there are no user namespaces here");
        return;
    }
    fleet.hook(&format!("case $1 in receive) exec {only_root} \"$program\" \"$@\" ;; esac"));
    let why = fleet.try_push("weights").unwrap_err();
    assert!(why.contains("cannot give up the rights of root"), "{why}");
    fleet.unhook();
    fleet.wait_for_receivers();
    assert!(!fleet.blob(&digest).exists());
    completes(&fleet, &digest);
}

/// A keeper of a blob in a folder, by hand, whoever runs this.
struct Kept {
    dir: tempfile::TempDir,
    digest: Digest,
    process: Child,
    way: UnixStream,
}

impl Kept {
    /// So much of the blob is here.
    fn new(here: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = Noise(1).bytes(usize::try_from(MIB).unwrap());
        let digest = Digest::of(&data);
        for folder in ["partial", "chunks", "blobs/sha256"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let partial = dir.path().join("partial").join(digest.to_string());
        fs::write(&partial, &data).unwrap();
        fs::write(partial.with_added_extension("chunks"), "a list").unwrap();
        let journal = format!("bramble-partial 1 {MIB}\nboot b\nsynced 0 {here}\n");
        fs::write(partial.with_added_extension("journal"), journal).unwrap();
        let (way, its) = UnixStream::pair().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_brambled"))
            .args([
                "keeper",
                "--digest",
                &digest.to_string(),
                "--bytes",
                &MIB.to_string(),
                "--lease",
                "3",
                "--root",
            ])
            .arg(dir.path())
            .stdin(File::options().read(true).write(true).open(partial).unwrap())
            .stdout(OwnedFd::from(its))
            .spawn()
            .unwrap();
        way.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, digest, process, way }
    }

    fn ask(&mut self, word: u8) -> String {
        self.way.write_all(&[word]).unwrap();
        let mut head = [0; 5];
        self.way.read_exact(&mut head).unwrap();
        let [_, length @ ..] = head;
        let mut said = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.way.read_exact(&mut said).unwrap();
        String::from_utf8(said).unwrap()
    }

    fn is_sealed(&self) -> bool {
        self.dir.path().join("blobs/sha256").join(self.digest.to_string()).exists()
    }
}

#[test]
fn a_keeper_seals_what_is_whole_while_the_lease_lasts_and_does_nothing_else() {
    let mut whole = Kept::new(MIB);
    assert_eq!(whole.ask(b'l'), r#"{"Ok":null}"#);
    assert!(!whole.is_sealed());
    assert_eq!(whole.ask(b's'), r#"{"Ok":null}"#);
    assert!(whole.process.wait().unwrap().success() && whole.is_sealed());

    let mut half = Kept::new(MIB / 2);
    let said = half.ask(b's');
    assert!(said.contains("disk") && said.contains("it has not arrived whole"), "{said}");
    assert!(half.process.wait().unwrap().success() && !half.is_sealed());

    let mut over = Kept::new(MIB);
    let lease = r#"{"number":4,"holder":{"operator":"ada","boot":"","process":1},"is_over":false,"touched":{"boot":"","seconds":1}}"#;
    fs::write(over.dir.path().join("lease"), lease).unwrap();
    for word in [b'l', b's'] {
        let said = over.ask(word);
        assert!(said.contains("over") && said.contains("ada has taken this host over"), "{said}");
    }
    assert!(over.process.wait().unwrap().success() && !over.is_sealed());

    let Kept { dir: _dir, mut process, way, .. } = Kept::new(MIB);
    drop(way);
    assert!(process.wait().unwrap().success(), "it ends with whoever started it");

    let mut nonsense = Kept::new(MIB);
    nonsense.way.write_all(b"x").unwrap();
    assert!(!nonsense.process.wait().unwrap().success() && !nonsense.is_sealed());
}
