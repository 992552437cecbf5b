//! A model's vocabulary, and how the next token is taken from it.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use llama_cpp_2::vocab::LlamaVocab;

use crate::engine::{Allowed, Blanks, Report, Sampled, Sampling, Token, Vocabulary, Word};

/// The vocabulary of a loaded model.
pub(super) struct Words<'model> {
    pub(super) vocab: LlamaVocab<'model>,
    pub(super) blanks: Blanks,
    /// Whether texts that are read end with the token for that, as encoders have it.
    pub(super) adds_end: bool,
}

impl Words<'_> {
    pub(super) fn tokenize(&self, text: &str, begins: bool) -> Vec<Token> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut tokens: Vec<Token> = self
            .vocab
            .tokenize(self.blanks.drop(text).as_bytes(), false, true)
            .into_iter()
            .map(|token| token.0)
            .collect();
        let (bos, eos) = (self.vocab.bos().0, self.vocab.eos().0);
        if begins && self.vocab.should_add_bos() && bos != -1 && tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
        if begins && self.adds_end && eos != -1 && tokens.last() != Some(&eos) {
            tokens.push(eos);
        }
        tokens
    }

    pub(super) fn piece(&self, token: Token, special: bool, out: &mut Vec<u8>) {
        if (0..self.vocab.n_tokens()).contains(&token) {
            self.vocab.token_to_piece_into(LlamaToken::new(token), out, special, None);
        }
    }

    pub(super) fn vocabulary(&self) -> Vocabulary {
        let word = |token: Token| {
            let mut bytes = Vec::new();
            self.piece(token, false, &mut bytes);
            let is_control = bytes.is_empty();
            if is_control {
                self.piece(token, true, &mut bytes);
            }
            Word { bytes, is_control }
        };
        let tokens = 0..self.vocab.n_tokens();
        let own = [self.vocab.eot().0, self.vocab.eos().0].into_iter().find(|&token| token != -1);
        let others = tokens.clone().filter(|&token| Some(token) != own && self.is_end(token));
        Vocabulary { ends: own.into_iter().chain(others).collect(), words: tokens.map(word).collect() }
    }

    pub(super) fn is_end(&self, token: Token) -> bool {
        self.vocab.is_eog(LlamaToken::new(token))
    }

    /// Returns what takes the next tokens by `sampling`; `seen` is what penalties count as said.
    pub(super) fn sampler(&self, sampling: &Sampling, seen: &[Token]) -> LlamaSampler {
        let mut sampler = sampler(sampling, self.vocab.n_tokens());
        if sampling.has_penalties() {
            sampler.accept_many(seen.iter().map(|&token| LlamaToken::new(token)));
        }
        sampler
    }
}

/// Takes the next token by the scores of the entry `index` of the last batch: one that is `allowed`.
pub(super) fn next(
    context: &LlamaContext<'_>,
    index: i32,
    sampler: &mut LlamaSampler,
    allowed: Option<&Allowed>,
    report: Option<usize>,
) -> Result<Sampled, String> {
    let token = match allowed {
        None => sampler.sample(context, index),
        Some(allowed) => {
            let is_allowed = |token: LlamaToken| allowed.is_allowed(token.0.unsigned_abs());
            let candidates = context.candidates_ith(index).filter(|one| is_allowed(one.id()));
            let mut candidates = LlamaTokenDataArray::from_iter(candidates, false);
            sampler.apply(&mut candidates);
            let token = candidates.selected_token().ok_or("no token may be taken")?;
            sampler.accept(token);
            token
        }
    };
    let report = report.map(|top| Report::new(context.get_logits_ith(index), token.0, top));
    Ok(Sampled { token: token.0, report })
}

/// Puts the samplers in llama.cpp's own order.
fn sampler(sampling: &Sampling, vocabulary: i32) -> LlamaSampler {
    let mut chain = Vec::new();
    if !sampling.logit_bias.is_empty() {
        let bias = |&(token, bias): &(Token, f32)| LlamaLogitBias::new(LlamaToken::new(token), bias);
        let biases: Vec<_> = sampling.logit_bias.iter().map(bias).collect();
        chain.push(LlamaSampler::logit_bias(vocabulary, &biases));
    }
    if sampling.has_penalties() {
        chain.push(LlamaSampler::penalties(
            vocabulary,
            i32::from(Sampling::PENALTY_WINDOW),
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        ));
    }
    if sampling.temperature <= 0.0 {
        chain.push(LlamaSampler::greedy());
        return LlamaSampler::chain(chain, true);
    }
    if sampling.top_k > 0 {
        chain.push(LlamaSampler::top_k(i32::try_from(sampling.top_k).unwrap_or(i32::MAX)));
    }
    chain.push(LlamaSampler::top_p(sampling.top_p, 1));
    chain.push(LlamaSampler::min_p(sampling.min_p, 1));
    chain.push(LlamaSampler::temp(sampling.temperature));
    let seed = sampling.seed.unwrap_or_else(|| getrandom::u64().unwrap_or_default());
    #[expect(clippy::cast_possible_truncation, reason = "llama.cpp's seeds have 32 bits")]
    chain.push(LlamaSampler::dist(seed as u32));
    LlamaSampler::chain(chain, true)
}
