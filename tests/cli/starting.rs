//! Before there is a fleet: a first manifest, and the doctor.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::desk::Desk;
use crate::{Ended, LOCAL, closed_port, with_dead_pi};

#[test]
fn a_first_manifest_is_written_from_what_is_found_and_never_over_another() {
    let desk = Desk::new("");
    let before = desk.run(&["init", "--offline"]).with(3);
    before.complains("fleet.yaml is there already: say --force to write over it, or --file for another");
    assert_eq!(fs::read(desk.path("fleet.yaml")).unwrap(), b"");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();

    // nothing is found: a board to plan for, and this machine
    let ended = desk.run(&["init", "--offline"]).with(0);
    let ended = ended.says("fleet.yaml: 2 hosts, and chat is qwen2.5-0.5b-instruct.\n");
    ended.says("say its address with --host").says("  bramble plan").says("  bramble doctor --all");
    desk.run(&["check"]).with(0).says("fleet home: 1 model, 2 hosts, 2 deploys: ok");

    // named, and in ssh's configuration
    let pi = format!("pi@127.0.0.1:{}", closed_port());
    let ended =
        desk.run(&["init", "--force", "--offline", "--host", &pi, "--fleet", "shed", "--no-desktop"]).with(0);
    ended.says("  host-127-0-0-1  not looked at: ").says("bramble doctor host-127-0-0-1");
    let text = fs::read_to_string(desk.path("fleet.yaml")).unwrap();
    assert!(text.contains("{ address: 127.0.0.1, ssh: { user: pi, port: "), "{text}");
    desk.run(&["check"]).with(0).says("fleet shed: 1 model, 1 host, 1 deploy: ok");

    fs::create_dir_all(desk.path("home/.ssh")).unwrap();
    let config =
        "Host kitchen-pi\n  HostName 127.0.0.1\n  Port 1\nHost office *.lan\nHost github.com\n  User git\n";
    fs::write(desk.path("home/.ssh/config"), config).unwrap();
    let told: Value =
        serde_json::from_str(&desk.run(&["init", "-f", "new.yaml", "--json"]).with(0).stdout).unwrap();
    assert_eq!(told["hosts"]["kitchen-pi"]["address"], "127.0.0.1");
    assert!(told["hosts"]["kitchen-pi"]["failure"].is_string() && told["hosts"]["office"].is_null());
    assert!(told["left_out"].as_array().unwrap().iter().any(|one| one["name"] == "office"), "{told}");
    let text = fs::read_to_string(desk.path("new.yaml")).unwrap();
    assert!(text.contains("\n  # office: { address: office }   # in ~/.ssh/config\n"), "{text}");
    desk.run(&["check", "-f", "new.yaml"]).with(0);
    desk.run(&["init", "-f", "no/where.yaml", "--offline"]).with(1).complains("cannot write no/where.yaml");
    for wrong in ["fe80::1", "-oProxyCommand=x", "a b"] {
        desk.run(&["init", "-f", "other.yaml", "--offline", &format!("--host={wrong}")]).with(1);
    }
    assert!(!desk.path("other.yaml").exists());
}

#[test]
fn a_doctor_says_what_to_do_about_this_machine_and_changes_nothing() {
    // somebody has the door's port
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let desk = Desk::new(&LOCAL.replace("18080", &port.to_string())).with_checkpoint(|_| {});
    let ended = desk.run(&["doctor"]).with(2);
    let ended =
        ended.says("desk  ").says(&format!("  x  port       {port} is taken by ")).says("`serve.port`");
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.starts_with("1 host: 2 problems (x: in Bramble's way)"), "{last}");
    assert!(!ended.stdout.contains('\x1b'));
    drop(taken);

    // `plan` refuses it for want of a program, in the same words
    let ended = desk.run(&["doctor", "desk", "--json"]).with(2);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = told["hosts"][0]["findings"].as_array().unwrap();
    let userland = findings.iter().find(|finding| finding["about"] == "userland").unwrap();
    let (what, next) = (userland["what"].as_str().unwrap(), userland["do"].as_str().unwrap());
    assert!(what.contains("there is no bundle for that (there is none in "), "{userland}");
    assert!(next.contains("scripts/bundle"), "{userland}");
    desk.run(&["plan"]).with(3).says(&format!("{}: {next}", what.strip_prefix("it ").unwrap()));

    let desk = desk.with_bundle();
    let told: Value = serde_json::from_str(&desk.run(&["doctor", "desk", "--json"]).with(0).stdout).unwrap();
    let findings = told["hosts"][0]["findings"].as_array().unwrap();
    let of = |about: &str| findings.iter().find(|finding| finding["about"] == about).unwrap();
    assert_eq!((&told["hosts"][0]["host"], &of("port")["level"]), (&json!("desk"), &json!("ok")));
    assert!(of("memory")["what"].as_str().unwrap().contains("is free for models"));

    // without a manifest, too, and in as many columns as there are
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    let ended = Ended::of(desk.command(&["doctor"]).env("COLUMNS", "60"));
    assert!(matches!(ended.code, Some(0 | 2)), "{}", ended.stderr);
    // commands are there to be copied whole
    let is_long = |line: &&str| line.chars().count() > 60 && !line.contains('`');
    assert_eq!(ended.stdout.lines().skip(1).find(is_long), None);
    ended.says("this machine  ");
    assert_eq!(desk.left_behind(), Vec::<String>::new());
}

#[test]
fn a_doctor_tells_of_hosts_that_cannot_be_reached_beside_the_others() {
    let desk = Desk::new(&with_dead_pi()).with_bundle();
    let ended = desk.run(&["doctor", "--all"]).with(2);
    ended
        .says("kitchen\n  x  login")
        .says("start its SSH server")
        .says("desk  ")
        .says("2 hosts: 1 problem (x: in Bramble's way)");
    let address = format!("pi@127.0.0.1:{}", closed_port());
    desk.run(&["doctor", &address]).with(2).says(&format!("{address}\n  x  login"));
    desk.run(&["doctor", "-oProxyCommand=x"]).with(1);
    desk.run(&["doctor", "a b"]).with(1).complains("say a name of the manifest, or [USER@]ADDRESS[:PORT]");
    desk.run(&["doctor", "--all", "-f", "none.yaml"]).with(1).complains("cannot read the manifest none.yaml");
    fs::remove_file(desk.path("fleet.yaml")).unwrap();
    desk.run(&["doctor", "--all"]).with(1).complains("no host that can be looked at");
}
