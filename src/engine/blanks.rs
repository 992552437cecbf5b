//! White space that markers take along.

use std::borrow::Cow;

/// The texts of tokens that take the white space on their right along, as the hub's library
/// lets them where tokenizer.json says `rstrip`. llama.cpp does it for the markers of Phi-3
/// alone; for all others it is dropped from a text before llama.cpp cuts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blanks(Vec<String>);

impl Blanks {
    /// Reads the value of [`TAKE_BLANKS`](crate::gguf::TAKE_BLANKS).
    ///
    /// # Errors
    /// What is no list of texts in JSON.
    pub fn read(value: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(value).map(Self)
    }

    /// Returns the text without the white space behind these tokens.
    pub fn drop<'text>(&self, text: &'text str) -> Cow<'text, str> {
        if self.0.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut kept = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let behind = self.0.iter().filter(|marker| !marker.is_empty()).filter_map(|marker| {
                let behind = rest.strip_prefix(marker.as_str())?;
                Some((marker, behind))
            });
            if let Some((marker, behind)) = behind.max_by_key(|(marker, _)| marker.len()) {
                kept.push_str(marker);
                rest = behind.trim_start();
            } else {
                kept.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
        Cow::Owned(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_behind_a_marker_is_dropped_and_no_other() {
        let blanks = Blanks::read(r#"["<|user|>", "<|user", "<|end|>"]"#).unwrap();
        let cases = [
            ("", ""),
            (" a  b ", " a  b "),
            ("<|user|> \n\t\u{a0}\u{3000} a b <|end|> ", "<|user|>a b <|end|>"),
            ("<|user|>  <|end|>\n<|user|>", "<|user|><|end|><|user|>"),
            ("<|user| > é", "<|user| > é"),
            ("<|user >", "<|user>"),
            ("é<|other|> x", "é<|other|> x"),
        ];
        for (text, expected) in cases {
            assert_eq!(blanks.drop(text), expected, "{text:?}");
        }
        assert!(matches!(Blanks::default().drop("<|user|> "), Cow::Borrowed("<|user|> ")));
        assert!(Blanks::read("{}").is_err());
    }
}
