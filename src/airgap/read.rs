use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Error, Index};
use crate::ids::Digest;
use crate::signature::PublicKey;
use crate::store::{self, Store};
use crate::units::Bytes;

/// No index is longer: a hundred models take some megabytes.
const LONGEST_INDEX: u64 = 64 << 20;
/// No signature is.
const LONGEST_SIGNATURE: u64 = 4096;
/// Blobs are kept in pieces of this size.
const PIECE: usize = 1 << 20;
/// What comes before each entry.
const HEADER: u64 = 512;

/// A file whose index was signed by somebody who is believed.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    /// Where the blobs begin.
    blobs_at: u64,
    /// What is in it.
    pub index: Index,
    /// What was signed with it: whose it is, and from when.
    pub comment: String,
    /// Who has signed it.
    pub signer: PublicKey,
}

/// What was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Received {
    /// Blobs that are new here.
    pub new: usize,
    /// Their bytes.
    pub bytes: Bytes,
    /// Blobs that were here already.
    pub known: usize,
}

/// Opens a file and verifies that one of `keys` has signed what is in it. Nothing else of it is read.
///
/// # Errors
/// [`Error::Form`], [`Error::Signature`], [`Error::Index`], [`Error::Newer`] and [`Error::NotThere`].
pub fn open(path: &Path, keys: &[PublicKey]) -> Result<Opened, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = BufReader::new(File::open(path).map_err(read)?);
    let mut archive = tar::Archive::new(file);
    // names of ours are short: without `raw`, an entry with a long name for the next would be read whole
    let mut entries = archive.entries().map_err(read)?.raw(true);
    let (text, _) = named(path, entries.next(), "index.json", LONGEST_INDEX)?;
    let (signature, blobs_at) = named(path, entries.next(), "index.json.minisig", LONGEST_SIGNATURE)?;
    let signature = String::from_utf8_lossy(&signature);
    let mut refused = crate::signature::Error::Form;
    for key in keys {
        match key.verify(&text, &signature) {
            Ok(comment) => {
                let index = Index::parse(&text)?;
                return Ok(Opened { path: path.to_owned(), blobs_at, index, comment, signer: *key });
            }
            Err(error) => refused = error,
        }
    }
    Err(Error::Signature { path: path.to_owned(), source: refused })
}

type Entry<'a> = tar::Entry<'a, BufReader<File>>;

/// Reads the entry that has to come next, and returns where the one after it begins.
fn named(
    path: &Path,
    entry: Option<io::Result<Entry<'_>>>,
    name: &str,
    longest: u64,
) -> Result<(Vec<u8>, u64), Error> {
    let form = |why: String| Error::Form { path: path.to_owned(), why };
    let mut entry = entry.and_then(Result::ok).ok_or_else(|| form(format!("{name} is missing")))?;
    let is_it = entry.path_bytes().as_ref() == name.as_bytes() && entry.header().entry_type().is_file();
    let size = entry.size();
    if !is_it || size > longest {
        return Err(form(format!("{name} is missing, or too long")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|_| form(format!("{name} is cut short")))?;
    let end = entry.raw_file_position() + size.next_multiple_of(HEADER);
    Ok((bytes, end))
}

impl Opened {
    /// Takes every blob into `store` that it does not have, and tells how many bytes of the file have been read now
    /// and then. One that broke off is gone on with.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Form`] for what the index does not name, and [`Error::Keep`]. What was taken in
    /// before stays.
    pub fn receive(&self, store: &Store, told: &dyn Fn(Bytes)) -> Result<Received, Error> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let form = |why: String| Error::Form { path: self.path.clone(), why };
        let mut file = File::open(&self.path).map_err(read)?;
        file.seek(SeekFrom::Start(self.blobs_at)).map_err(read)?;
        let mut archive = tar::Archive::new(BufReader::with_capacity(PIECE, file));
        let mut missing: BTreeSet<&Digest> = self.index.blobs.keys().collect();
        let mut received = Received { new: 0, bytes: Bytes::ZERO, known: 0 };
        let mut seen = Bytes::ZERO;
        for entry in archive.entries().map_err(read)?.raw(true) {
            let mut entry = entry.map_err(|error| form(error.to_string()))?;
            let digest = digest_of(&entry);
            let digest = digest
                .filter(|digest| missing.remove(digest))
                .ok_or_else(|| form("an entry is not one that its index names".to_owned()))?;
            let bytes = Bytes(entry.size());
            if self.index.blobs.get(&digest) != Some(&bytes) {
                return Err(Error::Damaged { digest });
            }
            if store.has(&digest) {
                received.known += 1;
            } else {
                keep(&mut entry, store, digest, bytes, &|done| told(seen + done))?;
                received.new += 1;
                received.bytes += bytes;
            }
            seen += bytes;
            told(seen);
        }
        match missing.first() {
            Some(_) => Err(form(format!("{} of its blobs are missing", missing.len()))),
            None => Ok(received),
        }
    }
}

/// Returns which blob an entry is; none if it is none.
fn digest_of(entry: &Entry<'_>) -> Option<Digest> {
    let name = entry.path_bytes();
    let name = std::str::from_utf8(&name).ok()?.strip_prefix("blobs/sha256/")?;
    name.parse().ok().filter(|_| entry.header().entry_type().is_file())
}

fn keep(
    entry: &mut Entry<'_>,
    store: &Store,
    digest: Digest,
    bytes: Bytes,
    told: &dyn Fn(Bytes),
) -> Result<(), Error> {
    let cannot = |source| Error::Keep { digest, source };
    let arrival = store.arrive(&digest, bytes).map_err(cannot)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0u64;
    while at < bytes.0 {
        let wanted = usize::try_from(bytes.0 - at).unwrap_or(PIECE).min(PIECE);
        let part = &mut piece[..wanted];
        entry.read_exact(part).map_err(|_| Error::Damaged { digest })?;
        let end = at + wanted as u64;
        if !arrival.holds(&(at..end)) {
            arrival.write_at(at, part).map_err(cannot)?;
        }
        at = end;
        told(Bytes(at));
    }
    match arrival.seal() {
        Ok(_) => Ok(()),
        Err(store::Error::Mismatch { .. }) => Err(Error::Damaged { digest }),
        Err(source) => Err(cannot(source)),
    }
}
