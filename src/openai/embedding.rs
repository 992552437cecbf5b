use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::{Input, Malformed, field, object, optional, required};

/// The most inputs of one request; OpenAI's own limit.
const MAX_INPUTS: usize = 2048;

/// A request for what a model makes of texts: `POST /v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// The model's name.
    pub model: String,
    /// The texts, one at least.
    pub inputs: Vec<Input>,
    /// Whether numbers come as Base64 of 32-bit floats, little-endian (`encoding_format`), as `openai`'s own clients ask.
    pub is_base64: bool,
    /// How many of the numbers are wanted; none: all.
    pub dimensions: Option<u32>,
}

impl EmbeddingRequest {
    /// Reads the body.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let fields = object(body)?;
        let inputs = match fields.get("input") {
            None | Some(Value::Null) => return Err(Malformed::Missing("input")),
            Some(input) => Input::read_all("input", input)?,
        };
        if inputs.len() > MAX_INPUTS {
            return Err(field("input", format!("may hold {MAX_INPUTS} texts, not {}", inputs.len())));
        }
        let is_base64 = match optional::<String>(&fields, "encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(field("encoding_format", format!("is '{other}'; there are float and base64")));
            }
        };
        let dimensions = optional(&fields, "dimensions")?;
        if dimensions == Some(0) {
            return Err(field("dimensions", "must be 1 or more"));
        }
        Ok(Self { model: required(&fields, "model")?, inputs, is_base64, dimensions })
    }
}

/// The reply to an [`EmbeddingRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingReply {
    /// `list`.
    pub object: String,
    /// One entry for each input, in their order.
    pub data: Vec<Embedding>,
    /// The model's name.
    pub model: String,
    /// What was computed.
    pub usage: EmbeddingUsage,
}

/// What a model made of one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// The input's place.
    pub index: usize,
    /// Its numbers.
    pub embedding: Numbers,
}

/// The numbers of an embedding: of length 1 together, as OpenAI's are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Numbers {
    /// One by one.
    Floats(Vec<f32>),
    /// 32-bit floats, little-endian, in Base64.
    Base64(String),
}

/// Tokens that were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingUsage {
    /// Of all inputs.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}

impl EmbeddingReply {
    /// Puts what a model made of each input, with the tokens that each had, into the form that `request` asks for: cut
    /// to its `dimensions`, and scaled to length 1.
    pub fn new(request: &EmbeddingRequest, states: Vec<(Vec<f32>, u32)>) -> Self {
        let tokens = states.iter().fold(0_u32, |sum, (_, tokens)| sum.saturating_add(*tokens));
        let data = states.into_iter().enumerate().map(|(index, (values, _))| {
            let kept = request.dimensions.map_or(values.len(), |wanted| values.len().min(wanted as usize));
            let values = of_length_one(&values[..kept]);
            let embedding = if request.is_base64 {
                Numbers::Base64(
                    STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()),
                )
            } else {
                Numbers::Floats(values)
            };
            Embedding { object: "embedding".to_owned(), index, embedding }
        });
        Self {
            object: "list".to_owned(),
            data: data.collect(),
            model: request.model.clone(),
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a quotient that is 1 at most")]
fn of_length_one(values: &[f32]) -> Vec<f32> {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let length = values.iter().map(square).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    values.iter().map(|value| (f64::from(*value) * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<EmbeddingRequest, Malformed> {
        EmbeddingRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn inputs_are_texts_or_tokens_one_or_many() {
        let inputs =
            |input: Value| parse(&json!({"model": "m", "input": input})).map(|request| request.inputs);
        let text = |text: &str| Input::Text(text.to_owned());
        assert_eq!(inputs(json!("a")).unwrap(), [text("a")]);
        assert_eq!(inputs(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(inputs(json!([1, 2])).unwrap(), [Input::Tokens(vec![1, 2])]);
        assert_eq!(
            inputs(json!([[1], [2, 3]])).unwrap(),
            [Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]
        );
        for wrong in
            [json!([]), json!(1), json!([1, "a"]), json!([["a"]]), json!([-1]), json!([1.5]), json!({})]
        {
            assert_eq!(inputs(wrong.clone()).unwrap_err().param(), Some("input"), "{wrong}");
        }
        assert_eq!(inputs(json!(vec!["a"; 2049])).unwrap_err().param(), Some("input"));
    }

    #[test]
    fn numbers_are_cut_and_scaled_to_length_one() {
        let reply =
            |body: &Value| EmbeddingReply::new(&parse(body).unwrap(), vec![(vec![3.0, 4.0, 12.0], 5)]);
        let mut body = json!({"model": "m", "input": "a", "dimensions": 2});
        let floats = reply(&body);
        assert_eq!(floats.data[0].embedding, Numbers::Floats(vec![0.6, 0.8]));
        assert_eq!(floats.usage.prompt_tokens, 5);
        body["encoding_format"] = json!("base64");
        // 0.6 is 3f19999a, 0.8 is 3f4ccccd
        assert_eq!(reply(&body).data[0].embedding, Numbers::Base64("mpkZP83MTD8=".to_owned()));
        body["encoding_format"] = json!("hex");
        assert_eq!(parse(&body).unwrap_err().param(), Some("encoding_format"));
    }
}
