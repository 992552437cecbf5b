//! One model behind a Unix socket, with OpenAI's API.
//!
//! One process serves one model: if it is killed for memory, aborts or hangs, the router
//! still answers, from elsewhere. A thread of its own owns the model ([`worker`]); the
//! HTTP side hands it jobs and receives events, and knows nothing of llama.cpp. All that
//! does is in `llama`, behind the trait [`Engine`].
//!
//! Invariants: a slot computes for one request at a time; text that could be the
//! beginning of a stop string or of a character is held back until it is known not to
//! be; a request whose client is gone costs one more step at most.
//!
//! It deliberately does not check keys (the router does), route, or read a manifest.

mod arrivals;
mod blanks;
mod care;
mod constraint;
#[cfg(test)]
mod continued_tests;
mod dialog;
mod enclose;
mod error;
#[cfg(test)]
mod fake;
mod gate;
mod health;
mod http;
mod kept;
#[cfg(feature = "llama")]
mod llama;
mod measure;
mod metrics;
mod model;
mod offload;
mod python;
mod refusal;
mod reply;
mod serve;
mod tail;
mod template;
#[cfg(test)]
pub(crate) mod tests;
mod thoughts;
mod tools;
mod worker;

pub use blanks::Blanks;
pub use enclose::enclose;
pub use error::Error;
pub use health::{Health, Status};
#[cfg(feature = "llama")]
pub use llama::{Watched, load_libraries};
pub use model::{
    Allowed, Ask, Caches, Engine, Entry, Loaded, Report, Sampled, Sampling, Token, Told, Vocabulary, Word,
};
pub use offload::{Card, Offload, offload};
pub use serve::serve;
