use super::testing::{Fleet, MANIFEST, name};
use super::{HostPlan, Plan, written_by_others};
use crate::facts::Supervision;
use crate::generation::{Definition, DoorTls, UpstreamKind, WakeSpec};
use crate::ids::{Digest, Generation};

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
