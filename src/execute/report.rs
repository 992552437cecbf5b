use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::Measured;
use crate::ids::{Digest, Generation, HostName};
use crate::units::Bytes;

/// What a run of `apply` did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What failed on the operator's machine (fetching, converting); empty when nothing did.
    pub failures: Vec<String>,
    /// What became of each host of the plan.
    pub hosts: BTreeMap<HostName, Outcome>,
    /// The weights that were made or found, by recipe: what the lock remembers.
    pub made: BTreeMap<Digest, Made>,
    /// Whether the operator interrupted it.
    pub is_interrupted: bool,
}

impl Report {
    /// Returns whether every host is as planned.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
            && !self.is_interrupted
            && self.hosts.values().all(|outcome| outcome.state.is_well())
    }

    /// Returns whether a host was left as it is because somebody else is changing it.
    pub fn has_locked(&self) -> bool {
        self.hosts.values().any(|outcome| matches!(outcome.state, State::Locked { .. }))
    }

    /// Returns whether at least one host was brought to what was planned.
    pub fn has_success(&self) -> bool {
        self.hosts.values().any(|outcome| matches!(outcome.state, State::Done))
    }
}

/// Weights by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The SHA-256 of the GGUF.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
}

/// What became of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub state: State,
    /// The generation in force now, where that is known.
    pub generation: Option<Generation>,
    /// What was measured when it was activated.
    pub measured: Vec<Measured>,
    /// Bytes that left the operator's machine for it.
    pub bytes_sent: Bytes,
    /// Bytes that other hosts brought it.
    #[serde(default)]
    pub bytes_from_hosts: Bytes,
    /// Bytes that it had already of what it was to get: from an attempt before, or in other files.
    #[serde(default)]
    pub bytes_reused: Bytes,
}

impl Outcome {
    /// Returns how it ended for a host that no generation is known of.
    pub fn without_generation(state: State) -> Self {
        Self {
            state,
            generation: None,
            measured: Vec::new(),
            bytes_sent: Bytes::ZERO,
            bytes_from_hosts: Bytes::ZERO,
            bytes_reused: Bytes::ZERO,
        }
    }
}

/// How the work on one host ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It runs what was planned, which is new.
    Done,
    /// It ran what was planned before, and nothing was done to it.
    Unchanged,
    /// The new generation did not serve, and the host went back by itself.
    WentBack {
        /// What was wrong with the new one.
        why: String,
    },
    /// A step failed; what served before still serves.
    Failed {
        /// The step, in words.
        step: String,
        /// The error with its causes.
        error: String,
    },
    /// Somebody else is changing it; nothing of ours took effect.
    Locked {
        /// What the host said.
        said: String,
    },
    /// Nothing was done to it.
    NotStarted {
        /// Why not.
        why: String,
    },
}

impl State {
    /// Returns whether the host runs what was planned.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Done | Self::Unchanged)
    }
}
