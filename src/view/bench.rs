use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{NO_HOST, Style, Table};
use crate::facts::Bench;
use crate::ids::HostName;
use crate::terminal;

/// Returns what hosts were measured at as tables, with what could not be measured below.
pub fn bench(
    measured: &BTreeMap<HostName, Bench>,
    failed: &BTreeMap<HostName, String>,
    style: Style,
) -> String {
    if measured.is_empty() && failed.is_empty() {
        return NO_HOST.to_owned();
    }
    let mut text = String::new();
    if !measured.is_empty() {
        let mut table = Table::new(["HOST", "MEMORY", "THREADS", "STORAGE", "MODEL", "PROMPT", "ANSWER"]);
        for (host, bench) in measured {
            let none = || "-".to_owned();
            let memory = bench.memory.map_or_else(none, |memory| memory.read.to_string());
            let threads = bench.memory.map_or_else(none, |memory| memory.threads.to_string());
            let storage = bench.storage.map_or_else(none, |storage| storage.read.to_string());
            let mut first = [host.to_string(), memory, threads, storage];
            if bench.engines.is_empty() {
                let [host, memory, threads, storage] = first;
                table.row([host, memory, threads, storage, none(), none(), none()]);
                continue;
            }
            for engine in &bench.engines {
                let [host, memory, threads, storage] = std::mem::take(&mut first);
                let (prompt, answer) = (engine.prompt.to_string(), engine.answer.to_string());
                table.row([host, memory, threads, storage, engine.model.to_string(), prompt, answer]);
            }
        }
        text.push_str(&table.render(0, style));
    }
    for (host, bench) in measured {
        for note in &bench.notes {
            let _ = writeln!(text, "{} {host}: {}", style.warn("!"), terminal::text(note));
        }
    }
    for (host, why) in failed {
        let _ = writeln!(text, "{} {host}: {}", style.bad("x"), terminal::text(why));
    }
    if !measured.is_empty() {
        text.push_str("The next `bramble plan` counts with these.\n");
    }
    text
}
