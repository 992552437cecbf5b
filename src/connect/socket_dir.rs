use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

/// A Unix socket's path has 104 bytes on some systems, with the closing NUL, and `ssh`
/// binds a name that is 17 longer before it renames it.
pub(super) const LONGEST_SOCKET: usize = 104 - 1 - 17;

/// How the names of these folders begin.
const PREFIX: &str = "bram-";

/// In each folder: locked by who uses it.
const LOCK: &str = "lock";

/// How often another folder is taken, where somebody sweeps at the same moment.
const TRIES: usize = 8;

/// A folder with a short name for a control socket, of this user alone. It is locked while it
/// is used, so that what a killed run leaves is known to be nobody's.
#[derive(Debug)]
pub(super) struct SocketDir {
    dir: TempDir,
    /// Held until the folder is gone.
    _lock: File,
}

impl SocketDir {
    /// Makes one in `wanted`, or in `/tmp` where that is not there or its name is too long or no plain word.
    pub(super) fn new(wanted: Option<&Path>) -> io::Result<Self> {
        static SWEPT: Once = Once::new();
        let is_short = |dir: &&Path| dir.as_os_str().len() + "/bram-123456/s".len() <= LONGEST_SOCKET;
        // ssh writes what is in it into the command lines of jump hosts, and quotes nothing
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
        let is_word = |dir: &&Path| dir.to_str().is_some_and(|text| text.chars().all(is_plain));
        let parent =
            wanted.filter(is_short).filter(is_word).filter(|dir| dir.is_dir()).unwrap_or(Path::new("/tmp"));
        // once a run: a fleet has a folder for each host
        SWEPT.call_once(|| sweep(parent));
        Self::in_folder(parent)
    }

    fn in_folder(parent: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).rand_bytes(6).permissions(Permissions::from_mode(0o700));
        for _ in 0..TRIES {
            let dir = builder.tempdir_in(parent)?;
            let path = dir.path().join(LOCK);
            let lock = OpenOptions::new().write(true).create_new(true).open(&path)?;
            // before it was locked, somebody else may have taken it for nobody's
            let is_taken = matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock));
            if !is_taken && path.exists() {
                return Ok(Self { dir, _lock: lock });
            }
        }
        Err(io::Error::other("every folder that was made is gone again"))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Forgets what was made in it so far.
    pub(super) fn forget(&self) -> io::Result<()> {
        File::open(self.path())?.set_modified(UNIX_EPOCH)
    }

    /// Returns whether something was made in it since [`Self::forget`], also if that is gone again.
    pub(super) fn is_touched(&self) -> bool {
        fs::metadata(self.path()).and_then(|meta| meta.modified()).ok() != Some(UNIX_EPOCH)
    }
}

/// Removes folders of this user that nobody uses. What cannot be removed stays.
fn sweep(parent: &Path) {
    for folder in ours(parent).unwrap_or_default() {
        // one without a lock is just being made
        let Ok(lock) = OpenOptions::new().write(true).open(folder.join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn ours(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let me = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // what stands behind a link is never looked at
        if is_named && entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == me) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_used_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let used = SocketDir::in_folder(parent.path()).unwrap();
        let killed = SocketDir::in_folder(parent.path()).unwrap();
        fs::write(killed.path().join("said"), "hello").unwrap();
        let left = killed.dir.path().to_owned();
        // a killed run's lock goes, and its folder stays
        let SocketDir { dir, _lock: lock } = killed;
        let _ = dir.keep();
        // a child of another test may have just been forked, and hold it, too
        lock.unlock().unwrap();
        let other = parent.path().join("bram-other");
        fs::create_dir(&other).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), parent.path().join("bram-link")).unwrap();
        sweep(parent.path());
        assert!(used.path().is_dir() && !left.exists());
        assert!(other.is_dir() && elsewhere.path().join(LOCK).exists(), "neither is known to be ours");
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_made_in_it_and_removed_is_known() {
        let parent = tempfile::tempdir().unwrap();
        let dir = SocketDir::in_folder(parent.path()).unwrap();
        assert!(dir.is_touched());
        dir.forget().unwrap();
        assert!(!dir.is_touched());
        fs::write(dir.path().join("s"), "").unwrap();
        fs::remove_file(dir.path().join("s")).unwrap();
        assert!(dir.is_touched());
    }

    #[test]
    fn folders_are_made_while_others_sweep() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200).for_each(|_| sweep(parent.path())));
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let dir = SocketDir::in_folder(parent.path()).unwrap();
                        fs::write(dir.path().join("s"), "").unwrap();
                    }
                });
            }
        });
        assert_eq!(ours(parent.path()).unwrap(), [""; 0].map(PathBuf::from));
    }
}
