//! Fetching against a double of the hub: what arrives, what goes over the wire, what is said.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod arrive;
mod astray;
mod bench;
mod command;
mod disk;
mod double;
mod faults;
mod links;
mod say;
mod sources;
mod token;
mod vouched;

#[path = "../support/hub.rs"]
mod hub;
#[expect(dead_code, reason = "one kind of small disk is enough here")]
#[path = "../support/disk.rs"]
mod small_disk;
