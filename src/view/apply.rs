use std::fmt::Write as _;

use super::push::moved;
use super::{Style, count};
use crate::execute::{Outcome, Report, State};
use crate::terminal::text as plain;
use crate::units::Bytes;

/// What was done to hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A plan was carried out.
    Apply,
    /// They were made to run an earlier generation.
    RollBack,
    /// Their engines were started anew.
    Restart,
    /// Their engines take no new work.
    Cordon,
    /// They take it again.
    Uncordon,
    /// Everything of Bramble was taken off them.
    Remove,
}

/// Returns what a run of a verb did, a line for each host, and where things stand.
pub fn report(report: &Report, deed: Deed, style: Style) -> String {
    let mut text = String::new();
    for failure in &report.failures {
        let _ = writeln!(text, "{} {}", style.bad("x"), plain(failure));
    }
    let width = report.hosts.keys().map(|host| host.as_str().len()).max().unwrap_or(0);
    for (host, outcome) in &report.hosts {
        let name = style.bold(&format!("{host:width$}"));
        let generation = outcome
            .generation
            .map_or_else(|| "nothing".to_owned(), |generation| format!("generation {generation}"));
        let line = match &outcome.state {
            State::Done if deed == Deed::Remove => {
                format!("{} {name}  nothing of Bramble is on it any more", style.good("ok"))
            }
            State::Unchanged if deed == Deed::Remove => {
                format!("{} {name}  nothing of Bramble was on it", style.good("ok"))
            }
            State::Done | State::Unchanged if matches!(deed, Deed::Cordon | Deed::Uncordon) => {
                let word = match (deed, &outcome.state) {
                    (Deed::Cordon, State::Done) => "takes no new work",
                    (Deed::Cordon, _) => "already cordoned",
                    (_, State::Done) => "takes new work again",
                    _ => "was not cordoned",
                };
                format!("{} {name}  {word}", style.good("ok"))
            }
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
                format!("{} {name}  went back to {generation}: {}", style.bad("x "), plain(why))
            }
            // what was started anew is what serves
            State::Failed { step, error } if deed == Deed::Restart => {
                format!(
                    "{} {name}  {step} failed: {}; {generation} stays in force",
                    style.bad("x "),
                    plain(error)
                )
            }
            State::Failed { step, error } => {
                let still = outcome.generation.map_or("nothing serves there".to_owned(), |generation| {
                    format!("generation {generation} still serves")
                });
                format!("{} {name}  {step} failed: {}; {still}", style.bad("x "), plain(error))
            }
            State::Locked { said } => {
                format!("{} {name}  not changed ({generation}): {}", style.bad("x "), plain(said))
            }
            State::NotStarted { why } => {
                let still = outcome.generation.map_or_else(String::new, |_| format!(" ({generation})"));
                let why = if report.failures.contains(why) { "for the reason above" } else { &plain(why) };
                format!("{} {name}  not changed{still}: {why}", style.warn("! "))
            }
        };
        let _ = writeln!(text, "{line}");
    }
    let all = |bytes: fn(&Outcome) -> Bytes| report.hosts.values().map(bytes).sum::<Bytes>();
    let (sent, between) = (all(|outcome| outcome.bytes_sent), all(|outcome| outcome.bytes_from_hosts));
    let reused = all(|outcome| outcome.bytes_reused);
    if sent + between + reused > Bytes::ZERO {
        let _ = writeln!(text, "{}.", moved(sent, between, reused));
    }
    let _ = writeln!(text, "{}", sum(report, deed, style));
    text
}

/// Returns the last line: how many hosts are as wanted, and what to do about the rest.
fn sum(report: &Report, deed: Deed, style: Style) -> String {
    let done = report.hosts.values().filter(|outcome| outcome.state.is_well()).count();
    let total = report.hosts.len();
    let hosts = count(total, "host");
    if report.is_complete() {
        match deed {
            Deed::Apply => format!("Applied: {hosts}."),
            Deed::RollBack => format!("Rolled back: {hosts}."),
            Deed::Restart => format!("Started anew: {hosts}."),
            Deed::Cordon => {
                format!(
                    "{}. `bramble uncordon` ends that.",
                    changed(report, ["Cordoned", "already cordoned"])
                )
            }
            Deed::Uncordon => format!("{}.", changed(report, ["Uncordoned", "not cordoned"])),
            Deed::Remove => format!("Removed: {hosts}."),
        }
    } else {
        let rest: Vec<&str> = report
            .hosts
            .iter()
            .filter(|(_, outcome)| !outcome.state.is_well())
            .map(|(host, _)| host.as_str())
            .collect();
        let rest = rest.join(" ");
        let sum = format!("{}: {done} of {hosts}", style.bad("Not complete"));
        match deed {
            Deed::Apply => format!("{sum} as planned. Run apply again to go on."),
            // those that went back already would go back further
            Deed::RollBack => format!("{sum} went back. `bramble rollback {rest}` tries the rest again."),
            Deed::Restart => format!(
                "{sum} well. `bramble restart {rest}` tries the rest again, `bramble logs {rest}` shows why."
            ),
            Deed::Cordon => format!("{sum} cordoned. `bramble cordon {rest}` tries the rest again."),
            Deed::Uncordon => format!("{sum} uncordoned. `bramble uncordon {rest}` tries the rest again."),
            Deed::Remove => format!("{sum} done. `bramble remove {rest}` tries the rest again."),
        }
    }
}

/// Returns how many hosts were changed, and how many were as wanted before, each behind its word.
fn changed(report: &Report, [new, old]: [&str; 2]) -> String {
    let before = report.hosts.values().filter(|outcome| outcome.state == State::Unchanged).count();
    let parts = [(new, report.hosts.len() - before), (old, before)];
    let said: Vec<String> = parts
        .iter()
        .filter(|(word, n)| *n > 0 || (*word == new && before == 0))
        .map(|(word, n)| format!("{word}: {}", count(*n, "host")))
        .collect();
    let said = said.join(", ");
    said[..1].to_uppercase() + &said[1..]
}
