use super::testing::{Fleet, MANIFEST, name};
use super::{Plan, with_other_units};
use crate::generation::{DoorTls, UpstreamKind};
use crate::ids::Digest;

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
fn units_that_somebody_has_written_into_a_plan_are_found() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").memory_cgroup = Some(true);
    let plan = fleet.plan();
    let kept: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(kept.hosts[0].host, name("attic"));
    assert!(!kept.hosts[0].units.is_empty());
    assert_eq!(with_other_units(&kept, &fleet.inventory), Vec::<&crate::ids::HostName>::new());
    let changed = |change: fn(&mut Plan)| {
        let mut changed = kept.clone();
        change(&mut changed);
        with_other_units(&changed, &fleet.inventory).into_iter().cloned().collect::<Vec<_>>()
    };
    let with_a_command =
        |plan: &mut Plan| plan.hosts[0].units[0].text.push_str("ExecStartPre=+/bin/sh -c id\n");
    assert_eq!(changed(with_a_command), [name("attic")]);
    assert_eq!(changed(|plan| plan.hosts[0].units[0].name = "cron.service".to_owned()), [name("attic")]);
    assert_eq!(changed(|plan| drop(plan.hosts[0].units.pop())), [name("attic")]);
    assert_eq!(changed(|plan| plan.hosts[0].host = "nobody".parse().unwrap()), [name("nobody")]);
    // a boot without the memory group is another host than the one that was planned for
    fleet.facts("shed").memory_cgroup = Some(false);
    assert_eq!(with_other_units(&kept, &fleet.inventory), [&name("shed")]);
}
