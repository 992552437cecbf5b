//! Damaged files by the thousand, the same ones on every run: nothing panics, nothing hangs,
//! and nothing is read from outside of a file. `just fuzz` goes on from here by coverage.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail loudly, and starts tar")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bramble_fleet::convert::Conversion;
use bramble_fleet::facts::Receipt;
use bramble_fleet::generation::{Definition, Secrets};
use bramble_fleet::lock::Lock;
use bramble_fleet::openai::{ChatReply, ChatRequest, EmbeddingRequest, ErrorBody, TextRequest};
use bramble_fleet::{facts, gguf, manifest, weights};

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

/// The reader of that name, and what it is tried with: `fuzz/seeds` has sound files, `fuzz/regressions` has what
/// once broke it, and `fuzz/found`, packed, the smallest files that lead everywhere where fuzzing has been.
fn reader(name: &str) -> foreign::Reader {
    foreign::READERS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &str, name: &str) -> Vec<Vec<u8>> {
    files_of(&fuzz().join(folder).join(name))
}

fn files_of(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // in the same order on every run
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What fuzzing has found, where it was kept.
fn found(name: &str) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let packed = fuzz().join("found").join(format!("{name}.tar.gz"));
    if !packed.exists() {
        return Vec::new();
    }
    let status = Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(dir.path()).status();
    assert!(status.unwrap().success(), "{name}");
    files_of(dir.path())
}

fn seed(path: &str) -> Vec<u8> {
    fs::read(fuzz().join("seeds").join(path)).unwrap()
}

fn batter(name: &str, seed: u64) {
    let (read, good) = (reader(name), files("seeds", name));
    assert!(!good.is_empty(), "there is no file to damage");
    good.iter().chain(&files("regressions", name)).chain(&found(name)).for_each(|file| read(file));
    let mut numbers = Numbers(seed);
    for _ in 0..RUNS {
        let file = &good[numbers.below(good.len())];
        read(&damage(file, &mut numbers));
    }
}

/// A test for each reader.
macro_rules! damaged {
    ($($name:ident)*) => {
        mod damaged {
            $(#[test]
            fn $name() {
                super::batter(stringify!($name), stringify!($name).len() as u64);
            })*
        }
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}
damaged!(config frame gguf host imatrix manifest openai pickle probe safetensors sentencepiece sse tokenizer);

#[test]
fn every_reader_is_tested_and_fuzzed() {
    let names: Vec<&str> = foreign::READERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED);
    let cargo = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in names {
        let target = fs::read_to_string(fuzz().join("fuzz_targets").join(name).with_extension("rs")).unwrap();
        assert!(target.contains(&format!("foreign::{name}(bytes)")), "{name}");
        assert!(cargo.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

/// Damage says little where what is damaged was never sound.
#[test]
fn what_is_damaged_is_sound_before() {
    let dir = tempfile::tempdir().unwrap();
    let opens = |file: &str, text: &[u8]| {
        foreign::model(dir.path());
        fs::write(dir.path().join(file), text).unwrap();
        Conversion::open(dir.path(), None).unwrap();
        fs::remove_file(dir.path().join(file)).unwrap();
    };
    opens("tokenizer.json", &seed("tokenizer/bpe.json"));
    opens("tokenizer.json", &seed("tokenizer/sentencepiece.json"));
    opens("tokenizer.model", &seed("sentencepiece/tiny.model"));
    fs::write(dir.path().join("tokenizer.json"), seed("tokenizer/bpe.json")).unwrap();
    opens("config.json", &seed("config/llama.json"));
    gguf::Header::read(seed("gguf/llama.gguf").as_slice()).unwrap();
    let matrix = dir.path().join("imatrix");
    fs::write(&matrix, seed("imatrix/old")).unwrap();
    weights::check_imatrix(&matrix, [("blk.0.attn_q.weight", &[256_u64, 4][..])].into_iter()).unwrap();
    for name in ["full.yaml", "home.yaml", "two-pis.yaml"] {
        manifest::parse_bytes(name, &seed(&format!("manifest/{name}"))).unwrap();
    }
    ChatRequest::parse(&seed("openai/chat.json")).unwrap();
    TextRequest::parse(&seed("openai/text.json")).unwrap();
    EmbeddingRequest::parse(&seed("openai/embedding.json")).unwrap();
    serde_json::from_slice::<ChatReply>(&seed("openai/reply.json")).unwrap();
    serde_json::from_slice::<ErrorBody>(&seed("openai/error.json")).unwrap();
    facts::parse_probe(&seed("probe/pi4")).unwrap();
    assert!(facts::parse_checkup(&seed("probe/checkup")).unwrap().listening.len() > 1);
    serde_json::from_slice::<Definition>(&seed("host/definition.json")).unwrap();
    serde_json::from_slice::<Secrets>(&seed("host/secrets.json")).unwrap();
    serde_json::from_slice::<Receipt>(&seed("host/receipt.json")).unwrap();
    Lock::parse(str::from_utf8(&seed("host/lock.json")).unwrap()).unwrap();
}
