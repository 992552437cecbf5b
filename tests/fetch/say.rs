//! What is said and waited for when the hub, the network or the disk refuses.

use std::time::Duration;

use bramble_fleet::events::{Event, Events};
use bramble_fleet::fetch::{Error, Fetcher, Settings, Token};
use bramble_fleet::ids::Digest;
use bramble_fleet::source::SourceRef;
use bramble_fleet::units::Bytes;

use crate::bench::{Bench, MODEL, WEIGHTS, assert_each_byte_once, gguf_source, source};
use crate::hub::{Door, Fault};

#[tokio::test]
async fn the_hub_is_left_alone_for_as_long_as_it_asks() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Resolve, MODEL, Fault::TooMany(7));
    bench.hub.fail(Door::Cdn, MODEL, Fault::TooMany(11));
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_eq!(*bench.pauses.lock().unwrap(), [Duration::from_secs(7), Duration::from_secs(11)]);
    let note = Event::Note { host: None, text: "the hub asks to wait 7 s".to_owned() };
    assert!(bench.events.lock().unwrap().contains(&note));

    bench.hub.fail(Door::Api, "", Fault::TooMany(86_400));
    let error = bench.plain().pin(&source("org/tiny")).await.unwrap_err().to_string();
    assert!(error.contains("wait 86400 s") && error.contains("HF_TOKEN"), "{error}");
}

#[tokio::test]
async fn a_failing_hub_is_asked_again_and_given_up_at_last() {
    let bench = Bench::new().await;
    bench.hub.fail(Door::Api, "org/tiny", Fault::Refuse(502, ""));
    bench.hub.fail(Door::Resolve, "config.json", Fault::Refuse(500, ""));
    let pinned = bench.plain().pin(&source("org/tiny")).await.unwrap();
    assert_eq!(bench.pauses.lock().unwrap().len(), 2);
    bench.hub.take_seen();
    bench.hub.fail_always(Door::Resolve, MODEL, Fault::Refuse(503, ""));
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    assert!(matches!(error, Error::Server { status: 503, .. }) && error.is_transient(), "{error}");
    assert_eq!(bench.hub.take_seen().len(), 6);
}

#[tokio::test]
async fn an_expired_address_is_replaced_by_a_new_one() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    bench.hub.fail(Door::Cdn, MODEL, Fault::Cut(100_000));
    bench.hub.fail(Door::Cdn, MODEL, Fault::Refuse(403, ""));
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    let seen = bench.hub.take_seen();
    assert_each_byte_once(&seen);
    assert_eq!(
        seen.iter().filter(|seen| seen.door == Door::Resolve).count(),
        2,
        "the address is good until it is refused"
    );
}

#[tokio::test]
async fn each_refusal_says_what_to_do_next() {
    let bench = Bench::new().await;
    let page = format!("{}/org/tiny", bench.hub.endpoint);
    let with_token = |settings: &mut Settings| settings.token = Token::new("hf_secret");
    let refuse = |status, code| bench.hub.fail(Door::Resolve, "config.json", Fault::Refuse(status, code));
    let tiny = source("org/tiny");

    refuse(401, "GatedRepo");
    let error = bench.plain().pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::NoToken { .. }));
    assert!(error.to_string().contains(&page) && error.to_string().contains("HF_TOKEN"), "{error}");

    refuse(403, "GatedRepo");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::LicenceNotAccepted { .. }));
    assert!(error.to_string().contains(&format!("accept its licence at {page} ")), "{error}");

    for message in ["Your request is awaiting a review from the repo authors.", "Access was rejected."] {
        bench.hub.fail(Door::Resolve, "config.json", Fault::Gated(message));
        let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
        assert!(matches!(error, Error::Denied { status: 403, .. }), "{error}");
        assert!(error.to_string().contains(message) && error.to_string().contains(&page), "{error}");
    }

    refuse(401, "");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::TokenRefused { .. }), "{error}");

    refuse(403, "");
    let error = bench.fetcher(with_token).pin(&tiny).await.unwrap_err();
    assert!(matches!(error, Error::Denied { status: 403, .. }), "{error}");
    assert!(
        error.to_string().contains("the double says 403") && error.to_string().contains(&page),
        "{error}"
    );

    let error = bench.plain().pin(&source("org/none")).await.unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { had_token: false, .. }), "{error}");
    assert!(error.to_string().contains("for a private one set HF_TOKEN"), "{error}");
    let error = bench.fetcher(with_token).pin(&source("org/none")).await.unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { had_token: true, .. }), "{error}");

    let other = SourceRef::Hub { repo: "org/tiny".to_owned(), revision: Some("v9".to_owned()), file: None };
    let error = bench.plain().pin(&other).await.unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == "v9"), "{error}");

    let error = bench.plain().pin(&gguf_source("none.gguf")).await.unwrap_err();
    assert!(matches!(&error, Error::EntryNotFound { what } if what == "org/tiny/none.gguf"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn offline_says_what_is_missing_and_asks_nobody() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    let errors = [
        offline.obtain(&pinned).await.unwrap_err(),
        offline.describe(&pinned).await.unwrap_err(),
        offline.pin(&source("org/tiny")).await.unwrap_err(),
    ];
    for error in &errors {
        assert!(matches!(error, Error::Offline { what } if what.starts_with("org/tiny")), "{error}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE") && !error.is_transient(), "{error}");
    }
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_hub_that_does_not_answer_is_named_with_the_variable_that_changes_it() {
    let bench = Bench::new().await;
    // a port that was free a moment ago
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fetcher = bench.fetcher(|settings| settings.endpoint = format!("http://{free}"));
    let error = fetcher.pin(&source("org/tiny")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient());
    let said = error.to_string();
    assert!(said.contains(&format!("http://{free}")) && said.contains("HF_ENDPOINT"), "{said}");
    assert_eq!(bench.pauses.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn no_space_is_told_with_both_numbers_before_the_first_byte() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let free = Bytes::mib(64) + Bytes(1000);
    let fetcher = Fetcher::on(bench.settings(), Events::none(), bench.machine(free)).unwrap();
    let error = fetcher.obtain(&pinned).await.unwrap_err();
    let expected = Bytes::mib(64) + Bytes(WEIGHTS as u64);
    assert!(
        matches!(error, Error::NoSpace { need, free: f, .. } if need == expected && f == free),
        "{error}"
    );
    assert!(error.to_string().contains("64.0 MiB free") && error.to_string().contains("64.3 MiB"), "{error}");
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn room_is_looked_for_for_all_sources_together() {
    let bench = Bench::new().await;
    let (pinned, mut other) = (bench.pinned().await, bench.pinned().await);
    // another repository with the same small files, and weights of its own
    other.uri = other.uri.replace("org/tiny", "org/other");
    other.files[1].sha256 = Digest::of(b"other weights");
    let with = |free| Fetcher::on(bench.settings(), Events::none(), bench.machine(free)).unwrap();
    let one = Bytes::mib(64) + Bytes(WEIGHTS as u64);
    assert!(
        with(one).check_room(&[&pinned], Bytes::ZERO).is_ok()
            && with(one).check_room(&[&other], Bytes::ZERO).is_ok()
    );
    let error = with(one).check_room(&[&pinned, &other], Bytes::ZERO).unwrap_err();
    assert!(matches!(error, Error::NoSpace { need, .. } if need == one + Bytes(WEIGHTS as u64)), "{error}");
    assert!(error.to_string().contains("org/tiny") && error.to_string().contains("org/other"), "{error}");
    assert!(with(one + Bytes(WEIGHTS as u64)).check_room(&[&pinned, &other], Bytes::ZERO).is_ok());
    let error = with(one).check_room(&[&pinned], Bytes(1)).unwrap_err().to_string();
    assert!(error.contains("org/tiny@") && error.contains("the weights that are made here"), "{error}");
    bench.plain().obtain(&pinned).await.unwrap();
    assert!(with(one).check_room(&[&pinned, &other], Bytes::ZERO).is_ok(), "what is here needs no room");
}
