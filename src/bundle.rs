//! Bundles: `brambled` and its shared libraries as one archive for one kind of machine.
//!
//! `scripts/bundle` makes them. This room finds them and reads what they say of
//! themselves; `transfer` brings them to hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::generation::Bundle;
use crate::ids::Digest;
use crate::system;
use crate::units::Bytes;

/// A bundle on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says of itself.
    pub bundle: Bundle,
    /// The archive.
    pub archive: PathBuf,
}

/// Why bundles could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A description is not one.
    #[error("{path} does not describe a bundle: make it anew with scripts/bundle")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The archive is not what its description says.
    #[error("{archive} is damaged: make it anew with scripts/bundle")]
    Damaged {
        /// The archive.
        archive: PathBuf,
    },
    /// A description that came in a file names what is no file of a bundle.
    #[error("the bundle for {target} names the archive {file}, which is no plain name of a file")]
    Name {
        /// The target.
        target: String,
        /// The archive's name.
        file: String,
    },
    /// The bundle cannot be unpacked here.
    #[error("cannot put a bundle into {path}")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The archive that a description names is not there, or is another.
    #[error(
        "{path} names the archive {file}, which is not a plain file of {bytes} beside it: make it anew with scripts/bundle"
    )]
    Archive {
        /// The description.
        path: PathBuf,
        /// The archive's name.
        file: String,
        /// The size that it should have.
        bytes: Bytes,
    },
}

/// Finds every bundle in `folders`; the first one for a target and its graphics processors wins. A folder that does not
/// exist holds none.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Found>, Error> {
    let mut found: Vec<Found> = Vec::new();
    for folder in folders {
        for path in descriptions(folder)? {
            let one = read(&path)?;
            let kind = (&one.bundle.target, one.bundle.gpu);
            if found.iter().all(|other| (&other.bundle.target, other.bundle.gpu) != kind) {
                found.push(one);
            }
        }
    }
    Ok(found)
}

/// Unpacks a bundle under `folder` on this machine, where its `brambled` quantizes, and returns
/// the program. Does nothing if it is there.
pub fn unpack(found: &Found, folder: &Path) -> Result<PathBuf, Error> {
    let digest = &found.bundle.digest;
    let dir = folder.join(digest.to_string());
    let program = dir.join("brambled");
    if program.is_file() {
        return Ok(program);
    }
    let archive = &found.archive;
    let bytes = fs::read(archive).map_err(|source| Error::Read { path: archive.clone(), source })?;
    if Digest::of(&bytes) != *digest {
        return Err(Error::Damaged { archive: archive.clone() });
    }
    let write = |source| Error::Write { path: dir.clone(), source };
    fs::create_dir_all(folder).map_err(write)?;
    // others wait, and find it unpacked; what a killed run has left half unpacked is removed
    let alone = fs::File::create(folder.join("lock")).map_err(write)?;
    // where there are no locks, none can be had
    drop(alone.lock());
    if program.is_file() {
        return Ok(program);
    }
    let unfinished = folder.join("unfinished");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(write(error)),
        _ => fs::create_dir(&unfinished).map_err(write)?,
    }
    #[expect(clippy::disallowed_methods, reason = "tar reads archives; every system that has bundles has it")]
    let mut tar = std::process::Command::new("tar");
    let status = tar.arg("-xzf").arg(archive).arg("-C").arg(&unfinished).status().map_err(write)?;
    if !status.success() {
        return Err(Error::Damaged { archive: archive.clone() });
    }
    // a loss of power must not leave a program that is there and empty
    system::sync_file_system(&alone).map_err(write)?;
    fs::rename(&unfinished, &dir).map_err(write)?;
    Ok(program)
}

/// Keeps a bundle in `folder`, where [`find`] finds it: a copy of `archive`, which was proven to be it, and its description.
///
/// # Errors
/// [`Error::Name`] for a description that names no plain file, and [`Error::Write`].
pub fn keep(folder: &Path, bundle: &Bundle, archive: &Path) -> Result<(), Error> {
    let is_plain = |name: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && !name.starts_with('.') && name.len() < 128 && name.bytes().all(inner)
    };
    if !is_plain(&bundle.file)
        || !is_plain(&bundle.target)
        || Path::new(&bundle.file).extension().is_some_and(|end| end == "json")
    {
        return Err(Error::Name { target: bundle.target.clone(), file: bundle.file.clone() });
    }
    let write = |source| Error::Write { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(write)?;
    let put = |name: &str, fill: &dyn Fn(&Path) -> std::io::Result<()>| {
        let new = folder.join(format!(".new-{name}"));
        fill(&new).and_then(|()| fs::rename(&new, folder.join(name))).map_err(write)
    };
    // the archive first: a description never names what is not there
    put(&bundle.file, &|new| {
        drop(fs::remove_file(new));
        fs::copy(archive, new)?;
        fs::set_permissions(new, fs::Permissions::from_mode(0o644))
    })?;
    let gpu = bundle.gpu.map(|gpu| format!("-{}", gpu.name())).unwrap_or_default();
    put(&format!("{}{gpu}.json", bundle.target), &|new| fs::write(new, serde_json::to_vec_pretty(bundle)?))
}

fn descriptions(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Found, Error> {
    let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let bundle: Bundle =
        serde_json::from_slice(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })?;
    let wrong = || Error::Archive { path: path.to_owned(), file: bundle.file.clone(), bytes: bundle.bytes };
    if bundle.file.contains('/') || bundle.file.starts_with('.') {
        return Err(wrong());
    }
    let archive = path.with_file_name(&bundle.file);
    match fs::metadata(&archive) {
        Ok(data) if data.is_file() && data.len() == bundle.bytes.0 => Ok(Found { bundle, archive }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(folder: &Path, target: &str, archive: &[u8], bytes: u64) {
        fs::create_dir_all(folder).unwrap();
        let bundle = Bundle {
            format: 1,
            target: target.to_owned(),
            machine: "x86_64".to_owned(),
            file: format!("{target}.tar.gz"),
            digest: Digest::of(archive),
            bytes: Bytes(bytes),
            unpacked_bytes: Bytes(9),
            version: "0.1.0".to_owned(),
            glibc: "2.36".to_owned(),
            gpu: None,
        };
        fs::write(folder.join(&bundle.file), archive).unwrap();
        fs::write(folder.join(format!("{target}.json")), serde_json::to_vec(&bundle).unwrap()).unwrap();
    }

    #[test]
    fn the_first_folder_wins_and_a_missing_one_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        describe(&a, "x", b"first", 5);
        describe(&b, "x", b"other", 5);
        describe(&b, "y", b"third", 5);
        let found = find(&[dir.path().join("none"), a.clone(), b.clone()]).unwrap();
        let archives: Vec<_> = found.iter().map(|found| found.archive.clone()).collect();
        assert_eq!(archives, [a.join("x.tar.gz"), b.join("y.tar.gz")]);
        assert_eq!(found[0].bundle.glibc_version(), Some((2, 36)));
    }

    #[test]
    fn what_came_in_a_file_is_kept_where_it_is_found_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        describe(&from, "x", b"first", 5);
        let found = find(std::slice::from_ref(&from)).unwrap().remove(0);
        keep(&to, &found.bundle, &found.archive).unwrap();
        keep(&to, &found.bundle, &found.archive).unwrap();
        let kept = find(std::slice::from_ref(&to)).unwrap();
        assert_eq!((kept.len(), &kept[0].bundle), (1, &found.bundle));
        for name in ["../evil", "/etc/x", ".hidden", "a/b", "x.json", "a\nb", ""] {
            let bundle = Bundle { file: name.to_owned(), ..found.bundle.clone() };
            assert!(matches!(keep(&to, &bundle, &found.archive), Err(Error::Name { .. })), "{name}");
            let bundle = Bundle { target: name.to_owned(), ..found.bundle.clone() };
            assert_eq!(keep(&to, &bundle, &found.archive).is_ok(), name == "x.json", "{name}");
        }
    }

    #[test]
    fn a_truncated_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        describe(dir.path(), "x", b"short", 6);
        let message = find(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains("x.tar.gz") && message.contains("6 B"), "{message}");
    }
}
