//! The operator's command as a process: exit codes, what is said where, and what is left alone.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the program under test"
)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

mod at_terminal;
mod fleet;
mod models;
mod starting;
mod typed;

#[path = "../support/desk.rs"]
mod desk;
#[path = "../support/terminal.rs"]
mod terminal;

use desk::Desk;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "{text:?} is not in stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    fn complains(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in stderr:\n{}\nstdout:\n{}",
            self.stderr,
            self.stdout
        );
        self
    }
}

impl Desk {
    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut self.command(arguments))
    }

    /// Makes a bundle for this machine. It is never run.
    fn with_bundle(self) -> Self {
        self.put_bundle(b"never unpacked");
        self
    }

    /// Writes a checkpoint of a very small llama, or of what `change` makes of its configuration.
    fn with_checkpoint(self, change: impl FnOnce(&mut Value)) -> Self {
        let folder = self.path("model");
        fs::create_dir(&folder).unwrap();
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
        });
        change(&mut config);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let tokenizer = json!({
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        });
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        write_weights(&folder.join("model.safetensors"));
        self
    }

    /// Returns every file under the folder but those that were there from the start.
    fn left_behind(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.folder.path()).unwrap().display().to_string());
                }
            }
        }
        found.retain(|name| {
            !["cache/", "bundles/", "model/", "fleet.yaml"].iter().any(|known| name.starts_with(known))
        });
        found
    }
}

fn write_weights(path: &Path) {
    let mut shapes =
        vec![("model.embed_tokens".to_owned(), vec![32, 64]), ("model.norm".to_owned(), vec![64])];
    let parts: [(&str, &[usize]); 9] = [
        ("self_attn.q_proj", &[64, 64]),
        ("self_attn.k_proj", &[32, 64]),
        ("self_attn.v_proj", &[32, 64]),
        ("self_attn.o_proj", &[64, 64]),
        ("mlp.gate_proj", &[128, 64]),
        ("mlp.up_proj", &[128, 64]),
        ("mlp.down_proj", &[64, 128]),
        ("input_layernorm", &[64]),
        ("post_attention_layernorm", &[64]),
    ];
    shapes.extend(parts.map(|(name, shape)| (format!("model.layers.0.{name}"), shape.to_vec())));
    let (mut header, mut length) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let bytes = shape.iter().product::<usize>() * 4;
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [length, length + bytes] });
        header.insert(format!("{name}.weight"), entry);
        length += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + length, 0);
    fs::write(path, file).unwrap();
}

/// One host, this machine, without root; and a small model from a folder.
const LOCAL: &str = "\
bramble: 1
fleet: home
serve: { port: 18080, tls: off }
models:
  chat: { source: \"file:model\", context: 256 }
hosts:
  desk: { address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }
deploy:
  - { model: chat, on: [desk] }
";

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `LOCAL`, and a Pi that refuses the connection.
fn with_dead_pi() -> String {
    let pi = format!("hosts:\n  kitchen: {{ address: 127.0.0.1, ssh: {{ port: {} }} }}\n", closed_port());
    // an address that no machine has (RFC 5737); it is written into routes and never asked here
    LOCAL
        .replace("address: 127.0.0.1,", "address: 192.0.2.1,")
        .replace("hosts:\n", &pi)
        .replace("on: [desk]", "on: [desk, kitchen]")
}

/// `LOCAL` with another model.
fn with_model(model: &str) -> String {
    LOCAL.replace("source: \"file:model\", context: 256", model)
}
