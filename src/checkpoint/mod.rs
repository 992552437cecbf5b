//! Checkpoints as the hub has them: safetensors, in one file or in shards.
//!
//! A [`Header`] needs only the first bytes of a file, so that a model can be planned for
//! before its weights are here. A [`Checkpoint`] is a folder with the files: it is opened
//! only if every tensor that it promises is there in full, and hands out pieces, so that
//! no tensor need be in memory as a whole.
//!
//! Foreign bytes: no panic, and no allocation beyond what is read. Nothing here knows what
//! tensors mean, and nothing unpickles: torch's .bin files are refused.

mod header;
mod open;

use std::io;
use std::path::PathBuf;

pub use header::{Header, Index, Stored};
pub use open::Checkpoint;

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
    /// A file's header is not what safetensors has, or does not fit the file.
    #[error("{} is no sound safetensors file: {reason}; fetch it again", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The index of shards is not understood.
    #[error("model.safetensors.index.json is not an index of shards: {0}")]
    Index(String),
    /// The index names a tensor that its shard does not have.
    #[error(
        "tensor {tensor:?} is missing from {shard}, where model.safetensors.index.json has it; fetch the shard again"
    )]
    Missing {
        /// The tensor.
        tensor: String,
        /// The file's name.
        shard: String,
    },
    /// There are only torch's files.
    #[error("{} has torch's .bin files, which are not read yet; use a revision with safetensors", .0.display())]
    Torch(PathBuf),
    /// There are no weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json", .0.display())]
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
