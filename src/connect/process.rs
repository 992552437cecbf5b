//! Runs one program of this machine to its end, with bounds on time and output.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

use super::shell::{Tail, Wrapped};
use super::{Piece, Stdin, Talk};
use crate::system;

/// No answer of a host is longer than this.
const MOST_STDOUT: usize = 16 << 20;
/// What is copied at once; more does not make a push faster.
const PIECE: usize = 256 << 10;
/// What a pipe holds that a conversation goes through, where the system allows it.
const PIPE: usize = 1 << 20;

/// What a program left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Tail,
}

/// How it went.
#[derive(Debug)]
pub(super) enum End {
    /// It ended with this status; 128 + n after signal n.
    Status(i32),
    /// It was killed: its time was over.
    TimedOut,
    /// It was killed: it wrote too much.
    TooMuch,
    /// It could not be started or spoken to.
    Here(String, io::Error),
}

/// What a program reads.
enum Feed<'a> {
    Nothing,
    Pipe(Option<ChildStdin>, Zeroizing<Vec<u8>>),
    Talking(Option<ChildStdin>, &'a mut mpsc::Receiver<Piece>),
}

/// What a program reads, and where it writes. One that was refused before it began has heard nothing of it.
pub(super) enum Io {
    /// All that it reads is known; all that it writes is kept.
    Whole(Stdin),
    /// It is talked with.
    Talk(Talk),
}

/// Returns whether the other end of a pipe took what was written: a script need not read its input.
fn is_read(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

impl Piece {
    /// Blocks until it is in the pipe. A part of a file is not copied on its way.
    fn write(self, mut pipe: &File) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => pipe.write_all(&bytes),
            Self::Part(file, range) => {
                let mut at = range.start;
                while at < range.end {
                    let length = usize::try_from(range.end - at).unwrap_or(PIPE).min(PIPE);
                    match system::splice(&file, &mut at, pipe, length) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        // a file system that cannot
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                            let mut copy = vec![0; length.min(PIECE)];
                            file.read_exact_at(&mut copy, at)?;
                            pipe.write_all(&copy)?;
                            at += copy.len() as u64;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }
}

/// Whom to kill when a program's time is over, it wrote too much, or its caller goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// The program and what it has started.
    Group,
    /// The program alone.
    Program,
}

/// Runs `command` in a process group of its own, so that a Ctrl-C on the terminal reaches
/// us and not the step in hand. It reads the first line of `wrapped` before anything else.
pub(super) async fn run(
    command: Command,
    wrapped: Option<&Wrapped>,
    io: &mut Io,
    limit: Duration,
) -> (End, Left) {
    run_until(command, wrapped, io, tokio::time::sleep(limit), Victim::Group).await
}

/// Runs `command` like [`run`]; its time is over when `over` is.
pub(super) async fn run_until(
    mut command: Command,
    wrapped: Option<&Wrapped>,
    io: &mut Io,
    over: impl Future<Output = ()>,
    victim: Victim,
) -> (End, Left) {
    let mut left = Left::default();
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.process_group(0).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    let first_line = wrapped.and_then(Wrapped::first_line);
    let (mut feed, ear) = match io {
        Io::Whole(stdin) => (open(&mut command, stdin.clone(), first_line.is_some()), None),
        Io::Talk(Talk { input, output }) => {
            command.stdin(Stdio::piped());
            (Feed::Talking(None, input), Some(output.clone()))
        }
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (End::Here(format!("cannot start {name}"), error), left),
    };
    if let Feed::Pipe(pipe, _) | Feed::Talking(pipe, _) = &mut feed {
        *pipe = child.stdin.take();
    }
    let mut guard = GroupGuard(child.id().filter(|_| victim == Victim::Group));
    let end = tokio::select! {
        biased;
        ended = gather(&mut child, (first_line, feed), (wrapped, ear), &mut left) => match ended {
            Err(end) => end,
            Ok(status) => {
                guard.0 = None;
                End::Status(code(status))
            }
        },
        () = over => End::TimedOut,
    };
    drop(guard);
    if !matches!(end, End::Status(_)) {
        // reaps it; an error means that it is gone already
        let _ = child.kill().await;
    }
    left.stderr.trim();
    (end, left)
}

/// Kills what is left of a process group: on a timeout, and when the caller goes away.
struct GroupGuard(Option<u32>);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // an error means that there is nobody left to kill
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// `is_led`: something goes into standard input before this.
fn open(command: &mut Command, stdin: Stdin, is_led: bool) -> Feed<'static> {
    match stdin {
        Stdin::Empty if is_led => {
            command.stdin(Stdio::piped());
            Feed::Pipe(None, Zeroizing::default())
        }
        Stdin::Empty => {
            command.stdin(Stdio::null());
            Feed::Nothing
        }
        Stdin::Bytes(bytes) => {
            command.stdin(Stdio::piped());
            Feed::Pipe(None, bytes)
        }
    }
}

async fn gather(
    child: &mut Child,
    (first_line, mut feed): (Option<Zeroizing<Vec<u8>>>, Feed<'_>),
    (wrapped, mut ear): (Option<&Wrapped>, Option<mpsc::Sender<Vec<u8>>>),
    left: &mut Left,
) -> Result<ExitStatus, End> {
    let here = |doing: &'static str| move |error| End::Here(doing.to_owned(), error);
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let begun = Notify::new();
    let Left { stdout: kept_out, stderr: kept_err } = left;
    let read_out = async {
        let Some(pipe) = &mut stdout else { return Ok(()) };
        loop {
            let read = pipe.read_buf(kept_out).await.map_err(here("cannot read standard output"))?;
            match &ear {
                _ if read == 0 => break,
                // who does not listen any longer is done with it, and it may still speak
                Some(ear) => drop(ear.send(std::mem::take(kept_out)).await),
                None if kept_out.len() > MOST_STDOUT => return Err(End::TooMuch),
                None => {}
            }
        }
        ear = None;
        Ok(())
    };
    let read_err = async {
        let Some(pipe) = &mut stderr else { return Ok(()) };
        let mut buffer = vec![0; 8 << 10];
        let mut awaited = wrapped;
        loop {
            match pipe.read(&mut buffer).await.map_err(here("cannot read standard error"))? {
                0 => return Ok(()),
                n => kept_err.push(&buffer[..n]),
            }
            let Some(wrapped) = awaited else { continue };
            if wrapped.has_begun(kept_err) {
                awaited = None;
                begun.notify_one();
            } else if kept_err.has_full_head() {
                // whoever waits for it to begin would wait until the time is over
                return Err(End::TooMuch);
            }
        }
    };
    let ended = async {
        tokio::try_join!(read_out, read_err)?;
        child.wait().await.map_err(here("cannot wait for a program's end"))
    };
    let write = async {
        if let (Some(line), Some(pipe)) = (&first_line, feed.pipe()) {
            is_read(pipe.write_all(line).await).map_err(here("cannot feed standard input"))?;
        }
        // what was said to a script that never begins could not be said again
        if wrapped.is_some() && matches!(feed, Feed::Talking(..)) {
            begun.notified().await;
        }
        feed.write().await.map_err(here("cannot feed standard input"))?;
        std::future::pending::<Result<Infallible, End>>().await
    };
    tokio::select! {
        status = ended => status,
        written = write => match written {
            Ok(never) => match never {},
            Err(end) => Err(end),
        },
    }
}

impl Feed<'_> {
    /// Returns the pipe that the program reads, where it is one.
    fn pipe(&mut self) -> Option<&mut ChildStdin> {
        match self {
            Self::Pipe(pipe, _) | Self::Talking(pipe, _) => pipe.as_mut(),
            Self::Nothing => None,
        }
    }

    /// Gives the program what it reads, to the end of it.
    async fn write(self) -> io::Result<()> {
        match self {
            Self::Pipe(Some(mut pipe), bytes) => is_read(pipe.write_all(&bytes).await).map(drop),
            Self::Talking(Some(pipe), input) => {
                let pipe = Arc::new(blocking(pipe)?);
                // more in flight between the two programs; where there is a limit, so be it
                system::enlarge_pipe(&pipe, PIPE);
                while let Some(piece) = input.recv().await {
                    let pipe = Arc::clone(&pipe);
                    let written = tokio::task::spawn_blocking(move || piece.write(&pipe));
                    if !is_read(written.await.map_err(io::Error::other)?)? {
                        // whoever goes on speaking would wait for ever
                        input.close();
                    }
                }
                Ok(())
            }
            Self::Nothing | Self::Pipe(None, _) | Self::Talking(None, _) => Ok(()),
        }
    }
}

/// Takes a pipe whose writers wait; tokio's end of one does not block.
fn blocking(pipe: ChildStdin) -> io::Result<File> {
    let pipe = File::from(pipe.into_owned_fd()?);
    rustix::io::ioctl_fionbio(&pipe, false)?;
    Ok(pipe)
}

/// How long that may take.
const LOOKING: Duration = Duration::from_secs(20);

/// Runs a program of this machine that needs no input, and returns what it prints.
pub(super) async fn look(command: Command) -> io::Result<String> {
    let (end, left) = run(command, None, &mut Io::Whole(Stdin::Empty), LOOKING).await;
    match end {
        End::Status(0) => Ok(String::from_utf8_lossy(&left.stdout).into_owned()),
        End::Here(_, source) => Err(source),
        _ => Err(io::Error::other(left.stderr.text().trim().to_owned())),
    }
}
