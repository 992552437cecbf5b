//! Weights from where they are published, or from a folder, to the operator's machine.
//!
//! [`Fetcher::pin`] makes a source exact, once: a commit, and every file with its
//! SHA-256. [`Fetcher::describe`] reads the headers, without the weights, so that a plan
//! can be made. [`Fetcher::obtain`] brings the files.
//!
//! Invariants: bytes are hashed while they arrive, and only what matches gets a name in
//! the store; a byte that arrived is not fetched again; the hub's token goes to the hub's
//! own address and nowhere else; nobody on the internet sends us to this machine's own networks (`guard`); what is here needs no network.
//!
//! It does not convert, has never heard of hosts, and does not speak the hub's Xet
//! protocol: the plain addresses serve the same bytes.

mod address;
mod answer;
mod choose;
mod describe;
mod download;
mod error;
mod guard;
mod header;
mod hub;
mod lanes;
mod license;
mod link;
mod local;
mod obtain;
mod pace;
mod python;
mod settings;
mod waits;
mod web;

use std::path::{Path, PathBuf};

use crate::events::Events;
use crate::source::{Pinned, PinnedFile, SourceRef};
use crate::store::Store;
use crate::units::Bytes;

use address::{HubAddress, check_path};
use link::Link;
use web::Web;

pub use describe::{RawHeader, RawModel};
pub use error::Error;
pub use local::check_folder;
pub use settings::{Lanes, Machine, Patience, Settings, TOKEN_VARIABLE, Token};

/// Pins, describes and obtains sources. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    settings: Settings,
    store: Store,
    web: Web,
    events: Events,
    machine: Machine,
}

/// Where the files of a pinned source are.
#[derive(Debug)]
enum Place {
    /// In a repository of the hub, at a commit.
    Hub(HubAddress),
    /// Behind one address.
    Link(Link),
    /// In this folder, or in this one file.
    Local(PathBuf),
}

impl Place {
    /// Returns the question for one of its files; none where nobody is to be asked.
    fn ask(&self, path: &str) -> Option<web::Ask> {
        match self {
            Self::Hub(address) => Some(address.ask(path)),
            Self::Link(link) => Some(link.ask()),
            Self::Local(_) => None,
        }
    }
}

impl Fetcher {
    /// Opens the store under [`Settings::cache`] and sets up the way to the hub. Nothing is
    /// sent yet.
    pub fn new(settings: Settings, events: Events) -> Result<Self, Error> {
        Self::on(settings, events, Machine::default())
    }

    /// As [`Self::new`], on another machine than this: for tests.
    pub fn on(settings: Settings, events: Events, machine: Machine) -> Result<Self, Error> {
        let store = Store::open(&settings.cache)
            .map_err(|source| Error::Store { what: "anything".to_owned(), source })?;
        let web = Web::new(&settings, machine.clone(), events.clone())?;
        Ok(Self { settings, store, web, events, machine })
    }

    /// Returns the store that everything comes into.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes a source exact. Of a hub's repository it takes two or more requests, and the
    /// small files come along; offline, the cache of the hub's Python client is asked instead. Of a
    /// folder every file is hashed, once for each change.
    ///
    /// # Errors
    /// What cannot be used as a source yet is refused with what to write instead; gated,
    /// missing and unreachable repositories are told apart.
    pub async fn pin(&self, source: &SourceRef) -> Result<Pinned, Error> {
        let not_yet = |instead| Err(Error::NotYet { what: source.to_string(), instead });
        match source {
            SourceRef::Hub { repo, revision, file } => {
                let revision = revision.as_deref().unwrap_or("main");
                let address = HubAddress::new(repo, revision, file.as_deref())?;
                if self.is_offline() {
                    return self.pin_offline(address).await;
                }
                hub::pin(&self.web, &self.store, &address).await
            }
            SourceRef::File(path) => {
                let (uri, path) = (source.to_string(), self.local(path));
                let (what, store) = (uri.clone(), self.store.clone());
                let pinned = tokio::task::spawn_blocking(move || local::pin(&uri, &path, &store));
                pinned.await.map_err(|_| Error::Cut { what })?
            }
            SourceRef::Url(text) => link::pin(self, &Link::parse(text)?).await,
            SourceRef::Delta { base, delta } => {
                // the same function once more: the futures have to be boxed
                let (base, delta) = tokio::try_join!(Box::pin(self.pin(base)), Box::pin(self.pin(delta)))?;
                if base.is_gguf() || delta.is_gguf() || base.parts().is_some() || delta.parts().is_some() {
                    let why =
                        "differences and their base are checkpoints, neither GGUF files nor sums".to_owned();
                    return Err(Error::NotACheckpoint { what: source.to_string(), why });
                }
                Ok(Pinned::sum(&base, &delta))
            }
            SourceRef::Catalog(_) => not_yet("write the source that the catalog names: hf:ORG/REPO"),
        }
    }

    async fn pin_offline(&self, address: HubAddress) -> Result<Pinned, Error> {
        let what = python::name(&address);
        let Some(cache) = self.settings.hub_cache.clone() else { return Err(Error::Offline { what }) };
        let store = self.store.clone();
        let pinned = tokio::task::spawn_blocking(move || python::pin(&cache, &address, &store));
        let pinned = pinned.await.map_err(|_| Error::Cut { what: what.clone() })??;
        let license = if pinned.license.is_some() { "" } else { ", and its licence is not known" };
        self.web.note(&format!(
            "{what} is pinned offline, as the cache of the hub's Python client has it: files that were never fetched there are not part of it{license}"
        ));
        Ok(pinned)
    }

    /// Returns whether nothing may go over the network.
    pub fn is_offline(&self) -> bool {
        self.settings.is_offline
    }

    /// Reads the headers of a pinned source, without its weights.
    pub async fn describe(&self, pinned: &Pinned) -> Result<RawModel, Error> {
        describe::describe(self, pinned).await
    }

    /// Brings the files of a pinned source here and returns a folder that has them under
    /// their names, as links. Files that are here already cost no request.
    ///
    /// Dropped or failed, it leaves what has arrived; the next call goes on from there.
    pub async fn obtain(&self, pinned: &Pinned) -> Result<PathBuf, Error> {
        obtain::obtain(self, pinned).await
    }

    /// Checks that the licence of a source, if it is one that wants a yes, got it: `accepted`
    /// is what the user wrote as `accept_license`. Before the weights, so that nobody waits
    /// for what may not be used.
    ///
    /// Of differences and their base, each licence that wants a yes must get it.
    pub fn check_license(&self, pinned: &Pinned, accepted: Option<&str>) -> Result<(), Error> {
        if let Some((base, delta)) = pinned.parts() {
            return self.check_license(&base, accepted).and_then(|()| self.check_license(&delta, accepted));
        }
        let repo = HubAddress::parse(&pinned.uri).map(|address| address.repo);
        let page = repo.map_or_else(|_| pinned.uri.clone(), |repo| self.web.page(&repo));
        license::check(pinned, accepted, &page)
    }

    /// Pins a file of the operator's own that is no source of weights, such as an importance
    /// matrix. `path` is relative to [`Settings::folder`].
    pub async fn pin_file(&self, path: &str) -> Result<PinnedFile, Error> {
        let (place, store) = (self.local(path), self.store.clone());
        let pinned = tokio::task::spawn_blocking(move || local::hash(&place, &store));
        let (sha256, bytes) = pinned.await.map_err(|_| Error::Cut { what: path.to_owned() })??;
        Ok(PinnedFile { path: path.to_owned(), bytes, sha256 })
    }

    /// Returns where such a file is, if it is still the same.
    ///
    /// # Errors
    /// [`Error::FileChanged`] where it is another by now.
    pub async fn find_file(&self, file: &PinnedFile) -> Result<PathBuf, Error> {
        let path = self.local(&file.path);
        if self.pin_file(&file.path).await? == *file { Ok(path) } else { Err(Error::FileChanged { path }) }
    }

    /// Returns how much of `sources` has still to come.
    pub fn missing_bytes(&self, sources: &[&Pinned]) -> Result<Bytes, Error> {
        obtain::missing_bytes(self, sources)
    }

    /// Checks that there is room for all of `sources`, before any of them is obtained, and for `made`
    /// bytes that will be made of them in the store.
    pub fn check_room(&self, sources: &[&Pinned], made: Bytes) -> Result<(), Error> {
        obtain::check_room(self, sources, made)
    }

    /// Returns whether a file is in the store, whole. A blob of another size is damaged,
    /// and goes, so that it is fetched again.
    fn is_here(&self, file: &PinnedFile) -> bool {
        match self.store.size(&file.sha256) {
            Some(size) if size == file.bytes => true,
            Some(_) => {
                drop(self.store.remove(&file.sha256));
                false
            }
            None => false,
        }
    }

    async fn bring(&self, place: &Place, files: &[PinnedFile]) -> Result<(), Error> {
        match place {
            Place::Local(_) => Ok(()),
            Place::Hub(_) | Place::Link(_) => obtain::bring(self, place, files).await,
        }
    }

    /// Finds out where a pinned source is. A lock may have been edited: nothing in it is trusted.
    fn place(&self, pinned: &Pinned) -> Result<Place, Error> {
        pinned.files.iter().try_for_each(|file| check_path(&pinned.uri, &file.path))?;
        if let Some(path) = pinned.uri.strip_prefix("file:") {
            return Ok(Place::Local(self.local(path)));
        }
        if pinned.uri.starts_with("http") {
            return Link::parse(&pinned.uri).map(Place::Link);
        }
        HubAddress::parse(&pinned.uri).map(Place::Hub)
    }

    fn local(&self, path: &str) -> PathBuf {
        self.settings.folder.join(Path::new(path))
    }
}
