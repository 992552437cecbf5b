//! What the operator keeps of a fleet's trust: its keys, its authority and the certificates of its hosts. Made at
//! the first apply, kept in files of mode 0600, never in a manifest, lock, plan or log.
//!
//! Client keys are shown once and kept here as hashes only. What must be told to hosts (their certificates with
//! their keys, or the peer key where doors speak plain HTTP) or used by the operator (his own key, the authority's) is kept as it is.
//!
//! Nothing here changes hosts: what changes here reaches them with the next apply, and a plan sees by a digest that
//! it has not yet ([`Safe::expected`]).

mod certificates;
mod clients;
mod file;
mod safe;
mod sealed;
mod signers;

use std::path::PathBuf;

pub use certificates::Certificates;
pub use clients::{ClientKey, FleetKeys, NewKey};
pub use safe::Safe;
pub use signers::Signers;

use crate::ids::{FleetName, HostName};

/// Why the keys could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the fleet's keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file is damaged or from a newer version.
    #[error(
        "{path} does not hold a fleet's keys; move it away and make new ones with `bramble apply --new-ca`"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The file was written by a newer version.
    #[error("{path} has the format {found}, and this version reads {known}: use the version that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format in it.
        found: u32,
        /// The format that is known.
        known: u32,
    },
    /// The key that signs cannot be used.
    #[error("cannot sign with the key in {path}")]
    Sign {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: crate::signature::Error,
    },
    /// The file could not be written.
    #[error("cannot keep the fleet's keys in {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There are no keys to change yet.
    #[error(
        "the fleet {fleet} was never applied from here: `bramble apply` makes its keys, and `bramble keys ca import` brings those of another machine"
    )]
    NoKeys {
        /// The fleet.
        fleet: FleetName,
    },
    /// A key cannot be called that.
    #[error("a key cannot be called {name:?}: use a-z, 0-9 and '-', and neither `operator` nor `peer`")]
    KeyName {
        /// The name.
        name: String,
    },
    /// A key is called that already.
    #[error("there is a key {name} already: `bramble keys rotate {name}` makes another in its place")]
    KeyTaken {
        /// The name.
        name: String,
    },
    /// No key is called that.
    #[error("there is no key {name:?}; there are: {}", .known.join(", "))]
    KeyUnknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The key has two already.
    #[error(
        "the key {name} has the one before beside it still: end that with `bramble keys remove {name} --old`"
    )]
    KeyRotating {
        /// The name.
        name: String,
    },
    /// The key has none before it.
    #[error("the key {name} has none before it: to end it altogether, run `bramble keys remove {name}`")]
    KeyNotRotating {
        /// The name.
        name: String,
    },
    /// A host has no certificate.
    #[error("no certificate was made for a host {host} here; there are: {}", .known.join(", "))]
    NoCertificate {
        /// The host.
        host: HostName,
        /// Those that have one.
        known: Vec<String>,
    },
    /// Somebody has changed them since they were read.
    #[error("the keys or certificates of the fleet {fleet} have changed meanwhile: run this again")]
    Changed {
        /// The fleet.
        fleet: FleetName,
    },
    /// A host that is to be readmitted was not barred.
    #[error("{host} is not barred: `bramble apply` gives it a certificate, if the manifest names it")]
    NotBarred {
        /// The host.
        host: HostName,
    },
    /// A passphrase is too easy to guess.
    #[error("the passphrase is too short: use at least {least} characters, which keep those out who guess")]
    ShortPassphrase {
        /// The fewest characters.
        least: usize,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open it: try again, or export it again")]
    Passphrase,
    /// What should be sealed is damaged, or something else.
    #[error(
        "it is damaged, or not what `bramble keys ca export` or age seals with a passphrase: export it again"
    )]
    Sealed,
    /// What was sealed is no fleet's keys.
    #[error("what is sealed in it are no fleet's keys of this version: use the version that sealed it")]
    Unsealed(#[source] serde_json::Error),
    /// It belongs to another fleet.
    #[error("it belongs to the fleet {found}, and the manifest is of {fleet}: name the other with --file")]
    OtherFleet {
        /// The fleet that is sealed in it.
        found: FleetName,
        /// The fleet of the manifest.
        fleet: FleetName,
    },
    /// There are others already.
    #[error(
        "this machine has other keys of the fleet {fleet} already: `--replace` has those that come take their place"
    )]
    OtherKeys {
        /// The fleet.
        fleet: FleetName,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a key: {0}; run again")]
    Random(getrandom::Error),
    /// A certificate could not be made or read.
    #[error(transparent)]
    Certificates(#[from] crate::authority::Error),
}

#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
