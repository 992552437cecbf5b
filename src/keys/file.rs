use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Error;

/// Reads what is kept at `path`; none where nothing is.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

/// Reads what is kept at `path` in the form `known`, of which `format` tells.
pub(super) fn load_as<T: DeserializeOwned>(
    path: &Path,
    known: u32,
    format: impl Fn(&T) -> u32,
) -> Result<Option<T>, Error> {
    match load(path)? {
        Some(kept) if format(&kept) != known => {
            Err(Error::Format { path: path.to_owned(), found: format(&kept), known })
        }
        kept => Ok(kept),
    }
}

/// Keeps a value at `path` for its owner alone, whole or not at all.
pub(super) fn save(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let text = Zeroizing::new(serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?);
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
