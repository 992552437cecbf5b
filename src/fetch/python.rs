//! The cache of the hub's Python client, read only: what others have fetched is not fetched
//! again, and offline it stands for the hub.
//!
//! ```text
//! models--ORG--REPO/refs/<revision>              the commit that a branch or tag was at
//! models--ORG--REPO/snapshots/<commit>/<path>    links to blobs
//! models--ORG--REPO/blobs/<hash>                 large files by their SHA-256, small ones by git's hash
//! ```
//!
//! Nothing in it is trusted: all that is taken is hashed.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::address::{HubAddress, is_commit};
use super::error::Error;
use super::{choose, license, local};
use crate::source::{Pinned, PinnedFile};
use crate::store::Store;

/// A card longer than this is none. Its head, which names the licence, comes first.
const CARD_MAX: u64 = 1 << 20;

/// Returns where the cache would have a file.
pub(super) fn places(cache: &Path, address: &HubAddress, file: &PinnedFile) -> [PathBuf; 2] {
    let repo = folder(cache, address);
    [
        repo.join("blobs").join(file.sha256.to_string()),
        repo.join("snapshots").join(&address.revision).join(&file.path),
    ]
}

/// Returns where the cache has a file, if it has it with the right content.
pub(super) fn find(cache: &Path, address: &HubAddress, file: &PinnedFile, store: &Store) -> Option<PathBuf> {
    places(cache, address, file).into_iter().find(|place| {
        fs::metadata(place).is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes.0)
            && local::hash(place, store).is_ok_and(|found| found == (file.sha256, file.bytes))
    })
}

/// Pins what the cache has of a repository: the commit that it knows the revision by, and the files
/// that were fetched of it.
///
/// # Errors
/// [`Error::Offline`] where it does not have the revision, [`Error::CachedInPart`] where what it has is no
/// whole checkpoint.
pub(super) fn pin(cache: &Path, address: &HubAddress, store: &Store) -> Result<Pinned, Error> {
    let absent = || Error::Offline { what: name(address) };
    let commit = commit(cache, address).ok_or_else(absent)?;
    let exact = HubAddress { revision: commit, ..address.clone() };
    let snapshot = folder(cache, address).join("snapshots").join(&exact.revision);
    if !snapshot.is_dir() {
        return Err(absent());
    }
    let in_part = |error: Error| match error {
        Error::NotACheckpoint { .. } | Error::BadAnswer { .. } => {
            Error::CachedInPart { folder: snapshot.clone(), source: Box::new(error) }
        }
        other => other,
    };
    let names = match &address.file {
        Some(file) => {
            choose::gguf(&exact.name_of(file), file)?;
            if !snapshot.join(file).is_file() {
                return Err(absent());
            }
            vec![file.clone()]
        }
        None => local::checkpoint_names(&exact.repo, &snapshot).map_err(in_part)?,
    };
    let mut files = Vec::with_capacity(names.len());
    for path in names {
        let (sha256, bytes) = local::hash(&snapshot.join(&path), store)?;
        files.push(PinnedFile { path, bytes, sha256 });
    }
    files.sort();
    Ok(Pinned {
        uri: exact.to_string(),
        files,
        license: card(&snapshot).ok().and_then(|card| license(&card)),
    })
}

/// Returns the name of what is asked for, for messages.
pub(super) fn name(address: &HubAddress) -> String {
    let file = address.file.iter().flat_map(|file| ["/", file]).collect::<String>();
    format!("{}@{}{file}", address.repo, address.revision)
}

fn folder(cache: &Path, address: &HubAddress) -> PathBuf {
    cache.join(format!("models--{}", address.repo.replace('/', "--")))
}

fn commit(cache: &Path, address: &HubAddress) -> Option<String> {
    if is_commit(&address.revision) {
        return Some(address.revision.clone());
    }
    let reference = fs::File::open(folder(cache, address).join("refs").join(&address.revision)).ok()?;
    let mut text = String::new();
    reference.take(64).read_to_string(&mut text).ok()?;
    let commit = text.trim();
    is_commit(commit).then(|| commit.to_owned())
}

fn card(snapshot: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(snapshot.join("README.md"))?.take(CARD_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the licence that the head of a model's card names, as the hub itself reads it; for `other`
/// the name that it has there.
fn license(card: &str) -> Option<String> {
    let head = card.strip_prefix("---")?.split("\n---").next()?;
    let word = |key: &str| {
        let mut lines = head.lines().skip_while(|line| !line.starts_with(key));
        let value = lines.next()?.strip_prefix(key)?.trim();
        // of several the first, in either of the forms of a list
        let value = if value.is_empty() { lines.next()?.trim().strip_prefix('-')? } else { value };
        let value = value.trim_start_matches('[').split([',', ']', '#']).next()?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    Some(license::spelled(word("license:")?, || word("license_name:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_stands_in_the_head_of_the_card() {
        let read = |head: &str| license(&format!("---\n{head}\n---\n# A model\nlicense: not-this\n"));
        assert_eq!(read("language: en\nlicense: apache-2.0\ntags: [x]").as_deref(), Some("apache-2.0"));
        assert_eq!(read("license: other\nlicense_name: llama-2 # theirs").as_deref(), Some("llama-2"));
        assert_eq!(read("license:\n- mit\n- gemma").as_deref(), Some("mit"));
        assert_eq!(read("license: [\"gemma\", mit]").as_deref(), Some("gemma"));
        assert_eq!(read("language: en"), None);
        assert_eq!(license("# A model\nlicense: mit\n"), None);
    }
}
