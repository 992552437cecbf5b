//! What the hub says of a repository, and what of it is pinned.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::address::{HubAddress, check_path, is_commit};
use super::error::Error;
use super::web::{Ask, Web};
use super::{choose, license};
use crate::checkpoint::Weights;
use crate::ids::Digest;
use crate::source::{Pinned, PinnedFile};
use crate::store::Store;
use crate::units::Bytes;

/// The longest description of a repository; some 200 bytes for each of its files.
const LISTING_MAX: Bytes = Bytes::mib(64);

/// The largest file without a published SHA-256 that is fetched at once. The hub keeps
/// files beyond 10 MiB as large ones, with their SHA-256.
const SMALL_MAX: Bytes = Bytes::mib(64);

/// Requests at the same time.
pub(super) const PARALLEL: usize = 4;

/// `GET /api/models/{repo}/revision/{rev}?blobs=true`, as far as it is used.
#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, rename = "cardData")]
    card: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

/// The files of a repository, by name.
type Siblings<'a> = BTreeMap<&'a str, &'a Sibling>;

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Digest,
    size: u64,
}

impl HubAddress {
    /// Returns the question for one of its files.
    pub(super) fn ask(&self, path: &str) -> Ask {
        Ask {
            path: self.resolve(path),
            what: self.name_of(path),
            repo: self.repo.clone(),
            revision: self.revision.clone(),
            ..Ask::default()
        }
    }
}

/// Resolves the revision to a commit, chooses the files and learns their digests.
pub(super) async fn pin(web: &Web, store: &Store, address: &HubAddress) -> Result<Pinned, Error> {
    let listing = listing(web, address).await?;
    let exact = HubAddress { revision: listing.sha.clone(), ..address.clone() };
    let names: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let siblings = listing.siblings.iter().map(|sibling| (sibling.rfilename.as_str(), sibling)).collect();
    let mut files = Vec::new();
    if let Some(file) = &address.file {
        choose::gguf(&exact.name_of(file), file)?;
        files.push(learn(web, store, &exact, &siblings, file).await?);
    } else {
        let (small, weights) = choose::checkpoint(&exact.repo, &names)?;
        files.extend(learn_all(web, store, &exact, &siblings, small).await?);
        let weights = match weights {
            Weights::Files(files) => files,
            Weights::Indexed(name) => {
                let index = files.iter().find(|file| file.path == name).map(|file| file.sha256);
                let text = small_blob(web, store, &exact, index, name).await?;
                choose::shards(&exact.repo, name, &text, &names)?
            }
        };
        files.extend(learn_all(web, store, &exact, &siblings, weights).await?);
    }
    files.sort();
    Ok(Pinned { uri: exact.to_string(), files, license: license(&listing) })
}

async fn listing(web: &Web, address: &HubAddress) -> Result<Listing, Error> {
    let ask = Ask {
        path: address.api(),
        what: address.repo.clone(),
        repo: address.repo.clone(),
        revision: address.revision.clone(),
        ..Ask::default()
    };
    let bad = |why: String| Error::BadAnswer { what: address.repo.clone(), why };
    let text = web.ask_whole(&ask, LISTING_MAX).await?;
    let listing: Listing = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if !is_commit(&listing.sha) {
        return Err(bad("it names no commit of 40 digits".to_owned()));
    }
    listing.siblings.iter().try_for_each(|sibling| check_path(&address.repo, &sibling.rfilename))?;
    Ok(listing)
}

async fn learn_all(
    web: &Web,
    store: &Store,
    exact: &HubAddress,
    siblings: &Siblings<'_>,
    names: Vec<String>,
) -> Result<Vec<PinnedFile>, Error> {
    let learned =
        names.into_iter().map(|name| async move { learn(web, store, exact, siblings, &name).await });
    stream::iter(learned).buffer_unordered(PARALLEL).try_collect().await
}

/// Returns one file with its digest: the published one, or that of what arrives.
async fn learn(
    web: &Web,
    store: &Store,
    exact: &HubAddress,
    siblings: &Siblings<'_>,
    name: &str,
) -> Result<PinnedFile, Error> {
    let what = exact.name_of(name);
    let sibling = siblings.get(name).ok_or_else(|| Error::EntryNotFound { what: what.clone() })?;
    if let Some(lfs) = &sibling.lfs {
        return Ok(PinnedFile { path: name.to_owned(), bytes: Bytes(lfs.size), sha256: lfs.sha256 });
    }
    if sibling.size.is_some_and(|size| size > SMALL_MAX.0) {
        let why = format!("it is larger than {SMALL_MAX} and has no published SHA-256");
        return Err(Error::BadAnswer { what, why });
    }
    let bytes = web.ask_whole(&exact.ask(name), SMALL_MAX).await?;
    let got = Bytes(bytes.len() as u64);
    if let Some(expected) = sibling.size.map(Bytes)
        && expected != got
    {
        return Err(Error::WrongLength { what, expected, got });
    }
    let store = store.clone();
    let kept = tokio::task::spawn_blocking(move || {
        let mut writer = store.create()?;
        writer.write(&bytes)?;
        writer.seal()
    });
    let kept = kept.await.map_err(|_| Error::Cut { what: what.clone() })?;
    let made = kept.map_err(|source| Error::Store { what, source })?;
    Ok(PinnedFile { path: name.to_owned(), bytes: made.bytes, sha256: made.digest })
}

/// Returns the text of a small file, from the store if it came while pinning.
async fn small_blob(
    web: &Web,
    store: &Store,
    exact: &HubAddress,
    digest: Option<Digest>,
    name: &str,
) -> Result<Vec<u8>, Error> {
    match digest.filter(|digest| store.size(digest).is_some_and(|size| size <= SMALL_MAX)) {
        Some(digest) => {
            let path = store.path(&digest);
            tokio::fs::read(&path).await.map_err(|source| Error::Local { path, source })
        }
        None => web.ask_whole(&exact.ask(name), SMALL_MAX).await,
    }
}

/// Returns the licence that a model's card names; for `other` the name that it has there.
fn license(listing: &Listing) -> Option<String> {
    let word = |key: &str| {
        let value = listing.card.get(key)?;
        let first = value.as_array().and_then(|all| all.first()).unwrap_or(value);
        first.as_str().map(str::to_owned)
    };
    let tag = || listing.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
    Some(license::spelled(word("license").or_else(tag)?, || word("license_name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_what_the_card_says_or_the_tags() {
        let license = |json: serde_json::Value| license(&serde_json::from_value(json).unwrap());
        let card = |card: serde_json::Value| {
            license(serde_json::json!({"sha": "", "cardData": card, "tags": ["x", "license:mit"]}))
        };
        assert_eq!(card(serde_json::json!({"license": "apache-2.0"})).as_deref(), Some("apache-2.0"));
        assert_eq!(card(serde_json::json!({"license": ["a", "b"]})).as_deref(), Some("a"));
        let other = serde_json::json!({"license": "other", "license_name": "llama-2"});
        assert_eq!(card(other).as_deref(), Some("llama-2"));
        assert_eq!(card(serde_json::json!(null)).as_deref(), Some("mit"));
        assert_eq!(license(serde_json::json!({"sha": ""})), None);
    }
}
