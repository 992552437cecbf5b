//! Holds `src/` to the tables of ARCHITECTURE.md: who may use whom, where words like
//! `unsafe` may stand, and how long a file may be.

#![expect(clippy::expect_used, reason = "a test's helpers may fail as loudly as the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The longest file, in lines.
const MAX_LINES: usize = 800;

type Uses = BTreeMap<String, BTreeSet<String>>;

/// A file of `src/` with the room that it belongs to.
struct Source {
    /// Relative to `src/`.
    path: String,
    room: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let first = path.split('/').next().unwrap_or_default();
        let room = match path {
            "main.rs" => "bramble",
            _ if first == "bin" => path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs"),
            _ => first.trim_end_matches(".rs"),
        };
        Self { path: path.to_owned(), room: room.to_owned(), text: text.to_owned() }
    }

    fn is_test(&self) -> bool {
        let stem = self.path.trim_end_matches(".rs");
        stem.split('/').any(|part| matches!(part, "tests" | "testing" | "laws"))
    }

    /// How many `super::` lead from the file to the crate's root.
    fn depth(&self) -> usize {
        let parts: Vec<&str> = self.path.trim_end_matches(".rs").split('/').collect();
        parts.len() - usize::from(parts.last() == Some(&"mod"))
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let root = repository().join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("inside").to_string_lossy().replace('\\', "/");
                found.push(Source::new(&name, &std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Reads the table of ARCHITECTURE.md whose head is `| first | second |`.
fn table(first: &str, second: &str) -> Uses {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let head = format!("| {first} | {second} |");
    let rows = text.lines().skip_while(|line| *line != head).skip(2).take_while(|line| line.starts_with('|'));
    let table: Uses = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 2, "a row of two cells: {row}");
            (cells[0].to_owned(), cells[1].split_whitespace().map(str::to_owned).collect())
        })
        .collect();
    assert!(!table.is_empty(), "ARCHITECTURE.md has a table {head}");
    table
}

/// Splits Rust into identifiers and signs; comments, texts, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => i = after_text(&chars, i),
            // a raw text: r"…", r#"…"#, also after b or c; but r#name is a word
            'r' if is_raw_text(&chars, i) => {
                let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
                i += 2 + hashes;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                    i += 1;
                }
                i += 1 + hashes;
            }
            'b' | 'c' if at(i + 1) == 'r' && is_raw_text(&chars, i + 1) => i += 1,
            'b' | 'c' if at(i + 1) == '"' => i += 1,
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
            c if is_word(c) => {
                let start = i;
                while is_word(at(i)) {
                    i += 1;
                }
                found.push(chars[start..i].iter().collect());
            }
            ':' if at(i + 1) == ':' => {
                found.push("::".to_owned());
                i += 2;
            }
            c => {
                if !c.is_whitespace() {
                    found.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    found
}

fn is_raw_text(chars: &[char], r: usize) -> bool {
    let hashes = chars[r + 1..].iter().take_while(|&&c| c == '#').count();
    chars.get(r + 1 + hashes) == Some(&'"')
}

fn after_text(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Leaves out what stands under `#[cfg(test)]` with braces or a semicolon of its own.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !tokens[i..].iter().take(7).eq(cfg_test.iter()) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += 7;
        let mut depth = 0usize;
        while i < tokens.len() {
            match tokens[i].as_str() {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            let is_end = depth == 0 && matches!(tokens[i].as_str(), "}" | ";");
            i += 1;
            if is_end {
                break;
            }
        }
    }
    kept
}

/// Returns the rooms that the tokens of a file name by a path from the crate's root.
fn rooms_named(tokens: &[String], depth: usize) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|token| token == text);
    for i in 0..tokens.len() {
        let follows_path = i > 0 && is(i - 1, "::");
        let after = match tokens[i].as_str() {
            "crate" | "bramble_fleet" if !follows_path && is(i + 1, "::") => i + 2,
            "super" if !follows_path && is(i + 1, "::") => {
                let mut next = i + 2;
                let mut steps = 1;
                while is(next, "super") && is(next + 1, "::") {
                    (steps, next) = (steps + 1, next + 2);
                }
                // fewer lead to a module of the same room; more come from a module inside the file
                if steps < depth {
                    continue;
                }
                next
            }
            _ => continue,
        };
        if is(after, "{") {
            named.extend(group(tokens, after));
        } else if let Some(token) = tokens.get(after) {
            named.insert(token.clone());
        }
    }
    named
}

/// Returns the first words of the entries of `{ a, b::c, d::{e, f} }`.
fn group(tokens: &[String], open: usize) -> Vec<String> {
    let mut firsts = Vec::new();
    let mut depth = 0;
    let mut is_first = false;
    for token in &tokens[open..] {
        match token.as_str() {
            "{" => (depth, is_first) = (depth + 1, depth == 0),
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => is_first = depth == 1,
            word if is_first => {
                firsts.push(word.to_owned());
                is_first = false;
            }
            _ => {}
        }
    }
    firsts
}

/// Returns what each room uses of others, leaving out tests.
fn uses(sources: &[Source]) -> Uses {
    let rooms: BTreeSet<&str> = sources.iter().map(|source| source.room.as_str()).collect();
    let mut uses = Uses::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs" && !source.is_test()) {
        let mut named = rooms_named(&without_tests(&tokens(&source.text)), source.depth());
        // a word that is no room is a macro or an item of the root, or leads into the room itself
        named.retain(|name| *name != source.room && (name == "*" || rooms.contains(name.as_str())));
        uses.entry(source.room.clone()).or_default().extend(named);
    }
    uses
}

/// Returns a circle of rooms, if there is one.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    fn walk(
        uses: &Uses,
        room: &str,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|seen| seen == room) {
            return Some(path[start..].to_vec());
        }
        if !done.insert(room.to_owned()) {
            return None;
        }
        path.push(room.to_owned());
        let found = uses.get(room).into_iter().flatten().find_map(|next| walk(uses, next, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|room| walk(uses, room, &mut Vec::new(), &mut done))
}

/// Returns what is used and not allowed, as `room -> room`.
fn trespasses(uses: &Uses, allowed: &Uses) -> Vec<String> {
    let none = BTreeSet::new();
    let mut found = Vec::new();
    for (room, used) in uses {
        for other in used.difference(allowed.get(room).unwrap_or(&none)) {
            found.push(format!("{room} -> {other}"));
        }
    }
    found
}

#[test]
fn every_room_uses_only_what_the_table_allows() {
    let sources = sources();
    let (uses, allowed) = (uses(&sources), table("room", "may use"));
    let missing: Vec<&String> = uses.keys().filter(|room| !allowed.contains_key(*room)).collect();
    assert!(missing.is_empty(), "rooms that are not in the table of ARCHITECTURE.md: {missing:?}");
    assert_eq!(trespasses(&uses, &allowed), Vec::<String>::new(), "uses that the table does not allow");
    assert!(uses["manifest"].contains("yaml"), "the reader of paths finds uses at all");
}

#[test]
fn the_table_names_rooms_only_and_has_no_circle() {
    let allowed = table("room", "may use");
    for (room, used) in &allowed {
        for other in used {
            assert!(allowed.contains_key(other), "{room} may use {other}, which is no room");
        }
    }
    assert_eq!(circle(&allowed), None);
    assert_eq!(circle(&uses(&sources())), None);
}

#[test]
fn every_room_is_on_the_map() {
    let lib = std::fs::read_to_string(repository().join("src/lib.rs")).expect("lib.rs");
    for room in uses(&sources()).keys().filter(|room| !matches!(room.as_str(), "bramble" | "brambled")) {
        assert!(lib.contains(&format!("pub mod {room};")), "{room} is not in lib.rs");
    }
}

#[test]
fn no_file_is_longer_than_one_sitting() {
    let long = |source: &Source| (source.text.lines().count() > MAX_LINES).then(|| source.path.clone());
    let long: Vec<String> = sources().iter().filter_map(long).collect();
    assert!(long.is_empty(), "files of more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn rare_words_stand_only_where_the_table_says() {
    let words = table("word", "only under");
    let mut found = Vec::new();
    for source in sources() {
        let tokens: BTreeSet<String> = tokens(&source.text).into_iter().collect();
        for (word, places) in &words {
            let is_place = |place: &String| Path::new(source.path.trim_end_matches(".rs")).starts_with(place);
            if tokens.contains(word) && !places.iter().any(is_place) {
                found.push(format!("{} in {}", word, source.path));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

/// Returns the types in a text that print all that they hold, where they hold a secret themselves.
fn printed_secrets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, item) in text
        .split("#[derive(")
        .skip(1)
        .filter_map(|rest| rest.split_once(")]"))
        .filter(|(traits, _)| traits.split(',').any(|name| name.trim() == "Debug"))
    {
        // a type without a body ends in a semicolon
        let end = item.find("\n}").into_iter().chain(item.find(";\n")).min().unwrap_or(item.len());
        let item = &item[..end];
        if ["Zeroizing<", ": ForeignKeys"].iter().any(|secret| item.contains(secret)) {
            found.push(
                item.lines()
                    .find(|line| line.contains("struct ") || line.contains("enum "))
                    .unwrap_or(item)
                    .to_owned(),
            );
        }
    }
    found
}

#[test]
fn no_type_that_prints_all_of_itself_holds_a_secret() {
    let sources = sources();
    let found: Vec<String> = sources.iter().flat_map(|source| printed_secrets(&source.text)).collect();
    assert_eq!(found, Vec::<String>::new());
    // what it would find
    let shown = "#[derive(Clone, Debug)]\npub struct Key(Zeroizing<String>);\n#[derive(Clone)]\nstruct Held { key: Zeroizing<u8> }\n";
    assert_eq!(printed_secrets(shown), ["pub struct Key(Zeroizing<String>)"]);
    let nested = "#[derive(Debug, Clone)]\n#[serde(transparent)]\nstruct A {\n    b: u8,\n    c: Option<Zeroizing<Vec<u8>>>,\n}\n";
    assert_eq!(printed_secrets(nested), ["struct A {"]);
}

/// Returns the actions of a workflow that are not named by a commit, which nobody can move, with the release that it is.
fn movable_actions(workflow: &str) -> Vec<&str> {
    let actions =
        workflow.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("uses: "));
    let is_fixed = |action: &&str| {
        let (name, release) = action.split_once(" # v").unwrap_or((action, ""));
        let commit = name.split_once('@').map_or("", |(_, commit)| commit);
        !release.is_empty() && commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit())
    };
    actions.filter(|action| !is_fixed(action)).collect()
}

#[test]
fn workflows_name_actions_by_commit() {
    let folder = repository().join(".github/workflows");
    let mut seen = 0;
    for file in std::fs::read_dir(&folder).expect("the workflows are there") {
        let text = std::fs::read_to_string(file.expect("a workflow").path()).expect("a workflow is read");
        assert_eq!(movable_actions(&text), Vec::<&str>::new());
        seen += text.matches("uses: ").count();
    }
    assert!(seen >= 5, "{seen} actions");
    // what it would find
    let commit = "3d3c42e5aac5ba805825da76410c181273ba90b1";
    let fixed =
        format!("steps:\n  - uses: a/b@{commit} # v7.0.1\n    uses: a/c@v4\n  - uses: a/d@{commit}\n");
    assert_eq!(movable_actions(&fixed), ["a/c@v4", &format!("a/d@{commit}")]);
}

#[test]
fn paths_are_read_in_all_their_forms() {
    let text = r##"
        // use crate::comment;
        /* use crate::block; /* crate::nested */ crate::still */
        use crate::{a, b::c, d::{e, f}, };
        use super::super::g::{Thing, Other as crate_other};
        use super::sibling;
        pub(in crate::h) fn f<'a>(x: &'a str, c: char) -> bool { c == '"' || c == '\'' || x == "crate::text" }
        const RAW: &str = r#"crate::raw "quoted" crate::raw"#;
        const BYTES: &[u8] = b"crate::bytes";
        macro_rules! m { () => { $crate::i::call() } }
        fn r#match() -> crate::j::Type { bramble_fleet::k::make(other::crate_like::x) }
        #[cfg(test)]
        use crate::only_in_a_test;
        #[cfg(test)]
        mod tests { use crate::test_mod; fn f() { if true { crate::deep::x() } } }
        use crate::z;
    "##;
    let source = Source::new("room/file.rs", text);
    assert_eq!((source.room.as_str(), source.depth()), ("room", 2));
    let named = rooms_named(&without_tests(&tokens(text)), source.depth());
    let expected = ["a", "b", "d", "g", "h", "i", "j", "k", "z"];
    assert_eq!(named.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(Source::new("room/mod.rs", "").depth(), 1);
    assert_eq!(Source::new("ids.rs", "").depth(), 1);
    assert_eq!(Source::new("bin/brambled.rs", "").room, "brambled");
}

#[test]
fn a_trespass_and_a_circle_are_found() {
    let sources = [
        Source::new("a/x.rs", "use crate::b;"),
        Source::new("b.rs", "use super::c::T;"),
        Source::new("c/mod.rs", "use super::a;"),
    ];
    let uses = uses(&sources);
    assert_eq!(circle(&uses).map(|rooms| rooms.len()), Some(3));
    let allowed = Uses::from([("a".to_owned(), BTreeSet::from(["b".to_owned()]))]);
    assert_eq!(trespasses(&uses, &allowed), ["b -> c", "c -> a"]);
}
