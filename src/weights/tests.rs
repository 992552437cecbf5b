use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use super::*;
use crate::convert::PromptStyle;
use crate::gguf::Header;
use crate::quant::{Quant, TensorType};
use crate::units::Bytes;

/// A llama with two heads of 32.
fn config() -> Json {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 3000,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 0,
    })
}

/// Writes a checkpoint of brain floats, each value as `value` makes it of its number.
fn checkpoint(dir: &Path, value: impl Fn(&str, u64) -> f32) {
    let mut shapes =
        vec![("model.embed_tokens".to_owned(), vec![3000, 64]), ("model.norm".to_owned(), vec![64])];
    for layer in 0..2 {
        let parts: [(&str, &[u64]); 9] = [
            ("self_attn.q_proj", &[64, 64]),
            ("self_attn.k_proj", &[32, 64]),
            ("self_attn.v_proj", &[32, 64]),
            ("self_attn.o_proj", &[64, 64]),
            ("mlp.gate_proj", &[96, 64]),
            ("mlp.up_proj", &[96, 64]),
            ("mlp.down_proj", &[64, 96]),
            ("input_layernorm", &[64]),
            ("post_attention_layernorm", &[64]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape.to_vec())));
    }
    let mut entries = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in shapes {
        let name = format!("{name}.weight");
        let start = data.len();
        for number in 0..shape.iter().product::<u64>() {
            data.extend(&value(&name, number).to_le_bytes()[2..]);
        }
        entries.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Json::Object(entries).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(dir.join("model.safetensors"), file).unwrap();
    fs::write(dir.join("config.json"), config().to_string()).unwrap();
    let tokenizer = json!({
        "added_tokens": [{"id": 0, "content": "<|end|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<|end|>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Numbers between -1 and 1 without a pattern.
fn scattered(_: &str, number: u64) -> f32 {
    let mixed = number.wrapping_add(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f32::from(u16::try_from(mixed >> 48).unwrap()) / 32_768.0 - 1.0
}

fn order(dir: &Path, quants: &[Quant]) -> Order {
    let path = |quant: &Quant| dir.join(format!("{quant}.gguf"));
    let outputs = quants.iter().map(|quant| Output { quant: *quant, path: path(quant) }).collect();
    Order {
        source: dir.join("source"),
        outputs,
        imatrix: None,
        may_requantize: false,
        prompt_style: None,
        threads: 2,
    }
}

fn prepared(value: impl Fn(&str, u64) -> f32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("source")).unwrap();
    checkpoint(&dir.path().join("source"), value);
    dir
}

fn go(order: &Order) -> Result<Vec<Made>, Error> {
    let (stop, last) = (AtomicBool::new(false), AtomicU64::new(0));
    let progress = |done: Bytes| assert!(last.swap(done.0, Ordering::Relaxed) <= done.0);
    run(order, &Control { stop: &stop, begun: &|_| {}, progress: &progress })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_file());
    found.sort();
    found
}

#[test]
fn several_files_from_one_pass_are_those_that_one_by_one_would_make() {
    let dir = prepared(scattered);
    let quants = [Quant::F32, Quant::F16, Quant::Bf16, Quant::Q8_0];
    let made = go(&order(dir.path(), &quants)).unwrap();
    assert_eq!(made.len(), 4);
    for made in &made {
        let bytes = fs::read(&made.path).unwrap();
        assert_eq!(made.bytes, Bytes(bytes.len() as u64));
        assert_eq!(Header::read(bytes.as_slice()).unwrap().file_bytes().next_multiple_of(32), made.bytes.0);
        let alone = dir.path().join("alone.gguf");
        let single = Order::single(&dir.path().join("source"), made.quant, &alone);
        go(&Order { threads: 1, ..single }).unwrap();
        assert!(bytes == fs::read(alone).unwrap(), "{}", made.quant);
    }
}

#[test]
fn a_model_without_a_template_gets_the_one_of_its_style() {
    let dir = prepared(scattered);
    for style in [None, Some(PromptStyle::Vicuna)] {
        let order = Order { prompt_style: style, ..order(dir.path(), &[Quant::Q8_0]) };
        let made = go(&order).unwrap();
        let header = Header::read(fs::read(&made[0].path).unwrap().as_slice()).unwrap();
        let template = header.get("tokenizer.chat_template").and_then(crate::gguf::Value::as_str);
        assert_eq!(template, style.map(PromptStyle::template));
    }
}

#[test]
fn a_gguf_is_a_source_too_and_keeps_what_it_need_not_change() {
    let dir = prepared(scattered);
    go(&order(dir.path(), &[Quant::Bf16, Quant::Q8_0])).unwrap();
    let of = |source: &str, quant: Quant, name: &str, may_requantize: bool| Order {
        source: dir.path().join(source),
        outputs: vec![Output { quant, path: dir.path().join(name) }],
        imatrix: None,
        may_requantize,
        prompt_style: None,
        threads: 2,
    };
    let data = |name: &str| {
        let bytes = fs::read(dir.path().join(name)).unwrap();
        let start = usize::try_from(Header::read(bytes.as_slice()).unwrap().data_offset).unwrap();
        bytes[start..].to_vec()
    };
    go(&of("BF16.gguf", Quant::Q8_0, "second.gguf", false)).unwrap();
    assert!(data("second.gguf") == data("Q8_0.gguf"));
    // nothing is quantized a second time here
    go(&of("Q8_0.gguf", Quant::Q8_0, "third.gguf", false)).unwrap();
    assert!(data("third.gguf") == data("Q8_0.gguf"));
    let error = go(&of("Q8_0.gguf", Quant::F16, "fourth.gguf", false)).unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("--allow-requantize"), "{error}");
    go(&of("Q8_0.gguf", Quant::F16, "fourth.gguf", true)).unwrap();
    let header = Header::read(fs::read(dir.path().join("fourth.gguf")).unwrap().as_slice()).unwrap();
    assert_eq!(header.get("general.file_type").and_then(crate::gguf::Value::as_u64), Some(1));
    assert!(header.tensors.iter().any(|tensor| tensor.tensor_type == TensorType::F16));
}

#[test]
fn a_value_that_is_no_number_is_refused_with_its_tensor_and_nothing_is_left() {
    const BAD: &str = "model.layers.1.mlp.down_proj.weight";
    let dir = prepared(
        |name, number| {
            if name == BAD && number == 700 { f32::NAN } else { scattered(name, number) }
        },
    );
    let error = go(&order(dir.path(), &[Quant::Q8_0, Quant::F16])).unwrap_err();
    let text = crate::causes::with_causes(&error);
    assert!(text.contains("blk.1.ffn_down.weight") && text.contains("NaN"), "{text}");
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_pass_that_is_stopped_leaves_nothing_and_what_was_there_before() {
    let dir = prepared(scattered);
    let order = order(dir.path(), &[Quant::Q8_0]);
    fs::write(&order.outputs[0].path, b"old").unwrap();
    let stop = AtomicBool::new(true);
    let control = Control { stop: &stop, begun: &|_| {}, progress: &|_| {} };
    assert!(matches!(run(&order, &control), Err(Error::Stopped)));
    assert_eq!(files(dir.path()), [order.outputs[0].path.as_path()]);
    assert_eq!(fs::read(&order.outputs[0].path).unwrap(), b"old");
}

#[test]
fn two_passes_do_not_write_one_file() {
    let dir = prepared(scattered);
    let order = order(dir.path(), &[Quant::Q8_0]);
    let held = output::Partial::open(&order.outputs[0].path).unwrap();
    let error = go(&order).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("another process"), "{error}");
    drop(held);
    // what a killed pass leaves is taken over
    fs::write(output::partial_path(&order.outputs[0].path), vec![7; 1 << 20]).unwrap();
    let made = go(&order).unwrap();
    assert_eq!(fs::metadata(&made[0].path).unwrap().len(), made[0].bytes.0);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn an_order_that_names_a_file_twice_is_refused() {
    let dir = prepared(scattered);
    let mut order = order(dir.path(), &[Quant::Q8_0, Quant::F16]);
    order.outputs[1].path = order.outputs[0].path.clone();
    assert!(matches!(go(&order), Err(Error::SameName(_))));
    order.outputs.truncate(1);
    order.source = order.outputs[0].path.clone();
    assert!(matches!(go(&order), Err(Error::SameName(_))));
}

#[test]
#[cfg(not(feature = "llama"))]
fn what_llama_cpp_makes_is_refused_without_it() {
    let dir = prepared(scattered);
    let error = go(&order(dir.path(), &[Quant::Q8_0, Quant::Iq4Nl])).unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("IQ4_NL is made by llama.cpp"), "{error}");
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}
