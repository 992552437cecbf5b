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

    /// Mounts a filesystem of `size` bytes with a journal, as hosts have it.
    pub(crate) fn journaled(folder: &Path, size: u64) -> Option<Self> {
        let image = folder.with_added_extension("image");
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let image = image.to_str().unwrap();
        if !is_well(&["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image]) {
            skipped("there is no mkfs.ext4 here");
            return None;
        }
        Self::mount(folder, &["-o", "loop", image])
    }

    /// Changes how it is mounted: `ro`, `rw`; `abort` is what the kernel does when a disk fails, also while
    /// files are being written.
    pub(crate) fn remount(&self, how: &str) -> bool {
        is_well(&["mount", "-o", &format!("remount,{how}"), self.0.to_str().unwrap()])
    }

    /// Takes it away and mounts it again, as it is after a failure.
    pub(crate) fn mount_again(&self) {
        let folder = self.0.to_str().unwrap();
        let image = self.0.with_added_extension("image");
        assert!(is_well(&["umount", folder]), "it is in use");
        assert!(is_well(&["mount", "-o", "loop", image.to_str().unwrap(), folder]));
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
