//! What is worth knowing of a host before it is counted on, and keeps nothing from being done.

use super::gpu;
use super::suit::{root, supervision};
use crate::facts::{HostFacts, Lingering, Supervision};
use crate::generation::Bundle;
use crate::manifest::HostSpec;

/// A clock this many seconds off makes certificates and logs wrong; what a login takes is far less.
const CLOCK: u64 = 120;

/// Raspberry Pis begin to slow down at 80 degrees.
const HOT: f64 = 78.0;

/// Returns a sentence for each thing that is worth knowing of a host.
pub(super) fn notes(spec: &HostSpec, facts: &HostFacts, bundle: &Bundle) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Supervision::SystemdUser { .. }, Some(manager)) = (supervision(spec, facts), &facts.user_manager)
    {
        let login = &manager.login;
        notes.push(format!(
            "{login} cannot become root there: all of Bramble is {login}'s own, in {}",
            root(spec, facts)
        ));
        if manager.lingering != Lingering::On {
            notes.push(format!("what {login} runs shall outlive its logins: lingering is switched on"));
        }
        if !manager.has_namespaces {
            notes.push(format!(
                "its kernel lets no login make namespaces: engines cannot be kept from the files of {login}"
            ));
        }
    }
    notes.extend(facts.forgets().map(|(what, advice)| format!("{what}: {advice}")));
    notes.extend(gpu::notes(spec, facts, bundle));
    if let Some(throttled) = facts.health.throttled {
        if throttled.is_under_voltage() {
            notes.push(
                "its power supply gives too little voltage, or has: take the one that belongs to the board"
                    .to_owned(),
            );
        }
        if throttled.is_slowed() {
            notes.push("it is clocked lower for heat or power, or has been: it may answer a fifth slower than predicted".to_owned());
        }
    }
    if let Some(celsius) = facts.health.celsius.filter(|celsius| *celsius >= HOT) {
        notes.push(format!(
            "its processor is at {celsius:.0} degrees and slows down from 80 on: give it a fan"
        ));
    }
    if let Some(ahead) = facts.health.clock_ahead.filter(|ahead| ahead.unsigned_abs() > CLOCK) {
        let (by, word) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
        notes.push(format!("its clock is {by} s {word} this machine's: let it set its time (timedatectl)"));
    }
    notes
}
