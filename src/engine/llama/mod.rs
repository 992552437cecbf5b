//! The engine on llama.cpp.

mod backends;
mod context;

use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use llama_cpp_2::vocab::LlamaVocab;

use super::health::Shared;
use super::serve::{Setup, Work};
use super::{Blanks, Engine, Entry, Error, Loaded, Report, Sampled, Sampling, Token, Vocabulary, Word};
use crate::generation::LoadMode;
use crate::gguf::TAKE_BLANKS;

/// Returns what loads the model of `setup` and works with it.
pub(super) fn loader(
    setup: &Setup,
) -> impl FnOnce(&Arc<Shared>, &mut Work<'_>) -> Result<(), Error> + Send + 'static {
    let setup = setup.clone();
    move |shared, work| {
        let outcome = load(&setup, shared, work);
        // giving up while loading is no failure
        if shared.is_stopping() && shared.loaded().is_none() { Ok(()) } else { outcome }
    }
}

fn load(setup: &Setup, shared: &Arc<Shared>, work: &mut Work<'_>) -> Result<(), Error> {
    let spec = &setup.spec;
    let failed = |what: &'static str| move |reason: String| Error::Load { what, reason };
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
    let backends = backends::load()?;
    tracing::info!(cpu = backends.cpu, model = %spec.model, "loading");

    let progress = Arc::clone(shared);
    let params = LlamaModelParams::default()
        .with_use_mmap(spec.load == LoadMode::Mmap)
        .with_progress_callback(move |part| {
            progress.set_progress(part);
            !progress.is_stopping()
        });
    let model = backends::with_repack(spec.repack, || {
        LlamaModel::load_from_file(&backends.llama, &setup.weights, &params)
    })
    .map_err(failed("switch repacking off"))?
    .map_err(|error| failed("load the weights")(error.to_string()))?;

    let refuse = |reason| Err(Error::Weights { path: setup.weights.clone(), reason });
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    if architecture != spec.weights.architecture {
        let expected = &spec.weights.architecture;
        return refuse(format!("its architecture is '{architecture}', the definition says '{expected}'"));
    }
    if model.decode_start_token().0 != -1 {
        return refuse(format!("'{architecture}' reads with an encoder, which is not supported yet"));
    }
    if spec.context > model.n_ctx_train() {
        tracing::warn!(
            context = spec.context,
            trained = model.n_ctx_train(),
            "longer than it was trained for"
        );
    }

    let too_much = || failed("make a context")("the context is too large".to_owned());
    let params = context::params(spec).ok_or_else(too_much)?;
    let context = model
        .new_context(&backends.llama, params)
        .map_err(|error| failed("make a context")(error.to_string()))?;

    let blanks = match model.meta_val_str(TAKE_BLANKS) {
        Ok(list) => Blanks::read(&list)
            .map_err(|error| failed("read which tokens take blanks along")(error.to_string()))?,
        // most have no such tokens
        Err(_) => Blanks::default(),
    };
    let vocab = model.vocab();
    let batch = context::batch(spec) as usize;
    let mut engine = Llama {
        blanks,
        window: window(&model, &architecture),
        batch: LlamaBatch::new(batch, 1),
        samplers: (0..spec.slots).map(|_| LlamaSampler::greedy()).collect(),
        vocab: model.vocab(),
        context,
    };
    engine.warm_up().map_err(failed("compute"))?;
    let text = |token: LlamaToken| match token.0 {
        -1 => String::new(),
        _ => String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned(),
    };
    let loaded = Loaded {
        slots: spec.slots as usize,
        context: spec.context as usize,
        batch,
        chat_template: model.meta_val_str("tokenizer.chat_template").ok(),
        bos: text(vocab.bos()),
        eos: text(vocab.eos()),
        cpu: backends.cpu.clone(),
    };
    work(&mut engine, loaded)
}

/// Returns the tokens that windowed layers look back on, where the file names them.
fn window(model: &LlamaModel, architecture: &str) -> Option<i32> {
    model.meta_val_str(&format!("{architecture}.attention.sliding_window")).ok()?.parse().ok()
}

struct Llama<'model> {
    blanks: Blanks,
    /// Tokens that windowed layers look back on, where that is known.
    window: Option<i32>,
    vocab: LlamaVocab<'model>,
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    samplers: Vec<LlamaSampler>,
}

impl Llama<'_> {
    /// Computes one token, so that the weights are in memory before anybody waits for them.
    fn warm_up(&mut self) -> Result<(), String> {
        let token = self.vocab.bos().0.max(0);
        self.step(&[Entry { slot: 0, token, position: 0, ask: None }])?;
        self.context.clear_kv_cache();
        Ok(())
    }

    fn compute(&mut self, entries: &[Entry]) -> Result<(), String> {
        self.batch.clear();
        for entry in entries {
            let position = i32::try_from(entry.position).map_err(|error| error.to_string())?;
            let slot = i32::try_from(entry.slot).map_err(|error| error.to_string())?;
            let token = LlamaToken::new(entry.token);
            self.batch
                .add(token, position, &[slot], entry.ask.is_some())
                .map_err(|error| error.to_string())?;
        }
        self.context.decode(&mut self.batch).map_err(|error| error.to_string())
    }
}

impl Engine for Llama<'_> {
    fn tokenize(&self, text: &str, begins: bool) -> Vec<Token> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut tokens: Vec<Token> = self
            .vocab
            .tokenize(self.blanks.drop(text).as_bytes(), false, true)
            .into_iter()
            .map(|token| token.0)
            .collect();
        let bos = self.vocab.bos().0;
        if begins && self.vocab.should_add_bos() && bos != -1 && tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
        tokens
    }

    fn piece(&self, token: Token, special: bool, out: &mut Vec<u8>) {
        if (0..self.vocab.n_tokens()).contains(&token) {
            self.vocab.token_to_piece_into(LlamaToken::new(token), out, special, None);
        }
    }

    fn vocabulary(&self) -> Vocabulary {
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

    fn is_end(&self, token: Token) -> bool {
        self.vocab.is_eog(LlamaToken::new(token))
    }

    fn begin(&mut self, slot: usize, sampling: &Sampling, seen: &[Token]) {
        let Some(place) = self.samplers.get_mut(slot) else { return };
        *place = sampler(sampling, self.vocab.n_tokens());
        if sampling.has_penalties() {
            place.accept_many(seen.iter().map(|&token| LlamaToken::new(token)));
        }
    }

    fn keep(&mut self, slot: usize, length: usize) -> usize {
        let (Ok(slot), Ok(from)) = (i32::try_from(slot), i32::try_from(length)) else { return 0 };
        // a window's cache has let go of the oldest; those that the next token looks back on
        // must be there still
        let oldest = self.context.kv_cache_seq_pos_min(slot);
        let has_all = oldest <= 0 || self.window.is_some_and(|window| oldest <= from - window + 1);
        let (slot, from) = (Some(slot.unsigned_abs()), Some(from.unsigned_abs()));
        if has_all && matches!(self.context.clear_kv_cache_seq(slot, from, None), Ok(true)) {
            return length;
        }
        // recurrent models cannot forget a part
        let _ = self.context.clear_kv_cache_seq(slot, None, None);
        0
    }

    fn step(&mut self, entries: &[Entry]) -> Result<Vec<Sampled>, String> {
        if let Err(reason) = self.compute(entries) {
            self.context.clear_kv_cache();
            return Err(reason);
        }
        let mut sampled = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let Some(ask) = &entry.ask else { continue };
            let index = i32::try_from(index).map_err(|error| error.to_string())?;
            let chain = self.samplers.get_mut(entry.slot).ok_or("there is no such slot")?;
            let token = match &ask.allowed {
                None => chain.sample(&self.context, index),
                Some(allowed) => {
                    let is_allowed = |token: LlamaToken| allowed.is_allowed(token.0.unsigned_abs());
                    let candidates = self.context.candidates_ith(index).filter(|one| is_allowed(one.id()));
                    let mut candidates = LlamaTokenDataArray::from_iter(candidates, false);
                    chain.apply(&mut candidates);
                    let token = candidates.selected_token().ok_or("no token may be taken")?;
                    chain.accept(token);
                    token
                }
            };
            let report = ask.report.map(|top| Report::new(self.context.get_logits_ith(index), token.0, top));
            sampled.push(Sampled { token: token.0, report });
        }
        Ok(sampled)
    }
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
