use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::health::{Gpu, Health, Link, Medium};
use super::measured::Measured;
use crate::generation::Definition;
use crate::ids::{Digest, Generation, HostName};
use crate::units::{Bytes, BytesPerSec};

/// The facts of all hosts that were asked; one answer or one failure for each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// By host.
    pub hosts: BTreeMap<HostName, Result<HostFacts, ProbeFailure>>,
}

/// Why a host could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFailure {
    /// What was tried and what came back, as a sentence, with the next move.
    pub message: String,
    /// Whether trying again later may help.
    pub is_transient: bool,
    /// Whether it takes no key of ours, and would take a password.
    #[serde(default)]
    pub takes_password: bool,
}

/// What one host is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's machine name: `aarch64`, `x86_64`.
    pub machine: String,
    /// Bits of a pointer in the userland (`getconf LONG_BIT`).
    pub userland_bits: Option<u32>,
    /// The name of the board as the firmware gives it: "Raspberry Pi 5 Model B Rev 1.0".
    pub board_name: Option<String>,
    /// The board, where the name is in our table.
    pub board: Option<Board>,
    /// The processor.
    pub cpu: Cpu,
    /// Bytes of a memory page.
    pub page_size: Option<u32>,
    /// Memory.
    pub memory: Memory,
    /// The filesystem that Bramble's folder is or will be on.
    pub disk: Option<Disk>,
    /// The C library's version, such as `(2, 36)`.
    pub glibc: Option<(u32, u32)>,
    /// Whether the C library is musl, as on Alpine Linux, for which no bundle is built.
    #[serde(default)]
    pub is_musl: bool,
    /// The operating system's name: "Debian GNU/Linux 12 (bookworm)".
    pub os: Option<String>,
    /// What supervises services.
    pub supervision: Supervision,
    /// What systemd does for the login, where it has to do without root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_manager: Option<UserManager>,
    /// Bramble's folder there, where the manifest names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Whether limits on memory work (`memory` among the enabled cgroup controllers).
    pub memory_cgroup: Option<bool>,
    /// How it is at the moment.
    #[serde(default)]
    pub health: Health,
    /// Graphics processors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Whether it has the group `render`, to which systemd gives graphics processors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_render_group: bool,
    /// What it reaches others by.
    #[serde(default)]
    pub link: Option<Link>,
    /// The address that it was reached at, where its sshd tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<IpAddr>,
    /// What we may do there.
    pub privilege: Privilege,
    /// The generation that is in force and whose program was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Generation>,
    /// What of ours is there; none on a bare host.
    pub installed: Option<Installed>,
}

/// The boards that speed and memory are known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// Raspberry Pi Zero 2 W.
    PiZero2W,
    /// Raspberry Pi 3 and 3+.
    Pi3,
    /// Raspberry Pi 4, 400 and Compute Module 4.
    Pi4,
    /// Raspberry Pi 5, 500, 500+ and Compute Module 5.
    Pi5,
}

/// A host's processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Processors that are online.
    pub cores: u32,
    /// The `Features` (ARM) or `flags` (x86) of `/proc/cpuinfo`.
    pub features: BTreeSet<String>,
    /// `model name` or, on ARM, the part: `0xd0b`.
    pub model: Option<String>,
}

/// A host's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemAvailable`: what new programs can have without swapping.
    pub available: Bytes,
    /// Swap on disk. Never room for weights.
    pub swap: Bytes,
    /// Swap in compressed memory. Never room for weights.
    pub zram: Bytes,
    /// What all cores together read of it, where somebody stated it; a probe does not find it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BytesPerSec>,
}

/// A host's filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where it was measured.
    pub path: String,
    /// Room for us.
    pub free: Bytes,
    /// Its size.
    pub total: Bytes,
    /// Its kind, where it is known: `ext2/ext3`, `tmpfs`.
    #[serde(default)]
    pub filesystem: Option<String>,
    /// What it lies on, where the kernel says.
    #[serde(default)]
    pub medium: Option<Medium>,
    /// Files that may still be made; none where the filesystem has no such limit.
    pub inodes_free: Option<u64>,
}

impl HostFacts {
    /// Returns why what is written to Bramble's folder does not outlast a boot, and what to do about it; none where it
    /// does, or nothing is known of it.
    pub fn forgets(&self) -> Option<(String, &'static str)> {
        let disk = self.disk.as_ref()?;
        let kind = disk.filesystem.as_deref()?;
        let is_overlay = kind == "overlayfs";
        if !is_overlay && !matches!(kind, "tmpfs" | "ramfs") {
            return None;
        }
        let advice = if is_overlay && self.board.is_some() {
            "turn the overlay off (`sudo raspi-config`, Performance), or name a `dir` on a disk in the manifest"
        } else {
            "name a `dir` on a disk in the manifest"
        };
        Some((format!("{} is on {kind}: what is written there is gone after a boot", disk.path), advice))
    }
}

/// What supervises services on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    /// systemd runs, in this version.
    Systemd {
        /// The version, such as 252.
        version: u32,
    },
    /// systemd runs, and we are not root: the login's own manager (`systemctl --user`).
    SystemdUser {
        /// The version.
        version: u32,
    },
    /// No systemd: our own small supervisor, as a plain process.
    Process,
}

/// What systemd does for a login that is not root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserManager {
    /// The login's name on the host.
    pub login: String,
    /// Whether its manager answers.
    pub is_up: bool,
    /// Whether its services start at boot and outlive its logins.
    pub lingering: Lingering,
    /// Whether its services can be kept from seeing files: the kernel lets everybody make
    /// namespaces.
    pub has_namespaces: bool,
}

/// Whether the services of a login start at boot and outlive its logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lingering {
    /// They do.
    On,
    /// They do not; the login may change that.
    Allowed,
    /// They do not; only an administrator can change that.
    Off,
}

/// What the login may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// It is root.
    Root,
    /// sudo works without a password.
    Sudo,
    /// sudo asks for its password.
    SudoWithPassword,
    /// Neither.
    None,
}

/// What of ours is on a host. `bramble` learns it from `brambled inspect` there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// The generation in force, with what it runs; none when nothing was ever activated.
    pub current: Option<(Generation, Definition)>,
    /// A generation that was activated and neither confirmed nor taken back yet.
    pub pending: Option<Generation>,
    /// Every generation that is laid out, oldest first.
    pub generations: Vec<Generation>,
    /// Sealed blobs with their sizes.
    pub blobs: BTreeMap<Digest, Bytes>,
    /// Those of them that may have changed since: somebody has written to them, or they were found to be damaged.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub touched: BTreeSet<Digest>,
    /// Unpacked bundles.
    pub programs: BTreeSet<Digest>,
    /// Unfinished uploads with the bytes they hold.
    pub partials: BTreeMap<Digest, Bytes>,
    /// Unfinished uploads with the room they have taken on the disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<Digest, Bytes>,
    /// The state of each service: `route`, `engine-chat`.
    pub services: BTreeMap<String, ServiceState>,
    /// Memory that our running processes hold and would free (their anonymous memory).
    pub memory: Bytes,
    /// What is there and is not what was applied, one sentence each.
    pub drift: Vec<String>,
    /// What the host was measured at, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bench: Option<Bench>,
    /// What the engines in force were measured at as they were started; their memory as of now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
    /// Who wants its engines to take no new work, where somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// What tells the secrets in force from others ([`crate::generation::Secrets::digest`]); none where they cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Digest>,
}

impl Installed {
    /// Returns whether a blob of that size is there, sound or not: it takes its room already, and is looked at before it is sent.
    pub fn has_room_of(&self, blob: &Digest, bytes: Bytes) -> bool {
        self.blobs.get(blob) == Some(&bytes)
    }

    /// Returns whether a sealed blob is there, as it was sealed: one that was cut off, or may have changed, counts as missing,
    /// and what of it is no longer right is sent again.
    pub fn holds(&self, blob: &Digest, bytes: Bytes) -> bool {
        self.has_room_of(blob, bytes) && !self.touched.contains(blob)
    }
}

/// The wish that a host takes no new work: what runs ends, and new requests go to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Whose it is: `user@machine`.
    pub by: String,
    /// Since when, in UTC.
    pub at: String,
}

/// The state of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Starting, not ready yet.
    Starting,
    /// Ready.
    Running,
    /// It ended and will be started again, or not.
    Failed,
    /// Not running, as wanted.
    Stopped,
}
