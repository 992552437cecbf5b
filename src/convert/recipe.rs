//! How each tensor of the GGUF is made of what is stored: pure, and checked against headers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, TensorShape};
use crate::checkpoint::{Dtype, Stored};

/// How one tensor of the GGUF is made: its parts, one after the other along its rows.
///
/// A vector counts as rows of one value each.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Its name and shape.
    pub tensor: TensorShape,
    /// What its rows are made of; most tensors have one part.
    pub parts: Vec<Part>,
}

/// Rows that follow each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// All rows of a stored tensor.
    Stored {
        /// Its name in the checkpoint.
        name: String,
        /// The order of its rows.
        order: Order,
        /// What is done to each value.
        change: Change,
    },
    /// Values from the configuration.
    Made(Vec<f32>),
    /// As many zeros: a bias that the graph wants and the model does not have.
    Zeros(u64),
}

/// What is done to each value, in f32: `value * scale + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The factor.
    pub scale: f32,
    /// What is added afterwards.
    pub offset: f32,
}

impl Change {
    /// Leaves values as they are stored.
    pub const NONE: Self = Self { scale: 1.0, offset: 0.0 };
}

/// An order of rows: which stored row stands where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As stored.
    Same,
    /// Within each head: the first row of the lower half, the first of the upper, the
    /// second of the lower… llama.cpp's llama rotates neighbours, the hub's rotates halves.
    Interleaved {
        /// Heads that share the rows evenly.
        heads: u32,
    },
    /// Within each head, of its first `rotary` rows: those of even number, then those of
    /// odd number; the rest stays. GPT-J rotates neighbours, llama.cpp's phi2 rotates halves.
    Deinterleaved {
        /// Heads that share the rows evenly.
        heads: u32,
        /// Rows of each head that are rotated.
        rotary: u32,
    },
    /// Stored head by head, each with its rows of every part (queries, keys, values);
    /// wanted part by part. BLOOM and GPT-NeoX fuse them so.
    ByPart {
        /// Heads that share the rows evenly.
        heads: u32,
        /// Parts that share a head's rows evenly.
        parts: u32,
    },
    /// Rows are the columns of what is stored: GPT-2 multiplies from the other side.
    Transposed,
}

impl Order {
    /// Returns the stored row (for [`Order::Transposed`]: column) that stands at `row` of `rows`.
    ///
    /// Wants what [`Recipe::check`] has found sound.
    pub(super) fn stored_row(self, row: u64, rows: u64) -> u64 {
        match self {
            Self::Same | Self::Transposed => row,
            Self::Interleaved { heads } => {
                let head = rows / u64::from(heads);
                let (start, within) = (row / head * head, row % head);
                start + within / 2 + if within % 2 == 0 { 0 } else { head / 2 }
            }
            Self::Deinterleaved { heads, rotary } => {
                let (head, rotary) = (rows / u64::from(heads), u64::from(rotary));
                let (start, within) = (row / head * head, row % head);
                let half = rotary / 2;
                start
                    + if within < half {
                        within * 2
                    } else if within < rotary {
                        (within - half) * 2 + 1
                    } else {
                        within
                    }
            }
            Self::ByPart { heads, parts } => {
                let (heads, parts) = (u64::from(heads), u64::from(parts));
                let each = rows / heads / parts;
                let (part, head, within) = (row / (heads * each), row / each % heads, row % each);
                (head * parts + part) * each + within
            }
        }
    }

    /// Says what is wrong with this order for a tensor of `rows`.
    fn fault(self, rows: u64) -> Option<String> {
        let (heads, divisor) = match self {
            Self::Same | Self::Transposed => return None,
            Self::Interleaved { heads } => (heads, u64::from(heads) * 2),
            Self::Deinterleaved { heads, .. } => (heads, u64::from(heads)),
            Self::ByPart { heads, parts } => (heads, u64::from(heads) * u64::from(parts)),
        };
        if divisor == 0 || rows == 0 || !rows.is_multiple_of(divisor) {
            return Some(format!("{rows} rows are not {heads} heads of a fitting size"));
        }
        match self {
            Self::Deinterleaved { rotary, .. }
                if rotary % 2 != 0 || u64::from(rotary) > rows / u64::from(heads) =>
            {
                Some(format!("{rotary} rotated rows in heads of {}", rows / u64::from(heads)))
            }
            _ => None,
        }
    }
}

/// A tensor's shape as rows: how long each is, and how many there are.
pub(super) fn rows_of(shape: &[u64]) -> (u64, u64) {
    match shape {
        [] => (1, 1),
        [len] => (1, *len),
        [row, others @ ..] => (*row, others.iter().fold(1, |product, len| product.saturating_mul(*len))),
    }
}

impl Recipe {
    /// Checks that every part is stored as the recipe takes it.
    pub(super) fn check(&self, stored: &BTreeMap<String, Stored>) -> Result<(), Error> {
        let mut rows = 0;
        for part in &self.parts {
            rows += match part {
                Part::Made(values) => self.check_made(values.len() as u64)?,
                Part::Zeros(len) => self.check_made(*len)?,
                Part::Stored { name, order, .. } => self.check_stored(name, *order, stored)?,
            };
        }
        let (_, expected) = rows_of(&self.tensor.shape);
        if rows == expected {
            return Ok(());
        }
        let reason = format!("{rows} rows for shape {:?}", self.tensor.shape);
        Err(Error::Tensor { name: self.tensor.name.clone(), reason })
    }

    fn check_made(&self, len: u64) -> Result<u64, Error> {
        let (row, _) = rows_of(&self.tensor.shape);
        if row > 0 && len.is_multiple_of(row) {
            return Ok(len / row);
        }
        let reason = format!("{len} values for shape {:?}", self.tensor.shape);
        Err(Error::Tensor { name: self.tensor.name.clone(), reason })
    }

    fn check_stored(
        &self,
        name: &str,
        order: Order,
        stored: &BTreeMap<String, Stored>,
    ) -> Result<u64, Error> {
        let wrong = |reason: String| Error::Tensor { name: name.to_owned(), reason };
        let found = stored.get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))?;
        let mut shape = found.shape.clone();
        if order != Order::Transposed {
            shape.reverse();
        }
        // one of several parts may have as many rows as it likes: their sum is checked
        let is_alike = if self.parts.len() == 1 {
            shape == self.tensor.shape
        } else {
            shape.len() == self.tensor.shape.len()
                && (shape.len() < 2 || shape.first() == self.tensor.shape.first())
        };
        if !is_alike || (order == Order::Transposed && shape.len() != 2) {
            let mut expected = self.tensor.shape.clone();
            if order != Order::Transposed {
                expected.reverse();
            }
            return Err(wrong(format!("shape {:?} where config.json calls for {expected:?}", found.shape)));
        }
        if matches!(found.dtype, Dtype::Other(_)) {
            return Err(wrong("it is stored as neither F32, F16 nor BF16".to_owned()));
        }
        let (_, rows) = rows_of(&shape);
        order.fault(rows).map_or(Ok(rows), |fault| Err(wrong(fault)))
    }
}

/// Recipes as they gather.
#[derive(Debug)]
pub(super) struct List<'a> {
    stored: &'a BTreeMap<String, Stored>,
    recipes: Vec<Recipe>,
}

impl<'a> List<'a> {
    pub(super) fn new(stored: &'a BTreeMap<String, Stored>) -> Self {
        Self { stored, recipes: Vec::new() }
    }

    /// Tells whether the checkpoint has a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// Returns `prefix` if the checkpoint puts it before `name`, else nothing: some were saved
    /// from the bare model, without its head.
    pub(super) fn prefix(&self, prefix: &'static str, name: &str) -> &'static str {
        if self.has(&format!("{prefix}{name}")) || !self.has(name) { prefix } else { "" }
    }

    /// Adds the weight and the bias of a layer; the bias is as long as the weight has rows.
    pub(super) fn add_both(&mut self, ours: &str, theirs: &str, shape: &[u64], order: Order) {
        let (_, rows) = rows_of(shape);
        // what is stored from the other side has its bias as ever
        let of_bias = if order == Order::Transposed { Order::Same } else { order };
        self.add_ordered(&format!("{ours}.weight"), &format!("{theirs}.weight"), shape, order);
        self.add_ordered(&format!("{ours}.bias"), &format!("{theirs}.bias"), &[rows], of_bias);
    }

    /// Adds weights and biases of every block: names within it, ours and theirs, shape and order.
    pub(super) fn add_blocks(&mut self, layers: u32, theirs: &str, parts: &[(&str, &str, &[u64], Order)]) {
        for layer in 0..layers {
            for (our_part, their_part, shape, order) in parts {
                let theirs = format!("{theirs}.{layer}.{their_part}");
                self.add_both(&format!("blk.{layer}.{our_part}"), &theirs, shape, *order);
            }
        }
    }

    /// Adds a tensor that is stored as it shall be.
    pub(super) fn add(&mut self, ours: &str, theirs: &str, shape: &[u64]) {
        self.add_ordered(ours, theirs, shape, Order::Same);
    }

    /// Adds a tensor whose rows are stored in another order.
    pub(super) fn add_ordered(&mut self, ours: &str, theirs: &str, shape: &[u64], order: Order) {
        self.add_changed(ours, theirs, shape, order, Change::NONE);
    }

    /// Adds a tensor whose values are stored otherwise.
    pub(super) fn add_changed(
        &mut self,
        ours: &str,
        theirs: &str,
        shape: &[u64],
        order: Order,
        change: Change,
    ) {
        self.add_parts(ours, shape, vec![Part::Stored { name: theirs.to_owned(), order, change }]);
    }

    /// Adds a tensor that is not stored.
    pub(super) fn add_made(&mut self, ours: &str, shape: &[u64], values: Vec<f32>) {
        self.add_parts(ours, shape, vec![Part::Made(values)]);
    }

    /// Adds a bias that the graph wants and the model does not have.
    pub(super) fn add_zeros(&mut self, ours: &str, len: u32) {
        self.add_parts(ours, &[len.into()], vec![Part::Zeros(len.into())]);
    }

    /// Adds a bias, zero where the checkpoint has none.
    pub(super) fn add_or_zeros(&mut self, ours: &str, theirs: &str, len: u32) {
        if self.has(theirs) { self.add(ours, theirs, &[len.into()]) } else { self.add_zeros(ours, len) }
    }

    /// Adds a tensor of several parts.
    pub(super) fn add_parts(&mut self, ours: &str, shape: &[u64], parts: Vec<Part>) {
        let tensor = TensorShape { name: ours.to_owned(), shape: shape.to_vec() };
        self.recipes.push(Recipe { tensor, parts });
    }

    /// Returns the recipes, if they use all that is stored but what `is_useless` knows.
    pub(super) fn finish(
        self,
        architecture: &str,
        is_useless: impl Fn(&str) -> bool,
    ) -> Result<Vec<Recipe>, Error> {
        let parts = self.recipes.iter().flat_map(|recipe| &recipe.parts);
        let used: BTreeSet<&str> = parts
            .filter_map(|part| match part {
                Part::Stored { name, .. } => Some(name.as_str()),
                Part::Made(_) | Part::Zeros(_) => None,
            })
            .collect();
        match self.stored.keys().find(|name| !used.contains(name.as_str()) && !is_useless(name)) {
            None => Ok(self.recipes),
            Some(left) => Err(Error::Tensor {
                name: left.clone(),
                reason: format!("the converter of {architecture} knows no use for it"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: Order, rows: u64) -> Vec<u64> {
        assert_eq!(order.fault(rows), None);
        (0..rows).map(|row| order.stored_row(row, rows)).collect()
    }

    #[test]
    fn orders_move_rows_within_heads_and_between_parts() {
        assert_eq!(order(Order::Interleaved { heads: 2 }, 8), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(
            order(Order::Deinterleaved { heads: 2, rotary: 4 }, 12),
            [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
        );
        assert_eq!(order(Order::ByPart { heads: 2, parts: 3 }, 12), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }

    #[test]
    fn an_order_that_does_not_divide_the_rows_is_a_fault() {
        for order in [
            Order::Interleaved { heads: 0 },
            Order::Interleaved { heads: 3 },
            Order::Deinterleaved { heads: 2, rotary: 10 },
            Order::Deinterleaved { heads: 2, rotary: 3 },
            Order::ByPart { heads: 2, parts: 3 },
        ] {
            assert!(order.fault(8).is_some(), "{order:?}");
        }
    }
}
