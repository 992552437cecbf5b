use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::*;

const NOW: u64 = 1_795_000_000;

fn authority(fleet: &str) -> Authority {
    Authority::new(&fleet.parse().unwrap(), NOW).unwrap()
}

fn trust(authority: &Authority, revoked: &[&Certified]) -> Trust {
    let revoked: BTreeSet<_> = revoked.iter().map(|certified| certified.fingerprint).collect();
    Trust::new(authority.fleet(), authority.certificate(), &revoked).unwrap()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Who the certificate proves to be, or why it proves nothing, in a word.
fn proven(trust: &Trust, certified: &Certified) -> Result<String, &'static str> {
    let member = trust.member(&der(&certified.certificate), Usage::Client);
    assert_eq!(member, trust.member(&der(&certified.certificate), Usage::Server));
    member.map(|member| member.host.to_string()).map_err(|refusal| match refusal {
        Refusal::Foreign(_) => "foreign",
        Refusal::Revoked => "revoked",
        Refusal::Nameless => "nameless",
    })
}

#[test]
fn a_host_is_who_the_fleets_authority_says_and_nobody_else() {
    let (home, other, again) = (authority("home"), authority("work"), authority("home"));
    let trust = trust(&home, &[]);
    let kitchen = home.certify(&host("kitchen"), NOW).unwrap();
    assert_eq!(proven(&trust, &kitchen), Ok("kitchen".to_owned()));
    // of another fleet, and of another authority for a fleet of the same name
    for stranger in [other, again] {
        assert_eq!(proven(&trust, &stranger.certify(&host("kitchen"), NOW).unwrap()), Err("foreign"));
    }
    // signed by nobody but itself
    let own = rcgen::generate_simple_self_signed(["kitchen.home.internal".to_owned()]).unwrap();
    let member = trust.member(own.cert.der(), Usage::Client);
    assert!(matches!(member, Err(Refusal::Foreign(_))), "{member:?}");
    // the authority itself is no host
    let member = trust.member(&der(home.certificate()), Usage::Server);
    assert!(matches!(member, Err(Refusal::Foreign(_))), "{member:?}");
}

#[test]
fn a_byte_that_was_changed_is_seen() {
    let home = authority("home");
    let trust = trust(&home, &[]);
    let good = der(&home.certify(&host("kitchen"), NOW).unwrap().certificate);
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        let member = trust.member(&CertificateDer::from(bytes), Usage::Client);
        assert!(member.is_err(), "byte {at} of {}: {member:?}", good.len());
    }
}

#[test]
fn no_host_stops_for_age_or_clock() {
    let home = authority("home");
    let trust = trust(&home, &[]);
    // of before the authority, long ended, to begin long after now, and of no time at all
    for time in [(0, 1), (NOW - 10, NOW - 5), (4_000_000_000, 4_000_000_001), (1 << 31, 1 << 33), (NOW, NOW)]
    {
        let name = "kitchen.home.internal".to_owned();
        let certified = home.sign(&host("kitchen"), vec![name], time).unwrap();
        assert_eq!(proven(&trust, &certified), Ok("kitchen".to_owned()), "{time:?}");
    }
}

#[test]
fn what_was_revoked_is_refused_and_what_was_made_after_it_is_not() {
    let home = authority("home");
    let (stolen, new) =
        (home.certify(&host("shed"), NOW).unwrap(), home.certify(&host("shed"), NOW).unwrap());
    let before = trust(&home, &[]);
    let member = before.member(&der(&stolen.certificate), Usage::Client).unwrap();
    let after = trust(&home, &[&stolen]);
    assert_eq!(proven(&after, &stolen), Err("revoked"));
    assert_eq!(proven(&after, &new), Ok("shed".to_owned()));
    // who came in before is not forgotten
    assert!(before.holds(&member) && !after.holds(&member));
    assert!(!trust(&authority("home"), &[]).holds(&member));
}

#[test]
fn an_authority_signs_for_its_hosts_alone() {
    let home = authority("home");
    let trust = trust(&home, &[]);
    let signed = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        home.sign(&host("kitchen"), names, (NOW, NOW + 9)).unwrap()
    };
    // good for a browser, but no host of the fleet
    assert_eq!(proven(&trust, &signed(&["kitchen.local"])), Err("nameless"));
    assert_eq!(proven(&trust, &signed(&["a.b.home.internal"])), Err("nameless"));
    assert_eq!(proven(&trust, &signed(&["home.internal"])), Err("nameless"));
    // and these would be good for the world, if the authority were allowed them
    for name in ["bank.example", "kitchen.work.internal", "192.168.1.20", "fd00::1"] {
        assert_eq!(proven(&trust, &signed(&["kitchen.home.internal", name])), Err("foreign"), "{name}");
    }
}

#[test]
fn certificates_are_what_the_contract_says() {
    let home = authority("home");
    let made = home.certify(&host("kitchen"), NOW).unwrap();
    let (_, certificate) = pem_of(&made.certificate);
    let names: Vec<&str> =
        webpki::EndEntityCert::try_from(&certificate).unwrap().valid_dns_names().collect::<Vec<_>>();
    assert_eq!(names, ["kitchen.home.internal", "kitchen.local"]);
    let years = (made.ends - NOW) as f64 / (365.25 * 86_400.0);
    assert!((9.9..10.1).contains(&years), "{years}");
    // it begins a day before it is made: as of then it is good, and a second before it is not
    let begins = |time| {
        let certificate = webpki::EndEntityCert::try_from(&certificate).unwrap();
        let root = der(home.certificate());
        let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
        let time = rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(time));
        let (known, usage) = (&[webpki::ring::ECDSA_P256_SHA256][..], webpki::KeyUsage::server_auth());
        certificate.verify_for_usage(known, &[anchor], &[], time, usage, None, None).is_ok()
    };
    assert!(begins(NOW - 86_400) && !begins(NOW - 86_401) && begins(made.ends) && !begins(made.ends + 1));
    assert!(!made.is_ageing(NOW + 8 * 365 * 86_400) && made.is_ageing(made.ends - 364 * 86_400));
    // a key of its own each time, and none of them in what is logged
    let again = home.certify(&host("kitchen"), NOW).unwrap();
    assert_ne!((&made.key, made.fingerprint), (&again.key, again.fingerprint));
    let shown = format!("{home:?}{made:?}");
    assert!(!shown.contains("PRIVATE") && shown.len() < 120, "{shown}");
}

fn pem_of(pem: &str) -> (&str, CertificateDer<'static>) {
    (pem, der(pem))
}

#[test]
fn an_authority_that_was_kept_signs_on() {
    let home = authority("home");
    let kept: Authority = serde_json::from_str(&serde_json::to_string(&home).unwrap()).unwrap();
    let made = kept.certify(&host("kitchen"), NOW).unwrap();
    assert_eq!(proven(&trust(&home, &[]), &made), Ok("kitchen".to_owned()));
}

#[test]
fn nonsense_in_the_place_of_certificates_is_refused_with_words() {
    let (fleet, none) = ("home".parse().unwrap(), BTreeSet::new());
    for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = Trust::new(&fleet, text, &none).unwrap_err();
        let words = error.to_string();
        assert!(words.contains("apply"), "{words}");
    }
    let home = authority("home");
    let trust = std::sync::Arc::new(trust(&home, &[]));
    let (one, other) = (home.certify(&host("one"), NOW).unwrap(), home.certify(&host("other"), NOW).unwrap());
    // the key of another certificate
    let mixed = identity(&home, &Certified { key: other.key, ..one });
    let error = door(trust, &mixed).unwrap_err();
    assert!(matches!(error, Error::Unusable(_)), "{error:?}");
}

/// A clock that stands still, in seconds since 1970.
#[derive(Debug)]
struct Clock(u64);

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
    }
}

fn identity(authority: &Authority, certified: &Certified) -> crate::generation::Identity {
    crate::generation::Identity {
        authority: authority.certificate().to_owned(),
        certificate: certified.certificate.clone(),
        key: certified.key.clone(),
        revoked: BTreeSet::new(),
    }
}

/// Has the host `desk` ask the door of `kitchen`, meaning `meant`, with these clocks; returns what either end says.
fn meet(home: &Authority, meant: &str, clocks: (u64, u64)) -> Result<(), rustls::Error> {
    use rustls::{ClientConnection, ServerConnection};
    use std::sync::Arc;
    let (kitchen, desk) =
        (home.certify(&host("kitchen"), NOW).unwrap(), home.certify(&host("desk"), NOW).unwrap());
    let trust = || Arc::new(trust(home, &[]));
    let mut door = door(trust(), &identity(home, &kitchen)).unwrap();
    let mut visit = visit(trust(), &host(meant), Some(&identity(home, &desk))).unwrap();
    (door.time_provider, visit.time_provider) = (Arc::new(Clock(clocks.0)), Arc::new(Clock(clocks.1)));
    let name = trust().full_name(&host(meant)).unwrap();
    let mut client = ClientConnection::new(Arc::new(visit), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(door)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert_eq!(server.peer_certificates().unwrap(), [der(&desk.certificate)]);
    Ok(())
}

#[test]
fn hosts_find_each_other_in_1970_and_in_2090() {
    let home = authority("home");
    for clocks in [(0, 0), (3_786_912_000, 3_786_912_000), (0, 3_786_912_000), (NOW, 0)] {
        assert_eq!(meet(&home, "kitchen", clocks), Ok(()), "{clocks:?}");
    }
}

#[test]
fn a_host_that_answers_in_the_place_of_another_is_refused() {
    let error = meet(&authority("home"), "shed", (NOW, NOW)).unwrap_err();
    assert_eq!(error, rustls::CertificateError::NotValidForName.into());
}
