//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Read { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Header("something".to_owned()),
        Error::Torch("something".to_owned()),
        Error::Pickle("something".to_owned()),
        Error::File { path: PathBuf::from("/srv/file"), source: Box::new(Error::Header("no".to_owned())) },
        Error::Untrusted {
            path: PathBuf::from("/srv/file"),
            source: Box::new(Error::Header("no".to_owned())),
        },
        Error::Index { name: "name", reason: "it is odd".to_owned() },
        Error::Missing { tensor: "tensor".to_owned(), shard: "shard".to_owned(), index: "index" },
        Error::Twice { tensor: "tensor".to_owned(), shard: "shard".to_owned() },
        Error::Sum { tensor: "tensor".to_owned(), reason: "it is odd".to_owned() },
        Error::Published { found: 70000.0, expected: 0.5 },
        Error::NoWeights(PathBuf::from("/srv/")),
        Error::OutOfBounds { tensor: "tensor".to_owned(), start: 700, end: 700 },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
