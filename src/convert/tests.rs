use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::checkpoint::{Dtype, Stored};
use crate::gguf::{Header, Value};
use crate::ids::Digest;
use crate::quant::Quant;
use crate::weights::{self, Control};

/// A llama with two heads of four, one of which keys and values share.
fn config() -> Json {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    })
}

fn shapes() -> Vec<(String, Vec<u64>)> {
    let mut list = vec![("model.embed_tokens".to_owned(), vec![10, 8]), ("model.norm".to_owned(), vec![8])];
    for layer in 0..2 {
        let parts: [(&str, &[u64]); 9] = [
            ("self_attn.q_proj", &[8, 8]),
            ("self_attn.k_proj", &[4, 8]),
            ("self_attn.v_proj", &[4, 8]),
            ("self_attn.o_proj", &[8, 8]),
            ("mlp.gate_proj", &[12, 8]),
            ("mlp.up_proj", &[12, 8]),
            ("mlp.down_proj", &[8, 12]),
            ("input_layernorm", &[8]),
            ("post_attention_layernorm", &[8]),
        ];
        list.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape.to_vec())));
    }
    list.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect()
}

fn stored(shapes: &[(String, Vec<u64>)]) -> BTreeMap<String, Stored> {
    let each = |(name, shape): &(String, Vec<u64>)| {
        let bytes = shape.iter().product::<u64>() * 4;
        (name.clone(), Stored { dtype: Dtype::F32, shape: shape.clone(), offset: 0, bytes })
    };
    shapes.iter().map(each).collect()
}

/// Writes a checkpoint whose n-th value is n / 64 of its tensor's number, exact in every float.
fn write(dir: &Path, config: &Json, shapes: &[(String, Vec<u64>)]) {
    let mut entries = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (number, (name, shape)) in shapes.iter().enumerate() {
        let start = data.len();
        for index in 0..shape.iter().product::<u64>() {
            let value = (index as f32 + number as f32) / 64.0;
            data.extend(value.to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        entries.insert(name.clone(), entry);
    }
    let header = Json::Object(entries).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(dir.join("model.safetensors"), file).unwrap();
    let put = |name: &str, value: &Json| fs::write(dir.join(name), value.to_string()).unwrap();
    put("config.json", config);
    let special = |id: u32, text: &str| json!({"id": id, "content": text, "special": true});
    put(
        "tokenizer.json",
        &json!({
            "added_tokens": [special(0, "<|end|>"), special(1, "<|start|>"), {"id": 9, "content": "word"}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "<|start|>"}}, {"Sequence": {"id": "A"}}]},
            "model": {"type": "BPE", "vocab": {"<|end|>": 0, "<|start|>": 1, "a": 2, "b": 3, "ab": 4, "abb": 5},
                "merges": ["a b", ["ab", "b"]]},
        }),
    );
    put(
        "tokenizer_config.json",
        &json!({"bos_token": {"content": "<|start|>"}, "chat_template": [
            {"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}),
    );
}

/// Writes the checkpoint, changes it, and makes a file of it as whoever writes files does.
fn converted(float: Quant, change: impl Fn(&Path)) -> Result<(Header, Vec<u8>), Error> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config(), &shapes());
    change(dir.path());
    written(dir.path(), float)
}

fn written(dir: &Path, float: Quant) -> Result<(Header, Vec<u8>), Error> {
    let out = dir.join("out.gguf");
    weights::run(&weights::Order::single(dir, float, &out), &Control::none()).map_err(
        |error| match error {
            weights::Error::Convert { source, .. } => source,
            other => panic!("{other}"),
        },
    )?;
    let bytes = fs::read(out).unwrap();
    Ok((Header::read(bytes.as_slice()).unwrap(), bytes))
}

fn floats(header: &Header, bytes: &[u8], name: &str) -> Vec<f32> {
    let tensor = header.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let start = usize::try_from(header.data_offset + tensor.offset).unwrap();
    let data = &bytes[start..start + usize::try_from(tensor.bytes).unwrap()];
    data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

#[test]
fn keys_and_tensors_of_a_small_llama() {
    let (header, _) = converted(Quant::F16, |_| {}).unwrap();
    let shown = |value: &Value| format!("{value:?}").replace("Array(", "").replace("))", ")");
    let keys: Vec<String> =
        header.metadata.iter().map(|(key, value)| format!("{key} = {}", shown(value))).collect();
    insta::assert_snapshot!(keys.join("\n"));
    let tensors: Vec<String> =
        header.tensors.iter().map(|t| format!("{} {:?} {}", t.name, t.shape, t.tensor_type)).collect();
    insta::assert_snapshot!(tensors.join("\n"));
}

#[test]
fn the_bytes_are_the_same_each_time_and_as_they_were() {
    // a change here is a change of `VERSION`
    let digest = |float| Digest::of(&converted(float, |_| {}).unwrap().1).short();
    assert_eq!(digest(Quant::F32), digest(Quant::F32));
    insta::assert_snapshot!([Quant::F32, Quant::F16, Quant::Bf16].map(digest).join(" "));
}

#[test]
fn rows_of_queries_and_keys_are_interleaved_head_by_head() {
    let (header, bytes) = converted(Quant::F32, |_| {}).unwrap();
    let row_starts = |name: &str| -> Vec<u32> {
        let values = floats(&header, &bytes, name);
        let number = values[0];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
        values.iter().step_by(8).map(|first| ((first - number) * 8.0) as u32).collect()
    };
    assert_eq!(row_starts("blk.0.attn_q.weight"), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(row_starts("blk.1.attn_k.weight"), [0, 2, 1, 3]);
    assert_eq!(row_starts("blk.0.attn_v.weight"), [0, 1, 2, 3]);
}

#[test]
fn headers_alone_tell_the_tensors() {
    let foretold = gguf_tensors(&config(), &stored(&shapes())).unwrap();
    let (header, _) = converted(Quant::F16, |_| {}).unwrap();
    let made: Vec<TensorShape> =
        header.tensors.into_iter().map(|t| TensorShape { name: t.name, shape: t.shape }).collect();
    assert_eq!(foretold, made);
}

#[test]
fn an_untied_head_is_kept_and_a_tied_one_is_not() {
    let mut all = shapes();
    all.push(("lm_head.weight".to_owned(), vec![10, 8]));
    let has_head = |tied: bool| {
        let mut config = config();
        config["tie_word_embeddings"] = json!(tied);
        gguf_tensors(&config, &stored(&all)).unwrap().iter().any(|tensor| tensor.name == "output.weight")
    };
    assert_eq!((has_head(true), has_head(false)), (false, true));
    let mut config = config();
    config["tie_word_embeddings"] = json!(false);
    let missing = gguf_tensors(&config, &stored(&shapes()));
    assert!(matches!(missing, Err(Error::MissingTensor(name)) if name == "lm_head.weight"));
}

#[test]
fn positions_of_llama_3_are_scaled_by_a_tensor() {
    // Llama 3.2 1B
    let mut config = config();
    config["head_dim"] = json!(64);
    config["rope_theta"] = json!(500_000.0);
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let sizes: Vec<(String, Vec<u64>)> = shapes()
        .into_iter()
        .map(|(name, shape)| match name.rsplit('.').nth(1) {
            Some("q_proj") => (name, vec![128, 8]),
            Some("k_proj" | "v_proj") => (name, vec![64, 8]),
            Some("o_proj") => (name, vec![8, 128]),
            _ => (name, shape),
        })
        .collect();
    let recipes = arch::recipes(&config, &stored(&sizes)).unwrap();
    let factors = recipes.iter().find(|recipe| recipe.tensor.name == "rope_freqs.weight").unwrap();
    let [Part::Made(values)] = factors.parts.as_slice() else { panic!("{factors:?}") };
    assert_eq!(values.len(), 32);
    // by hand: the wave of pair 14 is 1956.0 (below 8192 / 4), of 18 above 8192
    assert_eq!(values[..15], [1.0; 15]);
    let between = [1.651_329, 3.292_262, 9.666_729];
    assert!(values[15..18].iter().zip(between).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", &values[15..18]);
    assert_eq!(values[18..], [32.0; 14]);
}

type Change<'a> = &'a dyn Fn(&mut Json);

#[test]
fn what_would_be_converted_wrongly_is_refused_before_there_are_weights() {
    let refused = |change: &dyn Fn(&mut Json)| {
        let mut config = config();
        change(&mut config);
        check(&config).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&|_| {}), None);
    let cases: [(Change<'_>, &str); 10] = [
        (&|c| c["architectures"] = json!(["FalconForCausalLM"]), "\"FalconForCausalLM\""),
        (&|c| c["quantization_config"] = json!({"quant_method": "gptq"}), "quantized already"),
        (&|c| c["hidden_act"] = json!("gelu"), "gelu"),
        (&|c| c["num_local_experts"] = json!(8), "mixture of experts"),
        (&|c| c["rope_scaling"] = json!({"type": "yarn", "factor": 2.0}), "yarn"),
        (&|c| c["rope_scaling"] = json!({"rope_type": "llama3", "factor": 0.0}), "factor is 0"),
        (&|c| c["hidden_size"] = json!(-8), "hidden_size"),
        (&|c| c["head_dim"] = json!(4_000_000_000_u32), "heads of"),
        (&|c| c["num_attention_heads"] = json!(3), "heads do not divide"),
        (&|c| *c = json!([1]), "what the model is"),
    ];
    for (change, expected) in cases {
        let error = refused(change).unwrap();
        assert!(error.contains(expected), "{error} says nothing of {expected}");
    }
    let unknown = refused(&|c| c["architectures"] = json!(["FalconForCausalLM"])).unwrap();
    assert!(unknown.contains("LlamaForCausalLM, LLaMAForCausalLM, MistralForCausalLM"), "{unknown}");
}

#[test]
fn a_tensor_of_another_shape_or_of_no_known_use_is_refused() {
    let mut wrong = shapes();
    wrong[0].1 = vec![11, 8];
    let error = gguf_tensors(&config(), &stored(&wrong)).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight") && error.contains("[11, 8]"), "{error}");
    let mut more = shapes();
    more.push(("model.layers.0.self_attn.q_norm.weight".to_owned(), vec![4]));
    let error = gguf_tensors(&config(), &stored(&more)).unwrap_err().to_string();
    assert!(error.contains("q_norm"), "{error}");
    let mut harmless = shapes();
    harmless.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![2]));
    assert!(gguf_tensors(&config(), &stored(&harmless)).is_ok());
    let mut integers = stored(&shapes());
    integers.get_mut("model.norm.weight").unwrap().dtype = Dtype::Other(Some(4));
    assert!(gguf_tensors(&config(), &integers).is_err());
}

#[test]
fn the_template_file_comes_before_the_settings() {
    let template = |change: &dyn Fn(&Path)| {
        let (header, _) = converted(Quant::F32, change).unwrap();
        header.get("tokenizer.chat_template").and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(template(&|_| {}).as_deref(), Some("D"));
    let with_file = |dir: &Path| fs::write(dir.join("chat_template.jinja"), "J").unwrap();
    assert_eq!(template(&with_file).as_deref(), Some("J"));
    let without = |dir: &Path| fs::remove_file(dir.join("tokenizer_config.json")).unwrap();
    assert_eq!(template(&without), None);
}

#[test]
fn a_failed_conversion_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config(), &shapes());
    let out = dir.path().join("out.gguf");
    fs::write(&out, "old").unwrap();
    let mut tokenizer: Json =
        serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    tokenizer["model"]["vocab"]["beyond"] = json!(10);
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let error = written(dir.path(), Quant::F32).unwrap_err().to_string();
    assert!(error.contains("beyond vocab_size"), "{error}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
}

#[test]
fn a_window_of_attention_is_a_key_and_no_cap() {
    let mut config = config();
    config["architectures"] = json!(["MistralForCausalLM"]);
    config["sliding_window"] = json!(16);
    let keys = gguf_keys(&config).unwrap();
    assert!(keys.contains(&("llama.attention.sliding_window".to_owned(), Value::from(16u32))));
    assert!(keys.contains(&("llama.context_length".to_owned(), Value::from(64u32))));
    config["sliding_window"] = json!(null);
    let keys = gguf_keys(&config).unwrap();
    assert!(!keys.iter().any(|(key, _)| key.contains("sliding_window")));
}

#[test]
fn values_that_are_no_numbers_are_an_error_that_names_file_and_tensor() {
    let filled = |dir: &Path| {
        let path = dir.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap());
        bytes[usize::try_from(header).unwrap()..].fill(0xff);
        fs::write(path, bytes).unwrap();
    };
    let error = converted(Quant::F16, filled).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("NaN"), "{error}");
    // all of them are so; which is read first is the writer's affair
    assert!(error.starts_with("tensor \"") && error.contains(".weight\""), "{error}");
}

#[test]
fn torch_files_give_the_same_bytes_as_safetensors() {
    use checkpoint::torch::testing::{Given, legacy_file, zip_file};
    let rewritten = |file: fn(&[Given]) -> Vec<u8>| {
        move |dir: &Path| {
            let checkpoint = checkpoint::Checkpoint::open(dir).unwrap();
            let given = |(number, (name, stored)): (usize, (String, Stored))| {
                let shape: Vec<i64> = stored.shape.iter().map(|len| i64::try_from(*len).unwrap()).collect();
                let mut given = Given::f32(&name, &number.to_string(), &shape, &[]);
                given.data = vec![0; usize::try_from(stored.bytes).unwrap()];
                given.elements = i64::try_from(stored.bytes / 4).unwrap();
                checkpoint.read(&name, 0, &mut given.data).unwrap();
                given
            };
            let tensors: Vec<Given> = checkpoint.tensors().into_iter().enumerate().map(given).collect();
            fs::write(dir.join("pytorch_model.bin"), file(&tensors)).unwrap();
            fs::remove_file(dir.join("model.safetensors")).unwrap();
        }
    };
    let (_, from_safetensors) = converted(Quant::F16, |_| {}).unwrap();
    for file in [zip_file, legacy_file] {
        let (_, from_torch) = converted(Quant::F16, rewritten(file)).unwrap();
        assert!(from_torch == from_safetensors, "the same GGUF");
    }
}

#[test]
fn differences_are_converted_as_the_sum_with_their_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for (name, config) in [("base", json!({"architectures": ["Unknown"]})), ("delta", config())] {
        fs::create_dir(dir.path().join(name)).unwrap();
        write(&dir.path().join(name), &config, &shapes());
    }
    let (header, bytes) = written(dir.path(), Quant::F32).unwrap();
    let norm = floats(&header, &bytes, "output_norm.weight");
    // its number is 1, and each value is there twice
    let expected: Vec<f32> = (0..8u8).map(|index| f32::from(index + 1) / 32.0).collect();
    assert_eq!(norm, expected);
}
