//! Runs one program of this machine to its end, with bounds on time and output.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use super::Stdin;
use super::shell::Tail;

/// No answer of a host is longer than this.
const MOST_STDOUT: usize = 16 << 20;
/// What is copied at once; more does not make a push faster.
const PIECE: usize = 256 << 10;
/// How often a transfer is looked at.
const TICK: Duration = Duration::from_millis(100);

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
enum Feed {
    Nothing,
    Pipe(Option<ChildStdin>, Vec<u8>),
    /// The program reads the file by itself. We share its file description, so that our
    /// position, less where it began, is its progress: no byte is copied.
    Watch(File, u64, Arc<dyn Fn(u64) + Send + Sync>),
    /// The program cannot skip what is between the parts.
    Copying(Option<ChildStdin>, Copying),
}

/// Parts of a file that go into a pipe.
struct Copying {
    file: File,
    parts: Vec<Range<u64>>,
    on_progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Copying {
    /// Blocks until all is in the pipe, or nobody reads it any longer.
    fn run(self, mut pipe: File) -> io::Result<()> {
        let (mut buffer, mut sent) = (vec![0; PIECE], 0);
        for part in self.parts {
            let mut at = part.start;
            while at < part.end {
                let length = usize::try_from(part.end - at).unwrap_or(PIECE).min(PIECE);
                self.file.read_exact_at(&mut buffer[..length], at)?;
                match pipe.write_all(&buffer[..length]) {
                    // a script need not read its input
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
                at += length as u64;
                sent += length as u64;
                (self.on_progress)(sent);
            }
        }
        Ok(())
    }
}

/// Runs `command` in a process group of its own, so that a Ctrl-C on the terminal reaches
/// us and not the step in hand.
pub(super) async fn run(mut command: Command, stdin: Stdin, limit: Duration) -> (End, Left) {
    let mut left = Left::default();
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.process_group(0).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut feed = match open(&mut command, stdin) {
        Ok(feed) => feed,
        Err((doing, error)) => return (End::Here(doing, error), left),
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (End::Here(format!("cannot start {name}"), error), left),
    };
    if let Feed::Pipe(pipe, _) | Feed::Copying(pipe, _) = &mut feed {
        *pipe = child.stdin.take();
    }
    let mut guard = GroupGuard(child.id());
    let end = match tokio::time::timeout(limit, gather(&mut child, feed, &mut left)).await {
        Err(_) => End::TimedOut,
        Ok(Err(end)) => end,
        Ok(Ok(status)) => {
            guard.0 = None;
            End::Status(code(status))
        }
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

fn open(command: &mut Command, stdin: Stdin) -> Result<Feed, (String, io::Error)> {
    match stdin {
        Stdin::Empty => {
            command.stdin(Stdio::null());
            Ok(Feed::Nothing)
        }
        Stdin::Bytes(bytes) => {
            command.stdin(Stdio::piped());
            Ok(Feed::Pipe(None, bytes))
        }
        Stdin::File { path, parts, on_progress } => {
            let failed = |error| (format!("cannot read {}", path.display()), error);
            let file = File::open(&path).map_err(failed)?;
            let end = file.metadata().map_err(failed)?.len();
            if let [part] = parts.as_slice()
                && part.end == end
            {
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(part.start))
                    .map_err(|errno| failed(errno.into()))?;
                command.stdin(Stdio::from(file.try_clone().map_err(failed)?));
                return Ok(Feed::Watch(file, part.start, on_progress));
            }
            command.stdin(Stdio::piped());
            Ok(Feed::Copying(None, Copying { file, parts, on_progress }))
        }
    }
}

async fn gather(child: &mut Child, feed: Feed, left: &mut Left) -> Result<ExitStatus, End> {
    let here = |doing: &'static str| move |error| End::Here(doing.to_owned(), error);
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let Left { stdout: kept_out, stderr: kept_err } = left;
    let read_out = async {
        let Some(pipe) = &mut stdout else { return Ok(()) };
        loop {
            match pipe.read_buf(kept_out).await.map_err(here("cannot read standard output"))? {
                0 => return Ok(()),
                _ if kept_out.len() > MOST_STDOUT => return Err(End::TooMuch),
                _ => {}
            }
        }
    };
    let read_err = async {
        let Some(pipe) = &mut stderr else { return Ok(()) };
        let mut buffer = vec![0; 8 << 10];
        loop {
            match pipe.read(&mut buffer).await.map_err(here("cannot read standard error"))? {
                0 => return Ok(()),
                n => kept_err.push(&buffer[..n]),
            }
        }
    };
    let cannot_feed = here("cannot feed standard input");
    let (mut watched, mut piped, mut copied) = (None, None, None);
    match feed {
        Feed::Nothing => {}
        Feed::Pipe(pipe, bytes) => piped = pipe.map(|pipe| (pipe, bytes)),
        Feed::Watch(file, begun, on_progress) => watched = Some((file, begun, on_progress)),
        Feed::Copying(pipe, copying) => copied = pipe.map(|pipe| (pipe, copying)),
    }
    let write = async {
        if let Some((pipe, copying)) = copied {
            let pipe = File::from(pipe.into_owned_fd().map_err(cannot_feed)?);
            // tokio's end of a pipe does not block
            rustix::io::ioctl_fionbio(&pipe, false).map_err(|errno| cannot_feed(errno.into()))?;
            let copying = tokio::task::spawn_blocking(move || copying.run(pipe));
            return copying.await.map_err(io::Error::other).flatten().map_err(cannot_feed);
        }
        let Some((mut pipe, bytes)) = piped else { return Ok(()) };
        match pipe.write_all(&bytes).await {
            // a script need not read its input
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_feed(error)),
            _ => Ok(()),
        }
    };
    let work = async {
        tokio::try_join!(read_out, read_err, write)?;
        child.wait().await.map_err(here("cannot wait for a program's end"))
    };
    let watch = async {
        let Some((file, begun, on_progress)) = &watched else {
            return std::future::pending::<Infallible>().await;
        };
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            tell(file, *begun, on_progress);
        }
    };
    let status = tokio::select! {
        status = work => status,
        never = watch => match never {},
    };
    if let Some((file, begun, on_progress)) = &watched {
        tell(file, *begun, on_progress);
    }
    status
}

fn tell(file: &File, begun: u64, on_progress: &Arc<dyn Fn(u64) + Send + Sync>) {
    if let Ok(position) = rustix::fs::tell(file) {
        on_progress(position.saturating_sub(begun));
    }
}
