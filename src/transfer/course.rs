//! Which host has its chunks from whom.
//!
//! On wires, hosts stand in a line: each has every chunk from the one before it as soon as that is
//! proven there, so that all have the blob in little more than the time that one takes, and one copy
//! leaves the sender. Fast links stand before slow ones, which hold up those behind them. Over the air a
//! host gives nothing away, since each hop would take the same air again. Whoever has chunks from before
//! on a wire gives them, too. Before anything moves, each host tries the doors that it would go to ([`Ways::doors`]),
//! and goes to those that it comes to ([`Ways::tell`]): where hosts cannot reach each other, that makes a
//! line of each part of the network, or a star. The sender is everybody's last resort, and needs no mention
//! here.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use super::frame::{Course, DoorPlate, MOST_DOORS, Peer, Runs, Token};
use crate::ids::Digest;
use crate::units::Bytes;

/// How many hosts before it a host knows: when one is gone, the next takes its place.
const ANCESTORS: usize = 3;
/// How many hosts that had a chunk before are known for it: when one is gone, the next takes its place.
const HOLDERS: usize = 3;
/// How many of them a host knows in all.
const MOST_HOLDERS: usize = 16;

/// A host that gives nothing waits for others that are slower than itself by less than this, and has a copy of its own before
/// it waits for slower ones.
const WORTH: u64 = 4;

/// How other hosts reach a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its address in the network that it was reached in.
    pub address: IpAddr,
    /// Whether it is on the air.
    pub is_wireless: bool,
    /// The speed of its wire in Mbit/s, where that is known.
    pub megabits: Option<u32>,
}

/// A host that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) link: Option<Link>,
    pub(super) door: Option<DoorPlate>,
    /// What it does not have.
    pub(super) missing: Runs,
    pub(super) missing_bytes: u64,
    /// How fast it may take something in, in bytes per second.
    pub(super) most_per_second: Option<Bytes>,
}

impl Member {
    /// Returns where others can get what it has. `is_here` says that all hosts are on this machine. A host says where it
    /// was reached, and which port it listens on: others come there, show a certificate to who has the key of the one that
    /// it named, and say nothing else; that it is no address of theirs alone is all that is looked at.
    fn door(&self, is_here: bool) -> Option<(SocketAddr, Digest)> {
        let (link, door) = (self.link?, self.door?);
        let address = link.address.to_canonical();
        // an address of one link means something else on every other
        let is_of_one_link = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let is_nobodys = address.is_unspecified() || address.is_multicast() || door.port == 0;
        let is_elsewhere = !address.is_loopback() || is_here;
        (!is_of_one_link && !is_nobodys && is_elsewhere)
            .then(|| (SocketAddr::new(address, door.port), door.certificate))
    }

    fn is_wired(&self) -> bool {
        self.link.is_some_and(|link| !link.is_wireless)
    }

    /// Returns how fast it takes or gives something, in bytes per second, as far as its link says that.
    fn rate(&self) -> u64 {
        // a wire of unknown speed is taken for one of our day
        let rate = u64::from(self.link.and_then(|link| link.megabits).unwrap_or(1000)) * 125_000;
        rate.min(self.most_per_second.map_or(u64::MAX, |most| most.0))
    }
}

/// From whom each host may have its chunks.
#[derive(Debug)]
pub(super) struct Ways<'a> {
    members: &'a [Member],
    /// How many chunks the blob has.
    count: usize,
    /// Whether all hosts are on this machine.
    is_here: bool,
    /// The hosts on wires that miss something, in the order in which they hand it on.
    line: Vec<usize>,
    /// The hosts that have something from before, best first.
    holders: Vec<usize>,
    /// What each host has from before.
    held: Vec<Runs>,
    /// The holders, those first that have most.
    fullest: Vec<usize>,
    /// Which chunks any of them has.
    is_held: Vec<bool>,
    /// What each has said of the others.
    looked: Vec<Look>,
}

/// What became of a host that was asked which others it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// It was asked nothing, or has not said it in time: it finds out when it goes there.
    Unknown,
    /// It comes to these: by the places of their doors in [`Ways::doors`].
    Reached(Vec<usize>),
    /// It takes no part any longer.
    Gone,
}

impl<'a> Ways<'a> {
    /// Draws them for a blob of `count` chunks, as if every host came to every other.
    pub(super) fn draw(members: &'a [Member], count: usize) -> Self {
        let places = 0..members.len();
        let is_here = members.iter().all(|member| member.link.is_none_or(|link| link.address.is_loopback()));
        let has_door = |at: &usize| members[*at].door(is_here).is_some();
        let mut line: Vec<usize> = places
            .clone()
            .filter(|at| has_door(at) && members[*at].is_wired() && !members[*at].missing.is_empty())
            .collect();
        line.sort_by_key(|at| (Reverse(members[*at].rate()), members[*at].missing_bytes, *at));
        let held: Vec<Runs> = members.iter().map(|member| rest(&member.missing, count)).collect();
        let much: Vec<usize> = held.iter().map(|held| chunks(held).count()).collect();
        let gives = |at: &usize| has_door(at) && members[*at].is_wired() && much[*at] > 0;
        let mut holders: Vec<usize> = places.filter(gives).collect();
        holders.sort_by_key(|at| (Reverse(members[*at].rate()), Reverse(much[*at]), *at));
        let mut fullest = holders.clone();
        fullest.sort_by_key(|at| Reverse(much[*at]));
        let mut is_held = vec![false; count];
        holders.iter().flat_map(|at| chunks(&held[*at])).for_each(|chunk| is_held[chunk] = true);
        let looked = vec![Look::Unknown; members.len()];
        Self { members, count, is_here, line, holders, held, fullest, is_held, looked }
    }

    /// Returns the doors that a host is to try, at most [`MOST_DOORS`].
    pub(super) fn doors(&self, at: usize) -> Vec<SocketAddr> {
        self.tried(at).into_iter().filter_map(|host| Some(self.members[host].door(self.is_here)?.0)).collect()
    }

    /// Returns the hosts whose doors a host is to try: those that hold what it misses and other holders, up to half, and the
    /// nearest in the line. Those behind it, too: they stand before it where nobody comes to it.
    fn tried(&self, at: usize) -> Vec<usize> {
        if self.members[at].missing.is_empty() {
            return Vec::new();
        }
        let near = match self.line.iter().position(|other| *other == at) {
            Some(place) => {
                let mut places: Vec<usize> = (0..self.line.len()).collect();
                places.sort_by_key(|other| (other.abs_diff(place), *other > place));
                places.into_iter().map(|place| self.line[place]).collect()
            }
            None => self.turned(at, &self.line),
        };
        let mut tried = self.useful(at, MOST_DOORS / 2, |_| true);
        let spare = self.holders.iter().filter(|host| **host != at && !tried.contains(host)).copied();
        let spare: Vec<usize> = spare.take(MOST_DOORS / 2 - tried.len()).collect();
        for host in spare.into_iter().chain(near) {
            if tried.len() < MOST_DOORS && host != at && !tried.contains(&host) {
                tried.push(host);
            }
        }
        tried
    }

    /// Returns at most so many of the holders that `may` give a host what it misses, best first: so many of the fullest that
    /// each chunk is had from one, and then of the best, until it is had from [`HOLDERS`].
    fn useful(&self, at: usize, most: usize, may: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut wants = vec![0_usize; self.count];
        let mut is_useful = vec![false; self.members.len()];
        let mut places = most;
        for (order, copies) in [(&self.fullest, 1), (&self.holders, HOLDERS - 1)] {
            let missing = chunks(&self.members[at].missing).filter(|chunk| self.is_held[*chunk]);
            let mut left = missing.map(|chunk| wants[chunk] += copies).count();
            for &host in order {
                if left == 0 || places == 0 {
                    break;
                }
                if host == at || is_useful[host] || !may(host) {
                    continue;
                }
                for chunk in chunks(&self.held[host]) {
                    if wants[chunk] > 0 {
                        is_useful[host] = true;
                        wants[chunk] -= 1;
                        left -= usize::from(wants[chunk] == 0);
                    }
                }
                places -= usize::from(is_useful[host]);
            }
        }
        self.holders.iter().copied().filter(|host| is_useful[*host]).collect()
    }

    /// Notes what each host has said. Who is gone is nobody's source. Whom nobody comes to of those who tried stands behind
    /// the others from now on, where nobody is to come to it, if they are not much slower ([`WORTH`]).
    pub(super) fn tell(&mut self, looked: Vec<Look>) {
        let tried: Vec<Vec<usize>> = (0..self.members.len()).map(|at| self.tried(at)).collect();
        let looked = looked.into_iter().zip(&tried).map(|(look, tried)| match look {
            Look::Reached(doors) => {
                let reached = doors.iter().take(MOST_DOORS).filter_map(|door| tried.get(*door)).copied();
                Look::Reached(reached.collect())
            }
            other => other,
        });
        self.looked = looked.collect();
        let looked = &self.looked;
        let is_there = |at: &usize| looked[*at] != Look::Gone;
        self.line.retain(is_there);
        self.holders.retain(is_there);
        self.fullest.retain(is_there);
        let is_shut: Vec<bool> = (0..self.members.len())
            .map(|at| {
                let said = self.line.iter().filter(|other| tried[**other].contains(&at));
                let said = said.filter_map(|other| match &looked[*other] {
                    Look::Reached(reached) => Some(reached.contains(&at)),
                    Look::Unknown | Look::Gone => None,
                });
                let said: Vec<bool> = said.collect();
                !said.is_empty() && !said.contains(&true)
            })
            .collect();
        let members = self.members;
        self.line.sort_by_key(|at| {
            let rate = members[*at].rate();
            (Reverse(if is_shut[*at] { rate / WORTH } else { rate }), is_shut[*at])
        });
    }

    fn comes(&self, at: usize, other: usize) -> bool {
        match &self.looked[at] {
            Look::Reached(reached) => reached.contains(&other),
            Look::Unknown | Look::Gone => true,
        }
    }

    /// Returns the hosts that could have something from others, and come to none of them.
    pub(super) fn apart(&self) -> Vec<usize> {
        let is_apart = |at: &usize| self.looked[*at] == Look::Reached(Vec::new());
        (0..self.members.len()).filter(|at| is_apart(at) && !self.tried(*at).is_empty()).collect()
    }

    /// Returns these hosts of the line as one that does not stand in it goes through them: from the end of the line, which
    /// gives nothing to anybody else, each beginning elsewhere.
    fn turned(&self, at: usize, line: &[usize]) -> Vec<usize> {
        let is_outside =
            |other: &usize| !self.members[*other].missing.is_empty() && !self.line.contains(other);
        let outside = (0..=at).filter(is_outside).count();
        let hosts = line.len();
        (0..hosts).map(|step| line[(2 * hosts - outside % hosts - step) % hosts]).collect()
    }

    /// Returns the hosts in the line that have all chunks before this one does and that it comes to, best first.
    fn before(&self, at: usize) -> Vec<usize> {
        let comes = |host: &usize| self.comes(at, *host);
        match self.line.iter().position(|other| *other == at) {
            Some(place) => self.line[..place].iter().rev().copied().filter(comes).collect(),
            None => self.turned(at, &self.line.iter().copied().filter(comes).collect::<Vec<_>>()),
        }
    }

    /// Returns the course of each host.
    pub(super) fn courses(&self, token: &str) -> Vec<Course> {
        let named: Vec<Vec<(usize, Peer)>> = (0..self.members.len()).map(|at| self.sources(at)).collect();
        let courses = self.members.iter().enumerate().map(|(at, member)| {
            let guests = self.members.iter().zip(&named).filter_map(|(guest, from)| {
                let is_guest = from.iter().any(|(host, _)| *host == at);
                guest.door.filter(|_| is_guest).map(|door| door.certificate)
            });
            Course {
                sources: named[at].iter().map(|(_, peer)| peer.clone()).collect(),
                guests: guests.collect(),
                token: Token::new(token),
                most_per_second: member.most_per_second,
            }
        });
        courses.collect()
    }

    /// Returns the sources that a host is told of.
    fn sources(&self, at: usize) -> Vec<(usize, Peer)> {
        if self.members[at].missing.is_empty() || self.looked[at] == Look::Gone {
            return Vec::new();
        }
        let mut before = self.before(at);
        before.truncate(ANCESTORS);
        let holders = self.useful(at, MOST_HOLDERS, |host| self.comes(at, host) && !before.contains(&host));
        let missing = &self.members[at].missing;
        let held = |host: usize| Some(both(&self.held[host], missing));
        let all = before.iter().map(|host| (*host, None));
        let all = all.chain(holders.into_iter().map(|host| (host, held(host))));
        all.filter_map(|(host, holds)| {
            let (address, certificate) = self.members[host].door(self.is_here)?;
            let place = self.line.iter().position(|other| *other == host).filter(|_| holds.is_none());
            let hops = place.and_then(|place| u32::try_from(place).ok()).unwrap_or(0);
            Some((host, Peer { address, certificate, holds, hops }))
        })
        .collect()
    }
}

/// Returns the chunks of `runs`.
fn chunks(runs: &Runs) -> impl Iterator<Item = usize> {
    runs.iter().flat_map(|(first, last)| *first..=*last)
}

/// Returns the runs that are not in `missing`, which is sorted.
fn rest(missing: &Runs, count: usize) -> Runs {
    let mut rest = Runs::new();
    let mut at = 0;
    for (first, last) in missing.iter().chain([&(count, count)]) {
        if *first > at {
            rest.push((at, first - 1));
        }
        at = last + 1;
    }
    rest
}

/// Returns the runs that are in both, each of which is sorted.
fn both(some: &Runs, others: &Runs) -> Runs {
    let (mut both, mut rest) = (Runs::new(), others.as_slice());
    for (first, last) in some {
        while let Some((begin, end)) = rest.first() {
            if begin.max(first) <= end.min(last) {
                both.push((*begin.max(first), *end.min(last)));
            }
            if end > last {
                break;
            }
            rest = &rest[1..];
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKS: usize = 10;

    fn member(at: usize, link: Option<(bool, u32)>, missing: Runs) -> Member {
        let link = link.map(|(is_wireless, megabits)| Link {
            address: IpAddr::from([10, 0, 0, u8::try_from(at).unwrap()]),
            is_wireless,
            megabits: (!is_wireless).then_some(megabits),
        });
        let door = DoorPlate { port: 7000, certificate: Digest::of(&[u8::try_from(at).unwrap()]) };
        let missing_bytes = missing.iter().map(|(first, last)| (last - first + 1) as u64).sum();
        Member { link, door: Some(door), missing, missing_bytes, most_per_second: None }
    }

    fn all() -> Runs {
        vec![(0, CHUNKS - 1)]
    }

    fn courses(members: &[Member]) -> Vec<Course> {
        Ways::draw(members, CHUNKS).courses("token")
    }

    /// Returns from whom each member has its chunks, by the last byte of their addresses.
    fn sources(members: &[Member]) -> Vec<Vec<u8>> {
        named(&courses(members))
    }

    /// As [`sources`], where `comes` says who comes to whom; and who comes to nobody.
    fn sources_where(members: &[Member], comes: impl Fn(usize, u8) -> bool) -> (Vec<Vec<u8>>, Vec<usize>) {
        let mut ways = Ways::draw(members, CHUNKS);
        let tried = (0..members.len()).map(|at| {
            let doors = ways.doors(at);
            assert!(doors.len() <= MOST_DOORS);
            Look::Reached((0..doors.len()).filter(|door| comes(at, last(&doors[*door]))).collect())
        });
        let tried = tried.collect();
        ways.tell(tried);
        (named(&ways.courses("token")), ways.apart())
    }

    fn last(address: &SocketAddr) -> u8 {
        match address.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        }
    }

    fn named(courses: &[Course]) -> Vec<Vec<u8>> {
        courses.iter().map(|course| course.sources.iter().map(|peer| last(&peer.address)).collect()).collect()
    }

    #[test]
    fn hosts_on_wires_stand_in_a_line_the_slow_ones_last() {
        let speeds = [100, 1000, 1000, 100, 1000];
        let members: Vec<Member> =
            speeds.iter().enumerate().map(|(at, speed)| member(at, Some((false, *speed)), all())).collect();
        // 1, 2, 4, 0, 3
        let line: [&[u8]; 5] = [&[4, 2, 1], &[], &[1], &[0, 4, 2], &[2, 1]];
        assert_eq!(sources(&members), line);
        let guests: Vec<usize> = courses(&members).iter().map(|c| c.guests.len()).collect();
        assert_eq!(guests, [1, 3, 3, 0, 2]);
    }

    #[test]
    fn over_the_air_nobody_gives_and_wired_hosts_share_the_work() {
        let wires = [false, false, true, true, true];
        let members: Vec<Member> =
            wires.iter().enumerate().map(|(at, air)| member(at, Some((*air, 1000)), all())).collect();
        let line: [&[u8]; 5] = [&[], &[0], &[1, 0], &[0, 1], &[1, 0]];
        assert_eq!(sources(&members), line);
        let on_air: Vec<Member> = (0..3).map(|at| member(at, Some((true, 0)), all())).collect();
        assert!(sources(&on_air).iter().all(Vec::is_empty), "a star");
    }

    #[test]
    fn hosts_that_do_not_reach_each_other_make_a_line_of_each_part_or_a_star() {
        let members: Vec<Member> = (0..5).map(|at| member(at, Some((false, 1000)), all())).collect();
        let (all_of_them, apart) = sources_where(&members, |_, _| true);
        assert_eq!((all_of_them, apart), (sources(&members), vec![]));
        // even ones and odd ones, each behind a router that lets nothing in
        let (two_parts, apart) = sources_where(&members, |at, other| at % 2 == usize::from(other) % 2);
        assert_eq!(two_parts, [vec![], vec![], vec![0], vec![1], vec![2, 0]]);
        assert_eq!(apart, [0_usize; 0]);
        let (star, apart) = sources_where(&members, |_, _| false);
        assert!(star.iter().all(Vec::is_empty), "{star:?}");
        assert_eq!(apart, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn whom_nobody_comes_to_stands_last_and_is_given_all_the_same() {
        let members: Vec<Member> = (0..4).map(|at| member(at, Some((false, 1000)), all())).collect();
        let (line, apart) = sources_where(&members, |_, other| other != 0);
        assert_eq!((line, apart), (vec![vec![3, 2, 1], vec![], vec![1], vec![2, 1]], vec![]));
        // one on a wire of today waits for those on older ones, but not for those that would hold it up
        let speeds = [2500, 1000, 1000, 1000];
        let newer: Vec<Member> =
            speeds.iter().enumerate().map(|(at, speed)| member(at, Some((false, *speed)), all())).collect();
        let (line, _) = sources_where(&newer, |_, other| other != 0);
        assert_eq!(line, [vec![3, 2, 1], vec![], vec![1], vec![2, 1]]);
        let speeds = [1000, 1000, 1000, 100];
        let mixed: Vec<Member> =
            speeds.iter().enumerate().map(|(at, speed)| member(at, Some((false, *speed)), all())).collect();
        let (line, apart) = sources_where(&mixed, |_, other| other != 0);
        assert_eq!((line, apart), (vec![vec![2, 1], vec![], vec![1], vec![2, 1]], vec![]));
        // one in the middle is passed by, and one that goes nowhere has its own copy
        let (line, apart) = sources_where(&members, |at, other| other != 1 && at != 2);
        assert_eq!((line, apart), (vec![vec![], vec![3, 2, 0], vec![], vec![2, 0]], vec![2]));
    }

    #[test]
    fn on_the_air_and_from_holders_only_what_is_reached_is_named() {
        let members = [
            member(0, Some((false, 1000)), all()),
            member(1, Some((false, 1000)), all()),
            member(2, Some((true, 0)), all()),
            member(3, Some((false, 1000)), Vec::new()),
            member(4, Some((false, 1000)), Vec::new()),
        ];
        let (some, apart) = sources_where(&members, |at, other| (at, other) != (2, 1) && other != 3);
        assert_eq!((some, apart), (vec![vec![4], vec![0, 4], vec![0, 4], vec![], vec![]], vec![]));
    }

    #[test]
    fn in_a_large_fleet_each_host_tries_the_nearest_and_who_does_not_say_is_taken_to_reach_all() {
        let members: Vec<Member> = (0..150).map(|at| member(at, Some((false, 1000)), all())).collect();
        let mut ways = Ways::draw(&members, CHUNKS);
        let doors = |at: usize| ways.doors(at).iter().map(last).collect::<Vec<u8>>();
        assert_eq!(doors(75)[..5], [74, 76, 73, 77, 72]);
        assert_eq!(doors(0), (1..=64).collect::<Vec<u8>>());
        ways.tell(vec![Look::Unknown; 150]);
        assert_eq!(named(&ways.courses("token")), sources(&members));
        // doors that nobody named are none
        ways.tell(vec![Look::Reached(vec![MOST_DOORS, usize::MAX]); 150]);
        assert!(named(&ways.courses("token")).iter().all(Vec::is_empty));
    }

    #[test]
    fn one_that_says_nothing_changes_nothing_for_the_others_and_one_that_is_gone_is_nobodys_source() {
        let members: Vec<Member> = (0..4).map(|at| member(at, Some((false, 1000)), all())).collect();
        let mut ways = Ways::draw(&members, CHUNKS);
        // nobody comes to the first, as far as anybody says; the second says nothing, and the third has ended
        let reached = |at: usize, but: u8| {
            let doors = ways.doors(at);
            Look::Reached((0..doors.len()).filter(|door| last(&doors[*door]) != but).collect())
        };
        let looked = vec![reached(0, 9), Look::Unknown, Look::Gone, reached(3, 0)];
        ways.tell(looked);
        let line: [&[u8]; 4] = [&[3, 1], &[], &[], &[1]];
        assert_eq!(named(&ways.courses("token")), line);
    }

    #[test]
    fn holders_on_the_fastest_wires_are_asked_first_and_those_on_the_air_not() {
        let members = [
            member(0, Some((false, 1000)), all()),
            member(1, Some((false, 100)), Vec::new()),
            member(2, Some((true, 0)), vec![(0, 3)]),
            member(3, Some((false, 1000)), vec![(0, 3)]),
            member(4, Some((false, 1000)), Vec::new()),
        ];
        assert_eq!(sources(&members)[0], [3, 4, 1]);
    }

    #[test]
    fn who_has_chunks_from_before_gives_them_and_only_those() {
        let members = [
            member(0, Some((false, 1000)), all()),
            member(1, Some((false, 1000)), vec![(3, 3), (6, 9)]),
            member(2, Some((false, 1000)), Vec::new()),
            member(3, None, all()),
        ];
        let courses = courses(&members);
        let holds = |at: usize| courses[at].sources.iter().map(|peer| peer.holds.clone()).collect::<Vec<_>>();
        // 1 misses least and is first; it has the rest from 2
        assert_eq!(sources(&members), [vec![1, 2], vec![2], vec![], vec![0, 1, 2]]);
        assert_eq!(holds(0), [None, Some(vec![(0, 9)])]);
        assert_eq!(courses[3].sources.iter().map(|peer| peer.hops).collect::<Vec<_>>(), [1, 0, 0]);
        assert_eq!(holds(1), [Some(vec![(3, 3), (6, 9)])], "what it misses");
        assert_eq!(
            both(&vec![(0, 4), (6, 9)], &vec![(1, 1), (3, 6), (8, 20)]),
            [(1, 1), (3, 4), (6, 6), (8, 9)]
        );
        assert_eq!(rest(&vec![(3, 3), (6, 9)], CHUNKS), [(0, 2), (4, 5)]);
        assert_eq!(rest(&vec![(0, 0)], CHUNKS), [(1, 9)]);
        assert_eq!(rest(&Runs::new(), 0), Runs::new());
    }

    #[test]
    fn each_chunk_that_anybody_has_is_had_from_some_who_have_it() {
        let of_one = |chunk: usize| rest(&vec![(chunk, chunk)], CHUNKS);
        let mut members = vec![member(0, Some((false, 1000)), all())];
        // ten who have one chunk each, five who have all, and five who have what others have
        members.extend((1..11).map(|at| member(at, Some((false, 100)), of_one(at - 1))));
        members.extend((11..16).map(|at| member(at, Some((false, 10)), Vec::new())));
        members.extend((16..21).map(|at| member(at, Some((false, 100)), of_one(0))));
        let named = |members: &[Member]| sources(members)[0].clone();
        let three_for_each: Vec<u8> = (1..11).chain([16]).chain([11, 12]).collect();
        assert_eq!(named(&members), three_for_each, "the fast ones first");
        // however many fast ones have a little, one who has all is known
        let mut many = members[..13].to_vec();
        many.extend((21..51).map(|at| member(at, Some((false, 1000)), of_one(at % 10))));
        let of_many = named(&many);
        assert!(of_many.contains(&11), "{of_many:?}");
        assert_eq!(of_many.len(), ANCESTORS + MOST_HOLDERS);
        // where the fast ones have all, nobody else is needed
        members[11..16].iter_mut().for_each(|member| member.link.as_mut().unwrap().megabits = None);
        assert_eq!(named(&members), [11, 12, 13]);
        // a host that has the rest wants nothing of those who have only that
        members[0].missing = vec![(4, 4)];
        members.drain(11..16);
        assert_eq!(named(&members), [5]);
        // the doors of all these are tried first, whoever else there is
        members[0].missing = all();
        members.extend((21..100).map(|at| member(at, Some((false, 1000)), all())));
        let doors: Vec<u8> = Ways::draw(&members, CHUNKS).doors(0).iter().map(last).collect();
        assert!((1..11).all(|at| doors.contains(&at)), "{doors:?}");
        assert_eq!(doors.len(), MOST_DOORS);
    }

    #[test]
    fn what_is_no_hosts_address_is_nobodys_source() {
        for address in ["fe80::1", "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
        {
            let mut members: Vec<Member> = (0..2).map(|at| member(at, Some((false, 1000)), all())).collect();
            members[0].link.as_mut().unwrap().address = address.parse().unwrap();
            assert_eq!(sources(&members), [vec![1], vec![]], "{address}");
        }
    }

    proptest! {
        // whoever is to have a chunk from somebody who is to get it himself waits for it: in a ring, for ever
        #[test]
        fn nobody_waits_for_himself(
            hosts in prop::collection::vec(
                (any::<bool>(), any::<bool>(), any::<bool>(), prop::sample::subsequence((0..CHUNKS).collect::<Vec<_>>(), 0..=CHUNKS)),
                0..12,
            ),
            comes in prop::collection::vec(any::<Option<u16>>(), 12),
        ) {
            let members: Vec<Member> = hosts.iter().enumerate().map(|(at, (has_link, is_wireless, is_fast, missing))| {
                let link = has_link.then_some((*is_wireless, if *is_fast { 1000 } else { 100 }));
                member(at, link, missing.iter().map(|at| (*at, *at)).collect())
            }).collect();
            let mut ways = Ways::draw(&members, CHUNKS);
            ways.tell(comes[..members.len()].iter().map(|comes| {
                comes.map_or(Look::Unknown, |comes| Look::Reached((0..16).filter(|door| comes >> door & 1 == 1).collect()))
            }).collect());
            let courses = ways.courses("token");
            let has = |at: usize, chunk: usize| members[at].missing.iter().all(|(first, _)| *first != chunk);
            for chunk in 0..CHUNKS {
                for at in 0..members.len() {
                    let is_named = |host: &usize| courses[at].sources.iter()
                        .any(|peer| members[*host].door(false) == Some((peer.address, peer.certificate)));
                    let gives = |host: &usize| *host != at && ways.comes(at, *host) && has(*host, chunk)
                        && members[*host].is_wired() && members[*host].door(false).is_some();
                    let givers: Vec<usize> = (0..members.len()).filter(gives).collect();
                    let named = givers.iter().filter(|host| is_named(host)).count();
                    prop_assert!(has(at, chunk) || named >= givers.len().min(HOLDERS), "chunk {chunk} of host {at}");
                    // follow the best source until somebody has the chunk, or has it from the sender
                    let (mut here, mut steps) = (at, 0);
                    while !has(here, chunk) {
                        let holds = |peer: &&Peer| peer.holds.as_ref()
                            .is_none_or(|runs| runs.iter().any(|(first, last)| (*first..=*last).contains(&chunk)));
                        let Some(peer) = courses[here].sources.iter().find(holds) else { break };
                        let place = members.iter().position(|other| other.door(false) == Some((peer.address, peer.certificate))).unwrap();
                        prop_assert!(courses[place].guests.contains(&members[here].door.unwrap().certificate));
                        here = place;
                        steps += 1;
                        prop_assert!(steps <= members.len(), "chunk {chunk} of host {at} goes round");
                    }
                }
            }
        }
    }
}
