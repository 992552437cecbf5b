//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::NoBoot,
        Error::NoCloudInit { said: "no".to_owned() },
        Error::User { user: "user".to_owned() },
        Error::Ssid("something".to_owned()),
        Error::Passphrase,
        Error::Country("something".to_owned()),
        Error::Timezone("something".to_owned()),
        Error::Template("something".to_owned()),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
