//! The figures: `NAME = VALUE`.

use std::fmt::Write as _;

use bramble_fleet::facts::{Board, Phase};

use super::fit::{Row, median, rows};
use super::judge::{LeaveOut, after_one, foretell, mape, mean_error};
use super::runs::Run;
use super::table::constants;

const BOARDS: [(Board, &str); 2] = [(Board::Pi4, "pi4"), (Board::Pi5, "pi5")];
const PHASES: [(Phase, &str); 2] = [(Phase::Answer, "decode"), (Phase::Prompt, "prefill")];
const LEFT_OUT: [(LeaveOut, &str); 3] =
    [(LeaveOut::One, "loo"), (LeaveOut::Model, "lomo"), (LeaveOut::Host, "loho")];

/// Returns every figure, a line for each.
///
/// Errors are means over the runs whose weights are known tensor by tensor; those of which
/// only the file's size is published are in `_all` too. Of the hosts, the one that ran most
/// on a Pi 4 cannot be left out: what remains does not tell types apart.
pub(crate) fn figures(runs: &[Run]) -> String {
    let mut text = String::new();
    let mut figure = |name: &str, value: f64| {
        // writing to a String cannot fail
        let _ = writeln!(text, "{name} = {value:.4}");
    };
    for (phase, phase_name) in PHASES {
        for (board, board_name) in BOARDS {
            let rows = rows(runs, board, phase);
            let hosts = hosts(&rows);
            for (out, out_name) in LEFT_OUT {
                if out == LeaveOut::Host && hosts < 2 {
                    continue;
                }
                let foretold = foretell(board, phase, &rows, out);
                let is_known = |of: &super::judge::Foretold<'_>| of.row.run.is_exact;
                let (exact, rough): (Vec<_>, Vec<_>) = foretold.into_iter().partition(is_known);
                figure(&format!("{phase_name}.{board_name}.{out_name}_mape"), mape(&exact));
                let all: Vec<_> = exact.into_iter().chain(rough).collect();
                figure(&format!("{phase_name}.{board_name}.{out_name}_mape_all"), mape(&all));
            }
        }
    }
    let [mut model, mut host] = [(0, 0), (0, 0)];
    for (board, board_name) in BOARDS {
        let rows = rows(runs, board, Phase::Answer);
        let constants = constants(board, Phase::Answer, &rows);
        figure(&format!("interval.{board_name}.median_halfwidth"), half_width(&constants, &rows));
        figure(
            &format!("decode.{board_name}.after_one_calibration_mape"),
            mean_error(&after_one(&constants, &rows)),
        );
        add(&mut model, covered(board, &rows, |run| run.model.clone()));
        add(&mut host, covered(board, &rows, |run| run.host.clone()));
    }
    figure("interval.coverage", part(model));
    figure("interval.coverage_of_new_hosts", part(host));
    let both: Vec<f64> = BOARDS
        .iter()
        .flat_map(|(board, _)| {
            let rows = rows(runs, *board, Phase::Answer);
            after_one(&constants(*board, Phase::Answer, &rows), &rows)
        })
        .collect();
    figure("decode.after_one_calibration_mape", mean_error(&both));
    let counts: Vec<(f64, f64)> = runs.iter().flat_map(Run::counts).collect();
    let same = counts.iter().filter(|(ours, theirs)| (ours / theirs - 1.0).abs() < 1e-3).count();
    figure("work.counted_as_by_another", part((same, counts.len())));
    let sizes: Vec<(u64, u64)> = runs.iter().filter_map(|run| run.sizes).collect();
    let exact = sizes.iter().filter(|(published, ours)| published == ours).count();
    figure("size.published_exact", part((exact, sizes.len())));
    text
}

fn hosts(rows: &[Row<'_>]) -> usize {
    rows.iter().map(|row| row.run.host.as_str()).collect::<std::collections::BTreeSet<_>>().len()
}

fn half_width(constants: &bramble_fleet::facts::Constants, rows: &[Row<'_>]) -> f64 {
    let of = |row: &Row<'_>| {
        let spread = constants.spread(constants.board, &row.timed.terms);
        (spread.fast - spread.slow) / 2.0
    };
    median(rows.iter().map(of).collect())
}

/// Returns how many runs lie in the range that those with another `key` give, and how many there are.
fn covered(board: Board, rows: &[Row<'_>], key: impl Fn(&Run) -> String) -> (usize, usize) {
    let keys: std::collections::BTreeSet<String> = rows.iter().map(|row| key(row.run)).collect();
    let mut sum = (0, 0);
    for left_out in keys {
        let (test, train): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|row| key(row.run) == left_out);
        // too little is left to fit anything to
        if train.len() < rows.len() / 4 {
            continue;
        }
        let constants = constants(board, Phase::Answer, &train);
        for row in test {
            let spread = constants.spread(constants.board, &row.timed.terms);
            let ratio = constants.seconds(&row.timed.terms) / row.timed.seconds;
            sum.0 += usize::from((spread.slow..=spread.fast).contains(&ratio));
            sum.1 += 1;
        }
    }
    sum
}

fn add(sum: &mut (usize, usize), more: (usize, usize)) {
    sum.0 += more.0;
    sum.1 += more.1;
}

fn part((of, all): (usize, usize)) -> f64 {
    of as f64 / all.max(1) as f64
}

/// Lists every run with what its board's constants say, fitted without it.
pub(crate) fn list(runs: &[Run]) -> String {
    let mut text = String::new();
    for (phase, phase_name) in PHASES {
        for (board, board_name) in BOARDS {
            for of in foretell(board, phase, &rows(runs, board, phase), LeaveOut::One) {
                let (run, rate) = (of.row.run, 1.0 / of.row.timed.seconds);
                let _ = writeln!(
                    text,
                    "{phase_name} {board_name} {:<14} {:<11} {rate:7.2} tok/s {:+6.1} %  {}",
                    run.model,
                    run.quant,
                    100.0 * ((-of.residual()).exp() - 1.0),
                    run.host
                );
            }
        }
    }
    text
}
