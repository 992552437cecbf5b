use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One token and how likely the model found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogProb {
    /// The token's text; a token that is no whole text has U+FFFD in it.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Option<Vec<u8>>,
}

/// One token of an answer, and the likeliest that could have stood in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// The token that was taken.
    #[serde(flatten)]
    pub taken: LogProb,
    /// The likeliest, best first; as many as were asked for.
    pub top_logprobs: Vec<LogProb>,
}

/// How likely the tokens of a chat's answer were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogProbs {
    /// One for each token.
    pub content: Vec<TokenLogProb>,
}

/// How likely the tokens of a completion were: one list for each thing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TextLogProbs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// The natural logarithms of their probabilities.
    pub token_logprobs: Vec<f32>,
    /// The likeliest in each one's place: `{"text": logarithm}`; of two with one text the likelier.
    pub top_logprobs: Vec<Map<String, Value>>,
    /// Where each one's text begins in the answer, in characters.
    pub text_offset: Vec<usize>,
}

impl TextLogProbs {
    /// Arranges `tokens`, of which the first one's text begins at `offset` in the answer, in characters.
    pub fn arrange(tokens: &[TokenLogProb], mut offset: usize) -> Self {
        let mut lists = Self::default();
        for TokenLogProb { taken, top_logprobs } in tokens {
            let mut top = Map::new();
            for LogProb { token, logprob, .. } in top_logprobs {
                top.entry(token).or_insert_with(|| (*logprob).into());
            }
            lists.text_offset.push(offset);
            offset += taken.token.chars().count();
            lists.tokens.push(taken.token.clone());
            lists.token_logprobs.push(taken.logprob);
            lists.top_logprobs.push(top);
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn likely(token: &str, logprob: f32) -> LogProb {
        LogProb { token: token.to_owned(), logprob, bytes: Some(token.as_bytes().to_vec()) }
    }

    #[test]
    fn both_forms_are_openais() {
        let first = TokenLogProb {
            taken: likely("é", -0.5),
            top_logprobs: vec![likely("é", -0.5), likely("e", -1.5), likely("e", -9.0)],
        };
        let second = TokenLogProb { taken: likely("t", -0.25), top_logprobs: Vec::new() };
        assert_eq!(
            serde_json::to_value(&second).unwrap(),
            json!({"token": "t", "logprob": -0.25, "bytes": [116], "top_logprobs": []}),
        );
        assert_eq!(
            serde_json::to_value(TextLogProbs::arrange(&[first, second], 3)).unwrap(),
            json!({
                "tokens": ["é", "t"], "token_logprobs": [-0.5, -0.25],
                "top_logprobs": [{"é": -0.5, "e": -1.5}, {}], "text_offset": [3, 4],
            }),
        );
    }
}
