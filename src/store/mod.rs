//! Blobs by digest on the operator's machine.
//!
//! ```text
//! <root>/blobs/sha256/<hex>   sealed, read-only
//! <root>/partial/<hex>        arriving, with a journal beside it of what is here; resumed
//! <root>/made/<hex>           what a recipe made, by the recipe's digest
//! <root>/users/<hex>          a lock file, and what it names
//! <root>/in-use               locked by whoever has the store open
//! ```
//!
//! Invariant: what stands under `blobs/` has been hashed whole, by this room, and was
//! synced to the disk before it got its name. A file in `partial/` proves nothing,
//! and its journal neither: all of it is hashed before it is sealed. On hosts, blobs arrive as
//! [`Arrival::of_proven_parts`], where the sender's list of chunks stands for that, and the whole is
//! hashed before its first use; where one process writes and another one may seal, as [`Claimed`]. A sealed
//! blob bears a time that says how it was proven, so that it shows when it was written to ([`is_touched`]).
//!
//! Everything here blocks on the disk; async callers go through `spawn_blocking`. The
//! room does not know what blobs mean, and never removes one by itself. What is removed is
//! removed by somebody who has the store alone: a blob that a run has fetched, and that no
//! lock file names yet, is not pulled away from under it.

mod arrival;
mod claimed;
mod error;
mod hashed;
mod inspect;
mod journal;
mod made;
mod sealed;
mod spans;
mod sweep;
mod write;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::ids::Digest;
use crate::units::Bytes;

use arrival::Proof;

pub use arrival::Arrival;
pub use claimed::Claimed;
pub use error::Error;
pub use hashed::{Hashed, Looked};
pub use inspect::{Unused, User};
pub use made::{Made, Making};
pub(crate) use sealed::{is_proven, is_touched, prove};
pub use spans::Spans;
pub use write::Writer;
pub(crate) use write::{make_folder, write_whole};

/// A folder of blobs. Cheap to clone; safe to use from several processes.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Held for as long as the store is open, by this and every clone.
    _in_use: Arc<fs::File>,
}

impl Store {
    /// Opens the store under `root`, which is made where it is missing.
    ///
    /// While somebody has it alone, this waits: pruning takes moments. Who is the first to open it
    /// removes the small files that killed runs have left half written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = root.into();
        let in_use = in_use(&root)?;
        if in_use.try_lock().is_ok() {
            sweep::sweep(&root);
        }
        // where there are no locks, none can be had: nothing else depends on this one
        drop(in_use.lock_shared());
        Self::with(root, in_use)
    }

    /// Opens the store as its only user.
    ///
    /// # Errors
    /// [`Error::InUse`] while others have it open.
    pub fn open_alone(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = root.into();
        let in_use = in_use(&root)?;
        match in_use.try_lock() {
            Ok(()) => Self::with(root, in_use),
            Err(fs::TryLockError::WouldBlock) => Err(Error::InUse { path: root }),
            Err(fs::TryLockError::Error(source)) => Err(Error::Prepare { path: root, source }),
        }
    }

    fn with(root: PathBuf, in_use: fs::File) -> Result<Self, Error> {
        let store = Self { root, _in_use: Arc::new(in_use) };
        for folder in [store.blobs(), store.partials(), store.root.join("made")] {
            fs::create_dir_all(&folder).map_err(|source| Error::Prepare { path: folder, source })?;
        }
        Ok(store)
    }

    /// Returns the folder that everything is under.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    /// Returns the size of the blob, where it is here. Callers that know the size compare
    /// it: a blob that was cut short by a damaged filesystem is found out that way.
    pub fn size(&self, digest: &Digest) -> Option<Bytes> {
        let meta = fs::symlink_metadata(self.path(digest)).ok()?;
        meta.is_file().then_some(Bytes(meta.len()))
    }

    /// Returns whether the blob is here. It was whole when it was sealed; [`Self::verify`] looks again.
    pub fn has(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// Hashes the blob again, whole, and returns its size.
    ///
    /// # Errors
    /// [`Error::Missing`], or [`Error::Mismatch`] when its bytes have changed. It is left in place.
    pub fn verify(&self, digest: &Digest) -> Result<Bytes, Error> {
        if !self.has(digest) {
            return Err(Error::Missing { digest: *digest });
        }
        let path = self.path(digest);
        let (got, bytes) = hash_file(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        if got == *digest { Ok(bytes) } else { Err(Error::Mismatch { path, expected: *digest, got }) }
    }

    /// Removes the blob and whatever of it was arriving; one that is not here is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), Error> {
        let partial = self.partial(digest);
        for path in [self.path(digest), journal::Journal::path(&partial), partial] {
            write::remove_file(&path).map_err(|source| Error::Remove { path, source })?;
        }
        write::sync_folder(&self.blobs()).map_err(|source| Error::Remove { path: self.blobs(), source })
    }

    /// Returns the index of the digests of files that are elsewhere.
    pub fn hashed(&self) -> Hashed {
        Hashed::new(self.root.join("hashed"))
    }

    /// Returns the folder with the lists of chunks of what was sent from here, by digest.
    pub fn chunks(&self) -> PathBuf {
        self.root.join("chunks")
    }

    /// Returns how much of an unsealed blob has arrived.
    pub fn arrived(&self, digest: &Digest) -> Bytes {
        arrived(&self.partial(digest))
    }

    /// Returns how much of the disk an unsealed blob has taken, which is more than what has
    /// arrived where its room could be reserved.
    pub fn reserved(&self, digest: &Digest) -> Bytes {
        taken(&self.partial(digest))
    }

    /// Takes up, or begins, a blob of `size` bytes that arrives in parts.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody else has it, [`Error::Full`] where there is no room for all of it.
    pub fn arrive(&self, digest: &Digest, size: Bytes) -> Result<Arrival, Error> {
        Arrival::open(self.partial(digest), self.blobs(), Proof::Whole(Some(*digest)), size)
    }

    /// As [`Self::arrive`], of a blob whose digest is not known yet: `key` stands for it, and
    /// finds what has arrived again.
    pub fn arrive_unknown(&self, key: &Digest, size: Bytes) -> Result<Arrival, Error> {
        Arrival::open(self.partials().join(format!("unknown-{key}")), self.blobs(), Proof::Whole(None), size)
    }

    /// Begins a blob whose digest is not known yet.
    pub fn create(&self) -> Result<Writer, Error> {
        Writer::create(&self.partials(), self.blobs())
    }

    /// Returns a path on the store's filesystem where a maker may write a file, to be taken
    /// in with [`Self::take`] afterwards. `recipe` names it: a crashed attempt is written over.
    pub fn scratch(&self, recipe: &Digest) -> PathBuf {
        self.partials().join(format!("make-{recipe}"))
    }

    /// Moves a finished file of this filesystem into the store and returns what it is.
    pub fn take(&self, path: &Path) -> Result<Made, Error> {
        write::take(path, &self.blobs())
    }

    /// Takes in a file that belongs to somebody else, if it has this digest: by a hard
    /// link, or a copy where there can be none. Returns whether it had.
    pub fn adopt(&self, path: &Path, digest: &Digest) -> Result<bool, Error> {
        let (got, bytes) = hash_file(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if got != *digest {
            return Ok(false);
        }
        if self.size(digest) == Some(bytes) {
            return Ok(true);
        }
        // a symlink is never linked itself: its target is
        let real = fs::canonicalize(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        // theirs may still be on its way to the disk
        let is_durable = fs::File::open(&real).and_then(|file| file.sync_all()).is_ok();
        if is_durable && fs::hard_link(&real, self.path(digest)).is_ok() {
            write::sync_folder(&self.blobs())
                .map_err(|source| Error::Seal { path: self.path(digest), source })?;
            return Ok(true);
        }
        Ok(write::copy_in(self.create()?, &real)?.digest == *digest)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.to_string())
    }
}

/// Returns how much of a blob has arrived in the partial file at `path`.
pub fn arrived(path: &Path) -> Bytes {
    journal::Journal::read(&journal::Journal::path(path), None).spans.total()
}

/// Returns whether a blob arrives in the partial file at `path` in any order.
pub fn has_journal(path: &Path) -> bool {
    journal::Journal::path(path).exists()
}

/// Removes what has arrived of a blob in the partial file at `path`, unless somebody is at it.
/// Returns whether nothing of it is left.
pub fn forget_partial(path: &Path) -> Result<bool, Error> {
    match write::open_locked(path) {
        Err(Error::Busy { .. }) => Ok(false),
        Err(error) => Err(error),
        Ok(_locked) => {
            for path in [path, &journal::Journal::path(path)] {
                write::remove_file(path).map_err(|source| Error::Remove { path: path.to_owned(), source })?;
            }
            Ok(true)
        }
    }
}

/// Returns how much of the disk the file at `path` has taken.
pub fn taken(path: &Path) -> Bytes {
    // in units of 512 bytes, whatever the filesystem's own are
    fs::symlink_metadata(path).map_or(Bytes::ZERO, |meta| Bytes(meta.blocks()) * 512)
}

/// Opens the file whose lock says who uses the store.
fn in_use(root: &Path) -> Result<fs::File, Error> {
    let open = || {
        fs::create_dir_all(root)?;
        fs::OpenOptions::new().create(true).append(true).open(root.join("in-use"))
    };
    open().map_err(|source| Error::Prepare { path: root.to_owned(), source })
}

/// Hashes a file from its start to its end and returns its digest and size.
pub fn hash_file(path: &Path) -> io::Result<(Digest, Bytes)> {
    hash_open(&mut fs::File::open(path)?)
}

/// Hashes what an open file still has.
fn hash_open(file: &mut fs::File) -> io::Result<(Digest, Bytes)> {
    let mut hasher = Sha256::new();
    let bytes = hash_into(&mut hasher, file)?;
    Ok((Digest::new(hasher.finalize().into()), Bytes(bytes)))
}

/// Feeds everything that `from` still has to `hasher` and returns how much it was.
fn hash_into(hasher: &mut Sha256, from: &mut impl Read) -> io::Result<u64> {
    // large enough that the system calls do not show beside the hash
    let mut buffer = vec![0u8; 1 << 20];
    let mut total = 0u64;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod arrival_tests;
#[cfg(test)]
mod tests;
