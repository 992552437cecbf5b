//! What the ends of a transfer say to each other, and how it is written.
//!
//! A frame is a byte for its kind, four for the length of its body (the highest first), and the
//! body: a JSON message, bytes as they are, or packed ones. What comes from another machine is bounded by the
//! reader.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::chunks::ChunkList;
use super::{Answer, packing};
use crate::ids::Digest;
use crate::units::Bytes;

/// The longest message: what is missing of a blob in which every second chunk of 2 TiB is.
pub(super) const MOST_MESSAGE: u64 = 4 << 20;
/// The longest message of a guest: its token and the blob that it wants.
pub(super) const MOST_GUEST_MESSAGE: u64 = 1 << 10;
/// The most doors of other hosts that a host tries.
pub(super) const MOST_DOORS: usize = 64;
/// The length of the chunk that [`hear_anything`] asks for.
pub const LARGEST_TRIED: u64 = 64 << 10;
/// What is asked for at once of what is to come: as much as has come is had by one call, and no more than this is set
/// aside ahead of it.
const READ_STEP: u64 = 256 << 10;

const MESSAGE: u8 = b'm';
const DATA: u8 = b'd';
const PACKED: u8 = b'z';

/// What a frame holds, and how long that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Message(u64),
    Data(u64),
    Packed(u64),
}

/// Runs of chunks by their place in the list, each with its first and its last.
pub(super) type Runs = Vec<(usize, usize)>;

/// What the sender says to a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Said {
    /// The list of the blob's chunks follows, as data.
    Begin {
        /// The number of the sender's lease of the host.
        lease: u64,
        /// Whether other hosts take part, and a [`Course`] will come.
        is_shared: bool,
        /// What the host takes in at most, when no others take part, in bytes per second.
        most_per_second: Option<Bytes>,
        /// Whether the host only gives what it has: it takes nothing.
        gives: bool,
    },
    /// The host is to say which of these doors of other hosts it comes to: before a [`Course`] leads there.
    Try {
        /// At most [`MOST_DOORS`].
        doors: Vec<SocketAddr>,
    },
    /// Where the chunks come from.
    Course(Course),
    /// The sender is still there, and others take part: they are not ready yet, or may have chunks from this host.
    Stay,
}

/// What a host says to the sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Word {
    /// What is not here.
    Missing {
        /// These chunks.
        chunks: Runs,
        /// Where others can have what is here.
        door: Option<DoorPlate>,
    },
    /// Which of the doors it comes to.
    Reached {
        /// By their places in what it was asked to try.
        doors: Vec<usize>,
    },
    /// The sender is to send this chunk.
    Ask {
        /// By its place in the list.
        at: usize,
    },
    /// How far it is.
    Here {
        /// What is here of the blob.
        bytes: Bytes,
        /// How much of it other hosts have brought in this transfer.
        from_hosts: Bytes,
    },
    /// How it ended.
    Ended {
        /// The answer.
        answer: Answer,
    },
}

/// Where a host gives what it has to others, and how it is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DoorPlate {
    /// The port.
    pub(super) port: u16,
    /// The SHA-256 of the certificate that it shows and, as a guest, shows at other doors.
    pub(super) certificate: Digest,
}

/// What a guest shows beside its certificate. Shows nothing of itself, and is compared in the same time however much is right.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Token(Zeroizing<String>);

impl Token {
    pub(super) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Where a host has its chunks from, best first. The sender is always the last resort.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Course {
    /// The other hosts.
    pub(super) sources: Vec<Peer>,
    /// The certificates of those who may have what is here.
    pub(super) guests: Vec<Digest>,
    /// What they show, too. One for each transfer.
    pub(super) token: Token,
    /// What it takes in at most, in bytes per second.
    pub(super) most_per_second: Option<Bytes>,
}

/// Another host, as a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Peer {
    /// Its door.
    pub(super) address: SocketAddr,
    /// The certificate that it must show.
    pub(super) certificate: Digest,
    /// The chunks that it has; none: it has, or will have, all.
    pub(super) holds: Option<Runs>,
    /// How many hosts it has its chunks through: each hands a chunk on when it has all of it.
    pub(super) hops: u32,
}

/// What a guest says at a door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Guest {
    /// Who it is.
    Hello {
        /// What it was given for this transfer.
        token: Token,
        /// The blob that it wants chunks of.
        digest: Digest,
    },
    /// It wants this chunk: data, as soon as it is here.
    Ask {
        /// By its place in the list.
        at: usize,
    },
}

/// What a door says in place of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum NoChunk {
    /// It is not here yet, and will be.
    Waiting,
    /// It will not come.
    Never,
}

/// Returns a message as a frame.
pub(super) fn message(message: &impl Serialize) -> Vec<u8> {
    // our messages have no maps with keys that JSON cannot have
    let body = serde_json::to_vec(message).unwrap_or_default();
    let mut frame = head(MESSAGE, body.len() as u64).to_vec();
    frame.extend(body);
    frame
}

/// Returns what goes before `length` bytes of data.
pub(super) fn data_head(length: u64) -> [u8; 5] {
    head(DATA, length)
}

/// Returns what goes before `length` bytes of a packed chunk.
pub(super) fn packed_head(length: u64) -> [u8; 5] {
    head(PACKED, length)
}

fn head(kind: u8, length: u64) -> [u8; 5] {
    // lists and chunks are bounded far below
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c, d]
}

/// Writes a message.
pub(super) fn say(to: &mut impl Write, said: &impl Serialize) -> io::Result<()> {
    to.write_all(&message(said))?;
    to.flush()
}

/// Reads what comes next; nothing at the end of the input.
pub(super) fn read_head(from: &mut impl Read) -> io::Result<Option<Head>> {
    let mut bytes = [0; 5];
    let mut read = 0;
    while read < bytes.len() {
        match from.read(&mut bytes[read..]) {
            Ok(0) if read == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Head::parse(bytes).map(Some)
}

impl Head {
    fn parse([kind, a, b, c, d]: [u8; 5]) -> io::Result<Self> {
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        match kind {
            MESSAGE => Ok(Self::Message(length)),
            DATA => Ok(Self::Data(length)),
            PACKED => Ok(Self::Packed(length)),
            _ => Err(malformed("a frame of a kind that is not known")),
        }
    }
}

/// Reads a message of at most `most` bytes; nothing at the end of the input.
pub(super) fn hear<T: DeserializeOwned>(from: &mut impl Read, most: u64) -> io::Result<Option<T>> {
    match read_head(from)? {
        None => Ok(None),
        Some(Head::Message(length)) => body(from, length, most).map(Some),
        Some(Head::Data(_) | Head::Packed(_)) => Err(malformed("data where a message was expected")),
    }
}

/// Reads the body of a message.
pub(super) fn body<T: DeserializeOwned>(from: &mut impl Read, length: u64, most: u64) -> io::Result<T> {
    if length > most {
        return Err(malformed("a message that is too long"));
    }
    parse(&read_all(from, length)?)
}

/// Reads data of at most `most` bytes.
pub(super) fn data(from: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    match read_head(from)? {
        Some(Head::Data(length)) if length <= most => read_all(from, length),
        _ => Err(malformed("no data where some was expected, or too much")),
    }
}

/// What a source says when it was asked for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// The chunk.
    Chunk,
    /// It waits for the chunk itself.
    Waiting,
}

/// Reads what a source says next: a chunk of `length` bytes, in one frame or in several, in place of what
/// is in `data`, or why there is none yet.
pub(super) fn reply(from: &mut impl Read, length: u64, data: &mut Vec<u8>) -> io::Result<Reply> {
    data.clear();
    loop {
        let left = length - data.len() as u64;
        match read_head(from)? {
            Some(Head::Data(come)) if come > 0 && come <= left => read_more(from, come, data)?,
            Some(Head::Packed(come)) if come < left => packing::unpack(from, come, left, data)?,
            Some(Head::Message(come)) if data.is_empty() => {
                return match body(from, come, MOST_GUEST_MESSAGE)? {
                    NoChunk::Waiting => Ok(Reply::Waiting),
                    NoChunk::Never => Err(io::ErrorKind::NotFound.into()),
                };
            }
            _ => return Err(malformed("no chunk where one was owed")),
        }
        if data.len() as u64 == length {
            return Ok(Reply::Chunk);
        }
    }
}

/// Reads bytes as each end of a transfer reads what the other says, and keeps nothing. Returns the most bytes that
/// were set aside for one chunk, of those that have [`LARGEST_TRIED`]. For those who look for what it does not withstand.
pub fn hear_anything(bytes: &[u8]) -> usize {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    while let Ok(Some(_)) = decoder.next::<Word>() {}
    let mut host = bytes;
    while let Ok(Some(_)) = hear::<Said>(&mut host, MOST_MESSAGE) {}
    let mut guest = bytes;
    while let Ok(Some(_)) = hear::<Guest>(&mut guest, MOST_GUEST_MESSAGE) {}
    // the list of chunks comes as data
    if let Ok(Ok(list)) = data(&mut &*bytes, MOST_MESSAGE).map(String::from_utf8) {
        drop(ChunkList::parse(&list));
    }
    let (mut chunk, mut most, mut source) = (Vec::new(), 0, bytes);
    while reply(&mut source, LARGEST_TRIED, &mut chunk).is_ok() {
        most = most.max(chunk.len());
    }
    most.max(chunk.len())
}

/// Reads exactly `length` bytes. Little is set aside for what does not come.
fn read_all(from: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_more(from, length, &mut bytes)?;
    Ok(bytes)
}

fn read_more(from: &mut impl Read, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let step = left.min(READ_STEP);
        let begun = into.len();
        into.resize(begun + usize::try_from(step).map_err(io::Error::other)?, 0);
        from.read_exact(&mut into[begun..])?;
        left -= step;
    }
    Ok(())
}

/// Messages out of bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what has come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next message, once all of it has come.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((bytes, rest)) = self.bytes.split_first_chunk::<5>() else { return Ok(None) };
        let Head::Message(length) = Head::parse(*bytes)? else {
            return Err(malformed("data where a message was expected"));
        };
        if length > MOST_MESSAGE {
            return Err(malformed("a message that is too long"));
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = parse(body)?;
        self.bytes.drain(..5 + length);
        Ok(Some(message))
    }

    /// Returns what has come and is no message yet: words of a program that speaks otherwise.
    pub(super) fn rest(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|_| malformed("a message that is not known"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fuzzing_begins_with_is_what_the_ends_say() {
        fn heard<T: DeserializeOwned>(seed: &str) -> usize {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/frame");
            let mut from = &*std::fs::read(format!("{folder}/{seed}")).unwrap();
            std::iter::from_fn(|| hear::<T>(&mut from, MOST_MESSAGE).unwrap()).count()
        }
        assert_eq!((heard::<Said>("sender"), heard::<Word>("host"), heard::<Guest>("guest")), (5, 5, 2));
    }

    #[test]
    fn a_token_shows_nothing_of_itself_and_travels_as_text() {
        let guest = Guest::Hello { token: Token::new("a secret by chance"), digest: Digest::of(b"blob") };
        assert!(!format!("{guest:?}").contains("secret"));
        let course = Course { token: Token::new("a secret by chance"), ..Course::default() };
        assert!(!format!("{course:?}").contains("secret"));
        assert_eq!(serde_json::to_value(&course).unwrap()["token"], "a secret by chance");
        assert!(Token::new("a") == Token::new("a") && Token::new("a") != Token::new("b"));
        assert!(Token::new("a") != Token::new("aa") && Token::default() != Token::new("a"));
    }

    #[test]
    fn messages_in_pieces_of_any_size_are_whole_again() {
        let words = [Word::Ask { at: 7 }, Word::Here { bytes: Bytes(9), from_hosts: Bytes(3) }];
        let frames: Vec<u8> = words.iter().flat_map(message).collect();
        for size in 1..=frames.len() {
            let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
            for piece in frames.chunks(size) {
                decoder.push(piece);
                while let Some(word) = decoder.next::<Word>().unwrap() {
                    heard.push(word);
                }
            }
            assert_eq!(heard, words);
        }
        assert_eq!(hear::<Word>(&mut frames.as_slice(), 100).unwrap(), Some(words[0].clone()));
        assert!(hear::<Word>(&mut &frames[..9], 100).is_err(), "torn");
        assert!(hear::<Word>(&mut frames.as_slice(), 3).is_err(), "too long");
    }

    #[test]
    fn a_chunk_comes_in_one_frame_or_in_several_and_nothing_beside_it() {
        let data = |bytes: &[u8]| [data_head(bytes.len() as u64).as_slice(), bytes].concat();
        let packed = zstd::bulk::compress(&[7; 50], 1).unwrap();
        let packed = [packed_head(packed.len() as u64 + 1).as_slice(), &[1], &packed].concat();
        let whole = [[1; 30].as_slice(), &[7; 50]].concat();
        let take = |frames: &[&[u8]]| {
            let mut back = vec![9; 4];
            reply(&mut frames.concat().as_slice(), 80, &mut back).map(|reply| (reply, back))
        };
        assert_eq!(take(&[&data(&whole)]).unwrap(), (Reply::Chunk, whole.clone()));
        let parts = [data(&[1; 10]), data(&[1; 20])].concat();
        assert_eq!(take(&[&parts, &packed]).unwrap(), (Reply::Chunk, whole.clone()));
        assert!(take(&[&data(&[1; 81])]).is_err(), "too much");
        assert!(take(&[&data(&[1; 40]), &packed]).is_err(), "too much, packed");
        assert!(take(&[&data(&[1; 10]), &message(&NoChunk::Waiting)]).is_err(), "in the middle");
        assert_eq!(take(&[&message(&NoChunk::Waiting)]).unwrap().0, Reply::Waiting);
        assert!(take(&[&data(&[]), &data(&whole)]).is_err(), "nothing is no part of a chunk");
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_panics_and_no_memory_is_taken_for_it(
            bytes in prop::collection::vec(any::<u8>(), 0..64), kind in prop::sample::select(vec![b'm', b'd', b'z', b'x']),
        ) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<serde_json::Value>() {}
            let _ = hear::<Guest>(&mut bytes.as_slice(), MOST_GUEST_MESSAGE);
            let _ = data(&mut bytes.as_slice(), 1 << 30);
            let _ = reply(&mut bytes.as_slice(), 60, &mut Vec::new());
        }
    }
}
