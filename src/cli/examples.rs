//! What the help of each command ends with: command lines that can be typed as they stand.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use super::arguments::Arguments;

/// A command line, and what it is for.
type Example = (&'static str, &'static str);

/// By command, as it is typed behind `bramble`; the empty one is `bramble` itself.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            ("bramble init", "write a manifest from what is found"),
            ("bramble plan", "what would be done, and why"),
            ("bramble apply", "do it"),
            ("bramble chat kitchen 'Hello'", "ask a host"),
            ("bramble status", "how are they?"),
            ("bramble doctor kitchen", "what to do about one"),
        ],
    ),
    (
        "init",
        &[
            ("bramble init", "from what is found; it asks"),
            ("bramble init --host pi@192.168.1.20 --yes", "this one, without questions"),
            ("bramble init -f office.yaml --fleet office", ""),
        ],
    ),
    (
        "sdcard",
        &[
            ("bramble sdcard /media/me/bootfs --name kitchen", "on the cable, with your SSH key"),
            ("bramble sdcard /media/me/bootfs --name shed --wifi Home --country DE", "asks for its password"),
            ("bramble sdcard /media/me/bootfs --name robot --address 10.0.0.5/24", "without DHCP"),
        ],
    ),
    (
        "check",
        &[("bramble check", "is fleet.yaml right?"), ("bramble check -f office.yaml", "or another one?")],
    ),
    (
        "plan",
        &[
            ("bramble plan", "what would be done, and why"),
            ("bramble plan --out next.plan", "keep it for `apply next.plan`"),
            ("bramble plan --html plan.html", "as a page for a browser"),
            ("bramble plan --partial", "what can be placed, without the rest"),
            ("bramble plan --exit-code", "2: there is something to do"),
        ],
    ),
    (
        "fetch",
        &[
            ("bramble fetch", "all that the manifest names"),
            ("bramble fetch --limit-rate 5MB", "and leave room for others"),
            ("bramble fetch smollm2-135m-instruct", "one, without a manifest"),
        ],
    ),
    (
        "convert",
        &[
            ("bramble convert smollm2-135m-instruct -q Q8_0", ""),
            ("bramble convert ./llama-7b -q Q4_K_M,Q8_0 -o out", ""),
        ],
    ),
    (
        "quantize",
        &[
            ("bramble quantize chat-F16.gguf -q Q4_K_M", ""),
            ("bramble quantize chat-F16.gguf -q Q2_K --imatrix chat.imatrix", ""),
        ],
    ),
    ("push", &[("bramble push chat-Q4_K_M.gguf kitchen shed", "")]),
    (
        "apply",
        &[
            ("bramble apply", "show the plan, ask, do it"),
            ("bramble apply --yes", "do not ask"),
            ("bramble apply next.plan", "do what `plan --out` kept"),
        ],
    ),
    (
        "status",
        &[
            ("bramble status", "all hosts"),
            ("bramble status kitchen", "one"),
            ("bramble status --watch", "again every 5 seconds"),
            ("bramble status --verify", "after hashing the weights on every host"),
            ("bramble status --exit-code", "for a timer; 2: a host is not well"),
            ("bramble status --json | jq '.hosts[].door'", "for scripts"),
        ],
    ),
    (
        "doctor",
        &[
            ("bramble doctor", "this machine"),
            ("bramble doctor kitchen", "a host of the manifest"),
            ("bramble doctor pi@192.168.1.20", "any that ssh reaches"),
            ("bramble doctor --all --json", "for scripts; 2: a host needs something"),
        ],
    ),
    ("bench", &[("bramble bench", "all hosts"), ("bramble bench kitchen", "one")]),
    (
        "tune",
        &[
            ("bramble tune kitchen", "a step better, and a step smaller"),
            ("bramble tune -m chat -q Q4_0,Q4_K_M", "these, on every host that serves it"),
        ],
    ),
    (
        "chat",
        &[
            ("bramble chat", "talk with the first host"),
            ("bramble chat kitchen 'What is a bramble?'", ""),
            ("bramble chat kitchen -m writer < letter.txt", ""),
        ],
    ),
    ("ui", &[("bramble ui", "prints a link for a browser"), ("bramble ui --port 0", "any free port")]),
    (
        "logs",
        &[
            ("bramble logs kitchen --follow", "as they come"),
            ("bramble logs -m chat -n 100", "of one model, everywhere"),
            ("bramble logs shed --door", "of the door alone"),
        ],
    ),
    (
        "restart",
        &[
            ("bramble restart kitchen", "engines and door"),
            ("bramble restart -m chat", "one model's engines"),
        ],
    ),
    ("cordon", &[("bramble cordon shed", "before its power is turned off")]),
    ("uncordon", &[("bramble uncordon shed", "it is back")]),
    (
        "rollback",
        &[
            ("bramble rollback kitchen", "to the generation before"),
            ("bramble rollback --to 3 --yes", "all hosts, to that one"),
        ],
    ),
    (
        "prune",
        &[("bramble prune --dry-run", "what would be freed?"), ("bramble prune shed --keep 2 --yes", "")],
    ),
    (
        "remove",
        &[("bramble remove shed", "one host"), ("bramble remove --all", "every host of the manifest")],
    ),
    ("forget", &[("bramble forget attic", "it is broken, and was taken out of the manifest")]),
    (
        "bundle",
        &[
            ("bramble bundle export site.bramble", "on a machine with the internet"),
            ("bramble bundle import site.bramble", "on one without"),
        ],
    ),
    (
        "bundle export",
        &[
            ("bramble bundle export site.bramble", "what was made of the models, or their sources"),
            ("bramble bundle export site.bramble --sources", "both"),
        ],
    ),
    (
        "bundle import",
        &[("bramble bundle import site.bramble", "of a key that was named before, with --key")],
    ),
    ("bundle key", &[("bramble bundle key", "to be compared there")]),
    ("keys", &[("bramble keys list", "which are there?"), ("bramble keys add phone", "one more")]),
    ("keys list", &[("bramble keys list", "")]),
    (
        "keys add",
        &[
            ("bramble keys add phone", ""),
            ("bramble keys add panel --scope status", "only reads status and metrics"),
            ("bramble keys add guest --requests-per-minute 10", ""),
        ],
    ),
    ("keys rotate", &[("bramble keys rotate phone", "the old one is good until it is removed")]),
    (
        "keys remove",
        &[
            ("bramble keys remove phone", ""),
            ("bramble keys remove phone --old", "the one before a rotation"),
        ],
    ),
    ("keys readmit", &[("bramble keys readmit shed", "another Pi is in its place")]),
    ("keys revoke-host", &[("bramble keys revoke-host shed", "the next apply tells the others")]),
    ("keys ca", &[("bramble keys ca > home-ca.pem", "what clients trust")]),
    ("keys ca export", &[("bramble keys ca export home.age", "asks for a passphrase")]),
    ("keys ca import", &[("bramble keys ca import home.age", "on the other machine")]),
    ("store", &[("bramble store ls", "what is here?"), ("bramble store prune", "what nothing needs")]),
    ("store ls", &[("bramble store ls", "")]),
    ("store verify", &[("bramble store verify", "")]),
    (
        "store prune",
        &[("bramble store prune --dry-run", "what would go?"), ("bramble store prune --yes", "")],
    ),
    ("catalog", &[("bramble catalog", ""), ("bramble catalog --json | jq '.[].name'", "")]),
    (
        "fit",
        &[
            ("bramble fit qwen2.5-1.5b-instruct", "on a Pi 4 and a Pi 5"),
            ("bramble fit hf:org/model -b pi5-16gb -c 8192", ""),
        ],
    ),
    (
        "schema",
        &[
            ("bramble schema > fleet.schema.json", "for the editor"),
            ("bramble schema --markdown", "every key, for people"),
        ],
    ),
    (
        "completions",
        &[
            ("bramble completions bash > ~/.local/share/bash-completion/completions/bramble", ""),
            ("bramble completions fish > ~/.config/fish/completions/bramble.fish", ""),
            ("bramble completions zsh > ~/.zfunc/_bramble", "in zsh's fpath"),
        ],
    ),
    ("man", &[("bramble man ~/.local/share/man/man1", "then `man bramble-plan`")]),
];

/// Returns the command line's grammar, each command with its examples, in lines of at most `columns` where they are known.
pub(super) fn command(columns: Option<usize>) -> Command {
    dressed(Arguments::command(), "", columns)
}

fn dressed(command: Command, path: &str, columns: Option<usize>) -> Command {
    let command = command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        dressed(sub, path.trim_start(), columns)
    });
    match EXAMPLES.iter().find(|(of, _)| *of == path) {
        Some((_, examples)) => command.after_help(text(examples, columns)),
        None => command,
    }
}

/// Returns the examples with what they are for beside them, or below each where one has no room beside it.
fn text(examples: &[Example], columns: Option<usize>) -> String {
    let columns = columns.unwrap_or(usize::MAX);
    let is_told = |example: &&Example| !example.1.is_empty();
    let width = examples.iter().filter(is_told).map(|(line, _)| line.len()).max().unwrap_or(0);
    let is_beside = examples.iter().filter(is_told).all(|(_, says)| 2 + width + 2 + says.len() <= columns);
    let mut text = "Examples:".to_owned();
    for (line, says) in examples {
        text.push_str("\n  ");
        if is_beside && !says.is_empty() {
            // writing to a String cannot fail
            let _ = write!(text, "{line:width$}  {says}");
            continue;
        }
        text.push_str(&continued(line, columns.saturating_sub(2)));
        if !says.is_empty() {
            text.push_str("\n      ");
            text.push_str(says);
        }
    }
    text
}

/// Returns a command line in lines of at most `columns`, which can be typed as they stand.
fn continued(line: &str, columns: usize) -> String {
    const GOES_ON: &str = " \\\n    ";
    let (mut out, mut room) = (String::new(), columns);
    let mut rest = parts(line).into_iter().peekable();
    while let Some(part) = rest.next() {
        let end = if rest.peek().is_some() { 2 } else { 0 };
        let is_first = out.is_empty();
        if is_first || part.len() + 1 + end <= room {
            if !is_first {
                out.push(' ');
                room -= 1;
            }
        } else {
            out.push_str(GOES_ON);
            room = columns.saturating_sub(2);
        }
        out.push_str(part);
        room = room.saturating_sub(part.len());
    }
    out
}

/// Cuts a command line between its words. What is quoted is one, and so is an option, or the sign of a shell, with what stands behind it.
fn parts(line: &str) -> Vec<&str> {
    let (mut is_quoted, mut word, mut part) = (false, 0, 0);
    let mut parts = Vec::new();
    for (at, c) in line.char_indices() {
        is_quoted ^= c == '\'';
        if c != ' ' || is_quoted {
            continue;
        }
        let (before, after) = (&line[word..at], &line[at + 1..]);
        word = at + 1;
        if after.starts_with('-') || !(before.starts_with('-') || ["<", ">", "|"].contains(&before)) {
            parts.push(&line[part..at]);
            part = word;
        }
    }
    parts.push(&line[part..]);
    parts
}

/// Cuts a command line as a shell would, up to what the shell does with it.
#[cfg(test)]
pub(super) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            '>' | '<' | '|' if !is_quoted => break,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn paths(command: &Command, path: &str) -> Vec<String> {
        let below = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        let below = below.flat_map(|sub| paths(sub, format!("{path} {}", sub.get_name()).trim_start()));
        std::iter::once(path.to_owned()).chain(below).collect()
    }

    #[test]
    fn every_command_has_an_example() {
        let all = paths(&Arguments::command(), "");
        let has_one = |path: &&String| EXAMPLES.iter().any(|(of, them)| of == path && !them.is_empty());
        let without: Vec<&String> = all.iter().filter(|path| !has_one(path)).collect();
        assert_eq!(without, Vec::<&String>::new());
        for (path, _) in EXAMPLES {
            assert!(all.iter().any(|of| of == path), "there is no command {path:?}");
        }
    }

    #[test]
    fn every_example_can_be_typed_as_it_stands() {
        for (path, examples) in EXAMPLES {
            for (line, says) in *examples {
                let words = words(line);
                assert!(words.join(" ").starts_with(format!("bramble {path}").trim_end()), "{line}");
                let read = command(None)
                    .try_get_matches_from(&words)
                    .and_then(|matches| Arguments::from_arg_matches(&matches));
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
                assert!(line.len().max(40) + says.len() < 90, "{line} is too long for a terminal");
            }
        }
    }

    #[test]
    fn examples_fit_a_narrow_terminal_and_can_be_typed_there() {
        for (_, examples) in EXAMPLES {
            for columns in [40, 60, 80] {
                let text = text(examples, Some(columns));
                // what it is for is cut by clap, which keeps its indent
                let is_long = |line: &&str| line.len() > columns.max(60) && line.trim().contains(' ');
                assert_eq!(text.lines().find(is_long), None, "{columns}");
                for (line, _) in *examples {
                    assert!(text.replace(" \\\n    ", " ").contains(line), "{text}");
                }
            }
        }
        insta::assert_snapshot!(text(&EXAMPLES[2].1[..2], Some(60)), @r"
        Examples:
          bramble sdcard /media/me/bootfs --name kitchen
              on the cable, with your SSH key
          bramble sdcard /media/me/bootfs --name shed --wifi Home \
            --country DE
              asks for its password
        ");
    }

    #[test]
    fn lines_are_cut_as_a_shell_does() {
        assert_eq!(words("bramble chat k 'a > b' > c | d"), ["bramble", "chat", "k", "a > b"]);
    }
}
