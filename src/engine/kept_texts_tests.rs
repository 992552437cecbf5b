//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::File {
            what: "what",
            path: PathBuf::from("/srv/file"),
            source: io::Error::other("the disk says no"),
        },
        Error::Engine("something".to_owned()),
        Error::Room { path: PathBuf::from("/srv/file"), free: Bytes::mib(90), bytes: Bytes::mib(700) },
        Error::Damaged { path: PathBuf::from("/srv/file") },
        Error::List {
            path: PathBuf::from("/srv/file"),
            source: serde_json::from_str::<u8>("x").unwrap_err(),
        },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
