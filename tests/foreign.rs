//! Damaged files by the thousand, the same ones on every run: nothing panics, nothing hangs,
//! and nothing is read from outside of a file. `just fuzz` goes on from here by coverage.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::path::Path;

use bramble_fleet::convert::Conversion;
use bramble_fleet::quant::Quant;
use bramble_fleet::weights::{self, Control, Order};

#[path = "support/foreign.rs"]
mod foreign;

/// How many damaged files each reader gets.
const RUNS: u64 = 3000;

/// A generator of numbers that looks random and is not: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Returns a file with some of what goes wrong: bits, lengths, cuts, pieces that are moved or there twice.
fn damage(good: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=numbers.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = numbers.below(bytes.len());
        match numbers.below(7) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = u8::try_from(numbers.next() % 256).unwrap(),
            2 => bytes.truncate(at),
            3 => {
                // a length, of one of the sizes that are said to be the worst
                let worst = [0, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX >> 1, u64::MAX];
                let width = [2, 4, 8][numbers.below(3)];
                let worst = worst[numbers.below(worst.len())].to_le_bytes();
                for (byte, new) in bytes[at..].iter_mut().zip(&worst[..width]) {
                    *byte = *new;
                }
            }
            4 => {
                let end = at + numbers.below(bytes.len() - at);
                bytes.drain(at..end);
            }
            5 => {
                let end = at + numbers.below((bytes.len() - at).min(200));
                let piece = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                // of texts: another sign where one was
                let signs = b"{}[]\",:0-9e.\\";
                bytes[at] = signs[numbers.below(signs.len())];
            }
        }
    }
    bytes
}

fn batter(good: &[Vec<u8>], seed: u64, read: fn(&[u8])) {
    let mut numbers = Numbers(seed);
    for _ in 0..RUNS {
        let file = &good[numbers.below(good.len())];
        read(&damage(file, &mut numbers));
    }
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/golden/torch").join(name)).unwrap()
}

fn bpe() -> Vec<u8> {
    serde_json::json!({
        "added_tokens": [
            {"id": 0, "content": "<|end|>", "special": true}, {"id": 1, "content": "<|start|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<|start|>"}}, {"Sequence": {"id": "A"}}]},
        "model": {"type": "BPE", "vocab": {"<|end|>": 0, "<|start|>": 1, "a": 2, "b": 3, "ab": 4, "abb": 5},
            "merges": ["a b", ["ab", "b"]]},
    })
    .to_string()
    .into_bytes()
}

fn sentencepiece() -> Vec<u8> {
    serde_json::json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
            {"id": 2, "content": "</s>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "model": {"type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x00>": 3, "▁": 4, "a": 5, "▁a": 6}, "merges": ["▁ a"]},
    })
    .to_string()
    .into_bytes()
}

#[test]
fn damaged_safetensors_are_refused_or_sound() {
    let dir = tempfile::tempdir().unwrap();
    foreign::model(dir.path());
    let good = fs::read(dir.path().join("model.safetensors")).unwrap();
    let index =
        br#"{"metadata":{"total_size":8},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
    batter(&[good, index.to_vec()], 1, foreign::safetensors);
}

#[test]
fn damaged_torch_files_are_refused_or_sound() {
    let good = ["zip.bin", "legacy.bin", "vicuna/delta/pytorch_model.bin"].map(golden);
    for file in &good {
        foreign::pickle(file);
    }
    batter(&good, 2, foreign::pickle);
}

#[test]
fn damaged_gguf_headers_are_refused_or_sound() {
    let dir = tempfile::tempdir().unwrap();
    foreign::model(dir.path());
    fs::write(dir.path().join("tokenizer.json"), bpe()).unwrap();
    let out = dir.path().join("model.gguf");
    weights::run(&Order::single(dir.path(), Quant::F16, &out), &Control::none()).unwrap();
    batter(&[fs::read(out).unwrap()], 3, foreign::gguf);
}

#[test]
fn damaged_tokenizers_are_refused_or_sound() {
    let dir = tempfile::tempdir().unwrap();
    foreign::model(dir.path());
    fs::write(dir.path().join("tokenizer.json"), bpe()).unwrap();
    Conversion::open(dir.path(), None).unwrap();
    batter(&[bpe(), sentencepiece()], 4, foreign::tokenizer);
}
