use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    date_time_ymd,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{DOMAIN, Error, full_name};
use crate::ids::{Digest, FleetName, HostName};

const DAY: u64 = 24 * 60 * 60;

/// How long before it is made a certificate begins: clocks of clients may be behind.
const EARLIER: u64 = DAY;

/// How long a host's certificate is good for clients that go by dates: ten years, as the contract says.
const HOST_LASTS: u64 = 3652 * DAY;

/// A certificate with less time than this, in seconds, is made anew by the next apply, so that ten years end for no client.
pub const RENEWAL: u64 = 365 * DAY;

/// How long the authority's certificate is good for those who go by dates: longer than anybody's fleet.
const AUTHORITY_LASTS: u64 = 36_525 * DAY;

/// Names of hosts in a network where they announce themselves (mDNS).
const LINK_LOCAL: &str = "local";

/// The key that signs for a fleet, with its certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    fleet: FleetName,
    /// What tells it from an authority of the same fleet that came before it, as its certificate says.
    name: String,
    certificate: String,
    key: Zeroizing<String>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, {})", self.fleet, self.name)
    }
}

/// A host's certificate with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// The certificate, in PEM.
    pub certificate: String,
    /// The key to it, in PEM.
    pub key: Zeroizing<String>,
    /// The SHA-256 of the public key, to revoke it by.
    pub fingerprint: Digest,
    /// When it ends for those who go by dates, in seconds since 1970.
    pub ends: u64,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certified({})", self.fingerprint.short())
    }
}

impl Certified {
    /// Returns whether it is time to make another, at `now`, in seconds since 1970.
    pub fn is_ageing(&self, now: u64) -> bool {
        now.saturating_add(RENEWAL) > self.ends
    }
}

impl Authority {
    /// Makes the authority of a fleet at `now`, in seconds since 1970.
    pub fn new(fleet: &FleetName, now: u64) -> Result<Self, Error> {
        let failed = |source| Error::Make { what: format!("the fleet {fleet}"), source };
        let key = new_key().map_err(failed)?;
        let name = format!("Bramble authority {}", &fingerprint(&key).to_string()[..8]);
        let mut params = named(fleet, &name);
        hold(&mut params, (now.saturating_sub(EARLIER), now.saturating_add(AUTHORITY_LASTS)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let names = [format!("{fleet}.{DOMAIN}"), LINK_LOCAL.to_owned()];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: names.into_iter().map(GeneralSubtree::DnsName).collect(),
            // without these, every address would be allowed: a kind that is not named is not constrained (RFC 5280, 4.2.1.10)
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
            ],
        });
        let certificate = params.self_signed(&*key).map_err(failed)?.pem();
        let key = Zeroizing::new(key.serialize_pem());
        Ok(Self { fleet: fleet.clone(), name, certificate, key })
    }

    /// Returns the fleet that it signs for.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Returns its certificate, in PEM: what others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a key and a certificate for `host` at `now`, in seconds since 1970.
    pub fn certify(&self, host: &HostName, now: u64) -> Result<Certified, Error> {
        let names = vec![full_name(&self.fleet, host), format!("{host}.{LINK_LOCAL}")];
        self.sign(host, names, (now.saturating_sub(EARLIER), now.saturating_add(HOST_LASTS)))
    }

    /// Signs for names as they come, good from and to these seconds since 1970.
    pub(crate) fn sign(
        &self,
        host: &HostName,
        names: Vec<String>,
        time: (u64, u64),
    ) -> Result<Certified, Error> {
        let failed = |source| Error::Make { what: format!("the host {host}"), source };
        let key = new_key().map_err(failed)?;
        let mut params = named(&self.fleet, host.as_str());
        params.subject_alt_names = CertificateParams::new(names).map_err(failed)?.subject_alt_names;
        hold(&mut params, time);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let own = Zeroizing::new(KeyPair::from_pem(&self.key).map_err(failed)?);
        let own_params = named(&self.fleet, &self.name);
        let signed = params.signed_by(&*key, &Issuer::from_params(&own_params, &*own)).map_err(failed)?;
        Ok(Certified {
            certificate: signed.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            fingerprint: fingerprint(&key),
            ends: time.1,
        })
    }
}

/// P-256: what every client knows, where Ed25519 is not (Apple's and browsers' TLS).
fn new_key() -> Result<Zeroizing<KeyPair>, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Zeroizing::new)
}

fn fingerprint(key: &KeyPair) -> Digest {
    use rcgen::PublicKeyData as _;
    Digest::of(&key.subject_public_key_info())
}

fn named(fleet: &FleetName, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, fleet.as_str());
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Has a certificate be good from and to these seconds since 1970.
fn hold(params: &mut CertificateParams, (begins, ends): (u64, u64)) {
    let beginning = date_time_ymd(1970, 1, 1);
    params.not_before = beginning + Duration::from_secs(begins);
    params.not_after = beginning + Duration::from_secs(ends);
}
