//! One file to hosts, without a plan: ahead of an `apply`, or for whatever else reads blobs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::Serialize;

use super::weights::tensor_starts;
use crate::bundle::Found;
use crate::causes::with_causes;
use crate::connect::Connection;
use crate::events::Events;
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::transfer::{self, Cargo, ChunkList, Pushed, Way};
use crate::units::Bytes;

/// A host that is pushed to.
pub struct Receiver {
    /// Its name.
    pub host: HostName,
    /// Where Bramble lives there.
    pub layout: Layout,
    /// Whether our programs there are run as root.
    pub is_root: bool,
    /// The way to it.
    pub connection: Arc<dyn Connection>,
    /// What takes the file there.
    pub bundle: Found,
}

/// A file that was pushed.
#[derive(Debug, Serialize)]
pub struct Delivery {
    /// The file's SHA-256, which is its name on the hosts.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// What it took, by host.
    pub arrived: BTreeMap<HostName, Arrived>,
    /// Why it is not there, by host.
    pub failed: BTreeMap<HostName, String>,
}

/// What it took to bring a file to a host.
#[derive(Debug, Clone, Serialize)]
pub struct Arrived {
    /// Where it is.
    pub path: String,
    /// Bytes of it that went over the network, and of the program that took it.
    pub bytes_sent: Bytes,
    /// Bytes of it that were there, in it or in other blobs.
    pub bytes_reused: Bytes,
    /// How long it took.
    pub seconds: f64,
}

/// Brings the file at `path` to hosts, at most `most` side by side. The list of its chunks is kept in
/// `cache`.
///
/// # Errors
/// The file cannot be read here. What fails on a host is in the [`Delivery`].
pub async fn push(
    path: &Path,
    receivers: &[Receiver],
    most: usize,
    cache: &Path,
    events: &Events,
) -> std::io::Result<Delivery> {
    let (file, lists) = (path.to_owned(), cache.to_owned());
    let listing = tokio::task::spawn_blocking(move || ChunkList::make(&file, &tensor_starts(&file), &lists));
    let list = listing.await.map_err(std::io::Error::other).flatten()?;
    let what = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    let cargo = Cargo { what: &what, digest: &list.digest, bytes: list.bytes, path };
    let pushes = receivers.iter().map(|receiver| {
        let list = &list;
        async move { (receiver.host.clone(), receiver.push(cargo, list, events).await) }
    });
    let (mut arrived, mut failed) = (BTreeMap::new(), BTreeMap::new());
    let mut pushes = futures_util::stream::iter(pushes).buffer_unordered(most.max(1));
    while let Some((host, outcome)) = pushes.next().await {
        match outcome {
            Ok(one) => drop(arrived.insert(host, one)),
            Err(error) => drop(failed.insert(host, with_causes(&error))),
        }
    }
    Ok(Delivery { digest: list.digest, bytes: list.bytes, arrived, failed })
}

impl Receiver {
    async fn push(
        &self,
        cargo: Cargo<'_>,
        list: &ChunkList,
        events: &Events,
    ) -> Result<Arrived, transfer::Error> {
        let way = Way {
            host: &self.host,
            connection: self.connection.as_ref(),
            layout: &self.layout,
            is_root: self.is_root,
        };
        let first = push_program(way, &self.bundle, events).await?;
        let pushed = transfer::push(way, &self.bundle.bundle.digest, cargo, list, events).await?;
        Ok(Arrived {
            path: self.layout.blob(cargo.digest).display().to_string(),
            bytes_sent: first.bytes_sent + pushed.bytes_sent,
            bytes_reused: pushed.bytes_reused,
            seconds: first.seconds + pushed.seconds,
        })
    }
}

/// Brings the program of a bundle to a host.
pub(super) async fn push_program(
    way: Way<'_>,
    found: &Found,
    events: &Events,
) -> Result<Pushed, transfer::Error> {
    let bundle = &found.bundle;
    let what = format!("brambled {} for {}", bundle.version, bundle.target);
    let cargo = Cargo { what: &what, digest: &bundle.digest, bytes: bundle.bytes, path: &found.archive };
    transfer::push_bundle(way, cargo, events).await
}
