use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Error, Index};
use crate::ids::Digest;
use crate::signature::SigningKey;
use crate::units::Bytes;

/// A blob, and where it is.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// The file that holds it.
    pub path: PathBuf,
}

/// Writes the file at `path`, whole or not at all, and tells how many bytes of blobs have been written now and then.
/// Every blob is hashed on its way, so that what is damaged here is not handed on.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Read`] and [`Error::Write`]. A file that is there already is written over.
pub fn write(
    path: &Path,
    index: &Index,
    blobs: &[Blob],
    key: &SigningKey,
    told: &dyn Fn(Bytes),
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(index).map_err(|error| failed(error.into()))?;
    let signature =
        key.sign(&text, &format!("fleet {} bramble {} at {}", index.fleet, index.version, index.at));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = tempfile::Builder::new().prefix(".bramble-export-").tempfile_in(folder).map_err(failed)?;
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, new.as_file()));
    let mut put = |name: &str, bytes: u64, data: &mut dyn Read| -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, name, data)
    };
    put("index.json", text.len() as u64, &mut text.as_slice()).map_err(failed)?;
    put("index.json.minisig", signature.len() as u64, &mut signature.as_bytes()).map_err(failed)?;
    let mut written = Bytes::ZERO;
    for blob in blobs {
        let read = |source| Error::Read { path: blob.path.clone(), source };
        let file = File::open(&blob.path).map_err(read)?;
        let mut hashing =
            Hashing { inner: file.take(blob.bytes.0), hasher: Sha256::new(), told, before: written, read: 0 };
        put(&format!("blobs/sha256/{}", blob.digest), blob.bytes.0, &mut hashing).map_err(failed)?;
        if hashing.read != blob.bytes.0 || Digest::new(hashing.hasher.finalize().into()) != blob.digest {
            return Err(Error::Damaged { digest: blob.digest });
        }
        written += blob.bytes;
    }
    let mut buffered = tar.into_inner().map_err(failed)?;
    buffered.flush().map_err(failed)?;
    drop(buffered);
    // there is no secret in it, and it is for others to read
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Hashes and counts what is read through it.
struct Hashing<'a, R> {
    inner: R,
    hasher: Sha256,
    told: &'a dyn Fn(Bytes),
    before: Bytes,
    read: u64,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        (self.told)(self.before + Bytes(self.read));
        Ok(count)
    }
}
