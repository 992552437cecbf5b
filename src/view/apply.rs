use std::fmt::Write as _;

use super::{Style, count};
use crate::execute::{Report, State};

/// Returns what a run of `apply` did, a line for each host, and where things stand.
pub fn report(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for failure in &report.failures {
        let _ = writeln!(text, "{} {failure}", style.bad("x"));
    }
    let width = report.hosts.keys().map(|host| host.as_str().len()).max().unwrap_or(0);
    for (host, outcome) in &report.hosts {
        let name = style.bold(&format!("{host:width$}"));
        let generation = outcome
            .generation
            .map_or_else(|| "nothing".to_owned(), |generation| format!("generation {generation}"));
        let line = match &outcome.state {
            State::Done => {
                let speeds: Vec<String> = outcome
                    .measured
                    .iter()
                    .filter_map(|m| m.tokens_per_second.map(|speed| format!("{} {speed}", m.model)))
                    .collect();
                let speeds = if speeds.is_empty() {
                    String::new()
                } else {
                    format!(", measured {}", speeds.join(", "))
                };
                format!("{} {name}  {generation}{speeds}", style.good("ok"))
            }
            State::Unchanged => format!("{} {name}  {generation}, as it was", style.good("ok")),
            State::WentBack { why } => {
                format!("{} {name}  went back to {generation}: {why}", style.bad("x "))
            }
            State::Failed { step, error } => {
                let still = outcome.generation.map_or("nothing serves there".to_owned(), |generation| {
                    format!("generation {generation} still serves")
                });
                format!("{} {name}  {step} failed: {error}; {still}", style.bad("x "))
            }
            State::Locked { said } => {
                format!(
                    "{} {name}  not changed ({generation}): locked by somebody else: {said}",
                    style.bad("x ")
                )
            }
            State::NotStarted { why } => {
                let still = outcome.generation.map_or_else(String::new, |_| format!(" ({generation})"));
                format!("{} {name}  not changed{still}: {why}", style.warn("! "))
            }
        };
        let _ = writeln!(text, "{line}");
    }
    let done = report.hosts.values().filter(|outcome| outcome.state.is_well()).count();
    let total = report.hosts.len();
    let sum = if report.is_complete() {
        format!("Applied: {}.", count(total, "host"))
    } else {
        format!(
            "{}: {done} of {} as planned. Run apply again to go on.",
            style.bad("Not complete"),
            count(total, "host")
        )
    };
    let _ = writeln!(text, "{sum}");
    text
}
