use super::sealed::{open, seal};
use super::*;
use crate::generation::{DoorTls, Limits};

const PASSPHRASE: &str = "correct horse battery staple";

#[test]
fn what_was_sealed_opens_with_its_passphrase_alone() {
    // nothing, a little, exactly one part, a byte more, and three
    for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let plain: Vec<u8> = (0..length).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        let sealed = seal(&plain, PASSPHRASE, 2).unwrap();
        assert_eq!(*open(&sealed, PASSPHRASE).unwrap(), plain, "{length}");
        assert!(length < 16 || !sealed.windows(16).any(|window| window == &plain[..16]));
        for wrong in ["", "correct horse battery stapl", "Correct horse battery staple"] {
            assert!(matches!(open(&sealed, wrong), Err(Error::Passphrase)), "{wrong}");
        }
    }
}

#[test]
fn two_of_the_same_have_nothing_in_common() {
    let (one, other) = (seal(b"same", PASSPHRASE, 2).unwrap(), seal(b"same", PASSPHRASE, 2).unwrap());
    let head = "age-encryption.org/v1\n-> scrypt ".len();
    assert_eq!(one[..head], other[..head]);
    assert!(one[head..].iter().zip(&other[head..]).filter(|(a, b)| a == b).count() < one.len() / 2);
}

#[test]
fn a_byte_that_was_changed_or_is_missing_is_seen() {
    let plain = b"the fleet's keys".repeat(5000);
    let sealed = seal(&plain, PASSPHRASE, 1).unwrap();
    let payload = sealed.len() - plain.len();
    let heads = 0..payload;
    // where parts begin and end, too
    let bodies = [payload + 65_535, payload + 65_536, payload + 65_552, sealed.len() - 1];
    for at in heads.chain(bodies.into_iter().filter(|at| *at < sealed.len())) {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(open(&changed, PASSPHRASE).is_err(), "byte {at} was changed");
    }
    for length in (0..sealed.len()).step_by(97).chain([sealed.len() - 1, sealed.len() - 14_480]) {
        assert!(open(&sealed[..length], PASSPHRASE).is_err(), "cut off at {length}");
    }
    assert!(open(&[sealed.as_slice(), b"x"].concat(), PASSPHRASE).is_err());
}

#[test]
fn work_without_end_is_refused_before_it_begins() {
    let sealed = seal(b"x", PASSPHRASE, 1).unwrap();
    let text = String::from_utf8_lossy(&sealed[..80]).into_owned();
    let line = text.lines().nth(1).unwrap();
    for work in ["0", "23", "63", "255", "999", "-1", "1e3", ""] {
        let asked = format!("{} {work}", line.rsplit_once(' ').unwrap().0);
        let changed = [&text.as_bytes()[..22], asked.as_bytes(), &sealed[22 + line.len()..]].concat();
        let begun = std::time::Instant::now();
        assert!(matches!(open(&changed, PASSPHRASE), Err(Error::Sealed)), "{work}");
        assert!(begun.elapsed().as_secs() < 1);
    }
}

/// Sealed by the `age` crate 0.12.1, with 2^4 as the work.
const BY_AGE: &str = "\
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBZRTZIeTFUMFcxbGcrYnVJNkc1UEx3IDQKWXZaa1YzMHA0UmVaUEpEaENBUTU3cTRxaE\
VqYnJNOHIwMlErRDRwL1dXVQotLS0gaTc0NEIyRlJJY3g0WFlZZThWQmZSVnJDc012dnkwUDZrQTNQeEZ3RlE1awrYJu6Z9BP6HMatXnUaadNM\
GrgcYJ7nwF20ke14EZ4WNHAgJJRBybvaXyzW6Fo=";

#[test]
fn what_age_has_sealed_opens_here() {
    use base64::Engine as _;
    let sealed = base64::engine::general_purpose::STANDARD.decode(BY_AGE).unwrap();
    assert_eq!(open(&sealed, PASSPHRASE).unwrap().as_slice(), b"sealed by age");
}

#[test]
fn what_another_machine_has_exported_is_taken_over_and_nothing_is_lost() {
    let fleet: FleetName = "home".parse().unwrap();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &tempfile::TempDir| Safe::open(dir.path(), &fleet).unwrap();
    let hosts: Vec<HostName> = vec!["kitchen".parse().unwrap()];
    assert!(matches!(open(&one).export_with(PASSPHRASE, 1), Err(Error::NoKeys { .. })));
    open(&one).complete(&hosts, DoorTls::Fleet, 1_795_000_000).unwrap();
    assert!(matches!(open(&one).export_with("short", 1), Err(Error::ShortPassphrase { .. })));
    let sealed = open(&one).export_with(PASSPHRASE, 1).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE"));
    assert!(matches!(open(&other).import(&sealed, "wrong", false), Err(Error::Passphrase)));
    assert!(open(&other).keys().is_none());
    // twice changes nothing
    for _ in 0..2 {
        open(&other).import(&sealed, PASSPHRASE, false).unwrap();
        for name in ["keys.json", "authority.json"] {
            let read =
                |dir: &tempfile::TempDir| std::fs::read(dir.path().join("fleets/home").join(name)).unwrap();
            assert_eq!(read(&one), read(&other));
        }
    }
    // what was made here since is not written over by mistake
    open(&other).change_keys(|keys| keys.add("phone", vec![], Limits::default())).unwrap();
    assert!(matches!(open(&other).import(&sealed, PASSPHRASE, false), Err(Error::OtherKeys { .. })));
    assert_eq!(open(&other).keys().unwrap().clients().len(), 2);
    open(&other).import(&sealed, PASSPHRASE, true).unwrap();
    assert_eq!(open(&other).keys().unwrap().clients().len(), 1);
    let mut work = Safe::open(other.path(), &"work".parse().unwrap()).unwrap();
    assert!(matches!(work.import(&sealed, PASSPHRASE, true), Err(Error::OtherFleet { .. })));
    let nothing = seal(b"{}", PASSPHRASE, 1).unwrap();
    assert!(matches!(open(&other).import(&nothing, PASSPHRASE, true), Err(Error::Unsealed(_))));
}
