use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::generation::{DoorTls, Limits, Scope};
use crate::ids::{Digest, HostName};

const NOW: u64 = 1_795_000_000;
const YEAR: u64 = 365 * 86_400;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn open(dir: &tempfile::TempDir) -> Safe {
    Safe::open(dir.path(), &"home".parse().unwrap()).unwrap()
}

/// A fleet with two hosts, as an apply leaves it, and the client key that it showed.
fn applied(tls: DoorTls) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let shown = open(&dir).complete(&[host("kitchen"), host("shed")], tls, NOW).unwrap();
    (dir, shown.unwrap().0.to_string())
}

#[test]
fn a_client_key_is_shown_once_and_kept_as_a_hash() {
    let (dir, shown) = applied(DoorTls::Fleet);
    for path in ["fleets/home/keys.json", "fleets/home/authority.json"] {
        let path = dir.path().join(path);
        assert!(!fs::read_to_string(&path).unwrap().contains(&shown));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let stored = fs::read_to_string(dir.path().join("fleets/home/keys.json")).unwrap();
    assert!(stored.contains(&Digest::of(shown.as_bytes()).to_string()));
    // nothing half-written stays
    assert_eq!(fs::read_dir(dir.path().join("fleets/home")).unwrap().count(), 2);
}

/// Whatever is printed for whoever looks for a fault has no secret in it.
#[test]
fn nothing_that_is_held_shows_a_secret() {
    for tls in [DoorTls::Off, DoorTls::Fleet] {
        let (dir, shown) = applied(tls);
        let safe = open(&dir);
        let foreign = BTreeMap::from([("gaming".to_owned(), "their-key".to_owned().into())]);
        let secrets = safe.secrets(&host("kitchen"), tls, foreign).unwrap();
        let new = NewKey(shown.into());
        let printed = format!("{secrets:?} {:?} {new:?} {safe:?}", secrets.identity);
        let identity = secrets.identity.as_ref().map(|identity| identity.key.lines().nth(1).unwrap());
        let kept = safe.keys().unwrap();
        let held = [Some(new.0.as_str()), Some(kept.operator_key()), Some("their-key"), identity];
        for secret in held.into_iter().flatten().chain([kept.peer_key().as_str()]) {
            assert!(secret.len() > 8 && !printed.contains(secret), "{printed}");
        }
    }
}

#[test]
fn applying_again_makes_nothing() {
    let (dir, _) = applied(DoorTls::Fleet);
    let path = dir.path().join("fleets/home/authority.json");
    let (before, made) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let mut safe = open(&dir);
    let expected = safe.expected(&host("kitchen"), DoorTls::Fleet, NOW + 1).unwrap();
    assert!(safe.complete(&[host("kitchen")], DoorTls::Fleet, NOW + 1).unwrap().is_none());
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
    let given = safe.secrets(&host("kitchen"), DoorTls::Fleet, BTreeMap::new()).unwrap();
    assert_eq!(expected, Some(given.digest()));
    // keys of others change nothing that a plan sees
    let foreign = BTreeMap::from([("gaming".to_owned(), "k".to_owned().into())]);
    assert_eq!(safe.secrets(&host("kitchen"), DoorTls::Fleet, foreign).unwrap().digest(), given.digest());
}

#[test]
fn hosts_get_hashes_and_what_is_theirs_alone() {
    let (dir, shown) = applied(DoorTls::Fleet);
    let safe = open(&dir);
    let secrets = safe.secrets(&host("kitchen"), DoorTls::Fleet, BTreeMap::new()).unwrap();
    let sent = serde_json::to_string(&secrets).unwrap();
    assert!(!sent.contains(&shown) && !sent.contains(safe.keys().unwrap().operator_key()));
    let stored: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("fleets/home/authority.json")).unwrap()).unwrap();
    let others = [&stored["authority"]["key"], &stored["hosts"]["shed"]["current"]["key"]];
    for key in others {
        let key = serde_json::to_string(key).unwrap();
        assert!(key.contains("PRIVATE") && !sent.contains(&key));
    }
    assert!(sent.contains(&serde_json::to_string(&stored["hosts"]["kitchen"]["current"]["key"]).unwrap()));
    // with certificates, no key that all hosts share
    assert!(!sent.contains("peer") && secrets.keys.iter().all(|key| !key.scopes.contains(&Scope::Peer)));
    let identity = secrets.identity.as_ref().unwrap();
    assert!(!format!("{secrets:?}{identity:?}{safe:?}").contains("PRIVATE"));
}

#[test]
fn hosts_without_certificates_share_a_key() {
    let (dir, _) = applied(DoorTls::Off);
    assert!(!dir.path().join("fleets/home/authority.json").exists());
    let secrets = open(&dir).secrets(&host("kitchen"), DoorTls::Off, BTreeMap::new()).unwrap();
    let peer = secrets.keys.iter().find(|key| key.id == "peer").unwrap();
    assert_eq!(
        (peer.sha256, &peer.scopes[..]),
        (Digest::of(secrets.peer_key.as_bytes()), &[Scope::Peer][..])
    );
    assert!(!format!("{secrets:?}").contains(secrets.peer_key.as_str()));
}

#[test]
fn a_plan_sees_which_hosts_want_other_secrets() {
    let (dir, _) = applied(DoorTls::Fleet);
    let expected = |safe: &Safe, name: &str, now| safe.expected(&host(name), DoorTls::Fleet, now);
    let safe = open(&dir);
    let kitchen = expected(&safe, "kitchen", NOW).unwrap().unwrap();
    assert_ne!(expected(&safe, "shed", NOW), Some(Some(kitchen)));
    // a new host, one whose certificate ends within the year, and another machine
    assert_eq!(expected(&safe, "next", NOW), Some(None));
    assert_eq!(expected(&safe, "kitchen", NOW + 8 * YEAR), Some(Some(kitchen)));
    assert_eq!(expected(&safe, "kitchen", NOW + 10 * YEAR), Some(None));
    assert_eq!(expected(&open(&tempfile::tempdir().unwrap()), "kitchen", NOW), None);
    // trust that is founded anew, also on a machine that never applied
    for mut safe in [safe, open(&tempfile::tempdir().unwrap())] {
        safe.found_anew();
        assert_eq!(expected(&safe, "kitchen", NOW), Some(None));
    }
}

#[test]
fn trust_that_is_founded_anew_takes_the_place_of_the_old() {
    let (dir, _) = applied(DoorTls::Fleet);
    let mut safe = open(&dir);
    let before = safe.secrets(&host("shed"), DoorTls::Fleet, BTreeMap::new()).unwrap().identity.unwrap();
    safe.found_anew();
    // until it is done, everything is kept
    assert!(open(&dir).certificates().is_some());
    assert!(safe.complete(&[host("shed")], DoorTls::Fleet, NOW).unwrap().is_none());
    let after = open(&dir).secrets(&host("shed"), DoorTls::Fleet, BTreeMap::new()).unwrap();
    let after = after.identity.unwrap();
    assert_ne!((&before.authority, &before.certificate), (&after.authority, &after.certificate));
}

#[test]
fn a_host_that_is_revoked_takes_all_its_keys_with_it() {
    let (dir, _) = applied(DoorTls::Fleet);
    let mut safe = open(&dir);
    let first = safe.certificates().unwrap().held(&host("shed")).unwrap().fingerprint;
    // nine and a half years later it has a second one
    let later = NOW + 19 * YEAR / 2;
    safe.complete(&[host("shed")], DoorTls::Fleet, later).unwrap();
    let second = safe.certificates().unwrap().held(&host("shed")).unwrap().fingerprint;
    assert_ne!(first, second);
    let shown = Digest::of(safe.keys().unwrap().operator_key().as_bytes());
    assert_eq!(safe.revoke(&host("shed")).unwrap(), 2);
    // what it was shown opens no other
    let keys = open(&dir).secrets(&host("kitchen"), DoorTls::Fleet, BTreeMap::new()).unwrap().keys;
    assert!(keys.iter().any(|key| key.id == "operator") && keys.iter().all(|key| key.sha256 != shown));
    // once more bars it once more
    assert_eq!(safe.revoke(&host("shed")).unwrap(), 0);
    let error = safe.revoke(&host("barn")).unwrap_err();
    assert!(error.to_string().ends_with("there are: kitchen"), "{error}");
    // the others are told, and it gets no other until it is readmitted, also by another authority
    safe.complete(&[host("shed"), host("kitchen")], DoorTls::Fleet, later).unwrap();
    let identity = |name| open(&dir).secrets(&host(name), DoorTls::Fleet, BTreeMap::new()).unwrap().identity;
    let revoked = identity("kitchen").unwrap().revoked;
    assert_eq!(revoked, [first, second].into());
    for is_anew in [false, true] {
        if is_anew {
            safe.found_anew();
        }
        assert_eq!(safe.barred(), [host("shed")].into());
        safe.complete(&[host("shed")], DoorTls::Fleet, later).unwrap();
        let kept = open(&dir);
        assert_eq!((kept.certificates().unwrap().held(&host("shed")), kept.barred()), (None, safe.barred()));
        assert!(kept.certificates().unwrap().revoked().keys().eq(&revoked));
    }
    // who has read it before does not write over that
    let mut late = open(&dir);
    safe.readmit(&host("shed")).unwrap();
    let error = late.complete(&[host("shed")], DoorTls::Fleet, later).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    safe.complete(&[host("shed")], DoorTls::Fleet, later).unwrap();
    assert!(open(&dir).barred().is_empty());
    let third = open(&dir).certificates().unwrap().held(&host("shed")).unwrap().fingerprint;
    assert!(!revoked.contains(&third));
}

#[test]
fn keys_that_cannot_be_read_are_never_written_over() {
    let (dir, _) = applied(DoorTls::Fleet);
    for (name, text) in [("keys.json", "{"), ("authority.json", "{}")] {
        let path = dir.path().join("fleets/home").join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let error = Safe::open(dir.path(), &"home".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        fs::write(&path, &good).unwrap();
        let newer = String::from_utf8(good.clone()).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(&path, newer).unwrap();
        let error = Safe::open(dir.path(), &"home".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Format { found: 2, .. }), "{error}");
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_key_is_rotated_without_a_moment_in_which_none_is_good() {
    let (dir, shown) = applied(DoorTls::Fleet);
    let mut safe = open(&dir);
    let limits = Limits { requests_per_minute: Some(6), ..Limits::default() };
    let added = safe.change_keys(|keys| keys.add("phone", vec![Scope::Status], limits)).unwrap();
    let opens = |key: &str| {
        let secrets = open(&dir).secrets(&host("kitchen"), DoorTls::Fleet, BTreeMap::new()).unwrap();
        secrets.keys.into_iter().find(|entry| entry.sha256 == Digest::of(key.as_bytes()))
    };
    let phone = opens(&added.0).unwrap();
    assert_eq!((phone.id.as_str(), &phone.scopes[..], phone.limits), ("phone", &[Scope::Status][..], limits));
    // both are good, with the same rights, until the old one is ended
    let rotated = safe.change_keys(|keys| keys.rotate("phone")).unwrap();
    let new = opens(&rotated.0).unwrap();
    assert_eq!((&new.scopes, new.limits), (&phone.scopes, limits));
    assert_eq!(opens(&added.0), Some(phone));
    let error = safe.change_keys(|keys| keys.rotate("phone")).unwrap_err();
    assert!(error.to_string().contains("remove phone --old"), "{error}");
    safe.change_keys(|keys| keys.remove("phone", true)).unwrap();
    assert!(opens(&added.0).is_none() && opens(&rotated.0).is_some());
    let error = safe.change_keys(|keys| keys.remove("phone", true)).unwrap_err();
    assert!(matches!(error, Error::KeyNotRotating { .. }), "{error}");
    safe.change_keys(|keys| keys.remove("phone", false)).unwrap();
    assert!(opens(&rotated.0).is_none() && opens(&shown).is_some());
}

#[test]
fn every_change_of_keys_is_one_that_a_plan_sees() {
    let (dir, _) = applied(DoorTls::Fleet);
    let mut safe = open(&dir);
    let mut seen = vec![safe.expected(&host("kitchen"), DoorTls::Fleet, NOW)];
    let mut then = |safe: &Safe| seen.push(safe.expected(&host("kitchen"), DoorTls::Fleet, NOW));
    safe.change_keys(|keys| keys.add("phone", vec![Scope::Infer], Limits::default())).unwrap();
    then(&safe);
    safe.change_keys(|keys| keys.rotate("phone")).unwrap();
    then(&safe);
    safe.change_keys(|keys| keys.remove("phone", true)).unwrap();
    then(&safe);
    safe.revoke(&host("shed")).unwrap();
    then(&safe);
    for (index, one) in seen.iter().enumerate() {
        assert!(matches!(one, Some(Some(_))) && !seen[..index].contains(one), "{seen:?}");
    }
}

#[test]
fn names_that_mean_something_else_are_no_names_of_keys() {
    let (dir, _) = applied(DoorTls::Off);
    let mut safe = open(&dir);
    for name in ["", "operator", "peer", "host:kitchen", "A", "../x", "a b"] {
        let error =
            safe.change_keys(|keys| keys.add(name, vec![Scope::Infer], Limits::default())).unwrap_err();
        assert!(matches!(error, Error::KeyName { .. }), "{name}: {error}");
    }
    let error = safe.change_keys(|keys| keys.add("client-1", vec![], Limits::default())).unwrap_err();
    assert!(matches!(error, Error::KeyTaken { .. }), "{error}");
    let error = safe.change_keys(|keys| keys.rotate("clint-1")).unwrap_err();
    assert_eq!(error.to_string(), "there is no key \"clint-1\"; there are: client-1");
    let error = safe.revoke(&host("kitchen")).unwrap_err();
    assert!(matches!(error, Error::NoCertificate { .. }), "{error}");
    let error = safe.readmit(&host("kitchen")).unwrap_err();
    assert!(matches!(error, Error::NotBarred { .. }), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = open(&dir).change_keys(|keys| keys.rotate("client-1")).unwrap_err();
    assert!(matches!(error, Error::NoKeys { .. }), "{error}");
}

#[test]
fn keys_that_were_kept_before_there_were_certificates_are_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleets/home/keys.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let hash = Digest::of(b"theirs");
    let kept = serde_json::json!({
        "format": 1, "peer_key": "bramble-peer", "operator_key": "bramble-ours",
        "clients": [{ "id": "client-1", "sha256": hash, "scopes": ["infer"] }],
    });
    fs::write(&path, kept.to_string()).unwrap();
    let mut safe = open(&dir);
    assert!(safe.complete(&[host("kitchen")], DoorTls::Fleet, NOW).unwrap().is_none());
    let secrets = safe.secrets(&host("kitchen"), DoorTls::Fleet, BTreeMap::new()).unwrap();
    let ids: Vec<&str> = secrets.keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!((ids, secrets.keys[1].sha256), (vec!["operator", "client-1"], hash));
    // and with `tls: off` hosts have just what they had
    let plain = safe.secrets(&host("kitchen"), DoorTls::Off, BTreeMap::new()).unwrap();
    let sent = serde_json::to_value(&plain).unwrap();
    assert_eq!(sent["peer_key"], "bramble-peer");
    assert_eq!(sent["keys"][2], kept["clients"][0]);
    assert!(sent.get("identity").is_none());
}

#[test]
fn who_holds_what_was_trusted_before_somebody_was_revoked_is_told() {
    let (dir, _) = applied(DoorTls::Fleet);
    let held = open(&dir);
    // an apply and another client change nothing of whom this machine asks
    open(&dir).complete(&[host("kitchen"), host("attic")], DoorTls::Fleet, NOW).unwrap();
    open(&dir).change_keys(|keys| keys.add("phone", vec![Scope::Infer], Limits::default())).unwrap();
    assert!(!held.is_outdated().unwrap());
    open(&dir).revoke(&host("shed")).unwrap();
    assert!(held.is_outdated().unwrap());
    let held = open(&dir);
    assert!(!held.is_outdated().unwrap());
    open(&dir).readmit(&host("shed")).unwrap();
    assert!(held.is_outdated().unwrap());

    let held = open(&dir);
    let mut founding = open(&dir);
    founding.found_anew();
    founding.complete(&[host("kitchen")], DoorTls::Fleet, NOW).unwrap();
    assert!(held.is_outdated().unwrap());
    let held = open(&dir);
    fs::remove_dir_all(dir.path().join("fleets/home")).unwrap();
    assert!(held.is_outdated().unwrap());
}
