use std::path::PathBuf;

use crate::ids::Digest;
use crate::{signature, store};

/// Why a file could not be written or taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is another kind of file, or broken off.
    #[error("{path} was not written by `bramble bundle export`, or is cut short: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What was expected.
        why: String,
    },
    /// What is in it cannot be read.
    #[error("its index cannot be read: it was not written by bramble")]
    Index(#[source] serde_json::Error),
    /// A later version wrote it.
    #[error("it has format {found}, and this bramble knows format {known}: update bramble")]
    Newer {
        /// The format that it has.
        found: u32,
        /// The one that is known.
        known: u32,
    },
    /// The index promises what is not in the file.
    #[error("its index names {what}, which is not in it: export it again")]
    NotThere {
        /// What is missing.
        what: String,
    },
    /// It is not signed by whom it should be.
    #[error("{path} is not taken")]
    Signature {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: signature::Error,
    },
    /// A blob is not what the index says.
    #[error("{} is damaged in the file: copy it again", digest.short())]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// A blob could not be kept.
    #[error("cannot keep {}", digest.short())]
    Keep {
        /// The blob.
        digest: Digest,
        /// Why not.
        source: store::Error,
    },
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
