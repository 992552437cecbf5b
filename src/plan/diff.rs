//! What differs between what a host runs and what it shall run.

use crate::facts::{Installed, ServiceState};
use crate::generation::{Definition, EngineSpec};
use crate::ids::Digest;

/// Returns why a host must be changed, one sentence each; nothing when it must not.
///
/// `secrets` tells the secrets that it shall have from others: none where this machine cannot tell, none within where
/// they are still to be made.
pub(crate) fn reasons(
    installed: Option<&Installed>,
    wanted: &Definition,
    secrets: Option<&Option<Digest>>,
) -> Vec<String> {
    let Some(installed) = installed else {
        return vec!["nothing of Bramble is on it".to_owned()];
    };
    let Some((number, current)) = &installed.current else {
        return vec!["no generation is in force".to_owned()];
    };
    let mut reasons = Vec::new();
    if !is_same(current, wanted) {
        reasons.push(format!("generation {number} differs from the manifest"));
    }
    match (secrets, installed.secrets) {
        (Some(None), _) => reasons.push("it gets a certificate of the fleet's".to_owned()),
        (Some(Some(wanted)), Some(there)) if *wanted != there => {
            reasons.push("the fleet's keys or certificates have changed since".to_owned());
        }
        // what is there may not be read by this login
        _ => {}
    }
    if let Some(pending) = installed.pending {
        reasons.push(format!("generation {pending} was activated and never confirmed"));
    }
    reasons.extend(installed.drift.iter().cloned());
    for (service, state) in &installed.services {
        if *state == ServiceState::Failed
            && !installed.drift.iter().any(|drift| drift.contains(service.as_str()))
        {
            reasons.push(format!("its service {service} has failed"));
        }
    }
    reasons
}

/// Returns whether a host that runs `current` needs nothing done to run `wanted`.
pub(crate) fn is_same(current: &Definition, wanted: &Definition) -> bool {
    let plain = |definition: &Definition| Definition {
        engines: definition.engines.iter().map(without_content).collect(),
        ..definition.clone()
    };
    plain(current) == plain(wanted)
}

/// Weights are the same by recipe; a plan may not know their digest and exact size yet. What was counted of memory
/// changes nothing on a host.
fn without_content(engine: &EngineSpec) -> EngineSpec {
    let mut engine = engine.clone();
    engine.weights.digest = None;
    engine.weights.bytes = crate::units::Bytes::ZERO;
    engine.need = crate::units::Bytes::ZERO;
    engine
}
