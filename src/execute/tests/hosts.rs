//! Verbs on hosts that need no plan.

use std::collections::BTreeSet;

use super::super::{LogsRequest, PruneRequest, Pruned, VerbError, cordon, logs, prune, restart};
use super::*;
use crate::facts::Cordon;
use crate::ids::ModelName;

fn models(names: &[&str]) -> BTreeSet<ModelName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[tokio::test]
async fn engines_are_started_anew_on_one_host_after_another_and_a_failure_stops_that() {
    let mut world =
        World::with(oddity("desk", " restart ", 1, &Value::Null, "brambled: chat does not stay up"));
    let subjects = subjects(&mut world);
    let report = restart(&subjects, &models(&[]), "ada@desk", &Events::none()).await;
    assert_eq!(state(&report, "attic"), State::Done);
    assert_eq!(report.hosts[&name("attic")].measured.len(), 1);
    assert!(
        matches!(state(&report, "desk"), State::Failed { error, .. } if error == "chat does not stay up"),
        "{report:?}"
    );
    assert!(matches!(state(&report, "shed"), State::NotStarted { .. }));
    assert_eq!(world.asked("attic"), ["lease", "restart", "lease"]);
    assert!(world.asked("shed").is_empty());
}

#[tokio::test]
async fn a_host_without_the_model_is_left_as_it_is() {
    let mut world = World::new();
    let mut subjects = subjects(&mut world);
    let (_, definition) = subjects[1].installed.current.as_mut().unwrap();
    definition.engines.clear();
    let report = restart(&subjects, &models(&["chat"]), "ada@desk", &Events::none()).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!([state(&report, "attic"), state(&report, "desk")], [State::Done, State::Unchanged]);
    assert!(world.asked("desk").is_empty());
    let calls = world.calls();
    let (.., call) = calls.iter().find(|(.., call)| call.script.text.contains(" restart ")).unwrap();
    let request: Value = serde_json::from_slice(&call.stdin).unwrap();
    assert_eq!(request["models"], json!(["chat"]));
}

#[tokio::test]
async fn hosts_are_cordoned_under_their_lease_and_one_that_fails_keeps_no_other_from_it() {
    let mut world = World::with(oddity("desk", " cordon ", 4, &Value::Null, "brambled: eve holds the lock"));
    let was_so = json!({ "generation": 1, "was_so": true });
    world.oddities.push(oddity("shed", " cordon ", 0, &was_so, ""));
    let mut subjects = subjects(&mut world);
    let by = Cordon { by: "ada@desk".to_owned(), at: "2026-11-23T12:00:00Z".to_owned() };
    let report = cordon(&subjects, Some(&by), "ada@desk", &Events::none()).await;
    let states = ["attic", "desk", "shed"].map(|host| state(&report, host));
    assert_eq!(
        states,
        [State::Done, State::Locked { said: "eve holds the lock".to_owned() }, State::Unchanged]
    );
    assert_eq!(world.asked("attic"), ["lease", "cordon", "lease"]);
    let sent = |world: &World, place: usize| {
        let calls = world.calls();
        let mut calls =
            calls.iter().filter(|(host, _, call)| host == "attic" && call.script.text.contains(" cordon "));
        let (.., call) = calls.nth(place).unwrap();
        assert!(call.script.text.ends_with(" --lease 7") && call.script.is_root);
        serde_json::from_slice::<Value>(&call.stdin).unwrap()
    };
    assert_eq!(sent(&world, 0), json!({ "cordon": { "by": "ada@desk", "at": "2026-11-23T12:00:00Z" } }));
    cordon(&subjects[..1], None, "ada@desk", &Events::none()).await;
    assert_eq!(sent(&world, 1), json!({ "cordon": null }));
    subjects[0].installed.current = None;
    let report = cordon(&subjects[..1], None, "ada@desk", &Events::none()).await;
    assert!(
        matches!(state(&report, "attic"), State::Failed { error, .. } if error == "no generation is in force")
    );
}

#[tokio::test]
async fn hosts_are_pruned_under_their_lease_and_what_is_wanted_is_named() {
    let mut world = World::with(oddity("desk", " lease ", 1, &Value::Null, "brambled: the disk is broken"));
    let mut subjects = subjects(&mut world);
    subjects[2].installed = Installed { current: None, programs: [].into(), ..subjects[2].installed.clone() };
    let wanted = Digest::of(b"pushed ahead");
    let request = PruneRequest { keep: 2, wanted: [wanted].into(), keep_unnamed: false, is_dry: true };
    let pruned = prune(&subjects, &request, "ada@desk", &Events::none()).await;
    assert!(matches!(&pruned[&name("attic")], Ok(pruned) if *pruned == Pruned::default()));
    assert!(
        matches!(&pruned[&name("desk")], Err(VerbError::Failed { said, .. }) if said == "the disk is broken")
    );
    assert!(pruned[&name("shed")].is_ok() && world.asked("shed").is_empty(), "there is nothing");
    let calls = world.calls();
    let (.., call) = calls.iter().find(|(.., call)| call.script.text.contains(" prune ")).unwrap();
    let sent: PruneRequest = serde_json::from_slice(&call.stdin).unwrap();
    assert_eq!(sent, request);
    assert!(call.script.text.ends_with(" --lease 7"));
}

#[tokio::test]
async fn a_program_that_does_not_run_there_is_told_from_one_that_fails() {
    let lacks = "error while loading shared libraries: libllama.so.0: cannot open shared object file";
    for (status, said) in [(132, "Illegal instruction"), (127, lacks), (126, "Exec format error")] {
        let mut world = World::with(oddity("desk", " lease ", status, &Value::Null, said));
        world.oddities.push(oddity("desk", " logs ", status, &Value::Null, said));
        let subjects = subjects(&mut world);
        let request = PruneRequest { keep: 2, wanted: [].into(), keep_unnamed: false, is_dry: true };
        let pruned = prune(&subjects, &request, "ada@desk", &Events::none()).await;
        let error = pruned[&name("desk")].as_ref().unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("build the bundle again"), "{error}");
        let silent = logs(&subjects[1], &LogsRequest::default(), |_| {}).await.unwrap_err();
        assert_eq!(silent.to_string(), error);
    }
}

#[tokio::test]
async fn lines_of_a_log_are_told_one_by_one_and_what_is_none_is_left_out() {
    let said = "{\"service\":\"route\",\"at\":null,\"text\":\"up\"}\nwelcome to this host\n\
                {\"service\":\"engine-chat\",\"at\":\"2026-11-23T12:00:00.000Z\",\"text\":\"ready\"}\n";
    let lines = Arc::new(move || Ok(ended(0, said, "")));
    let broken = oddity("desk", " logs ", 1, &Value::Null, "brambled: no engine on this host serves chat");
    let mut world = World::with(("attic", " logs ", lines));
    world.oddities.push(broken);
    let subjects = subjects(&mut world);
    let request = LogsRequest { lines: 5, ..LogsRequest::default() };
    let mut told = Vec::new();
    logs(&subjects[0], &request, |line| told.push((line.service, line.text))).await.unwrap();
    let expected = [("route", "up"), ("engine-chat", "ready")];
    assert_eq!(told, expected.map(|(service, text)| (service.to_owned(), text.to_owned())));
    let request = LogsRequest { models: vec!["chat".parse().unwrap()], lines: 0, door: false, follow: true };
    let failed = logs(&subjects[1], &request, |_| {}).await.unwrap_err();
    assert_eq!(failed.to_string(), "no engine on this host serves chat");
    let texts: Vec<String> = world.calls().into_iter().map(|(.., call)| call.script.text).collect();
    let root = "--root '/var/lib/bramble'";
    let program = "'/var/lib/bramble/current/program/brambled' logs";
    assert_eq!(texts[0], format!("{program} {root} --lines 5"));
    assert!(texts[1].ends_with(" --lines 0 --model chat --follow"), "{}", texts[1]);
}
