use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::journal::Journal;
use super::made::Made;
use super::sealed::Mark;
use super::write;
use crate::ids::Digest;
use crate::system;
use crate::units::Bytes;

/// A blob that another process has written in proven parts, whole by its journal, and whose file came with the
/// lock on it ([`super::Arrival::share`]): nobody else has had it in between.
#[derive(Debug)]
pub struct Claimed {
    file: File,
    path: PathBuf,
    bytes: Bytes,
}

impl Claimed {
    /// Checks that all of it is here.
    ///
    /// # Errors
    /// A part is missing, or `file` is not the one at `path`.
    pub fn check(file: File, path: PathBuf, bytes: Bytes) -> Result<Self, Error> {
        let fail = |source| Error::Read { path: path.clone(), source };
        let claims = Journal::read(&Journal::path(&path), Some(bytes.0));
        let length = file.metadata().map_err(fail)?.len();
        if claims.spans.prefix() != bytes.0 || length != bytes.0 {
            return Err(fail(io::Error::other("it has not arrived whole")));
        }
        if !system::is_named(&file, &path).map_err(fail)? {
            return Err(fail(io::Error::other("another file is in its place")));
        }
        Ok(Self { file, path, bytes })
    }

    /// Gives it its name in the folder `blobs`: sync, rename, sync of the folder.
    pub fn seal(self, blobs: &Path, digest: Digest) -> Result<Made, Error> {
        write::name_it(&self.file, Mark::Parts, &self.path, &blobs.join(digest.to_string()))?;
        let journal = Journal::path(&self.path);
        write::remove_file(&journal).map_err(|source| Error::Remove { path: journal, source })?;
        Ok(Made { digest, bytes: self.bytes })
    }
}
