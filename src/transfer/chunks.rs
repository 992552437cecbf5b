//! The chunks that a blob is sent in, each with its digest.
//!
//! A host that has a chunk, from an interrupted push or in another blob, is not sent it again.
//! So that the same content makes the same chunks wherever it lies, they are cut where the
//! caller says that parts begin (tensors, of a model), and what is before the first part is cut
//! by its content: one changed line of a header costs one small chunk.
//!
//! The sender hashes a file twice in one reading, whole and by chunks, side by side, and only once: the list is kept,
//! and the whole must have the digest that names the blob. So whoever has the list over SSH, and each chunk with its
//! digest at its place, has the blob, and a host hashes what comes once, as it comes: it reads nothing back before it
//! seals. What a disk makes of it afterwards is found before the first use, where the whole is hashed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::ids::Digest;
use crate::store::Hashed;
use crate::units::Bytes;

/// The largest chunk. Bitmaps of a 4 GB blob stay at a thousand entries, and what is lost with a
/// broken link at a second of slow Wi-Fi.
pub const CHUNK: u64 = 4 << 20;

/// The bounds of chunks that are cut by content.
const LEAST_CUT: u64 = 16 << 10;
const MOST_CUT: u64 = 256 << 10;
/// A cut where these bits of the rolling sum are zero: after 64 KiB more on average.
const CUT_MASK: u64 = 0xffff << 48;

/// More chunks than any blob has: 4 TiB of them.
const MOST_CHUNKS: usize = 1 << 20;
/// The longest list that is read.
pub(super) const MOST_LIST: u64 = 80 << 20;

/// Chunks that are in memory at once while a file is hashed.
const READ_AHEAD: usize = 3;

const HEAD: &str = "bramble-chunks 1";

/// One chunk of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its SHA-256.
    pub digest: Digest,
    /// Where it lies in the blob; never empty, at most [`CHUNK`] long.
    pub range: Range<u64>,
}

/// All chunks of a blob, in their order: together they are the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    /// The blob's SHA-256.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// The chunks.
    pub chunks: Vec<Chunk>,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("not a list of chunks: {0}")]
    Malformed(&'static str),
}

impl ChunkList {
    /// Returns the list of the file at `path`, which is the blob `digest`: from `cache`, where it is
    /// kept, or by reading the file, which proves the digest. `starts` says where parts begin.
    ///
    /// # Errors
    /// The file cannot be read, the list not be kept, or ([`io::ErrorKind::InvalidData`]) the file is
    /// another blob.
    pub fn of_file(
        path: &Path,
        digest: &Digest,
        cache: &Path,
        starts: impl FnOnce() -> Vec<u64>,
    ) -> io::Result<Self> {
        let (file, _alone) = open(path, cache)?;
        let kept = fs::read_to_string(cache.join(digest.to_string()));
        let known = kept.ok().and_then(|text| Self::parse(&text).ok());
        let bytes = file.metadata()?.len();
        if let Some(list) = known.filter(|list| list.digest == *digest && list.bytes.0 == bytes) {
            return Ok(list);
        }
        let list = Self::read(&file, &starts())?;
        if list.digest != *digest {
            let said = format!("it has the digest {}, not {}", list.digest.short(), digest.short());
            return Err(io::Error::new(io::ErrorKind::InvalidData, said));
        }
        list.keep(cache)?;
        Ok(list)
    }

    /// Returns the list of the file at `path`, whose digest is known only where it was `hashed` before, and keeps it
    /// in `cache`. `starts` says where parts begin.
    ///
    /// # Errors
    /// The file cannot be read, or the list not be kept.
    pub fn make(
        path: &Path,
        cache: &Path,
        hashed: &Hashed,
        starts: impl FnOnce() -> Vec<u64>,
    ) -> io::Result<Self> {
        let looked = hashed.look(path)?;
        if let Some(digest) = looked.known() {
            return Self::of_file(path, &digest, cache, starts);
        }
        let (file, _alone) = open(path, cache)?;
        let list = Self::read(&file, &starts())?;
        list.keep(cache)?;
        if looked.keep(&list.digest)? {
            Ok(list)
        } else {
            Err(io::Error::other("it was changed while it was read"))
        }
    }

    fn keep(&self, cache: &Path) -> io::Result<()> {
        let kept = cache.join(self.digest.to_string());
        crate::store::write_whole(&kept, self.to_text().as_bytes()).map_err(io::Error::other)
    }

    /// Reads the file once, and hashes it whole and, on a thread beside that, chunk by chunk.
    fn read(file: &File, starts: &[u64]) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let ranges = cuts(bytes, starts, |range| read(file, range))?;
        let (used, buffers) = channel();
        let (hashed_whole, to_hash) = sync_channel::<Vec<u8>>(READ_AHEAD);
        let hash_chunks = move || {
            let hash = |data: Vec<u8>| {
                let digest = Digest::of(&data);
                // nobody reads any longer where that failed
                drop(used.send(data));
                digest
            };
            to_hash.into_iter().map(hash).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let chunks = scope.spawn(hash_chunks);
            let mut whole = Sha256::new();
            for (at, range) in ranges.iter().enumerate() {
                let mut data =
                    if at < READ_AHEAD { Vec::new() } else { buffers.recv().map_err(|_| ended())? };
                read_into(file, range.clone(), &mut data)?;
                whole.update(&data);
                hashed_whole.send(data).map_err(|_| ended())?;
            }
            drop(hashed_whole);
            let digests = chunks.join().map_err(|_| ended())?;
            let chunks =
                digests.into_iter().zip(ranges).map(|(digest, range)| Chunk { digest, range }).collect();
            Ok(Self { digest: Digest::new(whole.finalize().into()), bytes: Bytes(bytes), chunks })
        })
    }

    /// Returns the chunks with a byte in one of `gaps`, which are sorted, by their place.
    pub fn within(&self, gaps: &[Range<u64>]) -> Vec<usize> {
        let is_missing = |chunk: &Chunk| {
            let at = gaps.partition_point(|gap| gap.end <= chunk.range.start);
            gaps.get(at).is_some_and(|gap| gap.start < chunk.range.end)
        };
        let missing = self.chunks.iter().enumerate().filter(|(_, chunk)| is_missing(chunk));
        missing.map(|(at, _)| at).collect()
    }

    /// Returns where each chunk can be read, by its digest and length.
    pub(super) fn places(&self) -> HashMap<(Digest, u64), u64> {
        let places = self.chunks.iter();
        places.map(|chunk| ((chunk.digest, chunk.range.end - chunk.range.start), chunk.range.start)).collect()
    }

    /// Writes the list: a line of its blob, then a line for each chunk.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{HEAD} {} {} {}\n", self.digest, self.bytes.0, self.chunks.len());
        for chunk in &self.chunks {
            // writing to a String does not fail
            let _ = writeln!(text, "{} {}", chunk.range.end - chunk.range.start, chunk.digest);
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote.
    pub(super) fn parse(text: &str) -> Result<Self, ListError> {
        let mut lines = text.lines();
        let head = lines
            .next()
            .and_then(|line| line.strip_prefix(HEAD))
            .ok_or(ListError::Malformed("its first line"))?;
        let mut words = head.split_whitespace();
        let digest = words.next().and_then(|word| word.parse().ok());
        let bytes = words.next().and_then(|word| word.parse::<u64>().ok());
        let count = words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(digest), Some(bytes), Some(count), None) = (digest, bytes, count, words.next()) else {
            return Err(ListError::Malformed("its first line"));
        };
        let mut chunks = Vec::new();
        let mut at = 0_u64;
        for line in lines {
            let (length, digest) =
                line.split_once(' ').ok_or(ListError::Malformed("a line without a digest"))?;
            let length: u64 = length.parse().map_err(|_| ListError::Malformed("a length"))?;
            let digest = digest.parse().map_err(|_| ListError::Malformed("a digest"))?;
            if length == 0 || length > CHUNK || length > bytes - at || chunks.len() >= MOST_CHUNKS {
                return Err(ListError::Malformed("a length"));
            }
            chunks.push(Chunk { digest, range: at..at + length });
            at += length;
        }
        if at != bytes || chunks.len() != count {
            return Err(ListError::Malformed("it ends too early"));
        }
        Ok(Self { digest, bytes: Bytes(bytes), chunks })
    }
}

/// Opens a file to list its chunks, and makes `cache` where it is missing. Only one at a time lists:
/// hosts are pushed to side by side, and one list does for all.
fn open(path: &Path, cache: &Path) -> io::Result<(File, File)> {
    fs::create_dir_all(cache)?;
    let alone = File::create(cache.join("lock"))?;
    // where there are no locks, none can be had
    drop(alone.lock());
    Ok((File::open(path)?, alone))
}

/// Returns where chunks lie in a blob of `bytes` with parts at `starts`. Small parts go together up
/// to [`CHUNK`], large ones are cut in steps from their start, so that a part is cut alike wherever
/// it lies. `read` reads what is before the first part.
fn cuts(
    bytes: u64,
    starts: &[u64],
    read: impl Fn(Range<u64>) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Range<u64>>> {
    let mut starts: Vec<u64> = starts.iter().copied().filter(|start| *start < bytes).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut cuts = Vec::new();
    let head = starts.first().copied().unwrap_or(0);
    if head > 0 {
        cut_by_content(head, &read, &mut cuts)?;
    } else if starts.is_empty() {
        starts.push(0);
    }
    let mut open = head..head;
    let ends = starts.iter().skip(1).copied().chain([bytes]);
    for end in ends {
        if end - open.start > CHUNK {
            if !open.is_empty() {
                cuts.push(open.clone());
            }
            open = open.end..open.end;
            while end - open.start > CHUNK {
                cuts.push(open.start..open.start + CHUNK);
                open = open.start + CHUNK..open.start + CHUNK;
            }
        }
        open.end = end;
    }
    if !open.is_empty() {
        cuts.push(open);
    }
    Ok(cuts)
}

/// Cuts the first `bytes` where a sum over the last 64 of them says so: the same content is
/// cut alike after whatever was inserted before it.
fn cut_by_content(
    bytes: u64,
    read: impl Fn(Range<u64>) -> io::Result<Vec<u8>>,
    cuts: &mut Vec<Range<u64>>,
) -> io::Result<()> {
    let (mut start, mut sum) = (0, 0_u64);
    for piece in (0..bytes).step_by(1 << 20) {
        let data = read(piece..bytes.min(piece + (1 << 20)))?;
        for (at, byte) in (piece + 1..).zip(data) {
            // each bit has left the sum after 64 bytes
            sum = (sum << 1).wrapping_add(spread(byte));
            let length = at - start;
            if length >= MOST_CUT || (length >= LEAST_CUT && sum & CUT_MASK == 0) {
                cuts.push(start..at);
                start = at;
            }
        }
    }
    if start < bytes {
        cuts.push(start..bytes);
    }
    Ok(())
}

/// A number of 64 bits for each byte, by the finalizer of splitmix64.
const fn spread(byte: u8) -> u64 {
    let mut z = (byte as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Reads a range of a file.
pub(super) fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    read_into(file, range, &mut data)?;
    Ok(data)
}

/// Reads a range of a file in place of what is in `data`.
fn read_into(file: &File, range: Range<u64>, data: &mut Vec<u8>) -> io::Result<()> {
    data.resize(usize::try_from(range.end - range.start).map_err(io::Error::other)?, 0);
    file.read_exact_at(data, range.start)
}

fn ended() -> io::Error {
    io::Error::other("a thread that hashes has ended")
}

#[cfg(test)]
#[path = "chunks_texts_tests.rs"]
mod texts_tests;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let words = (0..length.div_ceil(8)).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state ^ (state >> 29)).to_le_bytes()
        });
        words.take(length).collect()
    }

    fn list(data: &[u8], starts: &[u64]) -> ChunkList {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        fs::write(&path, data).unwrap();
        ChunkList::of_file(&path, &Digest::of(data), &dir.path().join("lists"), || starts.to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn chunks_are_the_whole_blob_and_none_is_too_large(
            bytes in 0_u64..40 << 20, starts in prop::collection::vec(0_u64..40 << 20, 0..30),
        ) {
            let data = |range: Range<u64>| Ok(vec![7; usize::try_from(range.end - range.start).unwrap()]);
            let cuts = cuts(bytes, &starts, data).unwrap();
            let mut at = 0;
            for cut in &cuts {
                prop_assert!(cut.start == at && cut.end > at && cut.end - at <= CHUNK, "{cut:?}");
                at = cut.end;
            }
            prop_assert_eq!(at, bytes);
            // a part that is larger than a chunk begins one
            let mut starts: Vec<u64> = starts.into_iter().filter(|start| *start < bytes).collect();
            starts.push(bytes);
            starts.sort_unstable();
            starts.dedup();
            for part in starts.windows(2).filter(|part| part[1] - part[0] > CHUNK) {
                prop_assert!(cuts.iter().any(|cut| cut.start == part[0]), "{part:?}");
            }
        }

        #[test]
        fn a_list_is_read_as_it_was_written_and_nothing_else_is(
            lengths in prop::collection::vec(1..=CHUNK, 0..20), cut in any::<prop::sample::Index>(),
        ) {
            let mut at = 0;
            let chunks = lengths.iter().map(|length| {
                at += length;
                Chunk { digest: Digest::of(&length.to_le_bytes()), range: at - length..at }
            });
            let chunks: Vec<Chunk> = chunks.collect();
            let list = ChunkList { digest: Digest::of(b"x"), bytes: Bytes(at), chunks };
            let text = list.to_text();
            prop_assert_eq!(&ChunkList::parse(&text).unwrap(), &list);
            let torn = &text[..cut.index(text.len() - 1)];
            prop_assert!(ChunkList::parse(torn).is_err(), "{torn}");
        }

        #[test]
        fn whatever_the_text_is_reading_it_never_panics(text in "(bramble-chunks 1 )?[0-9a-f \n]{0,200}") {
            let _ = ChunkList::parse(&text);
        }
    }

    #[test]
    fn another_header_before_the_same_parts_costs_one_small_chunk() {
        // a vocabulary of 2 MiB with a line in its middle, then parts of all sizes
        let (before, after) = (noise(1_200_000, 1), noise(900_000, 2));
        let sizes = [100, 9 << 20, 3 << 20, 500_000, 700_000, 5 << 20, 64, 64];
        let parts: Vec<Vec<u8>> = sizes.iter().zip(3..).map(|(size, seed)| noise(*size, seed)).collect();
        let blob = |line: &[u8]| {
            let mut data = [before.as_slice(), line, after.as_slice()].concat();
            let mut starts = Vec::new();
            for part in &parts {
                starts.push(data.len() as u64);
                data.extend(part);
            }
            list(&data, &starts)
        };
        let (old, new) = (blob(b"one line"), blob(b"another line that is longer"));
        let places = old.places();
        let is_new =
            |chunk: &&Chunk| !places.contains_key(&(chunk.digest, chunk.range.end - chunk.range.start));
        let sent: u64 =
            new.chunks.iter().filter(is_new).map(|chunk| chunk.range.end - chunk.range.start).sum();
        assert!(sent <= MOST_CUT, "{sent} bytes of {}", new.bytes);
    }

    #[test]
    fn a_file_that_is_another_blob_is_found_out_and_a_list_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lists) = (dir.path().join("blob"), dir.path().join("lists"));
        let data = noise(10 << 20, 9);
        fs::write(&path, &data).unwrap();
        let of_file = |digest: &Digest| ChunkList::of_file(&path, digest, &lists, Vec::new);
        let error = of_file(&Digest::of(b"another")).unwrap_err();
        assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("not"), "{error}");
        let list = of_file(&Digest::of(&data)).unwrap();
        assert_eq!(list.chunks.len(), 3);
        assert_eq!(list.chunks[1].digest, Digest::of(&data[4 << 20..8 << 20]));
        // as it is kept, the file is not read again
        let kept = lists.join(list.digest.to_string());
        fs::write(&path, vec![0; data.len()]).unwrap();
        assert_eq!(of_file(&list.digest).unwrap(), list);
        // what was kept and is damaged does not count
        fs::write(&kept, "bramble-chunks 1 damaged").unwrap();
        assert!(of_file(&list.digest).is_err());
    }

    #[test]
    fn a_file_that_was_listed_before_is_not_read_again_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cache) = (dir.path().join("file"), dir.path().join("chunks"));
        let hashed = Hashed::new(dir.path().join("hashed"));
        let read = std::cell::Cell::new(0);
        let make = || {
            let starts = || {
                read.set(read.get() + 1);
                vec![0, 9]
            };
            ChunkList::make(&path, &cache, &hashed, starts).unwrap()
        };
        for (content, reads) in [(b"some bytes and more", 1), (b"other bytes, longer", 2)] {
            fs::write(&path, content).unwrap();
            let list = make();
            assert_eq!((list.digest, list.chunks.len()), (Digest::of(content), 1));
            assert_eq!((make(), read.get()), (list, reads));
        }
    }

    #[test]
    fn a_chunk_with_a_byte_missing_is_missing() {
        let list = list(&noise(10 << 20, 4), &[]);
        let within = |gaps: &[(u64, u64)]| {
            let gaps: Vec<_> = gaps.iter().map(|(start, end)| *start..*end).collect();
            list.within(&gaps)
        };
        assert_eq!(within(&[]), Vec::<usize>::new());
        assert_eq!(within(&[(0, 1)]), [0]);
        assert_eq!(within(&[(CHUNK - 1, CHUNK), (2 * CHUNK, 2 * CHUNK + 1)]), [0, 2]);
        assert_eq!(within(&[(CHUNK - 1, CHUNK + 1)]), [0, 1]);
    }
}
