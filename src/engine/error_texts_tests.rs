//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::FindGeneration {
            path: PathBuf::from("/srv/file"),
            source: io::Error::other("the disk says no"),
        },
        Error::NameGeneration { path: PathBuf::from("/srv/file") },
        Error::ReadDefinition {
            path: PathBuf::from("/srv/file"),
            source: io::Error::other("the disk says no"),
        },
        Error::ParseDefinition {
            path: PathBuf::from("/srv/file"),
            source: serde_json::from_str::<u8>("x").unwrap_err(),
        },
        Error::Format { path: PathBuf::from("/srv/file"), found: 7 },
        Error::UnknownModel {
            path: PathBuf::from("/srv/file"),
            model: "chat".parse().unwrap(),
            known: "chat, writer".to_owned(),
        },
        Error::Spec { model: "chat".parse().unwrap(), reason: "it is odd".to_owned() },
        Error::ReadWeights { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Weights { path: PathBuf::from("/srv/file"), reason: "it is odd".to_owned() },
        Error::NoRoom {
            model: "chat".parse().unwrap(),
            need: Bytes::mib(700),
            memory: Bytes::mib(90),
            swap: Bytes::mib(700),
        },
        Error::LoadBackends { path: PathBuf::from("/srv/file"), reason: "it is odd".to_owned() },
        Error::Load { what: "what", reason: "it is odd".to_owned() },
        Error::NoLlama,
        Error::Socket {
            what: "what",
            path: PathBuf::from("/srv/file"),
            source: io::Error::other("the disk says no"),
        },
        Error::Running { path: PathBuf::from("/srv/file") },
        Error::Start { what: "what", source: io::Error::other("the disk says no") },
        Error::WorkerDied,
        Error::Failing { times: 7, reason: "it is odd".to_owned() },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
