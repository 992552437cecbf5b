//! Weights: in the file's layout, and in the CPU's own.

use super::super::{Candidate, Serving, Tensor};
use crate::catalog::ModelFacts;
use crate::facts::{Cpu, HostFacts};
use crate::generation::LoadMode;
use crate::units::Bytes;

/// Where weights are once they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    /// Those in the file's layout.
    pub(super) plain: Bytes,
    /// The buffer that these lie in: what the file maps to from the first of them to the last,
    /// or memory that they are read into.
    pub(super) buffer: Bytes,
    /// Those in the CPU's own layout, a tied head's second copy included.
    pub(super) repacked: Bytes,
    /// Of these, the ones that the file has been mapped for and that are not read there again.
    pub(super) left_behind: Bytes,
    /// The largest that is rewritten while weights are read.
    pub(super) staging: Bytes,
}

/// Buffers begin each tensor at a multiple of this (`TENSOR_ALIGNMENT`), as files do.
const ALIGNMENT: u64 = 32;

pub(super) fn placed(
    model: &ModelFacts,
    candidate: &Candidate,
    serving: &Serving,
    host: &HostFacts,
) -> Placed {
    let layouts = Layouts::of(host);
    let is_moved = |tensor: &Tensor| serving.repack && tensor.is_product() && layouts.has(tensor);
    let mut placed = Placed {
        plain: Bytes::ZERO,
        buffer: Bytes::ZERO,
        repacked: Bytes::ZERO,
        left_behind: Bytes::ZERO,
        staging: Bytes::ZERO,
    };
    let (mut offset, mut first) = (0u64, None);
    for tensor in &candidate.tensors {
        let bytes = Bytes(tensor.bytes);
        let padded = tensor.bytes.next_multiple_of(ALIGNMENT);
        if is_moved(tensor) {
            placed.repacked += Bytes(padded);
            placed.left_behind += bytes;
            placed.staging = placed.staging.max(bytes);
        } else {
            placed.plain += bytes;
            match serving.load {
                LoadMode::Mmap => {
                    let first = *first.get_or_insert(offset);
                    placed.buffer = Bytes(offset + tensor.bytes - first);
                }
                LoadMode::Read => placed.buffer += Bytes(padded),
            }
        }
        offset += padded;
    }
    // a tied head is multiplied with as well as looked up in: its repacked form is an extra copy
    if let Some(head) = tied_head(model, candidate).filter(|head| serving.repack && layouts.has(head)) {
        placed.repacked += Bytes(head.bytes.next_multiple_of(ALIGNMENT));
        placed.staging = placed.staging.max(Bytes(head.bytes));
    }
    if serving.load == LoadMode::Read {
        placed.left_behind = Bytes::ZERO;
    } else {
        placed.staging = Bytes::ZERO;
    }
    placed
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
pub(crate) struct Layouts {
    has_avx2: bool,
    has_avx512: bool,
    has_dot_product: bool,
}

impl Layouts {
    pub(crate) fn of(host: &HostFacts) -> Self {
        Self::of_cpu(&host.cpu)
    }

    pub(crate) fn of_cpu(cpu: &Cpu) -> Self {
        let has = |name: &str| cpu.features.contains(name);
        Self { has_avx2: has("avx2"), has_avx512: has("avx512f"), has_dot_product: has("asimddp") }
    }

    /// Whether there is a layout for such a tensor: `repack.cpp`,
    /// `ggml_repack_get_optimal_repack_type`.
    pub(crate) fn has(self, tensor: &Tensor) -> bool {
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
