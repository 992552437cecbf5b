use std::fmt;

use super::error::Error;

/// A place in the hub's repositories, checked: every part is harmless in a URL and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubAddress {
    /// `ORG/REPO`.
    pub repo: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// One GGUF file; none means the checkpoint.
    pub file: Option<String>,
}

impl HubAddress {
    pub(super) fn new(repo: &str, revision: &str, file: Option<&str>) -> Result<Self, Error> {
        let address =
            Self { repo: repo.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) };
        let bad = |why| Err(Error::BadSource { text: address.to_string(), why });
        // the hub's rule for names, see huggingface_hub `validate_repo_id`
        let is_part = |part: &str| {
            (1..=96).contains(&part.len())
                && !part.starts_with(['.', '-'])
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if repo.split('/').count() != 2 || !repo.split('/').all(is_part) {
            return bad("a repository is named ORG/REPO, with letters, digits, '.', '_' and '-'");
        }
        let is_safe = revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+".contains(&b));
        if revision.is_empty() || revision.len() > 255 || !is_safe || revision.contains("..") {
            return bad("a revision is a branch, tag or commit");
        }
        if let Some(file) = file {
            check_path(&address.to_string(), file)?;
            if !is_gguf(file) {
                return bad("the one file of a repository that can be named is a GGUF");
            }
        }
        Ok(address)
    }

    /// Reads the URI of a pinned source: `hf:ORG/REPO@COMMIT[/FILE.gguf]`.
    pub(super) fn parse(uri: &str) -> Result<Self, Error> {
        let bad = |why| Error::BadSource { text: uri.to_owned(), why };
        let rest = uri.strip_prefix("hf:").ok_or_else(|| bad("it does not begin with hf:"))?;
        let (repo, rest) = rest.split_once('@').ok_or_else(|| bad("it names no commit"))?;
        let (commit, file) = rest.split_once('/').map_or((rest, None), |(c, f)| (c, Some(f)));
        if !is_commit(commit) {
            return Err(bad("it names no commit of 40 digits"));
        }
        Self::new(repo, commit, file)
    }

    /// Returns the address of one of its files below the hub's endpoint.
    pub(super) fn resolve(&self, path: &str) -> String {
        let path: Vec<String> = path.split('/').map(encode).collect();
        format!("{}/resolve/{}/{}", self.repo, encode(&self.revision), path.join("/"))
    }

    /// Returns the address of its description below the hub's endpoint.
    pub(super) fn api(&self) -> String {
        format!("api/models/{}/revision/{}?blobs=true", self.repo, encode(&self.revision))
    }

    /// Returns the name of one of its files for messages.
    pub(super) fn name_of(&self, path: &str) -> String {
        format!("{}/{path}", self.repo)
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}@{}", self.repo, self.revision)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Returns whether a path is that of a GGUF, by its end.
pub(super) fn is_gguf(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| end == "gguf")
}

/// Returns whether `text` is a whole commit id.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Refuses a path that is not plainly below the folder it is joined to.
pub(super) fn check_path(what: &str, path: &str) -> Result<(), Error> {
    let is_part = |part: &str| {
        (1..=255).contains(&part.len())
            && part != "."
            && part != ".."
            && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    if path.len() <= 1024 && path.split('/').all(is_part) {
        return Ok(());
    }
    Err(Error::UnsafePath { what: what.to_owned(), path: path.chars().take(120).collect() })
}

/// Writes one part of a URL's path, everything but the plainest characters escaped.
fn encode(part: &str) -> String {
    use std::fmt::Write as _;
    part.bytes().fold(String::with_capacity(part.len()), |mut text, b| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            text.push(char::from(b));
        } else {
            // writing to a string does not fail
            let _ = write!(text, "%{b:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_uri_survives_the_round_trip() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for uri in [format!("hf:org/repo@{commit}"), format!("hf:o.r-g/re_po@{commit}/sub/a b.gguf")] {
            assert_eq!(HubAddress::parse(&uri).unwrap().to_string(), uri);
        }
        for uri in ["hf:org/repo", "hf:org/repo@main", "file:x", &format!("hf:org@{commit}")] {
            assert!(HubAddress::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn nothing_that_could_leave_its_place_is_an_address() {
        for repo in ["repo", "a/b/c", "../x", "org/..", "org/.", "o rg/x", "org/", "org/x?y", "org/%2e"] {
            assert!(HubAddress::new(repo, "main", None).is_err(), "{repo}");
        }
        for revision in ["", "a b", "../..", "a?b", "a#b", "é"] {
            assert!(HubAddress::new("org/repo", revision, None).is_err(), "{revision}");
        }
        for path in ["", "/x", "a//b", "../x", "a/../b", "a/.", "a\\b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(check_path("org/repo", path).is_err(), "{path}");
        }
        assert!(check_path("org/repo", "a/b c..d/é.gguf").is_ok());
    }

    #[test]
    fn the_parts_of_a_url_are_escaped() {
        let address = HubAddress::new("org/repo", "refs/pr/1", None).unwrap();
        assert_eq!(address.resolve("a b/c#d?.gguf"), "org/repo/resolve/refs%2Fpr%2F1/a%20b/c%23d%3F.gguf");
        assert_eq!(address.api(), "api/models/org/repo/revision/refs%2Fpr%2F1?blobs=true");
    }
}
