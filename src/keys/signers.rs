use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, file};
use crate::signature::{PublicKey, SigningKey};

/// The version of the stored forms.
const FORMAT: u32 = 1;

/// Who signs what leaves this machine in a file, and whose files are taken in here.
#[derive(Debug)]
pub struct Signers {
    state: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Own {
    format: u32,
    key: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct Trusted {
    format: u32,
    keys: BTreeSet<String>,
}

impl Default for Trusted {
    fn default() -> Self {
        Self { format: FORMAT, keys: BTreeSet::new() }
    }
}

impl Signers {
    /// Takes what is kept under the operator's state folder. Nothing is read or made.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    /// Returns the key of this machine's operator; made the first time.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Parse`], [`Error::Format`], [`Error::Write`], and [`Error::Sign`] for a key that is damaged.
    pub fn own(&self) -> Result<SigningKey, Error> {
        let path = self.state.join("signing.json");
        if let Some(own) = file::load_as(&path, FORMAT, |own: &Own| own.format)? {
            return SigningKey::from_kept(&own.key).map_err(|source| Error::Sign { path, source });
        }
        let (key, kept) =
            SigningKey::generate().map_err(|source| Error::Sign { path: path.clone(), source })?;
        file::save(&path, &Own { format: FORMAT, key: kept })?;
        Ok(key)
    }

    /// Returns the keys whose files are taken in: this machine's own, where there is one, and those that were trusted.
    ///
    /// # Errors
    /// As for [`Self::own`].
    pub fn trusted(&self) -> Result<Vec<PublicKey>, Error> {
        let mut keys = Vec::new();
        if self.state.join("signing.json").exists() {
            let source = |source| Error::Sign { path: self.state.join("signing.json"), source };
            keys.push(self.own()?.public().map_err(source)?);
        }
        if let Some(trusted) = self.load()? {
            keys.extend(trusted.keys.iter().filter_map(|key| key.parse::<PublicKey>().ok()));
        }
        Ok(keys)
    }

    /// Takes in files that `key` has signed from now on.
    ///
    /// # Errors
    /// As for [`Self::own`].
    pub fn trust(&self, key: &PublicKey) -> Result<(), Error> {
        let mut trusted = self.load()?.unwrap_or_default();
        if trusted.keys.insert(key.to_string()) {
            file::save(&self.path(), &trusted)?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Option<Trusted>, Error> {
        file::load_as(&self.path(), FORMAT, |trusted: &Trusted| trusted.format)
    }

    fn path(&self) -> PathBuf {
        self.state.join("signers.json")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_others_are_trusted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let signers = Signers::new(dir.path());
        assert_eq!(signers.trusted().unwrap(), []);
        let own = signers.own().unwrap().public().unwrap();
        assert_eq!(signers.own().unwrap().public().unwrap(), own);
        let mode = std::fs::metadata(dir.path().join("signing.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = SigningKey::generate().unwrap().0.public().unwrap();
        signers.trust(&other).unwrap();
        signers.trust(&other).unwrap();
        assert_eq!(signers.trusted().unwrap(), [own, other]);
        std::fs::write(dir.path().join("signing.json"), r#"{"format":1,"key":"AAAA"}"#).unwrap();
        assert!(matches!(signers.own(), Err(Error::Sign { .. })));
    }
}
