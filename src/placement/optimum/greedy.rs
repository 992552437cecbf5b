//! A first placement: class by class, small hosts first.

use super::master::Column;
use super::search::{best, sharing};
use super::shelf::Shelf;

/// Gives each host, those with little memory first, the most models that quotas have left
/// for it, at the least cost.
pub(super) fn greedy(shelves: &[Shelf], quotas: &[Option<u32>]) -> Vec<(Column, u32)> {
    let mut left: Vec<u32> = quotas.iter().map(|quota| quota.unwrap_or(u32::MAX)).collect();
    let mut order: Vec<usize> = (0..shelves.len()).collect();
    order.sort_by_key(|class| (shelves[*class].memory, *class));
    let mut taken = Vec::new();
    for class in order {
        let shelf = &shelves[class];
        let worth = super::dearest(shelf);
        let mut hosts = shelf.hosts;
        while hosts > 0 {
            let value = |demand: usize| if left[demand] > 0 { worth } else { 0.0 };
            let mut items = best(shelf, &value, true).items;
            items.sort_unstable();
            let fewest = items.iter().map(|(demand, _)| left[*demand]).min();
            let count = fewest.map_or(hosts, |fewest| fewest.min(hosts));
            for (demand, _) in &items {
                if quotas[*demand].is_some() {
                    left[*demand] -= count;
                }
            }
            let cost = shelf.cost(&items) + sharing(items.len());
            taken.push((Column { class, items, cost }, count));
            hosts -= count;
        }
    }
    taken
}
