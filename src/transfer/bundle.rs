//! Brings the bundle to a host that has nothing of ours yet: `sh`, `tar` and `sha256sum`.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::board::SENDERS_SILENCE;
use super::limits::{Limits, Pacing};
use super::push::{
    Cargo, Moved, OVERHEAD, Pushed, Tries, UNHEARD, WAITING, Way, ask, cannot_connect, nonsense, path_word,
    said, told,
};
use super::{Answer, Error};
use crate::connect::{Output, Piece, Script, Talk, quote};
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
/// A sender of whom nothing comes for so many seconds is gone, as for `receive`: TCP says nothing for hours. Whoever
/// comes next waits a little longer than this for the lock of the one before. A sender that keeps to a rate sends
/// something more often ([`Pacing::step`]).
const SILENCE: u64 = SENDERS_SILENCE.as_secs();
/// How often it is looked whether something came, in seconds.
const LOOKED_EVERY: u64 = 5;

/// Brings a bundle to a host and unpacks it to `programs/<digest>/`. A host that has it
/// does nothing. It keeps to `limits` as blobs do.
///
/// `seen` is waited for before anything is written, and returns the text of the host's lease file, empty where there
/// is none, once nobody else is at work there. The host writes nothing if it has another text by then, and unpacks
/// nothing if it has another when all has come. There is no program yet that could give a lease, so two things are not
/// noticed: a lease that is taken while the bundle is unpacked, and one that came and went with everything else on
/// a host that had none. Neither changes what the other operator's programs do.
///
/// # Errors
///
/// Whatever fails, `programs/<digest>/` is not there, and what had arrived of the archive
/// is kept for the next attempt unless its digest was wrong.
pub async fn push_bundle(
    way: Way<'_>,
    cargo: Cargo<'_>,
    seen: impl Future<Output = Result<String, Error>>,
    limits: &Limits,
    events: &Events,
) -> Result<Pushed, Error> {
    let question = question(way, cargo);
    // of a program that is there nobody need hear
    let Some(offset) = missing_from(way, cargo, &question).await? else {
        let (bytes_sent, bytes_from_hosts) = (Bytes::ZERO, Bytes::ZERO);
        return Ok(Pushed { bytes_sent, bytes_from_hosts, bytes_reused: cargo.bytes, seconds: 0.0 });
    };
    let seen = seen.await?;
    let take = |offset| take(way, cargo, offset, &seen, SILENCE);
    let pour = Pour { way, cargo, limits, pacing: limits.to_one_host(), events };
    let work = |key: String| async move { pour.append(&key, offset, &question, &take).await };
    told(way, cargo, events, work).await
}

/// Returns the script that says how much of a bundle is there.
fn question(way: Way<'_>, cargo: Cargo<'_>) -> String {
    let program = path_word(&way.layout.program(cargo.digest));
    let partial = path_word(&way.layout.partial(cargo.digest));
    format!(
        "if [ -x {program}/brambled ]; then echo sealed
elif [ -f {partial} ]; then wc -c <{partial}
else echo 0; fi"
    )
}

/// Returns the script that reads a bundle from `offset` on and unpacks it, on a host whose lease was `seen`. It gives
/// up after `silence` seconds in which nothing came.
fn take(way: Way<'_>, cargo: Cargo<'_>, offset: u64, seen: &str, silence: u64) -> String {
    let dir = way.layout.program(cargo.digest);
    let program = path_word(&dir);
    let unpacking = path_word(&dir.with_extension("partial"));
    let partial_path = way.layout.partial(cargo.digest);
    let partial = path_word(&partial_path);
    let parents = [partial_path.parent(), dir.parent()].into_iter().flatten().map(path_word);
    let parents = parents.collect::<Vec<_>>().join(" ");
    let (lease, seen) = (path_word(&way.layout.lease()), quote(seen));
    let (digest, bytes) = (cargo.digest, cargo.bytes.0);
    let kib = (bytes.saturating_mul(1 + UNPACKED) - offset.min(bytes)) / 1024 + SPARE_KIB;
    let nap = LOOKED_EVERY.min(silence);
    let looks = silence.div_ceil(nap);
    format!(
        r#"umask 022
refuse() {{
    printf '{{"outcome":"refused","reason":"%s","message":"%s","partial":%d}}\n' "$1" "$2" "$(wc -c <{partial})"
    exit 1
}}
# only its own disk, where the host's sync can do that: another may be a dead network share
written() {{ sync -f "$1" 2>/dev/null || sync; }}
sealed() {{ printf '{{"outcome":"sealed","sealed":true,"bytes":{bytes},"received":%d}}\n' "$1"; exit 0; }}
allowed() {{
    [ "$(cat {lease} 2>/dev/null)" = {seen} ] || refuse over 'somebody else has taken this host over since it was looked at: run bramble plan again, which says what is there now'
}}
# ends what takes the bundle when nothing comes any longer
look_on() {{
    trap '[ "$!" = "$taking" ] || {{ kill -KILL "$!"; wait "$!"; }}; exit' TERM
    was={offset} same=0
    while kill -0 "$taking" && [ "$same" -lt {looks} ]; do
        sleep {nap} &
        wait "$!"
        now=$(wc -c <{partial})
        # who waits for the disk is not waiting for the sender
        if [ "$now" = "$was" ] && [ "$(cut -d ' ' -f 3 "/proc/$taking/stat")" != D ]; then same=$((same + 1)); else was=$now same=0; fi
    done
    kill "$taking"
}}
allowed
mkdir -p {parents} || refuse disk 'cannot make its folders'
umask 077
exec 9>>{partial} || refuse disk 'cannot open the unfinished upload'
umask 022
chmod 600 {partial}
if command -v flock >/dev/null; then flock -n 9 || refuse busy 'another push of the same bundle is going on'; fi
[ ! -x {program}/brambled ] || {{ rm -f {partial}; sealed 0; }}
here=$(wc -c <{partial})
[ "$here" -eq {offset} ] || refuse offset "the unfinished upload holds $here bytes, and the sender starts at {offset}"
free=$(df -Pk {partial} | awk 'END {{ print $4 }}')
[ "$free" -ge {kib} ] || refuse no_room "the bundle needs {kib} KiB to be unpacked, and the disk has $free KiB"
# what runs in the background has no standard input of its own
exec 8<&0
cat <&8 8<&- >&9 &
taking=$!
# it holds neither the lock nor the line
look_on </dev/null >/dev/null 2>&1 8<&- 9>&- &
looking=$!
wait "$taking"
took=$?
kill "$looking" 2>/dev/null
wait "$looking" 2>/dev/null
here=$(wc -c <{partial})
case $took in
0) ;;
143) refuse wrong_size "nothing came for {silence} s, and $here of {bytes} bytes are here: push again, it goes on from there" ;;
*) refuse no_room 'the disk took no more' ;;
esac
[ "$here" -le {bytes} ] || {{ : >{partial}; refuse wrong_size 'more bytes than announced arrived, so they were deleted: push again'; }}
[ "$here" -eq {bytes} ] || refuse wrong_size "$here of {bytes} bytes arrived: push again, it goes on from there"
sum=$(sha256sum <{partial})
[ "${{sum%% *}}" = {digest} ] || {{ : >{partial}; refuse wrong_digest 'the bytes have another digest, so they were deleted: push again'; }}
allowed
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::connect::{Connection as _, Local};
    use crate::generation::Layout;
    use crate::ids::{Digest, HostName};
    use crate::transfer::Reason;

    /// Silence in seconds, in place of a minute.
    const SHORT: u64 = 3;

    /// A folder that stands for a host's, and a bundle for it.
    struct Place {
        dir: tempfile::TempDir,
        layout: Layout,
        host: HostName,
        local: Local,
        path: PathBuf,
        data: Vec<u8>,
        digest: Digest,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let text = "cd \"$1\" && : >brambled && chmod +x brambled && tar -czf bundle brambled";
            #[expect(clippy::disallowed_methods, reason = "it packs what is pushed")]
            let packed = Command::new("sh").args(["-c", text, "sh"]).arg(dir.path()).status();
            assert!(packed.expect("sh").success());
            let (layout, path) = (Layout::new(dir.path().join("root")), dir.path().join("bundle"));
            let data = fs::read(&path).expect("packed");
            let (host, digest) = ("kitchen".parse().expect("a name"), Digest::of(&data));
            Self { dir, layout, host, local: Local::new(), path, data, digest }
        }

        fn way(&self) -> Way<'_> {
            Way { host: &self.host, connection: &self.local, layout: &self.layout, is_root: false }
        }

        fn cargo(&self) -> Cargo<'_> {
            let bytes = Bytes(self.data.len() as u64);
            Cargo { what: "brambled", digest: &self.digest, bytes, path: &self.path }
        }

        /// Runs the script that takes the bundle while `speak` has its line, and returns what it answers, and how many
        /// processes it left.
        async fn take<F: Future>(&self, speak: impl FnOnce(mpsc::Sender<Piece>) -> F) -> (Answer, usize) {
            let note = self.dir.path().join("group");
            let text = format!(
                "cut -d' ' -f5 /proc/self/stat >{}\n{}",
                path_word(&note),
                take(self.way(), self.cargo(), 0, "", SHORT)
            );
            let script = Script { text, is_root: false, timeout: Duration::from_secs(20) };
            let ((say, input), (output, mut hear)) = (mpsc::channel(1), mpsc::channel(UNHEARD));
            let talk = self.local.talk(&script, Talk { input, output });
            let speak = speak(say);
            let (ended, _line) = tokio::join!(talk, speak);
            ended.expect("it ends by itself");
            let mut said = Vec::new();
            while let Some(bytes) = hear.recv().await {
                said.extend(bytes);
            }
            let group = fs::read_to_string(note).expect("written");
            let is_of_group = |stat: &str| {
                let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
                after.split(' ').nth(2) == Some(group.trim())
            };
            let processes = fs::read_dir("/proc").expect("processes").flatten();
            let left = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
            (serde_json::from_slice(&said).expect("an answer"), left.filter(|stat| is_of_group(stat)).count())
        }

        fn has_program(&self) -> bool {
            self.layout.program(&self.digest).join("brambled").exists()
        }
    }

    #[tokio::test]
    async fn a_sender_that_falls_silent_is_given_up_and_the_next_goes_on_from_there() {
        let place = Place::new();
        let part = place.data[..100].to_vec();
        let silent = |say: mpsc::Sender<Piece>| async move {
            say.send(Piece::Bytes(part)).await.expect("heard");
            say
        };
        let (answer, left) = place.take(silent).await;
        let whole = place.data.len();
        let message = format!(
            "nothing came for {SHORT} s, and 100 of {whole} bytes are here: push again, it goes on from there"
        );
        assert_eq!(answer, Answer::Refused { reason: Reason::WrongSize, message, partial: Bytes(100) });
        assert_eq!(left, 0);
        let (seen, limits) = (std::future::ready(Ok(String::new())), Limits::default());
        let pushed = push_bundle(place.way(), place.cargo(), seen, &limits, &Events::none()).await;
        assert_eq!(pushed.expect("taken").bytes_reused, Bytes(100));
        assert!(place.has_program());
    }

    #[tokio::test]
    async fn a_slow_sender_is_waited_for_and_nothing_is_left_running() {
        let place = Place::new();
        let data = place.data.clone();
        let slow = |say: mpsc::Sender<Piece>| async move {
            for part in data.chunks(data.len().div_ceil(5)) {
                tokio::time::sleep(Duration::from_millis(400)).await;
                say.send(Piece::Bytes(part.to_vec())).await.expect("heard");
            }
        };
        let (answer, left) = place.take(slow).await;
        assert!(matches!(answer, Answer::Sealed { received, .. } if received == place.cargo().bytes));
        assert!(left == 0 && place.has_program());
    }

    #[tokio::test]
    async fn a_host_that_somebody_takes_over_meanwhile_gets_no_program() {
        let place = Place::new();
        let (part, rest) = place.data.split_at(100);
        let layout = &place.layout;
        let overtaken = |say: mpsc::Sender<Piece>| async move {
            say.send(Piece::Bytes(part.to_vec())).await.expect("heard");
            let partial = layout.partial(&place.digest);
            while fs::metadata(&partial).map_or(0, |found| found.len()) < 100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            fs::write(layout.lease(), "bob's").expect("written");
            say.send(Piece::Bytes(rest.to_vec())).await.expect("heard");
        };
        let (answer, _) = place.take(overtaken).await;
        let bytes = place.cargo().bytes;
        assert!(
            matches!(&answer, Answer::Refused { reason: Reason::Over, partial, .. } if *partial == bytes),
            "{answer:?}"
        );
        assert!(!place.has_program());
    }
}
