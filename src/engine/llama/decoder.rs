//! Models that only decode: all slots share one context, and one step computes for all of them.

use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::sampling::LlamaSampler;

use super::watch::Watched;
use super::words::{self, Words};
use super::{add, as_asked, position};
use crate::engine::{Ask, Caches, Engine, Entry, Sampling, Token, Told, Vocabulary};

/// A decoder with its slots.
pub(super) struct Decoder<'model> {
    pub(super) words: Words<'model>,
    /// Tokens that windowed layers look back on, where their cache holds no more than that.
    pub(super) window: Option<i32>,
    pub(super) samplers: Vec<LlamaSampler>,
    pub(super) batch: LlamaBatch<'static>,
    pub(super) context: Watched<'model>,
}

impl Decoder<'_> {
    /// Computes one token, so that the weights are in memory before anybody waits for them.
    pub(super) fn warm_up(&mut self) -> Result<(), String> {
        let token = self.words.vocab.bos().0.max(0);
        self.step(&[Entry { slot: 0, token, position: 0, ask: None }])?;
        self.context.forget(None, None);
        Ok(())
    }

    fn fill<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), String> {
        self.batch.clear();
        entries.into_iter().try_for_each(|entry| add(&mut self.batch, entry, position(entry.slot)?))
    }

    fn told(&mut self, entries: &[Entry]) -> Result<Vec<Told>, String> {
        let is_for_state = |entry: &Entry| matches!(entry.ask, Some(Ask::State));
        self.fill(entries.iter().filter(|entry| !is_for_state(entry)))?;
        if self.batch.n_tokens() > 0 {
            self.context.decode(&mut self.batch)?;
        }
        let mut told = Vec::new();
        for (index, entry) in entries.iter().filter(|entry| !is_for_state(entry)).enumerate() {
            let Some(Ask::Next { allowed, report }) = &entry.ask else { continue };
            let sampler = self.samplers.get_mut(entry.slot).ok_or("there is no such slot")?;
            let next = words::next(&self.context, position(index)?, sampler, allowed.as_ref(), *report)?;
            told.push((entry.slot, Told::Next(next)));
        }
        // each alone, after those before it in its slot, so that what is copied out is its own
        for entry in entries.iter().filter(|entry| is_for_state(entry)) {
            self.fill([entry])?;
            told.push((entry.slot, Told::State(self.context.state(&mut self.batch)?)));
        }
        Ok(as_asked(told, entries))
    }
}

impl Engine for Decoder<'_> {
    fn tokenize(&self, text: &str, begins: bool) -> Vec<Token> {
        self.words.tokenize(text, begins)
    }

    fn piece(&self, token: Token, special: bool, out: &mut Vec<u8>) {
        self.words.piece(token, special, out);
    }

    fn vocabulary(&self) -> Vocabulary {
        self.words.vocabulary()
    }

    fn is_end(&self, token: Token) -> bool {
        self.words.is_end(token)
    }

    fn begin(&mut self, slot: usize, sampling: &Sampling, seen: &[Token]) {
        if let Some(place) = self.samplers.get_mut(slot) {
            *place = self.words.sampler(sampling, seen);
        }
    }

    fn keep(&mut self, slot: usize, length: usize) -> usize {
        let (Ok(slot), Ok(from)) = (i32::try_from(slot), i32::try_from(length)) else { return 0 };
        // a window's cache has let go of the oldest; those that the next token looks back on
        // must be there still
        let oldest = self.context.kv_cache_seq_pos_min(slot);
        let has_all = oldest <= 0 || self.window.is_some_and(|window| oldest <= from - window + 1);
        let (slot, from) = (Some(slot.unsigned_abs()), Some(from.unsigned_abs()));
        if has_all && self.context.forget(slot, from) {
            return length;
        }
        // recurrent models cannot forget a part
        self.context.forget(slot, None);
        0
    }

    fn share(&mut self, from: usize, to: usize, length: usize) -> usize {
        let (Ok(source), Ok(target)) = (position(from), position(to)) else { return 0 };
        self.context.copy(source, target);
        self.keep(to, length)
    }

    fn read(&mut self, _: usize, _: &[Token]) -> Result<(), String> {
        Err("this model has no encoder".to_owned())
    }

    fn step(&mut self, entries: &[Entry]) -> Result<Vec<Told>, String> {
        let told = self.told(entries);
        if told.is_err() {
            self.context.forget(None, None);
        }
        told
    }

    fn caches(&mut self) -> Option<&mut dyn Caches> {
        Some(&mut self.context)
    }
}
