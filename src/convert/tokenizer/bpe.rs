//! Byte pair encoding over bytes: llama.cpp's `gpt2`.

use std::collections::HashSet;

use super::added::{Added, gather};
use super::json::Tokenizer;
use super::vocabulary::{Own, Vocabulary};
use super::{Error, TokenizerFiles, kind, pre};
use crate::gguf::Value;

/// The keys of a vocabulary, and what else its tokens ask for.
pub(super) struct Keys {
    pub(super) keys: Vec<(String, Value)>,
    /// The tokens that take the blanks on their right along.
    pub(super) strips: Vec<String>,
}

pub(super) fn keys(tokenizer: &Tokenizer, files: &TokenizerFiles, size: u32) -> Result<Keys, Error> {
    let pre = pre::name(tokenizer)?;
    let tokens = tokenizer.model.tokens()?;
    let known: HashSet<&str> = tokens.iter().map(|(text, _)| *text).collect();
    let added = gather(files, &tokenizer.added_tokens, &known)?;
    let strips = strips(&added)?;
    let own = tokens.iter().map(|(text, id)| Own { id: *id, text, kind: kind::NORMAL, score: 0.0 });
    let vocabulary = Vocabulary::of(own, &added, size)?;
    let merges = tokenizer.model.merges()?;
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let mut keys = vocabulary.keys("gpt2", pre, false);
    keys.push(("merges".to_owned(), merges.into()));
    Ok(Keys { keys, strips })
}

/// Returns which added tokens take the blanks on their right along: the engine sees to it.
/// Refuses those that llama.cpp would find elsewhere in a text.
fn strips(added: &[Added]) -> Result<Vec<String>, Error> {
    match added.iter().find(|token| token.lstrip || token.single_word) {
        None => Ok(added.iter().filter(|token| token.rstrip).map(|token| token.content.clone()).collect()),
        Some(token) => Err(Error::Tokenizer(format!(
            "token {} ({:?}) takes blanks on its left along or stands alone only, which a GGUF cannot say",
            token.id, token.content
        ))),
    }
}
