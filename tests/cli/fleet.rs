//! What becomes of a fleet, and of one that is not there.

use std::fs;

use bramble_fleet::ids::Digest;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::{LOCAL, closed_port, with_dead_pi};

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

#[test]
fn without_a_terminal_and_without_yes_nothing_is_applied() {
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(|_| {});
    let ended = desk.run(&["apply"]).with(3);
    ended.says("Plan: 1 host to change").complains("--yes was not given: nothing was changed");
    assert_eq!(desk.left_behind(), Vec::<String>::new());
    assert!(!desk.path("root").exists());
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
fn a_host_without_bramble_cannot_be_measured_and_is_told_what_to_do() {
    let desk = Desk::new(LOCAL);
    let ended = desk.run(&["bench"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("run `bramble apply` first"), "{}{}", ended.stdout, ended.stderr);
}
