//! What a host has of a blob, shared by those who bring chunks and those who give them away.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::board::{Board, Going};
use super::chunks::ChunkList;
use super::frame::Reply;
use super::packing::{Packer, Seen};
use crate::pace::Pace;
use crate::units::Bytes;

/// How long anybody waits before looking at the time.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// How long a read waits for bytes before it is asked whether to go on.
pub(super) const READ_TICK: Duration = Duration::from_secs(1);

/// The board of a blob, and the file that its proven chunks are in.
#[derive(Debug)]
pub(super) struct Shelf {
    board: Mutex<Board>,
    changed: Condvar,
    pub(super) list: ChunkList,
    file: File,
    /// Nobody gets anything any longer.
    is_closed: AtomicBool,
    /// Buffers of chunks, used again.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// When chunks may be asked for.
    asking: Option<Mutex<Pace>>,
    /// When bytes may be read: a chunk that was asked for comes no faster than the rate, either.
    reading: Option<Mutex<Pace>>,
}

impl Shelf {
    /// `file` has, or will have, each chunk of `list` that `board` says is here.
    pub(super) fn new(board: Board, list: ChunkList, file: File, pace: Option<Pace>) -> Self {
        Self {
            board: Mutex::new(board),
            changed: Condvar::new(),
            list,
            file,
            is_closed: AtomicBool::new(false),
            buffers: Mutex::default(),
            asking: pace.clone().map(Mutex::new),
            reading: pace.map(Mutex::new),
        }
    }

    /// Looks at the board, or changes what nobody waits for.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Board) -> T) -> T {
        look(&mut self.lock())
    }

    /// Changes the board, and wakes whoever waits for that.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    /// Lets nobody have anything any longer.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Waits until it is closed.
    pub(super) fn wait_closed(&self) {
        while !self.is_closed() {
            self.wait();
        }
    }

    /// Waits for a change, for a moment.
    fn wait(&self) {
        drop(self.changed.wait_timeout(self.lock(), TICK));
    }

    /// Returns whether what comes here keeps to a rate.
    pub(super) fn is_paced(&self) -> bool {
        self.reading.is_some()
    }

    /// Returns whether anything more is to come.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_closed() && self.with(|board| board.going()) == Going::On
    }

    /// Waits until then, or until nothing more is to come.
    pub(super) fn wait_until(&self, due: Instant) {
        while self.goes_on() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            drop(self.changed.wait_timeout(self.lock(), left.min(TICK)));
        }
    }

    /// Waits for a chunk. Returns whether it is here, or nothing when it may still come.
    pub(super) fn wait_for(&self, at: usize, limit: Duration) -> Option<bool> {
        let until = Instant::now() + limit;
        let mut board = self.lock();
        loop {
            if board.has(at) {
                return Some(true);
            }
            if self.is_closed() || at >= self.list.chunks.len() || board.going() != Going::On {
                return Some(false);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            board = self.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reads a piece of the file into `packer`, and packs it where that is wished, by what was `seen`, and worth it.
    pub(super) fn pack(
        &self,
        packer: &mut Packer,
        piece: Range<u64>,
        seen: Option<&mut Seen>,
    ) -> io::Result<Option<Vec<u8>>> {
        match seen {
            Some(seen) => packer.pack(&self.file, piece, seen),
            None => packer.read(&self.file, piece).map(|()| None),
        }
    }

    pub(super) fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the next chunk may be asked for.
    fn paid(&self, now: Instant) -> Instant {
        let pace = self.asking.as_ref();
        pace.map_or(now, |pace| pace.lock().unwrap_or_else(PoisonError::into_inner).paid(now))
    }

    fn spend(&self, bytes: u64, now: Instant) {
        if let Some(pace) = &self.asking {
            pace.lock().unwrap_or_else(PoisonError::into_inner).spend(Bytes(bytes), now);
        }
    }

    /// So many bytes have been read: waits until more may be.
    fn hold_back(&self, me: usize, came: usize) {
        if let Some(pace) = &self.reading {
            let now = Instant::now();
            let due = pace.lock().unwrap_or_else(PoisonError::into_inner).spend(Bytes(came as u64), now);
            // whoever is read from is to be seen to be alive
            self.wait_until(due.min(now + READ_TICK));
            // and nobody is to blame for the time that was waited here
            self.with(|board| board.forgive_one(me, now.elapsed()));
        }
    }

    /// Asks `source`, the one at the place `me` on the board, for chunks, and passes them on to
    /// `brought`, until nothing more is to come from it. An error says that it is of no use any longer.
    pub(super) fn bring(
        &self,
        me: usize,
        source: &mut impl Bringer,
        brought: &SyncSender<(usize, Vec<u8>)>,
    ) -> io::Result<()> {
        self.change(|board| board.connected(me));
        loop {
            let now = Instant::now();
            let mut owed = self.with(|board| board.owes(me));
            // a rate is kept by asking for one chunk after the other
            while self.paid(now) <= now || owed.is_none() {
                self.wait_until(self.paid(now));
                let now = Instant::now();
                let Some(at) = self.with(|board| board.next(me, now)) else { break };
                self.spend(self.length(at), now);
                source.ask(at)?;
                owed = owed.or(Some(at));
            }
            let Some(at) = owed else {
                if self.with(|board| board.is_gone(me) || board.going() != Going::On) {
                    return Ok(());
                }
                if !source.is_there() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                self.wait();
                continue;
            };
            let mut data = self.buffer();
            let mut tick = |came: usize| {
                let now = Instant::now();
                if came > 0 {
                    self.with(|board| board.heard(me, now));
                    self.hold_back(me, came);
                }
                self.with(|board| !board.is_gone(me) && board.going() == Going::On)
            };
            match source.reply(self.length(at), &mut data, &mut tick)? {
                Reply::Waiting => self.with(|board| board.waits(me, Instant::now())),
                Reply::Chunk => match self.change(|board| board.brought(me, Instant::now())) {
                    Some(at) if brought.send((at, data)).is_err() => return Ok(()),
                    _ => {}
                },
            }
        }
    }

    fn length(&self, at: usize) -> u64 {
        self.list.chunks.get(at).map_or(0, |chunk| chunk.range.end - chunk.range.start)
    }
}

/// Somebody who can be asked for chunks, and brings them in the order in which they were asked for.
pub(super) trait Bringer {
    /// Returns whether it is still there, as far as that can be seen while it owes nothing.
    fn is_there(&mut self) -> bool {
        true
    }

    /// Asks for a chunk.
    fn ask(&mut self, at: usize) -> io::Result<()>;

    /// Reads what it says next: a chunk of `length` bytes, into `data`. Calls `tick` with the number of
    /// bytes that came, now and then; when that says no, it is an error.
    fn reply(
        &mut self,
        length: u64,
        data: &mut Vec<u8>,
        tick: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<Reply>;
}

/// Reads from what gives up waiting now and then, for as long as `tick` says so.
pub(super) struct Patient<'a, R> {
    pub(super) from: R,
    pub(super) tick: &'a mut dyn FnMut(usize) -> bool,
}

impl<R: Read> Read for Patient<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.from.read(buffer);
            let came = match &read {
                Ok(came) => *came,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    0
                }
                Err(_) => return read,
            };
            if !(self.tick)(came) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if read.is_ok() {
                return read;
            }
        }
    }
}

/// Waits for input no longer than a moment at a time.
#[derive(Debug)]
pub(super) struct Polled<R>(pub(super) R);

impl<R: Read + AsFd> Read for Polled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_ready(&self.0, READ_TICK)? { self.0.read(buffer) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// Waits until something can be read, or taken, from `from`.
pub(super) fn is_ready(from: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
