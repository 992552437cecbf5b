//! From runs to constants: non-negative least squares on the relative error of the time.
//!
//! A run's time is what the library's own formula says of its work, times how slow the run's
//! host is. Constants are those of the median host, so that a board on which one host ran
//! most does not become that host.

use std::collections::{BTreeMap, BTreeSet};

use bramble_fleet::facts::{Board, Constant, Constants, Ground, Phase, Spread, Term, Terms};
use ndarray::{Array1, Array2};

use super::priors::{self, Columns};
use super::runs::{Run, Timed};

/// What runs of one host and mix differ by on their own, relative.
const NOISE: f64 = 0.05;

/// A type has a constant of its own where it is at least this part of the work of a run.
const LEADING: f64 = 0.2;

/// The most rounds of taking turns between constants and hosts.
const ROUNDS: usize = 60;
/// Hosts that change less than this, relative, have settled.
const SETTLED: f64 = 1e-6;

const ANY: Spread = Spread { slow: 1.0, fast: 1.0 };

/// A run's work and time, with whose they are.
#[derive(Clone)]
pub(crate) struct Row<'a> {
    /// The run.
    pub(crate) run: &'a Run,
    /// Its work and time.
    pub(crate) timed: &'a Timed,
}

impl Row<'_> {
    fn weight(&self) -> f64 {
        NOISE / (NOISE * NOISE + self.timed.rounding * self.timed.rounding).sqrt()
    }
}

/// Returns the rows of a board and a phase.
pub(crate) fn rows(runs: &[Run], board: Board, phase: Phase) -> Vec<Row<'_>> {
    let of_board = runs.iter().filter(|run| run.board == board);
    of_board.filter_map(|run| Some(Row { run, timed: run.timed(phase)? })).collect()
}

/// Fits the constants of a board and a phase.
pub(crate) fn fit(board: Board, phase: Phase, rows: &[Row<'_>]) -> Constants {
    let columns = priors::columns(board, phase);
    let origin = origin(rows);
    let fitted = |value: f64, points: usize| Constant {
        value,
        ground: Ground::Fitted,
        points,
        origin: format!("fitted to runs of {origin}"),
    };
    let mut constants = Constants {
        terms: columns.fixed.iter().cloned().collect(),
        other: priors::nothing(),
        board: ANY,
        host: ANY,
    };

    // all types as one
    let one = solve(&constants, &columns, rows, &BTreeSet::new());
    if let Some(cost) = one.get(&priors::other()) {
        let value = priors::other().value(*cost);
        constants.other = fitted(value, rows.len());
        if !columns.is_other_fitted {
            constants.other.ground = Ground::Prior;
            constants.other.origin = format!("all types of {origin} as one");
        }
    }

    // each type that led often enough by itself
    let leading = |term: &Term| rows.iter().filter(|row| share(row, term) >= LEADING).count();
    let mut own = BTreeMap::new();
    for term in rows.iter().flat_map(|row| row.timed.terms.keys()) {
        let points = leading(term);
        if columns.has_own(term) && points >= columns.least_points {
            own.insert(term.clone(), points);
        }
    }
    let solved = solve(&constants, &columns, rows, &own.keys().cloned().collect());
    for (term, cost) in solved {
        let is_time = matches!(term, Term::Layer | Term::Attention);
        if term == priors::other() {
            constants.other = fitted(term.value(cost), rows.len());
        } else if is_time {
            constants.terms.insert(term.clone(), fitted(term.value(cost), rows.len()));
        } else if let Some(points) = own.get(&term).filter(|_| cost > 0.0) {
            constants.terms.insert(term.clone(), fitted(term.value(cost), *points));
        }
    }
    priors::complete(board, phase, &mut constants);
    constants
}

/// Which part of a run's weights is of one type.
fn share(row: &Row<'_>, term: &Term) -> f64 {
    let is_weights = |term: &Term| matches!(term, Term::Weights { .. });
    let all: f64 =
        row.timed.terms.iter().filter(|(term, _)| is_weights(term)).map(|(_, amount)| amount).sum();
    if is_weights(term) { row.timed.terms.get(term).map_or(0.0, |amount| amount / all) } else { 0.0 }
}

fn origin(rows: &[Row<'_>]) -> String {
    let mut publishers: Vec<&str> =
        rows.iter().filter_map(|row| row.run.host.rsplit("github.com/").next()).collect();
    publishers.sort_unstable();
    publishers.dedup();
    publishers.join("; ").replace("ggml-org", "llama.cpp pull requests")
}

/// Returns the seconds of one byte, operation or layer, for each column.
fn solve(
    constants: &Constants,
    columns: &Columns,
    rows: &[Row<'_>],
    own: &BTreeSet<Term>,
) -> BTreeMap<Term, f64> {
    let column_of = |term: &Term| -> Option<Term> {
        match term {
            Term::Layer | Term::Attention => (!columns.is_fixed(term)).then(|| term.clone()),
            Term::Weights { .. } if own.contains(term) => Some(term.clone()),
            Term::Weights { .. } if own.is_empty() || columns.is_other_fitted => Some(priors::other()),
            Term::Weights { .. } => None,
        }
    };
    let names: BTreeSet<Term> =
        rows.iter().flat_map(|row| row.timed.terms.keys()).filter_map(column_of).collect();
    let names: Vec<Term> = names.into_iter().collect();
    if names.is_empty() || rows.is_empty() {
        return BTreeMap::new();
    }
    // columns of like size: bytes are 10^9 and layers 10
    let scale = |term: &Term| term.cost(1.0);
    let mut slowness: BTreeMap<&str, f64> = rows.iter().map(|row| (row.run.host.as_str(), 1.0)).collect();
    let mut costs = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut left = Array2::<f64>::zeros((rows.len(), names.len()));
        let mut right = Array1::<f64>::zeros(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let slow = slowness[row.run.host.as_str()];
            let unit = row.weight() * slow / row.timed.seconds;
            right[at] = row.weight();
            for (term, amount) in &row.timed.terms {
                match column_of(term).and_then(|column| names.iter().position(|name| *name == column)) {
                    Some(column) => left[(at, column)] += amount * scale(&names[column]) * unit,
                    None => right[at] -= constants.seconds_of(term, *amount) * unit,
                }
            }
        }
        let (solution, _) = nnls::nnls(left.view(), right.view());
        costs = names.iter().zip(&solution).map(|(name, x)| (name.clone(), x * scale(name))).collect();
        if !columns.has_hosts {
            break;
        }
        let seconds = |terms: &Terms| -> f64 {
            terms
                .iter()
                .map(|(term, amount)| match column_of(term).and_then(|column| costs.get(&column)) {
                    Some(cost) => amount * cost,
                    None => constants.seconds_of(term, *amount),
                })
                .sum()
        };
        let before = slowness.clone();
        for (host, slow) in &mut slowness {
            let own = rows.iter().filter(|row| row.run.host == *host);
            let logs = own.map(|row| (row.weight(), (row.timed.seconds / seconds(&row.timed.terms)).ln()));
            let (weights, sum) =
                logs.fold((0.0, 0.0), |(all, sum), (weight, log)| (all + weight, sum + weight * log));
            *slow = (sum / weights).exp();
        }
        let middle = median(slowness.values().copied().collect());
        for slow in slowness.values_mut() {
            *slow /= middle;
        }
        for cost in costs.values_mut() {
            *cost *= middle;
        }
        if before.iter().all(|(host, old)| (slowness[host] / old - 1.0).abs() < SETTLED) {
            break;
        }
    }
    costs
}

/// The middle one; of two in the middle, what lies between them.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
