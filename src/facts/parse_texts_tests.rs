//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::TooLong { bytes: 12 },
        Error::Truncated { missing: "missing" },
        Error::Missing { what: "what" },
        Error::Installed { source: serde_json::from_str::<u8>("x").unwrap_err() },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
