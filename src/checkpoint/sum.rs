//! Weights published as differences: what they are together with the base that they were made of.
//!
//! As the publishers' own tools add them (FastChat's `apply_delta`, Stanford Alpaca's
//! `weight_diff`): tensor by tensor, in the float that the differences are stored as, to which
//! the base is rounded first. A vocabulary that has grown gets a base for its new rows: the
//! mean of the others.

use std::collections::BTreeMap;

use super::folder::Folder;
use super::{Dtype, Error, Stored, float, published};

/// Tensors whose rows are the vocabulary: the only ones that may have grown.
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

/// How many values are held at once where all of a tensor is read.
const PIECE: u64 = 1 << 20;

/// A base and the differences to it, both open.
#[derive(Debug)]
pub(super) struct Sum {
    base: Folder,
    delta: Folder,
    tensors: BTreeMap<String, Stored>,
    /// What stands below the new rows of a tensor, the same for each.
    means: BTreeMap<String, Vec<f32>>,
}

impl Sum {
    pub(super) fn open(base: Folder, delta: Folder) -> Result<Self, Error> {
        let stored = base.tensors();
        let tensors = add(&stored, &delta.tensors())?;
        let mut means = BTreeMap::new();
        for (name, sum) in &tensors {
            if let Some(base_stored) = stored.get(name).filter(|stored| stored.shape != sum.shape) {
                means.insert(name.clone(), mean_row(&base, name, base_stored, sum.dtype)?);
            }
        }
        Ok(Self { base, delta, tensors, means })
    }

    pub(super) fn tensors(&self) -> &BTreeMap<String, Stored> {
        &self.tensors
    }

    /// Returns the file that has a tensor's differences.
    pub(super) fn path(&self, tensor: &str) -> Option<&std::path::Path> {
        self.delta.path(tensor)
    }

    /// Fills `out` with the bytes of `tensor` from `start` on; both are inside it.
    pub(super) fn read(&self, tensor: &str, start: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = start.saturating_add(out.len() as u64);
        let beyond = || Error::OutOfBounds { tensor: tensor.to_owned(), start, end };
        let stored = self.tensors.get(tensor).filter(|stored| end <= stored.bytes).ok_or_else(beyond)?;
        let each = stored.dtype.bytes().ok_or_else(beyond)?;
        let (first, last) = (start / each, end.div_ceil(each));
        let mut values = Vec::new();
        self.values(tensor, stored, first, last, &mut values)?;
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for value in values {
            float::encode(stored.dtype, value, &mut bytes);
        }
        let skip = usize::try_from(start - first * each).map_err(|_| beyond())?;
        out.copy_from_slice(bytes.get(skip..skip + out.len()).ok_or_else(beyond)?);
        Ok(())
    }

    /// Appends the sums `first..last` of a tensor, not yet rounded, to `out`.
    fn values(
        &self,
        name: &str,
        stored: &Stored,
        first: u64,
        last: u64,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let start = out.len();
        values(&self.delta, name, stored.dtype, first, last, out)?;
        let below = self.base.stored(name).ok_or_else(|| wrong(name, "the base has no such tensor"))?;
        let below_count = below.bytes / below.dtype.bytes().unwrap_or(1);
        let mut base = Vec::new();
        values(&self.base, name, below.dtype, first.min(below_count), last.min(below_count), &mut base)?;
        if let Some(mean) = self.means.get(name) {
            let new = first.max(below_count)..last.max(below_count);
            let len = mean.len().max(1) as u64;
            let at = |element: u64| usize::try_from(element % len).ok().and_then(|at| mean.get(at));
            base.extend(new.filter_map(at));
        }
        let sums = out.iter_mut().skip(start);
        if sums.len() != base.len() {
            return Err(wrong(name, "the base has fewer values"));
        }
        for (sum, base) in sums.zip(base) {
            *sum += float::round(stored.dtype, base);
        }
        Ok(())
    }

    /// Holds the weights to what the publisher of the differences tells of them.
    pub(super) fn check(&self, repo: &str) -> Result<bool, Error> {
        let Some(expected) = published::of(repo) else { return Ok(false) };
        let mut names: Vec<(&String, Option<&Stored>)> =
            self.tensors.iter().map(|(name, stored)| (name, Some(stored))).collect();
        let all = self.delta.tensors();
        names.extend(all.keys().filter(|name| !self.tensors.contains_key(*name)).map(|name| (name, None)));
        names.sort_by_key(|(name, _)| published::place(name));
        let mut total = 0.0;
        for (name, stored) in names {
            let sum = match stored {
                Some(stored) => self.total(name, stored)?,
                // a buffer that the base's publisher has left out
                None => all.get(name).map_or(0.0, published::rotary),
            };
            total = published::add(total, sum);
        }
        expected.check(total).map(|()| true)
    }

    fn total(&self, name: &str, stored: &Stored) -> Result<f64, Error> {
        let count = stored.bytes / stored.dtype.bytes().unwrap_or(1);
        let (mut at, mut total, mut piece) = (0, 0.0, Vec::new());
        while at < count {
            let end = count.min(at + PIECE);
            piece.clear();
            self.values(name, stored, at, end, &mut piece)?;
            total += piece.iter().map(|value| f64::from(float::round(stored.dtype, *value))).sum::<f64>();
            at = end;
        }
        Ok(total)
    }
}

/// Finds what a base and differences are together: the names, shapes and types of the sum.
///
/// # Errors
/// A tensor that only one of them has, or that has another shape, unless it is a vocabulary
/// that has grown.
pub fn add(
    base: &BTreeMap<String, Stored>,
    delta: &BTreeMap<String, Stored>,
) -> Result<BTreeMap<String, Stored>, Error> {
    if let Some(name) = base.keys().find(|name| !delta.contains_key(*name) && !is_buffer(name)) {
        return Err(wrong(name, "the differences have no such tensor"));
    }
    let mut sum = BTreeMap::new();
    for (name, stored) in delta {
        let Some(below) = base.get(name) else {
            if is_buffer(name) {
                continue;
            }
            return Err(wrong(name, "the base has no such tensor"));
        };
        if matches!(stored.dtype, Dtype::Other(_)) || matches!(below.dtype, Dtype::Other(_)) {
            return Err(wrong(name, "it is stored as neither F32, F16 nor BF16"));
        }
        let has_grown = match (below.shape.as_slice(), stored.shape.as_slice()) {
            ([rows, below], [all, row]) => EMBEDDINGS.contains(&name.as_str()) && below == row && rows < all,
            _ => false,
        };
        if below.shape != stored.shape && !has_grown {
            let why = format!("the base has shape {:?}, and the differences {:?}", below.shape, stored.shape);
            return Err(wrong(name, &why));
        }
        if has_grown && below.bytes == 0 {
            return Err(wrong(name, "the base has no rows"));
        }
        sum.insert(name.clone(), Stored { offset: 0, ..stored.clone() });
    }
    Ok(sum)
}

/// Whether a tensor is a table that is computed anew wherever the model runs: some files have it.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// Returns the mean of all rows of a base's tensor, in the float of the sum.
fn mean_row(base: &Folder, name: &str, stored: &Stored, dtype: Dtype) -> Result<Vec<f32>, Error> {
    let [rows, row] = *stored.shape.as_slice() else { return Err(wrong(name, "the base has no rows")) };
    let width = usize::try_from(row).map_err(|_| wrong(name, "a row is larger than memory"))?;
    let step = (PIECE / row.max(1)).max(1);
    // allocated only as far as rows have been read
    let mut totals: Vec<f64> = Vec::new();
    let (mut at, mut piece) = (0, Vec::new());
    while at < rows {
        let end = rows.min(at + step);
        piece.clear();
        values(base, name, stored.dtype, at * row, end * row, &mut piece)?;
        totals.resize(width, 0.0);
        for values in piece.chunks_exact(width.max(1)) {
            for (total, value) in totals.iter_mut().zip(values) {
                *total += f64::from(float::round(dtype, *value));
            }
        }
        at = end;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 is within f32")]
    let mean = |total: &f64| float::round(dtype, (total / rows as f64) as f32);
    Ok(totals.iter().map(mean).collect())
}

/// Appends the values `first..last` of a stored tensor to `out`.
fn values(
    folder: &Folder,
    name: &str,
    dtype: Dtype,
    first: u64,
    last: u64,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    let each = dtype.bytes().unwrap_or(1);
    let len = last.saturating_sub(first) * each;
    let len = usize::try_from(len).map_err(|_| wrong(name, "a piece is larger than memory"))?;
    let mut bytes = vec![0; len];
    folder.read(name, first * each, &mut bytes)?;
    float::decode(dtype, &bytes, out);
    Ok(())
}

fn wrong(tensor: &str, reason: &str) -> Error {
    Error::Sum { tensor: tensor.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::Checkpoint;
    use super::super::torch::testing::{Given, zip_file};
    use super::*;
    use crate::ids::Digest;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/golden/torch").join(name)
    }

    /// Compares a sum with what torch added up (`tests/reference/torch_files.py`).
    fn compare(name: &str) -> serde_json::Value {
        let told = fs::read(golden(name).join("sum.json")).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        let sum = Checkpoint::open(&golden(name)).unwrap();
        let tensors = sum.tensors();
        assert_eq!(tensors.len(), 4);
        for (tensor, stored) in tensors {
            let mut bytes = vec![0; usize::try_from(stored.bytes).unwrap()];
            sum.read(&tensor, 0, &mut bytes).unwrap();
            assert_eq!(told[&tensor]["shape"], serde_json::json!(stored.shape), "{tensor}");
            assert_eq!(told[&tensor]["sha256"], Digest::of(&bytes).to_string().as_str(), "{tensor}");
            // in pieces that end inside a value, and cross from the base's rows to the new one
            for (start, len) in [(1, 9), (3, bytes.len() - 4), (bytes.len() - 5, 5)] {
                let mut piece = vec![0; len];
                sum.read(&tensor, start as u64, &mut piece).unwrap();
                assert_eq!(piece, bytes[start..start + len], "{tensor} from {start}");
            }
            assert!(sum.read(&tensor, stored.bytes, &mut [0]).is_err());
        }
        told
    }

    #[test]
    fn half_differences_are_added_as_torch_adds_them() {
        compare("vicuna");
    }

    #[test]
    fn a_grown_vocabulary_stands_on_the_mean_of_its_rows() {
        let told = compare("alpaca");
        let sum = Sum::open(
            Folder::open(&golden("alpaca/base")).unwrap(),
            Folder::open(&golden("alpaca/delta")).unwrap(),
        );
        let sum = sum.unwrap();
        let all: f64 = sum.tensors().iter().map(|(name, stored)| sum.total(name, stored).unwrap()).sum();
        assert_eq!(serde_json::json!(all), told["total"]);
        assert!(!sum.check("org/unknown").unwrap());
        let error = sum.check("tatsu-lab/alpaca-7b-wdiff").unwrap_err();
        assert!(
            matches!(error, Error::Published { found, .. } if (f64::from(found) - all).abs() < 1e-6),
            "{error}"
        );
    }

    fn fault(base: &[Given], delta: &[Given]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, tensors) in [("base", base), ("delta", delta)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("pytorch_model.bin"), zip_file(tensors)).unwrap();
        }
        match Checkpoint::open(dir.path()) {
            Ok(sum) => format!("it has {:?}", sum.tensors().keys().collect::<Vec<_>>()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let one = |name: &str, shape: &[i64]| {
            let count = usize::try_from(shape.iter().product::<i64>()).unwrap();
            vec![Given::f32(name, name, shape, &vec![0.5; count])]
        };
        let two = |a: &str, b: &str| [one(a, &[2]), one(b, &[2])].concat();
        assert!(fault(&one("a", &[2]), &two("a", "b")).contains("\"b\" cannot be added up: the base has no"));
        assert!(fault(&two("a", "b"), &one("a", &[2])).contains("\"b\" cannot be added up: the differences"));
        assert!(fault(&one("a", &[2, 3]), &one("a", &[3, 3])).contains("[2, 3], and the differences [3, 3]"));
        let head = "lm_head.weight";
        assert!(fault(&one(head, &[3, 2]), &one(head, &[2, 2])).contains("shape"), "a row fewer");
        assert!(fault(&one(head, &[2, 3]), &one(head, &[3, 2])).contains("shape"), "another width");
        assert!(fault(&one(head, &[0, 2]), &one(head, &[3, 2])).contains("no rows"));
        let mut whole = one("a", &[2]);
        whole[0].class = "IntStorage";
        assert!(fault(&one("a", &[2]), &whole).contains("neither F32"));
        // tables that only one side has are computed anew wherever the model runs
        let table = "model.layers.0.self_attn.rotary_emb.inv_freq";
        assert_eq!(fault(&one("a", &[2]), &two("a", table)), "it has [\"a\"]");
        assert_eq!(fault(&two("a", table), &one("a", &[2])), "it has [\"a\"]");
    }
}
