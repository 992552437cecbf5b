//! The fleet as numbers for the optimum: hosts that are alike are one class.

use std::collections::{BTreeMap, BTreeSet};

use super::candid::{Candid, options};
use super::optimum::{Class, Offer, Problem, Quota, Way};
use super::refusal::Reason;
use super::{Capacity, Demand, Room};
use crate::estimate;
use crate::facts::{Health, HostFacts, Memory};
use crate::ids::HostName;
use crate::quant::Quant;
use crate::units::Bytes;

/// The cost of bringing a model of which a number of hosts is wanted to a host that does not
/// run it yet: less than anything that its rule weighs, more than how it is served.
const MOVE: f64 = 8e-4;

/// With more classes than this, room is counted in steps, so that hosts that differ by less are alike.
const MANY_CLASSES: usize = 512;

/// What of each demand could run on hosts of one kind, by the demand's number.
type Options<'a> = BTreeMap<usize, Result<Vec<Candid<'a>>, Reason>>;

/// Demands and hosts, both by name.
pub(super) struct Fleet<'a> {
    pub(super) demands: Vec<&'a Demand<'a>>,
    pub(super) hosts: BTreeMap<&'a HostName, Member<'a>>,
    kinds: Vec<Options<'a>>,
}

/// A host with what is asked of it.
pub(super) struct Member<'a> {
    pub(super) capacity: &'a Capacity<'a>,
    /// The demands that it may take, by number.
    pub(super) asked: Vec<usize>,
    pub(super) room: Room,
    kind: usize,
}

/// What makes hosts alike: the kind, room, what is asked of them, what of it runs there and how
/// much of which weights they hold.
type Alike = (usize, Room, Vec<usize>, BTreeSet<usize>, Vec<(usize, Option<Quant>, Bytes)>);

impl<'a> Fleet<'a> {
    pub(super) fn new(demands: &'a [Demand<'a>], capacities: &'a [Capacity<'a>]) -> Self {
        let mut fleet = Self { demands: demands.iter().collect(), hosts: BTreeMap::new(), kinds: Vec::new() };
        fleet.demands.sort_by(|a, b| (&a.name, a.count).cmp(&(&b.name, b.count)));
        let mut asked: BTreeMap<&HostName, BTreeSet<usize>> = BTreeMap::new();
        for (number, demand) in fleet.demands.iter().enumerate() {
            for host in &demand.hosts {
                asked.entry(host).or_default().insert(number);
            }
        }
        // kinds are numbered as they come, and of equal placements the first is taken: not as the caller's order has it
        let mut capacities: Vec<&Capacity<'_>> = capacities.iter().collect();
        capacities.sort_by_key(|capacity| &capacity.name);
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for capacity in capacities {
            let next = numbers.len();
            let kind = *numbers.entry(kind(capacity.facts)).or_insert(next);
            if kind == fleet.kinds.len() {
                fleet.kinds.push(Options::new());
            }
            let asked: Vec<usize> = asked.remove(&capacity.name).into_iter().flatten().collect();
            for number in &asked {
                let demand = fleet.demands[*number];
                fleet.kinds[kind].entry(*number).or_insert_with(|| {
                    options(demand.model, demand.candidates, &demand.want, capacity.facts)
                });
            }
            fleet.hosts.insert(&capacity.name, Member { capacity, asked, room: whole(capacity), kind });
        }
        fleet
    }

    /// Returns what of a demand could run on a host, or why nothing could.
    pub(super) fn options(&self, host: &Member<'_>, demand: usize) -> Result<&[Candid<'a>], &Reason> {
        match self.kinds[host.kind].get(&demand) {
            Some(Ok(options)) => Ok(options),
            Some(Err(reason)) => Err(reason),
            None => Ok(&[]),
        }
    }

    /// Returns the hosts in classes, each with its hosts by name.
    pub(super) fn classes(&self) -> Vec<Vec<&'a HostName>> {
        let exact = self.classes_by(|room| room);
        if exact.len() <= MANY_CLASSES { exact } else { self.classes_by(in_steps) }
    }

    fn classes_by(&self, round: impl Fn(Room) -> Room) -> Vec<Vec<&'a HostName>> {
        let mut classes: BTreeMap<Alike, Vec<&'a HostName>> = BTreeMap::new();
        for (name, host) in &self.hosts {
            let runs = |demand: &usize| host.capacity.runs.contains(&self.demands[*demand].name);
            let held = host.asked.iter().flat_map(|demand| {
                let name = &self.demands[*demand].name;
                let of_it = host.capacity.held.iter().filter(move |((model, _), _)| model == name);
                of_it.map(move |((_, quant), bytes)| (*demand, *quant, *bytes))
            });
            let alike = (
                host.kind,
                round(host.room),
                host.asked.clone(),
                host.asked.iter().copied().filter(runs).collect(),
                held.collect(),
            );
            classes.entry(alike).or_default().push(name);
        }
        classes.into_values().collect()
    }

    /// Returns the classes as numbers. An offer's ways go over its options that are allowed, each
    /// served in every way, in their order: [`Self::way`] finds one again.
    pub(super) fn problem(&self, classes: &[Vec<&'a HostName>]) -> Problem {
        let quotas = self.demands.iter().map(|demand| demand.count.map_or(Quota::Everywhere, Quota::Count));
        Problem { classes: classes.iter().map(|names| self.class(names)).collect(), quotas: quotas.collect() }
    }

    fn class(&self, names: &[&'a HostName]) -> Class {
        let members = || names.iter().filter_map(|name| self.hosts.get(*name));
        // rounded classes: the least of each room is what all of them have
        let memory = members().map(|host| host.room.memory).min().unwrap_or_default();
        let disk = members().filter_map(|host| host.room.disk).min();
        let offers = names.first().and_then(|name| self.hosts.get(*name)).map(|host| {
            let offer = |demand: &usize| Offer { demand: *demand, ways: self.ways(host, *demand) };
            host.asked.iter().map(offer).filter(|offer| !offer.ways.is_empty()).collect()
        });
        Class {
            hosts: u32::try_from(names.len()).unwrap_or(u32::MAX),
            memory,
            disk,
            offers: offers.unwrap_or_default(),
        }
    }

    fn ways(&self, host: &Member<'_>, demand: usize) -> Vec<Way> {
        let wanted = self.demands[demand];
        let is_new = wanted.count.is_some() && !host.capacity.runs.contains(&wanted.name);
        let moved = if is_new { MOVE } else { 0.0 };
        let mut ways = Vec::new();
        for option in self.options(host, demand).unwrap_or_default() {
            let held = host.held(wanted, option.candidate.quant);
            let most_together = option.most_together(&wanted.want);
            for (number, (_, estimate)) in option.servings.iter().enumerate() {
                let Some(cost) = option.cost_of(number) else { continue };
                let disk = estimate.file - held;
                ways.push(Way { memory: estimate.need, disk, cost: cost + moved, most_together });
            }
        }
        ways
    }

    /// Returns the option and the number of its serving that a way of an offer stands for.
    pub(super) fn way(&self, host: &Member<'_>, demand: usize, way: usize) -> Option<(&Candid<'a>, usize)> {
        let allowed = self.options(host, demand).unwrap_or_default().iter().filter(|o| o.cost.is_some());
        let mut ways = allowed.flat_map(|option| (0..option.servings.len()).map(move |n| (option, n)));
        ways.nth(way)
    }
}

impl Member<'_> {
    pub(super) fn held(&self, demand: &Demand<'_>, quant: Option<Quant>) -> Bytes {
        self.capacity.held.get(&(demand.name.clone(), quant)).copied().unwrap_or_default()
    }
}

/// All that a host has, before anything is placed.
fn whole(capacity: &Capacity<'_>) -> Room {
    let disk = capacity.facts.disk.as_ref();
    Room { memory: estimate::room(capacity.facts), disk: disk.map(|disk| disk.free - capacity.disk_reserved) }
}

/// Rounds room down to sixteen steps for each doubling.
fn in_steps(room: Room) -> Room {
    let round =
        |bytes: Bytes| Bytes(bytes.0 & !((bytes.0.checked_ilog2().map_or(0, |n| 1 << n) >> 4u32).max(1) - 1));
    Room { memory: round(room.memory), disk: room.disk.map(round) }
}

/// Names what decides how much a model takes and gives on a host, its room aside.
fn kind(facts: &HostFacts) -> String {
    let alike = HostFacts {
        memory: Memory::default(),
        disk: None,
        board_name: None,
        glibc: None,
        is_musl: false,
        os: None,
        installed: None,
        memory_cgroup: None,
        user_manager: None,
        root: None,
        health: Health::default(),
        gpus: Vec::new(),
        has_render_group: false,
        link: None,
        ..facts.clone()
    };
    let bench = facts.installed.as_ref().and_then(|installed| installed.bench.as_ref());
    // facts always become JSON
    serde_json::to_string(&(alike, bench)).unwrap_or_default()
}
