//! One file with what a site without the internet needs: programs for hosts, weights, the manifest with its lock,
//! and what each of them is, signed.
//!
//! ```text
//! index.json             what is in the file: every blob with its digest and size
//! index.json.minisig     the signature of that
//! blobs/sha256/<hex>     each blob, once
//! ```
//!
//! It is a tar file, so that anybody can look into it, and the index comes first, so that nothing is read before
//! it is known who says so. Invariant: a byte that is kept was named by an index whose signature was verified, and
//! has the digest that stands there. The room knows no manifest: texts and facts are carried as they are.

mod error;
mod index;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::Error;
pub use index::{Index, Model, Weights};
pub use read::{Opened, Received, open};
pub use write::{Blob, write};
