//! GGUF files that differ from a given one in their metadata.

use std::path::Path;

use bramble_fleet::gguf::{Header, NewTensor, TensorInfo, Value, Writer};

/// Writes a model again with `key` set to `value`.
pub(crate) fn with_key(from: &Path, to: &Path, key: &str, value: &str) {
    let bytes = std::fs::read(from).unwrap();
    let mut header = Header::read(bytes.as_slice()).unwrap();
    let value = Value::from(value);
    match header.metadata.iter_mut().find(|(name, _)| name == key) {
        Some((_, old)) => *old = value,
        None => header.metadata.push((key.to_owned(), value)),
    }
    let new = |tensor: &TensorInfo| NewTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        tensor_type: tensor.tensor_type,
    };
    let tensors: Vec<NewTensor> = header.tensors.iter().map(new).collect();
    let file = std::fs::File::create(to).unwrap();
    let mut writer = Writer::start(file, &header.metadata, &tensors).unwrap();
    for tensor in &header.tensors {
        let start = usize::try_from(header.data_offset + tensor.offset).unwrap();
        writer.data(&bytes[start..][..usize::try_from(tensor.bytes).unwrap()]).unwrap();
    }
    writer.finish().unwrap();
}
