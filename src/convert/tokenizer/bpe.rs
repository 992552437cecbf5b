//! Byte pair encoding over bytes: llama.cpp's `gpt2`.

use std::collections::HashSet;

use super::added::{Added, gather};
use super::json::Tokenizer;
use super::vocabulary::{Own, Vocabulary};
use super::{Error, TokenizerFiles, kind, pre};
use crate::gguf::Value;

pub(super) fn keys(
    tokenizer: &Tokenizer,
    files: &TokenizerFiles,
    size: u32,
) -> Result<Vec<(String, Value)>, Error> {
    let pre = pre::name(tokenizer)?;
    let tokens = tokenizer.model.tokens()?;
    let known: HashSet<&str> = tokens.iter().map(|(text, _)| *text).collect();
    let added = gather(files, &tokenizer.added_tokens, &known)?;
    check_added(&added)?;
    let own = tokens.iter().map(|(text, id)| Own { id: *id, text, kind: kind::NORMAL, score: 0.0 });
    let vocabulary = Vocabulary::of(own, &added, size)?;
    let merges = tokenizer.model.merges()?;
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let mut keys = vocabulary.keys("gpt2", pre, false);
    keys.push(("merges".to_owned(), merges.into()));
    Ok(keys)
}

/// Refuses added tokens that llama.cpp would find elsewhere in a text.
fn check_added(added: &[Added]) -> Result<(), Error> {
    match added.iter().find(|token| token.lstrip || token.rstrip || token.single_word) {
        None => Ok(()),
        Some(token) => Err(Error::Tokenizer(format!(
            "token {} ({:?}) takes blanks beside it along or stands alone only, which a GGUF cannot say",
            token.id, token.content
        ))),
    }
}
