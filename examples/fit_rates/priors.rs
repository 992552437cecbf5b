//! What no run determines, and what of the formula is fitted on which board.

use bramble_fleet::facts::{Board, Constant, Constants, Ground, Phase, Term};

/// Which columns a fit has.
pub(crate) struct Columns {
    /// Whether hosts are slower or faster as a whole.
    pub(crate) has_hosts: bool,
    /// Whether types without a constant of their own have one together.
    pub(crate) is_other_fitted: bool,
    /// The runs that a type has to lead in.
    pub(crate) least_points: usize,
    /// Types that may have a constant of their own; none means all.
    own: Option<&'static [&'static str]>,
    /// Constants that are not fitted.
    pub(crate) fixed: Vec<(Term, Constant)>,
}

impl Columns {
    /// Returns whether a kind of work has a constant that is not fitted.
    pub(crate) fn is_fixed(&self, term: &Term) -> bool {
        self.fixed.iter().any(|(fixed, _)| fixed == term)
    }

    /// Returns whether weights of a type may have a constant of their own.
    pub(crate) fn has_own(&self, term: &Term) -> bool {
        let Term::Weights { tensor_type, .. } = term else { return false };
        tensor_type != "F32" && self.own.is_none_or(|own| own.contains(&tensor_type.as_str()))
    }
}

/// Returns what is fitted on a board.
pub(crate) fn columns(board: Board, phase: Phase) -> Columns {
    match (board, phase) {
        (Board::Pi5, Phase::Answer) => Columns {
            has_hosts: true,
            // no host ran more than three types that read alike: one bandwidth for all, but for
            // those of few bits, whose unpacking shows
            is_other_fitted: true,
            least_points: 2,
            own: Some(&["Q2_K", "Q3_K"]),
            fixed: vec![
                (
                    Term::Attention,
                    prior(26.0, "no run has depth: Pi 4's at the ratio of the prompts' attention"),
                ),
                (
                    Term::Layer,
                    prior(
                        0.14,
                        "hosts disagree (0.09 to 0.71): Pi 4's at the ratio of the prompts' Q4_K in the file's layout",
                    ),
                ),
            ],
        },
        (_, Phase::Answer) => Columns {
            has_hosts: true,
            is_other_fitted: false,
            least_points: 2,
            own: None,
            fixed: vec![(
                Term::Attention,
                prior(
                    5.6,
                    "512 and 128 tokens in one llama-bench run of sensura-san/llm-bench without flash attention; with it not measured",
                ),
            )],
        },
        (Board::Pi5, Phase::Prompt) => Columns {
            has_hosts: false,
            is_other_fitted: false,
            least_points: 1,
            own: None,
            fixed: vec![(
                Term::Attention,
                prior(40.0, "no run tells it from weights: Pi 4's at the ratio of Q4_K as each board has it"),
            )],
        },
        (_, Phase::Prompt) => Columns {
            has_hosts: false,
            is_other_fitted: false,
            least_points: 2,
            own: None,
            fixed: Vec::new(),
        },
    }
}

/// Returns the name of the column for all types that have none of their own.
pub(crate) fn other() -> Term {
    Term::weights("other")
}

/// Returns a constant that is not known yet.
pub(crate) fn nothing() -> Constant {
    prior(0.0, "")
}

fn prior(value: f64, origin: &str) -> Constant {
    Constant { value, ground: Ground::Prior, points: 0, origin: origin.to_owned() }
}

/// Adds what has to be known and no run determines.
pub(crate) fn complete(board: Board, phase: Phase, constants: &mut Constants) {
    match (board, phase) {
        (Board::Pi5, Phase::Answer) => {
            // unpacking three bits by tables takes longer than reading them: as on the Pi 4
            for (name, ratio) in [("IQ3_S", 0.53), ("IQ3_XXS", 0.64)] {
                let value = constants.other.value * ratio;
                add(constants, name, false, value, "no run: at Pi 4's ratio to the others");
            }
        }
        (Board::Pi5, Phase::Prompt) => {
            let q4 = value(constants, "Q4_K", true).unwrap_or(124.0);
            let plain = q4 / 1.77;
            add(
                constants,
                "Q4_K",
                false,
                plain,
                "Q4_K repacked by 1.77: 26.7 and 15.08 tok/s of a 3B on two hosts (RASPI5.md; geerlingguy)",
            );
            add(constants, "Q4_0", true, q4, "no run: its kernel resembles Q4_K's");
            add(constants, "IQ4_NL", true, q4, "no run: its kernel resembles Q4_K's");
            for (name, ratio) in [
                ("F16", 0.50),
                ("IQ3_S", 0.36),
                ("IQ3_XXS", 0.49),
                ("IQ4_NL", 0.80),
                ("Q4_0", 0.86),
                ("Q4_1", 0.89),
                ("Q5_0", 0.72),
                ("Q5_1", 0.69),
                ("Q8_0", 0.96),
            ] {
                add(constants, name, false, plain * ratio, "no run: at Pi 4's ratio to Q4_K");
            }
            constants.other = prior(plain * 0.36, "no run: at Pi 4's ratio of its slowest to Q4_K");
        }
        _ => {}
    }
}

fn value(constants: &Constants, tensor_type: &str, is_repacked: bool) -> Option<f64> {
    let term = Term::Weights { tensor_type: tensor_type.to_owned(), is_repacked };
    constants.terms.get(&term).map(|constant| constant.value)
}

/// Adds a prior where nothing is fitted.
fn add(constants: &mut Constants, name: &str, is_repacked: bool, value: f64, origin: &str) {
    let term = Term::Weights { tensor_type: name.to_owned(), is_repacked };
    constants.terms.entry(term).or_insert_with(|| prior(value, origin));
}

/// Returns the rates of loading: 10^9 bytes a second of rewriting weights, 10^6 of storage.
pub(crate) fn loading(board: Board) -> (Constant, Constant) {
    match board {
        Board::Pi5 => (
            prior(2.6, "half of memcpy's 5.3 GB/s (sbc-bench Au3jaA): one read and one write"),
            prior(90.0, "SD card at SDR104, not verified"),
        ),
        _ => (
            prior(1.1, "half of memcpy's 2.3 GB/s (sbc-bench 3OBF): one read and one write"),
            prior(40.0, "SD card at DDR50, not verified"),
        ),
    }
}
