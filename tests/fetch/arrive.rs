//! What arrives, and what of it went over the wire, when connections break and bytes are wrong.

use std::fs;
use std::time::Duration;

use bramble_fleet::events::Event;
use bramble_fleet::fetch::{Error, Lanes, RawHeader};
use bramble_fleet::ids::Digest;
use bramble_fleet::units::Bytes;

use crate::bench::{Bench, MODEL, WEIGHTS, assert_each_byte_once, safetensors, sent, source};
use crate::hub::{Door, Fault};

#[tokio::test]
async fn a_checkpoint_is_pinned_described_and_obtained() {
    let bench = Bench::new().await;
    let fetcher = bench.plain();
    let pinned = fetcher.pin(&source("org/tiny")).await.unwrap();
    let (repo, commit) = pinned.uri.split_once('@').unwrap();
    assert_eq!((repo, commit.len()), ("hf:org/tiny", 40));
    assert_eq!(pinned.license.as_deref(), Some("apache-2.0"));
    let names: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", MODEL, "tokenizer.json", "tokenizer_config.json"]);
    for file in &pinned.files {
        let bytes = fs::read(bench.repo(&file.path)).unwrap();
        assert_eq!((file.bytes, file.sha256), (Bytes(bytes.len() as u64), Digest::of(&bytes)));
    }
    bench.hub.take_seen();

    let raw = fetcher.describe(&pinned).await.unwrap();
    let RawHeader::Checkpoint { config, shards } = raw.header else { panic!("a checkpoint") };
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!(shards, [safetensors(WEIGHTS)[8..136].to_vec()]);
    assert_eq!(sent(&bench.hub.take_seen()), [(0, 128 << 10)], "the header costs one request of 128 KiB");

    let folder = fetcher.obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert_each_byte_once(&bench.hub.take_seen());
    let events = bench.events.lock().unwrap();
    let whole = Bytes(WEIGHTS as u64);
    assert!(events.iter().any(|e| matches!(e, Event::Started { total: Some(total), .. } if *total == whole)));
    assert!(events.iter().any(|e| matches!(e, Event::Progress { done, .. } if *done == whole)));
    assert!(events.iter().any(|e| matches!(e, Event::Finished { .. })));
}

#[tokio::test]
async fn what_is_here_needs_no_network() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let fetcher = bench.plain();
    let raw = fetcher.describe(&pinned).await.unwrap();
    bench.hub.take_seen();
    assert_eq!(bench.plain().describe(&pinned).await.unwrap(), raw, "before the weights are here too");
    assert!(bench.hub.take_seen().is_empty());
    let folder = fetcher.obtain(&pinned).await.unwrap();
    bench.hub.take_seen();
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    assert_eq!(offline.obtain(&pinned).await.unwrap(), folder);
    assert_eq!(offline.describe(&pinned).await.unwrap(), raw);
    assert_eq!(bench.plain().obtain(&pinned).await.unwrap(), folder);
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut() {
    for cut in [0, 1, 65_535, 65_536, 65_537, 200_000, WEIGHTS as u64 - 1] {
        let bench = Bench::new().await;
        let pinned = bench.pinned().await;
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut));
        let folder = bench.plain().obtain(&pinned).await.unwrap();
        bench.assert_obtained(&folder);
        let seen = bench.hub.take_seen();
        assert_each_byte_once(&seen);
        assert_eq!(sent(&seen).len(), 2, "cut at {cut}");
    }
}

#[tokio::test]
async fn the_next_run_goes_on_where_the_last_one_was_cut() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let mut cuts = 0;
    for cut in [100_000, 1, 150_000] {
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut));
        let error =
            bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        cuts += cut;
        assert_eq!(bench.plain().store().arrived(&pinned.files[1].sha256), Bytes(cuts));
    }
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    let seen = bench.hub.take_seen();
    assert_each_byte_once(&seen);
    let conditions: Vec<bool> =
        seen.iter().filter(|s| s.door == Door::Cdn).map(|s| s.if_range.is_some()).collect();
    assert_eq!(conditions, [false, true, true, true], "a range is asked for of the same version only");
    assert_eq!(bench.partials(), 0);
}

#[tokio::test]
async fn another_version_at_the_cdn_is_fetched_from_its_start() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    bench.hub.fail(Door::Cdn, MODEL, Fault::NewEtag);
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert_eq!(sent(&bench.hub.take_seen()), [(0, 100_000), (0, WEIGHTS as u64)]);
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_nothing_of_it_is_kept() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Flip(123_456));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    let expected = pinned.files[1].sha256;
    assert!(
        matches!(error, Error::Mismatch { expected: e, got, .. } if e == expected && got != e),
        "{error}"
    );
    assert!(!bench.plain().store().has(&expected));
    assert_eq!(bench.partials(), 0);
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
}

#[tokio::test]
async fn bytes_that_rotted_between_two_runs_are_fetched_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    drop(bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err());
    let partial = bench.path("cache/partial").join(pinned.files[1].sha256.to_string());
    fs::write(&partial, vec![0; 100_000]).unwrap();
    bench.hub.take_seen();
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_eq!(sent(&bench.hub.take_seen()), [(0, WEIGHTS as u64), (100_000, WEIGHTS as u64)]);
}

#[tokio::test]
async fn a_blob_that_lost_its_end_is_fetched_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    let blob = bench.plain().store().path(&pinned.files[1].sha256);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    assert_eq!(bench.plain().obtain(&pinned).await.unwrap(), folder);
    bench.assert_obtained(&folder);
}

#[tokio::test]
async fn a_stalled_download_is_taken_up_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Stall(70_000));
    let impatient = bench.fetcher(|settings| settings.patience.idle = Duration::from_secs(1));
    bench.assert_obtained(&impatient.obtain(&pinned).await.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
}

#[tokio::test]
async fn a_file_that_claims_another_size_is_refused() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Longer(5));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    let longer = Bytes(WEIGHTS as u64 + 5);
    assert!(matches!(error, Error::WrongLength { got, .. } if got == longer), "{error}");
    assert_eq!(bench.partials(), 0);
}

#[tokio::test]
async fn a_long_file_comes_over_several_lanes_and_each_byte_once() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.assert_obtained(&bench.lanes().obtain(&pinned).await.unwrap());
    let seen = bench.hub.take_seen();
    assert_each_byte_once(&seen);
    assert_eq!(sent(&seen).len(), 5);
    let weights = seen.iter().filter(|seen| seen.door == Door::Resolve && seen.path.ends_with(MODEL));
    assert_eq!(weights.count(), 1, "the way is asked for once");
    let unconditional = seen.iter().filter(|seen| seen.door == Door::Cdn && seen.if_range.is_none());
    assert_eq!(unconditional.count(), 1, "every lane but the first wants the same version");
}

#[tokio::test]
async fn a_lane_that_breaks_costs_no_byte_twice() {
    for cut in [0, 1, 40_000, 65_535] {
        let bench = Bench::new().await;
        let pinned = bench.pinned().await;
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut));
        bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(cut / 2));
        bench.assert_obtained(&bench.lanes().obtain(&pinned).await.unwrap());
        assert_each_byte_once(&bench.hub.take_seen());
        assert_eq!(bench.partials(), 0);
    }
}

#[tokio::test]
async fn a_version_that_changes_between_lanes_is_fetched_whole_again() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(70_000));
    drop(bench.fetcher(|settings| settings.patience.attempts = 1).obtain(&pinned).await.unwrap_err());
    bench.hub.fail(Door::Cdn, MODEL, Fault::NewEtag);
    bench.assert_obtained(&bench.lanes().obtain(&pinned).await.unwrap());
    assert_eq!(sent(&bench.hub.take_seen()).last(), Some(&(0, WEIGHTS as u64)));
}

#[tokio::test]
async fn the_rate_is_kept_by_all_lanes_together() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let slow = bench.fetcher(|settings| {
        settings.lanes = Lanes { per_file: 5, total: 8, segment: Bytes::kib(64) };
        settings.limit_rate = Some(Bytes(1_000_000));
    });
    let begun = std::time::Instant::now();
    bench.assert_obtained(&slow.obtain(&pinned).await.unwrap());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300), "{WEIGHTS} bytes at 1 MB/s took {took:?}");
}

#[tokio::test]
async fn two_runs_at_the_same_time_fetch_each_byte_once() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let (first, second) = (bench.plain(), bench.lanes());
    let (first, second) = tokio::join!(first.obtain(&pinned), second.obtain(&pinned));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
}
