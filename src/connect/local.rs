//! This machine as a host: the same scripts, without a network.

use std::ffi::OsString;

use async_trait::async_trait;
use tokio::process::Command;

use super::process::{self, End, Io, Left};
use super::shell::{KILLING, Wrapped};
use super::{Connection, Error, Output, Script, Stdin, SudoPassword, Talk};

const HERE: &str = "this machine";

/// What a script gets of the environment: as much as a login over SSH has. Services that it starts live on with it, and
/// the hub's token or the key of a foreign server, which are the operator's, are no business of a door.
const KEPT: [&str; 14] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
];

#[expect(clippy::disallowed_methods, reason = "nothing is decided by it: it is handed on")]
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A shell that has nothing else of this program's environment.
fn shell() -> Command {
    let mut command = Command::new("sh");
    command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, environment(name)?))));
    command
}

/// Runs scripts on this machine.
#[derive(Debug, Clone, Default)]
pub struct Local {
    sudo: SudoPassword,
    /// Set in tests, to put other programs in place of `id` and `sudo`.
    search_path: Option<String>,
}

impl Local {
    /// Takes this machine as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives sudo this password where it asks for one.
    #[must_use]
    pub fn with_sudo(self, sudo: SudoPassword) -> Self {
        Self { sudo, ..self }
    }
}

#[async_trait]
impl Connection for Local {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error> {
        self.start(script, &mut Io::Whole(stdin)).await
    }

    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error> {
        self.start(script, &mut Io::Talk(talk)).await
    }

    fn describe(&self) -> String {
        HERE.to_owned()
    }
}

impl Local {
    async fn start(&self, script: &Script, io: &mut Io) -> Result<Output, Error> {
        let wrapped = Wrapped::new(script, self.sudo.get())?;
        let mut command = shell();
        command.args(wrapped.args());
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        let (end, Left { stdout, stderr }) = process::run(command, Some(&wrapped), io, script.timeout).await;
        let host = HERE.to_owned();
        match end {
            End::Status(_) if !wrapped.has_begun(&stderr) => Err(wrapped.never_began(host, &stderr)),
            End::Status(status) => Ok(wrapped.output(status, stdout, &stderr)),
            End::TimedOut | End::TooMuch => {
                // what runs as root is not ours to kill without sudo
                if script.is_root
                    && let Some(kill) = wrapped.killer(&stderr)
                {
                    let mut sh = shell();
                    sh.args(kill.args());
                    process::run(sh, Some(&kill), &mut Io::Whole(Stdin::Empty), KILLING).await;
                }
                Err(match end {
                    End::TooMuch => Error::TooMuch { host },
                    _ => Error::TimedOut { host, after: script.timeout },
                })
            }
            End::Here(doing, source) => Err(Error::Here { doing, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::connect::{Password, Piece};

    /// This machine with another `sudo`, and a login that is not root.
    struct Login {
        dir: tempfile::TempDir,
        local: Local,
    }

    impl Login {
        fn new(sudo: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in [("id", "#!/bin/sh\necho 1000\n"), ("sudo", sudo)] {
                let path = dir.path().join(name);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let search_path = Some(format!("{}:/usr/bin:/bin", dir.path().display()));
            Self { dir, local: Local { search_path, ..Local::new() } }
        }

        fn with_password(self, password: &str) -> Self {
            self.local.sudo.set(Some(Password::new(password.to_owned())));
            self
        }

        async fn run(&self, text: &str, stdin: Stdin) -> Result<Output, Error> {
            let script = Script { text: text.into(), is_root: true, timeout: Duration::from_secs(20) };
            self.local.run(&script, stdin).await
        }
    }

    /// Wants `sesame` on standard input unless it is told not to ask.
    const ASKING: &str = "#!/bin/sh
case \"$*\" in
-n*) echo 'sudo: a password is required' >&2; exit 1 ;;
'-k -S -p  '*) shift 4; IFS= read -r word; [ \"$word\" = sesame ] && exec \"$@\" ;;
esac
echo 'sudo: 1 incorrect password attempt' >&2
exit 1
";

    #[tokio::test]
    async fn sudo_that_wants_a_password_is_told_from_a_script_that_fails() {
        let refused = Login::new("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n");
        match refused.run("echo ran; exit 1", Stdin::Empty).await {
            Err(Error::Sudo { said, .. }) => assert_eq!(said, "sudo: a password is required"),
            other => panic!("{other:?}"),
        }
        let failed = Login::new("#!/bin/sh\n[ \"$1\" = -n ] && shift && exec \"$@\"\n");
        let failed = failed.run("echo ran; exit 1", Stdin::Empty).await.unwrap();
        assert_eq!((failed.status, failed.stdout), (1, b"ran\n".to_vec()));
    }

    #[tokio::test]
    async fn a_sudo_that_is_not_there_is_told_from_a_shell_that_runs_nothing() {
        for password in [None, Some("sesame")] {
            let mut login = Login::new("#!/bin/sh\necho 'ada is not in the sudoers file' >&2\nexit 1\n");
            if let Some(password) = password {
                login = login.with_password(password);
            }
            match login.run("true", Stdin::Empty).await {
                Err(Error::Sudo { said, .. }) => assert_eq!(said, "ada is not in the sudoers file"),
                other => panic!("{other:?}"),
            }
            // root, whose shell cannot start another
            let sh = "#!/bin/sh\necho 'sh: Cannot fork' >&2\nexit 2\n";
            for (name, text) in [("id", "#!/bin/sh\necho 0\n"), ("sh", sh)] {
                std::fs::write(login.dir.path().join(name), text).unwrap();
            }
            let path = login.dir.path().join("sh");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            match login.run("true", Stdin::Empty).await {
                Err(Error::Authentication { said, .. }) => assert_eq!(said, "sh: Cannot fork"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn sudo_gets_its_password_and_the_script_all_of_its_own_input() {
        let login = Login::new(ASKING).with_password("sesame");
        let ran = login.run("echo ran; cat", Stdin::Empty).await.unwrap();
        assert_eq!((ran.status, ran.stdout), (0, b"ran\n".to_vec()));
        let bytes = Stdin::bytes(b"first\nsecond".to_vec());
        assert_eq!(login.run("cat", bytes).await.unwrap().stdout, b"first\nsecond");

        let (say, input) = tokio::sync::mpsc::channel(1);
        let (output, mut heard) = tokio::sync::mpsc::channel(4);
        let script = Script { text: "cat".into(), is_root: true, timeout: Duration::from_secs(20) };
        let talk = login.local.talk(&script, Talk { input, output });
        let said = async {
            say.send(Piece::Bytes(b"hello".to_vec())).await.unwrap();
            drop(say);
            let mut all = Vec::new();
            while let Some(bytes) = heard.recv().await {
                all.extend(bytes);
            }
            all
        };
        let (ended, said) = tokio::join!(talk, said);
        assert_eq!((ended.unwrap().status, said), (0, b"hello".to_vec()));
    }

    #[tokio::test]
    async fn a_wrong_password_is_no_script_that_fails_and_one_that_nobody_wants_is_not_read_by_the_script() {
        let wrong = Login::new(ASKING).with_password("open");
        match wrong.run("echo ran", Stdin::Empty).await {
            Err(Error::Sudo { said, .. }) => assert_eq!(said, "sudo: 1 incorrect password attempt"),
            other => panic!("{other:?}"),
        }
        let free = Login::new("#!/bin/sh\n[ \"$1\" = -n ] && shift && exec \"$@\"\n").with_password("sesame");
        assert_eq!(free.run("cat", Stdin::bytes(b"mine".to_vec())).await.unwrap().stdout, b"mine");
        let as_login = Script { text: "cat".into(), is_root: false, timeout: Duration::from_secs(20) };
        let output = free.local.run(&as_login, Stdin::bytes(b"mine".to_vec())).await.unwrap();
        assert_eq!(output.stdout, b"mine");
    }
}
