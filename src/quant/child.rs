//! Quantizing on the operator's machine: `brambled quantize` as a child that can be
//! watched, stopped, and survived.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::Quant;

/// Lines of the log that an error repeats.
const LAST_LINES: usize = 8;
/// No line of llama.cpp's is longer; a longer one is cut.
const LINE_LIMIT: usize = 1024;

/// Why a model was not quantized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not start.
    #[error("cannot run {} to quantize", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program's log can not be read.
    #[error("lost sight of the program that quantizes")]
    Watch(#[source] io::Error),
    /// The program ended otherwise than it should.
    #[error("quantizing to {quant} {}, last saying: {log}", how(*status))]
    Ended {
        /// What was to be made.
        quant: Quant,
        /// How the program ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
}

impl Error {
    /// Tells whether another try may do better: only if something outside killed it.
    pub fn is_transient(&self) -> bool {
        const KILL: i32 = 9;
        matches!(self, Self::Ended { status, .. } if status.signal() == Some(KILL))
    }
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(6), _) => "was aborted by llama.cpp".to_owned(),
        (Some(9), _) => "was killed, perhaps for want of memory".to_owned(),
        (Some(signal), _) => format!("crashed with signal {signal}"),
        (None, Some(code)) => format!("failed with exit code {code}"),
        (None, None) => "failed".to_owned(),
    }
}

/// What is to be quantized, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order<'a> {
    /// The `brambled` to run.
    pub program: &'a Path,
    /// A GGUF of floats.
    pub input: &'a Path,
    /// Where the result goes: nothing should read it before this returns.
    pub output: &'a Path,
    /// What to make.
    pub quant: Quant,
    /// Threads; 0 takes one for each core.
    pub threads: u32,
}

/// Runs the order, and tells `progress` of tensors begun and of tensors in all.
///
/// The child is killed if the returned future is dropped. A file that was begun is removed
/// when the child fails, and is left behind when the future is dropped.
pub async fn run(order: Order<'_>, progress: impl Fn(u32, u32)) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "quantizing is a program of its own")]
    let command = std::process::Command::new(order.program);
    let mut child = Command::from(command)
        .arg("quantize")
        .arg("--input")
        .arg(order.input)
        .arg("--output")
        .arg(order.output)
        .args(["--quant", order.quant.name()])
        .args(["--threads", &order.threads.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Start { program: order.program.to_owned(), source })?;
    let mut log = Log::default();
    if let Some(stderr) = child.stderr.take() {
        log.follow(stderr, progress).await.map_err(Error::Watch)?;
    }
    let status = child.wait().await.map_err(Error::Watch)?;
    if status.success() {
        return Ok(());
    }
    // the error worth reporting is the child's; the file may never have been begun
    let _ = tokio::fs::remove_file(order.output).await;
    let log = Vec::from(log.last).join("\n");
    Err(Error::Ended { quant: order.quant, status, log })
}

/// The end of a child's log.
#[derive(Default)]
struct Log {
    last: VecDeque<String>,
    line: Vec<u8>,
}

impl Log {
    async fn follow(
        &mut self,
        mut source: impl AsyncRead + Unpin,
        progress: impl Fn(u32, u32),
    ) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut reported = None;
        loop {
            let count = source.read(&mut buffer).await?;
            for &byte in &buffer[..count] {
                if byte == b'\n' {
                    self.end_line();
                    continue;
                }
                if self.line.len() < LINE_LIMIT {
                    self.line.push(byte);
                }
                // llama.cpp prints the start of a line when it begins a tensor
                if byte == b']' {
                    let found = counted(&self.line);
                    if let Some((index, count)) = found.filter(|_| found != reported) {
                        reported = found;
                        progress(index, count);
                    }
                }
            }
            if count == 0 {
                self.end_line();
                return Ok(());
            }
        }
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        if !text.is_empty() {
            self.last.push_back(text);
        }
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
    }
}

/// Reads `[  12/ 272]`, if a line starts so.
fn counted(line: &[u8]) -> Option<(u32, u32)> {
    let inner = line.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (index, count) = std::str::from_utf8(inner).ok()?.split_once('/')?;
    Some((index.trim().parse().ok()?, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs `script` in place of `brambled`.
    async fn with_program(script: &str) -> (Result<(), Error>, Vec<(u32, u32)>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("brambled");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let output = dir.path().join("out");
        let (input, quant) = (dir.path().join("in"), Quant::Q4_0);
        let order = Order { program: &program, input: &input, output: &output, quant, threads: 3 };
        let seen = RefCell::new(Vec::new());
        let result = run(order, |index, count| seen.borrow_mut().push((index, count))).await;
        let exists = output.exists();
        (result, seen.into_inner(), exists)
    }

    #[tokio::test]
    async fn progress_is_read_from_the_log() {
        let (result, seen, exists) = with_program(
            r#"[ "$1 $6 $7 $8 $9" = "quantize --quant Q4_0 --threads 3" ] || exit 9
               touch "$5"; printf '[   1/   3] a - [ 4, 4], type\n[   2/   3] b' >&2"#,
        )
        .await;
        result.unwrap();
        assert_eq!(seen, [(1, 3), (2, 3)]);
        assert!(exists);
    }

    #[tokio::test]
    async fn a_crash_is_an_error_with_the_last_lines_and_leaves_no_file() {
        let (result, _, exists) =
            with_program(r#"touch "$5"; for n in 1 2 3 4 5 6 7 8; do echo "line $n" >&2; done; echo GGML_ASSERT >&2; kill -ABRT $$"#)
                .await;
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("aborted by llama.cpp") && text.ends_with("line 8\nGGML_ASSERT"), "{text}");
        assert!(!text.contains("line 1") && !error.is_transient());
        assert!(!exists);
    }

    #[tokio::test]
    async fn being_killed_from_outside_is_worth_another_try() {
        let (result, ..) = with_program("kill -KILL $$").await;
        assert!(result.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let (input, program) = (Path::new("in"), Path::new("/nonexistent/brambled"));
        let order = Order { program, input, output: Path::new("out"), quant: Quant::Q4_0, threads: 0 };
        let error = run(order, |_, _| {}).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/brambled"));
    }
}
