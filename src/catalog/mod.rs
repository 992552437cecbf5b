//! Facts of models: from a checkpoint's configuration, a GGUF header, or the catalog.
//!
//! Figures come from other people's files: each is believed only within bounds, and an
//! error names the key. Nothing is fetched here.

mod checkpoint;
mod figures;
mod forecast;
mod known;
mod known_figures;
mod model;
mod raw;
mod tensors;
mod windows;

pub use known::{KnownModel, Prompt, all, find, prompt_style};
pub use known_figures::{Family, Figures};
pub use model::{ModelFacts, Stored, TensorShape};

/// Why facts of a model could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No model of that name is in the catalog.
    #[error("the catalog has no model {name:?}{} `bramble catalog` lists them all", near.as_ref().map_or_else(|| ":".to_owned(), |near| format!(": did you mean {near:?}?")))]
    NotInCatalog {
        /// The name that was asked for.
        name: String,
        /// The nearest that there is.
        near: Option<String>,
    },
    /// The catalog itself has faults.
    #[error("the built-in catalog cannot be read: this is a fault of bramble, please report it")]
    ReadCatalog(#[source] crate::yaml::Problems),
    /// What `config.json` says gives a figure that is not believed.
    #[error("config.json gives a `{key}` that cannot be: take another checkpoint of the model")]
    Figure {
        /// The key of the GGUF.
        key: String,
    },
    /// Figures that do not go together.
    #[error("the weights are described as of {what}, which cannot be: take another checkpoint of the model")]
    Disagree {
        /// The figures.
        what: String,
    },
    /// The checkpoint cannot be converted.
    #[error("{0}")]
    Convert(String),
    /// A header is not what it should be.
    #[error("the header of the weights cannot be read: {0}; fetch it again, or take another publisher's")]
    Header(String),
    /// A key of a GGUF is missing or not to be believed.
    #[error("the GGUF has no usable `{key}`: take the file from another publisher")]
    GgufKey {
        /// The key.
        key: String,
    },
    /// A file is shorter than its header says.
    #[error("the GGUF has {found}, and its header speaks of {expected}: it is cut off, fetch it again")]
    Short {
        /// Its size.
        found: crate::units::Bytes,
        /// The size that it should have.
        expected: crate::units::Bytes,
    },
    /// A tensor that is listed more than once.
    #[error("the GGUF lists tensor {name:?} twice: take the file from another publisher")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A tensor that the model is computed with is not there.
    #[error("the GGUF has no tensor {name:?}: take the file from another publisher")]
    Missing {
        /// Its name.
        name: String,
    },
    /// Tensors that cannot all be in the file.
    #[error("the GGUF has {found}, and its tensors take {expected}: take the file from another publisher")]
    Overlap {
        /// Its size.
        found: crate::units::Bytes,
        /// What the tensors take, one after the other.
        expected: crate::units::Bytes,
    },
    /// A tensor that cannot be.
    #[error("tensor {name:?} has a shape that cannot be: {shape:?}; take the file from another publisher")]
    Tensor {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
}

impl Error {
    /// Returns the name of the catalog that was probably meant.
    pub fn suggestion(&self) -> Option<&str> {
        match self {
            Self::NotInCatalog { near, .. } => near.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod texts_tests;
