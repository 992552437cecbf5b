//! Readers of foreign bytes, each given any bytes at all: they may refuse them and nothing
//! else. Run by `tests/foreign.rs` on damaged files, and by libFuzzer: `just fuzz`.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bramble_fleet::checkpoint::{Checkpoint, Header, Index, torch};
use bramble_fleet::convert::Conversion;
use bramble_fleet::facts::Receipt;
use bramble_fleet::generation::{Definition, Secrets};
use bramble_fleet::lock::Lock;
use bramble_fleet::openai::sse::{self, Scanner};
use bramble_fleet::openai::{
    ChatReply, ChatRequest, DetokenizeRequest, EmbeddingRequest, ErrorBody, TextReply, TextRequest,
    TokenizeRequest,
};
use bramble_fleet::{facts, gguf, manifest, transfer, weights};

/// A reader of foreign bytes. It panics where it does more than refuse them.
pub(crate) type Reader = fn(&[u8]);

/// All of them, by the name of the fuzz target and of its folder of seeds.
pub(crate) const READERS: [(&str, Reader); 13] = [
    ("config", config),
    ("frame", frame),
    ("gguf", gguf),
    ("host", host),
    ("imatrix", imatrix),
    ("manifest", manifest),
    ("openai", openai),
    ("pickle", pickle),
    ("probe", probe),
    ("safetensors", safetensors),
    ("sentencepiece", sentencepiece),
    ("sse", sse),
    ("tokenizer", tokenizer),
];

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

/// Opens a model that is sound but for one file of it; `folder` is that file's own, since the others have to be sound.
fn open_with(folder: &OnceLock<tempfile::TempDir>, name: &str, bytes: &[u8]) {
    let dir = folder.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        dir
    });
    fs::write(dir.path().join(name), bytes).unwrap();
    drop(Conversion::open(dir.path(), None));
}

/// `tokenizer.json`, of a model that is otherwise sound.
pub(crate) fn tokenizer(bytes: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    open_with(&FOLDER, "tokenizer.json", bytes);
}

/// SentencePiece's own file, of a model that is otherwise sound.
pub(crate) fn sentencepiece(bytes: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    open_with(&FOLDER, "tokenizer.model", bytes);
}

/// `config.json`, of a model that is otherwise sound.
pub(crate) fn config(bytes: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    open_with(&FOLDER, "config.json", bytes);
}

/// A file that says which columns matter, of llama.cpp's `imatrix`.
pub(crate) fn imatrix(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix");
    fs::write(&path, bytes).unwrap();
    drop(weights::check_imatrix(&path, [("blk.0.attn_q.weight", &[256_u64, 4][..])].into_iter()));
}

/// A manifest. What it refuses is said with places that are in the text, and drives no terminal.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Err(problems) = manifest::parse_bytes("fleet.yaml", bytes) {
        let said = problems.to_string();
        assert!(!said.is_empty() && !said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
}

/// What the other end of a transfer says.
pub(crate) fn frame(bytes: &[u8]) {
    assert!(
        transfer::hear_anything(bytes) as u64 <= transfer::LARGEST_TRIED,
        "more than a chunk was set aside"
    );
}

/// An event stream. In whatever pieces it comes, it says the same.
pub(crate) fn sse(bytes: &[u8]) {
    let read = |size: usize| {
        let (mut scanner, mut events) = (Scanner::default(), Vec::new());
        for piece in bytes.chunks(size) {
            scanner.push(piece);
            loop {
                match scanner.next() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(_) => return (events, None),
                }
            }
        }
        (events, Some(scanner.ends_with_done()))
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(whole, read(1));
    for event in whole.0 {
        // what is passed on is read as what was passed on
        let mut scanner = Scanner::default();
        scanner.push(&sse::encode(&event));
        assert!(matches!(scanner.next(), Ok(Some(again)) if again == event.replace('\r', "\n")), "{event:?}");
    }
}

/// What clients ask and what servers answer, as OpenAI has it.
pub(crate) fn openai(bytes: &[u8]) {
    drop(ChatRequest::parse(bytes));
    drop(TextRequest::parse(bytes));
    drop(EmbeddingRequest::parse(bytes));
    drop(TokenizeRequest::parse(bytes));
    drop(DetokenizeRequest::parse(bytes));
    drop(serde_json::from_slice::<ChatReply>(bytes));
    drop(serde_json::from_slice::<TextReply>(bytes));
    drop(serde_json::from_slice::<ErrorBody>(bytes));
}

/// What the scripts print that look at a host. No fact drives a terminal.
pub(crate) fn probe(bytes: &[u8]) {
    let is_plain = |said: &str| assert!(!said.chars().any(char::is_control), "{said:?}");
    if let Ok(facts) = facts::parse_probe(bytes) {
        let known = [Some(&facts.machine), facts.os.as_ref(), facts.board_name.as_ref(), facts.root.as_ref()];
        for text in known.into_iter().flatten() {
            is_plain(text);
        }
    }
    let _ = facts::probe_clock(bytes);
    if let Ok(found) = facts::parse_checkup(bytes) {
        found.processes.iter().for_each(|process| is_plain(&process.name));
    }
}

/// What a host keeps, as a damaged card or a stranger with it gives it back; and the lock beside a manifest.
pub(crate) fn host(bytes: &[u8]) {
    drop(serde_json::from_slice::<Receipt>(bytes));
    drop(serde_json::from_slice::<Secrets>(bytes));
    drop(str::from_utf8(bytes).map(Lock::parse));
    if let Ok(definition) = serde_json::from_slice::<Definition>(bytes) {
        // names that were read are names still
        let again = serde_json::to_vec(&definition).unwrap();
        assert_eq!(serde_json::from_slice::<Definition>(&again).unwrap(), definition);
    }
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
