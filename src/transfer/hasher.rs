//! Hashing beside writing: on one core of a host's, what the other writes is hashed.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use sha2::{Digest as _, Sha256};

use crate::ids::Digest;

/// Bytes of one piece; more does not make a push faster.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces that wait for their hash at most: what a stall of the disk or the link lets
/// the hash catch up with, in little memory.
const WAITING: usize = 8;

/// A SHA-256 that is computed on a thread of its own, in the order in which pieces come.
///
/// Pieces go round: those that were hashed are filled again, so that memory is bounded and
/// a writer that is ahead waits.
pub(super) struct Hasher {
    filled: SyncSender<(Vec<u8>, usize)>,
    emptied: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Hasher {
    /// Starts with nothing hashed.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (filled, pieces) = sync_channel(WAITING);
        let (empty, emptied) = channel();
        for _ in 0..WAITING {
            // its receiver is alive: it is in this function
            let _ = empty.send(vec![0; PIECE]);
        }
        let thread = Builder::new().name("hash".to_owned()).spawn(move || hash(&pieces, &empty))?;
        Ok(Self { filled, emptied, thread })
    }

    /// Returns a piece of [`PIECE`] bytes to be filled, when one is free.
    pub(super) fn piece(&self) -> io::Result<Vec<u8>> {
        self.emptied.recv().map_err(|_| ended())
    }

    /// Adds the first `len` bytes of a piece.
    pub(super) fn add(&self, piece: Vec<u8>, len: usize) -> io::Result<()> {
        self.filled.send((piece, len)).map_err(|_| ended())
    }

    /// Waits for the hash of all that was added.
    pub(super) fn finish(self) -> io::Result<Digest> {
        drop(self.filled);
        self.thread.join().map_err(|_| ended())
    }
}

fn hash(pieces: &Receiver<(Vec<u8>, usize)>, empty: &Sender<Vec<u8>>) -> Digest {
    let mut hash = Sha256::new();
    for (piece, len) in pieces {
        hash.update(piece.get(..len).unwrap_or(&piece));
        // nobody waits for it once the last piece came
        let _ = empty.send(piece);
    }
    Digest::new(hash.finalize().into())
}

fn ended() -> io::Error {
    io::Error::other("the thread that hashes has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_all_pieces_in_their_order() {
        let data: Vec<u8> = (0..40 * PIECE + 17).map(|n| u8::try_from(n % 253).unwrap()).collect();
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, data.len()] {
            let hasher = Hasher::start().unwrap();
            for part in data[..len].chunks(PIECE) {
                let mut piece = hasher.piece().unwrap();
                piece[..part.len()].copy_from_slice(part);
                hasher.add(piece, part.len()).unwrap();
            }
            assert_eq!(hasher.finish().unwrap(), Digest::of(&data[..len]), "{len}");
        }
    }
}
