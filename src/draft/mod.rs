//! A first manifest from what was found: which machines to take, what to ask, which model suits them, and the text.
//!
//! Asks nobody itself: questions go through [`Ask`], and where nobody can be asked each has an answer of its own.
//! What was found is foreign: nothing of it gets into the text but names and addresses that a manifest takes, and
//! comments of one line.

mod interview;
mod model;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;

pub use interview::{Ask, Question, Told, interview};
pub use model::{DEFAULT_MODEL, Pick, pick};
pub use text::{is_address, is_host, is_login, manifest_of};

use crate::discover::Candidate;
use crate::facts::HostFacts;
use crate::ids::{FleetName, HostName};

/// A machine that was chosen, with what came of looking at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its name in the manifest.
    pub host: HostName,
    /// As it was found.
    pub candidate: Candidate,
    /// What it is, or why that is not known.
    pub facts: Result<HostFacts, String>,
}

/// This machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Here {
    /// Its name in the manifest.
    pub host: HostName,
    /// How others reach it.
    pub address: String,
    /// What it is, where that is known.
    pub facts: Option<HostFacts>,
}

/// All that a first manifest says.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Whose hosts they are.
    pub fleet: FleetName,
    /// The hosts.
    pub hosts: Vec<Seen>,
    /// This machine, where it is to be one of them.
    pub here: Option<Here>,
    /// What was found and is left out.
    pub left_out: Vec<(HostName, Candidate)>,
    /// The model.
    pub model: Pick,
}

/// Gives each machine a name of its own that a manifest takes, as near to what it is called as can be. Names in `taken`
/// are given to none.
pub fn names(wishes: &[String], taken: &BTreeSet<HostName>) -> Vec<HostName> {
    let mut taken = taken.clone();
    wishes
        .iter()
        .map(|wish| {
            let host = name(wish, &taken);
            taken.insert(host.clone());
            host
        })
        .collect()
}

fn name(wish: &str, taken: &BTreeSet<HostName>) -> HostName {
    // of an address, all of it; of a name with a domain, the first part
    let is_number = wish.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ':'));
    let wish = if is_number { wish } else { wish.split('.').next().unwrap_or_default() };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = wish.chars().take(48).map(plain).collect();
    let text = text.trim_matches('-');
    // what begins with a digit is a name, but looks like something else; `local` means the host itself in routes
    let base = match text {
        "" => "host".to_owned(),
        "local" => "host-local".to_owned(),
        _ if text.starts_with(|c: char| c.is_ascii_digit()) => format!("host-{text}"),
        _ => text.to_owned(),
    };
    let numbered = (2..=u32::MAX).map(|n| format!("{base}-{n}"));
    let mut names =
        std::iter::once(base.clone()).chain(numbered).filter_map(|text| text.parse::<HostName>().ok());
    #[expect(clippy::expect_used, reason = "every text is a name, and there are more of them than machines")]
    names.find(|host| !taken.contains(host)).expect("a name that is not taken")
}
