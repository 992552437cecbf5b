use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::http::MAX_BODY;
use super::worker::Failure;
use crate::openai::{ErrorBody, Malformed};

/// When to come back to an engine that stops: about when the next one is up.
pub(super) const RETRY_SECONDS: u64 = 5;

/// A request that is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    pub(super) body: ErrorBody,
    /// When to come back, in seconds, where it will pass.
    pub(super) retry: Option<u64>,
}

impl Refusal {
    pub(super) fn new(code: StatusCode, body: ErrorBody) -> Self {
        Self { code, body, retry: None }
    }

    pub(super) fn bad_request(message: impl Into<String>, param: Option<&str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorBody::invalid(message, param, None))
    }

    /// For what `param` asks for and is not done yet.
    pub(super) fn unsupported(message: &str, param: &str) -> Self {
        let body = ErrorBody::invalid(message, Some(param), Some("unsupported_parameter"));
        Self::new(StatusCode::BAD_REQUEST, body)
    }

    /// For what will pass in about so many `seconds`.
    pub(super) fn later(message: impl Into<String>, code: &str, seconds: u64) -> Self {
        let body = ErrorBody::server(message, code);
        Self { code: StatusCode::SERVICE_UNAVAILABLE, body, retry: Some(seconds) }
    }

    /// For a body that is larger than any is taken.
    pub(super) fn too_large() -> Self {
        let body = ErrorBody::invalid(format!("the body is larger than {MAX_BODY} bytes"), None, None);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, body)
    }

    /// For a prompt of so many tokens, as many as are known of, which leaves no room for an answer in `context`.
    pub(super) fn too_long(prompt: impl Display, context: usize) -> Self {
        let message = format!(
            "this model's maximum context length is {context} tokens, the answer included, and the prompt has {prompt}"
        );
        let code = Some("context_length_exceeded");
        Self::new(StatusCode::BAD_REQUEST, ErrorBody::invalid(message, Some("messages"), code))
    }

    /// For an engine that is about to stop: another takes its place, or it starts anew.
    pub(super) fn draining() -> Self {
        Self::later("the engine is about to stop", "draining", RETRY_SECONDS)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::bad_request(malformed.to_string(), malformed.param())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Empty => Self::bad_request("the prompt is empty", None),
            Failure::NoToken(token) => {
                Self::bad_request(format!("this model's vocabulary has no token {token}"), None)
            }
            Failure::TooLong { prompt, context } => Self::too_long(prompt, context),
            Failure::Constraint(reason) => {
                let message = format!("the answer cannot go on within its format: {reason}");
                let body = ErrorBody::server(message, "constraint_failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, body)
            }
            Failure::Draining => Self::draining(),
            Failure::Broken(reason) => {
                let message = format!("the model failed: {reason}");
                let body = ErrorBody::server(message, "engine_failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, body)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, axum::Json(&self.body)).into_response();
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
