//! One of the two optima: column generation to its bound, then whole numbers.

use std::collections::BTreeSet;

use super::master::{self, Column, Goal, Prices};
use super::search::{best, sharing};
use super::sets::sets;
use super::shelf::Shelf;
use super::whole;

/// After so many rounds column generation ends with the bound that it has.
const MOST_ROUNDS: usize = 200;

/// Columns over which the integer program is solved, at most.
const MOST_COLUMNS: usize = 6_000;

/// Steps in listing the sets that could be part of an optimum.
const MOST_STEPS: u64 = 400_000;

/// Nodes of an integer program.
const MOST_NODES: u64 = 2_000;

/// Relative distance at which two values are one.
const EQUAL: f64 = 1e-10;

/// A choice of columns, each as often as its hosts, with the proven bound on its value.
pub(super) struct Outcome {
    pub(super) taken: Vec<(Column, u32)>,
    /// Costs less rewards.
    pub(super) value: f64,
    /// No choice has a lower value.
    pub(super) bound: f64,
}

pub(super) struct Stage<'a> {
    pub(super) shelves: &'a [Shelf],
    pub(super) goal: Goal,
    /// Where every demand has to have its quota: more than any set costs.
    pub(super) forced: f64,
    /// Prices are sought up to this.
    pub(super) most: f64,
    /// All values are multiples of this, if of anything.
    pub(super) step: f64,
}

impl Stage<'_> {
    /// Improves on `start`, which meets the goal.
    pub(super) fn solve(&self, start: Vec<(Column, u32)>) -> Outcome {
        let mut columns = Pool::default();
        for (column, _) in &start {
            columns.add(column.clone());
        }
        for class in 0..self.shelves.len() {
            if self.forced_here(class) == 0 {
                columns.add(Column { class, items: Vec::new(), cost: 0.0 });
            }
        }
        let mut outcome = Outcome { value: self.value(&start), bound: f64::NEG_INFINITY, taken: start };
        let prices = self.generate(&mut columns, &mut outcome);
        if self.is_closed(&outcome) {
            return outcome;
        }
        let Some(prices) = prices else { return outcome };
        self.round(&columns.list, &prices, &mut outcome);
        if !self.is_closed(&outcome) {
            self.close(&prices, &mut outcome);
        }
        outcome
    }

    /// The value below which nothing better lies.
    fn floor(&self, bound: f64) -> f64 {
        if self.step > 0.0 { (bound / self.step - 1e-6).ceil() * self.step } else { bound }
    }

    fn is_closed(&self, outcome: &Outcome) -> bool {
        outcome.value - self.floor(outcome.bound) <= EQUAL * outcome.value.abs().max(1.0)
    }

    fn value(&self, taken: &[(Column, u32)]) -> f64 {
        let each = |(column, count): &(Column, u32)| self.column_value(column) * f64::from(*count);
        taken.iter().map(each).sum()
    }

    fn column_value(&self, column: &Column) -> f64 {
        column.cost - self.goal.reward * column.items.len() as f64
    }

    fn forced_here(&self, class: usize) -> usize {
        let is_forced = |demand: usize| self.goal.is_whole && self.goal.quotas[demand].is_none();
        self.shelves[class].groups.iter().filter(|group| is_forced(group.demand)).count()
    }

    fn worth(&self, prices: &Prices, demand: usize) -> f64 {
        if self.goal.is_whole && self.goal.quotas[demand].is_none() {
            self.forced
        } else {
            self.goal.worth(prices, demand)
        }
    }

    /// Adds columns until no other could lower the value, or the value is proven.
    fn generate(&self, columns: &mut Pool, outcome: &mut Outcome) -> Option<Prices> {
        let mut kept: Option<Prices> = None;
        let mut accuracy = 1e-3;
        for _ in 0..MOST_ROUNDS {
            let Some(prices) = master::solve(&self.goal, &columns.list, self.most, accuracy) else { break };
            let mut bound = self.goal.constant(&prices);
            let mut is_new = false;
            for (class, shelf) in self.shelves.iter().enumerate() {
                let found = best(shelf, &|demand| self.worth(&prices, demand), self.goal.is_shared);
                let forced = self.forced * self.forced_here(class) as f64;
                bound -= f64::from(shelf.hosts) * (found.bound - forced);
                if forced - found.profit < prices.host[class] - EQUAL * (1.0 + prices.host[class].abs()) {
                    is_new |= columns.add(self.column(class, found.items));
                }
            }
            if bound > outcome.bound || kept.is_none() {
                outcome.bound = outcome.bound.max(bound);
                kept = Some(prices.clone());
            }
            if self.is_closed(outcome) {
                break;
            }
            let gap = (prices.value - outcome.bound) / prices.value.abs().max(1.0);
            if !is_new || gap < accuracy {
                if accuracy < 2e-9 {
                    break;
                }
                accuracy = (accuracy * 1e-2).max(1e-9);
            }
        }
        kept
    }

    fn column(&self, class: usize, mut items: Vec<(usize, usize)>) -> Column {
        items.sort_unstable();
        let shared = if self.goal.is_shared { sharing(items.len()) } else { 0.0 };
        let cost = self.shelves[class].cost(&items) + shared;
        Column { class, items, cost }
    }

    /// What a column costs more than its class has to pay, at least.
    fn excess(&self, prices: &Prices, hosts: &[f64], column: &Column) -> f64 {
        let worth: f64 = column.items.iter().map(|(demand, _)| self.worth(prices, *demand)).sum();
        let forced = self.forced * self.forced_here(column.class) as f64;
        column.cost - worth + forced - hosts[column.class]
    }

    /// Solves in whole numbers over the columns that are known.
    fn round(&self, columns: &[Column], prices: &Prices, outcome: &mut Outcome) {
        let mut near: Vec<(f64, &Column)> =
            columns.iter().map(|column| (self.excess(prices, &prices.host, column), column)).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(MOST_COLUMNS);
        let chosen: Vec<Column> = near.into_iter().map(|(_, column)| column.clone()).collect();
        self.improve(&chosen, outcome);
    }

    fn improve(&self, columns: &[Column], outcome: &mut Outcome) -> Option<f64> {
        let count = |column: &Column| {
            let same = outcome.taken.iter().filter(|(other, _)| other.is(column));
            same.map(|(_, count)| *count).sum()
        };
        let start: Vec<u32> = columns.iter().map(count).collect();
        let start = self.goal.is_met(columns, &start).then_some(start);
        let whole = whole::solve(&self.goal, columns, start.as_deref(), MOST_NODES)?;
        let taken = columns.iter().cloned().zip(whole.counts).filter(|(_, count)| *count > 0);
        let taken: Vec<(Column, u32)> = taken.collect();
        let value = self.value(&taken);
        if value < outcome.value {
            (outcome.value, outcome.taken) = (value, taken);
        }
        Some(whole.bound)
    }

    /// Proves the value, or finds a better one: over every column that could be part of it.
    fn close(&self, prices: &Prices, outcome: &mut Outcome) -> Option<()> {
        let value = |demand: usize| self.worth(prices, demand);
        let hosts: Vec<f64> = (0..self.shelves.len())
            .map(|class| {
                let found = best(&self.shelves[class], &value, self.goal.is_shared);
                self.forced * self.forced_here(class) as f64 - found.bound
            })
            .collect();
        let per_class = hosts.iter().zip(self.shelves);
        let bound = self.goal.constant(prices)
            + per_class.map(|(host, shelf)| host * f64::from(shelf.hosts)).sum::<f64>();
        // a value that is only as good needs no column
        let gap = outcome.value - self.step.max(0.0) - bound + 1e-7 * outcome.value.abs().max(1.0);
        let mut steps = MOST_STEPS;
        let mut columns = Vec::new();
        for (class, shelf) in self.shelves.iter().enumerate() {
            let forced = self.forced * self.forced_here(class) as f64;
            let least = forced - hosts[class] - gap;
            for set in sets(shelf, &value, self.goal.is_shared, least, &mut steps)? {
                columns.push(self.column(class, set));
            }
            if columns.len() > MOST_COLUMNS {
                return None;
            }
        }
        for (column, _) in &outcome.taken {
            if !columns.iter().any(|other| other.is(column)) {
                columns.push(column.clone());
            }
        }
        let proven = self.improve(&columns, outcome)?;
        outcome.bound = outcome.bound.max(proven.min(outcome.value));
        Some(())
    }
}

impl Column {
    fn is(&self, other: &Self) -> bool {
        self.class == other.class && self.items == other.items
    }
}

/// The columns known, each once.
#[derive(Default)]
struct Pool {
    list: Vec<Column>,
    known: BTreeSet<(usize, Vec<(usize, usize)>)>,
}

impl Pool {
    fn add(&mut self, column: Column) -> bool {
        let is_new = self.known.insert((column.class, column.items.clone()));
        if is_new {
            self.list.push(column);
        }
        is_new
    }
}
