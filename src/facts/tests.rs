use proptest::prelude::*;

use super::*;
use crate::ids::Digest;
use crate::units::{Bytes, BytesPerSec, TokensPerSec};

fn section(name: &str, text: &str) -> String {
    format!("\n@@ begin {name}\n{text}\n\n@@ end\n")
}

fn printed(values: &str, sections: &[(&str, &str)]) -> String {
    let sections: String = sections.iter().map(|(name, text)| section(name, text)).collect();
    format!("Welcome!\n\n@@ bramble-probe 1\n{values}\n{sections}\n@@ done\n")
}

const MEMINFO: &str = "MemTotal:         931008 kB\nMemFree:          100000 kB\nMemAvailable:     225280 kB\nSwapTotal: 524284 kB";

fn pi4() -> String {
    printed(
        "machine=aarch64\nbits=64\npage_size=4096\nlibc=glibc 2.36\nmodel=Raspberry Pi 4 Model B Rev 1.5\ncores=4\nclock=1795437749\nlogin=sudo\nsystemd=systemd 252 (252.39-1~deb12u1)\ndisk_path=/var/lib\nnew_key=whatever",
        &[
            (
                "cpuinfo",
                "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nprocessor\t: 1\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5",
            ),
            ("meminfo", MEMINFO),
            (
                "swaps",
                "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/var/swap                               file\t\t524284\t\t0\t\t-2",
            ),
            (
                "df",
                "Filesystem     1024-blocks    Used Available Capacity Mounted on\n/dev/mmcblk0p2    30338776 2613140  26466484      10% /",
            ),
            (
                "df_inodes",
                "Filesystem      Inodes IUsed   IFree IUse% Mounted on\n/dev/mmcblk0p2 1905792 60000 1845792    4% /",
            ),
            ("os_release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\""),
            ("cgroup2", "cpuset cpu io pids"),
            ("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t80\t0"),
        ],
    )
}

fn pi5() -> String {
    printed(
        "machine=aarch64\nbits=64\npage_size=16384\nlibc=glibc 2.41\nmodel=Raspberry Pi 5 Model B Rev 1.0\ncores=4\nlogin=root\nsystemd=systemd 257 (257.8-1~deb13u1)\ndisk_path=/",
        &[
            (
                "cpuinfo",
                "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU part\t: 0xd0b",
            ),
            ("meminfo", "MemTotal:        8256000 kB\nMemAvailable:    7300000 kB"),
            ("swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 2097136 0 100"),
            (
                "df",
                "Filesystem 1024-blocks Used Available Capacity Mounted on\n//nas/my share 100 40 60 40% /mnt/with space",
            ),
            (
                "df_inodes",
                "Filesystem Inodes IUsed IFree IUse% Mounted on\n//nas/my share 0 0 0 - /mnt/with space",
            ),
            ("cgroup2", "cpuset cpu io memory pids"),
        ],
    )
}

#[test]
fn a_pi_4_is_read() {
    let facts = parse_probe(pi4().as_bytes()).unwrap();
    assert_eq!(facts.board, Some(Board::Pi4));
    assert_eq!(facts.cpu.cores, 4);
    assert_eq!(facts.cpu.model.as_deref(), Some("0xd08"));
    assert!(!facts.cpu.features.contains("asimddp"));
    assert_eq!(facts.memory.total, Bytes::kib(931_008));
    assert_eq!(facts.memory.available, Bytes::mib(220));
    assert_eq!(facts.memory.swap, Bytes::kib(524_284));
    assert_eq!(facts.memory.zram, Bytes::ZERO);
    let disk = facts.disk.unwrap();
    assert_eq!((disk.free, disk.inodes_free), (Bytes::kib(26_466_484), Some(1_845_792)));
    assert_eq!(facts.glibc, Some((2, 36)));
    assert_eq!(facts.os.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
    assert_eq!(facts.supervision, Supervision::Systemd { version: 252 });
    assert_eq!(facts.memory_cgroup, Some(false));
    assert_eq!(facts.privilege, Privilege::Sudo);
    assert_eq!(facts.installed, None);
}

#[test]
fn a_login_without_root_has_a_systemd_and_a_folder_of_its_own() {
    let values = "machine=aarch64\nlogin=none\nsystemd=systemd 257 (257.8-1~deb13u1)\nuser=ann\nuser_manager=257.8\nlinger=allowed\nnamespaces=1\nroot=/home/ann/.local/share/bramble";
    let facts = parse_probe(printed(values, &[("meminfo", MEMINFO)]).as_bytes()).unwrap();
    assert_eq!(facts.supervision, Supervision::SystemdUser { version: 257 });
    assert_eq!(facts.root.as_deref(), Some("/home/ann/.local/share/bramble"));
    assert_eq!(facts.memory_cgroup, None, "what is not handed down to it does not limit it");
    let manager = |is_up, lingering, has_namespaces| {
        Some(UserManager { login: "ann".to_owned(), is_up, lingering, has_namespaces })
    };
    assert_eq!(facts.user_manager, manager(true, Lingering::Allowed, true));
    // of a folder that cannot be Bramble's, nothing is believed
    let values = values
        .replace("user_manager=257.8\nlinger=allowed\nnamespaces=1", "user_manager=")
        .replace("/home/ann/.local/share/bramble", "/etc");
    let facts = parse_probe(printed(&values, &[("meminfo", MEMINFO)]).as_bytes()).unwrap();
    assert_eq!((facts.user_manager, facts.root), (manager(false, Lingering::Off, false), None));
}

#[test]
fn a_pi_5_with_big_pages_and_compressed_swap_is_read() {
    let facts = parse_probe(pi5().as_bytes()).unwrap();
    assert_eq!((facts.board, facts.page_size), (Some(Board::Pi5), Some(16384)));
    assert!(facts.cpu.features.contains("asimddp"));
    assert_eq!((facts.memory.swap, facts.memory.zram), (Bytes::ZERO, Bytes::kib(2_097_136)));
    let disk = facts.disk.unwrap();
    assert_eq!((disk.total, disk.free, disk.inodes_free), (Bytes::kib(100), Bytes::kib(60), None));
    assert_eq!(facts.memory_cgroup, Some(true));
}

#[test]
fn a_desktop_without_systemd_is_read() {
    let text = printed(
        "machine=x86_64\nbits=\npage_size=4095\nlibc=\ncores=16\nlogin=none\ndisk_path=/home",
        &[
            (
                "cpuinfo",
                "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD Ryzen 7\nflags\t\t: fpu sse2 avx2 avx512f",
            ),
            ("meminfo", "MemTotal: 32000000 kB\nMemAvailable: 99000000 kB"),
            ("cgroups", "#subsys_name hierarchy num_cgroups enabled\ncpu 1 2 1\nmemory 9 80 1"),
        ],
    );
    let facts = parse_probe(text.as_bytes()).unwrap();
    assert_eq!(facts.cpu.model.as_deref(), Some("AMD Ryzen 7"));
    assert_eq!((facts.board, facts.userland_bits, facts.page_size), (None, None, None));
    assert_eq!(facts.memory.available, facts.memory.total);
    assert_eq!(facts.supervision, Supervision::Process);
    assert_eq!((facts.disk, facts.glibc), (None, None));
    // version 1 has no file of controllers
    assert_eq!(facts.memory_cgroup, Some(true));
}

#[test]
fn musl_is_told_from_a_library_that_did_not_say_what_it_is() {
    for (said, is_musl) in [("musl", true), ("", false), ("glibc 2.36", false)] {
        let text = pi4().replace("libc=glibc 2.36", &format!("libc={said}"));
        let facts = parse_probe(text.as_bytes()).unwrap();
        assert_eq!((facts.is_musl, facts.glibc.is_some()), (is_musl, said.starts_with("glibc")));
    }
}

#[test]
fn what_no_plan_can_do_without_is_an_error() {
    let no_machine = pi4().replace("machine=aarch64", "machine=");
    let no_memory = pi4().replace("MemAvailable", "MemOther");
    for (text, what) in [(no_machine, "machine"), (no_memory, "memory")] {
        assert!(matches!(parse_probe(text.as_bytes()), Err(Error::Missing { what: w }) if w == what));
    }
    let text = pi4();
    let cut = &text[..text.len() - 10];
    assert!(matches!(parse_probe(cut.as_bytes()), Err(Error::Truncated { missing: "done" })));
    assert!(matches!(parse_probe(b""), Err(Error::Truncated { .. })));
    assert!(matches!(parse_probe(&vec![b'x'; 5 << 20]), Err(Error::TooLong { .. })));
}

#[test]
fn no_control_character_of_a_host_gets_into_its_facts() {
    let long = "y".repeat(100_000);
    let text = pi4()
        .replace(
            "Raspberry Pi 4 Model B Rev 1.5",
            "Raspberry Pi 4\u{1b}[2J\u{1b}]0;pwned\u{7}\u{0}\u{202e} Model B",
        )
        .replace("machine=aarch64", &format!("machine=aarch64{long}"))
        .replace("bookworm", "book\u{9b}worm")
        .replace("crc32 cpuid", "crc32 cpuid e\u{1b}vil $(reboot)");
    let json = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{"ro\u001bute":"running"},"memory":0,"drift":["bad\u001b[31m file\u0000"]}"#;
    let text = text.replace("\n@@ done", &format!("{}\n@@ done", section("inspect", json)));
    let facts = parse_probe(text.as_bytes()).unwrap();
    assert_eq!(facts.board_name.as_deref(), Some("Raspberry Pi 4[2J]0;pwned Model B"));
    assert_eq!(facts.machine.len(), 200);
    assert_eq!(facts.cpu.features.len(), 5);
    let installed = facts.installed.as_ref().unwrap();
    assert_eq!(installed.drift, ["bad[31m file"]);
    assert_eq!(installed.services.keys().collect::<Vec<_>>(), ["route"]);
    let shown = serde_json::to_string(&facts).unwrap();
    assert!(!shown.contains("\\u00") && !shown.chars().any(char::is_control));
}

#[test]
fn deep_json_is_an_error_and_not_the_end() {
    let deep = "[".repeat(200_000);
    let text = pi4().replace("\n@@ done", &format!("{}\n@@ done", section("inspect", &deep)));
    assert!(matches!(parse_probe(text.as_bytes()), Err(Error::Installed { .. })));
}

#[test]
fn boards_are_known_by_the_names_of_their_firmware() {
    let cases = [
        ("Raspberry Pi 5 Model B Rev 1.0", Some(Board::Pi5)),
        ("Raspberry Pi 500 Rev 1.0", Some(Board::Pi5)),
        ("Raspberry Pi Compute Module 5 Rev 1.0", Some(Board::Pi5)),
        ("Raspberry Pi 4 Model B Rev 1.1", Some(Board::Pi4)),
        ("Raspberry Pi 400 Rev 1.0", Some(Board::Pi4)),
        ("Raspberry Pi Compute Module 4S Rev 1.0", Some(Board::Pi4)),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", Some(Board::Pi3)),
        ("Raspberry Pi Zero 2 W Rev 1.0", Some(Board::PiZero2W)),
        ("Raspberry Pi Zero W Rev 1.1", None),
        ("Raspberry Pi 2 Model B Rev 1.1", None),
        ("Raspberry Pi Model B Rev 2", None),
        ("Raspberry Pi 6", None),
        ("Raspberry Pi ", None),
        ("ASUS TUF", None),
    ];
    for (name, board) in cases {
        assert_eq!(Board::from_name(name), board, "{name}");
    }
}

#[test]
fn a_board_that_is_not_bought_yet_has_facts() {
    for name in planned_names() {
        let facts = planned(name).unwrap();
        assert!(facts.memory.available < facts.memory.total, "{name}");
        let has_dot_product = facts.cpu.features.contains("asimddp");
        assert_eq!(has_dot_product, facts.board == Some(Board::Pi5), "{name}");
    }
    assert_eq!(planned("pi6-64gb"), None);
}

/// Reading 10^9 bytes of a type that every board knows.
fn reading() -> Terms {
    [(Term::weights("Q4_K"), 1e9)].into()
}

fn bench(memory: Option<MemoryBench>, engines: Vec<EngineBench>) -> Installed {
    let installed = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{},"memory":0,"drift":[]}"#;
    let installed: Installed = serde_json::from_str(installed).unwrap();
    let bench = Bench { format: Bench::FORMAT, memory, storage: None, engines, notes: Vec::new() };
    Installed { bench: Some(bench), ..installed }
}

#[test]
fn an_unknown_machine_gets_a_wide_prior() {
    let mut host = planned("pi4-4gb").unwrap();
    let known = Rates::of(&host);
    host.board = None;
    let unknown = Rates::of(&host);
    assert_eq!((known.basis, unknown.basis), (Basis::Calibrated, Basis::Unknown));
    let width = |rates: &Rates| {
        let spread = rates.spread(Phase::Answer, &reading());
        spread.fast / spread.slow
    };
    assert!(width(&unknown) > 5.0 * width(&known));
}

#[test]
fn a_stated_bandwidth_makes_an_unknown_speed_an_estimate() {
    let stated = |bandwidth| Stated { board: "desktop".into(), memory: Some(Bytes::gib(28)), bandwidth };
    let rates = |bandwidth| Rates::of(&stated(bandwidth).facts().unwrap());
    let (unknown, slow, fast) = (rates(None), rates(Some(BytesPerSec(20e9))), rates(Some(BytesPerSec(40e9))));
    assert_eq!((unknown.basis, slow.basis, fast.basis), (Basis::Unknown, Basis::Estimated, Basis::Estimated));
    let seconds = |rates: &Rates| rates.seconds(Phase::Answer, &reading());
    assert!((seconds(&slow) / seconds(&fast) - 2.0).abs() < 1e-9);
    // 10^9 bytes at three quarters of 20 GB/s, but for what the type differs from all types
    assert!((seconds(&slow) * 15.0 - 1.0).abs() < 0.2, "{}", seconds(&slow));
}

#[test]
fn a_disk_other_than_the_boards_usual_one_loads_as_such_disks_do() {
    let storage = |medium| {
        let mut host = planned("pi5-8gb").unwrap();
        let (free, total) = (Bytes::gib(100), Bytes::gib(120));
        host.disk = Some(Disk { path: "/".into(), filesystem: None, free, total, medium, inodes_free: None });
        Rates::of(&host).storage
    };
    assert_eq!(storage(None), storage(Some(Medium::Card)));
    assert_eq!(storage(Some(Medium::Nvme)), BytesPerSec(416e6));
    assert!(storage(Some(Medium::Spinning)).0 < storage(Some(Medium::Usb)).0);
}

#[test]
fn a_type_that_no_run_has_gets_a_wider_range() {
    let rates = Rates::of(&planned("pi4-4gb").unwrap());
    let width = |name: &str| {
        let spread = rates.spread(Phase::Answer, &[(Term::weights(name), 1e9)].into());
        spread.fast / spread.slow
    };
    assert!(width("IQ1_S") > 1.5 * width("Q4_K"));
}

/// An engine that was measured at these rates.
fn measured(prompt: TokensPerSec, answer: TokensPerSec) -> EngineBench {
    EngineBench {
        model: "chat".parse().unwrap(),
        recipe: Digest::of(b"chat"),
        threads: 4,
        repack: false,
        prompt_tokens: 100,
        prompt,
        answer_tokens: 20,
        answer,
        work: Work { answer: reading(), prompt: reading(), attention: 0.0 },
        text: None,
    }
}

#[test]
fn an_engine_that_was_measured_scales_every_model_and_narrows_the_range() {
    let mut host = planned("pi5-8gb").unwrap();
    let plain = Rates::of(&host);
    let rate = |seconds: f64| TokensPerSec(1.0 / seconds);
    let engine = measured(
        rate(plain.seconds(Phase::Prompt, &reading())),
        // a fifth slower than the board's
        rate(1.25 * plain.seconds(Phase::Answer, &reading())),
    );
    host.installed = Some(bench(None, vec![engine]));
    let scaled = Rates::of(&host);
    let other: Terms = [(Term::weights("Q8_0"), 3e9), (Term::Layer, 32.0)].into();
    let slower = scaled.seconds(Phase::Answer, &other) / plain.seconds(Phase::Answer, &other);
    assert!((slower - 1.25).abs() < 1e-9, "{slower}");
    let same = scaled.seconds(Phase::Prompt, &reading()) / plain.seconds(Phase::Prompt, &reading());
    assert!((same - 1.0).abs() < 1e-9, "{same}");
    let (narrow, wide) = (scaled.spread(Phase::Answer, &other), plain.spread(Phase::Answer, &other));
    assert!(narrow.fast / narrow.slow < wide.fast / wide.slow, "{narrow:?} {wide:?}");
}

#[test]
fn memory_that_was_measured_is_a_ceiling_on_a_pi_and_a_hint_elsewhere() {
    let memory = |gigabytes: f64| MemoryBench {
        read: BytesPerSec(gigabytes * 1e9),
        buffer: Bytes::mib(256),
        threads: 4,
    };
    let work = Work { answer: reading(), ..Work::default() };
    let mut pi = planned("pi5-8gb").unwrap();
    let before = Rates::of(&pi);
    pi.installed = Some(bench(Some(memory(5.0)), vec![]));
    let after = Rates::of(&pi);
    let seconds = |rates: &Rates| rates.seconds(Phase::Answer, &reading());
    assert!((seconds(&after) - seconds(&before)).abs() < 1e-12);
    assert_eq!((before.least_seconds(&work), after.least_seconds(&work)), (None, Some(0.2)));

    let mut desk = pi;
    desk.board = None;
    let seconds = |gigabytes: f64| {
        let installed = Some(bench(Some(memory(gigabytes)), vec![]));
        Rates::of(&HostFacts { installed, ..desk.clone() }).seconds(Phase::Answer, &reading())
    };
    assert!((seconds(20.0) / seconds(40.0) - 2.0).abs() < 1e-9);
    assert!(seconds(40.0) > 1.0 / 40.0, "nothing is read faster than memory gives it");
}

#[test]
fn figures_that_cannot_have_been_measured_change_nothing() {
    let mut desk = planned("pi5-8gb").unwrap();
    desk.board = None;
    let plain = Rates::of(&desk);
    for figure in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320, 1.7e308] {
        let (read, rate) = (BytesPerSec(figure), TokensPerSec(figure));
        let memory = MemoryBench { read, buffer: Bytes::mib(256), threads: 4 };
        let mut installed = bench(Some(memory), vec![measured(rate, rate)]);
        installed.bench.as_mut().unwrap().storage = Some(StorageBench { read, bytes: Bytes::mib(16) });
        let rates = Rates::of(&HostFacts { installed: Some(installed), ..desk.clone() });
        assert_eq!(rates, plain, "{figure}");
    }
}

#[test]
fn an_answer_from_before_there_was_a_bench_still_parses() {
    let old = r#"{"current":null,"pending":null,"generations":[],"blobs":{},"programs":[],"partials":{},"services":{},"memory":7,"drift":[]}"#;
    let installed: Installed = serde_json::from_str(old).unwrap();
    assert_eq!(installed.bench, None);
    assert_eq!(serde_json::to_string(&installed).unwrap(), old);
    let with = bench(None, vec![]);
    let text = serde_json::to_string(&with).unwrap();
    assert_eq!(serde_json::from_str::<Installed>(&text).unwrap(), with);
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse_probe(&bytes);
    }

    #[test]
    fn a_mangled_output_gives_clean_facts_or_an_error(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40)
    ) {
        let mut bytes = pi4().into_bytes();
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(facts) = parse_probe(&bytes) {
            prop_assert!(facts.memory.available <= facts.memory.total);
            let shown = serde_json::to_string(&facts).unwrap();
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}

#[test]
fn how_a_host_is_and_what_else_is_in_it_is_read() {
    let text = printed(
        "machine=x86_64\nclock=1795437749\nmillicelsius=81250\nthrottled=0x50005\nlink=wlan0\nlink_speed=-1\nlink_wireless=1\ndisk_path=/\ndevice=/sys/devices/platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/mmcblk0p2\nrotational=0",
        &[
            ("meminfo", MEMINFO),
            ("df", "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/root 100 40 60 40% /"),
            ("gpus", "0x10de \n0x1002 17163091968\n0x1af4 \n"),
            ("nvidia", "24576, NVIDIA GeForce RTX 3090\n"),
        ],
    );
    let facts = parse_probe(text.as_bytes()).unwrap();
    assert_eq!(facts.health.celsius, Some(81.25));
    let throttled = facts.health.throttled.unwrap();
    assert!(throttled.is_under_voltage() && throttled.is_slowed());
    assert_eq!(probe_clock(text.as_bytes()), Some(1_795_437_749));
    let link = Link { name: "wlan0".to_owned(), is_wireless: true, megabits: None };
    assert_eq!(facts.link, Some(link));
    assert_eq!(facts.disk.unwrap().medium, Some(Medium::Card));
    let gpus: Vec<_> = facts.gpus.iter().map(|gpu| (gpu.name.as_str(), gpu.memory)).collect();
    assert_eq!(
        gpus,
        [("NVIDIA GeForce RTX 3090", Some(Bytes::mib(24576))), ("AMD", Some(Bytes(17_163_091_968)))]
    );

    // the kernel's own form, bits of before only, a cable
    let text = printed(
        "machine=aarch64\nmillicelsius=999999\nthrottled=20000\nlink=eth0\nlink_speed=1000\nreached=192.168.1.21",
        &[("meminfo", MEMINFO)],
    );
    let facts = parse_probe(text.as_bytes()).unwrap();
    assert_eq!(facts.health.celsius, None);
    let throttled = facts.health.throttled.unwrap();
    assert!(!throttled.is_under_voltage() && throttled.is_slowed());
    assert_eq!(facts.link.map(|link| link.megabits), Some(Some(1000)));
    assert_eq!(facts.reached, Some([192, 168, 1, 21].into()));

    // unknown stays unknown
    let bare =
        parse_probe(printed("machine=aarch64\nthrottled=\nlink=\n", &[("meminfo", MEMINFO)]).as_bytes())
            .unwrap();
    assert_eq!((bare.health, bare.gpus, bare.link), (Health::default(), vec![], None));
}

#[test]
fn a_disk_is_known_by_its_path_in_the_kernel() {
    let of = |path: &str, spins| Medium::of(path, spins);
    let pci = "/sys/devices/platform/axi/1000110000.pcie/pci0000:00/0000:00:00.0/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p2";
    assert_eq!(of(pci, Some(false)), Some(Medium::Nvme));
    let usb = "/sys/devices/platform/scb/fd500000.pcie/pci0000:00/0000:01:00.0/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1";
    assert_eq!(of(usb, Some(true)), Some(Medium::Usb));
    let sata = "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1";
    assert_eq!(of(sata, Some(true)), Some(Medium::Spinning));
    assert_eq!(of(sata, Some(false)), Some(Medium::Ssd));
    assert_eq!(of("/sys/devices/virtual/block/dm-0", Some(false)), None);
}

#[test]
fn a_clock_of_before_1970_is_none() {
    let at = |clock: i64| {
        let text = printed(&format!("machine=aarch64\nclock={clock}"), &[("meminfo", MEMINFO)]);
        probe_clock(text.as_bytes())
    };
    assert_eq!([at(7), at(-7), at(i64::MIN)], [Some(7), None, None]);
}
