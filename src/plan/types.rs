use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::estimate::Loss;
use crate::facts::Supervision;
use crate::generation::{Definition, Pace, RouteSpec};
use crate::ids::{Digest, FleetName, Generation, HostName, ModelName};
use crate::source::{Pinned, Recipe};
use crate::unit::Unit;
use crate::units::Bytes;

/// The version of the stored form.
pub const FORMAT: u32 = 1;

/// Everything that will be done, in order, with the reason of each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// The version of Bramble that made it.
    pub bramble: String,
    /// The fleet.
    pub fleet: FleetName,
    /// Names what it was made from: the hosts as they were ([`super::fingerprint`]).
    /// `apply` refuses a plan whose hosts have changed since.
    pub inventory: Digest,
    /// Names the manifest that it was made from ([`super::manifest_digest`]); none in plans of
    /// versions that did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The sources of the manifest's models, as it names them ([`crate::source::SourceRef`]'s text), made exact.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Pinned>,
    /// The weights that hosts run, by model and quant.
    pub artifacts: Vec<Artifact>,
    /// What each host that can be reached shall run, changed or not, by name.
    pub hosts: Vec<HostPlan>,
    /// What hosts that are not bought yet would run, by name. Nothing is done for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<PlannedHost>,
    /// What will be done. Empty when every host already runs what it shall.
    pub waves: Vec<Wave>,
    /// Hosts that are left out, with the reason: the others are served all the same.
    pub skipped: Vec<Skipped>,
    /// Hosts that left the manifest and still serve.
    pub orphans: Vec<HostName>,
}

impl Plan {
    /// Returns whether nothing needs to be done.
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }

    /// Returns whether weights or programs are brought to hosts.
    pub fn has_pushes(&self) -> bool {
        self.steps().any(|step| matches!(step.action, Action::Push { .. } | Action::PushProgram { .. }))
    }

    /// Returns every step, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.waves.iter().flat_map(|wave| &wave.steps)
    }

    /// Returns the plan of one host.
    pub fn host(&self, name: &HostName) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| &host.host == name)
    }

    /// Returns the artifact that a recipe makes.
    pub fn artifact(&self, recipe: &Digest) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| &artifact.id == recipe)
    }
}

/// Weights in the form that some host runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// The digest of `recipe`.
    pub id: Digest,
    /// The model that wanted it first.
    pub model: ModelName,
    /// How it is made.
    pub recipe: Recipe,
    /// Whether the manifest lets a source that is quantized already be quantized again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_requantize: bool,
    /// The SHA-256 of the GGUF, where it was made before (`bramble.lock` remembers).
    pub digest: Option<Digest>,
    /// The GGUF's size: exact once `digest` is there, else predicted.
    pub bytes: Bytes,
    /// Hosts that have the GGUF already, and give it to those that are to get it, beside this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_by: Vec<HostName>,
}

/// What one host shall run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host.
    pub host: HostName,
    /// The folder where Bramble lives there.
    pub root: String,
    /// Whether our programs there are run as root (through sudo where the login is not).
    pub is_root: bool,
    /// What supervises services there.
    pub supervision: Supervision,
    /// What it runs now, and shall no longer; none on a bare host.
    pub previous: Option<Generation>,
    /// What it runs now, for the diff.
    pub before: Option<Definition>,
    /// The number that the new install gets; none when nothing changes.
    pub generation: Option<Generation>,
    /// What it shall run.
    pub definition: Definition,
    /// The systemd units, as they will be written; empty where our own supervisor runs.
    pub units: Vec<Unit>,
    /// Seconds after which the host goes back by itself if nobody confirms.
    pub deadline_seconds: u64,
    /// All of its memory.
    #[serde(default)]
    pub memory: Bytes,
    /// What engines may have of it.
    pub room: Bytes,
    /// Why each model got what it got, by model.
    pub choices: Vec<Chosen>,
    /// Why the host changes, one sentence each; empty when nothing changes.
    pub reasons: Vec<String>,
    /// What is worth knowing of the host, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl HostPlan {
    /// Returns whether the host is taken over from another fleet.
    pub fn is_adopted(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.fleet != self.definition.fleet)
    }
}

/// What a host that is not bought yet would run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedHost {
    /// The host.
    pub host: HostName,
    /// Its board: `pi5-8gb`.
    pub board: String,
    /// All of its memory.
    #[serde(default)]
    pub memory: Bytes,
    /// What engines may have of it.
    pub room: Bytes,
    /// What it would run, by model.
    pub choices: Vec<Chosen>,
    /// What its door would offer.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
}

/// One model on one host, with the numbers behind the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The model.
    pub model: ModelName,
    /// The quant's name, or `as is`.
    pub quant: String,
    /// Memory that must be resident.
    pub memory: Bytes,
    /// The GGUF's size.
    pub file: Bytes,
    /// The expected speed.
    pub pace: Pace,
    /// The expected speed with its interval and where it comes from, in words.
    pub speed: String,
    /// How fast it reads a prompt of 512 tokens, in words.
    #[serde(default)]
    pub prompt: String,
    /// The expected loss; none where it is not known.
    #[serde(default)]
    pub loss: Option<Loss>,
    /// The reason in numbers.
    pub why: String,
}

/// Steps that may run together: those of one host in order, hosts side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wave {
    /// What this wave is for: "weights", "staging", "first host".
    pub title: String,
    /// At most this many hosts at the same time.
    pub max_parallel: u32,
    /// Whether a failure here keeps later waves from starting.
    pub is_gate: bool,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The host it is done to; none for the operator's machine.
    pub host: Option<HostName>,
    /// What is done.
    pub action: Action,
    /// Why, in numbers where there are any.
    pub why: String,
}

/// What can be done. Closed on purpose: whoever must know all of them matches on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Bring a source's files to the operator's machine.
    Fetch {
        /// An artifact that needs them.
        artifact: Digest,
        /// Their size.
        bytes: Bytes,
    },
    /// Make GGUFs of a fetched source, all in one pass.
    Make {
        /// The artifacts, which have one source.
        artifacts: Vec<Digest>,
    },
    /// Bring a bundle to a host and unpack it.
    PushProgram {
        /// The bundle's digest.
        digest: Digest,
        /// Its size.
        bytes: Bytes,
    },
    /// Bring weights to a host.
    Push {
        /// The artifact.
        artifact: Digest,
        /// Its size.
        bytes: Bytes,
    },
    /// Lay out a generation on a host, next to the one that serves.
    Install {
        /// Its number.
        generation: Generation,
    },
    /// Switch a host to a generation, ask it, and confirm it.
    Activate {
        /// Its number.
        generation: Generation,
    },
    /// Delete what neither the new nor the previous generation needs.
    Prune,
}

/// A host that is left out of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The host.
    pub host: HostName,
    /// Why, with the next move.
    pub why: String,
}

/// Why a plan must not be carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The host it concerns.
    pub host: Option<HostName>,
    /// The model it concerns.
    pub model: Option<ModelName>,
    /// What is wrong, with the numbers and the nearest thing that would work.
    pub message: String,
}

impl Problem {
    /// Returns whether it stands in the way of all: then a plan cannot be carried out without what it concerns.
    pub fn is_of_all(&self) -> bool {
        self.host.is_none() && self.model.is_none()
    }
}
