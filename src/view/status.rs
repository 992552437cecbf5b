use std::fmt::Write as _;

use super::{NO_HOST, Style, Table, of_orphan};
use crate::status::{DoorState, HostStatus, Reach, Snapshot};
use crate::terminal::{line, text as said};

/// Below this share of the planned speed, a measured one is marked. Hosts of one board differ by less.
const SLOW: f64 = 0.7;

/// Returns the fleet as a table, with what is wrong below it.
pub fn status(snapshot: &Snapshot, style: Style) -> String {
    if snapshot.hosts.is_empty() {
        return NO_HOST.to_owned();
    }
    let mut table = Table::new(["HOST", "MACHINE", "GENERATION", "DOOR", "MODELS"]);
    for host in &snapshot.hosts {
        table.row([
            host.host.to_string(),
            host.machine.as_deref().map_or_else(|| "-".to_owned(), line),
            generation(host, style),
            door(host, style),
            models(host, style),
        ]);
    }
    table.narrow(0, &[1], style);
    let mut text = table.render(0, style);
    text.push_str(&figures(snapshot, style));
    for host in &snapshot.hosts {
        if let Reach::Failed { why } = &host.reach {
            let _ = writeln!(text, "{} {}: {}", style.bad("x"), host.host, said(why));
        }
        if host.is_orphan {
            let _ = writeln!(text, "{} {}: {}", style.warn("!"), host.host, of_orphan(&host.host));
        }
        if let Some(cordon) = &host.cordon {
            let _ = writeln!(
                text,
                "{} {}: takes no new work since {} (by {}); `bramble uncordon {}` ends that",
                style.warn("!"),
                host.host,
                line(&cordon.at),
                line(&cordon.by),
                host.host
            );
        }
        for warning in &host.warnings {
            let _ = writeln!(text, "{} {}: {}", style.warn("!"), host.host, said(warning));
        }
        for drift in &host.drift {
            let _ = writeln!(
                text,
                "{} {}: {}; `bramble apply` mends it",
                style.warn("!"),
                host.host,
                said(drift)
            );
        }
    }
    text
}

/// Returns what engines were measured at, beside what was planned; nothing where none was.
fn figures(snapshot: &Snapshot, style: Style) -> String {
    let mut table =
        Table::new(["HOST", "MODEL", "SPEED", "PLANNED", "MEMORY", "PLANNED", "LOADED IN", "PLANNED"]);
    let mut is_empty = true;
    for host in &snapshot.hosts {
        let mut name = host.host.to_string();
        for model in &host.models {
            let Some(measured) = &model.measured else { continue };
            let foretold = &model.foretold;
            let seconds = |seconds: f64| format!("{seconds:.1} s");
            let [speed, memory] = [
                measured.tokens_per_second.map(|speed| {
                    // a host that is this much slower than its plan is worth a look
                    let is_slow =
                        foretold.tokens_per_second.is_some_and(|planned| speed.0 < planned.0 * SLOW);
                    if is_slow { style.warn(&speed.to_string()) } else { speed.to_string() }
                }),
                measured.memory.map(|memory| {
                    let is_over = foretold.memory.is_some_and(|planned| memory > planned);
                    if is_over { style.warn(&memory.to_string()) } else { memory.to_string() }
                }),
            ];
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let planned = |text: Option<String>| style.dim(&or_none(text));
            table.row([
                std::mem::take(&mut name),
                model.model.to_string(),
                or_none(speed),
                planned(foretold.tokens_per_second.map(|speed| speed.to_string())),
                or_none(memory),
                planned(foretold.memory.map(|memory| memory.to_string())),
                seconds(measured.load_seconds),
                planned(foretold.load_seconds.map(seconds)),
            ]);
            is_empty = false;
        }
    }
    // of each pair, what was planned goes first
    table.narrow(0, &[7, 6, 5, 4], style);
    if is_empty { String::new() } else { format!("\n{}\n", table.render(0, style)) }
}

fn generation(host: &HostStatus, style: Style) -> String {
    match (host.generation, host.pending) {
        (_, Some(pending)) => style.warn(&format!("{pending}, not confirmed")),
        (Some(generation), None) => generation.to_string(),
        (None, None) => "-".to_owned(),
    }
}

fn door(host: &HostStatus, style: Style) -> String {
    match host.door {
        DoorState::Open if host.cordon.is_some() => style.warn("cordoned"),
        DoorState::Open => style.good("open"),
        DoorState::Closed => style.bad("closed"),
        DoorState::Unknown => "-".to_owned(),
    }
}

fn models(host: &HostStatus, style: Style) -> String {
    let models: Vec<String> = host
        .models
        .iter()
        .map(|model| {
            let state = match model.state.as_str() {
                "running" => style.good("running"),
                "failed" => style.bad("failed"),
                other => style.warn(&line(other)),
            };
            format!("{} {} {state}", model.model, model.quant)
        })
        .collect();
    if models.is_empty() { "-".to_owned() } else { models.join(", ") }
}
