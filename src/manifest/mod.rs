//! What the user wrote: `fleet.yaml` as checked values.
//!
//! Parsing finds every fault at once, each with its line and column. A key that a room
//! cannot act on yet is a fault too, with words that say so.

mod schema;

pub use schema::{
    Defaults, Deploy, Floor, HostSpec, Manifest, ModelSpec, On, Prefer, QuantChoice, Role, Rollout,
    RouteMode, RoutePolicy, Selector, Serve, SshOptions, Tls, Via, Wake,
};
