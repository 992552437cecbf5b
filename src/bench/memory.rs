use std::fs;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::facts::MemoryBench;
use crate::units::{Bytes, BytesPerSec};

/// Far beyond the caches of a Pi (2 MiB) and of most desktops.
const BUFFER: Bytes = Bytes::mib(256);
/// Below this, caches take part.
const LEAST: Bytes = Bytes::mib(32);
/// Rounds of reading all of it.
const ROUNDS: usize = 9;

/// Reads a buffer with all cores at once, and says when it was smaller than it should be.
///
/// # Errors
/// Where memory is too short for a buffer that caches do not hold.
pub(super) fn measure() -> Result<(MemoryBench, Option<String>), String> {
    let available =
        available().ok_or("memory was not measured: /proc/meminfo does not say what is available")?;
    // a quarter of what is free harms nobody
    let buffer = BUFFER.min(Bytes(available.0 / 4));
    if buffer < LEAST {
        return Err(format!("memory was not measured: only {available} are available"));
    }
    let note = (buffer < BUFFER)
        .then(|| format!("memory was measured over {buffer} only, since {available} are available"));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let words = usize::try_from(buffer.0 / 8).unwrap_or(0) / threads;
    let rounds = read(threads, words);
    let bytes = (words * threads * 8) as f64;
    // the round that was disturbed least, as STREAM counts, too
    let fastest = rounds.into_iter().min().unwrap_or_default();
    let read = BytesPerSec(bytes / fastest.as_secs_f64().max(1e-9));
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    Ok((MemoryBench { read, buffer, threads }, note))
}

/// Returns how long each round took, from the first thread's start to the last one's end.
fn read(threads: usize, words: usize) -> Vec<Duration> {
    let barrier = Barrier::new(threads);
    let one = |seed: usize| {
        // not all the same, so that no page is shared or compressed
        let part: Vec<u64> =
            (0..words as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed as u64).collect();
        (0..ROUNDS)
            .map(|_| {
                barrier.wait();
                let start = Instant::now();
                black_box(sum(black_box(&part)));
                (start, Instant::now())
            })
            .collect::<Vec<_>>()
    };
    let times: Vec<Vec<(Instant, Instant)>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|seed| scope.spawn(move || one(seed))).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    });
    (0..ROUNDS)
        .filter_map(|round| {
            let start = times.iter().filter_map(|times| times.get(round)).map(|(start, _)| *start).min()?;
            let end = times.iter().filter_map(|times| times.get(round)).map(|(_, end)| *end).max()?;
            Some(end.duration_since(start))
        })
        .collect()
}

/// Adds up in eight lanes, which compilers make vector instructions of.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 8];
    let (chunks, rest) = words.as_chunks::<8>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

fn available() -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_added() {
        let words: Vec<u64> = (1..=1003).collect();
        assert_eq!(sum(&words), 1003 * 1004 / 2);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn memory_is_read_by_every_thread_in_every_round() {
        let rounds = read(2, 1 << 16);
        assert_eq!(rounds.len(), ROUNDS);
        assert!(rounds.iter().all(|round| !round.is_zero()));
    }
}
