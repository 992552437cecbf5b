//! The README and docs/ against the program: commands that need no Pi are run, manifests are read, links lead somewhere, and
//! messages are those of the source.
//!
//! `src/cli/docs_tests.rs` reads every command line by the program's own parser; `tests/e2e/stories/92-tutorial.sh` runs the
//! tutorial on hosts. What neither runs names the tests that do, above its fence.
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

#[path = "support/calls.rs"]
mod calls;
#[path = "support/desk.rs"]
mod desk;
#[path = "support/model.rs"]
mod model;
#[path = "support/pages.rs"]
mod pages;
#[path = "support/stub.rs"]
mod stub;

use calls::Call;
use desk::Desk;
use pages::{Fence, Note, Page, pages, repository};

/// The page that a story runs on hosts as it stands, and that story.
const TUTORIAL: (&str, &str) = ("docs/tutorial.md", "tests/e2e/stories/92-tutorial.sh");

/// What the stories are written with.
const STORIES: (&str, &str) = ("tests/e2e/stories/", "tests/e2e/lib.sh");

/// Pages about machines that no test has: there even a command of ours may be left out.
const ELSEWHERE: [&str; 2] = ["docs/macos.md", "docs/windows.md"];

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
    for page in pages().iter().filter(|page| page.path != TUTORIAL.0) {
        for fence in page.fences().iter().filter(|fence| fence.kind == "sh" && fence.note.is_none()) {
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

/// Returns the commands of `bramble` that a test runs, and its text with that of what it is written with.
fn run_by(file: &str) -> (Vec<Call>, String) {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    assert!(file.starts_with("tests/") && repository().join(file).is_file(), "there is no test {file}");
    let mut text = read(file);
    if Path::new(file).extension().is_some_and(|extension| extension == "rs") {
        return (calls::of_rust(&text), text);
    }
    let mut calls = calls::of_shell(&text);
    if file == TUTORIAL.1 {
        assert!(text.contains(TUTORIAL.0), "{file} does not read {}", TUTORIAL.0);
        let page = pages().into_iter().find(|page| page.path == TUTORIAL.0).unwrap();
        for fence in page.fences().iter().filter(|fence| fence.kind == "sh" && fence.note.is_none()) {
            calls.extend(calls::of_shell(&fence.text));
            text.push_str(&fence.text);
        }
    }
    if file.starts_with(STORIES.0) {
        text.push_str(&read(STORIES.1));
    }
    (calls, text)
}

/// Returns what is wrong with a fence that is not run as it stands: a command of `bramble` that none of the tests that
/// it names runs with the same options ([`Call::is_run_as`]), another program that they do not speak of, or a command
/// of `bramble` that is said not to be run at all.
fn faults(page: &Page, fence: &Fence, note: &Note) -> Vec<String> {
    let commands = fence.commands();
    let ours = commands
        .iter()
        .flat_map(|command| calls::of_shell(command).into_iter().map(move |call| (command, call)));
    match note {
        Note::NotRun(why) => {
            let is_reason = why.split(' ').count() > 2;
            let ours = ours.filter(|_| !ELSEWHERE.contains(&page.path.as_str()));
            let ours = ours.map(|(command, _)| format!("a test can run: {command}"));
            ours.chain((!is_reason).then(|| format!("this says too little: {why}"))).collect()
        }
        Note::RunBy(files) => {
            let tests: Vec<(Vec<Call>, String)> = files.iter().map(|file| run_by(file)).collect();
            let is_run =
                |asked: &Call| tests.iter().any(|(run, _)| run.iter().any(|call| asked.is_run_as(call)));
            let ours = ours.filter(|(_, asked)| !is_run(asked)).map(|(command, _)| command);
            let others = commands.iter().filter(|command| {
                let program = command.split(' ').next().unwrap();
                // a variable is set for what comes below it
                let is_asked = program != "export" && program != "bramble";
                is_asked && !tests.iter().any(|(_, text)| text.contains(program))
            });
            ours.chain(others).map(|command| format!("not run by {}: {command}", files.join(" "))).collect()
        }
    }
}

#[test]
fn what_is_not_run_as_it_stands_is_run_by_the_tests_that_it_names() {
    let (mut wrong, mut named) = (Vec::new(), 0);
    for page in pages() {
        for fence in page.fences() {
            let is_shown = !fence.commands().is_empty() || fence.kind == "powershell";
            let is_run = fence.kind == "sh" || fence.kind == "console";
            match &fence.note {
                _ if !is_shown => {}
                None if is_run => {}
                None => wrong.push(format!("{}:{}: nothing says who runs it", page.path, fence.line)),
                Some(note) => {
                    let faults = faults(&page, &fence, note);
                    wrong.extend(faults.iter().map(|fault| format!("{}:{}: {fault}", page.path, fence.line)));
                    named += usize::from(matches!(note, Note::RunBy(_)));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(named > 12, "{named} fences name their tests");
}

#[test]
fn a_command_is_run_where_verb_and_options_stand_in_one_command() {
    let asked = |line: &str| calls::of_shell(line).pop().unwrap();
    let is_run = |line: &str, run: &[Call]| run.iter().any(|call| asked(line).is_run_as(call));
    let story = calls::of_shell(
        "run 0 prune kitchen --yes\n# run 0 prune kitchen --keep 2\n'bramble tune '*) x ;;\n\
         if b -f x keys add phone \\\n  --scope status >key; then b logs -n 2; fi\nkey=$(b bundle key)",
    );
    assert!(is_run("bramble prune shed  # now", &story) && is_run("bramble bundle key", &story));
    assert!(is_run("bramble keys add phone --scope status", &story) && is_run("bramble logs -n 100", &story));
    for other in ["prune shed --keep 2", "prune shed attic", "tune", "logs kitchen", "keys list"] {
        assert!(!is_run(&format!("bramble {other}"), &story), "{other}");
    }
    let test = calls::of_rust(
        "fleet.ends(0, &[\"tune\", \"-q\", \"Q4_0\"]);\n// (&[\"plan\"])\nfor verb in [\"status\", \"logs\"] {\n\
         command.args([\n    \"push\",\n    &file(\"x\", 1),\n    host,\n]);\nsaid[\"check\"]",
    );
    assert!(is_run("bramble push weights kitchen", &test) && is_run("bramble tune -q Q8_0", &test));
    for other in ["tune -q Q4_0,Q8_0", "push weights kitchen shed", "plan", "status", "check"] {
        assert!(!is_run(&format!("bramble {other}"), &test), "{other}");
    }
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
