use super::Vocabulary;

/// What bounds from below how many tokens a text has, without cutting it: that takes seconds for the longest texts, and
/// minutes for those of nothing but names of control tokens, in which time nobody else is answered.
#[derive(Debug)]
pub(super) struct Measure {
    /// Bytes of the longest token.
    longest: usize,
    /// The names of the control tokens.
    names: Vec<String>,
}

impl Measure {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let longest = vocabulary.words.iter().map(|word| word.bytes.len()).max().unwrap_or_default();
        let names = vocabulary.words.iter().filter(|word| word.is_control && !word.bytes.is_empty());
        Self {
            // a character that no token has may be one all the same
            longest: longest.max(char::MAX.len_utf8()),
            names: names.filter_map(|word| String::from_utf8(word.bytes.clone()).ok()).collect(),
        }
    }

    /// Returns how many tokens `text` has at least; looks no closer once there are `enough`. White space that a marker
    /// swallows counts too: nobody needs so much of it.
    pub(super) fn least(&self, text: &str, enough: usize) -> usize {
        let by_length = text.len().div_ceil(self.longest);
        if by_length >= enough {
            return by_length;
        }
        let named = self.names.iter().map(|name| text.matches(name.as_str()).count()).max();
        by_length.max(named.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Word;

    #[test]
    fn a_text_has_no_fewer_tokens_than_its_length_and_its_names_tell() {
        let word = |text: &str, is_control| Word { bytes: text.as_bytes().to_vec(), is_control };
        let words = vec![word("twelve bytes", false), word("<s>", true), word("<end>", true), word("", true)];
        let measure = Measure::new(&Vocabulary { words, ends: Vec::new() });
        assert_eq!(measure.least("", 99), 0);
        assert_eq!(measure.least(&"x".repeat(25), 99), 3);
        assert_eq!(measure.least(&"<s>".repeat(25), 99), 25);
        assert_eq!(measure.least(&"<s>".repeat(25), 7), 7);
        assert_eq!(measure.least(&"<s><end><s>".repeat(2), 99), 4);
        let none = Measure::new(&Vocabulary::default());
        assert_eq!(none.least("more", 99), 1);
    }
}
