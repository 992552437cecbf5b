use std::io;
use std::path::PathBuf;

use crate::ids::Digest;
use crate::units::Bytes;

/// Why a blob could not be kept, found or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's folders could not be made.
    #[error("cannot make the folder {}: choose another cache folder", path.display())]
    Prepare {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Bytes could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for a blob.
    #[error("there is no room for {} of {size}: make some, or choose another cache folder", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The size of the whole blob.
        size: Bytes,
        /// Why.
        source: io::Error,
    },
    /// A whole blob could not be given its name.
    #[error("cannot seal {}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not those that the digest names.
    #[error("{} has SHA-256 {got}, not {expected}: fetch or make it again", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        got: Digest,
    },
    /// The blob is not here.
    #[error("there is no blob {digest}: fetch or make it again")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// Another process writes the same blob.
    #[error("{} is being written by another process: wait for it, or end it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Others have the store open.
    #[error("another bramble is at work with {}: wait for it to end", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
}

impl Error {
    /// Returns whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::InUse { .. })
    }
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
