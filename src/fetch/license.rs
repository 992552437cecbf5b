//! Licences that want a yes: which they are, and whether the manifest says it.

use super::error::Error;
use crate::source::Pinned;

/// How the names of licences begin that bind whoever uses the weights to terms of use: the
/// community licences of Meta and Google, and the RAIL family. They are the hub's words
/// (<https://huggingface.co/docs/hub/repositories-licenses>), and what cards write under
/// `license_name`. Licences that only ask to be passed on, such as MIT and Apache-2.0, want
/// no yes.
const WANT_A_YES: [&str; 8] = [
    "bigcode-openrail",
    "bigscience-bloom-rail",
    "bigscience-openrail",
    "creativeml-openrail",
    "gemma",
    "llama",
    "meta-llama",
    "openrail",
];

/// Returns a licence as a model's card has it: for `other` the name that it has there. The card is
/// a stranger's, so what is shown of it is short and has no control characters.
pub(super) fn spelled(found: String, name: impl FnOnce() -> Option<String>) -> String {
    let found = if found == "other" { name().unwrap_or(found) } else { found };
    found.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Refuses a source whose licence wants a yes that `accepted` is not. `page` shows the licence.
pub(super) fn check(pinned: &Pinned, accepted: Option<&str>, page: &str) -> Result<(), Error> {
    let Some(license) = pinned.license.as_deref().filter(|license| wants_a_yes(license)) else {
        return Ok(());
    };
    let (what, license, page) = (pinned.uri.clone(), license.to_owned(), page.to_owned());
    match accepted {
        Some(accepted) if plain(accepted) == plain(&license) => Ok(()),
        Some(accepted) => {
            let accepted = accepted.chars().take(100).collect();
            Err(Error::OtherLicenceAccepted { what, license, page, accepted })
        }
        None => Err(Error::LicenceWantsYes { what, license, page }),
    }
}

fn wants_a_yes(license: &str) -> bool {
    let license = plain(license);
    WANT_A_YES.iter().any(|family| license.starts_with(family))
}

/// Returns a licence's name as it is compared: cards write `Llama 2`, the hub `llama2`.
fn plain(license: &str) -> String {
    let letters = license.trim().chars().map(|c| if c.is_whitespace() || c == '_' { '-' } else { c });
    letters.collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::source::PinnedFile;
    use crate::units::Bytes;

    fn check(license: &str, accepted: Option<&str>) -> Result<(), Error> {
        let license = Some(license.to_owned()).filter(|license| !license.is_empty());
        let pinned = Pinned { uri: "hf:org/chat@0".to_owned(), files: Vec::new(), license };
        super::check(&pinned, accepted, "https://hub/org/chat")
    }

    #[test]
    fn licences_with_terms_of_use_want_a_yes() {
        for license in
            ["llama2", "llama3.2", "Llama 3 Community", "gemma", "bigscience-bloom-rail-1.0", "openrail++"]
        {
            assert!(matches!(check(license, None), Err(Error::LicenceWantsYes { .. })), "{license}");
            assert!(check(license, Some(license)).is_ok(), "{license}");
        }
        for license in ["apache-2.0", "mit", "cc-by-sa-3.0", "unlicense", ""] {
            assert!(check(license, None).is_ok() && check(license, Some("mit")).is_ok(), "{license}");
        }
    }

    #[test]
    fn of_a_sum_each_part_has_its_own_licence() {
        let part = |uri: &str, license: Option<&str>| Pinned {
            uri: uri.to_owned(),
            files: vec![PinnedFile { path: "x".to_owned(), bytes: Bytes(1), sha256: Digest::of(b"x") }],
            license: license.map(str::to_owned),
        };
        let base = part("file:llama", Some("llama2"));
        for (delta, accepted, is_right) in [
            (None, None, false),
            (None, Some("llama2"), true),
            (Some("cc-by-nc-4.0"), Some("llama2"), true),
            (Some("gemma"), Some("llama2"), false),
        ] {
            let sum = Pinned::sum(&base, &part("hf:org/delta@0", delta));
            let (base, delta) = sum.parts().unwrap();
            let checked = [base, delta].map(|part| super::check(&part, accepted, "page").is_ok());
            assert_eq!(checked == [true, true], is_right, "{sum:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_page_and_the_line_to_add() {
        let said = check("llama3.2", None).unwrap_err().to_string();
        assert!(said.contains("https://hub/org/chat") && said.contains("accept_license: llama3.2"), "{said}");
        let said = check("llama3.2", Some("llama2")).unwrap_err().to_string();
        assert!(said.contains("accept_license: llama3.2") && said.contains("not llama2"), "{said}");
        assert!(check("llama3.2", Some("Llama3.2")).is_ok());
    }
}
