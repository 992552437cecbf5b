use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Error, PromptStyle};

/// Every file that may have a say in how text becomes tokens, by its name on the hub.
pub const TOKENIZER_FILES: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// The longest file that is read; the longest known, of Gemma's 262 144 tokens, has 33 MiB.
const LONGEST: u64 = 128 << 20;

/// The files of a checkpoint that say how text becomes tokens: those of [`TOKENIZER_FILES`]
/// that there are, as they are.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    files: BTreeMap<String, Vec<u8>>,
    prompt_style: Option<PromptStyle>,
}

impl TokenizerFiles {
    /// Takes files by their names; others than [`TOKENIZER_FILES`] are ignored.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let is_known = |(name, _): &(String, Vec<u8>)| TOKENIZER_FILES.contains(&name.as_str());
        Self { files: files.into_iter().filter(is_known).collect(), prompt_style: None }
    }

    /// Reads those that are in a folder.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for name in TOKENIZER_FILES {
            let path = dir.join(name);
            let fail = |source| Error::Read { path: path.clone(), source };
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(error)),
            };
            let mut bytes = Vec::new();
            file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(fail)?;
            if bytes.len() as u64 > LONGEST {
                return Err(Error::Tokenizer(format!("{name} is longer than {} MiB", LONGEST >> 20)));
            }
            files.insert(name.to_owned(), bytes);
        }
        Ok(Self { files, prompt_style: None })
    }

    /// Gives a chat template to a model that ships none.
    #[must_use]
    pub fn with_prompt_style(self, style: impl Into<Option<PromptStyle>>) -> Self {
        Self { prompt_style: style.into(), ..self }
    }

    pub(super) fn prompt_style(&self) -> Option<PromptStyle> {
        self.prompt_style
    }

    /// Returns a file, if it is there.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Returns a file of text, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        let text = |bytes| {
            std::str::from_utf8(bytes).map_err(|_| Error::Tokenizer(format!("{name} is not text in UTF-8")))
        };
        self.bytes(name).map(text).transpose()
    }

    /// Returns a file of JSON; null, which has no keys, if it is not there.
    pub(super) fn json(&self, name: &str) -> Result<Json, Error> {
        match self.bytes(name) {
            None => Ok(Json::Null),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| Error::Json { path: PathBuf::from(name), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_files_are_taken() {
        let files = TokenizerFiles::new([
            ("tokenizer.json".to_owned(), b"{\"a\": 1}".to_vec()),
            ("README.md".to_owned(), Vec::new()),
            ("merges.txt".to_owned(), vec![0xff]),
        ]);
        assert_eq!(files.bytes("README.md"), None);
        assert_eq!(files.json("tokenizer.json").unwrap()["a"], 1);
        assert_eq!(files.json("tokenizer_config.json").unwrap(), Json::Null);
        assert!(files.text("merges.txt").is_err());
        assert_eq!(files.text("chat_template.jinja").unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_json_is_named() {
        let files = TokenizerFiles::new([("tokenizer.json".to_owned(), b"{".to_vec())]);
        assert!(files.json("tokenizer.json").unwrap_err().to_string().contains("tokenizer.json"));
    }
}
