//! The operator's end of a push.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, Error, Reason};
use crate::causes::with_causes;
use crate::connect::{Connection, Output, Script, Stdin, quote};
use crate::events::{Event, Events};
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::units::Bytes;

/// A push is given up when it is slower than this on the whole: a fifth of what Wi-Fi
/// does at its worst. A dead link is noticed within a minute by `ssh` itself.
const SLOWEST: u64 = 64 << 10;
/// Time for what does not depend on the size.
const OVERHEAD: Duration = Duration::from_mins(2);
/// An interrupted push may be dying on the host for this long; then somebody else's is
/// going on.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(250);

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

/// Brings a blob to a host, or what is missing of it, by the `brambled` of the bundle
/// `program`, which is on the host already.
///
/// # Errors
///
/// Whatever fails, the blob is not sealed, and what had arrived is kept for the next
/// attempt unless its digest was wrong.
pub async fn push(
    way: Way<'_>,
    program: &Digest,
    cargo: Cargo<'_>,
    events: &Events,
) -> Result<Pushed, Error> {
    let blob = path_word(&way.layout.blob(cargo.digest));
    let root = path_word(way.layout.root());
    let brambled = path_word(&way.layout.program(program).join("brambled"));
    let partial = path_word(&way.layout.partial(cargo.digest));
    let ask = format!(
        "if [ -f {blob} ] && [ \"$(wc -c <{blob})\" -eq {bytes} ]; then echo sealed
elif [ -f {partial} ]; then wc -c <{partial}
else echo 0; fi",
        bytes = cargo.bytes.0
    );
    deliver(way, cargo, events, &ask, |offset| {
        let (digest, bytes) = (cargo.digest, cargo.bytes.0);
        // daemons of another user read what is sealed
        format!("umask 022; exec {brambled} receive --root {root} --digest {digest} --bytes {bytes} --offset {offset}")
    })
    .await
}

/// Asks what is there with the script `ask` (which prints `sealed`, or the
/// number of bytes there), then streams the rest into the script `take(offset)`, which prints an
/// [`Answer`].
pub(super) async fn deliver(
    way: Way<'_>,
    cargo: Cargo<'_>,
    events: &Events,
    ask: &str,
    take: impl Fn(u64) -> String,
) -> Result<Pushed, Error> {
    let key = format!("push/{}/{}", way.host, cargo.digest.short());
    events.send(Event::Started {
        key: key.clone(),
        host: Some(way.host.clone()),
        what: format!("pushing {}", cargo.what),
        total: Some(cargo.bytes),
    });
    let begun = Instant::now();
    match attempt_all(way, cargo, events, &key, ask, take).await {
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

async fn attempt_all(
    way: Way<'_>,
    cargo: Cargo<'_>,
    events: &Events,
    key: &str,
    ask: &str,
    take: impl Fn(u64) -> String,
) -> Result<(Bytes, Bytes), Error> {
    let found = Bytes(
        std::fs::metadata(cargo.path)
            .map_err(|source| Error::Read { path: cargo.path.to_owned(), source })?
            .len(),
    );
    if found != cargo.bytes {
        return Err(Error::Local {
            path: cargo.path.to_owned(),
            digest: *cargo.digest,
            found,
            expected: cargo.bytes,
        });
    }
    let mut tries = 0;
    loop {
        let offset = match held(&run(way, cargo, ask.to_owned(), OVERHEAD, Stdin::Empty).await?) {
            Some(Held::All) => return Ok((Bytes::ZERO, cargo.bytes)),
            Some(Held::Some(bytes)) => bytes,
            None => return Err(nonsense(way, cargo, "it does not say what it has".to_owned())),
        };
        let stdin = Stdin::File { path: cargo.path.to_owned(), offset, on_progress: progress(events, key) };
        let limit = OVERHEAD + Duration::from_secs(cargo.bytes.0 / SLOWEST);
        let output = run(way, cargo, take(offset), limit, stdin).await?;
        let (reason, message) = match serde_json::from_slice(&output.stdout) {
            Ok(Answer::Sealed { received, .. }) => return Ok((received, cargo.bytes - received)),
            Ok(Answer::Refused { reason, message, .. }) => (reason, message),
            Err(_) => return Err(nonsense(way, cargo, said(&output))),
        };
        tries += 1;
        if !matches!(reason, Reason::Busy | Reason::Offset) || tries >= BUSY_TRIES {
            let (what, host) = (cargo.what.to_owned(), way.connection.describe());
            return Err(Error::Refused { what, host, reason, message });
        }
        tokio::time::sleep(BUSY_WAIT).await;
    }
}

fn progress(events: &Events, key: &str) -> Arc<dyn Fn(u64) + Send + Sync> {
    let (events, key) = (events.clone(), key.to_owned());
    Arc::new(move |done| events.send(Event::Progress { key: key.clone(), done: Bytes(done) }))
}

async fn run(
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

fn nonsense(way: Way<'_>, cargo: Cargo<'_>, said: String) -> Error {
    Error::Answer { what: cargo.what.to_owned(), host: way.connection.describe(), said }
}

fn said(output: &Output) -> String {
    let text = if output.stderr.trim().is_empty() {
        String::from_utf8_lossy(&output.stdout).into_owned()
    } else {
        output.stderr.clone()
    };
    let short: String = text.trim().chars().filter(|c| !c.is_control()).take(400).collect();
    format!("{short} (status {})", output.status)
}

enum Held {
    All,
    Some(u64),
}

fn held(output: &Output) -> Option<Held> {
    match std::str::from_utf8(&output.stdout).ok()?.trim() {
        "sealed" => Some(Held::All),
        bytes => bytes.parse().ok().map(Held::Some),
    }
}

pub(super) fn path_word(path: &Path) -> String {
    quote(&path.display().to_string())
}
