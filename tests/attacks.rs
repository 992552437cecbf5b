//! Attacks on the operator's machine: by files that came with a clone, by links that another user laid, and by what the
//! door of a host answers.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and starts the program"
)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use bramble_fleet::generation::DoorTls;
use bramble_fleet::keys::Safe;
use bramble_fleet::quant::Quant;
use bramble_fleet::weights::{self, Control, Order};

#[expect(dead_code, reason = "no host is changed here")]
#[path = "support/desk.rs"]
mod desk;
#[expect(dead_code, reason = "one model is enough here")]
#[path = "support/foreign.rs"]
mod foreign;

use desk::Desk;

const MANIFEST: &str = "\
bramble: 1
fleet: home
models:
  chat: { source: \"file:model\" }
hosts:
  desk: { address: 127.0.0.1, connect: local, role: desktop, dir: FOLDERroot, supervisor: process }
deploy:
  - { model: chat, on: [desk] }
";

/// Runs a command that must fail with words, soon.
fn refused(desk: &Desk, arguments: &[&str]) -> String {
    let begun = Instant::now();
    let ended = desk.command(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(1 | 3)), "{arguments:?}: {:?} {said}", ended.status);
    assert!(begun.elapsed() < Duration::from_secs(20), "{arguments:?} took {:?}", begun.elapsed());
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A file of a gigabyte that takes no room.
fn giant(path: &Path) {
    File::create(path).unwrap().set_len(1 << 30).unwrap();
}

/// A host that was taken over answers as it likes: with another place to ask, or without end.
#[test]
fn a_door_that_sends_on_or_answers_without_end_gets_nothing_more() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let place = format!("http://{}", elsewhere.local_addr().unwrap());
    let moved = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {place}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
    );
    let endless = "HTTP/1.1 500 Internal Server Error\r\n\r\n{\"error\":{\"message\":\"".to_owned();
    for (head, has_end, code) in [(moved, true, "307"), (endless, false, "500")] {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = door.local_addr().unwrap().port();
        let desk =
            Desk::new(&MANIFEST.replace("models:", &format!("serve: {{ port: {port}, tls: off }}\nmodels:")));
        let mut safe = Safe::open(&desk.path("state/bramble"), &"home".parse().unwrap()).unwrap();
        safe.complete(&["desk".parse().unwrap()], DoorTls::Off, 0).unwrap();
        let answering = std::thread::spawn(move || {
            let wire = door.accept().unwrap().0;
            let asked = BufReader::new(&wire).lines().map_while(Result::ok);
            let key = asked.take_while(|line| !line.is_empty()).any(|line| line.contains("Bearer bramble-"));
            let mut sent = 0;
            let mut next = head.as_bytes();
            while (&wire).write_all(next).is_ok() && !has_end {
                next = &[b'x'; 4096];
                sent += next.len();
            }
            (key, sent)
        });
        let mut chat = desk.command(&["chat", "desk", "Hello"]);
        let ended = chat.env("http_proxy", &place).env("HTTP_PROXY", &place).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(1) && said.contains(code), "{said}");
        let (key, sent) = answering.join().unwrap();
        // what lies in the buffers of both ends is no answer yet
        assert!(key && sent < 64 << 20, "{sent} bytes were taken");
        assert_eq!(elsewhere.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn files_of_a_gigabyte_and_devices_fill_no_memory() {
    let desk = Desk::new(MANIFEST);
    for words in [&["check"][..], &["plan"], &["status"]] {
        giant(&desk.path("fleet.yaml"));
        assert!(refused(&desk, words).contains("a manifest has at most"));
        fs::remove_file(desk.path("fleet.yaml")).unwrap();
        // it says of itself that it has no bytes, and does not end
        symlink("/dev/zero", desk.path("fleet.yaml")).unwrap();
        assert!(refused(&desk, words).contains("more than 1048576 bytes"));
        fs::remove_file(desk.path("fleet.yaml")).unwrap();
    }
    desk.write(MANIFEST);
    for lock in ["giant", "device"] {
        match lock {
            "giant" => giant(&desk.path("bramble.lock")),
            _ => symlink("/dev/zero", desk.path("bramble.lock")).unwrap(),
        }
        assert!(refused(&desk, &["plan"]).contains("more than"));
        fs::remove_file(desk.path("bramble.lock")).unwrap();
    }
}

#[test]
fn a_yaml_bomb_is_refused_at_its_first_alias() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, last) in ('b'..='z').zip('a'..) {
        let again = vec![format!("*{last}"); 7].join(", ");
        writeln!(bomb, "{name}: &{name} [{again}]").unwrap();
    }
    let desk = Desk::new(&bomb);
    let said = refused(&desk, &["check"]);
    assert!(said.contains("alias") && said.len() < 4096, "{said}");
    desk.write(&"[".repeat(900_000));
    assert!(refused(&desk, &["check"]).len() < 4096);
}

/// Weights are made beside their last name. In a folder such as /tmp, somebody else may have laid a link there.
#[test]
fn a_link_in_the_place_of_weights_is_neither_followed_nor_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("in")).unwrap();
    foreign::model(&path("in"));
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/tokenizer/bpe.json");
    fs::copy(tokenizer, path("in/tokenizer.json")).unwrap();
    fs::write(path("precious"), "precious").unwrap();
    let order = Order::single(&path("in"), Quant::F16, &path("out.gguf"));
    for target in [path("precious"), path("nowhere")] {
        symlink(&target, path("out.gguf.partial")).unwrap();
        let error = weights::run(&order, &Control::none()).unwrap_err();
        assert!(error.to_string().contains("out.gguf.partial"), "{error}");
        fs::remove_file(path("out.gguf.partial")).unwrap();
    }
    assert_eq!(fs::read_to_string(path("precious")).unwrap(), "precious");
    assert!(!path("nowhere").exists());
    // in the place of the last name, a link is replaced, and what it leads to stays
    symlink(path("precious"), path("out.gguf")).unwrap();
    weights::run(&order, &Control::none()).unwrap();
    assert_eq!(fs::read_to_string(path("precious")).unwrap(), "precious");
    assert!(fs::symlink_metadata(path("out.gguf")).unwrap().is_file());
}
