//! The side that asks: `brambled weights` as a child that can be watched, stopped, and survived.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::message::Message;
use super::output::{give_names, remove_abandoned};
use super::{Made, Order};
use crate::causes::with_causes;
use crate::lines::Lines;
use crate::units::Bytes;

/// Lines of the log that an error repeats.
const LAST_LINES: usize = 8;

/// What the child gets of the environment: where its libraries are, and what it shall say.
const KEPT: [&str; 4] = ["LD_LIBRARY_PATH", "PATH", "RUST_BACKTRACE", "RUST_LOG"];

#[expect(clippy::disallowed_methods, reason = "nothing is decided by it: it is handed on")]
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the system's linker ends a program with that lacks a library.
const LIBRARY_MISSING: i32 = 127;
/// The signal that a program ends itself with.
const ABORT: i32 = 6;
/// The signal that nobody survives.
const KILL: i32 = 9;

/// How long the child may take to stop: it finishes its piece, and what it is bringing to the disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest line that is heard of the child, of which a stranger's file may have taken hold; more of one is left out.
const LONGEST_LINE: usize = 64 << 10;
/// How long the child may say nothing: bringing gigabytes to a slow card takes minutes.
const LONGEST_SILENCE: Duration = Duration::from_hours(1);

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not start.
    #[error("cannot run {} to make weights", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program can not be told or heard.
    #[error("lost sight of the program that makes weights: run again")]
    Watch(#[source] io::Error),
    /// The program says why.
    #[error("{error}")]
    Told {
        /// The error with its causes.
        error: String,
        /// Whether the order itself was refused: nothing was written.
        is_refusal: bool,
        /// Whether trying again later may help.
        is_transient: bool,
    },
    /// The program ended and said nothing.
    #[error("the program that makes weights {}: stop other programs, and run again; it said last: {log}", how(*status))]
    Ended {
        /// How the program ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The program did not come to its first line.
    #[error(
        "the program that makes weights cannot start, for want of a library: install a release, or make a bundle with `scripts/bundle`; it said last: {log}"
    )]
    Library {
        /// The last lines of its log.
        log: String,
    },
    /// The program runs, and does nothing.
    #[error("the program that makes weights has done nothing for an hour, and was killed: run again")]
    Silent,
    /// The program was told to stop and did not.
    #[error("the program that makes weights was told to stop, and was killed because it did not: run again")]
    Stuck,
}

impl Error {
    fn told(error: &super::Error) -> Self {
        let (is_refusal, is_transient) = (error.is_refusal(), error.is_transient());
        Self::Told { error: with_causes(error), is_refusal, is_transient }
    }

    /// Tells whether another try may do better.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Told { is_transient, .. } => *is_transient,
            Self::Ended { status, .. } => status.signal() == Some(KILL),
            Self::Start { .. } | Self::Watch(_) | Self::Library { .. } | Self::Silent | Self::Stuck => false,
        }
    }

    /// Tells whether the order itself was refused, before anything was written.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Told { is_refusal: true, .. })
    }
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(ABORT), _) => "was aborted by llama.cpp".to_owned(),
        (Some(KILL), _) => "was killed, perhaps for want of memory".to_owned(),
        (Some(signal), _) => format!("crashed with signal {signal}"),
        (None, Some(code)) => format!("failed with exit code {code}"),
        (None, None) => "failed".to_owned(),
    }
}

/// Runs the order with `program`, a `brambled`, and tells `progress` of bytes written and of
/// bytes in all.
///
/// Once `stop` is done, the child is told so by the end of its input: it stops at its next piece and
/// removes what it began, and that is waited for. It does the same where the returned future is
/// dropped, or this whole process is killed.
pub async fn run(
    program: &Path,
    order: &Order,
    stop: impl Future<Output = ()>,
    progress: impl Fn(Bytes, Bytes),
) -> Result<Vec<Made>, Error> {
    #[expect(clippy::disallowed_methods, reason = "making weights is a program of its own")]
    let command = std::process::Command::new(program);
    let mut child = Command::from(command)
        .arg("weights")
        // tokens and keys are no business of what reads a stranger's files
        .env_clear()
        .envs(KEPT.iter().filter_map(|name| Some((name, environment(name)?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for whoever asked: the child ends by its input, and cleans up
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    let mut input = child.stdin.take();
    if let Some(input) = &mut input {
        // paths and names always become JSON
        let line = serde_json::to_string(order).unwrap_or_default() + "\n";
        // a program that has ended by now has said why
        let _ = input.write_all(line.as_bytes()).await;
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let log = tokio::spawn(last_lines(stderr));
    let heard = {
        let mut listening = pin!(listen(stdout, progress));
        tokio::select! {
            heard = &mut listening => heard,
            () = stop => {
                drop(input.take());
                match tokio::time::timeout(PATIENCE, &mut listening).await {
                    // what is whole now has lost its locks, and is not named any more
                    Ok(Ok(Some(Message::Made) | None)) => Err(Error::told(&super::Error::Stopped)),
                    Ok(heard) => heard,
                    Err(_) => Err(Error::Stuck),
                }
            }
        }
    };
    // the child holds their locks until its input ends
    let made = matches!(heard, Ok(Some(Message::Made))).then(|| give_names(order));
    drop(input.take());
    let is_lost = matches!(heard, Err(Error::Silent | Error::Stuck | Error::Watch(_)));
    if is_lost || tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.start_kill();
    }
    let status = child.wait().await.map_err(Error::Watch)?;
    if let Some(made) = made {
        return made.map_err(|error| Error::told(&error));
    }
    order.outputs.iter().for_each(|output| remove_abandoned(&output.path));
    if let Some(Message::Failed { error, is_refusal, is_transient }) = heard? {
        return Err(Error::Told { error, is_refusal, is_transient });
    }
    let log = log.await.unwrap_or_default();
    let is_bare = status.code() == Some(LIBRARY_MISSING);
    Err(if is_bare { Error::Library { log } } else { Error::Ended { status, log } })
}

/// Follows what the child tells, and returns its last word, if it had one.
async fn listen(
    output: Option<impl AsyncRead + Unpin>,
    progress: impl Fn(Bytes, Bytes),
) -> Result<Option<Message>, Error> {
    let Some(mut output) = output else { return Ok(None) };
    let (mut lines, mut buffer) = (Lines::new(LONGEST_LINE), vec![0; LONGEST_LINE]);
    let mut all = Bytes::ZERO;
    loop {
        let read = tokio::time::timeout(LONGEST_SILENCE, output.read(&mut buffer)).await;
        let count = read.map_err(|_| Error::Silent)?.map_err(Error::Watch)?;
        if count == 0 {
            return Ok(None);
        }
        for line in lines.push(&buffer[..count]) {
            match serde_json::from_slice(&line) {
                Ok(Message::Begun(bytes)) => {
                    all = bytes;
                    progress(Bytes::ZERO, all);
                }
                Ok(Message::Progress(done)) => progress(done, all),
                Ok(last) => return Ok(Some(last)),
                // not one of its lines
                Err(_) => {}
            }
        }
    }
}

/// Reads a log to its end and returns its last lines.
async fn last_lines(log: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut log) = log else { return String::new() };
    let (mut lines, mut buffer) = (Lines::new(LONGEST_LINE), vec![0; LONGEST_LINE]);
    let mut last = VecDeque::new();
    // what was heard before it broke off is worth telling
    while let Ok(count @ 1..) = log.read(&mut buffer).await {
        for line in lines.push(&buffer[..count]) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if text.is_empty() {
                continue;
            }
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(text);
        }
    }
    Vec::from(last).join("\n")
}

#[cfg(test)]
#[path = "child_texts_tests.rs"]
mod texts_tests;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Output;
    use super::*;
    use crate::quant::Quant;

    /// What came of it, the progress that was told, and whether a partial file was left.
    type Outcome = (Result<Vec<Made>, Error>, Vec<(Bytes, Bytes)>, bool);

    /// Runs `script` in place of `brambled`; `$OUT` is the output's partial name.
    async fn with_program(script: &str) -> Outcome {
        run_script(script, std::future::pending()).await
    }

    async fn run_script(script: &str, stop: impl Future<Output = ()>) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("brambled");
        let path = dir.path().join("out.gguf");
        let partial = super::super::output::partial_path(&path);
        fs::write(&program, format!("#!/bin/sh\nOUT={}\n{script}\n", partial.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let order = Order {
            source: dir.path().join("in"),
            outputs: vec![Output { quant: Quant::Q4_0, path }],
            imatrix: None,
            may_requantize: false,
            prompt_style: None,
            threads: 3,
        };
        let seen = RefCell::new(Vec::new());
        let tell = |done, all| seen.borrow_mut().push((done, all));
        let result = run(&program, &order, stop, tell).await;
        (result, seen.into_inner(), partial.exists())
    }

    /// As [`with_program`], stopped at once.
    async fn stopped(script: &str) -> Outcome {
        run_script(script, std::future::ready(())).await
    }

    #[tokio::test]
    async fn the_order_goes_in_and_progress_comes_out() {
        let (result, seen, _) = with_program(
            r#"[ "$1" = weights ] && read -r line || exit 9
               case "$line" in *'"threads":3'*) ;; *) exit 8;; esac
               echo '{"begun":30}'; echo noise; echo '{"progress":10}'; echo '{"progress":30}'
               printf weights >"$OUT"; echo '"made"'
               # it has its name by then
               read -r rest; rm -f "$OUT""#,
        )
        .await;
        let [made] = result.unwrap().try_into().unwrap();
        assert_eq!((made.quant, made.bytes), (Quant::Q4_0, Bytes(7)));
        assert!(made.path.ends_with("out.gguf"));
        assert_eq!(seen, [(0, 30), (10, 30), (30, 30)].map(|(done, all)| (Bytes(done), Bytes(all))));
    }

    #[tokio::test]
    async fn the_child_gets_nothing_of_the_environment_but_what_it_needs() {
        // cargo sets the one, and PATH is where `env` is found
        let (result, ..) = with_program(
            r#"[ -z "${CARGO_MANIFEST_DIR+x}${HOME+x}" ] && [ -n "$PATH" ] || exit 9
               : >"$OUT"; echo '"made"'"#,
        )
        .await;
        assert_eq!(result.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_the_child_says_is_the_error() {
        let (result, ..) = with_program(
            r#"echo '{"failed":{"error":"no such thing","is_refusal":true,"is_transient":false}}'; exit 1"#,
        )
        .await;
        let error = result.unwrap_err();
        assert!(error.is_refusal() && !error.is_transient());
        assert_eq!(error.to_string(), "no such thing");
    }

    #[tokio::test]
    async fn a_crash_is_an_error_with_the_last_lines_and_leaves_no_file() {
        let (result, _, is_left) = with_program(
            r#"touch "$OUT"; for n in 1 2 3 4 5 6 7 8; do echo "line $n" >&2; done
               echo GGML_ASSERT >&2; kill -ABRT $$"#,
        )
        .await;
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("aborted by llama.cpp") && text.ends_with("line 8\nGGML_ASSERT"), "{text}");
        assert!(!text.contains("line 1") && !error.is_transient());
        assert!(!is_left);
    }

    #[tokio::test]
    async fn being_killed_from_outside_is_worth_another_try() {
        let (result, _, is_left) = with_program(r#"touch "$OUT"; kill -KILL $$"#).await;
        assert!(result.unwrap_err().is_transient());
        assert!(!is_left);
    }

    #[tokio::test]
    async fn a_program_that_lacks_a_library_is_not_called_short_of_memory() {
        let said = "echo 'cannot open shared object file' >&2; exit 127";
        let (result, _, _) = with_program(said).await;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Library { log } if log == "cannot open shared object file"),
            "{error}"
        );
        assert!(!error.is_transient());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let order = Order {
            source: "in".into(),
            outputs: Vec::new(),
            imatrix: None,
            may_requantize: false,
            prompt_style: None,
            threads: 0,
        };
        let never = std::future::pending();
        let error = run(Path::new("/nonexistent/brambled"), &order, never, |_, _| {}).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/brambled"));
    }

    #[tokio::test]
    async fn a_child_that_is_told_to_stop_is_waited_for() {
        let (result, _, is_left) = stopped(
            r#"touch "$OUT"; read -r order; cat >/dev/null; rm "$OUT"
               echo '{"failed":{"error":"stopped","is_refusal":false,"is_transient":true}}'; exit 1"#,
        )
        .await;
        assert_eq!(result.unwrap_err().to_string(), "stopped");
        assert!(!is_left);
    }

    #[tokio::test]
    async fn a_child_that_says_it_made_what_it_did_not_is_not_believed() {
        let (result, ..) = with_program(r#"echo '"made"'"#).await;
        assert!(result.unwrap_err().to_string().contains("out.gguf"));
    }

    #[tokio::test]
    async fn lines_without_end_take_no_memory() {
        let before = system_memory();
        let (result, ..) = with_program(
            "head -c 500000000 /dev/zero; head -c 500000000 /dev/zero >&2; echo >&2; echo last >&2; exit 3",
        )
        .await;
        let error = result.unwrap_err().to_string();
        assert!(error.ends_with("last") && error.len() < 2 * LONGEST_LINE, "{}", error.len());
        assert!(system_memory() < before + (400 << 20));
    }

    /// The most memory that this process has had, in bytes.
    fn system_memory() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_does_nothing_is_not_waited_for_without_end() {
        let (result, ..) = with_program("exec sleep 600").await;
        assert!(matches!(result, Err(Error::Silent)), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_does_not_stop_is_killed() {
        let (result, ..) = stopped("exec sleep 600").await;
        assert!(matches!(result, Err(Error::Stuck)), "{result:?}");
    }
}
