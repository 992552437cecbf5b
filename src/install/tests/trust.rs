use std::collections::BTreeSet;

use super::super::trust::{admitting_as, brought_up_to_date};
use super::*;
use crate::authority::Authority;
use crate::generation::{Identity, KeyEntry, Limits, Scope, UpstreamKind, UpstreamSpec};

fn entry(id: &str, scope: Scope) -> KeyEntry {
    KeyEntry {
        id: id.to_owned(),
        sha256: Digest::of(id.as_bytes()),
        scopes: vec![scope],
        limits: Limits::default(),
    }
}

fn clients(ids: &[&str]) -> Vec<KeyEntry> {
    ids.iter().map(|id| entry(id, Scope::Infer)).collect()
}

fn digests(names: &[&str]) -> BTreeSet<Digest> {
    names.iter().map(|name| Digest::of(name.as_bytes())).collect()
}

fn identity(certificate: &str, authority: &str, revoked: &[&str]) -> Identity {
    let (authority, certificate) = (authority.to_owned(), certificate.to_owned());
    Identity { authority, certificate, key: String::new().into(), revoked: digests(revoked) }
}

/// A generation of a host whose door speaks TLS.
fn stand(host: &Host, keys: &[&str], identity: Option<Identity>) -> Stand {
    let mut definition = host.definition(&[]);
    definition.door.tls = DoorTls::Fleet;
    let secrets = Secrets { keys: clients(keys), identity, ..Secrets::default() };
    Stand { number: Generation::FIRST, definition, units: Vec::new(), secrets: Some(secrets) }
}

/// Names a server that is not ours, and its key.
fn foreign(stand: &mut Stand, name: &str, url: &str, key: &str) {
    let kind = UpstreamKind::Foreign { url: url.to_owned(), key: Some(name.to_owned()) };
    stand.definition.door.upstreams.push(UpstreamSpec { name: name.to_owned(), kind, wake: None });
    let secrets = stand.secrets.as_mut().unwrap();
    secrets.foreign_keys.insert(name.to_owned(), key.to_owned().into());
}

#[test]
fn who_goes_back_is_who_it_is_today_and_trusts_whom_it_trusts_today() {
    let host = Host::new();
    let then = stand(&host, &["lost", "phone"], Some(identity("first", "ca", &[])));
    let today = stand(&host, &["phone", "tablet"], Some(identity("second", "ca", &["card"])));
    assert!(brought_up_to_date(&then, &today) == today.secrets);
    // also where what it had cannot be read, or there is another authority since
    assert!(brought_up_to_date(&Stand { secrets: None, ..then.clone() }, &today) == today.secrets);
    let founded = stand(&host, &["phone"], Some(identity("third", "another", &[])));
    assert!(brought_up_to_date(&then, &founded) == founded.secrets);
    // what is not known takes nothing away, and what another fleet has is none of its business
    assert!(brought_up_to_date(&then, &Stand { secrets: None, ..today.clone() }).is_none());
    let mut strange = today.clone();
    strange.definition.fleet = "office".parse().unwrap();
    assert!(brought_up_to_date(&then, &strange).is_none() && admitting_as(&then, &strange).is_none());
}

#[test]
fn who_goes_back_to_another_name_proves_that_name_and_trusts_no_more_than_today() {
    let host = Host::new();
    let then = stand(&host, &["lost"], Some(identity("of the kitchen", "ca", &["card"])));
    let mut today = stand(&host, &["phone"], Some(identity("of the stove", "ca", &["shed"])));
    today.definition.host = "stove".parse().unwrap();
    let back = brought_up_to_date(&then, &today).unwrap();
    assert!(back.identity == Some(identity("of the kitchen", "ca", &["card", "shed"])));
    assert_eq!(back.keys, clients(&["phone"]));
}

#[test]
fn where_doors_have_begun_to_speak_tls_hosts_know_each_other_as_they_did() {
    let host = Host::new();
    let trusted = stand(&host, &["phone"], Some(identity("first", "ca", &["card"])));
    let mut plain = stand(&host, &["lost"], None);
    plain.definition.door.tls = DoorTls::Off;
    let secrets = plain.secrets.as_mut().unwrap();
    secrets.keys.push(entry("hosts", Scope::Peer));
    secrets.peer_key = "the key of hosts".to_owned().into();

    let back = brought_up_to_date(&plain, &trusted).unwrap();
    assert_eq!(back.keys, [entry("hosts", Scope::Peer), entry("phone", Scope::Infer)]);
    assert!(back.identity.is_none() && back.peer_key.as_str() == "the key of hosts");
    let back = brought_up_to_date(&trusted, &plain).unwrap();
    assert_eq!(back.keys, clients(&["lost"]));
    assert!(back.identity == trusted.secrets.unwrap().identity && back.peer_key.is_empty());
}

#[test]
fn the_key_of_a_foreign_server_is_shown_to_no_other() {
    let host = Host::new();
    let mut then = stand(&host, &[], None);
    foreign(&mut then, "cloud", "https://cloud.example/v1", "old");
    foreign(&mut then, "office", "http://old.example/v1", "theirs");
    foreign(&mut then, "gone", "http://gone.example/v1", "kept");
    let mut today = stand(&host, &[], None);
    foreign(&mut today, "cloud", "https://cloud.example/v1", "new");
    foreign(&mut today, "office", "https://new.example/v1", "secret");
    foreign(&mut today, "later", "http://later.example/v1", "unasked");
    let back = brought_up_to_date(&then, &today).unwrap().foreign_keys;
    let told: Vec<_> = back.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    assert_eq!(told, [("cloud", "new"), ("gone", "kept"), ("office", "theirs")]);
}

#[tokio::test]
async fn who_is_let_go_by_a_generation_that_does_not_work_is_let_go_all_the_same() {
    let host = Host::new();
    let lay_out = async |number: u64, context: u32, keys: &[&str], revoked: &[&str]| {
        let mut request = host.request(number, host.definition(&[("chat", context)]));
        request.secrets = Secrets {
            keys: clients(keys),
            identity: Some(identity("its own", "ca", revoked)),
            ..Secrets::default()
        };
        install(&host.layout, LEASE, &host, request).await.unwrap();
    };
    lay_out(1, 4096, &["lost", "phone"], &[]).await;
    assert!(host.activate(1).await.activated);
    host.confirm(1).await;
    lay_out(2, NO_ANSWER, &["phone", "tablet"], &["card"]).await;
    assert!(!host.activate(2).await.activated);
    host.assert_whole(Some(1));
    let secrets = Stand::current(&host.layout).unwrap().unwrap().secrets.unwrap();
    assert_eq!(secrets.keys, clients(&["phone", "tablet"]));
    assert!(secrets.identity == Some(identity("its own", "ca", &["card"])));
    // what the door was given as it started is another matter
    let changes = host.done.lock().unwrap().last().cloned().unwrap();
    assert!(changes.restart.iter().any(|service| service == unit::ROUTE), "{changes:?}");

    // and where nobody confirmed, too
    lay_out(3, 512, &["tablet"], &["card", "shed"]).await;
    assert!(host.activate(3).await.activated);
    host.cut_power().await;
    host.run_guard("", "");
    host.assert_whole(Some(1));
    let secrets = Stand::current(&host.layout).unwrap().unwrap().secrets.unwrap();
    assert_eq!(secrets.keys, clients(&["tablet"]));
    assert_eq!(secrets.identity.unwrap().revoked, digests(&["card", "shed"]));
}

#[test]
fn who_goes_back_to_a_certificate_that_was_revoked_since_is_itself_all_the_same() {
    let host = Host::new();
    let authority = Authority::new(&"home".parse().unwrap(), 1_795_000_000).unwrap();
    let made = authority.certify(&"kitchen".parse().unwrap(), 1_795_000_000).unwrap();
    let own = |certificate: &str, revoked: &[Digest]| {
        let revoked = revoked.iter().copied().collect();
        Some(Identity { revoked, ..identity(certificate, authority.certificate(), &[]) })
    };
    let previous = stand(&host, &[], own(&made.certificate, &[]));
    let card = Digest::of(b"card");
    let readmitted = stand(&host, &[], own("another", &[card, made.fingerprint]));
    assert!(admitting_as(&previous, &readmitted).unwrap().identity == own(&made.certificate, &[card]));
}
