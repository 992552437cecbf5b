use super::testing::{Fleet, MANIFEST, generation, name};
use super::{HostPlan, Plan, check, written_by_others};
use crate::facts::Supervision;
use crate::generation::{Definition, DoorTls, EngineSpec, UpstreamKind, WakeSpec};
use crate::ids::{Digest, Generation};
use crate::units::{Bytes, TokensPerSec};

#[test]
fn other_keys_are_a_reason_to_change_a_host_and_the_same_are_none() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let (ours, other) = (Digest::of(b"ours"), Digest::of(b"other"));
    fleet.facts("attic").installed.as_mut().unwrap().secrets = Some(ours);
    let reasons = |fleet: &Fleet| fleet.plan().host(&name("attic")).unwrap().reasons.clone();
    // this machine cannot tell, it can, and the host's login may not read them
    assert_eq!(reasons(&fleet), Vec::<String>::new());
    fleet.secrets.insert(name("attic"), Some(ours));
    fleet.secrets.insert(name("shed"), Some(ours));
    assert!(fleet.plan().is_empty());
    fleet.secrets.insert(name("attic"), Some(other));
    assert_eq!(reasons(&fleet), ["the fleet's keys or certificates have changed since"]);
    let plan = fleet.plan();
    assert!(!plan.is_empty() && plan.host(&name("shed")).unwrap().generation.is_none());
    fleet.secrets.insert(name("attic"), None);
    assert_eq!(reasons(&fleet), ["it gets a certificate of the fleet's"]);
}

#[test]
fn doors_with_certificates_are_asked_over_https() {
    let text = MANIFEST.replace("serve: { port: 8080, tls: off }", "serve: { port: 8443 }");
    let plan = Fleet::of(&text).plan();
    let door = |host: &str| plan.host(&name(host)).unwrap().definition.door.clone();
    assert_eq!((door("attic").tls, door("attic").port), (DoorTls::Fleet, 8443));
    let urls: Vec<String> = ["attic", "desk"]
        .iter()
        .flat_map(|host| door(host).upstreams)
        .filter_map(|upstream| match upstream.kind {
            UpstreamKind::Host { url } => Some(url),
            _ => None,
        })
        .collect();
    assert!(
        !urls.is_empty() && urls.iter().all(|url| url.starts_with("https://") && url.ends_with(":8443")),
        "{urls:?}"
    );
}

#[test]
fn what_somebody_has_written_into_a_plan_is_found() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").memory_cgroup = Some(true);
    let kept: Plan = serde_json::from_str(&serde_json::to_string(&fleet.plan()).unwrap()).unwrap();
    let found = |fleet: &Fleet, plan: &Plan| -> Vec<String> {
        let hosts = written_by_others(plan, &fleet.manifest, &fleet.inventory);
        hosts.into_iter().map(ToString::to_string).collect()
    };
    assert_eq!(found(&fleet, &kept), Vec::<String>::new());
    let changes: [fn(&mut HostPlan); 17] = [
        |host| host.units[0].text.push_str("ExecStartPre=+/bin/sh -c id\n"),
        |host| host.units[0].name = "cron.service".to_owned(),
        |host| drop(host.units.pop()),
        |host| (host.supervision, host.units) = (Supervision::Process, Vec::new()),
        |host| host.supervision = Supervision::SystemdUser { version: 252 },
        |host| host.is_root = !host.is_root,
        |host| host.root = "/tmp/bramble".to_owned(),
        |host| host.definition.fleet = "another".parse().unwrap(),
        |host| host.definition.host = "another".parse().unwrap(),
        |host| host.definition.door.port += 1,
        |host| {
            let url = "http://elsewhere.example:1".to_owned();
            let mut known = host.definition.door.upstreams.iter_mut();
            known.find(|known| known.kind != UpstreamKind::Local).unwrap().kind = UpstreamKind::Host { url };
        },
        |host| {
            host.definition.door.upstreams[0].wake =
                Some(WakeSpec { mac: "aa:bb:cc:dd:ee:ff".parse().unwrap(), wait_seconds: 9 });
        },
        |host| host.definition.door.routes[0].order.reverse(),
        |host| host.definition.door.routes[0].order[1].model = "another".to_owned(),
        |host| host.deadline_seconds *= 1_000_000,
        |host| host.generation = Some(Generation::new(u64::MAX)),
        |host| {
            let fleet = "another".parse().unwrap();
            host.before = Some(Definition { fleet, ..host.definition.clone() });
        },
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut other = kept.clone();
        assert_eq!(other.hosts[0].host, name("attic"));
        change(&mut other.hosts[0]);
        assert_eq!(found(&fleet, &other), ["attic"], "change {at}");
    }
    // fewer may be asked than the manifest lets: one that was away is in some plans and in others not
    let mut other = kept.clone();
    other.hosts[0].definition.door.routes[0].order.pop();
    assert_eq!(found(&fleet, &other), Vec::<String>::new());
    let mut other = kept.clone();
    other.hosts[0].host = name("nobody");
    assert_eq!(found(&fleet, &other), ["nobody"]);
    // a boot without the memory group is another host than the one that was planned for
    fleet.facts("shed").memory_cgroup = Some(false);
    assert_eq!(found(&fleet, &kept), ["shed"]);
}

#[test]
fn a_kept_plan_asks_nobody_whom_the_manifest_does_not() {
    let cloud = "  cloud: { upstream: \"https://llm.example.org/v1\", models: { chat: big } }\ndeploy:";
    let text = MANIFEST.replace("deploy:", cloud);
    let open = Fleet::of(&text.replace("order: [local, desk]", "order: [local, cloud]"));
    let closed = Fleet::of(&text.replace("order: [local, desk]", "mode: local-only"));
    let lent = open.plan().hosts[0].definition.door.clone();
    assert_eq!(lent.routes[0].order[1].upstream, "cloud");
    let mut plan = closed.plan();
    assert!(written_by_others(&plan, &closed.manifest, &closed.inventory).is_empty());
    // the server is known, its name and address are as they are: it is only not to be asked
    plan.hosts[0].definition.door = lent;
    assert_eq!(written_by_others(&plan, &closed.manifest, &closed.inventory), [&name("attic")]);
}

/// The engine that a host says it runs.
fn engine<'a>(fleet: &'a mut Fleet, host: &str) -> &'a mut EngineSpec {
    let installed = fleet.facts(host).installed.as_mut().unwrap();
    &mut installed.current.as_mut().unwrap().1.engines[0]
}

#[test]
fn an_engine_that_runs_as_none_is_ever_chosen_is_chosen_anew() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let before = engine(&mut fleet, "attic").clone();
    let lies: [fn(&mut EngineSpec); 4] = [
        |engine| engine.micro_batch = u32::MAX,
        |engine| (engine.context, engine.micro_batch) = (u32::MAX, 1 << 30),
        |engine| (engine.context, engine.micro_batch) = (1 << 30, u32::MAX),
        |engine| (engine.context, engine.slots, engine.micro_batch) = (u32::MAX, u32::MAX, u32::MAX),
    ];
    for (at, lie) in lies.iter().enumerate() {
        let told = engine(&mut fleet, "attic");
        told.clone_from(&before);
        lie(told);
        let plan = fleet.plan();
        let chosen = &plan.host(&name("attic")).unwrap().definition.engines[0];
        let served = |engine: &EngineSpec| (engine.context, engine.slots, engine.micro_batch);
        assert_eq!(served(chosen), served(&before), "lie {at}");
        assert_eq!((generation(&plan, "attic"), generation(&plan, "shed")), (Some(Generation::new(2)), None));
    }
}

#[test]
fn a_number_rises_above_all_that_a_host_names_and_one_that_cannot_is_its_own_problem() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let numbers = |fleet: &mut Fleet, current: u64, pending: Option<u64>, laid_out: &[u64]| {
        let installed = fleet.facts("attic").installed.as_mut().unwrap();
        installed.current.as_mut().unwrap().0 = Generation::new(current);
        installed.pending = pending.map(Generation::new);
        installed.generations = laid_out.iter().copied().map(Generation::new).collect();
        installed.drift = vec!["a blob is gone".to_owned()];
    };
    let rising: [(u64, Option<u64>, &[u64]); 4] =
        [(5, None, &[1]), (5, None, &[]), (2, Some(5), &[1, 2]), (1, None, &[5, 1])];
    for (current, pending, laid_out) in rising {
        numbers(&mut fleet, current, pending, laid_out);
        let plan = fleet.plan();
        assert_eq!(
            generation(&plan, "attic"),
            Some(Generation::new(6)),
            "{current} {pending:?} {laid_out:?}"
        );
        assert_eq!(check(&plan), Vec::<String>::new());
    }
    let most = u64::MAX;
    let spent: [(u64, Option<u64>, &[u64]); 3] =
        [(most, None, &[1]), (1, Some(most), &[1]), (1, None, &[1, most])];
    for (current, pending, laid_out) in spent {
        numbers(&mut fleet, current, pending, laid_out);
        let (plan, problems) = fleet.make();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].host, Some(name("attic")));
        assert_eq!(
            problems[0].message,
            "attic says that it has the last generation that there is a number for: take it off (`bramble remove attic`), and apply again"
        );
        assert!(plan.host(&name("attic")).is_none() && plan.host(&name("shed")).is_some());
        assert_eq!(check(&plan), Vec::<String>::new());
    }
}

#[test]
fn what_a_host_goes_on_with_tells_nothing_of_the_weights_and_doors_of_others() {
    let mut fleet = Fleet::with("[local, desk]", "[local, attic, desk]");
    fleet.apply();
    // nothing can be placed anew on it
    fleet.facts("attic").memory.available = Bytes::mib(20);
    fleet.facts("desk").installed.as_mut().unwrap().drift.push("a blob is gone".to_owned());
    let recipe = engine(&mut fleet, "desk").weights.recipe;
    let honest = engine(&mut fleet, "attic").clone();
    let others = |fleet: &Fleet| {
        let (plan, problems) = fleet.make();
        assert!(problems.iter().all(|problem| problem.host == Some(name("attic"))), "{problems:?}");
        assert_eq!(check(&plan), Vec::<String>::new());
        plan
    };

    let told = engine(&mut fleet, "attic");
    (told.weights.recipe, told.weights.bytes) = (recipe, Bytes(u64::MAX));
    let plan = others(&fleet);
    assert!(plan.artifacts.iter().all(|artifact| artifact.bytes < Bytes::gib(1)), "{:?}", plan.artifacts);
    assert_eq!(generation(&plan, "desk"), Some(Generation::new(2)));

    let told = engine(&mut fleet, "attic");
    told.clone_from(&honest);
    (told.pace.prompt, told.pace.answer) = (TokensPerSec(-1.0), TokensPerSec(1.7e308));
    told.pace.load_seconds = -1.7e308;
    let plan = others(&fleet);
    let order = &plan.host(&name("shed")).unwrap().definition.door.routes[0].order;
    let pace = order.iter().find(|hop| hop.upstream == "attic").unwrap().pace.unwrap();
    assert!(pace.prompt.0 > 0.0 && pace.answer.0 < 1e10 && pace.load_seconds >= 0.0, "{pace:?}");

    // nobody knows which weights these are
    let told = engine(&mut fleet, "attic");
    (told.weights.recipe, told.weights.digest) = (Digest::of(b"none"), None);
    let plan = others(&fleet);
    assert_eq!(plan.host(&name("attic")).unwrap().definition.engines, []);
}

#[test]
fn a_clock_that_is_off_by_more_than_can_be_counted_is_told_of() {
    let mut fleet = Fleet::new();
    fleet.facts("attic").health.clock_ahead = Some(i64::MIN);
    assert_eq!(
        fleet.plan().host(&name("attic")).unwrap().notes,
        ["its clock is 9223372036854775808 s behind this machine's: let it set its time (timedatectl)"]
    );
}
