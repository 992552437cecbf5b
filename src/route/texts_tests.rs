//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Current { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::NotAGeneration { path: PathBuf::from("/srv/file") },
        Error::Read { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Parse {
            path: PathBuf::from("/srv/file"),
            source: serde_json::from_str::<u8>("x").unwrap_err(),
        },
        Error::Definition { what: "chat".to_owned() },
        Error::Listen { port: 8443, source: io::Error::other("the disk says no") },
        Error::Signals { source: io::Error::other("the disk says no") },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
