//! Carries out a plan: the only room that changes hosts.
//!
//! A switchboard: one match from [`Action`](crate::plan::Action) to the room that does it. Everything was
//! chosen in the plan. One host's failure is data in the [`Report`], and never ends the work
//! on another.

mod apply;
mod doors;
mod earlier;
mod hosts;
mod lease;
mod logs;
mod program;
mod push;
mod report;
mod step;
mod verbs;
mod weights;

pub use crate::install::{LogLine, PruneRequest, Pruned, Verified};
pub use crate::transfer::{Limits, Link};
pub use apply::apply;
pub use doors::{Doors, Reconnect};
pub use earlier::{Earlier, WaysBack, ways_back};
pub use hosts::{Author, Subject, cordon, prune, remove, restart, roll_back};
pub use logs::{LogsRequest, logs};
pub use push::{Arrived, Delivery, Parcel, Receiver, link, push};
pub use report::{Made, Outcome, Report, State};
pub use verbs::{VerbError, Verbs};
pub use weights::{Left, check_room, left};

#[cfg(test)]
mod tests;
