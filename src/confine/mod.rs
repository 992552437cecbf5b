//! What a process that reads strangers' files may still do: what it names, and nothing else, for good.
//!
//! Models, checkpoints and tokenizers are made by strangers, and llama.cpp, which reads some of them, is C. So who reads
//! them gives up what that does not need before the first of their bytes is read: other files, the network, new programs,
//! signals to others, and what root may do. Kernels before 5.13, and other systems than Linux, have no Landlock and keep
//! nobody from files; on Linux, calls are refused all the same.
//!
//! It knows neither orders nor models: rooms say what theirs need ([`Needs`]).

use std::io;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::system;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod kernel;

/// What a process goes on to do. What is not there is left out: whoever misses it says so.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Files, and folders with all that is in them, that it reads.
    pub reads: Vec<PathBuf>,
    /// Folders in which it makes, reads, writes and removes files. What is open already may be written to wherever it is.
    pub keeps: Vec<PathBuf>,
    /// Devices, and folders of devices, that it reads, writes and orders about.
    pub devices: Vec<PathBuf>,
    /// Whether all of that belongs to whoever it runs as: then it gives up what root may do, too.
    pub owns_all: bool,
    /// The folder in which it makes the Unix socket that it listens on; it connects to none.
    pub listens: Option<PathBuf>,
}

/// Gives up, for good, what `needs` does not name. Each thread does so for itself and for those that it starts: this is to
/// be called while there is one.
///
/// Returns whether this kernel keeps the process from other files.
///
/// # Errors
/// Something cannot be given up: then the process is not to go on.
pub fn confine(needs: &Needs) -> io::Result<bool> {
    system::give_up_new_privileges()?;
    lower(Resource::Core, 0)?;
    kernel::confine(needs)
}

/// Lowers a limit to `most`. One that is lower already stays.
///
/// # Errors
/// It cannot be set.
pub fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let Rlimit { current, maximum } = getrlimit(resource);
    setrlimit(resource, Rlimit { current: lower(current), maximum: lower(maximum) })?;
    Ok(())
}

#[cfg(test)]
mod tests;
