//! The most profitable set of models for one host, exactly.
//!
//! For each number of models that a host may have, branch and bound over the demands and
//! their ways. The bound prices memory and disk (Lagrangian relaxation): what is left of
//! them at these prices, plus the best that each further demand could bring at them.

use std::ops::Range;

use super::shelf::{Group, Rung, Shelf};

/// After so many nodes a search of one host ends, and its bound stays above its value.
const MOST_NODES: u64 = 20_000;

/// Profits closer than this are equal.
const EQUAL: f64 = 1e-10;

/// What `k` models on one host cost because they share it.
pub(super) fn sharing(k: usize) -> f64 {
    let k = k as f64;
    if k < 2.0 { 0.0 } else { k * k.ln() }
}

/// The best set of one host.
pub(super) struct Best {
    /// Its profit: values less costs.
    pub(super) profit: f64,
    /// No set has more.
    pub(super) bound: f64,
    /// Its models, each `(demand, way)`.
    pub(super) items: Vec<(usize, usize)>,
}

/// Searches the best set, where each demand is worth `value`; a demand of no or negative
/// worth is never taken. `is_shared` counts what sharing the host costs.
pub(super) fn best(shelf: &Shelf, value: &dyn Fn(usize) -> f64, is_shared: bool) -> Best {
    better(shelf, value, is_shared, &[], 0.0)
}

/// Searches as [`best`] does from a set that is known, for one that is better by more than `least`.
pub(super) fn better(
    shelf: &Shelf,
    value: &dyn Fn(usize) -> f64,
    is_shared: bool,
    known: &[(usize, usize)],
    least: f64,
) -> Best {
    let groups: Vec<(f64, &Group)> = shelf.groups.iter().map(|g| (value(g.demand), g)).collect();
    let share = |k| if is_shared { sharing(k) } else { 0.0 };
    let worth: f64 = known.iter().map(|(demand, _)| value(*demand)).sum();
    let profit = worth - shelf.cost(known) - share(known.len());
    let mut best = if profit > 0.0 {
        Best { profit, bound: 0.0, items: known.to_vec() }
    } else {
        Best { profit: 0.0, bound: 0.0, items: Vec::new() }
    };
    let least = least.max(EQUAL);
    let mut searches: Vec<Search<'_>> = Vec::new();
    for k in 1..=groups.len() {
        let search = Search::new(&groups, k, share(k), false);
        if search.items.len() < k {
            break;
        }
        searches.push(search);
    }
    searches.sort_by(|a, b| b.quick_bound().total_cmp(&a.quick_bound()));
    for mut search in searches {
        search.step = least;
        if search.quick_bound() <= best.profit + least {
            continue;
        }
        search.run(shelf, &mut best, &share);
    }
    best.bound = best.bound.max(best.profit + if least > EQUAL { least } else { 0.0 });
    best
}

/// Returns the cheapest ways of having exactly `demands` on one host with their cost,
/// without what sharing costs; none where they do not fit together.
pub(super) fn cheapest(shelf: &Shelf, demands: &[usize]) -> Option<(f64, Vec<(usize, usize)>)> {
    let chosen: Vec<&Group> = shelf.groups.iter().filter(|g| demands.contains(&g.demand)).collect();
    if chosen.len() != demands.len() {
        return None;
    }
    let dearest = |group: &&Group| group.ways.last().map_or(0.0, |way| way.cost);
    // more than all of them together, so that leaving one out never pays
    let worth = 1.0 + chosen.iter().map(dearest).sum::<f64>();
    let groups: Vec<(f64, &Group)> = chosen.into_iter().map(|group| (worth, group)).collect();
    let mut best = Best { profit: 0.0, bound: 0.0, items: Vec::new() };
    let mut search = Search::new(&groups, demands.len(), 0.0, false);
    if search.items.len() < demands.len() {
        return None;
    }
    search.run(shelf, &mut best, &|_| 0.0);
    let is_whole = best.items.len() == demands.len();
    is_whole.then(|| (shelf.cost(&best.items), best.items))
}

pub(super) struct Item<'a> {
    pub(super) demand: usize,
    value: f64,
    pub(super) ways: &'a [Rung],
    /// What its best way brings, rooms free.
    top: f64,
    /// What its best way brings at the prices of the rooms.
    pub(super) reduced: f64,
    /// Which of the edges are its.
    edge: Range<usize>,
}

/// The search among sets of exactly `k` models; smaller ones that it meets count, too.
pub(super) struct Search<'a> {
    pub(super) items: Vec<Item<'a>>,
    k: usize,
    share: f64,
    memory_price: f64,
    disk_price: f64,
    /// The sum of what the first items bring at the prices.
    sums: Vec<f64>,
    /// The most that one of the items from a place on brings with rooms free.
    tops: Vec<f64>,
    nodes: u64,
    /// What is better by no more than this is not sought.
    step: f64,
    now: Vec<(usize, usize)>,
    /// By item, the ways that are best at some price of memory, by cost.
    edges: Vec<Rung>,
    /// A sharper bound, once a search is long.
    table: Option<Table>,
}

/// What the items from a place on could bring, by dynamic programming over memory in coarse
/// units. Sizes are rounded down, so that it is a bound; disk is left out.
struct Table {
    /// Bytes.
    unit: u64,
    /// By place, then by how many may be taken, then by units of memory.
    most: Vec<f64>,
}

/// Units of memory that a table has.
const UNITS: usize = 128;

/// Nodes after which a search is long.
const LONG: u64 = 200;

impl<'a> Search<'a> {
    /// Of demands that could only lower the profit, takes none but with `takes_all`.
    pub(super) fn new(groups: &[(f64, &'a Group)], k: usize, share: f64, takes_all: bool) -> Self {
        let together = |way: &&Rung| way.most_together as usize >= k;
        let items = groups.iter().filter_map(|(value, group)| {
            let top = value - group.ways.iter().find(together)?.cost;
            let item = Item {
                demand: group.demand,
                value: *value,
                ways: &group.ways,
                top,
                reduced: top,
                edge: 0..0,
            };
            (top > 0.0 || takes_all).then_some(item)
        });
        let mut items: Vec<Item<'_>> = items.collect();
        items.sort_by(|a, b| b.top.total_cmp(&a.top).then(a.demand.cmp(&b.demand)));
        Self {
            items,
            k,
            share,
            memory_price: 0.0,
            disk_price: 0.0,
            sums: Vec::new(),
            tops: Vec::new(),
            nodes: 0,
            step: EQUAL,
            now: Vec::new(),
            edges: Vec::new(),
            table: None,
        }
    }

    /// What the best `k` would bring with rooms free.
    fn quick_bound(&self) -> f64 {
        self.items.iter().take(self.k).map(|item| item.top).sum::<f64>() - self.share
    }

    fn run(&mut self, host: &Shelf, best: &mut Best, share: &dyn Fn(usize) -> f64) {
        self.price_rooms(host);
        self.go(host, 0, self.k, 0.0, host.memory, host.disk, best, share);
    }

    fn fits(&self, way: &Rung) -> bool {
        way.most_together as usize >= self.k
    }

    fn rent(&self, way: &Rung) -> f64 {
        // a disk without limit has no price
        let disk = if self.disk_price > 0.0 { self.disk_price * way.disk as f64 } else { 0.0 };
        self.memory_price * way.memory as f64 + disk
    }

    pub(super) fn room(&self, memory: u64, disk: u64) -> f64 {
        let disk = if self.disk_price > 0.0 { self.disk_price * disk as f64 } else { 0.0 };
        self.memory_price * memory as f64 + disk
    }

    /// Chooses the prices of memory and disk that make the bound at the root least.
    pub(super) fn price_rooms(&mut self, host: &Shelf) {
        self.find_edges();
        let (memory, disk) = self.taken();
        if memory > host.memory || disk > host.disk {
            let has_disk = disk > host.disk || self.most_disk() > host.disk;
            for _ in 0..if has_disk { 3 } else { 1 } {
                self.memory_price = self.bisect(host, |search, price| search.memory_price = price, true);
                if has_disk {
                    self.disk_price = self.bisect(host, |search, price| search.disk_price = price, false);
                }
            }
        }
        self.reduce();
        self.items.sort_by(|a, b| b.reduced.total_cmp(&a.reduced).then(a.demand.cmp(&b.demand)));
        self.sums = vec![0.0];
        let mut sum = 0.0;
        for item in &self.items {
            sum += item.reduced.max(0.0);
            self.sums.push(sum);
        }
        self.tops = vec![0.0; self.items.len() + 1];
        for at in (0..self.items.len()).rev() {
            self.tops[at] = self.tops[at + 1].max(self.items[at].top);
        }
    }

    fn make_table(&mut self, host: &Shelf) {
        let unit = host.memory / UNITS as u64 + 1;
        let (width, layer) = (UNITS + 1, (self.k + 1) * (UNITS + 1));
        let mut most = vec![0.0_f64; (self.items.len() + 1) * layer];
        for at in (0..self.items.len()).rev() {
            let item = &self.items[at];
            let (own, after) = most.split_at_mut((at + 1) * layer);
            let own = &mut own[at * layer..];
            own.copy_from_slice(&after[..layer]);
            let mut least = usize::MAX;
            for way in item.ways.iter().filter(|way| self.fits(way)) {
                let (units, gain) =
                    (usize::try_from(way.memory / unit).unwrap_or(UNITS), item.value - way.cost);
                // a dearer way that takes no less helps nowhere
                if units >= least || gain <= 0.0 {
                    continue;
                }
                least = units;
                for count in 1..=self.k {
                    let (to, from) = (count * width, (count - 1) * width);
                    for room in units..width {
                        let sum = gain + after[from + room - units];
                        own[to + room] = own[to + room].max(sum);
                    }
                }
            }
        }
        self.table = Some(Table { unit, most });
    }

    /// The most that `left` items from a place on can bring in this room.
    fn rest(&self, at: usize, left: usize, memory: u64, disk: u64) -> f64 {
        let end = (at + left).min(self.items.len());
        let priced = self.room(memory, disk) + self.sums[end] - self.sums[at];
        let mut least = priced.min(left as f64 * self.tops[at]);
        if let Some(table) = &self.table {
            let room = usize::try_from(memory / table.unit).unwrap_or(UNITS).min(UNITS);
            least = least.min(table.most[(at * (self.k + 1) + left) * (UNITS + 1) + room]);
        }
        least
    }

    /// What the `k` of largest ways would take of the disk.
    fn most_disk(&self) -> u64 {
        let largest = |item: &Item<'_>| item.ways.iter().map(|way| way.disk).max().unwrap_or(0);
        let mut sizes: Vec<u64> = self.items.iter().map(largest).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.iter().take(self.k).fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// The bound is convex in one price: the slope's sign is that of the room that is left.
    fn bisect(&mut self, host: &Shelf, set: impl Fn(&mut Self, f64), is_memory: bool) -> f64 {
        let room = if is_memory { host.memory } else { host.disk };
        let is_over = |search: &mut Self, price: f64| {
            set(search, price);
            let (memory, disk) = search.taken();
            (if is_memory { memory } else { disk }) > room
        };
        if !is_over(self, 0.0) {
            return 0.0;
        }
        let top = self.items.iter().map(|item| item.top).fold(0.0, f64::max);
        let (mut low, mut high) = (0.0, 4.0 * top * self.k as f64 / room.max(1) as f64);
        while is_over(self, high) {
            (low, high) = (high, high * 8.0);
            if !high.is_finite() || high > 1e30 {
                break;
            }
        }
        for _ in 0..14 {
            let middle = f64::midpoint(low, high);
            if is_over(self, middle) { low = middle } else { high = middle }
        }
        set(self, high);
        high
    }

    /// What the relaxed choice takes at the prices: memory and disk.
    fn taken(&mut self) -> (u64, u64) {
        let chosen = self.items.iter().filter_map(|item| {
            let best = self.best_way(item)?;
            (best.0 > 0.0).then_some(best)
        });
        let mut chosen: Vec<(f64, &Rung)> = chosen.collect();
        if chosen.len() > self.k {
            chosen.select_nth_unstable_by(self.k - 1, |a, b| b.0.total_cmp(&a.0));
            chosen.truncate(self.k);
        }
        let sum =
            |size: fn(&Rung) -> u64| chosen.iter().fold(0_u64, |sum, (_, way)| sum.saturating_add(size(way)));
        (sum(|way| way.memory), sum(|way| way.disk))
    }

    /// Finds for each item the lower hull of its ways' memory and cost.
    fn find_edges(&mut self) {
        let edges = &mut self.edges;
        edges.clear();
        for item in &mut self.items {
            let first = edges.len();
            for way in item.ways.iter().filter(|way| way.most_together as usize >= self.k) {
                if edges[first..].last().is_some_and(|last| last.memory <= way.memory) {
                    continue;
                }
                while let [.., before, last] = edges[first..] {
                    let saved = |a: &Rung, b: &Rung| (a.memory - b.memory) as f64;
                    let is_above = (last.cost - before.cost) * saved(&last, way)
                        >= (way.cost - last.cost) * saved(&before, &last);
                    if !is_above {
                        break;
                    }
                    edges.pop();
                }
                edges.push(*way);
            }
            item.edge = first..edges.len();
        }
    }

    fn best_way<'b>(&'b self, item: &'b Item<'_>) -> Option<(f64, &'b Rung)> {
        let reduced = |way: &Rung| item.value - way.cost - self.rent(way);
        if self.disk_price > 0.0 {
            let ways = item.ways.iter().filter(|way| self.fits(way));
            return ways.map(|way| (reduced(way), way)).max_by(|a, b| a.0.total_cmp(&b.0));
        }
        let mut best: Option<(f64, &Rung)> = None;
        for way in &self.edges[item.edge.clone()] {
            let own = reduced(way);
            if best.is_some_and(|(most, _)| own < most) {
                break;
            }
            best = Some((own, way));
        }
        best
    }

    fn reduce(&mut self) {
        for at in 0..self.items.len() {
            let reduced = self.best_way(&self.items[at]).map_or(0.0, |(reduced, _)| reduced);
            self.items[at].reduced = reduced;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the state of a recursion")]
    fn go(
        &mut self,
        host: &Shelf,
        at: usize,
        left: usize,
        value: f64,
        memory: u64,
        disk: u64,
        best: &mut Best,
        share: &dyn Fn(usize) -> f64,
    ) {
        self.nodes += 1;
        let profit = value - share(self.now.len());
        if profit > best.profit + EQUAL {
            best.profit = profit;
            best.items.clone_from(&self.now);
        }
        if left == 0 {
            return;
        }
        if self.nodes > LONG && self.table.is_none() {
            self.make_table(host);
        }
        for i in at..self.items.len() {
            let bound = value - self.share + self.rest(i, left, memory, disk);
            if bound <= best.profit + self.step || i + left > self.items.len() {
                return;
            }
            if self.nodes > MOST_NODES {
                best.bound = best.bound.max(bound);
                return;
            }
            let (demand, worth, ways) = (self.items[i].demand, self.items[i].value, self.items[i].ways);
            for way in ways {
                if way.memory > memory || way.disk > disk || !self.fits(way) {
                    continue;
                }
                let gain = worth - way.cost;
                if gain <= 0.0
                    || value - self.share + gain + (left - 1) as f64 * self.tops[i + 1]
                        <= best.profit + self.step
                {
                    break;
                }
                let rest = self.rest(i + 1, left - 1, memory - way.memory, disk - way.disk);
                if value - self.share + gain + rest <= best.profit + self.step {
                    continue;
                }
                self.now.push((demand, way.index));
                self.go(
                    host,
                    i + 1,
                    left - 1,
                    value + gain,
                    memory - way.memory,
                    disk - way.disk,
                    best,
                    share,
                );
                self.now.pop();
                // nothing follows that the room could be kept for
                if left == 1 {
                    break;
                }
            }
        }
    }
}
