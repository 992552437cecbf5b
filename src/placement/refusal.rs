//! Why a model is not on a host, with the numbers and the nearest thing that would fit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{HostName, ModelName};
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

/// A model that is not placed on a host that it was asked for on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The model.
    pub model: ModelName,
    /// The host.
    pub host: HostName,
    /// The bound that was hit.
    pub reason: Reason,
}

/// The bound that was hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Its programs are not 64-bit.
    Userland {
        /// The kernel's machine name.
        machine: String,
        /// Bits of a pointer there, where they are known.
        bits: Option<u32>,
    },
    /// None of the wanted quants can be made of this model.
    NoCandidate,
    /// Too little memory, even for the smallest that is allowed.
    Memory {
        /// The smallest that is allowed.
        quant: Option<Quant>,
        /// Whether it was the floor that kept smaller ones out.
        is_floor: bool,
        /// Whether it is counted with keys and values in `Q8_0`.
        is_packed: bool,
        /// What it needs.
        need: Bytes,
        /// What there is, less what the others take.
        room: Bytes,
        /// How many models the host has got beside this one.
        others: u32,
        /// What would help.
        remedies: Remedies,
    },
    /// Too little disk.
    Disk {
        /// The nearest that fits otherwise.
        quant: Option<Quant>,
        /// Bytes that would have to be written.
        need: Bytes,
        /// Bytes that may be written.
        room: Bytes,
        /// Where.
        path: String,
    },
    /// Too slow, by the low end of the prediction.
    Slow {
        /// The smallest that is allowed.
        quant: Option<Quant>,
        /// The best of what is predicted.
        answer: TokensPerSec,
        /// What is wanted at least.
        floor: TokensPerSec,
    },
    /// One model more would be too many: they share the memory's bandwidth.
    Shared {
        /// How many the host has got.
        others: u32,
        /// The model that would be too slow: this one, or one of those.
        slow: ModelName,
        /// What would be left for it while all of them answer, by the low end of the prediction.
        answer: TokensPerSec,
        /// What is wanted of it at least.
        floor: TokensPerSec,
    },
}

/// The nearest things that would fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedies {
    /// Other hosts, as they are planned now.
    pub elsewhere: Vec<HostName>,
    /// A quant below the floor, on this host.
    pub below_floor: Option<Quant>,
    /// A shorter context, on this host, with the smallest quant that is allowed.
    pub context: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, host, reason } = self;
        match reason {
            Reason::Userland { machine, bits: Some(32) } if machine == "aarch64" || machine == "x86_64" => {
                write!(
                    f,
                    "{model} cannot run on {host}: its system is 32-bit on a 64-bit kernel ({machine}); install a 64-bit system"
                )
            }
            Reason::Userland { machine, .. } => {
                write!(
                    f,
                    "{model} cannot run on {host}: it is {machine}, and Bramble runs on 64-bit aarch64 and x86_64"
                )
            }
            Reason::NoCandidate => {
                write!(
                    f,
                    "{model} cannot be made in any of the quants that are allowed on {host}; name others under `quant`"
                )
            }
            Reason::Memory { quant, is_floor, is_packed, need, room, others, remedies } => {
                write!(f, "{model} needs {need} on {host}, which has {room}")?;
                match others {
                    0 => {}
                    1 => f.write_str(" left beside another model")?,
                    n => write!(f, " left beside {n} other models")?,
                }
                match quant {
                    Some(quant) if *is_floor => write!(f, ", even at its floor {quant}")?,
                    Some(quant) => write!(f, ", at {quant}")?,
                    None => {}
                }
                if *is_packed {
                    f.write_str(" with keys and values in Q8_0")?;
                }
                remedies.write(f, host)
            }
            Reason::Disk { quant, need, room, path } => {
                let at = quant.map(|quant| format!(" at {quant}")).unwrap_or_default();
                write!(
                    f,
                    "{model} needs {need} more on the disk of {host}{at}, and {path} has room for {room}"
                )
            }
            Reason::Slow { quant, answer, floor } => {
                let at = quant.map(|quant| format!(", even at {quant}")).unwrap_or_default();
                write!(
                    f,
                    "{model} may answer with only {answer} tok/s on {host}{at}, and its floor, the slowest that is allowed, is {floor} tok/s; `floor: {{ tokens_per_second: {answer} }}` at the model allows it",
                    answer = floor_at(*answer),
                    floor = floor.0,
                )
            }
            Reason::Shared { others, slow, answer, floor } => {
                let models = if *others == 1 { "model" } else { "models" };
                write!(
                    f,
                    "{model} is one too many on {host} beside the {others} {models} that it has got: {slow} may answer with only {answer} tok/s while all of them do, and its floor, the slowest that is allowed, is {floor} tok/s; `floor: {{ tokens_per_second: {answer} }}` at {slow} allows it",
                    answer = floor_at(*answer),
                    floor = floor.0,
                )
            }
        }
    }
}

/// Returns the floor that a rate meets, as it is written in a manifest: two digits or so, and never more than the rate.
pub(super) fn floor_at(answer: TokensPerSec) -> f64 {
    let places = match answer.0 {
        10.0.. => 1.0,
        1.0.. => 10.0,
        0.1.. => 100.0,
        _ => 1000.0,
    };
    (answer.0 * places).floor() / places
}

impl Remedies {
    fn write(&self, f: &mut fmt::Formatter<'_>, host: &HostName) -> fmt::Result {
        let mut ways: Vec<String> = Vec::new();
        if !self.elsewhere.is_empty() {
            let names: Vec<&str> = self.elsewhere.iter().take(3).map(HostName::as_str).collect();
            let more = self.elsewhere.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            ways.push(format!("on {}{more}", names.join(", ")));
        }
        if let Some(context) = self.context {
            ways.push(format!("on {host} with context {context}"));
        }
        if let Some(quant) = self.below_floor {
            ways.push(format!("on {host} at {quant}, below the floor"));
        }
        match ways.as_slice() {
            [] => f.write_str("; nothing smaller would fit there"),
            ways => write!(f, "; fits {}", ways.join(", or ")),
        }
    }
}
