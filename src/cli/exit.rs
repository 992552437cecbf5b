use std::process::ExitCode;

/// How a command ended. The numbers are a promise: scripts test them.
///
/// What is wrong on the command line (an option, a name, a file that is not there) is a failure; what the manifest
/// wants and the fleet, the hub or a person does not allow is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: all is as wanted.
    Done,
    /// 1: it failed, or the command line is wrong.
    Failed,
    /// 2: changes are pending (`plan --exit-code`), it came to its end on some hosts and not on others, or a host wants
    /// to be looked after (`status --exit-code`, `doctor`).
    Partly,
    /// 3: refused before anything was changed.
    Refused,
    /// 4: somebody else is changing the same hosts.
    Locked,
    /// 130: interrupted.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Partly => 2,
            Exit::Refused => 3,
            Exit::Locked => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// An error that has an exit code of its own, wherever in a chain it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Expected {
    /// The request was refused before anything was changed.
    #[error("{0}")]
    Refused(String),
}

/// Returns the exit code of an error.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(Expected::Refused(_)) = cause.downcast_ref::<Expected>() {
            return Exit::Refused;
        }
        if cause.downcast_ref::<crate::manifest::Problems>().is_some() {
            return Exit::Refused;
        }
        if let Some(crate::execute::VerbError::Locked { .. }) =
            cause.downcast_ref::<crate::execute::VerbError>()
        {
            return Exit::Locked;
        }
    }
    Exit::Failed
}
