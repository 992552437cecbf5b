//! What hosts are: measured facts, the board table, and the parser of what the probe prints.
//!
//! An unknown fact is `None`, never a guess. What a host prints is foreign: it is bounded,
//! and no control character of it gets into a fact.

mod bench;
mod board;
mod checkup;
mod health;
mod host;
mod measured;
mod parse;
mod rates;
mod receipt;
mod table;
#[cfg(test)]
mod tests;
mod work;

pub use bench::{Bench, EngineBench, MemoryBench, StorageBench, TextBench};
pub use board::{Stated, board_names, planned, planned_names};
pub use checkup::{Answer, Checkup, Firewall, FirewallKind, Process, parse_checkup};
pub use health::{Gpu, Health, Link, Medium, Throttled};
pub use host::{
    Board, Cordon, Cpu, Disk, HostFacts, Installed, Inventory, Lingering, Memory, Privilege, ProbeFailure,
    ServiceState, Supervision, UserManager,
};
pub use measured::{Foretold, Measured};
pub use parse::{Error, meminfo, parse_probe, probe_clock};
pub use rates::{Basis, Rates};
pub use receipt::{Receipt, ReceiptEntry};
pub use table::{Constant, Constants, Ground, Spread, Table};
pub use work::{Phase, Term, Terms, Work};
