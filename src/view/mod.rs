//! Values as text for people. The same values are printed as JSON by `--json`.
//!
//! Nothing here decides, reads a clock or knows a terminal: the width of a line and
//! whether there is colour come in with [`Style`].

mod apply;
mod back;
mod bench;
mod changes;
mod doctor;
mod fit;
mod html;
mod logs;
mod plan;
mod progress;
mod prune;
mod push;
mod schema;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod verified;
mod wrap;

pub use apply::{Deed, report};
pub use back::going_back;
pub use bench::bench;
pub use doctor::diagnosis;
pub use fit::fit;
pub use html::html;
pub use logs::log_line;
pub use plan::{part, plan};
pub use progress::{Progress, Showing};
pub use prune::pruned;
pub use push::delivery;
pub use schema::schema;
pub use status::status;
pub use table::{Style, Table};
pub use verified::verified;
pub use wrap::{cut, folded};

/// What is said of a fleet without a host to look at.
const NO_HOST: &str = "There is no host to look at: boards of the manifest are not bought yet, and its upstreams are not ours.\n";

use crate::ids::HostName;

/// Returns what is to be known of a host that has left the manifest.
fn of_orphan(host: &HostName) -> String {
    format!(
        "no longer in the manifest and still serving; `bramble remove {host}` ends that, `bramble forget {host}` where it is gone for good"
    )
}

/// Returns `1 host` or `3 hosts`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Returns what writes `text`, of which nothing foreign drives a terminal any more, over what a terminal shows, without a flicker between.
pub fn redrawn(text: &str) -> String {
    // home; the rest of each line; what is below
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
