//! The two graphs of T5: the encoder's and the decoder's.

use super::Step;
use super::attention::Qkv;
use super::builder::Builder;
use super::graph::{Element, Graph, Id};
use crate::catalog::ModelFacts;

/// Builds the graph of one step of the decoder, which looks at `read` tokens that the encoder
/// has read.
pub(super) fn decoder(model: &ModelFacts, step: Step, read: u64) -> Graph {
    let mut builder = Builder::new(model, step, "dec.blk.0.");
    let mut input = builder.embedding();
    let hidden = builder.hidden();
    let encoded = builder.graph.input(Element::F32, [hidden, read, 1, 1]);
    let distances = builder.graph.input(Element::I32, [step.cells, step.tokens, 1, 1]);
    let cache = builder.cache(step.cells);
    let element = if step.flash_attention { Element::F16 } else { Element::F32 };
    let mask = builder.graph.input(element, [read, step.tokens, 1, 1]);
    let outputs = builder.graph.input(Element::I32, [step.outputs, 1, 1, 1]);
    let blocks = model.decoder_layers.unwrap_or(model.layers);
    for block in 0..blocks {
        let normed = builder.norm(input);
        let qkv = builder.qkv(normed);
        let bias = builder.distance_bias(distances);
        let attended = builder.attend(cache, qkv, Some(bias));
        let attended = builder.linear(attended, hidden);
        let middle = builder.sum(attended, input);

        let normed = builder.norm(middle);
        let qkv = Qkv {
            query: builder.heads_of(normed),
            key: builder.heads_of(encoded),
            value: builder.heads_of(encoded),
        };
        let crossed = builder.attend_fresh(qkv, None, mask);
        let crossed = builder.linear(crossed, hidden);
        let outputs = (block + 1 == blocks).then_some(outputs);
        input = builder.fed_forward(crossed, middle, outputs);
    }
    builder.head(input);
    builder.graph
}

/// Builds the graph of the encoder, which reads all tokens at once.
pub(super) fn encoder(model: &ModelFacts, step: Step) -> Graph {
    let mut builder = Builder::new(model, step, "enc.blk.0.");
    let mut input = builder.embedding();
    let hidden = builder.hidden();
    let distances = builder.graph.input(Element::I32, [step.tokens, step.tokens, 1, 1]);
    let element = if step.flash_attention { Element::F16 } else { Element::F32 };
    let mask = builder.graph.input(element, [step.tokens, step.tokens, 1, 1]);
    // every token is wanted
    let outputs = builder.graph.input(Element::I32, [step.tokens, 1, 1, 1]);
    for block in 0..model.layers {
        let normed = builder.norm(input);
        let qkv = builder.qkv(normed);
        let bias = builder.distance_bias(distances);
        let attended = builder.attend_fresh(qkv, Some(bias), mask);
        let attended = builder.linear(attended, hidden);
        let outputs = (block + 1 == model.layers).then_some(outputs);
        input = builder.fed_forward(attended, input, outputs);
    }
    let normed = builder.norm(input);
    builder.graph.output(normed);
    builder.graph.expand(normed);
    builder.graph
}

impl Builder<'_> {
    /// Builds what is added to scores for the distance of two tokens.
    fn distance_bias(&mut self, distances: Id) -> Id {
        let heads = u64::from(self.model.heads);
        let [cells, tokens, ..] = self.graph.sides(distances);
        let table = self.graph.held([heads, 1, 1, 1]);
        let flat = self.graph.view(distances, [cells.saturating_mul(tokens), 1, 1, 1]);
        let rows = self.rows(table, flat);
        let square = self.graph.view(rows, [heads, cells, tokens, 1]);
        let turned = self.graph.turned(square, [cells, tokens, heads, 1]);
        self.graph.node(Element::F32, [cells, tokens, heads, 1], &[turned])
    }

    fn heads_of(&mut self, rows: Id) -> Id {
        let (width, heads) = (u64::from(self.model.head_dim), u64::from(self.model.heads));
        let tokens = self.graph.sides(rows)[1];
        let all = self.linear(rows, width * heads);
        self.graph.view(all, [width, heads, tokens, 1])
    }

    fn fed_forward(&mut self, attended: Id, input: Id, outputs: Option<Id>) -> Id {
        let (attended, input) = match outputs {
            Some(outputs) => (self.chosen(attended, outputs), self.chosen(input, outputs)),
            None => (attended, input),
        };
        let middle = self.sum(attended, input);
        let normed = self.norm(middle);
        let result = self.feed_forward(normed);
        self.sum(result, middle)
    }
}
