//! The one place that starts programs of the host.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Error;
use super::error::tame;
use crate::lines::Lines;

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

/// Runs a program and passes on to `say` what `read` makes of each line that it writes, without its end and
/// cut at `longest` bytes, until it ends, or nobody takes more.
pub(super) async fn lines<A: AsRef<OsStr>, T>(
    program: &str,
    args: &[A],
    longest: usize,
    say: &mpsc::Sender<T>,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<(), Error> {
    let cannot = |source| Error::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").env("XDG_RUNTIME_DIR", runtime_dir()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pass_on = async {
        let Some(mut pipe) = stdout else { return Ok(true) };
        let (mut lines, mut buffer) = (Lines::new(longest), vec![0; 16 << 10]);
        loop {
            let count = pipe.read(&mut buffer).await?;
            if count == 0 {
                return Ok(true);
            }
            for made in lines.push(&buffer[..count]).iter().filter_map(|line| read(line)) {
                if say.send(made).await.is_err() {
                    return Ok(false);
                }
            }
        }
    };
    let mut said = Vec::new();
    let hear = async {
        let Some(pipe) = stderr else { return Ok(0) };
        pipe.take(MAX_SAID as u64).read_to_end(&mut said).await
    };
    let (is_whole, _) = tokio::try_join!(pass_on, hear).map_err(cannot)?;
    if !is_whole {
        return child.kill().await.map_err(cannot);
    }
    if child.wait().await.map_err(cannot)?.success() {
        return Ok(());
    }
    let said = tame(&String::from_utf8_lossy(&said), MAX_SAID);
    Err(Error::Failed { program: program.to_owned(), said })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_read_line_by_line_until_it_ends_or_nobody_wants_more() {
        let (say, mut heard) = mpsc::channel(2);
        let read = |line: &[u8]| Some(String::from_utf8(line.to_vec()).unwrap()).filter(|line| line != "b");
        let failed = lines("sh", &["-c", "echo a; echo b; echo no >&2; exit 3"], 100, &say, read).await;
        assert_eq!(failed.unwrap_err().to_string(), "sh failed: no");
        assert_eq!(heard.recv().await.unwrap(), "a");
        let endless = tokio::spawn(async move { lines("yes", &["y"], 100, &say, read).await });
        assert_eq!(heard.recv().await.unwrap(), "y");
        drop(heard);
        endless.await.unwrap().unwrap();
    }
}
