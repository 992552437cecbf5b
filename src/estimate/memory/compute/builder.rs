//! The operations that graphs of all architectures are built of: `llama-graph.cpp`.

use super::Step;
use super::family::{Embedding, Family, Norm};
use super::graph::{Element, Graph, Id};
use crate::catalog::ModelFacts;

/// Builds the graph of one step.
pub(super) struct Builder<'a> {
    pub(super) graph: Graph,
    pub(super) model: &'a ModelFacts,
    pub(super) step: Step,
    pub(super) family: Family,
    /// Tensors of the first block, after which all others are made: `attn_q.bias`.
    pub(super) block: Vec<&'a str>,
}

impl<'a> Builder<'a> {
    /// Takes the prefix of the first block's tensors: `blk.0.`.
    pub(super) fn new(model: &'a ModelFacts, step: Step, prefix: &str) -> Self {
        let block = model.shapes().filter_map(|(name, _)| name.strip_prefix(prefix)).collect();
        let family = Family::of(&model.architecture, model.is_side_by_side);
        Self { graph: Graph::default(), model, step, family, block }
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.block.contains(&part)
    }

    pub(super) fn hidden(&self) -> u64 {
        self.model.hidden.into()
    }

    /// Adds a matrix of weights with rows of `from` elements.
    fn matrix(&mut self, from: u64, to: u64) -> Id {
        self.graph.held([from, to, 1, 1])
    }

    pub(super) fn rows(&mut self, table: Id, ids: Id) -> Id {
        let ([width, ..], [a, b, c, _]) = (self.graph.sides(table), self.graph.sides(ids));
        self.graph.node(Element::F32, [width, a, b, c], &[table, ids])
    }

    /// Multiplies two tensors whose rows are as long.
    pub(super) fn product(&mut self, left: Id, right: Id) -> Id {
        let ([_, rows, ..], [_, b, c, d]) = (self.graph.sides(left), self.graph.sides(right));
        self.graph.node(Element::F32, [rows, b, c, d], &[left, right])
    }

    /// Multiplies with weights that make `width` elements of a row.
    pub(super) fn linear(&mut self, input: Id, width: u64) -> Id {
        let from = self.graph.sides(input)[0];
        let weights = self.matrix(from, width);
        self.product(weights, input)
    }

    /// Adds a bias, or multiplies with a row of weights.
    pub(super) fn with_row(&mut self, input: Id) -> Id {
        let row = self.graph.held([self.graph.sides(input)[0], 1, 1, 1]);
        self.graph.overwriting(&[input, row])
    }

    pub(super) fn linear_as(&mut self, input: Id, width: u64, part: &str) -> Id {
        let result = self.linear(input, width);
        if self.has(&format!("{part}.bias")) { self.with_row(result) } else { result }
    }

    /// Returns the same rows, scaled, squashed or activated.
    pub(super) fn changed(&mut self, input: Id) -> Id {
        self.graph.overwriting(&[input])
    }

    pub(super) fn sum(&mut self, left: Id, right: Id) -> Id {
        self.graph.overwriting(&[left, right])
    }

    /// Normalizes, with weights, and with a bias where the family's norm has one.
    pub(super) fn norm(&mut self, input: Id) -> Id {
        match self.family.norm {
            Norm::Rms => {
                let normed = self.changed(input);
                self.with_row(normed)
            }
            Norm::Layer => {
                let sides = self.graph.sides(input);
                let normed = self.graph.node(Element::F32, sides, &[input]);
                let weighted = self.with_row(normed);
                self.with_row(weighted)
            }
        }
    }

    /// Builds the input's embedding: that of tokens, and that of rows that are given, or of both
    /// mixed, which llama.cpp plans for in every graph.
    pub(super) fn embedding(&mut self) -> Id {
        let (tokens, hidden) = (self.step.tokens, self.hidden());
        let table = self.matrix(hidden, self.model.vocab.into());
        let ids = self.graph.input(Element::I32, [tokens, 1, 1, 1]);
        let embedded = self.rows(table, ids);
        let given = self.graph.input(Element::F32, [hidden, tokens, 1, 1]);
        let mixed_ids = self.graph.input(Element::I32, [tokens, 1, 1, 1]);
        let places = self.graph.input(Element::I64, [tokens, 1, 1, 1]);
        let mixed = self.graph.input(Element::F32, [hidden, tokens, 1, 1]);
        let copy = self.graph.node(Element::F32, [hidden, tokens, 1, 1], &[mixed]);
        let rows = self.rows(table, mixed_ids);
        let written = self.graph.written(copy, &[rows, places, copy]);
        for choice in [embedded, given, written] {
            self.graph.expand(choice);
        }
        let input = match self.family.embedding {
            Embedding::ScaledByToken => {
                let scales = self.graph.input(Element::F32, [1, tokens, 1, 1]);
                self.sum(embedded, scales)
            }
            _ => embedded,
        };
        self.graph.expand(input);
        match self.family.embedding {
            Embedding::Scaled => self.changed(input),
            Embedding::Positioned => {
                let table = self.matrix(hidden, self.model.context_trained.into());
                let positions = self.graph.input(Element::I32, [tokens, 1, 1, 1]);
                let positions = self.rows(table, positions);
                self.sum(input, positions)
            }
            Embedding::Normed => self.norm(input),
            Embedding::Plain | Embedding::ScaledByToken => input,
        }
    }

    /// Builds a block's feed-forward part.
    pub(super) fn feed_forward(&mut self, input: Id) -> Id {
        let width = u64::from(self.model.feed_forward);
        let inner = if self.has("ffn_gate.weight") {
            let up = self.linear_as(input, width, "ffn_up");
            let gate = self.linear_as(input, width, "ffn_gate");
            let sides = self.graph.sides(gate);
            self.graph.node(Element::F32, sides, &[gate, up])
        } else if self.family.norm == Norm::Rms && self.is_gate_fused() {
            let both = self.linear_as(input, 2 * width, "ffn_up");
            let [_, b, c, d] = self.graph.sides(both);
            self.graph.node(Element::F32, [width, b, c, d], &[both])
        } else {
            let up = self.linear_as(input, width, "ffn_up");
            self.changed(up)
        };
        self.linear_as(inner, self.hidden(), "ffn_down")
    }

    fn is_gate_fused(&self) -> bool {
        self.model.architecture == "phi3"
    }

    /// Keeps the rows that logits are wanted of.
    pub(super) fn chosen(&mut self, input: Id, outputs: Id) -> Id {
        self.rows(input, outputs)
    }

    /// Builds what follows the last block.
    pub(super) fn head(&mut self, input: Id) {
        let normed = self.norm(input);
        self.graph.output(normed);
        let mut logits = self.linear(normed, self.model.vocab.into());
        let has_bias = self.model.shapes().any(|(name, _)| name == "output.bias");
        if has_bias {
            logits = self.with_row(logits);
        }
        self.graph.output(logits);
        self.graph.expand(logits);
    }
}
