use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Certificates, Error, FleetKeys, NewKey};
use crate::generation::{DoorTls, Secrets};
use crate::ids::{Digest, FleetName, HostName};

/// Everything that the operator keeps of one fleet.
#[derive(Debug)]
pub struct Safe {
    state: PathBuf,
    fleet: FleetName,
    keys: Option<FleetKeys>,
    certificates: Option<Certificates>,
    /// Whether the authority shall be another from now on, and everything that it has signed with it.
    is_founded_anew: bool,
}

impl Safe {
    /// Reads what is kept of `fleet` under the operator's state folder. Nothing is made.
    pub fn open(state: &Path, fleet: &FleetName) -> Result<Self, Error> {
        Ok(Self {
            keys: FleetKeys::load(&FleetKeys::path(state, fleet))?,
            certificates: Certificates::load(&Certificates::path(state, fleet))?,
            state: state.to_owned(),
            fleet: fleet.clone(),
            is_founded_anew: false,
        })
    }

    /// Returns the fleet's keys; none if it was never applied from here.
    pub fn keys(&self) -> Option<&FleetKeys> {
        self.keys.as_ref()
    }

    /// Returns the fleet's certificates; none if no host has any from here.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Changes the fleet's keys, and keeps them so.
    pub fn change_keys<T>(
        &mut self,
        change: impl FnOnce(&mut FleetKeys) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(keys) = &mut self.keys else { return Err(Error::NoKeys { fleet: self.fleet.clone() }) };
        let changed = change(keys)?;
        keys.save(&FleetKeys::path(&self.state, &self.fleet))?;
        Ok(changed)
    }

    /// Has every key that a host ever had refused by the others. Returns how many those are.
    pub fn revoke(&mut self, host: &HostName) -> Result<usize, Error> {
        let Some(certificates) = &mut self.certificates else {
            return Err(Error::NoCertificate { host: host.clone(), known: Vec::new() });
        };
        let count = certificates.revoke(host);
        if count == 0 {
            let known = certificates.hosts().map(|(host, _)| host.to_string()).collect();
            return Err(Error::NoCertificate { host: host.clone(), known });
        }
        certificates.save(&Certificates::path(&self.state, &self.fleet))?;
        Ok(count)
    }

    /// Has the next [`Self::complete`] make another authority: what the one before has signed is worth nothing then.
    pub fn found_anew(&mut self) {
        self.certificates = None;
        self.is_founded_anew = true;
    }

    /// Returns which secrets a host shall have at `now`, for a plan: their digest; none within where they are still
    /// to be made; none at all where this machine cannot tell, since it never applied this fleet.
    pub fn expected(&self, host: &HostName, tls: DoorTls, now: u64) -> Option<Option<Digest>> {
        if self.keys.is_none() && !self.is_founded_anew {
            return None;
        }
        let is_made = match tls {
            DoorTls::Off => true,
            DoorTls::Fleet => {
                self.certificates.as_ref().is_some_and(|made| made.current(host, now).is_some())
            }
        };
        let secrets = self.secrets(host, tls, BTreeMap::new()).filter(|_| is_made);
        Some(secrets.map(|secrets| secrets.digest()))
    }

    /// Makes what is missing for `hosts` at `now`, and keeps it. Returns the first client key where there was none,
    /// to be shown.
    pub fn complete<'a>(
        &mut self,
        hosts: impl IntoIterator<Item = &'a HostName>,
        tls: DoorTls,
        now: u64,
    ) -> Result<Option<NewKey>, Error> {
        if tls == DoorTls::Fleet {
            let mut certificates = match self.certificates.take() {
                Some(certificates) => certificates,
                None => Certificates::new(&self.fleet, now)?,
            };
            for host in hosts {
                certificates.certify(host, now)?;
            }
            let path = Certificates::path(&self.state, &self.fleet);
            if Certificates::load(&path).ok().flatten().as_ref() != Some(&certificates) {
                certificates.save(&path)?;
            }
            self.certificates = Some(certificates);
        }
        if self.keys.is_some() {
            return Ok(None);
        }
        let (keys, shown) = FleetKeys::new()?;
        keys.save(&FleetKeys::path(&self.state, &self.fleet))?;
        self.keys = Some(keys);
        Ok(Some(shown))
    }

    /// Returns what a host is given; `foreign` are keys of servers that are not ours. None where something of it is
    /// still to be made.
    pub fn secrets(
        &self,
        host: &HostName,
        tls: DoorTls,
        foreign: BTreeMap<String, String>,
    ) -> Option<Secrets> {
        let keys = self.keys.as_ref()?;
        Some(match tls {
            DoorTls::Off => Secrets {
                keys: keys.entries(true),
                peer_key: keys.peer_key().to_owned(),
                identity: None,
                foreign_keys: foreign,
            },
            DoorTls::Fleet => Secrets {
                keys: keys.entries(false),
                peer_key: String::new(),
                identity: Some(self.certificates.as_ref()?.identity(host)?),
                foreign_keys: foreign,
            },
        })
    }
}
