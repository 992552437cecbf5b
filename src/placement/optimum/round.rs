//! Whole numbers near the optimum of the linear program, without branching.

use super::master::{Column, Goal, Prices};
use super::search::{best, cheapest, sharing};
use super::shelf::Shelf;

/// Of the ways to make room for a demand that is short, so many are tried.
const MOST_TRIES: usize = 60;

/// Takes each column as often as the linear program does (`fractions`), rounded down; fills the hosts
/// that are left with what is worth most at its prices and still short; and adds what is
/// short then to hosts with room, where it costs least, in the end in the place of others that find
/// room elsewhere.
pub(super) fn round(
    shelves: &[Shelf],
    goal: &Goal,
    columns: &[Column],
    fractions: &[f64],
    prices: &Prices,
) -> Vec<(Column, u32)> {
    let mut fill = Fill {
        shelves,
        goal,
        left: goal.quotas.iter().map(|quota| quota.unwrap_or(u32::MAX)).collect(),
        taken: Vec::new(),
    };
    let mut hosts = goal.hosts.clone();
    for (column, taken) in columns.iter().zip(fractions) {
        let short = column.items.iter().map(|(demand, _)| fill.left[*demand]).min();
        let count = rounded_down(*taken).min(hosts[column.class]).min(short.unwrap_or(u32::MAX));
        if count > 0 {
            hosts[column.class] -= count;
            fill.take(column.clone(), count);
        }
    }
    for (class, left) in hosts.into_iter().enumerate() {
        fill.fill(class, left, prices);
    }
    for demand in 0..goal.quotas.len() {
        fill.insert(demand);
    }
    for demand in 0..goal.quotas.len() {
        fill.displace(demand);
    }
    fill.taken.retain(|(_, count)| *count > 0);
    fill.taken
}

/// Returns how often a column is taken for certain, where the linear program takes it so often.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(super) fn rounded_down(fraction: f64) -> u32 {
    (fraction + 1e-4).floor() as u32
}

struct Fill<'a> {
    shelves: &'a [Shelf],
    goal: &'a Goal,
    /// What each demand is short of.
    left: Vec<u32>,
    taken: Vec<(Column, u32)>,
}

impl Fill<'_> {
    fn take(&mut self, column: Column, count: u32) {
        for (demand, _) in &column.items {
            if self.goal.quotas[*demand].is_some() {
                self.left[*demand] -= count;
            }
        }
        self.taken.push((column, count));
    }

    fn column(&self, class: usize, mut items: Vec<(usize, usize)>) -> Column {
        items.sort_unstable();
        let shared = if self.goal.is_shared { sharing(items.len()) } else { 0.0 };
        Column { class, cost: self.shelves[class].cost(&items) + shared, items }
    }

    fn fill(&mut self, class: usize, mut hosts: u32, prices: &Prices) {
        while hosts > 0 {
            let value =
                |demand: usize| if self.left[demand] > 0 { self.goal.worth(prices, demand) } else { 0.0 };
            let items = best(&self.shelves[class], &value, self.goal.is_shared).items;
            let short = items.iter().map(|(demand, _)| self.left[*demand]).min();
            let count = short.map_or(hosts, |short| short.min(hosts));
            let column = self.column(class, items);
            self.take(column, count);
            hosts -= count;
        }
    }

    /// Adds a demand that is short where that costs least.
    fn insert(&mut self, demand: usize) {
        if self.goal.quotas[demand].is_none() || self.left[demand] == 0 {
            return;
        }
        let mut choices: Vec<(f64, usize, Column)> = Vec::new();
        for (at, (column, count)) in self.taken.iter().enumerate() {
            if *count == 0 || column.items.iter().any(|(other, _)| *other == demand) {
                continue;
            }
            let demands: Vec<usize> = column.items.iter().map(|(other, _)| *other).chain([demand]).collect();
            if let Some((_, items)) = cheapest(&self.shelves[column.class], &demands) {
                let with = self.column(column.class, items);
                choices.push((with.cost - column.cost, at, with));
            }
        }
        choices.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, at, with) in choices {
            let count = self.left[demand].min(self.taken[at].1);
            self.taken[at].1 -= count;
            self.left[demand] -= count;
            self.taken.push((with, count));
        }
    }

    /// Adds a demand that is short in the place of another that still finds room elsewhere.
    fn displace(&mut self, demand: usize) {
        if self.goal.quotas[demand].is_none() || self.left[demand] == 0 {
            return;
        }
        let mut choices: Vec<(f64, usize, usize, Column)> = Vec::new();
        for (at, (column, count)) in self.taken.iter().enumerate() {
            if *count == 0 || column.items.iter().any(|(other, _)| *other == demand) {
                continue;
            }
            for (moved, _) in column.items.iter().filter(|(other, _)| self.goal.quotas[*other].is_some()) {
                let rest = column.items.iter().map(|(other, _)| *other).filter(|other| other != moved);
                let demands: Vec<usize> = rest.chain([demand]).collect();
                if let Some((_, items)) = cheapest(&self.shelves[column.class], &demands) {
                    let with = self.column(column.class, items);
                    choices.push((with.cost - column.cost, at, *moved, with));
                }
            }
        }
        choices.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        for (_, at, moved, with) in choices.into_iter().take(MOST_TRIES) {
            if self.left[demand] == 0 {
                return;
            }
            if self.taken[at].1 == 0 {
                continue;
            }
            let short = self.left[moved];
            self.taken[at].1 -= 1;
            self.taken.push((with, 1));
            self.left[demand] -= 1;
            self.left[moved] += 1;
            self.insert(moved);
            if self.left[moved] > short {
                // it found none: nothing was added after
                self.taken.pop();
                self.taken[at].1 += 1;
                self.left[demand] += 1;
                self.left[moved] -= 1;
            }
        }
    }
}
