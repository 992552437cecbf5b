//! What a flashed Raspberry Pi OS or Ubuntu needs on its boot partition to come up with a name, a login and a
//! network: the three files that cloud-init reads at the first boot, and one word of the kernel's command line.
//!
//! Values to texts. It looks at no card, makes no keys and knows no password but the one that it is given.

mod files;
mod image;
mod psk;

use std::net::IpAddr;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::ids::HostName;

pub use files::{Files, files};
pub use image::{Image, System, cmdline, image};
pub use psk::{Psk, psk};

/// Why a card cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The folder is none that a Pi boots from.
    #[error(
        "it has no config.txt and no cmdline.txt, so it is not the boot partition of a Raspberry Pi: name the folder that the card's first partition is mounted at (bootfs, system-boot)"
    )]
    NoBoot,
    /// The image reads no such files.
    #[error(
        "{said} does not read cloud-init's files: flash Raspberry Pi OS of October 2025 (Trixie) or later, or Ubuntu Server"
    )]
    NoCloudInit {
        /// What the image says that it is.
        said: String,
    },
    /// A login that no system takes.
    #[error(
        "{user:?} is no login: use small letters, digits, `-` and `_`, at most 32 of them, a letter first, and not root"
    )]
    User {
        /// What was said.
        user: String,
    },
    /// A network's name that no access point has.
    #[error("{0:?} is no Wi-Fi's name: use 1 to 32 bytes without control characters")]
    Ssid(String),
    /// A password that no WPA2 network has.
    #[error("this is no Wi-Fi's password: use 8 to 63 characters of ASCII")]
    Passphrase,
    /// A country that is none.
    #[error("{0:?} is no country: give its two letters, such as DE or GB, since radio rules differ")]
    Country(String),
    /// A time zone that is none.
    #[error("{0:?} is no time zone: give a name such as Europe/Berlin")]
    Timezone(String),
    /// A template of ours is wrong.
    #[error("this is a fault of bramble, please report it: {0}")]
    Template(String),
}

/// What a card is to become.
#[derive(Debug, Clone, Serialize)]
pub struct Card {
    /// The host's name in the manifest, and on the network.
    pub name: HostName,
    /// Who logs in, with sudo and without a password.
    pub user: String,
    /// The public keys that log in, a line each.
    pub keys: Vec<String>,
    /// Who the host is to those that log in; none: it makes a key of its own, which nobody knows before.
    pub host_key: Option<HostKey>,
    /// A fixed address; none: DHCP. On Wi-Fi where there is one, else on the cable.
    pub address: Option<Address>,
    /// A wireless network.
    pub wifi: Option<Wifi>,
    /// Where it stands: `Europe/Berlin`.
    pub timezone: Option<String>,
}

/// An SSH host key of the kind ed25519.
#[derive(Clone, Serialize)]
pub struct HostKey {
    /// In OpenSSH's form, with its line ends.
    pub private: Zeroizing<String>,
    /// The line `ssh-ed25519 AAAA… COMMENT`.
    pub public: String,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public)
    }
}

/// An address that no DHCP gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// With the network's length: `192.168.1.20/24`.
    pub address: String,
    /// Who leads out of the network.
    pub gateway: Option<IpAddr>,
    /// Who knows names.
    pub dns: Vec<IpAddr>,
}

/// A wireless network.
#[derive(Debug, Clone, Serialize)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// What its password becomes with that name: the password itself is not on the card.
    pub psk: Psk,
    /// Two letters: which channels and powers are allowed.
    pub country: String,
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod texts_tests;
