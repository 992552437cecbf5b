use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::source::Tensor;
use crate::gguf::{Header, TensorInfo, Value};
use crate::quant::{TensorType, mix};

/// The largest file that is read. That of a 70B model has 30 MB.
const FILE_LIMIT: u64 = 1 << 30;
/// No tensor's name is longer (`GGML_MAX_NAME` is 64).
const NAME_LIMIT: usize = 256;

/// Which columns of each matrix matter, as llama.cpp's `imatrix` measured it: the mean of the
/// squares of what is multiplied with them.
#[derive(Debug)]
pub(super) struct Imatrix {
    path: PathBuf,
    columns: BTreeMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file of the new form, a GGUF, or of the old one (`.dat`).
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let unsound = |reason: String| Error::Imatrix { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > FILE_LIMIT {
            return Err(unsound(format!("it is longer than {FILE_LIMIT} bytes")));
        }
        let mut magic = [0; 4];
        let is_gguf = file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"GGUF";
        let columns = if is_gguf {
            read_gguf(&file, path)?
        } else {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            Old(&bytes).read().map_err(unsound)?
        };
        for (name, values) in &columns {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(unsound(format!("a value of {name:?} is {value}")));
            }
        }
        if columns.is_empty() {
            return Err(unsound("there is nothing in it".to_owned()));
        }
        Ok(Self { path: path.to_owned(), columns })
    }

    /// Returns what the matrix's columns weigh, where that was measured.
    pub(super) fn of(&self, tensor: &Tensor) -> Option<&[f32]> {
        let columns = self.columns.get(&tensor.name)?;
        (columns.len() as u64 == tensor.rows().0).then_some(columns)
    }

    /// Refuses what was measured on another model than that of `tensors`.
    pub(super) fn check_all(&self, tensors: &[Tensor]) -> Result<(), Error> {
        tensors.iter().try_for_each(|tensor| self.check(tensor))?;
        if tensors.iter().any(|tensor| self.of(tensor).is_some()) {
            return Ok(());
        }
        let reason = "it tells of none of their tensors".to_owned();
        Err(Error::Imatrix { path: self.path.clone(), reason })
    }

    /// A head that is also the embedding may differ.
    fn check(&self, tensor: &Tensor) -> Result<(), Error> {
        let Some(columns) = self.columns.get(&tensor.name) else { return Ok(()) };
        let row = tensor.rows().0;
        let is_used = mix::is_quantizable(&tensor.name, &tensor.shape) && tensor.name != "token_embd.weight";
        if columns.len() as u64 == row || !is_used {
            return Ok(());
        }
        let reason = format!("it has {} columns for {:?}, which has {row}", columns.len(), tensor.name);
        Err(Error::Imatrix { path: self.path.clone(), reason })
    }

    /// Returns the keys by which llama.cpp's quantizer notes what guided it.
    pub(super) fn keys(&self) -> [(String, Value); 2] {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let count = u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        [
            ("quantize.imatrix.file".to_owned(), name.unwrap_or_default().as_str().into()),
            ("quantize.imatrix.entries_count".to_owned(), count.into()),
        ]
    }
}

/// Checks that a file is an importance matrix, and one for a model that has `tensors`: names, and
/// shapes with the row's length first. For whoever wants to know before the weights are here.
pub fn check_imatrix<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a [u64])>,
) -> Result<(), Error> {
    let tensors: Vec<Tensor> = tensors
        .map(|(name, shape)| Tensor { name: name.to_owned(), shape: shape.to_vec(), stored: None })
        .collect();
    Imatrix::read(path)?.check_all(&tensors)
}

/// Reads `NAME.in_sum2` and `NAME.counts`: sums of squares, and of how many.
fn read_gguf(file: &File, path: &Path) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let unsound = |reason: String| Error::Imatrix { path: path.to_owned(), reason };
    let header =
        Header::read(BufReader::new(file)).map_err(|source| Error::Gguf { path: path.to_owned(), source })?;
    if header.get("general.type").and_then(Value::as_str) != Some("imatrix") {
        return Err(unsound("it is a GGUF of something else".to_owned()));
    }
    let values = |info: &TensorInfo| -> Result<Vec<f32>, Error> {
        if info.tensor_type != TensorType::F32 || info.bytes > FILE_LIMIT {
            return Err(unsound(format!("{:?} is no list of floats", info.name)));
        }
        let mut bytes = vec![0; usize::try_from(info.bytes).unwrap_or(0)];
        file.read_exact_at(&mut bytes, header.data_offset.saturating_add(info.offset))
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
    };
    let mut columns = BTreeMap::new();
    for info in &header.tensors {
        let Some(name) = info.name.strip_suffix(".in_sum2") else { continue };
        let counts = format!("{name}.counts");
        let counts = header.tensors.iter().find(|other| other.name == counts);
        let counts = values(counts.ok_or_else(|| unsound(format!("{name:?} has no counts")))?)?;
        let mut sums = values(info)?;
        let row = info.shape.first().and_then(|row| usize::try_from(*row).ok()).unwrap_or(0);
        for (sums, count) in sums.chunks_mut(row.max(1)).zip(&counts) {
            for sum in sums {
                // what was never used in the measurement weighs all columns alike
                *sum = if *count > 0.0 { *sum / count } else { 1.0 };
            }
        }
        columns.insert(name.to_owned(), sums);
    }
    Ok(columns)
}

/// What is left to read of a file of the old form.
struct Old<'a>(&'a [u8]);

impl<'a> Old<'a> {
    /// Reads a count of entries, then for each: its name, calls, and values summed over the calls.
    fn read(mut self) -> Result<BTreeMap<String, Vec<f32>>, String> {
        let mut columns = BTreeMap::new();
        for _ in 0..self.count()? {
            let len = self.count()?;
            if len > NAME_LIMIT {
                return Err(format!("a name of {len} bytes"));
            }
            let name = String::from_utf8_lossy(self.take(len)?).into_owned();
            let calls = self.count()?;
            let count = self.count()?;
            let bytes = self.take(count.saturating_mul(4))?;
            let values = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
            let calls = if calls > 0 { calls as f32 } else { 1.0 };
            columns.insert(name, values.map(|value| value / calls).collect());
        }
        Ok(columns)
    }

    fn count(&mut self) -> Result<usize, String> {
        let bytes = self.take(4)?;
        let number = bytes.first_chunk::<4>().map_or(-1, |four| i32::from_le_bytes(*four));
        usize::try_from(number).map_err(|_| format!("a count of {number}"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, left) = self.0.split_at_checked(len).ok_or("it is cut off, or no such file at all")?;
        self.0 = left;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let len = |n: usize| i32::try_from(n).unwrap().to_le_bytes();
        let mut bytes = len(entries.len()).to_vec();
        for (name, calls, values) in entries {
            bytes.extend(len(name.len()));
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend(len(values.len()));
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Imatrix, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Imatrix::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_old_form_holds_sums_over_calls() {
        let bytes = old(&[("blk.0.attn_q.weight", 4, &[8.0, 2.0]), ("output.weight", 0, &[3.0])]);
        let imatrix = read(&bytes).unwrap();
        assert_eq!(imatrix.columns["blk.0.attn_q.weight"], [2.0, 0.5]);
        assert_eq!(imatrix.columns["output.weight"], [3.0]);
        let shaped =
            |name: &str, shape: &[u64]| Tensor { name: name.into(), shape: shape.into(), stored: None };
        assert_eq!(imatrix.of(&shaped("blk.0.attn_q.weight", &[2, 9])), Some(&[2.0, 0.5][..]));
        assert_eq!(imatrix.of(&shaped("blk.1.attn_q.weight", &[2, 9])), None);
        let error = imatrix.check(&shaped("blk.0.attn_q.weight", &[3, 9])).unwrap_err().to_string();
        assert!(error.contains("2 columns") && error.contains("has 3"), "{error}");
        let told = |name: &str| imatrix.check_all(&[shaped(name, &[2, 9])]);
        assert!(told("blk.0.attn_q.weight").is_ok());
        assert!(told("blk.7.attn_q.weight").unwrap_err().to_string().contains("none of their tensors"));
    }

    #[test]
    fn what_is_no_importance_matrix_is_refused_and_allocates_nothing() {
        let sound = old(&[("blk.0.attn_q.weight", 4, &[8.0, 2.0])]);
        for cut in 0..sound.len() {
            assert!(read(&sound[..cut]).is_err(), "cut at {cut}");
        }
        let huge = [1i32, 3].iter().flat_map(|n| n.to_le_bytes()).chain(*b"abc");
        let huge: Vec<u8> = huge.chain([1i32, i32::MAX].iter().flat_map(|n| n.to_le_bytes())).collect();
        assert!(read(&huge).unwrap_err().contains("cut off"));
        assert!(read(&old(&[("a", 1, &[f32::NAN])])).unwrap_err().contains("is NaN"));
        assert!(read(&(-1i32).to_le_bytes()).unwrap_err().contains("count of -1"));
    }
}
