//! `bramble.lock`: what was decided once and must stay, beside the manifest, to commit.
//!
//! Exact sources, what recipes made, and the hosts that the fleet has touched, so that
//! one that leaves the manifest is still known. It holds no secret and no time, and its
//! text is the same for the same content. Parsing and rendering are pure; reading and
//! writing the file is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, FleetName, HostName};
use crate::quant::Quant;
use crate::source::Pinned;
use crate::units::Bytes;

/// The version of the stored form. Raised by every change, additions included: an older
/// program that dropped a key on writing would lose it for everybody.
pub const FORMAT: u32 = 1;

/// The content of `bramble.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// The fleet of the manifest that this stands beside.
    pub fleet: FleetName,
    /// Sources as the manifest names them ([`crate::source::SourceRef`]'s text), made exact.
    #[serde(default)]
    pub sources: BTreeMap<String, Pinned>,
    /// What recipes made, by [`crate::source::Recipe::digest`].
    #[serde(default)]
    pub made: BTreeMap<Digest, Made>,
    /// Hosts that something was installed on and not removed from.
    #[serde(default)]
    pub hosts: BTreeMap<HostName, LockedHost>,
}

/// What a recipe made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The SHA-256 of the GGUF.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// Its quant; none for a GGUF taken as it is.
    pub quant: Option<Quant>,
}

/// A host that the fleet has touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedHost {
    /// Where it was reached last.
    pub address: String,
    /// The login, where the manifest named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The port, where the manifest named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The private key file, where the manifest named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether it is the operator's own machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_local: bool,
    /// The folder there, where it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Whether our own supervisor was wanted there although systemd may run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_process: bool,
}

/// Why a text is no lock that this program can use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not JSON of the wanted shape.
    #[error("bramble.lock cannot be read: restore it from version control, or remove it to pin anew")]
    Parse(#[source] serde_json::Error),
    /// A later version of Bramble wrote it.
    #[error("bramble.lock has format {found}, and this bramble knows formats up to {FORMAT}: update bramble")]
    Newer {
        /// The format that it has.
        found: u64,
    },
    /// The format number is none that ever was.
    #[error("bramble.lock has format {found}, which never was: restore it from version control")]
    Unknown {
        /// The format that it has.
        found: u64,
    },
}

impl Lock {
    /// Returns the lock of a fleet that has decided nothing yet.
    pub fn new(fleet: FleetName) -> Self {
        Self {
            format: FORMAT,
            fleet,
            sources: BTreeMap::new(),
            made: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// Reads the text of a lock.
    ///
    /// # Errors
    /// The format is looked at first, so that a newer file is called newer and not broken.
    pub fn parse(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let head: Head = serde_json::from_str(text).map_err(Error::Parse)?;
        match head.format {
            found if found > u64::from(FORMAT) => Err(Error::Newer { found }),
            found @ 0 => Err(Error::Unknown { found }),
            _ => serde_json::from_str(text).map_err(Error::Parse),
        }
    }

    /// Returns every blob that it names: the files of sources, and what was made of them.
    pub fn digests(&self) -> BTreeSet<Digest> {
        let files = self.sources.values().flat_map(|pinned| &pinned.files).map(|file| file.sha256);
        files.chain(self.made.values().map(|made| made.digest)).collect()
    }

    /// Writes it: indented JSON in a fixed order, with a line end at the end.
    pub fn render(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::PinnedFile;

    /// A lock as format 1 stored it. This file never changes: it must parse for ever.
    const FORMAT_1: &str = include_str!("../../tests/formats/lock.1.json");

    fn lock() -> Lock {
        let mut lock = Lock::new("home".parse().unwrap());
        let file = |path: &str, bytes| PinnedFile {
            path: path.to_owned(),
            bytes: Bytes(bytes),
            sha256: Digest::of(path.as_bytes()),
        };
        let pinned = Pinned {
            uri: "hf:org/chat@0123456789abcdef0123456789abcdef01234567".to_owned(),
            files: vec![file("config.json", 700), file("model.safetensors", 269_060_552)],
            license: Some("apache-2.0".to_owned()),
        };
        lock.sources.insert("hf:org/chat".to_owned(), pinned);
        let made = Made { digest: Digest::of(b"gguf"), bytes: Bytes(144_811_488), quant: Some(Quant::Q8_0) };
        lock.made.insert(Digest::of(b"recipe"), made);
        let as_is = Made { digest: Digest::of(b"as is"), bytes: Bytes(1), quant: None };
        lock.made.insert(Digest::of(b"a recipe"), as_is);
        let host = LockedHost { address: "kitchen.local".to_owned(), ..LockedHost::default() };
        lock.hosts.insert("kitchen".parse().unwrap(), host);
        lock
    }

    #[test]
    fn the_stored_form_of_format_1_still_parses_and_is_still_written() {
        assert_eq!(Lock::parse(FORMAT_1).unwrap(), lock());
        assert_eq!(lock().render(), FORMAT_1);
    }

    #[test]
    fn the_order_of_insertion_leaves_no_trace() {
        let mut other = lock();
        let made = std::mem::take(&mut other.made);
        other.made.extend(made.into_iter().rev());
        assert_eq!(other.render(), lock().render());
    }

    #[test]
    fn a_lock_of_a_later_format_is_called_newer_even_if_nothing_else_fits() {
        let error = Lock::parse(r#"{"format": 2, "hosts": [1, 2]}"#).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 2 }));
        assert!(error.to_string().contains("update bramble"), "{error}");
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        for text in ["", "{}", "[]", r#"{"format":0}"#, r#"{"format":1}"#, r#"{"format":1,"fleet":"../x"}"#] {
            assert!(Lock::parse(text).is_err(), "{text}");
        }
        assert!(Lock::parse(r#"{"format":1,"fleet":"home"}"#).is_ok());
        assert!(Lock::parse(r#"{"format":1,"fleet":"home","more":1}"#).is_err(), "a key would be lost");
    }
}
