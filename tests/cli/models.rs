//! Models, and where they come from.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::desk::Desk;
use crate::{Ended, LOCAL, with_model};

#[test]
fn the_catalog_tells_what_models_take_before_anything_is_asked() {
    let desk = Desk::new("");
    let ended = desk.run(&["catalog"]).with(0);
    let line = ended.stdout.lines().find(|line| line.starts_with("tinyllama-1.1b-chat ")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1..3], ["1.1", "B"]);
    assert_eq!(words[7..], ["2048", "own", "apache-2.0"], "{line}");
    let listed: Value = serde_json::from_str(&desk.run(&["catalog", "--json"]).with(0).stdout).unwrap();
    let alpaca = listed.as_array().unwrap().iter().find(|model| model["name"] == "alpaca-7b").unwrap();
    assert_eq!(alpaca["prompt"], "alpaca");
    assert_eq!(alpaca["figures"]["vocab"], 32001);
    let [small, large] = ["Q4_K_M", "Q8_0"].map(|quant| alpaca["bytes"][quant].as_u64().unwrap());
    assert!(3 << 30 < small && small < large && large < 7 << 30, "{small} {large}");
}

/// `ssh` as it is on a host that answers nobody, and a hub that has nothing. Each says that it
/// was asked, and then waits, for a while, until the other was asked too.
#[test]
fn the_hub_is_asked_while_the_hosts_are_looked_at() {
    const SSH: &str = "#!/bin/sh
mkdir FOLDERonce 2>/dev/null || exit 255
timeout 20 sh -c 'echo >FOLDERprobed' && timeout 20 cat FOLDERasked && touch FOLDERtogether
exit 255
";
    let desk = Desk::new(
        "bramble: 1\nfleet: home\nserve: { port: 18080, tls: off }\n\
         models: { chat: { source: \"hf:org/chat\", context: 256 } }\n\
         hosts: { kitchen: { address: 192.0.2.1 } }\ndeploy: [{ model: chat, on: [kitchen] }]\n",
    );
    fs::write(desk.path("ssh"), SSH.replace("FOLDER", &desk.path("").display().to_string())).unwrap();
    fs::set_permissions(desk.path("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let (asked, probed) = (desk.path("asked"), desk.path("probed"));
    assert!(Command::new("mkfifo").args([&asked, &probed]).status().unwrap().success());
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (number, question) in hub.incoming().enumerate() {
            let mut question = question.unwrap();
            if number == 0 {
                let mut wait = Command::new("timeout");
                let is_probed = wait.args(["20", "cat"]).arg(&probed).status().unwrap().success();
                let mut answer = Command::new("timeout");
                let answer = answer.args(["20", "sh", "-c", "echo >\"$0\""]).arg(&asked).status();
                tell.send(is_probed && answer.unwrap().success()).unwrap();
            }
            let nothing = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            question.write_all(nothing).unwrap();
        }
    });
    let path = format!("{}:/usr/bin:/bin", desk.path("").display());
    let ended = Ended::of(desk.command(&["plan"]).env("PATH", path).env("HF_ENDPOINT", endpoint));
    ended.with(3).says("refused: chat: ");
    assert!(told.recv().unwrap() && desk.path("together").exists());
}

#[test]
fn an_architecture_that_is_not_known_is_refused_by_its_name() {
    let mamba = |config: &mut Value| {
        config["architectures"] = json!(["MambaForCausalLM"]);
        config["model_type"] = json!("mamba");
    };
    let desk = Desk::new(LOCAL).with_bundle().with_checkpoint(mamba);
    for verb in ["plan", "apply"] {
        desk.run(&[verb])
            .with(3)
            .says("refused: chat: ")
            .says("MambaForCausalLM")
            .says("Nothing was changed.");
    }
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_model_that_is_not_there_is_refused_with_its_path() {
    let desk = Desk::new(LOCAL).with_bundle();
    desk.run(&["plan"]).with(3).says("refused: chat: ").says("/model").says("No such file");
}

#[test]
fn a_gguf_is_quantized_a_second_time_only_where_the_manifest_says_so() {
    let model = "source: \"file:model-Q8_0.gguf\", context: 256, quant: F16";
    let desk = Desk::new(&with_model(model)).with_checkpoint(|_| {});
    desk.run(&["convert", "model", "--quant", "Q8_0,F16"]).with(0).says("model-Q8_0.gguf: ");
    let desk = desk.with_bundle();
    desk.run(&["plan"])
        .with(3)
        .says("refused: chat: model-Q8_0.gguf is Q8_0 already, and F16 made of it (line 5) would have lost quality twice")
        .says("`requantize: true`");
    desk.write(&with_model(&format!("{model}, requantize: true")));
    desk.run(&["plan"]).with(0).says("engine chat F16").says("quantized a second time");
    desk.write(&with_model("source: \"file:model-Q8_0.gguf\", context: 256"));
    desk.run(&["plan"]).with(0).says("engine chat Q8_0").says("the file as it is");
    // floats have lost nothing
    desk.write(&with_model("source: \"file:model-F16.gguf\", context: 256, quant: Q8_0"));
    desk.run(&["plan"]).with(0).says("engine chat Q8_0");
}

/// An importance matrix of the old form, with one entry.
fn imatrix(name: &str, columns: u32) -> Vec<u8> {
    let number = |n: u32| n.to_le_bytes().to_vec();
    let name = [number(u32::try_from(name.len()).unwrap()), name.as_bytes().to_vec()].concat();
    let values = 1.0f32.to_le_bytes().repeat(usize::try_from(columns).unwrap());
    [number(1), name, number(1), number(columns), values].concat()
}

#[test]
fn an_importance_matrix_is_checked_before_weights_are_made() {
    let text = LOCAL.replace(
        "  chat: { source: \"file:model\", context: 256 }",
        "  chat:\n    source: \"file:model\"\n    context: 256\n    quant: Q8_0\n    imatrix: ./chat.imatrix",
    );
    let desk = Desk::new(&text).with_bundle().with_checkpoint(|_| {});
    let put = |bytes: &[u8]| fs::write(desk.path("chat.imatrix"), bytes).unwrap();
    let refused =
        || desk.run(&["plan"]).with(3).says("refused: chat: cannot use the importance matrix of line 9: ");
    refused().says("chat.imatrix").says("No such file");
    put(b"no");
    refused().says(
        "chat.imatrix is no importance matrix for these weights: it is cut off, or no such file at all",
    );
    put(&imatrix("blk.0.attn_q.weight", 32));
    refused().says("it has 32 columns for \"blk.0.attn_q.weight\", which has 64");
    put(&imatrix("blk.9.attn_q.weight", 64));
    refused().says("it tells of none of their tensors");
    put(&imatrix("blk.0.attn_q.weight", 64));
    let id = || {
        let ended = desk.run(&["plan", "--json"]).with(0);
        let value: Value = serde_json::from_str(&ended.stdout).unwrap();
        value["plan"]["artifacts"][0]["id"].as_str().unwrap().to_owned()
    };
    let usual = id();
    put(&imatrix("blk.0.attn_k.weight", 64));
    let other = id();
    desk.write(&text.replace("\n    imatrix: ./chat.imatrix", ""));
    let without = id();
    assert!(usual != other && usual != without && other != without);
}

#[test]
fn a_model_of_the_catalog_is_fitted_to_boards_without_a_network_or_a_manifest() {
    let desk = Desk::new("");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    let ended = desk.run(&["fit", "tinyllama-1.1b-chat", "--board", "pi4-8gb,pi5-8gb"]).with(0);
    for expected in ["pi4-8gb", "pi5-8gb", "> Q", "TOK/S", "good", "trained for 2048 tokens", "auto takes"] {
        assert!(ended.stdout.contains(expected), "{expected}: {}", ended.stdout);
    }
    let arguments = ["fit", "catalog:llama-2-13b-chat", "--json", "--board", "pi4-4gb", "--quant", "Q4_K_M"];
    let fit: Value = serde_json::from_str(&desk.run(&arguments).with(0).stdout).unwrap();
    let board = &fit["boards"][0];
    assert_eq!((&board["pick"], &board["forms"][0]["verdict"]), (&Value::Null, &json!("no")));
    assert!(board["why"].as_str().unwrap().contains("there is"), "{board}");
    let refused = desk.run(&["fit", "tinyllama-1.1b-chat", "--board", "pi6-8gb"]).with(1);
    assert!(refused.stderr.contains("pi5-8gb"), "{}", refused.stderr);
}

#[test]
fn a_fit_of_some_quants_shows_and_takes_only_these() {
    let desk = Desk::new("");
    let arguments = ["fit", "qwen3-4b", "--board", "pi5-8gb", "-q", "Q2_K,Q8_0"];
    let ended = desk.run(&arguments).with(0).says("> Q2_K ").says("\n  > Q2_K: ");
    assert!(!ended.stdout.contains("Q4_K_M") && !ended.stdout.contains("auto takes"), "{}", ended.stdout);
}

#[test]
fn a_source_is_named_alike_everywhere() {
    let desk = Desk::new(LOCAL).with_checkpoint(|_| {});
    for source in ["model", "./model", "file:model"] {
        desk.run(&["fit", source, "--board", "pi5-8gb"]).with(0).says("pi5-8gb  ");
        desk.run(&["convert", source, "--quant", "Q8_0"]).with(0).says("model-Q8_0.gguf: ");
        desk.run(&["fetch", source]).with(0).says("model: ");
    }
    // a model of the manifest comes first
    desk.run(&["fetch", "chat"]).with(0).says("chat: ");
    // it is in the catalog, and no hub is there
    desk.run(&["fetch", "smollm3-3b"]).with(1).complains("smollm3-3b: http://127.0.0.1:1 cannot be reached");
    for verb in [vec!["fit"], vec!["convert", "--quant", "Q8_0"], vec!["fetch"]] {
        let ended = desk.run(&[verb, vec!["smollm3-3"]].concat()).with(1);
        ended.complains("did you mean \"smollm3-3b\"? `bramble catalog` lists them all");
    }
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    desk.run(&["fetch", "chatt"])
        .with(1)
        .complains("no manifest fleet.yaml has a model chatt: the catalog has no");
}
