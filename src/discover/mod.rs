//! Finds machines that may become hosts: in the user's ssh configuration, among what announces itself on the network, and
//! among the addresses that this machine has spoken with.
//!
//! Nobody is logged in to, and nothing is scanned: one question goes to the network, to which whoever wants to answers.
//! What files and networks say is foreign: it is bounded, and whoever writes it anywhere checks it.

mod announced;
mod neighbours;
mod ssh_config;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the network is listened to: mDNS answers come within a second, some after a repeated question.
const LISTENING: Duration = Duration::from_secs(2);
/// The most machines that are taken from one place.
const MOST: usize = 256;
/// The longest file that is read of an ssh configuration.
const LONGEST: u64 = 1 << 20;

/// A machine that may become a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What it is called where it was found.
    pub name: String,
    /// A name or address that ssh and other hosts reach it by.
    pub address: String,
    /// The login, where it is known and ssh would not find it by itself.
    pub user: Option<String>,
    /// The port of its SSH server, where it is not the usual one.
    pub port: Option<u16>,
    /// The private key for it, where it is known and ssh would not find it by itself.
    pub identity: Option<String>,
    /// Where it was found.
    pub place: Place,
    /// Whether something says that it is a Raspberry Pi: its name, or the maker of its network card.
    pub is_pi: bool,
    /// Its addresses, as far as they were seen.
    pub seen_at: BTreeSet<IpAddr>,
}

/// Where a machine was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Somebody named it.
    Named,
    /// A card was made for it here, and it answers to its name.
    Card,
    /// `~/.ssh/config` has it.
    SshConfig,
    /// `~/.ssh/config` has it, behind another machine: only ssh knows the way.
    SshConfigBehind,
    /// It announces itself on the network.
    Announced,
    /// This machine has spoken with it.
    Neighbour,
}

impl Place {
    /// Returns the words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Named => "named on the command line",
            Self::Card => "you made its card",
            Self::SshConfig => "in ~/.ssh/config",
            Self::SshConfigBehind => "in ~/.ssh/config, behind another machine",
            Self::Announced => "announces itself on the network",
            Self::Neighbour => "a Raspberry Pi by its network card",
        }
    }
}

/// A card that was made here for a host (`bramble sdcard`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What the host calls itself, and announces with `.local` behind.
    pub name: String,
    /// The login.
    pub user: String,
}

/// Finds machines, those of the ssh configuration in `home` first, and asks for the hosts of `cards` by name. Takes about
/// two seconds.
pub fn discover(home: &Path, cards: &[Card]) -> Vec<Candidate> {
    let mut found =
        ssh_config::candidates(&read(&home.join(".ssh/config")), &mut |pattern| include(home, pattern));
    found.extend(announced::listen(LISTENING, cards));
    found.extend(neighbours::candidates(&read(Path::new("/proc/net/arp"))));
    let mut merged = merge(found);
    for one in &mut merged {
        know(one, cards);
    }
    merged
}

/// Adds what is known of a machine whose card was made here. Of what the ssh configuration has, ssh knows the login.
fn know(one: &mut Candidate, cards: &[Card]) {
    let is_its = |card: &&Card| one.name.eq_ignore_ascii_case(&card.name);
    if one.place == Place::Announced
        && let Some(card) = cards.iter().find(is_its)
    {
        one.user.get_or_insert_with(|| card.user.clone());
        one.place = Place::Card;
        one.is_pi = true;
    }
}

/// Returns the address by which others on the network of `other` reach this machine.
pub fn own_address(other: Option<IpAddr>) -> Option<IpAddr> {
    // nothing is sent: the kernel only chooses a way, here to an address that no machine has (RFC 5737)
    let other = other.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).ok()?;
    socket.connect((other, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Makes one of those that are the same machine: the first has the say, the others add what it lacks.
pub fn merge(found: Vec<Candidate>) -> Vec<Candidate> {
    let mut merged: Vec<Candidate> = Vec::new();
    for one in found {
        let is_same = |other: &&mut Candidate| {
            other.address.eq_ignore_ascii_case(&one.address)
                && other.port.unwrap_or(22) == one.port.unwrap_or(22)
                || other.seen_at.iter().any(|address| one.seen_at.contains(address))
        };
        match merged.iter_mut().find(is_same) {
            Some(known) => {
                known.is_pi |= one.is_pi;
                known.seen_at.extend(one.seen_at);
            }
            None => merged.push(one),
        }
    }
    merged
}

/// Returns whether a name speaks of a Raspberry Pi: `raspberrypi`, `pi4`, `kitchen-pi`.
fn is_pi_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_pi = |word: &str| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        matches!(word, "pi" | "rpi" | "raspberry" | "raspberrypi" | "raspi")
    };
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(is_pi)
}

/// Reads a file that is no longer than configurations are; empty where it cannot be.
fn read(path: &Path) -> String {
    // files of /proc say that they are empty
    let is_short = fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() <= LONGEST);
    let bytes = if is_short { fs::read(path).unwrap_or_default() } else { Vec::new() };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the files of an `Include`, as ssh finds them: relative to `~/.ssh`, with `*` and `?` in the last name.
fn include(home: &Path, pattern: &str) -> Vec<String> {
    let path = match pattern.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => home.join(".ssh").join(pattern),
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    if !name.contains(['*', '?']) {
        return vec![read(&path)];
    }
    let Some(Ok(entries)) = path.parent().map(fs::read_dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| {
        file.file_name().and_then(|file| file.to_str()).is_some_and(|file| ssh_config::matches(name, file))
    });
    files.sort();
    files.truncate(MOST);
    files.iter().map(|file| read(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, address: &str, place: Place, seen_at: &[&str]) -> Candidate {
        Candidate {
            name: name.to_owned(),
            address: address.to_owned(),
            user: None,
            port: None,
            identity: None,
            place,
            is_pi: false,
            seen_at: seen_at.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn what_was_found_twice_is_one_machine() {
        let one = Candidate {
            user: Some("ann".to_owned()),
            ..candidate("kitchen", "192.168.1.20", Place::SshConfig, &["192.168.1.20"])
        };
        let two = candidate("kitchen", "kitchen.local", Place::Announced, &["192.168.1.20", "fe80::1"]);
        let three = Candidate {
            is_pi: true,
            ..candidate("pi-20", "192.168.1.20", Place::Neighbour, &["192.168.1.20"])
        };
        let other = candidate("shed", "shed.local", Place::Announced, &["192.168.1.21"]);
        let same = candidate("shed", "SHED.local", Place::Neighbour, &[]);
        let merged = merge(vec![one, two, three, other.clone(), same]);
        assert_eq!(merged.len(), 2);
        assert_eq!((merged[0].address.as_str(), merged[0].user.as_deref()), ("192.168.1.20", Some("ann")));
        assert!(merged[0].is_pi && merged[0].seen_at.len() == 2);
        assert_eq!(merged[1], other);
    }

    #[test]
    fn a_host_whose_card_was_made_here_is_a_pi_and_its_login_is_known() {
        let cards = [Card { name: "kitchen".to_owned(), user: "ann".to_owned() }];
        let known = |place, name: &str| {
            let mut one = candidate(name, &format!("{name}.local"), place, &["192.168.1.20"]);
            know(&mut one, &cards);
            (one.place, one.user, one.is_pi)
        };
        assert_eq!(known(Place::Announced, "Kitchen"), (Place::Card, Some("ann".to_owned()), true));
        assert_eq!(known(Place::Announced, "shed"), (Place::Announced, None, false));
        assert_eq!(known(Place::SshConfig, "kitchen"), (Place::SshConfig, None, false));
    }

    #[test]
    fn names_of_pis_are_known() {
        for name in ["raspberrypi", "pi", "pi4", "kitchen-pi", "RPi-2.local", "raspberrypi.local", "pi@x"] {
            assert!(is_pi_name(name), "{name}");
        }
        for name in ["kitchen", "pizza", "epic", "api", "spi", "10.0.0.1"] {
            assert!(!is_pi_name(name), "{name}");
        }
    }

    #[test]
    fn a_home_is_read_with_what_its_configuration_includes() {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        fs::create_dir_all(ssh.join("conf.d")).unwrap();
        fs::write(ssh.join("config"), "Include conf.d/*.conf\nInclude ~/more nothing\nHost last\n").unwrap();
        fs::write(ssh.join("conf.d/2.conf"), "Host two\n").unwrap();
        fs::write(ssh.join("conf.d/1.conf"), "Host one\n").unwrap();
        fs::write(ssh.join("conf.d/3.old"), "Host three\n").unwrap();
        fs::write(home.path().join("more"), "Host more\n").unwrap();
        let text = read(&ssh.join("config"));
        let found = ssh_config::candidates(&text, &mut |pattern| include(home.path(), pattern));
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["one", "two", "more", "last"]);
    }
}
