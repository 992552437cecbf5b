//! How the host is: whether there is memory for a model before it is loaded, and whether memory, voltage and heat hold
//! while it is served.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;
use crate::facts::{self, Throttled};
use crate::generation::EngineSpec;
use crate::units::Bytes;

/// How often the host is looked at.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// With less memory than this the kernel drops pages of the weights that the next token reads again: an answer from
/// elsewhere is sooner there. Nothing is planned so tightly.
const SCARCE: Bytes = Bytes::mib(48);

/// How the host is. What it does not tell is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Memory that programs can still have.
    pub(super) memory: Option<Bytes>,
    /// What can be moved out of it.
    pub(super) swap: Option<Bytes>,
    /// What a Pi's firmware says.
    pub(super) throttled: Option<Throttled>,
}

/// Where the host tells how it is.
#[derive(Debug, Clone)]
pub(super) struct Host {
    meminfo: PathBuf,
    throttled: Option<PathBuf>,
}

impl Host {
    /// Finds the files of this machine.
    pub(super) fn new() -> Self {
        Self {
            meminfo: PathBuf::from("/proc/meminfo"),
            throttled: firmware(Path::new("/sys/devices/platform")),
        }
    }

    pub(super) fn look(&self) -> State {
        let meminfo = std::fs::read_to_string(&self.meminfo).unwrap_or_default();
        let bits = self.throttled.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        State {
            memory: facts::meminfo(&meminfo, "MemAvailable"),
            swap: facts::meminfo(&meminfo, "SwapFree"),
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

impl State {
    /// Refuses to load what has no room.
    pub(super) fn check_room(&self, spec: &EngineSpec) -> Result<(), Error> {
        let Some(memory) = self.memory else { return Ok(()) };
        let swap = self.swap.unwrap_or_default();
        if spec.need <= memory + swap {
            return Ok(());
        }
        Err(Error::NoRoom { model: spec.model.clone(), need: spec.need, memory, swap })
    }

    /// Returns the memory that is left, where that is too little to serve well.
    pub(super) fn scarce(&self) -> Option<Bytes> {
        self.memory.filter(|memory| *memory < SCARCE)
    }

    /// Says what has become worse or better since `before`, for the log.
    pub(super) fn news(&self, before: &Self) -> Option<String> {
        if let (Some(memory), None) = (self.scarce(), before.scarce()) {
            return Some(format!("memory is scarce: {memory} are left; requests go elsewhere"));
        }
        if before.scarce().is_some() && self.scarce().is_none() {
            return Some("there is memory again".to_owned());
        }
        let (now, then) = (self.throttled?, before.throttled.unwrap_or(Throttled(0)));
        if now == then || !(now.is_under_voltage() || now.is_slowed()) {
            return None;
        }
        let supply = if now.is_under_voltage() { "the supply gives or gave too little voltage" } else { "" };
        let heat = if now.is_slowed() { "the processor is or was slowed for heat or supply" } else { "" };
        let words: Vec<&str> = [supply, heat].into_iter().filter(|word| !word.is_empty()).collect();
        Some(format!("{} (0x{:x})", words.join(", "), now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::spec;

    #[test]
    fn a_host_is_read_off_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let firmware_folder = folder.path().join("soc@107c000000").join("soc@107c000000:firmware");
        std::fs::create_dir_all(&firmware_folder).unwrap();
        std::fs::write(firmware_folder.join("get_throttled"), "50005\n").unwrap();
        let meminfo = folder.path().join("meminfo");
        std::fs::write(&meminfo, "MemTotal: 999 kB\nMemAvailable:   2048 kB\nSwapFree: 1024 kB\n").unwrap();
        let host = Host { meminfo, throttled: firmware(folder.path()) };
        let (memory, swap) = (Some(Bytes::mib(2)), Some(Bytes::mib(1)));
        assert_eq!(host.look(), State { memory, swap, throttled: Some(Throttled(0x5_0005)) });
        assert_eq!(firmware(&folder.path().join("none")), None);
        let nowhere = Host { meminfo: folder.path().join("nothing"), throttled: None };
        assert_eq!(nowhere.look(), State::default());
    }

    #[test]
    fn what_has_no_room_is_refused_with_the_numbers() {
        let spec = EngineSpec { need: Bytes::mib(900), ..spec(1) };
        let with = |memory, swap| State {
            memory: Some(Bytes::mib(memory)),
            swap: Some(Bytes::mib(swap)),
            throttled: None,
        };
        assert!(with(900, 0).check_room(&spec).is_ok() && with(500, 400).check_room(&spec).is_ok());
        let words = with(500, 399).check_room(&spec).unwrap_err().to_string();
        assert!(
            words.contains("900 MiB") && words.contains("500 MiB") && words.contains("399 MiB"),
            "{words}"
        );
        assert!(State::default().check_room(&spec).is_ok(), "nothing is known");
    }

    #[test]
    fn what_changes_is_said_once() {
        let with =
            |mib, bits| State { memory: Some(Bytes::mib(mib)), swap: None, throttled: Some(Throttled(bits)) };
        let (good, short, hot) = (with(900, 0), with(40, 0), with(900, 0x4_0000));
        assert!(short.news(&good).unwrap().contains("40.0 MiB"));
        assert_eq!(short.news(&short), None);
        assert_eq!(good.news(&short).as_deref(), Some("there is memory again"));
        assert!(hot.news(&good).unwrap().contains("slowed"));
        assert_eq!((hot.news(&hot), good.news(&good)), (None, None));
    }
}
