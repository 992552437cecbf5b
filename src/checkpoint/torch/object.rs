//! What a pickle describes, as tensors over storages.

use std::collections::BTreeMap;

use super::pickle::{Node, Pickle, View};
use crate::checkpoint::{Error, Stored};

/// A run of values that tensors are views of.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

/// A tensor: its offset is counted from the start of its storage.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) stored: Stored,
    /// The number of its storage.
    pub(super) storage: usize,
}

/// Takes a pickled dict of tensors, each with a name. What is no tensor is an error.
pub(super) fn state_dict(pickle: &Pickle<'_>) -> Result<(BTreeMap<String, Tensor>, Vec<Storage>), Error> {
    let Node::Dict(pairs) = pickle.root() else {
        return Err(Error::Torch("it is no dict of tensors".to_owned()));
    };
    let mut tensors = BTreeMap::new();
    let mut storages = Storages::default();
    for (key, value) in pairs {
        let Some(name) = pickle.text(*key) else {
            return Err(Error::Torch("a name in its dict of tensors is no text, or too long".to_owned()));
        };
        let wrong = |why: String| {
            Error::Torch(format!("tensor {:?}: {why}", name.chars().take(120).collect::<String>()))
        };
        let Node::Tensor(view) = pickle.node(*value) else {
            return Err(wrong("it is no tensor: the file is of a training run, not of a model".to_owned()));
        };
        let tensor = storages.tensor(pickle, view).map_err(wrong)?;
        if tensors.insert(name.to_owned(), tensor).is_some() {
            return Err(wrong("it is there twice".to_owned()));
        }
    }
    if tensors.is_empty() {
        return Err(Error::Torch("it has no tensor".to_owned()));
    }
    Ok((tensors, storages.all))
}

/// Storages as tensors name them, each once.
#[derive(Default)]
struct Storages {
    all: Vec<Storage>,
    numbers: BTreeMap<String, usize>,
}

impl Storages {
    fn tensor(&mut self, pickle: &Pickle<'_>, view: &View) -> Result<Tensor, String> {
        let Node::Storage { key, dtype, elements } = *pickle.node(view.storage) else {
            return Err("it has no storage".to_owned());
        };
        let key = pickle.text(key).ok_or("its storage has no key")?;
        // torch's types all have whole bytes
        let each = dtype.bytes().unwrap_or(1);
        let storage_bytes = elements.checked_mul(each).ok_or("its storage is larger than any file")?;
        let count = view.shape.iter().try_fold(1u64, |product, len| product.checked_mul(*len));
        let count = count.filter(|count| view.offset.checked_add(*count).is_some_and(|end| end <= elements));
        let Some(count) = count else {
            return Err(format!("shape {:?} is not inside a storage of {elements} elements", view.shape));
        };
        if !view.is_contiguous() {
            return Err(format!(
                "strides {:?} for shape {:?} are not contiguous, which is not read: save it contiguous",
                view.strides, view.shape
            ));
        }
        let number = *self.numbers.entry(key.to_owned()).or_insert(self.all.len());
        if number == self.all.len() {
            self.all.push(Storage { key: key.to_owned(), elements, bytes: storage_bytes });
        }
        if self.all.get(number).is_none_or(|storage| storage.bytes != storage_bytes) {
            return Err("its storage has two sizes".to_owned());
        }
        let stored =
            Stored { dtype, shape: view.shape.clone(), offset: view.offset * each, bytes: count * each };
        Ok(Tensor { stored, storage: number })
    }
}

impl View {
    /// Tells whether the elements stand one after the other in the order of the indices.
    fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(len, stride)| {
            // the stride of a single row is never used
            let is_next = *len == 1 || *stride == expected;
            // at most the count of the elements, which has been computed
            expected *= len;
            is_next
        })
    }
}
