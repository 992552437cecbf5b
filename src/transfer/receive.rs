//! The host's end of a push: `brambled receive`.
//!
//! First the sender offers the list of the blob's chunks, and hears which are missing: what an
//! interrupted push left counts by its journal, and what lies in other blobs is copied from
//! there. Then it sends the missing ones, one after the other, without anything between: both
//! ends know the list. Each chunk is hashed before it is written, so nothing is read again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use rustix::fs::statvfs;

use super::chunks::{self, ChunkList, MOST_LIST};
use super::{Answer, PROTOCOL, Reason};
use crate::causes::with_causes;
use crate::generation::Layout;
use crate::ids::Digest;
use crate::store::{self, Arrival};
use crate::units::Bytes;

/// Room that is left to the rest of the system, so that its journal and package manager
/// go on working. The plan keeps more; this is the last guard.
const MARGIN: Bytes = Bytes::mib(64);
/// Inodes that are left to the rest of the system.
const MARGIN_INODES: u64 = 64;
/// Chunks that have arrived and wait to be hashed and written, at most: with the one that
/// arrives and the one that is written, 16 MiB.
const WAITING: usize = 2;

/// What to receive.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where Bramble lives on this host.
    pub layout: Layout,
    /// The blob's digest.
    pub digest: Digest,
}

/// The arguments of `brambled receive`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReceiveArgs {
    /// Where Bramble lives on this host
    #[arg(long, default_value = Layout::DEFAULT_ROOT)]
    root: PathBuf,
    /// The blob's SHA-256
    #[arg(long)]
    digest: Digest,
    /// The version of what the two ends say to each other
    #[arg(long)]
    protocol: u32,
    /// Take the chunks that were named as missing, by the SHA-256 that came with them; without it,
    /// standard input is the list of chunks
    #[arg(long)]
    take: Option<Digest>,
}

/// Runs `brambled receive`: standard input to blob, one JSON value on standard output.
pub fn run_receive(args: ReceiveArgs) -> ExitCode {
    let order = Order { layout: Layout::new(args.root), digest: args.digest };
    let input = &mut io::stdin().lock();
    let answer = if args.protocol == PROTOCOL {
        match args.take {
            None => offer(&order, input),
            Some(missing) => take(&order, &missing, input),
        }
    } else {
        let message = format!(
            "the sender speaks version {} of the protocol, and this brambled {PROTOCOL}: use bramble and bundle of one release",
            args.protocol
        );
        Answer::Refused { reason: Reason::Protocol, message, partial: Bytes::ZERO }
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let is_told = writeln!(io::stdout().lock(), "{text}").is_ok();
    if is_told && !matches!(answer, Answer::Refused { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Refusal = (Reason, String);

/// Takes the list of a blob's chunks from `input`, copies what other blobs here have of them, and
/// says what is missing.
pub fn offer(order: &Order, input: &mut impl Read) -> Answer {
    let place = Place::new(order);
    let answer = place.offer(input);
    place.told(answer)
}

/// Takes the chunks that [`offer`] has named, `missing` being the digest of their names, and seals
/// the blob.
pub fn take(order: &Order, missing: &Digest, input: &mut impl Read) -> Answer {
    let place = Place::new(order);
    let answer = place.take(missing, input);
    place.told(answer)
}

/// Returns what stands for the chunks that are missing.
fn named(missing: &[usize]) -> Digest {
    let numbers: Vec<u8> = missing.iter().flat_map(|at| (*at as u64).to_le_bytes()).collect();
    Digest::of(&numbers)
}

/// Where one blob goes.
struct Place {
    digest: Digest,
    blob: PathBuf,
    partial: PathBuf,
    /// The same blob, as it was found to be damaged.
    damaged: PathBuf,
    /// The list of what is arriving.
    list: PathBuf,
    /// The lists of blobs that are sealed.
    lists: PathBuf,
}

impl Place {
    fn new(order: &Order) -> Self {
        let (layout, digest) = (&order.layout, order.digest);
        let partial = layout.partial(&digest);
        Self {
            digest,
            blob: layout.blob(&digest),
            damaged: layout.damaged(&digest),
            list: partial.with_added_extension("chunks"),
            partial,
            lists: layout.chunks(),
        }
    }

    fn told(&self, answer: Result<Answer, Refusal>) -> Answer {
        answer.unwrap_or_else(|(reason, message)| {
            let partial = store::arrived(&self.partial);
            Answer::Refused { reason, message, partial }
        })
    }

    fn folder(path: &Path) -> &Path {
        path.parent().unwrap_or(path)
    }

    fn is_sealed(&self, bytes: Bytes) -> bool {
        fs::metadata(&self.blob).is_ok_and(|found| found.len() == bytes.0)
    }

    fn offer(&self, input: &mut impl Read) -> Result<Answer, Refusal> {
        let mut text = String::new();
        let malformed = |said: String| (Reason::Protocol, format!("the list of chunks is none: {said}"));
        input.take(MOST_LIST).read_to_string(&mut text).map_err(|error| malformed(error.to_string()))?;
        let list = ChunkList::parse(&text).map_err(|error| malformed(error.to_string()))?;
        if list.digest != self.digest {
            return Err(malformed(format!("it is that of {}", list.digest.short())));
        }
        for dir in [Self::folder(&self.partial), Self::folder(&self.blob), &self.lists] {
            fs::create_dir_all(dir).map_err(disk("make", dir))?;
        }
        if self.is_sealed(list.bytes) {
            return Ok(Answer::Sealed { sealed: true, bytes: list.bytes, received: Bytes::ZERO });
        }
        self.check_room(list.bytes)?;
        let arrival = self.open(list.bytes)?;
        // whoever had it before may have sealed it between our two looks
        if self.is_sealed(list.bytes) {
            arrival.discard().map_err(refused)?;
            return Ok(Answer::Sealed { sealed: true, bytes: list.bytes, received: Bytes::ZERO });
        }
        store::write_whole(&self.list, text.as_bytes()).map_err(refused)?;
        let copied = self.copy(&list, &arrival)?;
        let missing = list.within(&arrival.gaps());
        if missing.is_empty() {
            self.seal(arrival)?;
            return Ok(Answer::Sealed { sealed: true, bytes: list.bytes, received: Bytes::ZERO });
        }
        arrival.settle().map_err(refused)?;
        let token = named(&missing);
        Ok(Answer::Missing { chunks: runs(&missing), token, copied })
    }

    fn take(&self, token: &Digest, input: &mut impl Read) -> Result<Answer, Refusal> {
        let none = || (Reason::Offset, "nothing was offered, or it has arrived since".to_owned());
        let text = match fs::read_to_string(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
            text => text.map_err(disk("read", &self.list))?,
        };
        let list = ChunkList::parse(&text).map_err(|_| none())?;
        let arrival = self.open(list.bytes)?;
        let missing = list.within(&arrival.gaps());
        if named(&missing) != *token {
            return Err((Reason::Offset, "other chunks are missing than were named".to_owned()));
        }
        let outcome = write(&list, &missing, &arrival, input);
        // whatever happened, what has arrived counts
        arrival.settle().map_err(refused)?;
        let Taken { received, wrong } = outcome?;
        if wrong > 0 {
            let message =
                format!("{wrong} of {} chunks have another digest, so they were not kept", missing.len());
            return Err((Reason::WrongDigest, message));
        }
        let missing: u64 = arrival.gaps().iter().map(|gap| gap.end - gap.start).sum();
        if missing > 0 {
            let message = format!(
                "{} of {} are here, then the link broke: push again, it goes on from there",
                list.bytes - Bytes(missing),
                list.bytes
            );
            return Err((Reason::WrongSize, message));
        }
        let mut more = [0];
        if input.read(&mut more).is_ok_and(|n| n > 0) {
            return Err((Reason::WrongSize, "more arrives than was missing".to_owned()));
        }
        self.seal(arrival)?;
        Ok(Answer::Sealed { sealed: true, bytes: list.bytes, received })
    }

    fn open(&self, bytes: Bytes) -> Result<Arrival, Refusal> {
        let blobs = Self::folder(&self.blob).to_owned();
        Arrival::of_proven_parts(self.partial.clone(), blobs, self.digest, bytes).map_err(refused)
    }

    /// Checks that the rest fits, before the first byte.
    fn check_room(&self, bytes: Bytes) -> Result<(), Refusal> {
        let folder = Self::folder(&self.partial);
        let stat = statvfs(folder).map_err(|errno| disk("ask for the room at", folder)(errno.into()))?;
        // what an earlier attempt took for this very blob is room
        let taken = store::taken(&self.partial);
        let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)) + taken;
        let place = folder.display();
        if free < bytes + MARGIN {
            let message = format!(
                "it needs {bytes} and {MARGIN} to spare, and {place} has {free}: remove a model or run `prune`"
            );
            return Err((Reason::NoRoom, message));
        }
        if stat.f_files > 0 && stat.f_favail < MARGIN_INODES {
            let message =
                format!("{place} has {} inodes left, and {MARGIN_INODES} are to spare", stat.f_favail);
            return Err((Reason::NoRoom, message));
        }
        Ok(())
    }

    /// Copies missing chunks from blobs that have them, and returns how much that was. What is
    /// there and damaged is not taken.
    fn copy(&self, list: &ChunkList, arrival: &Arrival) -> Result<Bytes, Refusal> {
        let missing = list.within(&arrival.gaps());
        let mut copied = Bytes::ZERO;
        if missing.is_empty() {
            return Ok(copied);
        }
        for (blob, places) in self.sealed_lists(list)? {
            let Ok(file) = File::open(&blob) else { continue };
            for chunk in missing.iter().map(|at| &list.chunks[*at]) {
                let length = chunk.range.end - chunk.range.start;
                let Some(at) = places.get(&(chunk.digest, length)) else { continue };
                if arrival.holds(&chunk.range) {
                    continue;
                }
                let Ok(data) = chunks::read(&file, *at..at + length) else { continue };
                if Digest::of(&data) == chunk.digest {
                    arrival.write_at(chunk.range.start, &data).map_err(refused)?;
                    copied += Bytes(length);
                }
            }
        }
        Ok(copied)
    }

    /// Returns the blobs that have a chunk of `list`, with the places of their chunks.
    fn sealed_lists(&self, list: &ChunkList) -> Result<Vec<(PathBuf, Places)>, Refusal> {
        let wanted = list.places();
        let mut found = Vec::new();
        if self.damaged.exists() {
            found.push((self.damaged.clone(), wanted.clone()));
        }
        let entries = fs::read_dir(&self.lists).map_err(disk("read", &self.lists))?;
        for entry in entries {
            let path = entry.map_err(disk("read", &self.lists))?.path();
            // one that cannot be read is of no use here, and of no harm
            let Some(other) = fs::read_to_string(&path).ok().and_then(|text| ChunkList::parse(&text).ok())
            else {
                continue;
            };
            let mut places = other.places();
            places.retain(|chunk, _| wanted.contains_key(chunk));
            let blob = self.blob.with_file_name(other.digest.to_string());
            if !places.is_empty() && fs::metadata(&blob).is_ok_and(|found| found.len() == other.bytes.0) {
                found.push((blob, places));
            }
        }
        Ok(found)
    }

    fn seal(&self, arrival: Arrival) -> Result<(), Refusal> {
        // the list first: a blob without one is only never copied from
        let kept = self.lists.join(self.digest.to_string());
        fs::rename(&self.list, &kept).map_err(disk("keep", &kept))?;
        arrival.seal().map_err(refused)?;
        match fs::remove_file(&self.damaged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(disk("remove", &self.damaged)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Where chunks lie in a blob, by digest and length.
type Places = HashMap<(Digest, u64), u64>;

/// Returns the first and the last of each run of consecutive numbers.
fn runs(numbers: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// What became of the chunks that were sent.
struct Taken {
    received: Bytes,
    /// Chunks of another digest.
    wrong: usize,
}

/// Writes the missing chunks as they come, until all have or the input ends. While one is hashed
/// and written the next one arrives.
fn write(
    list: &ChunkList,
    missing: &[usize],
    arrival: &Arrival,
    input: &mut impl Read,
) -> Result<Taken, Refusal> {
    let (filled, arrived) = sync_channel::<(usize, Vec<u8>)>(WAITING);
    let (empty, emptied) = channel::<Vec<u8>>();
    thread::scope(|scope| {
        let worker = scope.spawn(move || keep(list, arrival, &arrived, &empty));
        let read = read_chunks(list, missing, input, &filled, &emptied);
        drop(filled);
        match worker.join() {
            Ok(taken) => {
                let taken = taken?;
                read.map(|()| taken)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn read_chunks(
    list: &ChunkList,
    missing: &[usize],
    input: &mut impl Read,
    filled: &SyncSender<(usize, Vec<u8>)>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<(), Refusal> {
    for &at in missing {
        let range = &list.chunks[at].range;
        let mut data = emptied.try_recv().unwrap_or_default();
        data.clear();
        let wanted = range.end - range.start;
        match input.take(wanted).read_to_end(&mut data) {
            Ok(n) if n as u64 == wanted => {}
            // the link is gone: what is whole counts
            Ok(_) => break,
            Err(error) => return Err((Reason::WrongSize, format!("the link broke: {error}"))),
        }
        if filled.send((at, data)).is_err() {
            // the disk failed, and the other thread says how
            break;
        }
    }
    Ok(())
}

fn keep(
    list: &ChunkList,
    arrival: &Arrival,
    arrived: &Receiver<(usize, Vec<u8>)>,
    empty: &std::sync::mpsc::Sender<Vec<u8>>,
) -> Result<Taken, Refusal> {
    let mut taken = Taken { received: Bytes::ZERO, wrong: 0 };
    for (at, data) in arrived {
        let chunk = &list.chunks[at];
        taken.received += Bytes(data.len() as u64);
        if Digest::of(&data) == chunk.digest {
            arrival.write_at(chunk.range.start, &data).map_err(refused)?;
        } else {
            taken.wrong += 1;
        }
        // nobody waits for it once the last chunk came
        let _ = empty.send(data);
    }
    Ok(taken)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: store::Error) -> Refusal {
    let reason = match &error {
        store::Error::Busy { .. } => {
            return (Reason::Busy, "another push of the same blob is going on".to_owned());
        }
        store::Error::Full { path, size, .. } => {
            let message =
                format!("there is no room for {} of {size}: remove a model or run `prune`", path.display());
            return (Reason::NoRoom, message);
        }
        _ => Reason::Disk,
    };
    (reason, with_causes(&error))
}

fn disk(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Refusal {
    let path = path.to_owned();
    move |error| {
        let full = error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded;
        let reason = if full { Reason::NoRoom } else { Reason::Disk };
        (reason, format!("cannot {doing} {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests;
