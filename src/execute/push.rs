//! One file to hosts, without a plan: ahead of an `apply`, or for whatever else reads blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::lease::{Leases, Seat};
use super::program::Program;
use super::verbs::VerbError;
use super::weights::tensor_starts;
use crate::bundle::Found;
use crate::causes::with_causes;
use crate::connect::Connection;
use crate::events::Events;
use crate::facts::HostFacts;
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::store::Store;
use crate::transfer::{self, Cargo, ChunkList, Limits, Link, Reason, Target, Way};
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
    /// How other hosts reach it.
    pub link: Option<Link>,
    /// Whether it is this machine.
    pub is_here: bool,
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
    /// Those of the failed that somebody else is changing.
    pub locked: BTreeSet<HostName>,
}

/// What it took to bring a file to a host.
#[derive(Debug, Clone, Serialize)]
pub struct Arrived {
    /// Where it is.
    pub path: String,
    /// Bytes of it that left this machine, and of the program that took it.
    pub bytes_sent: Bytes,
    /// Bytes of it that came from other hosts.
    pub bytes_from_hosts: Bytes,
    /// Bytes of it that were there, in it or in other blobs.
    pub bytes_reused: Bytes,
    /// How long it took.
    pub seconds: f64,
}

/// A file that is to be pushed: its chunks are listed from now on, beside whatever else goes on.
pub struct Parcel {
    path: PathBuf,
    listing: JoinHandle<std::io::Result<ChunkList>>,
}

impl Parcel {
    /// Begins to list the chunks of the file at `path`. The list is kept in `store`.
    pub fn open(path: &Path, store: Store) -> Self {
        let file = path.to_owned();
        let listing = tokio::task::spawn_blocking(move || {
            ChunkList::make(&file, &store.chunks(), &store.hashed(), || tensor_starts(&file))
        });
        Self { path: path.to_owned(), listing }
    }
}

/// Brings a file to hosts, to all at once; the program that takes it first, to at most `most` side by
/// side. `operator` is `user@machine`, who holds the leases of the hosts meanwhile.
///
/// # Errors
/// The file cannot be read here. What fails on a host is in the [`Delivery`].
pub async fn push(
    parcel: Parcel,
    receivers: &[Receiver],
    most: usize,
    limits: &Limits,
    operator: &str,
    events: &Events,
) -> std::io::Result<Delivery> {
    let Parcel { path, listing } = parcel;
    let programs = receivers.iter().map(|receiver| receiver.program().push(operator, limits, events));
    let programs: Vec<_> = programs.collect();
    let programs = futures_util::stream::iter(programs).buffered(most.max(1)).collect::<Vec<_>>();
    let (listed, programs) = tokio::join!(listing, programs);
    let list = listed.map_err(std::io::Error::other).flatten()?;
    let what = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    let cargo = Cargo { what: &what, digest: &list.digest, bytes: list.bytes, path: &path };
    let (mut failed, mut locked) = (BTreeMap::new(), BTreeSet::new());
    let mut ready = Vec::new();
    for (receiver, program) in receivers.iter().zip(programs) {
        match program {
            Ok(program) => ready.push((receiver, program)),
            Err(transfer::Error::Refused { reason: Reason::Over, message: said, .. }) => {
                locked.insert(receiver.host.clone());
                failed.insert(receiver.host.clone(), VerbError::Locked { said }.to_string());
            }
            Err(error) => drop(failed.insert(receiver.host.clone(), with_causes(&error))),
        }
    }
    let leases = Leases::new(operator, events);
    let given = ready.iter().map(|(receiver, _)| leases.of(receiver.seat()));
    let given = futures_util::future::join_all(given).await;
    let mut targets = Vec::new();
    let mut taken = Vec::new();
    for ((receiver, program), lease) in ready.into_iter().zip(given) {
        match lease {
            Ok(lease) => {
                targets.push(receiver.target(lease));
                taken.push((receiver, program));
            }
            Err(error) => {
                if matches!(error, VerbError::Locked { .. }) {
                    locked.insert(receiver.host.clone());
                }
                failed.insert(receiver.host.clone(), with_causes(&error));
            }
        }
    }
    let pushed = transfer::push(&targets, cargo, &list, limits, events).await;
    leases.release().await;
    let mut arrived = BTreeMap::new();
    for ((receiver, program), pushed) in taken.into_iter().zip(pushed) {
        match pushed {
            Ok(pushed) => drop(arrived.insert(
                receiver.host.clone(),
                Arrived {
                    path: receiver.layout.blob(cargo.digest).display().to_string(),
                    bytes_sent: program.bytes_sent + pushed.bytes_sent,
                    bytes_from_hosts: pushed.bytes_from_hosts,
                    bytes_reused: pushed.bytes_reused,
                    seconds: program.seconds + pushed.seconds,
                },
            )),
            Err(error) => {
                if error.is_over() {
                    locked.insert(receiver.host.clone());
                }
                failed.insert(receiver.host.clone(), with_causes(&error));
            }
        }
    }
    Ok(Delivery { digest: list.digest, bytes: list.bytes, arrived, failed, locked })
}

impl Receiver {
    fn way(&self) -> Way<'_> {
        Way {
            host: &self.host,
            connection: self.connection.as_ref(),
            layout: &self.layout,
            is_root: self.is_root,
        }
    }

    fn target(&self, lease: u64) -> Target<'_> {
        let program = &self.bundle.bundle.digest;
        Target { way: self.way(), program, lease, link: self.link, is_here: self.is_here, gives: false }
    }

    fn seat(&self) -> Seat {
        Seat {
            host: self.host.clone(),
            connection: Arc::clone(&self.connection),
            layout: self.layout.clone(),
            program: Some(self.bundle.bundle.digest),
            is_root: self.is_root,
        }
    }

    fn program(&self) -> Program<'_> {
        // whether anything was there nobody has planned with
        Program { seat: self.seat(), found: &self.bundle, is_here: self.is_here, is_installed: false }
    }
}

/// Returns how other hosts reach one that was looked at.
pub fn link(facts: &HostFacts) -> Option<Link> {
    let (is_wireless, megabits) =
        facts.link.as_ref().map_or((false, None), |link| (link.is_wireless, link.megabits));
    Some(Link { address: facts.reached?, is_wireless, megabits })
}
