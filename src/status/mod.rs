//! A snapshot of a running fleet: what each host runs, how it is, and what is not as it was applied.

mod gather;
mod snapshot;

pub use gather::{Door, body, gather};
pub use snapshot::{DoorState, HostStatus, ModelStatus, Reach, Snapshot};
