//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Read { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Json {
            path: PathBuf::from("/srv/file"),
            source: serde_json::from_str::<u8>("x").unwrap_err(),
        },
        Error::Architecture {
            found: "other".to_owned(),
            supported: "llama, qwen2".to_owned(),
            near: "; the nearest is llama".to_owned(),
        },
        Error::Variant { architecture: "architecture", reason: "it is odd".to_owned() },
        Error::Config("something".to_owned()),
        Error::Tokenizer("something".to_owned()),
        Error::MissingTensor("something".to_owned()),
        Error::Tensor { name: "name".to_owned(), reason: "it is odd".to_owned() },
        Error::Checkpoint(checkpoint::Error::Header("no".to_owned())),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
