use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Error, Made, Order, Output};
use crate::system;
use crate::units::Bytes;

/// A file that is being made, under another name than it will have, with a lock that other passes respect. Where it
/// has no other name by the time it is dropped, it is emptied, and removed by who may.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    begun_as: PathBuf,
    path: PathBuf,
}

impl Partial {
    /// Opens the file that is to be at `path`, or takes over what a pass that was killed has left of it.
    ///
    /// # Errors
    /// [`Error::Busy`] while another pass makes the same file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let begun_as = partial_path(path);
        let file = open_locked(&begun_as)?;
        Ok(Self { file, begun_as, path: path.to_owned() })
    }

    /// Begins a file of `bytes`, for which the room is taken at once where the filesystem can.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub(super) fn begin(&self, bytes: u64, header: &[u8]) -> Result<(), Error> {
        let failed = |source| self.failed(source, bytes);
        self.file.set_len(0).map_err(failed)?;
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                self.file.set_len(bytes).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.file.write_all_at(header, 0).map_err(failed)
    }

    /// Writes `bytes` at `offset`. Safe to call from several threads.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.failed(source, 0))
    }

    /// Hands to the disk what was written so far, so that the end of the pass has less to wait for.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.failed(source, 0))
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
        if system::is_named(&self.file, &self.begun_as).is_ok_and(|is_left| is_left) {
            // nothing more can be done about one that cannot be removed: it takes no room, and the next pass takes it over
            let _ = self.file.set_len(0);
            let _ = fs::remove_file(&self.begun_as);
        }
    }
}

/// Gives all files of an order, which are whole and on the disk, their names, one after the other, while whoever made them
/// still holds their locks.
pub(super) fn give_names(order: &Order) -> Result<Vec<Made>, Error> {
    let name = |output: &Output| {
        let path = &output.path;
        let failed = |source| Error::Write { path: path.clone(), source };
        let bytes = fs::symlink_metadata(partial_path(path)).map_err(failed)?.len();
        fs::rename(partial_path(path), path).map_err(failed)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        synced.map_err(failed)?;
        Ok(Made { quant: output.quant, path: path.clone(), bytes: Bytes(bytes) })
    };
    order.outputs.iter().map(name).collect()
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
