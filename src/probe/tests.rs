use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::connect::Output;
use crate::facts::{Answer, Privilege, parse_probe};
use crate::generation::Layout;

/// Answers every script with the same thing and remembers what it was asked.
struct Fake {
    answer: Box<dyn Fn() -> Result<Output, connect::Error> + Send + Sync>,
    asked: Mutex<Vec<String>>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Connection for Fake {
    async fn run(&self, script: &Script, _: Stdin) -> Result<Output, connect::Error> {
        self.asked.lock().unwrap().push(script.text.clone());
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        (self.answer)()
    }
    async fn talk(&self, script: &Script, _: connect::Talk) -> Result<Output, connect::Error> {
        self.run(script, Stdin::Empty).await
    }
    fn describe(&self) -> String {
        "pi@fake".into()
    }
}

fn fake(answer: impl Fn() -> Result<Output, connect::Error> + Send + Sync + 'static) -> Arc<Fake> {
    Arc::new(Fake {
        answer: Box::new(answer),
        asked: Mutex::default(),
        now: Arc::default(),
        most: Arc::default(),
    })
}

fn printed(text: &str) -> Output {
    Output { status: 0, stdout: text.as_bytes().to_vec(), stderr: String::new() }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

const SMALL: &str = "\n@@ bramble-probe 1\nmachine=aarch64\n\n@@ begin meminfo\nMemTotal: 1000 kB\nMemAvailable: 600 kB\n\n@@ end\n\n@@ done\n";

#[tokio::test]
async fn one_host_that_is_away_does_not_hide_the_others() {
    let well = fake(|| Ok(printed(SMALL)));
    let away = fake(|| Err(connect::Error::Unreachable { host: "pi@fake".into(), said: "no route".into() }));
    let dumb = fake(|| Ok(printed("Permission denied by policy\n")));
    let hosts: Vec<Target> = vec![
        (name("well"), "/srv/it's here".into(), Arc::clone(&well) as Arc<dyn Connection>),
        (name("away"), "/x".into(), away),
        (name("dumb"), "/x".into(), dumb),
    ];
    let inventory = gather(&hosts, 2).await;
    assert_eq!(inventory.hosts.len(), 3);
    assert_eq!(inventory.hosts[&name("well")].as_ref().unwrap().machine, "aarch64");
    let away = inventory.hosts[&name("away")].as_ref().unwrap_err();
    assert_eq!(
        away.message,
        "pi@fake cannot be reached: no route; check its power, its cable and its address"
    );
    assert!(away.is_transient);
    let dumb = inventory.hosts[&name("dumb")].as_ref().unwrap_err();
    assert!(dumb.message.contains("broke off"), "{}", dumb.message);
    // the folder's name reaches the shell as one word
    assert!(well.asked.lock().unwrap()[0].starts_with("set -- '/srv/it'\\''s here'\n"));
}

#[tokio::test]
async fn a_host_whose_connection_breaks_is_looked_at_once_more() {
    let breaks = |times: usize| {
        let looks = AtomicUsize::new(0);
        fake(move || {
            if looks.fetch_add(1, Ordering::SeqCst) < times {
                return Err(connect::Error::Lost { host: "pi@fake".into(), said: "broken pipe".into() });
            }
            Ok(printed(SMALL))
        })
    };
    assert_eq!(look("/x", breaks(1).as_ref(), false).await.unwrap().machine, "aarch64");
    let gone = breaks(9);
    let failure = look("/x", gone.as_ref(), false).await.unwrap_err();
    assert!(failure.message.contains("broken pipe"), "{}", failure.message);
    assert_eq!(gone.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn no_more_hosts_than_allowed_are_asked_at_once() {
    let one = fake(|| Ok(printed(SMALL)));
    let hosts: Vec<Target> = (0..20)
        .map(|n| (name(&format!("h{n}")), "/x".into(), Arc::clone(&one) as Arc<dyn Connection>))
        .collect();
    assert_eq!(gather(&hosts, 3).await.hosts.len(), 20);
    assert_eq!(one.most.load(Ordering::SeqCst), 3);
    // asking for none at a time still ends
    assert_eq!(gather(&hosts, 0).await.hosts.len(), 20);
}

#[tokio::test]
async fn a_script_that_fails_says_its_status_and_last_words() {
    let broken =
        fake(|| Ok(Output { status: 127, stdout: vec![], stderr: "one\nsh: not\u{7} found\n".into() }));
    let found = gather(&[(name("h"), "/x".into(), broken)], 1).await;
    let failure = found.hosts[&name("h")].as_ref().unwrap_err();
    assert_eq!(
        failure.message,
        "pi@fake could not run the probe (status 127: sh: not found): check that its `sh` works"
    );
}

#[test]
fn every_failure_to_connect_has_a_next_move() {
    let (host, said) = (|| "h".to_owned(), || "s".to_owned());
    let errors = [
        connect::Error::Unreachable { host: host(), said: said() },
        connect::Error::Refused { host: host(), said: said() },
        connect::Error::HostKeyChanged { host: host(), said: said() },
        connect::Error::HostKeyUnknown { host: host(), fingerprint: None },
        connect::Error::Authentication { host: host(), said: said() },
        connect::Error::Sudo { host: host(), said: said() },
        connect::Error::TimedOut { host: host(), after: Duration::from_mins(1) },
        connect::Error::Lost { host: host(), said: said() },
    ];
    let texts: BTreeMap<String, bool> =
        errors.iter().map(unreachable).map(|f| (f.message, f.is_transient)).collect();
    insta::assert_debug_snapshot!(texts);
}

#[expect(clippy::disallowed_methods, reason = "the script is tried under the shells of this machine")]
fn run_with(shell: &[&str], script: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let mut child = std::process::Command::new(shell[0])
        .args(&shell[1..])
        .args(["-s", "--"])
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

fn run(shell: &[&str], root: &str) -> Option<Vec<u8>> {
    run_with(shell, SCRIPT, &[root])
}

const SHELLS: [&[&str]; 4] = [&["sh"], &["dash"], &["bash", "--posix"], &["busybox", "sh"]];

#[test]
fn a_checkup_tells_of_this_machine_under_every_shell_it_has() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (open, closed) = (port.to_string(), closed.to_string());
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    let words = [&place, &place, &open, "127.0.0.1", &open, "127.0.0.1", &closed, "no such host", "22"];
    let outputs: Vec<_> = SHELLS.iter().filter_map(|shell| run_with(shell, CHECKUP, &words)).collect();
    assert!(!outputs.is_empty());
    for output in outputs {
        let found = facts::parse_checkup(&output).unwrap();
        assert!(found.listening.contains(&port), "{:?}", found.listening);
        assert!(!found.processes.is_empty() && !found.is_read_only);
        // without bash nobody is asked
        if !found.reached.is_empty() {
            let expected = [(0, Answer::Open), (1, Answer::Refused), (2, Answer::Unresolved)];
            assert_eq!(found.reached, expected.into());
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_checkup_is_to_look_at_reaches_the_shell_as_words() {
    let printed = "\n@@ bramble-checkup 1\ngovernor=powersave\n\n@@ done\n";
    let host = connect::fake::Fake::new("pi").says("bramble-checkup", printed);
    let others = (0..40).map(|n| (format!("h{n}; reboot"), 22)).collect();
    let places = Places { root: "/it's".into(), disk: "/".into(), port: 8443, others };
    let found = check_up(&places, &host).await.unwrap();
    assert_eq!(found.governor.as_deref(), Some("powersave"));
    let script = host.scripts().remove(0);
    let first = script.lines().next().unwrap();
    assert!(first.starts_with("set -- '/it'\\''s' '/' '8443' 'h0; reboot' '22' "), "{first}");
    assert!(first.ends_with(" 'h31; reboot' '22'"), "{first}");
}

#[test]
fn the_script_tells_what_this_machine_is_under_every_shell_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/there yet").display().to_string();
    let outputs: Vec<_> = SHELLS.iter().filter_map(|shell| run(shell, &root)).collect();
    assert!(!outputs.is_empty());
    for output in outputs {
        let facts = parse_probe(&output).unwrap();
        assert_eq!(facts.machine, std::env::consts::ARCH);
        assert_eq!(facts.userland_bits, Some(usize::BITS));
        assert!(facts.page_size.is_some());
        assert!(facts.memory.total > facts.memory.available);
        assert!(!facts.cpu.features.is_empty());
        let disk = facts.disk.unwrap();
        assert_eq!(disk.path, folder.path().display().to_string());
        assert!(disk.free <= disk.total && disk.total.0 > 0 && disk.filesystem.is_some());
        assert_eq!(facts.installed, None);
        assert_eq!(facts.privilege == Privilege::Root, rustix::process::geteuid().is_root());
    }
}

#[test]
fn where_no_folder_is_named_the_usual_one_is_said() {
    let facts = parse_probe(&run(&["sh"], "").unwrap()).unwrap();
    let root = facts.root.unwrap();
    match (facts.privilege, facts.user_manager) {
        (Privilege::Root, own) => assert_eq!((root.as_str(), own), (Layout::DEFAULT_ROOT, None)),
        (_, Some(_)) => assert!(root.ends_with(Layout::USER_ROOT), "{root}"),
        (_, None) => assert_eq!(root, Layout::DEFAULT_ROOT),
    }
}

#[test]
fn what_an_installed_program_says_of_itself_is_in_the_facts() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("current/program");
    std::fs::create_dir_all(&program).unwrap();
    let said = r#"{"current":null,"pending":null,"generations":[1,2],"blobs":{},"programs":[],"partials":{},"services":{"route":"running"},"memory":42,"drift":[]}"#;
    let brambled = program.join("brambled");
    let script = format!(
        "#!/bin/sh\n[ \"$1 $2 $3\" = \"inspect --root {}\" ] && echo '{said}'\n",
        folder.path().display()
    );
    std::fs::write(&brambled, script).unwrap();
    std::fs::set_permissions(&brambled, std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = folder.path().display().to_string();
    let installed = parse_probe(&run(&["sh"], &root).unwrap()).unwrap().installed.unwrap();
    assert_eq!(installed.memory.0, 42);
    assert_eq!(installed.generations.len(), 2);

    // that of what is in force is lost: another one says what that is, and none where nothing is in force
    let other = folder.path().join("programs/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::rename(&brambled, other.join("brambled")).unwrap();
    assert!(parse_probe(&run(&["sh"], &root).unwrap()).unwrap().installed.is_none());
    std::fs::rename(folder.path().join("current"), folder.path().join("7")).unwrap();
    std::os::unix::fs::symlink("7", folder.path().join("current")).unwrap();
    // nor one that is too old to read it, or that was not unpacked to its end
    for name in ["another", "zzz.partial"] {
        let folder = folder.path().join("programs").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("brambled"), "#!/bin/sh\nexit 1\n").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join("brambled"), mode).unwrap();
    }
    let found = parse_probe(&run(&["sh"], &root).unwrap()).unwrap();
    assert_eq!((found.installed.unwrap(), found.lost), (installed, Some(crate::ids::Generation::new(7))));
    std::fs::remove_dir_all(&other).unwrap();
    let found = parse_probe(&run(&["sh"], &root).unwrap()).unwrap();
    assert_eq!((found.installed, found.lost), (None, Some(crate::ids::Generation::new(7))));

    // a program that is there and says nothing is not a bare host
    std::fs::write(&brambled, "#!/bin/sh\nexit 1\n").unwrap();
    let error = parse_probe(&run(&["sh"], &root).unwrap()).unwrap_err();
    assert!(matches!(error, facts::Error::Installed { .. }), "{error}");
}
