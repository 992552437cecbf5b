//! One of the two optima: column generation to its bound, then whole numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::hosts_for;
use super::master::{self, Column, Goal, Prices};
use super::round::{round, rounded_down};
use super::search::{Best, best, better, sharing};
use super::sets::sets;
use super::shelf::Shelf;
use super::whole;

/// After so many rounds column generation ends with the bound that it has.
const MOST_ROUNDS: usize = 200;

/// Columns per class and per demand that a linear program keeps where it has twice as many; a quarter
/// more after each time, as what was dropped may be found again and again.
const KEPT: (usize, usize) = (2, 10);

/// With more classes than this, no integer program is solved over all of them.
const MOST_CLASSES: usize = 150;

/// Classes of a sample whose prices begin those of a larger fleet.
const SAMPLE: usize = 70;

/// Classes of a sample of that sample.
const SMALL_SAMPLE: usize = 12;

/// With more classes than this, a sample is sampled itself.
const MOST_SAMPLED: usize = 40;

/// By how much a sample has more hosts than the classes in it, so that the parts of the quotas are
/// whole numbers.
const SCALE: u32 = 100;

/// Relative gap at which a sample's prices are good enough.
const SAMPLE_ACCURACY: f64 = 1e-3;

/// How many of the last prices of a sample leave their columns.
const RECENT: usize = 3;

/// Relative gap at which a large fleet's bound is good enough.
const ENOUGH: f64 = 3e-5;

/// Corners of a large fleet's linear program that are rounded, at most.
const CORNERS: u32 = 3;

/// How many of the known columns may take the hosts that a corner leaves, rounded down.
const MOST_LEFT: usize = 600;

/// Nodes of the integer program over these.
const MOST_NODES: u64 = 30;

/// Columns over which the integer program is solved, at most.
const MOST_COLUMNS: usize = 6_000;

/// Steps in listing the sets that could be part of an optimum.
const MOST_STEPS: u64 = 400_000;

/// Nodes of an integer program times its columns: seconds.
const MOST_WORK: usize = 1_500_000;

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
    /// Whether it stands for a larger one, whose prices it is to begin.
    pub(super) is_sample: bool,
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

    fn is_large(&self) -> bool {
        self.shelves.len() > MOST_CLASSES
    }

    /// The relative gap that is small enough.
    fn enough(&self) -> f64 {
        if self.is_large() { ENOUGH } else { 0.0 }
    }

    /// How many classes to sample first, where that is worth while.
    fn sample_size(&self) -> Option<usize> {
        if self.is_sample {
            (self.shelves.len() > MOST_SAMPLED).then_some(SMALL_SAMPLE)
        } else {
            self.is_large().then_some(SAMPLE)
        }
    }

    /// How far from a sample's prices those sought are looked for at first. Tried on fleets
    /// of 10,000 hosts: twice as far or half as far takes more rounds.
    fn reach(&self) -> f64 {
        let part = match (self.is_sample, self.step > 0.0) {
            (true, _) => 100.0,
            (false, true) => 40.0,
            (false, false) => 2000.0,
        };
        self.most / part
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

    /// Prices every class: returns the bound, and the best set of each with its profit. The
    /// search begins at the sets that are `known`, by class, and leaves there what it found.
    fn price(&self, prices: &Prices, known: &mut Vec<Vec<(usize, usize)>>) -> (f64, Vec<(f64, Column)>) {
        known.resize(self.shelves.len(), Vec::new());
        // what all hosts lose by it together stays well within what is enough
        let least = self.enough() * self.most / 200.0;
        let worth = |demand| self.goal.worth(prices, demand);
        let search = |from: usize, known: &[Vec<(usize, usize)>]| -> Vec<Best> {
            let each = self.shelves[from..].iter().zip(known);
            each.map(|(shelf, known)| better(shelf, &worth, self.goal.is_shared, known, least)).collect()
        };
        let found = if self.is_large() {
            let middle = self.shelves.len() / 2;
            std::thread::scope(|scope| {
                let first = scope.spawn(|| search(0, &known[..middle]));
                let second = search(middle, &known[middle..]);
                match first.join() {
                    Ok(first) => first.into_iter().chain(second).collect(),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        } else {
            search(0, known)
        };
        let mut bound = self.goal.constant(prices);
        let each = found.into_iter().zip(known).zip(self.shelves).enumerate();
        let bests = each.map(|(class, ((found, known), shelf))| {
            bound -= f64::from(shelf.hosts) * found.bound;
            known.clone_from(&found.items);
            (found.profit, self.column(class, found.items))
        });
        let bests = bests.collect();
        (bound, bests)
    }

    /// Solves for a part of the classes, with as large a part of the quotas: its last prices
    /// are near those of the whole, the best last.
    fn sample(&self, size: usize) -> Vec<Prices> {
        let step = (self.shelves.len() / size) | 1;
        let sampled = self.shelves.iter().step_by(step);
        let sampled: Vec<Shelf> = sampled
            .map(|shelf| Shelf { hosts: shelf.hosts.saturating_mul(SCALE), ..shelf.clone() })
            .collect();
        let demands = self.goal.quotas.len();
        let (all, part) = (hosts_for(self.shelves, demands), hosts_for(&sampled, demands));
        let share =
            |demand: usize, count: u64| count as f64 * part[demand] as f64 / all[demand].max(1) as f64;
        let wanted = self.goal.quotas.iter().zip(&all).map(|(quota, all)| quota.map_or(*all, u64::from));
        let (mut total, mut shared) = (0.0, 0.0);
        for (demand, wanted) in wanted.enumerate() {
            total += wanted as f64;
            shared += share(demand, wanted).floor();
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let goal = Goal {
            hosts: sampled.iter().map(|shelf| shelf.hosts).collect(),
            quotas: (self.goal.quotas.iter().enumerate())
                .map(|(demand, quota)| quota.map(|quota| share(demand, quota.into()) as u32))
                .collect(),
            least: self.goal.least.map(|least| (least as f64 * shared / f64::max(total, 1.0)) as u64),
            ..self.goal
        };
        let stage = Stage { shelves: &sampled, goal, most: self.most, step: 0.0, is_sample: true };
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
        let mut known = Vec::new();
        if let Some(size) = self.sample_size() {
            for prices in self.sample(size) {
                let (bound, bests) = self.price(&prices, &mut known);
                for (_, column) in bests {
                    columns.add(column);
                }
                if bound > highest {
                    highest = bound;
                    near = Some((prices, self.reach()));
                }
            }
            outcome.bound = outcome.bound.max(highest);
        }
        let (mut accuracy, mut most) = (1e-4_f64.max(enough), self.most);
        for _ in 0..MOST_ROUNDS {
            let Some(prices) = master::solve(&self.goal, &columns.list, most, near.as_ref(), accuracy) else {
                break;
            };
            let (bound, bests) = self.price(&prices, &mut known);
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
                } else if is_new && (!is_edge || *reach > self.most / 400.0) {
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
            if is_edge && !is_new {
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
        let least = KEPT.0 * self.shelves.len() + KEPT.1 * self.goal.quotas.len();
        let most = least + least * columns.forgotten / 4;
        if columns.list.len() <= 2 * most {
            return;
        }
        columns.forgotten += 1;
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

    /// Rounds the linear program's choice, of a large fleet at several corners.
    fn round(&self, columns: &[Column], prices: &Prices, outcome: &mut Outcome) {
        let most = if self.is_large() { CORNERS } else { 1 };
        for turn in 0..most {
            let Some(corner) = self.corner(columns, turn) else { continue };
            let taken = round(self.shelves, &self.goal, columns, &corner, prices);
            let taken = if self.is_large() { self.finish(columns, &corner, prices, taken) } else { taken };
            let value = self.value(&taken);
            if value < outcome.value {
                (outcome.value, outcome.taken) = (value, taken);
            } else if outcome.value.is_infinite() && outcome.nearest.is_none() && self.is_large() {
                let placed: u64 =
                    taken.iter().map(|(column, n)| column.items.len() as u64 * u64::from(*n)).sum();
                let short = self.goal.least.map_or(0, |least| least.saturating_sub(placed));
                // each placement less changes the bound by its price
                let bound = self.price(prices, &mut Vec::new()).0 - prices.least * short as f64;
                outcome.nearest = Some((taken, bound));
            }
            if outcome.value - outcome.bound <= 2.0 * self.enough() * outcome.value.abs() {
                break;
            }
        }
    }

    /// Solves in whole numbers for those hosts of `taken` that the linear program's choice, rounded
    /// down, leaves.
    fn finish(
        &self,
        columns: &[Column],
        fractions: &[f64],
        prices: &Prices,
        taken: Vec<(Column, u32)>,
    ) -> Vec<(Column, u32)> {
        let Left { goal, classes, mut kept, rest } = self.left(columns, fractions, &taken);
        let near = columns.iter().filter(|column| classes.contains_key(&column.class));
        let mut near: Vec<(f64, &Column)> =
            near.map(|column| (self.excess(prices, &prices.host, column), column)).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(MOST_LEFT);
        let mut chosen = Pool::default();
        for column in rest.iter().map(|(column, _)| column).chain(near.into_iter().map(|(_, column)| column))
        {
            chosen.add(column.clone());
        }
        let hosts = |column: &Column| {
            rest.iter().filter(|(other, _)| other.is(column)).map(|(_, count)| *count).sum()
        };
        let start: Vec<u32> = chosen.list.iter().map(hosts).collect();
        let within = |column: &Column| Column { class: classes[&column.class], ..column.clone() };
        let choices: Vec<Column> = chosen.list.iter().map(within).collect();
        let start = goal.is_met(&choices, &start).then_some(start);
        let Some(found) = whole::solve(&goal, &choices, start.as_deref(), MOST_NODES) else { return taken };
        kept.extend(chosen.list.into_iter().zip(found.counts).filter(|(_, count)| *count > 0));
        if self.value(&kept) < self.value(&taken) { kept } else { taken }
    }

    /// Parts `taken` in what the linear program takes for certain and the rest, with the goal for that.
    fn left(&self, columns: &[Column], fractions: &[f64], taken: &[(Column, u32)]) -> Left {
        let whole: BTreeMap<_, u32> = (columns.iter().zip(fractions))
            .map(|(column, fraction)| ((column.class, column.items.as_slice()), rounded_down(*fraction)))
            .collect();
        let mut left = Left {
            goal: Goal { hosts: Vec::new(), ..self.goal.clone() },
            classes: BTreeMap::new(),
            kept: Vec::new(),
            rest: Vec::new(),
        };
        for (column, count) in taken {
            let certain = whole.get(&(column.class, column.items.as_slice()));
            let stays = certain.map_or(0, |certain| *certain.min(count));
            if stays > 0 {
                for (demand, _) in &column.items {
                    if let Some(quota) = &mut left.goal.quotas[*demand] {
                        *quota -= stays;
                    }
                }
                let size = column.items.len() as u64 * u64::from(stays);
                left.goal.least = left.goal.least.map(|least| least.saturating_sub(size));
                left.kept.push((column.clone(), stays));
            }
            if *count > stays {
                let next = left.classes.len();
                let class = *left.classes.entry(column.class).or_insert(next);
                left.goal.hosts.resize(left.classes.len(), 0);
                left.goal.hosts[class] += count - stays;
                left.rest.push((column.clone(), count - stays));
            }
        }
        left
    }

    /// The linear program's choice at one of the corners about its optimum, with fewer fractions:
    /// costs are moved by a little, so that hardly two choices cost the same.
    fn corner(&self, columns: &[Column], turn: u32) -> Option<Vec<f64>> {
        let moved = columns.iter().enumerate().map(|(at, column)| {
            // multiples of the golden ratio spread the parts evenly
            let part = (at as f64 * f64::from(turn + 1) * 0.618_033_988_749_894_9).fract();
            Column { cost: column.cost + part * self.most * 1e-5, ..column.clone() }
        });
        let moved: Vec<Column> = moved.collect();
        let solved = |accuracy| master::solve(&self.goal, &moved, self.most, None, accuracy);
        // where the last digits cannot be had
        Some(solved(1e-9).or_else(|| solved(1e-6))?.taken)
    }

    /// Solves in whole numbers over those known columns that could be part of something better.
    fn improve_near(&self, columns: &[Column], prices: &Prices, outcome: &mut Outcome) {
        if self.is_large() {
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
        let whole =
            whole::solve(&self.goal, columns, start.as_deref(), (MOST_WORK / columns.len().max(1)) as u64)?;
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
        if self.is_large() || outcome.value.is_infinite() {
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

/// What of a choice is not certain.
struct Left {
    /// What it is to reach; of its classes only.
    goal: Goal,
    /// By class, its place in the goal.
    classes: BTreeMap<usize, usize>,
    /// What is certain.
    kept: Vec<(Column, u32)>,
    /// What is not.
    rest: Vec<(Column, u32)>,
}

/// The columns known, each once.
#[derive(Default)]
struct Pool {
    list: Vec<Column>,
    known: BTreeSet<(usize, Vec<(usize, usize)>)>,
    /// How often some were dropped.
    forgotten: usize,
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
