//! The page for a whole fleet, on the operator's machine: `bramble ui`.
//!
//! It listens on the loopback alone, for whoever has the link that was printed, and shows what the doors of the hosts tell of
//! themselves, asked with the operator's key as long as somebody looks. It changes nothing on a host, and speaks no SSH:
//! a question in the chat goes to the door that was chosen, and what another command does to the fleet is read off a file
//! ([`crate::live`]).
//!
//! Whatever a door says is data: its name is the one that its address was asked by, and it has bounds of size and time.

mod serve;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub use serve::serve;

use crate::ids::{FleetName, HostName};
use crate::status::Door;

/// What is to be shown.
pub struct Fleet {
    /// Its name.
    pub name: FleetName,
    /// Its doors.
    pub doors: BTreeMap<HostName, Door>,
    /// What opens them.
    pub key: Zeroizing<String>,
    /// Where it is written what is being done to it.
    pub folder: PathBuf,
}
