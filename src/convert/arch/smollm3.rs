//! `SmolLM3`: Llama's shape, and no positions in every fourth block.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Bias, Sizes};
use super::rope;
use super::{Arch, Config, Error, Recipe, activation, chosen_window, decoder_keys, scaled_evenly, variant};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct SmolLm3;

const NAME: &str = "smollm3";
/// `n_no_rope_layer_step` of llama.cpp's graph, which no key changes.
const STEP: u32 = 4;

impl Arch for SmolLm3 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["SmolLM3ForCausalLM"]
    }

    fn defaults(&self, _: &str) -> Vec<(&'static str, Json)> {
        vec![
            ("tie_word_embeddings", json!(true)),
            ("num_key_value_heads", json!(4)),
            ("rope_theta", json!(2_000_000.0)),
        ]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        scaled_evenly(NAME, config)?;
        activation(NAME, config, "hidden_act", &["silu", "swish"])?;
        for (key, part) in [("attention_bias", "attention"), ("mlp_bias", "feed-forward part")] {
            if config.optional_bool(key)? == Some(true) {
                return Err(variant(
                    NAME,
                    format!("its {part} has biases, which llama.cpp's graph does not add"),
                ));
            }
        }
        let has_positions = |layer: u32| !(layer + 1).is_multiple_of(STEP);
        let is_known = match config.get("no_rope_layers").and_then(Json::as_array) {
            // 1 where a block has positions, in spite of the key's name
            Some(list) => {
                list.len() as u64 == u64::from(sizes.layers)
                    && list.iter().zip(0..).all(|(flag, layer)| {
                        flag.as_u64().map(|flag| flag != 0) == Some(has_positions(layer))
                    })
            }
            None => config.optional_size("no_rope_layer_interval")?.is_none_or(|step| step == STEP),
        };
        if is_known {
            return Ok(());
        }
        Err(variant(
            NAME,
            format!(
                "llama.cpp leaves positions out in every block whose number {STEP} divides, and this model in others"
            ),
        ))
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let sizes = Sizes::of(config)?;
        let mut keys = decoder_keys(config, &sizes)?;
        keys.push(("vocab_size", sizes.vocab.into()));
        keys.push(("rope.dimension_count", sizes.head_dim.into()));
        keys.extend(rope::scaling(config)?.keys());
        Ok(keys)
    }

    fn exact_context(&self, config: Config<'_>) -> Result<Option<u32>, Error> {
        chosen_window(config)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        sizes.add_ends(&mut list, "model", "lm_head.weight", Change::NONE);
        let attention = sizes.attention(|heads| Order::Interleaved { heads }, [Bias::Never; 2]).into_iter();
        let matrices: Vec<_> = attention.chain(sizes.gated(Bias::Never)).collect();
        sizes.finish(NAME, list, &matrices, &sizes.two_norms())
    }
}
