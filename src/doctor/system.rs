//! The system: what runs programs, and what it lets them do.

use super::{About, Finding, Patient, error, note, ok, warning};
use crate::facts::{Lingering, Privilege, Process, Supervision};
use crate::units::Bytes;

/// A clock this many seconds off is worth a word: it is `status`'s figure, too.
const CLOCK: i64 = 120;
/// With less of the memory available, others have most of it.
const MOST_FREE: f64 = 0.6;
/// Less than this leaves room for the smallest models alone.
const LITTLE: Bytes = Bytes::mib(400);
/// Programs with less are not worth their name.
const WORTH_A_NAME: Bytes = Bytes::mib(48);
/// Programs of a desktop session as Raspberry Pi OS and Ubuntu start it.
const SESSION: [&str; 9] =
    ["Xorg", "Xwayland", "labwc", "wayfire", "lightdm", "gdm3", "gnome-shell", "lxpanel", "wf-panel-pi"];

pub(super) fn sudo(patient: &Patient<'_>) -> Finding {
    let about = About::Sudo;
    match patient.facts.privilege {
        Privilege::Root => ok(about, "the login is root"),
        Privilege::Sudo => ok(about, "the login may become root without a password"),
        Privilege::SudoWithPassword => {
            note(about, "sudo wants a password, which is asked for once in each run", None)
        }
        Privilege::None => note(
            about,
            "the login may not become root: Bramble is installed for it alone",
            Some(
                "for a service of the system, let it use sudo: `sudo usermod -aG sudo LOGIN`, as somebody who may",
            ),
        ),
    }
}

pub(super) fn userland(patient: &Patient<'_>) -> Finding {
    let (about, facts) = (About::Userland, patient.facts);
    let is_pc = facts.machine == "x86_64";
    let systems = if is_pc { "Debian or Ubuntu" } else { "Raspberry Pi OS or Debian" };
    let fresh = format!(
        "write a 64-bit {systems} to its disk: a system cannot be changed from 32 to 64 bits in place"
    );
    let machine = &facts.machine;
    if !matches!(machine.as_str(), "aarch64" | "x86_64") {
        let advice = machine.starts_with("armv").then_some(fresh);
        return error(
            about,
            format!("its kernel is for {machine}, and bundles are for aarch64 and x86_64"),
            advice,
        );
    }
    if facts.userland_bits == Some(32) {
        let what =
            format!("its kernel is for {machine}, and its programs have 32 bits: none of ours runs there");
        return error(about, what, Some(fresh));
    }
    if facts.is_musl {
        let advice = format!("install a system with glibc, such as {systems}");
        return error(about, "its C library is musl, and bundles need glibc", Some(advice));
    }
    if let Some((what, advice)) = patient.no_bundle {
        return error(about, format!("it {what}"), Some(advice.to_owned()));
    }
    let bits = facts.userland_bits.map_or_else(String::new, |bits| format!(", {bits} bits"));
    let Some((major, minor)) = facts.glibc else {
        return note(about, format!("{machine}{bits}; its C library is not known"), None);
    };
    match patient.glibc_needed {
        Some(needed) if needed > (major, minor) => error(
            about,
            format!("its glibc is {major}.{minor}, and the bundle needs {}.{}", needed.0, needed.1),
            Some("update the host, or make the bundle anew with `scripts/bundle TARGET`, which needs what Debian 12 has".to_owned()),
        ),
        _ => ok(about, format!("{machine}{bits}, glibc {major}.{minor}")),
    }
}

pub(super) fn pages(patient: &Patient<'_>) -> Option<Finding> {
    let (about, size) = (About::Pages, patient.facts.page_size?);
    let kib = size / 1024;
    Some(match size {
        4096 => ok(about, "pages of 4 KiB"),
        16384 => ok(about, "pages of 16 KiB, which Bramble's programs are made for"),
        _ => note(
            about,
            format!("pages of {kib} KiB, which nothing of ours was tried with"),
            Some("where an engine does not start, take a kernel with pages of 4 or 16 KiB"),
        ),
    })
}

pub(super) fn services(patient: &Patient<'_>) -> Finding {
    let (about, facts) = (About::Services, patient.facts);
    match (facts.supervision, &facts.user_manager) {
        (Supervision::Systemd { version }, _) => ok(about, format!("systemd {version}")),
        (Supervision::SystemdUser { version }, Some(manager)) if !manager.is_up => error(
            about,
            format!("systemd {version} runs, and the login's own manager does not answer"),
            Some(format!("`sudo loginctl enable-linger {}`, then log in anew", manager.login)),
        ),
        (Supervision::SystemdUser { version }, Some(manager)) => match manager.lingering {
            Lingering::On => ok(about, format!("systemd {version}, the login's own; it starts at boot")),
            Lingering::Allowed => {
                ok(about, format!("systemd {version}, the login's own; apply has it start at boot"))
            }
            Lingering::Off => warning(
                about,
                format!(
                    "systemd {version}, the login's own, which ends with its logins and does not start at boot"
                ),
                format!("`sudo loginctl enable-linger {}`, once", manager.login),
            ),
        },
        (Supervision::SystemdUser { version }, None) => {
            ok(about, format!("systemd {version}, the login's own"))
        }
        (Supervision::Process, _) => warning(
            about,
            "systemd does not run: nothing starts Bramble at boot",
            "say `supervisor: process` and a `dir` for it in the manifest, or take a system with systemd",
        ),
    }
}

pub(super) fn cgroup(patient: &Patient<'_>) -> Option<Finding> {
    let (about, checkup) = (About::Cgroup, patient.checkup);
    if patient.facts.memory_cgroup? {
        return Some(ok(about, "memory can be limited"));
    }
    let what = "memory cannot be limited: an engine that grows has the kernel end other programs";
    let is_login = matches!(patient.facts.supervision, Supervision::SystemdUser { .. });
    let advice = match (&checkup.cmdline_file, checkup.is_cgroup_disabled) {
        (Some(file), _) if patient.facts.board.is_some() && !is_login => {
            format!("add `cgroup_enable=memory` to the one line of {file}, and reboot")
        }
        (_, true) => "take `cgroup_disable=memory` off the kernel's command line, and reboot".to_owned(),
        _ if is_login => {
            "hand it down to logins: `Delegate=memory pids` in `sudo systemctl edit user@.service`".to_owned()
        }
        _ => "start the kernel with `cgroup_enable=memory`".to_owned(),
    };
    Some(warning(about, what, advice))
}

pub(super) fn memory(patient: &Patient<'_>) -> Finding {
    let (about, memory) = (About::Memory, &patient.facts.memory);
    let ours = patient.facts.installed.as_ref().map_or(Bytes::ZERO, |installed| installed.memory);
    let free = Bytes((memory.available.0 + ours.0).min(memory.total.0));
    // our own are counted as free: an apply ends them
    let others: Vec<&Process> = patient
        .checkup
        .processes
        .iter()
        .filter(|process| process.name != "brambled" && process.memory >= WORTH_A_NAME)
        .collect();
    let most = others.iter().take(3).map(|process| format!("{} {}", process.name, process.memory));
    let most = most.collect::<Vec<_>>().join(", ");
    let mut what = format!("{free} of {} is free for models", memory.total);
    if !most.is_empty() {
        what.push_str("; most of the rest has ");
        what.push_str(&most);
    }
    let session = patient.checkup.processes.iter().find(|process| SESSION.contains(&process.name.as_str()));
    if let (Some(session), Some(_)) = (session, patient.facts.board) {
        return warning(
            about,
            format!("{what}; a desktop session runs ({})", session.name),
            "if nobody sits there: `sudo systemctl set-default multi-user.target`, and reboot",
        );
    }
    let is_little = free < LITTLE || (free.0 as f64) < memory.total.0 as f64 * (1.0 - MOST_FREE);
    if is_little {
        let advice = if most.is_empty() {
            "take a smaller model (`bramble fit MODEL`), or a board with more memory"
        } else {
            "end what is not needed there, or take a smaller model (`bramble fit MODEL`)"
        };
        warning(about, what, advice)
    } else {
        ok(about, what)
    }
}

pub(super) fn clock(patient: &Patient<'_>) -> Option<Finding> {
    let (about, checkup) = (About::Clock, patient.checkup);
    let ahead = patient.facts.health.clock_ahead;
    let advice = "let it set its time: `sudo timedatectl set-ntp true`";
    if let Some(off) = ahead.filter(|off| off.abs() > CLOCK) {
        let word = if off > 0 { "ahead of" } else { "behind" };
        return Some(warning(about, format!("{} s {word} this machine's", off.abs()), advice));
    }
    match checkup.is_synchronized {
        Some(true) => Some(ok(about, "follows a time server")),
        Some(false) => Some(note(about, "right by now, and follows no time server", Some(advice))),
        None => ahead.map(|_| ok(about, "as this machine's")),
    }
}
