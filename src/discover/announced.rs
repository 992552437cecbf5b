//! Machines that announce an SSH server on the network (mDNS), and the name that a fresh Raspberry Pi has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mdns_sd::{HostnameResolutionEvent, ServiceDaemon, ServiceEvent};

use super::{Candidate, Card, MOST, Place, is_pi_name};

/// What machines with an SSH server announce.
const SERVICES: [&str; 3] = ["_ssh._tcp.local.", "_sftp-ssh._tcp.local.", "_workstation._tcp.local."];
/// Raspberry Pi OS calls a machine so that nobody gave a name.
const FRESH: &str = "raspberrypi.local.";

/// Asks the network once, also for the hosts of `cards`, and listens for so long. Without a network nobody answers.
pub(super) fn listen(patience: Duration, cards: &[Card]) -> Vec<Candidate> {
    match ask(patience, cards) {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "the network cannot be asked who is there");
            Vec::new()
        }
    }
}

fn ask(patience: Duration, cards: &[Card]) -> mdns_sd::Result<Vec<Candidate>> {
    let end = Instant::now() + patience;
    let daemon = ServiceDaemon::new()?;
    let services = SERVICES.map(|service| daemon.browse(service));
    let millis = u64::try_from(patience.as_millis()).ok();
    let names = cards.iter().take(MOST).map(|card| format!("{}.local.", card.name));
    let asked: Vec<_> = std::iter::once(FRESH.to_owned())
        .chain(names)
        .map(|name| daemon.resolve_hostname(&name, millis))
        .collect::<mdns_sd::Result<_>>()?;
    let mut found = Vec::new();
    for service in services {
        let service = service?;
        // the first takes all the time, in which the others' answers come, too
        while let Ok(event) = service.recv_timeout(end.saturating_duration_since(Instant::now()))
            && found.len() < MOST
        {
            if let ServiceEvent::ServiceResolved(it) = event {
                let addresses = it.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr);
                // a workstation's port is none
                let port = if it.ty_domain.contains("ssh") { it.port } else { 22 };
                found.extend(candidate(&it.host, addresses, port));
            }
        }
    }
    for answers in asked {
        while let Ok(event) = answers.try_recv() {
            if let HostnameResolutionEvent::AddressesFound(host, addresses) = event {
                found.extend(candidate(&host, addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr), 22));
            }
        }
    }
    // its thread ends by itself
    let _ = daemon.shutdown();
    Ok(found)
}

/// Makes a candidate of what a machine says of itself: `kitchen.local.`
fn candidate(host: &str, addresses: impl Iterator<Item = IpAddr>, port: u16) -> Option<Candidate> {
    let address = host.trim_end_matches('.');
    let name = address.strip_suffix(".local").unwrap_or(address);
    let seen_at: BTreeSet<IpAddr> = addresses.take(MOST).collect();
    if name.is_empty() || seen_at.iter().any(IpAddr::is_loopback) {
        return None;
    }
    Some(Candidate {
        name: name.to_owned(),
        address: address.to_owned(),
        user: None,
        port: Some(port).filter(|port| !matches!(port, 0 | 22)),
        identity: None,
        place: Place::Announced,
        is_pi: is_pi_name(name),
        seen_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_reached_by_the_name_that_it_announces() {
        let at = |text: &str| std::iter::once(text.parse::<IpAddr>().unwrap());
        let found = candidate("kitchen.local.", at("192.168.1.20"), 22).unwrap();
        assert_eq!(
            (found.name.as_str(), found.address.as_str(), found.port),
            ("kitchen", "kitchen.local", None)
        );
        let found = candidate("raspberrypi.local.", at("fe80::1"), 2222).unwrap();
        assert_eq!((found.port, found.is_pi), (Some(2222), true));
        assert_eq!(candidate(".", at("192.168.1.20"), 22), None);
        assert_eq!(candidate("me.local.", at("127.0.0.1"), 22), None);
    }

    #[test]
    fn listening_ends_in_time_whoever_answers() {
        let begin = Instant::now();
        listen(Duration::from_millis(100), &[]);
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
