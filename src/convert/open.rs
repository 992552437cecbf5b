use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::Value as Json;

use super::arch::{gguf_keys, plain, recipes};
use super::recipe::rows_of;
use super::tokenizer::{TokenizerFiles, tokenizer_keys};
use super::{Error, Order, Part, PromptStyle, Recipe, TensorShape};
use crate::checkpoint::{Checkpoint, Dtype, Stored, description, float};
use crate::gguf::Value;
use crate::quant::Quant;

/// A checkpoint seen as the GGUF that it becomes: keys, tensors, and the values of any rows.
///
/// Nothing is held but headers and the vocabulary. Rows may be read in any order and from
/// several threads at once.
#[derive(Debug)]
pub struct Conversion {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorShape>,
    recipes: Vec<Recipe>,
    checkpoint: Checkpoint,
    stored: BTreeMap<String, Stored>,
}

impl Conversion {
    /// Opens the checkpoint in `dir`, and checks all that can be checked without its values.
    ///
    /// Where it has no chat template, it gets the one of `style`.
    pub fn open(dir: &Path, style: Option<PromptStyle>) -> Result<Self, Error> {
        let checkpoint_dir = dir;
        let dir = &description(dir);
        let config = read_json(&dir.join("config.json"))?;
        let mut metadata = gguf_keys(&config)?;
        let checkpoint = Checkpoint::open(checkpoint_dir)?;
        let stored = checkpoint.tensors();
        let recipes = recipes(&config, &stored)?;
        let keys = tokenizer_keys(&plain(&config)?, &TokenizerFiles::read(dir)?.with_prompt_style(style))?;
        let (general, tokenizer): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(key, _)| key.starts_with("general."));
        metadata.splice(1..1, [("general.type".to_owned(), "model".into())].into_iter().chain(general));
        metadata.extend(tokenizer);
        let tensors = recipes.iter().map(|recipe| recipe.tensor.clone()).collect();
        Ok(Self { metadata, tensors, recipes, checkpoint, stored })
    }

    /// Returns every key of the GGUF, those that tell the quant included.
    pub fn metadata(&self, quant: Quant) -> Vec<(String, Value)> {
        let mut keys = self.metadata.clone();
        let vocabulary = keys.iter().position(|(key, _)| key.starts_with("tokenizer.")).unwrap_or(keys.len());
        let of_quant = [
            ("general.file_type".to_owned(), quant.ftype().into()),
            ("general.quantization_version".to_owned(), 2u32.into()),
        ];
        keys.splice(vocabulary..vocabulary, of_quant);
        keys
    }

    /// Returns the tensors of the GGUF, in the order of the file.
    pub fn tensors(&self) -> &[TensorShape] {
        &self.tensors
    }

    /// Returns the float that most of the weights are stored as.
    ///
    /// Values that conversion changes are rounded to it before they are quantized, as they
    /// are where a GGUF of this type stands between.
    pub fn own_float(&self) -> Quant {
        let bytes_of = |dtype: Dtype| -> u64 {
            self.stored.values().filter(|stored| stored.dtype == dtype).map(|stored| stored.bytes).sum()
        };
        let (f32, f16, bf16) = (bytes_of(Dtype::F32), bytes_of(Dtype::F16), bytes_of(Dtype::Bf16));
        if f32 >= f16.max(bf16) {
            Quant::F32
        } else if bf16 >= f16 {
            Quant::Bf16
        } else {
            Quant::F16
        }
    }

    /// Appends the values of `rows` of a tensor (by its number in [`Self::tensors`]) to `out`.
    ///
    /// # Errors
    /// Rows that are not there; files that cannot be read; a value that is not finite.
    pub fn read(&self, tensor: usize, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), Error> {
        let recipe = self.recipes.get(tensor).ok_or_else(|| Error::Tensor {
            name: tensor.to_string(),
            reason: "there is no tensor of that number".to_owned(),
        })?;
        let (row, _) = rows_of(&recipe.tensor.shape);
        let (start, mut first) = (out.len(), 0);
        for part in &recipe.parts {
            let count = match part {
                Part::Made(values) => values.len() as u64 / row.max(1),
                Part::Zeros(len) => len / row.max(1),
                Part::Stored { name, order, .. } => self.rows_stored(name, *order),
            };
            // the rows of this part that are wanted, counted within it
            let wanted =
                rows.start.clamp(first, first + count) - first..rows.end.clamp(first, first + count) - first;
            if !wanted.is_empty() {
                match part {
                    Part::Made(values) => {
                        let range = index(wanted.start * row)..index(wanted.end * row);
                        out.extend_from_slice(values.get(range).unwrap_or_default());
                    }
                    Part::Zeros(_) => {
                        out.resize(out.len() + index((wanted.end - wanted.start) * row), 0.0);
                    }
                    Part::Stored { name, order, change } => {
                        let begun = out.len();
                        self.read_stored(name, *order, row, count, wanted, out)?;
                        if *change != super::Change::NONE {
                            for value in out.iter_mut().skip(begun) {
                                *value = *value * change.scale + change.offset;
                            }
                        }
                    }
                }
            }
            first += count;
        }
        let read = out.get(start..).unwrap_or_default();
        let wrong = |reason: String| Error::Tensor { name: recipe.tensor.name.clone(), reason };
        if read.len() as u64 != rows.end.saturating_sub(rows.start).saturating_mul(row) {
            return Err(wrong(format!("there are no rows {}..{}", rows.start, rows.end)));
        }
        match read.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => {
                let file = recipe.parts.iter().find_map(|part| {
                    let Part::Stored { name, .. } = part else { return None };
                    self.checkpoint.path(name)
                });
                let file = file.unwrap_or(Path::new("the checkpoint")).display();
                Err(wrong(format!("a value is {value}: fetch {file} again, or take another checkpoint")))
            }
        }
    }

    fn rows_stored(&self, name: &str, order: Order) -> u64 {
        let mut shape = self.stored.get(name).map_or(Vec::new(), |stored| stored.shape.clone());
        if order != Order::Transposed {
            shape.reverse();
        }
        rows_of(&shape).1
    }

    /// Reads rows of one stored tensor: in runs that lie together where there are such.
    fn read_stored(
        &self,
        name: &str,
        order: Order,
        row: u64,
        count: u64,
        rows: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let dtype = self.stored.get(name).map_or(Dtype::F32, |stored| stored.dtype);
        let each = dtype.bytes().unwrap_or(1);
        let mut raw = Vec::new();
        let mut piece = |from: u64, values: u64, out: &mut Vec<f32>| -> Result<(), Error> {
            raw.resize(index(values * each), 0);
            self.checkpoint.read(name, from * each, &mut raw)?;
            float::decode(dtype, &raw, out);
            Ok(())
        };
        match order {
            Order::Same => piece(rows.start * row, (rows.end - rows.start) * row, out),
            Order::Transposed => {
                // stored row by row, each with a run of the columns that are wanted
                let (begun, width) = (out.len(), index(rows.end - rows.start));
                let mut columns = Vec::new();
                for at in 0..row {
                    piece(at * count + rows.start, rows.end - rows.start, &mut columns)?;
                }
                let row = index(row);
                out.resize(begun + width * row, 0.0);
                for (at, stored) in columns.chunks_exact(width).enumerate() {
                    for (column, value) in stored.iter().enumerate() {
                        if let Some(slot) = out.get_mut(begun + column * row + at) {
                            *slot = *value;
                        }
                    }
                }
                Ok(())
            }
            _ if row == 1 => {
                // a vector: read whole, since its values move one by one
                let mut all = Vec::new();
                piece(0, count, &mut all)?;
                out.extend(rows.filter_map(|at| all.get(index(order.stored_row(at, count))).copied()));
                Ok(())
            }
            _ => {
                for at in rows {
                    piece(order.stored_row(at, count) * row, row, out)?;
                }
                Ok(())
            }
        }
    }
}

/// Sizes that were checked against headers fit memory's own.
#[expect(clippy::cast_possible_truncation, reason = "the programs are for 64 bits")]
fn index(number: u64) -> usize {
    number as usize
}

/// Reads a JSON file that must be there.
pub(super) fn read_json(path: &Path) -> Result<Json, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}
