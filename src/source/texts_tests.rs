//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Form("something".to_owned()),
        Error::Repo("something".to_owned()),
        Error::Revision("something".to_owned()),
        Error::File("something".to_owned()),
        Error::Url("something".to_owned()),
        Error::Path("something".to_owned()),
        Error::Catalog("something".to_owned()),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
