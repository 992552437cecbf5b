//! Raspberry Pis among the addresses that the kernel knows on the networks of this machine.

use std::net::IpAddr;

use super::{Candidate, MOST, Place};

/// The beginnings of the hardware addresses that the IEEE has given to Raspberry Pi.
const PI: [&str; 7] = ["28:cd:c1", "2c:cf:67", "88:a2:9e", "b8:27:eb", "d8:3a:dd", "dc:a6:32", "e4:5f:01"];

/// Reads the kernel's table (`/proc/net/arp`).
pub(super) fn candidates(text: &str) -> Vec<Candidate> {
    text.lines().skip(1).filter_map(candidate).take(MOST).collect()
}

fn candidate(line: &str) -> Option<Candidate> {
    // IP address  HW type  Flags  HW address  Mask  Device
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [address, _, flags, hardware, ..] = words.as_slice() else { return None };
    let address: IpAddr = address.parse().ok()?;
    let IpAddr::V4(v4) = address else { return None };
    let hardware = hardware.to_ascii_lowercase();
    // nobody answered for 0x0
    let is_pi = *flags != "0x0" && PI.iter().any(|maker| hardware.starts_with(maker));
    is_pi.then(|| Candidate {
        name: format!("pi-{}", v4.octets()[3]),
        address: address.to_string(),
        user: None,
        port: None,
        identity: None,
        place: Place::Neighbour,
        is_pi: true,
        seen_at: [address].into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pi_is_known_by_its_network_card() {
        let text = "\
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         00:11:22:33:44:55     *        eth0
192.168.1.20     0x1         0x2         DC:A6:32:01:02:03     *        eth0
192.168.1.21     0x1         0x0         dc:a6:32:01:02:04     *        eth0
nonsense
";
        let found = candidates(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].address.as_str()), ("pi-20", "192.168.1.20"));
    }
}
