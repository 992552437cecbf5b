use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::Found;
use crate::connect::Connection;
use crate::fetch::Fetcher;
use crate::generation::Secrets;
use crate::ids::HostName;
use crate::transfer::{Limits, Link};

/// Opens a new way to a host, where there is one.
pub type Reconnect = Box<dyn Fn(&HostName) -> Option<Arc<dyn Connection>> + Send + Sync>;

/// Everything that carrying out a plan may touch.
pub struct Doors {
    /// The ways to the hosts.
    pub connections: BTreeMap<HostName, Arc<dyn Connection>>,
    /// How hosts reach each other.
    pub links: BTreeMap<HostName, Link>,
    /// Those that are this machine.
    pub here: BTreeSet<HostName>,
    /// How fast weights may move.
    pub limits: Limits,
    /// Opens a new way to a host, sharing nothing with the first: a confirmation that comes
    /// over it proves that the host can still be reached.
    pub reconnect: Reconnect,
    /// Where weights come from, and the store that they come into.
    pub fetcher: Fetcher,
    /// A `brambled` of this machine, that quantizes in a process of its own.
    pub brambled: PathBuf,
    /// The bundles on this machine.
    pub bundles: Vec<Found>,
    /// What hosts are given besides the plan.
    pub secrets: BTreeMap<HostName, Secrets>,
    /// Who applies, for the receipts: `user@machine`.
    pub operator: String,
    /// The time, for the receipts.
    pub now: String,
}
