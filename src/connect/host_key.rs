//! A host key that is made before its host is: with it in the known hosts, the first login is to nobody else.

use std::path::{Path, PathBuf};

use tokio::process::Command;
use zeroize::Zeroizing;

use super::Error;
use super::process::look;

/// A pair of keys of the kind ed25519.
#[derive(Clone)]
pub struct NewHostKey {
    /// In OpenSSH's form.
    pub private: Zeroizing<String>,
    /// `ssh-ed25519 AAAA… COMMENT`.
    pub public: String,
}

/// Makes the key of a host that does not know it yet.
///
/// # Errors
/// [`Error::Here`] when `ssh-keygen` cannot be run.
pub async fn make_host_key(comment: &str) -> Result<NewHostKey, Error> {
    let failed = |source| Error::Here { doing: "cannot make a host key".to_owned(), source };
    // for this user alone, and gone with the folder
    let dir = tempfile::tempdir().map_err(failed)?;
    let path = dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(&path);
    look(keygen).await.map_err(failed)?;
    let read = |path: &Path| std::fs::read_to_string(path).map_err(failed);
    let public = read(&path.with_added_extension("pub"))?.trim().to_owned();
    Ok(NewHostKey { private: Zeroizing::new(read(&path)?), public })
}

/// The file in which `ssh` looks up who a host is.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    path: PathBuf,
}

impl KnownHosts {
    /// Takes the file, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a key of `name` is known, whatever its kind.
    ///
    /// # Errors
    /// [`Error::Here`] when `ssh-keygen` cannot be run.
    pub async fn knows(&self, name: &str) -> Result<bool, Error> {
        if !self.path.exists() {
            return Ok(false);
        }
        let mut find = Command::new("ssh-keygen");
        find.args(["-F", name, "-f"]).arg(&self.path);
        // it says nothing and fails where there is none
        Ok(look(find).await.is_ok_and(|found| !found.trim().is_empty()))
    }

    /// Forgets every key of `name`.
    ///
    /// # Errors
    /// [`Error::Here`] when the file cannot be written.
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        let mut remove = Command::new("ssh-keygen");
        remove.args(["-q", "-R", name, "-f"]).arg(&self.path);
        look(remove).await.map(drop).map_err(|source| self.failed(source))
    }

    /// Adds that whoever shows `key` is the host of these names.
    ///
    /// # Errors
    /// [`Error::Here`] when the file cannot be written.
    pub fn add(&self, names: &[String], key: &NewHostKey) -> Result<(), Error> {
        use std::io::{Read as _, Seek as _, Write as _};
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let write = || {
            if let Some(folder) = self.path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.read(true).append(true).create(true).mode(0o600).open(&self.path)?;
            let mut last = [b'\n'];
            if file.metadata()?.len() > 0 {
                file.seek(std::io::SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            let end = if last == [b'\n'] { "" } else { "\n" };
            file.write_all(format!("{end}{} {}\n", names.join(","), key.public).as_bytes())
        };
        write().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Here { doing: format!("cannot change {}", self.path.display()), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_is_made_is_known_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownHosts::new(dir.path().join("new/known_hosts"));
        assert!(!known.knows("kitchen.local").await.unwrap());
        let key = make_host_key("kitchen").await.unwrap();
        assert!(key.private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert!(key.public.starts_with("ssh-ed25519 ") && key.public.ends_with(" kitchen"), "{}", key.public);
        known.add(&["kitchen.local".to_owned(), "192.168.1.20".to_owned()], &key).unwrap();
        // others write to it, too, and not always whole lines
        let text = std::fs::read_to_string(known.path()).unwrap();
        std::fs::write(known.path(), text.trim_end()).unwrap();
        known.add(&["shed.local".to_owned()], &key).unwrap();
        for name in ["kitchen.local", "192.168.1.20", "shed.local"] {
            assert!(known.knows(name).await.unwrap(), "{name}");
        }
        known.forget("kitchen.local").await.unwrap();
        assert!(!known.knows("kitchen.local").await.unwrap());
        assert!(known.knows("shed.local").await.unwrap());
    }
}
