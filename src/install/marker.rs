use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Error, files};
use crate::generation::Layout;
use crate::ids::FleetName;

/// What may be in a folder of ours. Of a folder without the mark, everything in it must be of these.
const OURS: [&str; 19] = [
    ".bench",
    ".bramble",
    "bench.json",
    "blobs",
    "chunks",
    "cordon.json",
    "current",
    "generations",
    "guard",
    "lease",
    "lease.lock",
    "lease.new",
    "lock",
    "log",
    "partial",
    "programs",
    "receipt.json",
    "run",
    "taken-back",
];

/// What an upload leaves in a folder that nothing was installed in yet.
const UPLOADED: [&str; 9] =
    ["blobs", "chunks", "generations", "lease", "lease.lock", "lease.new", "lock", "partial", "programs"];

/// The mark that a folder is ours: `.bramble`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// Whose host it is.
    pub(super) fleet: FleetName,
    /// Whether we made the system user and so remove it.
    pub(super) made_user: bool,
    /// Whether we switched the login's lingering on and so switch it off.
    #[serde(default)]
    pub(super) made_linger: bool,
}

impl Marker {
    pub(super) fn read(layout: &Layout) -> Result<Option<Self>, Error> {
        files::read_json(&path(layout))
    }

    pub(super) fn write(&self, layout: &Layout) -> Result<(), Error> {
        files::write(&path(layout), &files::json("the mark", self)?, 0o644)
    }

    /// Checks that `fleet` may change this folder; says what mark is there.
    ///
    /// A folder without a mark is accepted only when nothing foreign is in it.
    pub(super) fn check(layout: &Layout, fleet: &FleetName, adopt: bool) -> Result<Option<Self>, Error> {
        match Self::read(layout)? {
            Some(marker) if marker.fleet != *fleet && !adopt => {
                Err(Error::OtherFleet { found: marker.fleet, wanted: fleet.clone() })
            }
            Some(marker) => Ok(Some(marker)),
            None => {
                let ours = |name: &String| OURS.contains(&name.as_str());
                refuse_foreign(layout, ours).map(|()| None)
            }
        }
    }

    /// Checks that the folder may be deleted: it has our mark, or holds nothing but what an upload leaves.
    pub(super) fn check_removal(
        layout: &Layout,
        fleet: &FleetName,
        adopt: bool,
    ) -> Result<Option<Self>, Error> {
        let marker = Self::check(layout, fleet, adopt)?;
        if marker.is_none() {
            refuse_foreign(layout, |name| UPLOADED.contains(&name.as_str()))?;
        }
        Ok(marker)
    }
}

pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.root().join(".bramble")
}

fn refuse_foreign(layout: &Layout, is_ours: impl Fn(&String) -> bool) -> Result<(), Error> {
    let mut names = files::names(layout.root())?.into_iter();
    match names.find(|name| !is_ours(name)) {
        Some(found) => Err(Error::NotOurs { root: layout.root().to_owned(), found }),
        None => Ok(()),
    }
}
