use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::recipe::rows_of;
use super::{Conversion, Error, float};
use crate::gguf::{NewTensor, Writer};
use crate::quant::{Quant, TensorType, mix};
use crate::units::Bytes;

/// How many values are held at once, unless one row has more.
const PIECE: u64 = 1 << 20;

/// Converts the checkpoint in `dir` to a GGUF at `out`; returns the length of the file.
///
/// `float` is F32, F16 or BF16: the type of matrices. Vectors and norms stay F32.
/// `progress` hears the bytes of tensors written so far. What is at `out` is replaced in
/// one step, once the whole file is on the disk.
pub fn to_gguf(dir: &Path, out: &Path, float: Quant, progress: impl Fn(Bytes)) -> Result<Bytes, Error> {
    if !matches!(float, Quant::F32 | Quant::F16 | Quant::Bf16) {
        return Err(Error::Config(format!("a conversion is to F32, F16 or BF16, not to {float}")));
    }
    let conversion = Conversion::open(dir, None)?;
    let tensors = conversion.tensors();
    let shapes: Vec<(&str, &[u64])> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    // heads and layers do not matter to floats
    let types = mix::plan(&shapes, mix::MixFacts::default(), float);
    let new: Vec<NewTensor> = tensors
        .iter()
        .zip(types)
        .map(|(tensor, tensor_type)| NewTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            tensor_type,
        })
        .collect();

    let partial = with_suffix(out, ".partial");
    let failed = |source| Error::Write { path: partial.clone(), source };
    let file = File::create(&partial).map_err(failed)?;
    let file = BufWriter::with_capacity(1 << 20, file);
    let mut writer = Writer::start(file, &conversion.metadata(float), &new)?;
    let mut done = Bytes::ZERO;
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for (number, tensor) in new.iter().enumerate() {
        let (row, rows) = rows_of(&tensor.shape);
        let step = (PIECE / row.max(1)).max(1);
        let mut at = 0;
        while at < rows {
            let end = rows.min(at + step);
            values.clear();
            conversion.read(number, at..end, &mut values)?;
            bytes.clear();
            float::encode(tensor.tensor_type, &values, &mut bytes)
                .map_err(|value| too_large(tensor, value))?;
            writer.data(&bytes)?;
            done += Bytes(bytes.len() as u64);
            progress(done);
            at = end;
        }
    }
    let file = writer.finish()?.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    std::fs::rename(&partial, out).map_err(|source| Error::Write { path: out.to_owned(), source })?;
    Ok(Bytes(bytes))
}

fn too_large(tensor: &NewTensor, value: f32) -> Error {
    let kind: TensorType = tensor.tensor_type;
    Error::Tensor {
        name: tensor.name.clone(),
        reason: format!("{value} does not fit {kind}: convert to F32"),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
