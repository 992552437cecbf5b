use std::path::Path;

use serde_json::{Value, json};

use crate::facts::TextBench;
use crate::generation::EngineSpec;
use crate::install;
use crate::openai::TextReply;

/// What has to be foretold. Written for this purpose, so that no model has learnt it by heart; some prose, some
/// numbers, some reasoning, so that no single habit of a model decides.
const TEXT: &str = "The kettle had been on the hook since five, and nobody had thought to take it down. When Marta came in \
from the yard she counted the cups, found seven, and asked who the eighth had been for. Her uncle said that a cup breaks \
every winter, and that this one had merely been early. Outside, the frost had drawn ferns on the panes of the shed where the \
small computers hummed. Three of them kept the greenhouse between four and nine degrees; a fourth one answered questions. How \
long, she typed, will ninety litres of oil last if we burn two and a half a day? Thirty-six days, it said, and added that the \
tank should be filled before the road closes.";

/// What outweighs every score that a model gives.
const ALWAYS: i32 = 100;

/// Asks an engine how likely each token of the text is behind those before it.
///
/// One token is asked for at a time, and may be none but the text's own: what is reported is how likely it was before
/// that was done to its score. The engine keeps what it has read, so that each costs as much as a token of an answer.
pub(super) async fn measure(socket: &Path, spec: &EngineSpec) -> Result<TextBench, String> {
    if spec.weights.architecture.starts_with("t5") {
        return Err("its prompts are read by an encoder, which foretells nothing".to_owned());
    }
    let model = spec.model.as_str();
    let asked = json!({ "model": model, "content": TEXT, "add_special": true });
    let tokens = tokens(&install::call(socket, "/tokenize", &asked).await?)?;
    if tokens.len() + 1 > spec.context as usize {
        return Err(format!("its context of {} is shorter than the text", spec.context));
    }
    let mut nats = 0.0;
    for (at, token) in tokens.iter().enumerate().skip(1) {
        let request = json!({
            "model": model, "prompt": tokens[..at], "max_tokens": 1, "temperature": 0.0, "logprobs": 0,
            "logit_bias": { token.to_string(): ALWAYS },
        });
        let reply = install::call(socket, "/v1/completions", &request).await?;
        nats -= logprob(reply)?;
    }
    // the first token stands behind nothing, and is not foretold
    judge(nats, tokens.len() - 1)
}

/// Reads what `/tokenize` answers.
fn tokens(reply: &Value) -> Result<Vec<i64>, String> {
    let tokens: Option<Vec<i64>> =
        reply["tokens"].as_array().and_then(|all| all.iter().map(Value::as_i64).collect());
    tokens.filter(|tokens| tokens.len() > 1).ok_or_else(|| "cuts the text into nothing".to_owned())
}

/// Returns how likely the one token of an answer was.
fn logprob(reply: Value) -> Result<f64, String> {
    let reply: TextReply =
        serde_json::from_value(reply).map_err(|error| format!("answers what cannot be read: {error}"))?;
    let told = reply.choices.first().and_then(|choice| choice.logprobs.as_ref());
    match told.map(|told| told.token_logprobs.as_slice()) {
        Some([one]) if one.is_finite() => Ok(f64::from(*one)),
        Some([_]) => Err("finds a token of the text impossible".to_owned()),
        _ => Err("does not say how likely its token was".to_owned()),
    }
}

fn judge(nats: f64, foretold: usize) -> Result<TextBench, String> {
    let count = |n: usize| u32::try_from(n).map_err(|_| "the text is too long".to_owned());
    let bytes = count(TEXT.len())?;
    let bits_per_byte = nats / std::f64::consts::LN_2 / f64::from(bytes);
    Ok(TextBench { bits_per_byte, bytes, tokens: count(foretold)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(logprobs: &Value) -> Value {
        let told = logprobs.as_array().map_or(0, Vec::len);
        json!({
            "id": "cmpl-1", "object": "text_completion", "created": 0, "model": "chat",
            "choices": [{
                "index": 0, "text": "x", "finish_reason": "length",
                "logprobs": {
                    "tokens": vec!["x"; told], "token_logprobs": logprobs,
                    "top_logprobs": vec![json!({}); told], "text_offset": vec![0; told],
                },
            }],
        })
    }

    #[test]
    fn a_bit_for_each_byte_is_one() {
        let nats = std::f64::consts::LN_2 * TEXT.len() as f64;
        let judged = judge(nats, 150).unwrap();
        assert!((judged.bits_per_byte - 1.0).abs() < 1e-9, "{judged:?}");
        assert_eq!((judged.tokens, judged.bytes as usize), (150, TEXT.len()));
    }

    #[test]
    fn an_answer_that_does_not_tell_is_no_figure() {
        assert!((logprob(reply(&json!([-0.5]))).unwrap() + 0.5).abs() < 1e-9);
        for other in [json!([]), json!([-1.0, -2.0])] {
            assert!(logprob(reply(&other)).unwrap_err().contains("how likely"), "{other}");
        }
        assert!(logprob(json!({ "error": "x" })).is_err());
        assert_eq!(tokens(&json!({ "tokens": [1, 2, 3] })), Ok(vec![1, 2, 3]));
        for other in [json!({}), json!({ "tokens": [1] }), json!({ "tokens": [1, "x"] })] {
            assert!(tokens(&other).is_err(), "{other}");
        }
    }
}
