//! An engine for tests. Its tokens are bytes; its answer repeats the prompt to the letter.

use std::path::Path;
use std::sync::mpsc::Receiver;

use super::{Ask, Caches, Engine, Entry, Loaded, Report, Sampled, Sampling, Token, Told, Vocabulary, Word};
use crate::units::Bytes;

/// Ends an answer.
const END: Token = 256;

/// Ends what is repeated of a prompt: all behind it is of the answer, so that an answer can be gone on with.
pub(super) const MARK: char = '\0';

/// Repeats prompts. It checks that it is used as [`Engine`] says.
#[derive(Debug)]
pub(super) struct Echo {
    slots: Vec<Slot>,
    batch: usize,
    /// One permit for each step; free-running once the other end is gone.
    permits: Option<Receiver<()>>,
    /// Steps that fail: the prompt holds this byte.
    poison: u8,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    cache: Vec<Token>,
    /// What was read, if there is an encoder.
    read: Vec<Token>,
    /// The length of the prompt, known at its last token.
    prompt: Option<usize>,
}

impl Echo {
    pub(super) fn new(loaded: &Loaded, permits: Option<Receiver<()>>) -> Self {
        Self { slots: vec![Slot::default(); loaded.slots], batch: loaded.batch, permits, poison: b'!' }
    }
}

impl Engine for Echo {
    fn tokenize(&self, text: &str, _: bool) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }

    fn piece(&self, token: Token, special: bool, out: &mut Vec<u8>) {
        out.extend(u8::try_from(token));
        if special && token == END {
            out.extend(b"<end>");
        }
    }

    fn vocabulary(&self) -> Vocabulary {
        let mut words: Vec<Word> =
            (0..=255).map(|byte| Word { bytes: vec![byte], is_control: false }).collect();
        words.push(Word { bytes: b"<end>".to_vec(), is_control: true });
        Vocabulary { words, ends: vec![END] }
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn begin(&mut self, slot: usize, _: &Sampling, _: &[Token]) {
        self.slots[slot].prompt = None;
    }

    fn keep(&mut self, slot: usize, length: usize) -> usize {
        self.slots[slot].cache.truncate(length);
        length
    }

    fn share(&mut self, from: usize, to: usize, length: usize) -> usize {
        assert!(from != to && length <= self.slots[from].cache.len());
        self.slots[to].cache = self.slots[from].cache[..length].to_vec();
        length
    }

    fn read(&mut self, slot: usize, prompt: &[Token]) -> Result<(), String> {
        self.slots[slot] = Slot { read: prompt.to_vec(), ..Slot::default() };
        Ok(())
    }

    fn step(&mut self, batch: &[Entry]) -> Result<Vec<Told>, String> {
        if let Some(permits) = &self.permits
            && permits.recv().is_err()
        {
            self.permits = None;
        }
        assert!(!batch.is_empty() && batch.len() <= self.batch, "a step of {} entries", batch.len());
        let mut told = Vec::new();
        for entry in batch {
            let slot = &mut self.slots[entry.slot];
            assert_eq!(entry.position, slot.cache.len(), "positions follow each other");
            slot.cache.push(entry.token);
            if entry.token == Token::from(self.poison) {
                self.slots.iter_mut().for_each(|slot| slot.cache.clear());
                return Err("poisoned".to_owned());
            }
            let (allowed, report) = match &entry.ask {
                None => continue,
                Some(Ask::Next { allowed, report }) => (allowed, report),
                // the text's bytes, each in a place of its own
                Some(Ask::State) => {
                    let state =
                        slot.cache.iter().filter_map(|token| u8::try_from(*token).ok()).map(f32::from);
                    told.push(Told::State(state.collect()));
                    continue;
                }
            };
            let marked = |tokens: &[Token]| tokens.iter().position(|&token| token == MARK as Token);
            let (source, said) = match (marked(&slot.cache), marked(&slot.read)) {
                (Some(end), _) => (&slot.cache[..end], slot.cache.len() - end - 1),
                (None, Some(end)) => (&slot.read[..end], slot.cache.len() - 1),
                (None, None) => {
                    let prompt = *slot.prompt.get_or_insert(slot.cache.len());
                    let source = if slot.read.is_empty() { &slot.cache[..prompt] } else { &slot.read[..] };
                    (source, slot.cache.len() - prompt)
                }
            };
            let wanted = source.get(said).copied().unwrap_or(END);
            let may_be = |token: Token| {
                allowed.as_ref().is_none_or(|allowed| allowed.is_allowed(token.unsigned_abs()))
            };
            // the nearest token that it may be
            let token = (0..=END).filter(|&token| may_be(token)).min_by_key(|token| token.abs_diff(wanted));
            let token = token.ok_or("no token may be taken")?;
            let mut scores = [0.0; 257];
            scores[token.unsigned_abs() as usize] = 9.0;
            let report = report.map(|top| Report::new(&scores, token, top));
            told.push(Told::Next(Sampled { token, report }));
        }
        Ok(told)
    }

    fn caches(&mut self) -> Option<&mut dyn Caches> {
        Some(self)
    }
}

impl Caches for Echo {
    fn size(&self, slot: usize) -> Bytes {
        Bytes(self.slots[slot].cache.len() as u64)
    }

    fn write(&self, slot: usize, tokens: &[Token], path: &Path) -> Result<(), String> {
        assert_eq!(tokens, self.slots[slot].cache, "what is written is what is there");
        std::fs::write(path, serde_json::to_vec(tokens).unwrap()).map_err(|error| error.to_string())
    }

    fn read(&mut self, slot: usize, most: usize, path: &Path) -> Result<Vec<Token>, String> {
        assert!(self.slots[slot].cache.is_empty());
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        let tokens: Vec<Token> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if tokens.len() > most {
            return Err("too many".to_owned());
        }
        self.slots[slot].cache.clone_from(&tokens);
        Ok(tokens)
    }
}
