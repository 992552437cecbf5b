//! The times that sealed blobs bear, which tell one that was written to since from one that was not.
//!
//! Looking at them costs nothing, and no write leaves them as they are. What a disk loses by itself they do not show:
//! that is found by [`prove`], which then marks the blob, so that whoever looks at it later knows.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::hash_open;
use crate::ids::Digest;

/// What stands for a blob's being what it is called. The times are the first days of the year 2000: no clock that is
/// right gives them, and every file system can hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Each of its parts was proven as it came.
    Parts,
    /// All of it was hashed.
    Whole,
}

impl Mark {
    fn time(self) -> Duration {
        const YEAR_2000: Duration = Duration::from_hours(262_968);
        match self {
            Self::Parts => YEAR_2000,
            Self::Whole => YEAR_2000 + Duration::from_hours(24),
        }
    }

    fn of(blob: &Metadata) -> Option<Self> {
        let time = blob.modified().ok()?;
        [Self::Parts, Self::Whole].into_iter().find(|mark| time == UNIX_EPOCH + mark.time())
    }

    /// Gives it to a file.
    pub(super) fn put_on(self, file: &File) -> io::Result<()> {
        file.set_modified(UNIX_EPOCH + self.time())
    }
}

/// Returns whether a blob may have changed since it was sealed or proven: it was written to, or found to be damaged.
pub(crate) fn is_touched(blob: &Metadata) -> bool {
    Mark::of(blob).is_none()
}

/// Returns whether all of a blob was hashed as it is, and it was not written to since.
pub(crate) fn is_proven(blob: &Metadata) -> bool {
    Mark::of(blob) == Some(Mark::Whole)
}

/// Hashes the blob at `path`, which bears the mark of a proven one afterwards, or none where it is another than
/// `digest` says; one that is written to meanwhile keeps the time of that. Returns the digest that it has by now.
pub(crate) fn prove(path: &Path, digest: &Digest) -> io::Result<Digest> {
    // what gets its name meanwhile is another file, of which nothing is known
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let (found, _) = hash_open(&mut file)?;
    let after = file.metadata()?;
    let times = |blob: &Metadata| (blob.mtime(), blob.mtime_nsec(), blob.ctime(), blob.ctime_nsec());
    if times(&before) == times(&after) {
        // its owner may set times of what nobody may write to
        match found == *digest {
            true if !is_proven(&after) => Mark::Whole.put_on(&file)?,
            false if !is_touched(&after) => file.set_modified(UNIX_EPOCH)?,
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_blob_is_touched_when_it_was_written_to_and_when_it_was_found_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let (digest, look) = (Digest::of(b"one"), || fs::metadata(&path).unwrap());
        fs::write(&path, b"one").unwrap();
        assert!(is_touched(&look()) && !is_proven(&look()));
        Mark::Parts.put_on(&File::open(&path).unwrap()).unwrap();
        assert!(!is_touched(&look()) && !is_proven(&look()));
        assert_eq!(prove(&path, &digest).unwrap(), digest);
        assert!(!is_touched(&look()) && is_proven(&look()));
        fs::write(&path, b"two").unwrap();
        assert!(is_touched(&look()));
        assert_eq!(prove(&path, &digest).unwrap(), Digest::of(b"two"));
        assert!(is_touched(&look()));
        // what a disk does leaves the time as it is
        for mark in [Mark::Parts, Mark::Whole] {
            mark.put_on(&File::open(&path).unwrap()).unwrap();
            assert!(!is_touched(&look()));
            prove(&path, &digest).unwrap();
            assert!(is_touched(&look()));
        }
        assert!(prove(&dir.path().join("none"), &digest).is_err());
    }
}
