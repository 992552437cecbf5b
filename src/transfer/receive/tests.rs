use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::*;
use crate::lease::{Answer::Granted, Ask, Holder};
use crate::store::arrived;
use crate::transfer::CHUNK;
use crate::transfer::frame::Token;

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

/// A sender, while a host receives.
struct Sender {
    socket: UnixStream,
    receiving: JoinHandle<Answer>,
    /// What it was asked for.
    asked: Vec<usize>,
}

impl Sender {
    fn begin(host: &Host, is_shared: bool) -> Self {
        Self::with(host, is_shared, &host.list.to_text())
    }

    fn with(host: &Host, is_shared: bool, text: &str) -> Self {
        let (mut socket, far) = UnixStream::pair().unwrap();
        let (order, output) = (host.order(), far.try_clone().unwrap());
        let receiving = thread::spawn(move || receive(&order, far, output));
        // a host that refuses to begin need not read all of it
        let _ = frame::say(
            &mut socket,
            &Said::Begin { lease: 0, is_shared, most_per_second: None, gives: false },
        );
        let _ = socket.write_all(&frame::data_head(text.len() as u64));
        let _ = socket.write_all(text.as_bytes());
        Self { socket, receiving, asked: Vec::new() }
    }

    fn hear(&mut self) -> Word {
        frame::hear(&mut self.socket, MOST_MESSAGE).unwrap().unwrap()
    }

    fn missing(&mut self) -> (frame::Runs, frame::DoorPlate) {
        loop {
            match self.hear() {
                Word::Missing { chunks, door } => return (chunks, door.unwrap()),
                Word::Here { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn course(&mut self, course: Course) {
        frame::say(&mut self.socket, &Said::Course(course)).unwrap();
    }

    /// Sends what it is asked for, as `change` makes it; when that says no, the link breaks.
    fn serve(&mut self, host: &Host, mut change: impl FnMut(usize, &mut Vec<u8>) -> bool) -> Option<Answer> {
        loop {
            match self.hear() {
                Word::Ask { at } => {
                    self.asked.push(at);
                    let mut data = host.chunk(at);
                    if !change(at, &mut data) {
                        return None;
                    }
                    self.socket.write_all(&frame::data_head(data.len() as u64)).unwrap();
                    self.socket.write_all(&data).unwrap();
                }
                Word::Here { .. } => {}
                Word::Ended { answer } => return Some(answer),
                word @ (Word::Missing { .. } | Word::Reached { .. }) => panic!("{word:?}"),
            }
        }
    }

    /// Goes away, and returns the answer.
    fn end(self) -> Answer {
        drop(self.socket);
        self.receiving.join().unwrap()
    }
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

    fn chunk(&self, at: usize) -> Vec<u8> {
        let range = &self.list.chunks[at].range;
        self.data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
    }

    /// Takes the blob from an honest sender; returns the answer, and what was asked for.
    fn send(&self) -> (Answer, Vec<usize>) {
        let mut sender = Sender::begin(self, false);
        let answer = sender.serve(self, |_, _| true).unwrap();
        let asked = std::mem::take(&mut sender.asked);
        assert_eq!(sender.end(), answer);
        (answer, asked)
    }

    fn blob(&self) -> PathBuf {
        self.order().layout.blob(&self.list.digest)
    }

    fn partial(&self) -> PathBuf {
        self.order().layout.partial(&self.list.digest)
    }

    fn sealed(&self, received: usize) -> Answer {
        let (bytes, from_hosts) = (self.list.bytes, Bytes::ZERO);
        Answer::Sealed { sealed: true, bytes, received: Bytes(received as u64), from_hosts }
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
        Answer::Sealed { .. } => None,
        Answer::Refused { reason, .. } => Some(*reason),
    }
}

const MIB: usize = 1 << 20;

#[test]
fn a_blob_of_any_size_is_sealed_read_only_and_asked_for_once() {
    for size in [1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 13 * MIB] {
        let host = Host::new(size);
        let all: Vec<usize> = (0..host.list.chunks.len()).collect();
        assert_eq!(host.send(), (host.sealed(size), all));
        host.check_whole();
        assert_eq!(host.send(), (host.sealed(0), vec![]));
    }
    let empty = Host::new(0);
    assert_eq!(empty.send(), (empty.sealed(0), vec![]));
    empty.check_whole();
}

#[test]
fn an_interrupted_transfer_keeps_its_whole_chunks_and_nothing_is_read_again() {
    let host = Host::new(13 * MIB);
    let mut sender = Sender::begin(&host, false);
    assert_eq!(sender.serve(&host, |at, _| at < 2), None);
    let Answer::Refused { reason: Reason::WrongSize, message, partial } = sender.end() else { panic!() };
    assert_eq!(partial, Bytes(2 * CHUNK));
    assert!(message.starts_with("8.0 MiB of 13.0 MiB are here"), "{message}");
    assert_eq!(host.send(), (host.sealed(5 * MIB), vec![2, 3]));
    host.check_whole();
}

#[test]
fn a_chunk_that_comes_wrong_is_asked_for_again_and_after_that_it_is_no_use() {
    let host = Host::new(13 * MIB);
    let mut sender = Sender::begin(&host, false);
    let mut is_first = true;
    let answer = sender.serve(&host, |at, data| {
        if at == 1 && std::mem::take(&mut is_first) {
            data[5] ^= 1;
        }
        true
    });
    assert_eq!(answer, Some(host.sealed(13 * MIB)));
    assert_eq!(sender.asked.iter().filter(|at| **at == 1).count(), 2);
    assert_eq!(sender.asked.len(), 5);
    sender.end();
    host.check_whole();

    let host = Host::new(13 * MIB);
    let mut sender = Sender::begin(&host, false);
    let answer = sender.serve(&host, |at, data| {
        data[0] ^= u8::from(at == 1);
        true
    });
    assert_eq!(answer.as_ref().and_then(reason), Some(Reason::WrongDigest), "{answer:?}");
    sender.end();
    // what was right is kept
    let (answer, asked) = host.send();
    assert_eq!(answer, host.sealed(asked.iter().map(|at| host.chunk(*at).len()).sum()));
    assert!(asked.contains(&1) && !asked.contains(&0), "{asked:?}");
    host.check_whole();
}

#[test]
fn what_a_failing_disk_left_beside_a_sealed_blob_is_cleared_up_by_the_next_who_asks() {
    let host = Host::new(5000);
    assert_eq!(host.send().0, host.sealed(5000));
    let journal = host.partial().with_added_extension("journal");
    fs::write(&journal, "bramble-partial 1 5000\n").unwrap();
    assert_eq!(host.send(), (host.sealed(0), vec![]));
    assert!(!journal.exists() && !host.partial().exists());
    host.check_whole();
}

#[test]
fn what_other_blobs_have_is_copied_from_there_unless_it_is_damaged() {
    let first = Host::new(13 * MIB);
    assert_eq!(first.send().0, first.sealed(13 * MIB));
    // another header before the same parts
    let data = [noise(1000, 7).as_slice(), &first.data].concat();
    let starts: Vec<u64> = (0..4).map(|at| 1000 + at * CHUNK).collect();
    let old = first.blob();
    let second = first.next(data, &starts);
    let mut sender = Sender::begin(&second, true);
    let (chunks, _) = sender.missing();
    assert_eq!(chunks, [(0, 0)]);
    sender.end();
    assert_eq!(second.send().0, second.sealed(1000));
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
    assert_eq!(third.send(), (third.sealed(500), vec![0]));
    third.check_whole();
}

#[test]
fn of_a_blob_that_was_written_to_only_the_damage_is_sent() {
    let host = Host::new(13 * MIB);
    assert_eq!(host.send().0, host.sealed(13 * MIB));
    let write = |data: &[u8]| {
        fs::set_permissions(host.blob(), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(host.blob(), data).unwrap();
    };
    let is_touched = || store::is_touched(&fs::metadata(host.blob()).unwrap());
    let mut data = host.data.clone();
    data[9 * MIB] ^= 1;
    write(&data);
    assert!(is_touched());
    assert_eq!(host.send(), (host.sealed(4 * MIB), vec![2]));
    host.check_whole();
    assert!(!is_touched());
    // one that is cut off, too
    write(&host.data[..6 * MIB]);
    assert_eq!(host.send().1, [1, 2, 3]);
    host.check_whole();
    // and of what was only touched, nothing is
    write(&host.data);
    assert!(is_touched());
    assert_eq!(host.send(), (host.sealed(0), vec![]));
    assert!(!is_touched());
}

#[test]
fn two_transfers_of_one_blob_do_not_mix() {
    let host = Host::new(13 * MIB);
    let mut first = Sender::begin(&host, false);
    let mut inner = None;
    let answer = first.serve(&host, |at, _| {
        if at == 2 {
            inner = Some(host.send().0);
        }
        true
    });
    assert_eq!(answer, Some(host.sealed(13 * MIB)));
    assert_eq!(inner.as_ref().and_then(reason), Some(Reason::Busy));
    first.end();
}

/// Another operator takes the host over.
fn take_over(host: &Host) {
    let holder = Holder { operator: "bob@desk".to_owned(), boot: String::new(), process: 1 };
    let ask = Ask::Take { holder, in_place_of: None };
    assert_eq!(lease::answer(&host.order().layout, ask).unwrap(), Some(Granted { number: 1 }));
}

#[test]
fn a_sender_whose_host_was_taken_over_writes_nothing_more_even_while_it_sleeps() {
    let host = Host::new(3 * (4 << 20));
    let mut sender = Sender::begin(&host, false);
    let answer = sender.serve(&host, |at, _| {
        if at == 1 {
            take_over(&host);
        }
        true
    });
    assert_eq!(answer.as_ref().and_then(reason), Some(Reason::Over), "{answer:?}");
    sender.end();
    assert!(!host.blob().exists());
    assert!(arrived(&host.partial()) <= Bytes(CHUNK), "the chunk before may have come in time");

    let host = Host::new(2 * (4 << 20));
    let mut sender = Sender::begin(&host, false);
    assert!(matches!(sender.hear(), Word::Ask { at: 0 }), "and then it falls asleep");
    take_over(&host);
    let begun = Instant::now();
    assert_eq!(sender.serve(&host, |_, _| true).as_ref().and_then(reason), Some(Reason::Over));
    assert!(begun.elapsed() < Duration::from_secs(5), "whoever came after it does not wait");
}

#[test]
fn what_is_no_list_or_another_blobs_is_refused_before_anything_is_made() {
    let host = Host::new(1000);
    let text = host.list.to_text();
    let other = text.replace(&host.list.digest.to_string(), &Digest::of(b"another").to_string());
    for bad in ["", "bramble-chunks 2 x", &text[..text.len() - 10], &other] {
        let mut sender = Sender::with(&host, false, bad);
        let answer = sender.serve(&host, |_, _| true);
        assert_eq!(answer.as_ref().and_then(reason), Some(Reason::Protocol), "{answer:?}");
        sender.end();
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
    let mut sender = Sender::with(&host, false, &text);
    match sender.serve(&host, |_, _| true) {
        Some(Answer::Refused { reason: Reason::NoRoom, message, partial: Bytes(0) }) => {
            assert!(message.contains("it needs 1.0 TiB and 64.0 MiB to spare"), "{message}");
            assert!(message.contains(" has "), "{message}");
        }
        other => panic!("{other:?}"),
    }
    sender.end();
    assert!(!host.partial().exists());
}

/// What a guest shows and expects at a door.
struct Papers {
    token: &'static str,
    has_its_certificate: bool,
    is_invited: bool,
}

const IN_ORDER: Papers = Papers { token: "token", has_its_certificate: true, is_invited: true };

/// Brings the two hosts together: the second is to have its chunks from the first.
fn introduce(first: &mut Sender, second: &mut Sender, papers: &Papers) {
    let (_, door) = first.missing();
    let (_, guest) = second.missing();
    let address = (std::net::Ipv4Addr::LOCALHOST, door.port).into();
    let certificate = if papers.has_its_certificate { door.certificate } else { Digest::of(b"another") };
    let peer = frame::Peer { address, certificate, holds: None, hops: 0 };
    let guests = if papers.is_invited { vec![guest.certificate] } else { vec![Digest::of(b"another")] };
    first.course(Course { guests, token: Token::new("token"), ..Course::default() });
    second.course(Course { sources: vec![peer], token: Token::new(papers.token), ..Course::default() });
}

#[test]
fn a_host_has_its_chunks_from_another_while_they_arrive_there() {
    let (one, two) = (Host::new(33 * MIB), Host::new(33 * MIB));
    let (mut first, mut second) = (Sender::begin(&one, true), Sender::begin(&two, true));
    introduce(&mut first, &mut second, &IN_ORDER);
    let answer = thread::scope(|scope| {
        let second = scope.spawn(|| second.serve(&two, |_, _| true));
        assert_eq!(first.serve(&one, |_, _| true), Some(one.sealed(33 * MIB)));
        second.join().unwrap()
    });
    let (bytes, from_hosts) = (two.list.bytes, two.list.bytes);
    assert_eq!(answer, Some(Answer::Sealed { sealed: true, bytes, received: Bytes::ZERO, from_hosts }));
    assert_eq!(second.asked, [0_usize; 0]);
    // the first one goes on giving until the sender says that it is over
    assert!(!first.receiving.is_finished());
    first.end();
    second.end();
    one.check_whole();
    two.check_whole();
}

#[test]
fn a_host_says_which_doors_it_comes_to_before_anything_moves() {
    let (one, two) = (Host::new(9 * MIB), Host::new(9 * MIB));
    let (mut first, mut second) = (Sender::begin(&one, true), Sender::begin(&two, true));
    let ((_, door), (_, guest)) = (first.missing(), second.missing());
    let here = |port| std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    // nobody listens at a port that was given back, and nobody is at an address for examples: it says nothing
    let shut = std::net::TcpListener::bind(here(0)).unwrap().local_addr().unwrap();
    let nobody = "192.0.2.1:9".parse().unwrap();
    let begun = Instant::now();
    for _ in 0..2 {
        let doors = vec![shut, here(door.port), nobody];
        frame::say(&mut second.socket, &Said::Try { doors }).unwrap();
        assert_eq!(second.hear(), Word::Reached { doors: vec![1] });
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    frame::say(&mut second.socket, &Said::Try { doors: vec![here(door.port); 100] }).unwrap();
    assert_eq!(second.hear(), Word::Reached { doors: (0..frame::MOST_DOORS).collect() });
    // who only tried the door keeps no guest out
    let peer = frame::Peer { address: here(door.port), certificate: door.certificate, holds: None, hops: 0 };
    let token = Token::new("token");
    let guests = vec![guest.certificate];
    first.course(Course { guests, token: token.clone(), ..Course::default() });
    second.course(Course { sources: vec![peer], token, ..Course::default() });
    assert_eq!(first.serve(&one, |_, _| true), Some(one.sealed(9 * MIB)));
    let Some(Answer::Sealed { from_hosts, .. }) = second.serve(&two, |_, _| true) else {
        panic!("no answer")
    };
    assert_eq!(from_hosts, two.list.bytes);
    first.end();
    second.end();
}

#[test]
fn a_guest_with_other_papers_gets_nothing_and_turns_to_the_sender() {
    for papers in [
        Papers { token: "taken", ..IN_ORDER },
        Papers { has_its_certificate: false, ..IN_ORDER },
        Papers { is_invited: false, ..IN_ORDER },
    ] {
        let (one, two) = (Host::new(9 * MIB), Host::new(9 * MIB));
        let (mut first, mut second) = (Sender::begin(&one, true), Sender::begin(&two, true));
        introduce(&mut first, &mut second, &papers);
        assert_eq!(first.serve(&one, |_, _| true), Some(one.sealed(9 * MIB)));
        assert_eq!(second.serve(&two, |_, _| true), Some(two.sealed(9 * MIB)));
        first.end();
        second.end();
        two.check_whole();
    }
}

/// Lets one guest through to `door`, and keeps what it says. Returns the address to come to.
fn overheard(door: std::net::SocketAddr) -> (std::net::SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let listening = thread::spawn(move || {
        let (mut guest, _) = listener.accept().unwrap();
        let mut host = std::net::TcpStream::connect(door).unwrap();
        let (mut from_host, mut to_guest) = (host.try_clone().unwrap(), guest.try_clone().unwrap());
        let back = thread::spawn(move || drop(io::copy(&mut from_host, &mut to_guest)));
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = guest.read(&mut buffer) {
            said.extend_from_slice(&buffer[..read]);
            host.write_all(&buffer[..read]).unwrap();
        }
        host.shutdown(std::net::Shutdown::Both).unwrap();
        back.join().unwrap();
        said
    });
    (address, listening)
}

#[test]
fn what_a_guest_said_opens_nothing_when_somebody_says_it_again() {
    let (one, two) = (Host::new(9 * MIB), Host::new(9 * MIB));
    let (mut first, mut second) = (Sender::begin(&one, true), Sender::begin(&two, true));
    let ((_, door), (_, guest)) = (first.missing(), second.missing());
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, door.port));
    let (way, listening) = overheard(address);
    let peer = frame::Peer { address: way, certificate: door.certificate, holds: None, hops: 0 };
    let token = Token::new("token");
    first.course(Course { guests: vec![guest.certificate], token: token.clone(), ..Course::default() });
    second.course(Course { sources: vec![peer], token, ..Course::default() });
    assert_eq!(first.serve(&one, |_, _| true), Some(one.sealed(9 * MIB)));
    let Some(Answer::Sealed { from_hosts, .. }) = second.serve(&two, |_, _| true) else {
        panic!("no answer")
    };
    assert_eq!(from_hosts, two.list.bytes, "it came past the one who listens");
    second.end();
    let said = listening.join().unwrap();
    assert!(said.len() > 500, "{}", said.len());

    // the door is open until the sender says that it is over, and gives the same words nothing
    let mut again = std::net::TcpStream::connect(address).unwrap();
    again.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // it may go away while it is still spoken to
    drop(again.write_all(&said));
    let mut heard = Vec::new();
    let ended = again.read_to_end(&mut heard).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(_) | Err(io::ErrorKind::ConnectionReset)), "it still listens: {ended:?}");
    // a greeting and a refusal, and nothing of a chunk
    assert!(heard.len() < 4096, "{} bytes for words that were heard before", heard.len());
    first.end();
}

#[test]
fn when_the_host_before_it_dies_the_sender_is_asked_for_the_rest() {
    let (one, two) = (Host::new(33 * MIB), Host::new(33 * MIB));
    let (mut first, mut second) = (Sender::begin(&one, true), Sender::begin(&two, true));
    introduce(&mut first, &mut second, &IN_ORDER);
    // the link of the first breaks after some chunks, and with it all that it gives
    assert_eq!(first.serve(&one, |at, _| at < 4), None);
    first.end();
    let answer = second.serve(&two, |_, _| true).unwrap();
    let Answer::Sealed { received, from_hosts, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(received + from_hosts, two.list.bytes);
    assert!(received >= Bytes(33 << 20) - Bytes(4 * CHUNK), "{received}");
    second.end();
    two.check_whole();
}

/// Returns a blob that a host has in another one, but for its first kilobyte.
fn known_but_for_its_beginning(size: usize) -> Host {
    let first = Host::new(size);
    first.send();
    let data = [noise(1000, 7).as_slice(), &first.data].concat();
    let starts: Vec<u64> = (0..size.div_ceil(4 * MIB) as u64).map(|at| 1000 + at * CHUNK).collect();
    first.next(data, &starts)
}

#[test]
fn a_host_that_copies_from_its_own_disk_says_how_far_it_is_and_stops_when_nobody_listens() {
    let host = known_but_for_its_beginning(40 * MIB);
    let place = Place::new(&host.order());
    let mut told = Vec::new();
    let prepared = place.prepare(&host.list.to_text(), false, &mut |here| {
        told.push(here);
        Ok(())
    });
    assert_eq!(told, (1..=10).map(|chunks| Bytes(chunks * CHUNK)).collect::<Vec<_>>());
    drop(prepared.unwrap());
    assert_eq!(arrived(&host.partial()), Bytes(10 * CHUNK));

    let host = known_but_for_its_beginning(40 * MIB);
    let answer = Sender::begin(&host, false).end();
    assert_eq!(reason(&answer), Some(Reason::WrongSize), "{answer:?}");
    assert_eq!(arrived(&host.partial()), Bytes(CHUNK), "what was copied counts");
}

#[test]
fn a_host_that_was_taken_over_while_it_copies_copies_no_more() {
    let host = known_but_for_its_beginning(9 * MIB);
    let (_sender, far) = UnixStream::pair().unwrap();
    let output = Arc::new(Mutex::new(far.try_clone().unwrap()));
    let mut line = Line { input: Polled(far), output };
    let place = Place::new(&host.order());
    let mut copying = Copying { place: &place, lease: 0, line: &mut line, told: Instant::now() };
    let mut looks = 0;
    let prepared = place.prepare(&host.list.to_text(), false, &mut |here| {
        looks += 1;
        take_over(&host);
        copying.look(here)
    });
    assert_eq!(prepared.map(drop).map_err(|(reason, _)| reason), Err(Reason::Over));
    assert_eq!((looks, arrived(&host.partial())), (1, Bytes(CHUNK)));
}

#[test]
fn a_host_that_waits_for_slow_ones_hears_that_the_sender_is_there() {
    let host = Host::new(MIB);
    let mut sender = Sender::begin(&host, true);
    sender.missing();
    for _ in 0..3 {
        frame::say(&mut sender.socket, &Said::Stay).unwrap();
    }
    sender.course(Course::default());
    assert_eq!(sender.serve(&host, |_, _| true), Some(host.sealed(MIB)));
    sender.end();
}
