//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::NotInCatalog { name: "name".to_owned(), near: Some("near".to_owned()) },
        Error::ReadCatalog(crate::yaml::Faults::new("f", "").into_problems()),
        Error::Figure { key: "key".to_owned() },
        Error::Disagree { what: "chat".to_owned() },
        Error::Header("something".to_owned()),
        Error::GgufKey { key: "key".to_owned() },
        Error::Short { found: crate::units::Bytes::mib(650), expected: crate::units::Bytes::mib(700) },
        Error::Twice { name: "name".to_owned() },
        Error::Missing { name: "name".to_owned() },
        Error::Overlap { found: crate::units::Bytes::mib(650), expected: crate::units::Bytes::mib(700) },
        Error::Tensor { name: "name".to_owned(), shape: vec![4, 0] },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
