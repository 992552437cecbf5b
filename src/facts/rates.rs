//! How fast a host computes: by its board's table, by what it was measured at, or a wide prior.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::bench::{Bench, EngineBench};
use super::health::Medium;
use super::host::{Board, HostFacts};
use super::table::{Constants, Spread, Table};
use super::work::{Phase, Terms, Work};
use crate::units::BytesPerSec;

/// The rates of one host's processor, memory and storage.
///
/// Decoding reads every weight once per token, so its rates are bytes of weights per
/// second; prompts are computed in blocks, so theirs are operations per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// What they rest on; never [`Basis::Measured`], which is said of a model.
    pub basis: Basis,
    table: &'static Table,
    answer: Scale,
    prompt: Scale,
    /// Bytes of memory per second that nothing can exceed, where that was measured.
    ceiling: Option<BytesPerSec>,
    /// What the storage reads in sequence.
    pub storage: BytesPerSec,
}

/// What a figure of speed rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// On nothing but the processor's instructions and cores: good for comparing models with one
    /// another on this host, not for promising anything.
    Unknown,
    /// On a board's memory against that of boards with runs, or on the memory's bandwidth.
    Estimated,
    /// On constants fitted to runs on this kind of board, or to what this host was measured at.
    Calibrated,
    /// On this model, measured on this host.
    Measured,
}

/// How a host compares with its board's table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    /// The host's rates, as parts of the table's.
    factor: f64,
    spread: Spread,
}

/// What llama.cpp decodes with, as part of what all cores read of memory, on machines that
/// are no Pi. No run is known where both were measured: decoding is bound by memory, so it is
/// all of it at most, and half of it is the least that was taken to be possible.
const PART_OF_READ: Part = Part { expected: 0.75, slow: 0.6, fast: 1.33 };

struct Part {
    expected: f64,
    slow: f64,
    fast: f64,
}

/// What a host is believed that says what it was measured at, in bytes or tokens per second. All that ever was measured
/// lies far within, and what is computed of it stays a number.
const BELIEVED: RangeInclusive<f64> = 1e-6..=1e15;

/// How many times as fast as its board's table a host is believed to be.
const BELIEVED_FACTORS: RangeInclusive<f64> = 1e-6..=1e6;

impl Rates {
    /// Returns the rates of `host`: by an engine that was measured there, else of its board,
    /// else a prior by what its processor can do.
    pub fn of(host: &HostFacts) -> Self {
        let mut rates = Self::of_board(host);
        if let Some(rate) = host.disk.as_ref().and_then(|disk| storage(host.board, disk.medium?)) {
            rates.storage = rate;
        }
        if let Some(bandwidth) = host.memory.bandwidth {
            rates.take_bandwidth(bandwidth, host);
        }
        match host.installed.as_ref().and_then(|installed| installed.bench.as_ref()) {
            Some(bench) => rates.with(bench, host),
            None => rates,
        }
    }

    /// Returns whether a rate that a host says it was measured at, in bytes or tokens per second, can be one.
    pub fn believes(rate: f64) -> bool {
        BELIEVED.contains(&rate)
    }

    fn of_board(host: &HostFacts) -> Self {
        let own = |table: &'static Table| Self {
            basis: Basis::Calibrated,
            table,
            answer: Scale { factor: 1.0, spread: table.answer.board },
            prompt: Scale { factor: 1.0, spread: table.prompt.board },
            ceiling: None,
            storage: BytesPerSec(table.storage.value * 1e6),
        };
        // No run is known of the smaller ones: Pi 4's constants by the ratio of memset (1533 and
        // 1680 of 3122 MB/s).
        match host.board {
            Some(Board::Pi4) => own(Table::pi4()),
            Some(Board::Pi5) => own(Table::pi5()),
            Some(Board::Pi3) => Self::prior(Table::pi4(), (0.47, 0.47), (0.5, 1.3), 20e6),
            Some(Board::PiZero2W) => Self::prior(Table::pi4(), (0.5, 0.5), (0.4, 1.3), 20e6),
            None => Self::unknown(host),
        }
    }

    /// A machine that nothing is known of but its instructions and its cores.
    fn unknown(host: &HostFacts) -> Self {
        let has = |name: &str| host.cpu.features.contains(name);
        // Low end: an old laptop with one channel of DDR3; high end: two channels of DDR5.
        let (table, answer) = match (has("avx2"), has("asimddp")) {
            (true, _) => (Table::pi5(), 1.3),
            (false, true) => (Table::pi5(), 1.0),
            (false, false) => (Table::pi4(), 1.0),
        };
        // a core with these instructions does at least about what the Pi's core with the like does
        let prompt = f64::from(host.cpu.cores.clamp(1, 16)) / 4.0;
        Self { basis: Basis::Unknown, ..Self::prior(table, (answer, prompt), (0.35, 4.0), 200e6) }
    }

    /// Takes a table by factors for answers and prompts, with a range and the storage's rate.
    fn prior(table: &'static Table, factors: (f64, f64), range: (f64, f64), storage: f64) -> Self {
        let scale = |factor| Scale { factor, spread: Spread { slow: range.0, fast: range.1 } };
        Self {
            basis: Basis::Estimated,
            table,
            answer: scale(factors.0),
            prompt: scale(factors.1),
            ceiling: None,
            storage: BytesPerSec(storage),
        }
    }

    /// Takes what was measured on the host into account, as far as that can be.
    fn with(mut self, bench: &Bench, host: &HostFacts) -> Self {
        if let Some(storage) = bench.storage.filter(|storage| Self::believes(storage.read.0)) {
            self.storage = storage.read;
        }
        if let Some(memory) = bench.memory {
            self.take_bandwidth(memory.read, host);
        }
        let answer = |engine: &EngineBench| {
            self.table.answer.seconds(&engine.work.of_answer(engine.depth())) * engine.answer.0
        };
        let prompt = |engine: &EngineBench| {
            let terms = engine.work.of_prompt(f64::from(engine.prompt_tokens));
            self.table.prompt.seconds(&terms) * engine.prompt.0
        };
        let of = |part: &dyn Fn(&EngineBench) -> f64| mean(bench.engines.iter().map(part));
        let (answer, prompt) = (of(&answer), of(&prompt));
        if let Some(factor) = answer {
            self.basis = Basis::Calibrated;
            self.answer = Scale { factor, spread: self.table.answer.host };
        }
        if let Some(factor) = prompt {
            self.prompt = Scale { factor, spread: self.table.prompt.host };
        }
        self
    }

    /// A read test is no figure of decoding. On a Pi no run is known where both were measured,
    /// so there it is a ceiling and nothing else; elsewhere the prior is so wide that even a
    /// rough relation narrows it.
    fn take_bandwidth(&mut self, read: BytesPerSec, host: &HostFacts) {
        if !Self::believes(read.0) {
            return;
        }
        self.ceiling = Some(read);
        if host.board.is_none() {
            let table = self.table.answer.other.value * 1e9;
            self.basis = Basis::Estimated;
            self.answer = Scale {
                factor: read.0 * PART_OF_READ.expected / table,
                spread: Spread { slow: PART_OF_READ.slow, fast: PART_OF_READ.fast },
            };
        }
    }

    /// Returns the seconds that `terms` take.
    pub fn seconds(&self, phase: Phase, terms: &Terms) -> f64 {
        self.constants(phase).seconds(terms) / self.scale(phase).factor
    }

    /// Returns the range of rates to expect for `terms`, as parts of the expected rate: wider
    /// where they rest on constants that no run determines.
    pub fn spread(&self, phase: Phase, terms: &Terms) -> Spread {
        self.constants(phase).spread(self.scale(phase).spread, terms)
    }

    /// Returns the least seconds that an answer token of `work` can take, where the host's
    /// memory was measured: as long as reading it does.
    pub fn least_seconds(&self, work: &Work) -> Option<f64> {
        self.ceiling.map(|ceiling| work.bytes() / ceiling.0.max(1.0))
    }

    /// Returns the bytes per second at which weights are rewritten into the CPU's own layout.
    pub fn repack(&self) -> f64 {
        1e9 * self.answer.factor * self.table.repack.value
    }

    fn constants(&self, phase: Phase) -> &'static Constants {
        self.table.phase(phase)
    }

    const fn scale(&self, phase: Phase) -> &Scale {
        match phase {
            Phase::Answer => &self.answer,
            Phase::Prompt => &self.prompt,
        }
    }
}

/// What a disk other than the board's usual one reads in sequence; none where that is the usual one.
///
/// Of these, `NVMe` on a Pi 5 is published (416 MB/s by hdparm, one lane of the second generation,
/// blog.jeanbruenn.info); the rest are priors.
const fn storage(board: Option<Board>, medium: Medium) -> Option<BytesPerSec> {
    let megabytes = match (board, medium) {
        // USB 2 carries no more
        (Some(Board::Pi3 | Board::PiZero2W), Medium::Usb) | (Some(_), Medium::Card) => return None,
        (None, Medium::Card) => 80.0,
        (Some(_), Medium::Nvme) => 416.0,
        (None, Medium::Nvme) => 1500.0,
        (_, Medium::Usb) => 300.0,
        (_, Medium::Ssd) => 400.0,
        (_, Medium::Spinning) => 120.0,
    };
    Some(BytesPerSec(megabytes * 1e6))
}

/// The geometric mean of factors that can be; none of none.
fn mean(factors: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = factors.filter(|factor| BELIEVED_FACTORS.contains(factor)).map(f64::ln).collect();
    if logs.is_empty() { None } else { Some((logs.iter().sum::<f64>() / logs.len() as f64).exp()) }
}
