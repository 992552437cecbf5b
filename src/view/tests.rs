use std::collections::BTreeMap;

use super::{Deed, Style, log_line, part, plan, pruned, report, status};
use crate::execute::{Left, LogLine, Outcome, Pruned, Report, State};
use crate::facts::{Cordon, Foretold, Inventory, Measured, ServiceState};
use crate::ids::{Digest, Generation, HostName};
use crate::plan::testing::{Fleet, MANIFEST, name};
use crate::status::{DoorState, HostStatus, ModelStatus, Reach, Snapshot};
use crate::units::{Bytes, TokensPerSec};

const PLAIN: Style = Style { is_coloured: false, width: None };
const COLOURED: Style = Style { is_coloured: true, width: None };

/// Takes the colours out of a text.
fn plain(text: &str) -> String {
    let mut rest = text.split("\x1b[");
    let first = rest.next().unwrap_or_default().to_owned();
    first + &rest.map(|part| part.split_once('m').unwrap().1).collect::<String>()
}

#[test]
fn a_first_plan_shows_every_host_with_its_numbers() {
    insta::assert_snapshot!(plan(&Fleet::new().plan(), &[], None, PLAIN));
}

/// As a terminal of 60 or 40 columns shows it.
fn narrow(width: usize, show: impl Fn(Style) -> String) -> String {
    let style = Style { width: Some(width), ..PLAIN };
    let text = super::folded(&show(style), style.width);
    let is_long = |line: &&str| line.chars().count() > width && !line.contains('`');
    assert_eq!(text.lines().find(is_long), None, "{text}");
    text
}

#[test]
fn a_plan_keeps_to_narrow_terminals() {
    let mut fleet = Fleet::new();
    fleet.lose("shed");
    let made = fleet.plan();
    let shown = |width| narrow(width, |style| plan(&made, &[], None, style));
    insta::assert_snapshot!("a_plan_in_60_columns", shown(60));
    insta::assert_snapshot!("a_plan_in_50_columns", shown(50));
    insta::assert_snapshot!("a_plan_in_40_columns", shown(40));
}

#[test]
fn a_fit_leaves_out_columns_that_a_narrow_terminal_has_no_room_for() {
    use crate::catalog;
    use crate::fit::{LADDER, Question, fit};
    let (model, board) = ("qwen2.5-1.5b-instruct", "pi4-4gb");
    let facts = catalog::find(model).unwrap().figures.facts(crate::source::Pinned {
        uri: format!("catalog:{model}"),
        files: Vec::new(),
        license: None,
    });
    let question = Question { context: 2048, quants: LADDER.to_vec(), is_only: false };
    let boards = [(board.to_owned(), crate::facts::planned(board).unwrap())];
    let made = fit(model, &facts, true, &question, &boards);
    let shown = |width| narrow(width, |style| super::fit(&made, style));
    insta::assert_snapshot!("a_fit_in_50_columns", shown(50));
    insta::assert_snapshot!("a_fit_in_40_columns", shown(40));
    assert!(!super::fit(&made, PLAIN).contains("Without room"));
}

#[test]
fn the_page_shows_every_host_and_takes_no_markup_from_outside() {
    let mut fleet = Fleet::with("  desk: {", "  next: { board: pi5-8gb }\n  desk: {");
    fleet.lose("shed");
    let problems = [crate::plan::Problem {
        host: None,
        model: None,
        message: "<script>alert('x')</script> & more".to_owned(),
    }];
    let page = super::html(&fleet.plan(), &problems, false, None).unwrap();
    for host in ["attic", "shed", "desk", "next"] {
        assert!(page.contains(&format!(">{host}</span>")), "{host}");
    }
    assert!(page.contains("pi5-8gb, not bought yet") && page.contains("left out: shed cannot be reached"));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    // nothing is fetched from anywhere
    assert!(!page.contains("://") && !page.contains("src=") && !page.contains("@import"));
    // each bar fills its host's memory exactly
    for bar in page.split("<div class=\"bar\"").skip(1) {
        let bar = bar.split("</div>").next().unwrap();
        let widths = bar.split("width:").skip(1).map(|part| part.split('%').next().unwrap());
        let sum: f64 = widths.map(|width| width.parse::<f64>().unwrap()).sum();
        assert!((sum - 100.0).abs() < 0.1, "{sum} in {bar}");
    }
}

#[test]
fn a_changed_plan_shows_what_was_and_what_will_be() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.change("context: 1024", "context: 768, slots: 2");
    fleet.bundles[0].digest = Digest::of(b"newer");
    fleet.bundles[0].version = "0.2.0".to_owned();
    fleet.lose("shed");
    fleet.lock.hosts.insert(name("cellar"), crate::lock::LockedHost::default());
    let made = fleet.plan();
    insta::assert_snapshot!(plan(&made, &[], None, PLAIN));
    assert_eq!(plain(&plan(&made, &[], None, COLOURED)), plan(&made, &[], None, PLAIN));
}

#[test]
fn what_is_on_this_machine_already_is_not_counted() {
    let made = Fleet::new().plan();
    let last = |left: Left| plan(&made, &[], Some(left), PLAIN).lines().last().unwrap().to_owned();
    let cached = last(Left { fetch: Bytes::ZERO, make: 1 });
    assert!(cached.starts_with("Plan: 3 hosts to change, 1 file to quantize, "), "{cached}");
    let begun = last(Left { fetch: Bytes::mib(7), make: 0 });
    assert!(begun.starts_with("Plan: 3 hosts to change, 7.0 MiB to fetch, 410 MiB"), "{begun}");
}

#[test]
fn a_plan_with_nothing_to_do_says_so() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let text = plan(&fleet.plan(), &[], None, PLAIN);
    assert!(text.ends_with("Nothing to do.\n"), "{text}");
    fleet.lose("shed");
    let text = plan(&fleet.plan(), &[], None, PLAIN);
    assert!(text.ends_with("Nothing to do on the hosts that answer; 1 host left out.\n"), "{text}");
}

#[test]
fn what_a_door_speaks_from_now_on_is_shown_with_what_that_means() {
    let (plain_http, https) = (Fleet::new(), Fleet::with("port: 8080, tls: off", "port: 9090, tls: fleet"));
    for (mut fleet, after, said) in [
        (plain_http.clone(), &https, "    ~ tls    off -> fleet: clients need https"),
        (
            https.clone(),
            &plain_http,
            "    ~ tls    fleet -> off: keys, prompts and answers can be read on the network\n",
        ),
    ] {
        fleet.apply();
        fleet.manifest = after.manifest.clone();
        let text = plan(&fleet.plan(), &[], None, PLAIN);
        assert!(text.contains(said) && text.contains("    ~ port   "), "{text}");
    }
}

#[test]
fn an_address_or_a_setting_that_is_another_one_is_shown_with_both() {
    let text = |address: &str, context: &str, cloud: &str, route: &str| {
        MANIFEST
            .replace("10.0.0.1,", address)
            .replace("context: 1024", context)
            .replace("  desk: {", &format!("  cloud: {{ {cloud} }}\n  desk: {{"))
            .replace("order: [local, desk]", route)
    };
    let cloud = "upstream: \"http://10.0.0.7/v1\", models: { chat: mistral }";
    let mut fleet = Fleet::of(&text("10.0.0.1,", "context: 1024", cloud, "order: [local, desk, cloud]"));
    fleet.apply();
    let address = "10.0.0.9, wake: { mac: \"aa:bb:cc:dd:ee:ff\" },";
    let cloud = "upstream: \"https://10.0.0.8/v1\", key: env:CLOUD_KEY, models: { chat: other }";
    let route = "order: [local, desk, cloud], continue_on: [desk]";
    let after = text(address, "context: 1024, keep_prompts: true", cloud, route);
    fleet.manifest = Fleet::of(&after).manifest;
    let shown = plan(&fleet.plan(), &[], None, PLAIN);
    let of_attic = shown.split("\n\n").next().unwrap().lines();
    let changes: Vec<&str> = of_attic.filter(|line| line.starts_with("    ~")).collect();
    insta::assert_snapshot!(changes.join("\n"));
}

#[test]
fn engines_and_routes_that_go_away_are_shown() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.change("on: { role: pi }", "on: [attic]");
    let text = plan(&fleet.plan(), &[], None, PLAIN);
    assert!(text.contains("    - engine chat Q5_K_M (context 1024, 1 slot)\n"), "{text}");
    assert!(text.contains("    ~ route  chat: local then desk -> chat: desk\n"), "{text}");
}

#[test]
fn a_refused_plan_names_every_problem_and_says_that_nothing_was_changed() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").memory.available = Bytes::mib(100);
    fleet.facts("attic").glibc = Some((2, 31));
    let (made, problems) = fleet.make();
    insta::assert_snapshot!(plan(&made, &problems, None, PLAIN));
}

#[test]
fn a_speed_that_nobody_knew_is_shown_as_none() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    let definition = &mut installed.current.as_mut().unwrap().1;
    let pace = &mut definition.engines[0].pace;
    pace.prompt.0 *= 10.0;
    pace.is_guess = true;
    definition.door.routes[0].order[0].pace = Some(*pace);
    let made = fleet.plan();
    let text = plan(&made, &[], None, PLAIN);
    let now = made.host(&name("attic")).unwrap().definition.engines[0].pace.answer;
    assert!(text.contains(&format!("    ~ engine chat: expected unknown -> {now}\n")), "{text}");
    assert!(text.contains("      chat is slower than its deadlines count with: "), "{text}");
}

#[test]
fn what_can_be_done_of_a_plan_is_told_with_what_is_left_out() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").memory.available = Bytes::mib(100);
    let (made, problems) = fleet.make();
    let text = part(&made, &problems, None, PLAIN);
    assert!(text.contains("\nleft out: ") && !text.contains("efused"), "{text}");
    assert!(text.contains("+ attic  generation 1 (first)\n"), "{text}");
    assert!(text.ends_with(" to push. Left out, because of --partial: 1 problem.\n"), "{text}");
    let page = super::html(&made, &problems, true, None).unwrap();
    assert!(page.contains("because of --partial: 1 problem.") && !page.contains("Refused"), "{page}");
    assert_eq!(part(&made, &[], None, PLAIN), plan(&made, &[], None, PLAIN));
}

fn outcome(state: State, generation: Option<u64>) -> Outcome {
    let generation = generation.map(Generation::new);
    Outcome { generation, bytes_sent: Bytes(5), ..Outcome::without_generation(state) }
}

fn reported(hosts: &[(&str, Outcome)]) -> Report {
    let hosts: BTreeMap<HostName, Outcome> = hosts.iter().cloned().map(|(host, o)| (name(host), o)).collect();
    Report { hosts, ..Report::default() }
}

#[test]
fn a_report_tells_what_became_of_each_host_and_what_serves_now() {
    let mut done = outcome(State::Done, Some(2));
    done.measured.push(Measured {
        model: "chat".parse().unwrap(),
        tokens_per_second: Some(TokensPerSec(21.34)),
        first_token_ms: None,
        load_seconds: 1.5,
        memory: None,
    });
    let all_well = reported(&[("attic", done.clone()), ("shed", outcome(State::Done, Some(1)))]);
    insta::assert_snapshot!("all_well", report(&all_well, Deed::Apply, PLAIN));
    let mut shared = all_well;
    shared.hosts.get_mut(&name("shed")).unwrap().bytes_from_hosts = Bytes::mib(3);
    let text = report(&shared, Deed::Apply, PLAIN);
    assert!(
        text.ends_with("\n10 B left this machine, 3.0 MiB went from host to host.\nApplied: 2 hosts.\n"),
        "{text}"
    );
    let (step, error) = ("activating generation 1".to_owned(), "the engine ended with 1".to_owned());
    let said = "eve@elsewhere holds the lock".to_owned();
    let mut mixed = reported(&[
        ("attic", done),
        ("barn", outcome(State::Failed { step: step.clone(), error: error.clone() }, None)),
        ("cellar", outcome(State::Failed { step, error }, Some(1))),
        ("desk", outcome(State::WentBack { why: "it answers too slowly".to_owned() }, Some(1))),
        ("east", outcome(State::WentBack { why: "it answers too slowly".to_owned() }, None)),
        ("kitchen", outcome(State::Locked { said }, Some(4))),
        ("shed", outcome(State::NotStarted { why: "shed cannot be reached".to_owned() }, None)),
        ("yard", outcome(State::Unchanged, Some(3))),
    ]);
    mixed.failures.push("cannot quantize chat: no space left".to_owned());
    insta::assert_snapshot!("mixed", report(&mixed, Deed::Apply, PLAIN));
    assert_eq!(plain(&report(&mixed, Deed::Apply, COLOURED)), report(&mixed, Deed::Apply, PLAIN));
}

/// What could not be made here is told once, however many hosts were to have it.
#[test]
fn a_reason_that_many_hosts_share_is_told_once() {
    let why = "cannot make chat: there is no room for it".to_owned();
    let state = State::NotStarted { why: why.clone() };
    let hosts = ["attic", "shed"].map(|host| (name(host), Outcome::without_generation(state.clone())));
    let text = report(
        &Report { hosts: hosts.into(), failures: vec![why.clone()], ..Report::default() },
        Deed::Apply,
        PLAIN,
    );
    assert_eq!(text.matches(&why).count(), 1, "{text}");
    assert!(text.contains("!  shed   not changed: for the reason above\n"), "{text}");
}

#[test]
fn going_back_and_removing_are_told_in_words_of_their_own() {
    let failed = || State::Failed { step: "removing".to_owned(), error: "the link broke".to_owned() };
    let all = [
        ("attic", outcome(State::Done, None)),
        ("barn", outcome(State::Unchanged, None)),
        ("shed", outcome(failed(), None)),
        ("yard", outcome(failed(), None)),
    ];
    let text = report(&reported(&all), Deed::Remove, PLAIN);
    for line in [
        "ok attic  nothing of Bramble is on it any more\n",
        "ok barn   nothing of Bramble was on it\n",
        "Not complete: 2 of 4 hosts done. `bramble remove shed yard` tries the rest again.\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let well = &all[..2];
    assert!(report(&reported(well), Deed::Remove, PLAIN).ends_with("\nRemoved: 2 hosts.\n"));
    assert!(report(&reported(well), Deed::RollBack, PLAIN).ends_with("\nRolled back: 2 hosts.\n"));
    let text = report(&reported(well), Deed::Cordon, PLAIN);
    assert!(text.contains("  takes no new work\n"), "{text}");
    assert!(text.contains("  already cordoned\n"), "{text}");
    assert!(
        text.ends_with("\nCordoned: 1 host, already cordoned: 1 host. `bramble uncordon` ends that.\n"),
        "{text}"
    );
    let text = report(&reported(&well[1..]), Deed::Cordon, PLAIN);
    assert!(text.ends_with("\nAlready cordoned: 1 host. `bramble uncordon` ends that.\n"), "{text}");
    let text = report(&reported(well), Deed::Uncordon, PLAIN);
    assert!(
        text.contains("  takes new work again\n")
            && text.ends_with("\nUncordoned: 1 host, not cordoned: 1 host.\n"),
        "{text}"
    );
    let text = report(&reported(&all), Deed::Cordon, PLAIN);
    assert!(text.contains("`bramble cordon ") && text.contains("tries the rest again"), "{text}");
    let text = report(&reported(&all), Deed::RollBack, PLAIN);
    assert!(
        text.ends_with(
            "\nNot complete: 2 of 4 hosts went back. `bramble rollback shed yard` tries the rest again.\n"
        ),
        "{text}"
    );
}

#[test]
fn a_fleet_without_a_host_to_look_at_says_so() {
    let nothing = Snapshot { hosts: Vec::new() };
    for text in [status(&nothing, PLAIN), super::bench(&BTreeMap::new(), &BTreeMap::new(), PLAIN)] {
        assert!(text.starts_with("There is no host to look at"), "{text}");
    }
}

#[test]
fn what_is_refused_is_not_said_to_be_nothing_to_run() {
    let mut fleet = Fleet::new();
    let next = "hosts:\n  next: { board: pi4-1gb }\n";
    fleet.change("hosts:\n", next);
    fleet.models.insert("chat".parse().unwrap(), Err("the hub cannot be reached".to_owned()));
    let (made, problems) = fleet.make();
    let text = plan(&made, &problems, None, PLAIN);
    assert!(
        text.contains("refused: chat: the hub cannot be reached") && !text.contains("nothing to run"),
        "{text}"
    );
    assert!(plan(&made, &[], None, PLAIN).contains("nothing to run"));
}

#[test]
fn a_status_shows_machines_generations_doors_and_what_is_wrong() {
    let host = |host: &str| HostStatus {
        host: name(host),
        is_orphan: false,
        reach: Reach::Reached,
        machine: Some("Raspberry Pi 5 Model B Rev 1.0".to_owned()),
        generation: Some(Generation::new(3)),
        pending: None,
        door: DoorState::Open,
        models: vec![ModelStatus {
            model: "chat".parse().unwrap(),
            quant: "Q8_0".to_owned(),
            state: "running".to_owned(),
            foretold: Foretold {
                model: "chat".parse().unwrap(),
                tokens_per_second: Some(TokensPerSec(20.0)),
                load_seconds: None,
                memory: Some(Bytes::mib(160)),
            },
            measured: Some(Measured {
                model: "chat".parse().unwrap(),
                tokens_per_second: Some(TokensPerSec(21.34)),
                first_token_ms: None,
                load_seconds: 1.5,
                memory: Some(Bytes::mib(150)),
            }),
        }],
        drift: Vec::new(),
        cordon: None,
        warnings: Vec::new(),
    };
    let mut snapshot = Snapshot {
        hosts: vec![
            host("attic"),
            HostStatus {
                cordon: Some(Cordon { by: "ada@desk".to_owned(), at: "2026-11-23T12:00:00Z".to_owned() }),
                ..host("loft")
            },
            HostStatus {
                pending: Some(Generation::new(4)),
                door: DoorState::Closed,
                drift: vec!["the unit bramble-route.service was edited".to_owned()],
                warnings: vec!["its clock is 900 s behind this machine's".to_owned()],
                ..host("barn")
            },
            HostStatus {
                reach: Reach::Failed { why: "shed cannot be reached: No route to host".to_owned() },
                machine: None,
                generation: None,
                door: DoorState::Unknown,
                models: Vec::new(),
                ..host("shed")
            },
        ],
    };
    snapshot.add_orphans(&[name("cellar")]);
    insta::assert_snapshot!(status(&snapshot, PLAIN));
    assert_eq!(plain(&status(&snapshot, COLOURED)), status(&snapshot, PLAIN));
    let shown = |width| narrow(width, |style| status(&snapshot, style));
    insta::assert_snapshot!("a_status_in_60_columns", shown(60));
    insta::assert_snapshot!("a_status_in_50_columns", shown(50));
    insta::assert_snapshot!("a_status_in_40_columns", shown(40));
}

/// Some second of 2026.
const NOW: u64 = 1_795_000_000;

#[tokio::test]
async fn what_a_probe_found_becomes_a_status() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.services.insert("engine-chat".to_owned(), ServiceState::Failed);
    installed.drift.push("engine-chat has failed".to_owned());
    fleet.lose("shed");
    let inventory: Inventory = fleet.inventory.clone();
    // as `cli` does before any client is made
    drop(rustls::crypto::ring::default_provider().install_default());
    // a port that nobody listens on: bound, and closed again
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let door = crate::status::Door { url, tls: None, certificate_ends: Some(NOW + 90 * 86_400) };
    let doors = [(name("attic"), door.clone()), (name("shed"), door)].into();
    let snapshot = crate::status::gather(&inventory, &doors, NOW).await;
    insta::assert_snapshot!(status(&snapshot, PLAIN));
    assert_eq!(snapshot.hosts[0].door, DoorState::Closed);
    assert_eq!(snapshot.hosts[1].door, DoorState::Unknown, "nobody said where it is");
}

#[test]
fn a_line_of_a_log_says_whose_it_is_and_drives_no_terminal() {
    let line = |at: Option<&str>, text: &str| LogLine {
        service: "engine-chat".into(),
        at: at.map(str::to_owned),
        text: text.into(),
    };
    let (host, at) = ("shed".parse().unwrap(), Some("2026-11-23T12:00:00.123Z"));
    let show = |line: LogLine| log_line(&host, 6, &line, PLAIN);
    assert_eq!(show(line(at, "loaded")), "shed   engine-chat | 2026-11-23T12:00:00.123Z loaded\n");
    assert_eq!(
        show(line(at, "2026-11-23T12:00:00Z  INFO up")),
        "shed   engine-chat | 2026-11-23T12:00:00Z  INFO up\n"
    );
    assert_eq!(show(line(None, "a\x1b[2Jb\nc")), "shed   engine-chat | a[2Jb c\n");
}

#[test]
fn what_was_pruned_is_shown_by_host_and_in_all() {
    let all = Pruned {
        generations: vec![Generation::FIRST],
        blobs: vec![Digest::of(b"a"), Digest::of(b"b")],
        programs: Vec::new(),
        freed: Bytes::mib(1500),
    };
    let pruned_of =
        [("attic", all), ("shed", Pruned::default())].map(|(host, one)| (host.parse().unwrap(), one));
    let failed = [("desk".parse().unwrap(), "it is asleep".to_owned())].into();
    let text = pruned(&pruned_of.into(), &failed, true, PLAIN);
    assert_eq!(
        text,
        "- attic: 1 generation, 2 files of weights, 1.5 GiB\n- shed: nothing that is not needed\nx desk: it is asleep\nWould free 1.5 GiB on 2 hosts.\n"
    );
}

#[test]
fn a_diagnosis_has_a_line_for_each_finding_and_keeps_to_the_width() {
    use crate::doctor::{About, Diagnosis, Finding, HostDiagnosis, Level};
    let finding = |about, level, what: &str, advice: Option<&str>| Finding {
        about,
        level,
        what: what.to_owned(),
        advice: advice.map(str::to_owned),
    };
    let hosts = vec![
        HostDiagnosis {
            host: "kitchen".to_owned(),
            machine: Some("Raspberry Pi 5 Model B Rev 1.0, Debian GNU/Linux 12 (bookworm)".to_owned()),
            findings: vec![
                finding(About::Userland, Level::Ok, "aarch64, 64 bits, glibc 2.36", None),
                finding(
                    About::Power,
                    Level::Warning,
                    "its voltage has been too low since it was started: the processor is slowed, and a card may be damaged",
                    Some(
                        "take a supply for 5 V and 5 A, and a short cable; nothing that draws much on its USB ports",
                    ),
                ),
                finding(
                    About::Link,
                    Level::Note,
                    "Wi-Fi (wlan0)",
                    Some("a cable, at least while weights come"),
                ),
                finding(
                    About::Port,
                    Level::Error,
                    "8443 is taken by nginx",
                    Some("say another `serve.port`"),
                ),
            ],
        },
        HostDiagnosis {
            host: "shed".to_owned(),
            machine: None,
            findings: vec![crate::doctor::unreachable(
                "shed cannot be reached: No route to host; check its power",
            )],
        },
    ];
    let diagnosis = Diagnosis { hosts };
    let narrow = super::diagnosis(&diagnosis, PLAIN, 60);
    insta::assert_snapshot!(narrow);
    assert!(narrow.lines().skip(1).all(|line| line.chars().count() <= 60), "{narrow}");
    assert_eq!(plain(&super::diagnosis(&diagnosis, COLOURED, 60)), narrow);
    assert!(
        super::diagnosis(&Diagnosis { hosts: diagnosis.hosts[..0].to_vec() }, PLAIN, 9)
            .ends_with("nothing to do.\n")
    );
}

/// What hosts, hubs and models say in our colours is not in our colours.
#[test]
fn what_is_foreign_has_no_colours_and_drives_no_terminal() {
    const EVIL: &str = "\x1b[32mok\x1b]0;owned\x07\u{9b}2J\u{202e}";
    let style = COLOURED;
    let evil = || EVIL.to_owned();
    let mut fleet = Fleet::new();
    fleet.lose("shed");
    let mut made = fleet.plan();
    for skipped in &mut made.skipped {
        skipped.why = evil();
    }
    for host in &mut made.hosts {
        host.notes = vec![evil()];
        host.reasons = vec![evil()];
        host.choices.iter_mut().for_each(|chosen| chosen.why = evil());
    }
    let problems = [crate::plan::Problem { host: None, model: None, message: evil() }];
    let host = HostStatus {
        host: name("shed"),
        is_orphan: false,
        machine: Some(evil()),
        reach: Reach::Failed { why: evil() },
        generation: None,
        pending: None,
        door: DoorState::Unknown,
        cordon: Some(Cordon { at: evil(), by: evil() }),
        models: vec![ModelStatus {
            model: "chat".parse().unwrap(),
            quant: "Q8_0".to_owned(),
            state: evil(),
            foretold: Foretold {
                model: "chat".parse().unwrap(),
                tokens_per_second: Some(TokensPerSec(20.0)),
                load_seconds: None,
                memory: Some(Bytes::mib(160)),
            },
            measured: None,
        }],
        drift: vec![evil()],
        warnings: vec![evil()],
    };
    let mut failed = Report::default();
    failed.failures.push(evil());
    failed.hosts.insert(
        name("shed"),
        Outcome::without_generation(State::Failed { step: "activating".to_owned(), error: evil() }),
    );
    failed.hosts.insert(name("attic"), Outcome::without_generation(State::WentBack { why: evil() }));
    let line = LogLine { service: evil(), at: Some(evil()), text: evil() };
    let lost = BTreeMap::from([(name("shed"), evil())]);
    let said = [
        plan(&made, &problems, None, style),
        status(&Snapshot { hosts: vec![host] }, style),
        report(&failed, Deed::Apply, style),
        log_line(&name("shed"), 4, &line, style),
        pruned(&BTreeMap::new(), &lost, false, style),
        super::bench(&BTreeMap::new(), &lost, style),
    ];
    for said in said {
        assert!(said.contains("[32mok]0;owned2J"), "{said}");
        assert!(!said.contains("\x1b[32mok") && !said.contains(['\x07', '\u{9b}', '\u{202e}']), "{said:?}");
        assert_eq!(crate::terminal::coloured(&said), said, "{said:?}");
    }
}
