//! What is told before something is done, and what is kept: plans and the store on the operator's machine, generations
//! on a host; and what is asked of a host that serves.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use bramble_fleet::store::Store;
use serde_json::Value;

#[path = "support/desk.rs"]
mod desk;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/disk.rs"]
mod disk;
#[path = "support/model.rs"]
mod model;
#[path = "support/stub.rs"]
mod stub;
#[path = "support/terminal.rs"]
mod terminal;

use desk::Desk;
use disk::Disk;
use terminal::on_terminal;

/// A fleet of one host, this machine, with a model that can be served and one that is nowhere.
struct Fleet {
    desk: Desk,
    archive: Vec<u8>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // nobody logs in to one that was revoked, to take it off either
        for words in [&["keys", "readmit", "kitchen"][..], &["remove", "--all", "--yes"]] {
            drop(self.desk.command(words).output());
        }
    }
}

impl Fleet {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let desk = Desk::new(&format!(
            "bramble: 1\nfleet: home\nserve: {{ port: {port} }}\n\
             models:\n  chat: {{ source: \"file:model\", context: 256, quant: F16 }}\n  lost: {{ source: \"file:nowhere\" }}\n\
             hosts:\n  kitchen: {{ address: 127.0.0.1, connect: local, dir: FOLDERroot, supervisor: process }}\n\
             deploy:\n  - {{ model: chat, on: [kitchen] }}\n  - {{ model: lost, on: [kitchen] }}\n"
        ));
        model::write_model(&desk.path("model"), 1, 64, Some(1));
        stub::write_program(&desk.path("brambled"), "engine");
        let mut tar = Command::new("tar");
        let packed =
            tar.args(["-czf", "made.tar.gz", "brambled"]).current_dir(desk.path("")).status().unwrap();
        assert!(packed.success());
        let archive = fs::read(desk.path("made.tar.gz")).unwrap();
        desk.put_bundle(&archive);
        Self { desk, archive }
    }

    /// Runs a command that has to end with `code`, and returns what it says.
    #[track_caller]
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.desk.command(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }
}

#[test]
fn what_can_be_done_of_a_plan_is_shown_kept_and_done() {
    let fleet = Fleet::new();
    let refused = fleet.ends(3, &["plan", "--out", "whole.plan"]);
    assert!(refused.contains("\nrefused: lost: ") && !fleet.desk.path("whole.plan").exists(), "{refused}");
    let part = fleet.ends(0, &["plan", "--partial"]);
    assert!(part.contains("\nleft out: lost: ") && part.contains("    + engine chat F16 "), "{part}");
    assert!(part.contains("Left out, because of --partial: 1 problem.\n"), "{part}");
    let told: Value = serde_json::from_str(&fleet.ends(0, &["plan", "--partial", "--json"])).unwrap();
    assert_eq!(told["problems"].as_array().unwrap().len(), 1);
    fleet.ends(2, &["plan", "--partial", "--exit-code", "--out", "part.plan", "--html", "part.html"]);
    let page = fs::read_to_string(fleet.desk.path("part.html")).unwrap();
    assert!(page.contains("Left out, because of --partial: 1 problem."), "{page}");
    // what root would do on a host follows from what it shall run, and is nobody's to write into a plan
    let mut changed: Value =
        serde_json::from_slice(&fs::read(fleet.desk.path("part.plan")).unwrap()).unwrap();
    let unit = serde_json::json!({ "name": "bramble-route.service", "text": "[Service]\nExecStart=/bin/sh -c id\n" });
    changed["hosts"][0]["units"].as_array_mut().unwrap().push(unit);
    fs::write(fleet.desk.path("changed.plan"), changed.to_string()).unwrap();
    let refused = fleet.ends(3, &["apply", "changed.plan", "--yes"]);
    assert!(
        refused.contains("what this plan says of kitchen does not follow from the manifest"),
        "{refused}"
    );
    assert!(!fleet.desk.path("root/current").exists());
    let applied = fleet.ends(0, &["apply", "part.plan"]);
    assert!(applied.contains("Applied: 1 host."), "{applied}");
    // and so is what an apply does by itself
    let again = fleet.ends(0, &["apply", "--partial", "--yes"]);
    assert!(again.contains("Nothing to do. Left out, because of --partial: 1 problem.\n"), "{again}");
    fleet.ends(0, &["plan", "--partial", "--exit-code"]);
}

#[test]
fn without_room_for_weights_here_nothing_can_be_done_in_part() {
    let fleet = Fleet::new();
    let Some(_disk) = Disk::in_memory(&fleet.desk.path("cache"), 1 << 20) else { return };
    for verb in [&["plan", "--partial"][..], &["apply", "--partial", "--yes"]] {
        let refused = fleet.ends(3, verb);
        assert!(
            refused.contains(" are needed for the weights that are made here")
                && !refused.contains("Left out"),
            "{refused}"
        );
    }
}

#[test]
fn who_goes_back_is_told_from_where_to_where_and_what_the_next_apply_does() {
    let fleet = Fleet::new();
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    // nobody is asked where there is nothing to go back to
    let stuck = fleet.ends(1, &["rollback"]);
    assert!(stuck.contains("there is no earlier generation on this host to go back to"), "{stuck}");
    let manifest = fs::read_to_string(fleet.desk.path("fleet.yaml")).unwrap();
    fleet.desk.write(&manifest.replace("context: 256", "context: 128"));
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    // nobody can be asked here
    for (arguments, code) in [(&["rollback"][..], 3), (&["rollback", "kitchen", "--to", "1", "--yes"], 0)] {
        let told = fleet.ends(code, arguments);
        let change = "~ kitchen  generation 2 -> 1\n    ~ engine chat F16 (context 128, 1 slot) -> chat F16 (context 256, 1 slot)\n";
        assert!(told.contains(change), "{told}");
        assert!(told.contains("the next `bramble apply` brings back what it says"), "{told}");
    }
    // where the host would go now is what it came from
    assert!(fleet.ends(3, &["rollback"]).contains("~ kitchen  generation 1 -> 2\n"));
}

#[test]
fn the_store_tells_weights_and_programs_from_what_nothing_needs() {
    let fleet = Fleet::new();
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    let keep = |bytes: &[u8]| {
        let mut writer = Store::open(fleet.desk.path("cache/bramble")).unwrap().create().unwrap();
        writer.write(bytes).unwrap();
        writer.seal().unwrap().digest.short()
    };
    // as `bundle import` leaves it
    let (program, other) = (keep(&fleet.archive), keep(b"nobody's"));
    let listed = fleet.ends(0, &["store", "ls"]);
    let row = |digest: &str| {
        let line = listed.lines().find(|line| line.starts_with(digest)).unwrap_or_default();
        line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")
    };
    assert!(row(&program).starts_with("yes program 0.1.0 for "), "{listed}");
    assert_eq!(row(&other), "no -", "{listed}");
    assert!(listed.lines().any(|line| line.ends_with("yes     weights in F16")), "{listed}");
    let pruned = fleet.ends(0, &["store", "prune", "--dry-run"]);
    assert!(pruned.contains(&other) && !pruned.contains(&program), "{pruned}");
}

#[test]
fn a_cordoned_host_says_so_until_it_takes_work_again() {
    let fleet = Fleet::new();
    let refused = fleet.ends(1, &["cordon", "kitchen"]);
    assert!(refused.contains("run `bramble apply` first"), "{refused}");
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    let cordoned = fleet.ends(0, &["cordon", "kitchen"]);
    assert!(cordoned.contains("Cordoned: 1 host."), "{cordoned}");
    let status = || -> Value { serde_json::from_str(&fleet.ends(0, &["status", "--json"])).unwrap() };
    let host = status()["hosts"][0].clone();
    assert!(host["cordon"]["by"].as_str().unwrap().contains('@'), "{host}");
    // somebody wants it so
    assert!(fleet.ends(0, &["status", "--exit-code"]).contains("cordoned"));
    let back = fleet.ends(0, &["uncordon", "kitchen"]);
    assert!(back.contains("Uncordoned: 1 host."), "{back}");
    assert_eq!(status()["hosts"][0].get("cordon").unwrap_or(&Value::Null), &Value::Null);
    assert!(!fleet.ends(0, &["status"]).contains("cordoned"));
}

#[test]
fn a_prune_keeps_as_many_generations_as_it_is_told() {
    let fleet = Fleet::new();
    let manifest = fs::read_to_string(fleet.desk.path("fleet.yaml")).unwrap();
    let sh = |line: &str| {
        let status = Command::new("sh").args(["-c", line]).current_dir(fleet.desk.path("")).status();
        assert!(status.unwrap().success(), "{line}");
    };
    for context in [256, 128, 64, 32] {
        fleet.desk.write(&manifest.replace("context: 256", &format!("context: {context}")));
        fleet.ends(0, &["apply", "--partial", "--yes"]);
        sh("mkdir -p old && cp -a root/generations/* old");
    }
    // an apply keeps none of them: as an interrupted one leaves them
    sh("cp -a old/1 old/2 root/generations");
    let there = || {
        let folder = fs::read_dir(fleet.desk.path("root/generations")).unwrap();
        let mut names: Vec<String> =
            folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    let shown = fleet.ends(0, &["prune", "kitchen", "--keep", "1", "--dry-run"]);
    assert_eq!(there(), "1 2 3 4", "{shown}");
    let pruned = fleet.ends(0, &["prune", "kitchen", "--keep", "1", "--yes"]);
    assert_eq!(there(), "2 3 4", "{pruned}");
    fleet.ends(0, &["prune", "kitchen", "--yes"]);
    assert_eq!(there(), "3 4");
}

#[test]
fn a_host_that_serves_tells_its_state_and_what_its_services_said() {
    let fleet = Fleet::new();
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    let status: Value = serde_json::from_str(&fleet.ends(0, &["status", "--json"])).unwrap();
    assert_eq!(status["hosts"][0]["door"], "open", "{status}");
    fleet.ends(0, &["status", "--exit-code"]);
    let said = fleet.ends(0, &["logs", "-m", "chat", "-n", "100"]);
    assert!(said.lines().all(|line| line.starts_with("kitchen engine-chat | ")), "{said}");
    let said = fleet.ends(0, &["logs", "kitchen", "--door"]);
    assert!(said.lines().all(|line| line.starts_with("kitchen route | ")) && !said.is_empty(), "{said}");
    // 2: there is something to mend on this machine
    let output = fleet.desk.command(&["doctor", "--all", "--json"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told.to_string().contains("kitchen"), "{told}");
}

#[test]
fn the_page_of_the_fleet_is_served_until_it_is_interrupted() {
    let fleet = Fleet::new();
    let refused = fleet.ends(1, &["ui", "--port", "0"]);
    assert!(refused.contains("was never applied from here: `bramble apply` makes its keys"), "{refused}");
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    let mut ui = fleet.desk.command(&["ui", "--port", "0", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(ui.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let url = told["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let address = url.split('/').next().unwrap();
    let mut asked = TcpStream::connect(address).unwrap();
    write!(asked, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    asked.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    let pid = rustix::process::Pid::from_child(&ui);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ui.wait().unwrap().code(), Some(0));
}

#[test]
fn who_looks_on_asks_no_host_that_was_revoked_meanwhile() {
    let fleet = Fleet::new();
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    let begin = |arguments: &[&str]| {
        let mut looking =
            fleet.desk.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(looking.stdout.take().unwrap()).lines().map(Result::unwrap);
        (looking, lines)
    };
    let mut talking = on_terminal(&fleet.desk, "chat kitchen");
    let mut talking = talking.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut typed, mut shown) = (talking.stdin.take().unwrap(), talking.stdout.take().unwrap());
    let mut screen = Vec::new();
    let mut wait_for = |wanted: &str| {
        while !String::from_utf8_lossy(&screen).contains(wanted) {
            let mut some = [0; 4096];
            let count = shown.read(&mut some).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&screen));
            screen.extend_from_slice(&some[..count]);
        }
    };
    writeln!(typed, "Hello").unwrap();
    wait_for("Yes.");
    let (ui, mut links) = begin(&["ui", "--port", "0", "--json"]);
    let (mut watching, mut looks) = begin(&["status", "--watch=1", "--json"]);
    let mut look = || serde_json::from_str::<Value>(&looks.next().unwrap()).unwrap()["hosts"][0].clone();
    links.next().unwrap();
    assert_eq!(look()["door"], "open");
    fleet.ends(0, &["keys", "revoke-host", "kitchen"]);
    let ended = ui.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a host was revoked or readmitted") && said.contains("run `bramble ui` again"),
        "{said}"
    );
    writeln!(typed, "And now?").unwrap();
    wait_for("run `bramble chat` again");
    assert_eq!(talking.wait().unwrap().code(), Some(1));
    let told = std::iter::repeat_with(look).take(5).find(|host| host["door"] != "open").unwrap();
    assert!(told.to_string().contains("bramble keys readmit kitchen"), "{told}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&watching), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(130));
}

#[test]
fn who_asks_a_host_that_serves_no_more_is_told_where_to_look() {
    let fleet = Fleet::new();
    fleet.ends(0, &["apply", "--partial", "--yes"]);
    fleet.ends(0, &["remove", "kitchen", "--yes"]);
    let said = fleet.ends(1, &["chat", "kitchen", "Hello"]);
    assert!(said.contains("kitchen does not answer at https://127.0.0.1:"), "{said}");
    assert!(said.contains(": `bramble status kitchen` shows what runs there"), "{said}");
}
