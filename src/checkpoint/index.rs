use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Error;

/// The list of shards beside the weights: which of them has which tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The index's own name.
    pub name: &'static str,
    /// The file's name of each tensor, by the tensor's name.
    pub shard_of: BTreeMap<String, String>,
}

impl Index {
    /// The index of safetensors.
    pub const SAFETENSORS: &'static str = "model.safetensors.index.json";
    /// The index of torch's files.
    pub const TORCH: &'static str = "pytorch_model.bin.index.json";

    /// Reads the index called `name`, one of the two.
    ///
    /// Names of files must be plain, and of the format that the index is for: no folders,
    /// nothing hidden.
    pub fn parse(name: &'static str, text: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct File {
            weight_map: BTreeMap<String, String>,
        }
        let bad = |reason: String| Error::Index { name, reason };
        let file: File = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        let end = if name == Self::TORCH { ".bin" } else { ".safetensors" };
        let is_plain = |name: &str| {
            let is_known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            name.ends_with(end) && !name.starts_with('.') && name.bytes().all(is_known)
        };
        if let Some(odd) = file.weight_map.values().find(|name| !is_plain(name)) {
            let odd: String = odd.chars().take(120).collect();
            return Err(bad(format!("{odd:?} is no name of a {end} file")));
        }
        if file.weight_map.is_empty() {
            return Err(bad("it names no tensor".to_owned()));
        }
        Ok(Self { name, shard_of: file.weight_map })
    }

    /// Returns the names of the files, sorted, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.shard_of.values().map(String::as_str).collect()
    }

    /// Joins the tensors of the shards, by the shards' names.
    ///
    /// # Errors
    /// A tensor that the index has elsewhere, or that two shards have.
    pub fn join<T>(
        &self,
        shards: BTreeMap<String, BTreeMap<String, T>>,
    ) -> Result<BTreeMap<String, T>, Error> {
        for (tensor, shard) in &self.shard_of {
            if !shards.get(shard).is_some_and(|tensors| tensors.contains_key(tensor)) {
                let (tensor, shard) = (tensor.clone(), shard.clone());
                return Err(Error::Missing { tensor, shard, index: self.name });
            }
        }
        let mut joined = BTreeMap::new();
        for (shard, tensors) in shards {
            for (tensor, what) in tensors {
                if joined.insert(tensor.clone(), what).is_some() {
                    return Err(Error::Twice { tensor, shard });
                }
            }
        }
        Ok(joined)
    }
}
