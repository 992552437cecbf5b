use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Certificates, Error, FleetKeys, NewKey, sealed};
use crate::generation::{DoorTls, ForeignKeys, Secrets};
use crate::ids::{Digest, FleetName, HostName};

/// The shortest passphrase that seals an export: with a second for each guess, twelve letters by chance outlast everybody.
const SHORTEST_PASSPHRASE: usize = 12;

/// What goes to another machine.
#[derive(Serialize, Deserialize)]
struct Exported {
    fleet: FleetName,
    keys: FleetKeys,
    certificates: Option<Certificates>,
}

/// Everything that the operator keeps of one fleet.
#[derive(Debug)]
pub struct Safe {
    state: PathBuf,
    fleet: FleetName,
    keys: Option<FleetKeys>,
    certificates: Option<Certificates>,
    /// Both as they were on the disk last.
    kept: (Option<FleetKeys>, Option<Certificates>),
    /// Whether the authority shall be another from now on, and everything that it has signed with it.
    is_founded_anew: bool,
}

/// Reads what is on the disk.
fn kept(state: &Path, fleet: &FleetName) -> Result<(Option<FleetKeys>, Option<Certificates>), Error> {
    let keys = FleetKeys::load(&FleetKeys::path(state, fleet))?;
    Ok((keys, Certificates::load(&Certificates::path(state, fleet))?))
}

impl Safe {
    /// Reads what is kept of `fleet` under the operator's state folder. Nothing is made.
    pub fn open(state: &Path, fleet: &FleetName) -> Result<Self, Error> {
        let kept = kept(state, fleet)?;
        Ok(Self {
            keys: kept.0.clone(),
            certificates: kept.1.clone(),
            kept,
            state: state.to_owned(),
            fleet: fleet.clone(),
            is_founded_anew: false,
        })
    }

    /// Returns whether somebody on this machine has since revoked or readmitted a host, or has founded another authority or other
    /// keys: what goes on with these asks whom it should not.
    pub fn is_outdated(&self) -> Result<bool, Error> {
        fn trusted(safe: &Safe) -> impl PartialEq {
            let made = safe.certificates();
            let list = made.map(|made| (made.revoked(), made.barred(), made.authority().certificate()));
            (list, safe.keys().map(FleetKeys::operator_key))
        }
        let now = Self::open(&self.state, &self.fleet)?;
        Ok(trusted(self) != trusted(&now))
    }

    /// Returns the folder of this fleet on this machine.
    pub fn folder(&self) -> PathBuf {
        FleetKeys::path(&self.state, &self.fleet).with_file_name("")
    }

    /// Returns the fleet's keys; none if it was never applied from here.
    pub fn keys(&self) -> Option<&FleetKeys> {
        self.keys.as_ref()
    }

    /// Returns the fleet's keys, for what cannot do without.
    ///
    /// # Errors
    /// [`Error::NoKeys`] if it was never applied from here.
    pub fn needed_keys(&self) -> Result<&FleetKeys, Error> {
        self.keys.as_ref().ok_or_else(|| Error::NoKeys { fleet: self.fleet.clone() })
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
        self.note_kept();
        Ok(changed)
    }

    /// Has every key that a host ever had refused by the others, and the operator's, which it was shown. Returns how many
    /// certificates it had. It gets no other until it is readmitted: whoever has its disk has its SSH keys, too, and may be
    /// who answers there.
    pub fn revoke(&mut self, host: &HostName) -> Result<usize, Error> {
        let Some(certificates) = &mut self.certificates else {
            return Err(Error::NoCertificate { host: host.clone(), known: Vec::new() });
        };
        let count = certificates.revoke(host);
        // one that was revoked before can be barred still
        if count == 0 && !certificates.revoked().values().any(|one| one == host) {
            let known = certificates.hosts().map(|(host, _)| host.to_string()).collect();
            return Err(Error::NoCertificate { host: host.clone(), known });
        }
        certificates.bar([host.clone()]);
        certificates.save(&Certificates::path(&self.state, &self.fleet))?;
        self.note_kept();
        if self.keys.is_some() {
            self.change_keys(FleetKeys::replace_operator_key)?;
        }
        Ok(count)
    }

    /// Has a host that was barred get another certificate.
    ///
    /// # Errors
    /// [`Error::NotBarred`] where it was not.
    pub fn readmit(&mut self, host: &HostName) -> Result<(), Error> {
        let path = Certificates::path(&self.state, &self.fleet);
        let made = self.certificates.as_mut().filter(|made| made.barred().contains(host));
        let made = made.ok_or_else(|| Error::NotBarred { host: host.clone() })?;
        made.readmit(host);
        made.save(&path)?;
        self.note_kept();
        Ok(())
    }

    /// Returns the hosts that are barred.
    pub fn barred(&self) -> BTreeSet<HostName> {
        let made = self.certificates.as_ref().or(self.kept.1.as_ref());
        made.map(|made| made.barred().clone()).unwrap_or_default()
    }

    /// Seals all of it behind a passphrase, for another machine.
    pub fn export(&self, passphrase: &str) -> Result<Vec<u8>, Error> {
        self.export_with(passphrase, sealed::WORK)
    }

    /// The same, with `2^work` as the work for one guess.
    pub(super) fn export_with(&self, passphrase: &str, work: u8) -> Result<Vec<u8>, Error> {
        let keys = self.needed_keys()?;
        if passphrase.chars().count() < SHORTEST_PASSPHRASE {
            return Err(Error::ShortPassphrase { least: SHORTEST_PASSPHRASE });
        }
        let all = Exported {
            fleet: self.fleet.clone(),
            keys: keys.clone(),
            certificates: self.certificates.clone(),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&all).map_err(Error::Unsealed)?);
        sealed::seal(&plain, passphrase, work)
    }

    /// Opens what another machine has sealed, and keeps it here. Other keys of the fleet stay unless they are to be
    /// replaced.
    pub fn import(&mut self, sealed: &[u8], passphrase: &str, is_replacing: bool) -> Result<(), Error> {
        let plain = sealed::open(sealed, passphrase)?;
        let Exported { fleet, keys, certificates } =
            serde_json::from_slice(&plain).map_err(Error::Unsealed)?;
        if fleet != self.fleet {
            return Err(Error::OtherFleet { found: fleet, fleet: self.fleet.clone() });
        }
        let is_other = self.keys.as_ref().is_some_and(|own| *own != keys)
            || self.certificates.is_some() && self.certificates != certificates;
        if is_other && !is_replacing {
            return Err(Error::OtherKeys { fleet });
        }
        // the authority last: until both are there, an apply refuses to make another
        keys.save(&FleetKeys::path(&self.state, &self.fleet))?;
        if let Some(certificates) = &certificates {
            certificates.save(&Certificates::path(&self.state, &self.fleet))?;
        }
        (self.keys, self.certificates) = (Some(keys), certificates);
        self.note_kept();
        Ok(())
    }

    /// Has the next [`Self::complete`] make another authority: what the one before has signed is worth nothing then.
    pub fn found_anew(&mut self) {
        self.certificates = None;
        self.is_founded_anew = true;
    }

    /// Returns whether keys and an authority are here, or shall be made anew.
    pub fn is_complete(&self) -> bool {
        self.is_founded_anew || self.keys.is_some() && self.certificates.is_some()
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
        let secrets = self.secrets(host, tls, ForeignKeys::new()).filter(|_| is_made);
        Some(secrets.map(|secrets| secrets.digest()))
    }

    /// Takes note that what is held is what is on the disk.
    fn note_kept(&mut self) {
        self.kept = (self.keys.clone(), self.certificates.clone());
    }

    /// Makes what is missing for `hosts` at `now`, and keeps it. Returns the first client key where there was none,
    /// to be shown.
    ///
    /// # Errors
    /// [`Error::Changed`] where somebody has revoked, readmitted or changed keys since this was opened; else as for
    /// making and keeping them.
    pub fn complete<'a>(
        &mut self,
        hosts: impl IntoIterator<Item = &'a HostName>,
        tls: DoorTls,
        now: u64,
    ) -> Result<Option<NewKey>, Error> {
        if kept(&self.state, &self.fleet)? != self.kept {
            return Err(Error::Changed { fleet: self.fleet.clone() });
        }
        if tls == DoorTls::Fleet {
            let mut certificates = match self.certificates.take() {
                Some(certificates) => certificates,
                None => Certificates::new(&self.fleet, now)?,
            };
            if let Some(before) = &self.kept.1 {
                // also under another authority: a host may go back to the one of before
                certificates.bar_as(before);
            }
            for host in hosts {
                certificates.certify(host, now)?;
            }
            if self.kept.1.as_ref() != Some(&certificates) {
                certificates.save(&Certificates::path(&self.state, &self.fleet))?;
            }
            self.certificates = Some(certificates);
            self.note_kept();
        }
        if self.keys.is_some() {
            return Ok(None);
        }
        let (keys, shown) = FleetKeys::new()?;
        keys.save(&FleetKeys::path(&self.state, &self.fleet))?;
        self.keys = Some(keys);
        self.note_kept();
        Ok(Some(shown))
    }

    /// Returns what a host is given; `foreign` are keys of servers that are not ours. None where something of it is
    /// still to be made.
    pub fn secrets(&self, host: &HostName, tls: DoorTls, foreign: ForeignKeys) -> Option<Secrets> {
        let keys = self.keys.as_ref()?;
        Some(match tls {
            DoorTls::Off => Secrets {
                keys: keys.entries(true),
                peer_key: keys.peer_key().clone(),
                identity: None,
                foreign_keys: foreign,
            },
            DoorTls::Fleet => Secrets {
                keys: keys.entries(false),
                peer_key: Zeroizing::default(),
                identity: Some(self.certificates.as_ref()?.identity(host)?),
                foreign_keys: foreign,
            },
        })
    }
}
