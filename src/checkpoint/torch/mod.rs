//! Torch's files (`pytorch_model.bin`): which tensors they have, and where their values are.
//!
//! Torch pickles a description of the tensors and puts their values beside it: in entries
//! of a zip archive, or, until 2020, behind the pickles of a plain stream. A pickle is a
//! program that may call anything. The one here runs on a machine that knows
//! tuples, dicts and the four names that weights are made of; any other name is an error that
//! says it, and nothing is called or left out.
//!
//! [`Scan`] works from pieces of a file, so that a file on a server can be described without
//! its weights.

mod legacy;
mod machine;
mod object;
mod pickle;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Error, Stored};
use object::{Storage, Tensor};

/// What is asked for first from either end: the pickle stands at the head and the list of
/// entries at the tail, and those of most files fit.
const FIRST_PIECE: u64 = 128 << 10;

/// The longest pickle or list of entries. Real ones have some 250 bytes for each tensor.
const LIST_LIMIT: u64 = 32 << 20;

/// How many pieces are taken. A sound file needs 2 to 6, a long legacy pickle some more.
const PIECES_LIMIT: usize = 32;

/// Finds out what a torch file has, from as few of its bytes as that takes.
#[derive(Debug)]
pub struct Scan {
    file_bytes: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

/// What a [`Scan`] has come to.
#[derive(Debug)]
pub enum Step {
    /// It wants these bytes of the file; never more than 32 MiB at once.
    Need(Range<u64>),
    /// It knows everything.
    Done(Contents),
}

/// The tensors of one torch file.
#[derive(Debug)]
pub struct Contents {
    tensors: BTreeMap<String, Tensor>,
    storages: Vec<(Storage, Place)>,
}

/// Where a storage's values are, as far as it is known without reading there.
#[derive(Debug)]
enum Place {
    /// In this entry of the archive, behind a header of its own.
    Entry(zip::Entry),
    /// From here on: the number of its elements, then the values.
    Counted(u64),
}

/// Why a scan cannot go on with the pieces that it has.
enum Stop {
    Need(Range<u64>),
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

impl Scan {
    /// Starts on a file of so many bytes.
    pub fn new(file_bytes: u64) -> Self {
        Self { file_bytes, pieces: Vec::new() }
    }

    /// Takes bytes of the file, from `start` on: what [`Step::Need`] named, in full.
    pub fn take(&mut self, start: u64, bytes: Vec<u8>) {
        self.pieces.push((start, bytes));
    }

    /// Goes on as far as the pieces reach.
    ///
    /// # Errors
    /// The file is damaged ([`Error::Torch`]), or its pickle wants what tensors do not need
    /// ([`Error::Pickle`]).
    pub fn step(&self) -> Result<Step, Error> {
        let scanned = self.get(0..self.file_bytes.min(FIRST_PIECE)).and_then(|head| {
            if head.starts_with(zip::MAGIC) {
                zip::scan(self)
            } else if head.starts_with(legacy::MAGIC) {
                legacy::scan(self)
            } else {
                Err(Error::Torch("it begins like no file of torch's".to_owned()).into())
            }
        });
        match scanned {
            Ok(contents) => Ok(Step::Done(contents)),
            Err(Stop::Fault(error)) => Err(error),
            // whoever gives short pieces is not asked for ever
            Err(Stop::Need(_)) if self.pieces.len() >= PIECES_LIMIT => {
                Err(Error::Torch(format!("its lists are not found in {PIECES_LIMIT} pieces of it")))
            }
            Err(Stop::Need(range)) => Ok(Step::Need(range)),
        }
    }

    /// Returns bytes of the file, all of them from one piece.
    fn get(&self, range: Range<u64>) -> Result<&[u8], Stop> {
        if range.start > range.end || range.end > self.file_bytes {
            return Err(Error::Torch(format!("it ends at {}, before {}", self.file_bytes, range.end)).into());
        }
        let within = |(start, bytes): &'_ (u64, Vec<u8>)| -> Option<Range<usize>> {
            let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(*start)?).ok()?;
            (to <= bytes.len()).then_some(from..to)
        };
        let found = self.pieces.iter().find_map(|piece| piece.1.get(within(piece)?));
        found.ok_or(Stop::Need(range))
    }
}

impl Contents {
    /// Returns types and shapes by name. Offsets are counted from the start of each tensor's
    /// storage, since where that is takes a look at it: see [`Self::locate`].
    pub fn tensors(&self) -> BTreeMap<String, Stored> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.stored.clone())).collect()
    }

    /// Finds where the values are in the file: `read` fills a buffer from a place in it.
    ///
    /// Offsets are counted from the start of the file.
    pub(super) fn locate(
        &self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Error>,
    ) -> Result<BTreeMap<String, Stored>, Error> {
        let mut starts = Vec::with_capacity(self.storages.len());
        for (storage, place) in &self.storages {
            starts.push(match place {
                Place::Entry(entry) => entry.data_start(&mut read)?,
                Place::Counted(at) => {
                    let mut count = [0; 8];
                    read(*at, &mut count)?;
                    let (found, expected) = (u64::from_le_bytes(count), storage.elements);
                    if found != expected {
                        let key: String = storage.key.chars().take(60).collect();
                        let why =
                            format!("storage {key:?} has {found} elements, and {expected} are expected");
                        return Err(Error::Torch(why));
                    }
                    at + 8
                }
            });
        }
        let found = self.tensors.iter().filter_map(|(name, tensor)| {
            let mut stored = tensor.stored.clone();
            // within the file, as zip and legacy have checked
            stored.offset += starts.get(tensor.storage)?;
            Some((name.clone(), stored))
        });
        Ok(found.collect())
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
