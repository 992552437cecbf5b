//! Attention over keys and values that are held, or over those of the step alone.

use super::builder::Builder;
use super::graph::{Element, Id, elements};
use crate::generation::KvType;

/// The cache that blocks of one kind share the cells of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cache {
    /// Cells of one sequence.
    cells: u64,
    key_places: Id,
    value_places: Id,
    mask: Id,
    /// Matrices that keys and values are turned with before they are quantized.
    key_turn: Option<Id>,
    value_turn: Option<Id>,
}

/// Queries, keys and values: `[width, heads, tokens]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Qkv {
    pub(super) query: Id,
    pub(super) key: Id,
    pub(super) value: Id,
}

/// What a query is compared with: `[width, heads, cells, sequences]`.
struct Held {
    key: Id,
    value: Id,
    /// Whether values lie by their width first, as the cache has them without flash attention.
    is_turned: bool,
    /// Whether they are `F32`, as computed in this step.
    is_fresh: bool,
}

impl Builder<'_> {
    fn mask_element(&self) -> Element {
        if self.step.flash_attention { Element::F16 } else { Element::F32 }
    }

    /// Adds the inputs that belong to a cache of `cells` for each sequence.
    pub(super) fn cache(&mut self, cells: u64) -> Cache {
        let (tokens, sequences) = (self.step.tokens, self.step.sequences);
        let value_places = if self.step.flash_attention {
            tokens
        } else {
            let width = u64::from(self.model.kv_heads) * u64::from(self.model.value_width());
            tokens.saturating_mul(width)
        };
        let element = self.mask_element();
        let kv = self.step.kv;
        let key_turn = turn_side(kv, self.model.head_dim.into())
            .map(|side| self.graph.input(Element::F32, [side, side, 1, 1]));
        // small matrices seem to serve values better
        let value_turn = turn_side(kv, self.model.value_width().into())
            .map(|_| self.graph.input(Element::F32, [64, 64, 1, 1]));
        Cache {
            cells,
            key_places: self.graph.input(Element::I64, [tokens, 1, 1, 1]),
            value_places: self.graph.input(Element::I64, [value_places, 1, 1, 1]),
            mask: self.graph.input(element, [cells, tokens / sequences, 1, sequences]),
            key_turn,
            value_turn,
        }
    }

    /// Builds queries, keys and values of the step.
    pub(super) fn qkv(&mut self, input: Id) -> Qkv {
        let model = self.model;
        let (heads, kv_heads) = (u64::from(model.heads), u64::from(model.kv_heads));
        let (width, value_width) = (u64::from(model.head_dim), u64::from(model.value_width()));
        let tokens = self.graph.sides(input)[1];
        if self.has("attn_qkv.weight") {
            let all = self.linear_as(input, width * (heads + kv_heads) + value_width * kv_heads, "attn_qkv");
            return Qkv {
                query: self.graph.view(all, [width, heads, tokens, 1]),
                key: self.graph.view(all, [width, kv_heads, tokens, 1]),
                value: self.graph.view(all, [value_width, kv_heads, tokens, 1]),
            };
        }
        let query = self.linear_as(input, width * heads, "attn_q");
        let key = self.linear_as(input, width * kv_heads, "attn_k");
        let value = self.linear_as(input, value_width * kv_heads, "attn_v");
        Qkv {
            query: self.graph.view(query, [width, heads, tokens, 1]),
            key: self.graph.view(key, [width, kv_heads, tokens, 1]),
            value: self.graph.view(value, [value_width, kv_heads, tokens, 1]),
        }
    }

    /// Turns queries or keys by their positions.
    pub(super) fn rotated(&mut self, rows: Id, positions: Id) -> Id {
        self.graph.overwriting(&[rows, positions])
    }

    /// Multiplies with a matrix that spreads outliers, in pieces of its side.
    fn spread(&mut self, rows: Id, turn: Id) -> Id {
        let (sides, side) = (self.graph.sides(rows), self.graph.sides(turn)[0]);
        let pieces = [side, elements(sides) / side, 1, 1];
        let whole = if self.graph.tensor(rows).is_whole {
            self.graph.view(rows, pieces)
        } else {
            self.graph.node(Element::F32, pieces, &[rows])
        };
        let product = self.product(turn, whole);
        self.graph.view(product, sides)
    }

    /// Builds attention over `cache`, which the step's keys and values are put into first;
    /// `bias` is what is added to the scores. The result has all heads in a row.
    pub(super) fn attend(&mut self, cache: Cache, qkv: Qkv, bias: Option<Id>) -> Id {
        let Qkv { mut query, mut key, mut value } = qkv;
        if let Some(turn) = cache.key_turn {
            query = self.spread(query, turn);
            key = self.spread(key, turn);
        }
        if let Some(turn) = cache.value_turn {
            value = self.spread(value, turn);
        }
        // with a window, llama.cpp orders keys before values
        let order = if self.model.windowed.is_empty() { [query, value, key] } else { [query, key, value] };
        for part in order {
            self.graph.expand(part);
        }
        let held = self.put(cache, key, value);
        let result = self.scored(query, &held, bias, cache.mask);
        match cache.value_turn {
            Some(turn) => self.spread(result, turn),
            None => result,
        }
    }

    /// Puts the step's keys and values into the cache, and returns all of it.
    fn put(&mut self, cache: Cache, key: Id, value: Id) -> Held {
        let [width, heads, tokens, _] = self.graph.sides(key);
        let [value_width, ..] = self.graph.sides(value);
        let (cells, sequences) = (cache.cells, self.step.sequences);
        let all_cells = cells.saturating_mul(sequences);

        let keys = self.graph.held([width * heads, all_cells, 1, 1]);
        let row = self.graph.view(key, [width * heads, tokens, 1, 1]);
        let whole = self.all_sequences(keys);
        let written = self.graph.written(whole, &[row, cache.key_places, whole]);
        self.graph.expand(written);

        let is_turned = !self.step.flash_attention;
        let values = self.graph.held([value_width * heads, all_cells, 1, 1]);
        let row = [value_width * heads, tokens, 1, 1];
        let row = if is_turned && !self.graph.tensor(value).is_whole {
            self.graph.node(Element::F32, row, &[value])
        } else {
            self.graph.view(value, row)
        };
        let (row, whole) = if is_turned {
            let turned = |count: u64| [1, count.saturating_mul(value_width * heads), 1, 1];
            let row = self.graph.view(row, turned(tokens));
            (row, self.graph.view(values, turned(all_cells)))
        } else {
            (row, self.all_sequences(values))
        };
        let written = self.graph.written(whole, &[row, cache.value_places, whole]);
        self.graph.expand(written);

        let seen = if is_turned {
            [cells, heads, value_width, sequences]
        } else {
            [value_width, heads, cells, sequences]
        };
        Held {
            key: self.graph.turned(keys, [width, heads, cells, sequences]),
            value: self.graph.turned(values, seen),
            is_turned,
            is_fresh: false,
        }
    }

    /// Sees the cells of all sequences in one; a single sequence's are.
    fn all_sequences(&mut self, rows: Id) -> Id {
        if self.step.sequences == 1 {
            return rows;
        }
        let sides = self.graph.sides(rows);
        self.graph.view(rows, sides)
    }

    /// Builds attention over keys and values that were computed in this step.
    pub(super) fn attend_fresh(&mut self, qkv: Qkv, bias: Option<Id>, mask: Id) -> Id {
        for part in [qkv.query, qkv.key, qkv.value] {
            self.graph.expand(part);
        }
        let held = Held { key: qkv.key, value: qkv.value, is_turned: false, is_fresh: true };
        self.scored(qkv.query, &held, bias, mask)
    }

    fn scored(&mut self, query: Id, held: &Held, bias: Option<Id>, mask: Id) -> Id {
        let [width, heads, tokens, _] = self.graph.sides(query);
        let [_, kv_heads, cells, sequences] = self.graph.sides(held.key);
        let value_width = self.graph.sides(held.value)[if held.is_turned { 2 } else { 0 }];
        let query = self.graph.turned(query, [width, heads, tokens / sequences, sequences]);
        let query = self.graph.turned(query, [width, tokens / sequences, heads, sequences]);
        let key = self.graph.turned(held.key, [width, cells, kv_heads, sequences]);

        let result = if self.step.flash_attention && bias.is_none() {
            let value = self.graph.turned(held.value, [value_width, cells, kv_heads, sequences]);
            let (key, value) =
                if held.is_fresh { (self.halved(key), self.halved(value)) } else { (key, value) };
            let sides = [value_width, heads, tokens / sequences, sequences];
            let result = self.graph.node(Element::F32, sides, &[query, key, value, mask]);
            self.graph.view(result, [value_width * heads, tokens, 1, 1])
        } else {
            let scores = self.product(key, query);
            let mut scores = if self.is_capped() { self.capped(scores) } else { scores };
            if let Some(bias) = bias {
                scores = self.sum(scores, bias);
            }
            let weights = self.graph.overwriting(&[scores, mask]);
            let sides = [cells, value_width, kv_heads, sequences];
            let mut value = self.graph.turned(held.value, sides);
            if !held.is_turned {
                let element = if held.is_fresh { Element::F32 } else { Element::F16 };
                value = self.graph.node(element, sides, &[value]);
            }
            let result = self.product(value, weights);
            let result = self.graph.turned(result, [value_width, heads, tokens / sequences, sequences]);
            self.graph.node(Element::F32, [value_width * heads, tokens, 1, 1], &[result])
        };
        self.graph.expand(result);
        result
    }

    fn halved(&mut self, rows: Id) -> Id {
        let sides = self.graph.sides(rows);
        self.graph.node(Element::F16, sides, &[rows])
    }

    fn is_capped(&self) -> bool {
        self.model.architecture == "gemma2"
    }

    fn capped(&mut self, scores: Id) -> Id {
        let scaled = self.changed(scores);
        let squashed = self.changed(scaled);
        self.changed(squashed)
    }
}

/// Returns the side of the matrix that keys of this width are turned with before they are
/// quantized: the largest power of two that divides it, from 64 (`llama-kv-cache.cpp`).
fn turn_side(kv: KvType, width: u64) -> Option<u64> {
    let is_turned = kv != KvType::F16 && width > 0 && width.is_multiple_of(64);
    is_turned.then(|| 1 << width.trailing_zeros())
}
