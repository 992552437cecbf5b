use super::*;
use crate::facts::{
    Board, Disk, Firewall, FirewallKind, Health, Lingering, Link, Medium, Privilege, Process, Supervision,
    Throttled, UserManager, planned,
};
use crate::units::{Bytes, BytesPerSec};

/// A Pi 5 with nothing to say of, and a checkup that found as much.
struct Host {
    facts: HostFacts,
    checkup: Checkup,
    no_bundle: Option<(&'static str, &'static str)>,
    glibc_needed: Option<(u32, u32)>,
    from_here: Option<Answer>,
    others: Vec<Other>,
}

impl Host {
    fn new() -> Self {
        let mut facts = planned("pi5-8gb").unwrap();
        facts.glibc = Some((2, 36));
        facts.memory_cgroup = Some(true);
        facts.health = Health { celsius: Some(51.0), throttled: Some(Throttled(0)), clock_ahead: Some(1) };
        facts.disk = Some(Disk {
            path: "/var/lib".to_owned(),
            filesystem: Some("ext2/ext3".to_owned()),
            free: Bytes::gib(200),
            total: Bytes::gib(233),
            medium: Some(Medium::Nvme),
            inodes_free: Some(1_000_000),
        });
        facts.link = Some(Link { name: "eth0".to_owned(), is_wireless: false, megabits: Some(1000) });
        let checkup = Checkup {
            is_synchronized: Some(true),
            governor: Some("ondemand".to_owned()),
            read: Some(BytesPerSec(800e6)),
            listening: [22].into(),
            ..Checkup::default()
        };
        let from_here = Some(Answer::Refused);
        Self { facts, checkup, no_bundle: None, glibc_needed: Some((2, 34)), from_here, others: Vec::new() }
    }

    fn findings(&self) -> Vec<Finding> {
        let Self { facts, checkup, no_bundle, glibc_needed, from_here, others } = self;
        diagnose(&Patient {
            facts,
            checkup,
            port: 8443,
            no_bundle: *no_bundle,
            glibc_needed: *glibc_needed,
            from_here: *from_here,
            others,
        })
    }
}

/// Holds what is said of a host that `change` made to a level and to words.
#[track_caller]
fn check(about: About, change: impl FnOnce(&mut Host), level: Level, words: &[&str]) {
    let mut host = Host::new();
    change(&mut host);
    let findings = host.findings();
    let found =
        findings.iter().find(|finding| finding.about == about).unwrap_or_else(|| panic!("{findings:?}"));
    assert_eq!(found.level, level, "{found:?}");
    let text = format!("{} > {}", found.what, found.advice.as_deref().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    if matches!(level, Level::Warning) {
        assert!(found.advice.is_some(), "a warning says what to do: {found:?}");
    }
}

#[test]
fn a_host_that_is_as_it_should_be_has_nothing_to_do() {
    let findings = Host::new().findings();
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    let mut order: Vec<About> = findings.iter().map(|finding| finding.about).collect();
    assert_eq!(order.len(), 15);
    order.dedup();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_host_of_which_little_is_known_is_told_little() {
    let mut host = Host::new();
    host.facts = planned("pi5-8gb").unwrap();
    host.facts.glibc = None;
    (host.checkup, host.from_here) = (Checkup::default(), None);
    assert!(host.findings().iter().all(|finding| finding.level <= Level::Note), "{:?}", host.findings());
}

#[test]
fn a_system_that_bundles_do_not_run_on_is_in_the_way() {
    use Level::Error;
    let about = About::Userland;
    check(about, |host| host.facts.machine = "armv7l".into(), Error, &["armv7l", "64-bit Raspberry Pi OS"]);
    check(about, |host| host.facts.machine = "riscv64".into(), Error, &["riscv64"]);
    check(about, |host| host.facts.userland_bits = Some(32), Error, &["32 bits", "64-bit"]);
    check(about, |host| host.facts.is_musl = true, Error, &["musl", "glibc"]);
    check(about, |host| host.facts.glibc = Some((2, 31)), Error, &["2.31", "2.34"]);
    check(about, |host| host.glibc_needed = None, Level::Ok, &["aarch64, 64 bits, glibc 2.36"]);
    let none = |host: &mut Host| {
        host.no_bundle = Some(("is an aarch64 machine, and there is no bundle for that", "make one"));
        host.glibc_needed = None;
    };
    check(about, none, Error, &["it is an aarch64 machine, and there is no bundle for that > make one"]);
    let unknown = |host: &mut Host| {
        none(host);
        host.facts.glibc = None;
    };
    check(about, unknown, Error, &["no bundle"]);
    // whose system no bundle runs on is told that first
    let old = |host: &mut Host| {
        none(host);
        host.facts.userland_bits = Some(32);
    };
    check(about, old, Error, &["32 bits"]);
}

#[test]
fn pages_that_nothing_was_tried_with_are_worth_a_word() {
    check(About::Pages, |host| host.facts.page_size = Some(65536), Level::Note, &["64 KiB", "kernel"]);
    check(About::Pages, |host| host.facts.page_size = Some(4096), Level::Ok, &["4 KiB"]);
}

#[test]
fn limits_on_memory_are_turned_on_where_the_host_has_the_switch() {
    use Level::Warning;
    let about = About::Cgroup;
    let pi = |host: &mut Host| {
        host.facts.memory_cgroup = Some(false);
        host.checkup.is_cgroup_disabled = true;
        host.checkup.cmdline_file = Some("/boot/firmware/cmdline.txt".to_owned());
    };
    check(about, pi, Warning, &["`cgroup_enable=memory`", "/boot/firmware/cmdline.txt"]);
    let pc = |host: &mut Host| {
        pi(host);
        host.facts.board = None;
    };
    check(about, pc, Warning, &["take `cgroup_disable=memory` off"]);
    let login = |host: &mut Host| {
        host.facts.memory_cgroup = Some(false);
        host.facts.supervision = Supervision::SystemdUser { version: 252 };
    };
    check(about, login, Warning, &["Delegate=memory"]);
}

#[test]
fn what_starts_services_is_told_with_what_it_lacks() {
    let about = About::Services;
    let user = |is_up, lingering| {
        move |host: &mut Host| {
            host.facts.supervision = Supervision::SystemdUser { version: 252 };
            let login = "ann".to_owned();
            host.facts.user_manager = Some(UserManager { login, is_up, lingering, has_namespaces: true });
        }
    };
    check(about, user(true, Lingering::Off), Level::Warning, &["at boot", "enable-linger ann"]);
    check(about, user(false, Lingering::Off), Level::Error, &["does not answer", "enable-linger ann"]);
    check(about, user(true, Lingering::On), Level::Ok, &["252"]);
    check(
        about,
        |host| host.facts.supervision = Supervision::Process,
        Level::Warning,
        &["supervisor: process"],
    );
}

#[test]
fn what_the_login_may_do_is_told() {
    let about = About::Sudo;
    check(
        about,
        |host| host.facts.privilege = Privilege::None,
        Level::Note,
        &["may not become root", "usermod"],
    );
    check(about, |host| host.facts.privilege = Privilege::SudoWithPassword, Level::Note, &["password"]);
    check(about, |host| host.facts.privilege = Privilege::Root, Level::Ok, &["root"]);
}

#[test]
fn power_tells_now_from_before_and_names_the_supply() {
    use Level::Warning;
    let throttled = |word| move |host: &mut Host| host.facts.health.throttled = Some(Throttled(word));
    check(About::Power, throttled(0x5_0005), Warning, &["is too low", "5 A"]);
    check(About::Power, throttled(0x5_0000), Warning, &["has been too low since it was started"]);
    let pi4 = |host: &mut Host| {
        throttled(0x1_0000)(host);
        host.facts.board = Some(Board::Pi4);
    };
    check(About::Power, pi4, Warning, &["3 A"]);
    check(About::Power, |host| host.facts.health.throttled = None, Level::Note, &["vcgencmd"]);
    // it was slowed for its supply: nothing is said of heat
    check(About::Heat, throttled(0x5_0005), Level::Ok, &["51 °C"]);
}

#[test]
fn heat_tells_now_from_before() {
    use Level::Warning;
    let throttled = |word| move |host: &mut Host| host.facts.health.throttled = Some(Throttled(word));
    check(About::Heat, throttled(0x8_0008), Warning, &["is clocked lower", "51 °C now", "fan"]);
    check(About::Heat, throttled(0x8_0000), Warning, &["has been clocked lower"]);
    check(About::Heat, |host| host.facts.health.celsius = Some(82.0), Warning, &["82 °C"]);
}

#[test]
fn heat_is_told_beside_too_little_voltage_where_the_firmware_tells_them_apart() {
    use Level::{Ok, Warning};
    let throttled = |word| move |host: &mut Host| host.facts.health.throttled = Some(Throttled(word));
    let about = About::Heat;
    // the soft limit of the heat, now and before
    check(about, throttled(0x8_0009), Warning, &["is clocked lower for its heat"]);
    check(about, throttled(0x9_0000), Warning, &["has been clocked lower for its heat"]);
    check(About::Power, throttled(0x9_0000), Warning, &["has been too low"]);
    // slowed now, with voltage enough now
    check(about, throttled(0x5_0004), Warning, &["is clocked lower for its heat"]);
    // either may have been the reason
    check(about, throttled(0x7_0000), Ok, &["51 °C"]);
    check(about, throttled(0x7_0007), Ok, &["51 °C"]);
}

#[test]
fn a_governor_that_keeps_the_clock_low_is_named() {
    let slow = |host: &mut Host| host.checkup.governor = Some("powersave".to_owned());
    check(About::Governor, slow, Level::Warning, &["powersave", "scaling_governor"]);
    let pc = |host: &mut Host| {
        slow(host);
        host.facts.machine = "x86_64".into();
    };
    check(About::Governor, pc, Level::Ok, &["powersave"]);
}

#[test]
fn the_disk_is_told_with_what_it_reads_and_what_it_has() {
    use Level::{Error, Note, Warning};
    let disk = |change: fn(&mut Disk)| move |host: &mut Host| host.facts.disk.iter_mut().for_each(change);
    let about = About::Disk;
    check(about, |_| {}, Level::Ok, &["NVMe disk, reads 763 MiB/s: 1.3 s for 1 GiB", "200 GiB of 233 GiB"]);
    let card = |rate| {
        move |host: &mut Host| {
            disk(|disk| disk.medium = Some(Medium::Card))(host);
            host.checkup.read = Some(BytesPerSec(rate));
        }
    };
    check(about, card(43e6), Note, &["SD card", "25 s for 1 GiB", "USB 3"]);
    check(about, card(9e6), Warning, &["2 min for 1 GiB", "A1 or A2"]);
    check(about, disk(|disk| disk.free = Bytes::gib(2)), Warning, &["2.0 GiB of", "prune"]);
    check(about, disk(|disk| disk.free = Bytes::mib(20)), Error, &["20.0 MiB of"]);
    check(about, disk(|disk| disk.inodes_free = Some(3)), Error, &["3 more files"]);
    check(
        about,
        disk(|disk| disk.filesystem = Some("overlayfs".into())),
        Error,
        &["gone after a boot", "raspi-config"],
    );
    let pc = |host: &mut Host| {
        disk(|disk| disk.filesystem = Some("overlayfs".into()))(host);
        (host.facts.board, host.facts.machine) = (None, "x86_64".into());
    };
    check(about, pc, Error, &["gone after a boot > name a `dir`"]);
    check(about, |host| host.checkup.is_read_only = true, Error, &["nothing can be written", "dmesg"]);
}

#[test]
fn swap_matters_where_it_is_used() {
    let about = About::Swap;
    let swap = |host: &mut Host| {
        host.facts.memory.swap = Bytes::mib(512);
        host.checkup.swapped = Bytes::mib(300);
    };
    check(about, swap, Level::Warning, &["512 MiB on disk, 300 MiB of it in use", "comes back slowly"]);
    let card = |host: &mut Host| {
        swap(host);
        host.facts.disk.iter_mut().for_each(|disk| disk.medium = Some(Medium::Card));
    };
    check(about, card, Level::Warning, &["wears out", "zram"]);
    check(about, |host| host.facts.memory.swap = Bytes::mib(512), Level::Ok, &["0 B of it in use"]);
    check(about, |host| host.facts.memory.zram = Bytes::gib(2), Level::Ok, &["no room for weights"]);
}

#[test]
fn memory_names_who_has_it() {
    let about = About::Memory;
    let process = |name: &str, mib| Process { name: name.to_owned(), count: 1, memory: Bytes::mib(mib) };
    let busy = |host: &mut Host| {
        host.facts.memory.available = Bytes::gib(2);
        host.checkup.processes = vec![process("brambled", 900), process("postgres", 800), process("sshd", 5)];
    };
    check(
        about,
        busy,
        Level::Warning,
        &["2.0 GiB of 7.9 GiB", "has postgres 800 MiB >", "end what is not needed"],
    );
    let session =
        |host: &mut Host| host.checkup.processes = vec![process("chromium", 600), process("labwc", 20)];
    check(about, session, Level::Warning, &["chromium 600 MiB", "(labwc)", "multi-user.target"]);
    let little = |host: &mut Host| host.facts.memory.available = Bytes::mib(100);
    check(about, little, Level::Warning, &["bramble fit"]);
}

#[test]
fn a_clock_that_is_off_or_follows_nobody_is_told() {
    let about = About::Clock;
    let off = |by| move |host: &mut Host| host.facts.health.clock_ahead = Some(by);
    check(about, off(900), Level::Warning, &["900 s ahead of", "timedatectl"]);
    check(about, off(-900), Level::Warning, &["900 s behind"]);
    check(about, |host| host.checkup.is_synchronized = Some(false), Level::Note, &["no time server"]);
}

#[test]
fn a_port_that_somebody_has_is_in_the_way() {
    let taken = |host: &mut Host| {
        host.checkup.listening.insert(8443);
        host.checkup.at_port = Some("nginx".to_owned());
    };
    check(About::Port, taken, Level::Error, &["8443 is taken by nginx", "serve.port"]);
    let unnamed = |host: &mut Host| host.checkup.listening.extend([8443]);
    check(About::Port, unnamed, Level::Error, &["another program"]);
}

/// Gives a host a door at the port, as it was installed, in a state.
fn with_door(host: &mut Host, port: u16, state: &str) {
    let installed = serde_json::json!({
        "current": [3, {
            "format": 1, "fleet": "home", "host": "shed", "engines": [],
            "program": { "digest": "0".repeat(64), "version": "0.1.0" },
            "door": { "port": port, "upstreams": [], "routes": [] },
        }],
        "pending": null, "generations": [3], "blobs": {}, "programs": [], "partials": {},
        "services": { "route": state }, "memory": 0, "drift": [],
    });
    host.facts.installed = Some(serde_json::from_value(installed).unwrap());
}

#[test]
fn a_port_is_its_doors_where_the_door_is_who_listens() {
    use Level::{Error, Ok};
    let about = About::Port;
    let with = |state: &'static str, who: Option<&'static str>| {
        move |host: &mut Host| {
            with_door(host, 8443, state);
            host.checkup.listening.insert(8443);
            host.checkup.at_port = who.map(str::to_owned);
        }
    };
    check(about, with("running", Some("brambled")), Ok, &["8443 is its door's"]);
    // nobody may tell who listens, and systemd keeps the socket of a door that starts
    check(about, with("running", None), Ok, &["8443 is its door's"]);
    check(about, with("starting", Some("systemd")), Ok, &["8443 is its door's"]);
    for state in ["running", "failed", "stopped"] {
        let words = ["8443 is taken by nginx", "its door", "end that program", "`bramble restart shed`"];
        check(about, with(state, Some("nginx")), Error, &words);
    }
    let words = ["its door does not run", "8443", "`bramble logs shed --door`", "`bramble restart shed`"];
    check(about, with("failed", Some("systemd")), Error, &words);
    let words = ["its door does not run", "somebody listens at 8443", "sudo ss -ltnp"];
    check(about, with("failed", None), Error, &words);
    let dead = |host: &mut Host| with_door(host, 8443, "stopped");
    check(about, dead, Error, &["its door does not run", "`bramble logs shed --door`"]);
    // it is to have another port from the next apply on
    check(about, |host| with_door(host, 9443, "running"), Ok, &["8443 is free"]);
}

#[test]
fn a_firewall_is_told_with_the_command_that_opens_it() {
    use Level::{Note, Ok, Warning};
    let about = About::Firewall;
    let with = |kind, open: Option<Vec<(u16, u16)>>, from_here| {
        move |host: &mut Host| {
            host.checkup.firewall = Some(Firewall { kind, open });
            host.from_here = from_here;
        }
    };
    let silent = Some(Answer::Silent);
    check(
        about,
        with(FirewallKind::Ufw, Some(vec![(22, 22)]), silent),
        Warning,
        &["ufw", "`sudo ufw allow 8443/tcp`"],
    );
    check(about, with(FirewallKind::Firewalld, Some(Vec::new()), None), Warning, &["--add-port=8443/tcp"]);
    check(about, with(FirewallKind::Nftables, None, None), Note, &["nftables", "tcp dport 8443 accept"]);
    check(about, with(FirewallKind::Ufw, Some(vec![(8000, 9000)]), None), Ok, &["lets port 8443 in"]);
    check(about, with(FirewallKind::Ufw, None, Some(Answer::Refused)), Ok, &["lets this machine reach"]);
    check(about, |host| host.from_here = silent, Warning, &["nothing comes back", "8443"]);
}

#[test]
fn a_firewall_that_lets_a_port_in_is_not_believed_where_nothing_comes_back() {
    use Level::Warning;
    let with = |kind, open: Option<Vec<(u16, u16)>>, from_here| {
        move |host: &mut Host| {
            host.checkup.firewall = Some(Firewall { kind, open });
            host.from_here = Some(from_here);
        }
    };
    let about = About::Firewall;
    let open = || Some(vec![(8443, 8443)]);
    check(
        about,
        with(FirewallKind::Ufw, open(), Answer::Silent),
        Warning,
        &["ufw lets port 8443 in, and nothing comes back from it", "between"],
    );
    check(
        about,
        with(FirewallKind::Firewalld, open(), Answer::NoRoute),
        Warning,
        &["firewalld lets port 8443 in, and there is no way to it", "between"],
    );
    check(
        about,
        with(FirewallKind::Nftables, None, Answer::Silent),
        Warning,
        &["nftables runs, and nothing comes back from port 8443", "tcp dport 8443 accept", "between"],
    );
}

#[test]
fn a_link_that_is_slower_than_its_port_is_told() {
    let link = |is_wireless, megabits| {
        move |host: &mut Host| host.facts.link = Some(Link { name: "eth0".to_owned(), is_wireless, megabits })
    };
    check(About::Link, link(true, None), Level::Note, &["Wi-Fi", "cable"]);
    check(About::Link, link(false, Some(100)), Level::Warning, &["100 Mbit/s", "cable"]);
    let pi3 = |host: &mut Host| {
        link(false, Some(100))(host);
        host.facts.board = Some(Board::Pi3);
    };
    check(About::Link, pi3, Level::Ok, &["100 Mbit/s"]);
}

#[test]
fn hosts_that_are_not_reached_are_named() {
    let with = |answers: &'static [Answer]| {
        move |host: &mut Host| {
            for (number, answer) in answers.iter().enumerate() {
                let name = ["desk", "shed", "loft"][number];
                let (host_name, address) = (name.parse().unwrap(), format!("{name}.local"));
                host.others.push(Other { host: host_name, address, port: 8443 });
                host.checkup.reached.insert(number, *answer);
            }
        }
    };
    let about = About::Others;
    check(about, with(&[Answer::Open, Answer::Refused]), Level::Ok, &["it reaches desk, shed"]);
    check(
        about,
        with(&[Answer::Open, Answer::Silent, Answer::NoRoute]),
        Level::Warning,
        &["reach shed, loft", "firewalls"],
    );
    check(about, with(&[Answer::Unresolved]), Level::Warning, &["desk.local", "libnss-mdns"]);
    let plain = |host: &mut Host| {
        with(&[Answer::Unresolved])(host);
        host.others[0].address = "desk".to_owned();
    };
    check(about, plain, Level::Warning, &["/etc/hosts"]);
}

#[test]
fn findings_are_read_as_they_are_written() {
    let mut host = Host::new();
    host.facts.machine = "armv7l".into();
    let diagnosis = Diagnosis {
        hosts: vec![HostDiagnosis { host: "shed".into(), machine: None, findings: host.findings() }],
    };
    assert_eq!((diagnosis.count(Level::Error), diagnosis.count(Level::Warning)), (1, 0));
    let text = serde_json::to_string(&diagnosis).unwrap();
    assert!(
        text.contains(r#""about":"userland","level":"error","what":"#) && text.contains(r#""do":"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Diagnosis>(&text).unwrap(), diagnosis);
}
