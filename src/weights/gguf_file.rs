use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::source::Tensor;
use crate::gguf::{Header, TensorInfo, Value};
use crate::quant::{Quant, kernel, mix};

/// A GGUF, opened and found whole.
#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    file: File,
    header: Header,
}

/// Keys of a file that is one of several, which what is made of it is not.
const SPLIT: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut header = Header::read(BufReader::new(&file))
            .map_err(|source| Error::Gguf { path: path.to_owned(), source })?;
        let unsupported = |reason: String| Error::Unsupported { path: path.to_owned(), reason };
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes < header.file_bytes() {
            let expected = header.file_bytes();
            return Err(unsupported(format!(
                "it has {bytes} bytes, and its header promises {expected}; fetch it again"
            )));
        }
        if header.get("split.count").and_then(Value::as_u64).unwrap_or(1) > 1 {
            return Err(unsupported(
                "it is one of several files that belong together; merge them with llama.cpp's gguf-split"
                    .to_owned(),
            ));
        }
        header.tensors.sort_by_cached_key(|tensor| (mix::layer(&tensor.name), tensor.name.clone()));
        if let Some(pair) = header.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(unsupported(format!("it has two tensors {:?}", pair[0].name)));
        }
        Ok(Self { path: path.to_owned(), file, header })
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let seen = |info: &TensorInfo| Tensor {
            name: info.name.clone(),
            shape: info.shape.clone(),
            stored: Some(info.tensor_type),
        };
        self.header.tensors.iter().map(seen).collect()
    }

    /// Returns the keys as they are, but for those that tell the quant.
    pub(super) fn metadata(&self, quant: Quant) -> Vec<(String, Value)> {
        let quant = [
            ("general.file_type", Value::from(quant.ftype())),
            ("general.quantization_version", Value::from(2u32)),
        ];
        let is_kept = |key: &str| {
            // what is written is aligned as every GGUF is unless it says otherwise
            !SPLIT.contains(&key) && key != "general.alignment" && quant.iter().all(|(name, _)| *name != key)
        };
        let mut keys: Vec<_> = self.header.metadata.iter().filter(|(key, _)| is_kept(key)).cloned().collect();
        keys.extend(quant.into_iter().map(|(key, value)| (key.to_owned(), value)));
        keys
    }

    pub(super) fn copy(&self, number: usize, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), Error> {
        let missing = || Error::Tensor {
            path: self.path.clone(),
            name: number.to_string(),
            reason: "there are no such rows".to_owned(),
        };
        let info = self.header.tensors.get(number).ok_or_else(missing)?;
        let row = if info.shape.len() == 1 { 1 } else { info.shape.first().copied().unwrap_or(1) };
        let row = info.tensor_type.row_bytes(row).ok_or_else(missing)?;
        let (start, end) = (rows.start.saturating_mul(row), rows.end.saturating_mul(row));
        let len = end.checked_sub(start).filter(|_| end <= info.bytes).ok_or_else(missing)?;
        let begun = out.len();
        out.resize(begun + usize::try_from(len).map_err(|_| missing())?, 0);
        self.file
            .read_exact_at(&mut out[begun..], self.header.data_offset + info.offset + start)
            .map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    pub(super) fn read(&self, number: usize, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), Error> {
        let mut raw = Vec::new();
        self.copy(number, rows, &mut raw)?;
        let Some(info) = self.header.tensors.get(number) else { return Ok(()) };
        let fault =
            |reason: String| Error::Tensor { path: self.path.clone(), name: info.name.clone(), reason };
        let begun = out.len();
        kernel::decode(info.tensor_type, &raw, out).map_err(|error| fault(error.to_string()))?;
        match out.iter().skip(begun).find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => Err(fault(format!("a value is {value}: fetch the file again, or take another"))),
        }
    }
}
