//! The page for browsers, and how they are let in: what a host's door and `bramble ui` have in common.
//!
//! The page itself is one text that says nothing of the fleet, and goes to everybody. Whoever shows a key gets a session in a
//! cookie, which scripts cannot read and other sites cannot send; what is behind it is read-only, but for asking a model.
//!
//! Sessions are random and in memory only: they end with the process, with the key, or when they were not used for
//! long, by a clock that nobody sets. A request that comes with one is held to be the page's own, by `Host` (a name that
//! somebody else's DNS leads here is refused), `Origin` and `Sec-Fetch-Site`.

mod front;
mod sessions;
#[cfg(test)]
mod tests;
mod text;

pub use front::{Account, Accounts, Front, LARGEST_KEY, SESSION, Site};
pub use sessions::secret;
pub use text::{guard, page};
