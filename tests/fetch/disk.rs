//! A disk that is full, and a run that is killed.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bramble_fleet::events::Events;
use bramble_fleet::fetch::{Error, Fetcher};
use bramble_fleet::store;
use bramble_fleet::units::Bytes;

use crate::bench::{Bench, MODEL, WEIGHTS, safetensors};
use crate::hub::Door;
use crate::small_disk::Disk;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_the_first_byte_and_loses_nothing() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let Some(disk) = Disk::in_memory(&bench.path("small"), 200 << 10) else { return };
    let settings = || {
        let mut settings = bench.settings();
        settings.cache = bench.path("small/cache");
        settings
    };
    // as the machine says, and as it is found out when others take the room meanwhile
    let honest = Fetcher::new(settings(), Events::none()).unwrap();
    let error = honest.obtain(&pinned).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let racing = Fetcher::on(settings(), Events::none(), bench.machine(Bytes::gib(1))).unwrap();
    let error = racing.obtain(&pinned).await.unwrap_err();
    let Error::Store { what, source: store::Error::Full { size, .. } } = &error else { panic!("{error:?}") };
    assert!(what.ends_with(MODEL) && *size == Bytes(WEIGHTS as u64), "{error:?}");
    assert!(bench.hub.take_seen().iter().all(|seen| seen.door != Door::Cdn), "no byte of it was asked for");
    let sha256 = &pinned.files[1].sha256;
    assert!(!racing.store().has(sha256) && racing.store().reserved(sha256) == Bytes::ZERO);
    // with room, it goes on
    drop((honest, racing, disk));
    let Some(_disk) = Disk::in_memory(&bench.path("small"), 10 << 20) else { panic!("mounted before") };
    let roomy = Fetcher::on(settings(), Events::none(), bench.machine(Bytes::gib(1))).unwrap();
    bench.assert_obtained(&roomy.obtain(&pinned).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_is_taken_up_by_the_next_one() {
    const SIZE: usize = 12 << 20;
    let bench = Bench::new().await;
    fs::write(bench.repo(MODEL), safetensors(SIZE)).unwrap();
    let pinned = bench.pinned().await;
    let sha256 = &pinned.files[1].sha256;
    let mut run = bench
        .bramble(&["fetch", "hf:org/tiny", "--limit-rate", "8MB"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let store = store::Store::open(bench.path("xdg/bramble")).unwrap();
    while store.arrived(sha256) < Bytes::mib(2) {
        assert!(run.try_wait().unwrap().is_none(), "it ended before it could be killed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run.start_kill().unwrap();
    run.wait().await.unwrap();
    let arrived = store.arrived(sha256);
    assert!(arrived >= Bytes::mib(2) && !store.has(sha256));
    bench.hub.take_seen();
    let ended = bench.bramble(&["fetch", "hf:org/tiny"]).output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(store.verify(sha256).unwrap(), Bytes(SIZE as u64));
    let seen = bench.hub.take_seen();
    let sent = seen.iter().filter(|seen| seen.door == Door::Cdn).map(|seen| seen.sent.end - seen.sent.start);
    assert_eq!(Bytes(sent.sum()) + arrived, Bytes(SIZE as u64), "what had arrived was not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_on_one_store_fetch_each_byte_once() {
    let bench = Arc::new(Bench::new().await);
    let run =
        |bench: Arc<Bench>| async move { bench.bramble(&["fetch", "hf:org/tiny"]).output().await.unwrap() };
    let (first, second) = tokio::join!(run(Arc::clone(&bench)), run(Arc::clone(&bench)));
    assert!(first.status.success() && second.status.success());
    let weights = |seen: &&crate::hub::Seen| seen.door == Door::Cdn;
    let seen = bench.hub.take_seen();
    let sent = seen.iter().filter(weights).map(|seen| seen.sent.end - seen.sent.start);
    assert_eq!(sent.sum::<u64>(), WEIGHTS as u64);
}
