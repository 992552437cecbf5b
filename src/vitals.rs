//! How the machine that a daemon runs on is at the moment, off the kernel's files: its memory, heat and supply.
//!
//! It asks nobody and changes nothing; what the machine does not tell is none.

use std::path::{Path, PathBuf};

use crate::facts::{self, Throttled};
use crate::units::Bytes;

/// How the host is. What it does not tell is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct State {
    /// Memory that it has.
    pub total: Option<Bytes>,
    /// Memory that programs can still have.
    pub memory: Option<Bytes>,
    /// What can be moved out of it.
    pub swap: Option<Bytes>,
    /// Degrees Celsius of the processor.
    pub celsius: Option<f64>,
    /// What a Pi's firmware says.
    pub throttled: Option<Throttled>,
}

/// Where the host tells how it is.
#[derive(Debug, Clone)]
pub struct Host {
    meminfo: PathBuf,
    heat: PathBuf,
    throttled: Option<PathBuf>,
}

impl Default for Host {
    /// Finds the files of this machine.
    fn default() -> Self {
        Self {
            meminfo: PathBuf::from("/proc/meminfo"),
            // of a Pi the only one, of a PC the first of some
            heat: PathBuf::from("/sys/class/thermal/thermal_zone0/temp"),
            throttled: firmware(Path::new("/sys/devices/platform")),
        }
    }
}

impl Host {
    /// Looks at it now.
    pub fn look(&self) -> State {
        let meminfo = std::fs::read_to_string(&self.meminfo).unwrap_or_default();
        let heat = std::fs::read_to_string(&self.heat).ok().and_then(|text| text.trim().parse::<f64>().ok());
        let bits = self.throttled.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        State {
            total: facts::meminfo(&meminfo, "MemTotal"),
            memory: facts::meminfo(&meminfo, "MemAvailable"),
            swap: facts::meminfo(&meminfo, "SwapFree"),
            celsius: heat.map(|milli| milli / 1000.0).filter(|celsius| (-50.0..200.0).contains(celsius)),
            throttled: bits.and_then(|bits| u32::from_str_radix(bits.trim(), 16).ok()).map(Throttled),
        }
    }
}

/// Finds the file of a Pi's firmware: `soc/soc:firmware/get_throttled`, whose numbers differ by the board.
fn firmware(platform: &Path) -> Option<PathBuf> {
    let named = |folder: &Path, start: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let starts =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        entries.map(|entry| entry.path()).filter(starts).collect()
    };
    let firmwares = named(platform, "soc").into_iter().flat_map(|soc| named(&soc, "soc"));
    firmwares.map(|folder| folder.join("get_throttled")).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_off_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let firmware_folder = folder.path().join("soc@107c000000").join("soc@107c000000:firmware");
        std::fs::create_dir_all(&firmware_folder).unwrap();
        std::fs::write(firmware_folder.join("get_throttled"), "50005\n").unwrap();
        let (meminfo, heat) = (folder.path().join("meminfo"), folder.path().join("temp"));
        std::fs::write(&meminfo, "MemTotal: 4096 kB\nMemAvailable:   2048 kB\nSwapFree: 1024 kB\n").unwrap();
        std::fs::write(&heat, "61250\n").unwrap();
        let host = Host { meminfo, heat: heat.clone(), throttled: firmware(folder.path()) };
        let seen = State {
            total: Some(Bytes::mib(4)),
            memory: Some(Bytes::mib(2)),
            swap: Some(Bytes::mib(1)),
            celsius: Some(61.25),
            throttled: Some(Throttled(0x5_0005)),
        };
        assert_eq!(host.look(), seen);
        std::fs::write(&heat, "-273000\n").unwrap();
        assert_eq!(host.look().celsius, None, "no sensor is that cold");
        assert_eq!(firmware(&folder.path().join("none")), None);
        let nowhere = folder.path().join("nothing");
        let host = Host { meminfo: nowhere.clone(), heat: nowhere, throttled: None };
        assert_eq!(host.look(), State::default());
    }
}
