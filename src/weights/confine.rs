//! What the process that makes weights may do: read the source, write to the files that it has opened, and nothing else.
//!
//! Beside what the room `confine` has it give up, it takes no more memory and time than such work does.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Order;
use crate::confine::{self, Needs};

/// Addresses that the process may take, beside those of each thread. A vocabulary of 256,000 tokens with all that is made
/// of it takes less than one GiB.
const MOST_MEMORY: u64 = 8 << 30;
/// A stack, an arena of the allocator, and what is read and made of a piece.
const MOST_MEMORY_OF_THREAD: u64 = 512 << 20;

/// Seconds of processor until it is known how much there is to make: headers and vocabularies are read by then.
const MOST_SECONDS: u64 = 600;
/// The fewest bytes a second that one core makes; the slowest that was seen is a hundred times as fast.
const LEAST_RATE: u64 = 20_000;

/// How many times as long as its source a file may become, from less than two bits to 32 for each weight, and what comes to it for
/// its vocabulary and its padding.
const MOST_GROWTH: u64 = 24;
const MOST_ADDED: u64 = 1 << 30;

/// How deep a source's folder is looked through for links, and how many entries are looked at.
const DEEPEST: u32 = 4;
const MOST_ENTRIES: usize = 100_000;

/// Gives up, for good, what the order does not need. Wants to be called while there is one thread.
///
/// Returns whether this kernel keeps it from other files.
///
/// # Errors
/// A limit cannot be set, or a rule cannot be made.
pub(super) fn confine(order: &Order) -> io::Result<bool> {
    let threads = match order.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from) as u64,
        threads => u64::from(threads),
    };
    let reads = reads(order);
    let most = most_bytes(&reads);
    confine::lower(Resource::As, MOST_MEMORY + threads.saturating_mul(MOST_MEMORY_OF_THREAD))?;
    confine::lower(Resource::Fsize, most)?;
    let files = order.outputs.len() as u64;
    confine::lower(Resource::Cpu, MOST_SECONDS + most.saturating_mul(files) / LEAST_RATE)?;
    limit_time(MOST_SECONDS)?;
    confine::confine(&Needs { reads, ..Needs::default() })
}

/// Returns what making weights reads: the source, and what links in it lead to, as in the store, where a checkpoint is a
/// folder of links to blobs, or to what lies in a folder of the user's. Whoever gave the order has looked where they lead.
fn reads(order: &Order) -> Vec<PathBuf> {
    let mut reads = vec![order.source.clone()];
    reads.extend(order.imatrix.clone());
    look_through(&order.source, 0, &mut |path, kind| {
        // one that leads nowhere is found by whoever reads it
        let target = kind.is_symlink().then(|| fs::canonicalize(path).ok()).flatten();
        reads.extend(target.filter(|target| target.is_file()));
    });
    reads
}

/// Returns how long a file may become that is made of these: no quant takes as many times the room of another.
fn most_bytes(reads: &[PathBuf]) -> u64 {
    let length =
        |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |file| file.len());
    let mut bytes = 0_u64;
    for path in reads {
        bytes = bytes.saturating_add(length(path));
        look_through(path, 0, &mut |path, kind| {
            if kind.is_file() {
                bytes = bytes.saturating_add(length(path));
            }
        });
    }
    bytes.saturating_mul(MOST_GROWTH).saturating_add(MOST_ADDED)
}

/// Shows `see` what is in a folder, however deep.
fn look_through(folder: &Path, depth: u32, see: &mut dyn FnMut(&Path, fs::FileType)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().take(MOST_ENTRIES) {
        let Ok(kind) = entry.file_type() else { continue };
        see(&entry.path(), kind);
        if kind.is_dir() && depth < DEEPEST {
            look_through(&entry.path(), depth + 1, see);
        }
    }
}

/// Allows more time, now that it is known how many bytes are to be made.
pub(super) fn allow_time_for(bytes: u64) {
    // less time is no harm to anybody else
    drop(limit_time(MOST_SECONDS.saturating_add(bytes / LEAST_RATE)));
}

/// Sets the time of processor that may be used in all, which can be raised again.
fn limit_time(seconds: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Cpu);
    let current = Some(maximum.map_or(seconds, |maximum| maximum.min(seconds)));
    setrlimit(Resource::Cpu, Rlimit { current, maximum })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::super::Output;
    use super::*;
    use crate::quant::Quant;

    /// A thread stands for the process: what is given up is each thread's own, but for limits, which are raised again.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "it tries to start a program, in vain")]
    fn who_makes_weights_reads_the_source_writes_to_its_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["in", "in/sub", "out", "blobs", "home"] {
            fs::create_dir(path(folder)).unwrap();
        }
        for file in
            ["in/config.json", "in/sub/a", "blobs/weights", "imatrix", "home/id_ed25519", "out/theirs"]
        {
            fs::write(path(file), file).unwrap();
        }
        symlink(path("blobs/weights"), path("in/model.safetensors")).unwrap();
        let order = Order {
            source: path("in"),
            outputs: vec![Output { quant: Quant::Q8_0, path: path("out/chat.gguf") }],
            imatrix: Some(path("imatrix")),
            may_requantize: false,
            prompt_style: None,
            threads: 2,
        };
        let _agent = UnixListener::bind(path("in/agent")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // what is written to is opened before
        let file = fs::File::create(path("out/chat.gguf.partial")).unwrap();
        let confined = || {
            if !confine(&order).unwrap() {
                // nothing can be shown on a kernel without it, as in some containers
                return false;
            }
            for file in ["in/config.json", "in/sub/a", "in/model.safetensors", "imatrix"] {
                fs::read(path(file)).unwrap();
            }
            file.set_len(0).unwrap();
            (&file).write_all(b"x").unwrap();
            file.sync_all().unwrap();
            let denied = |what: &str, tried: Option<ErrorKind>| {
                assert_eq!(tried, Some(ErrorKind::PermissionDenied), "{what}");
            };
            denied("a key", fs::read(path("home/id_ed25519")).err().map(|e| e.kind()));
            denied("a folder", fs::read_dir(path("home")).err().map(|e| e.kind()));
            denied("accounts", fs::read("/etc/passwd").err().map(|e| e.kind()));
            denied("writing there", fs::write(path("out/theirs"), b"x").err().map(|e| e.kind()));
            denied("taking away", fs::remove_file(path("out/theirs")).err().map(|e| e.kind()));
            denied("a new file", fs::write(path("out/new"), b"x").err().map(|e| e.kind()));
            denied(
                "a name",
                fs::rename(path("out/chat.gguf.partial"), path("out/x")).err().map(|e| e.kind()),
            );
            denied("reading there", fs::read(path("out/theirs")).err().map(|e| e.kind()));
            denied("the source", fs::write(path("in/config.json"), b"x").err().map(|e| e.kind()));
            denied("a way out", symlink("/etc", path("out/link")).err().map(|e| e.kind()));
            denied("a new place", fs::write(path("home/x"), b"x").err().map(|e| e.kind()));
            denied("a program", Some(Command::new("/bin/false").exec().kind()));
            let child = Command::new("/bin/true").status();
            assert_eq!(child.err().map(|e| e.kind()), Some(ErrorKind::WouldBlock), "a process of its own");
            denied("the network", TcpStream::connect(address).err().map(|e| e.kind()));
            denied("a name", UdpSocket::bind("127.0.0.1:0").err().map(|e| e.kind()));
            // in a folder that may be read: no rule of Landlock is about these
            denied("an agent", UnixStream::connect(path("in/agent")).err().map(|e| e.kind()));
            denied("a root", rustix::process::chroot("/").err().map(rustix::io::Errno::kind));
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
            // what a thread of it starts has the same
            let other = std::thread::spawn(|| UnixDatagram::unbound().err().map(|e| e.kind()));
            denied("a socket", other.join().unwrap());
            denied("a port", TcpListener::bind("127.0.0.1:0").err().map(|e| e.kind()));
            true
        };
        let is_kept = std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert!(
            getrlimit(Resource::As)
                .maximum
                .is_some_and(|most| most <= MOST_MEMORY + 2 * MOST_MEMORY_OF_THREAD)
        );
        assert!(getrlimit(Resource::Cpu).current.is_some_and(|most| most <= MOST_SECONDS));
        // what it raises itself, it raises to that
        assert!(getrlimit(Resource::Cpu).maximum.is_some_and(|most| most < 100 * MOST_SECONDS));
        assert!(getrlimit(Resource::Fsize).maximum.is_some_and(|most| most < MOST_ADDED + MOST_ADDED / 1024));
        allow_time_for(u64::MAX);
        assert!(getrlimit(Resource::Cpu).current.is_none_or(|most| most > MOST_SECONDS));
        eprintln!("kept by the kernel: {is_kept}");
    }
}
