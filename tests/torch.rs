//! Torch checkpoints and published differences, from a double of the hub to weights that can be read.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

use bramble_fleet::checkpoint::{self, Checkpoint};
use bramble_fleet::events::Events;
use bramble_fleet::fetch::{Fetcher, RawHeader, Settings};
use bramble_fleet::ids::Digest;
use bramble_fleet::source::SourceRef;

#[path = "support/hub.rs"]
#[expect(dead_code, reason = "other tests need the faults")]
mod hub;
#[path = "../src/checkpoint/torch/testing.rs"]
#[expect(dead_code, reason = "other tests need the faults")]
mod testing;

use hub::{Door, Hub};
use testing::{Given, PickleWriter, legacy, zip_file};

const CONFIG: &[u8] = br#"{"architectures":["LlamaForCausalLM"]}"#;

/// A hub, and an empty cache.
struct Bench {
    dir: tempfile::TempDir,
    hub: Hub,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("hub")).unwrap();
        let hub = Hub::serve(&dir.path().join("hub"), 0).await.unwrap();
        Self { dir, hub }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn fetcher(&self, is_offline: bool) -> Fetcher {
        let mut settings = Settings::read(|_| None);
        settings.endpoint.clone_from(&self.hub.endpoint);
        settings.cache = self.dir.path().join("cache");
        settings.hub_cache = None;
        settings.is_offline = is_offline;
        self.dir.path().clone_into(&mut settings.folder);
        Fetcher::new(settings, Events::new(drop)).unwrap()
    }

    /// How many bytes of large files were sent since it was asked last.
    fn sent(&self) -> u64 {
        let seen = self.hub.take_seen();
        seen.iter().filter(|seen| seen.door == Door::Cdn).map(|seen| seen.sent.end - seen.sent.start).sum()
    }
}

fn source(repo: &str) -> SourceRef {
    SourceRef::Hub { repo: repo.to_owned(), revision: None, file: None }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/golden/torch").join(name)
}

fn names(shard: &[u8]) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_slice(shard).unwrap();
    json.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_torch_checkpoint_is_described_from_the_ends_of_its_files_and_read_whole() {
    let bench = Bench::new().await;
    let large = Given::f32("model.large", "0", &[1000, 1000], &vec![0.25; 1_000_000]);
    let small = Given::f32("model.small", "0", &[3], &[1.0, 2.0, 3.0]);
    bench.put("hub/org/torch/config.json", CONFIG);
    bench.put("hub/org/torch/pytorch_model-1.bin", &zip_file(std::slice::from_ref(&large)));
    bench.put("hub/org/torch/pytorch_model-2.bin", &zip_file(std::slice::from_ref(&small)));
    let index =
        br#"{"weight_map":{"model.large":"pytorch_model-1.bin","model.small":"pytorch_model-2.bin"}}"#;
    bench.put("hub/org/torch/pytorch_model.bin.index.json", index);
    bench.put("hub/org/torch/training_args.bin", b"not wanted");

    let fetcher = bench.fetcher(false);
    let pinned = fetcher.pin(&source("org/torch")).await.unwrap();
    let paths: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    let wanted =
        ["config.json", "pytorch_model-1.bin", "pytorch_model-2.bin", "pytorch_model.bin.index.json"];
    assert_eq!(paths, wanted);
    bench.sent();
    let RawHeader::Checkpoint { shards, .. } = fetcher.describe(&pinned).await.unwrap().header else {
        panic!("a checkpoint")
    };
    assert_eq!(
        shards.iter().map(|shard| names(shard)).collect::<Vec<_>>(),
        [["model.large"], ["model.small"]]
    );
    assert!(bench.sent() < 300_000, "the ends of a file of 4 MB");
    let again = bench.fetcher(true).describe(&pinned).await.unwrap().header;
    assert!(matches!(again, RawHeader::Checkpoint { shards: kept, .. } if kept == shards), "kept, offline");

    let folder = fetcher.obtain(&pinned).await.unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let mut value = [0; 4];
    checkpoint.read("model.small", 8, &mut value).unwrap();
    assert_eq!(value, 3f32.to_le_bytes());
    assert_eq!(checkpoint.tensors()["model.large"].bytes, 4_000_000);
}

#[tokio::test]
async fn a_pickle_that_is_not_trusted_is_refused_before_the_weights_come() {
    let bench = Bench::new().await;
    let weights = Given::f32("w", "0", &[1_000_000], &vec![0.0; 1_000_000]);
    let pickle = PickleWriter::new().global("posix", "system").text("true").op(0x85).op(b'R').op(b'.').0;
    bench.put("hub/org/evil/config.json", CONFIG);
    bench.put("hub/org/evil/pytorch_model.bin", &legacy(&pickle, &[weights]));
    let fetcher = bench.fetcher(false);
    let pinned = fetcher.pin(&source("org/evil")).await.unwrap();
    bench.sent();
    let said = fetcher.describe(&pinned).await.unwrap_err().to_string();
    assert!(said.contains("pytorch_model.bin") && said.contains("posix.system"), "{said}");
    assert!(bench.sent() < 300_000);
}

#[tokio::test]
async fn differences_are_pinned_described_and_laid_out_with_their_base() {
    let bench = Bench::new().await;
    for (part, place) in [("base", "llama"), ("delta", "hub/lmsys/delta")] {
        bench.put(&format!("{place}/config.json"), &[CONFIG, part.as_bytes()].concat()[..CONFIG.len()]);
        let weights = fs::read(golden("vicuna").join(part).join("pytorch_model.bin")).unwrap();
        bench.put(&format!("{place}/pytorch_model.bin"), &weights);
    }
    bench.put("hub/lmsys/delta/README.md", b"---\nlicense: cc-by-nc-4.0\n---\n");
    bench.put("hub/lmsys/delta/tokenizer_config.json", b"{}");
    let delta = |base: &str| SourceRef::Delta {
        base: Box::new(SourceRef::File(base.to_owned())),
        delta: Box::new(source("lmsys/delta")),
    };
    let fetcher = bench.fetcher(false);
    let pinned = fetcher.pin(&delta("llama")).await.unwrap();
    assert!(pinned.uri.starts_with("hf:lmsys/delta@") && pinned.uri.ends_with(" over file:llama"));
    let paths: Vec<&str> = pinned.files.iter().map(|file| file.path.as_str()).collect();
    let wanted = [
        "base/config.json",
        "base/pytorch_model.bin",
        "delta/config.json",
        "delta/pytorch_model.bin",
        "delta/tokenizer_config.json",
    ];
    assert_eq!(paths, wanted);
    let RawHeader::Checkpoint { shards, .. } = fetcher.describe(&pinned).await.unwrap().header else {
        panic!("a checkpoint")
    };
    let told = fs::read(golden("vicuna/sum.json")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(shards.len(), 1);
    assert_eq!(names(&shards[0]).len(), told.as_object().unwrap().len());

    let folder = fetcher.obtain(&pinned).await.unwrap();
    assert_eq!(checkpoint::description(&folder), folder.join("delta"));
    let sum = Checkpoint::open(&folder).unwrap();
    for (name, stored) in sum.tensors() {
        let mut bytes = vec![0; usize::try_from(stored.bytes).unwrap()];
        sum.read(&name, 0, &mut bytes).unwrap();
        assert_eq!(told[&name]["sha256"], Digest::of(&bytes).to_string().as_str(), "{name}");
    }
    // the base of another model is found out before anything large is fetched
    bench.put("other/config.json", CONFIG);
    bench.put("other/pytorch_model.bin", &zip_file(&[Given::f32("model.norm.weight", "0", &[6], &[0.0; 6])]));
    let other = fetcher.pin(&delta("other")).await.unwrap();
    let said = fetcher.describe(&other).await.unwrap_err().to_string();
    assert!(said.contains("cannot be added up"), "{said}");
}
