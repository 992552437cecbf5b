//! Decides what will be done: desired state, the difference to what is there, and the
//! steps in waves. Pure: values in, values out; no I/O, clock or environment.
//!
//! Every problem is collected and returned together with the plan of what can be done.
//! [`check`] reads a finished plan a second time, without knowing how it was made.

mod check;
mod choose;
mod diff;
mod door;
mod forms;
mod gpu;
mod make;
mod misfit;
mod notes;
mod stay;
mod suit;
mod types;
mod units;
mod waves;
mod wishes;

pub use check::check;
pub use door::{door_tls, door_url};
pub use forms::recipe;
pub use gpu::bundle;
pub use make::{Inputs, fingerprint, make, manifest_digest};
pub use suit::{is_root, no_bundle, root, stranger, suit};
pub use types::{
    Action, Artifact, Chosen, FORMAT, HostPlan, Plan, PlannedHost, Problem, Skipped, Step, Wave,
};
pub use units::written_by_others;

#[cfg(test)]
mod bad_tests;
#[cfg(test)]
mod examples_tests;
#[cfg(test)]
mod gpu_tests;
#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod moved_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trust_tests;
