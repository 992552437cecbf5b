use std::fs::{self, File};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::{Store, write};
use crate::ids::Digest;
use crate::units::Bytes;

/// A blob by its digest and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
}

/// The right to make something, while it is held.
#[derive(Debug)]
pub struct Making {
    path: PathBuf,
    /// Held until the name is gone.
    _lock: File,
}

impl Drop for Making {
    fn drop(&mut self) {
        // one that stays says nothing: it is its lock that counts
        drop(fs::remove_file(&self.path));
    }
}

/// The index of what recipes made ([`crate::source::Recipe::digest`]).
impl Store {
    /// Returns what `recipe` made, if it is still here with the size that it had. An entry
    /// that cannot be read counts as none: making it again is always right.
    pub fn made(&self, recipe: &Digest) -> Option<Made> {
        let text = fs::read(self.made_path(recipe)).ok()?;
        let made: Made = serde_json::from_slice(&text).ok()?;
        (self.size(&made.digest) == Some(made.bytes)).then_some(made)
    }

    /// Remembers what `recipe` made. The blob is sealed before, so that an entry never
    /// promises more than there is.
    ///
    /// # Errors
    /// [`Error::Missing`] when the blob is not here.
    pub fn remember(&self, recipe: &Digest, made: &Made) -> Result<(), Error> {
        if self.size(&made.digest) != Some(made.bytes) {
            return Err(Error::Missing { digest: made.digest });
        }
        let text = serde_json::json!(made).to_string();
        write::write_whole(&self.made_path(recipe), text.as_bytes())
    }

    /// Takes the right to make what `recipe` makes; none while another process has it. It is given
    /// back when what is returned is dropped.
    pub fn try_making(&self, recipe: &Digest) -> Result<Option<Making>, Error> {
        let path = self.root().join("made").join(format!("{recipe}.lock"));
        match write::open_locked(&path) {
            Ok(lock) => Ok(Some(Making { path, _lock: lock })),
            Err(Error::Busy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn made_path(&self, recipe: &Digest) -> PathBuf {
        self.root().join("made").join(recipe.to_string())
    }
}
