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
        Error::Damaged { archive: PathBuf::from("/srv/archive") },
        Error::Name { target: "target".to_owned(), file: "file".to_owned() },
        Error::Write { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
        Error::Archive { path: PathBuf::from("/srv/file"), file: "file".to_owned(), bytes: Bytes::mib(700) },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
