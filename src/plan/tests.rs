use std::fmt::Write as _;

use proptest::prelude::*;

use super::testing::{Fleet, MANIFEST, generation, name};
use super::types::{Action, Plan};
use super::{check, door_url, fingerprint};
use crate::facts::{Lingering, Privilege, ServiceState, Supervision, UserManager};
use crate::generation::{DoorSpec, DoorTls, RouteSpec, UpstreamKind};
use crate::ids::{Digest, Generation};
use crate::unit::Unit;
use crate::units::Bytes;

/// What a plan comes to, a line for each thing that is decided.
fn outline(plan: &Plan) -> String {
    let mut text = String::new();
    for host in &plan.hosts {
        let number = |generation: Option<Generation>| generation.map_or("none".to_owned(), |n| n.to_string());
        let (old, new) = (number(host.previous), number(host.generation));
        let _ = writeln!(
            text,
            "{}: {old} -> {new}, {} s: {}",
            host.host,
            host.deadline_seconds,
            host.reasons.join("; ")
        );
        for engine in &host.definition.engines {
            let _ = writeln!(
                text,
                "  engine {} {} {}, context {} x {}, {} threads, batch {}, {:?}, repack {}",
                engine.model,
                engine.weights.quant_name(),
                engine.weights.bytes,
                engine.context,
                engine.slots,
                engine.threads,
                engine.micro_batch,
                engine.load,
                engine.repack
            );
        }
        let _ = write!(text, "{}", doors(&host.definition.door));
        let units: Vec<_> = host.units.iter().map(|unit| unit.name.as_str()).collect();
        let _ = writeln!(text, "  units {}", units.join(" "));
    }
    for wave in &plan.waves {
        let _ = writeln!(text, "wave {}, at most {}, gate {}", wave.title, wave.max_parallel, wave.is_gate);
        for step in &wave.steps {
            let host = step.host.as_ref().map_or("here", |host| host.as_str());
            let _ = writeln!(text, "  {host}: {} ({})", verb(&step.action), step.why);
        }
    }
    text
}

fn verb(action: &Action) -> String {
    match action {
        Action::Fetch { bytes, .. } => format!("fetch {bytes}"),
        Action::Make { artifacts } => format!("make {}", artifacts.len()),
        Action::PushProgram { bytes, .. } => format!("push program {bytes}"),
        Action::Push { bytes, .. } => format!("push {bytes}"),
        Action::Install { generation } => format!("install {generation}"),
        Action::Activate { generation } => format!("activate {generation}"),
        Action::Prune => "prune".to_owned(),
    }
}

fn doors(door: &DoorSpec) -> String {
    let mut text = String::new();
    for route in &door.routes {
        let hops: Vec<_> =
            route.order.iter().map(|hop| format!("{} as {}", hop.upstream, hop.model)).collect();
        let _ = writeln!(text, "  route {}: {}", route.model, hops.join(", "));
    }
    for upstream in &door.upstreams {
        let kind = match &upstream.kind {
            UpstreamKind::Local => "here".to_owned(),
            UpstreamKind::Host { url } => url.clone(),
            UpstreamKind::Foreign { url, key } => format!("foreign {url} key {key:?}"),
        };
        let _ = writeln!(text, "  upstream {}: {kind}", upstream.name);
    }
    text
}

fn order(plan: &Plan, host: &str) -> Vec<String> {
    let routes = &plan.host(&name(host)).unwrap().definition.door.routes;
    routes.iter().flat_map(|route| &route.order).map(|hop| hop.upstream.clone()).collect()
}

#[test]
fn a_first_apply_brings_weights_then_changes_the_desktop_then_one_pi_at_a_time() {
    let plan = Fleet::new().plan();
    insta::assert_snapshot!(outline(&plan));
    assert_eq!(check(&plan), Vec::<String>::new());
    let quants: Vec<_> = plan.hosts.iter().map(|host| host.choices[0].quant.as_str()).collect();
    assert_ne!(quants[0], quants[2], "the Pi with 220 MiB cannot have what the Pi 5 has");
}

#[test]
fn planning_after_applying_gives_an_empty_plan() {
    let mut fleet = Fleet::new();
    let first = fleet.apply();
    let second = fleet.plan();
    assert!(second.is_empty(), "{}", outline(&second));
    assert!(second.hosts.iter().all(|host| host.generation.is_none() && host.reasons.is_empty()));
    assert!(second.artifacts.iter().all(|artifact| artifact.digest.is_some()));
    assert_ne!(first.inventory, second.inventory);
    assert_eq!(check(&second), Vec::<String>::new());
}

#[test]
fn free_memory_that_wavers_changes_nothing_and_much_more_of_it_does() {
    for available in [205, 212, 220, 230] {
        let mut fleet = Fleet::new();
        fleet.facts("shed").memory.available = Bytes::mib(available);
        fleet.apply();
        let settled = fleet.facts("shed").memory.available;
        for moved in [
            settled - Bytes::mib(10),
            settled - Bytes::mib(2),
            settled + Bytes::mib(2),
            settled + Bytes::mib(10),
        ] {
            fleet.facts("shed").memory.available = moved;
            let (plan, problems) = fleet.make();
            assert_eq!(problems, [], "{available} MiB, then {moved}");
            assert!(plan.is_empty(), "{available} MiB, then {moved}: {}", outline(&plan));
            assert_eq!(check(&plan), Vec::<String>::new());
        }
        fleet.facts("shed").memory.available = settled + Bytes::mib(200);
        assert!(!fleet.plan().is_empty(), "{available} MiB: a better quant fits now");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn planning_after_applying_is_empty_whatever_is_wanted(
        context in 32u32..8192,
        slots in 1u32..5,
        quant in prop::sample::select(vec!["auto", "Q8_0", "[Q6_K, Q4_K_M]", "Q4_0", "F16"]),
        prefer in prop::sample::select(vec!["balanced", "quality", "speed"]),
    ) {
        let to = format!("context: {context}, slots: {slots}, quant: {quant}, prefer: {prefer}");
        let mut fleet = Fleet::with("context: 1024", &to);
        let (plan, problems) = fleet.make();
        prop_assert_eq!(check(&plan), Vec::<String>::new());
        let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        prop_assert_eq!(&read, &plan);
        fleet.applied(&plan);
        let (again, still) = fleet.make();
        prop_assert!(again.is_empty(), "{}", outline(&again));
        prop_assert_eq!(still, problems);
    }
}

#[test]
fn another_context_changes_every_engine_and_sends_nothing() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.change("context: 1024", "context: 1020");
    let plan = fleet.plan();
    insta::assert_snapshot!(outline(&plan));
    assert!(
        !plan.steps().any(|step| matches!(step.action, Action::Push { .. } | Action::PushProgram { .. }))
    );
    assert!(!plan.steps().any(|step| step.host.is_none()), "nothing is fetched or made");
    assert_eq!(generation(&plan, "shed"), Some(Generation::new(2)));
}

#[test]
fn another_route_changes_the_hosts_that_it_is_for_and_no_engine() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.change("order: [local, desk]", "order: [desk, local], from: { role: pi }");
    let plan = fleet.plan();
    // the desktop's own door keeps its engine, first as before
    assert_eq!([generation(&plan, "attic"), generation(&plan, "desk")], [Some(Generation::new(2)), None]);
    for host in &plan.hosts {
        let before = &host.before.as_ref().unwrap().engines;
        assert!(super::diff::is_same(
            host.before.as_ref().unwrap(),
            &crate::generation::Definition {
                door: host.before.as_ref().unwrap().door.clone(),
                ..host.definition.clone()
            }
        ));
        assert_eq!(before.len(), 1);
    }
    let titles: Vec<_> = plan.waves.iter().map(|wave| wave.title.as_str()).collect();
    assert_eq!(titles, ["staging", "first host", "rollout"]);
    assert_eq!(order(&plan, "attic"), ["desk", "local"]);
}

#[test]
fn a_new_program_is_brought_to_every_host_of_its_machine_only() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.bundles[0].digest = Digest::of(b"newer");
    let plan = fleet.plan();
    let pushed: Vec<_> = plan
        .steps()
        .filter(|step| matches!(step.action, Action::PushProgram { .. }))
        .map(|step| step.host.clone().unwrap())
        .collect();
    assert_eq!(pushed, [name("attic"), name("shed")]);
    assert_eq!(generation(&plan, "desk"), None);
}

#[test]
fn a_model_that_fits_nowhere_is_refused_with_the_numbers_and_what_would_fit() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").memory.available = Bytes::mib(100);
    let (plan, problems) = fleet.make();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (problems[0].host.as_ref(), problems[0].model.as_ref().map(crate::ids::ModelName::as_str)),
        (Some(&name("shed")), Some("chat"))
    );
    insta::assert_snapshot!(problems[0].message);
    assert!(plan.host(&name("attic")).unwrap().generation.is_some(), "the others are planned all the same");
    assert!(plan.host(&name("shed")).unwrap().definition.engines.is_empty());
}

#[test]
fn a_model_that_could_not_be_learnt_is_a_problem_of_its_own() {
    let mut fleet = Fleet::new();
    let why = "the hub has no such repository".to_owned();
    fleet.models.insert("chat".parse().unwrap(), Err(why));
    assert_eq!(fleet.problems(), ["chat: the hub has no such repository"]);
}

#[test]
fn a_host_that_cannot_be_reached_is_left_out_and_the_others_are_planned() {
    let mut fleet = Fleet::new();
    fleet.lose("shed");
    let plan = fleet.plan();
    assert_eq!(plan.skipped.len(), 1);
    assert_eq!(
        (&plan.skipped[0].host, plan.skipped[0].why.as_str()),
        (&name("shed"), "shed cannot be reached: No route to host")
    );
    assert!(plan.host(&name("shed")).is_none());
    assert_eq!(generation(&plan, "attic"), Some(Generation::FIRST));
    assert_eq!(check(&plan), Vec::<String>::new());
}

#[test]
fn a_host_whose_program_was_lost_goes_on_from_what_is_in_force() {
    let mut fleet = Fleet::new();
    fleet.facts("shed").lost = Some(Generation::new(3));
    let plan = fleet.plan();
    let shed = plan.host(&name("shed")).unwrap();
    assert_eq!((shed.previous, shed.generation), (Some(Generation::new(3)), Some(Generation::new(4))));
    assert_eq!(check(&plan), Vec::<String>::new());
}

#[test]
fn a_desktop_that_sleeps_stays_in_the_routes_of_the_others() {
    let mut fleet = Fleet::new();
    fleet.lose("desk");
    assert_eq!(order(&fleet.plan(), "attic"), ["local", "desk"], "also before it was ever seen");
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.lose("desk");
    let plan = fleet.plan();
    assert!(plan.is_empty(), "{}", outline(&plan));
}

#[test]
fn what_keeps_a_host_out_of_the_fleet_is_said_with_the_next_move() {
    let mut fleet = Fleet::new();
    fleet.facts("attic").privilege = Privilege::None;
    assert_eq!(
        fleet.problems(),
        ["attic does not let the login become root: let it use sudo, or log in as root"]
    );
    let mut fleet = Fleet::new();
    fleet.bundles.remove(0);
    fleet.lose("shed");
    assert_eq!(
        fleet.problems(),
        [
            "attic is an aarch64 machine, and there is no bundle for that (there is x86_64 in /usr/share/bramble/bundles, /home/pi/bundles): make one with `scripts/bundle aarch64-unknown-linux-gnu` in Bramble's sources, or bring it into one of these folders"
        ]
    );
    let mut fleet = Fleet::new();
    fleet.facts("attic").glibc = Some((2, 31));
    assert_eq!(
        fleet.problems(),
        [
            "attic has glibc 2.31, and the bundle for aarch64-unknown-linux-gnu needs 2.36: make it anew with `scripts/bundle aarch64-unknown-linux-gnu`, which needs no more than Debian 12 has, or update the host"
        ]
    );
    let mut fleet = Fleet::new();
    fleet.facts("attic").userland_bits = Some(32);
    assert_eq!(
        fleet.problems(),
        [
            "attic runs a 32-bit userland, for which llama.cpp is not built: install the 64-bit Raspberry Pi OS"
        ]
    );
    fleet.facts("attic").machine = "armv7l".to_owned();
    assert_eq!(fleet.problems().len(), 1, "what to do is the same, and said once");
    let mut fleet = Fleet::new();
    fleet.facts("attic").machine = "riscv64".to_owned();
    assert_eq!(
        fleet.problems(),
        ["attic is of the kind riscv64, and Bramble runs on aarch64 and x86_64: take it out of the manifest"]
    );
    let mut fleet = Fleet::new();
    (fleet.facts("attic").glibc, fleet.facts("attic").is_musl) = (None, true);
    assert_eq!(
        fleet.problems(),
        [
            "attic has the C library musl, and bundles need glibc: install a system that has it, such as Raspberry Pi OS or Debian"
        ]
    );
}

/// The fleet with an attic whose login cannot become root.
fn without_root(lingering: Lingering, is_up: bool) -> Fleet {
    let mut fleet = Fleet::new();
    let facts = fleet.facts("attic");
    facts.privilege = Privilege::None;
    facts.supervision = Supervision::SystemdUser { version: 252 };
    facts.root = Some("/home/ann/.local/share/bramble".to_owned());
    facts.user_manager =
        Some(UserManager { login: "ann".to_owned(), is_up, lingering, has_namespaces: true });
    fleet
}

#[test]
fn a_login_that_cannot_become_root_is_served_by_its_own_systemd() {
    for lingering in [Lingering::On, Lingering::Allowed] {
        let mut fleet = without_root(lingering, true);
        let plan = fleet.plan();
        let attic = plan.host(&name("attic")).unwrap();
        assert_eq!((attic.root.as_str(), attic.is_root), ("/home/ann/.local/share/bramble", false));
        assert!(attic.units.iter().all(Unit::is_of_user) && !attic.units.is_empty());
        assert_eq!(
            attic.notes[0],
            "ann cannot become root there: all of Bramble is ann's own, in /home/ann/.local/share/bramble"
        );
        assert_eq!(attic.notes.len(), if lingering == Lingering::On { 1 } else { 2 });
        fleet.apply();
        assert!(fleet.plan().is_empty());
        // a folder that the manifest names wins
        fleet.change("  attic: {", "  attic: { dir: /srv/bramble,");
        assert_eq!(fleet.plan().host(&name("attic")).unwrap().root, "/srv/bramble");
    }
}

#[test]
fn a_login_whose_services_would_not_last_is_refused_with_what_to_run() {
    let said = |lingering, is_up| without_root(lingering, is_up).problems().join("\n");
    let off = "attic does not let ann become root, and ends what ann runs when it logs out: let an administrator run `sudo loginctl enable-linger ann` there, or let the login use sudo";
    assert_eq!([said(Lingering::Off, true), said(Lingering::Off, false)], [off, off]);
    assert_eq!(
        said(Lingering::Allowed, false),
        "attic does not let ann become root, and no systemd of ann runs: start it with `loginctl enable-linger ann` there"
    );
    assert_eq!(
        said(Lingering::On, false),
        "attic does not let ann become root, and the systemd of ann does not answer: see why with `systemctl status user@$(id -u ann)` there"
    );
}

#[test]
fn a_socket_that_is_too_long_below_a_login_s_folder_is_refused() {
    let mut fleet = without_root(Lingering::On, true);
    fleet.facts("attic").root = Some(format!("/home/{}/.local/share/bramble", "a".repeat(80)));
    let problems = fleet.problems().join("\n");
    assert!(problems.contains("Linux allows 107: set a shorter `dir`"), "{problems}");
}

#[test]
fn each_host_gets_the_bundle_for_its_machine() {
    let mut fleet = Fleet::new();
    for _ in 0..2 {
        let plan = fleet.plan();
        for (host, machine) in [("attic", "aarch64"), ("shed", "aarch64"), ("desk", "x86_64")] {
            let program = plan.host(&name(host)).unwrap().definition.program.digest;
            assert_eq!(program, Digest::of(machine.as_bytes()), "{host}");
        }
        fleet.bundles.reverse();
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut fleet = Fleet::new();
    let facts = fleet.facts("attic");
    (facts.privilege, facts.glibc) = (Privilege::None, Some((2, 31)));
    fleet.facts("shed").memory.available = Bytes::mib(100);
    assert_eq!(fleet.problems().len(), 3, "{:#?}", fleet.problems());
}

#[test]
fn a_disk_without_room_is_refused_with_both_numbers() {
    let mut fleet = Fleet::new();
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::mib(30);
    insta::assert_snapshot!(fleet.problems().join("\n"));
    let mut fleet = Fleet::new();
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::mib(1550);
    insta::assert_snapshot!(fleet.problems().join("\n"));
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::mib(1800);
    assert_eq!(fleet.problems(), Vec::<String>::new());
}

#[test]
fn a_full_disk_that_has_everything_already_is_no_problem() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::gib(2);
    assert!(fleet.plan().is_empty());
    fleet.facts("attic").disk.as_mut().unwrap().free = Bytes::mib(10);
    assert!(fleet.plan().is_empty(), "nothing is written, so nothing needs room");
}

#[test]
fn what_is_not_as_it_was_applied_is_a_reason_to_apply_it_again() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.drift.push("the unit bramble-route.service was edited".to_owned());
    installed.services.insert("engine-chat".to_owned(), ServiceState::Failed);
    installed.services.insert("route".to_owned(), ServiceState::Running);
    let installed = fleet.facts("shed").installed.as_mut().unwrap();
    installed.pending = Some(Generation::new(7));
    installed.generations.push(Generation::new(7));
    let plan = fleet.plan();
    let reasons = |host: &str| plan.host(&name(host)).unwrap().reasons.clone();
    assert_eq!(
        reasons("attic"),
        ["the unit bramble-route.service was edited", "its service engine-chat has failed"]
    );
    assert_eq!(reasons("shed"), ["generation 7 was activated and never confirmed"]);
    assert_eq!(generation(&plan, "shed"), Some(Generation::new(8)), "a number is never used twice");
    assert_eq!([generation(&plan, "attic"), generation(&plan, "desk")], [Some(Generation::new(2)), None]);
    let host = plan.host(&name("attic")).unwrap();
    assert!(super::diff::is_same(host.before.as_ref().unwrap(), &host.definition));
}

#[test]
fn a_blob_that_went_missing_is_sent_again() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    installed.blobs.clear();
    installed.drift.push("a blob is gone".to_owned());
    let plan = fleet.plan();
    let pushes = plan.steps().filter(|step| matches!(step.action, Action::Push { .. })).count();
    assert_eq!(pushes, 1);
}

#[test]
fn a_host_that_left_the_manifest_is_an_orphan() {
    let mut fleet = Fleet::new();
    fleet.lock.hosts.insert(name("shed"), crate::lock::LockedHost::default());
    fleet.lock.hosts.insert(name("cellar"), crate::lock::LockedHost::default());
    assert_eq!(fleet.plan().orphans, [name("cellar")]);
}

#[test]
fn a_model_that_is_no_longer_wanted_leaves_the_host() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.change("on: { role: pi }", "on: [attic]");
    let plan = fleet.plan();
    let shed = plan.host(&name("shed")).unwrap();
    assert_eq!((shed.generation, shed.definition.engines.len()), (Some(Generation::new(2)), 0));
    assert_eq!(order(&plan, "shed"), ["desk"], "its door goes on answering");
    assert_eq!(generation(&plan, "attic"), None);
}

#[test]
fn a_kept_plan_is_the_same_when_it_is_read_again() {
    let mut fleet = Fleet::new();
    let first = fleet.apply();
    fleet.change("context: 1024", "context: 512");
    for plan in [first, fleet.plan()] {
        let read: Plan = serde_json::from_slice(&serde_json::to_vec_pretty(&plan).unwrap()).unwrap();
        assert_eq!(read, plan);
    }
}

#[test]
fn the_fingerprint_changes_with_what_is_installed_and_not_with_free_memory() {
    let mut fleet = Fleet::new();
    let before = fingerprint(&fleet.inventory);
    let facts = fleet.facts("attic");
    facts.memory.available = Bytes::mib(7000);
    facts.disk.as_mut().unwrap().free = Bytes::gib(19);
    assert_eq!(fingerprint(&fleet.inventory), before);
    fleet.apply();
    let after = fingerprint(&fleet.inventory);
    assert_ne!(after, before);
    fleet.facts("attic").installed.as_mut().unwrap().pending = Some(Generation::new(2));
    assert_ne!(fingerprint(&fleet.inventory), after);
}

/// Holds a sound plan, broken in one place, to the one note that tells so.
#[track_caller]
fn broken(change: impl FnOnce(&mut Plan), expected: &str) {
    let mut plan = Fleet::new().plan();
    change(&mut plan);
    let notes = check(&plan);
    assert!(notes.iter().any(|note| note.contains(expected)), "{expected:?} is not in {notes:#?}");
}

#[test]
fn a_plan_that_contradicts_itself_is_found_out() {
    broken(|plan| plan.format = 2, "has format 2");
    broken(|plan| plan.artifacts[0].recipe.converter += 1, "is not the one that its name says");
    broken(|plan| plan.artifacts.clear(), "is sent weights that the plan does not know");
    broken(|plan| plan.artifacts.clear(), "runs weights that the plan does not know");
    broken(|plan| plan.waves[0].steps[0].host = Some(name("attic")), "stands on the wrong side");
    broken(|plan| plan.waves[1].steps[0].host = None, "stands on the wrong side");
    broken(
        |plan| plan.hosts.retain(|host| host.host != name("attic")),
        "changes attic, which the plan does not know",
    );
    broken(|plan| plan.hosts[0].room = Bytes::mib(1), "and has room for 1.0 MiB");
    broken(
        |plan| plan.hosts[0].previous = Some(Generation::new(9)),
        "a generation number that does not rise",
    );
    broken(
        |plan| plan.hosts[0].definition.door.upstreams.clear(),
        "the route of chat names local, which is not there",
    );
    broken(
        |plan| plan.waves[1].steps.retain(|step| !matches!(step.action, Action::Install { .. })),
        "activates generation 1 before it is laid out",
    );
    broken(
        |plan| {
            for step in plan.waves.iter_mut().flat_map(|wave| &mut wave.steps) {
                if let Action::Install { generation } = &mut step.action {
                    *generation = Generation::new(5);
                }
            }
        },
        "gets generation 5, which is not the planned one",
    );
    broken(
        |plan| {
            for step in plan.waves.iter_mut().flat_map(|wave| &mut wave.steps) {
                if let Action::Activate { generation } = &mut step.action {
                    *generation = Generation::new(5);
                }
            }
        },
        "activates generation 5, which is not the planned one",
    );
    broken(
        |plan| {
            plan.waves[1]
                .steps
                .retain(|step| !matches!(step.action, Action::Push { .. } | Action::Install { .. }));
        },
        "before it is laid out",
    );
}

#[test]
fn without_a_route_the_local_engine_comes_first_then_desktops_then_foreign_servers() {
    let text = MANIFEST.split("routes:").next().unwrap().replace(
        "deploy:",
        "  gaming: { upstream: \"http://gaming.local:11434/v1\", key: env:GAMING_KEY, models: { chat: mistral } }\ndeploy:",
    );
    let plan = Fleet::of(&text).plan();
    insta::assert_snapshot!(doors(&plan.host(&name("attic")).unwrap().definition.door));
    assert_eq!(order(&plan, "desk"), ["local", "gaming"], "a host is never asked through its own door");
}

#[test]
fn routes_are_followed_as_they_are_written() {
    let orders = |route: &str| {
        let plan = Fleet::with("{ order: [local, desk] }", route).plan();
        ["attic", "shed", "desk"].map(|host| order(&plan, host).join(" "))
    };
    assert_eq!(orders("{ order: [shed, desk, local] }"), ["shed desk local", "local desk", "shed local"]);
    assert_eq!(orders("{ mode: local-only }"), ["local", "local", "local"]);
    assert_eq!(
        orders("{ order: [local, attic, desk], mode: desktop-first }"),
        ["desk local", "desk local attic", "local attic"]
    );
    // without a route of its own, a door still offers what runs behind it
    assert_eq!(orders("{ order: [desk], from: { role: pi } }"), ["desk", "desk", "local"]);
}

#[test]
fn a_route_that_nobody_can_answer_is_a_problem_where_it_is_asked_for() {
    let lone = |route: &str| {
        let text = MANIFEST.replace("{ order: [local, desk] }", route);
        Fleet::of(&text.replace("  - { model: chat, on: [desk] }\n", "")).make()
    };
    let (_, problems) = lone("{ order: [local], from: { role: desktop } }");
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages, ["nobody in the route of chat can answer on desk: deploy it on one of them"]);
    let (plan, problems) = lone("{ order: [local] }");
    assert_eq!(problems, []);
    assert_eq!(order(&plan, "desk"), Vec::<String>::new(), "its door just does not offer the model");
    assert_eq!(order(&plan, "attic"), ["local"]);
}

#[test]
fn what_cannot_be_placed_anew_goes_on_as_it_is() {
    let mut fleet = Fleet::new();
    fleet.apply();
    fleet.facts("shed").memory.available = Bytes::mib(20);
    fleet.models.insert("chat".parse().unwrap(), Err("the hub does not answer".to_owned()));
    let (plan, problems) = fleet.make();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(plan.is_empty(), "{}", outline(&plan));
    assert!(plan.hosts.iter().all(|host| host.definition.engines.len() == 1));
    assert_eq!(check(&plan), Vec::<String>::new());
}

#[test]
fn addresses_become_urls() {
    assert_eq!(door_url("10.0.0.1", 8080, DoorTls::Off), "http://10.0.0.1:8080");
    assert_eq!(door_url("fd00::1", 8443, DoorTls::Fleet), "https://[fd00::1]:8443");
}

#[test]
fn the_deadline_is_three_times_the_planned_load_and_probe_and_never_below_two_minutes() {
    let plan = Fleet::new().plan();
    for host in &plan.hosts {
        let pace = host.definition.engines[0].pace;
        let planned = pace.load_seconds + 40.0 / pace.prompt.0 + 16.0 / pace.answer.0;
        assert!(planned < 40.0, "{planned}");
        assert_eq!(host.deadline_seconds, 120);
    }
    let mut definition = plan.hosts[0].definition.clone();
    definition.engines[0].pace.load_seconds = 100.0;
    definition.engines[0].pace.prompt.0 = 2.0;
    definition.engines[0].pace.answer.0 = 0.5;
    assert_eq!(super::make::deadline(&definition), 3 * (100 + 20 + 32));
    definition.engines.push(definition.engines[0].clone());
    assert_eq!(super::make::deadline(&definition), 6 * (100 + 20 + 32), "engines may load one after another");
}

/// The hosts that run the model.
fn homes(plan: &Plan) -> Vec<String> {
    let has = |host: &&super::HostPlan| !host.definition.engines.is_empty();
    plan.hosts.iter().filter(has).map(|host| host.host.to_string()).collect()
}

#[test]
fn a_number_of_hosts_is_chosen_and_the_model_stays_where_it_runs() {
    let mut fleet = Fleet::with("on: { role: pi }", "on: { count: 1, where: { role: pi } }");
    let plan = fleet.apply();
    assert_eq!(homes(&plan), ["attic", "desk"], "the faster of the two has it");
    assert!(fleet.plan().is_empty(), "{}", outline(&fleet.plan()));

    // it moves only where it no longer fits
    fleet.facts("attic").memory.available = Bytes::mib(60);
    fleet.facts("attic").memory.total = Bytes::mib(600);
    let moved = fleet.plan();
    assert_eq!(homes(&moved), ["desk", "shed"]);
    assert_eq!(check(&moved), Vec::<String>::new());
}

#[test]
fn a_host_that_sleeps_keeps_its_part_of_a_number() {
    let mut fleet = Fleet::with("on: { role: pi }", "on: { count: 1, where: { role: pi } }");
    fleet.apply();
    fleet.lose("attic");
    // it was never applied from here: somebody else takes the model
    assert_eq!(homes(&fleet.plan()), ["desk", "shed"]);
    let address = "10.0.0.11".to_owned();
    let locked = crate::lock::LockedHost {
        address,
        user: None,
        port: None,
        identity: None,
        is_local: false,
        dir: None,
        is_process: false,
    };
    fleet.lock.hosts.insert(name("attic"), locked);
    let plan = fleet.plan();
    assert_eq!(homes(&plan), ["desk"]);
    let on_shed = plan.host(&name("shed")).unwrap();
    assert!(on_shed.generation.is_none() || on_shed.definition.engines.is_empty());
}

#[test]
fn too_few_hosts_for_a_number_are_counted_by_what_they_lack() {
    let mut fleet = Fleet::with("on: { role: pi }", "on: { count: 2, where: { role: pi } }");
    fleet.facts("shed").memory.available = Bytes::mib(100);
    let (plan, problems) = fleet.make();
    assert_eq!(homes(&plan), ["attic", "desk"]);
    assert_eq!(problems.len(), 1);
    insta::assert_snapshot!(problems[0].message, @"chat is wanted on 2 hosts and fits on 1; others that may have it: 1 with too little memory (nearest shed, short by 93.6 MiB at Q4_0); or ask for 1");
}

#[test]
fn a_board_that_is_not_bought_gets_choices_and_nothing_is_done_for_it() {
    let mut fleet = Fleet::with(
        "  desk: {",
        "  next: { board: pi4-2gb }\n  tower: { board: desktop, memory: 28 GiB, role: desktop }\n  desk: {",
    );
    let plan = fleet.apply();
    let planned: Vec<_> =
        plan.planned.iter().map(|p| (p.host.as_str(), p.board.as_str(), p.choices.len())).collect();
    assert_eq!(planned, [("next", "pi4-2gb", 1), ("tower", "desktop", 0)]);
    assert!(plan.steps().all(|step| step.host != Some(name("next"))));
    assert_eq!(check(&plan), Vec::<String>::new());
    assert!(fleet.plan().is_empty(), "what is planned for never wants a change");
    // nobody is sent to ask a machine that is not there
    let doors = plan.hosts.iter().flat_map(|host| &host.definition.door.upstreams);
    assert!(doors.map(|upstream| upstream.name.as_str()).all(|name| name != "next" && name != "tower"));
}

#[test]
fn a_board_may_stand_in_a_route_and_only_boards_ask_it() {
    let with = MANIFEST.replace("  desk: {", "  next: { board: pi4-2gb }\n  desk: {");
    let plan = Fleet::of(&with.replace("[local, desk]", "[local, next, desk]")).plan();
    let hops = |routes: &[RouteSpec]| -> Vec<String> {
        routes.iter().flat_map(|route| &route.order).map(|hop| hop.upstream.clone()).collect()
    };
    assert_eq!(hops(&plan.host(&name("shed")).unwrap().definition.door.routes), ["local", "desk"]);
    assert_eq!(hops(&plan.planned[0].routes), ["local", "desk"]);
    let (plan, problems) = Fleet::of(&with.replace("[local, desk]", "[next]")).make();
    assert_eq!(problems, [], "what is bought waits for what is not");
    assert_eq!(hops(&plan.planned[0].routes), ["local"]);
    assert!(plan.host(&name("shed")).unwrap().definition.door.routes.is_empty());
}

#[test]
fn what_is_worth_knowing_of_a_host_is_said_and_keeps_nothing_from_being_done() {
    let mut fleet = Fleet::new();
    let desk = fleet.facts("desk");
    desk.gpus = vec![crate::facts::Gpu { name: "AMD".to_owned(), memory: Some(Bytes::gib(16)) }];
    desk.health.clock_ahead = Some(-4000);
    let shed = fleet.facts("shed");
    shed.health.throttled = Some(crate::facts::Throttled(0x50005));
    shed.health.celsius = Some(81.0);
    let plan = fleet.plan();
    let notes = |host| plan.host(&name(host)).unwrap().notes.join("\n");
    insta::assert_snapshot!(notes("desk"), @"
    a graphics processor is there (AMD with 16.0 GiB) and is not used: `gpu: auto` would
    its clock is 4000 s behind this machine's: let it set its time (timedatectl)
    ");
    insta::assert_snapshot!(notes("shed"), @"
    its power supply gives too little voltage, or has: take the one that belongs to the board
    it is clocked lower for heat or power, or has been: it may answer a fifth slower than predicted
    its processor is at 81 degrees and slows down from 80 on: give it a fan
    ");
    assert_eq!(notes("attic"), "");
}

#[test]
fn a_fleet_of_many_is_planned_whole_and_stays_as_it_is() {
    let mut fleet = Fleet::of_many(9);
    let plan = fleet.plan();
    assert_eq!(check(&plan), Vec::<String>::new());
    let on = |model: &str| {
        let has = |host: &&super::HostPlan| host.definition.engines.iter().any(|e| e.model.as_str() == model);
        plan.hosts.iter().filter(has).count()
    };
    assert_eq!(["a", "b", "c", "d", "e", "f"].map(on), [9, 3, 3, 3, 3, 1]);
    fleet.applied(&plan);
    assert!(fleet.plan().is_empty(), "{}", outline(&fleet.plan()));
}

/// Not a test but a figure, for `scripts/figures planning`.
#[test]
#[ignore = "measures"]
fn figures() {
    let fleet = Fleet::of_many(32);
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let begun = std::time::Instant::now();
            let (plan, problems) = fleet.make();
            let took = begun.elapsed().as_secs_f64() * 1000.0;
            assert_eq!((problems.len(), plan.hosts.len()), (0, 33));
            took
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("plan.32_hosts.ms = {:.0}", times[2]);
}
