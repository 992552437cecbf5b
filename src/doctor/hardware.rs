//! The machine: its power, its heat, and what weights lie on.

use super::{About, Finding, Patient, error, note, ok, warning};
use crate::facts::{Board, Medium};
use crate::units::Bytes;

/// Degrees at which a Raspberry Pi begins to clock itself lower.
const HOT: f64 = 80.0;
/// A card that reads less than a Pi 4's slot can, by half, is worn or a bad one.
const SLOW_CARD: f64 = 20e6;
/// Less room than this holds no program and no small model.
const NO_ROOM: Bytes = Bytes::mib(300);
/// Less room than this holds one generation of a small model and not a second.
const LITTLE_ROOM: Bytes = Bytes::gib(4);
/// Files that a generation may take, with room for a few.
const FEW_FILES: u64 = 1000;

pub(super) fn power(patient: &Patient<'_>) -> Option<Finding> {
    let about = About::Power;
    let Some(throttled) = patient.facts.health.throttled else {
        let is_pi = patient.facts.board.is_some();
        return is_pi
            .then(|| note(about, "the firmware does not say how it is (`vcgencmd get_throttled`)", None));
    };
    if !throttled.is_under_voltage() {
        return Some(ok(about, "enough since it was started"));
    }
    let when =
        if throttled.is_under_voltage_now() { "is too low" } else { "has been too low since it was started" };
    let supply = match patient.facts.board {
        Some(Board::Pi5) => "a supply for 5 V and 5 A",
        Some(Board::Pi4) => "a supply for 5.1 V and 3 A",
        _ => "a supply for 5.1 V and 2.5 A",
    };
    let what = format!("its voltage {when}: the processor is slowed, and a card may be damaged");
    Some(warning(
        about,
        what,
        format!("take {supply}, and a short cable; nothing that draws much on its USB ports"),
    ))
}

pub(super) fn heat(patient: &Patient<'_>) -> Option<Finding> {
    let (about, health) = (About::Heat, &patient.facts.health);
    let degrees = health.celsius.map(|degrees| format!("{degrees:.0} °C"));
    // too little voltage slows it, too, and is said already
    let (is_slowed, was_slowed) =
        health.throttled.map_or((false, false), |throttled| (throttled.is_hot_now(), throttled.is_hot()));
    let is_hot = health.celsius.is_some_and(|degrees| degrees >= HOT);
    let now = degrees.clone().map_or_else(String::new, |degrees| format!(" ({degrees} now)"));
    let advice = "give it a heat sink with a fan, and air";
    match (is_slowed || is_hot, was_slowed, degrees) {
        (true, _, _) => {
            Some(warning(about, format!("it is clocked lower for its heat, or soon will be{now}"), advice))
        }
        (false, true, _) => Some(warning(
            about,
            format!("it has been clocked lower for its heat since it was started{now}"),
            advice,
        )),
        (false, false, Some(degrees)) => Some(ok(about, degrees)),
        (false, false, None) => None,
    }
}

pub(super) fn governor(patient: &Patient<'_>) -> Option<Finding> {
    let (about, governor) = (About::Governor, patient.checkup.governor.as_deref()?);
    // on x86 that is the name for what follows the load
    let is_slow = governor == "powersave" && patient.facts.machine != "x86_64";
    Some(if is_slow {
        let advice = "`echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor`, and find what sets the other at boot";
        warning(about, "powersave: the processor stays at its lowest clock", advice)
    } else {
        ok(about, governor)
    })
}

pub(super) fn disk(patient: &Patient<'_>) -> Option<Finding> {
    let (about, checkup) = (About::Disk, patient.checkup);
    let disk = patient.facts.disk.as_ref()?;
    let path = &disk.path;
    if let Some((what, advice)) = patient.facts.forgets() {
        return Some(error(about, what, Some(advice.to_owned())));
    }
    if checkup.is_read_only {
        let advice = "look for why (`dmesg`): a card that fails is often made so; else mount it for writing";
        return Some(error(about, format!("nothing can be written at {path}"), Some(advice.to_owned())));
    }
    let more = "free some (`bramble prune`), or name a `dir` on a larger disk in the manifest";
    let room = format!("{} of {} free at {path}", disk.free, disk.total);
    if disk.free < NO_ROOM || disk.inodes_free.is_some_and(|files| files < FEW_FILES) {
        let files = match disk.inodes_free {
            Some(files) if files < FEW_FILES => format!(", and {files} more files can be made"),
            _ => String::new(),
        };
        return Some(error(about, format!("{room}{files}"), Some(more.to_owned())));
    }
    let measured = patient.facts.installed.as_ref().and_then(|installed| installed.bench.as_ref()?.storage);
    let read = checkup.read.or(measured.map(|storage| storage.read));
    let medium = disk.medium.map_or("a disk", Medium::word);
    let speed = read.map_or_else(String::new, |read| {
        let seconds = Bytes::gib(1).0 as f64 / read.0.max(1.0);
        format!(", reads {read}: {} for 1 GiB of weights", duration(seconds))
    });
    let what = format!("{medium}{speed}; {room}");
    if disk.free < LITTLE_ROOM {
        return Some(warning(about, what, more));
    }
    let is_card = disk.medium == Some(Medium::Card);
    Some(match read {
        Some(read) if is_card && read.0 < SLOW_CARD => warning(
            about,
            what,
            "take another card (class A1 or A2), or a disk on USB 3 or PCI Express: engines load as fast as it reads",
        ),
        _ if is_card => note(
            about,
            what,
            Some("a disk on USB 3 or PCI Express loads several times as fast, and lasts longer"),
        ),
        _ => ok(about, what),
    })
}

pub(super) fn swap(patient: &Patient<'_>) -> Finding {
    let (about, memory) = (About::Swap, &patient.facts.memory);
    let is_card = patient.facts.disk.as_ref().is_some_and(|disk| disk.medium == Some(Medium::Card));
    let zram = if memory.zram > Bytes::ZERO {
        format!("{} in compressed memory, which is no room for weights", memory.zram)
    } else {
        String::new()
    };
    if memory.swap == Bytes::ZERO {
        return ok(about, if zram.is_empty() { "none".to_owned() } else { zram });
    }
    let with_zram = if zram.is_empty() { zram } else { format!("; {zram}") };
    let what = format!("{} on disk, {} of it in use{with_zram}", memory.swap, patient.checkup.swapped);
    // a few pages that were never needed again are no sign of want
    let is_wanting = patient.checkup.swapped > Bytes::mib(64);
    match (is_card, is_wanting) {
        (true, true) => warning(
            about,
            format!("{what}: an SD card is slow at that, and wears out"),
            "free memory there, or take compressed memory in its place (`sudo apt install zram-tools`, and remove the file)",
        ),
        (false, true) => warning(about, what, "free memory there: what is swapped out comes back slowly"),
        (_, false) => ok(about, what),
    }
}

/// Shows a time: `0.8 s`, `25 s`, `4 min`.
fn duration(seconds: f64) -> String {
    match seconds {
        ..9.95 => format!("{seconds:.1} s"),
        ..99.5 => format!("{seconds:.0} s"),
        _ => format!("{:.0} min", seconds / 60.0),
    }
}
