//! How a host is at the moment, and what else is in it: what may slow it down, or stand in the way.

use serde::{Deserialize, Serialize};

use crate::generation::GpuApi;
use crate::units::Bytes;

/// How a host is at the moment. What is not known is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Degrees Celsius of the processor.
    pub celsius: Option<f64>,
    /// What the firmware of a Raspberry Pi says of its power and heat.
    pub throttled: Option<Throttled>,
    /// Seconds that its clock is ahead of the operator's; below zero where it is behind.
    pub clock_ahead: Option<i64>,
}

/// The word of a Pi's firmware on power and heat (`vcgencmd get_throttled`): the low bits say what is
/// so now, the same bits sixteen higher what has been so since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled(pub u32);

impl Throttled {
    /// Too little voltage.
    const UNDER_VOLTAGE: u32 = 1;
    /// Clocked lower for its heat or its supply: the frequency is capped, it is throttled, or it is
    /// at the soft limit of the heat.
    const SLOWED: u32 = 0b1110;
    /// At the soft limit of the heat, whatever its supply gives.
    const HOT: u32 = 0b1000;

    /// Returns whether the supply gives, or gave, too little voltage.
    pub const fn is_under_voltage(self) -> bool {
        (self.0 | self.0 >> 16) & Self::UNDER_VOLTAGE != 0
    }

    /// Returns whether the supply gives too little voltage now.
    pub const fn is_under_voltage_now(self) -> bool {
        self.0 & Self::UNDER_VOLTAGE != 0
    }

    /// Returns whether it is clocked lower than it could be now.
    pub const fn is_slowed_now(self) -> bool {
        self.0 & Self::SLOWED != 0
    }

    /// Returns whether it is, or was, clocked lower than it could be.
    pub const fn is_slowed(self) -> bool {
        (self.0 | self.0 >> 16) & Self::SLOWED != 0
    }

    /// Returns whether heat slows it now. What too little voltage may have done as well is not counted.
    pub const fn is_hot_now(self) -> bool {
        self.0 & Self::HOT != 0 || self.is_slowed_now() && !self.is_under_voltage_now()
    }

    /// Returns whether heat slows it, or has. What too little voltage may have done as well is not counted.
    pub const fn is_hot(self) -> bool {
        let was_hot = self.0 >> 16 & Self::HOT != 0;
        self.is_hot_now() || was_hot || self.is_slowed() && !self.is_under_voltage()
    }
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name, or its maker's.
    pub name: String,
    /// Its own memory, where it says so.
    pub memory: Option<Bytes>,
}

impl Gpu {
    /// Returns whether drivers for it speak `api`: Vulkan all of them, CUDA those that are neither AMD's nor Intel's.
    pub fn speaks(&self, api: GpuApi) -> bool {
        match api {
            GpuApi::Vulkan => true,
            GpuApi::Cuda => !matches!(self.name.as_str(), "AMD" | "Intel"),
        }
    }
}

/// The link that a host reaches others by: that of its default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The interface: `eth0`.
    pub name: String,
    /// Whether it is a radio.
    pub is_wireless: bool,
    /// Megabits per second that it was negotiated at; radios do not say.
    pub megabits: Option<u32>,
}

/// What a filesystem lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// An SD card, or soldered flash of its kind.
    Card,
    /// A disk behind USB.
    Usb,
    /// A disk on PCI Express.
    Nvme,
    /// Another disk without moving parts.
    Ssd,
    /// A disk that spins.
    Spinning,
}

impl Medium {
    /// Reads the kernel's path of a block device (`/sys/devices/…/mmcblk0/mmcblk0p2`), and whether it spins.
    pub(super) fn of(path: &str, is_rotational: Option<bool>) -> Option<Self> {
        let has = |part: &str| path.split('/').any(|name| name.starts_with(part));
        if has("mmcblk") {
            Some(Self::Card)
        } else if has("nvme") {
            Some(Self::Nvme)
        } else if has("usb") {
            Some(Self::Usb)
        } else if has("ata") || has("host") {
            is_rotational.map(|spins| if spins { Self::Spinning } else { Self::Ssd })
        } else {
            // a virtual disk says what its host wants it to
            None
        }
    }

    /// Returns the word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Card => "SD card",
            Self::Usb => "USB disk",
            Self::Nvme => "NVMe disk",
            Self::Ssd => "SSD",
            Self::Spinning => "spinning disk",
        }
    }
}
