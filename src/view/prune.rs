use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Style, count};
use crate::execute::Pruned;
use crate::ids::HostName;
use crate::terminal;
use crate::units::Bytes;

/// Returns what was removed from hosts, or would be, a line for each host, and how much that is in all.
pub fn pruned(
    pruned: &BTreeMap<HostName, Pruned>,
    failed: &BTreeMap<HostName, String>,
    is_dry: bool,
    style: Style,
) -> String {
    let mut text = String::new();
    for (host, pruned) in pruned {
        let parts = [
            (pruned.generations.len(), "generation", ""),
            (pruned.blobs.len(), "file", " of weights"),
            (pruned.programs.len(), "program", ""),
        ];
        let some = parts.iter().filter(|(n, ..)| *n > 0);
        let parts: Vec<String> = some.map(|(n, noun, of)| format!("{}{of}", count(*n, noun))).collect();
        let what = match parts.as_slice() {
            [] => "nothing that is not needed".to_owned(),
            parts => format!("{}, {}", parts.join(", "), pruned.freed),
        };
        let _ = writeln!(text, "{} {host}: {what}", style.good(if is_dry { "-" } else { "ok" }));
    }
    for (host, why) in failed {
        let _ = writeln!(text, "{} {host}: {}", style.bad("x"), terminal::text(why));
    }
    let freed: Bytes = pruned.values().map(|pruned| pruned.freed).sum();
    let verb = if is_dry { "Would free" } else { "Freed" };
    let _ = writeln!(text, "{verb} {freed} on {}.", count(pruned.len(), "host"));
    text
}
