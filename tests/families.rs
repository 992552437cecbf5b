//! Every family that is converted, on a tiny checkpoint made here from its description.
//!
//! - `NAME::gguf`: every key, name, shape and digest of a tensor, as committed.
//! - `NAME::stock`: keys, names, shapes and bytes as llama.cpp's own converter makes them,
//!   where it knows the family (`tests/reference/stock.py`).
//! - `NAME::halves`: the checkpoint stored as F16 and as BF16.
//! - `NAME::logits` (with llama.cpp; run with `--release`): as transformers', token by token
//!   and at once.
//!
//! `tests/reference/families.py` says how to add a family.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
#![cfg_attr(feature = "llama", expect(clippy::print_stdout, reason = "differences are shown"))]
#![expect(
    clippy::disallowed_methods,
    reason = "a test is told by the environment to renew what it compares with"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bramble_fleet::convert::Conversion;
use bramble_fleet::gguf::{Array, Header, Value};
use bramble_fleet::ids::Digest;
use bramble_fleet::quant::Quant;
use bramble_fleet::weights::{self, Control, Order};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Map, Value as Json, json};
use tiny::{Family, Stored};

#[cfg(feature = "llama")]
#[path = "support/logits.rs"]
mod logits;
#[path = "support/tiny.rs"]
mod tiny;

fn main() {
    let mut trials = Vec::new();
    for family in Family::all() {
        let mut add = |what: &str, test: fn(&Family)| {
            let (name, family) = (format!("{}::{what}", family.name), family.clone());
            trials.push(Trial::test(name, move || {
                test(&family);
                Ok(())
            }));
        };
        add("gguf", keys_and_tensors_are_as_committed);
        add("halves", checkpoints_of_half_floats_are_read_as_such);
        if stock_path(&family).exists() {
            add("stock", keys_and_tensors_are_as_llama_cpp_converts_them);
        }
        #[cfg(feature = "llama")]
        add("logits", logits_are_as_transformers_gives_them);
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Converts a family's checkpoint; returns what was made.
fn convert(family: &Family, dir: &Path, float: Quant) -> PathBuf {
    family.write(dir, Stored::F32);
    let out = dir.join(format!("{float}.gguf"));
    weights::run(&Order::single(dir, float, &out), &Control::none()).unwrap();
    out
}

fn golden_path(family: &Family, extension: &str) -> PathBuf {
    tiny::reference().join("golden/families").join(format!("{}.{extension}", family.name))
}

fn stock_path(family: &Family) -> PathBuf {
    golden_path(family, "stock.json")
}

fn header(path: &Path) -> Header {
    Header::read(BufReader::new(fs::File::open(path).unwrap())).unwrap()
}

/// What is compared of a GGUF: keys as text, and tensors' shape, type and digest.
struct Seen {
    keys: Map<String, Json>,
    /// By name: shape, then type and digest.
    tensors: Vec<(String, Vec<u64>, String)>,
}

impl Seen {
    fn of(path: &Path) -> Self {
        let header = header(path);
        let bytes = fs::read(path).unwrap();
        let text = |value: &Value| {
            let whole = format!("{value:?}");
            if whole.len() <= 200 { whole } else { format!("sha256 {}", Digest::of(whole.as_bytes())) }
        };
        Self {
            keys: header.metadata.iter().map(|(key, value)| (key.clone(), text(value).into())).collect(),
            tensors: header
                .tensors
                .iter()
                .map(|tensor| {
                    let start = usize::try_from(header.data_offset + tensor.offset).unwrap();
                    let data = &bytes[start..][..usize::try_from(tensor.bytes).unwrap()];
                    let seen = format!("{} {}", tensor.tensor_type, Digest::of(data));
                    (tensor.name.clone(), tensor.shape.clone(), seen)
                })
                .collect(),
        }
    }
}

/// Converts to F32 and F16; returns keys (of F32) and each tensor's shape and digests.
fn seen(family: &Family) -> Json {
    let dir = tempfile::tempdir().unwrap();
    let [single, half] = [Quant::F32, Quant::F16].map(|float| Seen::of(&convert(family, dir.path(), float)));
    let differing = differing(&single.keys.clone().into(), &half.keys.into());
    assert_eq!(differing.into_keys().collect::<Vec<_>>(), ["general.file_type"]);
    let tensors: Map<String, Json> = single
        .tensors
        .into_iter()
        .zip(half.tensors)
        .map(|((name, shape, single), (_, _, half))| {
            (name, json!({"shape": shape, "F32": single, "F16": half}))
        })
        .collect();
    json!({"keys": single.keys, "tensors": tensors})
}

fn keys_and_tensors_are_as_committed(family: &Family) {
    family.assert_values_are_as_referenced();
    let seen = seen(family);
    let path = golden_path(family, "json");
    if std::env::var_os("BRAMBLE_UPDATE_GOLDEN").is_some() {
        fs::write(&path, lines(&seen)).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let golden: Json =
        serde_json::from_str(&golden).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for part in ["keys", "tensors"] {
        let differing = differing(&seen[part], &golden[part]);
        assert!(differing.is_empty(), "{differing:#?}");
        let order = |object: &Json| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(order(&seen[part]), order(&golden[part]));
    }
}

/// Holds tensors and keys to those of llama.cpp's converter, but for what the description says
/// `differs`, which really must.
fn keys_and_tensors_are_as_llama_cpp_converts_them(family: &Family) {
    let golden: Json = serde_json::from_slice(&fs::read(stock_path(family)).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let header = header(&convert(family, dir.path(), Quant::F32));
    let architecture = header.get("general.architecture").and_then(Value::as_str).unwrap();
    let is_own = |key: &str| key == "general.architecture" || key.starts_with(&format!("{architecture}."));
    let keys: Map<String, Json> = header
        .metadata
        .iter()
        .filter(|(key, _)| is_own(key))
        .map(|(key, value)| (key.clone(), plain(value)))
        .collect();
    let mut differing = differing(&keys.into(), &golden["keys"]);
    differing.append(&mut self::differing(&seen(family)["tensors"], &golden["tensors"]));
    let expected: Vec<&String> = family.differs.keys().collect();
    assert!(
        differing.keys().collect::<Vec<_>>() == expected,
        "expected to differ from llama.cpp's converter: {expected:?}, found {differing:#?}"
    );
}

fn checkpoints_of_half_floats_are_read_as_such(family: &Family) {
    let read = |stored: Stored| {
        let dir = tempfile::tempdir().unwrap();
        family.write(dir.path(), stored);
        let conversion = Conversion::open(dir.path(), None).unwrap();
        let mut values = Vec::new();
        for (number, tensor) in conversion.tensors().iter().enumerate() {
            let rows = tensor.shape.iter().skip(usize::from(tensor.shape.len() > 1)).product();
            conversion.read(number, 0..rows, &mut values).unwrap();
        }
        (conversion.own_float(), values)
    };
    let (float, exact) = read(Stored::F32);
    assert_eq!(float, Quant::F32);
    for (stored, float, bits) in [(Stored::F16, Quant::F16, 11), (Stored::Bf16, Quant::Bf16, 8)] {
        let (found, values) = read(stored);
        assert_eq!((found, values.len()), (float, exact.len()));
        // rounding moves a value by half a step; an offset added afterwards may have cancelled most of it
        let limit = 2_f32.powi(-bits);
        let wrong = values
            .iter()
            .zip(&exact)
            .find(|(found, exact)| (*found - *exact).abs() > limit * exact.abs().max(1.0));
        assert_eq!(wrong, None, "{float}");
        assert!(values != exact, "{float}: nothing was rounded");
    }
}

/// Returns a key's value as JSON has it, whatever its width.
fn plain(value: &Value) -> Json {
    match value {
        Value::U32(number) => f64::from(*number).into(),
        Value::I32(number) => f64::from(*number).into(),
        Value::F32(number) => f64::from(*number).into(),
        Value::Bool(is) => (*is).into(),
        Value::Text(text) => text.clone().into(),
        Value::Array(Array::U32(list)) => list.iter().map(|number| f64::from(*number)).collect(),
        Value::Array(Array::I32(list)) => list.iter().map(|number| f64::from(*number)).collect(),
        Value::Array(Array::F32(list)) => list.iter().map(|number| f64::from(*number)).collect(),
        Value::Array(Array::Bool(list)) => list.iter().copied().collect(),
        other => panic!("no architecture has had {other:?}"),
    }
}

/// Tells whether two values are the same; 4 and 4.0 are.
fn is_same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        _ => a == b,
    }
}

/// Returns the entries in which two objects differ, as both have them.
fn differing(ours: &Json, theirs: &Json) -> BTreeMap<String, String> {
    let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
    let shown = |entry: Option<&Json>| entry.map_or("nothing".to_owned(), Json::to_string);
    ours.keys()
        .chain(theirs.keys())
        .filter(|name| match (ours.get(*name), theirs.get(*name)) {
            (Some(ours), Some(theirs)) => !is_same(ours, theirs),
            _ => true,
        })
        .map(|name| {
            (name.clone(), format!("here {}, there {}", shown(ours.get(name)), shown(theirs.get(name))))
        })
        .collect()
}

/// Writes JSON with an entry a line.
fn lines(seen: &Json) -> String {
    let part = |name: &str| {
        let entries: Vec<String> = seen[name]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| format!("    {}: {value}", json!(key)))
            .collect();
        format!("  \"{name}\": {{\n{}\n  }}", entries.join(",\n"))
    };
    format!("{{\n{},\n{}\n}}\n", part("keys"), part("tensors"))
}

#[cfg(feature = "llama")]
fn logits_are_as_transformers_gives_them(family: &Family) {
    use llama_cpp_2::context::params::KvCacheType;

    let cases = logits::Case::read(&fs::read(golden_path(family, "safetensors")).unwrap());
    // of a long case, where a window ends: before it, at it, and beyond
    let cut = |case: &logits::Case| {
        let lengths = [200, 256, 257, 300, 1000].into_iter().filter(|_| case.len() > 1000);
        lengths.map(|tokens| case.cut(tokens)).collect::<Vec<_>>()
    };
    let cuts: Vec<logits::Case> = cases.iter().flat_map(cut).collect();
    let dir = tempfile::tempdir().unwrap();
    // llama.cpp reads GELU off a table of f16: a mean of 1e-3 is its due
    let of_f32 = if family.is_exact { (1e-4, 0.999) } else { (2e-3, 0.98) };
    for (float, kv, (mean, agreement)) in
        [(Quant::F32, KvCacheType::F32, of_f32), (Quant::F16, KvCacheType::F16, (1.5e-2, 0.95))]
    {
        let model = logits::load(&convert(family, dir.path(), float));
        for case in cases.iter().chain(&cuts) {
            let mut ways = vec![("at once", false, case.len()), ("one by one", false, 1)];
            // as the engine runs it, in steps that are no part of anything
            ways.extend((float == Quant::F16).then_some(("in steps, as the engine", true, 60)));
            for (way, is_flash, step) in ways {
                let found = case.measure(&model, logits::Way { kv, is_flash, step });
                println!(
                    "{} {float}, {} tokens {way}: mean difference {:.2e}, largest {:.2e}, greedy agreement {:.2} %",
                    family.name,
                    case.name,
                    found.mean,
                    found.largest,
                    found.agreement * 100.0
                );
                // what is no number fails, too
                assert!(
                    found.mean < mean && found.agreement >= agreement,
                    "{float} {} {way}: {found:?}",
                    case.name
                );
            }
        }
    }
}
