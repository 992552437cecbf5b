use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::transfer::CHUNK;

/// A host's folder, and a blob with the list of its chunks.
struct Host {
    dir: tempfile::TempDir,
    data: Vec<u8>,
    list: ChunkList,
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..size.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).to_le_bytes()
    });
    words.take(size).collect()
}

impl Host {
    fn new(size: usize) -> Self {
        Self::with(tempfile::tempdir().unwrap(), noise(size, 1), &[])
    }

    /// The same host, and another blob.
    fn next(self, data: Vec<u8>, starts: &[u64]) -> Self {
        Self::with(self.dir, data, starts)
    }

    fn with(dir: tempfile::TempDir, data: Vec<u8>, starts: &[u64]) -> Self {
        let path = dir.path().join("operators");
        fs::write(&path, &data).unwrap();
        let lists = dir.path().join("lists");
        let list = ChunkList::of_file(&path, &Digest::of(&data), &lists, || starts.to_vec()).unwrap();
        Self { dir, data, list }
    }

    fn order(&self) -> Order {
        Order { layout: Layout::new(self.dir.path().join("root")), digest: self.list.digest }
    }

    fn offer(&self) -> Answer {
        offer(&self.order(), &mut self.list.to_text().as_bytes())
    }

    /// Returns what is missing, and what is to be sent for it.
    fn missing(&self) -> (Digest, Vec<u8>) {
        match self.offer() {
            Answer::Missing { chunks, token, .. } => {
                let ranges = chunks.into_iter().flat_map(|(first, last)| first..=last);
                let sent = ranges.flat_map(|at| {
                    let range = &self.list.chunks[at].range;
                    self.data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
                        .to_vec()
                });
                (token, sent.collect())
            }
            other => panic!("nothing is missing: {other:?}"),
        }
    }

    fn send(&self) -> Answer {
        let (token, data) = self.missing();
        take(&self.order(), &token, &mut data.as_slice())
    }

    fn blob(&self) -> PathBuf {
        self.order().layout.blob(&self.list.digest)
    }

    fn partial(&self) -> PathBuf {
        self.order().layout.partial(&self.list.digest)
    }

    fn sealed(&self, received: usize) -> Answer {
        Answer::Sealed { sealed: true, bytes: self.list.bytes, received: Bytes(received as u64) }
    }

    /// Only what is sealed and its list are there.
    fn check_whole(&self) {
        assert!(fs::read(self.blob()).unwrap() == self.data);
        assert_eq!(fs::metadata(self.blob()).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(fs::read_dir(self.partial().parent().unwrap()).unwrap().count(), 0);
        assert!(self.order().layout.chunks().join(self.list.digest.to_string()).exists());
    }
}

fn reason(answer: &Answer) -> Option<Reason> {
    match answer {
        Answer::Sealed { .. } | Answer::Missing { .. } => None,
        Answer::Refused { reason, .. } => Some(*reason),
    }
}

const MIB: usize = 1 << 20;

#[test]
fn a_blob_of_any_size_is_sealed_read_only_and_offered_in_vain_after() {
    for size in [1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 13 * MIB] {
        let host = Host::new(size);
        assert_eq!(host.send(), host.sealed(size));
        host.check_whole();
        assert_eq!(host.offer(), host.sealed(0));
    }
    let empty = Host::new(0);
    assert_eq!(empty.offer(), empty.sealed(0));
    empty.check_whole();
}

#[test]
fn an_interrupted_push_keeps_its_whole_chunks_and_nothing_is_read_again() {
    let host = Host::new(13 * MIB);
    let (token, data) = host.missing();
    let answer = take(&host.order(), &token, &mut &data[..9 * MIB]);
    let Answer::Refused { reason: Reason::WrongSize, message, partial } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(partial, Bytes(2 * CHUNK));
    assert!(message.starts_with("8.0 MiB of 13.0 MiB are here"), "{message}");
    // what was named before is not what is missing now
    assert_eq!(reason(&take(&host.order(), &token, &mut data.as_slice())), Some(Reason::Offset));
    let (_, rest) = host.missing();
    assert!(rest == host.data[8 * MIB..]);
    assert_eq!(host.send(), host.sealed(5 * MIB));
    host.check_whole();
}

#[test]
fn chunks_with_another_digest_are_not_kept_and_only_they_are_sent_again() {
    let host = Host::new(13 * MIB);
    let (token, mut data) = host.missing();
    data[5 * MIB] ^= 1;
    data[13 * MIB - 1] ^= 1;
    let answer = take(&host.order(), &token, &mut data.as_slice());
    let Answer::Refused { reason: Reason::WrongDigest, message, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(message, "2 of 4 chunks have another digest, so they were not kept");
    let (_, rest) = host.missing();
    assert!(rest == [&host.data[4 * MIB..8 * MIB], &host.data[12 * MIB..]].concat());
    assert_eq!(host.send(), host.sealed(5 * MIB));
    host.check_whole();
}

#[test]
fn what_other_blobs_have_is_copied_from_there_unless_it_is_damaged() {
    let first = Host::new(13 * MIB);
    assert_eq!(first.send(), first.sealed(13 * MIB));
    // another header before the same parts
    let data = [noise(1000, 7).as_slice(), &first.data].concat();
    let starts: Vec<u64> = (0..4).map(|at| 1000 + at * CHUNK).collect();
    let old = first.blob();
    let second = first.next(data, &starts);
    let Answer::Missing { chunks, copied, .. } = second.offer() else { panic!("{:?}", second.offer()) };
    assert_eq!((chunks, copied), (vec![(0, 0)], Bytes(13 << 20)));
    assert_eq!(second.send(), second.sealed(1000));
    second.check_whole();

    // a byte of the first has flipped since: the second has it, too
    let damage = |path: &Path, at: usize| {
        let mut data = fs::read(path).unwrap();
        data[at] ^= 1;
        fs::remove_file(path).unwrap();
        fs::write(path, data).unwrap();
    };
    damage(&old, 0);
    damage(&second.blob(), 1000 + 4 * MIB);
    let data = [noise(500, 8).as_slice(), &second.data[1000..]].concat();
    let starts: Vec<u64> = (0..4).map(|at| 500 + at * CHUNK).collect();
    let third = second.next(data, &starts);
    let Answer::Missing { chunks, .. } = third.offer() else { panic!("{:?}", third.offer()) };
    assert_eq!(chunks, [(0, 0)]);
    assert_eq!(third.send(), third.sealed(500));
    third.check_whole();
}

#[test]
fn of_a_blob_that_was_put_aside_only_the_damage_is_sent() {
    let host = Host::new(13 * MIB);
    assert_eq!(host.send(), host.sealed(13 * MIB));
    let mut data = host.data.clone();
    data[9 * MIB] ^= 1;
    let damaged = host.order().layout.damaged(&host.list.digest);
    fs::write(&damaged, data).unwrap();
    fs::remove_file(host.blob()).unwrap();
    assert_eq!(host.send(), host.sealed(4 * MIB));
    host.check_whole();
    assert!(!damaged.exists());
}

#[test]
fn a_sealed_blob_is_not_touched_and_no_input_is_read() {
    let host = Host::new(10);
    let (token, data) = host.missing();
    assert_eq!(take(&host.order(), &token, &mut data.as_slice()), host.sealed(10));
    let mut input: &[u8] = b"unread";
    assert_eq!(reason(&take(&host.order(), &token, &mut input)), Some(Reason::Offset));
    assert_eq!(input, b"unread");
}

#[test]
fn more_bytes_than_are_missing_are_refused() {
    let host = Host::new(1000);
    let (token, data) = host.missing();
    let longer = [data.as_slice(), b"x"].concat();
    assert_eq!(reason(&take(&host.order(), &token, &mut longer.as_slice())), Some(Reason::WrongSize));
    assert!(!host.blob().exists());
    assert_eq!(host.offer(), host.sealed(0));
}

#[test]
fn two_pushes_of_one_blob_do_not_mix() {
    let host = Host::new(1000);
    let (token, data) = host.missing();
    let mut inner = Vec::new();
    let mut input = Reading(|| {
        inner.push(host.offer());
        inner.push(take(&host.order(), &token, &mut data.as_slice()));
        0
    });
    take(&host.order(), &token, &mut input);
    assert_eq!(inner.iter().map(reason).collect::<Vec<_>>(), [Some(Reason::Busy); 2]);
}

#[test]
fn what_is_no_list_or_another_blobs_is_refused_before_anything_is_made() {
    let host = Host::new(1000);
    let text = host.list.to_text();
    let other = text.replace(&host.list.digest.to_string(), &Digest::of(b"another").to_string());
    for bad in ["", "bramble-chunks 2 x", &text[..text.len() - 10], &other] {
        let answer = offer(&host.order(), &mut bad.as_bytes());
        assert_eq!(reason(&answer), Some(Reason::Protocol), "{answer:?}");
    }
    assert!(!host.order().layout.root().exists());
}

#[test]
fn a_blob_that_cannot_fit_is_refused_before_the_first_byte_with_both_figures() {
    let host = Host::new(10);
    let chunk = host.list.chunks[0].digest;
    // a list of 1 TiB, of the same chunk again and again
    let count: u64 = 1 << 18;
    let head = format!("bramble-chunks 1 {} {} {count}\n", host.list.digest, count * CHUNK);
    let text = head + &format!("{CHUNK} {chunk}\n").repeat(usize::try_from(count).unwrap());
    match offer(&host.order(), &mut text.as_bytes()) {
        Answer::Refused { reason: Reason::NoRoom, message, partial: Bytes(0) } => {
            assert!(message.contains("it needs 1.0 TiB and 64.0 MiB to spare"), "{message}");
            assert!(message.contains(" has "), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!host.partial().exists());
}

struct Reading<F: FnMut() -> usize>(F);
impl<F: FnMut() -> usize> Read for Reading<F> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok((self.0)())
    }
}
