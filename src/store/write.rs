use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::hash_file;
use super::journal::Journal;
use super::made::Made;
use super::sealed::Mark;
use crate::ids::Digest;
use crate::system::{self, is_named};
use crate::units::Bytes;

/// A blob that is being written from its first byte to its last, and gets its digest at the
/// end. Dropped before [`Self::seal`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    hasher: Sha256,
    written: u64,
    is_sealed: bool,
}

impl Writer {
    pub(super) fn create(partials: &Path, blobs: PathBuf) -> Result<Self, Error> {
        let fail = |source| Error::Write { path: partials.to_owned(), source };
        let temporary = tempfile::Builder::new().prefix("new-").tempfile_in(partials).map_err(fail)?;
        let (file, path) = temporary.keep().map_err(|kept| fail(kept.error))?;
        // says that somebody is at it; where there are no locks nothing is lost
        drop(file.try_lock());
        Ok(Self { file, path, blobs, hasher: Sha256::new(), written: 0, is_sealed: false })
    }

    /// Appends `data`.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file.write_all(data).map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.hasher.update(data);
        self.written += data.len() as u64;
        Ok(())
    }

    /// Gives the whole blob its name: sync, rename, sync of the folder.
    pub fn seal(mut self) -> Result<Made, Error> {
        let digest = Digest::new(self.hasher.clone().finalize().into());
        name_it(&self.file, Mark::Whole, &self.path, &self.blobs.join(digest.to_string()))?;
        self.is_sealed = true;
        Ok(Made { digest, bytes: Bytes(self.written) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_sealed {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Opens `path` for reading and appending, with a lock that other writers respect.
pub(super) fn open_locked(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::Write { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    // nobody else may open it: who can read a file can lock it
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(system::NOFOLLOW);
    loop {
        match options.open(path) {
            Ok(file) => {
                lock(&file, path)?;
                // between opening and locking another writer may have sealed or removed this very file
                if is_named(&file, path).map_err(fail)? {
                    return Ok(file);
                }
            }
            // read-only, so that somebody is about to seal it, or was when it was killed
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match File::open(path) {
                Ok(file) => {
                    lock(&file, path)?;
                    if is_named(&file, path).map_err(fail)? {
                        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(fail)?;
                    }
                }
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return Err(fail(error)),
            },
            Err(error) => return Err(fail(error)),
        }
    }
}

/// Locks `file`; an error where another writer has it.
fn lock(file: &File, path: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::Write { path: path.to_owned(), source }),
    }
}

/// Makes `file` read-only and durable, with a mark of what is known of it, and only then moves it from `from` to `to`.
pub(super) fn name_it(file: &File, mark: Mark, from: &Path, to: &Path) -> Result<(), Error> {
    let is_on_disk = |synced: io::Result<()>| synced.inspect_err(|_| Journal::void(from));
    let sealed = file
        .set_permissions(fs::Permissions::from_mode(0o444))
        .and_then(|()| mark.put_on(file))
        .and_then(|()| is_on_disk(file.sync_all()))
        .and_then(|()| fs::rename(from, to))
        .and_then(|()| to.parent().map_or(Ok(()), sync_folder));
    sealed.map_err(|source| Error::Seal { path: to.to_owned(), source })
}

pub(super) fn take(path: &Path, blobs: &Path) -> Result<Made, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let (digest, bytes) = hash_file(path).map_err(read)?;
    name_it(&File::open(path).map_err(read)?, Mark::Whole, path, &blobs.join(digest.to_string()))?;
    Ok(Made { digest, bytes })
}

pub(super) fn copy_in(mut writer: Writer, from: &Path) -> Result<Made, Error> {
    let read = |source| Error::Read { path: from.to_owned(), source };
    let mut file = File::open(from).map_err(read)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(read)? {
            0 => return writer.seal(),
            n => writer.write(&buffer[..n])?,
        }
    }
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the folder at `path` and those above it that are missing, so that a crash leaves none of them out. What
/// is synced in a folder is lost with the folder's own name.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // or made by somebody else meanwhile, who may not have synced it yet
            _ => folder.parent().map_or(Ok(()), sync_folder)?,
        }
    }
    Ok(())
}

/// Writes a small file so that after a crash the old or the new one is there, whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    sync_folder(folder).map_err(fail)
}
