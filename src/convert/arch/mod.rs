//! What is particular to each architecture: one file each, behind [`Arch`].

mod bloom;
mod decoder;
mod gemma2;
mod gemma3;
mod gpt2;
mod gptj;
mod gptneo;
mod gptneox;
mod llama;
mod nearest;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod sizes;
mod smollm3;
mod t5;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use decoder::Sizes;

use super::{Config, Error, Recipe, TensorShape};
use crate::checkpoint::Stored;
use crate::gguf;

/// What is particular to an architecture: its keys, and where each tensor comes from.
pub trait Arch: Sync {
    /// Returns `general.architecture`: `llama`.
    fn name(&self) -> &'static str;

    /// Returns the classes of config.json that are of this architecture.
    fn classes(&self) -> &'static [&'static str];

    /// Returns what transformers takes where config.json of a class has no such key.
    fn defaults(&self, _class: &str) -> Vec<(&'static str, Json)> {
        Vec::new()
    }

    /// Refuses variants that would be converted wrongly.
    fn check(&self, config: Config<'_>) -> Result<(), Error>;

    /// Returns the keys under the architecture's name, which is put before each.
    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, gguf::Value)>, Error>;

    /// Returns the tokens up to which llama.cpp computes what the model was trained for,
    /// where its graph lacks something that tells beyond.
    fn exact_context(&self, _config: Config<'_>) -> Result<Option<u32>, Error> {
        Ok(None)
    }

    /// Returns a recipe for every tensor of the GGUF, in any order, given what is stored,
    /// by name. Every stored tensor must be used, or known to be of no use.
    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error>;
}

static ARCHITECTURES: &[&dyn Arch] = &[
    // by the names of the families
    &bloom::Bloom,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &gpt2::Gpt2,
    &gptj::GptJ,
    &gptneo::GptNeo,
    &gptneox::GptNeoX,
    &llama::Llama,
    &phi3::Phi3,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &smollm3::SmolLm3,
    &t5::T5,
];

/// Returns the converter for a model by its config.json, before its weights are here.
pub fn check(config: &Json) -> Result<&'static dyn Arch, Error> {
    Ok(read(config)?.0)
}

/// Returns config.json as its architecture takes it: flat, also where a model that sees keeps
/// the part for text in an object of its own, and with what it leaves to defaults.
pub fn plain(config: &Json) -> Result<Json, Error> {
    Ok(read(config)?.1)
}

/// Returns the tokens up to which a conversion gives what the model was trained for, where
/// that is less than config.json says.
pub fn exact_context(config: &Json) -> Result<Option<u32>, Error> {
    let (arch, config) = read(config)?;
    let trained = Config(&config).optional_size("max_position_embeddings")?;
    let exact = arch.exact_context(Config(&config))?;
    Ok(exact.filter(|exact| trained.is_none_or(|trained| *exact < trained)))
}

/// Finds the converter, and checks that it can take the model.
fn read(config: &Json) -> Result<(&'static dyn Arch, Json), Error> {
    let class = Config(config).class()?;
    let found = ARCHITECTURES.iter().copied().find(|arch| arch.classes().contains(&class));
    let arch = found.ok_or_else(|| {
        let all: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.classes()).copied().collect();
        let near =
            nearest::nearest(class, &all).map_or_else(String::new, |near| format!("; the nearest is {near}"));
        Error::Architecture { found: class.chars().take(80).collect(), supported: all.join(", "), near }
    })?;
    if Config(config).get("quantization_config").is_some() {
        let reason = "its weights are quantized already; use the original checkpoint";
        return Err(variant(arch.name(), reason));
    }
    let mut all = config.as_object().cloned().unwrap_or_default();
    if let Some(Json::Object(text)) = all.remove("text_config") {
        let own = text.into_iter().filter(|(key, _)| key != "architectures" && key != "text_config");
        all.extend(own);
    }
    for (key, value) in arch.defaults(class) {
        all.entry(key).or_insert(value);
    }
    let plain = Json::Object(all);
    arch.check(Config(&plain))?;
    Ok((arch, plain))
}

/// Returns the keys of the GGUF that config.json tells: `general.architecture`, then those
/// under its name. Its context is the one that is exact.
pub fn gguf_keys(config: &Json) -> Result<Vec<(String, gguf::Value)>, Error> {
    let (arch, plain) = read(config)?;
    let name = arch.name();
    let exact = arch.exact_context(Config(&plain))?;
    let mut keys = vec![("general.architecture".to_owned(), gguf::Value::from(name))];
    for (key, value) in arch.metadata(Config(&plain))? {
        let value = match (key, exact, &value) {
            ("context_length", Some(exact), gguf::Value::U32(trained)) => exact.min(*trained).into(),
            _ => value,
        };
        keys.push((format!("{name}.{key}"), value));
    }
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
    let (arch, plain) = read(config)?;
    let mut recipes = arch.recipes(Config(&plain), stored)?;
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

/// Returns the keys that every decoder of Llama's kind has.
fn decoder_keys(config: Config<'_>, sizes: &Sizes) -> Result<Vec<(&'static str, gguf::Value)>, Error> {
    let epsilon = config.optional_float("rms_norm_eps")?.unwrap_or(1e-6);
    let mut keys: Vec<(&'static str, gguf::Value)> = vec![
        ("block_count", sizes.layers.into()),
        ("context_length", config.size("max_position_embeddings")?.into()),
        ("embedding_length", sizes.hidden.into()),
        ("feed_forward_length", sizes.feed_forward.into()),
        ("attention.head_count", sizes.heads.into()),
        ("attention.head_count_kv", sizes.kv_heads.into()),
        ("rope.freq_base", single(rope::base(config)?).into()),
        ("attention.layer_norm_rms_epsilon", single(epsilon).into()),
    ];
    if config.optional_size("head_dim")?.is_some() {
        keys.push(("attention.key_length", sizes.head_dim.into()));
        keys.push(("attention.value_length", sizes.head_dim.into()));
    }
    Ok(keys)
}

/// Refuses an activation that the graph does not have; `known` names the one that it has.
fn activation(
    architecture: &'static str,
    config: Config<'_>,
    key: &str,
    known: &[&str],
) -> Result<(), Error> {
    match config.text(key).filter(|name| !known.contains(name)) {
        None => Ok(()),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            let known = known.first().copied().unwrap_or_default();
            Err(variant(architecture, format!("its activation is {other}, llama.cpp has {known}")))
        }
    }
}

/// Refuses positions that are scaled otherwise than all alike.
fn scaled_evenly(architecture: &'static str, config: Config<'_>) -> Result<(), Error> {
    match rope::scaling(config)? {
        rope::Scaling::None | rope::Scaling::Linear { .. } => Ok(()),
        other => Err(variant(architecture, other.refusal().unwrap_or_default())),
    }
}

/// Returns the window of attention, where config.json has one and a block makes use of it.
fn window(config: Config<'_>) -> Result<Option<u32>, Error> {
    let is_full = |kind: &Json| kind.as_str() == Some("full_attention");
    if config.get("layer_types").and_then(Json::as_array).is_some_and(|types| types.iter().all(is_full)) {
        return Ok(None);
    }
    config.optional_size("sliding_window")
}

/// Returns the window of families where `use_sliding_window` has to ask for it.
fn chosen_window(config: Config<'_>) -> Result<Option<u32>, Error> {
    let is_chosen = config.optional_bool("use_sliding_window")? == Some(true);
    if is_chosen { window(config) } else { Ok(None) }
}

fn variant(architecture: &'static str, reason: impl Into<String>) -> Error {
    Error::Variant { architecture, reason: reason.into() }
}

#[cfg(test)]
mod older_tests;
#[cfg(test)]
mod tests;
