use std::fmt::Write as _;

use super::changes::{changes, describe_route};
use super::{Style, Table, count, of_orphan};
use crate::execute::Left;
use crate::plan::{Action, Chosen, HostPlan, Plan, Problem};
use crate::terminal::{line as one_line, text as said};
use crate::units::Bytes;

/// Returns the plan as a page: hosts with their changes, what was left out, what is wrong.
///
/// `left` is what has to be done on this machine; where it is not known, all that the plan has.
pub fn plan(plan: &Plan, problems: &[Problem], left: Option<Left>, style: Style) -> String {
    let mut text = hosts(plan, problems, style);
    for problem in problems {
        let _ = writeln!(text, "{} {}\n", style.bad("refused:"), said(&problem.message));
    }
    text.push_str(&totals(plan, problems, left));
    text
}

/// Returns the part of a plan that can be carried out, with what is left out of it.
pub fn part(plan: &Plan, problems: &[Problem], left: Option<Left>, style: Style) -> String {
    let mut text = hosts(plan, problems, style);
    for problem in problems {
        let _ = writeln!(text, "{} {}\n", style.warn("left out:"), said(&problem.message));
    }
    text.push_str(&totals_of_part(plan, problems, left));
    text
}

fn hosts(plan: &Plan, problems: &[Problem], style: Style) -> String {
    let mut text = String::new();
    // what is refused would be on them: that there is nothing for them to run says nothing
    let is_worth_a_word = |is_idle: bool| problems.is_empty() || !is_idle;
    let mut hosts = plan
        .hosts
        .iter()
        .filter(|host| is_worth_a_word(host.generation.is_none() && host.previous.is_none()))
        .peekable();
    while let Some(host) = hosts.next() {
        text.push_str(&host_block(host, style));
        if hosts.peek().is_none() && host.generation.is_none() {
            text.push('\n');
        }
    }
    for planned in plan.planned.iter().filter(|host| is_worth_a_word(host.choices.is_empty())) {
        let about = format!("{}, not bought yet", planned.board);
        let _ = writeln!(text, "  {}  {}", style.bold(planned.host.as_str()), style.dim(&about));
        for route in &planned.routes {
            let _ = writeln!(text, "    + route  {}", describe_route(route));
        }
        if planned.choices.is_empty() {
            text.push_str("      nothing to run\n");
        }
        text.push_str(&choices(&planned.choices, planned.room, style));
        text.push('\n');
    }
    for skipped in &plan.skipped {
        let _ = writeln!(
            text,
            "{} {}: left out: {}\n",
            style.warn("!"),
            style.bold(skipped.host.as_str()),
            said(&skipped.why)
        );
    }
    for orphan in &plan.orphans {
        let _ =
            writeln!(text, "{} {}: {}\n", style.warn("!"), style.bold(orphan.as_str()), of_orphan(orphan));
    }
    text
}

fn host_block(host: &HostPlan, style: Style) -> String {
    let name = style.bold(host.host.as_str());
    let mut text = match (host.generation, host.previous) {
        (None, Some(now)) => {
            let engines: Vec<String> = host
                .definition
                .engines
                .iter()
                .map(|engine| format!("{} {}", engine.model, engine.weights.quant_name()))
                .collect();
            let runs = if engines.is_empty() { "no engine".to_owned() } else { engines.join(", ") };
            return format!("  {name}  generation {now}, nothing to do: {runs}\n");
        }
        (None, None) => return format!("  {name}  nothing to run\n"),
        (Some(new), None) => format!("{} {name}  generation {new} (first)\n", style.good("+")),
        (Some(new), Some(old)) => format!("{} {name}  generation {old} -> {new}\n", style.warn("~")),
    };
    for reason in &host.reasons {
        let _ = writeln!(text, "      {}", style.dim(&said(reason)));
    }
    for note in &host.notes {
        let _ = writeln!(text, "      {} {}", style.warn("!"), said(note));
    }
    for line in changes(host.before.as_ref(), &host.definition, style) {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str(&choices(&host.choices, host.room, style));
    text.push('\n');
    text
}

fn choices(all: &[Chosen], room: Bytes, style: Style) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["MODEL", "QUANT", "FILE", "MEMORY", "SPEED"]);
    for chosen in all {
        table.row([
            chosen.model.to_string(),
            one_line(&chosen.quant),
            chosen.file.to_string(),
            format!("{} of {room}", chosen.memory),
            one_line(&chosen.speed),
        ]);
    }
    // what it needs is told in its reason, too
    table.narrow(6, &[2, 3], style);
    let mut text = table.render(6, style);
    for chosen in all {
        let _ = writeln!(text, "      {}", style.dim(&format!("{}: {}", chosen.model, said(&chosen.why))));
    }
    text
}

/// Returns the last line of a plan that is carried out as far as it can be.
pub(super) fn totals_of_part(plan: &Plan, problems: &[Problem], left: Option<Left>) -> String {
    let text = totals(plan, &[], left);
    match problems.len() {
        0 => text,
        n => format!("{} Left out, because of --partial: {}.\n", text.trim_end(), count(n, "problem")),
    }
}

pub(super) fn totals(plan: &Plan, problems: &[Problem], left: Option<Left>) -> String {
    let changed = plan.hosts.iter().filter(|host| host.generation.is_some()).count();
    if !problems.is_empty() {
        return format!("Refused: {}. Nothing was changed.\n", count(problems.len(), "problem"));
    }
    if plan.is_empty() {
        if plan.hosts.is_empty() && plan.skipped.is_empty() && !plan.planned.is_empty() {
            return format!("Planned for {} that nobody bought yet.\n", count(plan.planned.len(), "host"));
        }
        return match plan.skipped.len() {
            0 => "Nothing to do.\n".to_owned(),
            n => format!("Nothing to do on the hosts that answer; {} left out.\n", count(n, "host")),
        };
    }
    let mut push = Bytes::ZERO;
    let mut all = Left { fetch: Bytes::ZERO, make: 0 };
    for step in plan.steps() {
        match &step.action {
            Action::Fetch { bytes, .. } => all.fetch += *bytes,
            Action::Push { bytes, .. } | Action::PushProgram { bytes, .. } => push += *bytes,
            Action::Make { artifacts } => all.make += artifacts.len(),
            Action::Install { .. } | Action::Activate { .. } | Action::Prune => {}
        }
    }
    let Left { fetch, make } = left.unwrap_or(all);
    let mut parts = vec![format!("{} to change", count(changed, "host"))];
    if fetch > Bytes::ZERO {
        parts.push(format!("{fetch} to fetch"));
    }
    if make > 0 {
        parts.push(format!("{} to quantize", count(make, "file")));
    }
    if push > Bytes::ZERO {
        parts.push(format!("{push} to push"));
    }
    if !plan.skipped.is_empty() {
        parts.push(format!("{} left out", count(plan.skipped.len(), "host")));
    }
    format!("Plan: {}.\n", parts.join(", "))
}
