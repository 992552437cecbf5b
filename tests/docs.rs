//! The README and docs/ against the program: commands that need no Pi are run, manifests are read, links lead somewhere, and
//! messages are those of the source.
//!
//! `src/cli/docs_tests.rs` reads every command line by the program's own parser; `tests/e2e/stories/92-tutorial.sh` runs the
//! tutorial on hosts.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bramble_fleet::manifest;

#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[path = "support/pages.rs"]
mod pages;
#[path = "support/stub.rs"]
mod stub;

use desk::Desk;
use pages::{Page, pages, repository};

/// Pages whose commands a story runs on hosts, and the README, which says the same in short.
const RUN_ON_HOSTS: [&str; 2] = ["README.md", "docs/tutorial.md"];

/// A fleet of one host, this machine, with the real program but for its engine.
struct Fleet {
    desk: Desk,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.desk.command(&["remove", "--all", "--yes"]).output());
    }
}

impl Fleet {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let desk = Desk::new(&format!(
            "bramble: 1\nfleet: home\nserve: {{ port: {port} }}\n\
             models:\n  chat: {{ source: \"file:model\", context: 256, quant: F16 }}\n\
             hosts:\n  kitchen: {{ address: 127.0.0.1, connect: local, dir: FOLDERroot, supervisor: process }}\n\
             deploy:\n  - {{ model: chat, on: [kitchen] }}\n"
        ));
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        stub::write_program(&desk.path("brambled"), "engine");
        let folder = desk.path("");
        let packed =
            Command::new("tar").args(["-czf", "made.tar.gz", "brambled"]).current_dir(&folder).status();
        assert!(packed.unwrap().success());
        desk.put_bundle(&fs::read(desk.path("made.tar.gz")).unwrap());
        let fleet = Self { desk };
        let applied = fleet.desk.command(&["apply", "--yes"]).output().unwrap();
        assert!(applied.status.success(), "{}", said(&applied));
        fleet
    }

    /// Runs command lines one after another, as a shell does, until one fails.
    fn shell(&self, script: &str) -> Output {
        // the environment of a command that is never run
        let like = self.desk.command(&[]);
        let mut shell = Command::new("bash");
        let programs = Path::new(env!("CARGO_BIN_EXE_bramble")).parent().unwrap();
        shell.args(["-euo", "pipefail", "-c", script]).env_clear().current_dir(self.desk.path(""));
        shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display()));
        shell.stdin(std::process::Stdio::null()).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn commands_that_need_no_pi_are_run() {
    let fleet = Fleet::new();
    let mut run = 0;
    for page in pages().iter().filter(|page| !RUN_ON_HOSTS.contains(&page.path.as_str())) {
        for fence in page.fences().iter().filter(|fence| fence.kind == "sh") {
            if let Some(why) = &fence.not_run {
                assert!(why.len() > 8, "{}:{}: it says why not", page.path, fence.line);
                continue;
            }
            for command in fence.commands() {
                let ended = fleet.shell(&command);
                assert!(
                    ended.status.success(),
                    "{}:{}: {command}: {}\n{}",
                    page.path,
                    fence.line,
                    ended.status,
                    said(&ended)
                );
                run += 1;
            }
        }
    }
    assert!(run > 15, "{run} commands were run");
}

#[test]
fn what_was_recorded_is_what_is_printed() {
    let fleet = Fleet::new();
    let mut compared = 0;
    for page in pages() {
        for fence in page.fences().iter().filter(|fence| fence.kind == "console") {
            let (command, expected) = fence.text.split_once('\n').unwrap();
            let ended = fleet.shell(command.strip_prefix("$ ").unwrap());
            assert_eq!(String::from_utf8_lossy(&ended.stdout), expected, "{}:{}", page.path, fence.line);
            compared += 1;
        }
    }
    assert!(compared > 0);
}

/// What the README shows of commands, the tutorial has, too: there a story runs them.
#[test]
fn the_readme_and_the_tutorial_name_the_same_verbs() {
    let verbs = |path: &str| -> BTreeSet<String> {
        let page = pages().into_iter().find(|page| page.path == path).unwrap();
        let fences = page.fences();
        let lines = fences.iter().filter(|fence| fence.kind == "sh").flat_map(pages::Fence::commands);
        lines.filter_map(|line| Some(line.strip_prefix("bramble ")?.split(' ').next()?.to_owned())).collect()
    };
    let missing: Vec<String> = verbs("README.md").difference(&verbs("docs/tutorial.md")).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_reference_of_the_manifest_is_what_the_program_prints() {
    let printed =
        Command::new(env!("CARGO_BIN_EXE_bramble")).args(["schema", "--markdown"]).output().unwrap();
    let kept = fs::read_to_string(repository().join("docs/manifest.md")).unwrap();
    let hint = "write it anew: bramble schema --markdown > docs/manifest.md";
    assert!(String::from_utf8_lossy(&printed.stdout) == kept, "{hint}");
}

/// What a fragment is put into: every part that it does not bring itself.
const AROUND: &str = "\
models:
  chat: { source: \"catalog:smollm2-135m-instruct\" }
hosts:
  kitchen: { address: kitchen.local }
deploy:
  - { model: chat, on: [kitchen] }
";

/// Cuts YAML at its top keys.
fn parts(text: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if !line.starts_with([' ', '#']) && line.contains(':') {
            parts.push((line.split(':').next().unwrap().to_owned(), String::new()));
        }
        if let Some((_, text)) = parts.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    parts
}

/// Makes a whole manifest of a fragment: lists and values of its own, and what stands around it where it has no
/// such entry.
fn whole(fragment: &str) -> String {
    let mut all = parts(fragment);
    for (key, text) in parts(AROUND) {
        match all.iter_mut().find(|(of, _)| *of == key) {
            Some(_) if key == "deploy" => {}
            Some((_, own)) => {
                for entry in text.lines().skip(1) {
                    let name = entry.split(':').next().unwrap();
                    if !own.lines().any(|line| line.split(':').next() == Some(name)) {
                        own.push_str(entry);
                        own.push('\n');
                    }
                }
            }
            None => all.push((key, text)),
        }
    }
    let body: String = all.into_iter().map(|(_, text)| text).collect();
    format!("bramble: 1\nfleet: home\n{body}")
}

#[test]
fn manifests_and_fragments_of_them_are_read_without_faults() {
    let mut read = 0;
    for page in pages() {
        for fence in page.fences().iter().filter(|fence| fence.kind == "yaml") {
            let is_whole = fence.text.starts_with("bramble: 1");
            let text = if is_whole { fence.text.clone() } else { whole(&fence.text) };
            let name = format!("{}:{}", page.path, fence.line);
            assert!(
                manifest::parse(&name, &text).is_ok(),
                "{}\n{text}",
                manifest::parse(&name, &text).unwrap_err()
            );
            read += 1;
        }
    }
    assert!(read > 8, "{read} were read");
}

#[test]
fn json_that_is_shown_is_json() {
    for page in pages() {
        for fence in page.fences().iter().filter(|fence| fence.kind == "json") {
            let read = serde_json::from_str::<serde_json::Value>(&fence.text);
            assert!(read.is_ok(), "{}:{}: {}", page.path, fence.line, read.unwrap_err());
        }
    }
}

/// The name that a heading has in links, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(path: &Path) -> BTreeSet<String> {
    let page = Page { path: String::new(), text: fs::read_to_string(path).unwrap() };
    let heads = page.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
    heads.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

/// Where what a release does not have can be read.
const SOURCES: &str = "https://github.com/bramble-fleet/bramble/blob/main/";

/// What `scripts/release` puts beside the pages.
const RELEASED: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "manifests/", "docs/", "examples/"];

#[test]
fn links_lead_somewhere() {
    let script = fs::read_to_string(repository().join("scripts/release")).unwrap();
    for name in RELEASED {
        let (folder, file) = (format!(" {}", name.trim_end_matches('/')), format!(" {name}*"));
        assert!(script.contains(&folder) || script.contains(&file), "a release has no {name}");
    }
    for page in pages() {
        for (at, line) in page.prose() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if let Some(source) = link.strip_prefix(SOURCES) {
                    assert!(repository().join(source).exists(), "{}:{at}: there is no {source}", page.path);
                    continue;
                }
                if link.starts_with("https://") {
                    continue;
                }
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let path =
                    if file.is_empty() { repository().join(&page.path) } else { page.folder().join(file) };
                assert!(path.exists(), "{}:{at}: there is no {link}", page.path);
                let real = path.canonicalize().unwrap();
                let name = real.strip_prefix(repository().canonicalize().unwrap()).unwrap();
                let is_released = RELEASED.iter().any(|released| name.starts_with(released));
                assert!(is_released, "{}:{at}: a release has no {link}: lead to {SOURCES}", page.path);
                let is_there = heading.is_empty() || anchors(&path).contains(heading);
                assert!(is_there, "{}:{at}: {file} has no heading #{heading}", page.path);
            }
        }
    }
}

#[test]
fn files_that_are_named_exist() {
    let roots = ["src/", "tests/", "scripts/", "docs/", "examples/", "manifests/"];
    for page in pages() {
        let named = page.prose().into_iter().flat_map(|(at, line)| {
            let codes = line.split('`').skip(1).step_by(2);
            codes.map(move |code| (at, code.split([' ', ':']).next().unwrap_or_default()))
        });
        let commands = page.fences().into_iter().flat_map(|fence| {
            let words: Vec<String> = fence
                .commands()
                .iter()
                .flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect();
            words.into_iter().map(move |word| (fence.line, word))
        });
        let named = named.map(|(at, word)| (at, word.to_owned())).chain(commands);
        for (at, word) in named {
            let is_path = roots.iter().any(|root| word.starts_with(root));
            // a name in capitals stands for one of yours
            let is_given = word.contains("NAME") || word.ends_with("fleet.schema.json");
            assert!(
                !is_path || is_given || repository().join(&word).exists(),
                "{}:{at}: there is no {word}",
                page.path
            );
        }
    }
}

#[test]
fn every_page_is_in_the_index() {
    let index = fs::read_to_string(repository().join("docs/README.md")).unwrap();
    for page in pages().iter().filter(|page| page.path.starts_with("docs/") && page.path != "docs/README.md")
    {
        let name = page.path.trim_start_matches("docs/");
        assert!(index.contains(&format!("({name})")), "docs/README.md does not link {name}");
    }
}

fn sources(folder: PathBuf, text: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            // lines that a text goes on over
            let lines = fs::read_to_string(path).unwrap();
            text.push(lines.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat());
        }
    }
}

#[test]
fn messages_of_the_troubleshooting_page_are_those_of_the_source() {
    let mut all = Vec::new();
    sources(repository().join("src"), &mut all);
    let page = pages().into_iter().find(|page| page.path.ends_with("troubleshooting.md")).unwrap();
    let mut checked = 0;
    for (at, line) in page.prose() {
        let Some(message) = line.strip_prefix("### `").and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        let pieces: Vec<&str> = message.split('…').map(|piece| piece.trim_matches([' ', ':'])).collect();
        let pieces: Vec<&str> = pieces.into_iter().filter(|piece| piece.len() > 1).collect();
        let longest = pieces.iter().max_by_key(|piece| piece.len()).unwrap();
        assert!(longest.len() > 10, "line {at} says too little: {message}");
        // all pieces in one file, on one text
        let has = |line: &str| pieces.iter().all(|piece| line.contains(piece));
        let is_said = all.iter().any(|text| text.lines().any(has));
        assert!(is_said, "docs/troubleshooting.md:{at}: nothing says: {message}");
        checked += 1;
    }
    assert!(checked > 25, "{checked} messages");
}
