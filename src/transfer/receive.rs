//! The host's end of a transfer: `brambled receive`.
//!
//! The sender begins with the list of the blob's chunks. What an interrupted transfer left counts by
//! its journal, and what lies in other blobs here is copied from there; the host says what is missing,
//! hears who has it ([`Course`]), and asks for it chunk by chunk. Each is hashed before it is
//! written, so nothing is read again, and from then on others can have it from here.
//!
//! Run as root, it first does what needs that (folders, room, files), leaves the rest of it to a `keeper`, and
//! gives its rights up (`rights`). Only then it listens to other hosts.

mod keeper;
mod rights;

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;

use super::board::{Board, Going, SENDERS_SILENCE};
use super::chunks::{self, ChunkList, MOST_LIST};
use super::frame::{self, Course, MOST_MESSAGE, Reply, Said, Word};
use super::peer::{self, Door, Visit};
use super::shelf::{Bringer, Patient, Polled, Shelf, TICK, is_ready};
use super::{Answer, PROTOCOL, Reason};
use crate::causes::with_causes;
use crate::generation::Layout;
use crate::ids::Digest;
use crate::lease;
use crate::pace::Pace;
use crate::store::{self, Arrival, Made};
use crate::system;
use crate::units::Bytes;

use keeper::Keeper;
pub use keeper::{KeeperArgs, run_keeper};
use rights::Rights;

/// Room that is left to the rest of the system, so that its journal and package manager
/// go on working. The plan keeps more; this is the last guard.
const MARGIN: Bytes = Bytes::mib(64);
/// Inodes that are left to the rest of the system.
const MARGIN_INODES: u64 = 64;
/// Chunks that have arrived and wait to be hashed and written, at most: with the one that is written,
/// and one that arrives from each source that is asked at the time, mostly one, 16 MiB.
const WAITING: usize = 2;
/// What waits between sshd and this at most, where the system allows it; by itself it gives 64 KiB, two packets.
const PIPE: usize = 1 << 20;
/// How often the sender hears how far it is.
const TOLD: Duration = Duration::from_millis(300);

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
}

/// Runs `brambled receive`: frames on standard input and output, to their end.
pub fn run_receive(args: ReceiveArgs) -> ExitCode {
    let order = Order { layout: Layout::new(args.root), digest: args.digest };
    let answer = if args.protocol == PROTOCOL {
        match io::stdin().as_fd().try_clone_to_owned() {
            // what the standard library keeps of standard input cannot be waited for
            Ok(input) => {
                // sshd need not wait for each read of ours; where there is a limit, or no pipe, so be it
                system::enlarge_pipe(&input, PIPE);
                take(&order, File::from(input), io::stdout(), Rights::held())
            }
            Err(_) => return ExitCode::FAILURE,
        }
    } else {
        let message = format!(
            "the sender speaks version {} of the protocol, and this brambled {PROTOCOL}: use bramble and bundle of one release",
            args.protocol
        );
        let answer = Answer::Refused { reason: Reason::Protocol, message, partial: Bytes::ZERO };
        // a sender that does not hear it is told by the status
        drop(frame::say(&mut io::stdout(), &Word::Ended { answer: answer.clone() }));
        answer
    };
    if matches!(answer, Answer::Refused { .. }) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

type Refusal = (Reason, String);

/// Takes a blob from a sender that speaks on `input` and hears `output`, and from the hosts that it
/// names. Where others take part, this goes on giving them what is here until `input` ends.
///
/// It does so with the rights that it has, and in this process; `brambled receive` gives those of root up.
pub fn receive<R, W>(order: &Order, input: R, output: W) -> Answer
where
    R: Read + AsFd + Send + 'static,
    W: Write + Send + 'static,
{
    take(order, input, output, None)
}

/// As [`receive`], and gives up `rights`.
fn take<R, W>(order: &Order, input: R, output: W, rights: Option<Rights>) -> Answer
where
    R: Read + AsFd + Send + 'static,
    W: Write + Send + 'static,
{
    let place = Place::new(order);
    let mut line = Line { input: Polled(input), output: Arc::new(Mutex::new(output)) };
    let mouth = Arc::clone(&line.output);
    let mut left = Left::default();
    let taken = begin(&mut line).and_then(|begun| place.receive(&begun, line, rights, &mut left));
    let answer = place.told(taken, left.arrived);
    // the sender may be gone: then nobody is left to tell
    drop(speak(&mouth, &Word::Ended { answer: answer.clone() }));
    if let Some(shelf) = left.shared.filter(|_| matches!(answer, Answer::Sealed { .. })) {
        shelf.wait_closed();
    }
    answer
}

/// What is left when nothing arrives any longer.
#[derive(Default)]
struct Left {
    /// What others are given.
    shared: Option<Arc<Shelf>>,
    /// What has arrived, where that is known: the journal may be out of reach by then.
    arrived: Option<Bytes>,
}

/// What the sender begins with.
struct Begun {
    lease: u64,
    is_shared: bool,
    most_per_second: Option<Bytes>,
    gives: bool,
    text: String,
}

fn begin<R: Read + AsFd, W: Write>(line: &mut Line<R, W>) -> Result<Begun, Refusal> {
    let told = line.hear().map_err(malformed)?;
    let Some(Said::Begin { lease, is_shared, most_per_second, gives }) = told else {
        return Err(malformed("the sender does not begin with it"));
    };
    let list = line.patiently(|from| frame::data(from, MOST_LIST)).map_err(malformed)?;
    let text = String::from_utf8(list).map_err(|_| malformed("it is no text"))?;
    Ok(Begun { lease, is_shared, most_per_second, gives, text })
}

fn malformed(said: impl Display) -> Refusal {
    (Reason::Protocol, format!("the list of chunks is none: {said}"))
}

/// The way to the sender.
struct Line<R, W> {
    input: Polled<R>,
    output: Arc<Mutex<W>>,
}

impl<R: Read + AsFd, W: Write> Line<R, W> {
    /// Reads until the sender has said nothing for too long.
    fn patiently<T>(
        &mut self,
        read: impl FnOnce(&mut Patient<'_, &mut Polled<R>>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut heard = Instant::now();
        let mut tick = |came: usize| {
            if came > 0 {
                heard = Instant::now();
            }
            heard.elapsed() < SENDERS_SILENCE
        };
        read(&mut Patient { from: &mut self.input, tick: &mut tick })
    }

    fn hear(&mut self) -> io::Result<Option<Said>> {
        self.patiently(|from| frame::hear(from, MOST_MESSAGE))
    }

    /// Reads to the end, whatever comes, or until nothing has come for too long.
    fn drain(&mut self) {
        drop(self.patiently(|from| io::copy(from, &mut io::sink())));
    }
}

fn speak(output: &Mutex<impl Write>, word: &Word) -> io::Result<()> {
    frame::say(&mut *output.lock().unwrap_or_else(PoisonError::into_inner), word)
}

impl<R: Read + AsFd, W: Write> Bringer for Line<R, W> {
    fn is_there(&mut self) -> bool {
        // nothing is to come while nothing is owed: what can be read then is the end
        !is_ready(&self.input.0, Duration::ZERO).unwrap_or(true)
    }

    fn ask(&mut self, at: usize) -> io::Result<()> {
        speak(&self.output, &Word::Ask { at })
    }

    fn reply(
        &mut self,
        length: u64,
        data: &mut Vec<u8>,
        tick: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<Reply> {
        frame::reply(&mut Patient { from: &mut self.input, tick }, length, data)
    }
}

/// Where one blob goes.
struct Place {
    digest: Digest,
    blob: PathBuf,
    partial: PathBuf,
    /// The list of what is arriving.
    list: PathBuf,
    /// The lists of blobs that are sealed.
    lists: PathBuf,
    layout: Layout,
}

impl Place {
    fn new(order: &Order) -> Self {
        let (layout, digest) = (&order.layout, order.digest);
        let partial = layout.partial(&digest);
        Self {
            digest,
            blob: layout.blob(&digest),
            list: partial.with_added_extension("chunks"),
            partial,
            lists: layout.chunks(),
            layout: layout.clone(),
        }
    }

    fn told(&self, answer: Result<Answer, Refusal>, arrived: Option<Bytes>) -> Answer {
        answer.unwrap_or_else(|(reason, message)| {
            let partial = arrived.unwrap_or_else(|| store::arrived(&self.partial));
            Answer::Refused { reason, message, partial }
        })
    }

    /// Checks that the sender may still write here.
    fn allows(&self, lease: u64) -> Result<(), Refusal> {
        lease::check(&self.layout, lease).map_err(|error| {
            let is_over = matches!(error, lease::Error::Over { .. });
            (if is_over { Reason::Over } else { Reason::Disk }, with_causes(&error))
        })
    }

    fn folder(path: &Path) -> &Path {
        path.parent().unwrap_or(path)
    }

    /// Returns whether the blob is here, as it was sealed.
    fn is_sealed(&self, bytes: Bytes) -> bool {
        fs::metadata(&self.blob).is_ok_and(|found| found.len() == bytes.0 && !store::is_touched(&found))
    }

    /// Returns whether the blob is here after all: one that was written to since it was sealed is hashed once more.
    fn proves(&self, bytes: Bytes) -> bool {
        fs::metadata(&self.blob).is_ok_and(|found| found.len() == bytes.0)
            && store::prove(&self.blob, &self.digest).is_ok_and(|found| found == self.digest)
    }

    /// Takes the blob.
    fn receive<R, W>(
        &self,
        begun: &Begun,
        mut line: Line<R, W>,
        rights: Option<Rights>,
        left: &mut Left,
    ) -> Result<Answer, Refusal>
    where
        R: Read + AsFd + Send + 'static,
        W: Write + Send + 'static,
    {
        if !begun.gives {
            self.allows(begun.lease)?;
        }
        let mut copying = Copying { place: self, lease: begun.lease, line: &mut line, told: Instant::now() };
        let (list, mut arrival) = self.prepare(&begun.text, begun.gives, &mut |here| copying.look(here))?;
        let path = if arrival.is_some() { &self.partial } else { &self.blob };
        let file = File::open(path).map_err(disk("read", path))?;
        left.arrived = arrival.as_ref().map(Arrival::arrived);
        let keeper = match rights {
            Some(rights) => self.give_up(rights, begun.lease, arrival.as_mut())?,
            None => None,
        };
        let allows = || keeper.as_ref().map_or_else(|| self.allows(begun.lease), Keeper::allows);
        let missing = arrival.as_ref().map_or_else(Vec::new, |arrival| list.within(&arrival.gaps()));
        let mut course = Course { most_per_second: begun.most_per_second, ..Course::default() };
        let mut door = None;
        if begun.is_shared {
            // a host that others cannot come to takes part without that
            door = Door::open().ok();
            let said = door.as_ref().and_then(|door| door.said().ok());
            let gone = |error: io::Error| (Reason::WrongSize, format!("the link broke: {error}"));
            speak(&line.output, &Word::Missing { chunks: runs(&missing), door: said }).map_err(gone)?;
            course = loop {
                match line.hear().map_err(gone)? {
                    Some(Said::Course(heard)) => break heard,
                    Some(Said::Stay) => {}
                    Some(Said::Try { doors }) => {
                        speak(&line.output, &Word::Reached { doors: peer::reached(&doors) }).map_err(gone)?;
                    }
                    _ => {
                        let message = "the sender does not say who has the chunks".to_owned();
                        return Err((Reason::Protocol, message));
                    }
                }
            };
        }
        let sizes = list.chunks.iter().map(|chunk| chunk.range.end - chunk.range.start);
        let peers: Vec<_> = course.sources.iter().map(|peer| (peer.holds.clone(), peer.hops)).collect();
        let most = course.most_per_second.map(|most| most.0);
        let board = Board::new(sizes, &missing, &peers, Instant::now()).within(most);
        let pace = course.most_per_second.map(Pace::new);
        let stock = Arc::new(Shelf::new(board, list, file, pace));
        let (brought, arrived) = sync_channel(WAITING);
        let mouth = Arc::clone(&line.output);
        if begun.is_shared {
            left.shared = Some(Arc::clone(&stock));
        }
        start(line, door, &course, &stock, &brought);
        drop(brought);
        let (bytes, is_new) = (stock.list.bytes, arrival.is_some());
        if let Some(arrival) = arrival {
            let kept = keep(&stock, &arrival, &arrived, &mouth, &allows);
            if kept.is_err() {
                stock.change(Board::end);
            }
            // whatever happened, what has arrived counts
            arrival.settle().map_err(refused)?;
            left.arrived = Some(arrival.arrived());
            kept?;
            allows()?;
            match keeper {
                None => self.seal(|| arrival.seal())?,
                Some(keeper) => {
                    // nothing is written any longer, and the keeper holds the lock on
                    if let Err(error) = arrival.finish() {
                        left.arrived = Some(Bytes::ZERO);
                        return Err(refused(error));
                    }
                    keeper.seal()?;
                }
            }
        }
        let (received, from_hosts) = if is_new {
            stock.with(|board| (Bytes(board.sender_brought()), Bytes(board.hosts_brought())))
        } else {
            (Bytes::ZERO, Bytes::ZERO)
        };
        Ok(Answer::Sealed { sealed: true, bytes, received, from_hosts })
    }

    /// Reads the list of chunks and takes up what is here. There is no arrival of a blob that is sealed.
    /// What is copied from other blobs is told to `look`, which ends it by an error.
    fn prepare(
        &self,
        text: &str,
        gives: bool,
        look: Look<'_>,
    ) -> Result<(ChunkList, Option<Arrival>), Refusal> {
        let list = ChunkList::parse(text).map_err(malformed)?;
        if list.digest != self.digest {
            return Err(malformed(format!("it is that of {}", list.digest.short())));
        }
        // who gives changes nothing
        match (gives, self.is_sealed(list.bytes)) {
            (true, true) => return Ok((list, None)),
            (true, false) => return Err((Reason::Disk, "it does not have what it was to give".to_owned())),
            (false, _) => {}
        }
        for dir in [Self::folder(&self.partial), Self::folder(&self.blob), &self.lists] {
            store::make_folder(dir).map_err(disk("make", dir))?;
        }
        if self.is_sealed(list.bytes) || self.proves(list.bytes) {
            // left by a disk that failed between sealing and clearing up; it does no harm where it stays
            if store::has_journal(&self.partial) {
                drop(store::forget_partial(&self.partial));
            }
            return Ok((list, None));
        }
        self.check_room(list.bytes)?;
        let arrival = self.open(list.bytes)?;
        // whoever had it before may have sealed it between our two looks
        if self.is_sealed(list.bytes) {
            arrival.discard().map_err(refused)?;
            return Ok((list, None));
        }
        store::write_whole(&self.list, text.as_bytes()).map_err(refused)?;
        let copied = self.copy(&list, &arrival, look);
        // whatever happened, what has been copied counts
        arrival.settle().map_err(refused)?;
        copied?;
        Ok((list, Some(arrival)))
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

    /// Copies missing chunks from blobs that have them, and tells `look` after each how much is here. What is there
    /// and damaged is not taken.
    fn copy(&self, list: &ChunkList, arrival: &Arrival, look: Look<'_>) -> Result<(), Refusal> {
        let missing = list.within(&arrival.gaps());
        if missing.is_empty() {
            return Ok(());
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
                }
                look(arrival.arrived())?;
            }
        }
        Ok(())
    }

    /// Returns the blobs that have a chunk of `list`, with the places of their chunks.
    fn sealed_lists(&self, list: &ChunkList) -> Result<Vec<(PathBuf, Places)>, Refusal> {
        let wanted = list.places();
        let mut found = Vec::new();
        // what is in its place and is not it may be it in most of its chunks
        if self.blob.exists() {
            found.push((self.blob.clone(), wanted.clone()));
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

    /// Seals the blob, whose name it gets by `name`.
    fn seal(&self, name: impl FnOnce() -> Result<Made, store::Error>) -> Result<(), Refusal> {
        // the list first: a blob without one is only never copied from
        let kept = self.lists.join(self.digest.to_string());
        fs::rename(&self.list, &kept).map_err(disk("keep", &kept))?;
        name().map_err(refused).map(drop)
    }
}

/// Is told how much is here while that is being copied. An error ends it.
type Look<'a> = &'a mut dyn FnMut(Bytes) -> Result<(), Refusal>;

/// Looks after what is copied on this host alone, for as long as a slow card takes.
struct Copying<'a, R, W> {
    place: &'a Place,
    lease: u64,
    line: &'a mut Line<R, W>,
    told: Instant,
}

impl<R: Read + AsFd, W: Write> Copying<'_, R, W> {
    /// Checks that the sender may still write here and is there, and tells it now and then that so much is `here`.
    fn look(&mut self, here: Bytes) -> Result<(), Refusal> {
        self.place.allows(self.lease)?;
        if !self.line.is_there() {
            let message =
                "the link broke while chunks were copied on the host: push again, it goes on from there";
            return Err((Reason::WrongSize, message.to_owned()));
        }
        if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            // a sender that is gone is found out by its end of the line
            drop(speak(&self.line.output, &Word::Here { bytes: here, from_hosts: Bytes::ZERO }));
        }
        Ok(())
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

/// Starts whoever brings chunks, and whoever gives them away.
fn start<R, W>(
    mut line: Line<R, W>,
    door: Option<Door>,
    course: &Course,
    shelf: &Arc<Shelf>,
    brought: &SyncSender<(usize, Vec<u8>)>,
) where
    R: Read + AsFd + Send + 'static,
    W: Write + Send + 'static,
{
    let identity = door.as_ref().map(Door::identity);
    if let Some(door) = door.filter(|_| !course.guests.is_empty()) {
        // a host that cannot let others in is passed by
        drop(door.welcome(course, shelf));
    }
    for (at, peer) in course.sources.iter().cloned().enumerate() {
        let Some(identity) = identity.clone() else {
            shelf.change(|board| board.gone(at));
            continue;
        };
        let (shelf, brought, token) = (Arc::clone(shelf), brought.clone(), course.token.clone());
        thread::spawn(move || {
            loop {
                let visit = Visit::new(&peer, &identity, &token, &shelf);
                let brings = visit.and_then(|mut visit| shelf.bring(at, &mut visit, &brought));
                let Err(error) = brings else { return };
                tracing::debug!("{} brings nothing: {error}", peer.address);
                if !shelf.goes_on() {
                    return;
                }
                let Some(pause) = shelf.change(|board| board.lost(at)) else { return };
                shelf.wait_until(Instant::now() + pause);
            }
        });
    }
    let (shelf, brought) = (Arc::clone(shelf), brought.clone());
    thread::spawn(move || {
        let sender = shelf.with(|board| board.sender());
        if let Err(error) = shelf.bring(sender, &mut line, &brought) {
            tracing::debug!("the sender brings nothing more: {error}");
            shelf.change(|board| board.gone(sender));
        }
        drop(brought);
        // a sender that ends has no more use for what is given to others
        line.drain();
        shelf.close();
    });
}

/// Proves and writes the chunks that are brought, until all are here or none can come any longer, or it is
/// no longer allowed.
fn keep(
    shelf: &Shelf,
    arrival: &Arrival,
    arrived: &Receiver<(usize, Vec<u8>)>,
    mouth: &Mutex<impl Write>,
    is_allowed: &dyn Fn() -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut told = Instant::now();
    loop {
        match arrived.recv_timeout(TICK) {
            Ok((at, data)) => {
                let begun = Instant::now();
                is_allowed()?;
                let chunk = &shelf.list.chunks[at];
                if Digest::of(&data) == chunk.digest {
                    arrival.write_at(chunk.range.start, &data).map_err(refused)?;
                    shelf.change(|board| board.proven(at));
                } else {
                    shelf.change(|board| board.wrong(at));
                }
                shelf.give_back(data);
                // whoever waited for this disk could bring nothing
                shelf.with(|board| board.forgive(begun.elapsed()));
            }
            // a sender that is asleep does not hold up whoever has taken the host over
            Err(RecvTimeoutError::Timeout) => is_allowed()?,
            // everybody who could bring something has ended
            Err(RecvTimeoutError::Disconnected) => shelf.change(Board::end),
        }
        let going = shelf.change(|board| {
            board.look(Instant::now());
            board.going()
        });
        match going {
            Going::On if told.elapsed() >= TOLD => {
                told = Instant::now();
                let (bytes, from_hosts) =
                    shelf.with(|board| (Bytes(board.here()), Bytes(board.hosts_brought())));
                // a sender that is gone is found out by asking it
                drop(speak(mouth, &Word::Here { bytes, from_hosts }));
            }
            Going::On => {}
            Going::Whole => return Ok(()),
            Going::Wrong => {
                let message = "chunks come with another digest again and again, so they were not kept: \
                     look for damage on the sending machine (`bramble store verify`), and at the memory of both"
                    .to_owned();
                return Err((Reason::WrongDigest, message));
            }
            Going::NoSource => {
                let here = Bytes(shelf.with(|board| board.here()));
                let message = format!(
                    "{here} of {} are here, then the link broke: push again, it goes on from there",
                    shelf.list.bytes
                );
                return Err((Reason::WrongSize, message));
            }
        }
    }
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
