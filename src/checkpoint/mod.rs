//! Checkpoints as the hub has them: safetensors or torch's .bin, in one file or in shards.
//!
//! A [`Header`] needs only the first bytes of a file, and a [`torch::Scan`] those at its ends,
//! so that a model can be planned for before its weights are here. A [`Checkpoint`] is a
//! folder with the files: it is opened only if every tensor that it promises is there in full,
//! and hands out pieces, so that no tensor need be in memory as a whole. It may be the sum of
//! published differences and their base.
//!
//! Foreign bytes: no panic, no allocation beyond what is read, nothing executed and nothing
//! left out. Nothing here knows what tensors mean.

mod files;
pub(crate) mod float;
mod folder;
mod header;
mod index;
mod open;
mod published;
mod sum;
pub mod torch;

use std::io;
use std::path::PathBuf;

pub use files::Weights;
pub use header::{Header, Stored, render};
pub use index::Index;
pub use open::{Checkpoint, description};
pub use sum::add;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// Anything else, which is not converted; with the bytes of a value where it has whole bytes.
    Other(Option<u64>),
}

impl Dtype {
    /// Reads the name in a safetensors header.
    fn parse(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "F64" | "I64" | "U64" | "C64" => Self::Other(Some(8)),
            "I32" | "U32" => Self::Other(Some(4)),
            "I16" | "U16" => Self::Other(Some(2)),
            "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Self::Other(Some(1)),
            _ => Self::Other(None),
        }
    }

    /// Returns a name that [`Self::parse`] reads as the same.
    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Other(Some(8)) => "I64",
            Self::Other(Some(4)) => "I32",
            Self::Other(Some(2)) => "I16",
            Self::Other(Some(1)) => "U8",
            Self::Other(_) => "OTHER",
        }
    }

    /// Returns the bytes of a value, where it has whole bytes.
    pub const fn bytes(self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(bytes) => bytes,
        }
    }
}

/// Why a checkpoint can not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A header is not what safetensors has.
    #[error("not a safetensors header: {0}")]
    Header(String),
    /// A file is not what torch writes.
    #[error("not a torch checkpoint: {0}")]
    Torch(String),
    /// A pickle wants what tensors do not need.
    #[error("its pickle is refused: {0}; nothing of it was run")]
    Pickle(String),
    /// A file is damaged: what its header says cannot be, or does not fit the file.
    #[error("{} is not sound; fetch it again", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
    /// A file has a pickle that is not trusted.
    #[error("{} is not trusted; take safetensors, or the model of another publisher", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What its pickle wants.
        source: Box<Self>,
    },
    /// The index of shards is not understood.
    #[error("{name} is not an index of shards: {reason}; fetch it again")]
    Index {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The index names a tensor that its shard does not have.
    #[error("tensor {tensor:?} is missing from {shard}, where {index} has it; fetch the shard again")]
    Missing {
        /// The tensor.
        tensor: String,
        /// The file's name.
        shard: String,
        /// The index's name.
        index: &'static str,
    },
    /// Two files have the same tensor.
    #[error("tensor {tensor:?} of {shard} is in another file, too; take another revision of the model")]
    Twice {
        /// The tensor.
        tensor: String,
        /// One of the files' names.
        shard: String,
    },
    /// Differences and base do not go together.
    #[error(
        "tensor {tensor:?} cannot be added up: {reason}; take the base that the differences were made of"
    )]
    Sum {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// A sum is not what its publisher tells.
    #[error(
        "all parameters sum up to {found}, and the publisher of the differences tells {expected}: take the base that they were made of, or fetch both again"
    )]
    Published {
        /// The sum.
        found: f32,
        /// What it should be.
        expected: f64,
    },
    /// There are no weights.
    #[error(
        "{} has neither .safetensors files nor pytorch_model.bin, and no .index.json of such: name a folder with a checkpoint, or a .gguf", .0.display()
    )]
    NoWeights(PathBuf),
    /// A piece was asked for that is not in the tensor.
    #[error("tensor {tensor:?} has no bytes {start}..{end}")]
    OutOfBounds {
        /// The tensor.
        tensor: String,
        /// The first byte asked for.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
