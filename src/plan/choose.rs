//! From the manifest's wishes to engines: the seam between what the user wrote and the
//! placement, which knows models and hosts only as numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::door::Engines;
use super::forms::{candidates, quants, recipe};
use super::make::Inputs;
use super::misfit::misfit;
use super::stay::{Standing, stay, tolerance};
use super::types::{Chosen, Problem};
use super::wishes::Wishes;
use crate::catalog::{ModelFacts, Stored};
use crate::estimate::{self, Candidate, Serving, Speed};
use crate::facts::{Basis, HostFacts};
use crate::generation::{EngineSpec, Weights};
use crate::ids::{Digest, HostName, ModelName};
use crate::manifest::{ModelSpec, Prefer};
use crate::placement::{self, Capacity, Choice, Demand, Lean, Placed, Placement, Refusal, Want};
use crate::quant::Quant;
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

impl Offer<'_> {
    fn demand(&self, name: &ModelName, hosts: Vec<HostName>, count: Option<u32>) -> Demand<'_> {
        Demand {
            name: name.clone(),
            model: self.facts,
            candidates: &self.candidates,
            want: want(self),
            hosts,
            count,
        }
    }
}

/// Places every model on the hosts that shall run it, as far as that is possible.
pub(crate) fn choose(
    inputs: &Inputs<'_>,
    able: &BTreeMap<&HostName, &HostFacts>,
    reserved: &BTreeMap<HostName, Bytes>,
    wishes: &Wishes,
) -> Choices {
    let mut offers: BTreeMap<&ModelName, Offer<'_>> = BTreeMap::new();
    for (model, facts) in inputs.models {
        if let (Ok(facts), Some(spec)) = (facts, inputs.manifest.models.get(model))
            && misfit(facts, spec).is_none()
        {
            offers
                .insert(model, Offer { facts, spec, candidates: candidates(facts, spec, inputs.converter) });
        }
    }
    let mut demands: Vec<Demand<'_>> = Vec::new();
    for (model, offer) in &offers {
        let hosts = wishes.hosts_of(model);
        if !hosts.is_empty() {
            demands.push(offer.demand(model, hosts, None));
        }
        if let Some(counted) = wishes.counted.get(*model).filter(|counted| counted.count > 0) {
            let hosts = counted.hosts.iter().cloned().collect();
            demands.push(offer.demand(model, hosts, Some(counted.count)));
        }
    }
    let capacities: Vec<Capacity<'_>> = able
        .iter()
        .map(|(host, facts)| Capacity {
            name: (*host).clone(),
            facts,
            disk_reserved: reserved.get(*host).copied().unwrap_or(Bytes::ZERO),
            runs: running(facts),
            held: held(inputs, facts, &offers),
        })
        .collect();
    let mut placement = placement::solve(&demands, &capacities);
    let standing = standing(inputs, able, wishes, &offers);
    stay(&mut placement, &demands, &capacities, &standing);

    let mut choices = Choices {
        engines: Engines::new(),
        recipes: BTreeMap::new(),
        chosen: BTreeMap::new(),
        rooms: able.iter().map(|(host, facts)| ((*host).clone(), room(facts, host, &placement))).collect(),
        problems: problems(&placement),
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
    wishes: &Wishes,
    offers: &BTreeMap<&ModelName, Offer<'_>>,
) -> Standing {
    let mut all = Standing::new();
    for (host, facts) in able {
        let installed = facts.installed.as_ref().and_then(|installed| installed.current.as_ref());
        let (Some((_, definition)), Some(fixed)) = (installed, wishes.fixed.get(*host)) else { continue };
        let runs = definition.engines.iter().map(|engine| &engine.model);
        let counted = runs.filter(|model| wishes.may(host, model) && !fixed.contains(*model));
        let running: Option<BTreeMap<ModelName, Choice>> = fixed
            .iter()
            .chain(counted)
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
/// is not on offer any more, or not asked for, or in a way that is never chosen.
fn as_choice(engine: &EngineSpec, offer: &Offer<'_>, facts: &HostFacts, converter: u32) -> Option<Choice> {
    let is_same = |candidate: &&Candidate| {
        recipe(offer.facts, candidate.quant, converter).digest() == engine.weights.recipe
    };
    let candidate = offer.candidates.iter().find(is_same)?;
    let (wanted, serving) = (want(offer), Serving::from(engine));
    if !wanted.quants.allow(candidate.quant) || !placement::is_offered(offer.facts, &wanted, &serving) {
        return None;
    }
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
            Stored::Gguf { bytes, .. } if recipe.quant.is_none() => *bytes,
            _ => choice.estimate.file,
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
            kv: choice.serving.kv,
            need: choice.estimate.need,
            keep_prompts: offer.spec.keep_prompts,
            pace,
        };
        let mut why = choice.why.clone();
        if let Some(exact) = offer.facts.context_exact {
            let _ = write!(why, "; context {} of {exact}, up to which llama.cpp is exact", engine.context);
        }
        let trained = offer.facts.context_trained;
        if engine.context > trained {
            let _ =
                write!(why, "; context {} goes beyond the {trained} that it was trained for", engine.context);
        }
        if let Some(imatrix) = &recipe.imatrix {
            let _ = write!(why, "; with the importance matrix {}", imatrix.path);
        }
        if recipe.quant.is_some() && offer.facts.is_quantized() {
            let _ = write!(why, "; quantized a second time, which costs more than that");
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
            prompt: match choice.estimate.speed.basis {
                Basis::Unknown => "unknown".to_owned(),
                _ => choice.estimate.speed.prompt.expected.to_string(),
            },
            loss: choice.loss,
            why,
        });
        self.engines.entry(placed.host.clone()).or_default().insert(placed.model.clone(), engine);
        self.recipes.insert(id, recipe);
    }
}

/// Returns the context of a model for which the manifest names none.
fn usual_context(facts: &ModelFacts) -> u32 {
    let longest = facts.context_exact.unwrap_or(facts.context_trained).min(facts.context_trained);
    DEFAULT_CONTEXT.min(longest)
}

fn want(offer: &Offer<'_>) -> Want {
    let spec = offer.spec;
    let lean = match spec.prefer {
        Prefer::Balanced => Lean::Balanced,
        Prefer::Quality => Lean::Quality,
        Prefer::Speed => Lean::Speed,
    };
    Want {
        quants: quants(offer.facts, spec),
        lean,
        context: spec.context.unwrap_or_else(|| usual_context(offer.facts)),
        slots: spec.slots,
        floor_rate: TokensPerSec(spec.floor.tokens_per_second),
        floor_quality: spec.floor.quality,
    }
}

/// Returns the models that run on a host now.
fn running(facts: &HostFacts) -> BTreeSet<ModelName> {
    let current = facts.installed.as_ref().and_then(|installed| installed.current.as_ref());
    let engines = current.iter().flat_map(|(_, definition)| &definition.engines);
    engines.map(|engine| engine.model.clone()).collect()
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
            let there = if installed.has_room_of(&made.digest, made.bytes) {
                Some(&made.bytes)
            } else {
                installed.partials.get(&made.digest)
            };
            if let Some(bytes) = there {
                held.insert(((*model).clone(), candidate.quant), *bytes);
            }
        }
    }
    held
}

/// Returns what could not be placed: host by host where each host was asked for, else one for
/// the number of hosts that is missing.
fn problems(placement: &Placement) -> Vec<Problem> {
    let is_counted = |refusal: &&Refusal| placement.short.iter().any(|short| short.model == refusal.model);
    let one_by_one = placement.refused.iter().filter(|refusal| !is_counted(refusal)).map(|refusal| Problem {
        host: Some(refusal.host.clone()),
        model: Some(refusal.model.clone()),
        message: refusal.to_string(),
    });
    let by_number = placement.short.iter().map(|short| Problem {
        host: None,
        model: Some(short.model.clone()),
        message: short.message(&placement.refused),
    });
    one_by_one.chain(by_number).collect()
}

/// Returns the speed in words: `85 tok/s (62 to 110, estimated)`, `2.2 tok/s (measured)`, `unknown`.
fn speed(speed: &Speed) -> String {
    let basis = match speed.basis {
        Basis::Unknown => return "unknown".to_owned(),
        Basis::Estimated => "estimated",
        Basis::Calibrated => "calibrated",
        Basis::Measured => "measured",
    };
    let answer = &speed.answer;
    let digits = usize::from(answer.low.0 < 10.0);
    let [low, high] = [answer.low, answer.high].map(|end| format!("{:.digits$}", end.0));
    let range = if low == high { String::new() } else { format!("{low} to {high}, ") };
    format!("{} ({range}{basis})", answer.expected)
}
