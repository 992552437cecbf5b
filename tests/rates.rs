//! Holds the table of rates to the published runs that it was fitted to, and the formula's
//! count of bytes and operations to what another program counted.

#[path = "../examples/fit_rates/fit.rs"]
mod fit;
#[path = "../examples/fit_rates/judge.rs"]
#[expect(dead_code, reason = "some of it is for the example's figures alone")]
mod judge;
#[path = "../examples/fit_rates/models.rs"]
mod models;
#[path = "../examples/fit_rates/priors.rs"]
mod priors;
#[path = "../examples/fit_rates/runs.rs"]
mod runs;
#[path = "../examples/fit_rates/table.rs"]
mod table;

use bramble_fleet::facts::{Board, Ground, Phase, Table};
use table::{constants, text};

#[test]
fn the_table_is_what_the_runs_give() {
    let runs = runs::runs().expect("the runs are read");
    let built_in = Table::text(Table::pi4(), Table::pi5());
    assert_eq!(
        text(&runs),
        built_in,
        "write it anew: cargo run --no-default-features --example fit_rates -- --write"
    );
}

#[test]
fn bytes_and_operations_are_those_that_another_program_counted() {
    let runs = runs::runs().expect("the runs are read");
    let mut counted = 0;
    for run in &runs {
        for (ours, theirs) in run.counts() {
            assert!((ours / theirs - 1.0).abs() < 1e-3, "{} {}: {ours} for {theirs}", run.model, run.quant);
            counted += 1;
        }
    }
    assert!(counted > 160, "{counted} were counted by both");
}

#[test]
fn sizes_are_those_of_the_published_files() {
    let runs = runs::runs().expect("the runs are read");
    let (mut all, mut wrong) = (0, Vec::new());
    for run in &runs {
        let Some((published, ours)) = run.sizes else { continue };
        all += 1;
        if published != ours {
            wrong.push(format!("{} {}: {ours} for {published}", run.model, run.quant));
        }
    }
    assert!(all > 60, "{all} files");
    assert!(wrong.len() <= 1, "{wrong:#?}");
}

#[test]
fn answers_left_out_of_the_fit_are_foretold() {
    let runs = runs::runs().expect("the runs are read");
    let error = |board, out| {
        let rows = fit::rows(&runs, board, Phase::Answer);
        let foretold = judge::foretell(board, Phase::Answer, &rows, out);
        judge::mape(&foretold.into_iter().filter(|of| of.row.run.is_exact).collect::<Vec<_>>())
    };
    let of = |board| [judge::LeaveOut::One, judge::LeaveOut::Model].map(|out| error(board, out));
    let ([one4, model4], [one5, model5]) = (of(Board::Pi4), of(Board::Pi5));
    assert!(one4 < 0.05 && model4 < 0.06, "Pi 4: {one4} and {model4}");
    assert!(one5 < 0.12 && model5 < 0.12, "Pi 5: {one5} and {model5}");
}

#[test]
fn a_constant_that_no_run_determines_says_so() {
    for (table, board) in [(Table::pi4(), Board::Pi4), (Table::pi5(), Board::Pi5)] {
        for phase in [Phase::Answer, Phase::Prompt] {
            let runs = runs::runs().expect("the runs are read");
            let fitted = constants(board, phase, &fit::rows(&runs, board, phase));
            assert_eq!(
                fitted.terms.keys().collect::<Vec<_>>(),
                table.phase(phase).terms.keys().collect::<Vec<_>>()
            );
            for (term, constant) in &table.phase(phase).terms {
                let is_fitted = constant.ground == Ground::Fitted;
                assert_eq!(is_fitted, constant.points > 0, "{board:?} {phase:?} {term}");
                assert!(!constant.origin.is_empty(), "{board:?} {phase:?} {term}");
            }
        }
    }
}
