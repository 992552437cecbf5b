//! The systemd units of a generation, rendered from `templates/`.
//!
//! Pure: plain data in, texts out, so that the units stand in the plan and are
//! reviewed with it. The same data always gives the same text. This room knows
//! nothing of where units are put or how they are started.

mod render;

pub use render::{Error, SERVICE_USER, SYSTEM_TARGET, Setting, USER_TARGET, Unit, engine_service, render};

/// The name of the router among the services of a host; its unit is `bramble-route.service`.
pub const ROUTE: &str = "route";

/// The unit that takes back, at boot, a generation that was never confirmed.
pub const BOOT_GUARD: &str = "bramble-guard-boot.service";

#[cfg(test)]
mod tests;
