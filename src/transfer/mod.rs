//! Moves bytes to hosts by digest: blobs, and the bundle that the host's program comes in.
//!
//! A blob goes to hosts in chunks ([`ChunkList`]). The sender ([`push()`]) talks with `brambled receive`
//! on each ([`receive()`]) in frames (`frame`). What the host has of the chunks, from an interrupted push
//! or in other blobs, is not sent; for the rest it asks the host before it (`course`, `peer`) or the
//! sender (`board`). Each chunk is hashed when it arrives, and the whole is sealed by fsync, rename and
//! fsync of the folder. The bundle goes with `sh` alone, since there is no program yet. Nothing here
//! knows that blobs are models, and nothing decides which host gets what.

mod board;
mod bundle;
mod chunks;
mod course;
mod frame;
mod gather;
mod limits;
mod packing;
mod peer;
mod push;
mod receive;
mod shelf;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use bundle::push_bundle;
pub use chunks::{CHUNK, Chunk, ChunkList};
pub use course::Link;
pub use frame::{LARGEST_TRIED, hear_anything};
pub use limits::Limits;
pub use push::{Cargo, Pushed, Target, Way, push};
pub use receive::{KeeperArgs, Order, ReceiveArgs, receive, run_keeper, run_receive};

use crate::connect;
use crate::ids::Digest;
use crate::units::Bytes;

/// What the two ends of a push say to each other, by version.
pub const PROTOCOL: u32 = 7;

/// How a push ended, as the host says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Answer {
    /// The blob is there, whole and read-only.
    Sealed {
        /// Always true; for people who read it.
        sealed: bool,
        /// Its size.
        bytes: Bytes,
        /// How much of it this sender brought; nothing when another was quicker.
        received: Bytes,
        /// How much of it other hosts brought.
        #[serde(default)]
        from_hosts: Bytes,
    },
    /// It is not.
    Refused {
        /// Why.
        reason: Reason,
        /// The sentence, with the figures and the next move.
        message: String,
        /// What the unfinished upload holds now: a later push goes on from there.
        partial: Bytes,
    },
}

/// Why a host did not take a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Another push of the same blob is going on.
    Busy,
    /// The unfinished upload is not what the sender thinks.
    Offset,
    /// The two ends speak different versions.
    Protocol,
    /// The disk has no room, or no inodes. What had arrived is kept.
    NoRoom,
    /// Bytes have another digest. They were not kept.
    WrongDigest,
    /// There are more or fewer bytes than announced. Too few: what had arrived is kept.
    WrongSize,
    /// They are what was announced, and no use.
    Unusable,
    /// The disk failed.
    Disk,
    /// Somebody else has taken the host over: the lease of the sender is over.
    Over,
}

/// Why something could not be brought to a host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host could not be spoken to.
    #[error("cannot push {what} to {host}")]
    Connect {
        /// What was pushed.
        what: String,
        /// The host.
        host: String,
        /// Why.
        source: connect::Error,
    },
    /// The host did not take it.
    #[error("{host} does not take {what}: {message}")]
    Refused {
        /// What was pushed.
        what: String,
        /// The host.
        host: String,
        /// Why, for programs.
        reason: Reason,
        /// Why, for people.
        message: String,
    },
    /// The host's answer makes no sense.
    #[error("{host} gave no answer that makes sense to the push of {what}: {said}; apply again")]
    Answer {
        /// What was pushed.
        what: String,
        /// The host.
        host: String,
        /// The answer.
        said: String,
    },
    /// The file on this machine is not what it should be.
    #[error("{} has {found}, not the {expected} of blob {}: fetch or convert it again", path.display(), digest.short())]
    Local {
        /// The file.
        path: PathBuf,
        /// The blob.
        digest: Digest,
        /// Its size.
        found: Bytes,
        /// The size it should have.
        expected: Bytes,
    },
    /// The file on this machine cannot be read, or the list of its chunks not be kept.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Returns whether somebody else has taken the host over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Refused { reason: Reason::Over, .. })
    }
}

impl Error {
    /// Returns whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.is_transient(),
            // a wrong digest on arrival is a broken link or memory; the partial is gone
            Self::Refused { reason, .. } => {
                matches!(reason, Reason::Busy | Reason::Offset | Reason::WrongDigest | Reason::WrongSize)
            }
            Self::Answer { .. } | Self::Local { .. } | Self::Read { .. } => false,
        }
    }
}

#[cfg(test)]
mod texts_tests;
