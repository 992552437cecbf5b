//! Which model runs on which host, with which quant; and why not, when it cannot be.
//!
//! Pure and deterministic. What is placed on a host together never needs more than the
//! host has: memory for what runs at the same time, disk for what has to lie there. It
//! knows nothing of manifests, files or connections.
//!
//! The whole fleet is solved at once, exactly, with a bound that proves it ([`optimum`]): as many
//! placements as there can be, then at the least cost by each demand's own rule ([`candid`]), then
//! with the fewest moves.

mod candid;
mod choose;
mod fleet;
mod optimum;
mod refusal;
mod short;
mod solve;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::catalog::ModelFacts;
use crate::estimate::{Candidate, Estimate, Loss, Serving};
use crate::facts::HostFacts;
use crate::ids::{HostName, ModelName};
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

pub use candid::{auto_quants, is_offered};
pub use choose::choose;
pub use refusal::{Reason, Refusal, Remedies};
pub use solve::solve;

/// What is wanted of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Which quants may be taken.
    pub quants: Quants,
    /// What the choice leans to.
    pub lean: Lean,
    /// Tokens per slot.
    pub context: u32,
    /// Requests at the same time.
    pub slots: u32,
    /// Answer tokens per second below which `auto` does not go, by the low end of the prediction.
    pub floor_rate: TokensPerSec,
    /// The quant whose expected loss `auto` does not exceed.
    pub floor_quality: Quant,
}

/// Which quants may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quants {
    /// By rule: [`auto_quants`].
    Auto,
    /// The first that fits.
    OneOf(Vec<Quant>),
    /// The one file that there is.
    AsIs,
    /// The file that there is, or the first of these that fits where it does not.
    AsIsOr(Vec<Quant>),
}

impl Quants {
    /// Returns whether weights in `quant`, or as the file is, may be taken, whatever else there is.
    pub fn allow(&self, quant: Option<Quant>) -> bool {
        match (self, quant) {
            (Self::Auto, _) | (Self::AsIs | Self::AsIsOr(_), None) => true,
            (Self::OneOf(quants) | Self::AsIsOr(quants), Some(quant)) => quants.contains(&quant),
            (Self::OneOf(_), None) | (Self::AsIs, Some(_)) => false,
        }
    }
}

/// What the choice leans to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lean {
    /// The fastest of those with good quality.
    Balanced,
    /// One step better.
    Quality,
    /// One step smaller.
    Speed,
}

/// What a host has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Room {
    /// Memory for engines.
    pub memory: Bytes,
    /// Disk for new files; none where it is not known.
    pub disk: Option<Bytes>,
}

/// A model with what is wanted of it, and where.
#[derive(Debug, Clone)]
pub struct Demand<'a> {
    /// Its name.
    pub name: ModelName,
    /// The model.
    pub model: &'a ModelFacts,
    /// The forms that its weights could have.
    pub candidates: &'a [Candidate],
    /// What is wanted.
    pub want: Want,
    /// The hosts that are asked for.
    pub hosts: Vec<HostName>,
    /// On how many of them; none means all.
    pub count: Option<u32>,
}

/// A host with what it can take.
#[derive(Debug, Clone)]
pub struct Capacity<'a> {
    /// Its name.
    pub name: HostName,
    /// The host.
    pub facts: &'a HostFacts,
    /// Disk that is needed beside weights: a new bundle, packed and unpacked.
    pub disk_reserved: Bytes,
    /// The models that run there now.
    pub runs: BTreeSet<ModelName>,
    /// Bytes of weights that are there already, whole or in part.
    pub held: BTreeMap<(ModelName, Option<Quant>), Bytes>,
}

/// What was chosen for one model on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The quant; none for a file that is used as it is and names none.
    pub quant: Option<Quant>,
    /// How it is served.
    pub serving: Serving,
    /// What that takes and gives.
    pub estimate: Estimate,
    /// What it costs in quality, where that is known.
    pub loss: Option<Loss>,
    /// The reason, with its numbers.
    pub why: String,
    /// What the next better quant would cost.
    pub step_up: Option<Step>,
    /// What the next smaller one would gain.
    pub step_down: Option<Step>,
}

/// Another quant, compared with the one that was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The other quant.
    pub quant: Quant,
    /// Its answer rate.
    pub answer: TokensPerSec,
    /// The memory that it needs.
    pub need: Bytes,
    /// Its expected loss.
    pub loss: Loss,
    /// Whether it would fit.
    pub fits: bool,
    /// The comparison as a phrase: "`Q6_K`: -1.2 tok/s, +310 MiB, loss 1.08 -> 0.55".
    pub text: String,
}

/// The answer for the whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// What runs where, by host, then model.
    pub placed: Vec<Placed>,
    /// What was asked for and is not placed, one entry for each model and host.
    pub refused: Vec<Refusal>,
    /// Models that want a number of hosts and did not get it.
    pub short: Vec<Short>,
}

/// One model on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// The host.
    pub host: HostName,
    /// The model.
    pub model: ModelName,
    /// How.
    pub choice: Choice,
}

/// A model that is on fewer hosts than wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// The model.
    pub model: ModelName,
    /// How many were wanted.
    pub wanted: u32,
    /// How many there are.
    pub placed: u32,
}
