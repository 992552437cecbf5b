//! Facts of models: from a checkpoint's configuration, a GGUF header, or the catalog.

mod model;

pub use model::{ModelFacts, Stored, TensorShape};
