//! How a model would do on boards: every quant with its memory, speed and loss, a verdict by
//! one rule, and what `auto` would pick.
//!
//! For deciding what to buy or to try, before there is a manifest. It stores nothing and
//! decides nothing: the pick is [`crate::placement`]'s.

mod verdict;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::catalog::{ModelFacts, Stored};
use crate::estimate::{self, Candidate, Loss, Speed};
use crate::facts::HostFacts;
use crate::generation::{KvType, LoadMode};
use crate::placement::{self, Choice, Lean, Quants, Room, Want};
use crate::quant::Quant;
use crate::units::{Bytes, TokensPerSec};

pub use verdict::{RULE, Verdict};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Tokens that a conversation may have.
    pub context: u32,
    /// The quants to show, best first.
    pub quants: Vec<Quant>,
    /// Whether one of these is picked, and none that `auto` would take else.
    pub is_only: bool,
}

/// The quants that say most for their number: one for each number of bits, and the old 4-bit one.
pub const LADDER: [Quant; 7] =
    [Quant::Q8_0, Quant::Q6K, Quant::Q5KM, Quant::Q4KM, Quant::Q4_0, Quant::Q3KM, Quant::Q2K];

/// A model on boards.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// The model, as it was asked for.
    pub model: String,
    /// Its parameters.
    pub parameters: u64,
    /// Whether the figures are the catalog's, and its source was not asked.
    pub is_forecast: bool,
    /// Tokens that a conversation may have.
    pub context: u32,
    /// What stands against it on any board.
    pub notes: Vec<String>,
    /// Whether one of the quants that were asked for was picked, and not by `auto`.
    pub is_only: bool,
    /// By board, in the order asked.
    pub boards: Vec<OnBoard>,
}

/// A model on one board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnBoard {
    /// The board's name: `pi5-8gb`.
    pub board: String,
    /// The memory that models may have there.
    pub room: Bytes,
    /// By quant, best first.
    pub forms: Vec<Form>,
    /// What `auto` takes, or the first that fits of those that were asked for; none where nothing fits.
    pub pick: Option<String>,
    /// Why it is that, or why it is nothing.
    pub why: String,
}

/// A model in one quant on one board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Form {
    /// The quant's name, or `as is`.
    pub quant: String,
    /// The predicted size of the file.
    pub file: Bytes,
    /// The memory that it takes, served in the way that is fastest of those that fit; or the
    /// least that it could do with.
    pub need: Bytes,
    /// Whether that is with keys and values in `Q8_0`, as with those in `F16` it would not fit.
    pub is_packed: bool,
    /// The part of the memory for models that is left; below zero where it does not fit.
    pub left: f64,
    /// How fast it is, or would be with enough memory.
    pub speed: Speed,
    /// Seconds to the first token of an answer to a prompt of 512 tokens.
    pub first_token_seconds: f64,
    /// What it costs in quality, where that is known.
    pub loss: Option<Loss>,
    /// In one word.
    pub verdict: Verdict,
}

/// The prompt that [`Form::first_token_seconds`] is for.
pub const PROMPT: u32 = 512;

/// Says how a model would do on `boards`.
pub fn fit(
    name: &str,
    model: &ModelFacts,
    is_forecast: bool,
    question: &Question,
    boards: &[(String, HostFacts)],
) -> Fit {
    let candidates = candidates(model, question);
    Fit {
        model: name.to_owned(),
        parameters: model.parameters,
        is_forecast,
        context: question.context,
        notes: notes(model, question.context),
        is_only: question.is_only,
        boards: boards
            .iter()
            .map(|(board, host)| on_board(model, &candidates, question, board, host))
            .collect(),
    }
}

fn notes(model: &ModelFacts, context: u32) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(exact) = model.context_exact.filter(|exact| context > *exact) {
        notes.push(format!(
            "a plan refuses this context: llama.cpp computes the model rightly up to {exact} tokens only"
        ));
    }
    if context > model.context_trained {
        notes.push(format!("it was trained for {} tokens", model.context_trained));
    }
    notes
}

/// Returns the forms to show: the file itself where it is one, else what can be made of it.
fn candidates(model: &ModelFacts, question: &Question) -> Vec<Candidate> {
    match &model.stored {
        Stored::Gguf { .. } => Candidate::as_it_is(model).into_iter().collect(),
        Stored::Checkpoint { .. } => {
            let mut quants: Vec<Quant> =
                placement::auto_quants().chain(question.quants.iter().copied()).collect();
            quants.sort_unstable();
            quants.dedup();
            quants.into_iter().map(|quant| Candidate::quantized(model, quant)).collect()
        }
    }
}

fn on_board(
    model: &ModelFacts,
    candidates: &[Candidate],
    question: &Question,
    board: &str,
    host: &HostFacts,
) -> OnBoard {
    let room = Room { memory: estimate::room(host), disk: None };
    let choose = |quants: Quants| {
        placement::choose(model, candidates, &want(question, quants), host, room, &|_| Bytes::ZERO)
    };
    let is_file = matches!(model.stored, Stored::Gguf { .. });
    let is_shown = |candidate: &&Candidate| {
        is_file || candidate.quant.is_some_and(|quant| question.quants.contains(&quant))
    };
    let picked = choose(match (is_file, question.is_only) {
        (true, _) => Quants::AsIs,
        (false, true) => Quants::OneOf(question.quants.clone()),
        (false, false) => Quants::Auto,
    });
    let picked_name = picked.as_ref().ok().map(|choice| choice.quant.map_or("as is", Quant::name).to_owned());
    let is_picked = |candidate: &&Candidate| Some(candidate.name()) == picked_name.as_deref();
    let forms =
        candidates.iter().filter(|candidate| is_shown(candidate) || is_picked(candidate)).map(|candidate| {
            let quants = match candidate.quant {
                Some(quant) if !is_file => Quants::OneOf(vec![quant]),
                _ => Quants::AsIs,
            };
            form(model, candidate, &choose(quants), question, host, room)
        });
    let forms = forms.collect();
    let why = match &picked {
        Ok(choice) => choice.why.clone(),
        Err(reason) => refusal(board, reason),
    };
    OnBoard { board: board.to_owned(), room: room.memory, forms, pick: picked_name, why }
}

fn form(
    model: &ModelFacts,
    candidate: &Candidate,
    choice: &Result<Choice, placement::Reason>,
    question: &Question,
    host: &HostFacts,
    room: Room,
) -> Form {
    let (estimate, need, is_packed) = match choice {
        Ok(choice) => (choice.estimate, choice.estimate.need, choice.serving.kv != KvType::F16),
        // what does not fit is shown as the leanest way to serve it would be
        Err(reason) => {
            let estimate = estimate::footprint(model, candidate, &leanest(model, question, host), host);
            match reason {
                placement::Reason::Memory { need, is_packed, .. } => (estimate, *need, *is_packed),
                _ => (estimate, estimate.need, false),
            }
        }
    };
    let fits = choice.is_ok() && need <= room.memory;
    let left = (room.memory.0 as f64 - need.0 as f64) / (room.memory.0.max(1) as f64);
    Form {
        quant: candidate.name().to_owned(),
        file: estimate.file,
        need,
        is_packed,
        left,
        speed: estimate.speed,
        first_token_seconds: estimate.speed.first_token_seconds(PROMPT),
        loss: candidate.loss(model),
        verdict: Verdict::of(fits, left, estimate.speed.answer.expected),
    }
}

fn leanest(model: &ModelFacts, question: &Question, host: &HostFacts) -> estimate::Serving {
    estimate::Serving {
        context: question.context,
        slots: 1,
        threads: host.cpu.cores.max(1),
        // an encoder reads all of a prompt at once
        micro_batch: if model.decoder_layers.is_some() { question.context } else { 64 },
        load: LoadMode::Mmap,
        repack: false,
        kv: KvType::F16,
    }
}

/// What a manifest says that says nothing but the context.
fn want(question: &Question, quants: Quants) -> Want {
    Want {
        quants,
        lean: Lean::Balanced,
        context: question.context,
        slots: 1,
        floor_rate: TokensPerSec(0.5),
        floor_quality: Quant::Q4_0,
    }
}

fn refusal(board: &str, reason: &placement::Reason) -> String {
    use placement::Reason as R;
    match reason {
        R::Memory { quant, is_packed, need, room, remedies, .. } => {
            let kv = if *is_packed { " with keys and values in Q8_0" } else { "" };
            let at = quant.map(|quant| format!(" even at {quant}{kv}")).unwrap_or_default();
            let mut ways = Vec::new();
            ways.extend(remedies.context.map(|context| format!("with --context {context}")));
            ways.extend(remedies.below_floor.map(|quant| format!("at {quant}, which loses much")));
            let ways = if ways.is_empty() { String::new() } else { format!("; fits {}", ways.join(", or ")) };
            format!("needs {need}{at}, and there is {room}{ways}")
        }
        R::Slow { answer, floor, .. } => {
            format!("may answer with only {:.2} tok/s, and `auto` wants {:.1} or more", answer.0, floor.0)
        }
        other => format!("{board}: {other:?}"),
    }
}
