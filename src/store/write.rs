use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::made::Made;
use super::{hash_file, hash_into};
use crate::ids::Digest;
use crate::units::Bytes;

/// Longest note that is kept beside an arriving blob. An `ETag` has some 70 bytes.
const NOTE_MAX: usize = 512;

/// A blob that is being written. Hashes what goes through it; holds a lock on the file.
///
/// Dropped before [`Self::seal`], it leaves what has arrived for the next writer, unless
/// the blob has no digest to be found by.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    expected: Option<Digest>,
    hasher: Sha256,
    written: u64,
    is_done: bool,
}

impl Writer {
    pub(super) fn resume(path: PathBuf, blobs: PathBuf, expected: Digest) -> Result<Self, Error> {
        let mut file = open_locked(&path)?;
        let mut hasher = Sha256::new();
        let written =
            hash_into(&mut hasher, &mut file).map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(Self { file, path, blobs, expected: Some(expected), hasher, written, is_done: false })
    }

    pub(super) fn create(partials: &Path, blobs: PathBuf) -> Result<Self, Error> {
        let fail = |source| Error::Write { path: partials.to_owned(), source };
        let temporary = tempfile::Builder::new().prefix("new-").tempfile_in(partials).map_err(fail)?;
        let (file, path) = temporary.keep().map_err(|kept| fail(kept.error))?;
        Ok(Self { file, path, blobs, expected: None, hasher: Sha256::new(), written: 0, is_done: false })
    }

    /// Returns how much is there, what was resumed included.
    pub fn written(&self) -> Bytes {
        Bytes(self.written)
    }

    /// Appends `data`.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        // what is hashed is what is on the disk, also after a write that failed half-way
        let result = self.file.write_all(data);
        if let Err(source) = result {
            let undone =
                self.file.set_len(self.written).and_then(|()| self.file.seek(SeekFrom::Start(self.written)));
            return Err(Error::Write { path: self.path.clone(), source: undone.err().unwrap_or(source) });
        }
        self.hasher.update(data);
        self.written += data.len() as u64;
        Ok(())
    }

    /// Throws away what has arrived and begins again.
    pub fn restart(&mut self) -> Result<(), Error> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        let note = note_path(&self.path);
        remove_file(&note).map_err(|source| Error::Remove { path: note, source })?;
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Returns what was noted beside the arriving blob: what its sender calls this version.
    pub fn note(&self) -> Option<String> {
        let mut text = String::new();
        File::open(note_path(&self.path)).ok()?.take(NOTE_MAX as u64 + 1).read_to_string(&mut text).ok()?;
        (text.len() <= NOTE_MAX && !text.is_empty()).then_some(text)
    }

    /// Notes what the sender calls this version; kept until the blob is sealed.
    pub fn set_note(&self, text: &str) -> Result<(), Error> {
        if text.len() > NOTE_MAX {
            return Ok(());
        }
        write_whole(&note_path(&self.path), text.as_bytes())
    }

    /// Gives the whole blob its name: sync, rename, sync of the folder.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it is not what was expected; then it is removed.
    pub fn seal(mut self) -> Result<Made, Error> {
        let got = Digest::new(self.hasher.clone().finalize().into());
        if let Some(expected) = self.expected
            && expected != got
        {
            let path = self.path.clone();
            self.discard()?;
            return Err(Error::Mismatch { path, expected, got });
        }
        name_it(&self.file, &self.path, &self.blobs.join(got.to_string()))?;
        self.is_done = true;
        let note = note_path(&self.path);
        remove_file(&note).map_err(|source| Error::Remove { path: note, source })?;
        Ok(Made { digest: got, bytes: Bytes(self.written) })
    }

    /// Removes what has arrived.
    pub fn discard(mut self) -> Result<(), Error> {
        self.is_done = true;
        for path in [note_path(&self.path), self.path.clone()] {
            remove_file(&path).map_err(|source| Error::Remove { path, source })?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.expected.is_none() && !self.is_done {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Opens `path` for reading and appending, with a lock that other writers respect.
fn open_locked(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::Write { path: path.to_owned(), source };
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // between opening and locking another writer may have sealed or removed this very file
        let is_same = match fs::symlink_metadata(path) {
            Ok(named) => {
                let held = file.metadata().map_err(fail)?;
                (named.dev(), named.ino()) == (held.dev(), held.ino())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(fail(source)),
        };
        if is_same {
            return Ok(file);
        }
    }
}

/// Makes `file` read-only and durable, and only then moves it from `from` to `to`.
fn name_it(file: &File, from: &Path, to: &Path) -> Result<(), Error> {
    let sealed = file
        .set_permissions(fs::Permissions::from_mode(0o444))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(from, to))
        .and_then(|()| to.parent().map_or(Ok(()), sync_folder));
    sealed.map_err(|source| Error::Seal { path: to.to_owned(), source })
}

pub(super) fn take(path: &Path, blobs: &Path) -> Result<Made, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let (digest, bytes) = hash_file(path).map_err(read)?;
    name_it(&File::open(path).map_err(read)?, path, &blobs.join(digest.to_string()))?;
    Ok(Made { digest, bytes })
}

pub(super) fn copy_in(mut writer: Writer, from: &Path) -> Result<Made, Error> {
    let read = |source| Error::Read { path: from.to_owned(), source };
    writer.restart()?;
    let mut file = File::open(from).map_err(read)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(read)? {
            0 => return writer.seal(),
            n => writer.write(&buffer[..n])?,
        }
    }
}

pub(super) fn note_path(partial: &Path) -> PathBuf {
    partial.with_added_extension("note")
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

/// Writes a small file so that after a crash the old or the new one is there, whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    sync_folder(folder).map_err(fail)
}
