use std::time::Duration;

use super::{Error, files};
use crate::generation::Layout;
use crate::unit::Unit;

/// The guard: plain `sh`, laid down outside of all generations.
pub const GUARD_SCRIPT: &str = include_str!("../../templates/guard.sh");

/// What a guard is armed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arming {
    /// The activation's token.
    pub token: String,
    /// When to act, from now.
    pub after: Duration,
    /// The unit that acts at boot, on hosts with systemd.
    pub boot_unit: Option<Unit>,
}

/// Returns where the guard's script lies.
pub(super) fn script_path(layout: &Layout) -> std::path::PathBuf {
    layout.root().join("guard/guard.sh")
}

/// Puts the script in place.
pub(super) fn lay_down(layout: &Layout) -> Result<(), Error> {
    let path = script_path(layout);
    files::make_dir(&layout.root().join("guard"))?;
    if files::read(&path)?.as_deref() == Some(GUARD_SCRIPT.as_bytes()) {
        return Ok(());
    }
    files::write(&path, GUARD_SCRIPT.as_bytes(), 0o755)
}
