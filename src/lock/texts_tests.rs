//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Parse(serde_json::from_str::<u8>("x").unwrap_err()),
        Error::Newer { found: 700 },
        Error::Unknown { found: 700 },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
