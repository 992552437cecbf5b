use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{Digest, FleetName, Generation};
use crate::lease;
use crate::store;

/// Why something could not be done on the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another verb is at work.
    #[error("this host is locked by {holder}: wait until it is done, then run again")]
    Busy {
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The operator's lease is over, or cannot be looked at.
    #[error(transparent)]
    Lease(lease::Error),
    /// The host belongs to another fleet.
    #[error(
        "this host belongs to the fleet {found}, not {wanted}: take it off there first, by `bramble remove` with that fleet's manifest"
    )]
    OtherFleet {
        /// Whose it is.
        found: FleetName,
        /// Who asks.
        wanted: FleetName,
    },
    /// The folder has no mark of ours, and things in it that are not ours.
    #[error("{} is not ours ({found} is in it): choose another `dir`", root.display())]
    NotOurs {
        /// The folder.
        root: PathBuf,
        /// The first thing that is not ours.
        found: String,
    },
    /// Weights are not there.
    #[error("the blob {} is not on this host: push it, then install again", digest.short())]
    MissingBlob {
        /// The blob.
        digest: Digest,
    },
    /// Weights are not of the size they should have.
    #[error("the blob {} has {found} bytes instead of {wanted}: push it again", digest.short())]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// What is there.
        found: u64,
        /// What should be.
        wanted: u64,
    },
    /// Weights are not what they were when they arrived.
    #[error(
        "the blob {} has the digest {} by now, so its disk or memory is not to be trusted: apply again to send what is damaged of it",
        digest.short(), found.short()
    )]
    DamagedBlob {
        /// The blob.
        digest: Digest,
        /// What it has become.
        found: Digest,
    },
    /// Unfinished uploads could not be removed.
    #[error(transparent)]
    Store(store::Error),
    /// A definition names weights whose digest is not known yet.
    #[error("the weights of {model} have no digest: convert them before installing")]
    NoDigest {
        /// The model.
        model: String,
    },
    /// The bundle is not there, or holds no program.
    #[error("the program {} is not on this host: push the bundle, then install again", digest.short())]
    MissingProgram {
        /// The bundle.
        digest: Digest,
    },
    /// The request is of a form that this program does not know.
    #[error("the {what} has form {found}, this program knows {known}: use the same version of both")]
    Format {
        /// What has it.
        what: &'static str,
        /// The form there.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The generation is in use and differs from what is asked for.
    #[error("generation {0} is in use with other contents: install a higher number")]
    InUse(Generation),
    /// Somebody else changed the host after the plan was made.
    #[error(
        "{} is in force here, and {} was when the plan was made: somebody has changed this host since; look at a new `plan`, and apply that",
        named(*found),
        named(*planned)
    )]
    Moved {
        /// What was in force then.
        planned: Option<Generation>,
        /// What is now.
        found: Option<Generation>,
    },
    /// The generation is not laid out.
    #[error("generation {0} is not on this host: install it first")]
    NoGeneration(Generation),
    /// There is nothing to roll back to.
    #[error(
        "there is no earlier generation on this host to go back to: change the manifest and apply instead"
    )]
    NothingEarlier,
    /// The generation is not waiting to be confirmed.
    #[error(
        "generation {0} is not waiting to be confirmed: it was taken back, or never activated; apply again"
    )]
    NotPending(Generation),
    /// A generation waits to be confirmed: the guard may take it back at any moment.
    #[error("generation {0} waits to be confirmed: wait until it is, or was taken back, then run again")]
    StillPending(Generation),
    /// Nothing is in force.
    #[error("no generation is in force on this host: apply first")]
    NothingInForce,
    /// No engine serves the model here.
    #[error("no engine on this host serves {model}: `bramble status` shows what each host serves")]
    NoModel {
        /// The model.
        model: String,
    },
    /// A host changed from systemd to none, to that of a login, or back.
    #[error("generation {0} is supervised differently from the one in force: remove this host, then apply")]
    SupervisionChanged(Generation),
    /// Services would end with the login, and it may not change that.
    #[error(
        "the services of {login} would end when it logs out ({said}): let an administrator run `sudo loginctl enable-linger {login}` on this host"
    )]
    Lingering {
        /// The login.
        login: String,
        /// What systemd said.
        said: String,
    },
    /// systemd does not accept the units.
    #[error("systemd does not accept the units: {said}; its journal there says more")]
    Units {
        /// What it said.
        said: String,
    },
    /// A new generation does not work.
    #[error("{0}")]
    Unhealthy(String),
    /// A program of the host could not be started.
    #[error("cannot run {program} on this host")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program of the host failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// What it said, bounded.
        said: String,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Some JSON is not what it should be.
    #[error("{what} is not understood")]
    Json {
        /// What was read.
        what: String,
        /// Why it failed.
        source: serde_json::Error,
    },
    /// The work was broken off on purpose: how tests pull the plug.
    #[error("broken off")]
    BrokenOff,
}

impl Error {
    /// Wraps what went wrong while `doing` something to `path`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Returns whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Returns the exit status that `brambled` ends with: 4 when somebody else holds the
    /// lock, or has changed the host since, 3 when the request was refused before anything changed, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Busy { .. } | Self::Lease(lease::Error::Over { .. }) | Self::Moved { .. } => 4,
            Self::OtherFleet { .. }
            | Self::NotOurs { .. }
            | Self::MissingBlob { .. }
            | Self::BlobSize { .. }
            | Self::NoDigest { .. }
            | Self::MissingProgram { .. }
            | Self::Format { .. }
            | Self::InUse(_)
            | Self::NoGeneration(_)
            | Self::NothingEarlier
            | Self::StillPending(_)
            | Self::NothingInForce
            | Self::NoModel { .. }
            | Self::SupervisionChanged(_)
            | Self::Lingering { .. }
            | Self::Units { .. } => 3,
            _ => 1,
        }
    }
}

fn named(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "nothing".to_owned(), |number| format!("generation {number}"))
}

/// Returns the end of `text`, at most `limit` bytes, without control characters but line ends.
pub(super) fn tame(text: &str, limit: usize) -> String {
    let clean: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let start = (clean.len().saturating_sub(limit)..=clean.len()).find(|&at| clean.is_char_boundary(at));
    clean[start.unwrap_or(0)..].trim().to_owned()
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
