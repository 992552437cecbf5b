//! One suite for every way to a host, and what `ssh` failures are taken for.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
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

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bramble_fleet::connect::fake::{Fake, ended};
use bramble_fleet::connect::{
    Connection, Error, Local, Output, Piece, Script, Settings, Ssh, Stdin, Talk, Target, quote,
};
use process::Process;
use sshd::Sshd;
use tokio::sync::mpsc;

fn script(text: impl Into<String>) -> Script {
    Script { text: text.into(), is_root: false, timeout: Duration::from_mins(1) }
}

async fn run(connection: &dyn Connection, text: impl Into<String>) -> Output {
    connection.run(&script(text), Stdin::Empty).await.unwrap()
}

const HOSTILE: [&str; 8] = [
    "plain",
    "it's",
    "$(touch /tmp/bramble-hostile) `id` $HOME",
    "a\nb\tc  d\\e\\\\",
    "*?[x]{a,b}~ # ! & ; | < > \" %s",
    "",
    "-n -e",
    "h\u{e9}\u{1f353}",
];

/// What every connection promises.
async fn conforms(connection: &dyn Connection) {
    // exit status, both streams
    for status in [0, 1, 3, 126, 254, 255] {
        let output = run(connection, format!("echo out; echo err >&2; exit {status}")).await;
        assert_eq!(output, ended(status, "out\n", "err\n"), "status {status}");
    }
    // a script that kills itself
    assert_eq!(run(connection, "kill -KILL $$").await.status, 137);

    // input of every size
    let bytes: Vec<u8> = (0..5 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for size in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 5 << 20] {
        let stdin = if size == 0 { Stdin::Empty } else { Stdin::bytes(bytes[..size].to_vec()) };
        let output = connection.run(&script("cat"), stdin).await.unwrap();
        assert!(output.status == 0 && output.stdout == bytes[..size], "{size} bytes as they were");
    }

    // a script need not read its input
    let output = connection.run(&script("exit 7"), Stdin::bytes(bytes.clone())).await.unwrap();
    assert_eq!(output.status, 7);

    // what is quoted comes through as one word
    for text in HOSTILE {
        let output = run(connection, format!("printf %s {}", quote(text))).await;
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }

    // time
    let slow =
        Script { text: "echo $$; sleep 1000".into(), is_root: false, timeout: Duration::from_millis(500) };
    let begun = Instant::now();
    let error = connection.run(&slow, Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }) && error.is_transient(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// What real shells promise beyond that.
async fn bounds_and_cleans(connection: &dyn Connection) {
    converses(connection).await;
    // no control characters for the operator's terminal
    let output = run(connection, r"printf 'a\033[31mb\007\n' >&2").await;
    assert_eq!(output.stderr, "a[31mb\n");
    // 16 MiB are an answer, one byte more is a fault
    let output = run(connection, "head -c 16777216 /dev/zero").await;
    assert_eq!(output.stdout.len(), 16 << 20);
    let error = connection.run(&script("cat /dev/zero"), Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TooMuch { .. }), "{error}");
    // a script that timed out does not go on
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let text = format!("echo $$ >{}; while :; do sleep 0.05; done", quote(&pid.display().to_string()));
    let slow = Script { text, is_root: true, timeout: Duration::from_secs(5) };
    assert!(matches!(connection.run(&slow, Stdin::Empty).await, Err(Error::TimedOut { .. })));
    let pid = std::fs::read_to_string(&pid).unwrap();
    gone(pid.trim()).await;
}

/// A script that is talked with hears each piece before it says what it wants next.
async fn converses(connection: &dyn Connection) {
    // one that reads nothing, speaks and ends: whoever tells it something until nothing is taken hears it then
    let (say, input) = mpsc::channel(4);
    let (output, mut hear) = mpsc::channel::<Vec<u8>>(1);
    let lead = async {
        while say.send(Piece::Bytes(vec![b'x'; 64 << 10])).await.is_ok() {}
        let mut said = 0;
        while let Some(more) = hear.recv().await {
            said += more.len();
        }
        said
    };
    let deaf = script("for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.1; done; exit 5");
    let talked = async { tokio::join!(connection.talk(&deaf, Talk { input, output }), lead) };
    let (went, said) = tokio::time::timeout(Duration::from_secs(30), talked).await.unwrap();
    assert_eq!((went.unwrap().status, said), (5, 16));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all(&bytes).unwrap();
    let file = Arc::new(std::fs::File::open(file.path()).unwrap());
    let (say, input) = mpsc::channel(1);
    let (output, mut hear) = mpsc::channel(1);
    let lead = async {
        for (word, part) in [("one", 0..10), ("two", 5..3 << 20), ("three", 0..0)] {
            let mut said = Vec::new();
            while !said.ends_with(b"\n") {
                said.extend(hear.recv().await.unwrap());
            }
            assert_eq!(String::from_utf8(said).unwrap(), format!("{word}\n"));
            let length = format!("{}\n", part.end - part.start);
            say.send(Piece::Bytes(length.into_bytes())).await.unwrap();
            say.send(Piece::Part(Arc::clone(&file), part)).await.unwrap();
        }
        drop(say);
        let mut said = Vec::new();
        while let Some(more) = hear.recv().await {
            said.extend(more);
        }
        said
    };
    // what was read of each part, by its length and a sum
    let text = "for word in one two three; do
    echo $word; read -r length; head -c \"$length\" | cksum >>\"$0.sums\"
done
cat \"$0.sums\"; rm \"$0.sums\"; cat; echo err >&2; exit 3";
    let dir = tempfile::tempdir().unwrap();
    let text =
        format!("exec sh -c {} {}", quote(text), quote(&dir.path().join("talk").display().to_string()));
    let talk = script(text);
    let (output, said) = tokio::join!(connection.talk(&talk, Talk { input, output }), lead);
    assert_eq!(output.unwrap(), ended(3, "", "err\n"));
    let mut sums = String::new();
    for part in [0..10, 5..3 << 20, 0..0] {
        let stdin = Stdin::bytes(bytes[part].to_vec());
        let output = connection.run(&script("cksum"), stdin).await.unwrap();
        sums.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(String::from_utf8(said).unwrap(), sums);

    // one that ends before it has heard all is heard to its end, and ends the talk
    let (say, input) = mpsc::channel(1);
    let (output, mut hear) = mpsc::channel(1);
    let lead = async {
        while say.send(Piece::Bytes(vec![0; 1 << 20])).await.is_ok() {}
        hear.recv().await
    };
    let short = script("echo bye; exit 7");
    let (output, said) = tokio::join!(connection.talk(&short, Talk { input, output }), lead);
    assert_eq!((output.unwrap().status, said), (7, Some(b"bye\n".to_vec())));
}

/// Waits until a process is gone.
async fn gone(pid: &str) {
    let process = Process(pid.parse().unwrap());
    tokio::time::timeout(Duration::from_secs(10), async {
        while process.is_running() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("process {pid} is still there"));
}

#[tokio::test]
async fn this_machine_conforms() {
    let local = Local::new();
    conforms(&local).await;
    bounds_and_cleans(&local).await;
}

#[tokio::test]
async fn a_host_over_ssh_conforms() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    conforms(&ssh).await;
    bounds_and_cleans(&ssh).await;
}

#[tokio::test]
async fn the_fake_conforms() {
    let mut fake = Fake::new("kitchen");
    for status in [255, 254, 126, 3, 1, 0] {
        fake = fake.on(format!("exit {status}"), move |_| Ok(ended(status, "out\n", "err\n")));
    }
    for text in HOSTILE {
        fake = fake.on(format!("printf %s {}", quote(text)), move |_| Ok(ended(0, text, "")));
    }
    let fake = fake
        .on("kill -KILL", |_| Ok(ended(137, "", "")))
        .on("cat", |call| Ok(ended(0, call.stdin.clone(), "")))
        .fails("exit 7", 7, "")
        .on("sleep", |call| Err(Error::TimedOut { host: "kitchen".into(), after: call.script.timeout }));
    conforms(&fake).await;
    assert_eq!(fake.scripts()[0], "echo out; echo err >&2; exit 0");
    assert_eq!(run(&fake, "something else").await.status, 127);
}

#[tokio::test]
async fn scripts_share_one_connection_and_none_is_left_behind() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    // sshd's process for the connection is the same for all sessions
    let text = "echo $SSH_CONNECTION";
    let (first, second) = tokio::join!(run(&ssh, text), run(&ssh, text));
    assert_eq!(first.stdout, second.stdout);
    let many = futures_util::future::join_all((0..20).map(|n| run(&ssh, format!("echo {n}")))).await;
    assert!(many.iter().enumerate().all(|(n, output)| output.stdout == format!("{n}\n").into_bytes()));

    let master = masters(&sshd);
    assert_eq!(master.len(), 1, "{master:?}");
    ssh.close().await;
    gone(&master[0]).await;
    // it opens again by itself
    let third = run(&ssh, text).await;
    assert_ne!(first.stdout, third.stdout);
    let master = masters(&sshd);
    drop(ssh);
    gone(&master[0]).await;
}

#[tokio::test]
async fn a_master_that_died_between_two_scripts_is_replaced() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    run(&ssh, "true").await;
    kill(&masters(&sshd)[0]).await;
    assert_eq!(run(&ssh, "echo again").await.stdout, b"again\n");
}

#[tokio::test]
async fn the_script_that_opens_a_connection_is_like_any_other() {
    let Some(sshd) = Sshd::start() else { return };
    for status in [0, 1, 126, 254, 255] {
        let output = run(&sshd.connect(), format!("echo out; echo err >&2; exit {status}")).await;
        assert_eq!(output, ended(status, "out\n", "err\n"), "status {status}");
    }
    assert_eq!(run(&sshd.connect(), "kill -KILL $$").await.status, 137);
    assert_eq!(run(&sshd.connect(), r"printf '\0\377\n\0'").await.stdout, b"\0\xff\n\0");
    let output = run(&sshd.connect(), "head -c 16777216 /dev/zero").await;
    assert!(output.stdout == vec![0; 16 << 20]);
    let ssh = sshd.connect();
    let error = ssh.run(&script("cat /dev/zero"), Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TooMuch { .. }), "{error}");
    assert_eq!(run(&ssh, "echo on").await.stdout, b"on\n");

    let bytes: Vec<u8> = (0..5 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = sshd.connect().run(&script("cat"), Stdin::bytes(bytes.clone())).await.unwrap();
    assert!(output.status == 0 && output.stdout == bytes);
    converses(&sshd.connect()).await;
}

#[tokio::test]
async fn the_script_that_opens_a_connection_ends_in_time_and_leaves_it_open() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    let pid = sshd.path("pid");
    let text = format!("echo $$ >{}; while :; do sleep 0.05; done", pid.display());
    let slow = Script { text, is_root: false, timeout: Duration::from_secs(2) };
    let begun = Instant::now();
    let error = ssh.run(&slow, Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(12));
    gone(std::fs::read_to_string(&pid).unwrap().trim()).await;
    let master = masters(&sshd);
    assert_eq!(run(&ssh, "echo on").await.stdout, b"on\n");
    assert_eq!((master.len(), &masters(&sshd)), (1, &master), "it is the same connection");
    drop(ssh);
    nothing_is_left(&sshd).await;
}

#[tokio::test]
async fn a_connection_that_nobody_wants_any_longer_leaves_nothing() {
    let Some(sshd) = Sshd::start() else { return };
    // while it connects, while the first script runs, and while a later one does
    for (is_open, is_begun) in [(false, false), (false, true), (true, true)] {
        let (ssh, begun) = (sshd.connect(), sshd.path("begun"));
        if is_open {
            run(&ssh, "true").await;
        }
        let text = format!(": >{0}; while [ -e {0} ]; do sleep 0.05; done", begun.display());
        let script = script(text);
        tokio::select! {
            ended = ssh.run(&script, Stdin::Empty) => panic!("{ended:?}"),
            () = async {
                if is_begun {
                    wait_for(&begun).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            } => {}
        }
        drop(ssh);
        nothing_is_left(&sshd).await;
        let _ = std::fs::remove_file(begun);
    }
}

#[tokio::test]
async fn a_connection_stays_without_work() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    run(&ssh, "true").await;
    let master = masters(&sshd);
    // longer than it stays when nobody holds it
    tokio::time::sleep(Duration::from_secs(3)).await;
    run(&ssh, "true").await;
    assert_eq!((master.len(), &masters(&sshd)), (1, &master));
    // talk cannot be said twice: it notices by itself
    kill(&master[0]).await;
    converses(&ssh).await;
}

#[tokio::test]
async fn what_the_user_configured_for_tunnels_is_not_for_scripts() {
    let Some(sshd) = Sshd::start() else { return };
    let config = sshd.path("ssh_config");
    let text = "Host *\nSessionType none\nStdinNull yes\nForkAfterAuthentication yes\nRemoteCommand false\n\
                RequestTTY force\nControlMaster no\nControlPath none\nSendEnv LANG LC_*\n";
    std::fs::write(&config, text).unwrap();
    let settings = Settings { config: Some(config), ..sshd.settings() };
    let ssh = Ssh::new(sshd.target(), settings).unwrap();
    let output = ssh.run(&script("cat; echo err >&2"), Stdin::bytes(b"in\n".to_vec())).await.unwrap();
    assert_eq!(output, ended(0, "in\n", "err\n"));
}

/// Has the login run this line of shell in place of what it is sent.
fn force(sshd: &Sshd, line: &str) {
    let path = sshd.path("login.pub");
    let text = std::fs::read_to_string(&path).unwrap();
    let key = &text[text.find("ssh-ed25519").unwrap()..];
    std::fs::write(path, format!("command=\"{}\" {key}", line.replace('"', "\\\""))).unwrap();
}

#[tokio::test]
async fn a_login_that_hangs_is_out_of_time_and_one_that_breaks_before_the_script_began_is_lost() {
    let Some(sshd) = Sshd::start() else { return };
    let is_in = sshd.path("in");
    force(&sshd, &format!(": >{0}; while [ -e {0} ]; do sleep 0.05; done", is_in.display()));
    let quick = Script { timeout: Duration::from_secs(2), ..script("true") };
    let error = sshd.connect().run(&quick, Stdin::Empty).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    std::fs::remove_file(&is_in).unwrap();

    let ssh = sshd.connect();
    let script = script("true");
    let (result, ()) = tokio::join!(ssh.run(&script, Stdin::Empty), async {
        wait_for(&is_in).await;
        kill(&masters(&sshd)[0]).await;
    });
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "it may have been sent: {error}");
    std::fs::remove_file(&is_in).unwrap();
}

#[tokio::test]
async fn an_ssh_that_is_killed_before_it_is_in_costs_no_time() {
    let Some(sshd) = Sshd::start() else { return };
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut target, real) = (sshd.target(), sshd.port);
    target.port = Some(door.local_addr().unwrap().port());
    let key = std::fs::read_to_string(sshd.path("host.pub")).unwrap();
    std::fs::write(sshd.path("known"), format!("[127.0.0.1]:{} {key}", target.port.unwrap())).unwrap();
    let is_asked = sshd.path("asked");
    let asked = is_asked.clone();
    // the first hears nothing, and the next ones are let in
    std::thread::spawn(move || {
        let mut callers = door.incoming().flatten();
        let _first = callers.next();
        std::fs::write(asked, "").unwrap();
        for caller in callers {
            let host = TcpStream::connect(("127.0.0.1", real)).unwrap();
            let (mut up, mut down) = (caller.try_clone().unwrap(), caller);
            let (mut to, mut from) = (host.try_clone().unwrap(), host);
            std::thread::spawn(move || std::io::copy(&mut up, &mut to));
            std::thread::spawn(move || std::io::copy(&mut from, &mut down));
        }
    });
    let ssh = Ssh::new(target, sshd.settings()).unwrap();
    let script = script("true");
    let (result, killed) = tokio::join!(ssh.run(&script, Stdin::Empty), async {
        wait_for(&is_asked).await;
        kill(&programs(&sshd, |_| true)[0]).await;
        Instant::now()
    });
    assert!(result.is_err());
    // a login has 20 seconds here
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn what_a_login_says_first_is_not_what_the_script_said() {
    let Some(sshd) = Sshd::start() else { return };
    force(&sshd, r#"echo banner >&2; eval "$SSH_ORIGINAL_COMMAND""#);
    assert_eq!(run(&sshd.connect(), "echo out; echo err >&2").await, ended(0, "out\n", "err\n"));
    force(&sshd, "echo no >&2; exit 1");
    let error = failure(sshd.connect()).await;
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
}

/// An operator in a process of its own.
fn operator(sshd: &Sshd) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "operator_of_another_test"]);
    command.env("BRAMBLE_TEST_FOLDER", sshd.dir.path()).env("BRAMBLE_TEST_PORT", sshd.port.to_string());
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command
}

#[tokio::test]
#[ignore = "a part of other tests: it connects, says so, and waits"]
async fn operator_of_another_test() {
    let Ok(folder) = std::env::var("BRAMBLE_TEST_FOLDER") else { return };
    let at = |name: &str| std::path::Path::new(&folder).join(name);
    let target = Target {
        address: "127.0.0.1".into(),
        user: Some(std::env::var("USER").unwrap_or_else(|_| "root".into())),
        port: std::env::var("BRAMBLE_TEST_PORT").unwrap().parse().ok(),
        identity: Some(at("login")),
    };
    let settings = Settings {
        known_hosts: Some(at("known")),
        config: Some("/dev/null".into()),
        runtime_dir: Some(folder.clone().into()),
        ..Settings::default()
    };
    let ssh = Ssh::new(target, settings).unwrap();
    assert_eq!(run(&ssh, "echo one").await.stdout, b"one\n");
    assert_eq!(run(&ssh, "echo two").await.stdout, b"two\n");
    std::fs::write(at("connected"), "").unwrap();
    wait_for(&at("go on")).await;
}

#[tokio::test]
async fn an_operator_that_was_killed_leaves_no_connection() {
    let Some(sshd) = Sshd::start() else { return };
    let mut operator = operator(&sshd).spawn().unwrap();
    wait_for(&sshd.path("connected")).await;
    assert_eq!(masters(&sshd).len(), 1);
    operator.kill().unwrap();
    operator.wait().unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while !programs(&sshd, |_| true).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

/// Runs the operator whose `ssh` is a script before the real one: `before` is its beginning. `count` of them are started.
async fn operates_with(before: &str, count: usize) {
    let Some(sshd) = Sshd::start() else { return };
    let programs = sshd.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let path = std::env::var("PATH").unwrap();
    let started = sshd.path("started");
    let text = format!(
        "#!/bin/sh\nPATH={}\nstarted={}\n{before}\necho x >>\"$started\"\nexec ssh \"$@\"\n",
        quote(&path),
        quote(&started.display().to_string())
    );
    let ssh = programs.join("ssh");
    std::fs::write(&ssh, text).unwrap();
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(sshd.path("go on"), "").unwrap();
    let mut operator = operator(&sshd);
    operator.env("PATH", format!("{}:{path}", programs.display()));
    assert!(operator.status().unwrap().success());
    assert_eq!(std::fs::read_to_string(started).unwrap().lines().count(), count);
    nothing_is_left(&sshd).await;
}

#[tokio::test]
async fn an_ssh_of_2020_does_it_too() {
    // the master, and a session for each script
    let before = "case \"$*\" in *SessionType*) echo 'command-line: line 0: Bad configuration option: sessiontype' >&2; exit 255 ;; esac";
    operates_with(before, 3).await;
}

#[tokio::test]
async fn a_master_that_has_gone_before_its_first_client_came_is_replaced() {
    // its clock of whole seconds may end it at once
    let before = r#"if [ ! -e "$started" ]; then
        echo x >"$started"
        option=
        for word; do [ "$option" != -S ] || break; option=$word; done
        : >"$word" && rm "$word"
        echo 'Failed to connect to new control master' >&2
        exit 255
    fi"#;
    // that one, another that comes with the first script, and a session for the second
    operates_with(before, 3).await;
}

#[tokio::test]
async fn a_link_that_breaks_while_a_script_runs_is_lost_and_the_script_is_not_sent_again() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = sshd.connect();
    let count = sshd.path("count");
    let begun = sshd.path("begun");
    // it ends by itself once the folder of this test is gone
    let text = format!(
        "echo x >>{}; : >{}; while [ -e {1} ]; do sleep 0.05; done",
        count.display(),
        begun.display()
    );
    let script = script(text);
    let (result, ()) = tokio::join!(ssh.run(&script, Stdin::Empty), async {
        wait_for(&begun).await;
        kill(&masters(&sshd)[0]).await;
    });
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.is_transient(), "{error}");
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
}

/// With a host of the lab: `BRAMBLE_LAB_HOST=$(lab ip NAME) BRAMBLE_LAB_KEY=$(lab key)
/// lab exec cargo test --test connect -- --ignored`.
#[tokio::test]
#[ignore = "wants a host whose login is not root and may sudo"]
async fn a_login_that_may_sudo_becomes_root_and_its_scripts_end_in_time() {
    let (address, key) =
        (std::env::var("BRAMBLE_LAB_HOST").unwrap(), std::env::var("BRAMBLE_LAB_KEY").unwrap());
    let target = Target { address, user: Some("pi".into()), port: None, identity: Some(key.into()) };
    let known = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings {
        is_new_host_key_accepted: true,
        known_hosts: Some(known.path().to_owned()),
        config: Some("/dev/null".into()),
        ..Settings::default()
    };
    let ssh = Ssh::new(target, settings).unwrap();
    conforms(&ssh).await;
    assert_ne!(run(&ssh, "id -u").await.stdout, b"0\n");
    let as_root = |text: &str, seconds| Script {
        text: text.to_owned(),
        is_root: true,
        timeout: Duration::from_secs(seconds),
    };
    for (text, status, stdout) in [("id -u", 0, "0\n"), ("exit 1", 1, ""), ("exit 255", 255, "")] {
        let output = ssh.run(&as_root(text, 30), Stdin::Empty).await.unwrap();
        assert_eq!(output, ended(status, stdout, ""), "{text}");
    }
    let bytes = vec![b'\r'; 5 << 20];
    let output = ssh.run(&as_root("cat", 30), Stdin::bytes(bytes.clone())).await.unwrap();
    assert!(output.stdout == bytes, "as they were, through sudo too");
    let slow = as_root("echo $$ >/run/slow; while :; do sleep 0.05; done", 1);
    assert!(matches!(ssh.run(&slow, Stdin::Empty).await, Err(Error::TimedOut { .. })));
    let still = as_root("kill -0 $(cat /run/slow)", 30);
    assert_eq!(ssh.run(&still, Stdin::Empty).await.unwrap().status, 1, "it is gone");
    // without sudo
    ssh.run(&as_root("mv /etc/sudoers.d/010_pi-nopasswd /root/", 30), Stdin::Empty).await.unwrap();
    let error = ssh.run(&as_root("true", 30), Stdin::Empty).await.unwrap_err();
    assert!(matches!(&error, Error::Sudo { said, .. } if said.contains("password")), "{error}");
}

async fn kill(pid: &str) {
    assert!(std::process::Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    gone(pid).await;
}

/// The ssh processes that hold a connection to this sshd.
fn masters(sshd: &Sshd) -> Vec<String> {
    programs(sshd, |line| line.ends_with("[mux]") || line.contains("\0-N\0"))
}

/// The ssh processes of connections to this sshd.
fn programs(sshd: &Sshd, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = format!("{}/", sshd.dir.path().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let line = line.trim_end_matches(['\0', ' ']);
        let is_ssh = line.starts_with("ssh\0") || line.starts_with("ssh: ");
        if is_ssh && line.contains(&folder) && is_wanted(line) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// Waits until no ssh process and no folder of a control socket is left.
async fn nothing_is_left(sshd: &Sshd) {
    let folders = || {
        let entries = std::fs::read_dir(sshd.dir.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("bram-")).count()
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        while !programs(sshd, |_| true).is_empty() || folders() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{:?} and {} folders are left", programs(sshd, |_| true), folders()));
}

async fn wait_for(path: &std::path::Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn failure(ssh: Ssh) -> Error {
    ssh.run(&script("true"), Stdin::Empty).await.unwrap_err()
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_with_its_fingerprint_and_accepted_when_told() {
    let Some(sshd) = Sshd::start() else { return };
    let known = sshd.path("known");
    std::fs::write(&known, "").unwrap();
    let print = std::process::Command::new("ssh-keygen").args(["-lf"]).arg(sshd.path("host.pub")).output();
    let print = String::from_utf8(print.unwrap().stdout).unwrap();
    let print = print.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap();
    match failure(sshd.connect()).await {
        Error::HostKeyUnknown { fingerprint: Some(shown), .. } => {
            assert_eq!(shown, format!("ssh-ed25519 {print}"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_to_string(&known).unwrap(), "", "nothing was remembered");
    let mut settings = sshd.settings();
    settings.is_new_host_key_accepted = true;
    let ssh = Ssh::new(sshd.target(), settings).unwrap();
    assert_eq!(run(&ssh, "echo in").await.stdout, b"in\n");
    assert!(!std::fs::read_to_string(&known).unwrap().is_empty(), "it was remembered");
}

#[tokio::test]
async fn a_changed_host_key_is_refused_even_when_new_keys_are_accepted() {
    let Some(sshd) = Sshd::start() else { return };
    sshd.know("stranger.pub");
    let mut settings = sshd.settings();
    settings.is_new_host_key_accepted = true;
    let error = failure(Ssh::new(sshd.target(), settings).unwrap()).await;
    assert!(matches!(error, Error::HostKeyChanged { .. }) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_key_that_is_not_accepted_is_an_authentication_failure() {
    let Some(sshd) = Sshd::start() else { return };
    let mut target = sshd.target();
    target.identity = Some(sshd.path("stranger"));
    let error = failure(Ssh::new(target, sshd.settings()).unwrap()).await;
    assert!(matches!(&error, Error::Authentication { said, .. } if said.contains("publickey")), "{error}");
}

#[tokio::test]
async fn nothing_listening_silence_and_no_ssh_are_told_apart() {
    let Some(sshd) = Sshd::start() else { return };
    let mut settings = sshd.settings();
    settings.connect_timeout = Duration::from_secs(1);
    let at = |port| {
        let mut target = sshd.target();
        target.port = Some(port);
        Ssh::new(target, settings.clone()).unwrap()
    };
    let error = failure(at(sshd::free_port())).await;
    assert!(matches!(&error, Error::Refused { said, .. } if said.contains("refused")), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let error = failure(at(silent.local_addr().unwrap().port())).await;
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    // an OpenSSH that says nothing of it at first asks again
    std::thread::spawn(move || web.incoming().for_each(drop));
    let error = failure(at(port)).await;
    assert!(matches!(error, Error::Refused { .. }), "{error}");

    let mut target = sshd.target();
    target.address = "no-such-host.invalid".into();
    let error = failure(Ssh::new(target, settings.clone()).unwrap()).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
