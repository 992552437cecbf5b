use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::marker::{self, Marker};
use super::{Error, Supervisor, files, program};
use crate::generation::Layout;
use crate::ids::FleetName;
use crate::lease;
use crate::unit::SERVICE_USER;

/// What `remove` needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveRequest {
    /// Whose host it should be.
    pub fleet: FleetName,
    /// Remove what is another fleet's, too.
    #[serde(default)]
    pub adopt: bool,
}

/// What `remove` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Whether anything was there.
    pub was_there: bool,
}

/// Removes everything of ours: services, units, the system user, lingering, the folder.
///
/// The folder's mark goes last, so that a removal that was cut short can be run again.
/// A folder that stays although it is empty (a mount point) is fine.
///
/// # Errors
/// [`Error::NotOurs`] and [`Error::OtherFleet`] before anything was touched.
pub async fn remove(
    layout: &Layout,
    lease: u64,
    supervisors: &[Box<dyn Supervisor>],
    request: &RemoveRequest,
) -> Result<Removed, Error> {
    if !layout.root().exists() {
        return Ok(Removed { was_there: false });
    }
    Marker::check_removal(layout, &request.fleet, request.adopt)?;
    let _lock = Lock::take(layout, lease, "remove")?;
    let marker = Marker::check_removal(layout, &request.fleet, request.adopt)?;
    lease::end(layout).map_err(Error::Lease)?;
    // without a mark nothing was ever installed from here: services are another folder's
    if marker.is_some() {
        for supervisor in supervisors {
            supervisor.clear().await?;
        }
    }
    if marker.as_ref().is_some_and(|marker| marker.made_user) {
        program::must("userdel", &[SERVICE_USER], Duration::from_mins(1)).await?;
    }
    if marker.is_some_and(|marker| marker.made_linger) {
        for supervisor in supervisors {
            supervisor.end_lingering().await?;
        }
    }

    let mark = marker::path(layout);
    let last = [".bramble", "lock"];
    for name in files::names(layout.root())?.iter().filter(|name| !last.contains(&name.as_str())) {
        let path = layout.root().join(name);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_dir { files::remove_tree(&path) } else { files::remove(&path) }?;
    }
    files::remove(&layout.root().join("lock"))?;
    files::remove(&mark)?;
    match fs::remove_dir(layout.root()) {
        Ok(()) => {
            // the login may have had neither of the folders above
            if layout.root().ends_with(Layout::USER_ROOT)
                && let Some(above) = layout.root().parent()
            {
                files::remove_empty(above, 2);
            }
            Ok(Removed { was_there: true })
        }
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::PermissionDenied) => {
            Ok(Removed { was_there: true })
        }
        Err(error) => Err(Error::io("remove the folder", layout.root())(error)),
    }
}
