//! The page at the door: what a browser may, and what it may not.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::{Value, json};

use super::doubles::*;
use super::{CHAT, House, Told, prompt};
use crate::generation::{Limits, Scope};
use crate::route::state::State;

const OWN: &str = "http://kitchen.home.internal:1";

/// A browser that has come to the page at one of its names.
struct Browser<'a> {
    house: &'a House,
    cookie: Option<String>,
    proof: String,
}

impl<'a> Browser<'a> {
    fn new(house: &'a House) -> Self {
        Self { house, cookie: None, proof: String::new() }
    }

    async fn send(&self, method: Method, path: &str, body: &str, more: &[(&str, &str)]) -> Told {
        let mut request = Request::builder().method(&method).uri(path);
        let is_given = |wanted: &str| more.iter().any(|(name, _)| *name == wanted);
        if !is_given("host") {
            request = request.header("host", "kitchen.home.internal:1");
        }
        if method != Method::GET && !is_given("origin") {
            request = request.header("origin", OWN);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie).header("x-bramble-proof", &self.proof);
        }
        for (name, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        Told::read(self.house.door.handle(request).await).await
    }

    async fn get(&self, path: &str) -> Told {
        self.send(Method::GET, path, "", &[]).await
    }

    async fn show(&mut self, key: &str) -> Told {
        let told = self.send(Method::POST, "/session", &json!({ "key": key }).to_string(), &[]).await;
        let cookie = told.header("set-cookie").split(';').next().unwrap();
        self.cookie = (!cookie.is_empty()).then(|| cookie.to_owned());
        let said: Value = serde_json::from_str(&told.body).unwrap_or_default();
        self.proof = said["proof"].as_str().unwrap_or_default().to_owned();
        told
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_is_for_everybody_and_says_nothing() {
    let house = House::new();
    let told = Browser::new(&house).get("/").await;
    assert_eq!((told.status, told.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(told.header("content-security-policy").contains("default-src 'none'"));
    for word in ["kitchen", "laptop", "dashboard", "desk"] {
        assert!(!told.body.contains(&format!("\"{word}\"")), "{word}");
    }
    let session = Browser::new(&house).get("/session").await;
    assert_eq!((session.status, session.json()), (200, json!({ "key": null, "scopes": [] })));
    for path in ["/status", "/v1/models", "/health"] {
        assert_eq!(Browser::new(&house).get(path).await.status, 401, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_may_what_its_key_may_and_only_what_the_page_asks_for() {
    let house = House::new();
    house.universe.on("local", [good_stream("Hi")]).health(r#"{"status":"ready","running":1}"#);
    let (mut reader, mut asker) = (Browser::new(&house), Browser::new(&house));
    let (reads, asks) = (reader.show(READER).await.json(), asker.show(CLIENT).await.json());
    assert_eq!((&reads["key"], &reads["scopes"]), (&json!("dashboard"), &json!(["status"])));
    assert_eq!((&asks["key"], &asks["scopes"]), (&json!("laptop"), &json!(["infer"])));
    assert_eq!(reader.get("/session").await.json()["key"], "dashboard");
    assert_eq!((reader.get("/status").await.status, asker.get("/status").await.status), (200, 403));
    assert_eq!((reader.get("/v1/models").await.status, asker.get("/v1/models").await.status), (403, 200));
    let told = asker.send(Method::POST, CHAT, &prompt(true), &[]).await;
    assert_eq!((told.status, told.text().as_str(), told.header("x-bramble-host")), (200, "Hi", "kitchen"));
    assert_eq!(reader.send(Method::POST, CHAT, &prompt(true), &[]).await.status, 403);
    // the rest wants the key itself
    for path in ["/health", "/metrics", "/nothing"] {
        assert_eq!(reader.get(path).await.status, 401, "{path}");
    }
    for path in ["/v1/completions", "/v1/embeddings", "/tokenize"] {
        assert_eq!(asker.send(Method::POST, path, &prompt(false), &[]).await.status, 401, "{path}");
    }
    // what the browser is let in by goes no further
    let (_, request) = house.universe.requests().into_iter().next().unwrap();
    assert!(!request.contains("cookie") && !request.contains("bramble-1="), "{request}");
    assert!(!request.contains("proof"), "{request}");
    // a key between hosts is not for people, and a wrong one opens nothing
    assert_eq!(Browser::new(&house).show(PEER).await.status, 403);
    let mut nobody = Browser::new(&house);
    let told = nobody.show("nonsense").await;
    assert_eq!((told.status, told.header("set-cookie")), (401, ""));
    assert_eq!(nobody.get("/status").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_no_use_to_other_sites_nor_under_other_names() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "x")]);
    let (mut reader, mut asker) = (Browser::new(&house), Browser::new(&house));
    reader.show(READER).await;
    asker.show(CLIENT).await;
    for more in
        [("host", "evil.example:1"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]
    {
        let told = reader.send(Method::GET, "/status", "", &[more]).await;
        assert_eq!(
            (told.status, told.json()["error"]["code"].as_str()),
            (403, Some("wrong_origin")),
            "{more:?}"
        );
        let told = asker.send(Method::POST, CHAT, &prompt(true), &[more]).await;
        assert_eq!(told.status, 403, "{more:?}");
    }
    // without a word where it comes from, a request that has something done is nobody's
    assert_eq!(asker.send(Method::POST, CHAT, &prompt(true), &[("origin", "")]).await.status, 403);
    // nor does another site log somebody in, or out
    let body = json!({ "key": CLIENT }).to_string();
    let foreign = [("origin", "https://evil.example")];
    let told = Browser::new(&house).send(Method::POST, "/session", &body, &foreign).await;
    assert_eq!((told.status, told.header("set-cookie")), (403, ""));
    assert_eq!(reader.send(Method::DELETE, "/session", "", &foreign).await.status, 403);
    assert_eq!(reader.get("/status").await.status, 200);
    // a program with the key itself need not say where it comes from
    house.universe.dialled();
    assert_eq!(house.ask().await.status, 200);
    assert_eq!(house.universe.dialled(), ["local"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_key_with_a_word_and_with_time() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "x")]);
    let mut reader = Browser::new(&house);
    reader.show(READER).await;
    // a reload keeps it, and the key that is taken back ends it
    house.door.reload().unwrap();
    assert_eq!(reader.get("/status").await.status, 200);
    let mut without = secrets();
    without.keys.retain(|entry| entry.id != "dashboard");
    install_with(house.root.path(), 8, &definition(), &without);
    house.door.reload().unwrap();
    assert_eq!(reader.get("/status").await.status, 401);
    assert_eq!(reader.get("/session").await.json()["key"], Value::Null);
    install_with(house.root.path(), 9, &definition(), &secrets());
    house.door.reload().unwrap();
    reader.show(READER).await;
    tokio::time::advance(Duration::from_hours(23)).await;
    assert_eq!(reader.get("/status").await.status, 200);
    tokio::time::advance(Duration::from_hours(25)).await;
    assert_eq!(reader.get("/status").await.status, 401);
    reader.show(READER).await;
    let told = reader.send(Method::DELETE, "/session", "", &[]).await;
    assert!(told.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(reader.get("/status").await.status, 401, "also where the browser kept the cookie");
}

#[tokio::test(start_paused = true)]
async fn wrong_keys_are_slowed_down_and_sessions_go_on() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "x")]);
    let mut reader = Browser::new(&house);
    reader.show(READER).await;
    for _ in 0..10 {
        assert_eq!(Browser::new(&house).show("nonsense").await.status, 401);
    }
    let told = Browser::new(&house).show("nonsense").await;
    assert_eq!((told.status, told.header("retry-after")), (429, "7"));
    assert_eq!(reader.get("/status").await.status, 200);
    // who has a key is not kept out by neighbours who have none
    assert_eq!(Browser::new(&house).show(READER).await.status, 200);
    assert_eq!(Browser::new(&house).show("nonsense").await.status, 429);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(Browser::new(&house).show("nonsense").await.status, 401);
    let large = json!({ "key": "x".repeat(9000) }).to_string();
    assert_eq!(reader.send(Method::POST, "/session", &large, &[]).await.status, 400);
    assert_eq!(reader.send(Method::PUT, "/session", "", &[]).await.status, 405);
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_key_hold_for_its_sessions() {
    let house = House::new();
    let mut limited = secrets();
    limited.keys[0].limits = Limits { requests_per_minute: Some(1), ..Limits::default() };
    limited.keys[0].scopes.push(Scope::Status);
    install_with(house.root.path(), 8, &definition(), &limited);
    house.door.reload().unwrap();
    house.universe.on("local", [good_stream("Hi")]).health("{}");
    let mut asker = Browser::new(&house);
    asker.show(CLIENT).await;
    assert_eq!(asker.send(Method::POST, CHAT, &prompt(true), &[]).await.status, 200);
    assert_eq!(asker.send(Method::POST, CHAT, &prompt(true), &[]).await.status, 429);
    // looking costs nothing
    assert_eq!(asker.get("/status").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_of_engines_upstreams_and_the_last_requests_but_not_a_word_of_what_was_said() {
    let house = House::new();
    let health = r#"{"status":"ready","model":"chat","loaded":1.0,"running":0,"queued":2,"slots":1}"#;
    house.universe.health(health);
    let entry = |generation: u64, speed: f64| {
        json!({
            "generation": generation, "plan": "p", "at": "2026-11-28T12:00:00Z", "by": "ada@desk", "predicted": [],
            "measured": [{ "model": "chat", "tokens_per_second": speed, "load_seconds": 1.0 }],
        })
    };
    let receipt = json!({ "entries": [entry(6, 9.0), entry(7, 2.5)] });
    std::fs::write(house.root.path().join("receipt.json"), receipt.to_string()).unwrap();
    house.universe.on(
        "local",
        [stream([
            say(token("secret-answer")),
            Beat::Wait(2),
            say(token("b")),
            Beat::Wait(2),
            say(token("c")),
        ])],
    );
    house.universe.on("desk", [answer(503, "")]);
    house.universe.on("gaming", [answer(503, "")]);
    let body = json!({"model": "chat", "prompt": "secret-prompt", "stream": true});
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &body.to_string()).await).await;
    assert!(told.body.contains("secret-answer"));
    tokio::time::advance(Duration::from_mins(1)).await;
    let mut reader = Browser::new(&house);
    reader.show(READER).await;
    let told = reader.get("/status").await;
    assert_eq!(told.header("content-type"), "application/json");
    for word in ["secret-prompt", "secret-answer", "key-0123456789", "foreign-secret"] {
        assert!(!told.body.contains(word), "{word}");
    }
    let status = told.json();
    assert_eq!(
        (&status["fleet"], &status["at"], &status["apply"]),
        (&"home".into(), &"kitchen".into(), &Value::Null)
    );
    let host = &status["hosts"][0];
    assert_eq!(
        (&host["host"], &host["generation"], &host["state"]),
        (&"kitchen".into(), &7.into(), &"open".into())
    );
    let engine = &host["engines"][0];
    assert_eq!(
        (&engine["quant"], &engine["status"], &engine["queued"]),
        (&"Q4_0".into(), &"ready".into(), &2.into())
    );
    assert_eq!((&engine["predicted"], &engine["measured"]), (&2.0.into(), &2.5.into()));
    assert_eq!(host["upstreams"].as_array().unwrap().len(), 4);
    assert_eq!(
        host["upstreams"][1],
        json!({ "model": "chat", "upstream": "desk", "kind": "host", "breaker": { "state": "closed", "wait_seconds": null } })
    );
    let request = &host["requests"][0];
    assert_eq!(
        (&request["key"], &request["model"], &request["upstream"], &request["status"]),
        (&"laptop".into(), &"chat".into(), &"local".into(), &200.into())
    );
    assert!(request["why"].as_str().unwrap().starts_with("local: "), "{request}");
    assert_eq!((&request["tokens"], request["ago_seconds"].as_f64().unwrap() >= 60.0), (&3.into(), true));
    assert_eq!(request["tokens_per_second"], 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_speed_that_is_no_forecast_is_not_shown_as_one() {
    let mut definition = definition();
    definition.engines[0].pace.is_guess = true;
    let house = House::with(&definition);
    house.universe.on("local", [answer(503, "")]);
    let mut reader = Browser::new(&house);
    reader.show(READER).await;
    let engine = &reader.get("/status").await.json()["hosts"][0]["engines"][0];
    assert_eq!((&engine["predicted"], &engine["measured"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_host_is_known_by_the_names_that_its_certificate_has() {
    let house = House::new();
    let state: std::sync::Arc<State> = house.door.state();
    assert_eq!(state.names, ["kitchen", "kitchen.local", "kitchen.home.internal"]);
}
