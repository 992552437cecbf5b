//! Quants: their names, block formats, and which tensor gets which type.
//!
//! A *quant* is a mix that users name (`Q4_K_M`); a *tensor type* is the format of
//! one tensor (`Q4_K`). A mix uses several types.
//!
//! Quantizing itself is llama.cpp's work. It runs in a process of its own ([`child`]),
//! since llama.cpp ends the process when something is wrong, and so that it can be
//! stopped. Nothing here knows what a model is beyond names and shapes of tensors.

pub mod child;
pub(crate) mod half;
pub mod kernel;
#[cfg(feature = "llama")]
pub mod llama;
pub mod mix;
mod name;
mod tensor_type;

pub use name::{Quant, UnknownQuant};
pub use tensor_type::TensorType;
