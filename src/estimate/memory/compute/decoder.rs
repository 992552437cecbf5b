//! The graph of a decoder: every architecture but T5.

use super::Step;
use super::builder::Builder;
use super::family::Residual;
use super::graph::{Element, Graph, Id};
use crate::catalog::ModelFacts;

/// Blocks after which nothing new comes: what is free in the buffer is what was free a block
/// or two before. Where blocks differ, in windows, all of them count.
const BLOCKS: u32 = 6;

/// Returns how many blocks the graph must have so that its buffer is that of all of them.
pub(super) fn telling_blocks(model: &ModelFacts) -> u32 {
    if model.windowed.is_empty() { model.layers.min(BLOCKS) } else { model.layers }
}

/// Builds the graph of one step of `model`, with this many of its blocks.
pub(super) fn graph(model: &ModelFacts, step: Step, blocks: u32) -> Graph {
    let mut builder = Builder::new(model, step, "blk.0.");
    let mut input = builder.embedding();
    let positions = builder.graph.input(Element::I32, [step.tokens, 1, 1, 1]);
    let cache = builder.cache(step.cells);
    let windowed = (!model.windowed.is_empty()).then(|| builder.cache(step.window_cells));
    let outputs = builder.graph.input(Element::I32, [step.outputs, 1, 1, 1]);
    for block in 0..blocks {
        let cache = windowed.filter(|_| model.is_windowed(block)).unwrap_or(cache);
        let outputs = (block + 1 == blocks).then_some(outputs);

        let normed = builder.norm(input);
        let mut qkv = builder.qkv(normed);
        if builder.has("attn_q_norm.weight") {
            qkv.query = builder.norm(qkv.query);
        }
        let turns = builder.family.turns(block);
        if turns {
            qkv.query = builder.rotated(qkv.query, positions);
        }
        if builder.has("attn_k_norm.weight") {
            qkv.key = builder.norm(qkv.key);
        }
        if turns {
            qkv.key = builder.rotated(qkv.key, positions);
        }
        if builder.family.scales_query {
            qkv.query = builder.changed(qkv.query);
        }
        let attended = builder.attend(cache, qkv, None);
        let hidden = builder.hidden();
        let attended = builder.linear_as(attended, hidden, "attn_output");
        input = builder.joined(attended, input, normed, outputs);
    }
    builder.head(input);
    builder.graph
}

impl Builder<'_> {
    /// Builds the rest of a block: its feed-forward part, and the sums.
    fn joined(&mut self, attended: Id, input: Id, normed: Id, outputs: Option<Id>) -> Id {
        let choose = |builder: &mut Self, rows: Id| match outputs {
            Some(outputs) => builder.chosen(rows, outputs),
            None => rows,
        };
        let attended = choose(self, attended);
        let input = choose(self, input);
        match self.family.residual {
            Residual::InTurn => {
                let attended =
                    if self.has("post_attention_norm.weight") { self.norm(attended) } else { attended };
                let middle = self.sum(attended, input);
                let normed = self.norm(middle);
                let result = self.feed_forward(normed);
                let result = if self.has("post_ffw_norm.weight") { self.norm(result) } else { result };
                self.sum(result, middle)
            }
            Residual::Shared => {
                let normed = choose(self, normed);
                let result = self.feed_forward(normed);
                let both = self.sum(attended, result);
                self.sum(both, input)
            }
            Residual::SideBySide => {
                let normed = self.norm(input);
                let result = self.feed_forward(normed);
                let result = self.sum(result, input);
                self.sum(result, attended)
            }
        }
    }
}
