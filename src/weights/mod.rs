//! From a checkpoint, or a GGUF, to every quant asked for, in one pass.
//!
//! Each piece of the source is read once; it is encoded once for each tensor type that any
//! of the quants needs, and written to its place in each file. So there is no file in
//! between, and memory does not grow with the model: a few MiB for each thread, and the
//! vocabulary.
//!
//! Invariant: a file gets its name once it is whole and on the disk. What was begun and
//! not ended, for whatever reason, is removed; a process that is killed leaves
//! `NAME.partial`, which the next pass to the same name takes over.
//!
//! llama.cpp ends the process where it finds something wrong, so a pass runs in a process
//! of its own: [`child`] is the side that asks, [`serve`] the side that works, and may do little else (`confine`).

pub mod child;
mod confine;
mod error;
mod gguf_file;
mod imatrix;
mod layout;
mod message;
mod order;
mod output;
mod pass;
mod serve;
mod source;

pub use error::Error;
pub use imatrix::check_imatrix;
pub use order::{Made, Order, Output};
pub use output::begun;
pub use pass::{Control, run};
pub use serve::serve;

#[cfg(test)]
mod tests;
