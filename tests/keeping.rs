//! What is told before something is done, and what is kept on the operator's machine: plans and the store.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fs;
use std::net::TcpListener;
use std::process::Command;

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

use desk::Desk;
use disk::Disk;

/// A fleet of one host, this machine, with a model that can be served and one that is nowhere.
struct Fleet {
    desk: Desk,
    archive: Vec<u8>,
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
    for (arguments, code) in [(&["rollback"][..], 3), (&["rollback", "--to", "1", "--yes"], 0)] {
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
