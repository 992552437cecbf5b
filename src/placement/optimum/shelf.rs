//! A class of hosts as the search sees it: what could lie on one of its hosts.

use super::{Class, Way};

/// One host of a class, with everything that could be put on it.
#[derive(Clone)]
pub(super) struct Shelf {
    /// How many hosts are like it.
    pub(super) hosts: u32,
    /// Bytes.
    pub(super) memory: u64,
    /// Bytes; the largest number where disk is no limit.
    pub(super) disk: u64,
    /// One for each demand that has a way here.
    pub(super) groups: Vec<Group>,
}

/// The ways of one demand.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) demand: usize,
    /// By cost. None is dominated, each fits alone.
    pub(super) ways: Vec<Rung>,
}

/// One way, in numbers.
#[derive(Clone, Copy)]
pub(super) struct Rung {
    pub(super) cost: f64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) most_together: u32,
    /// Its place in the offer.
    pub(super) index: usize,
}

impl Shelf {
    /// Prepares a class. With `is_free`, every way costs nothing, so that only those that
    /// take least stay.
    pub(super) fn new(class: &Class, is_free: bool) -> Self {
        let (memory, disk) = (class.memory.0, class.disk.map_or(u64::MAX, |disk| disk.0));
        let groups = class.offers.iter().map(|offer| {
            let rungs = offer.ways.iter().enumerate().map(|(index, way)| rung(way, index, is_free));
            let fitting = rungs.filter(|r| r.memory <= memory && r.disk <= disk && r.most_together > 0);
            Group { demand: offer.demand, ways: without_dominated(fitting.collect()) }
        });
        Self { hosts: class.hosts, memory, disk, groups: groups.filter(|g| !g.ways.is_empty()).collect() }
    }

    /// Returns the cost of one host with these models, each `(demand, way)`, without what
    /// sharing costs.
    pub(super) fn cost(&self, items: &[(usize, usize)]) -> f64 {
        let cost = |&(demand, index): &(usize, usize)| {
            let group = self.groups.iter().find(|group| group.demand == demand);
            group
                .and_then(|group| group.ways.iter().find(|way| way.index == index))
                .map_or(0.0, |way| way.cost)
        };
        items.iter().map(cost).sum()
    }
}

fn rung(way: &Way, index: usize, is_free: bool) -> Rung {
    let cost = if is_free { 0.0 } else { way.cost };
    Rung { cost, memory: way.memory.0, disk: way.disk.0, most_together: way.most_together, index }
}

/// Drops what is nowhere better than another, and sorts by cost.
fn without_dominated(mut ways: Vec<Rung>) -> Vec<Rung> {
    ways.sort_by(|a, b| {
        let by_room = a.memory.cmp(&b.memory).then(a.disk.cmp(&b.disk));
        let by_company = b.most_together.cmp(&a.most_together);
        a.cost.total_cmp(&b.cost).then(by_room).then(by_company).then(a.index.cmp(&b.index))
    });
    let mut kept: Vec<Rung> = Vec::new();
    for way in ways {
        let is_dominated = kept.iter().any(|other| {
            other.memory <= way.memory && other.disk <= way.disk && other.most_together >= way.most_together
        });
        if !is_dominated {
            kept.push(way);
        }
    }
    kept
}
