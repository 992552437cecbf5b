//! A receiver that runs as root becomes a user that nobody else is before other hosts are spoken to.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{geteuid, getuid};

/// The user and group that a receiver goes on as. Distributions and systemd give out none of 65520 to 65533
/// (systemd's "Users, Groups, UIDs and GIDs"). It is not 65534, `nobody`: other daemons run as that, and
/// whoever had taken this one over could signal and trace them.
#[cfg(any(target_os = "linux", test))]
const OWN: u32 = 65_529;

/// How long a thread that has been waited for may stay in sight: the kernel counts it a moment longer.
const LEAVING: Duration = Duration::from_secs(5);

/// What root may do.
#[derive(Debug)]
pub(super) struct Rights {
    /// Threads that there are before any of ours: one, and where the processor is emulated, those of the emulator.
    threads: String,
}

impl Rights {
    /// Returns them, where this process has them. It has not started a thread yet.
    pub(super) fn held() -> Option<Self> {
        let is_root = geteuid().is_root() || getuid().is_root();
        // what cannot be read is no number that there could be later
        is_root
            .then(|| Self { threads: status().map(|status| field(&status, "Threads:")).unwrap_or_default() })
    }

    /// Gives up all that root may do, for good. The threads that are started afterwards may no more.
    ///
    /// # Errors
    /// It is not certain that nothing is left: then this process is not to go on.
    pub(super) fn give_up(self) -> io::Result<()> {
        // each thread gives up for itself alone
        let end = Instant::now() + LEAVING;
        while field(&status()?, "Threads:") != self.threads {
            if Instant::now() >= end {
                return Err(io::Error::other("another thread runs and would keep them"));
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        give_up()
    }
}

/// Gives up what this thread may do.
#[cfg(target_os = "linux")]
fn give_up() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
    use rustix::thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    };
    let (user, group) = (Uid::from_raw(OWN), Gid::from_raw(OWN));
    // the user last: only root may do the others
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    // the next receiver is the same user, and neither looks into the other
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(io::Error::other("they could be had back"));
    }
    match kept(&status()?) {
        None => Ok(()),
        Some(line) => Err(io::Error::other(format!("`{line}` is left"))),
    }
}

/// Hosts run Linux: elsewhere, what root may do is kept by refusing to go on.
#[cfg(not(target_os = "linux"))]
fn give_up() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn status() -> io::Result<String> {
    fs::read_to_string("/proc/thread-self/status")
}

/// Returns a field of what the kernel says of a thread, with single spaces.
fn field(status: &str, name: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns what a thread is or may that it should not, by what the kernel says of it.
#[cfg(any(target_os = "linux", test))]
fn kept(status: &str) -> Option<String> {
    let own = [OWN.to_string().as_str(); 4].join(" ");
    let none = "0".repeat(16);
    let wanted = [
        ("Uid:", own.as_str()),
        ("Gid:", &own),
        ("Groups:", ""),
        ("CapInh:", &none),
        ("CapPrm:", &none),
        ("CapEff:", &none),
        ("CapAmb:", &none),
        ("NoNewPrivs:", "1"),
    ];
    wanted.iter().find_map(|(name, wanted)| {
        let found = field(status, name);
        // a list of groups that is not there is no empty one
        let is_there = status.lines().any(|line| line.starts_with(name));
        (!is_there || found != *wanted).then(|| format!("{name} {found}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN_UP: &str = "Name:\tbrambled\nUid:\t65529\t65529\t65529\t65529\nGid:\t65529\t65529\t65529\t65529\n\
        Groups:\t \nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn what_is_left_of_rights_is_named() {
        assert_eq!(kept(GIVEN_UP), None);
        for (from, to, named) in [
            ("Uid:\t65529\t65529\t65529", "Uid:\t65529\t65529\t0", "Uid: 65529 65529 0 65529"),
            ("Gid:\t65529", "Gid:\t0", "Gid: 0 65529 65529 65529"),
            ("Groups:\t ", "Groups:\t0 27 ", "Groups: 0 27"),
            ("Groups:\t \n", "", "Groups: "),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000000400", "CapEff: 0000000000000400"),
            ("CapAmb:\t0000000000000000\n", "", "CapAmb: "),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs: 0"),
        ] {
            assert_eq!(kept(&GIVEN_UP.replacen(from, to, 1)).as_deref(), Some(named));
        }
    }
}
