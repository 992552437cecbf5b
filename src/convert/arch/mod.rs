//! What is particular to each architecture: one file each, behind [`Arch`].

mod llama;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Config, Error, Recipe, TensorShape};
use crate::checkpoint::Stored;
use crate::gguf;

/// What is particular to an architecture: its keys, and where each tensor comes from.
pub trait Arch: Sync {
    /// Returns `general.architecture`: `llama`.
    fn name(&self) -> &'static str;

    /// Returns the classes of config.json that are of this architecture.
    fn classes(&self) -> &'static [&'static str];

    /// Refuses variants that would be converted wrongly.
    fn check(&self, config: Config<'_>) -> Result<(), Error>;

    /// Returns the keys under the architecture's name, which is put before each.
    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, gguf::Value)>, Error>;

    /// Returns a recipe for every tensor of the GGUF, in any order, given what is stored,
    /// by name. Every stored tensor must be used, or known to be of no use.
    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error>;
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

/// Returns the keys of the GGUF that config.json tells: `general.architecture`, then those
/// under its name.
pub fn gguf_keys(config: &Json) -> Result<Vec<(String, gguf::Value)>, Error> {
    let arch = check(config)?;
    let name = arch.name();
    let mut keys = vec![("general.architecture".to_owned(), gguf::Value::from(name))];
    let own = arch.metadata(Config(config))?;
    keys.extend(own.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
    Ok(keys)
}

/// Returns the tensors that the GGUF will have, in the order of the file, from config.json
/// and what is stored, by name. Fails as the conversion would, as far as headers tell.
pub fn gguf_tensors(config: &Json, stored: &BTreeMap<String, Stored>) -> Result<Vec<TensorShape>, Error> {
    Ok(recipes(config, stored)?.into_iter().map(|recipe| recipe.tensor).collect())
}

/// Returns the recipes in the order of the file, each checked against what is stored.
///
/// The order is llama.cpp's own (`weight_name_comparer`), which its quantizer keeps.
pub(super) fn recipes(config: &Json, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
    let mut recipes = check(config)?.recipes(Config(config), stored)?;
    recipes.iter().try_for_each(|recipe| recipe.check(stored))?;
    let place = |recipe: &Recipe| (crate::quant::mix::layer(&recipe.tensor.name), recipe.tensor.name.clone());
    recipes.sort_by_cached_key(place);
    Ok(recipes)
}

/// Returns an f64 of config.json as GGUF holds it.
#[expect(clippy::cast_possible_truncation, reason = "GGUF holds these as f32")]
fn single(number: f64) -> f32 {
    number as f32
}
