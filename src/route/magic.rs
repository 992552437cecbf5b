//! The packet that wakes a machine, and where it is sent: AMD's "Magic Packet Technology" (publication 20213, 1995).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use tokio::net::UdpSocket;

use crate::ids::Mac;

/// Six bytes of ones, then the address sixteen times.
pub(super) const PACKET: usize = 6 + 16 * 6;

/// The ports that it is sent to. Network cards look into any frame, so that nobody has to listen: 9 (discard) is what
/// nearly all programs take, and some switches let only 7 (echo) through.
const PORTS: [u16; 2] = [9, 7];

/// More networks than any host is in.
const MOST_NETWORKS: usize = 16;

/// The kernel's table of IPv4 routes, which says what networks the host is in.
const ROUTES: &str = "/proc/net/route";

/// Returns the packet for the card with this address.
pub(super) fn packet(mac: Mac) -> [u8; PACKET] {
    let mut packet = [0xff; PACKET];
    let (_, times) = packet.split_at_mut(6);
    times.chunks_exact_mut(6).for_each(|place| place.copy_from_slice(&mac.bytes()));
    packet
}

/// Sends packets.
#[async_trait]
pub(super) trait Rouse: Send + Sync {
    /// Sends the packet for this card to every network that the host is in.
    async fn rouse(&self, mac: Mac) -> io::Result<()>;
}

/// The real network.
pub(super) struct Broadcast;

#[async_trait]
impl Rouse for Broadcast {
    async fn rouse(&self, mac: Mac) -> io::Result<()> {
        // without the table, the network with the default route is left
        let table = tokio::fs::read_to_string(ROUTES).await.unwrap_or_default();
        let addresses = broadcasts(&table).into_iter().chain([Ipv4Addr::BROADCAST]);
        let targets = addresses.flat_map(|address| PORTS.map(|port| SocketAddr::from((address, port))));
        send(mac, &targets.collect::<Vec<_>>()).await
    }
}

/// Sends the packet to these addresses; an error only where none took it.
pub(super) async fn send(mac: Mac, targets: &[SocketAddr]) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.set_broadcast(true)?;
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for target in targets {
        match socket.send_to(&packet(mac), target).await {
            Ok(_) => outcome = Ok(()),
            // one network that is down says nothing of the others
            Err(error) if outcome.is_err() => outcome = Err(error),
            Err(_) => {}
        }
    }
    outcome
}

/// Reads the kernel's table for the networks that the host itself is in, and returns their broadcast addresses. The table
/// has numbers as they lie in memory, the network's order of bytes read in the machine's (proc(5)).
fn broadcasts(table: &str) -> Vec<Ipv4Addr> {
    let number = |field: Option<&&str>| u32::from_str_radix(field?, 16).ok();
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().take(8).collect();
        let of = |index| number(fields.get(index));
        let (Some(network), Some(0), Some(mask)) = (of(1), of(2), of(7)) else { continue };
        // a default route without a gateway, or a link between two, has nobody to shout to
        if mask == 0 || mask == u32::MAX || found.len() == MOST_NETWORKS {
            continue;
        }
        let address = Ipv4Addr::from((network | !mask).to_ne_bytes());
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MAC: &str = "02:00:5e:10:00:ff";

    #[tokio::test]
    async fn the_packet_arrives_by_broadcast_as_network_cards_want_it() {
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = receiver.local_addr().unwrap().port();
        let all_of_loopback = SocketAddr::from((Ipv4Addr::new(127, 255, 255, 255), port));
        send(MAC.parse().unwrap(), &[all_of_loopback]).await.unwrap();
        let mut bytes = [0; 200];
        let arrived = tokio::time::timeout(Duration::from_secs(10), receiver.recv(&mut bytes)).await;
        let length = arrived.expect("it arrives").unwrap();
        let once = [0x02, 0x00, 0x5e, 0x10, 0x00, 0xff];
        assert_eq!(length, 102);
        assert_eq!(bytes[..length], [vec![0xff; 6], once.repeat(16)].concat());
    }

    #[tokio::test]
    async fn one_network_that_is_gone_does_not_keep_the_packet_from_others() {
        let mac = MAC.parse().unwrap();
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // a port of 0 is nobody's
        let gone = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        send(mac, &[gone, receiver.local_addr().unwrap(), gone]).await.unwrap();
        assert!(send(mac, &[gone]).await.is_err());
        assert!(send(mac, &[]).await.is_err());
    }

    #[test]
    fn the_networks_of_the_host_are_read_from_the_kernels_table() {
        let number = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let row = |network, gateway, mask| {
            let [network, gateway, mask] = [network, gateway, mask].map(number);
            format!("eth0\t{network}\t{gateway}\t0001\t0\t0\t100\t{mask}\t0\t0\t0\n")
        };
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            row([0; 4], [192, 168, 1, 1], [0; 4]),
            row([192, 168, 1, 0], [0; 4], [255, 255, 255, 0]),
            row([10, 8, 0, 0], [10, 8, 0, 1], [255, 255, 0, 0]),
            row([172, 16, 16, 0], [0; 4], [255, 255, 240, 0]),
            row([10, 9, 0, 1], [0; 4], [255; 4]),
            row([192, 168, 1, 0], [0; 4], [255, 255, 255, 0]),
        ];
        let expected = [Ipv4Addr::new(192, 168, 1, 255), Ipv4Addr::new(172, 16, 31, 255)];
        assert_eq!(broadcasts(&table.concat()), expected);
        for odd in ["", "Iface\n", "x\ny z\n\u{fffd} 1 0 0 0 0 0 zz\n"] {
            assert_eq!(broadcasts(odd), Vec::<Ipv4Addr>::new(), "{odd:?}");
        }
    }
}
