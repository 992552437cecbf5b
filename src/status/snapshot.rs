use serde::{Deserialize, Serialize};

use crate::facts::{Cordon, Foretold, Measured};
use crate::ids::{Generation, HostName, ModelName};

/// The whole fleet at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The hosts of the manifest and the orphans, by name.
    pub hosts: Vec<HostStatus>,
}

impl Snapshot {
    /// Adds hosts that left the manifest and were not looked at.
    pub fn add_orphans(&mut self, orphans: &[HostName]) {
        let orphan = |host: &HostName| HostStatus {
            host: host.clone(),
            is_orphan: true,
            reach: Reach::NotAsked,
            machine: None,
            generation: None,
            pending: None,
            door: DoorState::Unknown,
            cordon: None,
            models: Vec::new(),
            drift: Vec::new(),
            warnings: Vec::new(),
        };
        self.hosts.extend(orphans.iter().map(orphan));
    }
}

/// One host at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host.
    pub host: HostName,
    /// Whether the manifest still names it.
    pub is_orphan: bool,
    /// Whether it could be looked at.
    pub reach: Reach,
    /// The board or the machine, for people.
    pub machine: Option<String>,
    /// The generation in force.
    pub generation: Option<Generation>,
    /// A generation that was activated and not confirmed yet.
    pub pending: Option<Generation>,
    /// Whether its door answers.
    pub door: DoorState,
    /// Who wants its engines to take no new work, where somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// Its models.
    pub models: Vec<ModelStatus>,
    /// What is not as it was applied, a sentence each.
    pub drift: Vec<String>,
    /// What is worth knowing and no apply mends by itself, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl HostStatus {
    /// Returns whether nobody has to look after it: it was reached, and runs what was applied, as it was applied, without
    /// a warning. What somebody has decided (a cordon, that it left the manifest) is no fault.
    pub fn is_well(&self) -> bool {
        let is_in_force = self.generation.is_some() && self.pending.is_none();
        let is_serving =
            self.door != DoorState::Closed && self.models.iter().all(|model| model.state == "running");
        let is_as_applied = self.drift.is_empty() && self.warnings.is_empty();
        self.is_orphan || self.reach == Reach::Reached && is_in_force && is_serving && is_as_applied
    }
}

/// Whether a host could be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reach", rename_all = "snake_case")]
pub enum Reach {
    /// Over its connection.
    Reached,
    /// It could not be.
    Failed {
        /// Why, with the next move.
        why: String,
    },
    /// It was not asked.
    NotAsked,
}

/// Whether a door answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoorState {
    /// It answers.
    Open,
    /// It does not.
    Closed,
    /// There is none, or it was not asked.
    Unknown,
}

/// One model on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelName,
    /// The quant's name.
    pub quant: String,
    /// The state of its engine, in a word: `running`, `starting`, `failed`, `stopped`, `unknown`.
    pub state: String,
    /// What its plan foretold.
    pub foretold: Foretold,
    /// What it was measured at: by `bramble bench` since, else as it came into force; its memory is the most that it has held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_well_unless_somebody_has_to_look_after_it() {
        let figures = serde_json::json!({
            "host": "kitchen", "is_orphan": false, "reach": { "reach": "reached" }, "machine": null, "generation": 2,
            "pending": null, "door": "open", "drift": [], "models": [{ "model": "chat", "quant": "Q8_0", "state": "running",
                "foretold": { "model": "chat", "tokens_per_second": null, "load_seconds": null, "memory": null } }]
        });
        let well: HostStatus = serde_json::from_value(figures).unwrap();
        assert!(well.is_well());
        let is_well = |change: fn(&mut HostStatus)| {
            let mut host = well.clone();
            change(&mut host);
            host.is_well()
        };
        let faults: [fn(&mut HostStatus); 7] = [
            |host| host.reach = Reach::Failed { why: "it is asleep".to_owned() },
            |host| host.generation = None,
            |host| host.pending = host.generation,
            |host| host.door = DoorState::Closed,
            |host| host.models[0].state = "failed".to_owned(),
            |host| host.drift.push("the unit was edited".to_owned()),
            |host| host.warnings.push("its certificate ends".to_owned()),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_well(fault), "fault {number}");
        }
        assert!(is_well(|host| host.cordon = Some(Cordon { by: "ada".to_owned(), at: String::new() })));
        let mut snapshot = Snapshot { hosts: Vec::new() };
        snapshot.add_orphans(&["cellar".parse().unwrap()]);
        assert!(snapshot.hosts[0].is_well());
    }
}
