use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, Header, Index, Stored};

/// A folder of safetensors, opened and found whole.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<(PathBuf, File, u64)>,
    /// Tensors by name, with the number of their file.
    tensors: BTreeMap<String, (Stored, usize)>,
}

impl Checkpoint {
    /// Opens the weights in `dir`: model.safetensors, or the shards of its index.
    ///
    /// Fails unless each file has the length that its header promises, and every tensor of
    /// the index is in its shard.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let index_path = dir.join("model.safetensors.index.json");
        if !index_path.exists() {
            return Self::open_single(dir);
        }
        let text = std::fs::read(&index_path).map_err(|source| Error::Read { path: index_path, source })?;
        let index = Index::parse(&text)?;
        let mut files = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut headers = BTreeMap::new();
        for shard in index.shards() {
            let (file, header) = open_file(&dir.join(shard))?;
            numbers.insert(shard, files.len());
            files.push((dir.join(shard), file, header.data_offset));
            headers.insert(shard.to_owned(), header);
        }
        let number = |tensor: &str| index.shard_of.get(tensor).and_then(|shard| numbers.get(shard.as_str()));
        let tensors = index.gather(&headers)?;
        let tensors = tensors.into_iter().filter_map(|(name, stored)| {
            let number = *number(&name)?;
            Some((name, (stored, number)))
        });
        Ok(Self { tensors: tensors.collect(), files })
    }

    fn open_single(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("model.safetensors");
        if !path.exists() {
            let torch = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];
            let has_torch = torch.iter().any(|name| dir.join(name).exists());
            let dir = dir.to_owned();
            return Err(if has_torch { Error::Torch(dir) } else { Error::NoWeights(dir) });
        }
        let (file, header) = open_file(&path)?;
        let tensors = header.tensors.into_iter().map(|(name, stored)| (name, (stored, 0))).collect();
        Ok(Self { files: vec![(path, file, header.data_offset)], tensors })
    }

    /// Returns what is stored, by name.
    pub fn tensors(&self) -> BTreeMap<String, Stored> {
        self.tensors.iter().map(|(name, (stored, _))| (name.clone(), stored.clone())).collect()
    }

    /// Fills `out` with the bytes of `tensor` from `start` on.
    pub fn read(&self, tensor: &str, start: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = start.saturating_add(out.len() as u64);
        let beyond = || Error::OutOfBounds { tensor: tensor.to_owned(), start, end };
        let (stored, number) =
            self.tensors.get(tensor).filter(|(stored, _)| end <= stored.bytes).ok_or_else(beyond)?;
        let (path, file, data_offset) = self.files.get(*number).ok_or_else(beyond)?;
        file.read_exact_at(out, data_offset + stored.offset + start)
            .map_err(|source| Error::Read { path: path.clone(), source })
    }
}

fn open_file(path: &Path) -> Result<(File, Header), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut first = [0; 8];
    file.read_exact(&mut first).map_err(failed)?;
    let unsound = |reason: String| Error::File { path: path.to_owned(), reason };
    let named = |error: Error| unsound(error.to_string());
    let len = Header::len(first).map_err(named)?;
    let mut bytes = first.to_vec();
    file.by_ref().take(len - 8).read_to_end(&mut bytes).map_err(failed)?;
    let header = Header::parse(&bytes).map_err(named)?;
    let expected = header.data_offset.saturating_add(header.data_bytes);
    if file_bytes == expected {
        Ok((file, header))
    } else {
        Err(unsound(format!("it has {file_bytes} bytes, and its header promises {expected}")))
    }
}
