//! What a host was measured at, by `brambled bench` there.

use serde::{Deserialize, Serialize};

use super::work::Work;
use crate::ids::{Digest, ModelName};
use crate::units::{Bytes, BytesPerSec, TokensPerSec};

/// What a host was measured at: `bench.json` in Bramble's folder there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// The version of this form: [`Bench::FORMAT`].
    pub format: u32,
    /// Reading memory with all cores; none where there was too little of it.
    pub memory: Option<MemoryBench>,
    /// Reading what the weights are stored on; none where nothing honest could be had.
    pub storage: Option<StorageBench>,
    /// The engines that ran.
    pub engines: Vec<EngineBench>,
    /// What could not be measured, or not as it should be, one sentence each.
    pub notes: Vec<String>,
}

impl Bench {
    /// The version of the stored form.
    pub const FORMAT: u32 = 1;
}

/// How fast all cores together read memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryBench {
    /// Bytes per second, in the fastest of the rounds.
    pub read: BytesPerSec,
    /// The size of what was read, larger than any cache of a Pi.
    pub buffer: Bytes,
    /// The threads that read.
    pub threads: u32,
}

/// How fast a file is read that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StorageBench {
    /// Bytes per second, in sequence.
    pub read: BytesPerSec,
    /// How much was read.
    pub bytes: Bytes,
}

/// How fast an engine answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineBench {
    /// The model, as the definition named it.
    pub model: ModelName,
    /// How its weights are made ([`crate::source::Recipe::digest`]).
    pub recipe: Digest,
    /// Threads.
    pub threads: u32,
    /// Whether weights were in the CPU's own layout.
    pub repack: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens per second.
    pub prompt: TokensPerSec,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// Answer tokens per second, after that prompt.
    pub answer: TokensPerSec,
    /// What these tokens cost in work: what makes one model's figure tell of another's.
    pub work: Work,
    /// How well it foretells a text, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextBench>,
}

/// How well a model foretells a text that it has not seen: less is better, and of quants of one model the one that
/// has lost less foretells it better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextBench {
    /// Bits that it takes for a byte of the text: the mean negative logarithm, base 2, of what it gave the text.
    pub bits_per_byte: f64,
    /// Bytes of the text.
    pub bytes: u32,
    /// The tokens that it took.
    pub tokens: u32,
}

impl EngineBench {
    /// Returns how many tokens stood before an answer token, on average.
    pub fn depth(&self) -> f64 {
        f64::from(self.prompt_tokens) + f64::from(self.answer_tokens) / 2.0
    }
}
