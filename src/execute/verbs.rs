use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{self, Connection, Output, Script, Stdin, quote};
use crate::generation::Layout;
use crate::ids::Digest;

/// Runs `brambled`'s verbs on one host: JSON in, JSON out.
pub struct Verbs<'a> {
    connection: &'a dyn Connection,
    layout: &'a Layout,
    program: String,
    is_root: bool,
    lease: Option<u64>,
}

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The host could not be spoken to.
    #[error("cannot run `brambled {verb}`")]
    Connect {
        /// The verb.
        verb: &'static str,
        /// Why not.
        source: connect::Error,
    },
    /// Somebody else works on the host.
    #[error("somebody else is changing this host at the moment: {said}")]
    Locked {
        /// What the host said.
        said: String,
    },
    /// The bundle's program cannot be run there.
    #[error(
        "the program of the bundle does not run on this host ({said}): build the bundle again, for this kind of host"
    )]
    DoesNotRun {
        /// What the shell or the loader said.
        said: String,
    },
    /// It ended with an error.
    #[error("{said}")]
    Failed {
        /// The verb.
        verb: &'static str,
        /// Its exit status.
        status: i32,
        /// What it said.
        said: String,
    },
    /// What it printed is not what this version understands.
    #[error(
        "`brambled {verb}` on the host printed something that this version does not understand: use the version of `bramble` that applied it, or apply again"
    )]
    Answer {
        /// The verb.
        verb: &'static str,
        /// What is wrong in it.
        source: serde_json::Error,
    },
}

/// What a shell says of a program that met an instruction that the processor does not have (SIGILL).
const ILLEGAL: i32 = 128 + 4;
/// What the loader says where a library is missing, and the shell where the program, or its loader, is.
const NOT_LOADED: i32 = 127;
/// What a shell says of a program for other machines.
const NOT_EXECUTABLE: i32 = 126;

impl VerbError {
    /// The exit status of a verb that found the host locked.
    pub(super) const LOCKED: i32 = 4;

    /// Returns why `verb` ended as it did, other than with 0.
    pub(super) fn of(verb: &'static str, output: &Output) -> Self {
        let said = output.stderr.trim().trim_start_matches("brambled: ").to_owned();
        match output.status {
            Self::LOCKED => Self::Locked { said },
            ILLEGAL | NOT_LOADED | NOT_EXECUTABLE => Self::DoesNotRun { said },
            status => Self::Failed { verb, status, said },
        }
    }
}

impl<'a> Verbs<'a> {
    /// Runs the verbs of the bundle `program`, which was unpacked on the host; of the verbs that change it
    /// none, without [`Self::under`].
    pub fn of_program(
        connection: &'a dyn Connection,
        layout: &'a Layout,
        program: &Digest,
        is_root: bool,
    ) -> Self {
        let program = layout.program(program).join("brambled").display().to_string();
        Self { connection, layout, program, is_root, lease: None }
    }

    /// Runs the verbs of the generation in force.
    pub fn of_current(connection: &'a dyn Connection, layout: &'a Layout, is_root: bool) -> Self {
        let program = Layout::brambled(&layout.current()).display().to_string();
        Self { connection, layout, program, is_root, lease: None }
    }

    /// Shows the host the number of our lease with each verb.
    #[must_use]
    pub fn under(self, lease: u64) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Runs `verb` with `request` on its standard input and reads its answer.
    pub async fn run<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        request: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, VerbError> {
        let lease = self.lease.map(|number| format!(" --lease {number}")).unwrap_or_default();
        let text = format!(
            "{} {verb} --root {}{lease}",
            quote(&self.program),
            quote(&self.layout.root().display().to_string())
        );
        let stdin = serde_json::to_vec(request).map_err(|source| VerbError::Answer { verb, source })?;
        let script = Script { text, is_root: self.is_root, timeout };
        let output = self
            .connection
            .run(&script, Stdin::bytes(stdin))
            .await
            .map_err(|source| VerbError::Connect { verb, source })?;
        if output.status == 0 {
            return serde_json::from_slice(&output.stdout)
                .map_err(|source| VerbError::Answer { verb, source });
        }
        match VerbError::of(verb, &output) {
            // going back is an answer too, and never ends as a success
            failed @ VerbError::Failed { .. } => serde_json::from_slice(&output.stdout).map_err(|_| failed),
            error => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "verbs_texts_tests.rs"]
mod texts_tests;
