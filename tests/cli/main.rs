//! The operator's command as a process: exit codes, what is said where, and what is left alone.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the program under test"
)]

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

mod at_terminal;
mod fleet;
mod models;
mod starting;
mod typed;

#[path = "../support/desk.rs"]
mod desk;
#[path = "../support/model.rs"]
mod model;
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
        model::write_model(&self.path("model"), 1, 64, None);
        let path = self.path("model/config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
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
