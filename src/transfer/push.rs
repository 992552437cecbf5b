//! The operator's end of a transfer: one blob to hosts that bring it on to each other.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};

use super::course::{Link, Member};
use super::frame::{self, Decoder, DoorPlate, Runs, Said, Word};
use super::gather::{self, Gathered, Joining, Place, Seat};
use super::limits::{Limits, Pacing};
use super::packing::{Packers, Packing, Seen, pieces};
use super::{Answer, CHUNK, ChunkList, Error, PROTOCOL, Reason};
use crate::causes::with_causes;
use crate::connect::{self, Connection, Output, Piece, Script, Stdin, Talk, quote};
use crate::events::{Event, Events};
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::units::Bytes;

/// A push is given up when it is slower than this on the whole: a fifth of what Wi-Fi
/// does at its worst. A dead link is noticed within a minute by `ssh` itself.
pub(super) const SLOWEST: u64 = 64 << 10;
/// Time for what does not depend on the size.
pub(super) const OVERHEAD: Duration = Duration::from_mins(2);
/// An interrupted push may be dying on the host for this long, where its link hangs; then somebody
/// else's is going on.
const BUSY_TRIES: u32 = 280;
const BUSY_WAIT: Duration = Duration::from_millis(250);
/// A bundle that arrives with another digest is sent again once.
const DAMAGED_TRIES: u32 = 2;
/// Frames that wait to be written to a host.
pub(super) const WAITING: usize = 4;
/// What a host says is heard in pieces, of which so many may wait.
pub(super) const UNHEARD: usize = 16;
/// How often a host that waits for others hears that they still take part.
pub(super) const STAYING: Duration = Duration::from_secs(15);
/// How long a host may take to end when nothing is left to be said.
const ENDING: Duration = Duration::from_secs(15);
/// A host that asks for nothing and has nothing new for this long hangs: it holds nobody else up.
const QUIET: Duration = Duration::from_mins(5);
/// What a host copies from its own disk, in bytes per second, at worst: a slow card.
const SLOWEST_COPY: u64 = 4 << 20;

/// How to get at a host's files.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The host, for events.
    pub host: &'a HostName,
    /// The connection to it.
    pub connection: &'a dyn Connection,
    /// Where Bramble lives there.
    pub layout: &'a Layout,
    /// Work as root there.
    pub is_root: bool,
}

/// What to bring there.
#[derive(Debug, Clone, Copy)]
pub struct Cargo<'a> {
    /// What it is, for people: `chat (Q8_0)`.
    pub what: &'a str,
    /// The digest of the bytes.
    pub digest: &'a Digest,
    /// How many there are.
    pub bytes: Bytes,
    /// Where they are on this machine.
    pub path: &'a Path,
}

/// A host that a blob is brought to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// How to get at its files.
    pub way: Way<'a>,
    /// The bundle whose `brambled` takes the blob; it is there already.
    pub program: &'a Digest,
    /// The number of our lease of the host ([`crate::lease`]).
    pub lease: u64,
    /// How other hosts reach it; none: they cannot.
    pub link: Option<Link>,
    /// Whether it is this machine: what it lacks is copied, and it takes no part in what hosts give each other. No rate
    /// holds for it, since nothing of it is on a wire.
    pub is_here: bool,
    /// Whether it has the blob, as far as is known, and only gives it to the others: nothing is told of it, nothing is
    /// sent to it, nobody waits for it long, and it needs no lease.
    pub gives: bool,
}

/// What a push took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pushed {
    /// Bytes that left this machine for it: on a slow wire fewer than they are on the host.
    pub bytes_sent: Bytes,
    /// Bytes that came from other hosts.
    pub bytes_from_hosts: Bytes,
    /// Bytes that were there already.
    pub bytes_reused: Bytes,
    /// How long it took.
    pub seconds: f64,
}

/// Brings a blob, or what is missing of it, to hosts: at once, and from one to the other where they
/// can reach each other. `list` has the blob's chunks. Returns what it took, in the order of `targets`.
///
/// # Errors
///
/// Of each host apart. Whatever fails, the blob is not sealed there, and what had arrived of whole
/// chunks is kept for the next attempt.
pub async fn push(
    targets: &[Target<'_>],
    cargo: Cargo<'_>,
    list: &ChunkList,
    limits: &Limits,
    events: &Events,
) -> Vec<Result<Pushed, Error>> {
    let (joining, arrivals) = mpsc::unbounded_channel();
    let count = |is: fn(&Target<'_>) -> bool| targets.iter().filter(|target| is(target)).count();
    let (away, giving) = (count(|target| !target.is_here), count(|target| target.gives));
    let shared = Shared {
        cargo,
        list,
        limits,
        is_common: away > 1,
        text: list.to_text(),
        packers: Packers::new(),
        left: watch::Sender::new(targets.len() - giving),
    };
    let legs = targets.iter().map(|target| {
        let leg = Leg {
            target: *target,
            shared: &shared,
            pacing: if target.is_here { Pacing::default() } else { limits.to_one_host() },
            joining: joining.clone(),
            is_done: OnceLock::new(),
            has_joined: OnceLock::new(),
        };
        async move {
            let leg = &leg;
            if leg.target.gives {
                return leg.give().await;
            }
            let pushed =
                told(leg.target.way, cargo, events, |key| async move { leg.run(events, &key).await }).await;
            leg.done();
            pushed
        }
    });
    let legs: Vec<_> = legs.collect();
    drop(joining);
    let gathered = Gathered { what: cargo.what, chunks: list.chunks.len(), getting: away - giving, giving };
    let (pushed, ()) = tokio::join!(join_all(legs), gather::gather(gathered, arrivals, events));
    pushed
}

/// What came to a host, and from where.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    /// Bytes that left this machine.
    pub(super) sent: Bytes,
    /// What they are on the host.
    pub(super) brought: Bytes,
    /// What other hosts have brought.
    pub(super) from_hosts: Bytes,
}

/// Tells `events` how `work` goes.
pub(super) async fn told<W>(
    way: Way<'_>,
    cargo: Cargo<'_>,
    events: &Events,
    work: impl FnOnce(String) -> W,
) -> Result<Pushed, Error>
where
    W: Future<Output = Result<Moved, Error>>,
{
    let key = format!("push/{}/{}", way.host, cargo.digest.short());
    events.send(Event::Started {
        key: key.clone(),
        host: Some(way.host.clone()),
        what: format!("pushing {}", cargo.what),
        total: Some(cargo.bytes),
    });
    let begun = Instant::now();
    let done = match check(cargo) {
        Ok(()) => work(key.clone()).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(Moved { sent, brought, from_hosts }) => {
            let outcome = match (sent, from_hosts) {
                (Bytes::ZERO, Bytes::ZERO) if brought > Bytes::ZERO => Some("copied".to_owned()),
                (Bytes::ZERO, Bytes::ZERO) => Some("already there".to_owned()),
                (_, Bytes::ZERO) => None,
                (Bytes::ZERO, _) => Some("from other hosts".to_owned()),
                _ => Some(format!("{from_hosts} of it from other hosts")),
            };
            events.send(Event::Finished { key, outcome });
            Ok(Pushed {
                bytes_sent: sent,
                bytes_from_hosts: from_hosts,
                bytes_reused: Bytes(cargo.bytes.0.saturating_sub((brought + from_hosts).0)),
                seconds: begun.elapsed().as_secs_f64(),
            })
        }
        Err(error) => {
            events.send(Event::Failed { key, error: with_causes(&error) });
            Err(error)
        }
    }
}

/// Checks that the file here is as long as what is to be sent.
fn check(cargo: Cargo<'_>) -> Result<(), Error> {
    let path = cargo.path.to_owned();
    let found = match std::fs::metadata(&path) {
        Ok(found) => Bytes(found.len()),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let (digest, expected) = (*cargo.digest, cargo.bytes);
    if found == expected { Ok(()) } else { Err(Error::Local { path, digest, found, expected }) }
}

/// What all hosts of one transfer have in common.
struct Shared<'a> {
    cargo: Cargo<'a>,
    list: &'a ChunkList,
    limits: &'a Limits,
    /// Whether hosts give each other what they have.
    is_common: bool,
    text: String,
    packers: Packers,
    /// Hosts that are not done yet.
    left: watch::Sender<usize>,
}

/// One blob on its way to one host.
struct Leg<'a> {
    target: Target<'a>,
    shared: &'a Shared<'a>,
    pacing: Pacing,
    joining: mpsc::UnboundedSender<Joining>,
    is_done: OnceLock<()>,
    /// Whether it has taken part, in any attempt.
    has_joined: OnceLock<()>,
}

/// What was sent of chunks.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// Bytes on the wire.
    wire: u64,
    /// What they are unpacked.
    chunks: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.wire += more.wire;
        self.chunks += more.chunks;
    }
}

/// What a host has said at the end, and what was sent to it.
#[derive(Default)]
struct Heard {
    answer: Option<Answer>,
    sent: Sent,
    /// What it says that others have brought.
    from_hosts: Bytes,
    /// What made no sense.
    nonsense: Option<String>,
    /// Whether it said nothing for too long.
    is_silent: bool,
    has_joined: bool,
}

impl Leg<'_> {
    /// Has the host give what it has until the others are done.
    async fn give(&self) -> Result<Pushed, Error> {
        let mut left = self.shared.left.subscribe();
        let all_done = async {
            // an error says that nobody is left, either
            drop(left.wait_for(|left| *left == 0).await);
            // one that takes part is let end by itself
            if self.has_joined.get().is_some() {
                tokio::time::sleep(ENDING).await;
            }
        };
        let begun = Instant::now();
        let nobody = Events::none();
        tokio::select! {
            given = self.run(&nobody, "") => given.map(|_| ()),
            () = all_done => Ok(()),
        }?;
        let (bytes_sent, bytes_from_hosts, bytes_reused) =
            (Bytes::ZERO, Bytes::ZERO, self.shared.cargo.bytes);
        Ok(Pushed { bytes_sent, bytes_from_hosts, bytes_reused, seconds: begun.elapsed().as_secs_f64() })
    }

    async fn run(&self, events: &Events, key: &str) -> Result<Moved, Error> {
        let outcome = self.attempts(events, key).await;
        if self.has_joined.get().is_none() && !self.target.is_here {
            // whoever gathers has gone only when nobody is left
            drop(self.joining.send(self.joins(None)));
        }
        outcome
    }

    async fn attempts(&self, events: &Events, key: &str) -> Result<Moved, Error> {
        let (way, cargo) = (self.target.way, self.shared.cargo);
        let mut tries = Tries::default();
        // of an attempt that was refused the host does not say what it kept: all that was sent counts
        let (mut left, mut brought, mut from_hosts) = (Bytes::ZERO, Bytes::ZERO, Bytes::ZERO);
        loop {
            let (input, output) = (mpsc::channel(WAITING), mpsc::channel(UNHEARD));
            let limit =
                OVERHEAD + Duration::from_secs(self.shared.list.bytes.0 / self.shared.limits.slowest());
            let script = Script { text: self.receive(), is_root: way.is_root, timeout: limit };
            let talk = Talk { input: input.1, output: output.0 };
            let file = File::open(cargo.path)
                .map_err(|source| Error::Read { path: cargo.path.to_owned(), source })?;
            let mut lead = pin!(self.lead(input.0, output.1, Arc::new(file), events, key));
            let mut talk = pin!(way.connection.talk(&script, talk));
            // a host that has said its last word and does not end is left to itself
            let (ended, heard) = tokio::select! {
                heard = &mut lead => (tokio::time::timeout(ENDING, &mut talk).await.ok(), heard),
                ended = &mut talk => (Some(ended), lead.await),
            };
            if !self.target.is_here {
                left += Bytes(heard.sent.wire);
            }
            let sent = Bytes(heard.sent.chunks);
            match (heard.answer, ended) {
                (Some(Answer::Sealed { received, from_hosts: more, .. }), _) => {
                    let from_hosts = (from_hosts + more).min(cargo.bytes);
                    // what was sent twice, or came from elsewhere meanwhile, is on the host once
                    let brought = brought + received.min(sent);
                    return Ok(Moved { sent: left, brought, from_hosts });
                }
                (Some(Answer::Refused { reason, message, .. }), _) => {
                    brought += sent;
                    from_hosts += heard.from_hosts;
                    tries.again(way, cargo, reason, plain(&message)).await?;
                }
                (None, _) if heard.is_silent => {
                    let source = connect::Error::TimedOut { host: way.connection.describe(), after: QUIET };
                    return Err(cannot_connect(way, cargo, source));
                }
                (None, Some(Err(source))) => return Err(cannot_connect(way, cargo, source)),
                (None, Some(Ok(output))) => {
                    let words = heard.nonsense.filter(|_| output.stderr.trim().is_empty());
                    return Err(nonsense(way, cargo, words.unwrap_or_else(|| said(&output))));
                }
                (None, None) => {
                    return Err(nonsense(way, cargo, heard.nonsense.unwrap_or_default()));
                }
            }
        }
    }

    fn receive(&self) -> String {
        let (layout, digest) = (self.target.way.layout, self.shared.cargo.digest);
        let root = path_word(layout.root());
        let brambled = path_word(&layout.program(self.target.program).join("brambled"));
        // daemons of another user read what is sealed
        format!("umask 022; exec {brambled} receive --root {root} --digest {digest} --protocol {PROTOCOL}")
    }

    /// Talks with the host until it has said how it ended, and all others have, too.
    async fn lead(
        &self,
        say: mpsc::Sender<Piece>,
        mut hear: mpsc::Receiver<Vec<u8>>,
        file: Arc<File>,
        events: &Events,
        key: &str,
    ) -> Heard {
        let shared = self.shared;
        let (mut heard, mut decoder) = (Heard::default(), Decoder::default());
        let mut packing = Packing::default();
        let begin = Said::Begin {
            lease: self.target.lease,
            is_shared: shared.is_common && !self.target.is_here,
            most_per_second: shared.limits.per_host().filter(|_| !self.target.is_here),
            gives: self.target.gives,
        };
        let mut frames = frame::message(&begin);
        frames.extend(frame::data_head(shared.text.len() as u64));
        frames.extend(shared.text.as_bytes());
        // a host that does not listen has ended, and says why
        drop(say.send(Piece::Bytes(frames)).await);
        let mut patience = QUIET + Duration::from_secs(shared.list.bytes.0 / SLOWEST_COPY);
        let mut taking_part: Option<Place> = None;
        let (mut progress, mut is_at_work) = ((Instant::now(), Bytes::ZERO), false);
        loop {
            let left = patience.saturating_sub(progress.0.elapsed());
            let bytes = match tokio::time::timeout(left, hear.recv()).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return heard,
                Err(_) => {
                    heard.is_silent = true;
                    return heard;
                }
            };
            decoder.push(&bytes);
            loop {
                let word = match decoder.next::<Word>() {
                    Ok(None) => break,
                    Ok(Some(word)) => word,
                    Err(_) => {
                        heard.nonsense = Some(plain(&decoder.rest()));
                        return heard;
                    }
                };
                match word {
                    Word::Ended { answer } => {
                        let sealed = match &answer {
                            Answer::Sealed { from_hosts, .. } => Some(*from_hosts),
                            Answer::Refused { .. } => None,
                        };
                        heard.answer = Some(answer);
                        if let Some(from_hosts) = sealed {
                            let (key, done) = (key.to_owned(), shared.list.bytes);
                            events.send(Event::Progress { key, done, from_hosts });
                            self.stay(&say).await;
                        }
                        return heard;
                    }
                    Word::Here { bytes, from_hosts } => {
                        heard.from_hosts = from_hosts;
                        // the first of it comes when whatever was to be hashed before is
                        if bytes > progress.1 || !is_at_work {
                            progress = (Instant::now(), bytes);
                        }
                        events.send(Event::Progress { key: key.to_owned(), done: bytes, from_hosts });
                    }
                    Word::Missing { chunks, door } if !heard.has_joined && self.are_runs(&chunks) => {
                        heard.has_joined = true;
                        let Some(mut place) = self.join(chunks, door) else { return heard };
                        if place.go_on(&say).await.is_none() {
                            return heard;
                        }
                        taking_part = Some(place);
                        progress.0 = Instant::now();
                    }
                    Word::Reached { doors } if taking_part.as_ref().is_some_and(Place::is_asked) => {
                        let Some(place) = &mut taking_part else { return heard };
                        place.reached(doors);
                        if place.go_on(&say).await.is_none() {
                            return heard;
                        }
                        progress.0 = Instant::now();
                    }
                    Word::Ask { at } if at < shared.list.chunks.len() => {
                        heard.sent += self.send(at, &say, &file, &mut packing).await;
                        progress.0 = Instant::now();
                    }
                    Word::Reached { .. } => {
                        heard.nonsense =
                            Some("it says which hosts it comes to, and was not asked".to_owned());
                        return heard;
                    }
                    Word::Missing { .. } | Word::Ask { .. } => {
                        heard.nonsense = Some("it asks for what the blob does not have".to_owned());
                        return heard;
                    }
                }
                is_at_work = true;
                patience = QUIET + Duration::from_secs(CHUNK / self.shared.limits.slowest());
            }
        }
    }

    /// Returns whether a host names chunks that there are, each once and in their order.
    fn are_runs(&self, runs: &Runs) -> bool {
        let mut next = 0;
        runs.iter().all(|(first, last)| {
            let is_next = *first >= next && first <= last && *last < self.shared.list.chunks.len();
            next = last.saturating_add(1);
            is_next
        })
    }

    /// Waits until every other host is done: it may have chunks from this one.
    async fn stay(&self, say: &mpsc::Sender<Piece>) {
        let mut left = self.shared.left.subscribe();
        self.done();
        if self.target.is_here {
            return;
        }
        while tokio::time::timeout(STAYING, left.wait_for(|left| *left == 0)).await.is_err() {
            if say.send(Piece::Bytes(frame::message(&Said::Stay))).await.is_err() {
                return;
            }
        }
    }

    /// Counts this host among those that are done, once.
    fn done(&self) {
        if !self.target.gives && self.is_done.set(()).is_ok() {
            self.shared.left.send_modify(|left| *left -= 1);
        }
    }

    /// Has this host take part. None: nobody gathers the others.
    fn join(&self, missing: Runs, door: Option<DoorPlate>) -> Option<Place> {
        let sizes = |(first, last): &(usize, usize)| {
            let first = self.shared.list.chunks.get(*first).map_or(0, |chunk| chunk.range.start);
            let last = self.shared.list.chunks.get(*last).map_or(0, |chunk| chunk.range.end);
            last.saturating_sub(first)
        };
        let member = Member {
            link: self.target.link,
            door,
            missing_bytes: missing.iter().map(sizes).sum(),
            missing,
            most_per_second: self.shared.limits.per_host(),
        };
        let (seat, place) = gather::seat();
        self.has_joined.get_or_init(|| ());
        self.joining.send(self.joins(Some((member, seat)))).ok()?;
        Some(place)
    }

    fn joins(&self, member: Option<(Member, Seat)>) -> Joining {
        Joining { host: self.target.way.host.clone(), gives: self.target.gives, member }
    }

    /// Sends a chunk, and returns how much of it was taken to be sent.
    async fn send(
        &self,
        at: usize,
        say: &mpsc::Sender<Piece>,
        file: &Arc<File>,
        packing: &mut Packing,
    ) -> Sent {
        let range = self.shared.list.chunks[at].range.clone();
        let length = range.end - range.start;
        packing.asked(length, Instant::now());
        if self.target.is_here || !packing.is_next() {
            return self.send_part(say, file, range).await;
        }
        let (mut sent, mut took, mut seen) = (Sent::default(), Duration::ZERO, Seen::default());
        for piece in pieces(range) {
            // a file that cannot be read is found out by whoever writes to the host
            let packed = self.shared.packers.pack(file, piece.clone(), &mut seen).await;
            let (smaller, needed) = packed.unwrap_or_default();
            took += needed;
            sent += match smaller {
                Some(bytes) => {
                    let length = piece.end - piece.start;
                    let wire = self.send_packed(say, bytes).await;
                    Sent { wire, chunks: if wire > 0 { length } else { 0 } }
                }
                None => self.send_part(say, file, piece).await,
            };
        }
        packing.tried(length, took);
        sent
    }

    /// Sends a part of the file as it is.
    async fn send_part(&self, say: &mpsc::Sender<Piece>, file: &Arc<File>, part: Range<u64>) -> Sent {
        let length = part.end - part.start;
        drop(say.send(Piece::Bytes(frame::data_head(length).to_vec())).await);
        let mut sent = 0;
        while sent < length {
            let bytes = self.pacing.step(length).min(length - sent);
            let at = part.start + sent;
            self.pacing.wait_to_send(bytes).await;
            if say.send(Piece::Part(Arc::clone(file), at..at + bytes)).await.is_err() {
                break;
            }
            sent += bytes;
        }
        Sent { wire: sent, chunks: sent }
    }

    /// Sends a packed piece, and returns its length; 0: nobody takes it any longer.
    async fn send_packed(&self, say: &mpsc::Sender<Piece>, packed: Vec<u8>) -> u64 {
        let length = packed.len() as u64;
        drop(say.send(Piece::Bytes(frame::packed_head(length).to_vec())).await);
        let step = usize::try_from(self.pacing.step(length)).unwrap_or(usize::MAX);
        for bytes in packed.chunks(step) {
            self.pacing.wait_to_send(bytes.len() as u64).await;
            if say.send(Piece::Bytes(bytes.to_vec())).await.is_err() {
                return 0;
            }
        }
        length
    }
}

/// How often a host has refused, by what may pass.
#[derive(Default)]
pub(super) struct Tries {
    busy: u32,
    damaged: u32,
}

impl Tries {
    /// Waits, if trying again may help.
    pub(super) async fn again(
        &mut self,
        way: Way<'_>,
        cargo: Cargo<'_>,
        reason: Reason,
        message: String,
    ) -> Result<(), Error> {
        let (tries, most) = match reason {
            Reason::Busy | Reason::Offset => (&mut self.busy, BUSY_TRIES),
            // broken memory, here or there; what is wrong on this disk stays wrong
            Reason::WrongDigest => (&mut self.damaged, DAMAGED_TRIES),
            _ => (&mut self.busy, 0),
        };
        *tries += 1;
        if *tries >= most {
            let (what, host) = (cargo.what.to_owned(), way.connection.describe());
            return Err(Error::Refused { what, host, reason, message });
        }
        tokio::time::sleep(BUSY_WAIT).await;
        Ok(())
    }
}

/// Runs a script that reads nothing and does not take long.
pub(super) async fn ask(way: Way<'_>, cargo: Cargo<'_>, text: String) -> Result<Output, Error> {
    let script = Script { text, is_root: way.is_root, timeout: OVERHEAD };
    let asked = way.connection.run(&script, Stdin::Empty).await;
    asked.map_err(|source| cannot_connect(way, cargo, source))
}

pub(super) fn cannot_connect(way: Way<'_>, cargo: Cargo<'_>, source: connect::Error) -> Error {
    Error::Connect { what: cargo.what.to_owned(), host: way.connection.describe(), source }
}

pub(super) fn nonsense(way: Way<'_>, cargo: Cargo<'_>, said: String) -> Error {
    Error::Answer { what: cargo.what.to_owned(), host: way.connection.describe(), said }
}

pub(super) fn said(output: &Output) -> String {
    let text = if output.stderr.trim().is_empty() {
        String::from_utf8_lossy(&output.stdout).into_owned()
    } else {
        output.stderr.clone()
    };
    format!("{} (status {})", plain(&text), output.status)
}

/// Takes out of a host's words what could drive the operator's terminal, and cuts them.
fn plain(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(400).collect()
}

pub(super) fn path_word(path: &Path) -> String {
    quote(&path.display().to_string())
}
