//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Read { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
        Error::Parse {
            path: PathBuf::from("/srv/file"),
            source: serde_json::from_str::<u8>("x").unwrap_err(),
        },
        Error::Format { path: PathBuf::from("/srv/file"), found: 7, known: 7 },
        Error::Sign { path: PathBuf::from("/srv/file"), source: crate::signature::Error::Kept },
        Error::Write { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
        Error::NoKeys { fleet: "home".parse().unwrap() },
        Error::KeyName { name: "name".to_owned() },
        Error::KeyTaken { name: "name".to_owned() },
        Error::KeyUnknown { name: "name".to_owned(), known: vec!["kitchen".to_owned(), "shed".to_owned()] },
        Error::KeyRotating { name: "name".to_owned() },
        Error::KeyNotRotating { name: "name".to_owned() },
        Error::NoCertificate {
            host: "kitchen".parse().unwrap(),
            known: vec!["kitchen".to_owned(), "shed".to_owned()],
        },
        Error::Changed { fleet: "home".parse().unwrap() },
        Error::NotBarred { host: "kitchen".parse().unwrap() },
        Error::ShortPassphrase { least: 12 },
        Error::Passphrase,
        Error::Sealed,
        Error::Unsealed(serde_json::from_str::<u8>("x").unwrap_err()),
        Error::OtherFleet { found: "school".parse().unwrap(), fleet: "home".parse().unwrap() },
        Error::OtherKeys { fleet: "home".parse().unwrap() },
        Error::Random(getrandom::Error::UNSUPPORTED),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
