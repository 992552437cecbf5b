//! The published runs, as work and the time that it took.

use bramble_fleet::catalog::ModelFacts;
use bramble_fleet::estimate::{Candidate, Serving, work};
use bramble_fleet::facts::{Board, Phase, Term, Terms, planned};
use bramble_fleet::generation::{KvType, LoadMode};
use serde::Deserialize;

use super::models;

/// The runs as they are published.
const TEXT: &str = include_str!("../../tests/planning/runs.csv");

/// A line of `runs.csv`; rates are tokens per second.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Line {
    device: String,
    model: String,
    arch_key: String,
    quant: String,
    pp_n: Option<f64>,
    pp_ts: Option<f64>,
    tg_n: Option<f64>,
    tg_ts: f64,
    build: String,
    repack: String,
    file_bytes_published: Option<u64>,
    file_bytes_computed: Option<u64>,
    bytes_read_per_token_computed: Option<f64>,
    pp_weights_per_token_computed: Option<f64>,
    source: String,
    note: String,
}

/// A run whose model is known tensor by tensor.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The board that it ran on.
    pub(crate) board: Board,
    /// The machine, as it was set up.
    pub(crate) host: String,
    /// The model's key.
    pub(crate) model: String,
    /// The mix as the run names it.
    pub(crate) quant: String,
    /// Whether its weights are known tensor by tensor; else by the size of the file, or by
    /// sizes that are told from the number of parameters.
    pub(crate) is_exact: bool,
    /// What an answer token cost, and the seconds that it took.
    pub(crate) answer: Timed,
    /// What a prompt token cost, and the seconds that it took.
    pub(crate) prompt: Option<Timed>,
    /// Published bytes of all tensors with those that we foretell, where the publisher gives them
    /// to the byte and the mix is one of ours.
    pub(crate) sizes: Option<(u64, u64)>,
    /// What somebody else's program counted for this run: bytes of an answer token, weights of a
    /// prompt token.
    counted: (Option<f64>, Option<f64>),
}

/// Work, and how long it took.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    /// The work.
    pub(crate) terms: Terms,
    /// Seconds for a token.
    pub(crate) seconds: f64,
    /// The relative error that the figure has by being rounded.
    pub(crate) rounding: f64,
}

impl Run {
    /// Returns our counts with those of another program: bytes of an answer token, weights of a
    /// prompt token.
    pub(crate) fn counts(&self) -> Vec<(f64, f64)> {
        let sum = |timed: &Timed| -> f64 {
            let is_weights = |term: &Term| matches!(term, Term::Weights { .. });
            timed.terms.iter().filter(|(term, _)| is_weights(term)).map(|(_, amount)| amount).sum()
        };
        let answer = self.counted.0.filter(|_| self.is_exact).map(|theirs| (sum(&self.answer), theirs));
        let prompt = self.counted.1.zip(self.prompt.as_ref());
        answer.into_iter().chain(prompt.map(|(theirs, prompt)| (sum(prompt) / 2.0, theirs))).collect()
    }

    /// Returns the run of a phase.
    pub(crate) fn timed(&self, phase: Phase) -> Option<&Timed> {
        match phase {
            Phase::Answer => Some(&self.answer),
            Phase::Prompt => self.prompt.as_ref(),
        }
    }
}

/// Every line of the file.
pub(crate) fn lines() -> Result<Vec<Line>, csv::Error> {
    csv::Reader::from_reader(TEXT.as_bytes()).deserialize().collect()
}

/// The runs that can be counted tensor by tensor.
pub(crate) fn runs() -> Result<Vec<Run>, csv::Error> {
    Ok(lines()?.iter().filter_map(run).collect())
}

fn run(line: &Line) -> Option<Run> {
    let board = if line.device.starts_with("Pi 4") { Board::Pi4 } else { Board::Pi5 };
    let key = key(line)?;
    let model = models::model(key)?;
    let weights = weights(line, &model)?;
    let host = planned(if board == Board::Pi4 { "pi4-8gb" } else { "pi5-16gb" })?;
    let serving = Serving {
        context: 1024,
        slots: 1,
        threads: 4,
        micro_batch: 512,
        load: LoadMode::Mmap,
        repack: board == Board::Pi5 && line.repack.starts_with("on"),
        kv: KvType::F16,
    };
    let work = work(&model, &weights, &serving, &host.cpu);
    let step = if line.note.contains("rounded to integers") { 1.0 } else { 0.0 };
    // a figure lies anywhere between two halves of a step
    let timed = |terms, rate: f64| Timed { terms, seconds: 1.0 / rate, rounding: step / rate / 12f64.sqrt() };
    // prompts were computed by other kernels before 2024-04, which no build has any more
    let is_old = ["llama.cpp 2024-03-26", "llamafile-0.6.2"].contains(&line.build.as_str());
    let prompt = line.pp_ts.zip(line.pp_n).filter(|_| !is_old);
    Some(Run {
        board,
        host: format!("{} of {}", line.device, publisher(&line.source)),
        model: key.to_owned(),
        quant: line.quant.clone(),
        is_exact: !line.quant.starts_with("UD-") && !key.starts_with("lfm2"),
        answer: timed(work.of_answer(line.tg_n.unwrap_or(128.0) / 2.0), line.tg_ts),
        prompt: prompt.map(|(rate, length)| timed(work.of_prompt(length), rate)),
        sizes: sizes(line, &weights),
        counted: (line.bytes_read_per_token_computed, line.pp_weights_per_token_computed),
    })
}

/// Returns who published a run: `github.com/geerlingguy`.
fn publisher(source: &str) -> String {
    source.split([' ', '@']).next().unwrap_or_default().split('/').take(2).collect::<Vec<_>>().join("/")
}

/// Returns the model's key, also where the file of runs gives none and the model is known.
fn key(line: &Line) -> Option<&str> {
    let known = [
        ("LFM2 350M", "lfm2-350m"),
        ("LFM2 700M", "lfm2-700m"),
        ("qwen:1.8b", "qwen1.5-1.8b"),
        ("gemma:2b", "gemma-2b"),
        ("phi3:3.8b", "phi3-mini"),
        ("Llama 3.1 8B IT (unsloth)", "llama3.1-8b"),
        ("Ministral 3 8B IT (unsloth)", "ministral3-8b"),
        ("Ministral 3 14B IT (unsloth)", "ministral3-14b"),
        ("Phi-4 Reasoning Plus (unsloth)", "phi4-14b"),
        ("Magistral Small (unsloth)", "magistral-24b"),
    ];
    match line.arch_key.as_str() {
        "" => known.iter().find(|(name, _)| *name == line.model).map(|(_, key)| *key),
        key => Some(key),
    }
}

fn weights(line: &Line, model: &ModelFacts) -> Option<Candidate> {
    match (line.quant.as_str(), line.file_bytes_published) {
        // mixes by hand: nothing is known but the size and the main type
        ("UD-Q3_K_XL", Some(bytes)) => Some(models::of_one_type(model, "Q3_K", bytes)),
        ("UD-Q2_K_XL", Some(bytes)) => Some(models::of_one_type(model, "Q2_K", bytes)),
        (name, _) => models::candidate(model, name),
    }
}

/// The sizes of others than the one publisher of exact figures are rounded.
fn sizes(line: &Line, weights: &Candidate) -> Option<(u64, u64)> {
    let is_exact = line.source.contains("sensura-san") && line.file_bytes_computed.is_some();
    let ours: u64 = weights.tensors.iter().map(|tensor| tensor.bytes).sum();
    Some((line.file_bytes_published.filter(|_| is_exact)?, ours))
}
