//! What is on a host, and is not where or as it was.

use super::testing::{Fleet, MANIFEST, name};
use super::types::Action;
use crate::facts::Link;
use crate::generation::Definition;
use crate::ids::Generation;
use crate::lock::LockedHost;
use crate::quant::Quant;
use crate::units::Bytes;

#[test]
fn weights_that_a_disk_has_cut_off_are_sent_again() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    for bytes in installed.blobs.values_mut() {
        bytes.0 -= 1;
    }
    installed.drift.push("the blob is shorter".to_owned());
    let plan = fleet.plan();
    let pushes = plan.steps().filter(|step| matches!(step.action, Action::Push { .. })).count();
    assert_eq!(pushes, 1, "{:?}", plan.waves);
}

#[test]
fn who_has_weights_on_a_wire_gives_them_to_who_has_lost_them() {
    let mut fleet = Fleet::with("context: 1024", "context: 1024, quant: Q4_0");
    fleet.apply();
    let lost = fleet.facts("attic").installed.as_mut().unwrap();
    lost.blobs.clear();
    lost.drift.push("the blob is not there".to_owned());
    let mut link = |host: &str, is_wireless: bool, megabits: Option<u32>| {
        fleet.facts(host).link = Some(Link { name: "eth0".to_owned(), is_wireless, megabits });
        let artifacts = fleet.plan().artifacts;
        assert_eq!(artifacts.len(), 1, "{artifacts:?}");
        artifacts[0].given_by.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(link("attic", false, Some(1000)), ["desk", "shed"], "who is to get them gives nothing");
    assert_eq!(link("shed", false, Some(100)), ["shed", "desk"]);
    assert_eq!(link("shed", false, Some(1000)), ["shed", "desk"], "the fastest first");
    assert_eq!(link("desk", true, None), ["shed"], "nobody gives over the air");
    let touched = fleet.facts("shed").installed.as_mut().unwrap();
    touched.touched.extend(touched.blobs.keys().copied());
    let plan = fleet.plan();
    assert!(plan.artifacts.iter().all(|artifact| artifact.given_by.is_empty()), "{:?}", plan.artifacts);
}

#[test]
fn weights_that_may_have_changed_are_looked_at_again() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.touched.extend(installed.blobs.keys().copied());
    installed.drift.push("the blob may be damaged".to_owned());
    let plan = fleet.plan();
    let pushes: Vec<_> = plan.steps().filter(|step| matches!(step.action, Action::Push { .. })).collect();
    assert!(pushes.len() == 1 && pushes[0].why.ends_with(" may be damaged"), "{:?}", plan.waves);
}

#[test]
fn a_quant_that_is_asked_for_does_not_give_way_to_what_runs() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let quant = |definition: &Definition| definition.engines[0].weights.quant;
    let installed = fleet.facts("shed").installed.clone().unwrap();
    assert_ne!(quant(&installed.current.unwrap().1), Some(Quant::Q8_0));
    fleet.change("context: 1024", "context: 1024, quant: Q8_0");
    let mut fits = 0;
    // from where neither fits, over where what is asked for would fit with the tolerance, to where it fits
    for mib in (100..320).step_by(5) {
        fleet.facts("shed").memory.available = Bytes::mib(mib);
        let (plan, problems) = fleet.make();
        let shed = plan.hosts.iter().find(|plan| plan.host == name("shed"));
        match shed.filter(|_| problems.is_empty()) {
            Some(shed) => {
                assert_eq!(quant(&shed.definition), Some(Quant::Q8_0), "{mib} MiB");
                fits += 1;
            }
            None => assert!(
                problems.len() == 1 && problems[0].message.contains("Q8_0"),
                "{mib} MiB: {problems:?}"
            ),
        }
    }
    assert!((1..40).contains(&fits), "{fits}");
}

#[test]
fn what_others_do_without_a_host_that_has_no_room_is_decided_without_it() {
    let text = MANIFEST.replace("{ model: chat, on: { role: pi } }", "{ model: chat, on: [shed] }");
    let mut fleet =
        Fleet::of(&text.replace("{ order: [local, desk] }", "{ order: [local, desk], from: { role: pi } }"));
    fleet.facts("desk").disk.as_mut().unwrap().free = Bytes::mib(10);
    let (plan, problems) = fleet.make();
    let shown: Vec<&str> = plan.hosts.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(shown, ["attic", "shed"]);
    let told = |text: &str| problems.iter().filter(|problem| problem.message.contains(text)).count();
    assert_eq!((told("more on the disk of desk"), told("desk needs")), (1, 1), "{problems:?}");
    // attic has chat of the desk alone
    assert_eq!(told("nobody in the route of chat can answer on attic"), 1, "{problems:?}");
    // weights that were touched take their room already
    let mut fleet = Fleet::new();
    fleet.apply();
    let facts = fleet.facts("attic");
    facts.disk.as_mut().unwrap().free = Bytes::mib(300);
    let installed = facts.installed.as_mut().unwrap();
    installed.touched.extend(installed.blobs.keys().copied());
    assert_eq!(fleet.problems(), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_no_matter_where_nothing_is_brought() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::mib(10);
    fleet.change("context: 1024", "context: 512");
    assert_eq!(fleet.problems(), Vec::<String>::new());
    // what is, is told with what it takes
    fleet.change("context: 1024", "context: 512, quant: Q6_K");
    let problems = fleet.problems();
    let of_attic: Vec<_> = problems.iter().filter(|problem| problem.contains("attic")).collect();
    assert!(of_attic.len() == 1 && of_attic[0].contains("more on the disk of attic"), "{problems:?}");
}

#[test]
fn a_host_that_shall_live_in_another_folder_is_taken_off_first() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let known = LockedHost { dir: Some("/srv/old".to_owned()), ..Default::default() };
    fleet.lock.hosts.insert(name("attic"), known);
    assert_eq!(
        fleet.problems(),
        [
            "attic has Bramble in /srv/old, and the manifest wants it in its usual folder: take it off first (`bramble remove attic`), or leave `dir` as it was"
        ]
    );
}

#[test]
fn a_host_of_another_fleet_is_refused_and_not_changed() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.current.as_mut().unwrap().1.fleet = "neighbours".parse().unwrap();
    let (plan, problems) = fleet.make();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].message,
        "attic belongs to the fleet neighbours: take it off there first (`bramble remove attic` with that fleet's manifest), or take it over with `bramble apply --adopt`"
    );
    assert!(plan.steps().all(|step| step.host != Some(name("attic"))));

    fleet.adopt = true;
    let plan = fleet.plan();
    let attic = plan.host(&name("attic")).unwrap();
    assert_eq!(attic.reasons, ["it is taken over from the fleet neighbours"]);
    assert_eq!((attic.is_adopted(), attic.generation), (true, Some(Generation::new(2))));
    assert!(plan.hosts.iter().all(|host| host.host == name("attic") || !host.is_adopted()));
}
