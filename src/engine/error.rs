use std::io;
use std::path::PathBuf;

use crate::ids::ModelName;
use crate::units::Bytes;

/// Why an engine does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `current` leads nowhere.
    #[error("cannot find the current generation through {path}: is anything installed here?")]
    FindGeneration {
        /// The link.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder that `current` leads to is not numbered.
    #[error("{path} is not a generation: its name is no number; apply again")]
    NameGeneration {
        /// The folder.
        path: PathBuf,
    },
    /// The definition cannot be read.
    #[error("cannot read {path}")]
    ReadDefinition {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The definition is not what this program understands.
    #[error("{path} is not a definition that this brambled understands: apply again")]
    ParseDefinition {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// The definition has another format.
    #[error(
        "{path} has format {found}, this brambled understands {}: apply again",
        crate::generation::FORMAT
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The definition has no such model.
    #[error("{path} has no model '{model}'; it has: {known}")]
    UnknownModel {
        /// The file.
        path: PathBuf,
        /// The model.
        model: ModelName,
        /// The models that it has.
        known: String,
    },
    /// The definition asks for what cannot be.
    #[error("the definition of '{model}' cannot be served: {reason}; change the manifest, and apply again")]
    Spec {
        /// The model.
        model: ModelName,
        /// What is wrong.
        reason: String,
    },
    /// The weights cannot be read.
    #[error("cannot read the weights {path}")]
    ReadWeights {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The weights are not what the definition says.
    #[error("{path} is refused: {reason}; apply again to have it repaired")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is too little memory.
    #[error(
        "{model} needs {need} of memory, and {memory} are available, with {swap} of swap: stop other programs, or deploy a smaller quant or context"
    )]
    NoRoom {
        /// The model.
        model: ModelName,
        /// What the plan expects it to hold.
        need: Bytes,
        /// What the host has.
        memory: Bytes,
        /// What can be moved out of memory beside that.
        swap: Bytes,
    },
    /// The CPU libraries are missing.
    #[error(
        "cannot load llama.cpp's CPU libraries from {path}: {reason}; apply again, with a bundle for this kind of host"
    )]
    LoadBackends {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// llama.cpp did not take the model.
    #[error("llama.cpp cannot {what}: {reason}; look at its own words in the log above")]
    Load {
        /// What it was to do.
        what: &'static str,
        /// What it says.
        reason: String,
    },
    /// This program was built without llama.cpp.
    #[error(
        "this brambled was built without llama.cpp (feature `llama`), it cannot serve models: take the one of a bundle that `scripts/bundle` makes"
    )]
    NoLlama,
    /// The socket cannot be made.
    #[error("cannot {what} the socket {path}")]
    Socket {
        /// What was to be done.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another engine serves this model already.
    #[error("another engine listens on {path}: stop that one first")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// A part of the process cannot be started.
    #[error("cannot start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The thread that owns the model died.
    #[error("the engine's worker died: look into the log for why")]
    WorkerDied,
    /// The model failed again and again.
    #[error("the model failed {times} times in a row, at last: {reason}; look into the log above")]
    Failing {
        /// How often.
        times: u32,
        /// The last failure.
        reason: String,
    },
}

impl Error {
    /// Returns whether starting again may help.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Socket { .. }
                | Self::Running { .. }
                | Self::Start { .. }
                | Self::WorkerDied
                | Self::Failing { .. }
        )
    }
}

#[cfg(test)]
#[path = "error_texts_tests.rs"]
mod texts_tests;
