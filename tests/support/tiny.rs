//! Tiny checkpoints of every family, in the hub's layout, made of a description alone.
//!
//! Descriptions are `tests/reference/families/NAME.json`; `tests/reference/tiny.py` makes
//! the same values, bit for bit, and `tests/reference/families.py` says how to add one.
//! Rows have 256 values or more, so that every type of block can be tried on them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use bramble_fleet::ids::Digest;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A family's description.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Family {
    /// The name of its file.
    #[serde(skip)]
    pub(crate) name: String,
    /// config.json, as the hub has it.
    pub(crate) config: Value,
    /// Which tokenizer.json it gets.
    vocabulary: Vocabulary,
    /// Whether logits agree to 1e-4: no GELU.
    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "only logits are exact or not"))]
    pub(crate) is_exact: bool,
    /// Keys and tensors that llama.cpp's own converter makes otherwise, and why that is not followed.
    #[serde(default)]
    pub(crate) differs: BTreeMap<String, String>,
    /// Name, shape (the hub's order), mean, standard deviation.
    tensors: Vec<(String, Vec<usize>, f64, f64)>,
    /// Of all values, one after the other, as tiny.py makes them.
    sha256: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Vocabulary {
    /// Byte pairs over bytes.
    Bytes,
    /// SentencePiece's byte pairs over characters.
    Pieces,
    /// SentencePiece's unigrams.
    Unigram,
}

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F16,
    Bf16,
}

impl Family {
    /// Returns every family, by name.
    pub(crate) fn all() -> Vec<Self> {
        let dir = reference().join("families");
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let read: Self = serde_json::from_slice(&fs::read(path).unwrap())
            .unwrap_or_else(|error| panic!("{name}.json: {error}; has families.py been run?"));
        Self { name, ..read }
    }

    /// Writes the checkpoint into `dir`: config.json, model.safetensors and tokenizer.json.
    pub(crate) fn write(&self, dir: &Path, stored: Stored) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        fs::write(dir.join("tokenizer.json"), self.tokenizer().to_string()).unwrap();
        let (dtype, width) = match stored {
            Stored::F32 => ("F32", 4),
            Stored::F16 => ("F16", 2),
            Stored::Bf16 => ("BF16", 2),
        };
        let mut header = Map::new();
        let mut end = 0;
        for (name, shape, ..) in &self.tensors {
            let start = end;
            end += shape.iter().product::<usize>() * width;
            header
                .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        }
        let header = Value::Object(header).to_string();
        let mut file = fs::File::create(dir.join("model.safetensors")).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        for (name, shape, mean, std) in &self.tensors {
            bytes.clear();
            for value in values(name, shape.iter().product(), *mean, *std) {
                match stored {
                    Stored::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                    Stored::F16 => bytes.extend_from_slice(&f16(value).to_le_bytes()),
                    Stored::Bf16 => bytes.extend_from_slice(&bf16(value).to_le_bytes()),
                }
            }
            file.write_all(&bytes).unwrap();
        }
    }

    /// Asserts that the values are those that the reference was made with.
    pub(crate) fn assert_values_are_as_referenced(&self) {
        let mut all = Vec::new();
        for (name, shape, mean, std) in &self.tensors {
            all.extend(
                values(name, shape.iter().product(), *mean, *std).flat_map(|value: f32| value.to_le_bytes()),
            );
        }
        assert_eq!(Digest::of(&all).to_string(), self.sha256, "{}: run families.py", self.name);
    }

    fn tokenizer(&self) -> Value {
        let special = |id: usize, text: &str| json!({"id": id, "content": text, "special": true});
        match self.vocabulary {
            Vocabulary::Bytes => {
                let mut vocab: Map<String, Value> = Map::new();
                for text in ["<unk>", "<s>", "</s>"] {
                    vocab.insert(text.to_owned(), vocab.len().into());
                }
                for byte in 0..=255 {
                    vocab.insert(byte_character(byte).to_string(), vocab.len().into());
                }
                for text in ["he", "ll", "hell"] {
                    vocab.insert(text.to_owned(), vocab.len().into());
                }
                json!({
                    "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
                    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
                    "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", "l l", "he ll"]},
                })
            }
            Vocabulary::Pieces => {
                let mut vocab: Map<String, Value> = Map::new();
                for text in ["<unk>", "<s>", "</s>"] {
                    vocab.insert(text.to_owned(), vocab.len().into());
                }
                for byte in 0..=255_u8 {
                    vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
                }
                for text in ["\u{2581}", "h", "e", "l", "he", "ll", "hell"] {
                    vocab.insert(text.to_owned(), vocab.len().into());
                }
                json!({
                    "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
                    "normalizer": {"type": "Sequence", "normalizers": [
                        {"type": "Prepend", "prepend": "\u{2581}"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
                    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                        "vocab": vocab, "merges": ["h e", "l l", "he ll"]},
                })
            }
            // as `transformers` writes T5's
            Vocabulary::Unigram => {
                let marks = ["<pad>", "</s>", "<unk>"];
                let gaps: Vec<String> = (0..100).rev().map(|number| format!("<extra_id_{number}>")).collect();
                let pieces = ["\u{2581}", "h", "e", "l", "he", "ll", "hell"];
                let mut vocab: Vec<Value> = marks.iter().map(|text| json!([text, 0.0])).collect();
                vocab.extend((1_u8..).zip(pieces).map(|(rank, text)| json!([text, -f32::from(rank)])));
                let first_gap = vocab.len();
                vocab.extend(gaps.iter().map(|text| json!([text, 0.0])));
                let marks = (0..).zip(marks).map(|(id, text)| special(id, text));
                let gaps = (first_gap..).zip(&gaps).map(|(id, text)| special(id, text));
                // rules that change no text: the length of a tree, its nodes, no replacements
                let mut rules = 1024_u32.to_le_bytes().to_vec();
                rules.resize(4 + 1024 + 1, 0);
                let rules = base64::engine::general_purpose::STANDARD.encode(rules);
                let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
                let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
                json!({
                    "added_tokens": marks.chain(gaps).collect::<Vec<Value>>(),
                    "normalizer": {"type": "Precompiled", "precompiled_charsmap": rules},
                    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                        {"type": "WhitespaceSplit"},
                        {"type": "Metaspace", "replacement": "\u{2581}",
                            "prepend_scheme": "always", "split": true}]},
                    "post_processor": {"type": "TemplateProcessing",
                        "single": [text("A"), end], "pair": [text("A"), end, text("B"), end],
                        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
                    "decoder": {"type": "Metaspace", "replacement": "\u{2581}",
                        "prepend_scheme": "always", "split": true},
                    "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
                })
            }
        }
    }
}

/// Returns `tests/reference`.
pub(crate) fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

/// Returns a tensor's values: `values` of tiny.py, which explains them.
fn values(name: &str, count: usize, mean: f64, std: f64) -> impl Iterator<Item = f32> {
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (0..count as u64).map(move |index| {
        let mut hash = start.wrapping_add(index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        hash ^= hash >> 31;
        let total: u64 = [0, 16, 32, 48].iter().map(|shift| (hash >> shift) & 0xFFFF).sum();
        let z = (total as f64 - 131_070.0) / 37_837.0;
        #[expect(clippy::cast_possible_truncation, reason = "rounded once, as in tiny.py")]
        let value = (mean + std * z) as f32;
        value
    })
}

/// Rounds to the bits of a bf16, to nearest, ties to even; values are finite.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    u16::try_from((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).unwrap()
}

/// Rounds to the bits of an f16, to nearest, ties to even; values are within its range.
fn f16(value: f32) -> u16 {
    let magnitude = f64::from(value.abs());
    assert!(magnitude < 65_504.0, "{value} is beyond f16");
    // the distance of neighbours: 2^-24 for the smallest, else a 1024th of the power of two below
    let exponent = ((value.to_bits() >> 23) & 0xFF).saturating_sub(112).max(1);
    let step = 2_f64.powi(i32::try_from(exponent).unwrap() - 25);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2048")]
    let steps = (magnitude / step).round_ties_even() as u32;
    let bits = u16::try_from(((exponent - 1) << 10) + steps).unwrap();
    if value.is_sign_negative() { bits | 0x8000 } else { bits }
}

/// Returns the character that stands for a byte (`bytes_to_unicode` of GPT-2).
fn byte_character(byte: u8) -> char {
    let is_shown = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_shown(&byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|byte| !is_shown(byte)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
}
