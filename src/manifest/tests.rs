use std::collections::BTreeMap;

use super::*;
use crate::facts::Stated;
use crate::generation::Capability;
use crate::units::{Bytes, BytesPerSec};

/// A manifest without faults, to break in one place.
pub(super) const GOOD: &str = "\
bramble: 1
fleet: home
serve: { tls: off }
models:
  chat: { source: hf:org/repo }
hosts:
  kitchen: { address: kitchen.local }
  desk: { address: desk.local, role: desktop }
  gaming: { upstream: http://gaming.local:11434/v1, models: { chat: mistral } }
deploy:
  - { model: chat, on: { role: pi } }
  - { model: chat, on: [desk] }
routes:
  chat: { order: [local, desk, gaming] }
";

/// The problems of `GOOD` with one text replaced, as `LINE:COLUMN KIND message | help`.
fn faults_of(from: &str, to: &str) -> Vec<String> {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} names one place");
    faults(&GOOD.replace(from, to))
}

fn faults(text: &str) -> Vec<String> {
    let Err(problems) = parse("fleet.yaml", text) else { return Vec::new() };
    let shown = |at: &Place| {
        let help = at.help.as_deref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{}:{} {:?}: {}{help}", at.line, at.column, at.kind, at.message)
    };
    problems.problems.iter().map(shown).collect()
}

/// Holds the one fault of `GOOD` with `from` replaced to `expected`.
#[track_caller]
fn check(from: &str, to: &str, expected: &str) {
    assert_eq!(faults_of(from, to), [expected]);
}

#[test]
fn what_weights_may_take_of_the_network_is_a_rate_of_bytes() {
    let with = |caps: &str| GOOD.replace("serve:", &format!("rollout: {{ bandwidth: {caps} }}\nserve:"));
    let manifest =
        parse("fleet.yaml", &with("{ per_host: 4.5 MB/s, total: 1 GiB/s }")).expect("without faults");
    let caps = Caps { per_host: Some(Bytes(4_500_000)), total: Some(Bytes(1 << 30)) };
    assert_eq!(manifest.rollout.bandwidth, caps);
    for bad in
        ["{ per_host: 4 MB }", "{ per_host: 0 MB/s }", "{ per_host: fast }", "{ in_all: 4 MB/s }", "4 MB/s"]
    {
        assert!(parse("fleet.yaml", &with(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_manifest_without_faults_has_every_default_filled_in() {
    let manifest = parse("fleet.yaml", GOOD).expect("without faults");
    assert_eq!(faults_of("{ tls: off }", "{ tls: off, port: 9000 }"), Vec::<String>::new());
    assert_eq!(manifest.serve, Serve { port: 8443, tls: Tls::Off });
    let bandwidth = Caps { per_host: None, total: None };
    assert_eq!(manifest.rollout, Rollout { max_parallel: 4, max_unavailable: 1, bandwidth });
    let chat = &manifest.models[&"chat".parse().expect("a name")];
    assert_eq!((&chat.quant, chat.prefer, chat.slots), (&QuantChoice::Auto, Prefer::Balanced, 1));
    assert_eq!(chat.floor, Floor { tokens_per_second: 0.5, quality: crate::quant::Quant::Q4_0 });
    assert_eq!(chat.context, None);
    assert_eq!((chat.requantize, &chat.imatrix, chat.line), (false, &None, 5));
    let role = |name: &str| manifest.hosts[&name.parse().expect("a name")].role;
    assert_eq!((role("kitchen"), role("desk"), role("gaming")), (Role::Pi, Role::Desktop, Role::Desktop));
    assert_eq!(manifest.deploy.iter().map(|deploy| deploy.line).collect::<Vec<_>>(), [11, 12]);
    assert_eq!(manifest.routes.values().next().map(|route| route.mode), Some(RouteMode::LocalFirst));
    let without_routes = GOOD.split("routes:").next().expect("the beginning");
    assert!(parse("fleet.yaml", without_routes).expect("without faults").routes.is_empty());
}

#[test]
fn a_model_knows_the_lines_of_what_planning_may_refuse() {
    let text = GOOD.replace(
        "{ source: hf:org/repo }",
        "\n    source: hf:org/repo\n    imatrix: ./a b.imatrix\n    quant: Q4_0",
    );
    let manifest = parse("fleet.yaml", &text).expect("without faults");
    let chat = &manifest.models[&"chat".parse().expect("a name")];
    assert_eq!(chat.imatrix, Some(Imatrix { path: "./a b.imatrix".to_owned(), line: 7 }));
    assert_eq!(chat.line, 8);
}

#[test]
fn hosts_inherit_ssh_options_one_by_one() {
    let text = GOOD
        .replace("serve:", "defaults: { ssh: { user: pi, port: 22, identity: ~/.ssh/fleet } }\nserve:")
        .replace("kitchen.local }", "kitchen.local, ssh: { user: ubuntu } }");
    let manifest = parse("fleet.yaml", &text).expect("without faults");
    let Via::Ssh { ssh, .. } = &manifest.hosts[&"kitchen".parse().expect("a name")].via else {
        panic!("kitchen is reached by ssh")
    };
    assert_eq!(ssh.user.as_deref(), Some("ubuntu"));
    assert_eq!((ssh.port, ssh.identity.as_deref()), (Some(22), Some("~/.ssh/fleet")));
}

#[test]
fn five_faults_are_shown_at_once_with_their_lines() {
    let text = GOOD
        .replace("org/repo }", "org/repo, quantt: auto }")
        .replace("role: desktop", "role: dekstop")
        .replace("on: [desk]", "on: [dask]")
        .replace("serve: { tls: off }", "serve: { tls: off, port: 80 }")
        .replace("order: [local, desk, gaming]", "order: [local, gamin]");
    let problems = parse("fleet.yaml", &text).expect_err("five faults");
    insta::assert_snapshot!(problems.render(false));
    insta::assert_json_snapshot!(problems.to_json()["problems"][0]);
    let coloured = problems.render(true);
    assert!(coloured.contains("\u{1b}[1;31merror\u{1b}[0m"));
    let mut plain = coloured;
    for code in ["\u{1b}[1;31m", "\u{1b}[1;34m", "\u{1b}[1;32m", "\u{1b}[1m", "\u{1b}[0m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, problems.to_string());
}

#[test]
fn a_file_that_is_not_yaml_is_one_problem_at_its_place() {
    assert_eq!(faults(""), ["1:1 Syntax: the file is empty | begin with `bramble: 1`"]);
    assert_eq!(faults("# nothing\n"), ["1:1 Syntax: the file is empty | begin with `bramble: 1`"]);
    let tab = "8:1 Syntax: this is not YAML: tabs disallowed within this context (block indentation) | a tab stands in the indentation: YAML wants spaces";
    check("  desk:", "\tdesk:", tab);
    let second = "15:1 Syntax: a second document begins here | a file holds one document: remove the `---`";
    assert_eq!(faults(&format!("{GOOD}---\na: 1\n")), [second]);
    let brace = faults_of("kitchen.local }", "kitchen.local");
    assert!(brace.len() == 1 && brace[0].starts_with("8:"), "{brace:?}");
}

#[test]
fn aliases_tags_and_depth_are_bounded() {
    let alias = "8:9 Syntax: aliases are not read | write the value out, or use `defaults`";
    let text = GOOD
        .replace("kitchen: {", "kitchen: &k {")
        .replace("desk: { address: desk.local, role: desktop }", "desk: *k");
    assert_eq!(faults(&text), [alias]);
    check(
        "bramble: 1",
        "bramble: !!int 1",
        "1:10 Syntax: tags are not read: `tag:yaml.org,2002:!int` | leave it out",
    );
    let deep = faults(&"[".repeat(100_000));
    assert_eq!(deep, ["1:256 Syntax: nested deeper than 64 levels | a manifest needs five"]);
    let long = faults(&"#".repeat(yaml::MAX_BYTES + 1));
    assert_eq!(long, ["1:1 Syntax: the file is too long: 1.0 MiB | at most 1 MiB is read"]);
    check(
        "fleet: home",
        "? [a]\n: b\nfleet: home",
        "2:3 Syntax: a list or mapping cannot be a key | keys are plain words",
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert_eq!(parse("fleet.yaml", &text), parse("fleet.yaml", GOOD));
    let fault = "1:1 UnknownKey: unknown key `brambl` in the manifest | did you mean `bramble`? known here: `bramble`, `fleet`, `defaults`, `serve`, `rollout`, `models`, `hosts`, `deploy`, `routes`";
    assert_eq!(faults(&text.replace("bramble", "brambl")), [fault]);
}

#[test]
fn bytes_that_are_not_text_are_named_by_their_place() {
    let shown = |bytes: &[u8]| parse_bytes("f.yaml", bytes).expect_err("not text").to_string();
    assert!(shown(b"bramble: 1\nfleet: \xe9t\xe9\n").contains("error: f.yaml:2:8: this is not UTF-8 text"));
    assert!(shown(b"\xff\xfea\0").contains("error: f.yaml:1:1: the file is UTF-16"));
    assert_eq!(parse_bytes("f.yaml", GOOD.as_bytes()), parse("f.yaml", GOOD));
}

#[test]
fn what_a_line_holds_cannot_rewrite_the_terminal() {
    let text = GOOD.replace("role: desktop", "role: \"\u{202e}x\", \"\\e[2J\": \"\u{7}\"");
    let shown = parse("f\u{1b}.yaml", &text).expect_err("faults").to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(!shown.contains('\u{202e}'));
    // nor what is spelt otherwise there, as tags may
    let text = GOOD.replace("bramble: 1", "bramble: !a%1b%5b2J%07 1");
    let shown = parse("fleet.yaml", &text).expect_err("a tag").to_string();
    assert!(
        shown.contains("tags are not read: `!a") && !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
}

#[test]
fn a_long_line_is_shown_around_its_fault() {
    let text = GOOD.replace("[desk]", &format!("[{}desk, dask]", "desk-with-a-long-name, ".repeat(30)));
    let problems = parse("fleet.yaml", &text).expect_err("faults");
    let last = problems.problems.iter().rfind(|at| at.message.contains("dask")).expect("named");
    let caret: String = last.excerpt.chars().skip(last.excerpt_start).take(last.excerpt_length).collect();
    assert_eq!(caret, "dask");
    assert!(last.excerpt.chars().count() <= 101);
}

#[test]
fn more_faults_than_anybody_reads_are_counted() {
    let many: Vec<String> = (0..900).map(|n| format!("x{n}: 1\n")).collect();
    let many = many.concat();
    let problems = parse("fleet.yaml", &format!("{GOOD}{many}")).expect_err("faults");
    assert_eq!((problems.count, problems.problems.len()), (900, 200));
    assert!(problems.to_string().ends_with("… and 700 more\n900 problems in fleet.yaml\n"));
}

#[test]
fn keys_that_are_twice_missing_or_empty_are_named() {
    check(
        "fleet: home",
        "fleet: home\nfleet: away",
        "3:1 Duplicate: key `fleet` is there twice | it is on line 2 already: keep one of them",
    );
    check(
        "fleet: home\n",
        "",
        "1:1 Missing: `fleet` is missing in the manifest | `fleet`: Who these hosts belong to. A host of another fleet is refused.",
    );
    check(
        "fleet: home",
        "fleet:",
        "2:1 Missing: `fleet` has no value | give it a value, or leave the key out",
    );
    check(
        "model: chat, on: [desk]",
        "on: [desk]",
        "12:7 Missing: `model` is missing in a deploy | `model`: The model, by its name.",
    );
    check("- { model: chat, on: [desk] }", "- chat", "12:5 Invalid: expected a deploy, found `chat`");
}

/// Where there is no list of hosts or models, nothing is said of each name that it would have had.
#[test]
fn what_only_follows_from_a_fault_is_not_told() {
    let [host] = &faults_of("hosts:", "host:")[..] else { panic!("more than one") };
    assert!(host.starts_with("6:1 UnknownKey: unknown key `host` in the manifest | did you mean `hosts`?"));
    let [model] = &faults_of("models:\n", "modells:\n")[..] else { panic!("more than one") };
    assert!(
        model.starts_with("4:1 UnknownKey: unknown key `modells` in the manifest | did you mean `models`?")
    );
}

#[test]
fn values_of_the_wrong_form_say_what_is_expected() {
    check(
        "bramble: 1",
        "bramble: 2",
        "1:10 Invalid: this manifest has format 2, and this program reads format 1 | install a newer bramble",
    );
    check(
        "{ tls: off }",
        "{ tls: false }",
        "3:15 Invalid: expected one of `fleet`, `files`, `off`; found the truth value false | write `off`",
    );
    check(
        "{ tls: off }",
        "{ tls: of }",
        "3:15 Invalid: expected one of `fleet`, `files`, `off`; found `of` | did you mean `off`?",
    );
    check(
        "{ tls: off }",
        "{ tls: off, port: 70000 }",
        "3:26 Invalid: expected a whole number from 1024 to 65535, found the number 70000",
    );
    check(
        "fleet: home",
        "fleet: My_Home",
        "2:8 Invalid: `My_Home` is not a name: use a-z, 0-9 and '-', at most 63 characters | did you mean `my-home`?",
    );
    check("fleet: home", "fleet: 7", "2:8 Invalid: expected a name, found the number 7 | put it in quotes");
    check(
        "org/repo }",
        "org/repo, quant: Q4_K_X }",
        "5:39 Invalid: expected `auto` or a quant such as `Q4_K_M`, found `Q4_K_X` | did you mean `Q4_K_M`?",
    );
    check(
        "org/repo }",
        "org/repo, quant: [Q8_0, Q8_0] }",
        "5:46 Conflict: Q8_0 is in the list twice | keep one of them",
    );
    check(
        "org/repo }",
        "org/repo, context: 0 }",
        "5:41 Invalid: expected a whole number from 32 to 16777216, found the number 0",
    );
    check(
        "org/repo }",
        "org/repo, floor: { tokens_per_second: .inf } }",
        "5:60 Invalid: expected a number of tokens per second from 0 to 10000, found the number inf",
    );
    check(
        "org/repo }",
        "org/repo, requantize: yes }",
        "5:44 Invalid: expected `true` or `false`, found `yes`",
    );
    check(
        "org/repo }",
        "org/repo, context: \"512\" }",
        "5:41 Invalid: expected a whole number from 32 to 16777216, found `512` in quotes | write `512` without quotes",
    );
    check("org/repo }", "org/repo, imatrix: '' }", "5:41 Invalid: expected the path of a file, found ``");
    check(
        "hf:org/repo",
        "org/repo",
        "5:19 Invalid: expected hf:ORG/REPO[@REVISION][/FILE.gguf], file:PATH, catalog:NAME or https://…/FILE.gguf, found \"org/repo\" | did you mean `hf:org/repo`?",
    );
    check(
        "hf:org/repo",
        "./llama",
        "5:19 Invalid: expected hf:ORG/REPO[@REVISION][/FILE.gguf], file:PATH, catalog:NAME or https://…/FILE.gguf, found \"./llama\" | did you mean `file:./llama`?",
    );
    check(
        "hf:org/repo",
        "catalog:smollm2-135m",
        "5:19 UnknownName: the catalog has no model `smollm2-135m` | did you mean `catalog:smollm2-135m-instruct`?",
    );
    check(
        "{ role: pi }",
        "7",
        "11:24 Invalid: expected a host, a list of hosts, or `{ role: … }`, found the number 7",
    );
}

#[test]
fn what_would_reach_a_command_line_must_be_harmless() {
    let bad_addresses = ["-oProxyCommand=x", "a b", "a;b", "\"a'b\"", "\"a\\nb\"", "\"\"", "$(x)", "a/b"];
    for bad in bad_addresses {
        let found = faults_of("kitchen.local }", &format!("{bad} }}"));
        assert!(
            found.len() == 1 && found[0].contains("expected a host name or an IPv4 address"),
            "{bad}: {found:?}"
        );
    }
    let help = |to: &str| {
        faults_of("kitchen.local }", &format!("\"{to}\" }}"))[0].split(" | ").nth(1).map(str::to_owned)
    };
    assert_eq!(help("kitchen:2222").as_deref(), Some("write `address: kitchen` and `ssh: { port: 2222 }`"));
    assert_eq!(help("pi@kitchen").as_deref(), Some("write `address: kitchen` and `ssh: { user: pi }`"));
    assert_eq!(
        help("fe80::1").as_deref(),
        Some("IPv6 addresses are not supported yet: give the host a name")
    );
    for bad in [
        "user: -l",
        "user: \"a b\"",
        "identity: \"-i\"",
        "identity: \"a b\"",
        "identity: a%h",
        "identity: \"$HOME/k\"",
        "port: 0",
    ] {
        let found = faults_of("kitchen.local }", &format!("k, ssh: {{ {bad} }} }}"));
        assert!(found.len() == 1 && found[0].contains("Invalid"), "{bad}: {found:?}");
    }
    for bad in ["relative/x", "/", "/one", "/a/../b", "/a//b", "/a/b/", "/a/b c", "/a/-b", "/a/.", "/a/b;c"] {
        let found = faults_of("kitchen.local }", &format!("k, dir: \"{bad}\" }}"));
        assert!(found.len() == 1 && found[0].contains("expected an absolute path"), "{bad}: {found:?}");
    }
    assert!(faults_of("kitchen.local }", "k, dir: /home/pi/.local/share/bramble }").is_empty());
    check(
        "kitchen.local }",
        "k, dir: /etc/bramble }",
        "7:31 Conflict: `/etc` belongs to the system | take a folder such as `/var/lib/bramble` or `/srv/bramble`",
    );
    let deep = format!("k, dir: /srv/{} }}", "d".repeat(88));
    let found = faults_of("kitchen.local }", &deep);
    assert!(
        found[0].contains("the socket of chat under /srv/ddd")
            && found[0].contains("114 characters; Linux allows 107"),
        "{found:?}"
    );
}

#[test]
fn a_key_written_into_the_manifest_is_not_shown() {
    let text = GOOD.replace("models: { chat: mistral }", "key: sk-very-secret, models: { chat: mistral }");
    let problems = parse("fleet.yaml", &text).expect_err("a secret");
    assert_eq!(problems.count, 1);
    assert!(problems.to_string().contains("expected `env:NAME`"));
    assert!(!problems.to_string().contains("very") && !problems.to_json().to_string().contains("very"));
}

#[test]
fn names_of_nothing_are_named_with_the_nearest() {
    check(
        "{ model: chat, on: [desk] }",
        "{ model: chatt, on: [desk] }",
        "12:14 UnknownName: there is no model `chatt` | did you mean `chat`?",
    );
}

#[test]
fn hosts_that_cannot_be_are_refused() {
    check(
        "{ address: kitchen.local }",
        "{ role: pi }",
        "7:12 Missing: a host needs `address`, `board` or `upstream` | `address` for a host of yours, `upstream` for a server that is not ours",
    );
    check(
        "kitchen.local }",
        "k, upstream: http://x/v1 }",
        "7:26 Conflict: `upstream` does not go with `address` | a host has one of them",
    );
    check(
        "kitchen.local }",
        "k, key: env:K }",
        "7:26 Conflict: `key` does not go with `address` | leave it out",
    );
    check(
        "kitchen.local }",
        "k, connect: local, ssh: { user: a } }",
        "7:42 Conflict: `ssh` does not go with `connect: local` | leave it out",
    );
    check(
        "kitchen.local }",
        "127.0.0.1, connect: local }",
        "7:23 Conflict: other hosts cannot reach `127.0.0.1` | write the address that this machine has on the network",
    );
    check(
        "kitchen.local }",
        "desk.local }",
        "8:20 Conflict: `desk.local` is the address of kitchen already | list each machine once",
    );
    check(
        "models: { chat: mistral } }",
        "models: { chat: mistral }, dir: /a/b }",
        "9:80 Conflict: `dir` does not go with `upstream` | leave it out",
    );
    check(
        "models: { chat: mistral } }",
        "models: { chatt: mistral, chat: m } }",
        "9:63 UnknownName: there is no model `chatt` | did you mean `chat`?",
    );
    check(
        "http://gaming.local:11434/v1",
        "http://gaming.local:11434",
        "9:23 Invalid: expected a URL such as `http://gaming.local:11434/v1`, found `http://gaming.local:11434` | did you mean `http://gaming.local:11434/v1`?",
    );
    let two = GOOD.replace("kitchen.local", "k, connect: local").replace("desk.local", "d, connect: local");
    assert_eq!(
        faults(&two),
        ["8:20 Conflict: kitchen is this machine already | `connect: local` belongs to one host"]
    );
    let local = GOOD.replace("kitchen:", "local:");
    assert_eq!(
        faults(&local),
        [
            "7:3 Conflict: a host cannot be named `local` | in routes, `local` means the host's own engine: take another name"
        ]
    );
}

#[test]
fn deploys_that_cannot_be_are_refused() {
    check(
        "on: [desk]",
        "on: [desk, kitchen]",
        "12:31 Conflict: chat goes to kitchen twice | the deploy on line 11 puts it there already",
    );
    check(
        "on: [desk]",
        "on: [desk, desk]",
        "12:31 Conflict: chat goes to desk twice | the deploy on line 12 puts it there already",
    );
    check(
        "on: [desk]",
        "on: [desk, gaming]",
        "12:31 Conflict: `gaming` is a server that is not ours: nothing is put there | name the model under `models` of `gaming`, and `gaming` in the route's `order`",
    );
    check(
        "on: [desk]",
        "on: [desk, attic]",
        "12:31 UnknownName: there is no host `attic` | the hosts are `desk`, `gaming`, `kitchen`",
    );
    check(
        "on: { role: pi }",
        "on: []",
        "11:24 Missing: the list of hosts is empty | name a host, or remove the deploy",
    );
    check(
        "on: { role: pi }",
        "on: {}",
        "11:24 Missing: the selection says neither `role` nor `labels` | such as `{ role: pi }`",
    );
    check(
        "on: { role: pi }",
        "on: { labels: [fast] }",
        "11:24 UnknownName: no host matches this selection | no host has a label: write `labels: [fast]` at those that are meant",
    );
    let labelled = GOOD
        .replace("kitchen.local }", "k, labels: [indoors] }")
        .replace("{ role: pi }", "{ labels: [indoor] }");
    assert_eq!(
        faults(&labelled),
        [
            "11:24 UnknownName: no host matches this selection | no host has the label `indoor`: did you mean `indoors`?"
        ]
    );
}

#[test]
fn routes_that_cannot_be_are_refused() {
    check(
        "[local, desk, gaming]",
        "[local, kitchn]",
        "14:26 UnknownName: there is no host `kitchn` | did you mean `kitchen`?",
    );
    check(
        "[local, desk, gaming]",
        "[lokal, desk]",
        "14:19 UnknownName: there is no host `lokal` | did you mean `local`?",
    );
    check(
        "[local, desk, gaming]",
        "[local, local]",
        "14:26 Conflict: `local` is in the order twice | keep one of them",
    );
    check(
        "[local, desk, gaming]",
        "[]",
        "14:18 Missing: the order is empty | such as `[local, desk]`, first choice first",
    );
    check(
        "order: [local, desk, gaming]",
        "mode: local-first",
        "14:3 Missing: `order` is missing in the route of `chat` | such as `order: [local, desk]`, first choice first",
    );
    check(
        "gaming] }",
        "gaming], mode: local-only }",
        "14:11 Conflict: `local-only` asks nobody else | write `order: [local]`, or another `mode`",
    );
    check(
        "gaming] }",
        "gaming], from: { labels: [x] } }",
        "14:47 UnknownName: no host matches this selection | no host has a label: write `labels: [x]` at those that are meant",
    );
    let second = GOOD.replace("org/repo }", "org/repo }\n  big: { source: hf:org/big }");
    let route = |order: &str| faults(&format!("{second}  big: {{ order: [{order}] }}\n"));
    let nobody = "16:3 Conflict: nobody has the model `big` | add `- { model: big, on: … }` to `deploy`, or remove the route";
    assert_eq!(route("local"), [nobody]);
    let text = second.replace("on: [desk] }", "on: [desk] }\n  - { model: big, on: [desk] }");
    let route = |order: &str| faults(&format!("{text}  big: {{ order: [{order}] }}\n"));
    assert!(route("local, desk").is_empty());
    assert_eq!(
        route("gaming"),
        [
            "17:18 Conflict: `gaming` does not say what it calls `big` | add `big: ITS-NAME` to `models` of `gaming`"
        ]
    );
    let unknown = faults(&format!("{GOOD}  chatt: {{ order: [local] }}\n"));
    assert_eq!(unknown, ["15:3 UnknownName: there is no model `chatt` | did you mean `chat`?"]);
}

#[test]
fn doors_have_certificates_of_the_fleet_unless_the_manifest_says_otherwise() {
    for (said, tls) in [
        ("", Tls::Fleet),
        ("serve: { port: 8080 }\n", Tls::Fleet),
        ("serve: { tls: fleet }\n", Tls::Fleet),
        ("serve: { tls: off }\n", Tls::Off),
    ] {
        let manifest =
            parse("fleet.yaml", &GOOD.replace("serve: { tls: off }\n", said)).expect("without faults");
        assert_eq!(manifest.serve.tls, tls, "{said}");
    }
    // a name that no certificate can have is one that is served without
    let named = |tls: &str| {
        let text = GOOD.replace("serve: { tls: off }", &format!("serve: {{ tls: {tls} }}"));
        faults(&text.replace("fleet: home", "fleet: home-").replace("  kitchen:", "  shed-:"))
    };
    assert_eq!(named("off"), Vec::<String>::new());
    assert_eq!(
        named("fleet")[0],
        "2:8 Invalid: `home-` ends with `-`, and no certificate can name it | did you mean `home`?"
    );
}

#[test]
fn what_cannot_be_acted_on_yet_is_refused_with_words() {
    check(
        "tls: off",
        "tls: files",
        "3:15 NotYet: doors with certificates from files | leave `tls` out: the fleet makes its own, which clients are told to trust (`bramble keys ca`)",
    );
}

#[test]
fn a_desktop_that_sleeps_says_how_it_is_woken_whosever_it_is() {
    let wakes = |text: &str| {
        let manifest = parse("fleet.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
        let wakes = manifest.hosts.values().filter_map(|host| host.wake);
        wakes.map(|wake| format!("{} {}", wake.mac, wake.wait_seconds)).collect::<Vec<_>>()
    };
    let desk = |wake: &str| GOOD.replace("role: desktop }", &format!("role: desktop, wake: {{ {wake} }} }}"));
    assert_eq!(wakes(GOOD), Vec::<String>::new());
    assert_eq!(wakes(&desk("mac: \"AA:bb:cc:dd:ee:ff\"")), ["aa:bb:cc:dd:ee:ff 60"]);
    assert_eq!(wakes(&desk("mac: \"aa:bb:cc:dd:ee:ff\", wait_seconds: 90")), ["aa:bb:cc:dd:ee:ff 90"]);
    let foreign = GOOD.replace("models: { chat: ", "wake: { mac: \"0a:bb:cc:dd:ee:ff\" }, models: { chat: ");
    assert_eq!(wakes(&foreign), ["0a:bb:cc:dd:ee:ff 60"]);
    for (wake, fault) in [
        (
            "mac: aa-bb-cc-dd-ee-ff",
            "8:60 Invalid: expected a hardware address such as `aa:bb:cc:dd:ee:ff`, found `aa-bb-cc-dd-ee-ff` | write `aa:bb:cc:dd:ee:ff`",
        ),
        (
            "wait_seconds: 5",
            "8:55 Missing: `mac` is missing in `wake` | `mac`: The hardware address of its network card.",
        ),
    ] {
        check("role: desktop }", &format!("role: desktop, wake: {{ {wake} }} }}"), fault);
    }
}

#[test]
fn when_others_are_asked_first_is_said_by_queue_wait_or_length() {
    let with = |overflow: &str| {
        let text = GOOD.replace("gaming] }", &format!("gaming], overflow: {overflow} }}"));
        let route = parse("fleet.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let route = route.routes.into_values().next().unwrap();
        [route.overflow_queue, route.overflow_wait_seconds, route.overflow_prompt_tokens]
    };
    assert_eq!(with("{ queue: 0 }"), [Some(0), None, None]);
    assert_eq!(with("{ wait_seconds: 30, prompt_tokens: 2000 }"), [None, Some(30), Some(2000)]);
    check(
        "gaming] }",
        "gaming], overflow: {} }",
        "14:51 Missing: `overflow` says nothing | such as `{ queue: 2 }`, `{ wait_seconds: 30 }` or `{ prompt_tokens: 2000 }`",
    );
}

#[test]
fn a_server_that_is_not_ours_says_what_it_cannot_do() {
    let with = |lacks: &str| GOOD.replace("models: { chat: ", &format!("lacks: {lacks}, models: {{ chat: "));
    let manifest = parse("fleet.yaml", &with("[tools, json_schema]")).unwrap();
    let lacks = manifest.hosts.values().find_map(|host| match &host.via {
        Via::Upstream { lacks, .. } => Some(lacks.clone()),
        _ => None,
    });
    assert_eq!(lacks, Some(vec![Capability::Tools, Capability::JsonSchema]));
    check(
        "models: { chat: ",
        "lacks: [tool], models: { chat: ",
        "9:61 Invalid: expected one of `tools`, `json_schema`, `logprobs`, `embeddings`; found `tool` | did you mean `tools`?",
    );
    check(
        "role: desktop }",
        "role: desktop, lacks: [tools] }",
        "8:47 Conflict: `lacks` does not go with `address` | leave it out",
    );
}

#[test]
fn who_may_continue_an_answer_is_in_the_order_or_left_to_us() {
    let with = |heirs: &str| {
        let text = GOOD.replace("gaming] }", &format!("gaming]{heirs} }}"));
        let manifest = parse("fleet.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        manifest.routes.into_values().next().unwrap().continue_on
    };
    assert_eq!(with(""), None);
    assert_eq!(with(", continue_on: []"), Some(Vec::new()));
    let heirs = ["gaming", "local"].map(str::to_owned);
    assert_eq!(with(", continue_on: [gaming, local]"), Some(heirs.to_vec()));
    for (heirs, fault) in [
        ("[dsk]", "14:55 UnknownName: there is no host `dsk` | did you mean `desk`?"),
        ("[kitchen]", "14:55 Conflict: `kitchen` is not in the `order` | it is `local`, `desk`, `gaming`"),
        ("[desk, desk]", "14:61 Conflict: `desk` is in `continue_on` twice | keep one of them"),
    ] {
        check("gaming] }", &format!("gaming], continue_on: {heirs} }}"), fault);
    }
}

#[test]
fn a_board_is_one_that_is_known_and_a_desktop_says_its_memory() {
    let with = |host: &str| GOOD.replace("{ address: kitchen.local }", host);
    let via = |host: &str| {
        let manifest = parse("fleet.yaml", &with(host)).unwrap_or_else(|problems| panic!("{problems}"));
        manifest.hosts.values().find(|spec| matches!(spec.via, Via::Board(_))).unwrap().via.clone()
    };
    let board = |board: &str, memory| Via::Board(Stated { board: board.to_owned(), memory, bandwidth: None });
    assert_eq!(via("{ board: pi5-8gb }"), board("pi5-8gb", None));
    assert_eq!(via("{ board: pi4-4gb, memory: 3.5 GiB }"), board("pi4-4gb", Some(Bytes::mib(3584))));
    assert_eq!(via("{ board: desktop, memory: 28 GiB }"), board("desktop", Some(Bytes::gib(28))));
    let Via::Board(stated) = via("{ board: desktop, memory: 28 GiB, bandwidth: 48 GB/s }") else { panic!() };
    assert_eq!(stated.bandwidth, Some(BytesPerSec(48e9)));
    check(
        "{ address: kitchen.local }",
        "{ board: pi5-9gb }",
        "7:21 UnknownName: no board `pi5-9gb` is known | did you mean `pi5-8gb`?",
    );
    check(
        "{ address: kitchen.local }",
        "{ board: desktop }",
        "7:21 Missing: `memory` is missing: a desktop has any amount of it | such as `memory: 28 GiB`, what models may have of it",
    );
    for (written, fault) in [
        (
            "28",
            "7:38 Invalid: expected an amount such as `28 GiB`, found the number 28 | with its unit: `28 GiB`",
        ),
        ("\"28\"", "7:38 Invalid: expected an amount such as `28 GiB`, found `28` | with its unit: `28 GiB`"),
        ("much", "7:38 Invalid: expected an amount such as `28 GiB`, found `much`"),
        ("-1", "7:38 Invalid: expected an amount such as `28 GiB`, found the number -1"),
    ] {
        check("{ address: kitchen.local }", &format!("{{ board: desktop, memory: {written} }}"), fault);
    }
    check(
        "{ address: kitchen.local }",
        "{ address: kitchen.local, memory: 3 GiB }",
        "7:38 Conflict: `memory` does not go with `address` | leave it out",
    );
}

#[test]
fn a_number_of_hosts_is_at_most_the_number_that_match() {
    let counted = |count| format!("on: {{ count: {count}, where: {{ role: pi }} }}");
    let good = GOOD.replace("on: { role: pi }", &counted(1));
    let manifest = parse("fleet.yaml", &good).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(manifest.deploy.iter().any(|deploy| matches!(deploy.on, On::Count(1, _))));
    check(
        "on: { role: pi }",
        &counted(3),
        "11:33 Conflict: 3 hosts are wanted, and 1 match | ask for fewer, or match more of them",
    );
}

pub(super) fn repository_file(path: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read_to_string(format!("{root}/{path}")).expect(path)
}

/// Every manifest that is kept as an example.
pub(super) fn samples() -> BTreeMap<String, String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("manifests"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "yaml") && !path.ends_with("catalog.yaml") {
                let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
                found.insert(name.clone(), repository_file(&name));
            }
        }
    }
    found
}

#[test]
fn every_sample_is_read_without_faults() {
    let samples = samples();
    assert!(samples.len() >= 4, "{:?}", samples.keys());
    for (name, text) in &samples {
        if let Err(problems) = parse(name, text) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_documented_manifest_has_every_key() {
    fn keys(schema: &serde_json::Value, found: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(entries) => {
                if let Some(properties) = entries.get("properties").and_then(|entry| entry.as_object()) {
                    found.extend(properties.keys().cloned());
                }
                entries.values().for_each(|value| keys(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }
    let text = repository_file("manifests/full.yaml");
    let mut known = Vec::new();
    keys(&json_schema(), &mut known);
    assert!(known.len() > 40, "{known:?}");
    known.retain(|key| !text.contains(&format!("{key}: ")) && !text.contains(&format!("{key}:\n")));
    assert_eq!(known, Vec::<String>::new());
}
