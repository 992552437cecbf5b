use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, file};
use crate::generation::{KeyEntry, Limits, Scope};
use crate::ids::{Digest, FleetName, is_name};

/// The version of the stored form.
const FORMAT: u32 = 1;

/// What the first client's key is called.
const FIRST: &str = "client-1";

/// Names that the door itself gives to who comes in.
const RESERVED: [&str; 2] = [OPERATOR, PEER];
const OPERATOR: &str = "operator";
const PEER: &str = "peer";

/// The keys of one fleet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetKeys {
    /// The version of the stored form: 1.
    format: u32,
    /// What hosts show to each other where their doors speak plain HTTP.
    peer_key: Zeroizing<String>,
    /// What `bramble` itself shows to hosts.
    operator_key: Zeroizing<String>,
    /// The keys that were handed out, by hash.
    clients: Vec<ClientKey>,
}

impl fmt::Debug for FleetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetKeys({} clients)", self.clients.len())
    }
}

/// A key that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientKey {
    /// What hosts know of it.
    #[serde(flatten)]
    pub entry: KeyEntry,
    /// Whether another of the same name has taken its place; both are good until this one is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_old: bool,
}

/// A client key, to be shown once.
pub struct NewKey(pub Zeroizing<String>);

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey")
    }
}

impl FleetKeys {
    /// Returns where the keys of `fleet` are kept under the operator's state folder.
    pub fn path(state: &Path, fleet: &FleetName) -> PathBuf {
        state.join("fleets").join(fleet.as_str()).join("keys.json")
    }

    /// Reads the keys at `path`; none if the fleet was never applied from here.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        file::load_as(path, FORMAT, |kept: &Self| kept.format)
    }

    /// Makes the keys of a fleet, with a first client key to show.
    pub(super) fn new() -> Result<(Self, NewKey), Error> {
        let mut keys = Self {
            format: FORMAT,
            peer_key: random_key()?,
            operator_key: random_key()?,
            clients: Vec::new(),
        };
        let first = keys.add(FIRST, vec![Scope::Infer], Limits::default())?;
        Ok((keys, first))
    }

    /// Returns the key that `bramble` shows to hosts.
    pub fn operator_key(&self) -> &str {
        &self.operator_key
    }

    /// Makes another key for `bramble` itself, where a host has been shown the one before that is no longer ours.
    pub(super) fn replace_operator_key(&mut self) -> Result<(), Error> {
        self.operator_key = random_key()?;
        Ok(())
    }

    /// Returns what hosts show to each other where their doors speak plain HTTP.
    pub(super) fn peer_key(&self) -> &Zeroizing<String> {
        &self.peer_key
    }

    /// Returns the keys that were handed out.
    pub fn clients(&self) -> &[ClientKey] {
        &self.clients
    }

    /// Makes a key for another client.
    pub fn add(&mut self, name: &str, scopes: Vec<Scope>, limits: Limits) -> Result<NewKey, Error> {
        if !is_name(name) || RESERVED.contains(&name) {
            return Err(Error::KeyName { name: name.to_owned() });
        }
        if self.clients.iter().any(|client| client.entry.id == name) {
            return Err(Error::KeyTaken { name: name.to_owned() });
        }
        let key = random_key()?;
        let sha256 = Digest::of(key.as_bytes());
        let entry = KeyEntry { id: name.to_owned(), sha256, scopes, limits };
        self.clients.push(ClientKey { entry, is_old: false });
        Ok(NewKey(key))
    }

    /// Makes another key beside that of a client, with the same scopes and limits. The one before is good until it is
    /// removed, so that the client can change over.
    pub fn rotate(&mut self, name: &str) -> Result<NewKey, Error> {
        let mut held = self.clients.iter_mut().filter(|client| client.entry.id == name);
        let Some(before) = held.next() else { return Err(self.unknown(name)) };
        if held.next().is_some() {
            return Err(Error::KeyRotating { name: name.to_owned() });
        }
        let key = random_key()?;
        before.is_old = true;
        let entry = KeyEntry { sha256: Digest::of(key.as_bytes()), ..before.entry.clone() };
        self.clients.push(ClientKey { entry, is_old: false });
        Ok(NewKey(key))
    }

    /// Ends the keys of a client, or only the one before, where it has changed over to another.
    pub fn remove(&mut self, name: &str, is_only_old: bool) -> Result<(), Error> {
        let is_meant = |client: &ClientKey| client.entry.id == name && (client.is_old || !is_only_old);
        if !self.clients.iter().any(is_meant) {
            let is_there = self.clients.iter().any(|client| client.entry.id == name);
            return Err(if is_there {
                Error::KeyNotRotating { name: name.to_owned() }
            } else {
                self.unknown(name)
            });
        }
        self.clients.retain(|client| !is_meant(client));
        Ok(())
    }

    fn unknown(&self, name: &str) -> Error {
        let mut known: Vec<String> = self.clients.iter().map(|client| client.entry.id.clone()).collect();
        known.sort();
        known.dedup();
        Error::KeyUnknown { name: name.to_owned(), known }
    }

    /// Returns the keys that open a door; the hosts' own too, where they have no certificates.
    pub(super) fn entries(&self, has_peer_key: bool) -> Vec<KeyEntry> {
        let entry = |id: &str, key: &str, scopes| KeyEntry {
            id: id.to_owned(),
            sha256: Digest::of(key.as_bytes()),
            scopes,
            limits: Limits::default(),
        };
        let mut keys = vec![entry(OPERATOR, &self.operator_key, vec![Scope::Infer, Scope::Status])];
        if has_peer_key {
            keys.push(entry(PEER, &self.peer_key, vec![Scope::Peer]));
        }
        keys.extend(self.clients.iter().map(|client| client.entry.clone()));
        keys
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        file::save(path, self)
    }
}

/// Returns a key of 256 random bits: `bramble-` and 64 hexadecimal digits.
fn random_key() -> Result<Zeroizing<String>, Error> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes).map_err(Error::Random)?;
    Ok(Zeroizing::new(format!("bramble-{}", Digest::new(*bytes))))
}
