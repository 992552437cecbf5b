//! One GGUF behind an address that is not the hub's.

use std::fs;

use bramble_fleet::fetch::{Error, Token};
use bramble_fleet::ids::Digest;
use bramble_fleet::source::SourceRef;
use bramble_fleet::units::Bytes;

use crate::bench::{Bench, gguf};
use crate::hub::{Door, Fault, Hub};

/// A server that is not the hub, with one file, and that file.
async fn elsewhere(bench: &Bench) -> (Hub, String, Vec<u8>) {
    let folder = bench.path("elsewhere/some/where");
    fs::create_dir_all(&folder).unwrap();
    let file = gguf(300_000);
    fs::write(folder.join("m.gguf"), &file).unwrap();
    let server = Hub::serve(&bench.path("elsewhere"), 0).await.unwrap();
    let link = format!("{}/some/where/resolve/main/m.gguf", server.endpoint);
    (server, link, file)
}

#[tokio::test]
async fn a_link_with_its_digest_is_pinned_described_and_obtained() {
    let bench = Bench::new().await;
    let (server, link, file) = elsewhere(&bench).await;
    let digest = Digest::of(&file);
    let fetcher = bench.fetcher(|settings| settings.token = Token::new("hf_secret"));
    let pinned = fetcher.pin(&SourceRef::Url(format!("{link}#sha256={digest}"))).await.unwrap();
    assert_eq!((pinned.uri.as_str(), pinned.bytes()), (link.as_str(), Bytes(file.len() as u64)));
    assert!(pinned.is_gguf() && pinned.files[0].sha256 == digest);
    fetcher.describe(&pinned).await.unwrap();
    assert!(!fetcher.store().has(&digest), "no weights so far");
    server.fail(Door::Cdn, "m.gguf", Fault::Cut(100_000));
    let folder = fetcher.obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), file);
    let seen = server.take_seen();
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "the token is the hub's alone");
    fetcher.obtain(&pinned).await.unwrap();
    assert!(server.take_seen().is_empty() && bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_link_without_a_digest_is_fetched_once_and_pinned_to_what_came() {
    let bench = Bench::new().await;
    let (server, link, file) = elsewhere(&bench).await;
    let source = SourceRef::Url(link);
    // what has arrived counts, although its digest is not known
    server.fail(Door::Cdn, "m.gguf", Fault::Drip(0));
    server.fail(Door::Cdn, "m.gguf", Fault::Cut(100_000));
    let once = bench.fetcher(|settings| settings.patience.attempts = 1);
    assert!(once.pin(&source).await.unwrap_err().is_transient());
    server.take_seen();
    let pinned = bench.plain().pin(&source).await.unwrap();
    assert_eq!(pinned.files[0].sha256, Digest::of(&file));
    let sent: u64 = server.take_seen().iter().map(|seen| seen.sent.end - seen.sent.start).sum();
    assert_eq!(sent, 1 + 200_000, "the first byte tells the size");
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), file);
    assert!(server.take_seen().is_empty());
    assert_eq!(bench.partials(), 0);

    // another file under the same address is not what was pinned
    fs::remove_dir_all(bench.path("cache")).unwrap();
    let mut other = file.clone();
    other[1000] ^= 1;
    fs::write(bench.path("elsewhere/some/where/m.gguf"), &other).unwrap();
    let error = bench.plain().obtain(&pinned).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn a_link_that_is_not_given_out_says_so() {
    let bench = Bench::new().await;
    let (server, link, _) = elsewhere(&bench).await;
    for (status, words) in [(404, "HTTP 404"), (403, "HTTP 403"), (401, "file:PATH")] {
        server.fail(Door::Resolve, "m.gguf", Fault::Refuse(status, ""));
        let error = bench.plain().pin(&SourceRef::Url(format!("{link}?key=secret"))).await.unwrap_err();
        assert!(matches!(error, Error::LinkRefused { .. }) && !error.is_transient(), "{error}");
        let said = error.to_string();
        assert!(said.contains(words) && said.contains(&link) && !said.contains("secret"), "{said}");
    }
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    assert!(matches!(offline.pin(&SourceRef::Url(link)).await.unwrap_err(), Error::Offline { .. }));
}
