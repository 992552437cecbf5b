use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::arrival::Proof;
use super::made::Made;
use super::{Arrival, Claimed, Error, Store};
use crate::ids::Digest;
use crate::units::Bytes;

/// The size of the pieces that are hashed at once.
const STEP: usize = 1 << 20;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("cache")).unwrap();
    (dir, store)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

fn partials(store: &Store) -> usize {
    fs::read_dir(store.root().join("partial")).unwrap().count()
}

#[test]
fn parts_in_any_order_become_the_blob() {
    for size in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 7] {
        let (_dir, store) = store();
        let data = bytes(size);
        let digest = Digest::of(&data);
        let arrival = store.arrive(&digest, Bytes(size as u64)).unwrap();
        for (i, piece) in data.chunks(400_000).enumerate().collect::<Vec<_>>().into_iter().rev() {
            assert!(!arrival.is_whole() && !store.has(&digest));
            arrival.write_at(i as u64 * 400_000, piece).unwrap();
        }
        assert!(arrival.is_whole());
        assert_eq!(arrival.seal().unwrap(), Made { digest, bytes: Bytes(size as u64) });
        assert_eq!(fs::read(store.path(&digest)).unwrap(), data);
        assert_eq!(partials(&store), 0);
    }
}

#[test]
fn what_has_arrived_is_there_for_the_next_one() {
    let (_dir, store) = store();
    let data = bytes(5000);
    let digest = Digest::of(&data);
    let arrival = store.arrive(&digest, Bytes(5000)).unwrap();
    assert!(matches!(store.arrive(&digest, Bytes(5000)), Err(Error::Busy { .. })));
    arrival.write_at(4000, &data[4000..]).unwrap();
    arrival.write_at(0, &data[..10]).unwrap();
    arrival.set_version("\"v1\"").unwrap();
    drop(arrival);
    assert_eq!(store.arrived(&digest), Bytes(1010));
    let arrival = store.arrive(&digest, Bytes(5000)).unwrap();
    assert_eq!(arrival.version().as_deref(), Some("\"v1\""));
    assert!(matches!(arrival.gaps().as_slice(), [gap] if *gap == (10..4000)));
    arrival.write_at(10, &data[10..4000]).unwrap();
    arrival.seal().unwrap();
    store.verify(&digest).unwrap();
    assert_eq!(store.arrived(&digest), Bytes::ZERO);
}

/// As a run leaves it that is killed between making the file read-only and giving it its name. Only to those
/// who are not root does it look any different.
#[test]
fn a_partial_file_that_was_about_to_be_sealed_goes_on() {
    let (_dir, store) = store();
    let data = bytes(5000);
    let digest = Digest::of(&data);
    let arrival = store.arrive(&digest, Bytes(5000)).unwrap();
    arrival.write_at(0, &data).unwrap();
    let partial = store.root().join("partial").join(digest.to_string());
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(store.arrive(&digest, Bytes(5000)), Err(Error::Busy { .. })));
    drop(arrival);
    store.arrive(&digest, Bytes(5000)).unwrap().seal().unwrap();
    store.verify(&digest).unwrap();
}

#[test]
fn what_lies_behind_the_end_is_not_sealed_with_it() {
    let (_dir, store) = store();
    let data = bytes(1000);
    let digest = Digest::of(&data);
    fs::write(store.root().join("partial").join(digest.to_string()), vec![7; 5000]).unwrap();
    let arrival = store.arrive(&digest, Bytes(1000)).unwrap();
    assert_eq!(arrival.arrived(), Bytes::ZERO);
    arrival.write_at(0, &data).unwrap();
    arrival.seal().unwrap();
    assert_eq!(store.verify(&digest).unwrap(), Bytes(1000));
}

#[test]
fn what_rotted_is_found_at_the_seal_and_removed() {
    let (_dir, store) = store();
    let data = bytes(1000);
    let digest = Digest::of(&data);
    let arrival = store.arrive(&digest, Bytes(1000)).unwrap();
    arrival.write_at(0, &[0; 100]).unwrap();
    arrival.write_at(100, &data[100..]).unwrap();
    assert!(matches!(arrival.seal().unwrap_err(), Error::Mismatch { expected, .. } if expected == digest));
    assert!(!store.has(&digest) && partials(&store) == 0);
}

#[test]
fn restarting_forgets_bytes_hash_and_version() {
    let (_dir, store) = store();
    let data = bytes(1000);
    let arrival = store.arrive(&Digest::of(&data), Bytes(1000)).unwrap();
    arrival.write_at(0, &[7; 1000]).unwrap();
    arrival.set_version("old").unwrap();
    assert!(arrival.digest().is_ok());
    arrival.restart().unwrap();
    assert_eq!((arrival.arrived(), arrival.version()), (Bytes::ZERO, None));
    arrival.write_at(0, &data).unwrap();
    assert_eq!(arrival.seal().unwrap().digest, Digest::of(&data));
}

#[test]
fn a_blob_that_is_not_whole_is_not_sealed() {
    let (_dir, store) = store();
    let data = bytes(1000);
    let arrival = store.arrive(&Digest::of(&data), Bytes(1000)).unwrap();
    arrival.write_at(0, &data[..999]).unwrap();
    assert!(arrival.write_at(999, &[1, 2]).is_err(), "more than there is room for");
    assert!(arrival.seal().is_err());
    assert_eq!(store.arrived(&Digest::of(&data)), Bytes(999));
}

#[test]
fn a_partial_file_that_was_cut_is_begun_again() {
    let (_dir, store) = store();
    let data = bytes(1000);
    let digest = Digest::of(&data);
    let arrival = store.arrive(&digest, Bytes(1000)).unwrap();
    arrival.write_at(0, &data[..900]).unwrap();
    drop(arrival);
    let path = store.root().join("partial").join(digest.to_string());
    File::options().write(true).open(&path).unwrap().set_len(800).unwrap();
    assert_eq!(store.arrive(&digest, Bytes(1000)).unwrap().arrived(), Bytes::ZERO);
}

#[test]
fn whoever_is_given_the_file_holds_its_lock_and_seals_it_when_all_of_it_is_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, blobs) = (dir.path().join("partial"), dir.path().join("blobs"));
    fs::create_dir(&blobs).unwrap();
    let data = bytes(5000);
    let (digest, size) = (Digest::of(&data), Bytes(5000));
    let open = || Arrival::of_proven_parts(path.clone(), blobs.clone(), digest, size);
    let arrival = open().unwrap();
    arrival.write_at(0, &data[..4000]).unwrap();
    let shared = arrival.share().unwrap();
    drop(arrival);
    assert!(matches!(open(), Err(Error::Busy { .. })), "it is held on");
    let check = |file| Claimed::check(file, path.clone(), size);
    assert!(check(shared).unwrap_err().to_string().starts_with("cannot read"), "a part is missing");

    let arrival = open().unwrap();
    assert!(matches!(arrival.gaps().as_slice(), [gap] if *gap == (4000..5000)));
    arrival.write_at(4000, &data[4000..]).unwrap();
    let [shared, stranger] =
        [arrival.share(), File::create_new(dir.path().join("other"))].map(Result::unwrap);
    drop(arrival);
    stranger.set_len(5000).unwrap();
    assert!(check(stranger).is_err(), "another file");
    check(shared).unwrap().seal(&blobs, digest).unwrap();
    assert!(fs::read(blobs.join(digest.to_string())).unwrap() == data);
    assert!(!path.exists() && !path.with_added_extension("journal").exists());
}

#[test]
fn an_arrival_goes_on_after_its_threads_have_rested() {
    let (_dir, store) = store();
    let data = bytes(3 * STEP);
    let digest = Digest::of(&data);
    let mut arrival = store.arrive(&digest, Bytes(data.len() as u64)).unwrap();
    arrival.write_at(0, &data[..2 * STEP]).unwrap();
    assert_eq!(arrival.without_threads(|| 7).unwrap(), 7);
    arrival.write_at(2 * STEP as u64, &data[2 * STEP..]).unwrap();
    assert_eq!(arrival.seal().unwrap().digest, digest);
}

#[test]
fn a_link_that_somebody_laid_in_the_place_of_a_file_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, b"precious").unwrap();
    for target in [theirs.as_path(), &dir.path().join("nowhere")] {
        let place = dir.path().join("partial");
        std::os::unix::fs::symlink(target, &place).unwrap();
        assert!(super::write::open_locked(&place).is_err());
        fs::remove_file(&place).unwrap();
    }
    assert_eq!(fs::read(&theirs).unwrap(), b"precious");
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a slow disk takes time")]
fn what_is_not_on_the_disk_yet_stays_within_the_window_however_slow_that_is() {
    const PIECE: u64 = 4 << 20;
    const SIZE: u64 = 160 << 20;
    const SLOW: Duration = Duration::from_millis(250);
    const WINDOW: Bytes = Bytes(64 << 20);
    let dir = tempfile::tempdir().unwrap();
    let (path, blobs) = (dir.path().join("partial"), dir.path().join("blobs"));
    let proof = Proof::Parts(Digest::of(b"whatever"));
    let arrival = Arrival::open_on(path, blobs, proof, Bytes(SIZE), |_| {
        std::thread::sleep(SLOW);
        Ok(())
    });
    let (arrival, piece) = (arrival.unwrap(), vec![7; usize::try_from(PIECE).unwrap()]);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let (arrival, piece) = (&arrival, &piece);
            scope.spawn(move || {
                for at in (0..SIZE / PIECE).filter(|at| at % 4 == lane) {
                    arrival.write_at(at * PIECE, piece).unwrap();
                    assert!(arrival.at_risk() <= WINDOW, "{} at risk", arrival.at_risk());
                }
            });
        }
    });
    assert!(arrival.is_whole());
    // what did not fit into the window waited for the disk, at least twice
    assert!(begun.elapsed() >= 2 * SLOW, "{:?}", begun.elapsed());
}

/// The kernel tells of a failed write once: a second sync of the same file succeeds.
#[test]
fn what_the_disk_did_not_take_is_told_and_never_sealed_or_resumed() {
    const PIECE: u64 = 4 << 20;
    const SIZE: u64 = 100 << 20;
    static HAS_FAILED: AtomicBool = AtomicBool::new(false);
    let fails_once = |_: &File| {
        let is_first = !HAS_FAILED.swap(true, Ordering::SeqCst);
        if is_first { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, blobs) = (dir.path().join("partial"), dir.path().join("blobs"));
    fs::create_dir(&blobs).unwrap();
    let piece = vec![7; usize::try_from(PIECE).unwrap()];
    let digest = Digest::of(b"whatever");
    let open =
        || Arrival::open_on(path.clone(), blobs.clone(), Proof::Parts(digest), Bytes(SIZE), fails_once);
    let arrival = open().unwrap();
    // a receiver may have given up the rights to the folder
    let moved = dir.path().join("moved");
    fs::rename(path.with_added_extension("journal"), &moved).unwrap();
    let written = (0..SIZE / PIECE).try_for_each(|at| arrival.write_at(at * PIECE, &piece));
    let told = written.and_then(|()| arrival.seal().map(drop));
    assert!(
        matches!(&told, Err(Error::Write { source, .. }) if source.raw_os_error() == Some(5)),
        "{told:?}"
    );
    assert!(HAS_FAILED.load(Ordering::SeqCst));
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 0);

    fs::rename(&moved, path.with_added_extension("journal")).unwrap();
    let again = open().unwrap();
    assert_eq!(again.arrived(), Bytes::ZERO);
    for at in 0..SIZE / PIECE {
        again.write_at(at * PIECE, &piece).unwrap();
    }
    again.settle().unwrap();
    drop(again);
    // nor is what an earlier process wrote, and the disk does not take when it is taken up
    HAS_FAILED.store(false, Ordering::SeqCst);
    assert!(open().is_err());
    let handed = open().unwrap();
    assert_eq!(handed.arrived(), Bytes::ZERO);
    // who leaves the seal to another process is told, too, and claims nothing
    HAS_FAILED.store(false, Ordering::SeqCst);
    let written = (0..SIZE / PIECE).try_for_each(|at| handed.write_at(at * PIECE, &piece));
    let told = written.and_then(|()| handed.finish());
    assert!(
        matches!(&told, Err(Error::Write { source, .. }) if source.raw_os_error() == Some(5)),
        "{told:?}"
    );
    assert_eq!(open().unwrap().arrived(), Bytes::ZERO);
}
