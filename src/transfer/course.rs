//! Which host has its chunks from whom.
//!
//! On wires, hosts stand in a line: each has every chunk from the one before it as soon as that is
//! proven there, so that all have the blob in little more than the time that one takes, and one copy
//! leaves the sender. Fast links stand before slow ones, which hold up those behind them. Over the air a
//! host gives nothing away, since each hop would take the same air again. Whoever has chunks from before
//! gives them, too. The sender is everybody's last resort, and needs no mention here.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use super::frame::{Course, DoorPlate, Peer, Runs, Token};
use crate::ids::Digest;
use crate::units::Bytes;

/// How many hosts before it a host knows: when one is gone, the next takes its place.
const ANCESTORS: usize = 3;
/// How many hosts that had chunks before are asked for them.
const MOST_HOLDERS: usize = 3;

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
    /// Returns where others can get what it has: what a host says of that is not to send them anywhere
    /// else. `is_here` says that all hosts are on this machine.
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
}

/// Returns the course of each of `members`, for a blob of `count` chunks.
pub(super) fn courses(members: &[Member], count: usize, token: &str) -> Vec<Course> {
    let places = 0..members.len();
    let is_here = members.iter().all(|member| member.link.is_none_or(|link| link.address.is_loopback()));
    let mut line: Vec<usize> = places
        .clone()
        .filter(|at| {
            let member = &members[*at];
            member.is_wired() && member.door(is_here).is_some() && !member.missing.is_empty()
        })
        .collect();
    line.sort_by_key(|at| {
        let member = &members[*at];
        let megabits = member.link.and_then(|link| link.megabits);
        // a wire of unknown speed is taken for one of our day
        let rate = u64::from(megabits.unwrap_or(1000)) * 125_000;
        (Reverse(rate.min(member.most_per_second.map_or(u64::MAX, |most| most.0))), member.missing_bytes, *at)
    });
    // who has something from before, the most of it first, and gives it on a wire if any does
    let mut holders: Vec<usize> = places
        .clone()
        .filter(|at| members[*at].door(is_here).is_some() && held(&members[*at].missing, count) > 0)
        .collect();
    holders.sort_by_key(|at| (!members[*at].is_wired(), Reverse(held(&members[*at].missing, count)), *at));

    let mut named: Vec<Vec<usize>> = Vec::new();
    let mut courses: Vec<Course> = Vec::new();
    let mut on_air = 0;
    for at in places {
        let before: Vec<usize> = match line.iter().position(|other| *other == at) {
            Some(place) => line[..place].iter().rev().take(ANCESTORS).copied().collect(),
            // spread over the line, its end first: that gives nothing to anybody else
            None if !members[at].missing.is_empty() && !line.is_empty() => {
                on_air += 1;
                let turned = (0..line.len())
                    .map(|step| line[(2 * line.len() - on_air % line.len() - step) % line.len()]);
                turned.take(ANCESTORS).collect()
            }
            None => Vec::new(),
        };
        let mut sources = Vec::new();
        let mut from = Vec::new();
        let missing = &members[at].missing;
        for (other, holds) in before.iter().map(|other| (*other, None)).chain(
            holders
                .iter()
                .filter(|other| **other != at && !before.contains(other) && !missing.is_empty())
                .take(MOST_HOLDERS)
                .map(|other| (*other, Some(rest(&members[*other].missing, count)))),
        ) {
            if let Some((address, certificate)) = members[other].door(is_here) {
                let place = line.iter().position(|host| *host == other).filter(|_| holds.is_none());
                let hops = place.and_then(|place| u32::try_from(place).ok()).unwrap_or(0);
                sources.push(Peer { address, certificate, holds, hops });
                from.push(other);
            }
        }
        named.push(from);
        courses.push(Course {
            sources,
            guests: Vec::new(),
            token: Token::new(token),
            most_per_second: members[at].most_per_second,
        });
    }
    for (guest, from) in named.iter().enumerate() {
        let Some(door) = members[guest].door else { continue };
        for host in from {
            courses[*host].guests.push(door.certificate);
        }
    }
    courses
}

fn held(missing: &Runs, count: usize) -> usize {
    count.saturating_sub(missing.iter().map(|(first, last)| last.saturating_sub(*first) + 1).sum())
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

    /// Returns from whom each member has its chunks, by the last byte of their addresses.
    fn sources(members: &[Member]) -> Vec<Vec<u8>> {
        let courses = courses(members, CHUNKS, "token");
        let last = |peer: &Peer| match peer.address.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        courses.iter().map(|course| course.sources.iter().map(last).collect()).collect()
    }

    #[test]
    fn hosts_on_wires_stand_in_a_line_the_slow_ones_last() {
        let speeds = [100, 1000, 1000, 100, 1000];
        let members: Vec<Member> =
            speeds.iter().enumerate().map(|(at, speed)| member(at, Some((false, *speed)), all())).collect();
        // 1, 2, 4, 0, 3
        let line: [&[u8]; 5] = [&[4, 2, 1], &[], &[1], &[0, 4, 2], &[2, 1]];
        assert_eq!(sources(&members), line);
        let guests: Vec<usize> = courses(&members, CHUNKS, "token").iter().map(|c| c.guests.len()).collect();
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
    fn who_has_chunks_from_before_gives_them_and_only_those() {
        let members = [
            member(0, Some((false, 1000)), all()),
            member(1, Some((false, 1000)), vec![(3, 3), (6, 9)]),
            member(2, Some((false, 1000)), Vec::new()),
            member(3, None, all()),
        ];
        let courses = courses(&members, CHUNKS, "token");
        let holds = |at: usize| courses[at].sources.iter().map(|peer| peer.holds.clone()).collect::<Vec<_>>();
        // 1 misses least and is first; it has the rest from 2
        assert_eq!(sources(&members), [vec![1, 2], vec![2], vec![], vec![0, 1, 2]]);
        assert_eq!(holds(0), [None, Some(vec![(0, 9)])]);
        assert_eq!(courses[3].sources.iter().map(|peer| peer.hops).collect::<Vec<_>>(), [1, 0, 0]);
        assert_eq!(holds(1), [Some(vec![(0, 9)])]);
        assert_eq!(rest(&vec![(3, 3), (6, 9)], CHUNKS), [(0, 2), (4, 5)]);
        assert_eq!(rest(&vec![(0, 0)], CHUNKS), [(1, 9)]);
        assert_eq!(rest(&Runs::new(), 0), Runs::new());
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
        ) {
            let members: Vec<Member> = hosts.iter().enumerate().map(|(at, (has_link, is_wireless, is_fast, missing))| {
                let link = has_link.then_some((*is_wireless, if *is_fast { 1000 } else { 100 }));
                member(at, link, missing.iter().map(|at| (*at, *at)).collect())
            }).collect();
            let courses = courses(&members, CHUNKS, "token");
            let has = |at: usize, chunk: usize| members[at].missing.iter().all(|(first, _)| *first != chunk);
            for chunk in 0..CHUNKS {
                for at in 0..members.len() {
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
