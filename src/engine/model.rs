/// A token's number in the model's vocabulary.
pub type Token = i32;

/// A loaded model with its slots; owned by one thread.
///
/// A slot is a sequence with a cache of its own. Positions in it count from 0, and
/// [`Engine::step`] appends to it.
pub trait Engine {
    /// Cuts `text` into tokens. Names of special tokens in it become those tokens. The
    /// token that begins a text is put in front if the model wants it and `text` does not
    /// begin with it already.
    fn tokenize(&self, text: &str) -> Vec<Token>;

    /// Appends the bytes of `token` to `out`: nothing for a control token. They may end
    /// within a character.
    fn piece(&self, token: Token, out: &mut Vec<u8>);

    /// Returns whether `token` ends an answer.
    fn is_end(&self, token: Token) -> bool;

    /// Sets how `slot` samples from here on; `seen` is what penalties count as said.
    fn begin(&mut self, slot: usize, sampling: &Sampling, seen: &[Token]);

    /// Shortens the cache of `slot` to its first `length` tokens. Returns how many are
    /// left: fewer, down to 0, where the model cannot forget just a part.
    fn keep(&mut self, slot: usize, length: usize) -> usize;

    /// Computes `batch`, at most [`Loaded::batch`] entries, and returns one token for each
    /// entry that is to be sampled, in order. After an error every cache is empty.
    fn step(&mut self, batch: &[Entry]) -> Result<Vec<Token>, String>;
}

/// One token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The slot.
    pub slot: usize,
    /// The token.
    pub token: Token,
    /// Its place in the slot's sequence.
    pub position: usize,
    /// Whether the next token is sampled after it.
    pub sample: bool,
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
    /// The chat template that came with the weights.
    pub chat_template: Option<String>,
    /// The text of the token that begins a text; empty if there is none.
    pub bos: String,
    /// The text of the token that ends one; empty if there is none.
    pub eos: String,
    /// The CPU variant that was chosen: `haswell`.
    pub cpu: String,
}

/// How the next token is chosen. The defaults are llama.cpp's, which its field expects;
/// OpenAI's own (temperature 1, nothing cut off) make small models ramble.
#[derive(Debug, Clone, Copy, PartialEq)]
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
        }
    }
}
