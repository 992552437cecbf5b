//! Who may come in, what goes out, and what is never passed on.

use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH};
use hyper::{Method, Request};

use super::doubles::*;
use super::{CHAT, Door, House, Told, prompt};
use crate::generation::Secrets;

#[tokio::test]
async fn nothing_but_liveness_and_the_empty_page_answers_without_a_good_key() {
    let house = House::new();
    for path in [
        CHAT,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/health",
        "/metrics",
        "/status",
        "/x",
        "/healthz/",
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            for key in ["", "wrong", "client-key-012345678", "client-key-0123456789x", "our-peer-key"] {
                let told = Told::read(house.send(method.clone(), path, key, &prompt(false)).await).await;
                assert_eq!(told.status, 401, "{method} {path} {key}");
                assert_eq!(told.json()["error"]["code"], "invalid_api_key");
            }
            let bare =
                Request::builder().method(method).uri(path).body(Full::<bytes::Bytes>::default()).unwrap();
            assert_eq!(house.door.handle(bare).await.status(), 401);
        }
    }
    let live = Request::get("/healthz").body(Full::<bytes::Bytes>::default()).unwrap();
    let told = Told::read(house.door.handle(live).await).await;
    assert_eq!((told.status, told.body.as_str()), (200, "ok"));
    assert!(house.universe.dialled().is_empty());
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say() {
    let house = House::new();
    house.universe.on("local", [answer(200, "bramble_engine_slots{model=\"chat\"} 2\nother 1\n")]);
    for (key, path, method, status) in [
        (READER, CHAT, Method::POST, 403),
        (READER, "/v1/models", Method::GET, 403),
        (CLIENT, "/health", Method::GET, 403),
        (CLIENT, "/metrics", Method::GET, 403),
        (PEER, "/metrics", Method::GET, 403),
        (READER, "/metrics", Method::GET, 200),
        (CLIENT, "/v1/models", Method::GET, 200),
        (CLIENT, CHAT, Method::GET, 405),
        (CLIENT, "/v1/nothing", Method::GET, 404),
    ] {
        let told = Told::read(house.send(method, path, key, &prompt(false)).await).await;
        assert_eq!(told.status, status, "{key} {path}: {}", told.body);
        if path == "/metrics" && status == 200 {
            // what the engine counts stands behind what the door counts
            let engines = told.body.split_once("bramble_generation 7\n").map(|(_, engines)| engines);
            assert_eq!(engines, Some("bramble_engine_slots{model=\"chat\"} 2\n"), "{}", told.body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_asked_for_at_the_door_as_well() {
    let house = House::new();
    house.universe.on("local", [answer(200, r#"{"tokens":[1,2]}"#), answer(200, r#"{"content":"hi"}"#)]);
    for (path, body) in [
        ("/tokenize", r#"{"model":"chat","content":"hi"}"#),
        ("/v1/detokenize", r#"{"model":"chat","tokens":[1,2]}"#),
    ] {
        let told = Told::read(house.send(Method::POST, path, CLIENT, body).await).await;
        assert_eq!(told.status, 200, "{}", told.body);
    }
    let asked: Vec<String> = house
        .universe
        .requests()
        .into_iter()
        .filter_map(|(_, request)| Some(request.lines().next()?.to_owned()))
        .collect();
    assert_eq!(asked, ["POST /v1/tokenize HTTP/1.1", "POST /v1/detokenize HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_shows_to_us_is_never_shown_to_others() {
    let house = House::new();
    for upstream in ["local", "desk", "gaming"] {
        house.universe.on(upstream, [answer(503, "")]);
    }
    house.ask().await;
    house.ask_stream().await;
    let requests = house.universe.requests();
    assert_eq!(requests.len(), 6);
    for (upstream, request) in requests {
        for canary in [CLIENT, "cookie-canary", "address-canary"] {
            assert!(!request.contains(canary), "{upstream} was shown {canary}");
        }
        let key = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        let hop = request.contains("x-bramble-hop: 1\r\n");
        match upstream.as_str() {
            "local" => assert_eq!((key, hop), (None, false)),
            "desk" => assert_eq!((key, hop), (Some("Bearer our-peer-key"), true)),
            _ => assert_eq!((key, hop), (Some("Bearer foreign-secret"), false)),
        }
        let mut names: Vec<&str> =
            request.lines().skip(1).map_while(|line| Some(line.split_once(": ")?.0)).collect();
        assert!(upstream != "gaming" || !request.contains("x-bramble"), "ours speak of it among themselves");
        let ours = ["authorization", "x-bramble-hop", "x-bramble-with-progress"];
        names.retain(|name| !ours.contains(name));
        assert_eq!(names, ["host", "content-type", "accept", "user-agent", "content-length"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peers_request_is_never_passed_on() {
    let house = House::new();
    house.universe.on("local", [completion("chat", "mine"), answer(503, "")]);
    let ask = async |model: &str| {
        let body = format!(r#"{{"model":"{model}","prompt":"x"}}"#);
        Told::read(house.send(Method::POST, CHAT, PEER, &body).await).await
    };
    assert_eq!(ask("chat").await.text(), "mine");
    let told = ask("chat").await;
    assert_eq!(told.status, 503);
    assert_eq!(ask("writer").await.status, 404);
    // the mark of a hop binds whoever carries it
    let marked = Request::post(CHAT)
        .header(AUTHORIZATION, format!("Bearer {CLIENT}"))
        .header("x-bramble-hop", "1")
        .body(Full::new(bytes::Bytes::from(prompt(false))))
        .unwrap();
    assert_eq!(house.door.handle(marked).await.status(), 503);
    assert_eq!(house.universe.dialled(), ["local", "local", "local"]);
    let told = Told::read(house.send(Method::GET, "/v1/models", PEER, "").await).await;
    assert_eq!(told.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_model_is_a_name_in_the_routes_and_nothing_else() {
    let house = House::new();
    for model in ["none", "mistral", "http://169.254.169.254/", "../chat", "chat\\u0000", ""] {
        let body = format!(r#"{{"model":"{model}","prompt":"x"}}"#);
        let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &body).await).await;
        assert_eq!(told.status, 404);
        let error = &told.json()["error"];
        assert_eq!(error["code"], "model_not_found");
        assert!(error["message"].as_str().unwrap().ends_with("there are: chat, writer"));
    }
    assert!(house.universe.dialled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_no_requests_are_refused_in_words() {
    let house = House::new();
    for body in ["", "{", "[]", r#"{"prompt":"x"}"#, r#"{"model":1}"#, "\u{0}"] {
        let told = Told::read(house.send(Method::POST, CHAT, CLIENT, body).await).await;
        assert_eq!((told.status, told.json()["error"]["code"].as_str()), (400, Some("invalid_json")));
    }
    let large = format!(r#"{{"model":"chat","prompt":"{}"}}"#, "x".repeat(8 << 20));
    let told = Told::read(house.send(Method::POST, CHAT, CLIENT, &large).await).await;
    assert_eq!(told.status, 413);
    // one that never ends
    let slow = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>,
    >());
    let slow =
        Request::post(CHAT).header(AUTHORIZATION, format!("Bearer {CLIENT}")).body(slow.boxed_unsync());
    assert_eq!(house.door.handle(slow.unwrap()).await.status(), 408);
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_do_not_fill_the_memory() {
    let house = House::new();
    let endless = || {
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>,
        >());
        let request =
            Request::post(CHAT).header(AUTHORIZATION, format!("Bearer {CLIENT}")).header(CONTENT_LENGTH, 1);
        house.door.handle(request.body(body).unwrap())
    };
    // eight of unknown length fill it
    let all = futures_util::future::join_all((0..9).map(|_| endless())).await;
    let statuses: Vec<u16> = all.iter().map(|reply| reply.status().as_u16()).collect();
    assert_eq!(statuses, [408, 408, 408, 408, 408, 408, 408, 408, 503]);
    // and give it back
    house.universe.on("local", [completion("chat", "x")]);
    assert_eq!(house.ask().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn status_shows_engines_breakers_and_counts() {
    let house = House::new();
    house.universe.health(r#"{"status":"ok","queued":1}"#);
    house.universe.on("local", [answer(500, ""), answer(500, ""), good_stream("x")]);
    house.universe.on("desk", [good_stream("x")]);
    house.ask_stream().await;
    house.ask_stream().await;
    let report = Told::read(house.send(Method::GET, "/health", READER, "").await).await.json();
    assert_eq!((&report["host"], &report["generation"]), (&"kitchen".into(), &7.into()));
    let local = &report["upstreams"][0];
    assert_eq!((&local["breaker"]["state"], &local["engine"]["queued"]), (&"open".into(), &1.into()));
    assert_eq!(report["upstreams"][1]["breaker"]["state"], "closed");
    let metrics = Told::read(house.send(Method::GET, "/metrics", READER, "").await).await.body;
    for line in [
        r#"bramble_requests_total{model="chat",upstream="desk",reason="status",status="200"} 2"#,
        r#"bramble_first_token_seconds_count{model="chat",upstream="desk"} 2"#,
        r#"bramble_breaker{model="chat",upstream="local"} 2"#,
        r#"bramble_breaker{model="chat",upstream="desk"} 0"#,
        "bramble_in_flight 0",
        "bramble_generation 7",
    ] {
        assert!(metrics.lines().any(|have| have == line), "{line} in {metrics}");
    }
}

#[test]
fn secrets_that_systemd_gives_come_before_the_file() {
    let house = House::new();
    let given = tempfile::tempdir().unwrap();
    let admits = || {
        let dial = Box::new(house.universe.clone());
        let door =
            Door::open(house.root.path(), Some(given.path().to_owned()), dial, Box::new(Universe::default()))
                .unwrap();
        let key = format!("Bearer {CLIENT}").parse().unwrap();
        door.state().keys.admit(&[(AUTHORIZATION, key)].into_iter().collect()).is_some()
    };
    // a folder of credentials with nothing of ours in it is no reason to refuse everybody
    assert!(admits());
    let others = Secrets { keys: Vec::new(), ..secrets() };
    std::fs::write(given.path().join("secrets.json"), serde_json::to_vec(&others).unwrap()).unwrap();
    assert!(!admits());
}
