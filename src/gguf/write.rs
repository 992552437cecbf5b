use std::io::Write;

use super::value::{Array, Value};
use super::{ALIGNMENT, Error, MAGIC};
use crate::quant::TensorType;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// The name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, the row's length first.
    pub shape: Vec<u64>,
    /// The format of the data that will follow.
    pub tensor_type: TensorType,
}

/// Writes a GGUF of version 3: the header at once, then the data as it comes.
///
/// The data of all tensors is one stream in the order of the header; pieces may be of
/// any length up to the end of a tensor. Padding is the writer's business.
pub struct Writer<W> {
    out: W,
    tensors: Vec<(String, u64)>,
    current: usize,
    written: u64,
}

/// A header that will be written, and where tensors' data lies behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHeader {
    /// The header, padded to where data starts.
    pub bytes: Vec<u8>,
    /// Where each tensor's data starts in the file.
    pub offsets: Vec<u64>,
    /// The length of the whole file.
    pub file_bytes: u64,
}

impl NewHeader {
    /// Lays out a file of version 3.
    ///
    /// # Errors
    /// [`Error::Promise`] for a shape that its type cannot have.
    pub fn new(metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut bytes, key);
            put_value(&mut bytes, value);
        }
        let mut end = 0;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let NewTensor { name, shape, tensor_type } = tensor;
            let impossible = || Error::Promise(format!("{name:?} of shape {shape:?} as {tensor_type}"));
            let len = tensor_type.bytes(shape).ok_or_else(impossible)?;
            let dimensions = u32::try_from(shape.len()).map_err(|_| impossible())?;
            put_text(&mut bytes, name);
            bytes.extend(dimensions.to_le_bytes());
            bytes.extend(shape.iter().flat_map(|len| len.to_le_bytes()));
            bytes.extend(tensor_type.code().to_le_bytes());
            bytes.extend(u64::to_le_bytes(end));
            offsets.push(end);
            end = len
                .checked_next_multiple_of(ALIGNMENT)
                .and_then(|padded| padded.checked_add(end))
                .ok_or_else(impossible)?;
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        let data = bytes.len() as u64;
        let too_long = || Error::Promise(format!("{end} bytes of tensors"));
        let file_bytes = end.checked_add(data).ok_or_else(too_long)?;
        // none is beyond the end, which fits
        for offset in &mut offsets {
            *offset += data;
        }
        Ok(Self { bytes, offsets, file_bytes })
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    pub fn start(mut out: W, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Self, Error> {
        let header = NewHeader::new(metadata, tensors)?;
        out.write_all(&header.bytes).map_err(Error::Write)?;
        // the header has been laid out: every shape has a size
        let size = |tensor: &NewTensor| tensor.tensor_type.bytes(&tensor.shape).unwrap_or_default();
        let tensors = tensors.iter().map(|tensor| (tensor.name.clone(), size(tensor))).collect();
        let mut writer = Self { out, tensors, current: 0, written: 0 };
        writer.close_full_tensors()?;
        Ok(writer)
    }

    /// Appends `bytes` to the current tensor, the first that is not yet whole.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((name, size)) = self.tensors.get(self.current) else {
            return if bytes.is_empty() {
                Ok(())
            } else {
                Err(Error::Promise("data after the last tensor".to_owned()))
            };
        };
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > *size {
            return Err(Error::Promise(format!("{after} bytes or more for {name:?}, which has {size}")));
        }
        self.out.write_all(bytes).map_err(Error::Write)?;
        self.written = after;
        self.close_full_tensors()
    }

    /// Pads the tensor that has become whole, and passes over those without data.
    fn close_full_tensors(&mut self) -> Result<(), Error> {
        while let Some((_, size)) = self.tensors.get(self.current) {
            if self.written < *size {
                break;
            }
            let padding = (ALIGNMENT - size % ALIGNMENT) % ALIGNMENT;
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut self.out)
                .map_err(Error::Write)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and returns what was written to; fails if data is missing.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            return Err(Error::Promise(format!("{} of {size} bytes of {name:?}", self.written)));
        }
        self.out.flush().map_err(Error::Write)?;
        Ok(self.out)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend(value.code().to_le_bytes());
    match value {
        Value::U8(n) => out.push(*n),
        Value::I8(n) => out.extend(n.to_le_bytes()),
        Value::U16(n) => out.extend(n.to_le_bytes()),
        Value::I16(n) => out.extend(n.to_le_bytes()),
        Value::U32(n) => out.extend(n.to_le_bytes()),
        Value::I32(n) => out.extend(n.to_le_bytes()),
        Value::F32(n) => out.extend(n.to_le_bytes()),
        Value::Bool(is) => out.push(u8::from(*is)),
        Value::Text(text) => put_text(out, text),
        Value::U64(n) => out.extend(n.to_le_bytes()),
        Value::I64(n) => out.extend(n.to_le_bytes()),
        Value::F64(n) => out.extend(n.to_le_bytes()),
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.code().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend(items),
        Array::I8(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::U16(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::I16(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::U32(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::I32(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::F32(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::Bool(items) => out.extend(items.iter().map(|is| u8::from(*is))),
        Array::Text(items) => items.iter().for_each(|text| put_text(out, text)),
        Array::U64(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::I64(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
        Array::F64(items) => out.extend(items.iter().flat_map(|n| n.to_le_bytes())),
    }
}
