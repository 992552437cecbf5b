use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// What the working side tells the asking side, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// So much is to be written in all.
    Begun(Bytes),
    /// So much has been written.
    Progress(Bytes),
    /// All files are whole and on the disk. They are locked until the end of the input, and want their names by then.
    Made,
    /// No file has its name.
    Failed {
        /// Why, with causes.
        error: String,
        /// Whether the order itself was refused.
        is_refusal: bool,
        /// Whether trying again later may help.
        is_transient: bool,
    },
}
