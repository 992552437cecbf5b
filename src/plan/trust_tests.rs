use super::testing::{Fleet, MANIFEST, name};
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
