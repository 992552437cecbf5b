//! The one place that starts programs of the host.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::Error;
use super::error::tame;

/// What a program said about its failure is kept up to this many bytes.
const MAX_SAID: usize = 2000;

/// How a program ended.
pub(super) struct Ran {
    pub(super) is_success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Returns where the login's own systemd listens. sshd says it only where it asks PAM.
fn runtime_dir() -> String {
    format!("/run/user/{}", rustix::process::geteuid().as_raw())
}

/// Runs a program to its end, which must come within `limit`.
pub(super) async fn run<A: AsRef<OsStr>>(program: &str, args: &[A], limit: Duration) -> Result<Ran, Error> {
    let cannot = |source| Error::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    // LC_ALL: what is said is parsed, and quoted in messages
    command.args(args).env("LC_ALL", "C").env("XDG_RUNTIME_DIR", runtime_dir());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output());
    let output = output.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(cannot)?;
    Ok(Ran {
        is_success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: tame(&String::from_utf8_lossy(&output.stderr), MAX_SAID),
    })
}

/// Runs a program that must succeed.
pub(super) async fn must<A: AsRef<OsStr>>(program: &str, args: &[A], limit: Duration) -> Result<Ran, Error> {
    let ran = run(program, args, limit).await?;
    if ran.is_success {
        return Ok(ran);
    }
    let words: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect();
    Err(Error::Failed { program: format!("{program} {}", words.join(" ")), said: ran.stderr })
}

/// Prepares a program that outlives us: a process group of its own, and no terminal.
pub(super) fn detached<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

/// Returns the name of the login that we run as.
pub(super) async fn login() -> Result<String, Error> {
    Ok(must("id", &["-un"], Duration::from_secs(10)).await?.stdout.trim().to_owned())
}

/// Returns the number that `id -u` or `id -g` gives for a user; none when there is no such user.
pub(super) async fn id(option: &str, user: &str) -> Option<u32> {
    let ran = run("id", &[option, user], Duration::from_secs(10)).await.ok()?;
    ran.stdout.trim().parse().ok().filter(|_| ran.is_success)
}
