//! Buffers that were planned before: a plan asks for the same step of the same model for every
//! quant and every host.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

use super::Step;
use crate::catalog::ModelFacts;
use crate::generation::KvType;

/// Entries after which all are forgotten: far more than the steps of a fleet's models.
const MOST: usize = 4096;

/// All that a graph depends on.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The architecture, and the tensors of its blocks.
    names: String,
    windowed: Vec<bool>,
    model: [Option<u32>; 11],
    step: ([u64; 5], bool, KvType),
}

impl Key {
    fn new(model: &ModelFacts, step: Step) -> Self {
        let mut names = model.architecture.clone();
        for (name, _) in model.shapes() {
            // blocks are alike; what is in no block is few
            let is_telling =
                !name.starts_with("blk.") || name.starts_with("blk.0.") || name.contains("c.blk.0.");
            if is_telling {
                // writing to a String cannot fail
                let _ = write!(names, " {name}");
            }
        }
        Self {
            names,
            windowed: model.windowed.clone(),
            model: [
                Some(model.layers),
                model.decoder_layers,
                Some(model.hidden),
                Some(model.feed_forward),
                Some(model.heads),
                Some(model.kv_heads),
                Some(model.head_dim),
                Some(model.value_width()),
                Some(model.vocab),
                Some(model.context_trained),
                Some(u32::from(model.is_side_by_side)),
            ],
            step: (
                [step.tokens, step.sequences, step.outputs, step.cells, step.window_cells],
                step.flash_attention,
                step.kv,
            ),
        }
    }
}

thread_local! {
    static PLANNED: RefCell<HashMap<Key, u64>> = RefCell::default();
}

/// Returns what `plan` gives for this step of the model, or gave for an equal one.
pub(super) fn of(model: &ModelFacts, step: Step, plan: impl FnOnce() -> u64) -> u64 {
    let key = Key::new(model, step);
    PLANNED.with_borrow_mut(|planned| {
        if let Some(bytes) = planned.get(&key) {
            return *bytes;
        }
        if planned.len() >= MOST {
            planned.clear();
        }
        let bytes = plan();
        planned.insert(key, bytes);
        bytes
    })
}
