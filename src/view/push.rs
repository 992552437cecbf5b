use std::fmt::Write as _;

use super::{Style, count};
use crate::execute::Delivery;
use crate::terminal;
use crate::units::Bytes;

/// Returns what became of a push, a line for each host, and what it was in all.
pub fn delivery(delivery: &Delivery, style: Style) -> String {
    let mut text = String::new();
    for (host, arrived) in &delivery.arrived {
        let some = |bytes: Bytes, what: &str| match bytes {
            Bytes::ZERO => String::new(),
            bytes => format!(", {bytes} {what}"),
        };
        let _ = writeln!(
            text,
            "{} {host}: {} sent{}{}, {:.1} s: {}",
            style.good("+"),
            arrived.bytes_sent,
            some(arrived.bytes_from_hosts, "from other hosts"),
            some(arrived.bytes_reused, "were there"),
            arrived.seconds,
            arrived.path
        );
    }
    for (host, why) in &delivery.failed {
        let _ = writeln!(text, "{} {host}: {}", style.bad("x"), terminal::text(why));
    }
    let sent: Bytes = delivery.arrived.values().map(|arrived| arrived.bytes_sent).sum();
    let between: Bytes = delivery.arrived.values().map(|arrived| arrived.bytes_from_hosts).sum();
    let between = match between {
        Bytes::ZERO => String::new(),
        bytes => format!(", {bytes} went from host to host"),
    };
    let _ = writeln!(
        text,
        "{} of {} on {}; {sent} left this machine{between}.",
        delivery.digest.short(),
        delivery.bytes,
        count(delivery.arrived.len(), "host")
    );
    text
}
