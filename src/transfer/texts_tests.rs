//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Connect {
            what: "chat".to_owned(),
            host: "kitchen".to_owned(),
            source: connect::Error::Lost { host: "kitchen".to_owned(), said: "EOF".to_owned() },
        },
        Error::Refused {
            what: "chat".to_owned(),
            host: "kitchen".to_owned(),
            reason: Reason::Busy,
            message: "message".to_owned(),
        },
        Error::Answer { what: "chat".to_owned(), host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::Local {
            path: PathBuf::from("/srv/file"),
            digest: Digest::of(b"digest"),
            found: Bytes::mib(650),
            expected: Bytes::mib(700),
        },
        Error::Read { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
