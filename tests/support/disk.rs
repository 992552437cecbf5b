//! Filesystems that are soon full. Only root can mount them; tests say so where they cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem of its own; unmounted when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts `size` bytes of memory on `folder`.
    pub(crate) fn in_memory(folder: &Path, size: u64) -> Option<Self> {
        let options = format!("size={size}");
        Self::mount(folder, &["-t", "tmpfs", "-o", &options, "none"])
    }

    /// Mounts a filesystem of `size` bytes that cannot take room beforehand: a disk that is found to
    /// be full in the middle of a file.
    pub(crate) fn without_reservations(folder: &Path, size: u64) -> Option<Self> {
        let image = folder.with_added_extension("image");
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let image = image.to_str().unwrap();
        if !is_well(&["mkfs.ext2", "-q", "-m", "0", image]) {
            skipped("there is no mkfs.ext2 here");
            return None;
        }
        Self::mount(folder, &["-o", "loop", image])
    }

    fn mount(folder: &Path, arguments: &[&str]) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let folder_name = folder.to_str().unwrap();
        let command = [&["mount"], arguments, &[folder_name]].concat();
        let is_mounted = rustix::process::geteuid().is_root() && is_well(&command);
        if !is_mounted {
            skipped("only root can mount a small filesystem here");
        }
        is_mounted.then(|| Self(folder.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        is_well(&["umount", "-l", self.0.to_str().unwrap()]);
    }
}

#[expect(clippy::disallowed_methods, reason = "mounting is what other programs do")]
fn is_well(command: &[&str]) -> bool {
    Command::new(command[0]).args(&command[1..]).status().is_ok_and(|status| status.success())
}

#[expect(clippy::print_stderr, reason = "a test that proves nothing says so")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
