//! How the doors of a fleet are asked from this machine.

use std::sync::Arc;

use anyhow::Context as _;

use crate::authority;
use crate::generation::DoorTls;
use crate::ids::HostName;
use crate::keys::Safe;
use crate::plan::door_url;
use crate::status::Door;

/// Returns the door of `host`, which listens at `address`. Over TLS it must prove that it is that host.
pub(super) fn door(
    safe: &Safe,
    host: &HostName,
    address: &str,
    (port, tls): (u16, DoorTls),
) -> anyhow::Result<Door> {
    let url = door_url(address, port, tls);
    if tls == DoorTls::Off {
        return Ok(Door { url, tls: None, certificate_ends: None });
    }
    let certificates = safe.certificates().context(
        "this machine does not have the fleet's authority: bring it here with `bramble keys ca export` and `import`",
    )?;
    let config = authority::visit(Arc::new(certificates.trust()?), host, None)?;
    let certificate_ends = certificates.held(host).map(|held| held.ends);
    Ok(Door { url, tls: Some(config), certificate_ends })
}

/// Fails where a program that runs on would ask, with what it knows, whom it should not.
pub(super) fn check_current(safe: &Safe, verb: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        !safe.is_outdated()?,
        "a host was revoked or readmitted, or the fleet has other keys now: run `bramble {verb}` again"
    );
    Ok(())
}
