//! Memory as llama.cpp takes it on a CPU, by part.
//!
//! The version is pinned (Cargo.toml): other versions have other laws. What llama.cpp
//! allocates in one piece follows from the model's shapes, as its sources say;
//! `tests/memory.rs` holds each to what llama.cpp reports.

mod compute;
mod kv;
mod room;
mod scratch;
mod weights;

use serde::{Deserialize, Serialize};

use super::{Candidate, Serving};
use crate::catalog::ModelFacts;
use crate::facts::HostFacts;
use crate::generation::{KvType, LoadMode};
use crate::units::Bytes;

pub use room::room;
pub(super) use weights::Layouts;
pub use weights::is_repacking;

/// Memory that has to be there while a model is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Weights in the file's layout, mapped or read. Mapped ones are counted too: a page
    /// that is dropped comes back from the storage for every token.
    pub weights: Bytes,
    /// Weights in the CPU's own layout, a tied head's second copy included.
    pub repacked: Bytes,
    /// Keys and values, and what an encoder has read.
    pub kv: Bytes,
    /// Intermediate results of one micro-batch.
    pub compute: Bytes,
    /// Logits.
    pub output: Bytes,
    /// The vocabulary's tables.
    pub vocabulary: Bytes,
    /// The engine process itself.
    pub process: Bytes,
}

impl Parts {
    /// Returns the sum.
    pub fn total(&self) -> Bytes {
        self.weights + self.repacked + self.kv + self.compute + self.output + self.vocabulary + self.process
    }
}

/// The buffers that llama.cpp allocates, and reports, when a model is loaded and a context is
/// made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Weights in the file's layout; mapped, from the first that is used there to the last.
    pub weights: Bytes,
    /// Weights in the CPU's own layout.
    pub repacked: Bytes,
    /// Keys and values.
    pub kv: Bytes,
    /// Intermediate results.
    pub compute: Bytes,
    /// Logits.
    pub output: Bytes,
}

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// In one operation, which holds no scores. The engine's way on a CPU.
    Flash,
    /// Scores first.
    Plain,
}

/// Why llama.cpp would make no context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Quantized values want flash attention.
    #[error("keys and values in blocks want flash attention")]
    PlainAttention,
    /// Heads are not as wide as blocks are long.
    #[error("keys and values in blocks of {block} do not fit heads of {width}")]
    HeadWidth {
        /// Values in a block.
        block: u32,
        /// The head's width.
        width: u32,
    },
    /// A decoder that reads an encoder's results turns its values, which cannot be done in
    /// blocks. llama.cpp makes the context, and computes nonsense.
    #[error("keys and values in blocks do not go with an encoder")]
    EncoderBlocks,
    /// A context keeps what one encoder has read.
    #[error("an encoder serves one slot, not {slots}")]
    EncoderSlots {
        /// The slots.
        slots: u32,
    },
    /// The graph is longer than llama.cpp expects of a model with so few tensors.
    #[error("llama.cpp has no room for a graph this long")]
    LongGraph,
}

/// Returns why llama.cpp would make no context for this; none where it would.
pub fn refusal(model: &ModelFacts, serving: &Serving, attention: Attention) -> Option<Refusal> {
    let reads_first = model.decoder_layers.is_some();
    if reads_first && serving.slots > 1 {
        return Some(Refusal::EncoderSlots { slots: serving.slots });
    }
    let is_long = compute::is_too_long(model, step(model, serving, attention));
    let block = match serving.kv {
        KvType::F16 => return is_long.then_some(Refusal::LongGraph),
        KvType::Q8_0 => 32,
    };
    if attention == Attention::Plain {
        return Some(Refusal::PlainAttention);
    }
    let widths = [model.head_dim, model.value_width()];
    if let Some(width) = widths.into_iter().find(|width| width % block != 0) {
        return Some(Refusal::HeadWidth { block, width });
    }
    if reads_first {
        return Some(Refusal::EncoderBlocks);
    }
    is_long.then_some(Refusal::LongGraph)
}

/// Returns the buffers that llama.cpp allocates for `candidate`, served as `serving` says.
pub fn buffers(
    model: &ModelFacts,
    candidate: &Candidate,
    serving: &Serving,
    host: &HostFacts,
    attention: Attention,
) -> Buffers {
    let placed = weights::placed(model, candidate, serving, host);
    let step = step(model, serving, attention);
    Buffers {
        weights: placed.buffer,
        repacked: placed.repacked,
        kv: kv::bytes(model, serving, step.flash_attention),
        compute: compute::planned(model, step),
        output: rows(model, serving.slots.into()),
    }
}

/// The largest step that the engine's context is made for.
fn step(model: &ModelFacts, serving: &Serving, attention: Attention) -> compute::Step {
    let (batch, sequences) = (kv::batch(serving), u64::from(serving.slots.max(1)));
    compute::Step {
        tokens: batch.next_multiple_of(sequences),
        sequences,
        // an encoder's rows are all wanted
        outputs: if model.decoder_layers.is_some() { batch } else { batch.min(sequences) },
        cells: kv::cells(serving),
        window_cells: kv::window_cells(model, serving),
        flash_attention: attention == Attention::Flash,
        kv: serving.kv,
    }
}

/// Logits of `count` tokens; an encoder's results stand beside them.
fn rows(model: &ModelFacts, count: u64) -> Bytes {
    let encoded = model.decoder_layers.map_or(0, |_| model.hidden);
    Bytes(4 * (u64::from(model.vocab) + u64::from(encoded))) * count
}

/// The engine without a model: 6 MiB of anonymous memory (5.6 measured before the weights
/// come in), 13 MiB of pages of program and libraries (12.5 measured after an answer, with
/// one CPU variant), and 4 MiB for stacks and buffers of more clients than the one that
/// was there then (an estimate).
const PROCESS: Bytes = Bytes::mib(6 + 13 + 4);
/// What is left of an engine's anonymous memory after the laws above: 14.9 MiB for the
/// 49152 tokens and their merges of SmolLM2 (19 to 21.3 MiB with [`PROCESS`]'s 5.6, over
/// five ways to serve it). Vocabularies without merges take less (223 bytes measured).
const VOCABULARY_PER_TOKEN: Bytes = Bytes(320);

pub(super) struct Memory {
    pub(super) parts: Parts,
    pub(super) evictable: Bytes,
    /// What is held while the weights come in.
    pub(super) loading: Bytes,
}

pub(super) fn of(model: &ModelFacts, candidate: &Candidate, serving: &Serving, host: &HostFacts) -> Memory {
    let placed = weights::placed(model, candidate, serving, host);
    let parts = Parts {
        weights: placed.plain,
        repacked: placed.repacked,
        vocabulary: VOCABULARY_PER_TOKEN * u64::from(model.vocab),
        process: PROCESS,
        ..working(model, serving)
    };
    // each tensor that is rewritten passes through a buffer of its size; keys, values and
    // the compute buffer come after the weights
    let staging = if serving.load == LoadMode::Read { placed.staging } else { Bytes::ZERO };
    Memory {
        loading: parts.weights + parts.repacked + parts.vocabulary + parts.process + staging,
        evictable: placed.left_behind,
        parts,
    }
}

/// Returns the parts that depend on how a model is served, and not on its weights' types.
pub(super) fn working(model: &ModelFacts, serving: &Serving) -> Parts {
    // the engine makes a context for each slot, since each keeps what one encoder has read
    if model.decoder_layers.is_some() && serving.slots > 1 {
        let each = working(model, &Serving { slots: 1, ..*serving });
        let slots = u64::from(serving.slots);
        return Parts {
            kv: each.kv * slots,
            compute: each.compute * slots,
            output: each.output * slots,
            ..Parts::default()
        };
    }
    let step = step(model, serving, Attention::Flash);
    let read = model.decoder_layers.map_or(0, |_| kv::batch(serving));
    Parts {
        kv: kv::bytes(model, serving, step.flash_attention)
            + kv::notes(model, serving)
            + Bytes(4) * u64::from(model.hidden).saturating_mul(read),
        compute: compute::grown(model, step) + scratch::bytes(model, step.tokens),
        output: rows(model, u64::from(serving.slots).max(read)),
        ..Parts::default()
    }
}

#[cfg(test)]
mod texts_tests;
