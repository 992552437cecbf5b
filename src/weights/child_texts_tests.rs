//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Start { program: PathBuf::from("/srv/program"), source: io::Error::other("the disk says no") },
        Error::Watch(io::Error::other("the disk says no")),
        Error::Ended { status: std::os::unix::process::ExitStatusExt::from_raw(9), log: "log".to_owned() },
        Error::Stuck,
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
