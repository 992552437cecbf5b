//! File work that survives a power cut: write beside, sync, rename, sync the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Error;
use crate::store;

/// Records, definitions and secrets are small; more than this is somebody's mistake.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// A user and a group, by number.
pub(super) type Owner = (u32, u32);

/// Makes `dir` and the folders above it, to last, and readable by all.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    store::make_folder(dir).map_err(Error::io("make the folder", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(Error::io("open up the folder", dir))
}

/// Makes sure that the entries of `dir` are on the disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync the folder", dir))
}

/// Puts `bytes` at `path`: after a power cut, the old contents are there or these.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let beside = beside(path);
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(Error::io("make", &beside))?;
    // the mask may have taken bits from the mode
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", &beside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", &beside))?;
    rename(&beside, path)
}

/// Makes `link` lead to `target`, in one step.
pub(super) fn switch_link(link: &Path, target: &Path) -> Result<(), Error> {
    let beside = beside(link);
    let _ = fs::remove_file(&beside);
    symlink(target, &beside).map_err(Error::io("make the link", &beside))?;
    rename(&beside, link)
}

/// Renames and makes sure that the new name is on the disk.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("rename to", to))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file or link, if it is there, and makes sure that it stays away.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

/// Removes a folder with everything in it, if it is there.
pub(super) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove the folder", path)(error)),
    }
}

/// Removes `dir` and those above it, `most` in all, where nothing is in them.
pub(super) fn remove_empty(dir: &Path, most: usize) {
    // what is in use or not ours stays, which is as well
    dir.ancestors().take(most).for_each(|dir| drop(fs::remove_dir(dir)));
}

/// Reads a small file; none when it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    // room for all at once: what is moved as it grows stays behind
    let size = file.metadata().map_or(0, |meta| meta.len().min(MAX_RECORD_BYTES));
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(Some(bytes))
}

/// Reads a small JSON file; none when it is not there.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    // it may be the secrets
    let Some(bytes) = read(path)?.map(Zeroizing::new) else { return Ok(None) };
    let bad = |source| Error::Json { what: path.display().to_string(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(bad)
}

/// Returns `value` as JSON for people to read, too.
pub(super) fn json<T: serde::Serialize>(what: &str, value: &T) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = serde_json::to_vec_pretty(value);
    let mut bytes = Zeroizing::new(bytes.map_err(|source| Error::Json { what: what.to_owned(), source })?);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Returns the names in `dir`, sorted; none when the folder is not there.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}
