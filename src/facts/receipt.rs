//! What a host remembers of itself: `receipt.json` in Bramble's folder there.

use serde::{Deserialize, Serialize};

use super::measured::{Foretold, Measured};
use crate::ids::Generation;

/// The diary of a host: which plan was applied, when, by whom, and how it came out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// One for each confirmed generation, oldest first; the last hundred.
    pub entries: Vec<ReceiptEntry>,
}

/// One confirmed generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiptEntry {
    /// The generation.
    pub generation: Generation,
    /// The fingerprint of the plan.
    pub plan: String,
    /// When, as the operator's clock says: hosts may have none.
    pub at: String,
    /// By whom: `user@machine`.
    pub by: String,
    /// What the plan foretold of each engine.
    pub predicted: Vec<Foretold>,
    /// What the probe measured of each engine: now, or as it was started, where that was before and it runs on.
    pub measured: Vec<Measured>,
}

impl Receipt {
    /// Returns what is known of a generation since it was confirmed last.
    pub fn of(&self, generation: Generation) -> Option<&ReceiptEntry> {
        self.entries.iter().rev().find(|entry| entry.generation == generation)
    }
}
