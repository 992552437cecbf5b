use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::arch::{check, recipes};
use super::{Config, Converted, Error, Order, Recipe, float, tokenizer};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::gguf::{NewTensor, Value, Writer};
use crate::quant::{Quant, TensorType};
use crate::units::Bytes;

/// How much of a tensor is held at once, unless one head of it is larger.
const PIECE: u64 = 4 << 20;

/// Converts the checkpoint in `dir` to a GGUF at `out`; returns the length of the file.
///
/// `float` is F32, F16 or BF16: the type of matrices. Vectors and norms stay F32.
/// `progress` hears the bytes of tensors written so far. What is at `out` is replaced in
/// one step, once the whole file is on the disk.
pub fn to_gguf(dir: &Path, out: &Path, float: Quant, progress: impl Fn(Bytes)) -> Result<Bytes, Error> {
    let float_type = match float {
        Quant::F32 => TensorType::F32,
        Quant::F16 => TensorType::F16,
        Quant::Bf16 => TensorType::Bf16,
        other => return Err(Error::Config(format!("a conversion is to F32, F16 or BF16, not to {other}"))),
    };
    let config = read_json(&dir.join("config.json"))?;
    let arch = check(&config)?;
    let checkpoint = Checkpoint::open(dir)?;
    let stored = checkpoint.tensors();
    let recipes = recipes(&config, &stored)?;
    let tensors: Vec<NewTensor> = recipes
        .iter()
        .map(|Recipe { tensor, .. }| {
            let is_matrix = tensor.shape.len() > 1 && !tensor.name.ends_with("_norm.weight");
            let tensor_type = if is_matrix { float_type } else { TensorType::F32 };
            NewTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), tensor_type }
        })
        .collect();
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::from(arch.name())),
        ("general.type".to_owned(), "model".into()),
    ];
    if let Some(name) = Config(&config).text("_name_or_path").and_then(|path| path.rsplit('/').next()) {
        metadata.push(("general.name".to_owned(), name.into()));
    }
    metadata.extend(arch.metadata(Config(&config))?);
    metadata.push(("general.file_type".to_owned(), float.ftype().into()));
    metadata.push(("general.quantization_version".to_owned(), 2u32.into()));
    metadata.extend(tokenizer::metadata(&tokenizer::Files::read(dir)?, Config(&config))?);

    let partial = with_suffix(out, ".partial");
    let failed = |source| Error::Write { path: partial.clone(), source };
    let file = File::create(&partial).map_err(failed)?;
    let mut writer = Writer::start(BufWriter::with_capacity(1 << 20, file), &metadata, &tensors)?;
    let mut done = Bytes::ZERO;
    for (recipe, tensor) in recipes.iter().zip(&tensors) {
        let mut bytes = Vec::new();
        let mut put = |values: &[f32]| {
            bytes.clear();
            float::encode(tensor.tensor_type, values, &mut bytes).map_err(|value| Error::Tensor {
                name: tensor.name.clone(),
                reason: format!("{value} does not fit {}: convert to F32", tensor.tensor_type),
            })?;
            writer.data(&bytes)?;
            done += Bytes(bytes.len() as u64);
            progress(done);
            Ok(())
        };
        match &recipe.from {
            Converted::Made(values) => put(values)?,
            Converted::Stored { name, order } => {
                let dtype = stored.get(name).map_or(Dtype::F32, |stored| stored.dtype);
                copy(&checkpoint, name, dtype, *order, &recipe.tensor.shape, put)?;
            }
        }
    }
    let file = writer.finish()?.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    std::fs::rename(&partial, out).map_err(|source| Error::Write { path: out.to_owned(), source })?;
    Ok(Bytes(bytes))
}

/// Reads a stored tensor in pieces of whole rows (of whole heads, where rows are moved),
/// and hands its values on in the order wanted.
fn copy(
    checkpoint: &Checkpoint,
    name: &str,
    dtype: Dtype,
    order: Order,
    shape: &[u64],
    mut put: impl FnMut(&[f32]) -> Result<(), Error>,
) -> Result<(), Error> {
    let each = dtype.bytes().unwrap_or(1);
    // for a vector, every value is a row of its own
    let (row, rows) = match shape {
        [len] => (1, *len),
        [row, others @ ..] => (*row, others.iter().product()),
        [] => (1, 1),
    };
    let row_bytes = row * each;
    let step = match order {
        Order::Same => (PIECE / row_bytes.max(1)).max(1),
        Order::Interleaved { heads } => rows / u64::from(heads.max(1)),
    };
    let too_large = || Error::Tensor { name: name.to_owned(), reason: "a row is too large".to_owned() };
    let (mut raw, mut values, mut moved) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < rows {
        let count = step.clamp(1, rows - at);
        raw.resize(usize::try_from(count * row_bytes).map_err(|_| too_large())?, 0);
        checkpoint.read(name, at * row_bytes, &mut raw)?;
        values.clear();
        float::decode(dtype, &raw, &mut values);
        if order == Order::Same {
            put(&values)?;
        } else {
            let row = usize::try_from(row).map_err(|_| too_large())?;
            interleave(&values, row, &mut moved);
            put(&moved)?;
        }
        at += count;
    }
    Ok(())
}

/// Puts the rows of one head in turn from its lower and its upper half.
fn interleave(head: &[f32], row: usize, out: &mut Vec<f32>) {
    let (lower, upper) = head.split_at(head.len() / 2);
    out.clear();
    for (low, high) in lower.chunks_exact(row.max(1)).zip(upper.chunks_exact(row.max(1))) {
        out.extend_from_slice(low);
        out.extend_from_slice(high);
    }
}

/// Reads a JSON file that must be there.
pub(super) fn read_json(path: &Path) -> Result<Json, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
