//! All files of a pinned source onto this machine, under their names.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::address::HubAddress;
use super::download::{Known, download};
use super::error::Error;
use super::hub::PARALLEL;
use super::web::Ask;
use super::{Fetcher, Place, local, python};
use crate::causes::with_causes;
use crate::events::Event;
use crate::ids::Digest;
use crate::source::{Pinned, PinnedFile};
use crate::store::Made;
use crate::units::Bytes;

/// What stays free for everything else on the operator's disk.
const HEADROOM: Bytes = Bytes::mib(64);

/// Progress is told in steps of this many bytes.
const STEP: u64 = 1 << 20;

pub(super) async fn obtain(fetcher: &Fetcher, pinned: &Pinned) -> Result<PathBuf, Error> {
    let Some((base, delta)) = pinned.parts() else { return one_source(fetcher, pinned).await };
    // the whole set before the first byte, also where it is of two repositories
    check_room(fetcher, &[pinned], Bytes::ZERO)?;
    let folders = [one_source(fetcher, &base).await?, one_source(fetcher, &delta).await?];
    let (fetcher, pinned) = (fetcher.clone(), pinned.clone());
    let what = pinned.uri.clone();
    let laid = tokio::task::spawn_blocking(move || {
        let folder = sources_folder(&fetcher, &pinned);
        for (target, name) in folders.iter().zip(["base", "delta"]) {
            let link = folder.join(name);
            let fail = |source| Error::LayOut { path: link.clone(), source };
            let target = std::path::absolute(target).map_err(fail)?;
            link_to(&target, &link).map_err(fail)?;
        }
        Ok(folder)
    });
    laid.await.map_err(|_| Error::Cut { what })?
}

async fn one_source(fetcher: &Fetcher, pinned: &Pinned) -> Result<PathBuf, Error> {
    let place = fetcher.place(pinned)?;
    fetcher.bring(&place, &pinned.files).await?;
    let (fetcher, pinned) = (fetcher.clone(), pinned.clone());
    let what = pinned.uri.clone();
    let laid = tokio::task::spawn_blocking(move || lay_out(&fetcher, &place, &pinned));
    laid.await.map_err(|_| Error::Cut { what })?
}

/// Brings those of `files` that are not in the store into it: from the Python client's
/// cache where they are there, else over the network.
pub(super) async fn bring(fetcher: &Fetcher, place: &Place, files: &[PinnedFile]) -> Result<(), Error> {
    let mut missing: Vec<(Ask, &PinnedFile)> = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files.iter().filter(|file| !fetcher.is_here(file)) {
        if !seen.insert(file.sha256) {
            continue;
        }
        if let Place::Hub(address) = place
            && adopt(fetcher, address, file).await?
        {
            continue;
        }
        missing.extend(place.ask(&file.path).map(|ask| (ask, file)));
    }
    let Some((first, _)) = missing.first() else { return Ok(()) };
    let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
    let what = format!("{}{more}", first.what);
    if fetcher.settings.is_offline {
        return Err(Error::Offline { what });
    }
    let need = missing.iter().map(|(_, file)| file.bytes - fetcher.store.reserved(&file.sha256)).sum();
    has_room(fetcher, &what, need)?;
    let works = missing.iter().map(|(ask, file)| fetch(fetcher, ask, file, Known::ByDigest));
    stream::iter(works).buffer_unordered(PARALLEL).map_ok(drop).try_collect().await
}

/// What of some sources is not here yet.
#[derive(Debug, Default)]
struct Missing {
    /// Bytes that have not arrived.
    bytes: Bytes,
    /// Bytes that no room is taken for.
    room: Bytes,
    /// The sources that lack something.
    of: Vec<String>,
}

/// Finds what of `sources` is neither here nor, by its size, in the Python client's cache, which
/// costs nothing to take it from.
fn missing(fetcher: &Fetcher, sources: &[&Pinned]) -> Result<Missing, Error> {
    let (mut missing, mut seen) = (Missing::default(), BTreeSet::new());
    let parts = |pinned: &Pinned| match pinned.parts() {
        Some((base, delta)) => vec![base, delta],
        None => vec![pinned.clone()],
    };
    for pinned in sources.iter().flat_map(|pinned| parts(pinned)) {
        let place = fetcher.place(&pinned)?;
        let is_theirs = |file: &PinnedFile| match &place {
            Place::Hub(address) => is_in_python_cache(fetcher, address, file),
            Place::Link(_) => false,
            Place::Local(_) => true,
        };
        let lacking = pinned.files.iter().filter(|file| !fetcher.is_here(file) && !is_theirs(file));
        let lacking: Vec<&PinnedFile> = lacking.filter(|file| seen.insert(file.sha256)).collect();
        let room: Bytes = lacking.iter().map(|file| file.bytes - fetcher.store.reserved(&file.sha256)).sum();
        missing.bytes += lacking.iter().map(|file| file.bytes - fetcher.store.arrived(&file.sha256)).sum();
        missing.room += room;
        if room > Bytes::ZERO {
            missing.of.push(pinned.uri);
        }
    }
    Ok(missing)
}

/// Returns the bytes of `sources` that have not arrived.
pub(super) fn missing_bytes(fetcher: &Fetcher, sources: &[&Pinned]) -> Result<Bytes, Error> {
    missing(fetcher, sources).map(|missing| missing.bytes)
}

/// Checks that there is room for everything of `sources` that is missing, and for `made` more bytes.
pub(super) fn check_room(fetcher: &Fetcher, sources: &[&Pinned], made: Bytes) -> Result<(), Error> {
    let mut missing = missing(fetcher, sources)?;
    if fetcher.is_offline() {
        // nothing will come
        missing = Missing::default();
    }
    if made > Bytes::ZERO {
        missing.of.push("the weights that are made here".to_owned());
    }
    if missing.of.is_empty() {
        return Ok(());
    }
    has_room(fetcher, &missing.of.join(" and "), missing.room + made)
}

/// Brings one file, and tells how it goes.
pub(super) async fn fetch(
    fetcher: &Fetcher,
    ask: &Ask,
    file: &PinnedFile,
    known: Known,
) -> Result<Made, Error> {
    let key = format!("fetch {} {}", ask.what, ask.revision);
    let events = &fetcher.events;
    let what = format!("fetching {}", ask.what);
    events.send(Event::Started { key: key.clone(), host: None, what, total: Some(file.bytes) });
    let told = AtomicU64::new(u64::MAX);
    let progress = |done: Bytes| {
        let step = done.0 / STEP;
        if told.swap(step, Ordering::Relaxed) != step || done == file.bytes {
            events.send(Event::Progress { key: key.clone(), done, from_hosts: Bytes::ZERO });
        }
    };
    let result = download(&fetcher.web, &fetcher.store, ask, file, known, &progress).await;
    match &result {
        Ok(_) => events.send(Event::Finished { key, outcome: None }),
        Err(error) => events.send(Event::Failed { key, error: with_causes(error) }),
    }
    result
}

/// Takes a file from the cache of the hub's Python client, if it is there and whole.
async fn adopt(fetcher: &Fetcher, address: &HubAddress, file: &PinnedFile) -> Result<bool, Error> {
    let Some(cache) = &fetcher.settings.hub_cache else { return Ok(false) };
    let places = python::places(cache, address, file);
    let (fetcher, file, what) = (fetcher.clone(), file.clone(), address.name_of(&file.path));
    let adopted = tokio::task::spawn_blocking(move || {
        for place in places {
            let Ok(meta) = fs::metadata(&place) else { continue };
            if !meta.is_file() || meta.len() != file.bytes.0 {
                continue;
            }
            match fetcher.store.adopt(&place, &file.sha256) {
                Ok(true) => return true,
                Ok(false) => tracing::warn!(path = %place.display(), "not what its name says: fetching it"),
                Err(error) => tracing::warn!(%error, path = %place.display(), "cannot be used: fetching it"),
            }
        }
        false
    });
    adopted.await.map_err(|_| Error::Cut { what })
}

fn is_in_python_cache(fetcher: &Fetcher, address: &HubAddress, file: &PinnedFile) -> bool {
    let Some(cache) = &fetcher.settings.hub_cache else { return false };
    python::places(cache, address, file)
        .iter()
        .any(|place| fs::metadata(place).is_ok_and(|meta| meta.len() == file.bytes.0))
}

pub(super) fn has_room(fetcher: &Fetcher, what: &str, need: Bytes) -> Result<(), Error> {
    let folder = fetcher.store.root().to_owned();
    let free = match (fetcher.machine.free_space)(&folder) {
        Ok(free) => free,
        Err(source) => return Err(Error::Local { path: folder, source }),
    };
    let need = need + HEADROOM;
    if free < need {
        return Err(Error::NoSpace { folder, what: what.to_owned(), need, free });
    }
    Ok(())
}

/// Makes the folder with the files under their names, as links.
fn lay_out(fetcher: &Fetcher, place: &Place, pinned: &Pinned) -> Result<PathBuf, Error> {
    let folder = sources_folder(fetcher, pinned);
    for file in &pinned.files {
        let target = match place {
            Place::Hub(_) | Place::Link(_) => fetcher.store.path(&file.sha256),
            Place::Local(path) => local::find(path, file, &fetcher.store)?,
        };
        let link = folder.join(&file.path);
        let fail = |source| Error::LayOut { path: link.clone(), source };
        let target = std::path::absolute(target).map_err(fail)?;
        link_to(&target, &link).map_err(fail)?;
    }
    Ok(folder)
}

/// Returns the folder that a source is laid out in: the same for the same content.
fn sources_folder(fetcher: &Fetcher, pinned: &Pinned) -> PathBuf {
    let content: Vec<_> = pinned.files.iter().map(|file| (&file.path, file.sha256)).collect();
    let name = Digest::of(serde_json::json!(content).to_string().as_bytes());
    fetcher.store.root().join("sources").join(name.to_string())
}

fn link_to(target: &Path, link: &Path) -> std::io::Result<()> {
    if fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let folder = link.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // under another name first: whoever reads the folder never finds the link missing
    let made = tempfile::Builder::new().prefix("new-").make_in(folder, |path| symlink(target, path))?;
    fs::rename(made.path(), link)?;
    // what it would remove at its end has been renamed
    drop(made.into_temp_path().keep());
    Ok(())
}
