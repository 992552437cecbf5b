use std::process::Command;

use super::*;
use crate::facts::Supervision;
use crate::generation::{
    Definition, DoorSpec, DoorTls, EngineSpec, FORMAT, GpuApi, KvType, Layout, LoadMode, Pace, Program,
    Weights,
};
use crate::ids::Digest;
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

fn definition(models: &[(&str, f64)]) -> Definition {
    let engine = |&(model, load_seconds): &(&str, f64)| EngineSpec {
        model: model.parse().unwrap(),
        weights: Weights {
            recipe: Digest::of(b"recipe"),
            digest: Some(Digest::of(b"weights")),
            bytes: Bytes::gib(4),
            quant: Some(Quant::Q4KM),
            architecture: "llama".to_owned(),
        },
        context: 4096,
        slots: 1,
        threads: 4,
        micro_batch: 512,
        load: LoadMode::Mmap,
        repack: false,
        kv: KvType::F16,
        need: Bytes::ZERO,
        keep_prompts: false,
        pace: Pace { prompt: TokensPerSec(10.0), answer: TokensPerSec(2.0), load_seconds, is_guess: false },
    };
    Definition {
        format: FORMAT,
        fleet: "home".parse().unwrap(),
        host: "kitchen".parse().unwrap(),
        program: Program { digest: Digest::of(b"program"), version: "0.1.0".to_owned(), gpu: None },
        engines: models.iter().map(engine).collect(),
        door: DoorSpec { port: 8443, tls: DoorTls::Off, upstreams: Vec::new(), routes: Vec::new() },
    }
}

fn setting(memory: &[(&str, Bytes)]) -> Setting {
    Setting {
        supervision: Supervision::Systemd { version: 252 },
        has_namespaces: false,
        has_render_group: false,
        has_memory_limits: !memory.is_empty(),
        memory: memory.iter().map(|(model, bytes)| (model.parse().unwrap(), *bytes)).collect(),
    }
}

fn all(units: &[Unit]) -> String {
    units.iter().fold(String::new(), |text, unit| text + "=== " + &unit.name + "\n" + &unit.text)
}

#[test]
fn units_of_two_engines_and_a_door() {
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let definition = definition(&[("chat", 90.0), ("tagger", 1.5)]);
    let units = render(&definition, &layout, &setting(&[("chat", Bytes::gib(5))])).unwrap();
    insta::assert_snapshot!(all(&units));
}

/// The setting of a login that cannot become root.
fn of_user(has_namespaces: bool) -> Setting {
    Setting { supervision: Supervision::SystemdUser { version: 252 }, has_namespaces, ..setting(&[]) }
}

#[test]
fn units_of_a_login_name_no_user_and_see_nothing_else_of_its_home() {
    let layout = Layout::new("/home/pi/.local/share/bramble");
    let units = render(&definition(&[("chat", 90.0)]), &layout, &of_user(true)).unwrap();
    insta::assert_snapshot!(all(&units));
    assert!(units.iter().all(Unit::is_of_user));
}

/// The definition of a host whose program speaks to graphics processors.
fn with_gpu() -> Definition {
    let mut definition = definition(&[("chat", 90.0)]);
    definition.program.gpu = Some(GpuApi::Vulkan);
    definition
}

#[test]
fn an_engine_sees_graphics_processors_only_where_its_program_speaks_to_them() {
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let lines = |definition: &Definition, has_render_group| {
        let setting = Setting { has_render_group, ..setting(&[]) };
        let units = render(definition, &layout, &setting).unwrap();
        units.into_iter().map(|unit| (unit.name, unit.text)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (cpu, gpu) = (lines(&definition(&[("chat", 90.0)]), true), lines(&with_gpu(), true));
    let engine = "bramble-engine-chat.service";
    let added = |from: &str, to: &str| -> Vec<String> {
        let old: Vec<&str> = from.lines().collect();
        to.lines().filter(|line| !old.contains(line)).map(str::to_owned).collect()
    };
    insta::assert_snapshot!(added(&cpu[engine], &gpu[engine]).join("\n"));
    assert_eq!(added(&gpu[engine], &cpu[engine]), ["PrivateDevices=yes"]);
    assert!(!lines(&with_gpu(), false)[engine].contains("SupplementaryGroups"));
    // the door, and what a program for the CPU runs as, stay as they are
    let others = |units: &std::collections::BTreeMap<String, String>| {
        units.iter().filter(|(name, _)| *name != engine).map(|(_, text)| text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(others(&cpu), others(&gpu));
    assert_eq!(cpu, lines(&definition(&[("chat", 90.0)]), false));
}

#[test]
fn without_namespaces_units_of_a_login_ask_for_none() {
    let layout = Layout::new("/home/pi/.local/share/bramble");
    let units = all(&render(&definition(&[("chat", 90.0)]), &layout, &of_user(false)).unwrap());
    for key in ["PrivateUsers", "ProtectSystem", "TemporaryFileSystem", "BindPaths", "PrivateTmp"] {
        assert!(!units.contains(key), "{key}");
    }
    assert!(
        units.contains("\nNoNewPrivileges=yes\n") && units.contains("\nSystemCallFilter=@system-service\n")
    );
    // the engine encloses itself, and may do what that takes
    for line in [
        "Environment=BRAMBLE_ENCLOSE=1",
        "SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp",
    ] {
        assert_eq!(units.matches(&format!("\n{line}\n")).count(), 1, "{line}");
    }
    let others = all(&render(&definition(&[("chat", 90.0)]), &layout, &of_user(true)).unwrap());
    assert!(!others.contains("BRAMBLE_ENCLOSE"));
}

#[test]
fn a_root_below_home_is_shown_to_the_services() {
    let layout = Layout::new("/home/pi/bramble");
    let units = render(&definition(&[("chat", 90.0)]), &layout, &setting(&[])).unwrap();
    let engine = units.iter().find(|unit| unit.name == "bramble-engine-chat.service").unwrap();
    let lines: Vec<&str> = engine.text.lines().collect();
    assert!(lines.contains(&"ProtectHome=tmpfs"), "{}", engine.text);
    assert!(lines.contains(&"BindReadOnlyPaths=/home/pi/bramble"));
    assert!(lines.contains(&"BindPaths=/home/pi/bramble/run"));
    assert!(!engine.text.contains("ReadWritePaths"));
}

#[test]
fn memory_is_limited_only_where_limits_work() {
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let memory = [("chat", Bytes(1000))];
    let with = render(&definition(&[("chat", 1.0)]), &layout, &setting(&memory)).unwrap();
    assert!(all(&with).contains("\nMemoryMax=1150\nMemorySwapMax=0\n"));
    let without = Setting { has_memory_limits: false, ..setting(&memory) };
    let without = render(&definition(&[("chat", 1.0)]), &layout, &without).unwrap();
    assert!(!all(&without).contains("MemoryMax") && !all(&without).contains("MemorySwapMax"));
}

#[test]
fn an_engine_has_three_times_its_planned_start_and_never_less_than_two_minutes() {
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let limits: Vec<String> = [0.5, 40.0, 100.2, f64::NAN, f64::INFINITY]
        .iter()
        .map(|&seconds| {
            let units = render(&definition(&[("chat", seconds)]), &layout, &setting(&[])).unwrap();
            let engine = units.iter().find(|unit| unit.name.contains("engine")).unwrap();
            engine.text.lines().find(|line| line.starts_with("TimeoutStartSec=")).unwrap().to_owned()
        })
        .collect();
    let expected = ["120", "120", "301", "120", "86400"].map(|n| format!("TimeoutStartSec={n}"));
    assert_eq!(limits, expected);
}

#[test]
fn a_root_that_systemd_would_read_differently_is_refused() {
    for root in ["relative", "/", "/a b", "/a%n", "/a$B", "/a/../b", "/a\nUser=root", "/a/", "//a", "/ä"] {
        let result = render(&definition(&[]), &Layout::new(root), &setting(&[]));
        assert!(matches!(result, Err(Error::Root(_))), "{root}");
    }
}

#[test]
fn a_host_without_systemd_has_no_units() {
    let process = Setting { supervision: Supervision::Process, ..setting(&[]) };
    assert_eq!(render(&definition(&[("chat", 1.0)]), &Layout::new("/opt/b"), &process).unwrap(), []);
}

/// `systemd-analyze verify` wants programs that exist: `current` is made to lead to one.
#[test]
#[expect(clippy::disallowed_methods, reason = "asks systemd itself")]
fn systemd_finds_no_fault_in_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("current/program");
    std::fs::create_dir_all(&program).unwrap();
    std::os::unix::fs::symlink("/bin/true", program.join("brambled")).unwrap();
    let system = setting(&[("chat", Bytes::gib(5))]);
    let cpu = definition(&[("chat", 90.0)]);
    let (user, bare) = (of_user(true), of_user(false));
    let render_group = Setting { has_render_group: true, ..system.clone() };
    for (scope, setting, definition) in [
        ("--system", system, &cpu),
        ("--user", user, &cpu),
        ("--user", bare, &cpu),
        ("--system", render_group, &with_gpu()),
    ] {
        let units = render(definition, &Layout::new(dir.path()), &setting).unwrap();
        let files: Vec<_> = units.iter().map(|unit| dir.path().join(&unit.name)).collect();
        units.iter().zip(&files).for_each(|(unit, file)| std::fs::write(file, &unit.text).unwrap());
        let verify = [scope, "verify", "--man=no", "--recursive-errors=no"];
        let mut command = Command::new("systemd-analyze");
        command.args(verify).args(&files).env("XDG_RUNTIME_DIR", dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("bramble"), "{scope}: {said}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "asks systemd itself")]
fn systemd_calls_all_units_well_enclosed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        assert!(std::env::var_os("BRAMBLE_REQUIRE_SYSTEMD").is_none(), "systemd-analyze is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let cpu = render(&definition(&[("chat", 90.0)]), &layout, &setting(&[])).unwrap();
    let gpu = render(&with_gpu(), &layout, &Setting { has_render_group: true, ..setting(&[]) }).unwrap();
    for unit in cpu.into_iter().chain(gpu) {
        let file = dir.path().join(&unit.name);
        std::fs::write(&file, &unit.text).unwrap();
        let mut command = Command::new("systemd-analyze");
        // of 10 at most 2.0
        command.args(["security", "--no-pager", "--offline=yes", "--threshold=20"]).arg(&file);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {said}{}", unit.name, String::from_utf8_lossy(&output.stderr));
        // a figure for whoever asks (scripts/figures security)
        let level =
            said.lines().rev().find_map(|line| line.split_once("exposure level for ")?.1.split_once(": "));
        let level = level.and_then(|(_, level)| level.split(' ').next()).unwrap();
        println!("unit.exposure.{} = {level}", unit.name);
    }
}

#[test]
fn a_door_may_shout_to_its_networks_to_wake_machines() {
    let layout = Layout::new(Layout::DEFAULT_ROOT);
    let units = render(&definition(&[("chat", 1.0)]), &layout, &setting(&[])).unwrap();
    let door = &units.iter().find(|unit| unit.name == "bramble-route.service").unwrap().text;
    let families = door.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).unwrap();
    assert!(families.split(' ').any(|family| family == "AF_INET"), "{families}");
    // the first two would lose its packets; by the last, it would not see the kernel's table of networks
    for word in ["IPAddressDeny=", "PrivateNetwork=", "ProcSubset="] {
        assert!(!door.contains(word), "{word}");
    }
}
