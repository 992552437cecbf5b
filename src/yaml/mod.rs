//! What people write: YAML as a tree with marks, and its faults with their places.
//!
//! A reader goes on after a fault, so that one run finds them all; a value is read
//! only when it is whole. Text that is hostile costs a bounded amount of work: its
//! size, depth and number of kept problems have limits, and aliases are refused, since
//! ten lines of them can stand for a million.
//!
//! This room knows YAML and nothing of fleets. It does not write YAML.

mod node;
mod problem;
mod read;

pub(crate) use node::parse;
pub use node::{Key, MAX_BYTES, MAX_DEPTH, Node, Span, Value};
pub use problem::{Kind, MAX_KEPT, Place, Problem, Problems};
pub(crate) use read::{
    Entry, Faults, Maybe, Read, Record, Spanned, Table, Whole, expected, expected_unquoted, nearest, quoted,
    record, text, word,
};

/// What the code of `record!` and `word!` calls.
pub(crate) mod record_parts {
    pub(crate) use super::read::{Fields, Keys, bare, field, read_word, require};
}
