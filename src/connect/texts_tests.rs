//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Unreachable { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::Refused { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::HostKeyChanged { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::HostKeyUnknown { host: "kitchen".to_owned(), fingerprint: Some("fingerprint".to_owned()) },
        Error::Authentication { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::Sudo { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::TimedOut { host: "kitchen".to_owned(), after: Duration::from_mins(1) },
        Error::TooMuch { host: "kitchen".to_owned() },
        Error::Lost { host: "kitchen".to_owned(), said: "no".to_owned() },
        Error::NoKey { path: "/home/ada/.ssh/fleet".to_owned() },
        Error::NoPublicKey { path: "/home/ada/.ssh/fleet".to_owned(), source: std::io::Error::other("no") },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
