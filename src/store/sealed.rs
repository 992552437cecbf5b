//! The time that a sealed blob bears, which tells one that was written to since from one that was not.
//!
//! Looking at it costs nothing, and no write leaves it as it is. What a disk loses by itself it does not show:
//! that is found by [`prove`], which then marks the blob, so that whoever looks at it later knows.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::hash_file;
use crate::ids::Digest;

/// The start of the year 2000: no clock that is right gives it, and every file system can hold it.
const SEALED: Duration = Duration::from_hours(262_968);

/// Gives a file the time of sealed blobs.
pub(super) fn mark(file: &File) -> io::Result<()> {
    file.set_modified(UNIX_EPOCH + SEALED)
}

/// Returns whether a blob may have changed since it was sealed or proven: it was written to, or found to be damaged.
pub(crate) fn is_touched(blob: &Metadata) -> bool {
    blob.modified().is_ok_and(|time| time != UNIX_EPOCH + SEALED)
}

/// Hashes the blob at `path`, which bears the mark of a sealed one afterwards, or none where it is another than
/// `digest` says. Returns the digest that it has by now.
pub(crate) fn prove(path: &Path, digest: &Digest) -> io::Result<Digest> {
    let (found, _) = hash_file(path)?;
    let is_touched = is_touched(&fs::metadata(path)?);
    // its owner may set times of what nobody may write to
    match found == *digest {
        true if is_touched => mark(&File::open(path)?)?,
        false if !is_touched => File::open(path)?.set_modified(UNIX_EPOCH)?,
        _ => {}
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_touched_when_it_was_written_to_and_when_it_was_found_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let (digest, look) = (Digest::of(b"one"), || is_touched(&fs::metadata(&path).unwrap()));
        fs::write(&path, b"one").unwrap();
        assert!(look());
        assert_eq!(prove(&path, &digest).unwrap(), digest);
        assert!(!look());
        fs::write(&path, b"two").unwrap();
        assert!(look());
        assert_eq!(prove(&path, &digest).unwrap(), Digest::of(b"two"));
        assert!(look());
        // what a disk does leaves the time as it is
        mark(&File::open(&path).unwrap()).unwrap();
        assert!(!look());
        prove(&path, &digest).unwrap();
        assert!(look());
        assert!(prove(&dir.path().join("none"), &digest).is_err());
    }
}
