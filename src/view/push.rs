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
    let reused: Bytes = delivery.arrived.values().map(|arrived| arrived.bytes_reused).sum();
    let moved = moved(sent, between, reused);
    let (digest, bytes) = (delivery.digest.short(), delivery.bytes);
    let _ = writeln!(text, "{digest} of {bytes} on {}; {moved}.", count(delivery.arrived.len(), "host"));
    text
}

/// Returns the words for what was moved: over this machine's uplink, between hosts, and not at all since it was there.
pub(super) fn moved(sent: Bytes, between: Bytes, reused: Bytes) -> String {
    let more = [(between, "went from host to host"), (reused, "was there already")];
    let mut text = format!("{sent} left this machine");
    for (bytes, what) in more.into_iter().filter(|(bytes, _)| *bytes > Bytes::ZERO) {
        let _ = write!(text, ", {bytes} {what}");
    }
    text
}
