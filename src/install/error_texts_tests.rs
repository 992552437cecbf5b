//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Busy { holder: "ann@desk".to_owned() },
        Error::OtherFleet { found: "school".parse().unwrap(), wanted: "home".parse().unwrap() },
        Error::NotOurs { root: PathBuf::from("/srv/root"), found: "other".to_owned() },
        Error::MissingBlob { digest: Digest::of(b"digest") },
        Error::BlobSize { digest: Digest::of(b"digest"), found: 700, wanted: 700 },
        Error::DamagedBlob { digest: Digest::of(b"digest"), found: Digest::of(b"found") },
        Error::NoDigest { model: "chat".to_owned() },
        Error::MissingProgram { digest: Digest::of(b"digest") },
        Error::Format { what: "what", found: 7, known: 7 },
        Error::InUse("7".parse().unwrap()),
        Error::Moved { planned: Some("7".parse().unwrap()), found: Some("8".parse().unwrap()) },
        Error::Moved { planned: None, found: Some("7".parse().unwrap()) },
        Error::Moved { planned: Some("7".parse().unwrap()), found: None },
        Error::NoGeneration("7".parse().unwrap()),
        Error::NothingEarlier,
        Error::NotPending("7".parse().unwrap()),
        Error::StillPending("7".parse().unwrap()),
        Error::NothingInForce,
        Error::NoModel { model: "chat".to_owned() },
        Error::SupervisionChanged("7".parse().unwrap()),
        Error::Lingering { login: "pi".to_owned(), said: "no".to_owned() },
        Error::Units { said: "no".to_owned() },
        Error::Start { program: "program".to_owned(), source: io::Error::other("the disk says no") },
        Error::Failed { program: "program".to_owned(), said: "no".to_owned() },
        Error::Io {
            doing: "doing",
            path: PathBuf::from("/srv/file"),
            source: io::Error::other("the disk says no"),
        },
        Error::Json { what: "chat".to_owned(), source: serde_json::from_str::<u8>("x").unwrap_err() },
        Error::BrokenOff,
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
