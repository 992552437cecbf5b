use std::io;
use std::path::PathBuf;

use crate::quant::{Quant, TensorType};
use crate::units::Bytes;
use crate::{convert, gguf};

/// Why files were not made. None of them has its final name then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint can not be converted.
    #[error("cannot convert {}", path.display())]
    Convert {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: convert::Error,
    },
    /// The source is no GGUF that can be read.
    #[error("cannot read {}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: gguf::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is a GGUF of a kind that is not quantized here.
    #[error("{} cannot be quantized: {reason}; take another GGUF of the model", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The source is quantized already.
    #[error(
        "{} is {tensor_type} already, and quantizing twice costs quality twice: take the original weights, or allow it with --allow-requantize, in a manifest with `requantize: true`",
        path.display()
    )]
    Requantize {
        /// The file.
        path: PathBuf,
        /// What it is.
        tensor_type: TensorType,
    },
    /// A tensor of a GGUF is not sound.
    #[error("{}: tensor {name:?}: {reason}", path.display())]
    Tensor {
        /// The source.
        path: PathBuf,
        /// The tensor's name in the GGUF.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The importance matrix can not be used.
    #[error("{} is no importance matrix for these weights: {reason}; make one of this model, or leave it out", path.display())]
    Imatrix {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A quant is llama.cpp's to make, and it is not there.
    #[error("{0} is made by llama.cpp, and this program was built without it: take F32, F16, BF16 or Q8_0")]
    WithoutLlama(Quant),
    /// The order contradicts itself.
    #[error("{} is named twice: give each file its own name", .0.display())]
    SameName(PathBuf),
    /// Another pass writes the same file.
    #[error("{} is being written by another process: wait for it, or end it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// There is not enough room.
    #[error("{} needs {bytes}, and there is no room for it: free some, or choose another folder", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: Bytes,
        /// What the system says.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The header can not be written.
    #[error("cannot write the header of {}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        source: gguf::Error,
    },
    /// It was asked to stop.
    #[error("stopped before it was done; nothing was kept: run it again")]
    Stopped,
}

impl Error {
    /// Tells whether the order itself is refused: nothing was written, and trying again does not help.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Convert {
                source: convert::Error::Architecture { .. } | convert::Error::Variant { .. },
                ..
            } | Self::Unsupported { .. }
                | Self::Requantize { .. }
                | Self::Imatrix { .. }
                | Self::WithoutLlama(_)
                | Self::SameName(_)
        )
    }

    /// Tells whether another try later may do better.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Stopped)
    }
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
