use std::fmt::Write as _;

use super::{NO_HOST, Style, Table};
use crate::status::{DoorState, HostStatus, Reach, Snapshot};

/// Returns the fleet as a table, with what is wrong below it.
pub fn status(snapshot: &Snapshot, style: Style) -> String {
    if snapshot.hosts.is_empty() {
        return NO_HOST.to_owned();
    }
    let mut table = Table::new(["HOST", "MACHINE", "GENERATION", "DOOR", "MODELS"]);
    for host in &snapshot.hosts {
        table.row([
            host.host.to_string(),
            host.machine.clone().unwrap_or_else(|| "-".to_owned()),
            generation(host, style),
            door(host, style),
            models(host, style),
        ]);
    }
    let mut text = table.render(0);
    for host in &snapshot.hosts {
        if let Reach::Failed { why } = &host.reach {
            let _ = writeln!(text, "{} {}: {why}", style.bad("x"), host.host);
        }
        if host.is_orphan {
            let _ = writeln!(
                text,
                "{} {}: no longer in the manifest and still serving; `bramble remove {}` ends that",
                style.warn("!"),
                host.host,
                host.host
            );
        }
        if let Some(cordon) = &host.cordon {
            let _ = writeln!(
                text,
                "{} {}: takes no new work since {} (by {}); `bramble uncordon {}` ends that",
                style.warn("!"),
                host.host,
                cordon.at,
                cordon.by,
                host.host
            );
        }
        for warning in &host.warnings {
            let _ = writeln!(text, "{} {}: {warning}", style.warn("!"), host.host);
        }
        for drift in &host.drift {
            let _ = writeln!(text, "{} {}: {drift}; `bramble apply` mends it", style.warn("!"), host.host);
        }
    }
    text
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
                "running" => style.good(&model.state),
                "failed" => style.bad(&model.state),
                _ => style.warn(&model.state),
            };
            format!("{} {} {state}", model.model, model.quant)
        })
        .collect();
    if models.is_empty() { "-".to_owned() } else { models.join(", ") }
}
