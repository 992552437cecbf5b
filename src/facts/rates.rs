//! How fast boards compute: constants fitted to published runs, or a wide prior.

use super::host::{Board, HostFacts};
use crate::units::BytesPerSec;

/// The rates of one host's processor, memory and storage.
///
/// Decoding reads every weight once per token, so its rates are bytes of weights per
/// second; prompts are computed in blocks, so theirs are operations per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Whether they were fitted to runs on this kind of board; else they are a prior.
    pub is_calibrated: bool,
    table: &'static Table,
    scale_decode: f64,
    scale_prefill: f64,
    /// The slowest and the fastest answer to expect, as parts of the expected one.
    pub answer_spread: (f64, f64),
    /// The same for prompts.
    pub prompt_spread: (f64, f64),
    /// What the storage reads in sequence.
    pub storage: BytesPerSec,
}

/// The constants of one kind of core.
#[derive(Debug, PartialEq)]
struct Table {
    /// GB/s by tensor type while decoding.
    decode: &'static [(&'static str, f64)],
    /// GB/s for types that are not listed.
    decode_other: f64,
    /// Seconds per layer and token beside the reading.
    layer: f64,
    /// The same where the host turns out slow: overhead differs more between systems than bandwidth does.
    layer_slow: f64,
    /// GFLOP/s by tensor type for prompts, in the file's layout.
    plain: &'static [(&'static str, f64)],
    /// GFLOP/s by tensor type for prompts, repacked.
    repacked: &'static [(&'static str, f64)],
    /// GFLOP/s for types that are not listed.
    prefill_other: f64,
    /// GFLOP/s of attention within a prompt.
    attention: f64,
    /// GB/s of rewriting weights into the repacked layout.
    repack: f64,
}

/// BCM2711, four Cortex-A72. Decode: non-negative least squares over 84 llama-bench runs
/// (sensura-san/llm-bench, b7095, 4 threads, flash attention off), 2.0 % leaving one out;
/// prompts over the same runs, 1.8 % without F16.
static PI4: Table = Table {
    decode: &[
        ("F16", 3.67),
        ("Q8_0", 3.80),
        ("Q6_K", 3.60),
        ("Q5_K", 3.65),
        ("Q5_1", 3.71),
        ("Q5_0", 3.66),
        ("Q4_K", 3.62),
        ("Q4_1", 3.60),
        ("Q4_0", 3.60),
        ("IQ4_NL", 3.58),
        ("Q3_K", 3.42),
        ("IQ3_XXS", 2.31),
        ("IQ3_S", 1.90),
    ],
    // the one-constant fit of the same runs
    decode_other: 3.44,
    layer: 0.389e-3,
    layer_slow: 0.389e-3,
    plain: &[
        ("Q4_K", 25.5),
        ("Q8_0", 24.5),
        ("Q4_1", 22.6),
        ("Q4_0", 22.0),
        ("IQ4_NL", 20.3),
        ("Q5_K", 19.2),
        ("Q5_0", 18.4),
        ("Q6_K", 18.0),
        ("Q5_1", 17.7),
        ("Q3_K", 17.0),
        ("IQ3_XXS", 12.5),
        ("IQ3_S", 9.2),
        ("F16", 12.8),
    ],
    repacked: &[],
    prefill_other: 9.2,
    attention: 8.6,
    // memcpy 2.3 GB/s (sbc-bench 3OBF): one read and one write
    repack: 1.1,
};

/// BCM2712, four Cortex-A76. Decode: the median over published hosts (Ollama and
/// llama.cpp, 1B to 14B); per type nothing is known. `layer_slow` is from the fit to one
/// slow host (17 runs, `R / 9.33 + 0.712 ms * L`). Prompts: `Q4_K` the median of that host,
/// `Q8_0` its one run; `Q5_K` and `Q6_K` from llama.cpp PR 19356 and 19360 (LFM2-700M), before
/// and after; `Q5_0` from Gemma-3-1B, whose narrow rows fall back to it. `Q4_0` and `IQ4_NL`
/// stand at `Q4_K`'s rate, which their kernels resemble; the rest at Pi 4's ratio to `Q4_K`.
static PI5: Table = Table {
    decode: &[],
    decode_other: 9.3,
    layer: 0.0,
    layer_slow: 0.712e-3,
    plain: &[
        ("Q4_K", 70.0),
        ("Q4_0", 70.0),
        ("IQ4_NL", 70.0),
        ("Q5_K", 60.0),
        ("Q6_K", 51.0),
        ("Q8_0", 66.0),
        ("Q5_0", 81.0),
        ("Q5_1", 78.0),
        ("Q4_1", 62.0),
        ("Q3_K", 47.0),
        ("F16", 35.0),
    ],
    repacked: &[
        ("Q4_K", 124.0),
        ("Q4_0", 124.0),
        ("IQ4_NL", 124.0),
        ("Q5_K", 115.0),
        ("Q6_K", 135.0),
        ("Q8_0", 66.0),
    ],
    prefill_other: 25.0,
    attention: 23.6,
    // memcpy 5.3 GB/s (sbc-bench Au3jaA): one read and one write
    repack: 2.6,
};

impl Rates {
    /// Returns the rates of `host`: of its board where that is known, else a prior by
    /// what its processor can do.
    pub fn of(host: &HostFacts) -> Self {
        match host.board {
            // On another Pi 4 than the fitted one the constants missed by up to 17 %, always
            // too high; 4.6 % is the 95th percentile leaving one out.
            Some(Board::Pi4) => Self::new(true, &PI4, 1.0, (0.83, 1.05), (0.83, 1.07), 40e6),
            // 6.98 to 12.2 GB/s over hosts and models; prompts 81 to 148 of 124 GFLOP/s
            Some(Board::Pi5) => Self::new(true, &PI5, 1.0, (0.74, 1.31), (0.65, 1.2), 90e6),
            // no run is known: Pi 4's constants by the ratio of memset (1533 and 1680 of 3122 MB/s)
            Some(Board::Pi3) => Self::new(false, &PI4, 0.47, (0.5, 1.3), (0.4, 1.3), 20e6),
            Some(Board::PiZero2W) => Self::new(false, &PI4, 0.5, (0.5, 1.3), (0.35, 1.3), 20e6),
            None => Self::prior(host),
        }
    }

    /// A machine that nothing is known of but its instructions and its cores.
    fn prior(host: &HostFacts) -> Self {
        let has = |name: &str| host.cpu.features.contains(name);
        // Low end: an old laptop with one channel of DDR3; high end: two channels of DDR5.
        let (table, decode) = match (has("avx2"), has("asimddp")) {
            (true, _) => (&PI5, 12.0 / 9.3),
            (false, true) => (&PI5, 1.0),
            (false, false) => (&PI4, 1.0),
        };
        let cores = f64::from(host.cpu.cores.clamp(1, 16));
        let mut rates = Self::new(false, table, decode, (0.4, 4.0), (0.3, 4.0), 200e6);
        // a core with these instructions does at least about what the Pi's core with the like does
        rates.scale_prefill = cores / 4.0;
        rates
    }

    const fn new(
        is_calibrated: bool,
        table: &'static Table,
        scale: f64,
        answer_spread: (f64, f64),
        prompt_spread: (f64, f64),
        storage: f64,
    ) -> Self {
        Self {
            is_calibrated,
            table,
            scale_decode: scale,
            scale_prefill: scale,
            answer_spread,
            prompt_spread,
            storage: BytesPerSec(storage),
        }
    }

    /// Returns the bytes per second at which weights of `tensor_type` are read for an answer.
    pub fn decode(&self, tensor_type: &str) -> f64 {
        1e9 * self.scale_decode * find(self.table.decode, tensor_type).unwrap_or(self.table.decode_other)
    }

    /// Returns the seconds that each layer adds to each answer token, expected and on a slow host.
    pub fn layer_seconds(&self) -> (f64, f64) {
        (self.table.layer / self.scale_decode, self.table.layer_slow / self.scale_decode)
    }

    /// Returns the operations per second of a prompt's products with weights of `tensor_type`.
    pub fn prefill(&self, tensor_type: &str, is_repacked: bool) -> f64 {
        let repacked = is_repacked.then(|| find(self.table.repacked, tensor_type)).flatten();
        let rate = repacked.or_else(|| find(self.table.plain, tensor_type));
        1e9 * self.scale_prefill * rate.unwrap_or(self.table.prefill_other)
    }

    /// Returns the operations per second of attention within a prompt.
    pub fn attention(&self) -> f64 {
        1e9 * self.scale_prefill * self.table.attention
    }

    /// Returns the bytes per second at which weights are rewritten into the repacked layout.
    pub fn repack(&self) -> f64 {
        1e9 * self.scale_decode * self.table.repack
    }
}

fn find(table: &[(&str, f64)], name: &str) -> Option<f64> {
    // BF16 is computed as F16 is: two bytes an element and no block format
    let name = if name == "BF16" { "F16" } else { name };
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}
