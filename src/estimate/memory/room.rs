//! The memory that a host has for engines.

use crate::facts::HostFacts;
use crate::units::Bytes;

/// The router: one process for all models of a host, without llama.cpp.
const ROUTER: Bytes = Bytes::mib(10);

/// Returns the memory that engines may have on `host`, all of them together, beside the
/// router: what is available, and what our own running processes would free, less a margin.
/// Swap and zram are no room.
pub fn room(host: &HostFacts) -> Bytes {
    let ours = host.installed.as_ref().map_or(Bytes::ZERO, |installed| installed.memory);
    let margin = margin(host.memory.total);
    let most = host.memory.total - margin;
    ((host.memory.available + ours).min(host.memory.total) - margin).min(most) - ROUTER
}

/// What is left free: 5 % of the memory, and 2.5 % of what is beyond the first GiB, the
/// latter up to 100 MiB.
///
/// Estimates on hosts not measured yet want 5 % and 100 MiB (the error of the parts that
/// are not laws, and growth of the other programs). The 100 MiB are for what a board of 4
/// GiB and more runs beside us, a desktop or a package upgrade; on a board of 1 GiB, whose
/// whole Lite system takes 77 to 191 MiB, they would be half of what can be had.
/// `MemAvailable` has the kernel's own reserve taken off already.
fn margin(total: Bytes) -> Bytes {
    let beyond = total - Bytes::gib(1);
    Bytes(total.0 / 20) + Bytes(beyond.0 / 40).min(Bytes::mib(100))
}
