use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, file};
use crate::authority::{Authority, Certified, Trust};
use crate::generation::Identity;
use crate::ids::{Digest, FleetName, HostName};

/// The version of the stored form.
const FORMAT: u32 = 1;

/// A fleet's authority, and what it has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The version of the stored form: 1.
    format: u32,
    authority: Authority,
    /// By host, those that left the manifest too.
    hosts: BTreeMap<HostName, Held>,
    /// Keys that are refused, each with the host that had it.
    revoked: BTreeMap<Digest, HostName>,
    /// Hosts that somebody else may be by now: they get no certificate until they are readmitted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    barred: BTreeSet<HostName>,
}

/// What a host has, and had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    /// None once it was revoked, until the next apply.
    current: Option<Certified>,
    /// The keys of certificates that were renewed: an old card may still have them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    former: BTreeSet<Digest>,
}

impl Certificates {
    /// Returns where those of `fleet` are kept under the operator's state folder.
    pub fn path(state: &Path, fleet: &FleetName) -> PathBuf {
        state.join("fleets").join(fleet.as_str()).join("authority.json")
    }

    /// Reads them at `path`; none if the fleet never had any from here.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        file::load_as(path, FORMAT, |kept: &Self| kept.format)
    }

    /// Makes an authority that has signed nothing yet, at `now` in seconds since 1970.
    pub(super) fn new(fleet: &FleetName, now: u64) -> Result<Self, Error> {
        let authority = Authority::new(fleet, now)?;
        let (hosts, revoked) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { format: FORMAT, authority, hosts, revoked, barred: BTreeSet::new() })
    }

    /// Returns what is signed.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns whom hosts of the fleet trust.
    pub fn trust(&self) -> Result<Trust, Error> {
        Ok(Trust::new(self.authority.fleet(), self.authority.certificate(), &self.refused())?)
    }

    /// Returns the certificate of a host that needs no new one at `now`.
    pub fn current(&self, host: &HostName, now: u64) -> Option<&Certified> {
        self.held(host).filter(|certified| !certified.is_ageing(now))
    }

    /// Returns the hosts that have a certificate, with it.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostName, &Certified)> {
        self.hosts.iter().filter_map(|(host, held)| Some((host, held.current.as_ref()?)))
    }

    /// Returns the keys that are refused, each with the host that had it.
    pub fn revoked(&self) -> &BTreeMap<Digest, HostName> {
        &self.revoked
    }

    /// Returns the hosts that get no certificate, nor anything else, until they are readmitted.
    pub fn barred(&self) -> &BTreeSet<HostName> {
        &self.barred
    }

    /// Returns the certificate of a host, be it as old as it may.
    pub fn held(&self, host: &HostName) -> Option<&Certified> {
        self.hosts.get(host)?.current.as_ref()
    }

    /// Makes a certificate for a host that has none, or one that ends soon, and is not barred. Returns whether it did.
    pub(super) fn certify(&mut self, host: &HostName, now: u64) -> Result<bool, Error> {
        if self.barred.contains(host) || self.current(host, now).is_some() {
            return Ok(false);
        }
        let made = self.authority.certify(host, now)?;
        let held = self.hosts.entry(host.clone()).or_default();
        held.former.extend(held.current.replace(made).map(|old| old.fingerprint));
        Ok(true)
    }

    /// Has every key that a host ever had refused. Returns how many those are.
    pub(super) fn revoke(&mut self, host: &HostName) -> usize {
        let Some(held) = self.hosts.remove(host) else { return 0 };
        let keys: BTreeSet<Digest> =
            held.former.into_iter().chain(held.current.map(|current| current.fingerprint)).collect();
        let count = keys.len();
        self.revoked.extend(keys.into_iter().map(|key| (key, host.clone())));
        count
    }

    /// Has hosts get nothing until they are readmitted.
    pub(super) fn bar(&mut self, hosts: impl IntoIterator<Item = HostName>) {
        self.barred.extend(hosts);
    }

    /// Refuses the keys that `others` do, and bars the hosts.
    pub(super) fn bar_as(&mut self, others: &Self) {
        self.revoked.extend(others.revoked.clone());
        self.bar(others.barred.clone());
    }

    /// Has a host get a certificate again.
    pub(super) fn readmit(&mut self, host: &HostName) {
        self.barred.remove(host);
    }

    /// Returns who a host is to others, where it has a certificate.
    pub(super) fn identity(&self, host: &HostName) -> Option<Identity> {
        let held = self.held(host)?;
        Some(Identity {
            authority: self.authority.certificate().to_owned(),
            certificate: held.certificate.clone(),
            key: held.key.clone(),
            revoked: self.refused(),
        })
    }

    fn refused(&self) -> BTreeSet<Digest> {
        self.revoked.keys().copied().collect()
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        file::save(path, self)
    }
}
