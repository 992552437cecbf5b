//! Unusual ways to a host, each with a real sshd: one session at a time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the sshd that the tests talk to"
)]

#[path = "support/process.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod process;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::path::Path;
use std::time::Duration;

use bramble_fleet::connect::{Connection, Error, Output, Piece, Script, Ssh, Stdin, Talk};
use process::Process;
use sshd::Sshd;
use tokio::sync::mpsc;

fn script(text: impl Into<String>) -> Script {
    Script { text: text.into(), is_root: false, timeout: Duration::from_mins(1) }
}

async fn run(connection: &dyn Connection, text: impl Into<String>) -> Output {
    connection.run(&script(text), Stdin::Empty).await.unwrap()
}

async fn failure(ssh: Ssh) -> Error {
    ssh.run(&script("true"), Stdin::Empty).await.unwrap_err()
}

async fn wait_for(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A script that says that it is there, and goes on until `path` is removed.
fn staying(path: &Path) -> Script {
    script(format!(": >{0}; while [ -e {0} ]; do sleep 0.05; done; echo done", path.display()))
}

#[tokio::test]
async fn a_host_that_permits_one_session_at_a_time_ends_none_for_another() {
    let Some(sshd) = Sshd::start_with("MaxSessions 1\n") else { return };
    let ssh = sshd.connect();
    let is_in = sshd.path("in");
    let long = staying(&is_in);
    let others = async {
        wait_for(&is_in).await;
        // input and status are those of any session
        let bytes = vec![7; 1 << 20];
        let counted = ssh.run(&script("wc -c; exit 3"), Stdin::Bytes(bytes)).await.unwrap();
        assert_eq!((counted.status, counted.stdout.trim_ascii()), (3, &b"1048576"[..]));
        let (one, two) = tokio::join!(run(&ssh, "echo one"), run(&ssh, "echo two"));
        assert_eq!((one.stdout, two.stdout), (b"one\n".to_vec(), b"two\n".to_vec()));

        let (say, input) = mpsc::channel(1);
        let (output, mut hear) = mpsc::channel(1);
        let talk = script("cat");
        let lead = async {
            for word in ["first ", "second"] {
                say.send(Piece::Bytes(word.as_bytes().to_vec())).await.unwrap();
            }
            drop(say);
            let mut said = Vec::new();
            while let Some(more) = hear.recv().await {
                said.extend(more);
            }
            said
        };
        let (talked, said) = tokio::join!(ssh.talk(&talk, Talk { input, output }), lead);
        assert_eq!((talked.unwrap().status, said), (0, b"first second".to_vec()));

        // what is out of time is ended there
        let pid = sshd.path("pid");
        let text = format!("echo $$ >{}; while :; do sleep 0.05; done", pid.display());
        let slow = Script { timeout: Duration::from_secs(1), ..script(text) };
        let begun = std::time::Instant::now();
        let error = ssh.run(&slow, Stdin::Empty).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(40));
        let slow = Process(std::fs::read_to_string(pid).unwrap().trim().parse().unwrap());
        let ended = async {
            while slow.is_running() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
        std::fs::remove_file(&is_in).unwrap();
    };
    let (stayed, ()) = tokio::join!(ssh.run(&long, Stdin::Empty), others);
    assert_eq!(stayed.unwrap().stdout, b"done\n");
}

#[tokio::test]
async fn a_host_that_permits_no_session_says_so() {
    let Some(sshd) = Sshd::start_with("MaxSessions 0\n") else { return };
    let error = failure(sshd.connect()).await;
    assert!(matches!(&error, Error::Refused { said, .. } if said.contains("MaxSessions")), "{error}");
}
