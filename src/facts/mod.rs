//! What hosts are: measured facts, the board table, and the parser of what the probe prints.
//!
//! An unknown fact is `None`, never a guess. What a host prints is foreign: it is bounded,
//! and no control character of it gets into a fact.

mod board;
mod host;
mod parse;
mod rates;
#[cfg(test)]
mod tests;

pub use board::{planned, planned_names};
pub use host::{
    Board, Cpu, Disk, HostFacts, Installed, Inventory, Memory, Privilege, ProbeFailure, ServiceState,
    Supervision,
};
pub use parse::{Error, parse_probe};
pub use rates::Rates;
