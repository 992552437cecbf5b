//! The parser of what the probe prints. The host is not trusted: whatever comes, there
//! is an answer or an error, soon and in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::health::{Gpu, Health, Link, Medium, Throttled};
use super::host::{
    Board, Cpu, Disk, HostFacts, Installed, Lingering, Memory, Privilege, Supervision, UserManager,
};
use crate::terminal::is_plain;
use crate::units::Bytes;

/// The most that is read of a probe's output. A real one has 10 to 100 KiB.
pub(super) const MOST: usize = 4 << 20;
/// The longest text that becomes a fact; longer ones are cut.
const LONGEST: usize = 200;
/// The most flags of a processor that are kept. The longest list seen has about 200.
const MOST_FEATURES: usize = 512;

/// What the probe's output begins with, behind `@@ `.
const PROBE: &str = "bramble-probe 1";

/// Why the output of a probe is not facts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is more of it than any honest host prints.
    #[error(
        "the probe printed {bytes} bytes, more than the {MOST} that are read: check what the login's shell prints"
    )]
    TooLong {
        /// The size of the output.
        bytes: usize,
    },
    /// The probe did not start or did not end.
    #[error("the probe broke off: it printed no line `@@ {missing}`; run it again")]
    Truncated {
        /// The mark that is not there.
        missing: &'static str,
    },
    /// Something that no plan can be made without is missing.
    #[error("the probe could not find out the host's {what}: check that /proc is there and readable")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// `brambled inspect` is there and gave no usable answer.
    #[error(
        "what is installed there could not be read: `brambled inspect` gave no usable answer; run it on the host to see why"
    )]
    Installed {
        /// What is wrong with the answer.
        source: serde_json::Error,
    },
}

/// Reads what the probe's script printed on a host.
///
/// Lines before the first mark (a login's greeting) and keys that are not known are
/// passed over. Fails on output that is too long, broken off, or without machine or memory.
pub fn parse_probe(output: &[u8]) -> Result<HostFacts, Error> {
    if output.len() > MOST {
        return Err(Error::TooLong { bytes: output.len() });
    }
    let text = String::from_utf8_lossy(output);
    let printed = Printed::split(&text, PROBE)?;

    let machine = printed.value("machine").ok_or(Error::Missing { what: "machine" })?;
    let board_name = printed.value("model");
    Ok(HostFacts {
        cpu: cpu(&machine, &printed),
        machine,
        userland_bits: printed.number("bits").filter(|bits| matches!(bits, 32 | 64)),
        board: board_name.as_deref().and_then(Board::from_name),
        board_name,
        page_size: printed
            .number("page_size")
            .filter(|size| size.is_power_of_two() && (4096..=1 << 20).contains(size)),
        memory: memory(&printed).ok_or(Error::Missing { what: "memory" })?,
        disk: disk(&printed),
        glibc: printed.value("libc").as_deref().and_then(glibc),
        is_musl: printed.value("libc").is_some_and(|name| name == "musl"),
        os: os(&printed),
        supervision: supervision(&printed),
        user_manager: user_manager(&printed),
        root: printed.value("root").filter(|root| is_root(root)),
        memory_cgroup: memory_cgroup(&printed),
        health: health(&printed),
        gpus: gpus(&printed),
        has_render_group: printed.value("render_group").is_some(),
        link: link(&printed),
        reached: printed.value("reached").and_then(|address| address.parse().ok()),
        privilege: match printed.value("login").as_deref() {
            Some("root") => Privilege::Root,
            Some("sudo") => Privilege::Sudo,
            Some("password") => Privilege::SudoWithPassword,
            _ => Privilege::None,
        },
        lost: printed.value("lost").and_then(|number| number.parse().ok()),
        installed: installed(&printed)?,
    })
}

/// The output, cut at its marks. The first of two values or sections of one name counts.
pub(super) struct Printed<'a> {
    values: BTreeMap<&'a str, &'a str>,
    sections: BTreeMap<&'a str, &'a str>,
}

impl<'a> Printed<'a> {
    pub(super) fn split(text: &'a str, mark: &'static str) -> Result<Self, Error> {
        const END: &str = "\n@@ end\n";
        let missing = |missing| Error::Truncated { missing };
        let begin = format!("\n@@ {mark}\n");
        let start = text.find(&begin).ok_or(missing(mark))?;
        let body = &text[start + begin.len()..];
        let body = &body[..body.rfind("\n@@ done").ok_or(missing("done"))?];

        let mut printed = Self { values: BTreeMap::new(), sections: BTreeMap::new() };
        let mut at = 0;
        while at < body.len() {
            let end = body[at..].find('\n').map_or(body.len(), |n| at + n);
            let line = &body[at..end];
            at = (end + 1).min(body.len());
            if let Some(name) = line.strip_prefix("@@ begin ") {
                // from the line's own newline on: the mark may follow at once
                let inside = &body[end..];
                let close = inside.find(END).ok_or(missing("end"))?;
                printed.sections.entry(name.trim()).or_insert(inside[..close].trim_start_matches('\n'));
                at = end + close + END.len();
            } else if let Some((key, value)) = line.split_once('=') {
                printed.values.entry(key).or_insert(value);
            }
        }
        Ok(printed)
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        let text = clean(self.values.get(key)?);
        (!text.is_empty()).then_some(text)
    }

    fn number(&self, key: &str) -> Option<u32> {
        self.values.get(key)?.trim().parse().ok()
    }

    pub(super) fn section(&self, name: &str) -> Option<&'a str> {
        self.sections.get(name).copied()
    }

    /// Returns the value of the first `key: value` line of a section.
    fn field(&self, section: &str, key: &str) -> Option<&'a str> {
        field(self.section(section)?, key)
    }

    fn meminfo(&self, key: &str) -> Option<Bytes> {
        meminfo(self.section("meminfo")?, key)
    }
}

/// Returns the value of the first `key: value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// Returns the amount of a `Key:   1234 kB` line of `/proc/meminfo`.
pub fn meminfo(text: &str, key: &str) -> Option<Bytes> {
    let value = field(text, key)?;
    kib(value.strip_suffix("kB").unwrap_or(value).trim())
}

pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| is_plain(*c)).take(LONGEST).collect::<String>().trim().to_owned()
}

pub(super) fn kib(text: &str) -> Option<Bytes> {
    text.parse::<u64>().ok().map(|n| Bytes(n.saturating_mul(1024)))
}

fn cpu(machine: &str, printed: &Printed<'_>) -> Cpu {
    let field = |key| printed.field("cpuinfo", key);
    let flags = field("Features").or_else(|| field("flags")).unwrap_or_default();
    let is_flag = |flag: &&str| {
        flag.len() <= 32 && flag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    let features: BTreeSet<String> =
        flags.split_ascii_whitespace().filter(is_flag).take(MOST_FEATURES).map(str::to_owned).collect();
    let part = || field("CPU part");
    let model = || field("model name");
    let is_arm = machine.starts_with("aarch64") || machine.starts_with("arm");
    let name = if is_arm { part().or_else(model) } else { model().or_else(part) };
    let counted =
        || printed.section("cpuinfo")?.lines().filter(|l| l.starts_with("processor")).count().try_into().ok();
    Cpu {
        cores: printed.number("cores").or_else(counted).unwrap_or(1).clamp(1, 4096),
        features,
        model: name.map(clean).filter(|name| !name.is_empty()),
    }
}

fn memory(printed: &Printed<'_>) -> Option<Memory> {
    let total = printed.meminfo("MemTotal").filter(|total| *total > Bytes::ZERO)?;
    let available = printed.meminfo("MemAvailable")?.min(total);
    let mut memory = Memory { total, available, ..Memory::default() };
    // Filename  Type  Size  Used  Priority, under a line of headings
    for line in printed.section("swaps").unwrap_or_default().lines().skip(1) {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(size)) = (words.next(), words.nth(1).and_then(kib)) else { continue };
        if name.contains("zram") {
            memory.zram += size;
        } else {
            memory.swap += size;
        }
    }
    Some(memory)
}

/// Finds the four columns before the mount point in the last line of `df -P`, wherever
/// they are: names of filesystems may have spaces.
fn df_columns(printed: &Printed<'_>, section: &str) -> Option<(u64, u64)> {
    let line = printed.section(section)?.lines().rfind(|line| !line.trim().is_empty())?;
    let words: Vec<&str> = line.split_ascii_whitespace().take(64).collect();
    words.windows(4).find_map(|four| {
        let number = |at: usize| four[at].parse::<u64>().ok();
        let is_share = four[3].ends_with('%') || four[3] == "-";
        if is_share { Some((number(0)?, number(1).and(number(2))?)) } else { None }
    })
}

fn disk(printed: &Printed<'_>) -> Option<Disk> {
    let (total, free) = df_columns(printed, "df")?;
    Some(Disk {
        path: printed.value("disk_path")?,
        filesystem: printed.value("filesystem"),
        medium: printed.value("device").and_then(|device| {
            let rotational = printed.value("rotational");
            Medium::of(&device, rotational.map(|text| text == "1"))
        }),
        free: Bytes(free.saturating_mul(1024)),
        total: Bytes(total.saturating_mul(1024)),
        // vfat and btrfs count none
        inodes_free: df_columns(printed, "df_inodes").filter(|(all, _)| *all > 0).map(|(_, free)| free),
    })
}

fn health(printed: &Printed<'_>) -> Health {
    let millicelsius = printed.value("millicelsius").and_then(|text| text.parse::<i32>().ok());
    let throttled = printed.value("throttled").and_then(|text| {
        // vcgencmd writes 0x50005, the kernel's file 50005
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
    });
    Health {
        // what is outside of this is a sensor that is not there
        celsius: millicelsius.map(|n| f64::from(n) / 1000.0).filter(|c| (-40.0..=150.0).contains(c)),
        throttled: throttled.map(Throttled),
        clock_ahead: None,
    }
}

/// Returns when the host's clock said that it was, in seconds since 1970 and not before, for comparing it with another.
pub fn probe_clock(output: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(output.get(..MOST.min(output.len()))?);
    let seconds: i64 = Printed::split(&text, PROBE).ok()?.value("clock")?.parse().ok()?;
    (seconds >= 0).then_some(seconds)
}

/// The most graphics processors that are believed.
const MOST_GPUS: usize = 16;

/// Reads the cards that the kernel knows, and of NVIDIA's what their own tool says of them.
fn gpus(printed: &Printed<'_>) -> Vec<Gpu> {
    let lines = |name| printed.section(name).unwrap_or_default().lines().take(MOST_GPUS);
    let mut nvidia: Vec<Gpu> = lines("nvidia")
        .filter_map(|line| {
            let (mib, name) = line.split_once(',')?;
            let memory = mib.trim().parse::<u64>().ok().filter(|mib| *mib < 1 << 24).map(Bytes::mib);
            Some(Gpu { name: clean(name), memory })
        })
        .collect();
    let has_tool = !nvidia.is_empty();
    let known = lines("gpus").filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = match words.next()? {
            "0x10de" if has_tool => return None,
            "0x10de" => "NVIDIA",
            "0x1002" => "AMD",
            "0x8086" => "Intel",
            _ => return None,
        };
        let memory = words.next().and_then(|bytes| bytes.parse().ok()).map(Bytes);
        Some(Gpu { name: name.to_owned(), memory })
    });
    nvidia.extend(known);
    nvidia
}

fn link(printed: &Printed<'_>) -> Option<Link> {
    let is_wireless = printed.value("link_wireless").is_some();
    // an interface that is down or virtual says -1
    let megabits = printed.number("link_speed").filter(|n| (1..=1_000_000).contains(n));
    Some(Link { name: printed.value("link")?, is_wireless, megabits: megabits.filter(|_| !is_wireless) })
}

fn glibc(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn os(printed: &Printed<'_>) -> Option<String> {
    let line = printed.section("os_release")?.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let name = clean(line.trim().trim_matches(['"', '\'']));
    (!name.is_empty()).then_some(name)
}

fn supervision(printed: &Printed<'_>) -> Supervision {
    // "systemd 252 (252.39-1~deb12u1)"; without a systemctl that answers we cannot use it
    let version = printed.value("systemd").and_then(|line| {
        let number: String =
            line.strip_prefix("systemd ")?.chars().take_while(char::is_ascii_digit).take(6).collect();
        number.parse().ok()
    });
    let is_user = printed.value("user").is_some();
    version.map_or(Supervision::Process, |version| {
        if is_user { Supervision::SystemdUser { version } } else { Supervision::Systemd { version } }
    })
}

/// Reads what the login's own systemd does; nothing where root's is to be used.
fn user_manager(printed: &Printed<'_>) -> Option<UserManager> {
    Some(UserManager {
        login: printed.value("user")?,
        is_up: printed.value("user_manager").is_some(),
        lingering: match printed.value("linger").as_deref() {
            Some("yes") => Lingering::On,
            Some("allowed") => Lingering::Allowed,
            _ => Lingering::Off,
        },
        has_namespaces: printed.value("namespaces").is_some(),
    })
}

/// Whether a folder that a host names as Bramble's can be that: nothing else ends so by chance.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.ends_with("/bramble") && path.len() < LONGEST
}

/// Whether memory limits work: by the controllers of version 2, else by the list of all,
/// since under version 1 there is no file of controllers.
fn memory_cgroup(printed: &Printed<'_>) -> Option<bool> {
    let unified = printed.section("cgroup2").map(|line| line.split_ascii_whitespace().any(|w| w == "memory"));
    let listed = || {
        // #subsys_name  hierarchy  num_cgroups  enabled
        let lines = printed.section("cgroups")?;
        let row =
            lines.lines().find_map(|line| line.strip_prefix("memory")?.split_ascii_whitespace().nth(2))?;
        Some(row == "1")
    };
    unified.or_else(listed)
}

fn installed(printed: &Printed<'_>) -> Result<Option<Installed>, Error> {
    let Some(text) = printed.section("inspect") else { return Ok(None) };
    let wrong = |source| Error::Installed { source };
    let mut value: Value = serde_json::from_str(text.trim()).map_err(wrong)?;
    clean_json(&mut value);
    serde_json::from_value(value).map(Some).map_err(wrong)
}

/// Takes what is not plain out of every text. The parser of JSON has bounded the depth.
fn clean_json(value: &mut Value) {
    match value {
        Value::String(text) => text.retain(is_plain),
        Value::Array(items) => items.iter_mut().for_each(clean_json),
        Value::Object(fields) => {
            if fields.keys().any(|key| !key.chars().all(is_plain)) {
                let old = std::mem::take(fields);
                fields.extend(
                    old.into_iter().map(|(key, v)| (key.chars().filter(|c| is_plain(*c)).collect(), v)),
                );
            }
            fields.values_mut().for_each(clean_json);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
#[path = "parse_texts_tests.rs"]
mod texts_tests;
