use std::io;

use super::Order;

/// Keeps the process from nothing: what would do that is Linux's.
///
/// # Errors
/// None.
pub(super) fn confine(_: &Order) -> io::Result<bool> {
    Ok(false)
}
