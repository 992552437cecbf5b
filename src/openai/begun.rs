//! What one engine has to know of an answer to go on with it where another broke off. Spoken between routers and
//! engines of one fleet only.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::{Malformed, field, optional};

/// The header by which a router asks for a [`Progress`] with each event of a stream.
pub const WITH_PROGRESS: &str = "x-bramble-with-progress";

/// The header by which an engine says that its answer begins behind the [`Begun`] of the request. One that knows nothing
/// of this would say the whole answer again.
pub const GOES_ON: &str = "x-bramble-goes-on";

/// How far an answer is that goes on in another event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What the model has written since the event before, to the letter: thoughts, calls and their marks are in it, and
    /// so is what may turn out to be one of these. What may be the beginning of a stop string, or of a character, is not.
    pub text: String,
    /// Tokens of the answer whose text has been told, from its very beginning.
    pub tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
}

impl Progress {
    /// The name of the field that has it in an event.
    pub const FIELD: &str = "bramble_progress";
}

/// An answer as far as the client has it from somebody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// All that the model wrote: each [`Progress::text`].
    pub text: String,
    /// Tokens of it ([`Progress::tokens`]). They are taken off the most that the answer may have.
    pub tokens: u32,
}

impl Begun {
    /// The name of the field that has it in a request.
    pub const FIELD: &str = "bramble_begun";

    /// Reads it, where a request has one.
    pub(super) fn read(fields: &Map<String, Value>) -> Result<Option<Self>, Malformed> {
        let begun: Option<Self> = optional(fields, Self::FIELD)?;
        match begun {
            Some(Self { tokens, .. }) if tokens > MOST_TOKENS => {
                Err(field(Self::FIELD, format!("{tokens} tokens are more than any context holds")))
            }
            begun => Ok(begun),
        }
    }
}

/// Far beyond every context, so that counts never overflow.
const MOST_TOKENS: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_has_begun_is_read_and_nonsense_is_named() {
        let read = |begun: Value| Begun::read(json!({ "bramble_begun": begun }).as_object().unwrap());
        let begun = Begun { text: "<think>Hm".to_owned(), tokens: 3 };
        assert_eq!(read(serde_json::to_value(&begun).unwrap()).unwrap(), Some(begun));
        assert_eq!(read(Value::Null).unwrap(), None);
        for wrong in [json!("text"), json!({"text": 1, "tokens": 1}), json!({"text": "", "tokens": u32::MAX})]
        {
            assert!(read(wrong).unwrap_err().to_string().contains("'bramble_begun'"));
        }
    }
}
