//! How well the fit foretells what it has not seen, and the ranges that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use bramble_fleet::facts::{Board, Constants, Phase, Spread};

use super::fit::{Row, fit};

/// What is left out of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveOut {
    /// One run.
    One,
    /// All runs of a model.
    Model,
    /// All runs of a host.
    Host,
}

/// A run that was not in the fit, with the constants of all others.
pub(crate) struct Foretold<'a> {
    /// The run.
    pub(crate) row: Row<'a>,
    /// The constants without it.
    pub(crate) constants: Constants,
}

impl Foretold<'_> {
    /// Returns the logarithm of how many times faster the run was than foretold.
    pub(crate) fn residual(&self) -> f64 {
        (self.constants.seconds(&self.row.timed.terms) / self.row.timed.seconds).ln()
    }

    /// Returns the relative error of the foretold rate.
    pub(crate) fn error(&self) -> f64 {
        ((-self.residual()).exp() - 1.0).abs()
    }
}

/// Foretells every run from a fit without it.
pub(crate) fn foretell<'a>(board: Board, phase: Phase, rows: &[Row<'a>], out: LeaveOut) -> Vec<Foretold<'a>> {
    let key = |at: usize, row: &Row<'_>| match out {
        LeaveOut::One => at.to_string(),
        LeaveOut::Model => row.run.model.clone(),
        LeaveOut::Host => row.run.host.clone(),
    };
    let keys: BTreeSet<String> = rows.iter().enumerate().map(|(at, row)| key(at, row)).collect();
    let mut all = Vec::new();
    for left_out in keys {
        let (test, train): (Vec<_>, Vec<_>) =
            rows.iter().cloned().enumerate().partition(|(at, row)| key(*at, row) == left_out);
        let train: Vec<Row<'_>> = train.into_iter().map(|(_, row)| row).collect();
        if train.is_empty() {
            continue;
        }
        let constants = fit(board, phase, &train);
        all.extend(test.into_iter().map(|(_, row)| Foretold { row, constants: constants.clone() }));
    }
    all
}

/// The mean absolute error, as a part.
pub(crate) fn mape(foretold: &[Foretold<'_>]) -> f64 {
    foretold.iter().map(Foretold::error).sum::<f64>() / foretold.len().max(1) as f64
}

/// Nine in ten runs of a host are on one side of this many standard deviations.
const NINE_IN_TEN: f64 = 1.28;

/// Returns the range of a board's rates: nine in ten runs of the slowest host that is known are
/// faster than its low end, nine in ten of the fastest slower than its high end, by what runs of
/// one host differ by when their model was left out. Within a host on which one model was measured: nine in ten of [`after_one`].
pub(crate) fn spreads(
    constants: &Constants,
    rows: &[Row<'_>],
    by_model: &[Foretold<'_>],
) -> (Spread, Spread) {
    let mean = |logs: &[f64]| logs.iter().sum::<f64>() / logs.len() as f64;
    let mut hosts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in rows {
        hosts.entry(&row.run.host).or_default().push(log(constants, row));
    }
    let hosts: Vec<f64> = hosts.values().map(|logs| mean(logs)).collect();
    let mut left_out: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for foretold in by_model.iter().filter(|foretold| foretold.row.timed.rounding == 0.0) {
        left_out.entry(&foretold.row.run.host).or_default().push(foretold.residual());
    }
    let (mut squares, mut free) = (0.0, 0usize);
    for logs in left_out.values().filter(|logs| logs.len() > 1) {
        let middle = mean(logs);
        squares += logs.iter().map(|log| (log - middle).powi(2)).sum::<f64>();
        free += logs.len() - 1;
    }
    let within = NINE_IN_TEN * (squares / free.max(1) as f64).sqrt();
    let [slow, fast] = [hosts.iter().copied().fold(0.0, f64::min), hosts.iter().copied().fold(0.0, f64::max)];
    let board = Spread { slow: (slow - within).exp(), fast: (fast + within).exp() };
    let others = after_one(constants, rows);
    let host = Spread { slow: quantile(others.clone(), 0.05), fast: quantile(others, 0.95) };
    (board, host)
}

/// The logarithm of how many times faster a run was than its board's constants say.
fn log(constants: &Constants, row: &Row<'_>) -> f64 {
    (constants.seconds(&row.timed.terms) / row.timed.seconds).ln()
}

/// Calibrates a host by each of its runs in turn, and foretells its others: the ratios of what
/// was to what was foretold.
pub(crate) fn after_one(constants: &Constants, rows: &[Row<'_>]) -> Vec<f64> {
    let mut all = Vec::new();
    for (at, one) in rows.iter().enumerate() {
        let others =
            rows.iter().enumerate().filter(|(other, row)| *other != at && row.run.host == one.run.host);
        all.extend(others.map(|(_, row)| (log(constants, row) - log(constants, one)).exp()));
    }
    all
}

/// Returns the value below which this part of the values lies.
pub(crate) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = part * values.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor(), at.ceil());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the list")]
    let of = |at: f64| values.get(at as usize).copied().unwrap_or(f64::NAN);
    of(low) + (of(high) - of(low)) * (at - low)
}

/// Returns the mean relative error of rates that were foretold, from what they were by that.
pub(crate) fn mean_error(ratios: &[f64]) -> f64 {
    ratios.iter().map(|ratio| (1.0 / ratio - 1.0).abs()).sum::<f64>() / ratios.len().max(1) as f64
}
