//! One file into the store: taken up where it broke off, checked while it arrives, tried again.

use std::time::Duration;

use super::error::Error;
use super::lanes::{self, Ended};
use super::waits::Backoff;
use super::web::{Ask, Web};
use crate::source::PinnedFile;
use crate::store::{self, Arrival, Made, Store};
use crate::units::Bytes;

/// How often another run is looked at that fetches the same file.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// A file may change while it is fetched. A server that calls it something else every time is
/// not believed for ever: each time costs all that has arrived.
const VERSIONS_MAX: u32 = 3;

/// What of a file is known before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Its SHA-256.
    ByDigest,
    /// Its name alone: what stands for its SHA-256 is that of its address.
    ByName,
}

/// Brings `file` into the store. `progress` is told how many of its bytes are here.
pub(super) async fn download(
    web: &Web,
    store: &Store,
    ask: &Ask,
    file: &PinnedFile,
    known: Known,
    progress: &(dyn Fn(Bytes) + Sync),
) -> Result<Made, Error> {
    let keep = |source| Error::Store { what: ask.what.clone(), source };
    let is_here = Made { digest: file.sha256, bytes: file.bytes };
    let Some(mut arrival) = take_up(web, store, ask, file, known).await? else { return Ok(is_here) };
    // bytes of an earlier run may have rotted: then it is worth beginning again, once
    let mut is_resumed = arrival.arrived() > Bytes::ZERO;
    let mut backoff = Backoff::default();
    let mut versions = 0;
    // where the file was found last; signed addresses are good for many ranges
    let place = lanes::Place::default();
    loop {
        progress(arrival.arrived());
        if arrival.is_whole() {
            match off_thread(ask, move || arrival.seal()).await? {
                Ok(made) => return Ok(made),
                Err(store::Error::Mismatch { .. }) if is_resumed => {
                    tracing::warn!(what = %ask.what, "what had arrived before is damaged: beginning again");
                    is_resumed = false;
                    let Some(again) = take_up(web, store, ask, file, known).await? else {
                        return Ok(is_here);
                    };
                    arrival = again;
                    continue;
                }
                Err(store::Error::Mismatch { expected, got, .. }) => {
                    return Err(Error::Mismatch { what: ask.what.clone(), expected, got });
                }
                Err(source) => return Err(keep(source)),
            }
        }
        let before = arrival.arrived();
        let (back, ended) = lanes::round(web, &place, arrival, ask, file, progress).await?;
        arrival = back;
        if arrival.arrived() > before {
            backoff.progressed();
        }
        match ended {
            Ended::Well => {}
            Ended::Badly(error @ (Error::WrongLength { .. } | Error::Mismatch { .. })) => {
                off_thread(ask, move || arrival.discard()).await?.map_err(keep)?;
                return Err(error);
            }
            Ended::Badly(error) => web.pause_after(&mut backoff, error).await?,
            Ended::OtherVersion if versions == VERSIONS_MAX => {
                let why = "another version of it comes every time".to_owned();
                return Err(Error::BadAnswer { what: ask.what.clone(), why });
            }
            Ended::OtherVersion => {
                versions += 1;
                let (got, expected) = (arrival.arrived(), file.bytes);
                arrival.restart().map_err(keep)?;
                let error = Error::EndedEarly { what: ask.what.clone(), got, expected };
                web.pause_after(&mut backoff, error).await?;
            }
        }
    }
}

/// Takes up the file, as soon as no other run has it; none when that one has brought it.
async fn take_up(
    web: &Web,
    store: &Store,
    ask: &Ask,
    file: &PinnedFile,
    known: Known,
) -> Result<Option<Arrival>, Error> {
    let mut is_told = false;
    loop {
        let (digest, size, ours) = (file.sha256, file.bytes, store.clone());
        let arrival = off_thread(ask, move || match known {
            Known::ByDigest => ours.arrive(&digest, size),
            Known::ByName => ours.arrive_unknown(&digest, size),
        });
        let arrival = arrival.await?;
        match arrival {
            Ok(arrival) if known == Known::ByDigest && store.size(&file.sha256) == Some(file.bytes) => {
                // another run has just finished it
                let discarded = off_thread(ask, move || arrival.discard()).await?;
                let keep = |source| Error::Store { what: ask.what.clone(), source };
                return discarded.map(|()| None).map_err(keep);
            }
            Ok(arrival) => return Ok(Some(arrival)),
            Err(store::Error::Busy { .. }) => {
                if !std::mem::replace(&mut is_told, true) {
                    web.note(&format!("another run is fetching {}: waiting for it", ask.what));
                }
                web.pause(BUSY_PAUSE).await;
            }
            Err(source) => return Err(Error::Store { what: ask.what.clone(), source }),
        }
    }
}

/// Runs what blocks on the disk where that is allowed.
pub(super) async fn off_thread<T: Send + 'static>(
    ask: &Ask,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cut { what: ask.what.clone() })
}
