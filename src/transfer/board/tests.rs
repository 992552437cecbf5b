use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::RngSeed;

use super::*;

const CHUNK: u64 = 4 << 20;

fn board(count: usize, peers: &[Option<Runs>], now: Instant) -> Board {
    let missing: Vec<usize> = (0..count).collect();
    let peers: Vec<_> = peers.iter().map(|runs| (runs.clone(), 0)).collect();
    let mut board = Board::new(std::iter::repeat_n(CHUNK, count), &missing, &peers, now);
    (0..peers.len()).for_each(|peer| board.connected(peer));
    board
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_chunk_is_asked_of_the_first_source_that_has_it_and_not_far_ahead() {
    let now = Instant::now();
    let mut board = board(6, &[Some(vec![(2, 3)]), None], now);
    assert_eq!((board.next(0, now), board.next(0, now), board.next(0, now)), (Some(2), Some(3), None));
    // 8 MiB ahead, then no more until some of it came
    assert_eq!((board.next(1, now), board.next(1, now), board.next(1, now)), (Some(0), Some(1), None));
    assert_eq!(board.next(2, now), None, "the sender is the last resort");
    assert_eq!(board.brought(1, now), Some(0));
    assert!(!board.has(0), "it is not proven yet");
    board.proven(0);
    assert!(board.has(0));
    assert_eq!(board.next(1, now), Some(4));
    assert_eq!((board.hosts_brought(), board.sender_brought(), board.here()), (CHUNK, 0, CHUNK));
}

#[test]
fn a_few_holders_bring_at_once_and_others_are_asked_for_what_the_next_ones_have() {
    let now = Instant::now();
    let peers: Vec<Option<Runs>> = (0..6).map(|at| Some(vec![(at, at)])).collect();
    let mut board = board(7, &peers, now);
    let asked: Vec<_> = (0..6).map(|peer| board.next(peer, now)).collect();
    assert_eq!(asked, [Some(0), Some(1), Some(2), None, None, None]);
    // nobody waits for the turn of another
    assert_eq!((board.next(6, now), board.next(6, now), board.next(6, now)), (Some(3), Some(4), None));
    // what one has brought is in memory until it is written
    assert_eq!((board.brought(1, now), board.next(5, now)), (Some(1), None));
    board.proven(1);
    assert_eq!(board.next(5, now), Some(5), "it is its turn");
    // one sent what is wrong, and has none any more
    assert_eq!((board.brought(2, now), board.next(6, now)), (Some(2), None));
    board.wrong(2);
    assert_eq!((board.brought(6, now), board.next(6, now)), (Some(3), Some(2)));
}

#[test]
fn who_is_to_have_all_needs_no_turn_and_keeps_what_he_is_asked_for_first() {
    let now = Instant::now();
    let holders = |at: usize| Some(vec![(2 * at, 2 * at + 1)]);
    let mut board = board(9, &[None, holders(0), holders(1), holders(2)], now);
    board.lost(0);
    let later = now + CONNECTING;
    let asked: Vec<_> = (1..5).map(|source| board.next(source, later)).collect();
    assert_eq!(asked, [Some(0), Some(2), Some(4), Some(6)]);
    // it comes back, and the sender is asked for nothing more
    board.connected(0);
    assert_eq!((board.next(4, later), board.next(1, later)), (None, None));
    assert_eq!((board.next(0, later), board.next(0, later)), (Some(1), Some(3)));
}

#[test]
fn who_brings_nothing_keeps_his_turn_until_he_is_gone_and_the_sender_is_asked_meanwhile() {
    let now = Instant::now();
    let peers: Vec<Option<Runs>> = (0..4).map(|at| Some(vec![(at, at)])).collect();
    let mut board = board(4, &peers, now);
    let asked: Vec<_> = (0..5).map(|source| board.next(source, now)).collect();
    assert_eq!(asked, [Some(0), Some(1), Some(2), None, Some(3)]);
    assert_eq!(board.brought(4, now), Some(3));
    board.wrong(3);
    let later = now + OWED;
    (0..3).for_each(|peer| board.heard(peer, later));
    board.look(later);
    assert_eq!((board.is_gone(0), board.next(3, later)), (false, None));
    assert_eq!((board.next(4, later), board.next(4, later)), (Some(0), Some(1)));
    assert_eq!(board.brought(4, later), Some(0));
    board.look(later + SILENCE);
    assert!((0..3).all(|peer| board.is_gone(peer)));
    assert_eq!(board.next(3, later + SILENCE), Some(3));
}

#[test]
fn who_says_that_he_waits_for_what_he_has_is_slow_all_the_same() {
    let now = Instant::now();
    let mut board = board(9, &[Some(vec![(0, 8)]), Some(vec![(0, 8)])], now);
    board.next(0, now);
    for second in 1..60 {
        board.waits(0, now + seconds(second));
        board.heard(0, now + seconds(second));
    }
    board.brought(0, now + seconds(59));
    assert_eq!((board.next(1, now + seconds(59)), board.next(0, now + seconds(59))), (Some(1), None));
}

#[test]
fn who_says_nothing_is_given_up_and_who_only_waits_is_passed_by_until_he_brings_something() {
    let now = Instant::now();
    let mut board = board(6, &[None, None], now);
    board.next(0, now);
    board.next(0, now);
    assert_eq!(board.next(1, now), None);
    board.look(now + SILENCE);
    assert!(board.is_gone(0));
    assert_eq!((board.next(1, now), board.next(1, now)), (Some(0), Some(1)));
    // it waits itself, and says so
    let mut later = now;
    for _ in 0..OWED.as_secs() {
        later += seconds(1);
        board.heard(1, later);
        board.waits(1, later);
        board.look(later);
    }
    assert!(!board.is_gone(1));
    assert_eq!(board.next(2, later), Some(0), "others are asked meanwhile");
    // what it brings late is taken, and it is asked again
    assert_eq!(board.brought(1, later), Some(0));
    board.proven(0);
    assert_eq!(board.next(2, later), None);
    assert_eq!(board.brought(2, later), None, "it came twice");
    assert_eq!(board.next(1, later), Some(2), "the second was asked for before");
}

#[test]
fn a_host_that_never_answers_is_waited_for_once_and_not_for_long() {
    let now = Instant::now();
    let missing = [0, 1];
    let mut board = Board::new([CHUNK; 2].into_iter(), &missing, &[(None, 0)], now);
    assert_eq!((board.next(0, now), board.next(1, now)), (None, None));
    assert_eq!(board.next(1, now + CONNECTING), Some(0));
    board.connected(0);
    assert_eq!(board.next(0, now + CONNECTING), Some(1), "it is welcome when it does");
}

#[test]
fn a_host_whose_way_breaks_is_looked_for_a_few_times_and_others_are_asked_meanwhile() {
    let now = Instant::now();
    let later = now + CONNECTING;
    let mut board = board(2, &[None], now);
    for pause in RETURNS {
        assert_eq!(board.next(0, later), Some(0));
        assert_eq!(board.lost(0), Some(pause));
        assert_eq!(board.next(1, later), Some(0));
        board.gone(1);
        assert_eq!(board.going(), Going::On, "it may come back");
        board.sources[1].standing = Standing::Active;
        board.connected(0);
    }
    assert_eq!(board.lost(0), None);
    assert!(board.is_gone(0));
}

#[test]
fn a_hosts_own_slow_disk_is_nobodys_fault() {
    let now = Instant::now();
    let mut board = board(2, &[None], now);
    board.next(0, now);
    board.forgive(seconds(100));
    board.look(now + seconds(101));
    assert!(!board.is_gone(0));
    board.look(now + seconds(100) + SILENCE);
    assert!(board.is_gone(0));
}

#[test]
fn who_has_chunks_through_many_others_is_waited_for_longer() {
    let now = Instant::now();
    let mut board = Board::new([CHUNK].into_iter(), &[0], &[(None, 50)], now);
    board.connected(0);
    board.next(0, now);
    for second in 1..160 {
        board.heard(0, now + seconds(second));
        board.look(now + seconds(second));
        assert_eq!(board.next(1, now + seconds(second)), None, "{second}");
    }
    board.heard(0, now + seconds(160));
    board.look(now + seconds(160));
    assert_eq!(board.next(1, now + seconds(160)), Some(0));
}

#[test]
fn who_brings_little_is_asked_after_all_others_for_a_while_and_is_not_given_up() {
    let now = Instant::now();
    let mut board = board(20, &[None, Some(vec![(0, 4)])], now);
    assert_eq!((board.next(0, now), board.next(0, now)), (Some(0), Some(1)));
    assert_eq!(board.next(1, now), None);
    // 4 MiB in 40 s; the second is had from somebody else, by the time that it comes
    let later = now + seconds(40);
    assert_eq!(board.brought(0, later), Some(0));
    board.proven(0);
    assert_eq!((board.next(1, later), board.next(1, later)), (Some(1), Some(2)));
    assert_eq!((board.next(2, later), board.next(2, later)), (Some(5), Some(6)));
    assert_eq!(board.next(0, later), None, "others have all that is missing");
    assert_eq!(board.brought(1, later), Some(1));
    board.proven(1);
    assert_eq!(board.brought(0, later + seconds(40)), None);
    // it may have been a moment's trouble
    assert_eq!(board.next(0, later + HELD.mul_f32(0.9)), None);
    let again = later + HELD;
    assert_eq!((board.next(0, again), board.next(0, again)), (Some(3), Some(4)));
    assert_eq!(board.brought(0, again + seconds(40)), Some(3));
    assert_eq!(board.next(0, again + seconds(40) + HELD), None, "twice as long the next time");
    // and where nobody else is there
    board.gone(1);
    board.gone(2);
    assert_eq!(board.next(0, again + seconds(41)), Some(2), "what it was asked for is on its way");
    assert_eq!(board.going(), Going::On);
}

#[test]
fn where_the_sender_is_slow_too_a_slow_host_is_asked_first_as_before() {
    let now = Instant::now();
    let mut board = board(9, &[None], now);
    board.next(0, now);
    let later = now + seconds(40);
    board.brought(0, later);
    assert_eq!((board.next(1, later), board.next(0, later)), (Some(1), None));
    // the sender brings a byte now and then
    let late = later + OWED;
    board.heard(1, late);
    board.look(late);
    assert!(!board.is_gone(1));
    assert_eq!((board.next(0, late), board.next(0, late)), (Some(1), Some(2)));
    assert_eq!(board.brought(1, late), Some(1), "what comes after all is taken");
}

#[test]
fn who_waits_himself_is_not_slow_nor_is_anybody_where_little_is_to_come() {
    let now = Instant::now();
    let mut waiting = board(9, &[None], now);
    waiting.next(0, now);
    waiting.waits(0, now + seconds(38));
    waiting.brought(0, now + seconds(40));
    assert_eq!(waiting.next(1, now + seconds(40)), None);
    let mut capped = board(9, &[None], now).within(Some(200 << 10));
    capped.next(0, now);
    capped.brought(0, now + seconds(40));
    assert_eq!(capped.next(1, now + seconds(40)), None);
    // what this host itself takes to write is not its either
    let mut busy = board(9, &[None], now);
    busy.next(0, now);
    busy.forgive(seconds(30));
    busy.brought(0, now + seconds(40));
    assert_eq!(busy.next(1, now + seconds(40)), None);
}

#[test]
fn who_sends_what_is_wrong_is_not_asked_again_and_the_sender_only_a_few_times() {
    let now = Instant::now();
    let mut board = board(2, &[None], now);
    board.next(0, now);
    let at = board.brought(0, now).unwrap();
    board.wrong(at);
    assert!(board.is_gone(0));
    for _ in 0..MOST_WRONG {
        assert_eq!(board.going(), Going::On);
        assert_eq!(board.next(1, now), Some(0));
        board.brought(1, now);
        board.wrong(0);
    }
    assert_eq!(board.going(), Going::Wrong);
}

/// What a peer does with what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Peer {
    /// A chunk takes so many tenths of a second.
    Honest(u64),
    /// The same, and they are too many.
    Slow(u64),
    /// Says nothing any more after so many chunks.
    Stalls(u32),
    /// Is gone after so many chunks.
    Vanishes(u32),
    /// What comes after so many chunks is wrong.
    Lies(u32),
    /// Sends a byte now and then, and never a whole chunk after so many.
    Drips(u32),
    /// Ends each conversation in the middle of a chunk, after so many whole ones, and takes up the next.
    Truncates(u32),
    /// Takes up no conversation: the token is another one.
    Refuses,
}

impl Peer {
    fn any() -> impl Strategy<Value = Self> {
        let some = || 0_u32..4;
        prop_oneof![
            3 => (1_u64..100).prop_map(Self::Honest),
            1 => (180_u64..500).prop_map(Self::Slow),
            1 => some().prop_map(Self::Stalls),
            1 => some().prop_map(Self::Vanishes),
            1 => some().prop_map(Self::Lies),
            1 => some().prop_map(Self::Drips),
            1 => some().prop_map(Self::Truncates),
            1 => Just(Self::Refuses),
        ]
    }

    /// What the sender does: it is spoken with once, and has let nobody in.
    fn any_sender() -> impl Strategy<Value = Self> {
        Self::any().prop_map(|peer| match peer {
            Self::Refuses => Self::Vanishes(0),
            Self::Truncates(chunks) => Self::Vanishes(chunks),
            peer => peer,
        })
    }

    /// Returns whether nothing that is right ever comes from it.
    fn is_useless(self) -> bool {
        matches!(
            self,
            Self::Stalls(0)
                | Self::Vanishes(0)
                | Self::Lies(0)
                | Self::Drips(0)
                | Self::Truncates(0)
                | Self::Refuses
        )
    }
}

/// What a universe is played for, in tenths of a second.
const LONGEST: u64 = 30_000;

#[derive(Debug, Clone)]
struct Universe {
    count: usize,
    peers: Vec<(Peer, Option<Runs>)>,
    sender: Peer,
}

impl Universe {
    fn any() -> impl Strategy<Value = Self> {
        let holds = prop::option::of(prop::collection::vec((0_usize..20, 0_usize..20), 0..3));
        let holds = holds.prop_map(|runs| {
            runs.map(|runs| runs.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect::<Runs>())
        });
        (
            1_usize..20,
            prop::collection::vec((Peer::any(), holds), 0..9),
            prop_oneof![2 => Just(Peer::Honest(3)), 1 => Peer::any_sender()],
        )
            .prop_map(|(count, peers, sender)| Self { count, peers, sender })
    }

    /// Returns the outcomes that are right: what honest sources have is always had in the end.
    fn oracle(&self) -> Vec<Going> {
        let all = self.peers.iter().cloned().chain([(self.sender, None)]);
        let has = |holds: &Option<Runs>, at: usize| {
            holds.as_ref().is_none_or(|runs| runs.iter().any(|(first, last)| (*first..=*last).contains(&at)))
        };
        let (mut is_sure, mut is_possible) = (true, true);
        for at in 0..self.count {
            let holders: Vec<Peer> =
                all.clone().filter(|(_, holds)| has(holds, at)).map(|(peer, _)| peer).collect();
            is_sure &= holders.iter().any(|peer| matches!(peer, Peer::Honest(_) | Peer::Slow(_)));
            // what one that fails later has may come before it fails, or not
            is_possible &= holders.iter().any(|peer| !peer.is_useless());
        }
        let lost = match self.sender {
            Peer::Lies(_) => vec![Going::Wrong, Going::NoSource],
            // a sender has a limit of its own
            Peer::Drips(_) => vec![Going::On, Going::NoSource],
            _ => vec![Going::NoSource],
        };
        match (is_sure, is_possible) {
            (true, _) if matches!(self.sender, Peer::Lies(_)) => vec![Going::Whole, Going::Wrong],
            (true, _) => vec![Going::Whole],
            (false, true) => [vec![Going::Whole], lost].concat(),
            (false, false) => lost,
        }
    }

    /// Plays it, in steps of a tenth of a second, and returns how it ended, when, and what the sender sent.
    fn play(&self) -> (Going, Duration, u64) {
        let begun = Instant::now();
        let holds: Vec<Option<Runs>> = self.peers.iter().map(|(_, holds)| holds.clone()).collect();
        let missing: Vec<usize> = (0..self.count).collect();
        let holds: Vec<_> = holds.into_iter().map(|runs| (runs, 0)).collect();
        let mut board = Board::new(std::iter::repeat_n(CHUNK, self.count), &missing, &holds, begun);
        let mut sources: Vec<Playing> =
            self.peers.iter().map(|(peer, _)| *peer).chain([self.sender]).map(Playing::new).collect();
        for step in 0..LONGEST {
            let now = begun + Duration::from_millis(100 * step);
            // whose turn it is first is nobody's choice
            let first = usize::try_from(step).unwrap() % sources.len();
            for at in (first..sources.len()).chain(0..first) {
                let source = &mut sources[at];
                source.come_back(at, step, &mut board);
                while let Some(chunk) = board.next(at, now) {
                    if source.asked.is_empty() {
                        source.since = step;
                    }
                    source.asked.push_back(chunk);
                }
                source.step(at, step, now, &mut board);
            }
            board.look(now);
            if board.going() != Going::On {
                return (board.going(), now - begun, board.sender_brought());
            }
        }
        (board.going(), Duration::ZERO, board.sender_brought())
    }
}

struct Playing {
    peer: Peer,
    asked: VecDeque<usize>,
    since: u64,
    brought: u32,
    /// When it is looked for again.
    returns: Option<u64>,
}

impl Playing {
    fn new(peer: Peer) -> Self {
        Self { peer, asked: VecDeque::new(), since: 0, brought: 0, returns: Some(0) }
    }

    /// The way to it is looked for, where it is time.
    fn come_back(&mut self, me: usize, step: u64, board: &mut Board) {
        if self.returns.is_none_or(|at| step < at) {
            return;
        }
        self.returns = None;
        if self.peer == Peer::Refuses {
            self.breaks_off(me, step, board);
        } else {
            (self.brought, self.since) = (0, step);
            board.connected(me);
        }
    }

    fn breaks_off(&mut self, me: usize, step: u64, board: &mut Board) {
        self.asked.clear();
        self.returns = board.lost(me).map(|pause| step + u64::try_from(pause.as_millis()).unwrap() / 100);
    }

    fn step(&mut self, me: usize, step: u64, now: Instant, board: &mut Board) {
        if self.asked.is_empty() || board.is_gone(me) {
            return;
        }
        let (takes, is_well) = match self.peer {
            Peer::Honest(takes) | Peer::Slow(takes) => (takes, true),
            Peer::Stalls(chunks)
            | Peer::Vanishes(chunks)
            | Peer::Lies(chunks)
            | Peer::Drips(chunks)
            | Peer::Truncates(chunks) => (3, self.brought < chunks),
            Peer::Refuses => (3, false),
        };
        match self.peer {
            Peer::Stalls(_) if !is_well => return,
            Peer::Vanishes(_) if !is_well => return board.gone(me),
            Peer::Drips(_) if !is_well => return board.heard(me, now),
            Peer::Truncates(_) if !is_well => return self.breaks_off(me, step, board),
            _ => {}
        }
        board.heard(me, now);
        if step - self.since >= takes {
            self.since = step;
            self.brought += 1;
            let asked = self.asked.pop_front();
            if let Some(at) = board.brought(me, now) {
                assert_eq!(asked, Some(at), "in the order in which they were asked for");
                if is_well { board.proven(at) } else { board.wrong(at) }
            }
        }
    }
}

/// The universe of one number.
fn universe(seed: u64) -> Universe {
    let config = ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    Universe::any().new_tree(&mut runner).unwrap().current()
}

#[test]
fn in_a_thousand_universes_of_peers_it_ends_as_an_oracle_says() {
    // a thousand that are the same in each run, and a thousand that nobody has seen
    let mut chance = [0; 8];
    getrandom::fill(&mut chance).unwrap();
    let first = u64::from_le_bytes(chance) >> 1;
    println!("universes 0 to 999, and {first} to {}", first + 999);
    for seed in (0..1000).chain(first..first + 1000) {
        let universe = universe(seed);
        let (going, took, sent) = universe.play();
        let right = universe.oracle();
        assert!(right.contains(&going), "universe {seed} ended as {going:?}, not {right:?}: {universe:?}");
        // a bad peer costs its patience at most, a good one its time; a sender that is silent, a minute
        let patience: u64 = universe
            .peers
            .iter()
            .map(|(peer, _)| match peer {
                Peer::Honest(_) => 0,
                // what it was asked for before that was known
                Peer::Slow(takes) => takes / 10,
                _ => 3 * OWED.as_secs(),
            })
            .sum();
        let everybody = universe.peers.iter().map(|(peer, _)| *peer).chain([universe.sender]);
        // who is slow is asked for all only where nobody else is sure to have it
        let is_needed = !matches!(universe.sender, Peer::Honest(_));
        let slowest = everybody
            .map(|peer| match peer {
                Peer::Honest(takes) => takes,
                Peer::Slow(takes) if is_needed => takes,
                _ => 3,
            })
            .max();
        let work = universe.count as u64 * slowest.unwrap_or(3).max(3) / 10;
        let bound = seconds(patience + work + 2 * SENDERS_SILENCE.as_secs());
        assert!(took <= bound, "universe {seed} took {took:?}, and {bound:?} would do: {universe:?}");
        if let Some((Peer::Honest(_), None)) = universe.peers.first() {
            assert_eq!(sent, 0, "universe {seed}: the sender sent what the first peer had: {universe:?}");
        }
    }
}
