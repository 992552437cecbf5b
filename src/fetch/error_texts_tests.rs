//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::NotYet { what: "chat".to_owned(), instead: "instead" },
        Error::BadSource { text: "text".to_owned(), why: "why" },
        Error::NotACheckpoint { what: "chat".to_owned(), why: "it is odd".to_owned() },
        Error::UnsafePath { what: "chat".to_owned(), path: "model.gguf".to_owned() },
        Error::BadEndpoint("something".to_owned()),
        Error::BadToken,
        Error::Client(reqwest::Proxy::all("").unwrap_err()),
        Error::Offline { what: "chat".to_owned() },
        Error::Unreachable {
            endpoint: "https://hub".to_owned(),
            source: reqwest::Proxy::all("").unwrap_err(),
        },
        Error::Broken { what: "chat".to_owned(), source: reqwest::Proxy::all("").unwrap_err() },
        Error::EndedEarly { what: "chat".to_owned(), got: Bytes::mib(650), expected: Bytes::mib(700) },
        Error::NoToken { what: "chat".to_owned(), page: "https://hub/org/model".to_owned() },
        Error::LicenceNotAccepted { what: "chat".to_owned(), page: "https://hub/org/model".to_owned() },
        Error::TokenRefused { endpoint: "https://hub".to_owned() },
        Error::Denied {
            what: "chat".to_owned(),
            status: 8443,
            said: "no".to_owned(),
            page: "https://hub/org/model".to_owned(),
        },
        Error::RepoNotFound {
            repo: "org/model".to_owned(),
            endpoint: "https://hub".to_owned(),
            had_token: true,
        },
        Error::RevisionNotFound { repo: "org/model".to_owned(), revision: "revision".to_owned() },
        Error::EntryNotFound { what: "chat".to_owned() },
        Error::TooManyRequests { wait: Some(Duration::from_mins(1)) },
        Error::Expired { what: "chat".to_owned(), status: 8443 },
        Error::LinkRefused { what: "chat".to_owned(), status: 8443 },
        Error::Server { what: "chat".to_owned(), status: 8443, said: "no".to_owned() },
        Error::BadAnswer { what: "chat".to_owned(), why: "it is odd".to_owned() },
        Error::LicenceWantsYes {
            what: "chat".to_owned(),
            license: "llama2".to_owned(),
            page: "https://hub/org/model".to_owned(),
        },
        Error::OtherLicenceAccepted {
            what: "chat".to_owned(),
            license: "llama2".to_owned(),
            page: "https://hub/org/model".to_owned(),
            accepted: "accepted".to_owned(),
        },
        Error::Mismatch {
            what: "chat".to_owned(),
            expected: Digest::of(b"expected"),
            got: Digest::of(b"got"),
        },
        Error::WrongLength { what: "chat".to_owned(), expected: Bytes::mib(700), got: Bytes::mib(650) },
        Error::BadHeader { what: "chat".to_owned(), why: "it is odd".to_owned() },
        Error::NoSpace {
            folder: PathBuf::from("/srv/folder"),
            what: "chat".to_owned(),
            need: Bytes::mib(700),
            free: Bytes::mib(90),
        },
        Error::CachedInPart { folder: PathBuf::from("/srv/folder"), source: Box::new(Error::BadToken) },
        Error::Local { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::LeadsOut { path: PathBuf::from("/srv/file") },
        Error::LocalChanged { path: PathBuf::from("/srv/file") },
        Error::FileChanged { path: PathBuf::from("/srv/file") },
        Error::LayOut { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Store { what: "chat".to_owned(), source: store::Error::Missing { digest: Digest::of(b"x") } },
        Error::Cut { what: "chat".to_owned() },
        Error::Astray {
            what: "chat".to_owned(),
            host: "files.example".to_owned(),
            address: [169, 254, 169, 254].into(),
        },
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
