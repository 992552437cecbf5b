//! One of the two optima: column generation to its bound, then whole numbers.

use std::collections::BTreeSet;

use super::master::{self, Column, Goal, Prices};
use super::round::round;
use super::search::{best, sharing};
use super::sets::sets;
use super::shelf::Shelf;
use super::whole;

/// After so many rounds column generation ends with the bound that it has.
const MOST_ROUNDS: usize = 200;

/// Columns per class that a linear program keeps, beside 20 per demand, where it has twice as many.
const KEPT: usize = 3;

/// With more classes than this, no integer program is solved.
const MOST_CLASSES: usize = 150;

/// Classes of a sample whose prices begin those of a larger fleet.
const SAMPLE: usize = 70;

/// Relative gap at which a sample's prices are good enough.
const SAMPLE_ACCURACY: f64 = 1e-3;

/// How many of the last prices of a sample leave their columns.
const RECENT: usize = 5;

/// Relative gap at which a large fleet's bound is good enough.
const ENOUGH: f64 = 1e-5;

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
    /// Where nothing was found that meets the goal: what comes nearest, with the bound for
    /// as few placements.
    pub(super) nearest: Option<(Vec<(Column, u32)>, f64)>,
}

pub(super) struct Stage<'a> {
    pub(super) shelves: &'a [Shelf],
    pub(super) goal: Goal,
    /// Prices are sought up to this.
    pub(super) most: f64,
    /// All values are multiples of this, if of anything.
    pub(super) step: f64,
}

impl Stage<'_> {
    /// Returns the bound alone, and the columns that are part of it.
    pub(super) fn relax(&self, start: Vec<(Column, u32)>) -> (f64, Vec<Column>) {
        let mut columns = self.pool(&start, Vec::new());
        let mut outcome =
            Outcome { value: self.value(&start), bound: f64::NEG_INFINITY, taken: start, nearest: None };
        let (prices, _) = self.generate(&mut columns, &mut outcome, self.enough());
        let Some(prices) = prices else { return (outcome.bound, Vec::new()) };
        let is_part = |column: &Column| self.excess(&prices, &prices.host, column) < 1e-6;
        (outcome.bound, columns.list.into_iter().filter(is_part).collect())
    }

    fn pool(&self, start: &[(Column, u32)], columns: Vec<Column>) -> Pool {
        let mut pool = Pool::default();
        for column in start.iter().map(|(column, _)| column.clone()).chain(columns) {
            pool.add(column);
        }
        for class in 0..self.shelves.len() {
            pool.add(Column { class, items: Vec::new(), cost: 0.0 });
        }
        pool
    }

    /// Improves on `start`; the value is infinite where nothing was found that meets the goal.
    pub(super) fn solve(&self, start: Vec<(Column, u32)>, columns: Vec<Column>) -> Outcome {
        let mut columns = self.pool(&start, columns);
        let mut outcome =
            Outcome { value: self.value(&start), bound: f64::NEG_INFINITY, taken: start, nearest: None };
        let (prices, _) = self.generate(&mut columns, &mut outcome, self.enough());
        if self.is_closed(&outcome) {
            return outcome;
        }
        let Some(prices) = prices else { return outcome };
        self.round(&columns.list, &prices, &mut outcome);
        if !self.is_closed(&outcome) {
            self.improve_near(&columns.list, &prices, &mut outcome);
        }
        if !self.is_closed(&outcome) {
            self.close(&prices, &mut outcome);
        }
        outcome
    }

    /// The relative gap that is small enough.
    fn enough(&self) -> f64 {
        if self.shelves.len() > MOST_CLASSES { ENOUGH } else { 0.0 }
    }

    /// The value below which nothing better lies.
    fn floor(&self, bound: f64) -> f64 {
        if self.step > 0.0 { (bound / self.step - 1e-6).ceil() * self.step } else { bound }
    }

    fn is_closed(&self, outcome: &Outcome) -> bool {
        let gap = outcome.value - self.floor(outcome.bound);
        gap.is_finite() && gap <= EQUAL * outcome.value.abs().max(1.0)
    }

    fn value(&self, taken: &[(Column, u32)]) -> f64 {
        if !self.goal.is_met_by(taken) {
            return f64::INFINITY;
        }
        let each = |(column, count): &(Column, u32)| self.column_value(column) * f64::from(*count);
        taken.iter().map(each).sum()
    }

    fn column_value(&self, column: &Column) -> f64 {
        column.cost - self.goal.reward * column.items.len() as f64
    }

    /// Prices every class: returns the bound, and the best set of each with its profit.
    fn price(&self, prices: &Prices) -> (f64, Vec<(f64, Column)>) {
        let mut bound = self.goal.constant(prices);
        let bests = self.shelves.iter().enumerate().map(|(class, shelf)| {
            let found = best(shelf, &|demand| self.goal.worth(prices, demand), self.goal.is_shared);
            bound -= f64::from(shelf.hosts) * found.bound;
            (found.profit, self.column(class, found.items))
        });
        let bests = bests.collect();
        (bound, bests)
    }

    /// Solves for a part of the classes, with as large a part of the quotas: its last prices
    /// are near those of the whole, the best last.
    fn sample(&self) -> Vec<Prices> {
        let hosts =
            |classes: &mut dyn Iterator<Item = &u32>| classes.map(|hosts| u64::from(*hosts)).sum::<u64>();
        let kept: Vec<usize> = (0..self.shelves.len()).step_by((self.shelves.len() / SAMPLE) | 1).collect();
        let sampled: Vec<Shelf> = kept.iter().map(|class| self.shelves[*class].clone()).collect();
        let own: Vec<u32> = kept.iter().map(|class| self.goal.hosts[*class]).collect();
        let part = hosts(&mut own.iter()) as f64 / hosts(&mut self.goal.hosts.iter()).max(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u32")]
        let share = |quota: u32| (f64::from(quota) * part).round() as u32;
        let quotas: Vec<Option<u32>> = self.goal.quotas.iter().map(|quota| quota.map(share)).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u64")]
        let least = self.goal.least.map(|least| (least as f64 * part) as u64);
        let goal = Goal { hosts: own, quotas, least, ..self.goal };
        let stage = Stage { shelves: &sampled, goal, most: self.most, step: 0.0 };
        let mut columns = stage.pool(&[], Vec::new());
        let mut outcome =
            Outcome { taken: Vec::new(), value: f64::INFINITY, bound: f64::NEG_INFINITY, nearest: None };
        stage.generate(&mut columns, &mut outcome, SAMPLE_ACCURACY).1
    }

    /// Adds columns until no other could lower the value by more than `enough` of it, or the
    /// value is proven. Returns the best prices, and the last ones.
    fn generate(
        &self,
        columns: &mut Pool,
        outcome: &mut Outcome,
        enough: f64,
    ) -> (Option<Prices>, Vec<Prices>) {
        let mut kept: Option<Prices> = None;
        let mut near: Option<(Prices, f64)> = None;
        let mut last: Vec<Prices> = Vec::new();
        let mut highest = f64::NEG_INFINITY;
        if self.shelves.len() > MOST_CLASSES {
            for prices in self.sample() {
                let (bound, bests) = self.price(&prices);
                for (_, column) in bests {
                    columns.add(column);
                }
                if bound > highest {
                    highest = bound;
                    near = Some((prices, self.most / 40.0));
                }
            }
            outcome.bound = outcome.bound.max(highest);
        }
        let (mut accuracy, mut most) = (1e-4_f64.max(enough), self.most);
        for _ in 0..MOST_ROUNDS {
            let Some(prices) = master::solve(&self.goal, &columns.list, most, near.as_ref(), accuracy) else {
                break;
            };
            let (bound, bests) = self.price(&prices);
            let mut is_new = false;
            for (profit, column) in bests {
                let host = prices.host[column.class];
                if -profit < host - EQUAL * (1.0 + host.abs()) {
                    is_new |= columns.add(column);
                }
            }
            let mut is_edge = false;
            if let Some((center, reach)) = &mut near {
                is_edge = center.is_beyond(&prices, *reach * 0.98);
                if bound > highest {
                    *center = prices.clone();
                    if is_edge {
                        *reach *= 3.0;
                    }
                } else if !is_edge || *reach > self.most / 400.0 {
                    *reach *= 0.6;
                }
            }
            if bound > highest || kept.is_none() {
                highest = highest.max(bound);
                kept = Some(prices.clone());
            }
            outcome.bound = outcome.bound.max(bound);
            if self.is_closed(outcome) {
                break;
            }
            let gap = (prices.value - outcome.bound) / prices.value.abs().max(1.0);
            last.push(prices.clone());
            if gap < enough && !is_edge {
                break;
            }
            // a proof may need what a bound does not
            if enough > 0.0 {
                self.forget(columns, &prices);
            }
            if enough == 0.0 && gap < accuracy && prices.least > 0.98 * most && most < 100.0 * self.most {
                // what is asked for pays more than that
                most *= 4.0;
                continue;
            }
            if !is_new || (gap < accuracy && !is_edge) {
                if accuracy < 2e-9 {
                    break;
                }
                accuracy = if is_new { (accuracy * 1e-2).max(1e-9) } else { 1e-9 };
            }
        }
        let recent = last.len().saturating_sub(RECENT);
        (kept, last.split_off(recent))
    }

    /// Drops the columns that are far from paying, so that the linear program stays small.
    fn forget(&self, columns: &mut Pool, prices: &Prices) {
        let most = KEPT * self.shelves.len() + 20 * self.goal.quotas.len();
        if columns.list.len() <= 2 * most {
            return;
        }
        let mut excess: Vec<f64> =
            columns.list.iter().map(|column| self.excess(prices, &prices.host, column)).collect();
        let mut sorted = excess.clone();
        let (_, limit, _) = sorted.select_nth_unstable_by(most, f64::total_cmp);
        let limit = limit.max(0.0);
        excess.reverse();
        let known = &mut columns.known;
        columns.list.retain(|column| {
            let is_near = excess.pop().is_some_and(|excess| excess <= limit) || column.items.is_empty();
            if !is_near {
                known.remove(&(column.class, column.items.clone()));
            }
            is_near
        });
    }

    fn column(&self, class: usize, mut items: Vec<(usize, usize)>) -> Column {
        items.sort_unstable();
        let shared = if self.goal.is_shared { sharing(items.len()) } else { 0.0 };
        let cost = self.shelves[class].cost(&items) + shared;
        Column { class, items, cost }
    }

    /// What a column costs more than its class has to pay, at least.
    fn excess(&self, prices: &Prices, hosts: &[f64], column: &Column) -> f64 {
        let worth: f64 = column.items.iter().map(|(demand, _)| self.goal.worth(prices, *demand)).sum();
        column.cost - worth - hosts[column.class]
    }

    /// Rounds the linear program's choice.
    fn round(&self, columns: &[Column], prices: &Prices, outcome: &mut Outcome) {
        let taken = round(self.shelves, &self.goal, columns, &self.corner(columns), prices);
        let value = self.value(&taken);
        if value < outcome.value {
            (outcome.value, outcome.taken) = (value, taken);
        } else if outcome.value.is_infinite() && self.shelves.len() > MOST_CLASSES {
            let placed: u64 = taken.iter().map(|(column, n)| column.items.len() as u64 * u64::from(*n)).sum();
            let short = self.goal.least.map_or(0, |least| least.saturating_sub(placed));
            // each placement less changes the bound by its price
            outcome.nearest = Some((taken, self.price(prices).0 - prices.least * short as f64));
        }
    }

    /// The linear program's choice at a corner, with fewer fractions: costs are moved by a
    /// little, so that hardly two choices cost the same.
    fn corner(&self, columns: &[Column]) -> Vec<f64> {
        let moved = columns.iter().enumerate().map(|(at, column)| {
            // the golden ratio spreads the parts evenly
            let part = (at as f64 * 0.618_033_988_749_894_9).fract();
            Column { cost: column.cost + part * self.most * 1e-5, ..column.clone() }
        });
        let moved: Vec<Column> = moved.collect();
        master::solve(&self.goal, &moved, self.most, None, 1e-9).map_or(Vec::new(), |corner| corner.taken)
    }

    /// Solves in whole numbers over those known columns that could be part of something better.
    fn improve_near(&self, columns: &[Column], prices: &Prices, outcome: &mut Outcome) {
        if self.shelves.len() > MOST_CLASSES {
            return;
        }
        let gap = outcome.value - outcome.bound;
        let mut near: Vec<(f64, &Column)> =
            columns.iter().map(|column| (self.excess(prices, &prices.host, column), column)).collect();
        near.retain(|(excess, _)| *excess <= gap);
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(MOST_COLUMNS);
        let mut chosen = Pool::default();
        let own = outcome.taken.iter().filter(|_| outcome.value.is_finite()).map(|(column, _)| column);
        for column in own.chain(near.into_iter().map(|(_, column)| column)) {
            chosen.add(column.clone());
        }
        self.improve(&chosen.list, outcome);
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
        if self.shelves.len() > MOST_CLASSES || outcome.value.is_infinite() {
            return None;
        }
        let value = |demand: usize| self.goal.worth(prices, demand);
        let hosts: Vec<f64> = (0..self.shelves.len())
            .map(|class| {
                let found = best(&self.shelves[class], &value, self.goal.is_shared);
                -found.bound
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
            let least = -hosts[class] - gap;
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
