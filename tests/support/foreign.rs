//! Readers of foreign bytes, each given any bytes at all: they may refuse them and nothing
//! else. Run by `tests/foreign.rs` on damaged files, and by libFuzzer: `just fuzz`.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bramble_fleet::checkpoint::{Checkpoint, Header, Index, torch};
use bramble_fleet::convert::Conversion;
use bramble_fleet::gguf;

/// A header of safetensors, and an index of shards.
pub(crate) fn safetensors(bytes: &[u8]) {
    drop(Index::parse(Index::SAFETENSORS, bytes));
    if let Some(first) = bytes.first_chunk::<8>() {
        drop(Header::len(*first));
    }
    if let Ok(header) = Header::parse(bytes) {
        for (name, stored) in &header.tensors {
            let end = stored.offset.checked_add(stored.bytes);
            assert!(end.is_some_and(|end| end <= header.data_bytes), "{name}");
        }
    }
}

/// A torch file, in memory and as a file; whatever it has is read.
pub(crate) fn pickle(bytes: &[u8]) {
    let mut scan = torch::Scan::new(bytes.len() as u64);
    while let Ok(torch::Step::Need(range)) = scan.step() {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else { return };
        scan.take(range.start, bytes[start..end].to_vec());
    }
    if !matches!(scan.step(), Ok(torch::Step::Done(_))) {
        return;
    }
    // it has a whole list of tensors: then they must be in the file, or be refused
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        for (name, stored) in checkpoint.tensors() {
            assert!(stored.bytes <= bytes.len() as u64, "{name}");
            let mut values = vec![0; usize::try_from(stored.bytes).unwrap()];
            checkpoint.read(&name, 0, &mut values).unwrap();
        }
    }
}

/// The header of a GGUF.
pub(crate) fn gguf(bytes: &[u8]) {
    if let Ok(header) = gguf::Header::read(bytes) {
        // neither may wrap, whatever the header claims
        let _ = header.file_bytes();
        for tensor in &header.tensors {
            assert!(tensor.offset.checked_add(tensor.bytes).is_some(), "{}", tensor.name);
        }
    }
}

/// `tokenizer.json`, of a model that is otherwise sound.
pub(crate) fn tokenizer(bytes: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = FOLDER.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        dir
    });
    fs::write(dir.path().join("tokenizer.json"), bytes).unwrap();
    drop(Conversion::open(dir.path(), None));
}

/// Writes a llama of one layer, without a tokenizer.
pub(crate) fn model(dir: &Path) {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 300, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    let mut entries = serde_json::Map::new();
    let mut end = 0;
    let mut add = |name: &str, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        entries.insert(format!("model.{name}.weight"), entry);
    };
    add("embed_tokens", &[300, 4]);
    add("norm", &[4]);
    for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        add(&format!("layers.0.self_attn.{part}"), &[4, 4]);
    }
    for part in ["gate_proj", "up_proj", "down_proj"] {
        add(&format!("layers.0.mlp.{part}"), &[4, 4]);
    }
    add("layers.0.input_layernorm", &[4]);
    add("layers.0.post_attention_layernorm", &[4]);
    let header = serde_json::Value::Object(entries).to_string();
    let data = vec![0; end];
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.join("model.safetensors"), file).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), "{}").unwrap();
}
