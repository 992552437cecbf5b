//! Where redirects may lead. A hub, a mirror or a link on the internet has no business with what only this machine or
//! its network reaches: routers, other people's services, the address at which clouds give out keys.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::settings::Machine;

/// Why an address is not asked. In the chain of an error of the client.
#[derive(Debug, thiserror::Error)]
#[error("{host} is at {address}")]
pub(super) struct Inside {
    pub(super) host: String,
    pub(super) address: IpAddr,
}

impl Inside {
    /// Finds it among the causes of an error.
    pub(super) fn among<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut causes = std::iter::successors(error.source(), |cause| cause.source());
        causes.find_map(|cause| cause.downcast_ref())
    }
}

/// Remembers who was named by a person, or by somebody inside, and holds all others to the internet.
///
/// It is asked twice: for addresses that a redirect has in numbers, and as names are resolved, so that nothing changes
/// between looking and going there. Behind a proxy only the first is done: names are the proxy's then.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    machine: Machine,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Hosts that may be anywhere.
    named: BTreeSet<String>,
    /// Names that led inside.
    inside: BTreeSet<String>,
}

impl Guard {
    /// Guards with `named`: the hosts of proxies.
    pub(super) fn new(machine: Machine, named: &[String]) -> Self {
        let seen = Seen { named: named.iter().cloned().collect(), inside: BTreeSet::new() };
        Self { machine, seen: Arc::new(Mutex::new(seen)) }
    }

    /// A person has named this address: it may be anywhere.
    pub(super) fn name(&self, url: &Url) {
        if let Some(host) = url.host_str() {
            self.seen().named.insert(host.to_owned());
        }
    }

    /// Checks that what answered at `from` may send us to `to`.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn check(&self, from: &Url, to: &Url) -> Result<(), &'static str> {
        if !matches!((from.scheme(), to.scheme()), ("https" | "http", "https") | ("http", "http")) {
            return Err("it redirects to an unencrypted address");
        }
        if to.username() != "" || to.password().is_some() {
            return Err("it redirects to an address with a login in it");
        }
        let address = address(to);
        if address.is_some_and(is_never) {
            return Err("it redirects to an address that nothing is fetched from");
        }
        if self.is_inside(from) {
            self.name(to);
        } else if address.is_some_and(|address| !(self.machine.is_public)(address)) {
            return Err("it redirects from the internet to a network of this machine's own");
        }
        Ok(())
    }

    fn is_inside(&self, url: &Url) -> bool {
        match address(url) {
            Some(address) => !(self.machine.is_public)(address),
            None => url.host_str().is_some_and(|host| self.seen().inside.contains(host)),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a name leads, and returns where it may.
    fn allowed(&self, host: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Inside> {
        let mut seen = self.seen();
        let inside = addresses.iter().copied().find(|address| !(self.machine.is_public)(*address));
        let Some(address) = inside else { return Ok(addresses) };
        if seen.named.contains(host) && !is_never(address) {
            seen.inside.insert(host.to_owned());
            return Ok(addresses);
        }
        Err(Inside { host: host.to_owned(), address })
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let addresses = (guard.machine.lookup)(host.to_owned()).await?;
            let allowed = guard.allowed(host, addresses)?;
            // the port is that of the address that is asked for
            let allowed = allowed.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(allowed) as Addrs)
        })
    }
}

/// The address that stands in a URL, where no name does. The parser has read `0x7f.1` and its like by now.
fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Returns whether no weights are ever there, whoever says so: each link has its own (169.254.169.254 gives out the keys
/// of a machine in a cloud), and some are nobody's.
fn is_never(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

/// Returns whether an address is one of the internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    if is_never(address) {
        return false;
    }
    match plain(address) {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special =
                a == 0 || a >= 240 || (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b));
            !(v4.is_private() || v4.is_loopback() || v4.is_documentation() || is_shared || is_special)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // what is given out so far, without what is for books
            first & 0xe000 == 0x2000 && (first, v6.segments()[1]) != (0x2001, 0x0db8)
        }
    }
}

/// Returns the address that is meant by one that only carries it: mapped, translated (NAT64), or 6to4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let parts = v6.segments();
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => carried(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => {
            carried(high, low)
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn guard() -> Guard {
        Guard::new(Machine::default(), &[])
    }

    #[test]
    fn a_public_hub_sends_nobody_inside() {
        let guard = guard();
        let hub = url("https://huggingface.co/a");
        guard.name(&hub);
        for good in ["https://cdn.example/x", "https://8.8.8.8/", "https://[2606:4700::1]/"] {
            assert_eq!(guard.check(&hub, &url(good)), Ok(()), "{good}");
        }
        for bad in [
            "file:///etc/passwd",
            "ftp://8.8.8.8/",
            "http://cdn.example/x",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://0/",
            "https://10.1.2.3/",
            "https://192.168.1.1/",
            "https://172.16.0.1/",
            "https://100.64.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://198.18.0.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::10.0.0.1]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:db8::1]/",
            "https://user:secret@cdn.example/",
        ] {
            assert!(guard.check(&hub, &url(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_lead_inside_are_resolved_for_those_only_who_were_named() {
        let guard = guard();
        let inside = || vec!["10.0.0.7".parse().unwrap()];
        let outside = || vec!["8.8.8.8".parse().unwrap()];
        let mixed = || [outside(), inside()].concat();
        assert!(guard.allowed("router.example", inside()).is_err());
        // one of several is enough to be led astray
        assert!(guard.allowed("router.example", mixed()).is_err());
        assert_eq!(guard.allowed("cdn.example", outside()).unwrap(), outside());
        let mirror = url("http://mirror.lan/hub/");
        guard.name(&mirror);
        assert_eq!(guard.allowed("mirror.lan", inside()).unwrap(), inside());
        // a mirror at home may have its files at home
        assert_eq!(guard.check(&mirror, &url("http://files.lan/x")), Ok(()));
        assert_eq!(guard.allowed("files.lan", inside()).unwrap(), inside());
        assert_eq!(guard.check(&mirror, &url("http://192.168.1.9/x")), Ok(()));
        // what is never asked is not asked for it either
        assert!(guard.check(&mirror, &url("http://169.254.169.254/")).is_err());
        assert!(guard.allowed("mirror.lan", vec!["169.254.169.254".parse().unwrap()]).is_err());
        assert!(guard.check(&mirror, &url("file:///etc/shadow")).is_err());
    }
}
