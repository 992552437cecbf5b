//! What Linux does for us and other systems do otherwise or not at all. Hosts run Linux; an operator's machine may be a Mac.
//!
//! On another system each of these gives what its callers can do without: the same by other means, or nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// Whether hosts' programs run here, too.
pub const IS_LINUX: bool = cfg!(target_os = "linux");

/// As a flag of `open(2)`: a link in the place of the file is refused, not followed.
pub const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Returns whether `path` is the name of this very file: while one waits for a lock, the name may be taken away or given to another.
///
/// # Errors
/// Its folder cannot be looked into.
pub fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(named) => {
            let held = file.metadata()?;
            Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether what links at `path` lead to is neither in `folder` nor in a folder of blobs, as caches of models have them
/// beside their folders of links. What leads nowhere does not lead out.
pub fn leads_out(folder: &Path, path: &Path) -> bool {
    let (Ok(folder), Ok(target)) = (fs::canonicalize(folder), fs::canonicalize(path)) else { return false };
    let in_blobs = || target.parent().is_some_and(|parent| parent.iter().any(|part| part == "blobs"));
    !target.starts_with(folder) && !in_blobs()
}

/// Returns once all that was written to the file system of `file` is on its disk.
///
/// # Errors
/// The disk cannot be written to.
pub fn sync_file_system(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(file)?;
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        file.sync_all()?;
    }
    Ok(())
}

/// Makes a pipe with a name, that its owner alone may open.
///
/// # Errors
/// There is something at `path`, or its folder cannot be written to.
pub fn make_fifo(path: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?;
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        #[expect(clippy::disallowed_methods, reason = "no library that we have makes one there")]
        let status = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(path).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("mkfifo failed")) }
    }
}

/// Moves at most `length` bytes of `file`, from `at` on, into a pipe, and `at` with them, without a copy of them in this program.
/// Returns how many, 0 at the file's end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] where that cannot be done, with that file or on this system; and those of reading and writing.
pub fn splice(file: &File, at: &mut u64, pipe: &File, length: usize) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::pipe::SpliceFlags;
        Ok(rustix::pipe::splice(file.as_fd(), Some(at), pipe.as_fd(), None, length, SpliceFlags::MORE)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, at, pipe, length);
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Has a pipe hold `bytes`, where the system allows it.
pub fn enlarge_pipe(pipe: impl AsFd, bytes: usize) {
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = (pipe, bytes);
}

/// Has the kernel forget what it keeps of `file` in memory.
///
/// # Errors
/// It does not, or this system cannot be asked.
pub fn drop_cached(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Sets room aside for the first `bytes` of `file`, whose length stays.
///
/// # Errors
/// [`rustix::io::Errno::OPNOTSUPP`] where that cannot be done, with that file system or on this system; and where there is no room.
pub fn allocate(file: &File, bytes: u64) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, bytes);
        Err(rustix::io::Errno::OPNOTSUPP)
    }
}

/// Ends a TCP connection whose other side has taken nothing for `time`, where the system can.
///
/// # Errors
/// Those of the socket.
pub fn end_where_nothing_is_taken(socket: impl AsFd, time: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Ok(rustix::net::sockopt::set_tcp_user_timeout(socket, milliseconds)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (socket, time);
        Ok(())
    }
}

/// Gives up, for good, that a program which this process starts has more rights than it.
///
/// # Errors
/// The kernel is older than that (3.5).
pub fn give_up_new_privileges() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Gives this thread the name that people see in lists of processes, where they do.
pub fn name_thread(name: &std::ffi::CStr) {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_name(name);
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// The clock that goes on since this machine was booted, also while it sleeps. Nobody sets it.
#[cfg(target_os = "linux")]
pub const SINCE_BOOT: rustix::time::ClockId = rustix::time::ClockId::Boottime;
/// The clock that goes on since this machine was booted, also while it sleeps (clock_gettime(3) of macOS). Nobody sets it.
#[cfg(not(target_os = "linux"))]
pub const SINCE_BOOT: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_pipe_with_a_name_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        make_fifo(&path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_fifo());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(make_fifo(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_part_of_a_file_goes_into_a_pipe_from_where_it_is_asked() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let (mut reader, pipe) = (reader, File::from(std::os::fd::OwnedFd::from(writer)));
        let mut at = 4;
        assert_eq!(splice(&file, &mut at, &pipe, 3).unwrap(), 3);
        assert_eq!(at, 7);
        at = 10;
        assert_eq!(splice(&file, &mut at, &pipe, 3).unwrap(), 0, "its end");
        drop(pipe);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "456");
    }

    #[test]
    fn room_is_set_aside_and_the_length_stays() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        match allocate(&file, 1 << 20) {
            // the file system of the test cannot
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            set => {
                set.unwrap();
                let meta = file.metadata().unwrap();
                assert_eq!((meta.len(), meta.blocks() >= 2048), (0, true));
            }
        }
    }
}
