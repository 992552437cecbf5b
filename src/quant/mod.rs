//! Quants: their names, block formats, and which tensor gets which type.
//!
//! A *quant* is a mix that users name (`Q4_K_M`); a *tensor type* is the format of
//! one tensor (`Q4_K`). A mix uses several types.
//!
//! Blocks are made as llama.cpp makes them ([`kernel`]), some by its own functions, which end the
//! process when something is wrong: callers run in a process of their own. Nothing here knows what a
//! model is beyond names and shapes of tensors.

pub(crate) mod half;
mod k_quants;
pub mod kernel;
#[cfg(feature = "llama")]
mod llama;
pub mod mix;
mod name;
mod search;
mod tensor_type;

pub use name::{Quant, UnknownQuant};
pub use tensor_type::TensorType;
