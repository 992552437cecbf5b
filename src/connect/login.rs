//! A host that takes no key of ours yet: with its password, once, a key is installed there.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::process::{self, End, Io, look};
use super::ssh::{SESSION, Ssh, is_of_old};
use super::{Error, Password, Stdin, config, diagnosis, quote};
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
    /// configuration and files, of the agent. None: there is no key at all, and [`Self::make_key`] makes one.
    ///
    /// # Errors
    /// [`Error::NoKey`] when only other keys than one made here may be offered, and none is there;
    /// [`Error::NoPublicKey`] when one is there without its public half; [`Error::Here`] when `ssh` cannot say.
    pub async fn key_to_offer(&self) -> Result<Option<PublicKey>, Error> {
        if let Some(identity) = &self.target.identity {
            // a login that no file lists has its `~` still
            let identity = config::in_home(identity, home().as_deref());
            return PublicKey::of_identity(&identity).await?.ok_or_else(|| no_key(&identity)).map(Some);
        }
        let resolved = self.resolve().await?;
        let mut failed = None;
        for identity in &resolved.identities {
            match PublicKey::of_identity(identity).await {
                Ok(None) => {}
                Ok(key) => return Ok(key),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let mut agent = Command::new("ssh-add");
        agent.arg("-L");
        // without an agent there is none
        let listed = look(agent).await.unwrap_or_default();
        match (listed.lines().next().and_then(|line| PublicKey::new(line, "the agent's first key")), failed) {
            (Some(key), _) => Ok(Some(key)),
            (None, Some(error)) => Err(error),
            (None, None) => resolved.place().map(|_| None),
        }
    }

    /// Makes a key without a passphrase where `ssh` looks for one by itself, `~/.ssh/id_ed25519`.
    ///
    /// # Errors
    /// [`Error::NoKey`] when `ssh` is told to look elsewhere; [`Error::Here`] when it cannot be made, or a key is there
    /// already.
    pub async fn make_key(&self) -> Result<PublicKey, Error> {
        make_key(self.resolve().await?.place()?).await
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
        Ok(Resolved::parse(&said, home().as_deref()))
    }
}

/// Returns the login's home; that of `HOME` where no file lists the login.
fn home() -> Option<PathBuf> {
    config::home().or_else(std::env::home_dir)
}

fn no_key(path: &Path) -> Error {
    Error::NoKey { path: path.display().to_string() }
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
                "identityfile" => identities.push(config::in_home(Path::new(rest), home)),
                _ => {}
            }
        }
        Self { whom: format!("{user}@{}", alias.unwrap_or(host)), identities }
    }

    /// Returns where a key can be made that `ssh` then offers.
    fn place(&self) -> Result<&Path, Error> {
        let mut files = self.identities.iter().map(PathBuf::as_path);
        let place = files.clone().find(|path| path.is_absolute() && path.ends_with(".ssh/id_ed25519"));
        place.ok_or_else(|| no_key(files.next().unwrap_or(Path::new("~/.ssh/id_ed25519"))))
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

    /// Returns the public half of a key that `ssh` is given as an identity, which may be the public half itself where an
    /// agent has the other. None: there is no key.
    async fn of_identity(path: &Path) -> Result<Option<Self>, Error> {
        if path.extension().is_some_and(|extension| extension == "pub")
            && let Ok(key) = Self::of_file(path)
        {
            return Ok(Some(key));
        }
        if let Some(key) = Self::read(&path.with_added_extension("pub")) {
            return Ok(Some(key));
        }
        if !path.exists() {
            return Ok(None);
        }
        let mut keygen = Command::new("ssh-keygen");
        // a passphrase that is given is not asked for
        keygen.args(["-y", "-P", "", "-f"]).arg(path);
        let shown = path.display().to_string();
        let line = look(keygen).await.map_err(|source| Error::NoPublicKey { path: shown.clone(), source })?;
        let none =
            || Error::NoPublicKey { path: shown.clone(), source: std::io::ErrorKind::InvalidData.into() };
        Self::new(&line, &shown).ok_or_else(none).map(Some)
    }
}

async fn make_key(path: &Path) -> Result<PublicKey, Error> {
    let failed = |source| Error::Here { doing: format!("cannot make the key {}", path.display()), source };
    if path.exists() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut mkdir = Command::new("mkdir");
    mkdir.args(["-p", "-m", "700"]).args(path.parent());
    look(mkdir).await.map_err(failed)?;
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
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
    use super::super::{Settings, Target};
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
    fn a_key_is_made_where_ssh_looks_for_it_and_nowhere_else() {
        let place = |said: &str| {
            let resolved = Resolved::parse(said, Some(Path::new("/home/ada")));
            resolved.place().map(Path::to_owned).map_err(|error| error.to_string())
        };
        let own = place("identityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/id_ed25519\n");
        assert_eq!(own, Ok(PathBuf::from("/home/ada/.ssh/id_ed25519")));
        let named = place("identityfile ~/.ssh/pi\nidentityfile /etc/key\n").expect_err("never offered");
        assert!(named.starts_with("there is no key at /home/ada/.ssh/pi: "), "{named}");
    }

    async fn keygen(path: &Path, passphrase: &str) {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-C", "ada", "-N", passphrase, "-f"]).arg(path);
        look(keygen).await.expect("made");
    }

    /// Returns the way to a host with only this key to offer.
    fn way(identity: &Path) -> Ssh {
        let target = Target {
            address: "127.0.0.1".to_owned(),
            user: None,
            port: None,
            identity: Some(identity.to_owned()),
        };
        Ssh::new(target, Settings::default()).expect("a way")
    }

    #[tokio::test]
    async fn the_public_half_of_a_named_key_is_found_or_made_of_it_or_its_want_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let [fleet, locked] = ["fleet", "locked"].map(|name| folder.path().join(name));
        let beside = |path: &Path| path.with_added_extension("pub");
        keygen(&fleet, "").await;
        keygen(&locked, "secret").await;
        let line = std::fs::read_to_string(beside(&fleet)).expect("made");
        let found = |identity: &Path| {
            let ssh = way(identity);
            async move { ssh.key_to_offer().await.map(|key| key.map(|key| (key.line, key.origin))) }
        };
        let key = |origin: &Path| Some((line.trim().to_owned(), origin.display().to_string()));
        assert_eq!(found(&fleet).await.expect("beside it"), key(&beside(&fleet)));
        assert_eq!(found(&beside(&fleet)).await.expect("itself"), key(&beside(&fleet)));
        std::fs::remove_file(beside(&fleet)).expect("removed");
        assert_eq!(found(&fleet).await.expect("of the private one"), key(&fleet));

        assert!(found(&locked).await.expect("beside it").is_some());
        std::fs::remove_file(beside(&locked)).expect("removed");
        let error = found(&locked).await.expect_err("nobody is asked for its passphrase");
        assert!(
            matches!(&error, Error::NoPublicKey { source, .. } if source.to_string().contains("passphrase"))
        );
        let error = found(&folder.path().join("none")).await.expect_err("none is made");
        assert!(matches!(error, Error::NoKey { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_named_key_is_looked_for_in_the_home_that_ssh_takes() {
        let Some(home) = config::home() else { return };
        let error = way(Path::new("~/.no such folder/fleet")).key_to_offer().await.expect_err("none there");
        let expected = home.join(".no such folder/fleet");
        assert!(
            matches!(&error, Error::NoKey { path } if *path == expected.display().to_string()),
            "{error}"
        );
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
