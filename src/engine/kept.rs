//! Prompts that are kept over a restart of the engine, where the manifest asks for that: each slot's cache in a file, and
//! a list beside them that says what they are.
//!
//! Written once, when the engine ends in good order, the list last: what was cut off is nothing. Read once, when the
//! next one has loaded its model, and gone from then on: no prompt stays on the disk while it is in memory, and a file
//! that ended llama.cpp would do so once.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::serve::Setup;
use super::{Caches, Token};
use crate::generation::{KvType, Weights};
use crate::ids::Digest;
use crate::store;
use crate::units::Bytes;

/// Free space that is left to others on the disk.
const MARGIN: Bytes = Bytes::mib(256);

/// Fewer tokens are sooner computed than written and read.
const FEWEST: usize = 32;

/// The longest list that is read: 64 slots have a tenth of it.
const LONGEST_LIST: u64 = 64 << 10;

/// Where one engine keeps its prompts.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: PathBuf,
    stamp: Digest,
}

/// What the files are.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// Of everything that has to be the same for them to be of use.
    stamp: Digest,
    /// In the order of the slots; none where there was nothing to keep.
    slots: Vec<Option<Digest>>,
}

/// Why something was not kept or not taken back.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {what} {path}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the engine refuses: {0}")]
    Engine(String),
    #[error("{path} has {free} free: {bytes} and {MARGIN} to spare are needed")]
    Room { path: PathBuf, free: Bytes, bytes: Bytes },
    #[error("{path} is not what was written")]
    Damaged { path: PathBuf },
    #[error("{path} cannot be understood")]
    List { path: PathBuf, source: serde_json::Error },
}

/// Makes a folder for kept prompts. One that is there stays.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

impl Shelf {
    /// Returns where the engine of `setup` keeps its prompts; none where nobody asked for it.
    pub(super) fn of(setup: &Setup) -> Option<Self> {
        /// What a cache depends on. How many slots there are, and how long, is seen as they are read.
        #[derive(Serialize)]
        struct Same<'a> {
            program: &'a Digest,
            weights: &'a Weights,
            kv: KvType,
        }
        let (spec, program) = (&setup.spec, &setup.program);
        let same = Same { program, weights: &spec.weights, kv: spec.kv };
        let stamp = Digest::of(&serde_json::to_vec(&same).ok()?);
        spec.keep_prompts.then(|| Self { folder: setup.layout.kept_prompts(&spec.model), stamp })
    }

    /// Keeps `caches`, which hold the tokens of `slots`, one after the other until `is_over`. What cannot be kept is
    /// logged, and computed again by whoever asks for it.
    pub(super) fn keep(&self, caches: &dyn Caches, slots: &[Vec<Token>], is_over: &dyn Fn() -> bool) {
        if let Err(error) = self.write(caches, slots, is_over) {
            tracing::warn!(
                error = crate::causes::with_causes(&error),
                "no prompts are kept for the next start"
            );
            self.clear();
        }
    }

    /// Fills the empty `caches` of so many slots with what was kept, at most `most` tokens each. Returns the tokens of each.
    pub(super) fn take(&self, caches: &mut dyn Caches, slots: usize, most: usize) -> Vec<Vec<Token>> {
        let mut taken = vec![Vec::new(); slots];
        match self.list() {
            Ok(None) => {}
            Ok(Some(list)) if list.stamp == self.stamp => {
                for (index, (slot, digest)) in taken.iter_mut().zip(&list.slots).enumerate() {
                    let Some(digest) = digest else { continue };
                    match self.read(caches, index, digest, most) {
                        Ok(tokens) => *slot = tokens,
                        Err(error) => {
                            tracing::warn!(
                                error = crate::causes::with_causes(&error),
                                index,
                                "a kept prompt is not used"
                            );
                        }
                    }
                }
                let tokens: usize = taken.iter().map(Vec::len).sum();
                tracing::info!(tokens, "kept prompts are back");
            }
            Ok(Some(_)) => tracing::info!("kept prompts are of another model or program, and not used"),
            Err(error) => {
                tracing::warn!(error = crate::causes::with_causes(&error), "kept prompts are not used");
            }
        }
        self.clear();
        taken
    }

    fn write(
        &self,
        caches: &dyn Caches,
        slots: &[Vec<Token>],
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        self.clear();
        make(&self.folder).map_err(|source| self.failed("make", source))?;
        let mut list = List { stamp: self.stamp, slots: vec![None; slots.len()] };
        for (index, tokens) in slots.iter().enumerate().filter(|(_, tokens)| tokens.len() >= FEWEST) {
            if is_over() {
                break;
            }
            self.check_room(caches.size(index))?;
            let path = self.file(index);
            caches.write(index, tokens, &path).map_err(Error::Engine)?;
            list.slots[index] = Some(hash(&path)?);
        }
        let path = self.list_path();
        let unfinished = path.with_extension("new");
        let text = serde_json::to_vec(&list).map_err(|source| Error::List { path: path.clone(), source })?;
        let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|source| Error::File { what: "write", path, source })?;
        let kept = list.slots.iter().zip(slots).filter(|(digest, _)| digest.is_some());
        let tokens: usize = kept.map(|(_, tokens)| tokens.len()).sum();
        tracing::info!(tokens, folder = %self.folder.display(), "prompts are kept for the next start");
        Ok(())
    }

    /// Reads the list and removes it.
    fn list(&self) -> Result<Option<List>, Error> {
        use std::io::Read;
        let path = self.list_path();
        let failed = |what, source| Error::File { what, path: path.clone(), source };
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|source| failed("open", source))?,
        };
        let mut text = Vec::new();
        file.take(LONGEST_LIST).read_to_end(&mut text).map_err(|source| failed("read", source))?;
        fs::remove_file(&path).map_err(|source| failed("remove", source))?;
        serde_json::from_slice(&text).map(Some).map_err(|source| Error::List { path, source })
    }

    fn read(
        &self,
        caches: &mut dyn Caches,
        slot: usize,
        digest: &Digest,
        most: usize,
    ) -> Result<Vec<Token>, Error> {
        let path = self.file(slot);
        if hash(&path)? != *digest {
            return Err(Error::Damaged { path });
        }
        caches.read(slot, most, &path).map_err(Error::Engine)
    }

    fn check_room(&self, bytes: Bytes) -> Result<(), Error> {
        let stat = rustix::fs::statvfs(&self.folder);
        let stat = stat.map_err(|errno| self.failed("ask for the room at", errno.into()))?;
        let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
        if free < bytes + MARGIN {
            return Err(Error::Room { path: self.folder.clone(), free, bytes });
        }
        Ok(())
    }

    fn clear(&self) {
        match fs::remove_dir_all(&self.folder) {
            // who has enclosed itself empties its folder, and may not remove it
            Err(_) if fs::read_dir(&self.folder).is_ok_and(|mut left| left.next().is_none()) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.folder.display(), %error, "cannot remove kept prompts");
            }
            _ => {}
        }
    }

    fn file(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("{slot}.cache"))
    }

    fn list_path(&self) -> PathBuf {
        self.folder.join("list.json")
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::File { what, path: self.folder.clone(), source }
    }
}

fn hash(path: &Path) -> Result<Digest, Error> {
    let hashed = store::hash_file(path);
    hashed.map(|(digest, _)| digest).map_err(|source| Error::File {
        what: "read",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "kept_texts_tests.rs"]
mod texts_tests;
