//! The table that the runs give.

use bramble_fleet::facts::{Board, Constants, Phase, Spread, Table};

use super::runs::Run;
use super::{fit, judge, priors};

/// Returns the text of the table that the runs give.
pub(crate) fn text(runs: &[Run]) -> String {
    Table::text(&table(runs, Board::Pi4), &table(runs, Board::Pi5))
}

fn table(runs: &[Run], board: Board) -> Table {
    let (repack, storage) = priors::loading(board);
    let [answer, prompt] =
        [Phase::Answer, Phase::Prompt].map(|phase| constants(board, phase, &fit::rows(runs, board, phase)));
    // the runs of prompts are of too few hosts to tell how these differ: as answers show it
    let board = Spread {
        slow: prompt.board.slow.min(answer.board.slow),
        fast: prompt.board.fast.max(answer.board.fast),
    };
    Table { prompt: Constants { board, ..prompt }, answer, repack, storage }
}

/// Fits constants, with the ranges that follow from what the fit foretells badly.
pub(crate) fn constants(board: Board, phase: Phase, rows: &[fit::Row<'_>]) -> Constants {
    let constants = fit::fit(board, phase, rows);
    let by_model = judge::foretell(board, phase, rows, judge::LeaveOut::Model);
    let (board, host) = judge::spreads(&constants, rows, &by_model);
    Constants { board, host, ..constants }
}
