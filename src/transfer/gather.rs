//! Who takes part in a push, and what each of them hears: which doors to try, then from whom it has its chunks.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::course::{Look, Member, Ways};
use super::frame::{self, Course, Said};
use super::push::STAYING;
use crate::connect::Piece;
use crate::events::{Event, Events};
use crate::ids::{Digest, HostName};

/// How long hosts that are ready wait for the others: the slower ones then take part with what the
/// sender has alone.
const GATHERING: Duration = Duration::from_secs(15);
/// How long those that are to get something wait for those that only give it: the sender has it, too.
const GIVERS: Duration = Duration::from_secs(3);
/// How long hosts are waited for that try each other's doors: they do it side by side, and not for long.
const TRYING: Duration = Duration::from_secs(4);

/// What is brought, and to whom.
pub(super) struct Gathered<'a> {
    /// What it is, for people.
    pub(super) what: &'a str,
    /// How many chunks it has.
    pub(super) chunks: usize,
    /// How many hosts get something.
    pub(super) getting: usize,
    /// How many only give it.
    pub(super) giving: usize,
}

/// A host that is ready.
pub(super) struct Joining {
    /// Its name.
    pub(super) host: HostName,
    /// Whether it only gives.
    pub(super) gives: bool,
    /// What it misses, and how it is told from whom it has that; none: it takes no part.
    pub(super) member: Option<(Member, Seat)>,
}

/// How a host that takes part is spoken to.
pub(super) struct Seat {
    next: mpsc::Sender<Next>,
}

impl Seat {
    /// Tells it what is next, without waiting.
    fn say(&self, next: Next) {
        // there is room for all that is ever said; a host that has gone meanwhile needs nothing
        drop(self.next.try_send(next));
    }
}

/// What a host that is ready hears next.
#[derive(Debug)]
enum Next {
    /// Doors that it is to try, and who waits for the places of those that it reaches.
    Try(Vec<SocketAddr>, oneshot::Sender<Vec<usize>>),
    /// Its course.
    Course(Course),
}

/// Waits for the hosts, those that get something and those that only give, finds out which of them reach each other,
/// and tells each its course.
pub(super) async fn gather(
    gathered: Gathered<'_>,
    mut arrivals: mpsc::UnboundedReceiver<Joining>,
    events: &Events,
) {
    let Gathered { what, chunks, mut getting, mut giving } = gathered;
    let (mut hosts, mut members, mut seats) = (Vec::new(), Vec::new(), Vec::new());
    let mut until: Option<tokio::time::Instant> = None;
    while getting + giving > 0 {
        let patience = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrival = arrivals.recv() => match arrival {
                Some(Joining { host, gives, member }) => {
                    *(if gives { &mut giving } else { &mut getting }) -= 1;
                    let now = tokio::time::Instant::now();
                    if let Some((member, seat)) = member {
                        // who misses nothing waits for nobody
                        if !member.missing.is_empty() {
                            until = until.or(Some(now + GATHERING));
                        }
                        hosts.push(host);
                        members.push(member);
                        seats.push(seat);
                    }
                    if getting == 0 {
                        until = Some(until.map_or(now, |until| until.min(now + GIVERS)));
                    }
                }
                None => break,
            },
            () = patience => break,
        }
    }
    let mut ways = Ways::draw(&members, chunks);
    look_around(&mut ways, &seats).await;
    let apart = ways.apart();
    if !apart.is_empty() {
        let mut apart: Vec<&str> = apart.into_iter().map(|at| hosts[at].as_str()).collect();
        // they joined in any order
        apart.sort_unstable();
        events.send(Event::Note { host: None, text: copies_of_their_own(what, &apart) });
    }
    let courses = match token() {
        Ok(token) => ways.courses(&token),
        // without chance there is no token, and nobody gets in anywhere
        Err(_) => members.iter().map(alone).collect(),
    };
    for (seat, course) in seats.into_iter().zip(courses) {
        seat.say(Next::Course(course));
    }
    while let Some(late) = arrivals.recv().await {
        if let Some((member, seat)) = late.member {
            seat.say(Next::Course(alone(&member)));
        }
    }
}

/// Has each host try the doors that it would go to. Who does not answer in time is taken to come to all.
async fn look_around(ways: &mut Ways<'_>, seats: &[Seat]) {
    let doors: Vec<_> = (0..seats.len()).map(|at| ways.doors(at)).collect();
    let looks = seats.iter().zip(doors).map(async |(seat, doors)| {
        if !doors.is_empty() {
            let (reached, hear) = oneshot::channel();
            seat.say(Next::Try(doors, reached));
            match tokio::time::timeout(TRYING, hear).await {
                Ok(Ok(reached)) => return Look::Reached(reached),
                Ok(Err(_)) => return Look::Gone,
                Err(_) => {}
            }
        }
        if seat.next.is_closed() { Look::Gone } else { Look::Unknown }
    });
    let looks = join_all(looks).await;
    ways.tell(looks);
}

/// Says that these hosts can have `what` from no other.
fn copies_of_their_own(what: &str, hosts: &[&str]) -> String {
    let (reach, have) = if hosts.len() == 1 { ("reaches", "has") } else { ("reach", "have") };
    let hosts = hosts.join(", ");
    format!("{hosts} {reach} no other host that could give {what}, and {have} what is missing from here")
}

/// Waits for what a host is to hear; until then it hears now and then that the sender is still there.
async fn wait_for(next: &mut mpsc::Receiver<Next>, say: &mpsc::Sender<Piece>) -> Option<Next> {
    loop {
        match tokio::time::timeout(STAYING, next.recv()).await {
            Ok(next) => return next,
            // one that has ended meanwhile has said why
            Err(_) => drop(say.send(Piece::Bytes(frame::message(&Said::Stay))).await),
        }
    }
}

fn alone(member: &Member) -> Course {
    Course { most_per_second: member.most_per_second, ..Course::default() }
}

/// Returns what guests of one transfer show: 32 bytes of chance, in hex.
fn token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Digest::new(bytes).to_string())
}

/// A host's end of a [`Seat`].
pub(super) struct Place {
    next: mpsc::Receiver<Next>,
    /// Who waits for what the host reaches, while it tries doors.
    trying: Option<oneshot::Sender<Vec<usize>>>,
}

impl Place {
    /// Waits for the others, and tells the host what to do next. None: it is over.
    pub(super) async fn go_on(&mut self, say: &mpsc::Sender<Piece>) -> Option<()> {
        let said = match wait_for(&mut self.next, say).await? {
            Next::Try(doors, reached) => {
                self.trying = Some(reached);
                Said::Try { doors }
            }
            Next::Course(course) => Said::Course(course),
        };
        // one that has ended meanwhile has said why
        drop(say.send(Piece::Bytes(frame::message(&said))).await);
        Some(())
    }

    /// Returns whether the host is to say which doors it comes to.
    pub(super) fn is_asked(&self) -> bool {
        self.trying.is_some()
    }

    /// The host comes to these of the doors.
    pub(super) fn reached(&mut self, doors: Vec<usize>) {
        if let Some(reached) = self.trying.take() {
            // whoever gathers may have waited long enough
            drop(reached.send(doors));
        }
    }
}

/// Returns both ends of a place in a push.
pub(super) fn seat() -> (Seat, Place) {
    let (say, next) = mpsc::channel(2);
    (Seat { next: say }, Place { next, trying: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Link;
    use crate::transfer::board::SENDERS_SILENCE;
    use crate::transfer::frame::DoorPlate;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_waits_for_slow_ones_does_not_think_that_the_sender_is_gone() {
        let (say, mut heard) = mpsc::channel(100);
        let (seat, mut place) = seat();
        let slow = async {
            tokio::time::sleep(Duration::from_mins(20)).await;
            seat.say(Next::Course(Course::default()));
        };
        let (waited, ()) = tokio::join!(wait_for(&mut place.next, &say), slow);
        let Some(Next::Course(course)) = waited else { panic!("{waited:?}") };
        assert_eq!(course, Course::default());
        let there = frame::message(&Said::Stay);
        let mut times = 0;
        while let Ok(piece) = heard.try_recv() {
            assert!(matches!(piece, Piece::Bytes(bytes) if bytes == there));
            times += 1;
        }
        assert!(times >= 2 * Duration::from_mins(20).as_secs() / SENDERS_SILENCE.as_secs(), "{times}");
    }

    fn member(at: u8) -> Member {
        let address = std::net::IpAddr::from([10, 0, 0, at]);
        let door = DoorPlate { port: 7000, certificate: Digest::of(&[at]) };
        Member {
            link: Some(Link { address, is_wireless: false, megabits: None }),
            door: Some(door),
            missing: vec![(0, 9)],
            missing_bytes: 10,
            most_per_second: None,
        }
    }

    /// Gathers three hosts that say `reached`, or say it too late, of the doors that they are to try. Returns how many sources
    /// each is told of, and what is said of it to people.
    async fn gathered(reached: [Option<Vec<usize>>; 3]) -> (Vec<usize>, Vec<String>) {
        let (joining, arrivals) = mpsc::unbounded_channel();
        let hosts = reached.into_iter().enumerate().map(|(at, reached)| {
            let (seat, mut place) = seat();
            let host = format!("p{at}").parse().unwrap();
            let member = Some((member(u8::try_from(at).unwrap()), seat));
            joining.send(Joining { host, gives: false, member }).unwrap();
            async move {
                let (say, mut heard) = mpsc::channel(100);
                place.go_on(&say).await.unwrap();
                assert!(place.is_asked());
                if reached.is_none() {
                    tokio::time::sleep(2 * TRYING).await;
                }
                place.reached(reached.unwrap_or_default());
                place.go_on(&say).await.unwrap();
                let mut decoder = frame::Decoder::default();
                while let Ok(Piece::Bytes(bytes)) = heard.try_recv() {
                    decoder.push(&bytes);
                }
                let Ok(Some(Said::Try { doors })) = decoder.next() else { panic!("it was to try no doors") };
                assert_eq!(doors.len(), 2);
                let Ok(Some(Said::Course(course))) = decoder.next() else { panic!("it has no course") };
                course.sources.len()
            }
        });
        let hosts: Vec<_> = hosts.collect();
        drop(joining);
        let notes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&notes);
        let events = Events::new(move |event| match event {
            Event::Note { text, .. } => kept.lock().unwrap().push(text),
            other => panic!("{other:?}"),
        });
        let these = Gathered { what: "chat (Q8_0)", chunks: 10, getting: 3, giving: 0 };
        let ((), sources) = tokio::join!(gather(these, arrivals, &events), join_all(hosts));
        let notes = notes.lock().unwrap().clone();
        (sources, notes)
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_are_told_of_those_that_they_reach_and_people_of_those_that_reach_none() {
        let both = || Some(vec![0, 1]);
        assert_eq!(gathered([both(), both(), both()]).await, (vec![0, 1, 2], vec![]));
        let alone = "p2 reaches no other host that could give chat (Q8_0), and has what is missing from here";
        assert_eq!(gathered([both(), both(), Some(vec![])]).await, (vec![0, 1, 0], vec![alone.to_owned()]));
        let star =
            "p0, p1, p2 reach no other host that could give chat (Q8_0), and have what is missing from here";
        let nobody = || Some(vec![]);
        assert_eq!(gathered([nobody(), nobody(), nobody()]).await, (vec![0; 3], vec![star.to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_says_late_what_it_reaches_is_taken_to_reach_all_and_holds_nobody_up() {
        let begun = tokio::time::Instant::now();
        let both = Some(vec![0, 1]);
        assert_eq!(gathered([None, both, None]).await, (vec![0, 1, 2], vec![]));
        assert_eq!(begun.elapsed(), 2 * TRYING, "they hear their course when they have said it");
        let (seat, place) = seat();
        drop(place);
        let members = [member(0)];
        let mut ways = Ways::draw(&members, 10);
        look_around(&mut ways, &[seat]).await;
        assert_eq!(begun.elapsed(), 2 * TRYING, "nobody waits for who has gone");
    }
}
