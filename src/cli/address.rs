use std::net::IpAddr;

use anyhow::Context as _;

use crate::manifest::{GpuMode, HostSpec, Role, SshOptions, Supervisor, Via};

/// Reads `[USER@]ADDRESS[:PORT]`; an IPv6 address with a port is in brackets.
pub(crate) fn by_address(text: &str) -> anyhow::Result<Via> {
    let (user, rest) =
        text.rsplit_once('@').map_or((None, text), |(user, rest)| (Some(user.to_owned()), rest));
    let is_v6 = rest.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    let (address, port) = match rest.rsplit_once(':') {
        Some((address, port)) if !is_v6 => {
            (address, Some(port.parse().with_context(|| format!("{text:?} ends with no port: 1 to 65535"))?))
        }
        _ => (rest, None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let is_one =
        |part: &str| !part.is_empty() && !part.starts_with('-') && !part.contains(char::is_whitespace);
    anyhow::ensure!(
        is_one(address) && user.as_deref().is_none_or(is_one),
        "{text:?} is no host: say a name of the manifest, or [USER@]ADDRESS[:PORT]"
    );
    Ok(Via::Ssh { address: address.to_owned(), ssh: SshOptions { user, port, identity: None } })
}

/// Returns a host of which nothing is said but how it is reached.
pub(crate) fn plain_host(via: Via) -> HostSpec {
    HostSpec {
        via,
        role: Role::Pi,
        labels: Vec::new(),
        dir: None,
        supervisor: Supervisor::Auto,
        gpu: GpuMode::Off,
        wake: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_login_and_its_port() {
        for (text, expected) in [
            ("kitchen.local", ("kitchen.local", None, None)),
            ("pi@192.168.1.20", ("192.168.1.20", Some("pi"), None)),
            ("pi@shed:2222", ("shed", Some("pi"), Some(2222))),
            ("fe80::1", ("fe80::1", None, None)),
            ("pi@[fe80::1]:2222", ("fe80::1", Some("pi"), Some(2222))),
        ] {
            let Via::Ssh { address, ssh } = by_address(text).unwrap() else { panic!("{text}") };
            assert_eq!((address.as_str(), ssh.user.as_deref(), ssh.port), expected, "{text}");
        }
        for text in ["", "pi@", "@shed", "shed:0x16", "-oProxyCommand=x", "pi@-x", "a b", "shed:99999"] {
            assert!(by_address(text).is_err(), "{text}");
        }
    }
}
