use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;

use super::{BenchRequest, text};
use crate::catalog::ModelFacts;
use crate::estimate::{self, Candidate, Serving};
use crate::facts::{Cpu, EngineBench, Work};
use crate::generation::{EngineSpec, Layout};
use crate::ids::Digest;
use crate::install;
use crate::source::{Pinned, PinnedFile};
use crate::units::{Bytes, TokensPerSec};

/// Words of the prompt: about 150 tokens, some seconds on a Pi 4.
const WORDS: usize = 40;
/// Tokens of the answer.
const ANSWER: u32 = 24;
/// Rates over fewer tokens say nothing.
const LEAST_TOKENS: u32 = 8;
/// A header is mostly the vocabulary: 10 MiB for a large one.
const LONGEST_HEADER: u64 = 24 << 20;

/// Lets every engine that runs answer a prompt; says which ones did not.
pub(super) async fn measure(
    layout: &Layout,
    request: BenchRequest,
) -> Result<(Vec<EngineBench>, Vec<String>), install::Error> {
    let (mut measured, mut notes) = (Vec::new(), Vec::new());
    let Some(definition) = install::current_definition(layout)? else {
        return Ok((measured, vec!["no engine runs here".to_owned()]));
    };
    for spec in &definition.engines {
        match one(layout, spec).await {
            Ok(mut engine) => {
                if request.text {
                    let socket = layout.engine_socket(&spec.model);
                    match text::measure(&socket, spec).await {
                        Ok(text) => engine.text = Some(text),
                        Err(why) => {
                            notes.push(format!("{} was not asked to foretell a text: {why}", spec.model));
                        }
                    }
                }
                measured.push(engine);
            }
            Err(why) => notes.push(format!("{} was not measured: {why}", spec.model)),
        }
    }
    Ok((measured, notes))
}

async fn one(layout: &Layout, spec: &EngineSpec) -> Result<EngineBench, String> {
    let socket = layout.engine_socket(&spec.model);
    let prompt = prompt(WORDS.min(spec.context as usize / 4));
    let timings = install::time(&socket, spec.model.as_str(), &prompt, ANSWER).await?;
    let least = timings.prompt_n.min(timings.predicted_n);
    if least < LEAST_TOKENS {
        return Err(format!(
            "{} prompt and {} answer tokens are too few to tell",
            timings.prompt_n, timings.predicted_n
        ));
    }
    let work = work(layout, spec)?;
    Ok(EngineBench {
        model: spec.model.clone(),
        recipe: spec.weights.recipe,
        threads: spec.threads,
        repack: spec.repack,
        prompt_tokens: timings.prompt_n,
        prompt: TokensPerSec(timings.prompt_per_second),
        answer_tokens: timings.predicted_n,
        answer: TokensPerSec(timings.predicted_per_second),
        work,
        text: None,
    })
}

/// Counts what a token of the model costs, from the header of its weights.
fn work(layout: &Layout, spec: &EngineSpec) -> Result<Work, String> {
    let path = Layout::weights(&layout.current(), &spec.model);
    let read = || -> std::io::Result<(Vec<u8>, u64)> {
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut header = Vec::new();
        file.take(LONGEST_HEADER).read_to_end(&mut header)?;
        Ok((header, bytes))
    };
    let (header, bytes) = read().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let sha256 = spec.weights.digest.unwrap_or_else(|| Digest::of(b""));
    let file = PinnedFile { path: format!("{}.gguf", spec.model), bytes: Bytes(bytes), sha256 };
    let source = Pinned { uri: format!("file:{}", path.display()), files: vec![file], license: None };
    let facts = ModelFacts::from_gguf(source, &header).map_err(|error| error.to_string())?;
    let candidate = Candidate::as_it_is(&facts).ok_or("its weights are no GGUF")?;
    let serving = Serving::from(spec);
    Ok(estimate::work(&facts, &candidate, &serving, &here()))
}

/// The processor of this host, as far as work depends on it.
fn here() -> Cpu {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| {
        let (key, flags) = line.split_once(':')?;
        ["Features", "flags"].contains(&key.trim()).then_some(flags)
    });
    let features = flags.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    Cpu { features, ..Cpu::default() }
}

/// Numbers in words' place, another row each time: nothing of it is in an engine's cache.
fn prompt(words: usize) -> String {
    let mut seed = [0u8; 8];
    // without randomness the prompt is the same each time, and a cache shows as too few tokens
    let _ = getrandom::fill(&mut seed);
    let mut state = u64::from_le_bytes(seed) | 1;
    let mut text = "Go on with this list:".to_owned();
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // writing to a String cannot fail
        let _ = write!(text, " {}", state % 900 + 100);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prompt_is_like_another() {
        let (one, other) = (prompt(WORDS), prompt(WORDS));
        assert_ne!(one, other);
        assert_eq!(one.split(' ').count(), 5 + WORDS);
    }
}
