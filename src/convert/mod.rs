//! Checkpoint to GGUF: names, shapes, orders and vocabulary as llama.cpp wants them.
//!
//! A conversion is a function of the files it reads: no clock, no path, no chance, so the
//! same checkpoint gives the same bytes, and a model is never in memory as a whole. One
//! file per architecture behind [`Arch`]; what an architecture can not do is refused with
//! words, never converted to something that runs and is wrong.
//!
//! Nothing is written here: a [`Conversion`] is read as the GGUF that it stands for, by
//! whoever writes files of it.

mod arch;
mod config;
mod open;
mod recipe;
mod tokenizer;

use std::io;
use std::path::PathBuf;

pub use arch::{Arch, check, exact_context, gguf_keys, gguf_tensors, plain};
pub use config::Config;
pub use open::Conversion;
pub use recipe::{Change, Order, Part, Recipe};
pub use tokenizer::{PromptStyle, TOKENIZER_FILES, TokenizerFiles, tokenizer_keys};

use crate::checkpoint;

/// Changes whenever the same checkpoint gives other bytes than before.
pub const VERSION: u32 = 3;

/// Name and shape of a tensor of the GGUF, the row's length first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    /// The GGUF name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, in GGUF's order.
    pub shape: Vec<u64>,
}

/// Why a checkpoint can not be converted.
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
    /// A file is not the JSON that it should be.
    #[error("{} is not JSON: fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// No converter knows the architecture.
    #[error(
        "architecture {found:?} cannot be converted; supported are {supported}{near}. Use a GGUF of the model, or another model"
    )]
    Architecture {
        /// What config.json names.
        found: String,
        /// What could be converted.
        supported: String,
        /// The nearest of them in words, empty where none is near.
        near: String,
    },
    /// The architecture is known, this variant of it is not.
    #[error("this variant of {architecture} cannot be converted: {reason}; or use a GGUF of the model")]
    Variant {
        /// The architecture as GGUF names it.
        architecture: &'static str,
        /// What is not supported.
        reason: String,
    },
    /// config.json lacks something, or says something odd.
    #[error("config.json: {0}")]
    Config(String),
    /// The tokenizer can not be carried over exactly.
    #[error("the tokenizer cannot be converted: {0}; use a GGUF of the model, or another model")]
    Tokenizer(String),
    /// A tensor is missing.
    #[error(
        "the checkpoint has no tensor {0:?}, which config.json calls for: take another revision of the model"
    )]
    MissingTensor(String),
    /// A tensor is not understood.
    #[error("tensor {name:?}: {reason}")]
    Tensor {
        /// The checkpoint's name of it.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The weights can not be read.
    #[error("cannot read the weights")]
    Checkpoint(#[from] checkpoint::Error),
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
