//! What the router itself says to clients, in OpenAI's form.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// A reply. Its body never fails: what goes wrong in a stream is said in the stream.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Makes a reply of bytes.
pub(super) fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Makes a reply of JSON.
pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    bytes(status, "application/json", body.to_string())
}

/// Returns an error's body.
pub(super) fn error_body(kind: &str, code: &str, message: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// Makes an error about the request.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Reply {
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        _ => "invalid_request_error",
    };
    json(status, &error_body(kind, code, message))
}

/// Makes an error about ourselves, with the seconds after which to try again.
pub(super) fn unable(status: StatusCode, code: &str, message: &str, retry_after: u64) -> Reply {
    let mut reply = json(status, &error_body("server_error", code, message));
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    reply
}
