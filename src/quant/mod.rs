//! Quants: their names, block formats, and which tensor gets which type.
//!
//! A *quant* is a mix that users name (`Q4_K_M`); a *tensor type* is the format of
//! one tensor (`Q4_K`). A mix uses several types.

mod name;

pub use name::Quant;
