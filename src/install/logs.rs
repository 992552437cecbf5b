//! What the services of this host said, line by line: `brambled logs`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::stand::Stand;
use super::supervise::MAX_LOG_BYTES;
use super::verb::of_current;
use super::{Error, Supervisor, files};
use crate::generation::Layout;
use crate::ids::ModelName;
use crate::lines::Lines;
use crate::unit::{ROUTE, engine_service};

/// Lines on their way to whoever reads them.
const WAITING: usize = 256;

/// The longest line that is passed on, in bytes; the rest of it is left out.
pub(super) const LONGEST_LINE: usize = 16 << 10;

/// How often a log that is a file is looked at.
const LOOKED_EVERY: Duration = Duration::from_millis(250);

/// The arguments of `brambled logs`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogsArgs {
    /// Where Bramble lives on this host
    #[arg(long, default_value = Layout::DEFAULT_ROOT)]
    root: PathBuf,
    /// Only the engines of these models
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<ModelName>,
    /// Only the door
    #[arg(long)]
    door: bool,
    /// The last lines of each service
    #[arg(long, value_name = "N")]
    lines: u32,
    /// Go on until standard input ends
    #[arg(long)]
    follow: bool,
}

/// A line that a service said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The service: `engine-chat`, `route`.
    pub service: String,
    /// When, as RFC 3339 in UTC, where that is known.
    pub at: Option<String>,
    /// What, without the line's end, at most 16 KiB.
    pub text: String,
}

/// What to read of services' logs.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// How many of the last lines of each service.
    pub lines: u32,
    /// Whether to go on with those that come.
    pub follow: bool,
}

/// Runs `brambled logs`: a JSON object for each line to standard output.
///
/// # Errors
/// Nothing is in force here, no engine serves the model, or the log cannot be read.
pub async fn run_logs(args: LogsArgs) -> Result<(), Error> {
    let layout = Layout::new(args.root);
    let models: BTreeSet<ModelName> = args.models.into_iter().collect();
    let stand = Stand::current(&layout)?.ok_or(Error::NothingInForce)?;
    let known = |model: &ModelName| stand.definition.engines.iter().any(|spec| spec.model == *model);
    if let Some(model) = models.iter().find(|model| !known(model)) {
        return Err(Error::NoModel { model: model.to_string() });
    }
    let services: Vec<String> = match (args.door, models.is_empty()) {
        (true, _) => vec![ROUTE.to_owned()],
        (false, true) => stand.services(),
        (false, false) => models.iter().map(engine_service).collect(),
    };
    let reading = Reading { lines: args.lines, follow: args.follow };
    let supervisor = of_current(&layout);
    if args.follow {
        tokio::select! {
            read = pass_on(&*supervisor, &services, reading) => read,
            () = end_of_input() => Ok(()),
        }
    } else {
        pass_on(&*supervisor, &services, reading).await
    }
}

/// Passes lines on: those that are there sorted by time, later ones as they come. Ends when nobody reads.
async fn pass_on(supervisor: &dyn Supervisor, services: &[String], reading: Reading) -> Result<(), Error> {
    let (say, mut heard) = mpsc::channel(WAITING);
    let write = async {
        let mut kept = Vec::new();
        while let Some(line) = heard.recv().await {
            if reading.follow {
                if !print(&line) {
                    return;
                }
            } else {
                kept.push(line);
            }
        }
        kept.sort_by(|one: &LogLine, other| one.at.cmp(&other.at));
        // whoever has gone is not told
        let _ = kept.iter().all(print);
    };
    let read = async {
        let read = services.iter().map(|service| supervisor.read_log(service, reading, say.clone()));
        let read = futures_util::future::try_join_all(read).await;
        drop(say);
        read
    };
    // with nobody who reads, what would be read is of no use
    tokio::pin!(write);
    tokio::select! {
        read = read => {
            read?;
            write.await;
        }
        () = &mut write => {}
    }
    Ok(())
}

fn print(line: &LogLine) -> bool {
    // a line has no map with keys that JSON cannot have
    let text = serde_json::to_string(line).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Waits until whoever asked has gone.
async fn end_of_input() {
    let (say, end) = tokio::sync::oneshot::channel();
    // a thread of its own: the runtime would wait for a read that never ends
    std::thread::spawn(move || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        let _ = say.send(());
    });
    drop(end.await);
}

/// Passes on the last lines of a log of [`super::supervise`]'s, and those that come.
pub(super) async fn tail(
    path: &Path,
    service: &str,
    reading: Reading,
    say: mpsc::Sender<LogLine>,
) -> Result<(), Error> {
    let line = |text: Vec<u8>| LogLine {
        service: service.to_owned(),
        at: None,
        text: String::from_utf8_lossy(&text).into_owned(),
    };
    let mut lines = Lines::new(LONGEST_LINE);
    // a service that never ran has no log
    let mut text = files::read(&path.with_extension("log.1"))?.unwrap_or_default();
    let mut place = Place::at(path).await;
    let newest = place.read().await;
    text.extend(&newest);
    let whole = lines.push(&text);
    let last = whole.len().saturating_sub(usize::try_from(reading.lines).unwrap_or(usize::MAX));
    for text in whole.into_iter().skip(last) {
        if say.send(line(text)).await.is_err() {
            return Ok(());
        }
    }
    if !reading.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(LOOKED_EVERY).await;
        let mut more = place.read().await;
        // put aside, or begun anew: what was still written to the old one was read just now
        let now = Place::at(path).await;
        if now.is_other_than(&place) {
            place = now;
            more.extend(place.read().await);
        }
        for text in lines.push(&more) {
            if say.send(line(text)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// How far a file was read.
struct Place {
    file: Option<File>,
    inode: u64,
}

impl Place {
    /// The beginning of the file, if there is one.
    async fn at(path: &Path) -> Self {
        let file = File::open(path).await.ok();
        let meta = match &file {
            Some(file) => file.metadata().await.ok(),
            None => None,
        };
        Self { file, inode: meta.map_or(0, |meta| meta.ino()) }
    }

    /// Reads what is there, up to twice what a log ever has.
    async fn read(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(file) = &mut self.file {
            // what cannot be read is not there
            let _ = file.take(2 * MAX_LOG_BYTES).read_to_end(&mut text).await;
        }
        text
    }

    fn is_other_than(&self, before: &Self) -> bool {
        self.file.is_some() && self.inode != before.inode
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn the_last_lines_of_a_log_and_those_that_come_are_passed_on_also_over_a_change_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("route.log");
        fs::write(path.with_extension("log.1"), "oldest\nolder\n").unwrap();
        fs::write(&path, "old\nbegun").unwrap();
        let (say, mut heard) = mpsc::channel(10);
        let still = Reading { lines: 2, follow: false };
        tail(&path, "route", still, say.clone()).await.unwrap();
        for text in ["older", "old"] {
            let line = LogLine { service: "route".into(), at: None, text: text.into() };
            assert_eq!(heard.recv().await.unwrap(), line);
        }
        let (follow, from) = (Reading { lines: 0, follow: true }, path.clone());
        let following = tokio::spawn(async move { tail(&from, "route", follow, say).await });
        tokio::time::sleep(2 * LOOKED_EVERY).await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and ended\n").unwrap();
        assert_eq!(heard.recv().await.unwrap().text, "begun and ended");
        fs::rename(&path, path.with_extension("log.1")).unwrap();
        fs::write(&path, "new\n").unwrap();
        assert_eq!(heard.recv().await.unwrap().text, "new");
        drop(heard);
        fs::write(&path, "new\nnobody reads this\n").unwrap();
        following.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_service_that_never_ran_has_said_nothing() {
        let (say, mut heard) = mpsc::channel(10);
        let reading = Reading { lines: 9, follow: false };
        tail(Path::new("/nowhere/route.log"), "route", reading, say).await.unwrap();
        assert_eq!(heard.recv().await, None);
    }
}
