use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use super::{Error, error::tame};
use crate::generation::Layout;
use crate::lease;

/// The right to change this host at this moment, until dropped. The guard takes the same lock.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock for `verb` or says who has it. `number` is that of the operator's lease: whoever has
    /// taken the host over since keeps it.
    pub(super) fn take(layout: &Layout, number: u64, verb: &str) -> Result<Self, Error> {
        // the folder is there, or nothing is installed and there is nothing to lock
        let path = layout.root().join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // who can read a file can lock it; one of an earlier version was open to all
        file.set_permissions(Permissions::from_mode(0o600)).map_err(Error::io("set the mode of", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(200).read_to_string(&mut holder);
                let holder = tame(&holder, 200);
                let holder = if holder.is_empty() { "another program".to_owned() } else { holder };
                return Err(Error::Busy { holder });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path)(source)),
        }
        let note = format!("`{verb}` (process {})\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(Error::io("write", &path))?;
        let lock = Self { file };
        lease::check(layout, number).map_err(Error::Lease)?;
        Ok(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // closing would not do while a child that was just forked still has the file open
        let _ = self.file.unlock();
    }
}
