//! The missing parts of one file, over several connections at the same time.
//!
//! Long files are cut into segments, which lanes take one after the other. The first lane asks
//! alone: its answer says where the file is, which version, and whether there are ranges. What
//! the lanes read goes to one thread that writes it. A lane that breaks gives back what
//! it had not got, for the others to take.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use reqwest::Url;
use tokio::sync::{SemaphorePermit, mpsc};

use super::answer::{Begin, begins_at, is_pinned, strong_etag};
use super::error::Error;
use super::web::{Answer, Ask, Web};
use crate::source::PinnedFile;
use crate::store::{Arrival, Error as StoreError};
use crate::units::Bytes;

/// Pieces between the network and the disk, so that a slow disk slows the network instead of
/// filling the memory: 16 KiB each at first, and some 400 KiB where they come fast, hyper's most.
const PIECES: usize = 32;

/// A lane that breaks after this many bytes goes on at once, if it is not the only one: the
/// way is good, and whoever paces the others sees what becomes of them.
const GOOD_GAIN: u64 = 64 << 10;

/// How a round ended.
pub(super) enum Ended {
    /// Nothing is missing any more, or only what nobody broke on.
    Well,
    /// With an error; what came before it has arrived.
    Badly(Error),
    /// The sender has another version now: what has arrived is of no use.
    OtherVersion,
}

/// Where a file was found behind the redirects; kept until it is not there any more.
#[derive(Debug, Default)]
pub(super) struct Place(Mutex<Option<Url>>);

impl Place {
    fn get(&self) -> Option<Url> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, url: Option<Url>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// Asks once for everything that is missing, and writes what comes.
pub(super) async fn round(
    web: &Web,
    place: &Place,
    arrival: Arrival,
    ask: &Ask,
    file: &PinnedFile,
    progress: &(dyn Fn(Bytes) + Sync),
) -> Result<(Arrival, Ended), Error> {
    let arrival = std::sync::Arc::new(arrival);
    let (sender, mut receiver) = mpsc::channel::<(u64, bytes::Bytes)>(PIECES);
    let round = Round {
        web,
        place,
        ask,
        file,
        arrival: &arrival,
        queue: Mutex::new(cut(arrival.gaps(), web.lanes().segment.0)),
        version: Mutex::new(arrival.version()),
        taken: AtomicU64::new(arrival.arrived().0),
        at_work: AtomicUsize::new(0),
        sender,
        progress,
    };
    let writer = std::sync::Arc::clone(&arrival);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some((at, piece)) = receiver.blocking_recv() {
            writer.write_at(at, &piece)?;
        }
        writer.settle()
    });
    let ended = round.run().await;
    // the writer ends when nobody can send any more
    drop(round);
    let cut_off = || Error::Cut { what: ask.what.clone() };
    let written = writing.await.map_err(|_| cut_off())?;
    let arrival = std::sync::Arc::into_inner(arrival).ok_or_else(cut_off)?;
    let ended = match written {
        Err(source) => Ended::Badly(Error::Store { what: ask.what.clone(), source }),
        Ok(()) => ended,
    };
    Ok((arrival, ended))
}

struct Round<'a> {
    web: &'a Web,
    place: &'a Place,
    ask: &'a Ask,
    file: &'a PinnedFile,
    arrival: &'a Arrival,
    queue: Mutex<VecDeque<Range<u64>>>,
    version: Mutex<Option<String>>,
    /// Bytes that are here or on their way to the disk.
    taken: AtomicU64,
    at_work: AtomicUsize,
    sender: mpsc::Sender<(u64, bytes::Bytes)>,
    progress: &'a (dyn Fn(Bytes) + Sync),
}

/// An answer whose body is about to be read.
struct Opened<'a> {
    answer: Answer,
    span: Range<u64>,
    /// Held for as long as the connection is in use.
    turn: Option<SemaphorePermit<'a>>,
}

/// Why a lane stops for good, and the others with it.
enum Stop {
    Error(Error),
    OtherVersion,
}

impl Round<'_> {
    async fn run(&self) -> Ended {
        let Some(span) = self.take() else { return Ended::Well };
        let opened = match self.open_first(span).await {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ended::OtherVersion,
            Err(error) => return Ended::Badly(error),
        };
        let more = self.web.lanes().per_file.saturating_sub(1).min(self.left());
        let mut firsts = vec![Some(opened)];
        firsts.resize_with(1 + more, || None);
        let lanes = firsts.into_iter().map(|first| self.lane(first));
        match try_join_all(lanes).await {
            Err(Stop::OtherVersion) => Ended::OtherVersion,
            Err(Stop::Error(error)) => Ended::Badly(error),
            // what one lane broke on, another one may have brought
            Ok(broken) if self.left() > 0 => {
                broken.into_iter().flatten().next().map_or(Ended::Well, Ended::Badly)
            }
            Ok(_) => Ended::Well,
        }
    }

    /// Asks for the first segment. None means that another version was met.
    async fn open_first(&self, span: Range<u64>) -> Result<Option<Opened<'_>>, Error> {
        let turn = self.web.turn().await;
        let answer = self.answer(&span).await?;
        is_pinned(&answer, self.ask, self.file)?;
        let known = self.version();
        let version = strong_etag(answer.response.headers());
        let is_other = version.is_some() && known.is_some() && version != known;
        let span = match begins_at(&answer, &span, self.file) {
            Begin::Wrong(got) => return Err(self.wrong_length(got)),
            Begin::Here if !is_other || span == (0..self.file.bytes.0) => span,
            // a server that ignores If-Range: the rest of another version does not fit
            Begin::Here | Begin::Nowhere => return Ok(None),
            // another version, or a server without ranges: all of it comes again, and by one lane
            Begin::AtZero => {
                self.keep(self.arrival.restart())?;
                self.taken.store(0, Ordering::Relaxed);
                self.queue().clear();
                0..self.file.bytes.0
            }
        };
        if let Some(version) = version.filter(|version| known.as_ref() != Some(version)) {
            self.keep(self.arrival.set_version(&version))?;
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        }
        Ok(Some(Opened { answer, span, turn }))
    }

    /// Takes segments until there are none. What it broke on comes back as a value, so that
    /// the other lanes go on.
    async fn lane(&self, first: Option<Opened<'_>>) -> Result<Option<Error>, Stop> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        let mut next = first;
        let broken = loop {
            let opened = if let Some(opened) = next.take() {
                opened
            } else {
                let turn = self.web.turn().await;
                let Some(span) = self.take() else { break None };
                match self.open(&span).await? {
                    Ok(answer) => Opened { answer, span, turn },
                    Err(error) => {
                        self.give_back(span);
                        break Some(error);
                    }
                }
            };
            let begun = opened.span.start;
            let (rest, result) = self.pump(opened).await;
            let gain = rest.start - begun;
            self.give_back(rest);
            if let Err(error) = result {
                let is_alone = self.at_work.load(Ordering::Relaxed) < 2;
                if !error.is_transient() {
                    return Err(Stop::Error(error));
                }
                if is_alone || gain < GOOD_GAIN {
                    break Some(error);
                }
            }
        };
        self.at_work.fetch_sub(1, Ordering::Relaxed);
        Ok(broken)
    }

    /// Asks for another segment than the first.
    async fn open(&self, span: &Range<u64>) -> Result<Result<Answer, Error>, Stop> {
        let answer = match self.answer(span).await {
            Ok(answer) => answer,
            Err(error) if error.is_transient() => return Ok(Err(error)),
            Err(error) => return Err(Stop::Error(error)),
        };
        is_pinned(&answer, self.ask, self.file).map_err(Stop::Error)?;
        match begins_at(&answer, span, self.file) {
            Begin::Wrong(got) => Err(Stop::Error(self.wrong_length(got))),
            Begin::Here if strong_etag(answer.response.headers()) == self.version() => Ok(Ok(answer)),
            _ => Err(Stop::OtherVersion),
        }
    }

    /// Asks where the file was found last, or else by its name.
    async fn answer(&self, span: &Range<u64>) -> Result<Answer, Error> {
        let mut ask = self.ask.clone();
        if *span != (0..self.file.bytes.0) {
            ask.range = Some((span.start, Some(span.end - 1)));
            ask.if_range = self.version();
        }
        ask.at = self.place.get();
        let answer = match self.web.ask_once(&ask).await {
            // signed addresses live for an hour or so
            Err(Error::Expired { .. }) if ask.at.is_some() => {
                self.place.set(None);
                ask.at = None;
                self.web.ask_once(&ask).await?
            }
            Err(error) => {
                // the next one asks by its name: the place may be what is broken
                self.place.set(None);
                return Err(error);
            }
            Ok(answer) => answer,
        };
        self.place.set(Some(answer.url.clone()));
        Ok(answer)
    }

    /// Reads a body and returns what of its span has not come.
    async fn pump(&self, opened: Opened<'_>) -> (Range<u64>, Result<(), Error>) {
        let Opened { mut answer, span, turn: _turn } = opened;
        let Range { start: mut at, end } = span;
        let is_to_end = end == self.file.bytes.0;
        loop {
            let mut piece = match self.web.next_piece(&mut answer.response, &self.ask.what).await {
                Ok(Some(piece)) => piece,
                Ok(None) if at < end => return (at..end, Err(self.ended_early())),
                Ok(None) => return (end..end, Ok(())),
                Err(error) => return (at..end, Err(error)),
            };
            let room = end - at;
            if piece.len() as u64 > room {
                if is_to_end {
                    let got = self.file.bytes + Bytes(piece.len() as u64 - room);
                    return (at..end, Err(self.wrong_length(got)));
                }
                // more than the range that was asked for: what follows is another lane's
                piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            }
            let length = piece.len() as u64;
            if self.sender.send((at, piece)).await.is_err() {
                // writing failed, which the writer tells
                return (at..end, Err(self.ended_early()));
            }
            at += length;
            let taken = self.taken.fetch_add(length, Ordering::Relaxed) + length;
            (self.progress)(Bytes(taken));
            if at == end && !is_to_end {
                return (end..end, Ok(()));
            }
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Range<u64>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Range<u64>> {
        self.queue().pop_front()
    }

    fn give_back(&self, span: Range<u64>) {
        if !span.is_empty() {
            self.queue().push_front(span);
        }
    }

    fn left(&self) -> usize {
        self.queue().len()
    }

    fn version(&self) -> Option<String> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep<T>(&self, result: Result<T, StoreError>) -> Result<T, Error> {
        result.map_err(|source| Error::Store { what: self.ask.what.clone(), source })
    }

    fn wrong_length(&self, got: Bytes) -> Error {
        Error::WrongLength { what: self.ask.what.clone(), expected: self.file.bytes, got }
    }

    fn ended_early(&self) -> Error {
        let got = Bytes(self.taken.load(Ordering::Relaxed));
        Error::EndedEarly { what: self.ask.what.clone(), got, expected: self.file.bytes }
    }
}

/// Cuts what is missing into segments, in the order of the file. A file that is no longer
/// than two of them stays whole: another connection would cost more than it brings.
fn cut(gaps: Vec<Range<u64>>, segment: u64) -> VecDeque<Range<u64>> {
    let missing: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    if missing <= 2 * segment {
        return gaps.into();
    }
    let step = usize::try_from(segment.max(1)).unwrap_or(usize::MAX);
    let cut = |gap: Range<u64>| {
        let end = gap.end;
        gap.step_by(step).map(move |start| start..end.min(start.saturating_add(segment)))
    };
    gaps.into_iter().flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Spans;

    #[test]
    fn long_gaps_are_cut_into_segments_in_order() {
        let whole = |size| cut(Spans::default().gaps(size), 10);
        assert!(whole(20).iter().eq([&(0..20)]));
        assert_eq!(whole(21), [0..10, 10..20, 20..21]);
        assert_eq!(cut(vec![3..14, 30..50], 10), [3..13, 13..14, 30..40, 40..50]);
        assert!(cut(Vec::new(), 10).is_empty());
    }
}
