use std::collections::BTreeSet;
use std::time::Duration;

use rustls::DistinguishedName;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{DOMAIN, Error, full_name};
use crate::generation::Identity;
use crate::ids::{Digest, FleetName, HostName};

/// The signatures that an authority of ours makes.
const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[webpki::ring::ECDSA_P256_SHA256];

/// Returns the SHA-256 of the public key of a certificate in PEM: by that it is revoked.
pub fn key_of(certificate: &str) -> Result<Digest, Error> {
    let pem = |source| Error::Pem { what: "the host's certificate", source };
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(pem)?;
    let certificate = EndEntityCert::try_from(&certificate).map_err(Error::Anchor)?;
    Ok(Digest::of(&certificate.subject_public_key_info()))
}

/// Who belongs to a fleet.
#[derive(Debug)]
pub struct Trust {
    fleet: FleetName,
    anchor: TrustAnchor<'static>,
    authority: Digest,
    revoked: BTreeSet<Digest>,
}

/// A host of the fleet, proven by a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the fleet.
    pub host: HostName,
    key: Digest,
    authority: Digest,
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To be served at a door.
    Client,
    /// To serve there.
    Server,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The fleet's authority has not signed it, or not for this.
    #[error("it is not of this fleet")]
    Foreign(#[source] webpki::Error),
    /// Its key was revoked.
    #[error("it was revoked")]
    Revoked,
    /// It names no host of this fleet.
    #[error("it names no host of this fleet")]
    Nameless,
}

impl Trust {
    /// Trusts an authority's certificate, in PEM, but for the keys that were revoked.
    pub fn new(fleet: &FleetName, authority: &str, revoked: &BTreeSet<Digest>) -> Result<Self, Error> {
        let pem = |source| Error::Pem { what: "the authority's certificate", source };
        let certificate = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(pem)?;
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(Error::Anchor)?.to_owned();
        let authority = Digest::of(&certificate);
        Ok(Self { fleet: fleet.clone(), anchor, authority, revoked: revoked.clone() })
    }

    /// Trusts whom a host of `fleet` with this identity does.
    pub fn of(fleet: &FleetName, identity: &Identity) -> Result<Self, Error> {
        Self::new(fleet, &identity.authority, &identity.revoked)
    }

    /// Returns the name of a host's door in its certificate.
    pub fn full_name(&self, host: &HostName) -> Result<ServerName<'static>, Error> {
        let name = full_name(&self.fleet, host);
        ServerName::try_from(name.clone()).map_err(|_| Error::Name(name))
    }

    /// Returns the authority's name, as handshakes show it.
    pub(super) fn subject(&self) -> DistinguishedName {
        DistinguishedName::in_sequence(&self.anchor.subject)
    }

    /// Returns which host of the fleet a certificate is of. Nobody's clock is asked.
    pub fn member(&self, certificate: &CertificateDer<'_>, usage: Usage) -> Result<Member, Refusal> {
        let certificate = EndEntityCert::try_from(certificate).map_err(Refusal::Foreign)?;
        self.verify(&certificate, usage)?;
        let key = Digest::of(&certificate.subject_public_key_info());
        if self.revoked.contains(&key) {
            return Err(Refusal::Revoked);
        }
        let host = |name: &str| -> Option<HostName> {
            let rest = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
            rest.strip_suffix(self.fleet.as_str())?.strip_suffix('.')?.parse().ok()
        };
        let host = certificate.valid_dns_names().find_map(host).ok_or(Refusal::Nameless)?;
        Ok(Member { host, key, authority: self.authority })
    }

    /// Returns whether who was proven before, maybe under another trust, is a host of the fleet still.
    pub fn holds(&self, member: &Member) -> bool {
        member.authority == self.authority && !self.revoked.contains(&member.key)
    }

    /// Verifies a certificate as of a moment at which it is good: as of 1970 first, which fails and says when it begins.
    fn verify(&self, certificate: &EndEntityCert<'_>, usage: Usage) -> Result<(), Refusal> {
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let anchors = std::slice::from_ref(&self.anchor);
        let at =
            |time| certificate.verify_for_usage(SIGNATURES, anchors, &[], time, usage, None, None).map(drop);
        let verified = match at(UnixTime::since_unix_epoch(Duration::ZERO)) {
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => at(not_before),
            verified => verified,
        };
        verified.map_err(Refusal::Foreign)
    }
}

#[cfg(test)]
#[path = "trust_texts_tests.rs"]
mod texts_tests;
