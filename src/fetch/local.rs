//! Sources on the operator's machine. Their files are used where they are; a file is
//! hashed again only when its size, times or inode say that it may have changed.

use std::fs;
use std::path::{Path, PathBuf};

use super::address::is_gguf;
use super::choose;
use super::error::Error;
use crate::checkpoint::Weights;
use crate::ids::Digest;
use crate::source::{Pinned, PinnedFile};
use crate::store::{Store, hash_file};
use crate::system::leads_out;
use crate::units::Bytes;

/// Largest index of shards that is read. Real ones have some 100 bytes for each tensor.
const INDEX_MAX: u64 = 64 << 20;

/// How files with weights end, which may lie on another disk.
const WEIGHTS: [&str; 4] = [".safetensors", ".bin", ".pth", ".pt"];

/// Pins what is at `path`: the folder of a checkpoint, or one GGUF.
pub(super) fn pin(uri: &str, path: &Path, store: &Store) -> Result<Pinned, Error> {
    let fail = |source| Error::Local { path: path.to_owned(), source };
    let meta = fs::metadata(path).map_err(fail)?;
    let (folder, names) = if meta.is_dir() {
        (path, checkpoint_names(uri, path)?)
    } else {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_gguf(name) {
            let why = "it is neither a folder with a checkpoint nor a .gguf file".to_owned();
            return Err(Error::NotACheckpoint { what: uri.to_owned(), why });
        }
        choose::gguf(uri, name)?;
        (path.parent().unwrap_or(Path::new(".")), vec![name.to_owned()])
    };
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let (sha256, bytes) = hash(&folder.join(&name), store)?;
        files.push(PinnedFile { path: name, bytes, sha256 });
    }
    files.sort();
    Ok(Pinned { uri: uri.to_owned(), files, license: None })
}

pub(super) fn checkpoint_names(uri: &str, folder: &Path) -> Result<Vec<String>, Error> {
    let fail = |source| Error::Local { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            found.push(name);
        }
    }
    let names: Vec<&str> = found.iter().map(String::as_str).collect();
    let (mut chosen, weights) = choose::checkpoint(uri, &names)?;
    match weights {
        Weights::Files(files) => chosen.extend(files),
        Weights::Indexed(name) => {
            let path = folder.join(name);
            let fail = |source| Error::Local { path: path.clone(), source };
            if fs::metadata(&path).map_err(fail)?.len() > INDEX_MAX {
                let why = format!("it is longer than {}", Bytes(INDEX_MAX));
                return Err(Error::BadAnswer { what: path.display().to_string(), why });
            }
            chosen.extend(choose::shards(uri, name, &fs::read(&path).map_err(fail)?, &names)?);
        }
    }
    check_links(folder, &chosen)?;
    Ok(chosen)
}

/// Refuses a folder of which a text, such as a template, would come from elsewhere: texts are in what is made of them.
/// Weights that are none are refused as such.
fn check_links(folder: &Path, names: &[String]) -> Result<(), Error> {
    let is_weights = |name: &str| WEIGHTS.iter().any(|end| name.ends_with(end));
    let mut texts = names.iter().filter(|name| !is_weights(name)).map(|name| folder.join(name));
    match texts.find(|path| leads_out(folder, path)) {
        Some(path) => Err(Error::LeadsOut { path }),
        None => Ok(()),
    }
}

/// Looks whether the texts of a folder that is used as it is, without being pinned, are its own.
///
/// # Errors
/// [`Error::LeadsOut`] where one is a link that leads out of it.
pub fn check_folder(folder: &Path) -> Result<(), Error> {
    let names: Vec<String> = choose::SMALL.map(str::to_owned).into();
    check_links(folder, &names)
}

/// Returns where a pinned file of a local source is, and checks that it is still the same.
pub(super) fn find(path: &Path, file: &PinnedFile, store: &Store) -> Result<PathBuf, Error> {
    let place = place(path, file);
    if hash(&place, store)? == (file.sha256, file.bytes) {
        Ok(place)
    } else {
        Err(Error::LocalChanged { path: place })
    }
}

/// Returns where a pinned file of a local source is.
pub(super) fn place(path: &Path, file: &PinnedFile) -> PathBuf {
    if path.is_dir() { path.join(&file.path) } else { path.to_owned() }
}

/// Returns the digest and size of a file, from the index of hashed files where it is unchanged.
pub(super) fn hash(path: &Path, store: &Store) -> Result<(Digest, Bytes), Error> {
    let fail = |source| Error::Local { path: path.to_owned(), source };
    let looked = store.hashed().look(path).map_err(fail)?;
    if let Some(digest) = looked.known() {
        return Ok((digest, looked.bytes()));
    }
    let (digest, bytes) = hash_file(path).map_err(fail)?;
    if !looked.keep(&digest).map_err(fail)? {
        return Err(Error::LocalChanged { path: path.to_owned() });
    }
    Ok((digest, bytes))
}
