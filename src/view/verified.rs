use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Style, count};
use crate::execute::Verified;
use crate::ids::HostName;
use crate::terminal;
use crate::units::Bytes;

/// Returns what hashing the weights on hosts has shown, a line for each host and each damaged file.
pub fn verified(
    verified: &BTreeMap<HostName, Verified>,
    failed: &BTreeMap<HostName, String>,
    style: Style,
) -> String {
    let mut text = "\n".to_owned();
    for (host, verified) in verified {
        let bytes: Bytes = verified.models.values().copied().sum();
        for (model, found) in &verified.damaged {
            let is = found.map_or_else(
                || "gone".to_owned(),
                |found| format!("damaged: their digest is {} by now", found.short()),
            );
            let _ = writeln!(
                text,
                "{} {host}: the weights of {model} are {is}; `bramble apply` sends what is wrong of them",
                style.bad("x")
            );
        }
        if verified.damaged.is_empty() {
            let of = count(verified.models.len(), "model");
            let _ = writeln!(text, "{} {host}: the weights of {of} are sound ({bytes})", style.good("ok"));
        }
    }
    for (host, why) in failed {
        let _ = writeln!(text, "{} {host}: not verified: {}", style.bad("x"), terminal::text(why));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;

    #[test]
    fn sound_damaged_gone_and_unreached_weights_are_told_apart() {
        let weights = |damaged: &[(&str, Option<Digest>)]| Verified {
            models: [("chat", 100), ("code", 28)]
                .map(|(model, mib)| (model.parse().unwrap(), Bytes::mib(mib)))
                .into(),
            damaged: damaged.iter().map(|(model, found)| (model.parse().unwrap(), *found)).collect(),
        };
        let hosts =
            [("attic", weights(&[])), ("shed", weights(&[("chat", Some(Digest::of(b"x"))), ("code", None)]))];
        let hosts = hosts.map(|(host, weights)| (host.parse().unwrap(), weights)).into();
        let failed = [("barn".parse().unwrap(), "it cannot be reached".to_owned())].into();
        let digest = Digest::of(b"x").short();
        assert_eq!(
            verified(&hosts, &failed, Style::default()),
            format!(
                "\n\
                 ok attic: the weights of 2 models are sound (128 MiB)\n\
                 x shed: the weights of chat are damaged: their digest is {digest} by now; `bramble apply` sends what is wrong of them\n\
                 x shed: the weights of code are gone; `bramble apply` sends what is wrong of them\n\
                 x barn: not verified: it cannot be reached\n"
            )
        );
    }
}
