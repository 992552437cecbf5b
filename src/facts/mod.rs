//! What hosts are: measured facts, the board table, and the parser of what the probe prints.
//!
//! An unknown fact is `None`, never a guess.

mod host;

pub use host::{
    Board, Cpu, Disk, HostFacts, Installed, Inventory, Memory, Privilege, ProbeFailure, ServiceState,
    Supervision,
};
