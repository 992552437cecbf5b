//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        VerbError::Connect {
            verb: "verb",
            source: connect::Error::Lost { host: "kitchen".to_owned(), said: "EOF".to_owned() },
        },
        VerbError::Locked { said: "no".to_owned() },
        VerbError::DoesNotRun { said: "no".to_owned() },
        VerbError::Answer { verb: "verb", source: serde_json::from_str::<u8>("x").unwrap_err() },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
