//! A host that takes no key of ours yet: with its password, once, a key is installed there.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::process::{self, End, Io, look};
use super::ssh::{SESSION, Ssh, is_of_old};
use super::{Error, Password, Stdin, diagnosis, quote};
use crate::system;

/// Adds the line on standard input to the keys that the login takes, as `ssh-copy-id` does.
const ADD_KEY: &str = r#"umask 077; cd && mkdir -p .ssh && {
    [ ! -s .ssh/authorized_keys ] || [ -z "$(tail -c 1 .ssh/authorized_keys)" ] || echo >>.ssh/authorized_keys
} && cat >>.ssh/authorized_keys && {
    ! command -v restorecon >/dev/null 2>&1 || restorecon -F .ssh .ssh/authorized_keys >/dev/null 2>&1 || :
}"#;

/// A password is asked for, once, and no key is tried.
const PASSWORD: [&str; 4] = [
    "BatchMode=no",
    "PubkeyAuthentication=no",
    "PreferredAuthentications=password,keyboard-interactive",
    "NumberOfPasswordPrompts=1",
];

/// A key that a host may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its line.
    line: String,
    /// Where it is from, for people: a path, `the agent's first key`.
    pub origin: String,
}

/// What `ssh` makes of a target.
#[derive(Debug, Default)]
struct Resolved {
    /// `user@host`, as it asks for a password.
    whom: String,
    identities: Vec<PathBuf>,
}

impl Ssh {
    /// Returns the key that `ssh` would offer the host first: of the manifest's identity, of the user's
    /// configuration and files, of the agent. None: there is no key at all.
    ///
    /// # Errors
    /// [`Error::Here`] when `ssh` cannot say.
    pub async fn key_to_offer(&self) -> Result<Option<PublicKey>, Error> {
        let files = match &self.target.identity {
            Some(identity) => vec![identity.clone()],
            None => self.resolve().await?.identities,
        };
        if let Some(key) = files.iter().find_map(|file| PublicKey::read(&file.with_added_extension("pub"))) {
            return Ok(Some(key));
        }
        if self.target.identity.is_some() {
            return Ok(None);
        }
        let mut agent = Command::new("ssh-add");
        agent.arg("-L");
        // without an agent there is none
        let listed = look(agent).await.unwrap_or_default();
        Ok(listed.lines().next().and_then(|line| PublicKey::new(line, "the agent's first key")))
    }

    /// Lets the host take `key` from now on.
    ///
    /// # Errors
    /// [`Error::Authentication`] when the password is wrong; else as for a login.
    pub async fn install_key(&self, password: &Password, key: &PublicKey) -> Result<(), Error> {
        let here = |doing: &str| {
            let doing = doing.to_owned();
            move |source| Error::Here { doing, source }
        };
        let whom = self.resolve().await?.whom;
        let helper = Askpass::new(self.dir.path(), &whom, password);
        let helper = helper.map_err(here("cannot write in the folder of the control socket"))?;
        let limit = self.settings.connect_timeout * 3;
        let io = &mut Io::Whole(Stdin::bytes(format!("{}\n", key.line).into_bytes()));
        let add = |session: &'static [&'static str]| {
            let mut ssh = self.connecting_with(&[&PASSWORD, session].concat());
            ssh.env("SSH_ASKPASS", &helper.program);
            ssh.args(["-S", "none", "--"]).arg(&self.target.address);
            ssh.arg(format!("exec sh -c {}", quote(ADD_KEY)));
            ssh
        };
        let (mut end, mut left) = process::run(add(&SESSION), None, io, limit).await;
        if is_of_old(&left.stderr.text()) {
            (end, left) = process::run(add(&[]), None, io, limit).await;
        }
        drop(helper);
        match end {
            End::Status(0) => Ok(()),
            End::Status(255) => Err(diagnosis::of_login(self.host.clone(), &left.stderr.text(), None)),
            End::Status(_) | End::TooMuch => Err(Error::Authentication {
                host: self.host.clone(),
                said: format!("the key could not be added: {}", left.stderr.text().trim()),
            }),
            End::TimedOut => Err(Error::TimedOut { host: self.host.clone(), after: limit }),
            End::Here(doing, source) => Err(Error::Here { doing, source }),
        }
    }

    /// Asks `ssh` what it makes of the target.
    async fn resolve(&self) -> Result<Resolved, Error> {
        let mut ssh = self.connecting();
        ssh.args(["-G", "--"]).arg(&self.target.address);
        let said = look(ssh).await.map_err(|source| Error::Here {
            doing: format!("cannot ask ssh how it reaches {}", self.host),
            source,
        })?;
        Ok(Resolved::parse(&said, std::env::home_dir().as_deref()))
    }
}

impl Resolved {
    fn parse(said: &str, home: Option<&Path>) -> Self {
        let (mut user, mut host, mut alias) = ("", "", None);
        let mut identities = Vec::new();
        for (word, rest) in said.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                "user" => user = rest,
                "hostname" => host = rest,
                "hostkeyalias" => alias = Some(rest),
                "identityfile" => identities.push(match (rest.strip_prefix("~/"), home) {
                    (Some(rest), Some(home)) => home.join(rest),
                    _ => PathBuf::from(rest),
                }),
                _ => {}
            }
        }
        Self { whom: format!("{user}@{}", alias.unwrap_or(host)), identities }
    }
}

impl PublicKey {
    /// Reads the file of a public key.
    ///
    /// # Errors
    /// [`Error::Here`] when it cannot be read, or is none.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Here { doing: format!("{} is no public key", path.display()), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        // a private key begins so, and has several lines
        let is_one = ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| text.starts_with(kind));
        let key = is_one.then(|| Self::new(&text, &path.display().to_string())).flatten();
        key.ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))
    }

    /// Returns its line, as `authorized_keys` has it.
    pub fn line(&self) -> &str {
        &self.line
    }

    fn new(line: &str, origin: &str) -> Option<Self> {
        let line = line.trim();
        let is_one = !line.is_empty() && !line.chars().any(char::is_control) && line.split(' ').count() > 1;
        is_one.then(|| Self { line: line.to_owned(), origin: origin.to_owned() })
    }

    fn read(path: &Path) -> Option<Self> {
        Self::new(&std::fs::read_to_string(path).ok()?, &path.display().to_string())
    }
}

/// Makes a key without a passphrase where `ssh` looks for one, `~/.ssh/id_ed25519`.
///
/// # Errors
/// [`Error::Here`] when it cannot be made, or a key is there already.
pub async fn make_key() -> Result<PublicKey, Error> {
    let failed = |source| Error::Here { doing: "cannot make a key in ~/.ssh".to_owned(), source };
    let home = std::env::home_dir().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let folder = home.join(".ssh");
    let path = folder.join("id_ed25519");
    if path.exists() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut mkdir = Command::new("mkdir");
    mkdir.args(["-p", "-m", "700"]).arg(&folder);
    look(mkdir).await.map_err(failed)?;
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
    look(keygen).await.map_err(failed)?;
    let made = PublicKey::read(&path.with_added_extension("pub"));
    made.ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))
}

/// What answers `ssh` when it asks for a password, once, and only for the login that it was given for: a jump
/// host's question and that for a key's passphrase are not answered. It is a script, a pipe with the password
/// in it, and a mark that it was asked, in a folder of this user alone; the password is never in a file.
struct Askpass {
    program: PathBuf,
    once: PathBuf,
    pipe: PathBuf,
    _filled: std::fs::File,
}

impl Askpass {
    fn new(folder: &Path, whom: &str, password: &Password) -> std::io::Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::PermissionsExt as _;
        let [program, once, pipe] = ["askpass", "asked", "password"].map(|name| folder.join(name));
        let word = |path: &Path| quote(&path.display().to_string());
        let text = format!(
            "#!/bin/sh\ncase $1 in *{}*assword*) ;; *) exit 1 ;; esac\nmkdir {} 2>/dev/null || exit 1\nIFS= read -r line <{} && printf '%s\\n' \"$line\"\n",
            quote(whom),
            word(&once),
            word(&pipe)
        );
        std::fs::write(&program, text)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))?;
        system::make_fifo(&pipe)?;
        // for both ends, so that it can be filled before somebody reads
        let mut filled = std::fs::OpenOptions::new().read(true).write(true).open(&pipe)?;
        filled.write_all(&password.line())?;
        Ok(Self { program, once, pipe, _filled: filled })
    }
}

impl Drop for Askpass {
    fn drop(&mut self) {
        // the folder goes with the connection; what stays until then holds nothing
        drop(std::fs::remove_file(&self.pipe));
        drop(std::fs::remove_file(&self.program));
        drop(std::fs::remove_dir(&self.once));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_makes_of_a_target_is_read() {
        let said = "host kitchen\nuser pi\nhostname 10.0.0.7\nport 22\nidentityfile ~/.ssh/id_rsa\nidentityfile /etc/key\n";
        let resolved = Resolved::parse(said, Some(Path::new("/home/ada")));
        assert_eq!(resolved.whom, "pi@10.0.0.7");
        assert_eq!(resolved.identities, ["/home/ada/.ssh/id_rsa", "/etc/key"].map(PathBuf::from));
        let aliased = Resolved::parse(&format!("{said}hostkeyalias kitchen\n"), None);
        assert_eq!(aliased.whom, "pi@kitchen", "as its question names it");
    }

    #[test]
    fn only_a_key_is_taken_for_one() {
        assert!(PublicKey::new("ssh-ed25519 AAAA ada@desk\n", "x").is_some());
        for bad in ["", "The agent has no identities.\nssh", "one-word", "ssh-ed25519 AAAA\u{1b}[2J"] {
            assert_eq!(PublicKey::new(bad, "x"), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_question_is_answered_once_and_for_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let password = Password::new("it's $HOME \\n".to_owned());
        let helper = Askpass::new(folder.path(), "pi@10.0.0.7", &password).expect("made");
        let asked = |question: &'static str| {
            let mut ask = Command::new(&helper.program);
            ask.arg(question);
            look(ask)
        };
        for other in ["pi@jump's password: ", "Enter passphrase for key '/home/ada/.ssh/id_rsa': "] {
            asked(other).await.expect_err("not answered");
        }
        assert_eq!(asked("pi@10.0.0.7's password: ").await.expect("answered"), "it's $HOME \\n\n");
        asked("(pi@10.0.0.7) Password: ").await.expect_err("it was wrong, and is not said again");
        drop(helper);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
