use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Error;
use crate::system;
use crate::units::Bytes;

/// A file that is being made, under another name than it will have. Dropped before
/// [`Self::finish`], it is removed.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    begun_as: PathBuf,
    path: PathBuf,
    is_done: bool,
}

impl Partial {
    /// Begins a file of `bytes`, for which the room is taken at once where the filesystem can.
    ///
    /// # Errors
    /// [`Error::Busy`] while another pass makes the same file, [`Error::NoRoom`].
    pub(super) fn begin(path: &Path, bytes: u64, header: &[u8]) -> Result<Self, Error> {
        let begun_as = partial_path(path);
        let file = open_locked(&begun_as)?;
        let begun = Self { file, begun_as, path: path.to_owned(), is_done: false };
        let failed = |source| begun.failed(source, bytes);
        begun.file.set_len(0).map_err(failed)?;
        match rustix::fs::fallocate(&begun.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                begun.file.set_len(bytes).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        begun.file.write_all_at(header, 0).map_err(failed)?;
        Ok(begun)
    }

    /// Writes `bytes` at `offset`. Safe to call from several threads.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.failed(source, 0))
    }

    /// Hands to the disk what was written so far, so that the end of the pass has less to wait for.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.failed(source, 0))
    }

    /// Gives the file its name. [`Self::sync`] comes first.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let named = fs::rename(&self.begun_as, &self.path);
        named.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.is_done = true;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn failed(&self, source: io::Error, bytes: u64) -> Error {
        let is_full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if is_full {
            let bytes = bytes.max(self.file.metadata().map_or(0, |meta| meta.len()));
            return Error::NoRoom { path: self.path.clone(), bytes: Bytes(bytes), source };
        }
        Error::Write { path: self.begun_as.clone(), source }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_done {
            // nothing more can be done about one that cannot be removed; the next pass takes it over
            let _ = fs::remove_file(&self.begun_as);
        }
    }
}

/// Returns the name that the file at `path` has until it is whole.
pub(super) fn partial_path(path: &Path) -> PathBuf {
    path.with_added_extension("partial")
}

/// Returns the room that a file at `path` takes already, whole or as a pass that was killed left it.
pub fn begun(path: &Path) -> Bytes {
    // in units of 512 bytes, whatever the filesystem's own are
    let room = |path: &Path| fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512);
    Bytes(room(path) + room(&partial_path(path)))
}

/// Opens a file that may be there from a pass that was killed, with a lock that other passes respect.
fn open_locked(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    loop {
        let mut options = OpenOptions::new();
        // in a folder that others write to, a link that was laid there is not followed
        options.write(true).create(true).truncate(false).custom_flags(system::NOFOLLOW);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // between opening and locking, another pass may have named or removed this very file
        if system::is_named(&file, path).map_err(failed)? {
            return Ok(file);
        }
    }
}

/// Removes what a pass that was killed left of `path`, unless another pass has taken it over.
pub(super) fn remove_abandoned(path: &Path) {
    let partial = partial_path(path);
    if partial.exists()
        && let Ok(file) = open_locked(&partial)
    {
        // the lock is held until the name is gone
        let _ = fs::remove_file(&partial);
        drop(file);
    }
}
