//! GGUF, the file that llama.cpp reads: its header, and a writer that streams.
//!
//! The reader takes headers of versions 2 and 3 from anything that reads, bounds every
//! length before it allocates, and never panics, whatever the bytes. The writer makes
//! version 3 and the same bytes from the same values.
//!
//! Neither looks into tensors' data: formats of blocks are [`crate::quant`]'s, and what
//! keys mean is for those who write and read them.

mod read;
mod value;
mod window;
mod write;

use std::io;

pub use read::{Header, TensorInfo};
pub use value::{Array, Value};
pub use window::Window;
pub use write::{NewHeader, NewTensor, Writer};

/// Our own key for tokens that take the white space on their right along, for which GGUF has
/// none: their texts, as a list in JSON. Whoever does not know it reads that white space.
pub const TAKE_BLANKS: &str = "bramble.tokens_that_take_blanks";

/// The alignment of tensors' data where the header names no other.
pub const ALIGNMENT: u64 = 32;

const MAGIC: [u8; 4] = *b"GGUF";

/// Why a GGUF can not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end within the header.
    #[error("the GGUF header ends too early, in {part}: the file is cut off, or more of it is needed")]
    Truncated {
        /// What was being read.
        part: &'static str,
    },
    /// The bytes are no GGUF that is known.
    #[error("not a GGUF that can be read: {0}")]
    Malformed(String),
    /// A length is beyond what any real model has.
    #[error("the GGUF header claims {count} {part}, more than the {limit} that are read")]
    TooLarge {
        /// What there is too much of.
        part: &'static str,
        /// How much the header claims.
        count: u64,
        /// How much is read.
        limit: u64,
    },
    /// Reading failed.
    #[error("cannot read the GGUF header")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("cannot write the GGUF: is the disk full?")]
    Write(#[source] io::Error),
    /// The writer was given other tensors than it was promised.
    #[error("the GGUF that is being written would be wrong: {0}")]
    Promise(String),
}

impl Error {
    /// Tells whether the same bytes and more of them might be read.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
