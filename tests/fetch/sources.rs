//! Kinds of sources: repositories, single files, folders, the Python client's cache.

use std::fs;
use std::os::unix::fs::symlink;

use bramble_fleet::checkpoint::Checkpoint;
use bramble_fleet::events::Event;
use bramble_fleet::fetch::{Error, RawHeader};
use bramble_fleet::source::{PinnedFile, SourceRef};

use crate::bench::{
    Bench, GGUF_HEADER, MODEL, WEIGHTS, assert_each_byte_once, gguf, gguf_source, safetensors, sent, source,
};
use crate::hub::{Door, Fault};

#[tokio::test]
async fn weights_in_the_python_cache_are_used_when_their_hash_is_right() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let blobs = bench.path("python/models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let theirs = blobs.join(pinned.files[1].sha256.to_string());
    let mut bytes = fs::read(bench.repo(MODEL)).unwrap();
    fs::write(&theirs, &bytes).unwrap();
    let folder = bench.fetcher(|settings| settings.is_offline = true).obtain(&pinned).await.unwrap();
    bench.assert_obtained(&folder);
    assert!(bench.hub.take_seen().is_empty());

    // the same once more, with a damaged copy: the hub is asked
    fs::remove_dir_all(bench.path("cache")).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&theirs, &bytes).unwrap();
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
    assert_each_byte_once(&bench.hub.take_seen());
    assert_eq!(fs::read(&theirs).unwrap(), bytes, "what is not ours stays as it is");
}

#[tokio::test]
async fn offline_a_revision_is_pinned_as_the_python_cache_has_it() {
    let bench = Bench::new().await;
    let online = bench.pinned().await;
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let all = ["README.md", "config.json", MODEL, "tokenizer.json", "tokenizer_config.json"];
    bench.put_into_python_cache(commit, &all);
    let offline = bench.fetcher(|settings| {
        settings.is_offline = true;
        settings.cache = bench.path("cache of another machine");
    });
    for named in ["org/tiny".to_owned(), format!("org/tiny@{commit}")] {
        let pinned = offline.pin(&format!("hf:{named}").parse().unwrap()).await.unwrap();
        assert_eq!(pinned.uri, format!("hf:org/tiny@{commit}"));
        assert_eq!((&pinned.files, &pinned.license), (&online.files, &online.license));
        let raw = offline.describe(&pinned).await.unwrap();
        assert_eq!(raw, bench.plain().describe(&online).await.unwrap());
        bench.assert_obtained(&offline.obtain(&pinned).await.unwrap());
        bench.hub.take_seen();
    }
    let events = bench.events.lock().unwrap();
    let told = |event: &Event| matches!(event, Event::Note { text, .. } if text.contains("pinned offline") && !text.contains("licence"));
    assert!(events.iter().any(told), "{events:?}");
}

#[tokio::test]
async fn offline_what_the_python_cache_has_not_is_not_pinned() {
    let bench = Bench::new().await;
    let commit = "0123456789abcdef0123456789abcdef01234567";
    bench.put_into_python_cache(commit, &["config.json", "tokenizer.json"]);
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    let pin = async |named: &str| offline.pin(&format!("hf:{named}").parse().unwrap()).await;
    let error = pin("org/tiny").await.unwrap_err();
    assert!(matches!(&error, Error::CachedInPart { folder, .. } if folder.ends_with(commit)), "{error}");
    assert!(error.to_string().contains("HF_HUB_OFFLINE") && !error.is_transient(), "{error}");
    for absent in ["org/tiny@v2", "org/tiny@1123456789abcdef0123456789abcdef01234567", "org/other"] {
        let error = pin(absent).await.unwrap_err();
        assert!(matches!(&error, Error::Offline { what } if what.starts_with(absent)), "{error}");
    }
    fs::write(bench.path("python/models--org--tiny/refs/main"), "../../../../etc").unwrap();
    assert!(matches!(pin("org/tiny").await.unwrap_err(), Error::Offline { .. }), "no commit, no way out");
    // a card that was not fetched leaves the licence unknown, and that is said
    bench.put_into_python_cache(&commit.replace('0', "f"), &["config.json", MODEL]);
    assert_eq!(pin("org/tiny").await.unwrap().license, None);
    let events = bench.events.lock().unwrap();
    assert!(
        events.iter().any(
            |event| matches!(event, Event::Note { text, .. } if text.contains("its licence is not known"))
        )
    );
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test]
async fn offline_weights_that_changed_in_the_python_cache_are_not_described() {
    let bench = Bench::new().await;
    let commit = "0123456789abcdef0123456789abcdef01234567";
    bench.put_into_python_cache(commit, &["config.json", MODEL]);
    let offline = bench.fetcher(|settings| settings.is_offline = true);
    let pinned = offline.pin(&source("org/tiny")).await.unwrap();
    let theirs = bench.path("python/models--org--tiny/blobs").join(format!("git-hash-of-{MODEL}"));
    let mut bytes = fs::read(&theirs).unwrap();
    bytes[20] ^= 1;
    fs::write(&theirs, bytes).unwrap();
    for error in [offline.describe(&pinned).await.unwrap_err(), offline.obtain(&pinned).await.unwrap_err()] {
        assert!(matches!(error, Error::Offline { .. }), "{error}");
    }
}

#[tokio::test]
async fn safetensors_without_an_index_are_brought_together() {
    let bench = Bench::new().await;
    fs::remove_file(bench.repo(MODEL)).unwrap();
    for (name, tensor) in [("one", "a"), ("two", "b"), ("adapter_model", "c")] {
        let header = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#);
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), b"data"].concat();
        fs::write(bench.repo(&format!("{name}.safetensors")), bytes).unwrap();
    }
    let pinned = bench.pinned().await;
    let RawHeader::Checkpoint { shards, .. } = bench.plain().describe(&pinned).await.unwrap().header else {
        panic!("a checkpoint")
    };
    assert_eq!(shards.len(), 2);
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    let tensors = Checkpoint::open(&folder).unwrap().tensors();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let bench = Bench::new().await;
    let mut pinned = bench.pinned().await;
    for name in ["../x", "/etc/passwd", "a/../../x", "a\\b"] {
        bench.hub.control().extra_siblings = vec![name.to_owned()];
        let error = bench.plain().pin(&source("org/tiny")).await.unwrap_err();
        assert!(matches!(&error, Error::UnsafePath { path, .. } if path == name), "{error}");
    }
    // a lock is text that anybody may have edited
    pinned.files.push(PinnedFile { path: "../../x".to_owned(), ..pinned.files[0].clone() });
    assert!(matches!(bench.plain().obtain(&pinned).await.unwrap_err(), Error::UnsafePath { .. }));
    assert!(matches!(bench.plain().describe(&pinned).await.unwrap_err(), Error::UnsafePath { .. }));
}

#[tokio::test]
async fn a_header_that_claims_too_much_is_refused_without_fetching_it() {
    for claimed in [u64::MAX, 100_000_001, WEIGHTS as u64] {
        let bench = Bench::new().await;
        let mut bytes = safetensors(WEIGHTS);
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        fs::write(bench.repo(MODEL), &bytes).unwrap();
        let pinned = bench.pinned().await;
        let error = bench.plain().describe(&pinned).await.unwrap_err();
        assert!(matches!(&error, Error::BadHeader { what, .. } if what == MODEL), "{error}");
        assert_eq!(sent(&bench.hub.take_seen()), [(0, 128 << 10)]);
    }
}

#[tokio::test]
async fn the_shards_that_the_index_names_are_the_weights() {
    let bench = Bench::new().await;
    fs::remove_file(bench.repo(MODEL)).unwrap();
    let index = r#"{"weight_map":{"a":"model-2.safetensors","b":"model-1.safetensors"}}"#;
    fs::write(bench.repo("model.safetensors.index.json"), index).unwrap();
    for (name, size) in [("model-1", 1000), ("model-2", 2000), ("consolidated", 3000)] {
        fs::write(bench.repo(&format!("{name}.safetensors")), safetensors(size)).unwrap();
    }
    let pinned = bench.pinned().await;
    let shards: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    let weights = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(shards[1..4], weights);
    let raw = bench.plain().describe(&pinned).await.unwrap();
    let RawHeader::Checkpoint { shards, .. } = raw.header else { panic!("a checkpoint") };
    assert_eq!(shards, [1000, 2000].map(|size| safetensors(size)[8..136].to_vec()));
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join(weights[1])).unwrap(), safetensors(2000));
}

#[tokio::test]
async fn a_gguf_is_described_by_its_first_bytes_alone() {
    let bench = Bench::new().await;
    let whole = gguf(1_200_000);
    fs::create_dir(bench.repo("sub")).unwrap();
    fs::write(bench.repo("sub/a b.gguf"), &whole).unwrap();

    let pinned = bench.plain().pin(&gguf_source("sub/a b.gguf")).await.unwrap();
    assert!(pinned.is_gguf() && pinned.uri.ends_with("/sub/a b.gguf"));
    bench.hub.fail(Door::Cdn, "gguf", Fault::Cut(1000));
    let raw = bench.plain().describe(&pinned).await.unwrap();
    assert_eq!(raw.header, RawHeader::Gguf { header: whole[..GGUF_HEADER].to_vec() });
    let ranges = sent(&bench.hub.take_seen());
    assert_eq!(ranges.first(), Some(&(0, 1000)));
    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
    assert!(ranges.last().unwrap().1 < 600_000, "{ranges:?}");
    let folder = bench.plain().obtain(&pinned).await.unwrap();
    assert_eq!(fs::read(folder.join("sub/a b.gguf")).unwrap(), whole);
}

#[tokio::test]
async fn a_header_is_put_together_right_where_every_answer_begins_at_the_first_byte() {
    let bench = Bench::new().await;
    let whole = gguf(1_200_000);
    fs::write(bench.repo("a.gguf"), &whole).unwrap();
    let pinned = bench.plain().pin(&gguf_source("a.gguf")).await.unwrap();
    bench.hub.fail_always(Door::Cdn, "gguf", Fault::NoRanges);
    let raw = bench.plain().describe(&pinned).await.unwrap();
    assert!(raw.header == RawHeader::Gguf { header: whole[..GGUF_HEADER].to_vec() }, "other bytes");
}

#[tokio::test]
async fn a_folder_is_a_source_until_it_changes() {
    let bench = Bench::new().await;
    let source = SourceRef::File("hub/org/tiny".to_owned());
    let fetcher = bench.plain();
    let pinned = fetcher.pin(&source).await.unwrap();
    assert_eq!((pinned.uri.as_str(), pinned.files.len()), ("file:hub/org/tiny", 4));
    fetcher.describe(&pinned).await.unwrap();
    bench.assert_obtained(&fetcher.obtain(&pinned).await.unwrap());
    assert!(bench.hub.take_seen().is_empty());
    let mut bytes = fs::read(bench.repo(MODEL)).unwrap();
    bytes[1000] ^= 1;
    fs::write(bench.repo(MODEL), bytes).unwrap();
    let error = fetcher.obtain(&pinned).await.unwrap_err();
    assert!(matches!(&error, Error::LocalChanged { path } if path.ends_with(MODEL)), "{error}");
}

/// A template is among the texts of what is made, which every user of a host may read.
#[tokio::test]
async fn a_link_in_a_folder_brings_no_text_from_elsewhere_into_weights() {
    let bench = Bench::new().await;
    let source = SourceRef::File("hub/org/tiny".to_owned());
    let elsewhere = bench.repo("../elsewhere");
    fs::create_dir_all(elsewhere.join("blobs")).unwrap();
    fs::write(elsewhere.join("id_ed25519"), "a key").unwrap();
    symlink(elsewhere.join("id_ed25519"), bench.repo("chat_template.jinja")).unwrap();
    let error = bench.plain().pin(&source).await.unwrap_err();
    assert!(matches!(&error, Error::LeadsOut { path } if path.ends_with("chat_template.jinja")), "{error}");
    fs::remove_file(bench.repo("chat_template.jinja")).unwrap();
    // as in the hub's own cache, and where weights are on another disk
    for (name, place) in [("config.json", "blobs/1"), (MODEL, "model.safetensors")] {
        fs::rename(bench.repo(name), elsewhere.join(place)).unwrap();
        symlink(elsewhere.join(place), bench.repo(name)).unwrap();
    }
    let pinned = bench.plain().pin(&source).await.unwrap();
    bench.assert_obtained(&bench.plain().obtain(&pinned).await.unwrap());
}

#[tokio::test]
async fn sources_that_cannot_be_used_yet_say_what_to_write_instead() {
    let bench = Bench::new().await;
    let fetcher = bench.plain();
    let error = fetcher.pin(&SourceRef::Catalog("x".to_owned())).await.unwrap_err();
    assert!(matches!(&error, Error::NotYet { .. }) && error.to_string().contains("hf:"), "{error}");
    fs::remove_file(bench.repo(MODEL)).unwrap();
    fs::write(bench.repo("consolidated.00.pth"), b"pickle").unwrap();
    let error = fetcher.pin(&source("org/tiny")).await.unwrap_err().to_string();
    assert!(error.contains("consolidated.00.pth") && error.contains(".safetensors"), "{error}");
}
