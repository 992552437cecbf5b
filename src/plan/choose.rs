//! From the manifest's wishes to engines: the seam between what the user wrote and the
//! placement, which knows models and hosts only as numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::door::Engines;
use super::make::Inputs;
use super::misfit::misfit;
use super::stay::{Standing, stay, tolerance};
use super::types::{Chosen, Problem};
use crate::catalog::{ModelFacts, Stored, TensorShape};
use crate::estimate::{self, Basis, Candidate, Serving, Speed, Tensor};
use crate::facts::HostFacts;
use crate::generation::{EngineSpec, Weights};
use crate::ids::{Digest, HostName, ModelName};
use crate::manifest::{ModelSpec, Prefer, QuantChoice};
use crate::placement::{self, Capacity, Choice, Demand, Lean, Placed, Placement, Quants, Refusal, Want};
use crate::quant::{Quant, TensorType, mix};
use crate::source::Recipe;
use crate::units::{Bytes, TokensPerSec};

/// Tokens that a model accepts where neither the manifest nor the model says otherwise.
const DEFAULT_CONTEXT: u32 = 4096;

/// What was chosen for the whole fleet.
pub(crate) struct Choices {
    /// The engines of each host, without the digests of their weights.
    pub(crate) engines: Engines,
    /// How the weights are made, by the recipe's digest.
    pub(crate) recipes: BTreeMap<Digest, Recipe>,
    /// The numbers behind each choice.
    pub(crate) chosen: BTreeMap<HostName, Vec<Chosen>>,
    /// The memory that engines may have on each host.
    pub(crate) rooms: BTreeMap<HostName, Bytes>,
    /// What could not be placed, and why.
    pub(crate) problems: Vec<Problem>,
}

/// A model with the forms that its weights could have.
struct Offer<'a> {
    facts: &'a ModelFacts,
    spec: &'a ModelSpec,
    candidates: Vec<Candidate>,
}

/// Places every model on the hosts that shall run it, as far as that is possible.
pub(crate) fn choose(
    inputs: &Inputs<'_>,
    able: &BTreeMap<&HostName, &HostFacts>,
    reserved: &BTreeMap<HostName, Bytes>,
    wanted: &BTreeMap<HostName, BTreeSet<ModelName>>,
) -> Choices {
    let mut offers: BTreeMap<&ModelName, Offer<'_>> = BTreeMap::new();
    for (model, facts) in inputs.models {
        if let (Ok(facts), Some(spec)) = (facts, inputs.manifest.models.get(model))
            && misfit(facts, spec).is_none()
        {
            offers.insert(model, Offer { facts, spec, candidates: candidates(facts, spec) });
        }
    }
    let hosts_of = |model: &ModelName| {
        let wanting = wanted.iter().filter(|(_, models)| models.contains(model));
        wanting.map(|(host, _)| host.clone()).collect::<Vec<_>>()
    };
    let demands: Vec<Demand<'_>> = offers
        .iter()
        .map(|(model, offer)| Demand {
            name: (*model).clone(),
            model: offer.facts,
            candidates: &offer.candidates,
            want: want(offer),
            hosts: hosts_of(model),
            count: None,
        })
        .collect();
    let capacities: Vec<Capacity<'_>> = able
        .iter()
        .map(|(host, facts)| Capacity {
            name: (*host).clone(),
            facts,
            disk_reserved: reserved.get(*host).copied().unwrap_or(Bytes::ZERO),
            held: held(inputs, facts, &offers),
        })
        .collect();
    let mut placement = placement::solve(&demands, &capacities);
    let standing = standing(inputs, able, wanted, &offers);
    stay(&mut placement, &demands, &capacities, &standing);

    let mut choices = Choices {
        engines: Engines::new(),
        recipes: BTreeMap::new(),
        chosen: BTreeMap::new(),
        rooms: able.iter().map(|(host, facts)| ((*host).clone(), room(facts, host, &placement))).collect(),
        problems: placement.refused.iter().map(problem).collect(),
    };
    for placed in &placement.placed {
        if let Some(offer) = offers.get(&placed.model) {
            choices.take(placed, offer, inputs.converter);
        }
    }
    choices
}

/// Returns the memory that engines may have on a host: what there is, and the part of the
/// tolerance that what runs already takes up.
fn room(facts: &HostFacts, host: &HostName, placement: &Placement) -> Bytes {
    let placed = placement.placed.iter().filter(|placed| placed.host == *host);
    estimate::room(facts).max(placed.map(|placed| placed.choice.estimate.need).sum())
}

/// Returns what runs now as choices, for hosts all of whose models run in a form that is
/// still wanted.
fn standing(
    inputs: &Inputs<'_>,
    able: &BTreeMap<&HostName, &HostFacts>,
    wanted: &BTreeMap<HostName, BTreeSet<ModelName>>,
    offers: &BTreeMap<&ModelName, Offer<'_>>,
) -> Standing {
    let mut all = Standing::new();
    for (host, facts) in able {
        let installed = facts.installed.as_ref().and_then(|installed| installed.current.as_ref());
        let (Some((_, definition)), Some(models)) = (installed, wanted.get(*host)) else { continue };
        let running: Option<BTreeMap<ModelName, Choice>> = models
            .iter()
            .map(|model| {
                let engine = definition.engines.iter().find(|engine| engine.model == *model)?;
                let offer = offers.get(model)?;
                Some((model.clone(), as_choice(engine, offer, facts, inputs.converter)?))
            })
            .collect();
        if let Some(running) = running.filter(|running| !running.is_empty()) {
            all.insert((*host).clone(), running);
        }
    }
    all
}

/// Returns an engine that runs as the choice that it would be; none where it runs something that
/// is not on offer any more.
fn as_choice(engine: &EngineSpec, offer: &Offer<'_>, facts: &HostFacts, converter: u32) -> Option<Choice> {
    let is_same = |candidate: &&Candidate| {
        recipe(offer.facts, candidate.quant, converter).digest() == engine.weights.recipe
    };
    let candidate = offer.candidates.iter().find(is_same)?;
    let serving = Serving {
        context: engine.context,
        slots: engine.slots,
        threads: engine.threads,
        micro_batch: engine.micro_batch,
        load: engine.load,
        repack: engine.repack,
    };
    let estimate = estimate::footprint(offer.facts, candidate, &serving, facts);
    Some(Choice {
        quant: candidate.quant,
        serving,
        estimate,
        loss: candidate.loss(offer.facts),
        why: format!(
            "{}: stays, since it runs and needs {}, within {} of the {} that there is now",
            candidate.name(),
            estimate.need,
            tolerance(facts),
            estimate::room(facts)
        ),
        step_up: None,
        step_down: None,
    })
}

impl Choices {
    fn take(&mut self, placed: &Placed, offer: &Offer<'_>, converter: u32) {
        let choice = &placed.choice;
        let recipe = recipe(offer.facts, choice.quant, converter);
        let id = recipe.digest();
        let bytes = match &offer.facts.stored {
            Stored::Gguf { bytes, .. } => *bytes,
            Stored::Checkpoint { .. } => choice.estimate.file,
        };
        let pace = choice.estimate.speed.pace();
        let engine = EngineSpec {
            model: placed.model.clone(),
            weights: Weights {
                recipe: id,
                digest: None,
                bytes,
                quant: choice.quant,
                architecture: offer.facts.architecture.clone(),
            },
            context: choice.serving.context,
            slots: choice.serving.slots,
            threads: choice.serving.threads,
            micro_batch: choice.serving.micro_batch,
            load: choice.serving.load,
            repack: choice.serving.repack,
            pace,
        };
        let mut why = choice.why.clone();
        if let Some(exact) = offer.facts.context_exact {
            let _ = write!(why, "; context {} of {exact}, up to which llama.cpp is exact", engine.context);
        }
        for (word, step) in [("up", &choice.step_up), ("down", &choice.step_down)] {
            if let Some(step) = step {
                // writing to a String cannot fail
                let _ = write!(why, "; a step {word}, {}", step.text);
            }
        }
        self.chosen.entry(placed.host.clone()).or_default().push(Chosen {
            model: placed.model.clone(),
            quant: engine.weights.quant_name().to_owned(),
            memory: choice.estimate.need,
            file: bytes,
            pace,
            speed: speed(&choice.estimate.speed),
            why,
        });
        self.engines.entry(placed.host.clone()).or_default().insert(placed.model.clone(), engine);
        self.recipes.insert(id, recipe);
    }
}

fn recipe(facts: &ModelFacts, quant: Option<Quant>, converter: u32) -> Recipe {
    let quant = match facts.stored {
        Stored::Checkpoint { .. } => quant,
        // a GGUF is used as it is, whatever quant it names
        Stored::Gguf { .. } => None,
    };
    let prompt_style = facts.prompt_style.filter(|_| quant.is_some()).map(|style| style.name().to_owned());
    Recipe { source: facts.source.clone(), quant, converter, prompt_style }
}

/// Returns the context of a model for which the manifest names none.
fn usual_context(facts: &ModelFacts) -> u32 {
    let longest = facts.context_exact.unwrap_or(facts.context_trained).min(facts.context_trained);
    DEFAULT_CONTEXT.min(longest)
}

fn want(offer: &Offer<'_>) -> Want {
    let spec = offer.spec;
    let quants = match (&offer.facts.stored, &spec.quant) {
        (Stored::Gguf { .. }, _) => Quants::AsIs,
        (Stored::Checkpoint { .. }, QuantChoice::Auto) => Quants::Auto,
        (Stored::Checkpoint { .. }, QuantChoice::OneOf(quants)) => Quants::OneOf(quants.clone()),
    };
    let lean = match spec.prefer {
        Prefer::Balanced => Lean::Balanced,
        Prefer::Quality => Lean::Quality,
        Prefer::Speed => Lean::Speed,
    };
    Want {
        quants,
        lean,
        context: spec.context.unwrap_or_else(|| usual_context(offer.facts)),
        slots: spec.slots,
        floor_rate: TokensPerSec(spec.floor.tokens_per_second),
        floor_quality: spec.floor.quality,
    }
}

/// Returns the forms that the weights could have: the file that there is, or every quant that
/// can be chosen.
fn candidates(facts: &ModelFacts, spec: &ModelSpec) -> Vec<Candidate> {
    match &facts.stored {
        Stored::Gguf { tensors, quant, .. } => {
            let tensors = tensors.iter().filter_map(|shape| {
                let name = shape.tensor_type.as_deref()?;
                let tensor_type = TensorType::ALL.iter().find(|tensor_type| tensor_type.name() == name)?;
                tensor(shape, *tensor_type)
            });
            vec![Candidate { quant: *quant, tensors: tensors.collect() }]
        }
        Stored::Checkpoint { tensors } => {
            let mut quants: Vec<Quant> = placement::auto_quants().collect();
            if let QuantChoice::OneOf(wanted) = &spec.quant {
                quants.extend(wanted.iter().filter(|quant| !quants.contains(quant)).collect::<Vec<_>>());
            }
            quants.sort_unstable();
            quants.into_iter().map(|quant| quantized(facts, tensors, quant)).collect()
        }
    }
}

fn quantized(facts: &ModelFacts, tensors: &[TensorShape], quant: Quant) -> Candidate {
    let shapes: Vec<(&str, &[u64])> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let mix_facts = mix::MixFacts {
        architecture: &facts.architecture,
        layers: facts.layers,
        heads: facts.heads,
        kv_heads: facts.kv_heads,
        has_imatrix: false,
    };
    let types = mix::plan(&shapes, mix_facts, quant);
    let tensors = tensors.iter().zip(types).filter_map(|(shape, tensor_type)| tensor(shape, tensor_type));
    Candidate { quant: Some(quant), tensors: tensors.collect() }
}

fn tensor(shape: &TensorShape, tensor_type: TensorType) -> Option<Tensor> {
    let row = shape.shape.first().copied().unwrap_or(1);
    Some(Tensor::new(shape, tensor_type.name(), tensor_type.row_bytes(row)?))
}

/// Returns the bytes of weights that a host has already, by model and quant.
fn held(
    inputs: &Inputs<'_>,
    facts: &HostFacts,
    offers: &BTreeMap<&ModelName, Offer<'_>>,
) -> BTreeMap<(ModelName, Option<Quant>), Bytes> {
    let mut held = BTreeMap::new();
    let Some(installed) = &facts.installed else { return held };
    for (model, offer) in offers {
        for candidate in &offer.candidates {
            let id = recipe(offer.facts, candidate.quant, inputs.converter).digest();
            let Some(made) = inputs.lock.made.get(&id) else { continue };
            let there = installed.blobs.get(&made.digest).or_else(|| installed.partials.get(&made.digest));
            if let Some(bytes) = there {
                held.insert(((*model).clone(), candidate.quant), *bytes);
            }
        }
    }
    held
}

fn problem(refusal: &Refusal) -> Problem {
    Problem {
        host: Some(refusal.host.clone()),
        model: Some(refusal.model.clone()),
        message: refusal.to_string(),
    }
}

/// Returns the speed in words: `85 tok/s (62 to 110, estimated)`.
fn speed(speed: &Speed) -> String {
    let basis = match speed.basis {
        Basis::Estimated => "estimated",
        Basis::Calibrated => "calibrated",
        Basis::Measured => "measured",
    };
    let answer = &speed.answer;
    let digits = usize::from(answer.low.0 < 10.0);
    format!("{} ({:.digits$} to {:.digits$}, {basis})", answer.expected, answer.low.0, answer.high.0)
}
