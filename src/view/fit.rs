use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Style, Table};
use crate::estimate::Interval;
use crate::facts::Basis;
use crate::fit::{Fit, Form, OnBoard, RULE, Verdict};
use crate::terminal;

const HEADINGS: [&str; 9] =
    ["  QUANT", "FILE", "MEMORY", "LEFT", "TOK/S", "RANGE", "FIRST", "LOSS", "VERDICT"];

/// The columns that a narrow terminal can do without, the first one first: the range, what is left, the file, the loss, the
/// first token.
const LEAST: [usize; 5] = [5, 3, 1, 7, 6];

/// Returns how a model would do on boards: a table for each, with what `auto` picks.
pub fn fit(fit: &Fit, style: Style) -> String {
    let mut text = format!(
        "{}  {} parameters, context {}",
        style.bold(&terminal::line(&fit.model)),
        parameters(fit.parameters),
        fit.context
    );
    if fit.is_forecast {
        text.push_str(", by the catalog's figures");
    }
    text.push('\n');
    for note in &fit.notes {
        let _ = writeln!(text, "{} {}", style.warn("!"), terminal::text(note));
    }
    let mut lacks = BTreeSet::new();
    for board in &fit.boards {
        text.push('\n');
        lacks.extend(on_board(board, fit.is_only, style, &mut text));
    }
    if !lacks.is_empty() {
        let lacks: Vec<&str> = lacks.into_iter().map(|column| HEADINGS[column]).collect();
        let _ = write!(text, "\n{}", style.dim(&format!("Without room here: {}.", lacks.join(", "))));
    }
    let _ = write!(
        text,
        "\n{}\n",
        style.dim(&format!(
            "FIRST: seconds to the first token after a prompt of {} tokens. LOSS: divergence from the original, nats a token (~: corrected or derived).\n{RULE}.",
            crate::fit::PROMPT
        ))
    );
    text
}

/// Writes the table of a board. Returns the columns that had no room.
fn on_board(on: &OnBoard, is_only: bool, style: Style, text: &mut String) -> Vec<usize> {
    let basis = on.forms.first().map_or("", |form| match form.speed.basis {
        Basis::Unknown | Basis::Estimated => ", no run of such a board is known",
        Basis::Calibrated | Basis::Measured => "",
    });
    let _ = writeln!(text, "{}  {} for models{basis}", style.bold(&on.board), on.room);
    let mut table = Table::new(HEADINGS);
    for form in &on.forms {
        let is_pick = on.pick.as_deref() == Some(form.quant.as_str());
        let mark = if is_pick { style.good(">") } else { " ".to_owned() };
        let rate = &form.speed.answer;
        table.row([
            format!("{mark} {}", form.quant),
            form.file.to_string(),
            format!("{}{}", form.need, if form.is_packed { "*" } else { "" }),
            left(form),
            number(rate.expected.0),
            range(rate),
            seconds(form.first_token_seconds),
            form.loss.map_or_else(|| "?".to_owned(), |loss| loss.to_string()),
            verdict(form.verdict, style),
        ]);
    }
    table.narrow(0, &LEAST, style);
    let lacks = LEAST.into_iter().filter(|column| !table.has(HEADINGS[*column])).collect();
    text.push_str(&table.render(0, style));
    if on.forms.iter().any(|form| form.is_packed) {
        let _ = writeln!(
            text,
            "  * with keys and values in Q8_0 (~{} more loss): in F16 there is not room enough",
            crate::estimate::PACKED_KV
        );
    }
    match &on.pick {
        Some(_) => {
            let by = if is_only { "" } else { "auto takes " };
            let _ = writeln!(text, "  {} {by}{}", style.good(">"), on.why);
        }
        None => {
            let _ = writeln!(text, "  {} {}", style.bad("x"), on.why);
        }
    }
    lacks
}

fn left(form: &Form) -> String {
    if form.verdict == Verdict::No { "-".to_owned() } else { format!("{:.0} %", form.left * 100.0) }
}

fn range(rate: &Interval) -> String {
    format!("{} to {}", number(rate.low.0), number(rate.high.0))
}

fn verdict(verdict: Verdict, style: Style) -> String {
    match verdict {
        Verdict::Good => style.good(verdict.word()),
        Verdict::Slow => verdict.word().to_owned(),
        Verdict::Borderline => style.warn(verdict.word()),
        Verdict::No => style.bad(verdict.word()),
    }
}

/// Two digits: `0.93`, `4.5`, `23`.
fn number(value: f64) -> String {
    match value {
        9.95.. => format!("{value:.0}"),
        0.995..9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn seconds(value: f64) -> String {
    if value < 99.5 { format!("{} s", number(value)) } else { format!("{:.0} min", value / 60.0) }
}

/// Shows a number of parameters: `135 M`, `6.7 B`.
fn parameters(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions < 999.5 { format!("{millions:.0} M") } else { format!("{:.1} B", millions / 1e3) }
}
