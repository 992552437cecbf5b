use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::write_whole;
use crate::ids::Digest;
use crate::units::Bytes;

/// Which digest files had when they were last hashed, for as long as nothing shows that they have changed since.
///
/// It only saves time: a full or read-only cache is no reason to fail.
#[derive(Debug, Clone)]
pub struct Hashed {
    folder: PathBuf,
}

/// A file, and how it looked before it was read.
#[derive(Debug)]
pub struct Looked {
    real: PathBuf,
    seen: Seen,
    entry: PathBuf,
}

/// How a file looks without being read.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Hashed {
    /// The index in `folder`, which is made when something is kept.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Looks at the file at `path`.
    ///
    /// # Errors
    /// There is none, or it may not be looked at.
    pub fn look(&self, path: &Path) -> io::Result<Looked> {
        let real = fs::canonicalize(path)?;
        let seen = Seen::of(&real)?;
        let entry = self.folder.join(Digest::of(real.as_os_str().as_encoded_bytes()).to_string());
        Ok(Looked { real, seen, entry })
    }
}

impl Looked {
    /// Returns its digest, where the file still looks as it did when that was made.
    pub fn known(&self) -> Option<Digest> {
        let text = fs::read(&self.entry).ok()?;
        let (seen, digest) = serde_json::from_slice::<(Seen, Digest)>(&text).ok()?;
        (seen == self.seen).then_some(digest)
    }

    /// Returns its size.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.seen.bytes)
    }

    /// Keeps its digest, unless the file looks otherwise by now. Returns whether it still looks the same: else the
    /// digest is of something that never was there as a whole.
    ///
    /// # Errors
    /// The file is gone.
    pub fn keep(&self, digest: &Digest) -> io::Result<bool> {
        if Seen::of(&self.real)? != self.seen {
            return Ok(false);
        }
        if let Some(folder) = self.entry.parent()
            && fs::create_dir_all(folder).is_ok()
        {
            drop(write_whole(&self.entry, serde_json::json!((&self.seen, digest)).to_string().as_bytes()));
        }
        Ok(true)
    }
}

impl Seen {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            bytes: meta.len(),
            device: meta.dev(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_known_until_the_file_looks_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let hashed = Hashed::new(dir.path().join("hashed"));
        let file = dir.path().join("file");
        fs::write(&file, b"one").unwrap();
        let digest = Digest::of(b"one");
        let looked = hashed.look(&file).unwrap();
        assert_eq!((looked.known(), looked.bytes()), (None, Bytes(3)));
        assert!(looked.keep(&digest).unwrap());
        assert_eq!(hashed.look(&file).unwrap().known(), Some(digest));
        // the same bytes in another file under its name
        fs::write(dir.path().join("other"), b"one").unwrap();
        fs::rename(dir.path().join("other"), &file).unwrap();
        let looked = hashed.look(&file).unwrap();
        assert_eq!(looked.known(), None);
        fs::write(&file, b"changed while it was read").unwrap();
        assert!(!looked.keep(&digest).unwrap());
        assert_eq!(hashed.look(&file).unwrap().known(), None);
        assert!(hashed.look(&dir.path().join("none")).is_err());
    }
}
