use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ids::Digest;
use crate::store;
use crate::units::Bytes;

/// Why a source could not be pinned, described or obtained.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    // what was asked for
    #[error("{what} cannot be used as a source yet: {instead}")]
    NotYet { what: String, instead: &'static str },
    #[error("{text:?} is no source: {why}")]
    BadSource { text: String, why: &'static str },
    #[error("{what} holds nothing to convert: {why}; name a checkpoint, or one .gguf file")]
    NotACheckpoint { what: String, why: String },
    #[error("{what} names a file {path:?}, which could lead outside its folder: do not trust this source")]
    UnsafePath { what: String, path: String },

    // the way to the hub
    #[error("{0:?} is not the address of a hub: set HF_ENDPOINT to https://HOST, or unset it")]
    BadEndpoint(String),
    #[error("the hub's token holds characters that no token has: check HF_TOKEN or the token file")]
    BadToken,
    #[error("cannot set up HTTPS: install the system's CA certificates (package ca-certificates)")]
    Client(#[source] reqwest::Error),
    #[error("offline (HF_HUB_OFFLINE), and {what} is not in the cache: unset HF_HUB_OFFLINE to fetch it")]
    Offline { what: String },
    #[error("{endpoint} cannot be reached: check the network, or set HF_ENDPOINT to a mirror")]
    Unreachable {
        endpoint: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "{what} is said to be at {host}, which is {address}, on a network of this machine's own: nobody on the internet has to send it there; do not trust this source"
    )]
    Astray { what: String, host: String, address: IpAddr },
    #[error("the connection broke while fetching {what}: run again, it goes on from there")]
    Broken {
        what: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{what} ended after {got} of {expected}: run again, it goes on from there")]
    EndedEarly { what: String, got: Bytes, expected: Bytes },

    // what the hub says
    #[error("{what} is gated, and there is no token: accept its licence at {page}, then set HF_TOKEN")]
    NoToken { what: String, page: String },
    #[error("{what} is gated: accept its licence at {page} with the account that HF_TOKEN belongs to")]
    LicenceNotAccepted { what: String, page: String },
    #[error("{endpoint} does not know the token: make a new one in the hub's settings and set HF_TOKEN")]
    TokenRefused { endpoint: String },
    #[error("access to {what} is denied (HTTP {status}{said}): ask its owner for access at {page}")]
    Denied { what: String, status: u16, said: String, page: String },
    #[error(
        "there is no repository {repo} at {endpoint}, or it is private: check the name{}",
        if *had_token { ", and that the token may see it" } else { "; for a private one set HF_TOKEN" }
    )]
    RepoNotFound { repo: String, endpoint: String, had_token: bool },
    #[error("{repo} has no revision {revision:?}: name a branch, tag or commit that its page lists")]
    RevisionNotFound { repo: String, revision: String },
    #[error("there is no file {what}: check the name on the repository's page")]
    EntryNotFound { what: String },
    #[error(
        "the hub allows no more requests for now{}: wait and run again; with HF_TOKEN set it allows more",
        wait.map(|wait| format!(" (it says: wait {} s)", wait.as_secs())).unwrap_or_default()
    )]
    TooManyRequests { wait: Option<Duration> },
    #[error("the signed address of {what} is not accepted (HTTP {status}): run again to get a new one")]
    Expired { what: String, status: u16 },
    #[error(
        "{what} is not given out (HTTP {status}): check the address, or fetch it by hand and name it with file:PATH"
    )]
    LinkRefused { what: String, status: u16 },
    #[error("the server failed on {what} (HTTP {status}{said}): run again later")]
    Server { what: String, status: u16, said: String },
    #[error(
        "the hub's answer about {what} cannot be used: {why}; run again, or fetch it by hand and name it with file:PATH"
    )]
    BadAnswer { what: String, why: String },

    // licences
    #[error(
        "{what} is under the licence {license}, which wants a yes: read it at {page}, then add `accept_license: {license}` to the model in the manifest"
    )]
    LicenceWantsYes { what: String, license: String, page: String },
    #[error(
        "{what} is under the licence {license}, not {accepted}: read it at {page}, then write `accept_license: {license}`"
    )]
    OtherLicenceAccepted { what: String, license: String, page: String, accepted: String },

    // the bytes
    #[error("{what} arrived with SHA-256 {got}, not {expected}, and was removed: run again")]
    Mismatch { what: String, expected: Digest, got: Digest },
    #[error("{what} is offered with {got}, not {expected} as pinned: run again, or pin it anew")]
    WrongLength { what: String, expected: Bytes, got: Bytes },
    #[error("{what} has no usable header: {why}; take it from another publisher")]
    BadHeader { what: String, why: String },
    #[error("{} has {free} free, and {need} are needed for {what}: free {}, or choose another cache folder", folder.display(), *need - *free)]
    NoSpace { folder: PathBuf, what: String, need: Bytes, free: Bytes },
    #[error("offline (HF_HUB_OFFLINE), and {} has not all of it: unset HF_HUB_OFFLINE to fetch the rest", folder.display())]
    CachedInPart { folder: PathBuf, source: Box<Self> },
    #[error("cannot read {}", path.display())]
    Local { path: PathBuf, source: io::Error },
    #[error("{} is a link that leads out of its folder: copy what it leads to into its place", path.display())]
    LeadsOut { path: PathBuf },
    #[error("{} is not what was pinned: restore it, or remove its source from bramble.lock to pin it anew", path.display())]
    LocalChanged { path: PathBuf },
    #[error("{} has changed since the plan was made: plan again, or restore it", path.display())]
    FileChanged { path: PathBuf },
    #[error("cannot lay out {}", path.display())]
    LayOut { path: PathBuf, source: io::Error },
    #[error("cannot keep {what} in the cache")]
    Store {
        what: String,
        #[source]
        source: store::Error,
    },
    #[error("the work on {what} was cut off inside the program: run again")]
    Cut { what: String },
}

impl Error {
    /// Returns whether trying again, without changing anything, may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::EndedEarly { .. }
            | Self::TooManyRequests { .. }
            | Self::Expired { .. }
            | Self::Server { .. } => true,
            Self::Store { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Returns how long the hub asks to wait.
    pub(super) fn wanted_wait(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { wait } => *wait,
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
