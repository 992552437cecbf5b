//! Brings the bundle to a host that has nothing of ours yet: `sh`, `tar` and `sha256sum`.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::limits::{Limits, Pacing};
use super::push::{
    Cargo, Moved, OVERHEAD, Pushed, Tries, UNHEARD, WAITING, Way, ask, cannot_connect, nonsense, path_word,
    said, told,
};
use super::{Answer, Error};
use crate::connect::{Output, Piece, Script, Talk};
use crate::events::{Event, Events};
use crate::units::Bytes;

/// Room beside the archive for what is unpacked from it, as a multiple of its size. Our
/// bundles unpack to about three times theirs.
const UNPACKED: u64 = 4;
/// Room that is left to the rest of the system, as `receive` does.
const SPARE_KIB: u64 = 64 << 10;
/// What is sent at once where there is no rate to keep.
const STEP: u64 = 1 << 20;
/// The longest answer that is heard to its end.
const MOST_SAID: usize = 64 << 10;

/// Brings a bundle to a host and unpacks it to `programs/<digest>/`. A host that has it
/// does nothing. It keeps to `limits` as blobs do.
///
/// # Errors
///
/// Whatever fails, `programs/<digest>/` is not there, and what had arrived of the archive
/// is kept for the next attempt unless its digest was wrong.
pub async fn push_bundle(
    way: Way<'_>,
    cargo: Cargo<'_>,
    limits: &Limits,
    events: &Events,
) -> Result<Pushed, Error> {
    let dir = way.layout.program(cargo.digest);
    let program = path_word(&dir);
    let unpacking = path_word(&dir.with_extension("partial"));
    let partial_path = way.layout.partial(cargo.digest);
    let partial = path_word(&partial_path);
    let parents = [partial_path.parent(), dir.parent()].into_iter().flatten().map(path_word);
    let parents = parents.collect::<Vec<_>>().join(" ");
    let (digest, bytes) = (cargo.digest, cargo.bytes.0);
    let question = format!(
        "if [ -x {program}/brambled ]; then echo sealed
elif [ -f {partial} ]; then wc -c <{partial}
else echo 0; fi"
    );
    let take = |offset: u64| {
        let kib = (bytes.saturating_mul(1 + UNPACKED) - offset.min(bytes)) / 1024 + SPARE_KIB;
        format!(
            r#"umask 022
refuse() {{
    printf '{{"outcome":"refused","reason":"%s","message":"%s","partial":%d}}\n' "$1" "$2" "$(wc -c <{partial})"
    exit 1
}}
# only its own disk, where the host's sync can do that: another may be a dead network share
written() {{ sync -f "$1" 2>/dev/null || sync; }}
sealed() {{ printf '{{"outcome":"sealed","sealed":true,"bytes":{bytes},"received":%d}}\n' "$1"; exit 0; }}
mkdir -p {parents} || refuse disk 'cannot make its folders'
exec 9>>{partial} || refuse disk 'cannot open the unfinished upload'
if command -v flock >/dev/null; then flock -n 9 || refuse busy 'another push of the same bundle is going on'; fi
[ ! -x {program}/brambled ] || {{ rm -f {partial}; sealed 0; }}
here=$(wc -c <{partial})
[ "$here" -eq {offset} ] || refuse offset "the unfinished upload holds $here bytes, and the sender starts at {offset}"
free=$(df -Pk {partial} | awk 'END {{ print $4 }}')
[ "$free" -ge {kib} ] || refuse no_room "the bundle needs {kib} KiB to be unpacked, and the disk has $free KiB"
cat >&9 || refuse no_room 'the disk took no more'
here=$(wc -c <{partial})
[ "$here" -le {bytes} ] || {{ : >{partial}; refuse wrong_size 'more bytes than announced arrived, so they were deleted: push again'; }}
[ "$here" -eq {bytes} ] || refuse wrong_size "$here of {bytes} bytes arrived: push again, it goes on from there"
sum=$(sha256sum <{partial})
[ "${{sum%% *}}" = {digest} ] || {{ : >{partial}; refuse wrong_digest 'the bytes have another digest, so they were deleted: push again'; }}
rm -rf {unpacking}
mkdir {unpacking} || refuse disk 'cannot make a folder for the bundle'
tar -xzof {partial} -C {unpacking} || {{ rm -rf {unpacking}; refuse no_room 'it cannot be unpacked'; }}
[ -x {unpacking}/brambled ] || {{ rm -rf {unpacking}; refuse unusable 'there is no brambled in it: build the bundle again'; }}
written {unpacking}
rm -rf {program}
mv {unpacking} {program} || refuse disk 'cannot put the bundle in its place'
rm -f {partial}
written {program}
sealed $(({bytes} - {offset}))"#
        )
    };
    // of a program that is there nobody need hear
    let Some(offset) = missing_from(way, cargo, &question).await? else {
        let (bytes_sent, bytes_from_hosts) = (Bytes::ZERO, Bytes::ZERO);
        return Ok(Pushed { bytes_sent, bytes_from_hosts, bytes_reused: cargo.bytes, seconds: 0.0 });
    };
    let pour = Pour { way, cargo, limits, pacing: limits.to_one_host(), events };
    let work = |key: String| async move { pour.append(&key, offset, &question, &take).await };
    told(way, cargo, events, work).await
}

/// Asks with the script `question` how many bytes are there. None: all of it, unpacked.
async fn missing_from(way: Way<'_>, cargo: Cargo<'_>, question: &str) -> Result<Option<u64>, Error> {
    let output = ask(way, cargo, question.to_owned()).await?;
    match std::str::from_utf8(&output.stdout).unwrap_or_default().trim() {
        "sealed" => Ok(None),
        bytes => bytes
            .parse()
            .map(Some)
            .map_err(|_| nonsense(way, cargo, format!("it does not say what it has: {}", said(&output)))),
    }
}

/// A bundle on its way into scripts of one host.
struct Pour<'a> {
    way: Way<'a>,
    cargo: Cargo<'a>,
    limits: &'a Limits,
    pacing: Pacing,
    events: &'a Events,
}

impl Pour<'_> {
    /// Streams what is missing from `offset` on into the script `take(offset)`, which prints an [`Answer`].
    async fn append(
        &self,
        key: &str,
        mut offset: u64,
        question: &str,
        take: &(dyn Fn(u64) -> String + Sync),
    ) -> Result<Moved, Error> {
        let (way, cargo) = (self.way, self.cargo);
        let mut tries = Tries::default();
        loop {
            let rest = offset.min(cargo.bytes.0)..cargo.bytes.0;
            let output = self.run(take(offset), rest, key).await?;
            match serde_json::from_slice(&output.stdout) {
                Ok(Answer::Sealed { received, .. }) => {
                    return Ok(Moved { sent: received, brought: received, ..Moved::default() });
                }
                Ok(Answer::Refused { reason, message, .. }) => {
                    tries.again(way, cargo, reason, message).await?;
                }
                _ => return Err(nonsense(way, cargo, said(&output))),
            }
            match missing_from(way, cargo, question).await? {
                Some(bytes) => offset = bytes,
                None => return Ok(Moved::default()),
            }
        }
    }

    /// Runs a script that reads a part of the bundle.
    async fn run(&self, text: String, part: Range<u64>, key: &str) -> Result<Output, Error> {
        let (way, cargo) = (self.way, self.cargo);
        let timeout = OVERHEAD + Duration::from_secs(cargo.bytes.0 / self.limits.slowest());
        let script = Script { text, is_root: way.is_root, timeout };
        let file =
            File::open(cargo.path).map_err(|source| Error::Read { path: cargo.path.to_owned(), source })?;
        let (input, mut output) = (mpsc::channel(WAITING), mpsc::channel::<Vec<u8>>(UNHEARD));
        let talk = way.connection.talk(&script, Talk { input: input.1, output: output.0 });
        let hear = async {
            let mut heard = Vec::new();
            while let Some(bytes) = output.1.recv().await {
                heard.extend(bytes.into_iter().take(MOST_SAID.saturating_sub(heard.len())));
            }
            heard
        };
        let (ended, (), stdout) = tokio::join!(talk, self.feed(input.0, Arc::new(file), part, key), hear);
        let ended = ended.map_err(|source| cannot_connect(way, cargo, source))?;
        Ok(Output { stdout, ..ended })
    }

    /// Sends a part of the file, for as long as it is taken.
    async fn feed(&self, say: mpsc::Sender<Piece>, file: Arc<File>, part: Range<u64>, key: &str) {
        let mut at = part.start;
        while at < part.end {
            let step = self.pacing.step(STEP).min(part.end - at);
            self.pacing.wait_to_send(step).await;
            // a script need not read its input: it has said why
            if say.send(Piece::Part(Arc::clone(&file), at..at + step)).await.is_err() {
                return;
            }
            at += step;
            let (key, done, from_hosts) = (key.to_owned(), Bytes(at), Bytes::ZERO);
            self.events.send(Event::Progress { key, done, from_hosts });
        }
    }
}
