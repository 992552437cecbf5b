//! What this host can do: memory, storage, and the engines that run, measured in seconds.
//!
//! Needs no model. The answer is kept in Bramble's folder, where `brambled inspect` finds it
//! for plans. Nothing here decides anything, and no figure is made up: what could not be
//! measured is left out, with a sentence on why.

mod engine;
mod memory;
mod storage;
mod text;

use serde::{Deserialize, Serialize};

use crate::causes::with_causes;
use crate::facts::Bench;
use crate::generation::Layout;
use crate::install;

/// What is to be measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchRequest {
    /// Also how well each engine foretells a text, which takes as long as an answer of some 170 tokens.
    #[serde(default)]
    pub text: bool,
    /// Whether plans are not to count with it: an engine is only being tried.
    #[serde(default)]
    pub is_trial: bool,
}

/// Measures this host and keeps what was found, but for a trial.
///
/// # Errors
/// When what was found cannot be written down.
pub async fn bench(layout: &Layout, request: BenchRequest) -> Result<Bench, install::Error> {
    let mut notes = Vec::new();
    let mut keep = |found: Result<Vec<String>, String>| match found {
        Ok(more) => notes.extend(more),
        Err(note) => notes.push(note),
    };
    // the engines first: filling memory would push their mapped weights out
    let engines = match engine::measure(layout, request).await {
        Ok((engines, more)) => {
            keep(Ok(more));
            engines
        }
        Err(error) => {
            keep(Err(format!("the engines were not measured: {}", with_causes(&error))));
            Vec::new()
        }
    };
    let memory = match tokio::task::spawn_blocking(memory::measure).await {
        Ok(Ok((memory, note))) => {
            keep(Ok(note.into_iter().collect()));
            Some(memory)
        }
        Ok(Err(note)) => {
            keep(Err(note));
            None
        }
        Err(_) => None,
    };
    let dir = layout.root().to_owned();
    let ceiling = memory.map(|memory| memory.read);
    let storage = match tokio::task::spawn_blocking(move || storage::measure(&dir, ceiling)).await {
        Ok(Ok(storage)) => Some(storage),
        Ok(Err(note)) => {
            keep(Err(note));
            None
        }
        Err(_) => None,
    };
    let bench = Bench { format: Bench::FORMAT, memory, storage, engines, notes };
    if !request.is_trial {
        install::keep_bench(layout, &bench)?;
    }
    Ok(bench)
}
