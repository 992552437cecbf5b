//! What no fleet should be asked for, and hosts of which nothing is known: each is refused with words,
//! all at once.

use std::fmt::Write as _;

use super::testing::{Fleet, MANIFEST, name};
use crate::facts::{Disk, Memory};
use crate::manifest;
use crate::units::Bytes;

#[test]
fn a_floor_that_nothing_reaches_is_refused_with_the_one_that_would_be() {
    let floor = "context: 1024, floor: { tokens_per_second: 5000 }";
    let mut fleet = Fleet::with("context: 1024", floor);
    let problems = fleet.problems();
    // the desktop's speed is unknown, so that no floor is held against it
    assert_eq!(problems.len(), 2, "{problems:#?}");
    for problem in &problems {
        assert!(problem.contains("the slowest that is allowed, is 5000 tok/s; `floor: { "), "{problem}");
    }
    let lower = problems[1].split('`').nth(1).unwrap();
    fleet.change("context: 1024", &format!("context: 1024, {lower}"));
    assert!(fleet.problems().iter().all(|problem| !problem.contains("on shed")), "{:?}", fleet.problems());
}

#[test]
fn a_host_that_forgets_at_a_boot_what_is_written_is_told_of() {
    let mut fleet = Fleet::new();
    for (kind, expected) in [
        (
            "overlayfs",
            "/var/lib is on overlayfs: what is written there is gone after a boot: turn the overlay off (`sudo raspi-config`, Performance), or name a `dir` on a disk in the manifest",
        ),
        (
            "tmpfs",
            "/var/lib is on tmpfs: what is written there is gone after a boot: name a `dir` on a disk in the manifest",
        ),
    ] {
        fleet.facts("attic").disk.as_mut().unwrap().filesystem = Some(kind.to_owned());
        assert_eq!(fleet.plan().host(&name("attic")).unwrap().notes, [expected]);
    }
    fleet.facts("attic").disk.as_mut().unwrap().filesystem = Some("ext2/ext3".to_owned());
    assert_eq!(fleet.plan().host(&name("attic")).unwrap().notes, [""; 0]);
}

#[test]
fn a_host_of_which_nothing_is_known_is_refused_and_breaks_nothing() {
    let mut fleet = Fleet::new();
    let shed = fleet.facts("shed");
    (shed.board, shed.board_name, shed.page_size) = (None, None, None);
    shed.cpu = crate::facts::Cpu { cores: 0, ..Default::default() };
    shed.memory = Memory::default();
    shed.disk = Some(Disk {
        path: "/".into(),
        filesystem: None,
        free: Bytes::ZERO,
        total: Bytes::ZERO,
        medium: None,
        inodes_free: None,
    });
    let (plan, problems) = fleet.make();
    let on_shed = problems.iter().filter(|problem| problem.host == Some(name("shed")));
    assert!(on_shed.clone().count() > 0 && on_shed.count() == problems.len(), "{problems:#?}");
    assert!(plan.host(&name("attic")).is_some_and(|host| !host.choices.is_empty()));
}

#[test]
fn pins_that_contradict_each_other_are_named_together() {
    let text = MANIFEST
        .replace("  - { model: chat, on: [desk] }", "  - { model: chat, on: [desk, shed] }\n  - { model: chat, on: { count: 2, where: { role: pi } } }")
        .replace("order: [local, desk]", "order: [local, desk], mode: local-only");
    let problems = manifest::parse("fleet.yaml", &text).unwrap_err();
    let problems = format!("{problems:?}");
    for words in ["chat goes to shed twice", "`local-only` asks nobody else"] {
        assert!(problems.contains(words), "{words}: {problems}");
    }
}

/// Each of two Pis names the other: what one passes on, the other answers itself or not at all, as
/// the router's own tests show.
#[test]
fn hosts_that_fall_back_on_each_other_are_planned_without_a_circle() {
    let plan = Fleet::with("[local, desk]", "[attic, shed]").plan();
    for host in ["attic", "shed"] {
        let door = &plan.host(&name(host)).unwrap().definition.door;
        let order = door.routes[0].order.iter().map(|hop| hop.upstream.as_str()).collect::<Vec<_>>();
        let other = if host == "attic" { ["local", "shed"] } else { ["attic", "local"] };
        assert_eq!(order, other, "a host is its own `local`");
    }
}

#[test]
fn ten_thousand_hosts_are_read_and_planned() {
    let mut text = String::from("bramble: 1\nfleet: home\nserve: { port: 8080, tls: off }\nmodels:\n");
    text += "  chat: { source: hf:org/chat, context: 1024 }\nhosts:\n";
    for n in 0..10_000 {
        let board = ["pi4-2gb", "pi4-8gb", "pi5-4gb", "pi5-8gb"][n % 4];
        writeln!(text, "  h{n}: {{ board: {board} }}").unwrap();
    }
    text += "deploy:\n  - { model: chat, on: { role: pi } }\n";
    let plan = Fleet::of(&text).plan();
    assert_eq!(plan.planned.len(), 10_000);
    assert!(plan.planned.iter().all(|host| host.choices.len() == 1));

    let more = text.replacen("  h0:", "  more: { board: pi4-2gb }\n  h0:", 1);
    let problems = manifest::parse("fleet.yaml", &more).unwrap_err();
    assert!(format!("{problems:?}").contains("10001 entries, and at most 10000 are read"), "{problems}");
}

#[test]
fn room_that_an_unfinished_upload_has_taken_is_its_own() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let facts = fleet.facts("attic");
    let disk = facts.disk.as_mut().unwrap();
    disk.free = super::make::disk_margin(disk.total) + Bytes::mib(10);
    let installed = facts.installed.as_mut().unwrap();
    installed.drift.push("a blob is gone".to_owned());
    let blobs = std::mem::take(&mut installed.blobs);
    let problems = fleet.problems();
    assert!(problems.len() == 1 && problems[0].contains("attic needs"), "{problems:?}");
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.partials = blobs.keys().map(|digest| (*digest, Bytes::ZERO)).collect();
    installed.reserved = blobs;
    assert_eq!(fleet.problems(), Vec::<String>::new(), "nothing of it has arrived, and it has its room");
}
