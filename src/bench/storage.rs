use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use crate::facts::StorageBench;
use crate::system;
use crate::units::{Bytes, BytesPerSec};

/// Enough for an SD card to reach its rate, and a second or two of it.
const FILE: Bytes = Bytes::mib(96);
/// How much is written and read at once.
const BLOCK: usize = 1 << 20;
/// Storage that seems faster than this part of memory was read from memory.
const MOST_OF_MEMORY: f64 = 0.6;

/// Reads a file of which nothing is in memory any more: it was written, synced, and dropped
/// from the page cache.
///
/// # Errors
/// A sentence on why there is no figure. Whether a virtual disk is cached by its host cannot be seen.
pub(super) fn measure(dir: &Path, memory: Option<BytesPerSec>) -> Result<StorageBench, String> {
    let path = dir.join(".bench");
    let measured = read(&path);
    let _ = std::fs::remove_file(&path);
    let seconds = measured.map_err(|error| format!("storage was not measured: {error}"))?;
    let read = BytesPerSec(FILE.0 as f64 / seconds.max(1e-9));
    if memory.is_some_and(|memory| read.0 > memory.0 * MOST_OF_MEMORY) {
        return Err(format!(
            "storage was not measured: {read} is what memory gives, so it was read from there"
        ));
    }
    Ok(StorageBench { read, bytes: FILE })
}

fn read(path: &Path) -> std::io::Result<f64> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let blocks = usize::try_from(FILE.0).unwrap_or(0) / BLOCK;
    let mut block = vec![0u8; BLOCK];
    for number in 0..blocks {
        scramble(&mut block, number);
        file.write_all(&block)?;
    }
    file.sync_all()?;
    system::drop_cached(&file)?;
    file.seek(SeekFrom::Start(0))?;
    let start = Instant::now();
    for _ in 0..blocks {
        file.read_exact(&mut block)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Fills a block with what no filesystem or card can compress.
fn scramble(block: &mut [u8], number: usize) {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for bytes in block.as_chunks_mut::<8>().0 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *bytes = state.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        match measure(dir.path(), None) {
            Ok(storage) => assert!(storage.read.0 > 0.0 && storage.bytes == FILE),
            Err(note) => panic!("{note}"),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_as_fast_as_memory_is_no_figure() {
        let dir = tempfile::tempdir().unwrap();
        let note = measure(dir.path(), Some(BytesPerSec(1.0))).unwrap_err();
        assert!(note.contains("read from there"), "{note}");
        assert!(measure(&dir.path().join("missing"), None).unwrap_err().contains("not measured"));
    }
}
