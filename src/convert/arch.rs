use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Config, Error, TensorShape, llama};
use crate::checkpoint::{Dtype, Stored};
use crate::gguf;

/// What is particular to an architecture: its keys, and where each tensor comes from.
pub trait Arch: Sync {
    /// Returns `general.architecture`: `llama`.
    fn name(&self) -> &'static str;

    /// Returns the classes of config.json that are of this architecture.
    fn classes(&self) -> &'static [&'static str];

    /// Refuses variants that would be converted wrongly.
    fn check(&self, config: Config<'_>) -> Result<(), Error>;

    /// Returns the keys under the architecture's name.
    fn metadata(&self, config: Config<'_>) -> Result<Vec<(String, gguf::Value)>, Error>;

    /// Returns a recipe for every tensor of the GGUF, in the order of the file, given what
    /// is stored, by name. Every stored tensor must be used, or known to be of no use.
    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error>;
}

/// How one tensor of the GGUF is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Its name and shape.
    pub tensor: TensorShape,
    /// Where its values come from.
    pub from: Converted,
}

/// Where the values of a tensor come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Converted {
    /// From a stored tensor of the same shape.
    Stored {
        /// Its name in the checkpoint.
        name: String,
        /// The order of its rows.
        order: Order,
    },
    /// From the configuration.
    Made(Vec<f32>),
}

/// An order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As stored.
    Same,
    /// Within each head: the first row of the lower half, the first of the upper, the
    /// second of the lower… llama.cpp rotates neighbours, the hub's llama rotates halves.
    Interleaved {
        /// Heads that share the rows evenly.
        heads: u32,
    },
}

static ARCHITECTURES: [&dyn Arch; 1] = [&llama::Llama];

/// Returns the converter for a model by its config.json, before its weights are here.
pub fn check(config: &Json) -> Result<&'static dyn Arch, Error> {
    let config = Config(config);
    let class = config.class()?;
    let found = ARCHITECTURES.into_iter().find(|arch| arch.classes().contains(&class));
    let arch = found.ok_or_else(|| {
        let all: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.classes()).copied().collect();
        Error::Architecture { found: class.chars().take(80).collect(), supported: all.join(", ") }
    })?;
    if config.get("quantization_config").is_some() {
        let reason = "its weights are quantized already; use the original checkpoint".to_owned();
        return Err(Error::Variant { architecture: arch.name(), reason });
    }
    arch.check(config)?;
    Ok(arch)
}

/// Returns the tensors that the GGUF will have, in the order of the file, from config.json
/// and what is stored, by name. Fails as the conversion would, as far as headers tell.
pub fn gguf_tensors(config: &Json, stored: &BTreeMap<String, Stored>) -> Result<Vec<TensorShape>, Error> {
    Ok(recipes(config, stored)?.into_iter().map(|recipe| recipe.tensor).collect())
}

/// Returns the recipes, each checked against what is stored.
pub(super) fn recipes(config: &Json, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
    let recipes = check(config)?.recipes(Config(config), stored)?;
    for Recipe { tensor, from } in &recipes {
        let elements = tensor.shape.iter().try_fold(1u64, |product, len| product.checked_mul(*len));
        match from {
            Converted::Made(values) if elements == Some(values.len() as u64) => {}
            Converted::Made(values) => {
                let reason = format!("{} values for shape {:?}", values.len(), tensor.shape);
                return Err(Error::Tensor { name: tensor.name.clone(), reason });
            }
            Converted::Stored { name, order } => check_stored(tensor, name, *order, stored)?,
        }
    }
    Ok(recipes)
}

fn check_stored(
    tensor: &TensorShape,
    name: &str,
    order: Order,
    stored: &BTreeMap<String, Stored>,
) -> Result<(), Error> {
    let wrong = |reason: String| Error::Tensor { name: name.to_owned(), reason };
    let found = stored.get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))?;
    let is_same = found.shape.iter().rev().eq(&tensor.shape);
    if !is_same {
        let mut expected = tensor.shape.clone();
        expected.reverse();
        return Err(wrong(format!("shape {:?} where config.json calls for {expected:?}", found.shape)));
    }
    if matches!(found.dtype, Dtype::Other(_)) {
        return Err(wrong("it is stored as neither F32, F16 nor BF16".to_owned()));
    }
    let rows = found.shape.first().copied().unwrap_or_default();
    match order {
        Order::Interleaved { heads } if heads == 0 || !rows.is_multiple_of(u64::from(heads) * 2) => {
            Err(wrong(format!("{rows} rows are not {heads} heads of an even size")))
        }
        _ => Ok(()),
    }
}
