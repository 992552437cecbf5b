//! What tokens cost in work, before it is known how fast a host does it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of work that has a rate of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Term {
    /// Weights of one type: bytes that an answer token reads, or operations that a prompt
    /// token takes.
    Weights {
        /// The type's name: `Q4_K`.
        tensor_type: String,
        /// Whether they are in the CPU's own layout.
        is_repacked: bool,
    },
    /// Layers: what each adds beside its weights.
    Layer,
    /// Operations between a token and those before it.
    Attention,
}

impl Term {
    /// Returns weights of a type in the file's layout.
    pub fn weights(tensor_type: &str) -> Self {
        Self::Weights { tensor_type: tensor_type.to_owned(), is_repacked: false }
    }

    /// Returns the seconds of one byte, operation or layer, from the value of its constant: 10^9
    /// a second, of layers milliseconds. A rate of 0 stands for what takes no time.
    pub fn cost(&self, value: f64) -> f64 {
        match self {
            Self::Layer => value / 1e3,
            _ if value > 0.0 => 1.0 / (value * 1e9),
            _ => 0.0,
        }
    }

    /// Returns the value of the constant, from the seconds of one byte, operation or layer.
    pub fn value(&self, cost: f64) -> f64 {
        match self {
            Self::Layer => cost * 1e3,
            _ if cost > 0.0 => 1.0 / (cost * 1e9),
            _ => 0.0,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights { tensor_type, is_repacked: false } => f.pad(tensor_type),
            Self::Weights { tensor_type, is_repacked: true } => f.pad(&format!("{tensor_type} repacked")),
            Self::Layer => f.pad("layer"),
            Self::Attention => f.pad("attention"),
        }
    }
}

impl From<String> for Term {
    fn from(text: String) -> Self {
        match (text.as_str(), text.strip_suffix(" repacked")) {
            ("layer", _) => Self::Layer,
            ("attention", _) => Self::Attention,
            (_, Some(tensor_type)) => {
                Self::Weights { tensor_type: tensor_type.to_owned(), is_repacked: true }
            }
            (plain, None) => Self::weights(plain),
        }
    }
}

impl FromStr for Term {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::from(text.to_owned()))
    }
}

impl From<Term> for String {
    fn from(term: Term) -> Self {
        term.to_string()
    }
}

/// How much there is of each kind of work.
pub type Terms = BTreeMap<Term, f64>;

/// What a model's tokens cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// For each answer token: bytes of weights, and layers.
    pub answer: Terms,
    /// For each prompt token: operations with weights, two for each.
    pub prompt: Terms,
    /// Operations of attention for each token and each token before it.
    pub attention: f64,
}

impl Work {
    /// Returns the bytes that an answer token reads.
    pub fn bytes(&self) -> f64 {
        let is_weights = |term: &Term| matches!(term, Term::Weights { .. });
        self.answer.iter().filter(|(term, _)| is_weights(term)).map(|(_, bytes)| bytes).sum()
    }

    /// Returns what an answer token costs that has `depth` tokens before it.
    pub fn of_answer(&self, depth: f64) -> Terms {
        let mut terms = self.answer.clone();
        terms.insert(Term::Attention, self.attention * depth);
        terms
    }

    /// Returns what each token of a prompt of `length` costs.
    ///
    /// As the fitted runs were: the block is computed whole, what a causal mask hides included.
    pub fn of_prompt(&self, length: f64) -> Terms {
        let mut terms = self.prompt.clone();
        terms.insert(Term::Attention, self.attention * length);
        terms
    }
}

/// What tokens are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// One after the other, each reading all weights.
    Answer,
    /// In blocks, each of which reads the weights once.
    Prompt,
}

impl Phase {
    /// Returns the name in the table of rates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Prompt => "prompt",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_as_they_are_shown() {
        let repacked = Term::Weights { tensor_type: "Q4_K".to_owned(), is_repacked: true };
        for term in [Term::weights("IQ4_NL"), repacked, Term::Layer, Term::Attention] {
            assert_eq!(Term::from(term.to_string()), term);
        }
    }

    #[test]
    fn work_is_kept_as_json() {
        let work = Work {
            answer: [(Term::weights("Q4_K"), 1e9), (Term::Layer, 16.0)].into(),
            prompt: Terms::new(),
            attention: 131_072.0,
        };
        let text = serde_json::to_string(&work).unwrap();
        assert!(text.contains(r#""Q4_K":1000000000.0"#), "{text}");
        assert_eq!(serde_json::from_str::<Work>(&text).unwrap(), work);
    }

    #[test]
    fn attention_grows_with_what_stands_before() {
        let work = Work { attention: 10.0, ..Work::default() };
        let attention = |terms: Terms| terms.get(&Term::Attention).copied();
        assert_eq!(attention(work.of_answer(0.0)), Some(0.0));
        assert_eq!(attention(work.of_answer(100.0)), Some(1000.0));
        assert_eq!(attention(work.of_prompt(512.0)), Some(5120.0));
    }
}
