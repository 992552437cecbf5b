use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, Header, Index, Stored, Weights as Files, torch};

/// The longest index of shards that is read. Real ones have some 100 bytes for each tensor.
const INDEX_LIMIT: u64 = 64 << 20;

/// A folder with files of weights, opened and found whole.
#[derive(Debug)]
pub(super) struct Folder {
    files: Vec<Weights>,
    /// Tensors by name, with the number of their file.
    tensors: BTreeMap<String, (Stored, usize)>,
}

#[derive(Debug)]
struct Weights {
    path: PathBuf,
    file: File,
    data_offset: u64,
}

impl Folder {
    /// Opens the files that [`Files::among`] chooses of a folder's.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: dir.to_owned(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match Files::among(&names) {
            Some(Files::Indexed(index)) => Self::open_shards(dir, index),
            Some(Files::Files(names)) => Self::open_files(dir, &names),
            None => Err(Error::NoWeights(dir.to_owned())),
        }
    }

    /// Opens files that are one checkpoint together.
    fn open_files(dir: &Path, names: &[String]) -> Result<Self, Error> {
        let mut found = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for (number, shard) in names.iter().enumerate() {
            let (weights, tensors) = Weights::open(dir.join(shard))?;
            found.files.push(weights);
            for (tensor, stored) in tensors {
                if found.tensors.insert(tensor.clone(), (stored, number)).is_some() {
                    return Err(Error::Twice { tensor, shard: shard.clone() });
                }
            }
        }
        Ok(found)
    }

    fn open_shards(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let path = dir.join(name);
        let failed = |source| Error::Read { path: path.clone(), source };
        let mut text = Vec::new();
        let index = File::open(&path).map_err(failed)?;
        index.take(INDEX_LIMIT).read_to_end(&mut text).map_err(failed)?;
        let index = Index::parse(name, &text)?;
        let (mut files, mut shards) = (Vec::new(), BTreeMap::new());
        for shard in index.shards() {
            let (weights, tensors) = Weights::open(dir.join(shard))?;
            let number = files.len();
            files.push(weights);
            let tensors = tensors.into_iter().map(|(name, stored)| (name, (stored, number))).collect();
            shards.insert(shard.to_owned(), tensors);
        }
        Ok(Self { tensors: index.join(shards)?, files })
    }

    /// Returns what is stored, by name.
    pub(super) fn tensors(&self) -> BTreeMap<String, Stored> {
        self.tensors.iter().map(|(name, (stored, _))| (name.clone(), stored.clone())).collect()
    }

    pub(super) fn stored(&self, tensor: &str) -> Option<&Stored> {
        self.tensors.get(tensor).map(|(stored, _)| stored)
    }

    /// Returns the file that has a tensor.
    pub(super) fn path(&self, tensor: &str) -> Option<&Path> {
        let (_, number) = self.tensors.get(tensor)?;
        self.files.get(*number).map(|weights| weights.path.as_path())
    }

    /// Fills `out` with the bytes of `tensor` from `start` on.
    pub(super) fn read(&self, tensor: &str, start: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = start.saturating_add(out.len() as u64);
        let beyond = || Error::OutOfBounds { tensor: tensor.to_owned(), start, end };
        let (stored, number) =
            self.tensors.get(tensor).filter(|(stored, _)| end <= stored.bytes).ok_or_else(beyond)?;
        let weights = self.files.get(*number).ok_or_else(beyond)?;
        weights.read(weights.data_offset + stored.offset + start, out)
    }
}

impl Weights {
    /// Opens one file and reads what it has.
    fn open(path: PathBuf) -> Result<(Self, BTreeMap<String, Stored>), Error> {
        let failed = |source| Error::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let is_torch = path.extension().is_some_and(|extension| extension == "bin");
        let mut weights = Self { path, file, data_offset: 0 };
        let found = if is_torch { weights.scan(bytes) } else { weights.header(bytes) };
        match found {
            Ok(tensors) => Ok((weights, tensors)),
            Err(error) => Err(weights.named(error)),
        }
    }

    /// Says which file an error is of.
    fn named(&self, error: Error) -> Error {
        let path = self.path.clone();
        match error {
            Error::Header(_) | Error::Torch(_) => Error::File { path, source: Box::new(error) },
            Error::Pickle(_) => Error::Untrusted { path, source: Box::new(error) },
            other => other,
        }
    }

    fn header(&mut self, file_bytes: u64) -> Result<BTreeMap<String, Stored>, Error> {
        if file_bytes < 8 {
            return Err(Error::Header("it is cut off".to_owned()));
        }
        let mut first = [0; 8];
        self.read(0, &mut first)?;
        let bytes = self.piece(0, Header::len(first)?, file_bytes)?;
        let header = Header::parse(&bytes)?;
        self.data_offset = header.data_offset;
        let expected = header.data_offset.saturating_add(header.data_bytes);
        if file_bytes == expected {
            Ok(header.tensors)
        } else {
            Err(Error::Header(format!("the file has {file_bytes} bytes, and its header promises {expected}")))
        }
    }

    fn scan(&self, file_bytes: u64) -> Result<BTreeMap<String, Stored>, Error> {
        let mut scan = torch::Scan::new(file_bytes);
        loop {
            match scan.step()? {
                torch::Step::Done(contents) => return contents.locate(|at, out| self.read(at, out)),
                torch::Step::Need(range) => {
                    let piece = self.piece(range.start, range.end, file_bytes)?;
                    scan.take(range.start, piece);
                }
            }
        }
    }

    /// Reads a piece of the file that is no longer than the file.
    fn piece(&self, start: u64, end: u64, file_bytes: u64) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(end.min(file_bytes).saturating_sub(start)).unwrap_or(0);
        let mut piece = vec![0; len];
        self.read(start, &mut piece)?;
        Ok(piece)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Read { path: self.path.clone(), source };
        self.file.read_exact_at(out, at).map_err(failed)
    }
}
