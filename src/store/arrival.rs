use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::journal::{Claims, Journal};
use super::made::Made;
use super::sealed::Mark;
use super::spans::Spans;
use super::write;
use crate::ids::Digest;
use crate::system;
use crate::units::Bytes;

/// Written bytes are claimed in steps of this many: what a killed process loses at most, for
/// a line of some 40 bytes each.
const CLAIM_STEP: u64 = 1 << 20;

/// Bytes that may be written and not on the disk at any moment: what is lost with the power at most. Whoever would go
/// beyond waits for the disk. It also keeps the last sync short.
const SYNC_WINDOW: u64 = 64 << 20;
/// Bytes are brought to the disk in steps of this many, so that more can be written meanwhile.
const SYNC_STEP: u64 = SYNC_WINDOW / 2;

/// Bytes that are given to the kernel at once. For more it takes memory in larger units. Where a virtual machine has to
/// have these from its host first, 512 MiB in steps of 4 MiB cost 0.3 to 1.2 s of processor time, and in these 0.1 to 0.3.
const WRITE_STEP: usize = 128 << 10;

/// Bytes that are hashed at once.
const HASH_STEP: usize = 1 << 20;

/// A blob that arrives in parts, in any order, from several threads.
///
/// A thread of its own hashes what is there from the first byte on, while the rest still
/// arrives, reading it back from the kernel's memory; another one brings it to the disk. A
/// lock keeps other processes away. Dropped before [`Self::seal`], it leaves what has
/// arrived for the next one.
#[derive(Debug)]
pub struct Arrival {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
    blobs: PathBuf,
    proof: Proof,
}

/// What shows that a blob is what it is called.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// All of it is hashed, and the digest is compared where one is expected.
    Whole(Option<Digest>),
    /// Each part was hashed by who wrote it.
    Parts(Digest),
}

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Brings what was written to the disk.
    sync: fn(&File) -> io::Result<()>,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    spans: Spans,
    /// What the journal does not claim yet.
    unclaimed: Spans,
    /// Bytes that are being written, written, and being brought to the disk.
    writing: u64,
    unsynced: u64,
    syncing: u64,
    /// Writers that wait for the disk.
    waiting: usize,
    version: Option<String>,
    /// Raised when everything that has arrived is thrown away.
    round: u64,
    hashed: u64,
    digest: Option<Digest>,
    fault: Option<io::Error>,
    /// Why the disk did not take what was written. The kernel says so once, and may have dropped it.
    lost: Option<io::Error>,
    is_over: bool,
}

impl Arrival {
    /// Takes up, or begins, the blob in the partial file at `path`.
    pub(super) fn open(path: PathBuf, blobs: PathBuf, proof: Proof, size: Bytes) -> Result<Self, Error> {
        Self::open_on(path, blobs, proof, size, File::sync_data)
    }

    /// Does so on a disk that is brought up to date by `sync`.
    pub(super) fn open_on(
        path: PathBuf,
        blobs: PathBuf,
        proof: Proof,
        size: Bytes,
        sync: fn(&File) -> io::Result<()>,
    ) -> Result<Self, Error> {
        let fail = |source| Error::Write { path: path.clone(), source };
        let file = write::open_locked(&path)?;
        let journal_path = Journal::path(&path);
        let mut claims = Journal::read(&journal_path, Some(size.0));
        let length = file.metadata().map_err(fail)?.len();
        if length > size.0 {
            // what is behind the end would be sealed with it
            file.set_len(size.0).map_err(fail)?;
        }
        if length < claims.spans.iter().last().map_or(0, |span| span.end) {
            // somebody has cut it
            claims = Claims::default();
        }
        if claims.spans.prefix() < size.0 {
            reserve(&file, &path, size)?;
        }
        if claims.spans.total() > Bytes::ZERO
            && let Err(source) = sync(&file)
        {
            Journal::void(&path);
            return Err(fail(source));
        }
        let journal = Journal::begin(&journal_path, size.0, &claims).map_err(fail)?;
        let state = State {
            journal,
            spans: claims.spans,
            unclaimed: Spans::default(),
            writing: 0,
            unsynced: 0,
            syncing: 0,
            waiting: 0,
            version: claims.version,
            round: 0,
            hashed: 0,
            digest: None,
            fault: None,
            lost: None,
            is_over: false,
        };
        let inner =
            Inner { file, path, size: size.0, state: Mutex::new(state), changed: Condvar::new(), sync };
        let mut arrival = Self { inner: Arc::new(inner), threads: Vec::new(), blobs, proof };
        arrival.start_threads()?;
        Ok(arrival)
    }

    fn start_threads(&mut self) -> Result<(), Error> {
        if matches!(self.proof, Proof::Whole(_)) {
            self.start("hash", Inner::hash)?;
        }
        if self.inner.is_windowed() {
            self.start("sync", Inner::sync)?;
        }
        Ok(())
    }

    /// Does `work` while no thread of this one runs: what a thread may do, each gives up for itself.
    pub fn without_threads<T>(&mut self, work: impl FnOnce() -> T) -> Result<T, Error> {
        self.stop();
        self.inner.lock().is_over = false;
        let done = work();
        self.start_threads()?;
        Ok(done)
    }

    /// Returns its file once more, under the same lock: another process that is given it holds that, too, and
    /// seals it ([`super::Claimed`]).
    pub fn share(&self) -> io::Result<File> {
        self.inner.file.try_clone()
    }

    fn start(&mut self, name: &str, work: fn(&Inner)) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || work(&inner));
        let fail = |source| Error::Write { path: self.inner.path.clone(), source };
        self.threads.push(started.map_err(fail)?);
        Ok(())
    }

    /// Returns how much is lost if the power goes now.
    #[cfg(test)]
    pub(super) fn at_risk(&self) -> Bytes {
        Bytes(self.inner.lock().at_risk())
    }

    /// Returns how large the blob will be.
    pub fn size(&self) -> Bytes {
        Bytes(self.inner.size)
    }

    /// Returns how much is here, what was resumed included: nothing, where the disk did not take all of it.
    pub fn arrived(&self) -> Bytes {
        let state = self.inner.lock();
        if state.lost.is_some() { Bytes::ZERO } else { state.spans.total() }
    }

    /// Returns whether all of it is here.
    pub fn is_whole(&self) -> bool {
        self.inner.lock().spans.prefix() == self.inner.size
    }

    /// Returns what is missing, by offset.
    pub fn gaps(&self) -> Vec<Range<u64>> {
        self.inner.lock().spans.gaps(self.inner.size)
    }

    /// Returns whether a part is here.
    pub fn holds(&self, part: &Range<u64>) -> bool {
        self.inner.lock().spans.holds(part)
    }

    /// Returns what its sender calls this version of the blob, where that was kept.
    pub fn version(&self) -> Option<String> {
        self.inner.lock().version.clone()
    }

    /// Keeps what the sender calls this version, so that what is missing can be asked of the
    /// same one.
    pub fn set_version(&self, version: &str) -> Result<(), Error> {
        let mut state = self.inner.lock();
        state.journal.version(version).map_err(|source| self.inner.cannot_write(source))?;
        state.version = Some(version.to_owned());
        Ok(())
    }

    /// Writes `data` at the offset `at`, which is where it belongs.
    ///
    /// # Errors
    /// [`Error::Full`] where the disk is; nothing of `data` counts as arrived then.
    pub fn write_at(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let inner = &self.inner;
        let span = at..at + data.len() as u64;
        if span.end > inner.size {
            return Err(inner.cannot_write(io::Error::other("more bytes than the blob has")));
        }
        let bytes = data.len() as u64;
        inner.await_window(bytes)?;
        let mut pieces = data.chunks(WRITE_STEP).zip((at..).step_by(WRITE_STEP));
        let written = pieces.try_for_each(|(piece, at)| inner.file.write_all_at(piece, at));
        let mut state = inner.lock();
        state.writing -= bytes;
        if let Err(source) = written {
            inner.changed.notify_all();
            return Err(inner.cannot_write(source));
        }
        state.spans.add(span.clone());
        state.unclaimed.add(span);
        state.unsynced += bytes;
        if state.unclaimed.total().0 >= CLAIM_STEP {
            state.claim().map_err(|source| inner.cannot_write(source))?;
        }
        inner.changed.notify_all();
        Ok(())
    }

    /// Claims everything that was written, so that nothing of it is sent again.
    pub fn settle(&self) -> Result<(), Error> {
        self.inner.lock().claim().map_err(|source| self.inner.cannot_write(source))
    }

    /// Throws away what has arrived and begins again.
    ///
    /// # Errors
    /// The disk did not take what was written before, or cannot be written to.
    pub fn restart(&self) -> Result<(), Error> {
        let mut state = self.inner.lock();
        state.check_disk().map_err(|source| self.inner.cannot_write(source))?;
        let journal = Journal::begin(&Journal::path(&self.inner.path), self.inner.size, &Claims::default());
        state.journal = journal.map_err(|source| self.inner.cannot_write(source))?;
        state.spans = Spans::default();
        state.unclaimed = Spans::default();
        state.version = None;
        state.unsynced = 0;
        state.hashed = 0;
        state.digest = None;
        state.round += 1;
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Takes up, or begins, the blob `digest` in the partial file at `path`, to be sealed in the
    /// folder `blobs`. Whoever writes has hashed each part before: nothing is read back.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody else has it, [`Error::Full`] where there is no room for all of it.
    pub fn of_proven_parts(
        path: PathBuf,
        blobs: PathBuf,
        digest: Digest,
        size: Bytes,
    ) -> Result<Self, Error> {
        Self::open(path, blobs, Proof::Parts(digest), size)
    }

    /// Gives the whole blob its name: sync, rename, sync of the folder. Waits for the hash.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it is not what was expected; then it is removed.
    pub fn seal(mut self) -> Result<Made, Error> {
        let (got, mark) = match self.proof {
            Proof::Whole(_) => (self.digest()?, Mark::Whole),
            Proof::Parts(digest) if self.is_whole() => (digest, Mark::Parts),
            Proof::Parts(_) => return Err(self.not_whole()),
        };
        if let Proof::Whole(Some(expected)) = self.proof
            && expected != got
        {
            let path = self.inner.path.clone();
            self.discard()?;
            return Err(Error::Mismatch { path, expected, got });
        }
        self.stop();
        self.inner.lock().check_disk().map_err(|source| self.inner.cannot_write(source))?;
        write::name_it(&self.inner.file, mark, &self.inner.path, &self.blobs.join(got.to_string()))?;
        self.forget()?;
        Ok(Made { digest: got, bytes: Bytes(self.inner.size) })
    }

    /// Ends it for another process that holds its file, and seals it: nothing is written any longer.
    ///
    /// # Errors
    /// The disk did not take what was written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.stop();
        self.inner.lock().check_disk().map_err(|source| self.inner.cannot_write(source))
    }

    /// Removes what has arrived.
    pub fn discard(mut self) -> Result<(), Error> {
        self.stop();
        let path = &self.inner.path;
        write::remove_file(path).map_err(|source| Error::Remove { path: path.clone(), source })?;
        self.forget()
    }

    fn forget(&self) -> Result<(), Error> {
        let path = Journal::path(&self.inner.path);
        write::remove_file(&path).map_err(|source| Error::Remove { path, source })
    }

    /// Waits until the whole blob is hashed.
    pub(super) fn digest(&self) -> Result<Digest, Error> {
        let mut state = self.inner.lock();
        loop {
            if let Some(source) = state.fault.take() {
                return Err(Error::Read { path: self.inner.path.clone(), source });
            }
            if let Some(digest) = state.digest {
                return Ok(digest);
            }
            if state.spans.prefix() < self.inner.size {
                return Err(self.not_whole());
            }
            state = self.inner.wait(state);
        }
    }

    fn not_whole(&self) -> Error {
        let missing = io::Error::other("it has not arrived whole");
        Error::Read { path: self.inner.path.clone(), source: missing }
    }

    fn stop(&mut self) {
        self.inner.lock().is_over = true;
        self.inner.changed.notify_all();
        // a thread that panicked has nothing more to say
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.inner.lock().is_over {
            drop(self.settle());
            self.stop();
        }
    }
}

impl State {
    /// Returns how much is lost if the power goes now.
    fn at_risk(&self) -> u64 {
        self.writing + self.unsynced + self.syncing
    }

    /// Returns the error of a disk that did not take what was written.
    fn check_disk(&self) -> io::Result<()> {
        match &self.lost {
            Some(error) => Err(error.raw_os_error().map_or_else(
                || io::Error::new(error.kind(), error.to_string()),
                io::Error::from_raw_os_error,
            )),
            None => Ok(()),
        }
    }

    fn claim(&mut self) -> io::Result<()> {
        let unclaimed = std::mem::take(&mut self.unclaimed);
        self.journal.wrote(&unclaimed)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether more of it may be written than may be lost with the power.
    fn is_windowed(&self) -> bool {
        self.size > SYNC_WINDOW
    }

    /// Waits until so many bytes more may be written, and counts them as being written.
    fn await_window(&self, bytes: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let may_be = |state: &State| {
            let at_risk = state.at_risk();
            let is_last = state.is_over || state.lost.is_some();
            !self.is_windowed() || is_last || at_risk == 0 || at_risk + bytes <= SYNC_WINDOW
        };
        if !may_be(&state) {
            state.waiting += 1;
            // the disk shall not wait for more
            self.changed.notify_all();
            while !may_be(&state) {
                state = self.wait(state);
            }
            state.waiting -= 1;
        }
        state.check_disk().map_err(|source| self.cannot_write(source))?;
        state.writing += bytes;
        Ok(())
    }

    fn cannot_write(&self, source: io::Error) -> Error {
        cannot_write(&self.path, Bytes(self.size), source)
    }

    /// Hashes from the first byte on what is there without a hole, until all of it is hashed.
    fn hash(&self) {
        let mut buffer = vec![0; HASH_STEP];
        let mut hasher = Sha256::new();
        let mut state = self.lock();
        let mut round = state.round;
        state.hashed = 0;
        while !state.is_over {
            if state.round != round {
                (hasher, round) = (Sha256::new(), state.round);
            }
            let (from, until) = (state.hashed, state.spans.prefix());
            if from == self.size && state.digest.is_none() {
                state.digest = Some(Digest::new(hasher.clone().finalize().into()));
                self.changed.notify_all();
            }
            if from == until {
                state = self.wait(state);
                continue;
            }
            drop(state);
            let length = usize::try_from(until - from).unwrap_or(HASH_STEP).min(HASH_STEP);
            let read = self.file.read_exact_at(&mut buffer[..length], from);
            if read.is_ok() {
                hasher.update(&buffer[..length]);
            }
            state = self.lock();
            match read {
                _ if state.round != round => {}
                Ok(()) => state.hashed = from + length as u64,
                Err(error) => {
                    state.fault = Some(error);
                    self.changed.notify_all();
                    return;
                }
            }
        }
    }

    /// Brings what was written to the disk, step by step, and then claims it for good. Where the disk does not take it,
    /// nothing of the blob counts any longer.
    fn sync(&self) {
        let mut state = self.lock();
        while !state.is_over {
            if state.unsynced < SYNC_STEP && (state.waiting == 0 || state.unsynced == 0) {
                state = self.wait(state);
                continue;
            }
            let (spans, round) = (state.spans.clone(), state.round);
            state.syncing = std::mem::take(&mut state.unsynced);
            drop(state);
            let synced = (self.sync)(&self.file);
            state = self.lock();
            state.syncing = 0;
            self.changed.notify_all();
            match synced {
                // a claim that is missing costs bytes after a loss of power, nothing else
                Ok(()) if state.round == round => drop(state.journal.synced(&spans)),
                Ok(()) => {}
                Err(error) => {
                    state.lost = Some(error);
                    state.journal.void_open();
                    return;
                }
            }
        }
    }
}

/// Takes the room for the whole blob, so that a disk that is too small says so now.
fn reserve(file: &File, path: &Path, size: Bytes) -> Result<(), Error> {
    if size == Bytes::ZERO {
        return Ok(());
    }
    loop {
        match system::allocate(file, size.0) {
            Err(Errno::INTR) => {}
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                let error = cannot_write(path, size, error.into());
                if file.metadata().is_ok_and(|meta| meta.len() == 0) {
                    drop(fs::remove_file(path));
                }
                return Err(error);
            }
            // a filesystem that cannot: it will say so when it is full
            _ => return Ok(()),
        }
    }
}

fn cannot_write(path: &Path, size: Bytes, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path, size, source },
        _ => Error::Write { path, source },
    }
}
