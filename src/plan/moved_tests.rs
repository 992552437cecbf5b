//! What is on a host, and is not where or as it was.

use super::testing::{Fleet, name};
use super::types::Action;
use crate::lock::LockedHost;

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
