use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Error;
use super::gguf_file::GgufFile;
use crate::convert::{Conversion, PromptStyle};
use crate::gguf::Value;
use crate::quant::mix::MixFacts;
use crate::quant::{Quant, TensorType, mix};

/// Weights to be read: a checkpoint seen as a GGUF, or a GGUF.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    kind: Kind,
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
enum Kind {
    Checkpoint(Box<Conversion>),
    Gguf(GgufFile),
}

/// A tensor that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Elements by dimension, the row's length first.
    pub(super) shape: Vec<u64>,
    /// The type that it has in a GGUF; a checkpoint's have none.
    pub(super) stored: Option<TensorType>,
}

impl Tensor {
    /// Returns the length of a row, and how many there are; a vector counts as rows of one value.
    pub(super) fn rows(&self) -> (u64, u64) {
        match self.shape.as_slice() {
            [] => (1, 1),
            [len] => (1, *len),
            [row, others @ ..] => (*row, others.iter().fold(1, |rows, len| rows.saturating_mul(*len))),
        }
    }
}

impl Source {
    /// Opens a folder as a checkpoint, which gets the template of `style` where it has none;
    /// anything else as a GGUF.
    pub(super) fn open(path: &Path, style: Option<PromptStyle>) -> Result<Self, Error> {
        let (kind, tensors) = if path.is_dir() {
            let conversion = Conversion::open(path, style)
                .map_err(|source| Error::Convert { path: path.to_owned(), source })?;
            let tensors = conversion.tensors().iter();
            let tensors = tensors
                .map(|tensor| Tensor { name: tensor.name.clone(), shape: tensor.shape.clone(), stored: None })
                .collect();
            (Kind::Checkpoint(Box::new(conversion)), tensors)
        } else {
            let file = GgufFile::open(path)?;
            let tensors = file.tensors();
            (Kind::Gguf(file), tensors)
        };
        Ok(Self { path: path.to_owned(), kind, tensors })
    }

    /// Returns the tensors, in the order that the files will have: llama.cpp's own.
    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Returns the keys of a file of `quant`.
    pub(super) fn metadata(&self, quant: Quant) -> Vec<(String, Value)> {
        match &self.kind {
            Kind::Checkpoint(conversion) => conversion.metadata(quant),
            Kind::Gguf(file) => file.metadata(quant),
        }
    }

    /// Returns the 16-bit float that values are rounded to before they are quantized: the one
    /// that a checkpoint is stored as. Only values that the conversion changes can differ.
    pub(super) fn rounding(&self) -> Option<TensorType> {
        match &self.kind {
            Kind::Checkpoint(conversion) => match conversion.own_float() {
                Quant::F16 => Some(TensorType::F16),
                Quant::Bf16 => Some(TensorType::Bf16),
                _ => None,
            },
            Kind::Gguf(_) => None,
        }
    }

    /// Returns the type of each tensor in a file of `quant`.
    pub(super) fn types(&self, quant: Quant, has_imatrix: bool) -> Result<Vec<TensorType>, Error> {
        let keys = self.metadata(quant);
        let find = |name: &str| keys.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let architecture = find("general.architecture").and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| {
            let value = find(&format!("{architecture}.{key}"))?;
            u32::try_from(value.as_u64().or_else(|| first_of(value))?).ok()
        };
        let unsupported =
            |reason: &str| Error::Unsupported { path: self.path.clone(), reason: reason.to_owned() };
        if number("expert_count").unwrap_or(0) > 0 {
            return Err(unsupported("it is a mixture of experts; use a GGUF that is quantized already"));
        }
        if mix::has_own_rules(architecture) {
            return Err(unsupported(
                "its architecture has rules of its own; use a GGUF that is quantized already",
            ));
        }
        let heads = number("attention.head_count").unwrap_or(0);
        let facts = MixFacts {
            architecture,
            layers: number("block_count").unwrap_or(0),
            heads,
            kv_heads: number("attention.head_count_kv").unwrap_or(heads),
            has_imatrix,
        };
        let shapes: Vec<(&str, &[u64])> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
        let types = mix::plan(&shapes, facts, quant);
        let keep = |(tensor, planned): (&Tensor, TensorType)| match tensor.stored {
            Some(stored) if !mix::is_quantizable(&tensor.name, &tensor.shape) => stored,
            _ => planned,
        };
        Ok(self.tensors.iter().zip(types).map(keep).collect())
    }

    /// Appends the values of `rows` of a tensor to `out`. A value that is not finite is an error.
    pub(super) fn read(&self, number: usize, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), Error> {
        match &self.kind {
            Kind::Checkpoint(conversion) => conversion
                .read(number, rows, out)
                .map_err(|source| Error::Convert { path: self.path.clone(), source }),
            Kind::Gguf(file) => file.read(number, rows, out),
        }
    }

    /// Appends the bytes of `rows` as they are stored in a GGUF; nothing of a checkpoint.
    pub(super) fn copy(&self, number: usize, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), Error> {
        match &self.kind {
            Kind::Checkpoint(_) => Ok(()),
            Kind::Gguf(file) => file.copy(number, rows, out),
        }
    }

    /// Returns an error about one tensor.
    pub(super) fn fault(&self, number: usize, reason: String) -> Error {
        let name = self.tensors.get(number).map_or_else(String::new, |tensor| tensor.name.clone());
        Error::Tensor { path: self.path.clone(), name, reason }
    }
}

/// Some GGUFs give a number for each layer; llama.cpp looks at the first.
fn first_of(value: &Value) -> Option<u64> {
    use crate::gguf::Array;
    let Value::Array(array) = value else { return None };
    match array {
        Array::U32(items) => items.first().copied().map(u64::from),
        Array::I32(items) => items.first().and_then(|item| u64::try_from(*item).ok()),
        _ => None,
    }
}
