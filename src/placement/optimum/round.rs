//! Whole numbers near the optimum of the linear program, without branching.

use super::master::{Column, Goal, Prices};
use super::search::{best, cheapest, sharing};
use super::shelf::Shelf;

/// Takes each column as often as the linear program does (`fractions`), rounded down; fills the hosts
/// that are left with what is worth most at its prices and still short; and adds what is
/// short then to hosts with room, where it costs least.
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
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, then bounded"
        )]
        let count = ((taken + 1e-4).floor() as u32).min(hosts[column.class]).min(short.unwrap_or(u32::MAX));
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
    fill.taken
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
        self.taken.retain(|(_, count)| *count > 0);
    }
}
