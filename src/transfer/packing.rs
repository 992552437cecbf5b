//! Chunks made smaller for a wire that is what is waited for.
//!
//! Quantized weights are no noise: their values lie around zero, and their scales are alike. Blocks of all types have
//! their fields at the same places, so bytes are put together by their place in the block, and an entropy coder then
//! takes 2 % (`Q6_K`) to 12 % (`Q5_K`) off them, 6 % off `Q8_0`, and a third off F16, in a few milliseconds per MiB.
//! On a fast wire that would be waited for longer than what it saves.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::CParameter;

/// The lowest that codes values here and there by tables of their own. Higher levels look for repetitions, of which
/// there are none.
const LEVEL: i32 = 3;
/// What the other end sets aside for unpacking, as a power of two.
const WINDOW: u32 = 19;
/// The least that packing must take off a piece: 1 %.
const LEAST_SAVED: usize = 100;
/// A chunk is packed in pieces of so many bytes, but for the last one: neither end sets aside more.
pub(super) const PIECE: usize = 1 << WINDOW;
/// Wires that are faster than this, in bytes per second, are left alone. Gigabit is, and a slow card is not.
const FASTEST: f64 = 48e6;
/// How much less time packing must take than the chunk does on its way.
const AHEAD: u32 = 2;
/// Chunks that go as they are after one that took too long.
const REST: u32 = 7;
/// Requests that are looked back on. The first two come at once.
const LOOKED_BACK: usize = 4;
/// The sizes of blocks of weights, in bytes: F16 and BF16, F32, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q2_K`,
/// `Q3_K`, `IQ4_XS`, `Q4_K`, `Q5_K`, `Q6_K`.
const BLOCKS: [usize; 13] = [2, 4, 18, 20, 22, 24, 34, 84, 110, 136, 144, 176, 210];
/// Bytes that are looked at to see which it is.
const LOOKED_AT: usize = 256 << 10;
/// Pieces for which it holds unless it is no longer seen: those of a chunk.
const HOLDS: u32 = 8;
/// How many standard deviations are more than chance.
const LEAST_DEVIATIONS: usize = 3;

/// Says of one way whether the next chunk is to be packed, by what was seen on it so far.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// The last requests, oldest first: when they came, and for how many bytes.
    asked: Vec<(Instant, u64)>,
    /// Chunks to go as they are.
    rest: u32,
}

impl Packing {
    /// Takes note of a request for a chunk of `length` bytes: it comes when one before it has arrived.
    pub(super) fn asked(&mut self, length: u64, now: Instant) {
        if self.asked.len() > LOOKED_BACK {
            self.asked.remove(0);
        }
        self.asked.push((now, length));
    }

    /// Returns whether to try to pack the chunk that was asked for last.
    pub(super) fn is_next(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        self.rate().is_some_and(|rate| rate < FASTEST)
    }

    /// Takes note of how long packing a chunk of `length` bytes took. Whether that saved something does not matter:
    /// types of tensors change within a file, and the wire has not waited.
    pub(super) fn tried(&mut self, length: u64, took: Duration) {
        let on_its_way = self.rate().map_or(0.0, |rate| length as f64 / rate);
        if (took * AHEAD).as_secs_f64() > on_its_way {
            self.rest = REST;
        }
    }

    /// Returns how many bytes of chunks arrive in a second.
    fn rate(&self) -> Option<f64> {
        let [(first, _), .., (last, _)] = self.asked.as_slice() else { return None };
        if self.asked.len() <= LOOKED_BACK {
            return None;
        }
        let bytes: u64 = self.asked[..LOOKED_BACK].iter().map(|(_, length)| length).sum();
        Some(bytes as f64 / last.duration_since(*first).as_secs_f64().max(1e-9))
    }
}

/// Packs pieces, one after the other.
pub(super) struct Packer {
    compressor: Compressor<'static>,
    raw: Vec<u8>,
    /// The same, by places in blocks.
    sorted: Vec<u8>,
}

/// What the last pieces of a file were seen to be made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The size of the blocks.
    block: u8,
    /// For how many pieces it holds.
    holds: u32,
}

impl Default for Seen {
    fn default() -> Self {
        Self { block: 1, holds: 0 }
    }
}

impl Packer {
    /// Sets aside what one takes: two MiB.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW))?;
        Ok(Self { compressor, raw: Vec::new(), sorted: Vec::new() })
    }

    /// Reads a piece of a file and returns it packed: the size of its blocks in a byte, then its bytes, sorted by
    /// their places in them, as one frame of zstd. None: that would save too little. What was `seen` before and after it
    /// is of the same file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn pack(
        &mut self,
        file: &File,
        piece: Range<u64>,
        seen: &mut Seen,
    ) -> io::Result<Option<Vec<u8>>> {
        self.read(file, piece)?;
        let length = self.raw.len();
        if seen.holds == 0 || (seen.block > 1 && more_alike(&self.raw, seen.block.into()) == 0) {
            *seen = Seen { block: block_of(&self.raw), holds: HOLDS };
        }
        seen.holds -= 1;
        sort(&self.raw, seen.block.into(), &mut self.sorted);
        let mut packed = vec![0; length - length / LEAST_SAVED];
        let Some((first, rest)) = packed.split_first_mut() else { return Ok(None) };
        *first = seen.block;
        // what does not fit is not worth it
        let Ok(size) = self.compressor.compress_to_buffer(&self.sorted, rest) else { return Ok(None) };
        packed.truncate(1 + size);
        Ok(Some(packed))
    }

    /// Reads a piece of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(&mut self, file: &File, piece: Range<u64>) -> io::Result<()> {
        self.raw.resize(usize::try_from(piece.end - piece.start).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut self.raw, piece.start)
    }

    /// Returns the piece that was read last, as it is.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }
}

/// Packers for many ways at once, as many as there are processors: more would pack no sooner, and each takes some MiB.
pub(super) struct Packers {
    places: Semaphore,
    free: Mutex<Vec<Packer>>,
}

impl Packers {
    pub(super) fn new() -> Self {
        let most = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { places: Semaphore::new(most), free: Mutex::default() }
    }

    /// Packs a piece as [`Packer::pack`] does, once there is a packer, and returns how long that took, with the wait:
    /// the wire may wait as long.
    ///
    /// # Errors
    /// The file cannot be read, or there is no memory.
    pub(super) async fn pack(
        &self,
        file: &Arc<File>,
        piece: Range<u64>,
        seen: &mut Seen,
    ) -> io::Result<(Option<Vec<u8>>, Duration)> {
        let begun = Instant::now();
        let _place = self.places.acquire().await.map_err(io::Error::other)?;
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut packer = free.map_or_else(Packer::new, Ok)?;
        let (file, mut now) = (Arc::clone(file), *seen);
        let work = move || {
            let smaller = packer.pack(&file, piece, &mut now);
            (packer, smaller, now)
        };
        let (packer, smaller, now) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
        *seen = now;
        Ok((smaller?, begun.elapsed()))
    }
}

/// Returns the pieces of a chunk.
pub(super) fn pieces(chunk: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = chunk.end;
    chunk.step_by(PIECE).map(move |start| start..end.min(start + PIECE as u64))
}

/// Returns the size of the blocks that `data` seems to be made of; 1: it has none.
fn block_of(data: &[u8]) -> u8 {
    let more = BLOCKS.map(|block| more_alike(data, block));
    let most = more.into_iter().max().unwrap_or_default();
    // what repeats after a block repeats after several
    let first = BLOCKS.into_iter().zip(more).find(|(_, more)| most > 0 && 3 * more >= most);
    first.and_then(|(block, _)| u8::try_from(block).ok()).unwrap_or(1)
}

/// Returns how many more bytes of `data` are the same that are one block apart than that are a little more or less
/// apart; 0: no more than chance would have it.
///
/// Scales are alike from block to block. Those of one block are alike, too: in large ones, where they are many, a
/// little is some bytes.
fn more_alike(data: &[u8], block: usize) -> usize {
    let looked_at = &data[..data.len().min(LOOKED_AT)];
    let alike = |apart: usize| {
        let later = looked_at.get(apart..).unwrap_or_default();
        // counted in bytes, for many at once
        let runs = looked_at.chunks(255).zip(later.chunks(255));
        let same = runs.map(|(one, other)| one.iter().zip(other).map(|(a, b)| u8::from(a == b)).sum::<u8>());
        same.map(usize::from).sum::<usize>()
    };
    let little = (block / 16).max(1);
    let (there, beside) = (alike(block), alike(block - little).max(alike(block + little)));
    let more = there.saturating_sub(beside);
    // of a count, the variance is the count
    if more * more > LEAST_DEVIATIONS * LEAST_DEVIATIONS * (there + beside) { more } else { 0 }
}

/// Puts the first bytes of all blocks before all second ones, and so on; what is no whole block stays at the end.
fn sort(data: &[u8], block: usize, sorted: &mut Vec<u8>) {
    let (blocks, rest) = data.split_at(if block == 1 { 0 } else { data.len() - data.len() % block });
    sorted.clear();
    for place in 0..block {
        sorted.extend(blocks.iter().skip(place).step_by(block));
    }
    sorted.extend(rest);
}

/// Undoes [`sort`]; adds to `data`.
fn unsort(sorted: &[u8], block: usize, data: &mut Vec<u8>) {
    let count = if block == 1 { 0 } else { sorted.len() / block };
    let (places, rest) = sorted.split_at(count * block);
    let before = data.len();
    data.resize(before + places.len(), 0);
    if count > 0 {
        for (place, bytes) in places.chunks_exact(count).enumerate() {
            for (to, byte) in data[before + place..].iter_mut().step_by(block).zip(bytes) {
                *to = *byte;
            }
        }
    }
    data.extend(rest);
}

/// Unpacks the next piece of a chunk of which `left` bytes are still to come: reads `packed` bytes and
/// adds what is in them to `into`.
///
/// # Errors
/// Also what is no piece of ours, and what wants more memory than they do.
pub(super) fn unpack(from: &mut impl Read, packed: u64, left: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut from = from.take(packed);
    let mut block = [0];
    from.read_exact(&mut block)?;
    if block == [0] {
        return Err(wrong("a packed piece with blocks of nothing"));
    }
    let length = left.min(PIECE as u64);
    let mut sorted = Vec::new();
    let mut decoder = Decoder::new(from)?.single_frame();
    decoder.window_log_max(WINDOW)?;
    // one more, so that too much is seen
    decoder.by_ref().take(length + 1).read_to_end(&mut sorted)?;
    let rest = decoder.finish();
    if sorted.len() as u64 != length || !rest.buffer().is_empty() || rest.get_ref().limit() != 0 {
        return Err(wrong("a packed piece of another length"));
    }
    unsort(&sorted, block[0].into(), into);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Asks for chunks of 4 MiB, one each `every`, two at first.
    fn asked(packing: &mut Packing, start: Instant, every: Duration, count: u32) {
        for at in 0..count {
            packing.asked(4 * MIB, start + every * at.saturating_sub(1));
        }
    }

    #[test]
    fn chunks_are_packed_on_a_slow_wire_once_it_is_known_and_on_a_fast_one_never() {
        let start = Instant::now();
        // 100 Mbit/s; gigabit
        for (millis, is_slow) in [(350, true), (37, false)] {
            let mut packing = Packing::default();
            asked(&mut packing, start, Duration::from_millis(millis), 4);
            assert!(!packing.is_next(), "not known yet");
            let mut packing = Packing::default();
            asked(&mut packing, start, Duration::from_millis(millis), 9);
            assert_eq!(packing.is_next(), is_slow);
        }
    }

    #[test]
    fn what_takes_long_is_tried_again_after_a_while() {
        let every = Duration::from_millis(350);
        let mut packing = Packing::default();
        asked(&mut packing, Instant::now(), every, 9);
        for (took, rest) in [(every / 10, 0), (every * 2 / 3, REST)] {
            packing.tried(4 * MIB, took);
            let until = (0..20).position(|_| packing.is_next());
            assert_eq!(until, Some(rest as usize));
        }
    }

    fn file(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        file
    }

    /// Returns bytes of chance.
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56).to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(size).collect()
    }

    /// Returns sums of dice: as in weights, values in the middle are more frequent, and nothing repeats.
    fn weights(size: usize) -> Vec<u8> {
        noise(4 * size).chunks(4).map(|dice| dice.iter().map(|die| die / 4).sum()).collect()
    }

    #[test]
    fn a_chunk_is_the_same_again_and_noise_is_left_as_it_is() {
        let data = weights(3 * PIECE);
        let (file_of, chunk) = (file(&data), 1000..2 * PIECE as u64 + 200_000);
        let (mut packer, mut seen) = (Packer::new().unwrap(), Seen::default());
        let mut pack = |file: &File, piece| packer.pack(file, piece, &mut seen);
        let smaller: Vec<Vec<u8>> =
            pieces(chunk.clone()).map(|piece| pack(&file_of, piece).unwrap().unwrap()).collect();
        assert_eq!(smaller.len(), 3);
        let mut stream = smaller.concat();
        assert!((1_100_000..1_200_000).contains(&stream.len()), "{}", stream.len());
        stream.extend(b"next");
        let (mut from, mut back) = (stream.as_slice(), Vec::new());
        for piece in &smaller {
            let left = chunk.end - chunk.start - back.len() as u64;
            unpack(&mut from, piece.len() as u64, left, &mut back).unwrap();
        }
        assert!(from == b"next" && back == data[1000..2 * PIECE + 200_000]);
        assert_eq!(pack(&file(&noise(PIECE)), 0..PIECE as u64).unwrap(), None);
        assert!(pack(&file_of, 0..4 * PIECE as u64).is_err(), "the file is shorter");
        packer.read(&file(&noise(PIECE)), 0..PIECE as u64).unwrap();
        assert_eq!(packer.raw(), noise(PIECE));
    }

    /// Returns a piece packed.
    fn packed(data: &[u8]) -> Vec<u8> {
        let mut packer = Packer::new().unwrap();
        packer.pack(&file(data), 0..data.len() as u64, &mut Seen::default()).unwrap().unwrap()
    }

    #[tokio::test]
    async fn many_ways_pack_with_as_many_packers_as_there_are_processors() {
        let (packers, data) = (Packers::new(), weights(PIECE));
        let from = Arc::new(file(&data));
        let pack = async || {
            let (smaller, took) = packers.pack(&from, 0..PIECE as u64, &mut Seen::default()).await.unwrap();
            assert!(took > Duration::ZERO);
            smaller.unwrap()
        };
        let all = futures_util::future::join_all((0..16).map(|_| pack())).await;
        assert!(all.iter().all(|smaller| *smaller == packed(&data)));
        let most = std::thread::available_parallelism().unwrap().get();
        assert!((1..=most).contains(&packers.free.lock().unwrap().len()));
        // one that fails is not lost, and neither is its place
        for _ in 0..=most {
            assert!(packers.pack(&from, 0..2 * PIECE as u64, &mut Seen::default()).await.is_err());
        }
        assert_eq!(pack().await, packed(&data));
    }

    /// Returns blocks of so many bytes: weights, and at the end scales.
    fn blocks(block: usize, size: usize) -> Vec<u8> {
        let is_scale = |at: usize| at % block >= block - block.div_ceil(20);
        weights(size)
            .into_iter()
            .enumerate()
            .map(|(at, byte)| if is_scale(at) { 40 + byte % 4 } else { byte })
            .collect()
    }

    #[test]
    fn blocks_are_seen_wherever_a_piece_begins_and_sorting_them_helps() {
        for block in BLOCKS {
            let data = blocks(block, PIECE);
            for start in [0, 1, 1000] {
                assert_eq!(usize::from(block_of(&data[start..])), block);
            }
            let with = packed(&data);
            let mut back = Vec::new();
            unpack(&mut with.as_slice(), with.len() as u64, PIECE as u64, &mut back).unwrap();
            assert!(back == data);
            let without = zstd::bulk::compress(&data, LEVEL).unwrap();
            assert!(with.len() < without.len(), "{block}: {} of {}", with.len(), without.len());
        }
        for (name, without) in [
            ("noise", noise(PIECE)),
            ("weights", weights(PIECE)),
            ("one value", vec![7; PIECE]),
            ("few", noise(50)),
        ] {
            assert_eq!(block_of(&without), 1, "{name}");
        }
        assert_eq!(block_of(&[]), 1);
    }

    #[test]
    fn where_blocks_change_that_is_seen() {
        let data = [blocks(34, PIECE), blocks(144, PIECE), noise(100)].concat();
        let (from, mut packer, mut seen) = (file(&data), Packer::new().unwrap(), Seen::default());
        let mut blocks = pieces(0..data.len() as u64 - 100)
            .map(|piece| packer.pack(&from, piece, &mut seen).unwrap().unwrap()[0]);
        assert_eq!([blocks.next(), blocks.next(), blocks.next()], [Some(34), Some(144), None]);
    }

    #[test]
    fn what_is_no_piece_of_that_length_is_an_error() {
        let packed = packed(&weights(3000));
        let wrong = |bytes: &[u8], packed: usize, left: u64| {
            unpack(&mut &bytes[..], packed as u64, left, &mut Vec::new()).is_err()
        };
        let size = packed.len();
        assert!(!wrong(&packed, size, 3000));
        assert!(wrong(&packed, size, 2999) && wrong(&packed, size, 3001), "another length");
        assert!(wrong(&[packed.as_slice(), b"x"].concat(), size + 1, 3000), "something behind it");
        assert!(wrong(&packed[..size - 1], size - 1, 3000), "cut");
        assert!(wrong(&packed[..size - 1], size, 3000), "the end comes early");
    }

    #[test]
    fn what_wants_more_memory_than_ours_is_refused_and_what_has_no_end_is_cut() {
        let mut compressor = Compressor::new(LEVEL).unwrap();
        compressor.set_parameter(CParameter::WindowLog(WINDOW + 4)).unwrap();
        compressor.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
        let packed = framed(&compressor.compress(&vec![0; 16 << 20]).unwrap());
        let mut back = Vec::new();
        assert!(unpack(&mut packed.as_slice(), packed.len() as u64, u64::MAX, &mut back).is_err());
        let packed = framed(&zstd::bulk::compress(&vec![0; PIECE], LEVEL).unwrap());
        back.clear();
        assert!(unpack(&mut packed.as_slice(), packed.len() as u64, 1000, &mut back).is_err());
        assert!(back.is_empty() && back.capacity() <= 64 << 10);
        let mut no_block = packed;
        no_block[0] = 0;
        assert!(unpack(&mut no_block.as_slice(), no_block.len() as u64, PIECE as u64, &mut back).is_err());
    }

    /// Returns a frame of zstd as a piece that has no blocks.
    fn framed(packed: &[u8]) -> Vec<u8> {
        [&[1], packed].concat()
    }

    proptest! {
        #[test]
        fn what_was_sorted_is_the_same_again(data in prop::collection::vec(any::<u8>(), 0..600), block in 1..256_usize) {
            let (mut sorted, mut back) = (vec![1], vec![2]);
            sort(&data, block, &mut sorted);
            unsort(&sorted, block, &mut back);
            prop_assert_eq!(&back[1..], data);
        }

        #[test]
        fn whatever_comes_it_is_a_piece_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let magic = [&[1, 0x28, 0xb5, 0x2f, 0xfd], bytes.as_slice()].concat();
            for bytes in [&bytes, &magic] {
                let mut back = Vec::new();
                if unpack(&mut bytes.as_slice(), bytes.len() as u64, 100, &mut back).is_ok() {
                    assert_eq!(back.len(), 100);
                }
            }
        }
    }
}
