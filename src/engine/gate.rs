//! What is checked of a weights file before llama.cpp, which is C++ and trusting, sees it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use super::Error;
use crate::causes::with_causes;
use crate::generation::Weights;
use crate::gguf::{Array, Header, Value, Window};
use crate::quant::TensorType;

/// llama.cpp's `LLAMA_MAX_LAYERS`.
const MOST_LAYERS: u64 = 512;

/// llama.cpp's `LLAMA_MAX_EXPERTS`.
const MOST_EXPERTS: u64 = 1024;

/// What the place of a tensor in memory must be a multiple of; ggml's `TENSOR_ALIGNMENT`.
const ALIGNMENT: u64 = 32;

/// What is known of weights before they are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Blocks of layers.
    pub(super) blocks: u32,
    /// The window that llama.cpp's graph of the model leaves out.
    pub(super) window: Option<Window>,
}

/// Checks that `path` is what `weights` says, as far as its size and its header tell: little-endian GGUF of a version
/// that llama.cpp reads, with nothing in it that it aborts at.
pub(super) fn check(path: &Path, weights: &Weights) -> Result<Known, Error> {
    let read = |source| Error::ReadWeights { path: path.to_owned(), source };
    let refuse = |reason| Err(Error::Weights { path: path.to_owned(), reason });
    let mut file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    if weights.digest.is_some() && bytes != weights.bytes.0 {
        return refuse(format!("it has {bytes} bytes where the definition says {}", weights.bytes.0));
    }
    // magic, version, number of tensors, number of metadata entries
    let mut header = [0u8; 24];
    if bytes < header.len() as u64 {
        return refuse(format!("it has {bytes} bytes, less than a GGUF header"));
    }
    file.read_exact(&mut header).map_err(read)?;
    if &header[..4] != b"GGUF" {
        return refuse("it does not begin with GGUF".to_owned());
    }
    let version = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if !(2..=3).contains(&version) {
        return refuse(format!(
            "its GGUF version is {version}, only 2 and 3 are read, in little-endian order"
        ));
    }
    file.rewind().map_err(read)?;
    let check = move || {
        let header = Header::read(BufReader::new(file)).map_err(|error| with_causes(&error))?;
        let blocks = check_header(&header)?;
        let window = Window::read(|key| header.get(key)).map_err(|error| with_causes(&error))?;
        Ok(Known { blocks, window })
    };
    // on a thread of its own, whose memory the worker takes over: elsewhere some MiB of it would stay unused
    let checked = std::thread::scope(|scope| scope.spawn(check).join());
    checked.unwrap_or_else(|_| Err("its header cannot be checked".to_owned())).or_else(refuse)
}

/// Checks what llama.cpp asserts while it loads a model, or takes for granted until it computes. What it refuses in
/// words is left to it. Returns how many blocks of layers there are.
fn check_header(header: &Header) -> Result<u32, String> {
    let architecture = header.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |name: &str| header.get(&key(name)).and_then(Value::as_u64);
    let layers = number("block_count").unwrap_or_default();
    if !(1..=MOST_LAYERS).contains(&layers) {
        return Err(format!("it has {layers} layers, there can be 1 to {MOST_LAYERS}"));
    }
    if let Some(more) = number("nextn_predict_layers").filter(|&more| more > layers) {
        return Err(format!("{more} of its {layers} layers predict tokens ahead"));
    }
    if let Some(context) = number("context_length").filter(|&context| i32::try_from(context).is_err()) {
        return Err(format!("its context has {context} tokens, which is more than can be counted"));
    }
    check_experts(architecture, &number, header.get(&key("expert_used_count")))?;
    if let Some(scaling) = header.get(&key("rope.scaling.type")).and_then(Value::as_str)
        && !matches!(scaling, "none" | "linear" | "yarn" | "longrope")
    {
        return Err(format!("its positions are scaled by '{scaling}', which is not known"));
    }
    for (name, value) in header.metadata.iter().filter(|(name, _)| name.ends_with("epsilon")) {
        // NaN is none of these either
        if value.as_f64().is_some_and(|epsilon| !(0.0..=1.0).contains(&epsilon)) {
            return Err(format!("{name} is {value:?}"));
        }
    }
    check_tokens(header)?;
    check_tensors(header)?;
    u32::try_from(layers).map_err(|error| error.to_string())
}

fn check_experts(
    architecture: &str,
    number: &impl Fn(&str) -> Option<u64>,
    used: Option<&Value>,
) -> Result<(), String> {
    let experts = number("expert_count").unwrap_or_default();
    let used = match used {
        Some(Value::Array(each)) => each.as_u64s().and_then(|each| each.into_iter().max()),
        Some(all) => all.as_u64(),
        None => None,
    };
    let (used, groups) = (used.unwrap_or_default(), number("expert_group_count").unwrap_or_default());
    let used_groups = number("expert_group_used_count").unwrap_or_default();
    // llama.cpp takes one expert for none there
    if architecture.starts_with("hunyuan") && experts <= 1 {
        return Ok(());
    }
    let is_sound = if experts == 0 {
        used == 0 && groups == 0
    } else {
        experts <= MOST_EXPERTS
            && (1..=experts).contains(&used)
            && groups < experts
            && (groups <= 1 || (experts.is_multiple_of(groups) && (1..groups).contains(&used_groups)))
    };
    if is_sound {
        return Ok(());
    }
    Err(format!("it uses {used} of {experts} experts, and {used_groups} of {groups} groups of them"))
}

fn check_tokens(header: &Header) -> Result<(), String> {
    let kind = header.get("tokenizer.ggml.model").and_then(Value::as_str).unwrap_or_default();
    if matches!(kind, "" | "no_vocab" | "none") {
        return Err("it has no vocabulary".to_owned());
    }
    let Some(Value::Array(Array::Text(tokens))) = header.get("tokenizer.ggml.tokens") else {
        return Err("it has no list of tokens".to_owned());
    };
    let mut known = HashSet::with_capacity(tokens.len());
    for token in tokens.iter().filter(|token| !token.is_empty()) {
        // bytes that are no text are all shown as that
        if !known.insert(token.as_str()) && !token.contains(char::REPLACEMENT_CHARACTER) {
            return Err(format!("the token {token:?} is in its vocabulary twice"));
        }
    }
    // what is no token is read byte by byte
    let has = |byte: u8| {
        known.contains(format!("<0x{byte:02X}>").as_str())
            || (byte.is_ascii() && known.contains(char::from(byte).to_string().as_str()))
    };
    let is_in_utf8 = |byte: u8| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    match (1..=u8::MAX).find(|&byte| kind == "llama" && is_in_utf8(byte) && !has(byte)) {
        Some(byte) => Err(format!("its vocabulary has no token for the byte 0x{byte:02X}")),
        None => Ok(()),
    }
}

fn check_tensors(header: &Header) -> Result<(), String> {
    for tensor in &header.tensors {
        let (name, kind) = (&tensor.name, tensor.tensor_type);
        let is_integer = matches!(kind, TensorType::I8 | TensorType::I16 | TensorType::I64 | TensorType::F64);
        // ggml adds and multiplies a single row only as this
        let is_row = tensor.shape.len() == 1 && kind != TensorType::F32;
        if is_integer || (is_row && (name.ends_with("weight") || name.ends_with("bias"))) {
            return Err(format!("its tensor {name:?} is of {kind}, which llama.cpp cannot compute with"));
        }
        if !header.data_offset.wrapping_add(tensor.offset).is_multiple_of(ALIGNMENT) {
            return Err(format!("its tensor {name:?} does not start at a multiple of {ALIGNMENT} bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{NewHeader, NewTensor};
    use crate::ids::Digest;
    use crate::units::Bytes;

    /// The least that is not refused.
    fn metadata() -> Vec<(String, Value)> {
        let values = [
            ("general.architecture", Value::from("llama")),
            ("llama.block_count", Value::U32(2)),
            ("tokenizer.ggml.model", Value::from("gpt2")),
            ("tokenizer.ggml.tokens", Value::Array(Array::Text(vec!["a".to_owned(), String::new()]))),
        ];
        values.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }

    fn model() -> Vec<u8> {
        NewHeader::new(&metadata(), &[]).unwrap().bytes
    }

    #[test]
    fn what_llama_aborts_at_is_refused_in_words() {
        let text = |text: &str| Value::from(text);
        let texts =
            |texts: &[&str]| Value::Array(Array::Text(texts.iter().map(|&text| text.to_owned()).collect()));
        let cases = [
            ("llama.block_count", Value::U32(0), "0 layers"),
            ("llama.block_count", Value::U32(513), "513 layers"),
            ("llama.block_count", Value::I32(-1), "0 layers"),
            ("llama.nextn_predict_layers", Value::U32(3), "3 of its 2 layers"),
            ("llama.context_length", Value::U32(u32::MAX), "4294967295 tokens"),
            ("llama.expert_count", Value::U32(1025), "0 of 1025 experts"),
            ("llama.expert_count", Value::U32(8), "0 of 8 experts"),
            ("llama.expert_used_count", Value::Array(Array::U32(vec![0, 3])), "3 of 0 experts"),
            ("llama.expert_group_count", Value::U32(1), "0 of 1 groups"),
            ("llama.rope.scaling.type", text("odd"), "'odd'"),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0), "epsilon is F32(-1.0)"),
            ("llama.attention.layer_norm_epsilon", Value::F32(f32::NAN), "epsilon is F32(NaN)"),
            ("tokenizer.ggml.model", text("no_vocab"), "no vocabulary"),
            ("tokenizer.ggml.model", text("llama"), "no token for the byte 0x01"),
            ("tokenizer.ggml.tokens", text("a"), "no list of tokens"),
            ("tokenizer.ggml.tokens", texts(&["a", "", "", "a"]), "\"a\" is in its vocabulary twice"),
        ];
        let refusal = |metadata: Vec<(String, Value)>| {
            let header = NewHeader::new(&metadata, &[]).unwrap();
            check_header(&Header::read(header.bytes.as_slice()).unwrap()).err().unwrap_or_default()
        };
        assert_eq!(refusal(metadata()), "");
        for (key, value, words) in cases {
            let mut changed = metadata();
            changed.retain(|(name, _)| name != key);
            changed.push((key.to_owned(), value));
            let reason = refusal(changed);
            assert!(reason.contains(words), "{key}: {reason:?} has no {words:?}");
        }
        let tensor = |name: &str, shape: &[u64], tensor_type| {
            let tensor = NewTensor { name: name.to_owned(), shape: shape.to_vec(), tensor_type };
            let header = NewHeader::new(&metadata(), &[tensor]).unwrap();
            check_header(&Header::read(header.bytes.as_slice()).unwrap()).err().unwrap_or_default()
        };
        assert_eq!(tensor("output_norm.weight", &[32], TensorType::F32), "");
        assert_eq!(tensor("output.weight", &[32, 1], TensorType::F16), "");
        assert!(tensor("output_norm.weight", &[32], TensorType::F16).contains("is of F16"));
        assert!(tensor("output.weight", &[32, 32], TensorType::I8).contains("is of I8"));
        let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut pieces = metadata();
        pieces.retain(|(name, _)| !name.starts_with("tokenizer"));
        pieces.push(("tokenizer.ggml.model".to_owned(), text("llama")));
        pieces.push(("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::Text(bytes))));
        assert_eq!(refusal(pieces), "");
    }

    #[test]
    fn a_file_that_is_not_gguf_never_reaches_llama() {
        let good = model();
        let foreign = [b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 16]].concat();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.gguf");
        let mut weights = Weights {
            recipe: Digest::of(b""),
            digest: None,
            bytes: Bytes(good.len() as u64),
            quant: None,
            architecture: "llama".to_owned(),
        };
        let reason = |bytes: &[u8], weights: &Weights| {
            std::fs::write(&path, bytes).unwrap();
            check(&path, weights).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(reason(&good, &weights), "");
        assert!(reason(b"GGUF", &weights).contains("less than a GGUF header"));
        assert!(reason(&[7; 24], &weights).contains("does not begin with GGUF"));
        assert!(reason(&foreign, &weights).contains("version"));
        weights.digest = Some(Digest::of(b"x"));
        let longer = format!("{} bytes", good.len() + 1);
        assert!(reason(&[good.clone(), vec![0]].concat(), &weights).contains(&longer));
        assert_eq!(reason(&good, &weights), "");
    }
}
