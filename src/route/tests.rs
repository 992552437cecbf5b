//! The door against upstreams that misbehave.

mod continued;
mod contract;
mod doubles;
mod fallback;
mod gate;
mod guard;
mod held;
mod limits;
mod page;
mod streams;
mod tls;
mod wake;
mod whole;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, COOKIE};
use hyper::{Method, Request};
use serde_json::{Value, json};

use self::doubles::{CLIENT, Universe, definition, install};
use super::door::Door;
use super::reply::Reply;
use super::upstream::Dial;
use crate::generation::Definition;

/// A door with doubles behind it.
struct House {
    door: Arc<Door>,
    universe: Universe,
    root: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        Self::with(&definition())
    }

    fn with(definition: &Definition) -> Self {
        let universe = Universe::default();
        Self::dialling(definition, Box::new(universe.clone()), universe)
    }

    fn dialling(definition: &Definition, dial: Box<dyn Dial>, universe: Universe) -> Self {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), 7, definition);
        let door = Door::open(root.path(), None, dial, Box::new(universe.clone())).unwrap();
        Self { door: Arc::new(door), universe, root }
    }

    async fn send(&self, method: Method, path: &str, key: &str, body: &str) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {key}"))
            .header(COOKIE, "session=cookie-canary")
            .header("x-forwarded-for", "address-canary")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        self.door.handle(request).await
    }

    /// Asks `chat` for a whole answer.
    async fn ask(&self) -> Told {
        Told::read(self.send(Method::POST, CHAT, CLIENT, &prompt(false)).await).await
    }

    /// Asks `chat` for a stream, and returns the reply as soon as it begins.
    async fn begin(&self) -> Reply {
        self.send(Method::POST, CHAT, CLIENT, &prompt(true)).await
    }

    /// Asks `chat` for a stream and reads it to its end.
    async fn ask_stream(&self) -> Told {
        Told::read(self.begin().await).await
    }
}

const CHAT: &str = "/v1/chat/completions";

fn prompt(stream: bool) -> String {
    json!({"model": "chat", "prompt": "", "stream": stream, "max_tokens": 10}).to_string()
}

/// What a client was told.
#[derive(Debug)]
struct Told {
    status: u16,
    headers: hyper::HeaderMap,
    body: String,
}

impl Told {
    async fn read(reply: Reply) -> Self {
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The text of the answer, whole or as a stream.
    fn text(&self) -> String {
        if self.body.starts_with('{') {
            return self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        }
        let text = |data: &str| {
            let event: Value = serde_json::from_str(data).ok()?;
            event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        };
        self.events().iter().filter_map(|data| text(data)).collect()
    }

    fn events(&self) -> Vec<&str> {
        let events = self.body.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
    }
}
