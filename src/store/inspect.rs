//! What is in the store, what of it is damaged, and what of it nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::{Made, Store, write};
use crate::ids::Digest;
use crate::units::Bytes;

/// A lock file that blobs of the store are needed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The lock file.
    pub path: PathBuf,
    /// What it named when it was written last.
    pub digests: BTreeSet<Digest>,
}

/// What nobody needs.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// Whole blobs.
    pub blobs: Vec<Made>,
    /// What is left of blobs that never became whole, by file name, with the room that it takes.
    pub leftovers: BTreeMap<String, Bytes>,
}

impl Unused {
    /// Returns how much would be free without it.
    pub fn bytes(&self) -> Bytes {
        let blobs: Bytes = self.blobs.iter().map(|blob| blob.bytes).sum();
        blobs + self.leftovers.values().copied().sum()
    }

    /// Returns whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.leftovers.is_empty()
    }
}

impl Store {
    /// Returns every blob, by digest. What stands among them under another name is none.
    pub fn list(&self) -> Result<Vec<Made>, Error> {
        let mut found = Vec::new();
        for entry in entries(&self.blobs())? {
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(|name| name.parse().ok())
                && let Some(bytes) = self.size(&digest)
            {
                found.push(Made { digest, bytes });
            }
        }
        found.sort_by_key(|made| made.digest);
        Ok(found)
    }

    /// Returns the names that sources give to blobs: `model.safetensors`.
    pub fn names(&self) -> BTreeMap<Digest, BTreeSet<String>> {
        let mut names: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let root = self.root().join("sources");
        let mut folders = vec![root.clone()];
        // they only help people: what cannot be read has no name
        while let Some(folder) = folders.pop() {
            for entry in entries(&folder).unwrap_or_default() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                } else if let Ok(target) = fs::read_link(entry.path())
                    && let Some(digest) = target.file_name().and_then(|name| name.to_str()?.parse().ok())
                    && let Ok(below) = entry.path().strip_prefix(&root)
                {
                    let path: PathBuf = below.components().skip(1).collect();
                    names.entry(digest).or_default().insert(path.display().to_string());
                }
            }
        }
        names
    }

    /// Hashes blobs again, several at a time. `done` is told of each how it is.
    pub fn verify_all(&self, blobs: &[Made], done: &(dyn Fn(&Made, &Result<Bytes, Error>) + Sync)) {
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(blobs.len());
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        done(blob, &self.verify(&blob.digest));
                    }
                });
            }
        });
    }

    /// Remembers what a lock file names, so that pruning keeps it.
    pub fn remember_user(&self, user: &User) -> Result<(), Error> {
        let path = self.user_path(&user.path);
        let text = serde_json::json!(user).to_string();
        let folder = self.root().join("users");
        fs::create_dir_all(&folder).map_err(|source| Error::Prepare { path: folder, source })?;
        write::write_whole(&path, text.as_bytes())
    }

    /// Forgets a lock file.
    pub fn forget_user(&self, lock: &Path) -> Result<(), Error> {
        let path = self.user_path(lock);
        write::remove_file(&path).map_err(|source| Error::Remove { path, source })
    }

    /// Returns the lock files that were remembered.
    ///
    /// # Errors
    /// One that cannot be read is an error: what it needs would count as unused.
    pub fn users(&self) -> Result<Vec<User>, Error> {
        let mut users = Vec::new();
        for entry in entries(&self.root().join("users"))? {
            let path = entry.path();
            // a write that was cut short left its unfinished file
            if entry.file_name().to_str().is_none_or(|name| name.starts_with("new-")) {
                continue;
            }
            let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
            users.push(read.map_err(|source| Error::Read { path, source })?);
        }
        users.sort_by(|a: &User, b: &User| a.path.cmp(&b.path));
        Ok(users)
    }

    /// Finds what is not among `needed`. While others have the store open, a leftover may be what
    /// they are writing: only who is alone ([`Self::open_alone`]) knows that it is none.
    pub fn unused(&self, needed: &BTreeSet<Digest>) -> Result<Unused, Error> {
        let blobs = self.list()?.into_iter().filter(|blob| !needed.contains(&blob.digest)).collect();
        let mut leftovers = BTreeMap::new();
        for entry in entries(&self.partials())? {
            if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) {
                leftovers.insert(name, Bytes(meta.blocks()) * 512);
            }
        }
        Ok(Unused { blobs, leftovers })
    }

    /// Removes what was found unused.
    pub fn prune(&self, unused: &Unused) -> Result<(), Error> {
        for name in unused.leftovers.keys() {
            let path = self.partials().join(name);
            write::remove_file(&path).map_err(|source| Error::Remove { path, source })?;
        }
        for blob in &unused.blobs {
            let path = self.chunks().join(blob.digest.to_string());
            write::remove_file(&path).map_err(|source| Error::Remove { path, source })?;
            self.remove(&blob.digest)?;
        }
        Ok(())
    }

    fn user_path(&self, lock: &Path) -> PathBuf {
        let name = Digest::of(lock.as_os_str().as_encoded_bytes());
        self.root().join("users").join(name.to_string())
    }
}

/// Returns what is in a folder; one that is not there is empty.
fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let fail = |source| Error::Read { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<_>>().map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(fail(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    fn keep(store: &Store, text: &str) -> Made {
        let mut writer = store.create().unwrap();
        writer.write(text.as_bytes()).unwrap();
        writer.seal().unwrap()
    }

    #[test]
    fn only_what_nobody_needs_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (needed, other) = (keep(&store, "needed"), keep(&store, "other"));
        fs::write(store.scratch(&Digest::of(b"recipe")), "half").unwrap();
        fs::write(store.blobs().join("README"), "not ours").unwrap();
        fs::create_dir(store.chunks()).unwrap();
        let lists = [&needed, &other].map(|blob| store.chunks().join(blob.digest.to_string()));
        for list in &lists {
            fs::write(list, "chunks").unwrap();
        }
        assert_eq!(store.list().unwrap().len(), 2);
        let unused = store.unused(&BTreeSet::from([needed.digest])).unwrap();
        assert_eq!((unused.blobs.as_slice(), unused.leftovers.len()), ([other].as_slice(), 1));
        assert!(unused.bytes() >= other.bytes && !unused.is_empty());
        store.prune(&unused).unwrap();
        assert_eq!(store.list().unwrap(), [needed]);
        assert!(store.unused(&BTreeSet::from([needed.digest])).unwrap().is_empty());
        assert!(store.blobs().join("README").exists());
        assert_eq!(lists.map(|list| list.exists()), [true, false]);
    }

    #[test]
    fn a_damaged_blob_is_found_among_many() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made: Vec<Made> = (0..20).map(|i| keep(&store, &format!("blob {i}"))).collect();
        let damaged = store.path(&made[7].digest);
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&damaged, "blob x").unwrap();
        let told = Mutex::new(Vec::new());
        store.verify_all(&store.list().unwrap(), &|blob, result| {
            told.lock().unwrap_or_else(PoisonError::into_inner).push((blob.digest, result.is_ok()));
        });
        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 20);
        let bad: Vec<_> =
            told.into_iter().filter(|(_, is_good)| !is_good).map(|(digest, _)| digest).collect();
        assert_eq!(bad, [made[7].digest]);
    }

    #[test]
    fn whoever_prunes_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open_alone(dir.path()), Err(Error::InUse { .. })));
        let clone = store.clone();
        drop(store);
        assert!(Store::open_alone(dir.path()).is_err(), "a clone is a user too");
        drop(clone);
        drop(Store::open_alone(dir.path()).unwrap());
        assert!(Store::open(dir.path()).is_ok());
    }

    #[test]
    fn users_are_remembered_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.users().unwrap(), []);
        let user = |name: &str| User { path: name.into(), digests: BTreeSet::from([Digest::of(b"x")]) };
        store.remember_user(&user("/a/bramble.lock")).unwrap();
        store.remember_user(&user("/b/bramble.lock")).unwrap();
        store.remember_user(&user("/a/bramble.lock")).unwrap();
        assert_eq!(store.users().unwrap(), [user("/a/bramble.lock"), user("/b/bramble.lock")]);
        store.forget_user(Path::new("/a/bramble.lock")).unwrap();
        assert_eq!(store.users().unwrap(), [user("/b/bramble.lock")]);
        fs::write(store.root().join("users").join("broken"), "{").unwrap();
        assert!(store.users().is_err(), "what it needs would count as unused");
    }
}
