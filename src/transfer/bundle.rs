//! Brings the bundle to a host that has nothing of ours yet: `sh`, `tar` and `sha256sum`.

use std::time::Duration;

use super::push::{
    Cargo, Moved, OVERHEAD, Pushed, SLOWEST, Tries, Way, nonsense, path_word, progress, run, said, told,
};
use super::{Answer, Error};
use crate::connect::Stdin;
use crate::events::Events;
use crate::units::Bytes;

/// Room beside the archive for what is unpacked from it, as a multiple of its size. Our
/// bundles unpack to about three times theirs.
const UNPACKED: u64 = 4;
/// Room that is left to the rest of the system, as `receive` does.
const SPARE_KIB: u64 = 64 << 10;

/// Brings a bundle to a host and unpacks it to `programs/<digest>/`. A host that has it
/// does nothing.
///
/// # Errors
///
/// Whatever fails, `programs/<digest>/` is not there, and what had arrived of the archive
/// is kept for the next attempt unless its digest was wrong.
pub async fn push_bundle(way: Way<'_>, cargo: Cargo<'_>, events: &Events) -> Result<Pushed, Error> {
    let dir = way.layout.program(cargo.digest);
    let program = path_word(&dir);
    let unpacking = path_word(&dir.with_extension("partial"));
    let partial_path = way.layout.partial(cargo.digest);
    let partial = path_word(&partial_path);
    let parents = [partial_path.parent(), dir.parent()].into_iter().flatten().map(path_word);
    let parents = parents.collect::<Vec<_>>().join(" ");
    let (digest, bytes) = (cargo.digest, cargo.bytes.0);
    let ask = format!(
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
    let Some(offset) = missing_from(way, cargo, &ask).await? else {
        let (bytes_sent, bytes_from_hosts) = (Bytes::ZERO, Bytes::ZERO);
        return Ok(Pushed { bytes_sent, bytes_from_hosts, bytes_reused: cargo.bytes, seconds: 0.0 });
    };
    let work = |key: String| async move { append(way, cargo, events, &key, offset, &ask, &take).await };
    told(way, cargo, events, work).await
}

/// Asks with the script `ask` how many bytes are there. None: all of it, unpacked.
async fn missing_from(way: Way<'_>, cargo: Cargo<'_>, ask: &str) -> Result<Option<u64>, Error> {
    let output = run(way, cargo, ask.to_owned(), OVERHEAD, Stdin::Empty).await?;
    match std::str::from_utf8(&output.stdout).unwrap_or_default().trim() {
        "sealed" => Ok(None),
        bytes => bytes
            .parse()
            .map(Some)
            .map_err(|_| nonsense(way, cargo, format!("it does not say what it has: {}", said(&output)))),
    }
}

/// Streams what is missing from `offset` on into the script `take(offset)`, which prints an [`Answer`].
async fn append(
    way: Way<'_>,
    cargo: Cargo<'_>,
    events: &Events,
    key: &str,
    mut offset: u64,
    ask: &str,
    take: &(dyn Fn(u64) -> String + Sync),
) -> Result<Moved, Error> {
    let mut tries = Tries::default();
    loop {
        let rest = offset.min(cargo.bytes.0)..cargo.bytes.0;
        let on_progress = progress(events, key, Bytes(rest.start));
        let stdin = Stdin::File { path: cargo.path.to_owned(), parts: vec![rest], on_progress };
        let limit = OVERHEAD + Duration::from_secs(cargo.bytes.0 / SLOWEST);
        let output = run(way, cargo, take(offset), limit, stdin).await?;
        match serde_json::from_slice(&output.stdout) {
            Ok(Answer::Sealed { received, .. }) => {
                return Ok(Moved { sent: received, brought: received, ..Moved::default() });
            }
            Ok(Answer::Refused { reason, message, .. }) => tries.again(way, cargo, reason, message).await?,
            _ => return Err(nonsense(way, cargo, said(&output))),
        }
        match missing_from(way, cargo, ask).await? {
            Some(bytes) => offset = bytes,
            None => return Ok(Moved::default()),
        }
    }
}
