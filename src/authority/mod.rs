//! The fleet's certificates: a host of this fleet is who shows a certificate that the fleet's authority has signed.
//!
//! The authority is a key on the operator's machine; each host has one of its own. A certificate names its host
//! `HOST.FLEET.internal`, and `HOST.local` for clients of the same network, and never an address. The authority's
//! own certificate lets it sign for nothing else, so that whoever trusts it trusts it with nothing more.
//!
//! Invariants: who is verified here is verified whatever the clock says, because a Pi has none when it boots; only keys that
//! were revoked are refused. Between hosts, a certificate must be of the host that was meant; no address is looked at.
//!
//! It deliberately has no authorities between, no lists that are signed and fetched (what is revoked comes with each
//! generation), and no files: who keeps what is `keys`' matter.

mod issue;
mod tls;
mod trust;

pub use issue::{Authority, Certified, RENEWAL};
pub use tls::{door, visit};
pub use trust::{Member, Refusal, Trust, Usage, key_of};

use crate::ids::{FleetName, HostName};

/// What fleets' names end with: ICANN keeps it for private networks
/// (resolution 2024.07.29.06), so that nobody owns a name in it.
const DOMAIN: &str = "internal";

/// Why certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or a certificate could not be made.
    #[error("cannot make a certificate for {what}")]
    Make {
        /// Whom it is for.
        what: String,
        /// What went wrong.
        source: rcgen::Error,
    },
    /// What should be a certificate or a key is none.
    #[error("what should be {what} cannot be read as PEM; apply again")]
    Pem {
        /// What it should be.
        what: &'static str,
        /// What is wrong in it.
        source: rustls::pki_types::pem::Error,
    },
    /// The authority's certificate cannot be trusted by anybody.
    #[error(
        "the authority's certificate is damaged: found the fleet's trust anew with `bramble apply --new-ca`"
    )]
    Anchor(#[source] webpki::Error),
    /// Certificate and key cannot be used.
    #[error("the host's certificate and its key cannot be used; apply again")]
    Unusable(#[source] rustls::Error),
    /// A host's name is no name in DNS.
    #[error("{0:?} is no name for a certificate: choose one that does not end with `-`")]
    Name(String),
}

/// Returns the name of a host in certificates: `kitchen.home.internal`.
pub fn full_name(fleet: &FleetName, host: &HostName) -> String {
    format!("{host}.{fleet}.{DOMAIN}")
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
