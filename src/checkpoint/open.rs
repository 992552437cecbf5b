use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::sum::Sum;
use super::{Error, Stored};

/// The weights in a folder, opened and found whole.
#[derive(Debug)]
pub struct Checkpoint {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder(Folder),
    Sum(Box<Sum>),
}

/// In a folder of differences: the weights that they were made of.
const BASE: &str = "base";
/// In a folder of differences: the differences themselves, with configuration and tokenizer.
const DELTA: &str = "delta";

/// Returns the folder with the configuration and the tokenizer of the weights in `dir`: of
/// differences, they are those that came with the differences.
pub fn description(dir: &Path) -> PathBuf {
    if is_sum(dir) { dir.join(DELTA) } else { dir.to_owned() }
}

fn is_sum(dir: &Path) -> bool {
    dir.join(BASE).is_dir() && dir.join(DELTA).is_dir()
}

impl Checkpoint {
    /// Opens the weights in `dir` ([`super::Weights::among`] says which). A folder with `base/` and
    /// `delta/` is the sum of the two.
    ///
    /// Fails unless each file has the length that its header promises, and every tensor of
    /// the index is in its shard and no other.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        if is_sum(dir) {
            return Self::open_sum(&dir.join(BASE), &dir.join(DELTA));
        }
        Folder::open(dir).map(|folder| Self { kind: Kind::Folder(folder) })
    }

    /// Opens the weights that differences and their base are together.
    ///
    /// # Errors
    /// As [`Self::open`], and differences that were made of another base.
    pub fn open_sum(base: &Path, delta: &Path) -> Result<Self, Error> {
        let sum = Sum::open(Folder::open(base)?, Folder::open(delta)?)?;
        Ok(Self { kind: Kind::Sum(Box::new(sum)) })
    }

    /// Returns what is stored, by name.
    pub fn tensors(&self) -> BTreeMap<String, Stored> {
        match &self.kind {
            Kind::Folder(folder) => folder.tensors(),
            Kind::Sum(sum) => sum.tensors().clone(),
        }
    }

    /// Returns the file that has a tensor, of a sum its differences.
    pub fn path(&self, tensor: &str) -> Option<&Path> {
        match &self.kind {
            Kind::Folder(folder) => folder.path(tensor),
            Kind::Sum(sum) => sum.path(tensor),
        }
    }

    /// Fills `out` with the bytes of `tensor` from `start` on.
    pub fn read(&self, tensor: &str, start: u64, out: &mut [u8]) -> Result<(), Error> {
        match &self.kind {
            Kind::Folder(folder) => folder.read(tensor, start, out),
            Kind::Sum(sum) => sum.read(tensor, start, out),
        }
    }

    /// Holds a sum to the check value that is published with the differences in `ORG/REPO`;
    /// returns whether there is one. It reads everything once, piece by piece.
    pub fn check_published(&self, repo: &str) -> Result<bool, Error> {
        match &self.kind {
            Kind::Folder(_) => Ok(false),
            Kind::Sum(sum) => sum.check(repo),
        }
    }
}
