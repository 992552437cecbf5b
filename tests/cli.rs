//! The operator's command as a process: exit codes, what is said where, and what is left alone.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the program under test"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use bramble_fleet::ids::Digest;
use serde_json::{Value, json};

#[path = "support/desk.rs"]
mod desk;
#[path = "support/terminal.rs"]
mod terminal;

use desk::Desk;
use terminal::on_terminal;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "{text:?} is not in stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    fn complains(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in stderr:\n{}\nstdout:\n{}",
            self.stderr,
            self.stdout
        );
        self
    }
}

impl Desk {
    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut self.command(arguments))
    }

    /// Makes a bundle for this machine. It is never run.
    fn with_bundle(self) -> Self {
        self.put_bundle(b"never unpacked");
        self
    }

    /// Writes a checkpoint of a very small llama, or of what `change` makes of its configuration.
    fn with_checkpoint(self, change: impl FnOnce(&mut Value)) -> Self {
        let folder = self.path("model");
        fs::create_dir(&folder).unwrap();
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
        });
        change(&mut config);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let tokenizer = json!({
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        });
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        write_weights(&folder.join("model.safetensors"));
        self
    }

    /// Returns every file under the folder but those that were there from the start.
    fn left_behind(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.folder.path()).unwrap().display().to_string());
                }
            }
        }
        found.retain(|name| {
            !["cache/", "bundles/", "model/", "fleet.yaml"].iter().any(|known| name.starts_with(known))
        });
        found
    }
}

fn write_weights(path: &Path) {
    let mut shapes =
        vec![("model.embed_tokens".to_owned(), vec![32, 64]), ("model.norm".to_owned(), vec![64])];
    let parts: [(&str, &[usize]); 9] = [
        ("self_attn.q_proj", &[64, 64]),
        ("self_attn.k_proj", &[32, 64]),
        ("self_attn.v_proj", &[32, 64]),
        ("self_attn.o_proj", &[64, 64]),
        ("mlp.gate_proj", &[128, 64]),
        ("mlp.up_proj", &[128, 64]),
        ("mlp.down_proj", &[64, 128]),
        ("input_layernorm", &[64]),
        ("post_attention_layernorm", &[64]),
    ];
    shapes.extend(parts.map(|(name, shape)| (format!("model.layers.0.{name}"), shape.to_vec())));
    let (mut header, mut length) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let bytes = shape.iter().product::<usize>() * 4;
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [length, length + bytes] });
        header.insert(format!("{name}.weight"), entry);
        length += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + length, 0);
    fs::write(path, file).unwrap();
}

/// One host, this machine, without root; and a small model from a folder.
const LOCAL: &str = "\
bramble: 1
fleet: home
serve: { port: 18080, tls: off }
models:
  chat: { source: \"file:model\", context: 256 }
hosts:
  desk: { address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }
deploy:
  - { model: chat, on: [desk] }
";

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `LOCAL`, and a Pi that refuses the connection.
fn with_dead_pi() -> String {
    let pi = format!("hosts:\n  kitchen: {{ address: 127.0.0.1, ssh: {{ port: {} }} }}\n", closed_port());
    // an address that no machine has (RFC 5737); it is written into routes and never asked here
    LOCAL
        .replace("address: 127.0.0.1,", "address: 192.0.2.1,")
        .replace("hosts:\n", &pi)
        .replace("on: [desk]", "on: [desk, kitchen]")
}

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
fn colours_are_for_terminals_that_want_them() {
    let desk = Desk::new(LOCAL);
    let line = "fit qwen2.5-0.5b-instruct -q Q4_0";
    let shown = |name: &str, value: &str| Ended::of(on_terminal(&desk, line).env(name, value)).with(0).stdout;
    for (name, value, is_coloured) in
        [("X", "", true), ("NO_COLOR", "", true), ("NO_COLOR", "1", false), ("TERM", "dumb", false)]
    {
        let shown = shown(name, value);
        assert!(shown.contains("pi5-8gb"), "{shown}");
        assert_eq!(shown.contains("\x1b["), is_coloured, "{name}={value}: {shown:?}");
    }
    // into a pipe, and for programs
    assert!(!desk.run(&line.split(' ').collect::<Vec<_>>()).with(0).stdout.contains('\x1b'));
    let told = Ended::of(&mut on_terminal(&desk, &format!("{line} --json"))).with(0).stdout;
    assert!(serde_json::from_str::<Value>(&told).is_ok(), "{told}");
    // what is wrong with the command line is dressed by others, who want to be told, too
    let wrong = |value: &str| Ended::of(on_terminal(&desk, "nothing").env("NO_COLOR", value)).with(1).stdout;
    assert!(wrong("").contains("\x1b[") && !wrong("1").contains("\x1b["), "{}", wrong("1"));
}

#[test]
fn a_status_that_is_watched_is_drawn_over_the_one_before_until_ctrl_c() {
    let desk = Desk::new(LOCAL);
    let mut watching = on_terminal(&desk, "status --watch=1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut keys = watching.stdin.take().unwrap();
    let (mut screen, mut shown) = (watching.stdout.take().unwrap(), Vec::new());
    let rounds = |shown: &[u8]| shown.windows(3).filter(|three| *three == b"\x1b[J").count();
    while rounds(&shown) < 2 {
        let mut some = [0; 4096];
        let count = screen.read(&mut some).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&shown));
        shown.extend(&some[..count]);
    }
    keys.write_all(b"\x03").unwrap();
    screen.read_to_end(&mut shown).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(130));
    let shown = String::from_utf8(shown).unwrap();
    let (rounds, end) = shown.rsplit_once("\x1b[J").unwrap();
    for round in rounds.split("\x1b[J") {
        assert!(round.starts_with("\x1b[H") && round.contains("every 1 s, Ctrl-C ends it"), "{round:?}");
        assert!(round.contains("desk ") && round.ends_with('\n'), "{round:?}");
        // nothing of a longer line stays
        let mut lines = round.split_inclusive('\n');
        assert!(lines.all(|line| line.ends_with("\x1b[K\r\n")), "{round:?}");
    }
    // what the terminal itself shows of the key
    assert!(matches!(end, "" | "^C"), "{end:?}");
    // where nothing can be written over, each look follows the one before
    let mut plain = desk.command(&["status", "--watch=1"]);
    let mut watching = plain.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(
        lines
            .by_ref()
            .filter(|line| line.contains("every 1 s"))
            .nth(1)
            .is_some_and(|line| !line.contains('\x1b'))
    );
    let id = watching.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert!(lines.all(|line| !line.contains('\x1b')));
    assert_eq!(watching.wait().unwrap().code(), Some(130));
    desk.run(&["status", "--watch=0"]).with(1).complains("0 is not in 1..");
    desk.run(&["status", "--watch", "--exit-code"]).with(1).complains("cannot be used with");
}

/// A fleet of two hosts that take no key, but the password `right`, by an `ssh` that stands in for the real one: the
/// keys that are installed on them are lines of `installed`.
fn takes_a_password(ssh: &str) -> Desk {
    let desk = Desk::new(&format!(
        "bramble: 1\nfleet: home\ndefaults: {{ ssh: {{ user: pi{ssh} }} }}\nmodels:\n  chat: {{ source: \"file:model\" }}\nhosts:\n  \
         kitchen: {{ address: 192.0.2.1 }}\n  shed: {{ address: 192.0.2.2 }}\ndeploy:\n  - {{ model: chat, on: [kitchen, shed] }}\n",
    ));
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" -G \"*)\n    printf 'user pi\\nhostname host\\nidentityfile {0}/home/.ssh/id_ed25519\\n'\n    \
         exit ;;\n*PubkeyAuthentication=no*)\n    [ \"$(\"$SSH_ASKPASS\" \"pi@host's password: \")\" != right ] || \
         exec cat >>{0}/installed ;;\nesac\n\
         echo 'pi@host: Permission denied (publickey,password).' >&2\nexit 255\n",
        desk.folder.path().display()
    );
    fs::create_dir(desk.path("bin")).unwrap();
    fs::write(desk.path("bin/ssh"), text).unwrap();
    fs::set_permissions(desk.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    desk
}

/// Runs `bramble status` there on a terminal, gives one answer after another to its questions, and returns what the
/// terminal shows.
fn status_with_answers(desk: &Desk, answers: &[&str]) -> String {
    let path = format!("{}:/usr/bin:/bin", desk.path("bin").display());
    let mut asking = on_terminal(desk, "status");
    asking.env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut asking = asking.spawn().unwrap();
    let (mut keys, mut screen) = (asking.stdin.take().unwrap(), asking.stdout.take().unwrap());
    let (mut shown, mut answered) = (Vec::new(), 0);
    loop {
        let mut some = [0; 4096];
        let count = screen.read(&mut some).unwrap();
        if count == 0 {
            break;
        }
        shown.extend(&some[..count]);
        if String::from_utf8_lossy(&shown).matches("leave ").count() > answered {
            let answer = answers.get(answered).unwrap_or(&"");
            keys.write_all(format!("{answer}\r").as_bytes()).unwrap();
            answered += 1;
        }
    }
    asking.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

#[test]
fn one_key_is_made_where_there_is_none_however_often_a_password_is_mistyped() {
    let desk = takes_a_password("");
    let shown = status_with_answers(&desk, &["wrong", "right", "right"]);
    assert_eq!(shown.matches("That is not its password").count(), 1, "{shown}");
    assert_eq!(shown.matches("a new key").count(), 1, "{shown}");
    let key = fs::read_to_string(desk.path("home/.ssh/id_ed25519.pub")).unwrap();
    assert_eq!(fs::read_to_string(desk.path("installed")).unwrap(), key.repeat(2), "{shown}");
}

#[test]
fn where_a_key_is_named_that_is_not_there_none_is_made_and_no_password_is_asked_for() {
    let desk = takes_a_password(", identity: FOLDERhome/.ssh/fleet");
    let shown = status_with_answers(&desk, &[]);
    assert_eq!(shown.matches("there is no key at").count(), 2, "{shown}");
    assert!(shown.contains("ssh-keygen -t ed25519 -f") && !shown.contains("Password of"), "{shown}");
    assert!(!desk.path("home/.ssh").exists() && !desk.path("installed").exists(), "{shown}");
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

#[test]
fn a_first_manifest_is_written_from_what_is_found_and_never_over_another() {
    let desk = Desk::new("");
    let before = desk.run(&["init", "--offline"]).with(3);
    before.complains("fleet.yaml is there already: say --force to write over it, or --file for another");
    assert_eq!(fs::read(desk.path("fleet.yaml")).unwrap(), b"");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();

    // nothing is found: a board to plan for, and this machine
    let ended = desk.run(&["init", "--offline"]).with(0);
    let ended = ended.says("fleet.yaml: 2 hosts, and chat is qwen2.5-0.5b-instruct.\n");
    ended.says("say its address with --host").says("  bramble plan").says("  bramble doctor --all");
    desk.run(&["check"]).with(0).says("fleet home: 1 model, 2 hosts, 2 deploys: ok");

    // named, and in ssh's configuration
    let pi = format!("pi@127.0.0.1:{}", closed_port());
    let ended =
        desk.run(&["init", "--force", "--offline", "--host", &pi, "--fleet", "shed", "--no-desktop"]).with(0);
    ended.says("  host-127-0-0-1  not looked at: ").says("bramble doctor host-127-0-0-1");
    let text = fs::read_to_string(desk.path("fleet.yaml")).unwrap();
    assert!(text.contains("{ address: 127.0.0.1, ssh: { user: pi, port: "), "{text}");
    desk.run(&["check"]).with(0).says("fleet shed: 1 model, 1 host, 1 deploy: ok");

    fs::create_dir_all(desk.path("home/.ssh")).unwrap();
    let config =
        "Host kitchen-pi\n  HostName 127.0.0.1\n  Port 1\nHost office *.lan\nHost github.com\n  User git\n";
    fs::write(desk.path("home/.ssh/config"), config).unwrap();
    let told: Value =
        serde_json::from_str(&desk.run(&["init", "-f", "new.yaml", "--json"]).with(0).stdout).unwrap();
    assert_eq!(told["hosts"]["kitchen-pi"]["address"], "127.0.0.1");
    assert!(told["hosts"]["kitchen-pi"]["failure"].is_string() && told["hosts"]["office"].is_null());
    assert!(told["left_out"].as_array().unwrap().iter().any(|one| one["name"] == "office"), "{told}");
    let text = fs::read_to_string(desk.path("new.yaml")).unwrap();
    assert!(text.contains("\n  # office: { address: office }   # in ~/.ssh/config\n"), "{text}");
    desk.run(&["check", "-f", "new.yaml"]).with(0);
    desk.run(&["init", "-f", "no/where.yaml", "--offline"]).with(1).complains("cannot write no/where.yaml");
    for wrong in ["fe80::1", "-oProxyCommand=x", "a b"] {
        desk.run(&["init", "-f", "other.yaml", "--offline", &format!("--host={wrong}")]).with(1);
    }
    assert!(!desk.path("other.yaml").exists());
}

#[test]
fn a_doctor_says_what_to_do_about_this_machine_and_changes_nothing() {
    // somebody has the door's port
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let desk = Desk::new(&LOCAL.replace("18080", &port.to_string())).with_checkpoint(|_| {});
    let ended = desk.run(&["doctor"]).with(2);
    let ended =
        ended.says("desk  ").says(&format!("  x  port       {port} is taken by ")).says("`serve.port`");
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.starts_with("1 host: 2 problems (x: in Bramble's way)"), "{last}");
    assert!(!ended.stdout.contains('\x1b'));
    drop(taken);

    // `plan` refuses it for want of a program, in the same words
    let ended = desk.run(&["doctor", "desk", "--json"]).with(2);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = told["hosts"][0]["findings"].as_array().unwrap();
    let userland = findings.iter().find(|finding| finding["about"] == "userland").unwrap();
    let (what, next) = (userland["what"].as_str().unwrap(), userland["do"].as_str().unwrap());
    assert!(what.contains("there is no bundle for that (there is none in "), "{userland}");
    assert!(next.contains("scripts/bundle"), "{userland}");
    desk.run(&["plan"]).with(3).says(&format!("{}: {next}", what.strip_prefix("it ").unwrap()));

    let desk = desk.with_bundle();
    let told: Value = serde_json::from_str(&desk.run(&["doctor", "desk", "--json"]).with(0).stdout).unwrap();
    let findings = told["hosts"][0]["findings"].as_array().unwrap();
    let of = |about: &str| findings.iter().find(|finding| finding["about"] == about).unwrap();
    assert_eq!((&told["hosts"][0]["host"], &of("port")["level"]), (&json!("desk"), &json!("ok")));
    assert!(of("memory")["what"].as_str().unwrap().contains("is free for models"));

    // without a manifest, too, and in as many columns as there are
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    let ended = Ended::of(desk.command(&["doctor"]).env("COLUMNS", "60"));
    assert!(matches!(ended.code, Some(0 | 2)), "{}", ended.stderr);
    // commands are there to be copied whole
    let is_long = |line: &&str| line.chars().count() > 60 && !line.contains('`');
    assert_eq!(ended.stdout.lines().skip(1).find(is_long), None);
    ended.says("this machine  ");
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_doctor_tells_of_hosts_that_cannot_be_reached_beside_the_others() {
    let desk = Desk::new(&with_dead_pi()).with_bundle();
    let ended = desk.run(&["doctor", "--all"]).with(2);
    ended
        .says("kitchen\n  x  login")
        .says("start its SSH server")
        .says("desk  ")
        .says("2 hosts: 1 problem (x: in Bramble's way)");
    let address = format!("pi@127.0.0.1:{}", closed_port());
    desk.run(&["doctor", &address]).with(2).says(&format!("{address}\n  x  login"));
    desk.run(&["doctor", "-oProxyCommand=x"]).with(1);
    desk.run(&["doctor", "a b"]).with(1).complains("say a name of the manifest, or [USER@]ADDRESS[:PORT]");
    desk.run(&["doctor", "--all", "-f", "none.yaml"]).with(1).complains("cannot read the manifest none.yaml");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    desk.run(&["doctor", "--all"]).with(1).complains("no host that can be looked at");
}

#[test]
fn the_catalog_tells_what_models_take_before_anything_is_asked() {
    let desk = Desk::new("");
    let ended = desk.run(&["catalog"]).with(0);
    let line = ended.stdout.lines().find(|line| line.starts_with("tinyllama-1.1b-chat ")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1..3], ["1.1", "B"]);
    assert_eq!(words[7..], ["2048", "own", "apache-2.0"], "{line}");
    let listed: Value = serde_json::from_str(&desk.run(&["catalog", "--json"]).with(0).stdout).unwrap();
    let alpaca = listed.as_array().unwrap().iter().find(|model| model["name"] == "alpaca-7b").unwrap();
    assert_eq!(alpaca["prompt"], "alpaca");
    assert_eq!(alpaca["figures"]["vocab"], 32001);
    let [small, large] = ["Q4_K_M", "Q8_0"].map(|quant| alpaca["bytes"][quant].as_u64().unwrap());
    assert!(3 << 30 < small && small < large && large < 7 << 30, "{small} {large}");
}

#[test]
fn a_plan_leaves_out_a_host_that_cannot_be_reached_and_changes_nothing() {
    let desk = Desk::new(&with_dead_pi()).with_bundle().with_checkpoint(|_| {});
    let ended = desk.run(&["plan"]).with(0);
    let ended = ended
        .says("+ desk  generation 1 (first)\n")
        .says("! kitchen: left out: ")
        .says("refuses the connection");
    let ended = ended.says("start its SSH server");
    assert!(
        ended.stdout.contains("1 host left out.\n") && !ended.stdout.contains('\x1b'),
        "{}",
        ended.stdout
    );
    desk.run(&["plan", "--exit-code"]).with(2);
    let ended = desk.run(&["plan", "--json"]).with(0);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&value["plan"]["skipped"][0]["host"], &value["problems"]), (&json!("kitchen"), &json!([])));
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

/// `ssh` as it is on a host that answers nobody, and a hub that has nothing. Each says that it
/// was asked, and then waits, for a while, until the other was asked too.
#[test]
fn the_hub_is_asked_while_the_hosts_are_looked_at() {
    const SSH: &str = "#!/bin/sh
mkdir FOLDERonce 2>/dev/null || exit 255
timeout 20 sh -c 'echo >FOLDERprobed' && timeout 20 cat FOLDERasked && touch FOLDERtogether
exit 255
";
    let desk = Desk::new(
        "bramble: 1\nfleet: home\nserve: { port: 18080, tls: off }\n\
         models: { chat: { source: \"hf:org/chat\", context: 256 } }\n\
         hosts: { kitchen: { address: 192.0.2.1 } }\ndeploy: [{ model: chat, on: [kitchen] }]\n",
    );
    fs::write(desk.path("ssh"), SSH.replace("FOLDER", &desk.path("").display().to_string())).unwrap();
    fs::set_permissions(desk.path("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let (asked, probed) = (desk.path("asked"), desk.path("probed"));
    assert!(Command::new("mkfifo").args([&asked, &probed]).status().unwrap().success());
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (number, question) in hub.incoming().enumerate() {
            let mut question = question.unwrap();
            if number == 0 {
                let mut wait = Command::new("timeout");
                let is_probed = wait.args(["20", "cat"]).arg(&probed).status().unwrap().success();
                let mut answer = Command::new("timeout");
                let answer = answer.args(["20", "sh", "-c", "echo >\"$0\""]).arg(&asked).status();
                tell.send(is_probed && answer.unwrap().success()).unwrap();
            }
            let nothing = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            question.write_all(nothing).unwrap();
        }
    });
    let path = format!("{}:/usr/bin:/bin", desk.path("").display());
    let ended = Ended::of(desk.command(&["plan"]).env("PATH", path).env("HF_ENDPOINT", endpoint));
    ended.with(3).says("refused: chat: ");
    assert!(told.recv().unwrap() && desk.path("together").exists());
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_applied() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    let ended = desk.run(&["apply"]).with(3);
    ended.says("Plan: 1 host to change").complains("--yes was not given: nothing was changed");
    assert_eq!(desk.left_behind(), Vec::<String>::new());
    assert!(!desk.path("root").exists());
}

#[test]
fn an_architecture_that_is_not_known_is_refused_by_its_name() {
    let mamba = |config: &mut Value| {
        config["architectures"] = json!(["MambaForCausalLM"]);
        config["model_type"] = json!("mamba");
    };
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(mamba);
    for verb in ["plan", "apply"] {
        desk.run(&[verb])
            .with(3)
            .says("refused: chat: ")
            .says("MambaForCausalLM")
            .says("Nothing was changed.");
    }
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_model_that_is_not_there_is_refused_with_its_path() {
    let desk = Desk::new(LOCAL).with_bundle();
    desk.run(&["plan"]).with(3).says("refused: chat: ").says("/model").says("No such file");
}

#[test]
fn without_a_bundle_a_host_is_refused() {
    let desk = Desk::new(LOCAL).with_checkpoint(|_| {});
    let ended = desk.run(&["plan"]).with(3).says("there is no bundle for that (there is none in ");
    // the folders that were looked in
    let ended = ended.says(&desk.path("bundles").display().to_string()).says("/share/bramble/bundles, ");
    ended.says(&format!("{}): make one with `scripts/bundle ", desk.path("data/bramble/bundles").display()));
}

#[test]
fn a_bundle_is_found_where_scripts_bundle_puts_it() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    fs::create_dir_all(desk.path("data/bramble")).unwrap();
    fs::rename(desk.path("bundles"), desk.path("data/bramble/bundles")).unwrap();
    desk.run(&["plan"]).with(0).says("+ desk  generation 1 (first)\n");
}

#[test]
fn a_kept_plan_is_refused_once_it_no_longer_fits() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    desk.run(&["plan", "--out", "kept.json"]).with(0).complains("`bramble apply kept.json` does it");
    let kept: Value = serde_json::from_slice(&fs::read(desk.path("kept.json")).unwrap()).unwrap();
    let write = |plan: &Value| fs::write(desk.path("kept.json"), plan.to_string()).unwrap();
    let mut other = kept.clone();
    other["inventory"] = json!(Digest::of(b"another fleet"));
    write(&other);
    desk.run(&["apply", "kept.json"]).with(3).complains("the hosts have changed since this plan was made");
    let mut other = kept.clone();
    other["hosts"][0]["room"] = json!(1);
    write(&other);
    desk.run(&["apply", "kept.json"]).with(3).complains("the plan contradicts itself: desk would need");
    write(&json!({ "hello": "world" }));
    desk.run(&["apply", "kept.json"]).with(1).complains("kept.json is not a plan of this version");
    desk.run(&["apply", "none.json"]).with(1).complains("cannot read the plan none.json");
    assert_eq!(desk.left_behind(), ["kept.json"]);
}

#[test]
fn a_fleet_without_anything_on_it_has_a_status_and_nothing_to_remove() {
    let pi = format!("kitchen: {{ address: 127.0.0.1, ssh: {{ port: {} }} }}\ndeploy", closed_port());
    let dead = LOCAL.split("  desk:").next().unwrap().to_owned()
        + "  "
        + &pi
        + ":\n  - { model: chat, on: [kitchen] }\n";
    let unreached = Desk::new(&dead);
    unreached.run(&["status", "--exit-code"]).with(2);
    let ended = unreached.run(&["status"]).with(0);
    ended.says("kitchen  -").says("x kitchen: ").says("refuses the connection");
    let desk = Desk::new(LOCAL);
    desk.run(&["status", "--exit-code", "--json"]).with(2).says("\"generation\": null");
    let ended = desk.run(&["status"]).with(0).says("desk  ");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let ended = desk.run(&["status", "--json", "desk"]).with(0);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&value["hosts"][0]["host"], value["hosts"].as_array().map(Vec::len)),
        (&json!("desk"), Some(1))
    );
    desk.run(&["remove", "desk"]).with(0).says("ok desk  nothing of Bramble was on it\nRemoved: 1 host.\n");
    desk.run(&["rollback"]).with(1).complains("there is no generation to go back to");
    desk.run(&["remove", "nobody"])
        .with(1)
        .complains("neither the manifest nor its lock knows a host nobody");
    desk.run(&["remove"]).with(1).complains("<HOST|--all>");
}

#[test]
fn a_host_that_left_the_manifest_and_is_gone_for_good_is_forgotten() {
    let desk = Desk::new(LOCAL);
    desk.run(&["forget", "attic"])
        .with(1)
        .complains("attic is not known here: no host has left the manifest");
    let fleet = LOCAL.lines().find_map(|line| line.strip_prefix("fleet: ")).unwrap();
    let known = json!({ "address": "192.0.2.1" });
    let lock =
        json!({ "format": 1, "fleet": fleet, "hosts": { "attic": known, "cellar": known, "desk": known } });
    fs::write(desk.path("bramble.lock"), lock.to_string()).unwrap();
    desk.run(&["forget", "desk"]).with(1).complains("desk is in the manifest: take it out there first");
    // all or none
    desk.run(&["forget", "attic", "shed"])
        .with(1)
        .complains("shed is not known here: those that have left the manifest are attic, cellar");
    let ended = desk.run(&["forget", "attic", "--json"]).with(0);
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap(), json!({ "forgotten": ["attic"] }));
    desk.run(&["forget", "cellar"]).with(0).says("`bramble keys revoke-host cellar`");
    let lock: Value = serde_json::from_slice(&fs::read(desk.path("bramble.lock")).unwrap()).unwrap();
    assert_eq!(lock["hosts"].as_object().unwrap().keys().collect::<Vec<_>>(), ["desk"]);
}

#[test]
fn a_fleet_of_boards_says_that_they_are_not_bought_yet() {
    let boards = LOCAL.split("hosts:").next().unwrap().to_owned()
        + "hosts:\n  next: { board: pi5-8gb }\n  far: { upstream: \"http://far.local:1/v1\", models: { chat: x } }\n\
           deploy:\n  - { model: chat, on: [next] }\n";
    let desk = Desk::new(&boards).with_checkpoint(|_| {});
    for verb in ["status", "bench"] {
        desk.run(&[verb])
            .with(0)
            .says("There is no host to look at: boards of the manifest are not bought yet");
    }
    desk.run(&["chat", "next", "Hello"])
        .with(1)
        .complains("next is not bought yet: the manifest plans for a pi5-8gb");
    let ended = desk.run(&["remove", "next", "nope", "far"]).with(1).complains("next is not bought yet");
    ended.complains("knows a host nope").complains("far is a server that is not ours");
    desk.run(&["plan", "--out", "kept.json"]).with(0).says("Planned for 1 host that nobody bought yet.");
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(desk.path(name)).unwrap()).unwrap();
    let ended = desk.run(&["apply", "kept.json"]).with(0);
    ended.says("Planned for 1 host that nobody bought yet.");
    // what was planned with is what the next plan takes, here and in every clone
    let pins = read("bramble.lock")["sources"].clone();
    assert_eq!((&pins, pins.as_object().map(serde_json::Map::len)), (&read("kept.json")["sources"], Some(1)));
    desk.write(&boards.replace("context: 256", "context: 512"));
    let ended = desk.run(&["apply", "kept.json"]).with(0);
    ended.complains("The manifest has changed since this plan was made: the plan is carried out as it is.");
}

#[test]
fn a_question_to_a_fleet_that_was_never_applied_fails() {
    let desk = Desk::new(LOCAL);
    desk.run(&["chat", "desk", "Hello"]).with(1).complains("the fleet home was never applied from here");
    fs::create_dir_all(desk.path("state/bramble/fleets/home")).unwrap();
    let keys = json!({ "format": 1, "peer_key": "x", "operator_key": "y", "clients": [] });
    fs::write(desk.path("state/bramble/fleets/home/keys.json"), keys.to_string()).unwrap();
    desk.run(&["chat", "desk"]).with(1).complains("there is nothing to ask: give a prompt");
    desk.run(&["chat", "attic", "Hello"])
        .with(1)
        .complains("the manifest has no host \"attic\": those that can be asked are ");
    // what is asked, where the host's name is to stand
    desk.run(&["chat", "Hello there"])
        .with(1)
        .complains("; the host comes before what is asked: `bramble chat ");
}

#[test]
fn a_lock_of_a_later_version_is_not_written_over() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    fs::write(desk.path("bramble.lock"), r#"{"format":99}"#).unwrap();
    desk.run(&["apply", "--yes"]).with(1).complains("update bramble");
    assert_eq!(fs::read_to_string(desk.path("bramble.lock")).unwrap(), r#"{"format":99}"#);
}

/// `LOCAL` with another model.
fn with_model(model: &str) -> String {
    LOCAL.replace("source: \"file:model\", context: 256", model)
}

#[test]
fn a_gguf_is_quantized_a_second_time_only_where_the_manifest_says_so() {
    let model = "source: \"file:model-Q8_0.gguf\", context: 256, quant: F16";
    let desk = Desk::new(&with_model(model)).with_checkpoint(|_| {});
    desk.run(&["convert", "model", "--quant", "Q8_0,F16"]).with(0).says("model-Q8_0.gguf: ");
    let desk = desk.with_bundle();
    desk.run(&["plan"])
        .with(3)
        .says("refused: chat: model-Q8_0.gguf is Q8_0 already, and F16 made of it (line 5) would have lost quality twice")
        .says("`requantize: true`");
    desk.write(&with_model(&format!("{model}, requantize: true")));
    desk.run(&["plan"]).with(0).says("engine chat F16").says("quantized a second time");
    desk.write(&with_model("source: \"file:model-Q8_0.gguf\", context: 256"));
    desk.run(&["plan"]).with(0).says("engine chat Q8_0").says("the file as it is");
    // floats have lost nothing
    desk.write(&with_model("source: \"file:model-F16.gguf\", context: 256, quant: Q8_0"));
    desk.run(&["plan"]).with(0).says("engine chat Q8_0");
}

/// An importance matrix of the old form, with one entry.
fn imatrix(name: &str, columns: u32) -> Vec<u8> {
    let number = |n: u32| n.to_le_bytes().to_vec();
    let name = [number(u32::try_from(name.len()).unwrap()), name.as_bytes().to_vec()].concat();
    let values = 1.0f32.to_le_bytes().repeat(usize::try_from(columns).unwrap());
    [number(1), name, number(1), number(columns), values].concat()
}

#[test]
fn an_importance_matrix_is_checked_before_weights_are_made() {
    let text = LOCAL.replace(
        "  chat: { source: \"file:model\", context: 256 }",
        "  chat:\n    source: \"file:model\"\n    context: 256\n    quant: Q8_0\n    imatrix: ./chat.imatrix",
    );
    let desk = Desk::new(&text).with_bundle().with_checkpoint(|_| {});
    let put = |bytes: &[u8]| fs::write(desk.path("chat.imatrix"), bytes).unwrap();
    let refused =
        || desk.run(&["plan"]).with(3).says("refused: chat: cannot use the importance matrix of line 9: ");
    refused().says("chat.imatrix").says("No such file");
    put(b"no");
    refused().says(
        "chat.imatrix is no importance matrix for these weights: it is cut off, or no such file at all",
    );
    put(&imatrix("blk.0.attn_q.weight", 32));
    refused().says("it has 32 columns for \"blk.0.attn_q.weight\", which has 64");
    put(&imatrix("blk.9.attn_q.weight", 64));
    refused().says("it tells of none of their tensors");
    put(&imatrix("blk.0.attn_q.weight", 64));
    let id = || {
        let ended = desk.run(&["plan", "--json"]).with(0);
        let value: Value = serde_json::from_str(&ended.stdout).unwrap();
        value["plan"]["artifacts"][0]["id"].as_str().unwrap().to_owned()
    };
    let usual = id();
    put(&imatrix("blk.0.attn_k.weight", 64));
    let other = id();
    desk.write(&text.replace("\n    imatrix: ./chat.imatrix", ""));
    let without = id();
    assert!(usual != other && usual != without && other != without);
}

#[test]
fn what_a_killed_run_left_among_the_sockets_is_removed_by_the_next() {
    let desk = Desk::new(&with_dead_pi()).with_bundle().with_checkpoint(|_| {});
    let left = desk.path("run/bram-killed");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("lock"), "").unwrap();
    fs::write(left.join("said"), "Connection refused").unwrap();
    let used = desk.path("run/bram-used");
    fs::create_dir(&used).unwrap();
    let lock = fs::File::create(used.join("lock")).unwrap();
    lock.lock().unwrap();
    desk.run(&["plan"]).with(0);
    assert!(!left.exists() && used.is_dir());
    assert_eq!(fs::read_dir(desk.path("run")).unwrap().count(), 1, "its own are gone, too");
}

#[test]
fn a_model_of_the_catalog_is_fitted_to_boards_without_a_network_or_a_manifest() {
    let desk = Desk::new("");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    let ended = desk.run(&["fit", "tinyllama-1.1b-chat", "--board", "pi4-8gb,pi5-8gb"]).with(0);
    for expected in ["pi4-8gb", "pi5-8gb", "> Q", "TOK/S", "good", "trained for 2048 tokens", "auto takes"] {
        assert!(ended.stdout.contains(expected), "{expected}: {}", ended.stdout);
    }
    let arguments = ["fit", "catalog:llama-2-13b-chat", "--json", "--board", "pi4-4gb", "--quant", "Q4_K_M"];
    let fit: Value = serde_json::from_str(&desk.run(&arguments).with(0).stdout).unwrap();
    let board = &fit["boards"][0];
    assert_eq!((&board["pick"], &board["forms"][0]["verdict"]), (&Value::Null, &json!("no")));
    assert!(board["why"].as_str().unwrap().contains("there is"), "{board}");
    let refused = desk.run(&["fit", "tinyllama-1.1b-chat", "--board", "pi6-8gb"]).with(1);
    assert!(refused.stderr.contains("pi5-8gb"), "{}", refused.stderr);
}

#[test]
fn a_fit_of_some_quants_shows_and_takes_only_these() {
    let desk = Desk::new("");
    let arguments = ["fit", "qwen3-4b", "--board", "pi5-8gb", "-q", "Q2_K,Q8_0"];
    let ended = desk.run(&arguments).with(0).says("> Q2_K ").says("\n  > Q2_K: ");
    assert!(!ended.stdout.contains("Q4_K_M") && !ended.stdout.contains("auto takes"), "{}", ended.stdout);
}

#[test]
fn a_source_is_named_alike_everywhere() {
    let desk = Desk::new(LOCAL).with_checkpoint(|_| {});
    for source in ["model", "./model", "file:model"] {
        desk.run(&["fit", source, "--board", "pi5-8gb"]).with(0).says("pi5-8gb  ");
        desk.run(&["convert", source, "--quant", "Q8_0"]).with(0).says("model-Q8_0.gguf: ");
        desk.run(&["fetch", source]).with(0).says("model: ");
    }
    // a model of the manifest comes first
    desk.run(&["fetch", "chat"]).with(0).says("chat: ");
    // it is in the catalog, and no hub is there
    desk.run(&["fetch", "smollm3-3b"]).with(1).complains("smollm3-3b: http://127.0.0.1:1 cannot be reached");
    for verb in [vec!["fit"], vec!["convert", "--quant", "Q8_0"], vec!["fetch"]] {
        let ended = desk.run(&[verb, vec!["smollm3-3"]].concat()).with(1);
        ended.complains("did you mean \"smollm3-3b\"? `bramble catalog` lists them all");
    }
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    desk.run(&["fetch", "chatt"])
        .with(1)
        .complains("no manifest fleet.yaml has a model chatt: the catalog has no");
}

#[test]
fn a_host_without_bramble_cannot_be_measured_and_is_told_what_to_do() {
    let desk = Desk::new(LOCAL);
    let ended = desk.run(&["bench"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("run `bramble apply` first"), "{}{}", ended.stdout, ended.stderr);
}
