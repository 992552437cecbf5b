use serde::{Deserialize, Serialize};

/// The body of a refusal, in OpenAI's form: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A sentence.
    pub message: String,
    /// The kind, in OpenAI's words: `invalid_request_error`, `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field of the request that it is about.
    #[serde(default)]
    pub param: Option<String>,
    /// A word for programs: `model_not_found`, `context_length_exceeded`.
    #[serde(default)]
    pub code: Option<String>,
}

impl ErrorBody {
    /// Makes the body of a refusal that the client's request is the cause of.
    pub fn invalid(message: impl Into<String>, param: Option<&str>, code: Option<&str>) -> Self {
        Self::new("invalid_request_error", message, param, code)
    }

    /// Makes the body of a refusal that the client is not the cause of.
    pub fn server(message: impl Into<String>, code: &str) -> Self {
        Self::new("server_error", message, None, Some(code))
    }

    fn new(kind: &str, message: impl Into<String>, param: Option<&str>, code: Option<&str>) -> Self {
        Self {
            error: ErrorDetail {
                message: message.into(),
                kind: kind.to_owned(),
                param: param.map(str::to_owned),
                code: code.map(str::to_owned),
            },
        }
    }
}
