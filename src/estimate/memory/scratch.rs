//! What llama.cpp's CPU code keeps beside the compute buffer and does not report: activations
//! in the type that weights are multiplied with (`ggml_graph_plan`).

use crate::catalog::ModelFacts;
use crate::units::Bytes;

/// Bytes of 256 activations in blocks: those of `Q8_K`, the largest (`block_q8_K`).
const ACTIVATIONS: (u64, u64) = (256, 292);

/// Returns it for a step of `tokens`. It is kept at the size of the widest product.
pub(super) fn bytes(model: &ModelFacts, tokens: u64) -> Bytes {
    let attention = u64::from(model.heads) * u64::from(model.head_dim);
    let widest = u64::from(model.feed_forward).max(attention).max(model.hidden.into());
    let (elements, bytes) = ACTIVATIONS;
    Bytes(widest.saturating_mul(tokens).div_ceil(elements)) * bytes
}
