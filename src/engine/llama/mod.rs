//! The engine on llama.cpp.

mod backends;
mod context;
mod decoder;
mod encoder;
mod watch;
mod words;

use std::sync::Arc;

use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

pub use backends::load_libraries;
pub use watch::Watched;

use self::backends::Backends;
use self::decoder::Decoder;
use self::encoder::{Reader, Seat};
use self::words::Words;
use super::health::Shared;
use super::offload::absence;
use super::serve::{Setup, Work};
use super::{Blanks, Entry, Error, Loaded, Offload, Token, Told};
use crate::causes::with_causes;
use crate::generation::{EngineSpec, LoadMode};
use crate::gguf::TAKE_BLANKS;

/// The architecture of models that read with an encoder.
const ENCODER: &str = "t5";

/// Returns what loads the model of `setup` and works with it.
pub(super) fn loader(
    setup: &Setup,
) -> impl FnOnce(&Arc<Shared>, &mut Work<'_>) -> Result<(), Error> + Send + 'static {
    let setup = setup.clone();
    move |shared, work| {
        let outcome = load(&setup, shared, work);
        // giving up while loading is no failure
        if shared.is_stopping() && shared.loaded().is_none() { Ok(()) } else { outcome }
    }
}

fn load(setup: &Setup, shared: &Arc<Shared>, work: &mut Work<'_>) -> Result<(), Error> {
    let spec = &setup.spec;
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
    let backends = backends::load()?;
    tracing::info!(cpu = backends.cpu, model = %spec.model, "loading");
    let Some(gpu) = offload(setup, backends) else { return load_on(None, setup, shared, work) };
    let mut has_begun = false;
    let outcome = load_on(Some(gpu), setup, shared, &mut |engine, loaded| {
        has_begun = true;
        work(engine, loaded)
    });
    match outcome {
        Err(error) if !has_begun && !shared.is_stopping() => {
            let reason = with_causes(&error);
            tracing::warn!(reason, "the graphics processor does not take the model: the CPU computes");
            load_on(None, setup, shared, work)
        }
        outcome => outcome,
    }
}

/// Decides what of the model the graphics processors of this host compute, and says so.
fn offload(setup: &Setup, backends: &Backends) -> Option<Offload> {
    let cards = backends::cards();
    if let Some(reason) = absence(&backends.built_for, &backends::spoken(), &cards) {
        tracing::warn!("{reason}: the CPU computes");
    }
    if cards.is_empty() {
        return None;
    }
    let Setup { spec, known, .. } = setup;
    // a mask that is changed between two blocks, and contexts with an encoder, are proven on the CPU
    if known.window.is_some() || spec.weights.architecture == ENCODER {
        tracing::info!("models of this kind are computed by the CPU");
        return None;
    }
    let gpu = super::offload(&cards, known.blocks, spec.weights.bytes, spec.need);
    if let Some(Offload { cards, layers, of, .. }) = &gpu {
        tracing::info!(?cards, layers, of, "a graphics processor computes");
    } else {
        tracing::warn!(?cards, "not one layer has room on a graphics processor: the CPU computes");
    }
    gpu
}

/// Loads the model, the layers of `gpu` to its cards, and works with it.
fn load_on(
    gpu: Option<Offload>,
    setup: &Setup,
    shared: &Arc<Shared>,
    work: &mut Work<'_>,
) -> Result<(), Error> {
    let spec = &setup.spec;
    let failed = |what: &'static str| move |reason: String| Error::Load { what, reason };
    let backends = backends::load()?;
    let progress = Arc::clone(shared);
    // none is named where the CPU computes: llama.cpp would send it long prompts all the same
    let cards = gpu.as_ref().map(|gpu| gpu.indices.as_slice()).unwrap_or_default();
    let params = LlamaModelParams::default()
        .with_devices(cards)
        .map_err(|error| failed("choose graphics processors")(error.to_string()))?
        .with_n_gpu_layers(gpu.as_ref().map_or(0, |gpu| gpu.layers))
        .with_use_mmap(spec.load == LoadMode::Mmap)
        .with_progress_callback(move |part| {
            progress.set_progress(part);
            !progress.is_stopping()
        });
    let model = backends::with_repack(spec.repack, || {
        LlamaModel::load_from_file(&backends.llama, &setup.weights, &params)
    })
    .map_err(failed("switch repacking off"))?
    .map_err(|error| failed("load the weights")(error.to_string()))?;

    let refuse = |reason| Err(Error::Weights { path: setup.weights.clone(), reason });
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    if architecture != spec.weights.architecture {
        let expected = &spec.weights.architecture;
        return refuse(format!("its architecture is '{architecture}', the definition says '{expected}'"));
    }
    let start = Some(model.decode_start_token().0).filter(|token| *token != -1);
    if spec.context > model.n_ctx_train() {
        tracing::warn!(
            context = spec.context,
            trained = model.n_ctx_train(),
            "longer than it was trained for"
        );
    }

    let blanks = match model.meta_val_str(TAKE_BLANKS) {
        Ok(list) => Blanks::read(&list)
            .map_err(|error| failed("read which tokens take blanks along")(error.to_string()))?,
        // most have no such tokens
        Err(_) => Blanks::default(),
    };
    let vocab = model.vocab();
    let words = Words { vocab: model.vocab(), blanks, adds_end: start.is_some() };
    let text = |token: LlamaToken| match token.0 {
        -1 => String::new(),
        _ => String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned(),
    };
    let loaded = Loaded {
        slots: spec.slots as usize,
        context: spec.context as usize,
        batch: context::batch(spec) as usize,
        vocabulary: usize::try_from(vocab.n_tokens()).unwrap_or(0),
        start,
        chat_template: model.meta_val_str("tokenizer.chat_template").ok(),
        bos: text(vocab.bos()),
        eos: text(vocab.eos()),
        cpu: backends.cpu.clone(),
        gpu,
    };
    match start {
        None => {
            let params = context::params(spec).map_err(failed("make a context"))?;
            let context = Watched::new(&model, &backends.llama, params, setup.known.window.clone());
            let mut engine = Decoder {
                words,
                window: window(&model, &architecture),
                samplers: (0..spec.slots).map(|_| LlamaSampler::greedy()).collect(),
                batch: LlamaBatch::new(loaded.batch, 1),
                context: context.map_err(failed("make a context"))?,
            };
            engine.warm_up().map_err(failed("compute"))?;
            work(&mut engine, loaded)
        }
        Some(start) => {
            let mut engine = reader(&model, backends, spec, words, start).map_err(failed("make contexts"))?;
            engine.warm_up().map_err(failed("compute"))?;
            work(&mut engine, loaded)
        }
    }
}

/// Makes a context for each slot of a model that reads with an encoder.
fn reader<'model>(
    model: &'model LlamaModel,
    backends: &Backends,
    spec: &EngineSpec,
    words: Words<'model>,
    start: Token,
) -> Result<Reader<'model>, String> {
    // an encoder reads all of a prompt at once
    let one = EngineSpec { slots: 1, micro_batch: spec.context, ..spec.clone() };
    let seat = |_| {
        let context = model.new_context(&backends.llama, context::params(&one)?);
        Ok(Seat {
            context: context.map_err(|error| error.to_string())?,
            batch: LlamaBatch::new(spec.context as usize, 1),
            sampler: LlamaSampler::greedy(),
        })
    };
    let seats = (0..spec.slots).map(seat).collect::<Result<_, String>>()?;
    Ok(Reader { words, start, seats })
}

/// Returns the tokens that windowed layers look back on, where the file names them.
fn window(model: &LlamaModel, architecture: &str) -> Option<i32> {
    model.meta_val_str(&format!("{architecture}.attention.sliding_window")).ok()?.parse().ok()
}

/// Adds an entry to a batch, as a part of `sequence`.
fn add(batch: &mut LlamaBatch<'_>, entry: &Entry, sequence: i32) -> Result<(), String> {
    let (token, place) = (LlamaToken::new(entry.token), position(entry.position)?);
    batch.add(token, place, &[sequence], entry.ask.is_some()).map_err(|error| error.to_string())
}

fn position(number: usize) -> Result<i32, String> {
    i32::try_from(number).map_err(|error| error.to_string())
}

/// Puts what was told of slots into the order in which it was asked for; of each slot at most one entry asks.
fn as_asked(mut told: Vec<(usize, Told)>, entries: &[Entry]) -> Vec<Told> {
    let place = |slot: usize| entries.iter().position(|entry| entry.slot == slot && entry.ask.is_some());
    told.sort_by_key(|(slot, _)| place(*slot));
    told.into_iter().map(|(_, told)| told).collect()
}
