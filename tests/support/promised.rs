//! The table of docs/contract.md: what each command prints with `--json`, as something to hold values to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Map, Value};

use crate::pages::{Page, repository};

/// The path of the page.
const PAGE: &str = "docs/contract.md";

/// What a command prints that takes no `--json`.
const NOTHING: &str = "none";

/// A key of a row.
struct Key {
    is_optional: bool,
    /// `bytes`, `text or null`, `list of text`, `object by host`, …
    kind: String,
}

/// What stands at one place of a value.
#[derive(Default)]
struct Row {
    keys: BTreeMap<String, Key>,
    /// Whether there are others that are not promised.
    has_more: bool,
}

/// The table, and what of it has been seen.
pub(crate) struct Promised {
    page: Page,
    /// By command and place.
    rows: BTreeMap<(String, String), Row>,
    commands: BTreeSet<String>,
    seen: BTreeSet<(String, String, String)>,
}

impl Promised {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(repository().join(PAGE)).unwrap();
        let page = Page { path: PAGE.to_owned(), text };
        let (mut rows, mut named, mut commands) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        let table = page.prose().into_iter().skip_while(|(_, line)| !line.starts_with("| command | in it |"));
        for (at, line) in table.skip(2).take_while(|(_, line)| line.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, command, place, keys, _] = cells[..] else { panic!("{PAGE}:{at}: {line}") };
            // what does not begin with code is no command, and a name as it stands
            if command.starts_with('`') {
                let codes = command.split(':').next().unwrap().split('`');
                named = codes.skip(1).step_by(2).map(str::to_owned).collect();
                commands.extend(named.clone());
            } else if !command.is_empty() {
                named = vec![command.replace('`', "")];
            }
            for command in &named {
                let place = (command.clone(), place.trim_matches('`').to_owned());
                let before = rows.insert(place, Row::read(keys, at));
                assert!(before.is_none(), "{PAGE}:{at}: {command} is there twice");
            }
        }
        assert!(rows.len() > 50, "{} rows were read", rows.len());
        Self { page, rows, commands, seen: BTreeSet::new() }
    }

    /// Returns the commands of the table.
    pub(crate) fn commands(&self) -> &BTreeSet<String> {
        &self.commands
    }

    /// Returns whether a command prints no JSON.
    pub(crate) fn is_without(&self, command: &str) -> bool {
        self.rows.get(&(command.to_owned(), String::new())).is_some_and(|row| row.keys.contains_key(NOTHING))
    }

    /// Holds what a command has printed to its rows.
    #[track_caller]
    pub(crate) fn hold(&mut self, command: &str, value: &Value) {
        let has = |place: &str| self.rows.contains_key(&(command.to_owned(), place.to_owned()));
        assert!(has("") || (has("[]") && value.is_array()), "{command} has no row for {value}");
        self.hold_at(command, "", value);
    }

    /// Holds a value to the row of its place, and what is in it to theirs.
    #[track_caller]
    fn hold_at(&mut self, command: &str, place: &str, value: &Value) {
        let at = (command.to_owned(), place.to_owned());
        let Some(row) = self.rows.get(&at) else { return self.walk(command, place, value) };
        // whether it may be one is for the row around it
        if value.is_null() {
            return;
        }
        let Some(object) = value.as_object() else {
            panic!("{command}: {place:?} is no object: {value}");
        };
        row.hold(object).unwrap_or_else(|why| panic!("{command}: {place:?}: {why}\n{value:#}"));
        let seen: Vec<_> = object.keys().filter(|key| row.keys.contains_key(*key)).cloned().collect();
        self.seen.extend(seen.into_iter().map(|key| (command.to_owned(), place.to_owned(), key)));
        for (key, inner) in object {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            self.hold_at(command, &place, inner);
        }
    }

    /// Holds the elements of a list, or the values of an object under names.
    #[track_caller]
    fn walk(&mut self, command: &str, place: &str, value: &Value) {
        let (all, mark): (Vec<&Value>, _) = match value {
            Value::Array(all) => (all.iter().collect(), "[]"),
            Value::Object(all) => (all.values().collect(), "{}"),
            _ => return,
        };
        let place = format!("{place}{mark}");
        if self.rows.contains_key(&(command.to_owned(), place.clone())) {
            for inner in all {
                self.hold_at(command, &place, inner);
            }
        }
    }

    /// Holds the samples of the page to its table, and returns how many there are.
    pub(crate) fn hold_samples(&mut self) -> usize {
        let lines: Vec<String> = self.page.text.lines().map(str::to_owned).collect();
        let mut held = 0;
        for fence in self.page.fences().iter().filter(|fence| fence.kind == "json") {
            // `status --json`: and an empty line stand before it
            let title = &lines[fence.line - 3];
            let command = title.trim_matches(['`', ':']).strip_suffix(" --json");
            let command = command.unwrap_or_else(|| panic!("{PAGE}:{}: a sample of what?", fence.line));
            self.hold(command, &serde_json::from_str(&fence.text).unwrap());
            held += 1;
        }
        held
    }

    /// Returns what the table promises and nothing has shown.
    /// Takes it that the keys of one place cannot be seen on this machine.
    pub(crate) fn forgo(&mut self, command: &str, place: &str) {
        let keys = self.rows[&(command.to_owned(), place.to_owned())].keys.keys();
        let keys: Vec<String> = keys.cloned().collect();
        self.seen.extend(keys.into_iter().map(|key| (command.to_owned(), place.to_owned(), key)));
    }

    pub(crate) fn unseen(&self) -> Vec<String> {
        let keys = self.rows.iter().flat_map(|((command, place), row)| {
            row.keys.keys().map(move |key| (command.clone(), place.clone(), key.clone()))
        });
        let unseen = keys.filter(|at| at.2 != NOTHING && !self.seen.contains(at));
        unseen.map(|(command, place, key)| format!("{command}: {place}: {key}")).collect()
    }
}

impl Row {
    fn read(cell: &str, at: usize) -> Self {
        let mut row = Self::default();
        for part in cell.split(", ") {
            if part == "…" {
                row.has_more = true;
                continue;
            }
            let (name, kind) = match part.strip_prefix('`').and_then(|part| part.split_once('`')) {
                Some((name, kind)) => (name, kind.trim()),
                None => (part, ""),
            };
            let is_known = part == NOTHING || is_kind(kind);
            assert!(is_known, "{PAGE}:{at}: {part:?} is no key with what it is");
            let key = Key { is_optional: name.ends_with('?'), kind: kind.to_owned() };
            row.keys.insert(name.trim_end_matches('?').to_owned(), key);
        }
        row
    }

    fn hold(&self, object: &Map<String, Value>) -> Result<(), String> {
        for (name, key) in &self.keys {
            match object.get(name) {
                None if key.is_optional => {}
                None => return Err(format!("there is no {name}")),
                Some(value) if is_of(&key.kind, value) => {}
                Some(value) => return Err(format!("{name} is no {}: {value}", key.kind)),
            }
        }
        let other = object.keys().find(|name| !self.has_more && !self.keys.contains_key(*name));
        other.map_or(Ok(()), |name| Err(format!("{name} is not in the contract")))
    }
}

/// The words for what a value is.
const KINDS: [&str; 12] = [
    "text", "bool", "count", "bytes", "digest", "number", "seconds", "ms", "tok/s", "bytes/s", "list",
    "object",
];

fn is_kind(kind: &str) -> bool {
    if let Some((of, _)) = kind.rsplit_once(" by ") {
        return is_kind(of);
    }
    let kind = kind.strip_suffix(" or null").unwrap_or(kind);
    kind.strip_prefix("list of ").map_or_else(|| KINDS.contains(&kind), is_kind)
}

fn is_of(kind: &str, value: &Value) -> bool {
    if let Some((of, _)) = kind.rsplit_once(" by ") {
        return value.as_object().is_some_and(|all| all.values().all(|value| is_of(of, value)));
    }
    if let Some(kind) = kind.strip_suffix(" or null") {
        return value.is_null() || is_of(kind, value);
    }
    if let Some(of) = kind.strip_prefix("list of ") {
        return value.as_array().is_some_and(|all| all.iter().all(|value| is_of(of, value)));
    }
    match kind {
        "text" => value.is_string(),
        "bool" => value.is_boolean(),
        "count" | "bytes" => value.is_u64(),
        "digest" => {
            value.as_str().is_some_and(|text| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()))
        }
        "list" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_number(),
    }
}
