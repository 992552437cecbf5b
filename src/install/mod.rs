//! Generations on a host: lay out, activate, confirm, roll back, restart, cordon, prune, remove.
//!
//! Runs on the host itself, on one folder ([`crate::generation::Layout`]). The rule that
//! everything here keeps: at any moment, a power cut leaves the old generation or the
//! new one whole. `pending` is written before anything of a new generation takes effect
//! and is removed by `confirm` alone, or at the very end of going back; whoever finds it
//! (this room, the guard's timer, the guard at boot) knows what to go back to.
//!
//! This room does not choose anything: numbers, texts and deadlines come with the
//! requests. It moves no blobs (`transfer` does) and speaks no SSH.

mod activate;
mod ask;
mod bench;
mod change;
mod cordon;
mod error;
mod files;
mod guard;
mod inspect;
mod lay_out;
mod lock;
mod logs;
mod marker;
mod process;
mod program;
mod prune;
mod record;
mod remove;
mod stand;
mod supervise;
mod supervisor;
mod systemd;
mod trust;
mod verb;
mod verify;

pub use activate::{
    ActivateRequest, Activated, ProbeSpec, RestartRequest, Restarted, RollbackRequest, activate, restart,
    rollback,
};
pub use ask::{call, time};
pub use bench::{current_definition, keep_bench};
pub use change::Changes;
pub use cordon::{CordonRequest, Cordoned, cordon};
pub use error::Error;
pub use guard::{Arming, GUARD_SCRIPT};
pub use inspect::inspect;
pub use lay_out::{InstallRequest, Installation, install};
pub use logs::{LogLine, LogsArgs, run_logs};
pub use process::Process;
pub use prune::{PruneRequest, Pruned, prune};
pub use record::{ConfirmRequest, confirm, earlier};
pub use remove::{RemoveRequest, Removed, remove};
pub use supervise::supervise;
pub use supervisor::{Service, Supervisor};
pub use systemd::Systemd;
pub use verb::{Verb, answer, ask_for_lease, inspection, verification};
pub use verify::{Verified, verify};

#[cfg(test)]
mod tests;
