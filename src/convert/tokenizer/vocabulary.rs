use std::collections::HashMap;

use super::added::Added;
use super::{Error, kind};
use crate::gguf::Value;

/// The largest known vocabularies have 262 144 tokens.
const LIMIT: u32 = 1 << 22;

/// The score of a token that no merge makes, or that is looked for before any merge.
pub(super) const NEVER: f32 = -1e9;

/// A token of the model itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    pub(super) kind: i32,
    pub(super) score: f32,
}

/// Texts, kinds and scores of tokens by number, `vocab_size` of them; gaps are named and
/// unused.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<i32>,
    pub(super) scores: Vec<f32>,
}

/// Refuses a size that no vocabulary has, before so many tokens are made.
pub(super) fn check_size(size: u32) -> Result<(), Error> {
    if size > LIMIT {
        return Err(Error::Tokenizer(format!("vocab_size is {size}")));
    }
    Ok(())
}

impl Vocabulary {
    /// Gathers the vocabulary: a model's own tokens, and over them those that were added.
    ///
    /// # Errors
    /// Two tokens of one number, or one text under two numbers, on which llama.cpp ends the
    /// process; a model's token beyond `size`.
    pub(super) fn of<'a>(
        own: impl IntoIterator<Item = Own<'a>>,
        added: &[Added],
        size: u32,
    ) -> Result<Self, Error> {
        check_size(size)?;
        let mut slots: Vec<Option<(String, i32, f32)>> = vec![None; size as usize];
        for Own { id, text, kind, score } in own {
            let slot = slots.get_mut(id as usize).ok_or_else(|| {
                Error::Tokenizer(format!("token {id} ({text:?}) is beyond vocab_size, which is {size}"))
            })?;
            if let Some((other, ..)) = slot {
                return Err(Error::Tokenizer(format!("token {id} is both {other:?} and {text:?}")));
            }
            *slot = Some((text.to_owned(), kind, score));
        }
        for token in added {
            // Gemma 3 has a marker of images one past the last row of its text models: no row, no token
            let Some(slot) = slots.get_mut(token.id as usize) else { continue };
            let kind = match slot {
                Some((_, kind::UNKNOWN, _)) => kind::UNKNOWN,
                _ => token.kind(),
            };
            match slot {
                Some((other, ..)) if *other != token.content => {
                    let (id, text) = (token.id, &token.content);
                    return Err(Error::Tokenizer(format!("token {id} is both {other:?} and {text:?}")));
                }
                Some(slot) => slot.1 = kind,
                None => *slot = Some((token.content.clone(), kind, NEVER)),
            }
        }
        let mut found = Self { tokens: Vec::new(), kinds: Vec::new(), scores: Vec::new() };
        for (id, slot) in slots.into_iter().enumerate() {
            let (text, kind, score) = slot.unwrap_or_else(|| (format!("[PAD{id}]"), kind::UNUSED, NEVER));
            // llama.cpp takes the texts of tokens that users defined with plain spaces
            let text = if kind == kind::USER_DEFINED { text.replace('\u{2581}', " ") } else { text };
            found.tokens.push(text);
            found.kinds.push(kind);
            found.scores.push(score);
        }
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<(), Error> {
        let mut numbers = HashMap::new();
        for (id, text) in self.tokens.iter().enumerate() {
            if text.contains('\0') {
                return Err(Error::Tokenizer(format!(
                    "token {id} holds a zero byte, where llama.cpp ends it"
                )));
            }
            if let Some(other) = numbers.insert(text.as_str(), id) {
                return Err(Error::Tokenizer(format!("tokens {other} and {id} are both {text:?}")));
            }
        }
        Ok(())
    }

    /// Returns its keys without `tokenizer.ggml.`, the model's name first.
    pub(super) fn keys(
        self,
        model: &'static str,
        pre: &'static str,
        has_scores: bool,
    ) -> Vec<(String, Value)> {
        let mut keys = vec![
            ("model".to_owned(), model.into()),
            ("pre".to_owned(), pre.into()),
            ("tokens".to_owned(), self.tokens.into()),
        ];
        if has_scores {
            keys.push(("scores".to_owned(), self.scores.into()));
        }
        keys.push(("token_type".to_owned(), self.kinds.into()));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(id: u32, text: &str) -> Own<'_> {
        Own { id, text, kind: kind::NORMAL, score: -1.0 }
    }

    fn added(id: u32, content: &str, special: bool) -> Added {
        serde_json::from_value(serde_json::json!({"id": id, "content": content, "special": special})).unwrap()
    }

    #[test]
    fn gaps_are_unused_and_added_tokens_lie_over_the_models_own() {
        let list = [added(1, "b", true), added(3, "\u{2581}\u{2581}", false), added(9, "beyond", true)];
        let all = Vocabulary::of([own(1, "b"), own(0, "a")], &list, 5).unwrap();
        assert_eq!(all.tokens, ["a", "b", "[PAD2]", "  ", "[PAD4]"]);
        assert_eq!(all.kinds, [1, 3, 5, 4, 5]);
        assert_eq!(all.scores, [-1.0, -1.0, NEVER, NEVER, NEVER]);
    }

    #[test]
    fn what_llama_cpp_would_end_on_is_refused() {
        let error = |own: &[Own<'_>], list: &[Added]| {
            Vocabulary::of(own.iter().copied(), list, 4).unwrap_err().to_string()
        };
        assert!(error(&[own(4, "a")], &[]).contains("beyond vocab_size"));
        assert!(error(&[own(1, "a"), own(1, "b")], &[]).contains("token 1 is both"));
        assert!(error(&[own(1, "a")], &[added(1, "b", true)]).contains("token 1 is both"));
        assert!(error(&[own(1, "a"), own(2, "a")], &[]).contains("tokens 1 and 2 are both"));
        assert!(error(&[own(0, "[PAD1]")], &[]).contains("[PAD1]"));
        assert!(error(&[own(0, "a\0")], &[]).contains("zero byte"));
        assert!(Vocabulary::of([], &[], u32::MAX).is_err());
    }
}
