//! What to do about a host: one finding for each thing that may slow it down or stand in Bramble's way.
//!
//! What is as it should be is said, too, so that one sees what was looked at. What is not known is
//! left out, never guessed. Nothing is asked of hosts here, and nothing depends on a plan.

mod hardware;
mod network;
mod system;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::{Answer, Checkup, HostFacts};
use crate::ids::HostName;

/// What was looked at on some hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The hosts, in the order asked.
    pub hosts: Vec<HostDiagnosis>,
}

impl Diagnosis {
    /// Returns how many findings have a level.
    pub fn count(&self, level: Level) -> usize {
        self.hosts.iter().flat_map(|host| &host.findings).filter(|finding| finding.level == level).count()
    }
}

/// What was looked at on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostDiagnosis {
    /// The host, as it was asked for.
    pub host: String,
    /// The board or the machine, and the system, for people; none where it could not be looked at.
    pub machine: Option<String>,
    /// What was found, always in the same order.
    pub findings: Vec<Finding>,
}

/// One thing about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub about: About,
    /// How much it matters.
    pub level: Level,
    /// What was seen.
    pub what: String,
    /// What to do about it; none where nothing is to be done, or nothing can be.
    #[serde(rename = "do")]
    pub advice: Option<String>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It makes answers slow, or a failure likely.
    Warning,
    /// Bramble cannot work there as it is.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Whether it can be looked at at all.
    Login,
    /// What the login may do.
    Sudo,
    /// The kind of processor, of programs and of their C library.
    Userland,
    /// The size of memory's pages.
    Pages,
    /// What supervises services.
    Services,
    /// Limits on memory.
    Cgroup,
    /// The supply of power.
    Power,
    /// Heat, and the processor's clock.
    Heat,
    /// What the processor's clock is governed by.
    Governor,
    /// The disk that weights lie on.
    Disk,
    /// Swap.
    Swap,
    /// Memory, and who has it.
    Memory,
    /// The time.
    Clock,
    /// The port of the door.
    Port,
    /// What keeps packets out.
    Firewall,
    /// What it reaches others by.
    Link,
    /// Which others it reaches.
    Others,
}

impl About {
    /// Returns the word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Sudo => "sudo",
            Self::Userland => "userland",
            Self::Pages => "pages",
            Self::Services => "services",
            Self::Cgroup => "cgroup",
            Self::Power => "power",
            Self::Heat => "heat",
            Self::Governor => "governor",
            Self::Disk => "disk",
            Self::Swap => "swap",
            Self::Memory => "memory",
            Self::Clock => "clock",
            Self::Port => "port",
            Self::Firewall => "firewall",
            Self::Link => "link",
            Self::Others => "others",
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A host, with what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Patient<'a> {
    /// What it is.
    pub facts: &'a HostFacts,
    /// What it was looked at for.
    pub checkup: &'a Checkup,
    /// The port of its door.
    pub port: u16,
    /// What is said of it where there is no bundle for it, and what to do; none where there is one.
    pub no_bundle: Option<(&'a str, &'a str)>,
    /// The C library that the bundle for it needs, where that is known.
    pub glibc_needed: Option<(u32, u32)>,
    /// What came of connecting to its door's port from this machine; none where it is this machine.
    pub from_here: Option<Answer>,
    /// The places that it was asked whether it reaches them, in the order of [`Checkup::reached`]'s numbers.
    pub others: &'a [Other],
}

/// Another machine that a host is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub host: HostName,
    /// Where it is.
    pub address: String,
    /// The port there.
    pub port: u16,
}

/// Says what there is to say of a host.
pub fn diagnose(patient: &Patient<'_>) -> Vec<Finding> {
    let found = [
        Some(system::sudo(patient)),
        Some(system::userland(patient)),
        system::pages(patient),
        Some(system::services(patient)),
        system::cgroup(patient),
        hardware::power(patient),
        hardware::heat(patient),
        hardware::governor(patient),
        hardware::disk(patient),
        Some(hardware::swap(patient)),
        Some(system::memory(patient)),
        system::clock(patient),
        Some(network::port(patient)),
        Some(network::firewall(patient)),
        network::link(patient),
        network::others(patient),
    ];
    found.into_iter().flatten().collect()
}

/// Says that a host could not be looked at: `why` has the next move after its last semicolon or colon.
pub fn unreachable(why: &str) -> Finding {
    error(About::Login, why, None)
}

fn ok(about: About, what: impl Into<String>) -> Finding {
    Finding { about, level: Level::Ok, what: what.into(), advice: None }
}

fn note(about: About, what: impl Into<String>, advice: Option<&str>) -> Finding {
    Finding { about, level: Level::Note, what: what.into(), advice: advice.map(str::to_owned) }
}

fn warning(about: About, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { about, level: Level::Warning, what: what.into(), advice: Some(advice.into()) }
}

fn error(about: About, what: impl Into<String>, advice: Option<String>) -> Finding {
    Finding { about, level: Level::Error, what: what.into(), advice }
}
