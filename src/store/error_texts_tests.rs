//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Prepare { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Read { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Write { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Full {
            path: PathBuf::from("/srv/file"),
            size: Bytes::mib(700),
            source: io::Error::other("the disk says no"),
        },
        Error::Seal { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Remove { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Mismatch {
            path: PathBuf::from("/srv/file"),
            expected: Digest::of(b"expected"),
            got: Digest::of(b"got"),
        },
        Error::Missing { digest: Digest::of(b"digest") },
        Error::Busy { path: PathBuf::from("/srv/file") },
        Error::InUse { path: PathBuf::from("/srv/file") },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
