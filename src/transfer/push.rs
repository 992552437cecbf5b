//! The operator's end of a push.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, ChunkList, Error, PROTOCOL, Reason};
use crate::causes::with_causes;
use crate::connect::{Connection, Output, Script, Stdin, quote};
use crate::events::{Event, Events};
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::units::Bytes;

/// A push is given up when it is slower than this on the whole: a fifth of what Wi-Fi
/// does at its worst. A dead link is noticed within a minute by `ssh` itself.
pub(super) const SLOWEST: u64 = 64 << 10;
/// Time for what does not depend on the size.
pub(super) const OVERHEAD: Duration = Duration::from_mins(2);
/// An interrupted push may be dying on the host for this long; then somebody else's is
/// going on.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(250);
/// Chunks that arrive with another digest are sent again once.
const DAMAGED_TRIES: u32 = 2;
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

/// What a push took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pushed {
    /// Bytes that went over the link.
    pub bytes_sent: Bytes,
    /// Bytes that were there already.
    pub bytes_reused: Bytes,
    /// How long it took.
    pub seconds: f64,
}

/// Brings a blob to a host, or what is missing of it there, by the `brambled` of the bundle
/// `program`, which is on the host already. `list` has the blob's chunks.
///
/// # Errors
///
/// Whatever fails, the blob is not sealed, and what had arrived of whole chunks is kept for the
/// next attempt.
pub async fn push(
    way: Way<'_>,
    program: &Digest,
    cargo: Cargo<'_>,
    list: &ChunkList,
    events: &Events,
) -> Result<Pushed, Error> {
    let pushing = Pushing { way, program, cargo, list };
    told(way, cargo, events, |key| async move { pushing.run(events, &key).await }).await
}

/// Tells `events` how `work` goes, which returns the bytes sent and reused.
pub(super) async fn told<W>(
    way: Way<'_>,
    cargo: Cargo<'_>,
    events: &Events,
    work: impl FnOnce(String) -> W,
) -> Result<Pushed, Error>
where
    W: Future<Output = Result<(Bytes, Bytes), Error>>,
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
        Ok((bytes_sent, bytes_reused)) => {
            let outcome = (bytes_sent == Bytes::ZERO).then(|| "already there".to_owned());
            events.send(Event::Finished { key, outcome });
            Ok(Pushed { bytes_sent, bytes_reused, seconds: begun.elapsed().as_secs_f64() })
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

/// One blob on its way to one host.
struct Pushing<'a> {
    way: Way<'a>,
    program: &'a Digest,
    cargo: Cargo<'a>,
    list: &'a ChunkList,
}

impl Pushing<'_> {
    async fn run(&self, events: &Events, key: &str) -> Result<(Bytes, Bytes), Error> {
        let (way, cargo) = (self.way, self.cargo);
        let mut tries = Tries::default();
        let mut sent = Bytes::ZERO;
        loop {
            let (chunks, token) = match self.offer().await? {
                Answer::Sealed { .. } => return Ok((sent, cargo.bytes - sent)),
                Answer::Missing { chunks, token, .. } => (chunks, token),
                Answer::Refused { reason, message, .. } => {
                    tries.again(way, cargo, reason, message).await?;
                    continue;
                }
            };
            let parts = self.parts(&chunks)?;
            let missing: u64 = parts.iter().map(|part| part.end - part.start).sum();
            let here = cargo.bytes - Bytes(missing);
            let on_progress = progress(events, key, here);
            let stdin = Stdin::File { path: cargo.path.to_owned(), parts, on_progress };
            let limit = OVERHEAD + Duration::from_secs(missing / SLOWEST);
            let output = run(way, cargo, self.receive(&format!(" --take {token}")), limit, stdin).await?;
            match serde_json::from_slice(&output.stdout) {
                Ok(Answer::Sealed { received, .. }) => {
                    sent += received;
                    return Ok((sent, cargo.bytes - sent));
                }
                Ok(Answer::Refused { reason, message, .. }) => {
                    tries.again(way, cargo, reason, message).await?;
                }
                _ => return Err(nonsense(way, cargo, said(&output))),
            }
        }
    }

    /// Asks what is missing; a blob that is there needs no program for that.
    async fn offer(&self) -> Result<Answer, Error> {
        let (way, cargo) = (self.way, self.cargo);
        let text = format!(
            "if [ -f {blob} ] && [ \"$(wc -c <{blob})\" -eq {bytes} ]; then
    echo '{{\"outcome\":\"sealed\",\"sealed\":true,\"bytes\":{bytes},\"received\":0}}'
    exit 0
fi
{receive}",
            blob = path_word(&way.layout.blob(cargo.digest)),
            bytes = cargo.bytes.0,
            receive = self.receive(""),
        );
        let limit = OVERHEAD + Duration::from_secs(cargo.bytes.0 / SLOWEST_COPY);
        let output = run(way, cargo, text, limit, Stdin::Bytes(self.list.to_text().into_bytes())).await?;
        serde_json::from_slice(&output.stdout).map_err(|_| nonsense(way, cargo, said(&output)))
    }

    fn receive(&self, more: &str) -> String {
        let (layout, digest) = (self.way.layout, self.cargo.digest);
        let root = path_word(layout.root());
        let brambled = path_word(&layout.program(self.program).join("brambled"));
        // daemons of another user read what is sealed
        format!(
            "umask 022; exec {brambled} receive --root {root} --digest {digest} --protocol {PROTOCOL}{more}"
        )
    }

    /// Returns where the chunks lie that the host named, each run as one part.
    fn parts(&self, chunks: &[(usize, usize)]) -> Result<Vec<Range<u64>>, Error> {
        let part = |(first, last): &(usize, usize)| {
            let (first, last) = (self.list.chunks.get(*first)?, self.list.chunks.get(*last)?);
            Some(first.range.start..last.range.end).filter(|part| part.start < part.end)
        };
        let parts: Option<Vec<_>> = chunks.iter().map(part).collect();
        let is_sorted = |parts: &Vec<Range<u64>>| parts.windows(2).all(|two| two[0].end <= two[1].start);
        parts.filter(is_sorted).ok_or_else(|| {
            nonsense(self.way, self.cargo, "it misses chunks that the blob does not have".to_owned())
        })
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

/// Tells `events` how much is there, of which `here` was before.
pub(super) fn progress(events: &Events, key: &str, here: Bytes) -> Arc<dyn Fn(u64) + Send + Sync> {
    let (events, key) = (events.clone(), key.to_owned());
    Arc::new(move |sent| events.send(Event::Progress { key: key.clone(), done: here + Bytes(sent) }))
}

pub(super) async fn run(
    way: Way<'_>,
    cargo: Cargo<'_>,
    text: String,
    timeout: Duration,
    stdin: Stdin,
) -> Result<Output, Error> {
    let script = Script { text, is_root: way.is_root, timeout };
    way.connection.run(&script, stdin).await.map_err(|source| Error::Connect {
        what: cargo.what.to_owned(),
        host: way.connection.describe(),
        source,
    })
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
    let short: String = text.trim().chars().filter(|c| !c.is_control()).take(400).collect();
    format!("{short} (status {})", output.status)
}

pub(super) fn path_word(path: &Path) -> String {
    quote(&path.display().to_string())
}
