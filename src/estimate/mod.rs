//! What a model takes and gives on a host: memory by part, tokens per second, seconds to
//! load, and the quality that a quant costs.
//!
//! Pure arithmetic over facts. It does not choose anything, and it does not read weights: a
//! [`Candidate`] says, or foretells, which tensor has which type.

mod candidate;
mod memory;
mod quality;
mod speed;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod work;

use serde::{Deserialize, Serialize};

use crate::catalog::{ModelFacts, TensorShape};
use crate::facts::HostFacts;
use crate::generation::{EngineSpec, KvType, LoadMode};
use crate::units::Bytes;

pub use candidate::Candidate;
pub use memory::{Attention, Buffers, Parts, Refusal, buffers, is_repacking, refusal, room};
pub use quality::{Loss, LossBasis, PACKED_KV, loss_of};
pub use speed::{Interval, Speed, bound};
pub use work::work;

/// One tensor as it is or will be in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// The GGUF name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, in GGUF's order: the row's length first.
    pub shape: Vec<u64>,
    /// The type's name: `Q4_K`.
    pub tensor_type: String,
    /// Its bytes in the file.
    pub bytes: u64,
}

impl Tensor {
    /// Takes a shape with the type it gets and the bytes of one row of it.
    pub fn new(shape: &TensorShape, tensor_type: &str, row_bytes: u64) -> Self {
        let rows = shape.shape.iter().skip(1).fold(1u64, |all, n| all.saturating_mul(*n));
        Self {
            name: shape.name.clone(),
            shape: shape.shape.clone(),
            tensor_type: tensor_type.to_owned(),
            bytes: row_bytes.saturating_mul(rows),
        }
    }

    /// Returns the number of its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1u64, |all, n| all.saturating_mul(*n))
    }

    fn is_embedding(&self) -> bool {
        self.name == "token_embd.weight"
    }

    /// Whether rows are looked up in it.
    fn is_table(&self) -> bool {
        let others = ["position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"];
        self.is_embedding()
            || others.contains(&self.name.as_str())
            || self.name.ends_with("attn_rel_b.weight")
    }

    /// Whether it is multiplied with activations: what a CPU's own layout is for.
    fn is_product(&self) -> bool {
        let has_rows = self.shape.iter().filter(|n| **n > 1).count() >= 2;
        has_rows && self.name.ends_with(".weight") && !self.is_table()
    }
}

/// How a model shall be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Tokens that the model accepts, per slot.
    pub context: u32,
    /// Requests that are served at the same time.
    pub slots: u32,
    /// Threads.
    pub threads: u32,
    /// Prompt tokens computed at once.
    pub micro_batch: u32,
    /// How the weights come into memory.
    pub load: LoadMode,
    /// Whether weights are copied into the CPU's own layout.
    pub repack: bool,
    /// How keys and values are held.
    pub kv: KvType,
}

impl From<&EngineSpec> for Serving {
    /// Takes how an engine serves.
    fn from(engine: &EngineSpec) -> Self {
        Self {
            context: engine.context,
            slots: engine.slots,
            threads: engine.threads,
            micro_batch: engine.micro_batch,
            load: engine.load,
            repack: engine.repack,
            kv: engine.kv,
        }
    }
}

/// What a model takes and gives on a host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Memory that has to be there, by part.
    pub parts: Parts,
    /// What it holds while the weights come in.
    pub loading: Bytes,
    /// The most that it holds at any moment. What has to fit.
    pub need: Bytes,
    /// Pages of the file that are mapped and not needed again; they may be dropped.
    pub evictable: Bytes,
    /// The predicted size of the file.
    pub file: Bytes,
    /// How fast it is.
    pub speed: Speed,
}

impl Estimate {
    /// Returns the estimate of the same weights served as `serving`, which differs from
    /// the one that this is for in the micro-batch only.
    #[must_use]
    pub fn with_micro_batch(mut self, model: &ModelFacts, serving: &Serving) -> Self {
        let working = memory::working(model, serving);
        self.parts = Parts { kv: working.kv, compute: working.compute, ..self.parts };
        self.need = self.parts.total().max(self.loading);
        self
    }
}

/// Estimates `candidate` on `host`, served as `serving` says.
///
/// Architectures other than those that can be converted are taken to behave as `llama` does.
pub fn footprint(model: &ModelFacts, candidate: &Candidate, serving: &Serving, host: &HostFacts) -> Estimate {
    let memory = memory::of(model, candidate, serving, host);
    let file = candidate.file(model);
    Estimate {
        parts: memory.parts,
        loading: memory.loading,
        need: memory.parts.total().max(memory.loading),
        evictable: memory.evictable,
        file,
        speed: speed::of(model, candidate, serving, host, file, memory.parts.repacked),
    }
}
