//! What `/proc` tells of running programs.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A program that somebody else has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Returns the child of `parent` whose command line has `word`.
    pub(crate) fn child_of(parent: u32, word: &str) -> Option<Self> {
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let number: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            Some(Self(number))
        });
        let is_child = |process: &Self| {
            let parent_of = process.field("status", "PPid:");
            parent_of == Some(u64::from(parent))
                && process.read("cmdline").is_some_and(|line| line.split('\0').any(|part| part == word))
        };
        numbers.into_iter().find(is_child)
    }

    /// Returns how many bytes it has written, to files and pipes.
    pub(crate) fn written(self) -> Option<u64> {
        self.field("io", "wchar:")
    }

    /// Returns the most memory that it ever had resident.
    pub(crate) fn peak(self) -> Option<u64> {
        self.field("status", "VmHWM:").map(|kib| kib << 10)
    }

    /// Returns the memory that it has resident now.
    pub(crate) fn resident(self) -> Option<u64> {
        self.field("status", "VmRSS:").map(|kib| kib << 10)
    }

    pub(crate) fn is_running(self) -> bool {
        self.read("status").is_some_and(|status| !status.contains("State:\tZ"))
    }

    pub(crate) fn signal(self, signal: Signal) {
        // one that has just ended is what was wanted
        let _ = kill_process(Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap(), signal);
    }

    fn read(self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).ok()
    }

    fn field(self, file: &str, name: &str) -> Option<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    }
}
