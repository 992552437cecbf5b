//! Every text of an error is held by a test, and says what to do next.
//!
//! The texts are those of `#[error("…")]` under src/, outside tests. One is held where its longest piece between placeholders
//! stands in a test or a snapshot: changing it then fails a test. One has a next step where it tells a person to do
//! something, or names what there is instead. Not asked for that are texts that a cause is printed below, since the cause says it, and
//! texts that only ever stand inside another's sentence ([`INSIDE`]).
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files whose texts stand inside another text, or are told to a program.
const INSIDE: [(&str, &str); 14] = [
    ("authority/trust.rs", "why a connection is refused: the other end is told, by TLS"),
    (
        "checkpoint/mod.rs",
        "below \"FILE is not sound; fetch it again\", and \"is not trusted; take safetensors\"",
    ),
    ("cli/exit.rs", "whoever refuses writes the whole text"),
    ("connect/mod.rs", "`probe` ends it with the next move, of which it has a test for each"),
    ("convert/mod.rs", "below the file that is converted, or in a refusal that names what else to take"),
    ("engine/kept.rs", "in the log of a service, which goes on without"),
    ("engine/template.rs", "the client's own messages, told by the API"),
    ("estimate/memory/mod.rs", "in a refusal of the plan, which names what would fit"),
    ("fetch/guard.rs", "found in a chain of causes, and told as an error of `fetch`"),
    ("gguf/mod.rs", "below the file that is read"),
    ("install/error.rs", "below the step that failed, and before what the host goes on with"),
    ("openai/request.rs", "the client's own request, told by the API"),
    ("openai/sse.rs", "why a door goes on to the next upstream"),
    ("transfer/chunks.rs", "why a file on a host is not used"),
];

/// Texts that end with what another says, which says what to do.
const PASSED_ON: [(&str, &str); 4] = [
    ("is no source: {why}", "what `source` expects there"),
    ("cannot be used as a source yet: {instead}", "what to write instead"),
    ("is changing this host at the moment: {said}", "what the host says of its lock, and to wait"),
    ("does not take {what}: {message}", "what the host says, as `install` does"),
];

/// Words that tell a person to do something, or what there is instead.
const STEPS: [&str; 44] = [
    "accept",
    "add",
    "apply",
    "ask",
    "build",
    "change",
    "check",
    "choose",
    "deploy",
    "do not trust",
    "expected",
    "export",
    "fetch",
    "free",
    "give",
    "install",
    "it has: ",
    "lists them",
    "copy",
    "flash",
    "get ",
    "report",
    "is anything",
    "is another",
    "is the disk",
    "let",
    "look",
    "make",
    "move",
    "name ",
    "remove",
    "restore",
    "run",
    "set",
    "show",
    "stop",
    "take",
    "there are",
    "try",
    "unset",
    "update",
    "use",
    "wait",
    "write",
];

/// A text of an error.
struct Said {
    /// Below src/.
    file: String,
    words: String,
    /// Whether a cause is printed below it.
    has_cause: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn is_test(path: &str) -> bool {
    let stem = path.trim_end_matches(".rs");
    stem.split('/').any(|part| matches!(part, "tests" | "testing" | "laws") || part.ends_with("_tests"))
}

/// A text as it is written, with what goes on over lines in one.
fn joined(text: &str) -> String {
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start())
}

/// Returns the texts of errors, and everything that tests and snapshots say.
fn read() -> (Vec<Said>, String) {
    let (mut texts, mut held) = (Vec::new(), String::new());
    let mut paths = Vec::new();
    files(&root().join("src"), &mut paths);
    files(&root().join("tests"), &mut paths);
    for path in paths {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let text = joined(&text);
        let Some(below) = name.strip_prefix("src/").filter(|name| {
            Path::new(name).extension().is_some_and(|extension| extension == "rs") && !is_test(name)
        }) else {
            // this file names pieces of texts for another reason
            if name != "tests/errors.rs" {
                held.push_str(&text);
            }
            continue;
        };
        let (code, below_it) = text.split_once("\n#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        held.push_str(below_it);
        for part in code.split("#[error(").skip(1) {
            let Some((text, rest)) = part.trim_start().strip_prefix('"').and_then(literal) else { continue };
            let variant = rest.split("#[error(").next().unwrap_or_default();
            // up to the end of the variant
            let mut lines = Vec::new();
            for line in variant.lines() {
                lines.push(line);
                if ["},", "),", "}"].contains(&line.trim())
                    || (line.trim().ends_with(',') && !line.contains(':'))
                {
                    break;
                }
            }
            let variant = lines.concat();
            let has_cause = ["source", "#[from]"].iter().any(|word| variant.contains(word));
            texts.push(Said { file: below.to_owned(), words: text, has_cause });
        }
    }
    (texts, held)
}

/// Returns a literal up to its end, and what comes after.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some((text[..at].replace("\\\"", "\""), &text[at + 1..])),
            _ => {}
        }
    }
    None
}

/// Returns the pieces of a text between its placeholders.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                pieces.push(String::new());
            }
            _ if depth == 0 => pieces.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    pieces
}

fn longest(text: &str) -> String {
    let longest = pieces(text).into_iter().max_by_key(String::len).unwrap();
    longest.trim_matches([' ', ':', ';', ',', '(']).to_owned()
}

/// Says whether these words stand in a text as whole words: "let" does not stand in "letters".
fn says(text: &str, words: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(words).any(|(at, _)| {
        is_edge(text[..at].chars().next_back()) && is_edge(text[at + words.len()..].chars().next())
    })
}

#[test]
fn a_step_is_a_whole_word() {
    assert!(says("it is full; let go", "let") && says("run it", "run") && says("it has: a", "it has:"));
    assert!(!says("letters", "let") && !says("its address", "add") && !says("a country", "try"));
}

#[test]
fn every_text_of_an_error_is_held_by_a_test() {
    let (texts, held) = read();
    assert!(texts.len() > 200, "{} texts were found", texts.len());
    let mut missing = Vec::new();
    for Said { file, words: text, .. } in &texts {
        let piece = longest(text);
        // what has no words of its own says another's
        if piece.len() >= 3 && !held.contains(&piece) && !held.contains(&piece.replace('"', "\\\"")) {
            missing.push(format!("{file}: {text}"));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_text_of_an_error_says_what_to_do_next() {
    let (texts, _) = read();
    for (file, why) in INSIDE {
        assert!(texts.iter().any(|text| text.file == file) && why.len() > 10, "{file} has no texts any more");
    }
    let is_asked = |text: &&Said| {
        !text.has_cause
            && longest(&text.words).len() >= 3
            && INSIDE.iter().all(|(file, _)| *file != text.file)
    };
    let asked: Vec<&Said> = texts.iter().filter(is_asked).collect();
    assert!(asked.len() > 100, "{} texts are asked for a next step", asked.len());
    let without: Vec<String> = asked
        .iter()
        .filter(|text| {
            // what to do comes behind what was wrong, or is said as what was expected
            let (_, rest) = text.words.split_once([':', ';', ',', '`']).unwrap_or(("", ""));
            let is_passed_on = PASSED_ON.iter().any(|(end, _)| text.words.ends_with(end));
            let is_step = |word: &&str| says(rest, word.trim_end());
            !is_passed_on && !text.words.starts_with("expected") && !STEPS.iter().any(is_step)
        })
        .map(|text| format!("{}: {}", text.file, text.words))
        .collect();
    println!("errors.without_next_step = {}", without.len());
    assert_eq!(without, Vec::<String>::new());
}
