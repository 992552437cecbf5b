//! What a host is looked at for when somebody asks what to do about it, and no plan needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::parse::{Error, MOST, Printed, clean, kib};
use crate::units::{Bytes, BytesPerSec};

/// The most programs that are kept, those with most memory.
const MOST_PROCESSES: usize = 20;
/// The most ports, or ranges of ports, that are kept.
const MOST_PORTS: usize = 1000;
/// The most places that a host is asked whether it reaches them.
const MOST_PLACES: usize = 256;

/// What may slow a host down or stand in the way of its door. What is not known is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkup {
    /// Whether the kernel was told to do without limits on memory, and not told otherwise.
    pub is_cgroup_disabled: bool,
    /// The file in which the kernel of a Raspberry Pi is told such things.
    pub cmdline_file: Option<String>,
    /// Who decides on the processor's clock: `ondemand`, `powersave`.
    pub governor: Option<String>,
    /// Whether its clock follows others'.
    pub is_synchronized: Option<bool>,
    /// Whether nothing can be written where Bramble's folder is or will be.
    pub is_read_only: bool,
    /// How fast that is read, past the page cache.
    pub read: Option<BytesPerSec>,
    /// How much of the swap that is no compressed memory is in use.
    pub swapped: Bytes,
    /// Programs by the memory that would be free without them, most first.
    pub processes: Vec<Process>,
    /// TCP ports that somebody listens at, on any address.
    pub listening: BTreeSet<u16>,
    /// Who listens at the door's port, where the login may know.
    pub at_port: Option<String>,
    /// What keeps packets out.
    pub firewall: Option<Firewall>,
    /// What came of each place that it was to reach, by their number.
    pub reached: BTreeMap<usize, Answer>,
}

/// All processes of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program's name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Their anonymous memory.
    pub memory: Bytes,
}

/// What keeps packets out of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// Who looks after the rules.
    pub kind: FirewallKind,
    /// Ports that TCP is let in at, from the first to the last of each range; none where it cannot be known.
    pub open: Option<Vec<(u16, u16)>>,
}

/// Who looks after the rules of a firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirewallKind {
    /// Ubuntu's.
    Ufw,
    /// Red Hat's.
    Firewalld,
    /// A file of rules for nft.
    Nftables,
}

impl FirewallKind {
    /// Returns the program's name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Nftables => "nftables",
        }
    }
}

/// What comes of connecting to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Somebody listens there.
    Open,
    /// The machine answers, and nobody listens.
    Refused,
    /// Nothing comes back.
    Silent,
    /// The name is not known.
    Unresolved,
    /// There is no way there, or a firewall says so.
    NoRoute,
}

impl Answer {
    /// Returns whether the machine is there.
    pub const fn is_there(self) -> bool {
        matches!(self, Self::Open | Self::Refused)
    }
}

/// Reads what the script of a checkup printed on a host.
///
/// # Errors
/// It is too long or broken off. What is missing in it or cannot be is not known.
pub fn parse_checkup(output: &[u8]) -> Result<Checkup, Error> {
    if output.len() > MOST {
        return Err(Error::TooLong { bytes: output.len() });
    }
    let text = String::from_utf8_lossy(output);
    let printed = Printed::split(&text, "bramble-checkup 1")?;
    Ok(Checkup {
        is_cgroup_disabled: printed.value("cgroup_disabled").is_some(),
        cmdline_file: printed.value("cmdline_file").filter(|path| path.starts_with("/boot/")),
        governor: printed.value("governor"),
        is_synchronized: match printed.value("synchronized").as_deref() {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            _ => None,
        },
        is_read_only: printed.value("read_only").is_some(),
        read: printed.section("read").and_then(rate),
        swapped: swapped(printed.section("swaps").unwrap_or_default()),
        processes: processes(printed.section("processes").unwrap_or_default()),
        listening: listening(printed.section("listening").unwrap_or_default()),
        at_port: printed.section("port").and_then(who),
        firewall: firewall(&printed),
        reached: reached(printed.section("reached").unwrap_or_default()),
    })
}

/// Reads the last line of `dd`: `33554432 bytes (34 MB, 32 MiB) copied, 0.81 s, 41 MB/s`.
fn rate(text: &str) -> Option<BytesPerSec> {
    let line = text.lines().rfind(|line| line.contains("copied,"))?;
    let bytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    let seconds: f64 = line.split_once("copied,")?.1.split_ascii_whitespace().next()?.parse().ok()?;
    // less than this is no measurement, and no disk is faster than memory
    let is_measured = bytes >= 8 << 20 && seconds.is_finite() && seconds > 0.0;
    let rate = bytes as f64 / seconds;
    (is_measured && rate < 1e11).then_some(BytesPerSec(rate))
}

fn swapped(text: &str) -> Bytes {
    // Filename  Type  Size  Used  Priority, under a line of headings
    let used = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        if name.contains("zram") { None } else { words.nth(2).and_then(kib) }
    };
    text.lines()
        .skip(1)
        .take(MOST_PLACES)
        .filter_map(used)
        .fold(Bytes::ZERO, |sum, used| Bytes(sum.0.saturating_add(used.0)))
}

fn processes(text: &str) -> Vec<Process> {
    let mut all: BTreeMap<String, (usize, Bytes)> = BTreeMap::new();
    for line in text.lines().take(1000) {
        let Some((memory, name)) = line.split_once(' ') else { continue };
        let (Some(Bytes(memory)), name) = (kib(memory), clean(name)) else { continue };
        if !name.is_empty() {
            let (count, sum) = all.entry(name.chars().take(15).collect()).or_default();
            *count += 1;
            *sum = Bytes(sum.0.saturating_add(memory));
        }
    }
    let mut all: Vec<Process> =
        all.into_iter().map(|(name, (count, memory))| Process { name, count, memory }).collect();
    all.sort_by(|a, b| b.memory.cmp(&a.memory).then_with(|| a.name.cmp(&b.name)));
    all.truncate(MOST_PROCESSES);
    all
}

fn listening(text: &str) -> BTreeSet<u16> {
    let port = |line: &str| u16::from_str_radix(line.rsplit_once(':')?.1.trim(), 16).ok();
    text.lines().take(MOST_PORTS).filter_map(port).collect()
}

/// Finds who listens in lines of `ss`, such as `users:(("nginx",pid=812,fd=6))`: our door where it is among them, and
/// systemd, which may hold the socket of another as well, where there is nobody else.
fn who(text: &str) -> Option<String> {
    let names = text.split("(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let name = clean(names.min_by_key(|name| match *name {
        "brambled" => 0,
        "systemd" => 2,
        _ => 1,
    })?);
    (!name.is_empty()).then_some(name)
}

fn firewall(printed: &Printed<'_>) -> Option<Firewall> {
    let ports = || printed.section("firewall_ports").map(str::trim);
    let kind = match printed.value("firewall")?.as_str() {
        "ufw" => FirewallKind::Ufw,
        "firewalld" => FirewallKind::Firewalld,
        "nftables" => FirewallKind::Nftables,
        _ => return None,
    };
    let open = match kind {
        FirewallKind::Ufw => ports().filter(|text| text.starts_with("Status: active")).map(ufw),
        // the login may not ask: nothing at all is printed then, too
        FirewallKind::Firewalld => {
            let text = ports().filter(|text| !text.is_empty());
            text.map(|text| text.split_ascii_whitespace().take(MOST_PORTS).filter_map(range).collect())
        }
        // whether what comes in is dropped that no rule names
        FirewallKind::Nftables => {
            let chains = printed.section("firewall_chains").filter(|text| text.contains("chain "))?;
            let drops =
                chains.lines().any(|line| line.contains("hook input") && line.contains("policy drop"));
            if drops { None } else { Some(vec![(1, u16::MAX)]) }
        }
    };
    Some(Firewall { kind, open })
}

/// Reads the rules of ufw that let everybody in: `8443/tcp  ALLOW  Anywhere`.
fn ufw(text: &str) -> Vec<(u16, u16)> {
    let rules = text.lines().take(MOST_PORTS).filter_map(ufw_rule);
    rules.flat_map(|to| if to == "Anywhere" { vec![(1, u16::MAX)] } else { ranges(to) }).collect()
}

fn ufw_rule(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    let to = words.next()?;
    (words.next()? == "ALLOW").then_some(to)
}

/// Reads `80,443/tcp`, `8000:9000/tcp` or `8443`.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let (ports, kind) = text.split_once('/').unwrap_or((text, "tcp"));
    if kind != "tcp" {
        return Vec::new();
    }
    ports.split(',').take(MOST_PLACES).filter_map(range).collect()
}

fn range(text: &str) -> Option<(u16, u16)> {
    let ports = match text.split_once('/') {
        Some((ports, "tcp")) => ports,
        Some(_) => return None,
        None => text,
    };
    match ports.split_once([':', '-']) {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => ports.parse().ok().map(|port| (port, port)),
    }
}

fn reached(text: &str) -> BTreeMap<usize, Answer> {
    let one = |line: &str| {
        let (number, word) = line.split_once(' ')?;
        let answer = match word.trim() {
            "open" => Answer::Open,
            "refused" => Answer::Refused,
            "silent" => Answer::Silent,
            "unresolved" => Answer::Unresolved,
            "no_route" => Answer::NoRoute,
            _ => return None,
        };
        Some((number.parse().ok().filter(|number| *number < MOST_PLACES)?, answer))
    };
    text.lines().take(MOST_PLACES).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(values: &str, sections: &[(&str, &str)]) -> String {
        let section = |(name, text): &(&str, &str)| format!("\n@@ begin {name}\n{text}\n\n@@ end\n");
        let sections: String = sections.iter().map(section).collect();
        format!("Welcome!\n\n@@ bramble-checkup 1\n{values}\n{sections}\n@@ done\n")
    }

    fn read(values: &str, sections: &[(&str, &str)]) -> Checkup {
        parse_checkup(printed(values, sections).as_bytes()).unwrap()
    }

    #[test]
    fn a_pi_with_a_desktop_is_read() {
        let found = read(
            "cgroup_disabled=1\ncmdline_file=/boot/firmware/cmdline.txt\ngovernor=powersave\nsynchronized=no\nread_only=1",
            &[
                (
                    "read",
                    "8+0 records in\n8+0 records out\n33554432 bytes (34 MB, 32 MiB) copied, 0.8 s, 42 MB/s",
                ),
                (
                    "swaps",
                    "Filename Type Size Used Priority\n/var/swap file 524284 1024 -2\n/dev/zram0 partition 2097136 4096 100",
                ),
                ("processes", "400000 chromium\n300000 chromium\n90000 labwc\nbroken\n-5 x\n7 "),
                (
                    "listening",
                    "0100007F:0277\n00000000000000000000000000000000:20FB\nnonsense\n00000000:0016",
                ),
                (
                    "port",
                    "LISTEN 0 511 0.0.0.0:8443 0.0.0.0:* users:((\"nginx\",pid=812,fd=6),(\"x\",pid=1,fd=2))",
                ),
                ("reached", "1 silent\n0 open\n2 unknown\n3 unresolved\n99999999 open"),
            ],
        );
        assert!(found.is_cgroup_disabled && found.is_read_only);
        assert_eq!(found.cmdline_file.as_deref(), Some("/boot/firmware/cmdline.txt"));
        assert_eq!((found.governor.as_deref(), found.is_synchronized), (Some("powersave"), Some(false)));
        assert_eq!(found.read, Some(BytesPerSec(33_554_432.0 / 0.8)));
        assert_eq!(found.swapped, Bytes::mib(1));
        let first = Process { name: "chromium".to_owned(), count: 2, memory: Bytes::kib(700_000) };
        assert_eq!((found.processes.len(), &found.processes[0]), (2, &first));
        assert_eq!(found.listening, [22, 631, 8443].into());
        assert_eq!(found.at_port.as_deref(), Some("nginx"));
        let reached = [(0, Answer::Open), (1, Answer::Silent), (3, Answer::Unresolved)];
        assert_eq!(found.reached, reached.into());
        assert_eq!(found.firewall, None);
    }

    #[test]
    fn a_door_whose_socket_others_keep_or_share_is_who_listens() {
        let who = |text: &str| read("", &[("port", text)]).at_port;
        let ours = "LISTEN 0 511 *:8443 *:* users:((\"systemd\",pid=1,fd=41),(\"brambled\",pid=812,fd=9))";
        assert_eq!(who(ours).as_deref(), Some("brambled"));
        let kept = "LISTEN 0 511 *:8443 *:* users:((\"systemd\",pid=1,fd=41))";
        assert_eq!(who(kept).as_deref(), Some("systemd"));
        let started = kept.replace("))", "),(\"nginx\",pid=7,fd=3))");
        assert_eq!(who(&started).as_deref(), Some("nginx"));
        let lines = "LISTEN 0 5 0.0.0.0:8443 0.0.0.0:* users:((\"nginx\",pid=7,fd=6))\nLISTEN 0 5 [::]:8443 [::]:* users:((\"x\",pid=8,fd=6))";
        assert_eq!(who(lines).as_deref(), Some("nginx"));
        assert_eq!(who("LISTEN 0 511 *:8443 *:*"), None);
        assert_eq!(who("users:((\"\u{1b}\",pid=1,fd=1))"), None);
    }

    #[test]
    fn what_firewalls_let_in_is_read() {
        let open = |values: &str, sections: &[(&str, &str)]| read(values, sections).firewall.unwrap().open;
        let ufw = "Status: active\n\nTo                         Action      From\n--                         ------      ----\n22/tcp                     ALLOW       Anywhere\n8000:9000/tcp              ALLOW       Anywhere\n53/udp                     ALLOW       Anywhere\n80,443/tcp                 DENY        Anywhere";
        assert_eq!(open("firewall=ufw", &[("firewall_ports", ufw)]), Some(vec![(22, 22), (8000, 9000)]));
        assert_eq!(open("firewall=ufw", &[("firewall_ports", "")]), None);
        let ports = "8443/tcp 1000-2000/tcp 53/udp";
        let expected = Some(vec![(8443, 8443), (1000, 2000)]);
        assert_eq!(open("firewall=firewalld", &[("firewall_ports", ports)]), expected);
        let chain = |policy: &str| {
            format!(
                "table inet filter {{\n chain input {{\n  type filter hook input priority filter; policy {policy};\n }}\n}}"
            )
        };
        assert_eq!(open("firewall=nftables", &[("firewall_chains", &chain("drop"))]), None);
        assert_eq!(
            open("firewall=nftables", &[("firewall_chains", &chain("accept"))]),
            Some(vec![(1, u16::MAX)])
        );
        assert_eq!(read("firewall=", &[]).firewall, None);
    }

    #[test]
    fn what_is_no_measurement_is_none() {
        for text in [
            "dd: failed to open '/dev/vda': Operation not permitted",
            "4096 bytes (4.1 kB) copied, 0.1 s, 41 kB/s",
            "33554432 bytes copied, 0 s",
            "33554432 bytes copied, NaN s",
            "99999999999999 bytes copied, 0.1 s",
        ] {
            assert_eq!(rate(text), None, "{text}");
        }
    }

    #[test]
    fn a_checkup_that_breaks_off_is_an_error() {
        let whole = printed("governor=x", &[("processes", "1 a")]);
        assert!(parse_checkup(whole.replace("@@ done", "").as_bytes()).is_err());
        assert!(parse_checkup(b"").is_err());
        assert!(parse_checkup(&vec![b'x'; MOST + 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_output_of_a_host_is_too_much(
            values in "([a-z_]{1,12}=[^\n]{0,40}\n){0,6}",
            name in "read|swaps|processes|listening|port|firewall_ports|firewall_chains|reached",
            text in "(?s).{0,300}",
            kind in "ufw|firewalld|nftables|other",
        ) {
            let output = printed(&format!("firewall={kind}\n{values}"), &[(&name, &text)]);
            if let Ok(found) = parse_checkup(output.as_bytes()) {
                prop_assert!(found.processes.len() <= MOST_PROCESSES);
                prop_assert!(found.processes.iter().all(|process| !process.name.chars().any(char::is_control)));
                prop_assert!(found.at_port.is_none_or(|name| !name.chars().any(char::is_control)));
            }
        }
    }
}
