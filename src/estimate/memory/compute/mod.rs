//! The compute buffer: memory for the intermediate results of one step.
//!
//! llama.cpp plans it once, for the largest step, as soon as a context is made: it builds the
//! graph, and lets its allocator lay every tensor out. Here the same is done with the sizes
//! alone. So there is no formula to fit; what counts is that graph and allocator are
//! llama.cpp's, which `tests/memory.rs` holds them to.

mod arena;
mod attention;
mod builder;
mod decoder;
mod family;
mod graph;
mod memo;
mod t5;

use crate::catalog::ModelFacts;
use crate::generation::KvType;
use crate::units::Bytes;

/// The largest step that a context is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Tokens, of all sequences together; a multiple of `sequences`.
    pub(super) tokens: u64,
    pub(super) sequences: u64,
    /// Tokens that logits are wanted of.
    pub(super) outputs: u64,
    /// Cells of one sequence.
    pub(super) cells: u64,
    /// Cells of one sequence in blocks with a window.
    pub(super) window_cells: u64,
    pub(super) flash_attention: bool,
    pub(super) kv: KvType,
}

/// Returns the buffer as llama.cpp plans it when a context is made.
pub(super) fn planned(model: &ModelFacts, step: Step) -> Bytes {
    let graph = || match model.decoder_layers {
        Some(_) => t5::decoder(model, step, model.context_trained.into()),
        None => decoder::graph(model, step, decoder::telling_blocks(model)),
    };
    Bytes(memo::of(model, step, || arena::buffer(&graph())))
}

/// Sizes of llama.cpp's tables of tensors (`ggml_hash_size`); larger ones are never full here.
const TABLES: [usize; 3] = [1031, 2053, 4099];

/// Returns whether the graph has more tensors than llama.cpp's table of them, which is made for
/// eight times as many as there are weights (`graph_max_nodes`) and holds the cache's, too. It
/// dies of that.
pub(super) fn is_too_long(model: &ModelFacts, step: Step) -> bool {
    let graph = match model.decoder_layers {
        Some(_) => t5::decoder(model, step, model.context_trained.into()),
        None => decoder::graph(model, step, model.layers),
    };
    let wanted = 8 * model.shapes().count();
    let table = TABLES.into_iter().find(|table| *table >= wanted.max(1024));
    table.is_some_and(|table| graph.leaves.len() + graph.nodes.len() > table)
}

/// Returns the buffer as it is in the end: an encoder's graph is another, planned when it
/// first reads.
pub(super) fn grown(model: &ModelFacts, step: Step) -> Bytes {
    let planned = planned(model, step);
    match model.decoder_layers {
        Some(_) => planned.max(Bytes(arena::buffer(&t5::encoder(model, step)))),
        None => planned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::testing::{LLAMA32_1B, SMOLLM2_135M, model};

    #[test]
    fn a_few_blocks_tell_the_buffer_of_all() {
        let architectures =
            ["bloom", "gemma", "gpt2", "gptneox", "llama", "phi2", "phi3", "qwen2", "qwen3", "smollm3"];
        for architecture in architectures {
            for (flash_attention, kv) in [(true, KvType::F16), (true, KvType::Q8_0), (false, KvType::F16)] {
                for (widths, tokens, sequences, cells) in
                    [(SMOLLM2_135M, 512, 1, 4096), (LLAMA32_1B, 64, 1, 16384), (LLAMA32_1B, 256, 4, 512)]
                {
                    let model = ModelFacts { architecture: architecture.to_owned(), ..model(widths) };
                    let outputs = sequences;
                    let step =
                        Step { tokens, sequences, outputs, cells, window_cells: cells, flash_attention, kv };
                    let of = |blocks| arena::buffer(&decoder::graph(&model, step, blocks));
                    assert_eq!(
                        of(decoder::telling_blocks(&model)),
                        of(model.layers),
                        "{architecture} {step:?}"
                    );
                }
            }
        }
    }
}
