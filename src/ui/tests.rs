use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use reqwest::header::SET_COOKIE;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Fleet, serve};
use crate::status::Door;

const KEY: &str = "operator-key";

/// A door that tells `status`, says what it was asked, and answers a question with a stream.
async fn door(status: u16, told: String) -> Door {
    let answer = move |request: Request| {
        let told = told.clone();
        async move {
            let (head, body) = request.into_parts();
            let key = head.headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
            assert_eq!(key.as_deref(), Some("Bearer operator-key"));
            assert!(!head.headers.contains_key("cookie"), "what a browser has stays here");
            if head.uri.path() == "/status" {
                return Response::builder().status(status).body(Body::from(told)).unwrap();
            }
            let asked = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let text =
                format!("data: {}\n\n: continued on desk (local: gone)\n\n", String::from_utf8_lossy(&asked));
            let reply = Response::builder().header("content-type", "text/event-stream");
            let reply = reply.header("x-bramble-host", "kitchen").header("set-cookie", "evil=1");
            reply.body(Body::from(text)).unwrap()
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(answer)).await });
    Door { url, tls: None, certificate_ends: None }
}

/// A `bramble ui` with these doors.
struct Shown {
    url: String,
    links: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
    http: reqwest::Client,
}

impl Shown {
    async fn start(doors: impl IntoIterator<Item = (&str, Door)>) -> Self {
        // where other tests have not: the operator's command does it as it starts
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let links = Arc::<Mutex<Vec<String>>>::default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let doors: BTreeMap<_, _> =
            doors.into_iter().map(|(host, door)| (host.parse().unwrap(), door)).collect();
        let fleet = Fleet {
            name: "home".parse().unwrap(),
            doors,
            key: KEY.to_owned().into(),
            folder: folder.path().to_owned(),
        };
        let seen = Arc::clone(&links);
        let invite = move |link: &str| seen.lock().unwrap().push(link.to_owned());
        tokio::spawn(serve(listener, fleet, invite, std::future::pending()));
        let shown = Self { url, links, folder, http: reqwest::Client::new() };
        while shown.links().is_empty() {
            tokio::task::yield_now().await;
        }
        shown
    }

    fn links(&self) -> Vec<String> {
        self.links.lock().unwrap().clone()
    }

    fn token(&self) -> String {
        self.links().last().unwrap().split_once("/#token=").unwrap().1.to_owned()
    }

    /// Shows a token. Returns the status, and what opens a session.
    async fn show(&self, token: &str) -> (u16, Option<Pass>) {
        let request = self.http.post(format!("{}/session", self.url)).header("origin", &self.url);
        let reply = request.json(&json!({ "key": token })).send().await.unwrap();
        let status = reply.status().as_u16();
        let line = reply.headers().get(SET_COOKIE).map(|line| line.to_str().unwrap().to_owned());
        let said: Value = reply.json().await.unwrap();
        let pass = line.map(|line| Pass {
            cookie: line.split(';').next().unwrap().to_owned(),
            proof: said["proof"].as_str().unwrap().to_owned(),
        });
        (status, pass)
    }

    async fn status(&self, pass: &Pass) -> Value {
        let request = pass.shown(self.http.get(format!("{}/status", self.url)));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Waits until a host was looked at.
    async fn host(&self, pass: &Pass, name: &str) -> Value {
        loop {
            let status = self.status(pass).await;
            let hosts = status["hosts"].as_array().unwrap();
            let host = hosts.iter().find(|host| host["host"] == name).unwrap();
            if host["state"] != "unknown" {
                return host.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What opens a session.
#[derive(Debug, PartialEq)]
struct Pass {
    cookie: String,
    proof: String,
}

impl Pass {
    fn shown(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.header("cookie", &self.cookie).header("x-bramble-proof", &self.proof)
    }
}

#[tokio::test]
async fn a_link_lets_one_browser_in_and_the_next_is_told() {
    let shown = Shown::start([]).await;
    let first = shown.token();
    assert!(shown.links()[0].starts_with("http://127.0.0.1:"));
    for path in ["/status", "/v1/chat/completions", "/nothing"] {
        let reply = shown.http.get(format!("{}{path}", shown.url)).send().await.unwrap();
        assert_eq!(reply.status(), 401, "{path}");
    }
    assert_eq!(shown.show("nonsense").await.0, 401);
    assert_eq!(shown.show(KEY).await.0, 401, "the key itself is for doors");
    let (status, pass) = shown.show(&first).await;
    assert_eq!((status, shown.links().len()), (200, 2));
    assert_eq!(shown.show(&first).await, (401, None), "it is used up");
    let (status, second) = shown.show(&shown.token()).await;
    assert!(status == 200 && second != pass);
    let status = shown.status(pass.as_ref().unwrap()).await;
    assert_eq!(
        (&status["fleet"], &status["at"], &status["apply"]),
        (&"home".into(), &Value::Null, &Value::Null)
    );
    // who serves something at another port of this machine is sent the cookie, and no more
    let cookie = pass.unwrap().cookie;
    let request = shown.http.get(format!("{}/status", shown.url)).header("cookie", cookie);
    assert_eq!(request.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn other_sites_and_other_names_get_nothing() {
    let shown = Shown::start([]).await;
    let pass = shown.show(&shown.token()).await.1.unwrap();
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let request = shown.http.get(format!("{}/status", shown.url));
        let reply = pass.shown(request).header(name, value).send().await.unwrap();
        assert_eq!(reply.status(), 403, "{name}: {value}");
        assert!(!reply.headers().contains_key("access-control-allow-origin"));
        let request = shown.http.post(format!("{}/session", shown.url)).header(name, value);
        let reply = request.json(&json!({ "key": shown.token() })).send().await.unwrap();
        assert_eq!(reply.status(), 403, "{name}: {value}");
    }
}

#[tokio::test]
async fn hosts_are_shown_as_their_doors_tell_and_as_they_were_asked() {
    let told = json!({ "hosts": [{ "host": "desk", "state": "closed", "generation": 4, "engines": [1] }] });
    let closed = Door { url: "http://127.0.0.1:1".to_owned(), tls: None, certificate_ends: None };
    let shown = Shown::start([
        ("kitchen", door(200, told.to_string()).await),
        ("old", door(404, "{}".to_owned()).await),
        ("other", door(401, "{}".to_owned()).await),
        ("odd", door(200, "<html>".to_owned()).await),
        ("huge", door(200, "x".repeat(3 << 20)).await),
        ("gone", closed),
    ])
    .await;
    let pass = shown.show(&shown.token()).await.1.unwrap();
    let kitchen = shown.host(&pass, "kitchen").await;
    // no door speaks for another
    assert_eq!(
        (&kitchen["host"], &kitchen["state"], &kitchen["generation"]),
        (&"kitchen".into(), &"open".into(), &4.into())
    );
    for (name, state, why) in [
        ("old", "open", "its program is too old"),
        ("other", "open", "it does not know the operator's key"),
        ("odd", "open", "it says nothing that this version understands"),
        ("huge", "open", "it tells more than any host has to tell"),
        ("gone", "closed", "connection refused"),
    ] {
        let host = shown.host(&pass, name).await;
        assert_eq!(host["state"], state, "{name}");
        assert!(host["why"].as_str().unwrap().contains(why), "{name}: {}", host["why"]);
        assert_eq!(host["engines"], json!([]));
    }
}

#[tokio::test]
async fn a_question_goes_to_the_door_that_was_chosen_and_its_answer_comes_back_as_it_is() {
    let shown = Shown::start([("kitchen", door(200, "{}".to_owned()).await)]).await;
    let pass = shown.show(&shown.token()).await.1.unwrap();
    let ask = async |at: &str| {
        let request = shown.http.post(format!("{}/v1/chat/completions", shown.url));
        let request = pass.shown(request).header("origin", &shown.url).header("x-bramble-at", at);
        request.body(r#"{"model":"chat"}"#).send().await.unwrap()
    };
    let reply = ask("kitchen").await;
    assert_eq!(
        (reply.status().as_u16(), &reply.headers()["x-bramble-host"]),
        (200, &"kitchen".parse().unwrap())
    );
    assert_eq!(reply.headers()["content-type"], "text/event-stream");
    assert!(!reply.headers().contains_key(SET_COOKIE), "a door gives no cookies here");
    assert_eq!(
        reply.text().await.unwrap(),
        "data: {\"model\":\"chat\"}\n\n: continued on desk (local: gone)\n\n"
    );
    for at in ["desk", "", "http://evil.example"] {
        assert_eq!(ask(at).await.status(), 400, "{at}");
    }
}

#[tokio::test]
async fn what_a_command_does_to_the_fleet_is_told() {
    use crate::events::Event;
    let shown = Shown::start([]).await;
    let pass = shown.show(&shown.token()).await.1.unwrap();
    let live = crate::live::Recorder::default();
    live.begin(shown.folder.path(), "apply", "me@desk", crate::clock::unix_seconds()).await;
    live.take(&Event::Note { host: None, text: "hello".to_owned() });
    live.end(false, crate::clock::unix_seconds());
    let apply = &shown.status(&pass).await["apply"];
    assert_eq!(
        (&apply["verb"], &apply["by"], &apply["state"]),
        (&"apply".into(), &"me@desk".into(), &"failed".into())
    );
    assert_eq!(apply["notes"][0]["text"], "hello");
}
