//! Keys and values of the context, which are zeroed at the start and so all there from the
//! start: `llama-kv-cache.cpp`.

use super::super::Serving;
use crate::catalog::ModelFacts;
use crate::generation::KvType;
use crate::units::Bytes;

/// llama.cpp rounds contexts, and what windows hold, up to this.
const CELLS: u64 = 256;

/// Cells of one sequence.
pub(super) fn cells(serving: &Serving) -> u64 {
    u64::from(serving.context).next_multiple_of(CELLS)
}

/// Cells of one sequence in blocks that look back through a window: those that it shows, and
/// those that one step adds (`llama-kv-cache-iswa.cpp`).
pub(super) fn window_cells(model: &ModelFacts, serving: &Serving) -> u64 {
    let window = u64::from(model.window.unwrap_or(0));
    (window + batch(serving)).min(cells(serving)).next_multiple_of(CELLS)
}

/// Tokens that one step computes at most, as the engine sets it.
pub(super) fn batch(serving: &Serving) -> u64 {
    // (contexts are rounded up only after that)
    let all = u64::from(serving.context).saturating_mul(serving.slots.into());
    u64::from(serving.micro_batch.max(serving.slots)).min(all)
}

pub(super) fn bytes(model: &ModelFacts, serving: &Serving, flash_attention: bool) -> Bytes {
    let (all, windowed) = (cells(serving), window_cells(model, serving));
    let widest = u64::from(model.kv_heads) * u64::from(model.value_width());
    let block = |block: u32| {
        let heads = u64::from(model.kv_heads_of(block));
        let keys = heads * u64::from(model.head_dim);
        // without flash attention values lie by their width, which all blocks must share then
        let values = if flash_attention { heads * u64::from(model.value_width()) } else { widest };
        let values = if heads == 0 { 0 } else { values };
        let cells = if model.is_windowed(block) { windowed } else { all };
        cells.saturating_mul(row(serving.kv, keys) + row(serving.kv, values))
    };
    (0..model.layers).map(block).map(Bytes).sum::<Bytes>() * u64::from(serving.slots)
}

/// Bytes of a row of this many values.
fn row(kv: KvType, width: u64) -> u64 {
    match kv {
        KvType::F16 => 2 * width,
        KvType::Q8_0 => width.div_ceil(32) * 34,
    }
}

/// llama.cpp's notes on cells: position, shift, and a bit for each of 256 sequences; in a full
/// context also one entry of a set and one of a map (`llama-kv-cells.h`).
const NOTES_PER_CELL: Bytes = Bytes(48 + 48 + 48);

pub(super) fn notes(model: &ModelFacts, serving: &Serving) -> Bytes {
    let windows = if model.windowed.is_empty() { 0 } else { window_cells(model, serving) };
    NOTES_PER_CELL * (cells(serving) + windows).saturating_mul(u64::from(serving.slots))
}
