//! A llama of any size, in the hub's layout.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A model with matrices of `width`, whose data are `data`, or a hole of zeros.
pub(crate) fn write_model(folder: &Path, layers: usize, width: usize, data: Option<u64>) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokenizer = json!({
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut shapes =
        vec![("model.embed_tokens".to_owned(), vec![64, width]), ("model.norm".to_owned(), vec![width])];
    for layer in 0..layers {
        let parts: [(&str, &[usize]); 9] = [
            ("self_attn.q_proj", &[width, width]),
            ("self_attn.k_proj", &[width, width]),
            ("self_attn.v_proj", &[width, width]),
            ("self_attn.o_proj", &[width, width]),
            ("mlp.gate_proj", &[2 * width, width]),
            ("mlp.up_proj", &[2 * width, width]),
            ("mlp.down_proj", &[width, 2 * width]),
            ("input_layernorm", &[width]),
            ("post_attention_layernorm", &[width]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape.to_vec())));
    }
    let (mut header, mut length) = (Map::new(), 0);
    for (name, shape) in shapes {
        let bytes = shape.iter().product::<usize>() * 2;
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [length, length + bytes] });
        header.insert(format!("{name}.weight"), entry);
        length += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut file = fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    match data {
        Some(seed) => file.write_all(&numbers(seed, length)).unwrap(),
        None => file.set_len((8 + header.len() + length) as u64).unwrap(),
    }
}

/// Brain floats below 2 that follow no pattern.
fn numbers(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let mixed = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend((mixed & 0xbfff_bfff_bfff_bfff).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
