//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Truncated { part: "part" },
        Error::Malformed("something".to_owned()),
        Error::TooLarge { part: "part", count: 700, limit: 700 },
        Error::Read(io::Error::other("the disk says no")),
        Error::Write(io::Error::other("the disk says no")),
        Error::Promise("something".to_owned()),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
