//! The best placement on classes of hosts, in pure numbers, with a proven bound.
//!
//! Most placements first, then the least cost. Hosts of a class are alike, so that only
//! numbers of hosts per set of models are sought (cutting stock). Where no demand is short
//! each class is solved alone. Else column generation: a linear program over the sets known
//! prices the demands, and an exact search ([`search`]) finds for each class the set that
//! is worth most at these prices, until there is no better one. Their sum is a bound that
//! holds whatever the linear program's accuracy. Whole numbers come from rounding that
//! program's choice; then an integer program chooses anew for the hosts that rounding down
//! left, or, for up to 150 classes, over all sets that the bound does not rule out, which
//! proves the optimum.
//!
//! Linear programs are clarabel's, an interior-point method: with microlp's simplex, whose
//! prices are corners, 25 rounds over 700 classes left a gap of 1e-3. Integer programs are
//! microlp's. Both are Rust; `HiGHS` needs a C++ compiler.
//!
//! It knows no models and no manifest, and reads no clock: searches end by numbers of nodes.

mod greedy;
mod master;
mod round;
mod search;
mod sets;
mod shelf;
mod stage;
#[cfg(test)]
mod tests;
mod whole;

use crate::units::Bytes;
use greedy::greedy;
use master::{Column, Goal};
use search::{best, cheapest, sharing};
use shelf::Shelf;
use stage::{Outcome, Stage};

/// One way to serve a model on hosts of a class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Way {
    pub(crate) memory: Bytes,
    pub(crate) disk: Bytes,
    /// Not negative; smaller is better.
    pub(crate) cost: f64,
    /// On a host with more models than this, all counted, it would fall below its floor.
    pub(crate) most_together: u32,
}

/// A demand on the hosts of a class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    /// Its place among the quotas.
    pub(crate) demand: usize,
    /// In any order; may hold ways that others dominate.
    pub(crate) ways: Vec<Way>,
}

/// Hosts that are alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Class {
    pub(crate) hosts: u32,
    pub(crate) memory: Bytes,
    /// None where disk is no limit.
    pub(crate) disk: Option<Bytes>,
    /// Each demand at most once.
    pub(crate) offers: Vec<Offer>,
}

/// How many placements a demand wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quota {
    /// One on every host that has an offer for it.
    Everywhere,
    /// So many.
    Count(u32),
}

/// What is to be placed, and where it could be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) classes: Vec<Class>,
    /// By demand.
    pub(crate) quotas: Vec<Quota>,
}

/// A set of models, and how many hosts of its class have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Each demand, with the place of its way in the offer; by demand.
    pub(crate) items: Vec<(usize, usize)>,
    pub(crate) hosts: u32,
}

/// The best placement, and how good any could be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Optimum {
    /// By class. The hosts of a class add up to its number, those left empty included.
    pub(crate) patterns: Vec<Vec<Pattern>>,
    /// Placements.
    pub(crate) placed: u64,
    /// No placement has more.
    pub(crate) placed_bound: u64,
    /// The sum of the ways' costs and, for each host with k models, k ln k.
    pub(crate) cost: f64,
    /// None with `placed` placements costs less.
    pub(crate) cost_bound: f64,
}

/// Finds the most placements and, among those, the least cost.
pub(crate) fn solve(problem: &Problem) -> Optimum {
    let shelves: Vec<Shelf> = problem.classes.iter().map(|class| Shelf::new(class, false)).collect();
    let hosts = hosts_for(&shelves, problem.quotas.len());
    let quotas = shared_quotas(problem, &hosts);
    let all = all(&hosts, &quotas);
    if let Some(optimum) = apart(problem, &shelves, &quotas) {
        return optimum;
    }
    let start = greedy(&shelves, &quotas);
    let (bound, columns) = most_bound(problem, &shelves, &quotas, &start, all);
    let (mut placed, mut placed_bound) = (bound, bound);
    let is_short = bound < all;
    let mut outcome = least(&shelves, &quotas, start.clone(), columns.clone(), placed, is_short);
    if let Some((taken, bound)) = outcome.nearest.take().filter(|(taken, _)| count(taken) >= count(&start)) {
        placed = count(&taken);
        outcome.value = taken.iter().map(|(column, hosts)| column.cost * f64::from(*hosts)).sum();
        (outcome.taken, outcome.bound) = (taken, bound);
    }
    if outcome.value.is_infinite() {
        let (start, bound) = most(problem, &shelves, &quotas, start, all);
        (placed, placed_bound) = (count(&start), bound);
        outcome = least(&shelves, &quotas, start, columns, placed, is_short);
    }
    Optimum {
        patterns: patterns(problem, outcome.taken),
        placed,
        placed_bound,
        cost: outcome.value,
        cost_bound: outcome.bound.clamp(0.0, outcome.value),
    }
}

/// The quotas that hosts have to share: those below what there are hosts for.
fn shared_quotas(problem: &Problem, hosts: &[u64]) -> Vec<Option<u32>> {
    let quotas = problem.quotas.iter().zip(hosts).map(|(quota, hosts)| match quota {
        Quota::Count(count) if u64::from(*count) < *hosts => Some(*count),
        _ => None,
    });
    quotas.collect()
}

/// Returns by demand how many hosts have a way for it.
fn hosts_for(shelves: &[Shelf], demands: usize) -> Vec<u64> {
    let mut hosts = vec![0; demands];
    for shelf in shelves {
        for group in &shelf.groups {
            hosts[group.demand] += u64::from(shelf.hosts);
        }
    }
    hosts
}

/// All that could be placed if every host had room for everything.
fn all(hosts: &[u64], quotas: &[Option<u32>]) -> u64 {
    quotas.iter().zip(hosts).map(|(quota, hosts)| quota.map_or(*hosts, u64::from)).sum()
}

/// More than any set of this class can cost.
fn dearest(shelf: &Shelf) -> f64 {
    let ways = shelf.groups.iter().map(|group| group.ways.last().map_or(0.0, |way| way.cost));
    1.0 + ways.sum::<f64>() + sharing(shelf.groups.len())
}

/// Solves each class alone; none where that takes more of a demand than its quota.
fn apart(problem: &Problem, shelves: &[Shelf], quotas: &[Option<u32>]) -> Option<Optimum> {
    let mut taken = vec![0_u64; quotas.len()];
    let (mut patterns, mut placed, mut cost) = (Vec::new(), 0, 0.0);
    for shelf in shelves {
        let worth = dearest(shelf);
        let mut found = best(shelf, &|_| worth, true);
        if found.bound > found.profit {
            return None;
        }
        found.items.sort_unstable();
        for (demand, _) in &found.items {
            taken[*demand] += u64::from(shelf.hosts);
        }
        let hosts = f64::from(shelf.hosts);
        cost += hosts * (shelf.cost(&found.items) + sharing(found.items.len()));
        placed += u64::from(shelf.hosts) * found.items.len() as u64;
        patterns.push(vec![Pattern { items: found.items, hosts: shelf.hosts }]);
    }
    let is_over = taken.iter().zip(quotas).any(|(taken, quota)| quota.is_some_and(|q| *taken > u64::from(q)));
    debug_assert_eq!(patterns.len(), problem.classes.len());
    let optimum = Optimum { patterns, placed, placed_bound: placed, cost, cost_bound: cost };
    (!is_over).then_some(optimum)
}

/// Bounds the number of placements, and returns sets with which that many might be reached.
fn most_bound(
    problem: &Problem,
    shelves: &[Shelf],
    quotas: &[Option<u32>],
    start: &[(Column, u32)],
    all: u64,
) -> (u64, Vec<Column>) {
    if count(start) == all {
        return (all, Vec::new());
    }
    let free: Vec<Shelf> = problem.classes.iter().map(|class| Shelf::new(class, true)).collect();
    let stage = count_stage(&free, quotas);
    let sets = start.iter().filter_map(|(column, hosts)| Some((with_ways(&free, column, false)?, *hosts)));
    let (bound, columns) = stage.relax(sets.collect());
    let columns = columns.iter().filter_map(|set| with_ways(shelves, set, true));
    (whole_bound(bound).min(all), columns.collect())
}

/// Finds the most placements, and returns them in their cheapest ways, with the bound.
fn most(
    problem: &Problem,
    shelves: &[Shelf],
    quotas: &[Option<u32>],
    start: Vec<(Column, u32)>,
    all: u64,
) -> (Vec<(Column, u32)>, u64) {
    let free: Vec<Shelf> = problem.classes.iter().map(|class| Shelf::new(class, true)).collect();
    let stage = count_stage(&free, quotas);
    let sets =
        start.into_iter().filter_map(|(column, hosts)| Some((with_ways(&free, &column, false)?, hosts)));
    let outcome = stage.solve(sets.collect(), Vec::new());
    let cheap =
        outcome.taken.iter().filter_map(|(set, hosts)| Some((with_ways(shelves, set, true)?, *hosts)));
    (cheap.collect(), whole_bound(outcome.bound).min(all))
}

fn count_stage<'a>(free: &'a [Shelf], quotas: &[Option<u32>]) -> Stage<'a> {
    let goal = Goal {
        hosts: free.iter().map(|shelf| shelf.hosts).collect(),
        quotas: quotas.to_vec(),
        least: None,
        reward: 1.0,
        is_shared: false,
    };
    Stage { shelves: free, goal, most: 1.0, step: 1.0, is_sample: false }
}

/// The number of placements that a bound on minus that number allows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of placements")]
fn whole_bound(bound: f64) -> u64 {
    (1e-6 - bound).floor().max(0.0) as u64
}

/// The same set, in the cheapest ways of other shelves.
fn with_ways(shelves: &[Shelf], column: &Column, is_shared: bool) -> Option<Column> {
    let demands: Vec<usize> = column.items.iter().map(|(demand, _)| *demand).collect();
    let (cost, mut items) = cheapest(&shelves[column.class], &demands)?;
    items.sort_unstable();
    let shared = if is_shared { sharing(items.len()) } else { 0.0 };
    Some(Column { class: column.class, items, cost: cost + shared })
}

/// Finds the least cost of `placed` placements.
fn least(
    shelves: &[Shelf],
    quotas: &[Option<u32>],
    start: Vec<(Column, u32)>,
    columns: Vec<Column>,
    placed: u64,
    is_short: bool,
) -> Outcome {
    let ways = shelves.iter().flat_map(|shelf| &shelf.groups).flat_map(|group| &group.ways);
    let dearest = ways.map(|way| way.cost).fold(1.0, f64::max);
    let goal = Goal {
        hosts: shelves.iter().map(|shelf| shelf.hosts).collect(),
        quotas: quotas.to_vec(),
        least: Some(placed),
        reward: 0.0,
        is_shared: true,
    };
    // where not all can be placed, the last placements displace many others
    let most = dearest * if is_short { 16.0 } else { 3.0 };
    Stage { shelves, goal, most, step: 0.0, is_sample: false }.solve(start, columns)
}

fn count(taken: &[(Column, u32)]) -> u64 {
    taken.iter().map(|(column, hosts)| column.items.len() as u64 * u64::from(*hosts)).sum()
}

fn patterns(problem: &Problem, taken: Vec<(Column, u32)>) -> Vec<Vec<Pattern>> {
    let mut patterns: Vec<Vec<Pattern>> = vec![Vec::new(); problem.classes.len()];
    for (column, hosts) in taken {
        patterns[column.class].push(Pattern { items: column.items, hosts });
    }
    for list in &mut patterns {
        list.sort_by(|a, b| a.items.cmp(&b.items));
    }
    patterns
}
