//! Models that read prompts with an encoder, and write answers with a decoder: T5 and its kin.
//!
//! A context of llama.cpp keeps what one text was read as, so that each slot has one of its own.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::sampling::LlamaSampler;

use super::words::{self, Words};
use super::{add, as_asked, position};
use crate::engine::{Ask, Engine, Entry, Sampling, Token, Told, Vocabulary};

/// An encoder and a decoder with their slots.
pub(super) struct Reader<'model> {
    pub(super) words: Words<'model>,
    /// The token that answers begin with.
    pub(super) start: Token,
    pub(super) seats: Vec<Seat<'model>>,
}

/// A slot.
pub(super) struct Seat<'model> {
    pub(super) context: LlamaContext<'model>,
    pub(super) batch: LlamaBatch<'static>,
    pub(super) sampler: LlamaSampler,
}

impl Seat<'_> {
    fn read(&mut self, prompt: &[Token]) -> Result<(), String> {
        self.context.clear_kv_cache();
        // llama.cpp aborts on more than one micro-batch
        if prompt.len() > self.context.n_ubatch() as usize {
            return Err(format!("{} tokens are more than the encoder takes at once", prompt.len()));
        }
        self.batch.clear();
        for (place, &token) in prompt.iter().enumerate() {
            add(&mut self.batch, &Entry { slot: 0, token, position: place, ask: None }, 0)?;
        }
        self.context.encode(&mut self.batch).map_err(|error| error.to_string())
    }

    /// Computes entries, which are all of this slot.
    fn step(&mut self, entries: &[&Entry]) -> Result<Vec<Told>, String> {
        self.batch.clear();
        for entry in entries {
            add(&mut self.batch, entry, 0)?;
        }
        self.context.decode(&mut self.batch).map_err(|error| error.to_string())?;
        let mut told = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match &entry.ask {
                None => {}
                Some(Ask::Next { allowed, report }) => {
                    let index = position(index)?;
                    let next =
                        words::next(&self.context, index, &mut self.sampler, allowed.as_ref(), *report)?;
                    told.push(Told::Next(next));
                }
                Some(Ask::State) => return Err("a decoder beside an encoder tells no state".to_owned()),
            }
        }
        Ok(told)
    }
}

impl Reader<'_> {
    /// Reads and writes one token, so that the weights are in memory before anybody waits for them.
    pub(super) fn warm_up(&mut self) -> Result<(), String> {
        let end = self.words.vocab.eos().0.max(0);
        for slot in 0..self.seats.len() {
            self.read(slot, &[end])?;
            self.step(&[Entry { slot, token: self.start, position: 0, ask: None }])?;
            self.keep(slot, 0);
        }
        Ok(())
    }
}

impl Engine for Reader<'_> {
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
        if let Some(seat) = self.seats.get_mut(slot) {
            seat.sampler = self.words.sampler(sampling, seen);
        }
    }

    fn keep(&mut self, slot: usize, length: usize) -> usize {
        let Some(seat) = self.seats.get_mut(slot) else { return 0 };
        let from = u32::try_from(length).ok();
        if from.is_some() && matches!(seat.context.clear_kv_cache_seq(Some(0), from, None), Ok(true)) {
            return length;
        }
        seat.context.clear_kv_cache();
        0
    }

    fn share(&mut self, _: usize, to: usize, _: usize) -> usize {
        // what answers to one prompt is of no use for another
        self.keep(to, 0)
    }

    fn read(&mut self, slot: usize, prompt: &[Token]) -> Result<(), String> {
        self.seats.get_mut(slot).ok_or("there is no such slot")?.read(prompt)
    }

    fn step(&mut self, entries: &[Entry]) -> Result<Vec<Told>, String> {
        let mut told = Vec::new();
        let mut failure = None;
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            let own: Vec<&Entry> = entries.iter().filter(|entry| entry.slot == slot).collect();
            if own.is_empty() {
                continue;
            }
            match seat.step(&own) {
                Ok(all) => {
                    let asked = own.iter().filter(|entry| entry.ask.is_some());
                    told.extend(asked.map(|entry| entry.slot).zip(all));
                }
                Err(reason) => failure = Some(reason),
            }
        }
        if let Some(reason) = failure {
            self.seats.iter_mut().for_each(|seat| seat.context.clear_kv_cache());
            return Err(reason);
        }
        Ok(as_asked(told, entries))
    }
}
