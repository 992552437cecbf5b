//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Read { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
        Error::Write { path: PathBuf::from("/srv/file"), source: std::io::Error::other("the disk says no") },
        Error::Form { path: PathBuf::from("/srv/file"), why: "it is odd".to_owned() },
        Error::Index(serde_json::from_str::<u8>("x").unwrap_err()),
        Error::Newer { found: 7, known: 7 },
        Error::NotThere { what: "chat".to_owned() },
        Error::Signature { path: PathBuf::from("/srv/file"), source: signature::Error::Form },
        Error::Damaged { digest: Digest::of(b"digest") },
        Error::Keep {
            digest: Digest::of(b"digest"),
            source: store::Error::Missing { digest: Digest::of(b"x") },
        },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
