//! The table of rates: `rates.csv`, a line for each constant with where it comes from.
//! `examples/fit_rates` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::LazyLock;

use super::host::Board;
use super::work::{Phase, Term, Terms};

/// The table that is built in.
const TEXT: &str = include_str!("rates.csv");

/// The first line of the table.
const HEAD: &str = "board,phase,term,value,unit,basis,points,origin";

/// What a constant rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Fitted to runs.
    Fitted,
    /// No run determines it: taken from something that resembles it.
    Prior,
}

impl Ground {
    const fn name(self) -> &'static str {
        match self {
            Self::Fitted => "fitted",
            Self::Prior => "prior",
        }
    }
}

/// A constant, with where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// In the unit that [`Constants`] names.
    pub value: f64,
    /// What it rests on.
    pub ground: Ground,
    /// Runs that have a part in it.
    pub points: usize,
    /// Where it comes from, in words.
    pub origin: String,
}

/// The range that rates are expected in nine times of ten, as parts of the expected rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The slowest.
    pub slow: f64,
    /// The fastest.
    pub fast: f64,
}

/// What a constant that no run determines may be off by, as a natural logarithm: it is added
/// to the range for the part of the time that rests on such.
const PRIOR_SPREAD: f64 = 0.35;

/// The constants of one phase on one board.
///
/// Weights have 10^9 bytes (answer) or operations (prompt) a second, attention has 10^9
/// operations a second, and a layer takes milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Constants {
    /// By kind of work.
    pub terms: BTreeMap<Term, Constant>,
    /// For weights of types that have no constant of their own.
    pub other: Constant,
    /// What to expect on a host of which the board is known.
    pub board: Spread,
    /// What to expect on a host where one model was measured already.
    pub host: Spread,
}

impl Constants {
    /// Returns the constant for a kind of work: for weights, that of the file's layout where
    /// there is none for the CPU's own, and at last that of all other types.
    pub fn find(&self, term: &Term) -> Option<&Constant> {
        let Term::Weights { tensor_type, is_repacked } = term else { return self.terms.get(term) };
        // BF16 is computed as F16 is: two bytes an element and no block format
        let name = if tensor_type == "BF16" { "F16" } else { tensor_type };
        let of = |is_repacked| self.terms.get(&Term::Weights { tensor_type: name.to_owned(), is_repacked });
        let own = if *is_repacked { of(true) } else { None };
        Some(own.or_else(|| of(false)).unwrap_or(&self.other))
    }

    /// Returns the seconds that `amount` of a kind of work takes.
    pub fn seconds_of(&self, term: &Term, amount: f64) -> f64 {
        self.find(term).map_or(0.0, |constant| amount * term.cost(constant.value))
    }

    /// Returns the seconds that all of `terms` take.
    pub fn seconds(&self, terms: &Terms) -> f64 {
        terms.iter().map(|(term, amount)| self.seconds_of(term, *amount)).sum()
    }

    /// Returns the range of rates to expect for `terms`: `spread`, and more where they rest on
    /// constants that no run determines.
    pub fn spread(&self, spread: Spread, terms: &Terms) -> Spread {
        let wider = (PRIOR_SPREAD * self.unfounded(terms)).exp();
        Spread { slow: spread.slow / wider, fast: spread.fast * wider }
    }

    /// Returns which part of these seconds is for weights whose constants no run determines.
    pub fn unfounded(&self, terms: &Terms) -> f64 {
        let is_prior = |term: &Term| {
            let is_weights = matches!(term, Term::Weights { .. });
            is_weights && self.find(term).is_none_or(|constant| constant.ground == Ground::Prior)
        };
        let prior: f64 = terms
            .iter()
            .filter(|(term, _)| is_prior(term))
            .map(|(term, amount)| self.seconds_of(term, *amount))
            .sum();
        prior / self.seconds(terms).max(f64::MIN_POSITIVE)
    }
}

/// What is known of one board.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// For answers.
    pub answer: Constants,
    /// For prompts.
    pub prompt: Constants,
    /// 10^9 bytes a second at which weights are rewritten into the CPU's own layout.
    pub repack: Constant,
    /// 10^6 bytes a second that its usual storage reads in sequence.
    pub storage: Constant,
}

static BUILT_IN: LazyLock<[Table; 2]> = LazyLock::new(|| {
    let lines = lines(TEXT);
    let of = |board| lines.as_deref().and_then(|lines| Table::of(board, lines));
    #[expect(clippy::expect_used, reason = "the text is built in, and a test reads it")]
    [Board::Pi4, Board::Pi5].map(|board| of(board).expect("rates.csv is whole"))
});

impl Table {
    /// Returns the built-in table of the Pi 4: four Cortex-A72 of a BCM2711.
    pub fn pi4() -> &'static Self {
        &BUILT_IN[0]
    }

    /// Returns the built-in table of the Pi 5: four Cortex-A76 of a BCM2712.
    pub fn pi5() -> &'static Self {
        &BUILT_IN[1]
    }

    /// Returns the constants of a phase.
    pub const fn phase(&self, phase: Phase) -> &Constants {
        match phase {
            Phase::Answer => &self.answer,
            Phase::Prompt => &self.prompt,
        }
    }

    fn of(board: Board, lines: &[Line]) -> Option<Self> {
        let all = |place: &str| {
            lines.iter().filter(move |line| line.board == board && line.phase == place).collect::<Vec<_>>()
        };
        let one = |place: &str, term: &str| {
            all(place).into_iter().find(|line| line.term == term).map(|line| line.constant.clone())
        };
        let constants = |phase: Phase| {
            let spread = |of: &str| {
                let end = |end: &str| one(phase.name(), &format!("{end} {of}"));
                Some(Spread { slow: end("slow")?.value, fast: end("fast")?.value })
            };
            let is_term = |line: &&&Line| line.unit != "part" && line.term != "other";
            let term = |line: &&Line| (Term::from(line.term.clone()), line.constant.clone());
            Some(Constants {
                terms: all(phase.name()).iter().filter(is_term).map(term).collect(),
                other: one(phase.name(), "other")?,
                board: spread("board")?,
                host: spread("host")?,
            })
        };
        Some(Self {
            answer: constants(Phase::Answer)?,
            prompt: constants(Phase::Prompt)?,
            repack: one("load", "repack")?,
            storage: one("load", "storage")?,
        })
    }

    /// Returns the text of the table of the two boards that runs are known of.
    pub fn text(pi4: &Self, pi5: &Self) -> String {
        let mut text = format!("{HEAD}\n");
        pi4.render(Board::Pi4, &mut text);
        pi5.render(Board::Pi5, &mut text);
        text
    }

    fn render(&self, board: Board, text: &mut String) {
        let mut line = |place: &str, term: &str, value: &str, unit: &str, constant: &Constant| {
            // writing to a String cannot fail
            let _ = writeln!(
                text,
                "{},{place},{term},{value},{unit},{},{},{}",
                short(board),
                constant.ground.name(),
                constant.points,
                constant.origin
            );
        };
        for phase in [Phase::Answer, Phase::Prompt] {
            let constants = self.phase(phase);
            let rate = if phase == Phase::Answer { "GB/s" } else { "GFLOP/s" };
            for (term, constant) in &constants.terms {
                let unit = match term {
                    Term::Weights { .. } => rate,
                    Term::Layer => "ms",
                    Term::Attention => "GFLOP/s",
                };
                line(phase.name(), &term.to_string(), &three_digits(constant.value), unit, constant);
            }
            line(phase.name(), "other", &three_digits(constants.other.value), rate, &constants.other);
            for (of, spread) in [("board", constants.board), ("host", constants.host)] {
                for (end, value) in [("slow", spread.slow), ("fast", spread.fast)] {
                    let whence = Constant {
                        value,
                        ground: Ground::Fitted,
                        points: constants.terms.values().map(|constant| constant.points).max().unwrap_or(0),
                        origin: match of {
                            "board" => "range over hosts of which nothing is measured".to_owned(),
                            _ => "range over models of a host on which one was measured".to_owned(),
                        },
                    };
                    line(phase.name(), &format!("{end} {of}"), &format!("{value:.2}"), "part", &whence);
                }
            }
        }
        line("load", "repack", &three_digits(self.repack.value), "GB/s", &self.repack);
        line("load", "storage", &three_digits(self.storage.value), "MB/s", &self.storage);
    }
}

fn three_digits(value: f64) -> String {
    let digits = match value {
        100.0.. => 0,
        10.0..100.0 => 1,
        1.0..10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

const fn short(board: Board) -> &'static str {
    match board {
        Board::PiZero2W => "pi-zero2w",
        Board::Pi3 => "pi3",
        Board::Pi4 => "pi4",
        Board::Pi5 => "pi5",
    }
}

/// One line of the table.
struct Line {
    board: Board,
    /// A phase, or `load`.
    phase: String,
    term: String,
    unit: String,
    constant: Constant,
}

impl FromStr for Line {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // the origin is the last cell, so that it may have commas
        let cells: Vec<&str> = text.splitn(8, ',').collect();
        let [board, phase, term, value, unit, basis, points, origin] = cells.as_slice() else {
            return Err(());
        };
        let boards = [Board::PiZero2W, Board::Pi3, Board::Pi4, Board::Pi5];
        Ok(Self {
            board: boards.into_iter().find(|known| short(*known) == *board).ok_or(())?,
            phase: (*phase).to_owned(),
            term: (*term).to_owned(),
            unit: (*unit).to_owned(),
            constant: Constant {
                value: value.parse().map_err(|_| ())?,
                ground: match *basis {
                    "fitted" => Ground::Fitted,
                    "prior" => Ground::Prior,
                    _ => return Err(()),
                },
                points: points.parse().map_err(|_| ())?,
                origin: (*origin).to_owned(),
            },
        })
    }
}

/// Reads a table; none where a line is not one of it.
fn lines(text: &str) -> Option<Vec<Line>> {
    let rest = text.strip_prefix(HEAD)?.trim_start();
    rest.lines().map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_read_and_written_as_it_stands() {
        assert_eq!(Table::text(Table::pi4(), Table::pi5()), TEXT);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_no_table() {
        assert!(lines(HEAD).is_some_and(|lines| lines.is_empty()));
        let good = "pi4,answer,Q4_K,3.62,GB/s,fitted,12,runs, on one board";
        let read = lines(&format!("{HEAD}\n{good}\n")).unwrap();
        assert_eq!((read[0].constant.value, read[0].constant.origin.as_str()), (3.62, "runs, on one board"));
        for bad in ["pi6,answer,Q4_K,1,GB/s,fitted,1,x", "pi4,answer,Q4_K,fast,GB/s,fitted,1,x", "pi4,answer"]
        {
            assert!(lines(&format!("{HEAD}\n{good}\n{bad}\n")).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_type_without_a_constant_takes_the_nearest() {
        let of = |value| Constant { value, ground: Ground::Fitted, points: 1, origin: String::new() };
        let range = Spread { slow: 1.0, fast: 1.0 };
        let constants = Constants {
            terms: [
                (Term::weights("F16"), of(2.0)),
                (Term::weights("Q4_K"), of(4.0)),
                (Term::from("Q4_K repacked".to_owned()), of(8.0)),
                (Term::Layer, of(0.5)),
            ]
            .into(),
            other: Constant { ground: Ground::Prior, ..of(1.0) },
            board: range,
            host: range,
        };
        let find = |name: &str| constants.find(&Term::from(name.to_owned())).map(|found| found.value);
        assert_eq!(find("Q4_K repacked"), Some(8.0));
        assert_eq!(find("F16 repacked"), Some(2.0));
        assert_eq!(find("BF16"), Some(2.0));
        assert_eq!(find("IQ1_S"), Some(1.0));
        assert_eq!(find("attention"), None);
        let terms: Terms =
            [(Term::weights("Q4_K"), 4e9), (Term::weights("IQ1_S"), 3e9), (Term::Layer, 1000.0)].into();
        assert!((constants.seconds(&terms) - 4.5).abs() < 1e-9);
        assert!((constants.unfounded(&terms) - 3.0 / 4.5).abs() < 1e-9);
    }
}
