//! Asks services over HTTP whether they are well: engines over their Unix sockets, the
//! router over TCP on this host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::error::tame;
use crate::authority::{self, Trust};
use crate::causes::with_causes;
use crate::generation::{Definition, DoorTls, Secrets};
use crate::openai::{TextReply, Timings};
use crate::units::TokensPerSec;

/// No answer to a question of ours is longer.
const MAX_REPLY: usize = 1 << 20;

/// A health check that takes longer has failed.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// A speed measured over fewer tokens says nothing.
const MIN_TOKENS: u64 = 4;

struct Reply {
    status: StatusCode,
    body: Bytes,
}

/// What an engine answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answer {
    /// Answer tokens per second; none when too few came to tell.
    pub(super) speed: Option<TokensPerSec>,
    /// Milliseconds to the first token, where the engine says so.
    pub(super) first_token_ms: Option<f64>,
}

/// Asks an engine for its health; the error says what came instead of "ready".
pub(super) async fn engine_health(socket: &Path) -> Result<(), String> {
    let reply = timeout(HEALTH_LIMIT, ask_unix(socket, get("/health")));
    let reply = reply.await.map_err(|_| "does not answer /health".to_owned())??;
    if reply.status.is_success() { Ok(()) } else { Err(format!("/health says {}", reply.status)) }
}

/// Asks the router for its health, as this host of the fleet where it speaks TLS: so its certificate is proven, too.
pub(super) async fn door_health(definition: &Definition, secrets: Option<&Secrets>) -> Result<(), String> {
    let port = definition.door.port;
    let asked = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let stream = stream.map_err(|error| format!("cannot connect to port {port}: {error}"))?;
        match definition.door.tls {
            DoorTls::Off => ask(stream, get("/healthz")).await,
            DoorTls::Fleet => {
                let (tls, name) = tls(definition, secrets)?;
                let stream = tls.connect(name, stream).await;
                let stream =
                    stream.map_err(|error| format!("does not prove that it is this host: {error}"))?;
                ask(stream, get("/healthz")).await
            }
        }
    };
    let reply = timeout(HEALTH_LIMIT, asked).await.map_err(|_| "does not answer /healthz".to_owned())??;
    if reply.status.is_success() { Ok(()) } else { Err(format!("/healthz says {}", reply.status)) }
}

/// Returns how this host's own door is asked over TLS.
fn tls(
    definition: &Definition,
    secrets: Option<&Secrets>,
) -> Result<(TlsConnector, ServerName<'static>), String> {
    let identity = secrets.and_then(|secrets| secrets.identity.as_ref());
    let identity = identity.ok_or("there is no certificate among its secrets, or none that may be read")?;
    let asked = || {
        let trust = Arc::new(Trust::of(&definition.fleet, identity)?);
        let name = trust.full_name(&definition.host)?;
        let config = authority::visit(trust, &definition.host, None)?;
        Ok((TlsConnector::from(Arc::new(config)), name))
    };
    asked().map_err(|error: authority::Error| with_causes(&error))
}

/// Lets an engine answer `prompt` with at most `max_tokens`.
pub(super) async fn answer(
    socket: &Path,
    model: &str,
    prompt: &str,
    max_tokens: u32,
) -> Result<Answer, String> {
    let chat = json!({
        "model": model, "max_tokens": max_tokens, "temperature": 0.0,
        "messages": [{ "role": "user", "content": prompt }],
    });
    let started = Instant::now();
    let reply = ask_unix(socket, post("/v1/chat/completions", &chat)).await?;
    if reply.status.is_success() {
        return judge(&reply.body, started.elapsed());
    }
    // a model without a chat template completes
    let plain = json!({ "model": model, "max_tokens": max_tokens, "temperature": 0.0, "prompt": prompt });
    let started = Instant::now();
    let second = ask_unix(socket, post("/v1/completions", &plain)).await?;
    if second.status.is_success() {
        return judge(&second.body, started.elapsed());
    }
    let said =
        |reply: &Reply| format!("{} {}", reply.status, tame(&String::from_utf8_lossy(&reply.body), 300));
    Err(format!("answers the prompt with {} and {}", said(&reply), said(&second)))
}

/// Decides whether a reply is an answer, and how fast it came.
fn judge(body: &[u8], took: Duration) -> Result<Answer, String> {
    let reply: Value = serde_json::from_slice(body).map_err(|error| format!("answers no JSON: {error}"))?;
    let choice = &reply["choices"][0];
    let text = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
    let timings = &reply["timings"];
    let tokens = reply["usage"]["completion_tokens"].as_u64().or_else(|| timings["predicted_n"].as_u64());
    if text.is_none_or(str::is_empty) && tokens.unwrap_or(0) == 0 {
        return Err("answers the prompt with nothing".to_owned());
    }
    let seconds = took.as_secs_f64().max(1e-9);
    let timed = timings["predicted_per_second"].as_f64().filter(|speed| speed.is_finite() && *speed > 0.0);
    let speed = timed.or_else(|| tokens.map(|tokens| tokens as f64 / seconds));
    Ok(Answer {
        speed: speed.filter(|_| tokens.is_some_and(|tokens| tokens >= MIN_TOKENS)).map(TokensPerSec),
        first_token_ms: timings["prompt_ms"].as_f64().filter(|ms| ms.is_finite()),
    })
}

/// Lets an engine go on with `prompt` for `max_tokens`, and returns how long that took it.
pub async fn time(socket: &Path, model: &str, prompt: &str, max_tokens: u32) -> Result<Timings, String> {
    let plain = json!({ "model": model, "max_tokens": max_tokens, "temperature": 0.0, "prompt": prompt });
    let reply = call(socket, "/v1/completions", &plain).await?;
    let whole: TextReply =
        serde_json::from_value(reply).map_err(|error| format!("answers what cannot be read: {error}"))?;
    whole.timings.ok_or_else(|| "does not say how long it took".to_owned())
}

/// Asks an engine something, and returns its answer if that is a good one.
pub async fn call(socket: &Path, path: &str, request: &Value) -> Result<Value, String> {
    let reply = ask_unix(socket, post(path, request)).await?;
    if !reply.status.is_success() {
        return Err(format!("{} {}", reply.status, tame(&String::from_utf8_lossy(&reply.body), 300)));
    }
    serde_json::from_slice(&reply.body).map_err(|error| format!("answers what cannot be read: {error}"))
}

async fn ask_unix(socket: &Path, request: Result<Request<Full<Bytes>>, String>) -> Result<Reply, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| format!("cannot connect: {error}"))?;
    ask(stream, request).await
}

async fn ask<S>(stream: S, request: Result<Request<Full<Bytes>>, String>) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| format!("breaks the connection: {error}");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let pump = tokio::spawn(connection);
    let exchanged = async {
        let reply = sender.send_request(request?).await.map_err(broke)?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await;
        let body = body.map_err(|error| format!("breaks its answer off: {error}"))?.to_bytes();
        Ok(Reply { status, body })
    }
    .await;
    pump.abort();
    exchanged
}

fn get(path: &str) -> Result<Request<Full<Bytes>>, String> {
    request(Method::GET, path, Bytes::new())
}

fn post(path: &str, body: &Value) -> Result<Request<Full<Bytes>>, String> {
    request(Method::POST, path, Bytes::from(body.to_string()))
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost").header("content-type", "application/json");
    request.body(Full::new(body)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::generation::{DoorSpec, Identity};

    fn check(body: &Value, expected: Result<Answer, &str>) {
        let judged = judge(body.to_string().as_bytes(), Duration::from_secs(2));
        assert_eq!(judged, expected.map_err(str::to_owned), "{body}");
    }

    #[test]
    fn an_answer_is_judged_by_what_is_in_it() {
        let answer =
            |speed: Option<f64>, first_token_ms| Answer { speed: speed.map(TokensPerSec), first_token_ms };
        check(
            &json!({ "choices": [{ "message": { "content": "Paris." } }], "usage": { "completion_tokens": 8 } }),
            Ok(answer(Some(4.0), None)),
        );
        check(
            &json!({ "choices": [{ "text": " Paris" }], "usage": { "completion_tokens": 16 },
                     "timings": { "predicted_per_second": 2.5, "prompt_ms": 900.0 } }),
            Ok(answer(Some(2.5), Some(900.0))),
        );
        // too short to tell the speed, but an answer
        check(
            &json!({ "choices": [{ "text": "Yes" }], "usage": { "completion_tokens": 1 } }),
            Ok(answer(None, None)),
        );
        check(
            &json!({ "choices": [{ "message": { "content": "" } }] }),
            Err("answers the prompt with nothing"),
        );
        check(&json!({}), Err("answers the prompt with nothing"));
        check(&json!([1, "x"]), Err("answers the prompt with nothing"));
        assert!(judge(b"<html>", Duration::ZERO).is_err());
    }

    /// Opens a door over TLS as `host`, for one question, and returns what is looked at by.
    async fn door_of(authority: &Authority, host: &str) -> (Definition, Secrets) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let certified = authority.certify(&host.parse().unwrap(), 0).unwrap();
        let identity = Identity {
            authority: authority.certificate().to_owned(),
            certificate: certified.certificate,
            key: certified.key,
            revoked: [].into(),
        };
        let trust = Arc::new(Trust::of(authority.fleet(), &identity).unwrap());
        let config = authority::door(trust, &identity).unwrap();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (wire, _) = listener.accept().await.unwrap();
            let Ok(mut wire) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(wire).await else {
                return;
            };
            wire.read_u8().await.unwrap();
            wire.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            wire.flush().await.unwrap();
            while wire.read_u8().await.is_ok() {}
        });
        let definition = Definition {
            format: crate::generation::FORMAT,
            fleet: authority.fleet().clone(),
            host: "kitchen".parse().unwrap(),
            program: crate::generation::Program {
                digest: crate::ids::Digest::of(b""),
                version: "0".to_owned(),
                gpu: None,
            },
            engines: Vec::new(),
            door: DoorSpec { port, tls: DoorTls::Fleet, upstreams: Vec::new(), routes: Vec::new() },
        };
        (definition, Secrets { identity: Some(identity), ..Secrets::default() })
    }

    #[tokio::test]
    async fn a_door_over_tls_is_well_when_it_proves_that_it_is_this_host() {
        let home = Authority::new(&"home".parse().unwrap(), 0).unwrap();
        let (definition, secrets) = door_of(&home, "kitchen").await;
        assert_eq!(door_health(&definition, Some(&secrets)).await, Ok(()));
        let (definition, secrets) = door_of(&home, "shed").await;
        let said = door_health(&definition, Some(&secrets)).await.unwrap_err();
        assert!(said.starts_with("does not prove that it is this host: "), "{said}");
        let said = door_health(&definition, None).await.unwrap_err();
        assert!(said.contains("no certificate among its secrets"), "{said}");
    }
}
