//! The host's end of a push: `brambled receive`.
//!
//! The digest is computed over what is on the disk already and then over what arrives,
//! on a thread of its own.
//! Until the journal of checked chunks exists, a resumed upload is read once for that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use rustix::io::Errno;

use super::hasher::Hasher;
use super::{Answer, Reason};
use crate::generation::Layout;
use crate::ids::Digest;
use crate::units::Bytes;

/// Room that is left to the rest of the system, so that its journal and package manager
/// go on working. The plan keeps more; this is the last guard.
const MARGIN: Bytes = Bytes::mib(64);
/// Inodes that are left to the rest of the system.
const MARGIN_INODES: u64 = 64;
/// Written data is put on the disk this often: it bounds what a power cut costs, and a Pi
/// with gigabytes of unwritten pages stands still for tens of seconds at the end.
const SYNC_EVERY: u64 = 64 << 20;

/// What to receive.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where Bramble lives on this host.
    pub layout: Layout,
    /// The blob's digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// Where the sender starts; what is before it is here already.
    pub offset: Bytes,
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
    /// The blob's size
    #[arg(long)]
    bytes: u64,
    /// The first byte that standard input holds; those before it are here already
    #[arg(long, default_value_t = 0)]
    offset: u64,
}

/// Runs `brambled receive`: standard input to blob, one JSON value on standard output.
pub fn run_receive(args: ReceiveArgs) -> ExitCode {
    let order = Order {
        layout: Layout::new(args.root),
        digest: args.digest,
        bytes: Bytes(args.bytes),
        offset: Bytes(args.offset),
    };
    let answer = receive(&order, &mut io::stdin().lock());
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let is_told = writeln!(io::stdout().lock(), "{text}").is_ok();
    if is_told && matches!(answer, Answer::Sealed { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes the rest of a blob from `input` and seals it.
pub fn receive(order: &Order, input: &mut impl Read) -> Answer {
    let partial = order.layout.partial(&order.digest);
    match try_receive(order, &partial, input) {
        Ok(received) => Answer::Sealed { sealed: true, bytes: order.bytes, received },
        Err((reason, message)) => {
            if reason == Reason::WrongDigest {
                // an error leaves it for the next attempt, which finds it just as wrong
                let _ = std::fs::remove_file(&partial);
            }
            let kept = std::fs::metadata(&partial).map_or(0, |found| found.len());
            Answer::Refused { reason, message, partial: Bytes(kept) }
        }
    }
}

type Refusal = (Reason, String);

fn disk(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Refusal {
    let path = path.to_owned();
    move |error| {
        let full = error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded;
        let reason = if full { Reason::NoRoom } else { Reason::Disk };
        (reason, format!("cannot {doing} {}: {error}", path.display()))
    }
}

fn try_receive(order: &Order, partial: &Path, input: &mut impl Read) -> Result<Bytes, Refusal> {
    let blob = order.layout.blob(&order.digest);
    for dir in [partial.parent(), blob.parent()].into_iter().flatten() {
        std::fs::create_dir_all(dir).map_err(disk("make", dir))?;
    }
    let Some(mut file) = claim(partial, &blob, order.bytes)? else { return Ok(Bytes::ZERO) };
    let mut here = file.metadata().map_err(disk("look at", partial))?.len();
    if here > order.bytes.0 {
        // no continuation of it can be right
        file.set_len(0).map_err(disk("empty", partial))?;
        here = 0;
    }
    if here != order.offset.0 {
        let message =
            format!("the unfinished upload holds {here} bytes, and the sender starts at {}", order.offset.0);
        return Err((Reason::Offset, message));
    }
    make_room(&file, partial, order.bytes.0 - here)?;

    let hasher = Hasher::start().map_err(disk("hash", partial))?;
    let mut left = here;
    while left > 0 {
        let mut piece = hasher.piece().map_err(disk("hash", partial))?;
        let n = file.read(&mut piece).map_err(disk("read", partial))?;
        if n == 0 {
            break;
        }
        hasher.add(piece, n).map_err(disk("hash", partial))?;
        left = left.saturating_sub(n as u64);
    }

    let arrived = append(order, partial, &mut file, input, &hasher);
    // whatever happened, what has arrived shall be there after a power cut
    let synced = file.sync_data().map_err(disk("write", partial));
    arrived?;
    synced?;
    let found = hasher.finish().map_err(disk("hash", partial))?;
    if found != order.digest {
        let message =
            format!("the bytes have the digest {}, so they were deleted: push again", found.short());
        return Err((Reason::WrongDigest, message));
    }
    seal(&file, partial, &blob)?;
    Ok(order.bytes - order.offset)
}

/// Opens the unfinished upload and makes it ours. None: the blob is sealed already.
fn claim(partial: &Path, blob: &Path, bytes: Bytes) -> Result<Option<File>, Refusal> {
    loop {
        if std::fs::metadata(blob).is_ok_and(|found| found.len() == bytes.0) {
            return Ok(None);
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(partial)
            .map_err(disk("open", partial))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err((Reason::Busy, "another push of the same blob is going on".to_owned()));
            }
            Err(error) => return Err(disk("lock", partial)(error.into())),
        }
        // who held it before may have sealed or deleted it between our two steps
        let ours = file.metadata().map_err(disk("look at", partial))?;
        if std::fs::metadata(partial)
            .is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino()))
        {
            return Ok(Some(file));
        }
    }
}

/// Checks that the rest fits and takes the room for it, before the first byte.
fn make_room(file: &File, partial: &Path, missing: u64) -> Result<(), Refusal> {
    let stat = statvfs(partial).map_err(|error| disk("ask for the room at", partial)(error.into()))?;
    // blocks that an earlier attempt took for this file count as room
    let taken = file.metadata().map_or(0, |meta| (meta.blocks() * 512).saturating_sub(meta.len()));
    let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(taken));
    let wanted = Bytes(missing) + MARGIN;
    let place = partial.parent().unwrap_or(partial).display();
    if free < wanted {
        let message = format!(
            "it needs {} and {MARGIN} to spare, and {place} has {free}: remove a model or run `prune`",
            Bytes(missing)
        );
        return Err((Reason::NoRoom, message));
    }
    if stat.f_files > 0 && stat.f_favail < MARGIN_INODES {
        let message = format!("{place} has {} inodes left, and {MARGIN_INODES} are to spare", stat.f_favail);
        return Err((Reason::NoRoom, message));
    }
    if missing == 0 {
        return Ok(());
    }
    let here = file.metadata().map_err(disk("look at", partial))?.len();
    // the size stays what has arrived: it is what a resumed push goes by
    match fallocate(file, FallocateFlags::KEEP_SIZE, here, missing) {
        // some filesystems cannot; then writing finds out
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(disk("take room for", partial)(error.into())),
    }
}

fn append(
    order: &Order,
    partial: &Path,
    file: &mut File,
    input: &mut impl Read,
    hasher: &Hasher,
) -> Result<(), Refusal> {
    let (mut here, mut unsynced) = (order.offset.0, 0);
    loop {
        let mut piece = hasher.piece().map_err(disk("hash", partial))?;
        let n = loop {
            match input.read(&mut piece) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err((Reason::WrongSize, format!("the link broke at byte {here}: {error}")));
                }
            }
        };
        if n == 0 {
            break;
        }
        if here + n as u64 > order.bytes.0 {
            return Err((
                Reason::WrongSize,
                format!("more than the announced {} bytes arrive", order.bytes.0),
            ));
        }
        file.write_all(&piece[..n]).map_err(disk("write", partial))?;
        hasher.add(piece, n).map_err(disk("hash", partial))?;
        here += n as u64;
        unsynced += n as u64;
        if unsynced >= SYNC_EVERY {
            file.sync_data().map_err(disk("write", partial))?;
            unsynced = 0;
        }
    }
    if here < order.bytes.0 {
        let message = format!("{here} of {} bytes arrived: push again, it goes on from there", order.bytes.0);
        return Err((Reason::WrongSize, message));
    }
    Ok(())
}

fn seal(file: &File, partial: &Path, blob: &Path) -> Result<(), Refusal> {
    file.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(disk("seal", partial))?;
    file.sync_all().map_err(disk("write", partial))?;
    std::fs::rename(partial, blob).map_err(disk("seal", blob))?;
    for dir in [blob.parent(), partial.parent()].into_iter().flatten() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk("write", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::hasher::PIECE;
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        data: Vec<u8>,
    }

    impl Place {
        fn new(size: usize) -> Self {
            let data = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            Self { dir: tempfile::tempdir().unwrap(), data }
        }

        fn order(&self, offset: usize) -> Order {
            Order {
                layout: Layout::new(self.dir.path()),
                digest: Digest::of(&self.data),
                bytes: Bytes(self.data.len() as u64),
                offset: Bytes(offset as u64),
            }
        }

        fn partial(&self) -> PathBuf {
            let order = self.order(0);
            order.layout.partial(&order.digest)
        }

        fn blob(&self) -> PathBuf {
            let order = self.order(0);
            order.layout.blob(&order.digest)
        }
    }

    fn reason(answer: &Answer) -> Option<Reason> {
        match answer {
            Answer::Sealed { .. } => None,
            Answer::Refused { reason, .. } => Some(*reason),
        }
    }

    #[test]
    fn a_blob_of_any_size_is_sealed_read_only() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let place = Place::new(size);
            let answer = receive(&place.order(0), &mut place.data.as_slice());
            assert_eq!(
                answer,
                Answer::Sealed { sealed: true, bytes: Bytes(size as u64), received: Bytes(size as u64) }
            );
            assert_eq!(std::fs::read(place.blob()).unwrap(), place.data);
            assert_eq!(std::fs::metadata(place.blob()).unwrap().permissions().mode() & 0o777, 0o444);
            assert!(!place.partial().exists());
        }
    }

    #[test]
    fn an_interrupted_upload_is_kept_and_goes_on_at_its_end() {
        let place = Place::new(1000);
        let answer = receive(&place.order(0), &mut &place.data[..400]);
        assert!(matches!(answer, Answer::Refused { reason: Reason::WrongSize, partial: Bytes(400), .. }));
        // from somewhere else it does not go on
        for wrong in [0, 399, 401, 1000] {
            let answer = receive(&place.order(wrong), &mut &place.data[wrong..]);
            assert_eq!(reason(&answer), Some(Reason::Offset), "{answer:?}");
        }
        let answer = receive(&place.order(400), &mut &place.data[400..]);
        assert_eq!(reason(&answer), None, "{answer:?}");
        assert_eq!(std::fs::read(place.blob()).unwrap(), place.data);
    }

    #[test]
    fn a_sealed_blob_is_not_touched_and_no_input_is_read() {
        let place = Place::new(10);
        receive(&place.order(0), &mut place.data.as_slice());
        let mut input: &[u8] = b"unread";
        assert_eq!(reason(&receive(&place.order(0), &mut input)), None);
        assert_eq!(input, b"unread");
    }

    #[test]
    fn bytes_of_another_digest_are_deleted_and_never_sealed() {
        let place = Place::new(1000);
        let mut flipped = place.data.clone();
        flipped[999] ^= 1;
        let answer = receive(&place.order(0), &mut flipped.as_slice());
        assert!(matches!(answer, Answer::Refused { reason: Reason::WrongDigest, partial: Bytes(0), .. }));
        assert!(!place.blob().exists() && !place.partial().exists());
    }

    #[test]
    fn more_bytes_than_announced_are_refused() {
        let place = Place::new(1000);
        let longer = [place.data.as_slice(), b"x"].concat();
        let answer = receive(&place.order(0), &mut longer.as_slice());
        assert_eq!(reason(&answer), Some(Reason::WrongSize));
        assert!(!place.blob().exists());
    }

    #[test]
    fn two_pushes_of_one_blob_do_not_mix() {
        let place = Place::new(1000);
        let mut inner = None;
        let mut input = Reading(|| {
            inner = Some(receive(&place.order(0), &mut place.data.as_slice()));
            0
        });
        receive(&place.order(0), &mut input);
        assert_eq!(inner.as_ref().and_then(reason), Some(Reason::Busy), "{inner:?}");
    }

    #[test]
    fn a_blob_that_cannot_fit_is_refused_before_the_first_byte_with_both_figures() {
        let place = Place::new(10);
        let order = Order { bytes: Bytes(u64::MAX >> 2), ..place.order(0) };
        let mut is_read = false;
        let mut input = Reading(|| {
            is_read = true;
            0
        });
        match receive(&order, &mut input) {
            Answer::Refused { reason: Reason::NoRoom, message, partial: Bytes(0) } => {
                assert!(message.contains("it needs 4194304 TiB and 64.0 MiB to spare"), "{message}");
                assert!(message.contains(" has "), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!is_read);
    }

    struct Reading<F: FnMut() -> usize>(F);
    impl<F: FnMut() -> usize> Read for Reading<F> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok((self.0)())
        }
    }
}
