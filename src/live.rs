//! What a command is doing to a fleet at the moment, for the page of `bramble ui` on the same machine.
//!
//! One small file in the fleet's folder is written anew while something changes, and put in its place whole. Whoever writes
//! it holds a lock as long as it runs: a command that was killed lets go of it without a word, and is known by that. The file
//! is never part of what an apply decides or remembers: it may be missing or old, and nothing fails for it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::ids::HostName;
use crate::units::Bytes;

/// How often the file is written at most.
const EVERY: Duration = Duration::from_millis(250);

/// Steps and notes that are kept: of more, those that have ended go first.
const MOST: usize = 300;

/// Characters of a text that are kept.
const LONGEST: usize = 600;

/// How long what has ended is worth showing, in seconds.
const SHOWN: u64 = 15 * 60;

/// What a command does, or did last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doing {
    /// The command: `apply`.
    pub verb: String,
    /// Who runs it: `user@machine`.
    pub by: String,
    /// When it began, in seconds since 1970.
    began: u64,
    /// When it ended; none while it runs.
    ended: Option<u64>,
    /// How it is, or came out.
    pub state: Standing,
    /// Its steps, in the order in which they began.
    pub works: Vec<Work>,
    /// What else there was to say.
    pub notes: Vec<Note>,
}

/// How a command, or a step of one, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It runs.
    Running,
    /// All of it was done.
    Done,
    /// It failed, or some of it did.
    Failed,
    /// It ended in its middle, without a word.
    Broken,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    #[serde(skip)]
    key: String,
    #[serde(skip)]
    since: Option<Instant>,
    /// The host that it is done on; none on this machine.
    pub host: Option<HostName>,
    /// What is done: `pushing chat (Q8_0)`.
    pub what: String,
    /// Bytes that it moves, where that is known.
    pub total: Option<Bytes>,
    /// Bytes that it has moved.
    pub done: Bytes,
    /// How it is.
    pub state: Standing,
    /// What came of it, or why it failed.
    pub outcome: Option<String>,
    /// How long it took so far.
    pub seconds: f64,
}

/// Something to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The host that it concerns.
    pub host: Option<HostName>,
    /// The sentence.
    pub text: String,
}

impl Doing {
    fn new(verb: &str, by: &str, now: u64) -> Self {
        let (verb, by) = (cut(verb), cut(by));
        Self {
            verb,
            by,
            began: now,
            ended: None,
            state: Standing::Running,
            works: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Returns how many seconds ago it began.
    pub fn began_ago(&self, now: u64) -> u64 {
        now.saturating_sub(self.began)
    }

    /// Takes note of what happened.
    fn take(&mut self, event: &Event) {
        match event {
            Event::Started { key, host, what, total } => {
                if self.works.len() >= MOST
                    && let Some(over) = self.works.iter().position(|work| work.state != Standing::Running)
                {
                    self.works.remove(over);
                }
                if self.works.len() < MOST {
                    self.works.push(Work {
                        key: key.clone(),
                        since: Some(Instant::now()),
                        host: host.clone(),
                        what: cut(what),
                        total: *total,
                        done: Bytes::ZERO,
                        state: Standing::Running,
                        outcome: None,
                        seconds: 0.0,
                    });
                }
            }
            Event::Progress { key, done, .. } => {
                if let Some(work) = self.work(key) {
                    work.done = *done;
                }
            }
            Event::Finished { key, outcome } => self.end(key, Standing::Done, outcome.as_deref()),
            Event::Failed { key, error } => self.end(key, Standing::Failed, Some(error)),
            Event::Note { host, text } => {
                if self.notes.len() >= MOST {
                    self.notes.remove(0);
                }
                self.notes.push(Note { host: host.clone(), text: cut(text) });
            }
        }
    }

    fn work(&mut self, key: &str) -> Option<&mut Work> {
        self.works.iter_mut().find(|work| work.key == key && work.state == Standing::Running)
    }

    fn end(&mut self, key: &str, state: Standing, outcome: Option<&str>) {
        if let Some(work) = self.work(key) {
            work.state = state;
            work.outcome = outcome.map(cut);
            work.seconds = work.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        }
    }

    /// Brings the times of what runs up to now.
    fn tick(&mut self) {
        for work in self.works.iter_mut().filter(|work| work.state == Standing::Running) {
            work.seconds = work.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Writes down what a command does. Cheap to clone; does nothing before [`Self::begin`].
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Option<Record>>>);

#[derive(Debug)]
struct Record {
    doing: Doing,
    path: PathBuf,
    is_new: bool,
    /// Held as long as the command runs.
    _lock: File,
}

fn paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("doing.json"), folder.join("doing.lock"))
}

impl Recorder {
    fn record(&self) -> MutexGuard<'_, Option<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to write into the fleet's `folder` what `verb` does at `now`, in seconds since 1970. Where that cannot be
    /// done, or another command writes there already, nobody is told of this one.
    pub async fn begin(&self, folder: &Path, verb: &str, by: &str, now: u64) {
        let (path, lock) = paths(folder);
        // the fleet's keys come to the same folder: only its owner sees what is there
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let opened = made.and_then(|()| {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)
        });
        let Ok(lock) = opened else { return };
        // a reader holds it for a moment
        let mut tries = 0;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            tries += 1;
            if tries > 10 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *self.record() = Some(Record { doing: Doing::new(verb, by, now), path, is_new: true, _lock: lock });
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            while let Some(record) = weak.upgrade() {
                if !Self(record).write() {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            }
        });
    }

    /// Takes note of an event. Does not wait for a disk.
    pub fn take(&self, event: &Event) {
        if let Some(record) = &mut *self.record() {
            record.doing.take(event);
            record.is_new = true;
        }
    }

    /// Writes how it came out at `now`, and is done.
    pub fn end(&self, is_well: bool, now: u64) {
        if let Some(record) = &mut *self.record() {
            record.doing.state = if is_well { Standing::Done } else { Standing::Failed };
            record.doing.ended = Some(now);
            record.is_new = true;
        }
        self.write();
        *self.record() = None;
    }

    /// Writes what is new. Returns whether there may be more.
    fn write(&self) -> bool {
        let (path, doing) = match &mut *self.record() {
            None => return false,
            Some(record) => {
                let is_running = record.doing.works.iter().any(|work| work.state == Standing::Running);
                if !std::mem::take(&mut record.is_new) && !is_running {
                    return true;
                }
                record.doing.tick();
                (record.path.clone(), record.doing.clone())
            }
        };
        if let Err(error) = save(&path, &doing) {
            tracing::debug!(%error, "nobody is told what is being done");
        }
        true
    }
}

/// Puts it in its place whole. It need not outlast a power cut: what it tells of would have ended with that.
fn save(path: &Path, doing: &Doing) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".doing-").tempfile_in(folder)?;
    file.write_all(&serde_json::to_vec(doing)?)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Returns what is being done to the fleet of `folder` at `now`, or was a few minutes ago; none where that is nothing.
pub fn read(folder: &Path, now: u64) -> Option<Doing> {
    let (path, lock) = paths(folder);
    let mut doing: Doing = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    if doing.ended.is_some_and(|ended| now.saturating_sub(ended) > SHOWN) {
        return None;
    }
    let is_held =
        File::open(lock).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err());
    if doing.state == Standing::Running && !is_held {
        doing.state = Standing::Broken;
        // of when it ended nobody knows
        if now.saturating_sub(doing.began) > 24 * 60 * 60 {
            return None;
        }
    }
    Some(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(key: &str, total: Option<Bytes>) -> Event {
        let what = format!("pushing {key}");
        Event::Started { key: key.to_owned(), host: Some("kitchen".parse().unwrap()), what, total }
    }

    #[tokio::test]
    async fn what_runs_is_seen_as_it_goes_and_what_was_killed_as_broken_off() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        recorder.take(&started("before", None));
        assert_eq!(read(folder.path(), 100), None);
        recorder.begin(folder.path(), "apply", "me@desk", 100).await;
        recorder.take(&started("a", Some(Bytes(10))));
        recorder.take(&started("b", None));
        recorder.take(&Event::Progress { key: "a".to_owned(), done: Bytes(4), from_hosts: Bytes::ZERO });
        recorder.take(&Event::Failed { key: "b".to_owned(), error: "no\nroom".to_owned() });
        recorder.write();
        let seen = read(folder.path(), 130).unwrap();
        assert_eq!((seen.state, seen.began_ago(130), seen.works.len()), (Standing::Running, 30, 2));
        assert_eq!((seen.works[0].done, seen.works[0].state), (Bytes(4), Standing::Running));
        assert_eq!(seen.works[1].outcome.as_deref(), Some("no room"));
        // a second one leaves it alone
        let other = Recorder::default();
        other.begin(folder.path(), "rollback", "you@desk", 101).await;
        other.end(true, 102);
        assert_eq!(read(folder.path(), 130).unwrap().verb, "apply");
        // killed: the system lets go of the lock
        drop(recorder.record().take());
        assert_eq!(read(folder.path(), 130).unwrap().state, Standing::Broken);
        assert_eq!(read(folder.path(), 100 + 24 * 60 * 60 + 1), None);
    }

    #[tokio::test]
    async fn what_has_ended_is_shown_for_a_while_and_only_to_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        recorder.begin(folder.path(), "apply", "me@desk", 100).await;
        recorder.take(&started("a", None));
        recorder.take(&Event::Finished { key: "a".to_owned(), outcome: None });
        recorder.end(true, 160);
        let seen = read(folder.path(), 160 + SHOWN).unwrap();
        assert_eq!((seen.state, seen.works[0].state), (Standing::Done, Standing::Done));
        assert_eq!(read(folder.path(), 161 + SHOWN), None);
        for file in ["doing.json", "doing.lock"] {
            let mode = std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "and nothing else is left");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut doing = Doing::new("apply", "me", 1);
        for nth in 0..2000 {
            let key = nth.to_string();
            doing.take(&started(&key, None));
            doing.take(&Event::Note { host: None, text: "x".repeat(9000) });
            if nth > 0 {
                doing.take(&Event::Finished { key, outcome: Some("y".repeat(9000)) });
            }
        }
        assert_eq!(
            (doing.works.len(), doing.notes.len(), doing.works[0].state),
            (MOST, MOST, Standing::Running)
        );
        assert!(serde_json::to_vec(&doing).unwrap().len() < 1 << 20);
    }
}
