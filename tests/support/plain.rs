//! A plain loop over `llama_decode`, with the libraries that the engine has.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use bramble_fleet::generation::EngineSpec;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

/// Tokens of an answer.
pub(crate) const LENGTH: u32 = 64;

/// What a plain loop makes of a prompt.
pub(crate) struct Plain {
    /// The bytes of each token.
    pub(crate) tokens: Vec<Vec<u8>>,
    /// How far the likeliest token's score was above the second one's.
    pub(crate) gaps: Vec<f32>,
}

/// llama.cpp in this process, with the libraries that the engine has.
pub(crate) struct Llama {
    backend: LlamaBackend,
    model: LlamaModel,
}

impl Llama {
    pub(crate) fn load(weights: &Path) -> Self {
        bramble_fleet::engine::load_libraries(Path::new(concat!(env!("BRAMBLE_BUILT_LLAMA"), "/backends")));
        let backend = LlamaBackend::init().unwrap();
        let params = LlamaModelParams::default().with_use_mmap(true);
        let model = LlamaModel::load_from_file(&backend, weights, &params).unwrap();
        Self { backend, model }
    }

    /// Computes the prompt in steps of `step` tokens, then takes the likeliest token time after time.
    pub(crate) fn run(&self, prompt: &[i32], spec: &EngineSpec) -> Plain {
        let step = spec.micro_batch;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(spec.context))
            .with_n_batch(step)
            .with_n_ubatch(step)
            .with_n_threads(1)
            .with_n_threads_batch(1);
        let mut context = self.model.new_context(&self.backend, params).unwrap();
        let vocab = self.model.vocab();
        let mut batch = LlamaBatch::new(step as usize, 1);
        let (mut position, mut next) = (0, Vec::from(prompt));
        let mut plain = Plain { tokens: Vec::new(), gaps: Vec::new() };
        while plain.tokens.len() < LENGTH as usize {
            let mut last = 0;
            for tokens in next.chunks(step as usize) {
                batch.clear();
                for (nth, &token) in tokens.iter().enumerate() {
                    let is_last = nth + 1 == tokens.len();
                    batch.add(LlamaToken::new(token), position, &[0], is_last).unwrap();
                    position += 1;
                }
                context.decode(&mut batch).unwrap();
                last = i32::try_from(tokens.len()).unwrap() - 1;
            }
            let scores = context.get_logits_ith(last);
            let mut best: Vec<usize> = (0..scores.len()).collect();
            best.select_nth_unstable_by(1, |&one, &other| scores[other].total_cmp(&scores[one]));
            let (first, second) =
                if scores[best[0]] >= scores[best[1]] { (best[0], best[1]) } else { (best[1], best[0]) };
            let token = LlamaToken::new(i32::try_from(first).unwrap());
            if vocab.is_eog(token) {
                break;
            }
            plain.gaps.push(scores[first] - scores[second]);
            plain.tokens.push(vocab.token_to_piece(token, true, None));
            next = vec![token.0];
        }
        plain
    }

    pub(crate) fn tokens(&self, text: &str) -> Vec<i32> {
        self.model.vocab().tokenize(text.as_bytes(), true, true).into_iter().map(|token| token.0).collect()
    }

    /// Takes the likeliest token `count` times, and returns how long each took, the first after the prompt left out.
    pub(crate) fn time(&self, prompt: &[i32], count: u32, spec: &EngineSpec) -> Duration {
        let threads = i32::try_from(spec.threads).unwrap();
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(spec.context))
            .with_n_batch(spec.micro_batch)
            .with_n_ubatch(spec.micro_batch)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let mut context = self.model.new_context(&self.backend, params).unwrap();
        let mut sampler = LlamaSampler::chain([LlamaSampler::greedy()], true);
        let mut batch = LlamaBatch::new(prompt.len(), 1);
        for (position, &token) in (0..).zip(prompt) {
            batch.add(LlamaToken::new(token), position, &[0], true).unwrap();
        }
        context.decode(&mut batch).unwrap();
        let mut token = sampler.sample(&context, batch.n_tokens() - 1);
        let first = i32::try_from(prompt.len()).unwrap();
        let began = Instant::now();
        for position in (first..).take(count as usize) {
            batch.clear();
            batch.add(token, position, &[0], true).unwrap();
            context.decode(&mut batch).unwrap();
            token = sampler.sample(&context, 0);
        }
        began.elapsed() / count
    }
}
