//! Qwen2 and Qwen2.5: Llama's shape, with biases on queries, keys and values.

use std::collections::BTreeMap;

use super::decoder::{Bias, Sizes};
use super::rope;
use super::{Arch, Config, Error, Recipe, activation, chosen_window, decoder_keys, scaled_evenly, variant};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::convert::{Change, Order};
use crate::gguf::Value;

pub(super) struct Qwen2;

const NAME: &str = "qwen2";

impl Arch for Qwen2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        scaled_evenly(NAME, config)?;
        activation(NAME, config, "hidden_act", &["silu", "swish"])?;
        if sizes.queries() != u64::from(sizes.hidden) {
            return Err(variant(NAME, "its heads together are not as wide as the model"));
        }
        Ok(())
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut keys = decoder_keys(config, &Sizes::of(config)?)?;
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
        let attention = sizes.attention(|_| Order::Same, [Bias::Always, Bias::Never]).into_iter();
        let matrices: Vec<_> = attention.chain(sizes.gated(Bias::Never)).collect();
        sizes.finish(NAME, list, &matrices, &sizes.two_norms())
    }
}
