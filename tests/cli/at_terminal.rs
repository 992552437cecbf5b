//! What is drawn on a terminal, and asked there.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::desk::Desk;
use crate::terminal::on_terminal;
use crate::{Ended, LOCAL};

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
