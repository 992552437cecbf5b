//! The one door of a host: takes requests in OpenAI's form, and has them answered by the
//! first upstream of the route that can.
//!
//! Invariants: nothing but `/healthz` and the page, which says nothing of the fleet, answers without a key, the
//! session that a key was exchanged for, or the certificate of a host of the fleet; what a client sent as credentials never leaves this process; a model's name selects a route and nothing
//! else; a client gets a whole answer, an error, or a stream that says that it broke,
//! never half an answer that looks whole.
//!
//! Upstreams are asked for streams even where the client wants the answer whole: so one
//! that hangs is known by its silence, and what breaks before the client has heard anything
//! is begun again elsewhere. What breaks after that is gone on with elsewhere, from what the
//! client has: our own engines tell how far their answers are and begin behind what others
//! wrote; a server that is not ours is only given plain text to go on with, and only where
//! the route says so.
//!
//! It deliberately keeps nothing on disk, polls nobody while idle (a breaker's probe is
//! the next request; only a machine that is being woken is looked for, for a bounded time), follows no redirect, and knows no manifest.

mod auth;
mod breaker;
mod door;
mod flow;
mod front;
mod gate;
mod gather;
mod guests;
mod health;
mod heir;
mod hold;
mod journey;
mod limits;
mod magic;
mod metrics;
mod policy;
mod proxy;
mod recent;
mod relay;
mod reply;
mod request;
mod rouse;
mod serve;
mod source;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod told;
mod upstream;
mod wake;

use std::io;
use std::path::PathBuf;

pub use heir::Entrance;
pub use serve::serve;

/// Why the router cannot start, or cannot take a new definition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no generation to serve.
    #[error("cannot find the generation at {path}: apply a manifest to this host first")]
    Current {
        /// The link, or what it points to.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The generation's folder is not named by a number.
    #[error("{path} is not a generation: its name is not a number; apply again")]
    NotAGeneration {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the generation cannot be read.
    #[error("cannot read {path}: check that it belongs to the user of this service")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file of the generation is not what it should be.
    #[error("cannot understand {path}: it was made by another version; apply again")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: serde_json::Error,
    },
    /// The definition contradicts itself or asks for what is not there.
    #[error("the definition does not hold together: {what}; apply again")]
    Definition {
        /// What is wrong.
        what: String,
    },
    /// The host's certificate, or its fleet's, cannot be used.
    #[error(transparent)]
    Certificates(#[from] crate::authority::Error),
    /// The port cannot be listened on.
    #[error("cannot listen on port {port}: is another server there?")]
    Listen {
        /// The port.
        port: u16,
        /// What went wrong.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals {
        /// What went wrong.
        source: io::Error,
    },
}

impl Error {
    /// Returns whether the same start may succeed later without anything changed here.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

#[cfg(test)]
mod texts_tests;
