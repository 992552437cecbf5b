//! What each error says to a person, with what to do.

use std::os::unix::process::ExitStatusExt as _;

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let ended = |status| Error::Ended { status: ExitStatus::from_raw(status), log: "log".to_owned() };
    let errors = [
        Error::Start { program: PathBuf::from("/srv/program"), source: io::Error::other("the disk says no") },
        Error::Watch(io::Error::other("the disk says no")),
        ended(9),
        ended(3 << 8),
        Error::Library { log: "log".to_owned() },
        Error::Silent,
        Error::Stuck,
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
