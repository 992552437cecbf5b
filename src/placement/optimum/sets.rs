//! Every set of models for one host that could be part of an optimum.

use super::search::{Search, cheapest, sharing};
use super::shelf::{Group, Shelf};

/// Returns every set whose profit at these values is at least `least`, each in its cheapest
/// ways, as `(demand, way)` by demand; none where that takes more than `most` steps.
pub(super) fn sets(
    shelf: &Shelf,
    value: &dyn Fn(usize) -> f64,
    is_shared: bool,
    least: f64,
    most: &mut u64,
) -> Option<Vec<Vec<(usize, usize)>>> {
    let groups: Vec<(f64, &Group)> = shelf.groups.iter().map(|g| (value(g.demand), g)).collect();
    let mut found = Vec::new();
    if least <= 0.0 {
        found.push(Vec::new());
    }
    for k in 1..=groups.len() {
        let share = if is_shared { sharing(k) } else { 0.0 };
        let mut search = Search::new(&groups, k, share, true);
        if search.items.len() < k {
            break;
        }
        search.price_rooms(shelf);
        let room = search.room(shelf.memory, shelf.disk);
        let choices = search.items.iter().map(|item| {
            let ways = item.ways.iter().filter(|way| way.most_together as usize >= k);
            let memory = ways.map(|way| way.memory).min().unwrap_or(u64::MAX);
            (item.demand, item.reduced, memory)
        });
        let mut walk = Walk {
            choices: choices.collect(),
            least: least + share - room,
            chosen: Vec::new(),
            complete: Vec::new(),
            most,
        };
        walk.go(0, k, 0.0, shelf.memory)?;
        for demands in walk.complete {
            let Some((cost, mut items)) = cheapest(shelf, &demands) else { continue };
            let worth: f64 = demands.iter().map(|demand| value(*demand)).sum();
            if worth - cost - share >= least {
                items.sort_unstable();
                found.push(items);
            }
        }
    }
    Some(found)
}

/// Walks the sets of one size, by what their demands bring at the prices of the rooms.
struct Walk<'a> {
    /// Demand, what it brings, the least memory that it takes; the best first.
    choices: Vec<(usize, f64, u64)>,
    least: f64,
    chosen: Vec<usize>,
    complete: Vec<Vec<usize>>,
    most: &'a mut u64,
}

impl Walk<'_> {
    fn go(&mut self, at: usize, left: usize, sum: f64, memory: u64) -> Option<()> {
        *self.most = self.most.checked_sub(1)?;
        if left == 0 {
            self.complete.push(self.chosen.clone());
            return Some(());
        }
        for i in at..self.choices.len() {
            let Some(next) = self.choices.get(i..i + left) else { break };
            if sum + next.iter().map(|(_, reduced, _)| reduced).sum::<f64>() < self.least {
                break;
            }
            let (demand, reduced, takes) = self.choices[i];
            if takes > memory {
                continue;
            }
            self.chosen.push(demand);
            self.go(i + 1, left - 1, sum + reduced, memory - takes)?;
            self.chosen.pop();
        }
        Some(())
    }
}
