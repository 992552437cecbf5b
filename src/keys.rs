//! The fleet's keys on the operator's machine: made at the first apply, kept in one file
//! of mode 0600, never in a manifest, lock, plan or log.
//!
//! Client keys are shown once and kept here as hashes only. What must be told to hosts
//! (the peer key) or used by the operator (his own key) is kept as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::generation::{KeyEntry, Scope, Secrets};
use crate::ids::{Digest, FleetName};

/// The keys of one fleet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetKeys {
    /// The version of the stored form: 1.
    format: u32,
    /// What hosts show to each other.
    peer_key: String,
    /// What `bramble` itself shows to hosts.
    operator_key: String,
    /// The keys that were handed out, by hash.
    clients: Vec<KeyEntry>,
}

impl fmt::Debug for FleetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetKeys({} clients)", self.clients.len())
    }
}

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
    #[error("{path} does not hold a fleet's keys; delete it to make new ones with the next apply")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The file could not be written.
    #[error("cannot keep the fleet's keys in {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a key: {0}")]
    Random(getrandom::Error),
}

/// A client key, to be shown once.
#[derive(Debug)]
pub struct NewKey(pub String);

impl FleetKeys {
    /// Returns where the keys of `fleet` are kept under the operator's state folder.
    pub fn path(state: &Path, fleet: &FleetName) -> PathBuf {
        state.join("fleets").join(fleet.as_str()).join("keys.json")
    }

    /// Reads the keys at `path`; none if the fleet was never applied from here.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::Parse { path: path.to_owned(), source })
    }

    /// Reads the keys at `path`, or makes and keeps them, with a first client key to show.
    pub fn load_or_create(path: &Path) -> Result<(Self, Option<NewKey>), Error> {
        if let Some(keys) = Self::load(path)? {
            return Ok((keys, None));
        }
        let client = random_key()?;
        let entry = KeyEntry {
            id: "client-1".to_owned(),
            sha256: Digest::of(client.as_bytes()),
            scopes: vec![Scope::Infer],
        };
        let keys =
            Self { format: 1, peer_key: random_key()?, operator_key: random_key()?, clients: vec![entry] };
        keys.save(path)?;
        Ok((keys, Some(NewKey(client))))
    }

    /// Returns the key that `bramble` shows to hosts.
    pub fn operator_key(&self) -> &str {
        &self.operator_key
    }

    /// Returns what a host of the fleet is given; `foreign` are keys of servers that are not ours.
    pub fn secrets(&self, foreign: BTreeMap<String, String>) -> Secrets {
        let entry = |id: &str, key: &str, scopes| KeyEntry {
            id: id.to_owned(),
            sha256: Digest::of(key.as_bytes()),
            scopes,
        };
        let mut keys = vec![
            entry("operator", &self.operator_key, vec![Scope::Infer, Scope::Status]),
            entry("peer", &self.peer_key, vec![Scope::Peer]),
        ];
        keys.extend(self.clients.iter().cloned());
        Secrets { keys, peer_key: self.peer_key.clone(), foreign_keys: foreign }
    }

    fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let unfinished = path.with_extension("json.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&unfinished, path).map_err(failed)
    }
}

/// Returns a key of 256 random bits: `bramble-` and 64 hexadecimal digits.
fn random_key() -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("bramble-{}", Digest::new(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_client_key_is_shown_once_and_kept_as_a_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = FleetKeys::path(dir.path(), &"home".parse().unwrap());
        let (keys, shown) = FleetKeys::load_or_create(&path).unwrap();
        let shown = shown.unwrap().0;
        let stored = fs::read_to_string(&path).unwrap();
        assert!(!stored.contains(&shown));
        assert!(stored.contains(&Digest::of(shown.as_bytes()).to_string()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let (again, shown_again) = FleetKeys::load_or_create(&path).unwrap();
        assert_eq!(again, keys);
        assert!(shown_again.is_none());
    }

    #[test]
    fn hosts_get_hashes_and_the_peer_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, shown) = FleetKeys::load_or_create(&dir.path().join("keys.json")).unwrap();
        let secrets = keys.secrets(BTreeMap::new());
        let sent = serde_json::to_string(&secrets).unwrap();
        assert!(!sent.contains(&shown.unwrap().0));
        assert!(!sent.contains(keys.operator_key()));
        assert!(sent.contains(&secrets.peer_key));
        let peer = secrets.keys.iter().find(|key| key.id == "peer").unwrap();
        assert_eq!(
            (peer.sha256, &peer.scopes[..]),
            (Digest::of(secrets.peer_key.as_bytes()), &[Scope::Peer][..])
        );
        assert!(!format!("{secrets:?}{keys:?}").contains(&secrets.peer_key));
    }
}
