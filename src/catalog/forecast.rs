//! Facts of a model from the sizes that are known of it, before its source is asked.

use super::{Family, Figures, ModelFacts, Stored, TensorShape, windows};
use crate::source::Pinned;

impl Figures {
    /// Forecasts the facts of a checkpoint of these sizes: what can be planned with while the
    /// source is not asked. What its headers say counts more.
    pub fn facts(&self, source: Pinned) -> ModelFacts {
        let tensors = self.tensors().into_iter();
        let tensors =
            tensors.map(|(name, shape)| TensorShape { name, shape, tensor_type: None }).collect::<Vec<_>>();
        ModelFacts {
            source,
            architecture: self.family.architecture().to_owned(),
            parameters: self.parameters(),
            layers: self.layers,
            decoder_layers: (self.family == Family::T5).then_some(self.layers),
            hidden: self.hidden,
            feed_forward: self.feed_forward,
            heads: self.heads,
            kv_heads: self.kv_heads,
            kv_heads_by_block: Vec::new(),
            head_dim: self.head_dim,
            value_dim: None,
            vocab: self.vocab,
            context_trained: self.context,
            window: self.window,
            windowed: match self.window {
                Some(_) => windows::turns(self.family.architecture(), self.layers),
                None => Vec::new(),
            },
            is_side_by_side: false,
            context_exact: self
                .window
                .filter(|window| windows::is_left_out(self.family.architecture()) && *window <= self.context),
            is_tied: self.is_tied,
            has_chat_template: true,
            prompt_style: None,
            imatrix: None,
            experts_used: None,
            stored: Stored::Checkpoint { tensors },
        }
    }
}
