//! What is typed, and what is there to help with it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::desk::Desk;
use crate::{Ended, LOCAL, with_model};

#[test]
fn a_good_manifest_is_ok() {
    let desk = Desk::new(LOCAL);
    desk.run(&["check"]).with(0).says("fleet.yaml: fleet home: 1 model, 1 host, 1 deploy: ok\n");
    let ended = desk.run(&["check", "--json"]).with(0);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value["fleet"], "home");
    let other = desk.path("other.yaml");
    fs::rename(desk.path("fleet.yaml"), &other).unwrap();
    desk.run(&["--file", other.to_str().unwrap(), "check"]).with(0);
    desk.run(&["check", "-f", "other.yaml"]).with(0);
}

#[test]
fn five_faults_are_named_at_once_and_exit_with_3() {
    let text = LOCAL
        .replace("context: 256", "contxt: 256")
        .replace("role: desktop", "role: dekstop")
        .replace("on: [desk]", "on: [dask]")
        .replace("port: 18080", "port: 80")
        .replace("fleet: home", "fleet: Home");
    let desk = Desk::new(&text);
    for verb in ["check", "plan", "apply", "status", "fetch"] {
        let ended = desk.run(&[verb]).with(3);
        let lines = ["fleet.yaml:2:8", "fleet.yaml:3:16", "fleet.yaml:5:", "fleet.yaml:7:", "fleet.yaml:9:"];
        let ended = lines.into_iter().fold(ended, Ended::complains);
        let words = ["`contxt`", "dekstop", "dask", "80", "Home"];
        let ended = words.into_iter().fold(ended, Ended::complains);
        assert_eq!(ended.stdout, "");
    }
    let ended = desk.run(&["check", "--json"]).with(3).complains("`contxt`");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&told["count"], &told["problems"][0]["line"]), (&json!(5), &json!(2)));
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_reader_that_goes_away_changes_nothing_and_a_full_disk_is_an_error() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    for (arguments, code) in [
        (vec!["check"], 0),
        (vec!["check", "--json"], 0),
        (vec!["catalog"], 0),
        (vec!["plan", "--exit-code"], 2),
        (vec!["apply"], 3),
        (vec!["check", "-f", "none.yaml"], 1),
        (vec!["--help"], 0),
    ] {
        let mut run = desk.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((run.stdout.take(), run.stderr.take()));
        assert_eq!(run.wait().unwrap().code(), Some(code), "{arguments:?}");
        if code == 0 && arguments != ["--help"] {
            let mut full = desk.command(&arguments);
            let ended = Ended::of(full.stdout(fs::File::create("/dev/full").unwrap())).with(1);
            ended.complains("error: cannot write the result to standard output: No space left on device");
        }
    }
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_manifest_that_is_not_there_is_named_with_the_next_move() {
    let desk = Desk::new(LOCAL);
    let ended = desk.run(&["check", "--file", "none.yaml"]).with(1);
    ended.complains("error: cannot read the manifest none.yaml: No such file");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    let ended = desk.run(&["check"]).with(1);
    ended.complains("error: cannot read the manifest fleet.yaml: name it with --file, or have `bramble init` write one: No such file");
    fs::write(desk.path("fleet.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    desk.run(&["check"]).with(3).complains("UTF-16");
    fs::write(desk.path("fleet.yaml"), vec![b' '; (1 << 20) + 1]).unwrap();
    desk.run(&["check"]).with(1).complains("a manifest has at most 1048576");
}

#[test]
fn what_is_typed_wrong_exits_with_1_and_what_the_manifest_cannot_have_with_3() {
    let desk = Desk::new(LOCAL).with_bundle();
    for arguments in [
        vec![],
        vec!["bogus"],
        vec!["plan", "--bogus"],
        vec!["plan", "-f", "none.yaml"],
        vec!["apply", "none.plan"],
        vec!["status", "nobody"],
        vec!["remove", "nobody"],
        vec!["rollback", "nobody"],
        vec!["bench", "nobody"],
        vec!["chat", "nobody", "Hello"],
        vec!["fetch", "nothing"],
        vec!["fit", "nothing"],
        vec!["fit", "smollm3-3b", "--board", "pi6-8gb"],
        vec!["convert", "nothing", "--quant", "Q8_0"],
    ] {
        let ended = desk.run(&arguments).with(1);
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{arguments:?}");
    }
    desk.run(&["check", "other.yaml"]).with(1).complains("`-f other.yaml`");
    // there is no such folder, and no such hub
    desk.run(&["plan"]).with(3);
    desk.write(&with_model("source: \"hf:org/chat\", context: 256"));
    desk.run(&["plan"]).with(3);
    desk.write(&LOCAL.replace("on: [desk]", "on: [dask]"));
    desk.run(&["check"]).with(3);
}

#[test]
fn the_schema_is_json() {
    let desk = Desk::new("");
    let ended = desk.run(&["schema"]).with(0);
    let schema: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(schema["title"], "Bramble manifest");
    assert!(schema["properties"]["models"].is_object());
}

#[test]
fn help_is_there_for_every_verb() {
    let desk = Desk::new("");
    let mut text = desk.run(&["--help"]).with(0).stdout;
    for verb in [
        "check",
        "plan",
        "fetch",
        "apply",
        "status",
        "doctor",
        "bench",
        "chat",
        "rollback",
        "remove",
        "store",
        "catalog",
        "fit",
        "schema",
        "completions",
        "man",
    ] {
        text.push_str("\n----\n");
        text.push_str(&desk.run(&[verb, "--help"]).with(0).stdout);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn shells_complete_every_verb_and_the_manual_has_a_page_for_each() {
    let desk = Desk::new("");
    for (shell, word) in
        [("bash", "complete -F _bramble"), ("zsh", "#compdef bramble"), ("fish", "complete -c bramble")]
    {
        desk.run(&["completions", shell]).with(0).says(word).says("uncordon").says("revoke-host");
    }
    desk.run(&["completions", "tcsh"]).with(1).complains("bash");
    let ended = desk.run(&["man", "pages/man1"]).with(0);
    ended.says(" pages in pages/man1: try `man -l pages/man1/bramble.1`\n");
    let page = fs::read_to_string(desk.path("pages/man1/bramble-plan.1")).unwrap();
    assert!(page.contains(".TH bramble-plan 1") && page.contains("next.plan"), "{page}");
    let told: Value =
        serde_json::from_str(&desk.run(&["man", "pages/man1", "--json"]).with(0).stdout).unwrap();
    let pages = fs::read_dir(desk.path("pages/man1")).unwrap().count();
    assert_eq!(told["pages"].as_array().map(Vec::len), Some(pages));
    desk.run(&["man", "fleet.yaml/x"]).with(1).complains("cannot make the folder");
}

#[test]
fn bash_completes_the_names_of_the_manifest_and_says_nothing_without_one() {
    let desk = Desk::new(
        "bramble: 1\nfleet: home\nmodels:\n  chat: { source: \"file:model\" }\n  coder: { source: \"file:model\" }\nhosts:\n  \
         kitchen: { address: 10.0.0.2 }\n  shed: { address: 10.0.0.3 }\n  next: { board: pi5-8gb }\n  \
         far: { upstream: \"http://far.local:1/v1\", models: { chat: x } }\ndeploy:\n  - { model: chat, on: [kitchen, shed] }\n  \
         - { model: coder, on: [shed] }\n",
    );
    let known = json!({ "address": "192.0.2.1" });
    let lock = json!({ "format": 1, "fleet": "home", "hosts": { "attic": known, "shed": known } });
    fs::write(desk.path("bramble.lock"), lock.to_string()).unwrap();
    fs::create_dir(desk.path("else")).unwrap();
    fs::write(desk.path("faulty.yaml"), "bramble: 1\nhosts: [").unwrap();
    fs::write(desk.path("complete"), desk.run(&["completions", "bash"]).with(0).stdout).unwrap();
    let completed = |folder: &str, line: &str| {
        // as a shell cuts it, and asks for the last word
        let script = format!(
            "cd {folder} && . \"$0\" && COMP_WORDS=({line}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) && \
             _bramble_with_names bramble \"${{COMP_WORDS[COMP_CWORD]}}\" '' && echo \"${{COMPREPLY[*]}}\""
        );
        let programs = Path::new(env!("CARGO_BIN_EXE_bramble")).parent().unwrap();
        let mut shell = Command::new("bash");
        shell.args(["--norc", "-c", &script]).arg(desk.path("complete")).current_dir(desk.path("."));
        shell.env("PATH", format!("{}:/usr/bin:/bin", programs.display())).env("HOME", desk.path("home"));
        let ended = Ended::of(&mut shell).with(0);
        assert_eq!(ended.stderr, "", "{line}");
        ended.stdout.trim_end().to_owned()
    };
    for (line, expected) in [
        ("bramble status ''", "kitchen shed"),
        ("bramble status k", "kitchen"),
        ("bramble logs shed k", "kitchen"),
        ("bramble logs -m c", "chat coder"),
        ("bramble restart --model co", "coder"),
        ("bramble restart --model = co", "coder"),
        ("bramble tune -q Q4_0 s", "shed"),
        ("bramble chat f", "far"),
        ("bramble forget ''", "attic"),
        ("bramble remove ''", "kitchen shed attic"),
        ("bramble keys revoke-host k", "kitchen"),
        ("bramble keys readmit s", "shed"),
        ("bramble push chat.gguf ''", "kitchen shed"),
        ("bramble fetch c", "chat coder"),
        ("bramble status --wa", "--watch"),
        ("bramble rollb", "rollback"),
    ] {
        assert_eq!(completed(".", line), expected, "{line}");
    }
    assert_eq!(completed("else", "bramble -f ../fleet.yaml status k"), "kitchen");
    assert_eq!(completed("else", "bramble status --file = ../fleet.yaml k"), "kitchen");
    for (folder, line) in [
        ("else", "bramble status k"),
        (".", "bramble -f faulty.yaml status k"),
        (".", "bramble push k"),
        (".", "bramble fit k"),
        (".", "bramble chat kitchen k"),
        (".", "bramble bundle export k"),
    ] {
        assert_eq!(completed(folder, line), "", "{line}");
    }
}

#[test]
fn who_takes_the_command_away_is_told_what_stays_and_it_stays() {
    let desk = Desk::new("");
    let remove = |prefix: &str| {
        let mut command = Command::new("sh");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh"));
        command.args(["--remove", "--prefix"]).arg(desk.path(prefix)).current_dir(desk.path("."));
        command.env("HOME", desk.path("home")).env_remove("XDG_CACHE_HOME");
        Ended::of(command.env("XDG_STATE_HOME", desk.path("state")))
    };
    remove("none").with(1).complains("there is no bramble in ");
    let kept = ["home/.cache/bramble/sha256", "state/bramble/fleets/home", "prefix/share/other"];
    for folder in kept.into_iter().chain(["prefix/bin", "prefix/share/bramble/bundles"]) {
        fs::create_dir_all(desk.path(folder)).unwrap();
    }
    fs::write(desk.path("prefix/bin/bramble"), "").unwrap();
    let ended = remove("prefix").with(0).complains("bramble is no more in ");
    let ended = ended.complains(&format!("weights in {} ", desk.path("home/.cache/bramble").display()));
    let ended = ended.complains(&format!("keys of fleets in {} ", desk.path("state/bramble").display()));
    ended.complains("Hosts go on serving.").complains("bramble remove --all");
    assert!(kept.iter().all(|folder| desk.path(folder).is_dir()) && desk.path("fleet.yaml").exists());
    assert!(!desk.path("prefix/bin/bramble").exists() && !desk.path("prefix/share/bramble").exists());
}
