//! `bramble fetch` and `bramble store` as programs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::Value;

use crate::bench::{Bench, MODEL, WEIGHTS};

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn run(bench: &Bench, arguments: &[&str]) -> Ended {
    let Output { status, stdout, stderr } = bench.bramble(arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

async fn json(bench: &Bench, arguments: &[&str]) -> Value {
    let ended = run(bench, arguments).await;
    let value = serde_json::from_str(&ended.stdout);
    assert!(value.is_ok(), "{}{}", ended.stdout, ended.stderr);
    value.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_fetched_without_a_manifest() {
    let bench = Bench::new().await;
    let told = json(&bench, &["fetch", "--json", "hf:org/tiny", "hf:org/none", "--limit-rate", "50MB"]).await;
    let fetched = &told[0]["fetched"];
    assert_eq!(
        (told[0]["what"].as_str(), fetched["license"].as_str()),
        (Some("hf:org/tiny"), Some("apache-2.0"))
    );
    assert_eq!(fetched["files"].as_array().unwrap().len(), 4);
    bench.assert_obtained(fetched["folder"].as_str().unwrap().as_ref());
    assert!(told[1]["error"].as_str().unwrap().contains("there is no repository org/none"), "{told}");
    bench.hub.take_seen();
    let ended = run(&bench, &["fetch", "hf:org/tiny"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.starts_with("hf:org/tiny: ") && ended.stdout.contains("hf:org/tiny@"),
        "{}",
        ended.stdout
    );
    assert_eq!(run(&bench, &["fetch", "hf:org/none"]).await.code, Some(1));
    let ended = run(&bench, &["fetch", "tiny"]).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("fleet.yaml"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_the_python_cache_is_enough() {
    let bench = Bench::new().await;
    let offline = async || {
        let mut command = bench.bramble(&["fetch", "hf:org/tiny"]);
        command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", bench.path("python"));
        let Output { status, stderr, .. } = command.output().await.unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let (code, said) = offline().await;
    assert!(
        code == Some(1) && said.contains("org/tiny@main is not in the cache: unset HF_HUB_OFFLINE"),
        "{said}"
    );
    let all = ["README.md", "config.json", MODEL, "tokenizer.json", "tokenizer_config.json"];
    bench.put_into_python_cache("0123456789abcdef0123456789abcdef01234567", &all);
    let (code, said) = offline().await;
    assert!(code == Some(0) && said.contains("org/tiny@main is pinned offline"), "{said}");
    assert!(bench.hub.take_seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_that_wants_a_yes_is_asked_for_before_the_weights() {
    let bench = Bench::new().await;
    fs::write(bench.repo("README.md"), "---\nlicense: llama3.2\n---\n").unwrap();
    let weights = || bench.hub.take_seen().iter().filter(|seen| seen.path.ends_with(MODEL)).count();
    let ended = run(&bench, &["fetch", "hf:org/tiny"]).await;
    assert_eq!((ended.code, weights()), (Some(1), 0));
    let page = format!("{}/org/tiny", bench.hub.endpoint);
    for words in ["llama3.2", page.as_str(), "accept_license: llama3.2", "--accept-license"] {
        assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
    }
    let manifest = |line: &str| {
        let text = format!(
            "bramble: 1\nfleet: home\nserve: {{ tls: off }}\nmodels:\n  chat: {{ source: \"hf:org/tiny\"{line} }}\nhosts:\n  pi: {{ address: pi.local }}\ndeploy:\n  - {{ model: chat, on: [pi] }}\n"
        );
        fs::write(bench.path("fleet.yaml"), text).unwrap();
    };
    manifest("");
    let ended = run(&bench, &["fetch"]).await;
    assert_eq!((ended.code, weights()), (Some(1), 0));
    assert!(ended.stderr.contains("add `accept_license: llama3.2`"), "{}", ended.stderr);
    let lock = fs::read_to_string(bench.path("bramble.lock")).unwrap();
    assert!(lock.contains("\"license\": \"llama3.2\""), "{lock}");
    let ended = run(&bench, &["fetch", "hf:org/tiny", "--accept-license", "llama3.2"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_listed_verified_and_pruned() {
    let bench = Bench::new().await;
    assert_eq!(run(&bench, &["fetch", "hf:org/tiny"]).await.code, Some(0));
    let listed = json(&bench, &["store", "ls", "--json"]).await;
    let blobs = listed["blobs"].as_array().unwrap();
    let weights = blobs.iter().find(|blob| blob["bytes"] == WEIGHTS).unwrap();
    assert_eq!((&weights["names"][0], &weights["needed"]), (&MODEL.into(), &false.into()));
    let ended = run(&bench, &["store", "ls"]).await;
    assert!(ended.stdout.contains(MODEL) && ended.stdout.contains("4 blobs in "), "{}", ended.stdout);
    assert!(run(&bench, &["store", "verify"]).await.stdout.contains("4 blobs verified, 0 damaged"));

    let path = weights["path"].as_str().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[WEIGHTS / 2] ^= 1;
    fs::write(path, &bytes).unwrap();
    let ended = run(&bench, &["store", "verify"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains(&format!("DAMAGED ({MODEL}): {path}")), "{}", ended.stdout);
    let told = json(&bench, &["store", "verify", "--json"]).await;
    assert_eq!((&told["verified"], &told["damaged"][0]["names"][0]), (&4.into(), &MODEL.into()));

    // a lock file elsewhere names the configuration alone
    let config = blobs.iter().find(|blob| blob["names"][0] == "config.json").unwrap();
    let files =
        format!(r#"[{{"path":"config.json","bytes":{},"sha256":{}}}]"#, config["bytes"], config["digest"]);
    let lock = format!(
        r#"{{"format":1,"fleet":"home","sources":{{"hf:org/tiny":{{"uri":"x","files":{files},"license":null}}}}}}"#
    );
    fs::write(bench.path("bramble.lock"), lock).unwrap();
    let ended = run(&bench, &["store", "prune"]).await;
    assert!(ended.code == Some(3) && ended.stderr.contains("--yes"), "{}", ended.stderr);
    let told = json(&bench, &["store", "prune", "--dry-run", "--json"]).await;
    assert_eq!((told["unused"]["blobs"].as_array().unwrap().len(), &told["freed"]), (3, &0.into()));
    let busy = bench.store();
    let ended = run(&bench, &["store", "prune", "--yes"]).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("another bramble"), "{}", ended.stderr);
    drop(busy);
    assert_eq!(run(&bench, &["store", "prune", "--yes"]).await.code, Some(0));
    let listed = json(&bench, &["store", "ls", "--json"]).await;
    assert_eq!(
        listed["blobs"].as_array().unwrap().iter().map(|blob| &blob["digest"]).collect::<Vec<_>>(),
        [&config["digest"]]
    );
    assert!(run(&bench, &["store", "prune"]).await.stdout.starts_with("Nothing"));
}
