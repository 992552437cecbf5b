//! What the help of each command ends with: command lines that can be typed as they stand.

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

/// Returns the command line's grammar, each command with its examples.
pub(super) fn command() -> Command {
    dressed(Arguments::command(), "")
}

fn dressed(command: Command, path: &str) -> Command {
    let command = command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        dressed(sub, path.trim_start())
    });
    match EXAMPLES.iter().find(|(of, _)| *of == path) {
        Some((_, examples)) => command.after_help(text(examples)),
        None => command,
    }
}

fn text(examples: &[Example]) -> String {
    let is_told = |example: &&Example| !example.1.is_empty();
    let width = examples.iter().filter(is_told).map(|(line, _)| line.len()).max().unwrap_or(0);
    let lines = examples.iter().map(|(line, says)| match *says {
        "" => format!("\n  {line}"),
        says => format!("\n  {line:width$}  {says}"),
    });
    format!("Examples:{}", lines.collect::<String>())
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
                let read = command()
                    .try_get_matches_from(&words)
                    .and_then(|matches| Arguments::from_arg_matches(&matches));
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
                assert!(line.len().max(40) + says.len() < 90, "{line} is too long for a terminal");
            }
        }
    }

    #[test]
    fn lines_are_cut_as_a_shell_does() {
        assert_eq!(words("bramble chat k 'a > b' > c | d"), ["bramble", "chat", "k", "a > b"]);
    }
}
