//! Gemma 3: Gemma 2 with normalized queries and keys, a window in five of six blocks, and two
//! bases of positions. Of models that see, the part that reads and writes text.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decoder::{Norm, Sizes};
use super::gemma2::{ONE_MORE, check_pattern, check_queries, matrices, norms};
use super::rope::{self, Scaling};
use super::{Arch, Config, Error, Recipe, activation, decoder_keys, single, variant};
use crate::checkpoint::Stored;
use crate::convert::recipe::List;
use crate::gguf::Value;

pub(super) struct Gemma3;

const NAME: &str = "gemma3";
/// Blocks of the 27B, whose queries llama.cpp scales in another way, by this number alone.
const BLOCKS_OF_27B: u32 = 62;
/// What names of the text part start with, where there are others: on the hub, and as transformers 5 writes them.
const NESTED: [(&str, &str); 2] =
    [("language_model.model", "language_model.lm_head.weight"), ("model.language_model", "lm_head.weight")];
/// What names of the parts that see start with.
const SIGHT: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

impl Arch for Gemma3 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn classes(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"]
    }

    fn defaults(&self, _: &str) -> Vec<(&'static str, Json)> {
        // those of the 4B, whose config.json leaves all of them out
        vec![
            ("tie_word_embeddings", json!(true)),
            ("vocab_size", json!(262_208)),
            ("num_attention_heads", json!(8)),
            ("num_key_value_heads", json!(4)),
            ("head_dim", json!(256)),
            ("max_position_embeddings", json!(131_072)),
            ("query_pre_attn_scalar", json!(256)),
            ("sliding_window", json!(4096)),
            ("rope_theta", json!(1_000_000.0)),
            ("rope_local_base_freq", json!(10_000.0)),
        ]
    }

    fn check(&self, config: Config<'_>) -> Result<(), Error> {
        let sizes = Sizes::of(config)?;
        activation(NAME, config, "hidden_activation", &["gelu_pytorch_tanh"])?;
        check_queries(NAME, config, &sizes, BLOCKS_OF_27B)?;
        let scaling = rope::scaling(config)?;
        if !matches!(scaling, Scaling::None | Scaling::Linear { .. }) {
            return Err(variant(NAME, scaling.refusal().unwrap_or_default()));
        }
        if config.get("attn_logit_softcapping").is_some() {
            return Err(variant(NAME, "its attention is capped, which llama.cpp's graph does not do"));
        }
        if config.get("sliding_window").is_none() {
            return Err(variant(NAME, "it has no sliding_window, as no published model of its kind"));
        }
        check_pattern(NAME, config, sizes.layers, 6)
    }

    fn metadata(&self, config: Config<'_>) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut keys = decoder_keys(config, &Sizes::of(config)?)?;
        keys.extend(rope::scaling(config)?.keys());
        if let Some(base) = rope::base_in_window(config)? {
            keys.push(("rope.freq_base_swa", single(base).into()));
        }
        let cap = config.optional_float("final_logit_softcapping")?;
        keys.extend(cap.map(|cap| ("final_logit_softcapping", single(cap).into())));
        keys.push(("attention.sliding_window", config.size("sliding_window")?.into()));
        Ok(keys)
    }

    fn recipes(&self, config: Config<'_>, stored: &BTreeMap<String, Stored>) -> Result<Vec<Recipe>, Error> {
        let sizes = Sizes::of(config)?;
        let mut list = List::new(stored);
        let nested = NESTED.into_iter().find(|(model, _)| list.has(&format!("{model}.norm.weight")));
        let (model, head) = nested.unwrap_or(("model", "lm_head.weight"));
        sizes.add_ends(&mut list, model, head, ONE_MORE);
        let within = |ours, theirs| Norm { ours, theirs, size: sizes.head_dim, change: ONE_MORE };
        let mut all = norms(&sizes);
        all.push(within("attn_q_norm", "self_attn.q_norm"));
        all.push(within("attn_k_norm", "self_attn.k_norm"));
        sizes.add_blocks(&mut list, model, &matrices(&sizes), &all);
        list.finish(NAME, |name| {
            sizes.is_left_over(name) || SIGHT.iter().any(|start| name.starts_with(start))
        })
    }
}
