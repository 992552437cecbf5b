use std::fmt::Write as _;

use super::{Style, count};
use crate::execute::Delivery;
use crate::units::Bytes;

/// Returns what became of a push, a line for each host, and what it was in all.
pub fn delivery(delivery: &Delivery, style: Style) -> String {
    let mut text = String::new();
    for (host, arrived) in &delivery.arrived {
        let reused = match arrived.bytes_reused {
            Bytes::ZERO => String::new(),
            bytes => format!(", {bytes} were there"),
        };
        let _ = writeln!(
            text,
            "{} {host}: {} sent{reused}, {:.1} s: {}",
            style.good("+"),
            arrived.bytes_sent,
            arrived.seconds,
            arrived.path
        );
    }
    for (host, why) in &delivery.failed {
        let _ = writeln!(text, "{} {host}: {why}", style.bad("x"));
    }
    let sent: Bytes = delivery.arrived.values().map(|arrived| arrived.bytes_sent).sum();
    let _ = writeln!(
        text,
        "{} of {} on {}; {sent} left this machine.",
        delivery.digest.short(),
        delivery.bytes,
        count(delivery.arrived.len(), "host")
    );
    text
}
