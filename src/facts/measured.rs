//! What an engine was measured at as it came into force.

use serde::{Deserialize, Serialize};

use crate::generation::EngineSpec;
use crate::ids::ModelName;
use crate::units::{Bytes, TokensPerSec};

/// What the probe of an activation measured of one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model.
    pub model: ModelName,
    /// Answer tokens per second; none when the answer was too short to tell.
    pub tokens_per_second: Option<TokensPerSec>,
    /// Milliseconds to the first token, where the engine says so.
    pub first_token_ms: Option<f64>,
    /// Seconds from the start to ready.
    pub load_seconds: f64,
    /// The most memory that its process has held, mapped weights included; none where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// What a plan foretold of one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Foretold {
    /// The model.
    pub model: ModelName,
    /// Answer tokens per second; none where nothing was known of such a host.
    pub tokens_per_second: Option<TokensPerSec>,
    /// Seconds from the start to ready; none where that was not written down.
    pub load_seconds: Option<f64>,
    /// The most memory that its process holds, mapped weights included; none where no plan has counted.
    pub memory: Option<Bytes>,
}

/// How it stands in diaries: the first ones had the speed alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Speed(ModelName, TokensPerSec),
    Whole {
        model: ModelName,
        tokens_per_second: Option<TokensPerSec>,
        load_seconds: Option<f64>,
        memory: Option<Bytes>,
    },
}

impl From<Written> for Foretold {
    fn from(written: Written) -> Self {
        match written {
            Written::Speed(model, speed) => {
                Self { model, tokens_per_second: Some(speed), load_seconds: None, memory: None }
            }
            Written::Whole { model, tokens_per_second, load_seconds, memory } => {
                Self { model, tokens_per_second, load_seconds, memory }
            }
        }
    }
}

impl From<&EngineSpec> for Foretold {
    fn from(spec: &EngineSpec) -> Self {
        let is_known = !spec.pace.is_guess;
        Self {
            model: spec.model.clone(),
            tokens_per_second: is_known.then_some(spec.pace.answer),
            load_seconds: is_known.then_some(spec.pace.load_seconds),
            memory: (spec.need > Bytes::ZERO).then_some(spec.need),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diaries_of_before_tell_the_speed_alone() {
        let old: Foretold = serde_json::from_str(r#"["chat", 4.8]"#).unwrap();
        assert_eq!(
            (old.model.as_str(), old.tokens_per_second, old.memory),
            ("chat", Some(TokensPerSec(4.8)), None)
        );
        let new = Foretold { load_seconds: Some(3.0), memory: Some(Bytes::mib(5)), ..old };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<Foretold>(&text).unwrap(), new);
    }
}
