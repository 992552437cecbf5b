//! GGUF files that differ from a given one in their header.

use std::path::Path;

use bramble_fleet::gguf::{Header, NewHeader, NewTensor, TensorInfo, Value, Writer};

/// Writes a model again with `key` set to `value`.
pub(crate) fn with_key(from: &Path, to: &Path, key: &str, value: &str) {
    rewritten(from, to, true, |header| {
        let value = Value::from(value);
        match header.metadata.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => header.metadata.push((key.to_owned(), value)),
        }
    });
}

/// Writes a model again with another header. Unless `has_data`, all of its data is 0, and takes no place.
pub(crate) fn rewritten(from: &Path, to: &Path, has_data: bool, change: impl FnOnce(&mut Header)) {
    let bytes = std::fs::read(from).unwrap();
    let mut header = Header::read(bytes.as_slice()).unwrap();
    let data_offset = header.data_offset;
    change(&mut header);
    let new = |tensor: &TensorInfo| NewTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        tensor_type: tensor.tensor_type,
    };
    let tensors: Vec<NewTensor> = header.tensors.iter().map(new).collect();
    let file = std::fs::File::create(to).unwrap();
    let mut writer = Writer::start(&file, &header.metadata, &tensors).unwrap();
    if !has_data {
        let whole = NewHeader::new(&header.metadata, &tensors).unwrap().file_bytes;
        return file.set_len(whole).unwrap();
    }
    for tensor in &header.tensors {
        let start = usize::try_from(data_offset + tensor.offset).unwrap();
        writer.data(&bytes[start..][..usize::try_from(tensor.bytes).unwrap()]).unwrap();
    }
    writer.finish().unwrap();
}
