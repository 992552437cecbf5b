//! What differs between what a host runs and what it shall run.

use super::door::LOCAL;
use crate::facts::{Installed, ServiceState};
use crate::generation::{Definition, EngineSpec};
use crate::ids::Digest;
use crate::units::{Bytes, TokensPerSec};

/// A speed is less than another where it is less than this part of it: one measurement differs from the next by a tenth,
/// and a door's deadlines have 20 s beside what the pace gives.
const SLOWER: f64 = 0.8;

/// Loading that takes no more seconds than this is never too long: an engine always has three times as many.
const LEAST_LOAD: f64 = 40.0;

/// Loading may take this many times what is in force counts with: as long as an engine is given to start.
const LONGER: f64 = 3.0;

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
    if current.fleet != wanted.fleet {
        reasons.push(format!("it is taken over from the fleet {}", current.fleet));
    } else if is_same(current, wanted) {
        reasons.extend(off(current, wanted));
    } else {
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

/// Returns whether a host that runs `current` needs nothing done to run `wanted`, but for what [`off`] tells.
///
/// What is only expected is no difference: it is another after every `bench`, and nothing runs by it but deadlines.
pub(crate) fn is_same(current: &Definition, wanted: &Definition) -> bool {
    plain(current) == plain(wanted)
}

fn plain(definition: &Definition) -> Definition {
    let mut plain = definition.clone();
    plain.engines = definition.engines.iter().map(without_content).collect();
    for hop in plain.door.routes.iter_mut().flat_map(|route| &mut route.order) {
        hop.pace = None;
    }
    plain
}

/// Weights are the same by recipe; a plan may not know their digest and exact size yet. What was counted of memory, and
/// which speed is expected, changes nothing on a host.
fn without_content(engine: &EngineSpec) -> EngineSpec {
    let mut engine = engine.without_pace();
    engine.weights.digest = None;
    engine.weights.bytes = Bytes::ZERO;
    engine.need = Bytes::ZERO;
    engine
}

/// Returns a sentence for each engine whose speed is so far from what `current` counts with that requests would be given
/// up, or sent on, for that alone. Deadlines that are longer than they need be are left.
fn off(current: &Definition, wanted: &Definition) -> Vec<String> {
    let mut told = Vec::new();
    for (route, before) in wanted.door.routes.iter().zip(&current.door.routes) {
        for (hop, before) in route.order.iter().zip(&before.order) {
            let (Some(now), Some(before)) = (hop.pace, before.pace) else { continue };
            let who = match hop.upstream.as_str() {
                LOCAL => route.model.to_string(),
                other => format!("{} on {other}", route.model),
            };
            let is_less = |now: TokensPerSec, before: TokensPerSec| now.0 < before.0 * SLOWER;
            if is_less(now.prompt, before.prompt) || is_less(now.answer, before.answer) {
                told.push(format!(
                    "{who} is slower than its deadlines count with: it reads {} and answers {}, not {} and {}",
                    now.prompt, now.answer, before.prompt, before.answer
                ));
            } else if route.overflow_wait_seconds.is_some() && is_less(before.prompt, now.prompt) {
                told.push(format!(
                    "{who} is faster than its route's wait counts with: it reads {}, not {}",
                    now.prompt, before.prompt
                ));
            }
        }
    }
    for engine in &wanted.engines {
        let before = current.engines.iter().find(|old| old.model == engine.model);
        let Some(before) = before.map(|before| before.pace.load_seconds) else { continue };
        let now = engine.pace.load_seconds;
        if now > before.max(LEAST_LOAD) * LONGER {
            told.push(format!(
                "{} loads longer than it is given time for: {now:.0} s, not {before:.0} s",
                engine.model
            ));
        }
    }
    told
}
