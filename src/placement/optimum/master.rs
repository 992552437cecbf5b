//! The linear program over the sets found so far, and the worth of demands in it.

use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, NonnegativeConeT};

/// A set of models on hosts of a class.
#[derive(Clone)]
pub(super) struct Column {
    pub(super) class: usize,
    /// Each `(demand, way)`, by demand.
    pub(super) items: Vec<(usize, usize)>,
    /// For one host.
    pub(super) cost: f64,
}

/// What the hosts are to reach together, in one stage.
#[derive(Clone)]
pub(super) struct Goal {
    /// Hosts of each class.
    pub(super) hosts: Vec<u32>,
    /// The most placements of each demand; none where hosts do not share them.
    pub(super) quotas: Vec<Option<u32>>,
    /// The fewest placements of all demands together.
    pub(super) least: Option<u64>,
    /// What a placement earns beyond its cost.
    pub(super) reward: f64,
    /// Whether what sharing a host costs counts.
    pub(super) is_shared: bool,
}

/// The worth of placements, at the optimum of the linear program.
#[derive(Clone)]
pub(super) struct Prices {
    /// What a placement of each demand has to pay for its part of the quota.
    pub(super) quota: Vec<f64>,
    /// What any placement earns toward the fewest.
    pub(super) least: f64,
    /// What a host of each class costs at these prices, at least; from the sets known.
    pub(super) host: Vec<f64>,
    /// The value of the program.
    pub(super) value: f64,
    /// How often each column is taken, in fractions.
    pub(super) taken: Vec<f64>,
}

impl Prices {
    /// Whether any price of `other` is further away than `reach`.
    pub(super) fn is_beyond(&self, other: &Self, reach: f64) -> bool {
        let quotas = self.quota.iter().zip(&other.quota);
        quotas.chain([(&self.least, &other.least)]).any(|(own, other)| (own - other).abs() > reach)
    }
}

impl Goal {
    /// Returns what a placement of `demand` is worth.
    pub(super) fn worth(&self, prices: &Prices, demand: usize) -> f64 {
        self.reward + prices.least - prices.quota[demand]
    }

    /// The part of the bound that no class has: what quotas and the fewest are worth.
    pub(super) fn constant(&self, prices: &Prices) -> f64 {
        let quotas = self.quotas.iter().zip(&prices.quota);
        let paid: f64 =
            quotas.map(|(quota, price)| quota.map_or(0.0, |quota| f64::from(quota) * price)).sum();
        self.least.map_or(0.0, |least| least as f64 * prices.least) - paid
    }
}

/// Solves the dual: the largest bound that the known columns allow. Prices stay within
/// `most`, so that there is always an optimum; `accuracy` is relative.
///
/// An interior-point method, as its prices lie in the middle of the optimal ones: a
/// simplex returns corners, between which column generation wanders.
pub(super) fn solve(
    goal: &Goal,
    columns: &[Column],
    most: f64,
    near: Option<&(Prices, f64)>,
    accuracy: f64,
) -> Option<Prices> {
    let demands: Vec<usize> = (0..goal.quotas.len()).filter(|d| goal.quotas[*d].is_some()).collect();
    let mut place = vec![usize::MAX; goal.quotas.len()];
    for (at, demand) in demands.iter().enumerate() {
        place[*demand] = at;
    }
    let (classes, has_least) = (goal.hosts.len(), goal.least.is_some());
    let first = demands.len() + usize::from(has_least);
    let mut weights: Vec<f64> = demands.iter().map(|d| f64::from(goal.quotas[*d].unwrap_or(0))).collect();
    weights.extend(goal.least.map(|least| -(least as f64)));
    weights.extend(goal.hosts.iter().map(|hosts| -f64::from(*hosts)));

    let (mut rows, mut places, mut values, mut right) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    let mut put = |row: usize, at: usize, value: f64| {
        rows.push(row);
        places.push(at);
        values.push(value);
    };
    for column in columns {
        put(row, first + column.class, 1.0);
        for (demand, _) in &column.items {
            if place[*demand] != usize::MAX {
                put(row, place[*demand], -1.0);
            }
        }
        let count = column.items.len() as f64;
        if has_least && count > 0.0 {
            put(row, demands.len(), count);
        }
        right.push(column.cost - goal.reward * count);
        row += 1;
    }
    for at in 0..first {
        let price = |prices: &Prices| demands.get(at).map_or(prices.least, |demand| prices.quota[*demand]);
        let (low, high) = near.map_or((0.0, most), |(prices, reach)| {
            ((price(prices) - reach).max(0.0), (price(prices) + reach).min(most))
        });
        put(row, at, 1.0);
        right.push(high);
        put(row + 1, at, -1.0);
        right.push(-low);
        row += 2;
    }
    let size = first + classes;
    let matrix = CscMatrix::new_from_triplets(row, size, rows, places, values);
    let settings = DefaultSettings {
        verbose: false,
        presolve_enable: false,
        tol_gap_rel: accuracy,
        tol_gap_abs: accuracy,
        tol_feas: accuracy.min(1e-7),
        iterative_refinement_enable: accuracy < 1e-6,
        ..DefaultSettings::default()
    };
    let nothing = CscMatrix::zeros((size, size));
    let mut solver =
        DefaultSolver::new(&nothing, &weights, &matrix, &right, &[NonnegativeConeT(row)], settings).ok()?;
    solver.solve();
    let found = &solver.solution;
    if found.x.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let within = |x: f64| x.clamp(0.0, most);
    let quota = place.iter().map(|at| if *at == usize::MAX { 0.0 } else { within(found.x[*at]) });
    Some(Prices {
        quota: quota.collect(),
        least: if has_least { within(found.x[demands.len()]) } else { 0.0 },
        host: found.x[first..].to_vec(),
        value: -found.obj_val,
        taken: found.z[..columns.len()].to_vec(),
    })
}
