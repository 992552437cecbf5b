//! Memory as llama.cpp takes it on a CPU, by part.
//!
//! The version is pinned (Cargo.toml): other versions have other laws. Weights and keys
//! and values follow from the shapes; the compute buffer's law was read off 25 runs of
//! three llama-like models, with differences up to 0.05 MiB.

use serde::{Deserialize, Serialize};

use super::{Candidate, Serving, Tensor};
use crate::catalog::ModelFacts;
use crate::facts::HostFacts;
use crate::generation::{KvType, LoadMode};
use crate::units::Bytes;

/// Memory that has to be there while a model is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Weights in the file's layout, mapped or read. Mapped ones are counted too: a page
    /// that is dropped comes back from the storage for every token.
    pub weights: Bytes,
    /// Weights in the CPU's own layout, a tied head's second copy included.
    pub repacked: Bytes,
    /// Keys and values, zeroed at the start and so all there from the start.
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

/// The engine without a model: 6 MiB of anonymous memory (5.6 measured before the weights
/// come in), 13 MiB of pages of program and libraries (12.5 measured after an answer, with
/// one CPU variant), and 4 MiB for stacks and buffers of more clients than the one that
/// was there then (an estimate).
const PROCESS: Bytes = Bytes::mib(6 + 13 + 4);
/// What is left of an engine's anonymous memory after the laws above: 14.9 MiB for the
/// 49152 tokens and their merges of SmolLM2 (19 to 21.3 MiB with [`PROCESS`]'s 5.6, over
/// five ways to serve it). Vocabularies without merges take less (223 bytes measured).
const VOCABULARY_PER_TOKEN: Bytes = Bytes(320);
/// The router: one process for all models of a host, without llama.cpp.
const ROUTER: Bytes = Bytes::mib(10);

/// llama.cpp rounds contexts up to this.
const CELLS: u64 = 256;

pub(super) struct Memory {
    pub(super) parts: Parts,
    pub(super) evictable: Bytes,
    /// What is held while the weights come in.
    pub(super) loading: Bytes,
}

pub(super) fn of(model: &ModelFacts, candidate: &Candidate, serving: &Serving, host: &HostFacts) -> Memory {
    let layouts = Layouts::of(host);
    let is_repacked = |tensor: &&Tensor| serving.repack && tensor.is_product() && layouts.has(tensor);
    let all: u64 = candidate.tensors.iter().map(|tensor| tensor.bytes).sum();
    let moved: u64 = candidate.tensors.iter().filter(is_repacked).map(|tensor| tensor.bytes).sum();
    // a tied head is multiplied with as well as looked up in: its repacked form is an extra copy
    let head: u64 = tied_head(model, candidate)
        .filter(|tensor| serving.repack && layouts.has(tensor))
        .map_or(0, |tensor| tensor.bytes);

    let parts = Parts {
        weights: Bytes(all - moved),
        repacked: Bytes(moved + head),
        kv: kv(model, serving),
        compute: compute(model, serving),
        output: Bytes(4) * u64::from(model.vocab) * u64::from(serving.slots),
        vocabulary: VOCABULARY_PER_TOKEN * u64::from(model.vocab),
        process: PROCESS,
    };
    // each tensor that is rewritten passes through a buffer of its size; keys, values and
    // the compute buffer come after the weights
    let staging = match serving.load {
        LoadMode::Mmap => 0,
        LoadMode::Read => {
            let moved = candidate.tensors.iter().filter(is_repacked).map(|tensor| tensor.bytes).max();
            moved.unwrap_or(0).max(head)
        }
    };
    Memory {
        loading: parts.weights + parts.repacked + parts.vocabulary + parts.process + Bytes(staging),
        evictable: if serving.load == LoadMode::Mmap { Bytes(moved) } else { Bytes::ZERO },
        parts,
    }
}

fn tied_head<'a>(model: &ModelFacts, candidate: &'a Candidate) -> Option<&'a Tensor> {
    let embedding = candidate.tensors.iter().find(|tensor| tensor.is_embedding());
    embedding.filter(|_| model.is_tied)
}

/// Returns whether loading `candidate` on `host` would copy weights into the CPU's own layout.
pub fn is_repacking(model: &ModelFacts, candidate: &Candidate, host: &HostFacts) -> bool {
    let layouts = Layouts::of(host);
    candidate.tensors.iter().any(|tensor| tensor.is_product() && layouts.has(tensor))
        || tied_head(model, candidate).is_some_and(|tensor| layouts.has(tensor))
}

/// The instructions that decide which types the CPU has layouts of its own for.
#[derive(Clone, Copy)]
pub(super) struct Layouts {
    has_avx2: bool,
    has_avx512: bool,
    has_dot_product: bool,
}

impl Layouts {
    pub(super) fn of(host: &HostFacts) -> Self {
        let has = |name: &str| host.cpu.features.contains(name);
        Self { has_avx2: has("avx2"), has_avx512: has("avx512f"), has_dot_product: has("asimddp") }
    }

    /// Whether there is a layout for such a tensor: `repack.cpp`,
    /// `ggml_repack_get_optimal_repack_type`.
    pub(super) fn has(self, tensor: &Tensor) -> bool {
        let rows = tensor.shape.get(1).copied().unwrap_or(1);
        let multiple = match tensor.tensor_type.as_str() {
            "Q4_0" | "IQ4_NL" | "MXFP4" | "Q4_K" if self.has_avx2 => 8,
            "Q2_K" if self.has_avx512 => 8,
            "Q4_0" | "IQ4_NL" | "MXFP4" | "Q8_0" if self.has_dot_product => 4,
            "Q4_K" | "Q5_K" | "Q6_K" if self.has_dot_product => 8,
            _ => return false,
        };
        rows % multiple == 0
    }
}

/// Cells of one sequence, times what one cell holds.
fn kv(model: &ModelFacts, serving: &Serving) -> Bytes {
    let width = u64::from(model.kv_heads) * u64::from(model.head_dim);
    let row = match serving.kv {
        KvType::F16 => 2 * width,
        KvType::Q8_0 => width.div_ceil(32) * 34,
    };
    // a key and a value; a sliding window saves nothing here, since llama.cpp's llama graph
    // keeps the whole context
    Bytes(2) * row * cells(serving) * u64::from(serving.slots) * u64::from(model.layers)
}

fn cells(serving: &Serving) -> u64 {
    u64::from(serving.context).next_multiple_of(CELLS)
}

/// The compute buffer, with flash attention, which llama.cpp takes on CPUs by itself.
pub(super) fn compute(model: &ModelFacts, serving: &Serving) -> Bytes {
    let per_token =
        4 * (3 * u64::from(model.feed_forward) + 5 * u64::from(model.hidden)) + 2 * cells(serving);
    Bytes(per_token) * u64::from(serving.micro_batch)
}

/// Returns the memory that engines may have on `host`, all of them together, beside the
/// router: what is available, and what our own running processes would free, less a margin.
/// Swap and zram are no room.
pub fn room(host: &HostFacts) -> Bytes {
    let ours = host.installed.as_ref().map_or(Bytes::ZERO, |installed| installed.memory);
    let margin = margin(host.memory.total);
    let most = host.memory.total - margin;
    ((host.memory.available + ours).min(host.memory.total) - margin).min(most) - ROUTER
}

/// What is left free: 5 % of the memory, and 2.5 % of what is beyond the first GiB, the
/// latter up to 100 MiB.
///
/// Estimates on hosts not measured yet want 5 % and 100 MiB (the error of the parts that
/// are not laws, and growth of the other programs). The 100 MiB are for what a board of 4
/// GiB and more runs beside us, a desktop or a package upgrade; on a board of 1 GiB, whose
/// whole Lite system takes 77 to 191 MiB, they would be half of what can be had.
/// `MemAvailable` has the kernel's own reserve taken off already.
fn margin(total: Bytes) -> Bytes {
    let beyond = total - Bytes::gib(1);
    Bytes(total.0 / 20) + Bytes(beyond.0 / 40).min(Bytes::mib(100))
}
