//! The command lines of the README and of docs/, read by the program's own parser.

use clap::FromArgMatches as _;

use super::arguments::Arguments;
use super::examples::{command, words};

#[path = "../../tests/support/pages.rs"]
#[expect(dead_code, reason = "the rest is for tests/docs.rs")]
mod pages;

/// Returns the `bramble` lines among what a shell would run one after another, without what is set before them.
fn calls(line: &str) -> Vec<&str> {
    let parts = line.split("&&").flat_map(|part| part.split("; ")).flat_map(|part| part.split(" | "));
    let plain = parts.map(|part| {
        let mut rest = part.trim();
        while let Some((first, more)) = rest.split_once(' ')
            && first.contains('=')
            && first.chars().next().is_some_and(char::is_uppercase)
        {
            rest = more.trim_start();
        }
        rest
    });
    plain.filter(|part| *part == "bramble" || part.starts_with("bramble ")).collect()
}

#[test]
fn every_command_line_of_the_docs_can_be_typed_as_it_stands() {
    let mut seen = 0;
    for page in pages::pages() {
        for fence in page.fences() {
            for line in fence.commands() {
                for call in calls(&line) {
                    let call = call.split(" #").next().unwrap();
                    let read = command(None).try_get_matches_from(words(call));
                    let read = read.and_then(|matches| Arguments::from_arg_matches(&matches));
                    let is_version = call.trim_end().ends_with("--version");
                    assert!(
                        read.is_ok() || is_version,
                        "{}:{}: {call}: {}",
                        page.path,
                        fence.line,
                        read.unwrap_err()
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 60, "{seen} command lines were found");
}

/// A verb in running text exists, too.
#[test]
fn every_command_that_the_docs_speak_of_exists() {
    let root = command(None);
    for page in pages::pages() {
        for (at, line) in page.prose() {
            let spoken = line.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("bramble "));
            for text in spoken {
                let verb = text.split([' ', '`', '|']).next().unwrap();
                let is_name =
                    verb.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !verb.starts_with('-');
                let exists = root.get_subcommands().any(|sub| sub.get_name() == verb);
                assert!(!is_name || exists, "{}:{at}: there is no bramble {verb}", page.path);
                // its options, up to the first that is cut short or stands for others
                if !is_name {
                    continue;
                }
                let sub = root.find_subcommand(verb);
                let long = text.split(' ').filter_map(|word| word.trim_start_matches('[').strip_prefix("--"));
                for option in long.map(|word| word.trim_end_matches([']', ',', '.', ';'])) {
                    let is_there = |command: &clap::Command| {
                        command.get_arguments().any(|argument| argument.get_long() == Some(option))
                    };
                    let below = |command: &clap::Command| command.get_subcommands().any(is_there);
                    let known = is_there(&root) || sub.is_some_and(|sub| is_there(sub) || below(sub));
                    assert!(known, "{}:{at}: bramble {verb} has no --{option}", page.path);
                }
            }
        }
    }
}

#[test]
fn calls_are_found_behind_what_a_shell_does_before_them() {
    assert_eq!(calls("mkdir x && A=1 bramble plan"), ["bramble plan"]);
    assert_eq!(calls("bramble status --json | jq x"), ["bramble status --json"]);
    assert_eq!(calls("cargo install bramble"), Vec::<&str>::new());
}
