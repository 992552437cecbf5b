//! The double itself is held to what the hub does.

use std::io::{Read as _, Write as _};

use crate::bench::{Bench, MODEL, WEIGHTS};

/// Asks the double something in plain HTTP and returns the whole answer.
fn ask(endpoint: &str, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(endpoint.trim_start_matches("http://")).unwrap();
    stream.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_answers_as_the_hub_does() {
    let bench = Bench::new().await;
    let pinned = bench.pinned().await;
    let sha256 = pinned.files[1].sha256;
    let endpoint = &bench.hub.endpoint;
    let tree = ask(endpoint, "GET /api/models/org/tiny/tree/main?recursive=true HTTP/1.1");
    assert!(tree.contains(&format!(r#""lfs":{{"oid":"{sha256}""#)), "{tree}");
    let head = ask(endpoint, &format!("HEAD /org/tiny/resolve/main/{MODEL} HTTP/1.1"));
    let linked = format!("X-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {WEIGHTS}\r\n");
    assert!(head.starts_with("HTTP/1.1 302") && head.contains(&linked), "{head}");
    let (cdn, path) = {
        let place = head.split("Location: ").nth(1).unwrap().lines().next().unwrap();
        place.split_at(place.rfind('/').unwrap())
    };
    let get = |headers: &str| ask(cdn, &format!("GET {path} HTTP/1.1\r\n{headers}"));
    assert!(get(&format!("Range: bytes={WEIGHTS}-")).starts_with("HTTP/1.1 416"));
    assert!(get("Range: bytes=8-9").ends_with("\r\n\r\n{\""));
    assert!(get("Authorization: Bearer x").starts_with("HTTP/1.1 400"));
    assert!(ask(cdn, "GET /blob?signature=made-up HTTP/1.1").starts_with("HTTP/1.1 403"));
    let config = ask(endpoint, "GET /org/tiny/resolve/main/config.json HTTP/1.1");
    assert!(config.contains("X-Repo-Commit: ") && config.ends_with("[\"LlamaForCausalLM\"]}"), "{config}");
    assert!(ask(endpoint, "GET /org/tiny/resolve/main/../../x HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(ask(endpoint, "GET /api/models/../tiny HTTP/1.1").starts_with("HTTP/1.1 401"));
    let paths: Vec<String> = bench.hub.take_seen().into_iter().map(|seen| seen.path).collect();
    assert!(paths[2].ends_with(MODEL), "the CDN's requests are recorded by file: {paths:?}");
}
