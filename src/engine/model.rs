use std::path::Path;

use llguidance::toktrie::SimpleVob;

use super::Offload;
use crate::units::Bytes;

/// A token's number in the model's vocabulary.
pub type Token = i32;

/// A loaded model with its slots; owned by one thread.
///
/// A slot is a sequence with a cache of its own. Positions in it count from 0, and
/// [`Engine::step`] appends to it.
pub trait Engine {
    /// Cuts `text` into tokens. Names of special tokens in it become those tokens. Where it
    /// `begins` a text, the token for that is put in front if the model wants it and `text`
    /// does not begin with it already.
    fn tokenize(&self, text: &str, begins: bool) -> Vec<Token>;

    /// Appends the bytes of `token` to `out`, for a control token its name if `special`,
    /// else nothing. They may end within a character. A token that there is not has none.
    fn piece(&self, token: Token, special: bool, out: &mut Vec<u8>);

    /// Returns all tokens as constraints see them.
    fn vocabulary(&self) -> Vocabulary;

    /// Returns whether `token` ends an answer.
    fn is_end(&self, token: Token) -> bool;

    /// Sets how `slot` samples from here on; `seen` is what penalties count as said.
    fn begin(&mut self, slot: usize, sampling: &Sampling, seen: &[Token]);

    /// Shortens the cache of `slot` to its first `length` tokens. Returns how many are
    /// left: fewer, down to 0, where the model cannot forget just a part.
    fn keep(&mut self, slot: usize, length: usize) -> usize;

    /// Fills the cache of slot `to` with the first `length` tokens in that of slot `from`, which stays as it is. Returns
    /// how many are there: fewer, down to 0, where the model cannot take over just a part.
    fn share(&mut self, from: usize, to: usize, length: usize) -> usize;

    /// Reads `prompt`, at most [`Loaded::context`] tokens, with the encoder: from here on `slot`, whose cache is empty
    /// then, answers to that. Only of models that have one ([`Loaded::start`]).
    fn read(&mut self, slot: usize, prompt: &[Token]) -> Result<(), String>;

    /// Computes `batch`, at most [`Loaded::batch`] entries, and returns what is asked of each
    /// entry that something is asked of, in order. After an error every cache is empty.
    fn step(&mut self, batch: &[Entry]) -> Result<Vec<Told>, String>;

    /// Returns the caches of the slots, where they can be written to files.
    fn caches(&mut self) -> Option<&mut dyn Caches> {
        None
    }
}

/// The caches of an [`Engine`]'s slots, as far as they go into files and out of them.
pub trait Caches {
    /// Returns how large the file of `slot` would be.
    fn size(&self, slot: usize) -> Bytes;

    /// Writes the cache of `slot`, which holds `tokens`, to a file at `path`.
    fn write(&self, slot: usize, tokens: &[Token], path: &Path) -> Result<(), String>;

    /// Reads into the empty `slot` what was written to the file at `path`, and returns its tokens, at most `most`.
    /// After an error the slot is empty.
    fn read(&mut self, slot: usize, most: usize, path: &Path) -> Result<Vec<Token>, String>;
}

/// One token to compute.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The slot.
    pub slot: usize,
    /// The token.
    pub token: Token,
    /// Its place in the slot's sequence.
    pub position: usize,
    /// What is to be told of it, if anything.
    pub ask: Option<Ask>,
}

/// Which tokens may be taken, one bit for each.
pub type Allowed = SimpleVob;

/// What is to be told once a token is computed.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The next token, by the slot's [`Sampling`].
    Next {
        /// The tokens that it may be; none: all of them.
        allowed: Option<Allowed>,
        /// How many of the likeliest tokens are told of with it; none tells of nothing.
        report: Option<usize>,
    },
    /// What the model has made of the text so far.
    State,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// The next token.
    Next(Sampled),
    /// The last block's result for the token, normalized as the head takes it: as many numbers as the model is wide.
    State(Vec<f32>),
}

/// A token that was sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: Token,
    /// How likely it was, if that was asked for.
    pub report: Option<Report>,
}

/// How likely tokens were before anything was done to their scores. All are natural
/// logarithms of probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Of the token that was taken.
    pub logprob: f32,
    /// The likeliest, best first.
    pub top: Vec<(Token, f32)>,
}

impl Report {
    /// Works out how likely `token` was by the scores of all tokens, and the `top` likeliest. Of equals the one with
    /// the smaller number comes first.
    pub fn new(scores: &[f32], token: Token, top: usize) -> Self {
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = scores.iter().map(|&score| f64::from(score - most).exp()).sum();
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm as OpenAI's clients take it")]
        let logprob = |score: f32| (f64::from(score - most) - sum.ln()) as f32;
        let mut best: Vec<(Token, f32)> = Vec::with_capacity(top + 1);
        for (token, &score) in (0..).zip(scores) {
            if best.len() < top || best.last().is_some_and(|&(_, worst)| score > worst) {
                let place = best.partition_point(|&(_, other)| other >= score);
                best.insert(place, (token, score));
                best.truncate(top);
            }
        }
        let score = usize::try_from(token).ok().and_then(|token| scores.get(token)).copied();
        Self {
            logprob: score.map_or(f32::NEG_INFINITY, logprob),
            top: best.into_iter().map(|(token, score)| (token, logprob(score))).collect(),
        }
    }
}

/// All tokens of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// The bytes of each token, by its number. Those of a control token are its name; it is no text.
    pub words: Vec<Word>,
    /// The tokens that end an answer, the one that the model itself uses first.
    pub ends: Vec<Token>,
}

/// One token of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is no text but steers the model.
    pub is_control: bool,
}

/// What is known of a model once it is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Slots.
    pub slots: usize,
    /// Tokens that each slot holds.
    pub context: usize,
    /// The most entries of one step; no fewer than there are slots.
    pub batch: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Of a model that reads prompts with an encoder: the token that its answers begin with.
    pub start: Option<Token>,
    /// The chat template that came with the weights.
    pub chat_template: Option<String>,
    /// The text of the token that begins a text; empty if there is none.
    pub bos: String,
    /// The text of the token that ends one; empty if there is none.
    pub eos: String,
    /// The CPU variant that was chosen: `haswell`.
    pub cpu: String,
    /// What of the model graphics processors compute; none where that is nothing.
    pub gpu: Option<Offload>,
}

/// How the next token is chosen. The defaults are llama.cpp's, which its field expects;
/// OpenAI's own (temperature 1, nothing cut off) make small models ramble.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0: the likeliest token, always.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps tokens with this part of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// The seed; none takes one at random.
    pub seed: Option<u64>,
    /// 1 does nothing.
    pub repeat_penalty: f32,
    /// 0 does nothing.
    pub presence_penalty: f32,
    /// 0 does nothing.
    pub frequency_penalty: f32,
    /// What is added to the scores of tokens before all else; of tokens that there are not, nothing.
    pub logit_bias: Vec<(Token, f32)>,
}

impl Sampling {
    /// How many tokens back the penalties look, as in llama.cpp.
    pub const PENALTY_WINDOW: u16 = 64;

    /// Returns whether any penalty does something.
    pub fn has_penalties(&self) -> bool {
        self.repeat_penalty.to_bits() != 1.0_f32.to_bits()
            || self.presence_penalty.abs() > 0.0
            || self.frequency_penalty.abs() > 0.0
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 40,
            min_p: 0.05,
            seed: None,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_add_up_and_the_best_come_first() {
        let scores = [1.0, 3.0, 2.0, 3.0, -40.0];
        let report = Report::new(&scores, 2, 3);
        let tokens: Vec<Token> = report.top.iter().map(|&(token, _)| token).collect();
        assert_eq!(tokens, [1, 3, 2]);
        assert!((report.logprob - report.top[2].1).abs() < f32::EPSILON);
        let all = Report::new(&scores, 0, 9);
        assert_eq!(all.top.len(), scores.len());
        let sum: f64 = all.top.iter().map(|&(_, logprob)| f64::from(logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn what_cannot_be_has_no_likelihood_and_asking_for_none_tells_of_none() {
        let report = Report::new(&[0.0, f32::NEG_INFINITY], 1, 0);
        assert_eq!((report.logprob, report.top.len()), (f32::NEG_INFINITY, 0));
        assert_eq!(Report::new(&[0.0], 7, 0).logprob.to_bits(), f32::NEG_INFINITY.to_bits());
    }
}
