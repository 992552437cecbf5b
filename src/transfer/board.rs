//! Which missing chunk is asked of which source: a value that is told what happens and when.
//!
//! Sources stand in the order of preference, the sender last. A chunk is asked of the first source
//! that has it, or will; of those who have some from before, a few bring them at a time. A source
//! that says nothing at all, or sends what is wrong, is given up; one that is alive and brings nothing
//! is passed by until it does, and one that brings little is asked after all others. So a peer that is
//! slow, dead or lying costs time, and never the blob.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::Runs;

/// What is asked of a source ahead of what it has brought: the link never runs dry, and what
/// waits in memory stays small.
const AHEAD: u64 = 8 << 20;
/// The same in chunks, where they are small.
const MOST_AHEAD: usize = 64;
/// How many of the hosts that have chunks from before bring some at once: of each, one is in memory here. Whoever has no turn is
/// taken not to be there.
const AT_ONCE: usize = 3;

/// A host that owes chunks and says nothing for this long is gone. One that only waits says so
/// every second.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// The same for the sender, whose link may be bad: nobody else is left then.
pub(super) const SENDERS_SILENCE: Duration = Duration::from_mins(1);
/// A host that brings no chunk for this long is passed by. It is longer than it takes to notice, one host
/// further up, that somebody is gone; and a chunk comes at the 64 KiB/s in it that are given up below.
pub(super) const OWED: Duration = Duration::from_mins(1);
/// More of that for each host that the chunk comes through before: 4 MiB at 20 Mbit/s.
const HOP: Duration = Duration::from_secs(2);
/// Who brings less than this in a second, of the time in which he does not wait himself, is asked after all others: no wire
/// that is sound is as slow, and Wi-Fi hardly. Where all are, the order is as it was.
pub(super) const SLOW: u64 = 256 << 10;
/// For so long it is looked at, at least, before that is said of it.
const JUDGED: Duration = Duration::from_secs(15);
/// How long that is held against it; twice as long each time. A chunk or two show whether it is still so.
const HELD: Duration = Duration::from_mins(1);
/// How long a host that is being connected to is waited for before others are asked.
pub(super) const CONNECTING: Duration = Duration::from_secs(4);
/// How long until a host is looked for again, each time that the way to it breaks: its door may have been crowded, or its
/// link away for a moment.
const RETURNS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(3)];
/// How often a host may be passed by before it is not asked again.
const MOST_PASSES: u32 = 2;
/// How often the sender may send a chunk wrong: broken memory, or a broken link.
const MOST_WRONG: u32 = 2;

/// Where the transfer of a blob stands on one host.
#[derive(Debug)]
pub(super) struct Board {
    chunks: Vec<Chunk>,
    sources: Vec<Source>,
    /// Chunks that are not here.
    left: usize,
    /// No chunk before this one is missing.
    first: usize,
    /// How often the last resort sent a chunk wrong.
    wrong: u32,
    is_over: bool,
    begun: Instant,
    /// What a host brings in a second that is not slow.
    slow: u64,
}

#[derive(Debug)]
struct Chunk {
    bytes: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Here,
    Missing,
    /// Asked of a source, by its place.
    Asked(usize),
    /// Brought by a source, and not proven yet.
    Brought(usize),
}

#[derive(Debug)]
struct Source {
    /// The chunks that it has; none: it has, or will have, all.
    holds: Option<Vec<bool>>,
    standing: Standing,
    asked: VecDeque<usize>,
    ahead: u64,
    /// How many chunks it has brought that are not looked at yet.
    in_hand: usize,
    /// When anything came from it, while it owes.
    heard: Instant,
    /// Since when it owes what it owes.
    since: Instant,
    passes: u32,
    /// How often the way to it broke.
    breaks: usize,
    silence: Duration,
    /// None: it is the last resort.
    owed: Option<Duration>,
    brought: u64,
    /// Since when it is at what it owes, and does not wait itself.
    busy: Instant,
    /// What it brought since it was last judged, and how long it was busy with that.
    judged: (u64, Duration),
    /// Until when it is taken to be slow.
    slow_until: Option<Instant>,
    /// For how long, when it is again.
    held: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is being connected to, for the first time or again.
    Expected,
    Active,
    Passed,
    Gone,
}

/// How a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    /// On.
    On,
    /// Everything is here.
    Whole,
    /// Nobody is left who has what is missing.
    NoSource,
    /// The last resort has sent what is wrong again and again.
    Wrong,
}

impl Board {
    /// Makes the board of a blob whose chunks have `sizes`, of which `missing` are not here. Each of
    /// `peers` has the chunks that it names, or all, through so many others; after them comes the sender.
    pub(super) fn new(
        sizes: impl Iterator<Item = u64>,
        missing: &[usize],
        peers: &[(Option<Runs>, u32)],
        now: Instant,
    ) -> Self {
        let mut chunks: Vec<Chunk> = sizes.map(|bytes| Chunk { bytes, state: State::Here }).collect();
        let mut left = 0;
        for at in missing {
            if let Some(chunk) = chunks.get_mut(*at) {
                chunk.state = State::Missing;
                left += 1;
            }
        }
        let count = chunks.len();
        let source = |holds, silence, owed: Option<Duration>| Source {
            holds,
            standing: if owed.is_some() { Standing::Expected } else { Standing::Active },
            asked: VecDeque::new(),
            ahead: 0,
            in_hand: 0,
            heard: now,
            since: now,
            passes: 0,
            breaks: 0,
            silence,
            owed,
            brought: 0,
            busy: now,
            judged: (0, Duration::ZERO),
            slow_until: None,
            held: HELD,
        };
        let mut sources: Vec<Source> = peers
            .iter()
            .map(|(runs, hops)| {
                let holds = runs.as_ref().map(|runs| bitmap(runs, count));
                source(holds, SILENCE, Some(OWED + HOP.saturating_mul(*hops)))
            })
            .collect();
        sources.push(source(None, SENDERS_SILENCE, None));
        Self { chunks, sources, left, first: 0, wrong: 0, is_over: false, begun: now, slow: SLOW }
    }

    /// As it is where no more than `most` bytes are to come in a second.
    pub(super) fn within(mut self, most: Option<u64>) -> Self {
        self.slow = self.slow.min(most.unwrap_or(u64::MAX) / 4);
        self
    }

    /// Returns the place of the sender among the sources.
    pub(super) fn sender(&self) -> usize {
        self.sources.len() - 1
    }

    /// Returns whether a chunk is here, proven.
    pub(super) fn has(&self, at: usize) -> bool {
        self.chunks.get(at).is_some_and(|chunk| chunk.state == State::Here)
    }

    /// Returns the bytes that are here.
    pub(super) fn here(&self) -> u64 {
        self.chunks.iter().filter(|chunk| chunk.state == State::Here).map(|chunk| chunk.bytes).sum()
    }

    /// Returns the proven bytes that the hosts have brought.
    pub(super) fn hosts_brought(&self) -> u64 {
        self.sources.iter().rev().skip(1).map(|source| source.brought).sum()
    }

    /// Returns the proven bytes that the sender has brought.
    pub(super) fn sender_brought(&self) -> u64 {
        self.sources.last().map_or(0, |source| source.brought)
    }

    /// Returns how it goes.
    pub(super) fn going(&self) -> Going {
        if self.left == 0 {
            Going::Whole
        } else if self.wrong >= MOST_WRONG {
            Going::Wrong
        } else if self.is_over || !self.can_go_on() {
            Going::NoSource
        } else {
            Going::On
        }
    }

    /// Returns whether anything that is not here can still come. What can is waited for, even if that
    /// is not all: it need not come again.
    fn can_go_on(&self) -> bool {
        let is_there = |source: &&Source| source.standing != Standing::Gone;
        if self.sources.last().as_ref().is_some_and(is_there) {
            return true;
        }
        let left: Vec<&Source> = self.sources.iter().filter(is_there).collect();
        self.chunks.iter().enumerate().any(|(at, chunk)| match chunk.state {
            State::Here => false,
            State::Missing => left.iter().any(|source| source.holds(at)),
            State::Asked(_) | State::Brought(_) => true,
        })
    }

    /// Ends the transfer: nothing more is asked.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    /// Returns whether a source is not asked again.
    pub(super) fn is_gone(&self, source: usize) -> bool {
        self.sources[source].standing == Standing::Gone
    }

    /// Returns the chunk that `source` is to be asked for now, if any.
    pub(super) fn next(&mut self, source: usize, now: Instant) -> Option<usize> {
        let asked = &self.sources[source];
        let is_full = !asked.asked.is_empty() && (asked.ahead >= AHEAD || asked.asked.len() >= MOST_AHEAD);
        if self.is_over || asked.standing != Standing::Active || is_full || !self.has_turn(source) {
            return None;
        }
        let rank = |at: usize| (self.sources[at].is_slow(now), at);
        let better: Vec<&Source> = (0..self.sources.len())
            .filter(|at| rank(*at) < rank(source) && self.has_turn(*at))
            .map(|at| &self.sources[at])
            .collect();
        let is_waited_for = now.duration_since(self.begun) < CONNECTING;
        let is_usable = |source: &Source| match source.standing {
            Standing::Active => true,
            Standing::Expected => is_waited_for,
            Standing::Passed | Standing::Gone => false,
        };
        let is_for_it = |at: &usize| {
            self.chunks[*at].state == State::Missing
                && asked.holds(*at)
                // what it was asked for before others were will come
                && !asked.asked.contains(at)
                && !better.iter().any(|other| is_usable(other) && other.holds(*at))
        };
        let at = (self.first..self.chunks.len()).find(is_for_it)?;
        let chunk = &mut self.chunks[at];
        chunk.state = State::Asked(source);
        let bytes = chunk.bytes;
        let source = &mut self.sources[source];
        if source.asked.is_empty() {
            (source.heard, source.since, source.busy) = (now, now, now);
        }
        source.asked.push_back(at);
        source.ahead += bytes;
        while self.first < self.chunks.len() && self.chunks[self.first].state == State::Here {
            self.first += 1;
        }
        Some(at)
    }

    /// Returns whether `source` brings something, or may begin to: of those who have chunks from before, [`AT_ONCE`] may.
    fn has_turn(&self, source: usize) -> bool {
        let is_bringing = |source: &&Source| !source.asked.is_empty() || source.in_hand > 0;
        let it = &self.sources[source];
        let holders = self.sources.iter().filter(|source| source.holds.is_some());
        it.holds.is_none() || is_bringing(&it) || holders.filter(is_bringing).count() < AT_ONCE
    }

    /// `source` can be asked from now on.
    pub(super) fn connected(&mut self, source: usize) {
        let standing = &mut self.sources[source].standing;
        if *standing == Standing::Expected {
            *standing = Standing::Active;
        }
    }

    /// Nobody is to blame for the time that this host itself has taken.
    pub(super) fn forgive(&mut self, took: Duration) {
        for source in 0..self.sources.len() {
            self.forgive_one(source, took);
        }
    }

    /// As [`Self::forgive`], of one alone.
    pub(super) fn forgive_one(&mut self, source: usize, took: Duration) {
        let source = &mut self.sources[source];
        source.heard += took;
        source.since += took;
        source.busy += took;
    }

    /// Returns the chunk that `source` owes next.
    pub(super) fn owes(&self, source: usize) -> Option<usize> {
        self.sources[source].asked.front().copied()
    }

    /// Something came from `source`: bytes, or that it waits itself.
    pub(super) fn heard(&mut self, source: usize, now: Instant) {
        self.sources[source].heard = now;
    }

    /// `source` waits itself for what it was asked for first. Who has it from before waits for nothing.
    pub(super) fn waits(&mut self, source: usize, now: Instant) {
        let source = &mut self.sources[source];
        if source.holds.is_none() {
            source.busy = now;
        }
    }

    /// `source` has brought what it was asked for first. Returns the chunk if it is still wanted.
    pub(super) fn brought(&mut self, source: usize, now: Instant) -> Option<usize> {
        let it = &mut self.sources[source];
        let at = it.asked.pop_front()?;
        let bytes = self.chunks[at].bytes;
        it.ahead -= bytes;
        it.judge(bytes, now, self.slow);
        (it.heard, it.since) = (now, now);
        if it.standing == Standing::Passed {
            if it.passes < MOST_PASSES {
                it.standing = Standing::Active;
            } else if it.asked.is_empty() {
                it.standing = Standing::Gone;
            }
        }
        let state = &mut self.chunks[at].state;
        let is_wanted = matches!(state, State::Missing | State::Asked(_));
        if is_wanted {
            *state = State::Brought(source);
            self.sources[source].in_hand += 1;
        }
        if self.sources[source].is_slow(now) {
            // what it still brings is taken; where nobody else has it, it is not asked twice
            self.take_back(source);
        }
        is_wanted.then_some(at)
    }

    /// What was brought of a chunk is right, and is here.
    pub(super) fn proven(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        if let State::Brought(source) = chunk.state {
            self.sources[source].brought += chunk.bytes;
            self.sources[source].in_hand -= 1;
            chunk.state = State::Here;
            self.left -= 1;
        }
    }

    /// What was brought of a chunk is wrong.
    pub(super) fn wrong(&mut self, at: usize) {
        if let State::Brought(source) = self.chunks[at].state {
            self.sources[source].in_hand -= 1;
            self.missing_again(at);
            if self.sources[source].owed.is_some() {
                self.gone(source);
            } else {
                self.wrong += 1;
            }
        }
    }

    /// `source` is not there any longer.
    pub(super) fn gone(&mut self, source: usize) {
        self.sources[source].standing = Standing::Gone;
        self.take_back(source);
        self.sources[source].asked.clear();
        self.sources[source].ahead = 0;
    }

    /// The way to `source` broke. Returns how long until it is looked for again, while others are asked; none: it
    /// is not there any longer.
    pub(super) fn lost(&mut self, source: usize) -> Option<Duration> {
        let pause = RETURNS.get(self.sources[source].breaks).copied().filter(|_| !self.is_gone(source));
        self.gone(source);
        if pause.is_some() {
            self.sources[source].breaks += 1;
            self.sources[source].standing = Standing::Expected;
        }
        pause
    }

    /// Gives up, or passes by, whoever has owed for too long.
    pub(super) fn look(&mut self, now: Instant) {
        for at in 0..self.sources.len() {
            let source = &self.sources[at];
            if source.asked.is_empty() || source.standing == Standing::Gone {
                continue;
            }
            if now.saturating_duration_since(source.heard) >= source.silence {
                self.gone(at);
            } else if now.saturating_duration_since(source.since) >= source.owed.unwrap_or(OWED) {
                let source = &mut self.sources[at];
                if source.owed.is_none() {
                    // nobody stands behind it: those who are slow may have it
                    source.note_slow(now);
                    self.take_back(at);
                    continue;
                }
                source.since = now;
                source.passes += 1;
                source.standing = Standing::Passed;
                if source.passes > MOST_PASSES {
                    self.gone(at);
                } else {
                    self.take_back(at);
                }
            }
        }
    }

    /// Lets others be asked for what `source` owes. What it still brings is taken.
    fn take_back(&mut self, source: usize) {
        for at in self.sources[source].asked.clone() {
            if self.chunks[at].state == State::Asked(source) {
                self.missing_again(at);
            }
        }
    }

    fn missing_again(&mut self, at: usize) {
        self.chunks[at].state = State::Missing;
        self.first = self.first.min(at);
    }
}

impl Source {
    /// It has brought so many bytes: notes whether that goes slowly.
    fn judge(&mut self, bytes: u64, now: Instant, slow: u64) {
        let (brought, took) = &mut self.judged;
        *brought += bytes;
        *took += now.saturating_duration_since(self.busy);
        self.busy = now;
        if *took >= JUDGED {
            let is_slow = u128::from(*brought) * 1000 < u128::from(slow) * took.as_millis();
            self.judged = (0, Duration::ZERO);
            if is_slow {
                self.note_slow(now);
            }
        }
    }

    fn note_slow(&mut self, now: Instant) {
        if !self.is_slow(now) {
            self.slow_until = Some(now + self.held);
            self.held = self.held.saturating_mul(2);
        }
    }

    fn is_slow(&self, now: Instant) -> bool {
        self.slow_until.is_some_and(|until| now < until)
    }

    fn holds(&self, at: usize) -> bool {
        self.holds.as_ref().is_none_or(|holds| holds.get(at).copied().unwrap_or(false))
    }
}

fn bitmap(runs: &Runs, count: usize) -> Vec<bool> {
    let mut holds = vec![false; count];
    for (first, last) in runs {
        if let Some(run) = holds.get_mut(*first..last.saturating_add(1).min(count)) {
            run.fill(true);
        }
    }
    holds
}

#[cfg(test)]
mod tests;
