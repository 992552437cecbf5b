//! A real checkpoint, converted and quantized, against what others make of it.
//!
//! Needs the checkpoint that `tests/reference/make_checkpoint.py` makes, named by
//! `BRAMBLE_TEST_CHECKPOINT`; without it, tests say that they were skipped, and fail if
//! `BRAMBLE_REQUIRE_CHECKPOINT` is 1. Run with `--release`: half an hour's work otherwise.
#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "tests are told by the environment where the checkpoint is")]

#[path = "support/stock.rs"]
mod stock;

use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bramble_fleet::convert;
use bramble_fleet::gguf::Header;
use bramble_fleet::ids::Digest;
use bramble_fleet::quant::{Quant, mix};
use bramble_fleet::units::Bytes;
use bramble_fleet::weights::{Control, Made, Order, Output, child, run};
use llama_cpp_2::context::params::KvCacheType;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

#[path = "support/logits.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod logits;

/// Returns the checkpoint, or says that it is not there.
fn checkpoint() -> Option<PathBuf> {
    let found = std::env::var_os("BRAMBLE_TEST_CHECKPOINT").map(PathBuf::from);
    if found.is_none() {
        let is_required = std::env::var("BRAMBLE_REQUIRE_CHECKPOINT").is_ok_and(|value| value == "1");
        assert!(!is_required, "BRAMBLE_TEST_CHECKPOINT names no checkpoint, and one is required");
        println!("skipped: BRAMBLE_TEST_CHECKPOINT names no checkpoint");
    }
    found
}

fn convert_to(dir: &Path, checkpoint: &Path, float: Quant) -> PathBuf {
    let out = dir.join(format!("{float}.gguf"));
    run(&Order::single(checkpoint, float, &out), &Control::none()).unwrap();
    out
}

fn header(path: &Path) -> Header {
    Header::read(BufReader::new(File::open(path).unwrap())).unwrap()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/golden").join(name)).unwrap()
}

#[test]
fn converted_weights_give_the_logits_of_transformers() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cases = logits::Case::read(&golden("smollm2-logits.safetensors"));
    let case = cases.iter().find(|case| case.name.is_empty()).unwrap();
    for (float, mean_limit, agreement_limit) in [(Quant::F32, 1e-4, 0.999), (Quant::F16, 1.5e-2, 0.95)] {
        let model = logits::load(&convert_to(dir.path(), &checkpoint, float));
        let found =
            case.measure(&model, logits::Way { kv: KvCacheType::F32, is_flash: false, step: case.len() });
        let logits::Difference { mean, largest, agreement } = found;
        println!(
            "{float}: mean difference {mean:.2e}, largest {largest:.2e}, greedy agreement {:.2} %",
            agreement * 100.0
        );
        assert!(mean < mean_limit, "{float}: mean difference {mean}");
        assert!(agreement >= agreement_limit, "{float}: greedy agreement {agreement}");
    }
}

#[test]
fn a_conversion_gives_the_same_bytes_and_the_tensors_foretold() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let first = convert_to(dir.path(), &checkpoint, Quant::F16);
    let bytes = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    let second = convert_to(dir.path(), &checkpoint, Quant::F16);
    assert_eq!(Digest::of(&bytes), Digest::of(&fs::read(&second).unwrap()));

    let config = serde_json::from_slice(&fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
    let stored = bramble_fleet::checkpoint::Checkpoint::open(&checkpoint).unwrap().tensors();
    let foretold = convert::gguf_tensors(&config, &stored).unwrap();
    let found = header(&second);
    assert_eq!(found.file_bytes(), bytes.len() as u64);
    let names = |name: &str, shape: &[u64]| format!("{name} {shape:?}");
    let found: Vec<String> = found.tensors.iter().map(|t| names(&t.name, &t.shape)).collect();
    let foretold: Vec<String> = foretold.iter().map(|t| names(&t.name, &t.shape)).collect();
    assert_eq!(found, foretold);
}

#[test]
fn types_and_bytes_of_every_quant_are_foretold() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = convert_to(dir.path(), &checkpoint, Quant::F16);
    let before = header(&source);
    let tensors: Vec<(&str, &[u64])> =
        before.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let number = |key: &str| u32::try_from(before.get(key).unwrap().as_u64().unwrap()).unwrap();
    let facts = mix::MixFacts {
        architecture: "llama",
        has_imatrix: false,
        layers: number("llama.block_count"),
        heads: number("llama.attention.head_count"),
        kv_heads: number("llama.attention.head_count_kv"),
    };
    for &quant in Quant::ALL {
        let target = dir.path().join("quantized.gguf");
        stock::quantize(&source, &target, quant, &[]);
        let after = header(&target);
        let foretold = mix::plan(&tensors, facts, quant);
        let order: Vec<&str> = after.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(
            order,
            tensors.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            "{quant} keeps the order"
        );
        for (tensor, foretold) in after.tensors.iter().zip(foretold) {
            assert_eq!(tensor.tensor_type, foretold, "{quant}: {}", tensor.name);
        }
        let file = fs::metadata(&target).unwrap().len();
        let bytes = mix::tensor_bytes(&tensors, facts, quant);
        assert_eq!(Bytes(file - after.data_offset), bytes, "{quant}");
        assert_eq!(
            after.get("general.file_type").and_then(bramble_fleet::gguf::Value::as_u64),
            Some(quant.ftype().into())
        );
        println!("{quant}: {} bytes of tensors, as foretold", bytes.0);
    }
}

fn order(source: &Path, dir: &Path, quants: &[Quant], threads: u32) -> Order {
    let path = |quant: Quant| dir.join(format!("{quant}-{threads}.gguf"));
    let outputs = quants.iter().map(|quant| Output { quant: *quant, path: path(*quant) }).collect();
    Order {
        source: source.to_owned(),
        outputs,
        imatrix: None,
        may_requantize: false,
        prompt_style: None,
        threads,
    }
}

fn digests(made: &[Made]) -> Vec<Digest> {
    made.iter().map(|made| Digest::of(&fs::read(&made.path).unwrap())).collect()
}

#[test]
fn threads_do_not_change_what_is_made() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let make = |threads: u32| {
        let order = order(&checkpoint, dir.path(), &[Quant::Q4KM, Quant::Q8_0], threads);
        digests(&run(&order, &Control { stop: &stop, begun: &|_| {}, progress: &|_| {} }).unwrap())
    };
    let usual = make(2);
    assert_eq!((usual.clone(), usual), (make(1), make(3)));
}

#[tokio::test]
async fn the_program_makes_weights_as_a_child_and_reports() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_brambled"));
    let seen = std::cell::RefCell::new(Vec::new());
    let by_child = order(&checkpoint, dir.path(), &[Quant::Q4_0, Quant::Q8_0], 2);
    let tell = |done, all| seen.borrow_mut().push((done, all));
    let made = child::run(program, &by_child, std::future::pending(), tell).await.unwrap();
    let seen = seen.into_inner();
    let last = seen.last().unwrap();
    assert_eq!(last.0, last.1);
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{seen:?}");
    let stop = AtomicBool::new(false);
    let here = order(&checkpoint, dir.path(), &[Quant::Q4_0, Quant::Q8_0], 1);
    let here = run(&here, &Control { stop: &stop, begun: &|_| {}, progress: &|_| {} }).unwrap();
    assert_eq!(digests(&made), digests(&here));

    let bad = dir.path().join("bad.gguf");
    fs::write(&bad, b"GGUF, but no more").unwrap();
    let bad = order(&bad, dir.path(), &[Quant::Q5KM], 5);
    let never = std::future::pending();
    let error = child::run(program, &bad, never, |_, _| {}).await.unwrap_err().to_string();
    assert!(error.contains("bad.gguf") && error.contains("cannot read"), "{error}");
    assert!(!bad.outputs[0].path.exists());
}

#[test]
fn text_becomes_the_tokens_that_tokenizers_makes() {
    let Some(checkpoint) = checkpoint() else { return };
    let dir = tempfile::tempdir().unwrap();
    let model = convert_to(dir.path(), &checkpoint, Quant::F16);
    let params = LlamaModelParams::default().with_vocab_only(true);
    let model = LlamaModel::load_from_file(logits::backend(), &model, &params).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&golden("smollm2-tokens.json")).unwrap();
    let vocabulary = model.vocab();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<i64> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
            let found: Vec<i64> =
                vocabulary.tokenize(text.as_bytes(), true, true).iter().map(|token| token.0.into()).collect();
            (found != expected).then(|| format!("{text:?}: {found:?}, not {expected:?}"))
        })
        .collect();
    println!("{} of {} texts tokenized alike", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((vocabulary.bos().0, vocabulary.eos().0), (1, 2));
    assert!(!vocabulary.should_add_bos());
}
