//! What one pass makes, against what llama.cpp's quantizer makes of the same weights: the same
//! bytes, for every quant, family, float and shape. Run with `--release`.
#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "support/stock.rs"]
mod stock;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bramble_fleet::gguf::{Header, NewTensor, Value, Writer};
use bramble_fleet::quant::{Quant, TensorType, kernel};
use bramble_fleet::weights::{Control, Error, Order, Output, run};

/// A model of one family: its keys, and its tensors by name and shape, the row's length first.
struct Family {
    architecture: &'static str,
    keys: Vec<(&'static str, Value)>,
    tensors: Vec<(String, Vec<u64>)>,
}

/// What the matrices of a block are called, with their rows and whether they read the wide layer.
type Matrices<'a> = &'a [(&'a str, u64, bool)];

impl Family {
    fn new(architecture: &'static str, layers: u32, heads: (u32, u32), row: u64) -> Self {
        let keys = vec![
            ("context_length", 64u32.into()),
            ("embedding_length", u32::try_from(row).unwrap().into()),
            ("block_count", layers.into()),
            ("feed_forward_length", u32::try_from(row * 2).unwrap().into()),
            ("attention.head_count", heads.0.into()),
            ("attention.head_count_kv", heads.1.into()),
            ("attention.layer_norm_rms_epsilon", 1e-5f32.into()),
            ("attention.layer_norm_epsilon", 1e-5f32.into()),
            ("attention.relative_buckets_count", 32u32.into()),
            ("use_parallel_residual", Value::Bool(true)),
        ];
        Self { architecture, keys, tensors: Vec::new() }
    }

    fn with(mut self, name: &str, shape: &[u64]) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec()));
        self
    }

    /// Adds blocks under `prefix`, each with a norm, a bias and `matrices`.
    fn blocks(mut self, prefix: &str, layers: u32, row: u64, matrices: Matrices<'_>) -> Self {
        for layer in 0..layers {
            self = self.with(&format!("{prefix}blk.{layer}.attn_norm.weight"), &[row]);
            self = self.with(&format!("{prefix}blk.{layer}.attn_output.bias"), &[row]);
            for (name, rows, is_wide) in matrices {
                let columns = if *is_wide { row * 2 } else { row };
                self = self.with(&format!("{prefix}blk.{layer}.{name}.weight"), &[columns, *rows]);
            }
        }
        self
    }

    /// Writes the model as a GGUF whose matrices are of `float`.
    fn write(&self, path: &Path, float: TensorType) {
        let mut keys = vec![("general.architecture".to_owned(), Value::from(self.architecture))];
        let own = |(key, value): &(&str, Value)| (format!("{}.{key}", self.architecture), value.clone());
        keys.extend(self.keys.iter().map(own));
        let is_matrix = |name: &str, shape: &[u64]| {
            shape.len() > 1 && !name.contains("position_embd") && !name.contains("attn_rel_b")
        };
        let tensors: Vec<NewTensor> = self
            .tensors
            .iter()
            .map(|(name, shape)| NewTensor {
                name: name.clone(),
                shape: shape.clone(),
                tensor_type: if is_matrix(name, shape) { float } else { TensorType::F32 },
            })
            .collect();
        let mut writer = Writer::start(Vec::new(), &keys, &tensors).unwrap();
        for (number, tensor) in tensors.iter().enumerate() {
            let count = tensor.shape.iter().product::<u64>();
            let values: Vec<f32> = (0..count).map(|at| scattered(number as u64, at)).collect();
            let mut bytes = Vec::new();
            kernel::encode(tensor.tensor_type, values.len(), &values, None, &mut bytes).unwrap();
            writer.data(&bytes).unwrap();
        }
        fs::write(path, writer.finish().unwrap()).unwrap();
    }
}

fn mixed(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Values as weights have them, near a bell around zero, with what is hard for searches between:
/// blocks of zeros, of one value, of one outlier, all positive, and almost nothing.
fn scattered(tensor: u64, at: u64) -> f32 {
    let uniform = |n: u64| (mixed((tensor << 40) | (at << 3) | n) >> 40) as f32 / (1u32 << 24) as f32;
    let bell = (uniform(0) + uniform(1) + uniform(2) + uniform(3) - 2.0) * 0.05;
    match mixed((tensor << 40) | (at / 32)) % 24 {
        0 => 0.0,
        1 => 0.03,
        2 if at % 32 == 5 => 3.0,
        3 => bell.abs(),
        4 => bell * 1e-6,
        5 => -bell.abs() - 0.01,
        _ => bell,
    }
}

fn llama_like(architecture: &'static str, layers: u32, heads: (u32, u32), row: u64) -> Family {
    let shared = row * u64::from(heads.1) / u64::from(heads.0);
    Family::new(architecture, layers, heads, row)
        .with("token_embd.weight", &[row, 67])
        .with("output_norm.weight", &[row])
        .blocks(
            "",
            layers,
            row,
            &[
                ("attn_q", row / 4, false),
                ("attn_k", shared, false),
                ("attn_v", shared, false),
                ("attn_output", 33, false),
                ("ffn_gate", 40, false),
                ("ffn_up", 40, false),
                ("ffn_down", 35, true),
            ],
        )
}

fn fused(architecture: &'static str, layers: u32, row: u64) -> Family {
    let matrices: Matrices<'_> =
        &[("attn_qkv", 96, false), ("attn_output", 33, false), ("ffn_up", 64, false), ("ffn_down", 35, true)];
    Family::new(architecture, layers, (4, 4), row)
        .with("token_embd.weight", &[row, 67])
        .with("output_norm.weight", &[row])
        .blocks("", layers, row, matrices)
}

/// A model of 80 layers, which llama.cpp takes for one of 70B in some families.
fn deep(architecture: &'static str, heads: (u32, u32)) -> Family {
    Family::new(architecture, 80, heads, 256).with("token_embd.weight", &[256, 9]).blocks(
        "",
        80,
        256,
        &[("attn_v", 5, false), ("ffn_down", 3, true)],
    )
}

fn families() -> Vec<(&'static str, Family)> {
    let side = [("attn_q", 32, false), ("attn_k", 32, false), ("attn_v", 32, false), ("attn_o", 32, false)];
    let side: Vec<_> = side.into_iter().chain([("ffn_up", 40, false), ("ffn_down", 33, true)]).collect();
    let cross = [("cross_attn_q", 32, false), ("cross_attn_k", 32, false), ("cross_attn_v", 32, false)];
    let decoder: Vec<_> = side.iter().copied().chain(cross).collect();
    vec![
        (
            "llama, eight heads to one, untied",
            llama_like("llama", 16, (8, 1), 256).with("output.weight", &[256, 67]),
        ),
        ("llama, no head shared, tied", llama_like("llama", 9, (4, 4), 512)),
        ("llama, rows that 256 does not divide", llama_like("llama", 8, (9, 3), 288)),
        ("llama, rows that 32 does not divide", llama_like("llama", 2, (2, 2), 80)),
        ("llama, 80 layers", deep("llama", (8, 1))),
        ("llama, 80 layers, no head shared", deep("llama", (4, 4))),
        ("qwen2, 80 layers", deep("qwen2", (4, 4))),
        ("qwen3, 80 layers", deep("qwen3", (8, 1))),
        ("gemma3, tied", llama_like("gemma3", 18, (4, 1), 256)),
        ("phi3, fused", fused("phi3", 32, 256).with("output.weight", &[256, 67])),
        (
            "gpt2, fused and tied, with positions",
            fused("gpt2", 12, 256).with("position_embd.weight", &[256, 64]),
        ),
        ("bloom", fused("bloom", 24, 256).with("token_embd_norm.weight", &[256])),
        ("gptneox", fused("gptneox", 16, 256).with("output.weight", &[256, 67])),
        ("phi2", llama_like("phi2", 28, (4, 4), 256).with("output.weight", &[256, 67])),
        (
            "t5",
            Family::new("t5", 8, (4, 4), 256)
                .with("token_embd.weight", &[256, 67])
                .with("output.weight", &[256, 67])
                .with("enc.blk.0.attn_rel_b.weight", &[4, 32])
                .with("dec.blk.0.attn_rel_b.weight", &[4, 32])
                .blocks("enc.", 8, 256, &side)
                .blocks("dec.", 8, 256, &decoder),
        ),
    ]
}

fn order(source: &Path, dir: &Path, quants: &[Quant], imatrix: Option<PathBuf>) -> Order {
    let path = |quant: Quant| dir.join(format!("ours-{quant}.gguf"));
    let outputs = quants.iter().map(|quant| Output { quant: *quant, path: path(*quant) }).collect();
    Order {
        source: source.to_owned(),
        outputs,
        imatrix,
        may_requantize: true,
        prompt_style: None,
        threads: 2,
    }
}

fn go(order: &Order) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    run(order, &Control { stop: &stop, begun: &|_| {}, progress: &|_| {} }).map(|_| ())
}

/// Compares the types and the data of all tensors.
fn assert_same(ours: &Path, stock: &Path, what: &str) {
    let (ours, stock) = (fs::read(ours).unwrap(), fs::read(stock).unwrap());
    let (own, other) = (Header::read(ours.as_slice()).unwrap(), Header::read(stock.as_slice()).unwrap());
    let kinds = |header: &Header| -> Vec<_> {
        header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.tensor_type)).collect()
    };
    assert_eq!(kinds(&own), kinds(&other), "{what}");
    for (mine, theirs) in own.tensors.iter().zip(&other.tensors) {
        let data = |file: &[u8], header: &Header, offset: u64| {
            let start = usize::try_from(header.data_offset + offset).unwrap();
            file[start..start + usize::try_from(mine.bytes).unwrap()].to_vec()
        };
        let is_same = data(&ours, &own, mine.offset) == data(&stock, &other, theirs.offset);
        assert!(is_same, "{what}: {} as {}", mine.name, mine.tensor_type);
    }
    let file_type = |header: &Header| header.get("general.file_type").and_then(Value::as_u64);
    assert_eq!(file_type(&own), file_type(&other));
}

/// Weights of the columns of tensors, by the tensors' names.
type Importance = [(String, Vec<f32>)];

fn check(family: &Family, what: &str, float: TensorType, imatrix: Option<(PathBuf, &Importance)>) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.gguf");
    family.write(&source, float);
    let (path, entries) = imatrix.unzip();
    go(&order(&source, dir.path(), Quant::ALL, path)).unwrap();
    for quant in Quant::ALL {
        let stock = dir.path().join("stock.gguf");
        stock::quantize(&source, &stock, *quant, entries.unwrap_or_default());
        let ours = dir.path().join(format!("ours-{quant}.gguf"));
        assert_same(&ours, &stock, &format!("{what}, {float} to {quant}"));
    }
}

#[test]
fn every_quant_of_every_family_is_what_llama_cpp_makes() {
    for (number, (what, family)) in families().into_iter().enumerate() {
        // the float that a checkpoint is stored as
        let float = [TensorType::Bf16, TensorType::F16, TensorType::F32][number % 3];
        check(&family, what, float, None);
    }
}

#[test]
fn an_importance_matrix_guides_as_it_guides_llama_cpp() {
    for (number, (what, family)) in families().into_iter().enumerate().filter(|(number, _)| number % 3 != 1) {
        let dir = tempfile::tempdir().unwrap();
        let entries: Vec<(String, Vec<f32>)> = family
            .tensors
            .iter()
            // one matrix was never measured
            .filter(|(name, shape)| shape.len() > 1 && !name.contains("blk.1.ffn_up"))
            .map(|(name, shape)| {
                let weight = |at: u64| (mixed(at ^ shape[1]) >> 50) as f32 / 64.0 + 0.01;
                (name.clone(), (0..shape[0]).map(weight).collect())
            })
            .collect();
        let path = dir.path().join("imatrix");
        if number % 2 == 0 {
            write_old(&path, &entries);
        } else {
            write_new(&path, &entries);
        }
        check(&family, what, TensorType::Bf16, Some((path, &entries)));
    }
}

/// Writes sums over four calls, which divide exactly.
fn write_old(path: &Path, entries: &Importance) {
    let len = |n: usize| i32::try_from(n).unwrap().to_le_bytes();
    let mut bytes = len(entries.len()).to_vec();
    for (name, values) in entries {
        bytes.extend(len(name.len()));
        bytes.extend(name.as_bytes());
        bytes.extend(len(4));
        bytes.extend(len(values.len()));
        bytes.extend(values.iter().flat_map(|value| (value * 4.0).to_le_bytes()));
    }
    // what newer programs wrote behind: the last call, and the name of the text
    bytes.extend(len(4));
    bytes.extend(len(4));
    bytes.extend(b"text");
    fs::write(path, bytes).unwrap();
}

fn write_new(path: &Path, entries: &Importance) {
    let tensor = |name: String, shape: Vec<u64>| NewTensor { name, shape, tensor_type: TensorType::F32 };
    let tensors: Vec<NewTensor> = entries
        .iter()
        .flat_map(|(name, values)| {
            let row = values.len() as u64;
            [tensor(format!("{name}.in_sum2"), vec![row, 1]), tensor(format!("{name}.counts"), vec![1, 1])]
        })
        .collect();
    let keys = [("general.type".to_owned(), Value::from("imatrix"))];
    let mut writer = Writer::start(Vec::new(), &keys, &tensors).unwrap();
    for (_, values) in entries {
        writer
            .data(&values.iter().flat_map(|value| (value * 8.0).to_le_bytes()).collect::<Vec<u8>>())
            .unwrap();
        writer.data(&8.0f32.to_le_bytes()).unwrap();
    }
    fs::write(path, writer.finish().unwrap()).unwrap();
}

#[test]
fn quantizing_again_is_what_llama_cpp_does_again() {
    let (_, family) = families().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.gguf");
    family.write(&source, TensorType::F16);
    for first in [Quant::Q8_0, Quant::Q6K, Quant::Q5_1, Quant::Iq4Xs] {
        let middle = dir.path().join("middle.gguf");
        stock::quantize(&source, &middle, first, &[]);
        let again = [Quant::Q4KM, Quant::Q8_0, Quant::F16, Quant::Q2K];
        let mut order = order(&middle, dir.path(), &again, None);
        go(&order).unwrap();
        for quant in again {
            let stock = dir.path().join("stock.gguf");
            stock::quantize(&middle, &stock, quant, &[]);
            let ours = dir.path().join(format!("ours-{quant}.gguf"));
            assert_same(&ours, &stock, &format!("{first} to {quant}"));
        }
        order.may_requantize = false;
        assert!(matches!(go(&order), Err(Error::Requantize { .. })), "{first}");
    }
}
