//! Every fault at every sixteenth of a file: the right bytes or a clear error, never a wrong file.

use std::fs;
use std::time::Duration;

use bramble_fleet::fetch::{Error, Lanes};
use bramble_fleet::units::Bytes;
use futures_util::future::join_all;

use crate::bench::{Bench, MODEL, WEIGHTS};
use crate::hub::{Door, Fault};

/// What must come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The right bytes, by the first run.
    Right,
    /// An error that says so; the right bytes by the next run.
    Told,
}

/// Fetches with the fault at one door, once alone and once over lanes, each in one run and, where
/// that fails, in a second one.
async fn check(door: Door, fault: Fault, outcome: Outcome) {
    for lanes in [1, 5] {
        let case = format!("{fault:?} at {door:?}, {lanes} lanes");
        let bench = Bench::new().await;
        let pinned = bench.pinned().await;
        let sha256 = &pinned.files[1].sha256;
        let run = || {
            bench.fetcher(|settings| {
                settings.lanes = Lanes { per_file: lanes, total: 8, segment: Bytes::kib(32) };
                // short only where it must run out: a machine at work may answer late
                if matches!(fault, Fault::Stall(_)) {
                    settings.patience.idle = Duration::from_secs(1);
                }
            })
        };
        bench.hub.fail(door, MODEL, fault.clone());
        let first = run();
        match first.obtain(&pinned).await {
            Ok(folder) => {
                assert_eq!(outcome, Outcome::Right, "{case}");
                bench.assert_obtained(&folder);
            }
            Err(error) => {
                assert_eq!(outcome, Outcome::Told, "{case}: {error}");
                let said = error.to_string();
                assert!(said.contains(MODEL) || said.contains("org/tiny"), "{case}: {said}");
                assert!(!first.store().has(sha256), "{case}: a wrong file has its name");
                bench.assert_obtained(&run().obtain(&pinned).await.unwrap());
            }
        }
        assert_eq!(first.store().verify(sha256).unwrap(), Bytes(WEIGHTS as u64), "{case}");
        assert_eq!(bench.partials(), 0, "{case}");
    }
}

/// Runs a fault at the start, the end and every sixteenth of the file.
async fn everywhere(fault: impl Fn(u64) -> Fault, outcome: Outcome) {
    let last = WEIGHTS as u64 - 1;
    let places = (0..=16).map(|i| (last * i) / 16);
    join_all(places.map(|at| check(Door::Cdn, fault(at), outcome))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_anywhere_ends_in_the_right_bytes() {
    everywhere(Fault::Cut, Outcome::Right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_anywhere_ends_in_the_right_bytes() {
    everywhere(Fault::Stall, Outcome::Right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_drip_anywhere_ends_in_the_right_bytes() {
    everywhere(Fault::Drip, Outcome::Right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_is_told() {
    // over lanes only one of the requests meets the fault, and the byte may be another's
    let last = WEIGHTS as u64 - 1;
    let places = (0..=16).map(|i| (last * i) / 16);
    let one = |at: u64| async move {
        let bench = Bench::new().await;
        let pinned = bench.pinned().await;
        let sha256 = &pinned.files[1].sha256;
        bench.hub.fail_always(Door::Cdn, MODEL, Fault::Flip(at));
        for fetcher in [bench.plain(), bench.lanes()] {
            let error = fetcher.obtain(&pinned).await.unwrap_err();
            assert!(
                matches!(&error, Error::Mismatch { expected, .. } if expected == sha256),
                "{at}: {error}"
            );
            assert!(!fetcher.store().has(sha256), "{at}");
            assert_eq!(bench.partials(), 0, "{at}");
        }
        bench.hub.control().rules.clear();
        bench.assert_obtained(&bench.lanes().obtain(&pinned).await.unwrap());
    };
    join_all(places.map(one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_answers_end_in_the_right_bytes_or_are_told() {
    let right = [
        (Door::Cdn, Fault::TooMany(3)),
        (Door::Cdn, Fault::Refuse(403, "")),
        (Door::Cdn, Fault::Refuse(502, "")),
        (Door::Cdn, Fault::NewEtag),
        (Door::Cdn, Fault::NoRanges),
        (Door::Cdn, Fault::OtherRange),
        (Door::Resolve, Fault::TooMany(3)),
        (Door::Resolve, Fault::Refuse(503, "")),
        (Door::Resolve, Fault::LastOne(3)),
    ];
    let told = [
        (Door::Cdn, Fault::Longer(1)),
        (Door::Cdn, Fault::Shorter(1)),
        (Door::Resolve, Fault::Refuse(401, "GatedRepo")),
        (Door::Resolve, Fault::Refuse(403, "GatedRepo")),
        (Door::Resolve, Fault::Refuse(404, "EntryNotFound")),
        (Door::Resolve, Fault::Refuse(404, "RevisionNotFound")),
        (Door::Resolve, Fault::Refuse(401, "RepoNotFound")),
    ];
    let right = right.map(|(door, fault)| check(door, fault, Outcome::Right));
    let told = told.map(|(door, fault)| check(door, fault, Outcome::Told));
    tokio::join!(join_all(right), join_all(told));
}

/// The second request of a run is the one that fails, so that some of the file is here.
#[tokio::test(flavor = "multi_thread")]
async fn faults_between_two_ranges_end_in_the_right_bytes() {
    let faults = [
        Fault::NewEtag,
        Fault::NoRanges,
        Fault::OtherRange,
        Fault::Refuse(403, ""),
        Fault::Refuse(416, ""),
        Fault::Refuse(429, ""),
    ];
    let one = |fault: Fault| async move {
        for (sixteenths, fetcher) in [(1, 1), (5, 5), (11, 1), (15, 5)] {
            let bench = Bench::new().await;
            let pinned = bench.pinned().await;
            bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(WEIGHTS as u64 * sixteenths / 16));
            bench.hub.fail(Door::Cdn, MODEL, fault.clone());
            let fetcher = if fetcher == 1 { bench.plain() } else { bench.lanes() };
            bench.assert_obtained(&fetcher.obtain(&pinned).await.unwrap());
            assert_eq!(bench.partials(), 0, "{fault:?}");
        }
    };
    join_all(faults.map(one)).await;
}

#[tokio::test]
async fn the_hub_is_not_asked_again_in_a_window_that_is_used_up() {
    let bench = Bench::new().await;
    bench.hub.fail(Door::Api, "org/tiny", Fault::LastOne(42));
    bench.pinned().await;
    assert_eq!(*bench.pauses.lock().unwrap(), [Duration::from_secs(42)]);
}

#[tokio::test]
async fn a_partial_file_of_another_length_is_begun_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    drop(bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err());
    let partial = bench.path("cache/partial").join(pinned.files[1].sha256.to_string());
    for length in [0, 50_000, 10_000_000] {
        fs::OpenOptions::new().write(true).open(&partial).unwrap().set_len(length).unwrap();
        drop(bench.fetcher(|settings| settings.is_offline = true).obtain(&pinned).await.unwrap_err());
    }
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_changes_every_time_is_given_up() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail_always(Door::Cdn, MODEL, Fault::NewEtag);
    let error = bench.lanes().obtain(&pinned).await.unwrap_err();
    assert!(error.to_string().contains("another version"), "{error}");
    bench.hub.control().rules.clear();
    bench.assert_obtained(&bench.lanes().obtain(&pinned).await.unwrap());
}
