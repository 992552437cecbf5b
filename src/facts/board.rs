//! The board table: firmware names, and what a board is before it is bought.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::host::{Board, Cpu, HostFacts, Memory, Privilege, Supervision};
use crate::units::{Bytes, BytesPerSec};

impl Board {
    /// Finds the board by the name that its firmware gives it: "Raspberry Pi 5 Model B Rev 1.0".
    pub fn from_name(name: &str) -> Option<Self> {
        let model = name.trim().strip_prefix("Raspberry Pi ")?;
        let model = model.strip_prefix("Compute Module ").unwrap_or(model);
        if model.starts_with("Zero 2") {
            return Some(Self::PiZero2W);
        }
        // "3 Model B Plus Rev 1.3", "400 Rev 1.0", "4S Rev 1.0": the number decides
        let digits = model.len() - model.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match &model[..digits] {
            "3" => Some(Self::Pi3),
            "4" | "400" => Some(Self::Pi4),
            "5" | "500" => Some(Self::Pi5),
            _ => None,
        }
    }

    /// Returns the short name for people: `Pi 4`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::PiZero2W => "Pi Zero 2 W",
            Self::Pi3 => "Pi 3",
            Self::Pi4 => "Pi 4",
            Self::Pi5 => "Pi 5",
        }
    }
}

/// A board that can be planned for: its name in manifests, the board, MiB of `MemTotal`,
/// and MiB of it that a Lite system leaves available.
///
/// `MemTotal` is measured for pi4-1gb (sbc-bench 3OBF), pi4-2gb, pi4-4gb (llama.cpp
/// issue 58), pi5-4gb (sbc-bench `Au3jaA`) and pi5-16gb (8-NK), the others are estimates.
/// What is available is `MemTotal` less what Lite systems were seen to use and a reserve;
/// no Pi was measured for it yet.
const PLANNED: &[(&str, Board, u64, u64)] = &[
    ("pi-zero2w", Board::PiZero2W, 427, 250),
    ("pi3-1gb", Board::Pi3, 927, 650),
    ("pi4-1gb", Board::Pi4, 909, 650),
    ("pi4-2gb", Board::Pi4, 1843, 1550),
    ("pi4-4gb", Board::Pi4, 3792, 3400),
    ("pi4-8gb", Board::Pi4, 7800, 7300),
    ("pi400", Board::Pi4, 3790, 3400),
    ("pi5-2gb", Board::Pi5, 2010, 1650),
    ("pi5-4gb", Board::Pi5, 4045, 3550),
    ("pi5-8gb", Board::Pi5, 8060, 7450),
    ("pi5-16gb", Board::Pi5, 16220, 15400),
    ("pi500", Board::Pi5, 8060, 7450),
    ("pi500-plus", Board::Pi5, 16220, 15400),
];

/// The name of a machine that is no board: x86, with AVX2, eight cores, and any amount of memory.
const DESKTOP: &str = "desktop";

/// Returns the names of machines that can be planned for.
pub fn board_names() -> impl Iterator<Item = &'static str> {
    planned_names().chain([DESKTOP])
}

/// What is known of a machine that is not bought yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated {
    /// A name of [`board_names`].
    pub board: String,
    /// What it leaves to models, where that is stated.
    pub memory: Option<Bytes>,
    /// What all its cores together read of memory, where that is stated.
    pub bandwidth: Option<BytesPerSec>,
}

impl Stated {
    /// Returns what the machine will be; none where its name is not known, or a `desktop` comes
    /// without its memory.
    pub fn facts(&self) -> Option<HostFacts> {
        let mut facts = if self.board == DESKTOP { desktop(self.memory?)? } else { planned(&self.board)? };
        if let Some(memory) = self.memory {
            facts.memory.available = memory;
            facts.memory.total = facts.memory.total.max(memory);
        }
        facts.memory.bandwidth = self.bandwidth;
        Some(facts)
    }
}

fn desktop(memory: Bytes) -> Option<HostFacts> {
    // the instructions that every desktop sold since 2013 has, but for some Celerons and Atoms
    let features = ["sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"];
    Some(HostFacts {
        machine: "x86_64".into(),
        board: None,
        cpu: Cpu { cores: 8, features: features.map(str::to_owned).into(), model: None },
        page_size: Some(4096),
        memory: Memory { total: memory, available: memory, ..Memory::default() },
        ..planned("pi5-8gb")?
    })
}

/// Returns the names that [`planned`] knows.
pub fn planned_names() -> impl Iterator<Item = &'static str> {
    PLANNED.iter().map(|row| row.0)
}

/// Returns what a board that is not bought yet will be: `pi5-8gb`, with a 64-bit
/// Raspberry Pi OS Lite. The disk is unknown.
pub fn planned(name: &str) -> Option<HostFacts> {
    let (_, board, total, available) = *PLANNED.iter().find(|row| row.0 == name)?;
    // the flags that the kernel shows on each SoC (sbc-bench, lshw)
    let mut features = vec!["fp", "asimd", "evtstrm", "crc32", "cpuid"];
    if board == Board::Pi5 {
        features.extend(["aes", "pmull", "sha1", "sha2", "atomics", "fphp", "asimdhp", "asimddp"]);
    }
    let part = match board {
        Board::PiZero2W | Board::Pi3 => "0xd03",
        Board::Pi4 => "0xd08",
        Board::Pi5 => "0xd0b",
    };
    Some(HostFacts {
        machine: "aarch64".into(),
        userland_bits: Some(64),
        board_name: None,
        board: Some(board),
        cpu: Cpu {
            cores: 4,
            features: features.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
            model: Some(part.into()),
        },
        // the default kernel of the Pi 5 has pages of 16 KiB
        page_size: Some(if board == Board::Pi5 { 16384 } else { 4096 }),
        memory: Memory { total: Bytes::mib(total), available: Bytes::mib(available), ..Memory::default() },
        disk: None,
        glibc: None,
        is_musl: false,
        os: None,
        supervision: Supervision::Systemd { version: 252 },
        user_manager: None,
        root: None,
        memory_cgroup: None,
        health: Health::default(),
        gpus: Vec::new(),
        has_render_group: false,
        link: None,
        reached: None,
        privilege: Privilege::Sudo,
        lost: None,
        installed: None,
    })
}
