use serde::{Deserialize, Serialize};

use super::request::{Malformed, object, optional, required};

/// A request to cut a text into tokens: `POST /tokenize`, llama-server's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizeRequest {
    /// The model's name; none where there is but one.
    pub model: Option<String>,
    /// The text.
    pub content: String,
    /// Whether the token that begins a text is put in front, if the model wants it.
    pub add_special: bool,
    /// Whether each token comes with its text.
    pub with_pieces: bool,
}

/// A request for the text of tokens: `POST /detokenize`, llama-server's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// The model's name; none where there is but one.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<i32>,
}

/// The answer to a [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenList {
    /// Their numbers alone.
    Numbers {
        /// The tokens.
        tokens: Vec<i32>,
    },
    /// With their texts.
    Pieces {
        /// The tokens.
        tokens: Vec<TokenPiece>,
    },
}

/// A token and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPiece {
    /// The token.
    pub id: i32,
    /// Its text.
    pub piece: Piece,
}

/// The text of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    /// It is whole.
    Text(String),
    /// It begins or ends within a character.
    Bytes(Vec<u8>),
}

/// The answer to a [`DetokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensText {
    /// The text; U+FFFD where there is no whole character.
    pub content: String,
}

impl TokenizeRequest {
    /// Reads the body.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        Ok(Self {
            model: optional(&fields, "model")?,
            content: required(&fields, "content")?,
            add_special: optional(&fields, "add_special")?.unwrap_or(false),
            with_pieces: optional(&fields, "with_pieces")?.unwrap_or(false),
        })
    }
}

impl DetokenizeRequest {
    /// Reads the body.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        Ok(Self { model: optional(&fields, "model")?, tokens: required(&fields, "tokens")? })
    }
}
