//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Make { what: "chat".to_owned(), source: rcgen::Error::CouldNotParseCertificate },
        Error::Pem { what: "what", source: rustls::pki_types::pem::Error::NoItemsFound },
        Error::Anchor(webpki::Error::BadDer),
        Error::Unusable(rustls::Error::General("no".to_owned())),
        Error::Name("something".to_owned()),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
