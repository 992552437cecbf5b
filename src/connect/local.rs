//! This machine as a host: the same scripts, without a network.

use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;

use super::process::{self, End, Io, Left};
use super::shell::Wrapped;
use super::{Connection, Error, Output, Script, Stdin, Talk};

const HERE: &str = "this machine";

/// Runs scripts on this machine.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Set in tests, to put other programs in place of `id` and `sudo`.
    search_path: Option<String>,
}

impl Local {
    /// Takes this machine as it is.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Connection for Local {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error> {
        self.start(script, Io::Whole(stdin)).await
    }

    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error> {
        self.start(script, Io::Talk(talk)).await
    }

    fn describe(&self) -> String {
        HERE.to_owned()
    }
}

impl Local {
    async fn start(&self, script: &Script, io: Io) -> Result<Output, Error> {
        let wrapped = Wrapped::new(script)?;
        let mut command = Command::new("sh");
        command.args(wrapped.args());
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        let (end, Left { stdout, stderr }) = process::run(command, io, script.timeout).await;
        let host = HERE.to_owned();
        match end {
            End::Status(_) if !wrapped.has_begun(&stderr) => Err(wrapped.never_began(host, &stderr)),
            End::Status(status) => Ok(wrapped.output(status, stdout, &stderr)),
            End::TimedOut => {
                // what runs as root is not ours to kill without sudo
                let groups = wrapped.groups(&stderr);
                if script.is_root && !groups.is_empty() {
                    let mut kill = Command::new("sh");
                    kill.args(["-c", &kill_groups(&groups, true)]);
                    process::run(kill, Io::Whole(Stdin::Empty), Duration::from_secs(5)).await;
                }
                Err(Error::TimedOut { host, after: script.timeout })
            }
            End::TooMuch => Err(Error::TooMuch { host }),
            End::Here(doing, source) => Err(Error::Here { doing, source }),
        }
    }
}

/// Returns a line for `sh` that ends process groups, root's own through sudo.
pub(super) fn kill_groups(groups: &[u32], is_root: bool) -> String {
    let words: Vec<String> = groups.iter().map(|group| format!("-{group}")).collect();
    let all = words.join(" ");
    // dash takes `--` only after `-s`
    let kill = format!("kill -s TERM -- {all}; sleep 1; kill -s KILL -- {all}");
    if is_root { format!("[ \"$(id -u)\" = 0 ] || exec sudo -n sh -c '{kill}'; {kill}") } else { kill }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn as_login_with(sudo: &str) -> Result<Output, Error> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("id", "#!/bin/sh\necho 1000\n"), ("sudo", sudo)] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let local = Local { search_path: Some(format!("{}:/usr/bin:/bin", dir.path().display())) };
        let script =
            Script { text: "echo ran; exit 1".into(), is_root: true, timeout: Duration::from_secs(20) };
        local.run(&script, Stdin::Empty).await
    }

    #[tokio::test]
    async fn sudo_that_wants_a_password_is_told_from_a_script_that_fails() {
        let refused = as_login_with("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n").await;
        match refused {
            Err(Error::Sudo { said, .. }) => assert_eq!(said, "sudo: a password is required"),
            other => panic!("{other:?}"),
        }
        let failed = as_login_with("#!/bin/sh\n[ \"$1\" = -n ] && shift && exec \"$@\"\n").await.unwrap();
        assert_eq!((failed.status, failed.stdout), (1, b"ran\n".to_vec()));
    }
}
