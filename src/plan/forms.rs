//! The forms that a model's weights could have: what is there, and what can be made of it.

use crate::catalog::{ModelFacts, Stored};
use crate::estimate::{Candidate, loss_of};
use crate::manifest::{ModelSpec, QuantChoice};
use crate::placement::{self, Quants};
use crate::quant::{Quant, mix};
use crate::source::Recipe;

/// Returns every form that can be had; a file that can be used as it is comes first.
pub(super) fn candidates(facts: &ModelFacts, spec: &ModelSpec, converter: u32) -> Vec<Candidate> {
    let made = to_make(facts, spec).into_iter().map(|quant| Candidate::quantized(facts, quant));
    let with_recipe = |candidate: Candidate| {
        let recipe = Some(recipe(facts, candidate.quant, converter).digest());
        Candidate { recipe, ..candidate }
    };
    Candidate::as_it_is(facts).into_iter().chain(made).map(with_recipe).collect()
}

/// Returns which of the forms may be chosen, and by which rule.
///
/// `auto` takes a GGUF as it is. Where the manifest lets it be quantized again, that is done
/// for hosts that it is too large for.
pub(super) fn quants(facts: &ModelFacts, spec: &ModelSpec) -> Quants {
    match (&facts.stored, &spec.quant) {
        (_, QuantChoice::OneOf(quants)) => Quants::OneOf(quants.clone()),
        (Stored::Checkpoint { .. }, QuantChoice::Auto) => Quants::Auto,
        (Stored::Gguf { .. }, QuantChoice::Auto) => match to_make(facts, spec) {
            smaller if smaller.is_empty() => Quants::AsIs,
            smaller => Quants::AsIsOr(smaller),
        },
    }
}

/// Returns how a form is made.
pub fn recipe(facts: &ModelFacts, form: Option<Quant>, converter: u32) -> Recipe {
    let quant = match &facts.stored {
        Stored::Checkpoint { .. } => form,
        Stored::Gguf { quant: own, .. } => form.filter(|_| form != *own),
    };
    let is_made = quant.is_some();
    Recipe {
        source: facts.source.clone(),
        quant,
        converter,
        prompt_style: facts.prompt_style.filter(|_| is_made).map(|style| style.name().to_owned()),
        imatrix: facts.imatrix.clone().filter(|_| is_made),
    }
}

/// Returns the quants that can be made of what there is.
pub(super) fn to_make(facts: &ModelFacts, spec: &ModelSpec) -> Vec<Quant> {
    match (&facts.stored, &spec.quant) {
        (Stored::Checkpoint { .. }, choice) => {
            let mut quants: Vec<Quant> = placement::auto_quants().collect();
            if let QuantChoice::OneOf(wanted) = choice {
                quants.extend(wanted.iter().filter(|quant| !quants.contains(quant)).collect::<Vec<_>>());
            }
            quants.sort_unstable();
            quants
        }
        (Stored::Gguf { .. }, _) if !is_makeable(facts) => Vec::new(),
        (Stored::Gguf { .. }, _) if facts.is_quantized() && !spec.requantize => Vec::new(),
        (Stored::Gguf { quant: own, .. }, QuantChoice::OneOf(wanted)) => {
            wanted.iter().copied().filter(|quant| Some(*quant) != *own).collect()
        }
        (Stored::Gguf { .. }, QuantChoice::Auto) if !spec.requantize => Vec::new(),
        (Stored::Gguf { .. }, QuantChoice::Auto) => smaller(facts, spec.floor.quality),
    }
}

/// Returns whether quants can be made of a GGUF: of mixtures of experts, and where llama.cpp has
/// rules of its own, they are taken as they are published.
pub(super) fn is_makeable(facts: &ModelFacts) -> bool {
    let (Stored::Checkpoint { tensors } | Stored::Gguf { tensors, .. }) = &facts.stored;
    !mix::has_own_rules(&facts.architecture) && tensors.iter().all(|tensor| !tensor.name.contains("_exps."))
}

/// Returns the quants that are smaller than the file and no worse than the floor, best first.
fn smaller(facts: &ModelFacts, floor: Quant) -> Vec<Quant> {
    let Some(own) = Candidate::as_it_is(facts) else { return Vec::new() };
    let bar = loss_of(facts, floor, None);
    let is_smaller = |quant: &Quant| Candidate::quantized(facts, *quant).file(facts) < own.file(facts);
    let loss = |quant: Quant| loss_of(facts, quant, None);
    let mut quants: Vec<Quant> =
        placement::auto_quants().filter(|quant| loss(*quant).is_within(&bar)).filter(is_smaller).collect();
    quants.sort_by(|a, b| loss(*a).divergence.total_cmp(&loss(*b).divergence));
    quants
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fleet, name};
    use super::super::types::{Action, Plan};
    use super::*;
    use crate::catalog::TensorShape;
    use crate::ids::Digest;
    use crate::source::PinnedFile;
    use crate::units::Bytes;

    /// The fleet with `text` in place of its model, whose source is a GGUF of `quant`.
    fn fleet(text: &str, quant: Quant) -> Fleet {
        let mut fleet = Fleet::with("source: hf:org/chat, context: 1024", text);
        for facts in fleet.models.values_mut().flatten() {
            facts.source.files = vec![PinnedFile {
                path: "chat.gguf".to_owned(),
                bytes: Bytes::mib(138),
                sha256: Digest::of(b"gguf"),
            }];
            let tensors = Candidate::quantized(facts, quant).tensors.into_iter().map(|tensor| TensorShape {
                tensor_type: Some(tensor.tensor_type.clone()),
                name: tensor.name,
                shape: tensor.shape,
            });
            let tensors = tensors.collect();
            facts.stored = Stored::Gguf { bytes: Bytes::mib(138), tensors, quant: Some(quant) };
        }
        fleet
    }

    fn with_imatrix(mut fleet: Fleet, text: &[u8]) -> Fleet {
        for facts in fleet.models.values_mut().flatten() {
            let bytes = Bytes(text.len() as u64);
            let path = "chat.imatrix".to_owned();
            facts.imatrix = Some(PinnedFile { path, bytes, sha256: Digest::of(text) });
        }
        fleet
    }

    fn made(plan: &Plan) -> Vec<Option<Quant>> {
        plan.artifacts.iter().map(|artifact| artifact.recipe.quant).collect()
    }

    #[test]
    fn a_quantized_file_is_not_quantized_again_unasked() {
        let (plan, problems) = fleet("source: hf:org/chat, quant: [Q4_0, Q4_1]", Quant::Q8_0).make();
        assert!(plan.artifacts.is_empty());
        assert_eq!(
            problems[0].message,
            "chat: chat.gguf is Q8_0 already, and Q4_0 or Q4_1 made of it (line 5) would have lost quality twice: take the original weights as the source, or the file as it is with `quant: auto`, or allow it with `requantize: true`"
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
        // nothing is made where the file is what is wanted
        for text in ["source: hf:org/chat", "source: hf:org/chat, quant: [Q4_0, Q8_0]"] {
            let plan = fleet(text, Quant::Q8_0).make().0;
            assert_eq!(made(&plan), [None], "{text}");
            assert!(!plan.artifacts[0].may_requantize);
        }
    }

    #[test]
    fn a_quantized_file_is_quantized_again_where_the_manifest_allows_it() {
        let plan =
            fleet("source: hf:org/chat, context: 1024, quant: Q4_0, requantize: true", Quant::Q8_0).plan();
        assert_eq!(made(&plan), [Some(Quant::Q4_0)]);
        assert!(plan.artifacts[0].may_requantize && plan.artifacts[0].bytes < Bytes::mib(138));
        let why = &plan.host(&name("attic")).unwrap().choices[0].why;
        assert!(why.contains("quantized a second time, which costs more than that"), "{why}");
        // by itself, only for the host that the file is too large for
        let plan = fleet("source: hf:org/chat, context: 1024, requantize: true", Quant::Q8_0).plan();
        let quant = |host: &str| plan.host(&name(host)).unwrap().definition.engines[0].weights.quant;
        assert_eq!((quant("attic"), quant("desk")), (Some(Quant::Q8_0), Some(Quant::Q8_0)));
        assert!(quant("shed").is_some_and(|quant| quant != Quant::Q8_0), "{:?}", quant("shed"));
        assert_eq!(
            made(&plan).iter().filter(|quant| quant.is_none()).count(),
            1,
            "the others get it as it is"
        );
    }

    #[test]
    fn a_file_of_floats_becomes_the_quant_that_is_asked_for() {
        let plan = fleet("source: hf:org/chat, quant: Q8_0", Quant::F16).make().0;
        assert_eq!(made(&plan), [Some(Quant::Q8_0)]);
        assert!(!plan.artifacts[0].may_requantize);
        let plan = fleet("source: hf:org/chat, quant: F16, context: 64", Quant::F16).make().0;
        assert_eq!(made(&plan), [None]);
    }

    #[test]
    fn what_cannot_be_quantized_here_is_refused_before_it_is_fetched() {
        let mut experts = fleet("source: hf:org/chat, quant: Q4_0, requantize: true", Quant::Q8_0);
        for facts in experts.models.values_mut().flatten() {
            let Stored::Gguf { tensors, .. } = &mut facts.stored else { continue };
            "blk.0.ffn_gate_exps.weight".clone_into(&mut tensors[1].name);
        }
        let problems = experts.problems();
        assert!(
            problems[0]
                .starts_with("chat: Q4_0 cannot be made of chat.gguf (line 5), a model of a kind (llama)"),
            "{problems:?}"
        );
    }

    #[test]
    fn an_importance_matrix_gives_weights_of_their_own() {
        let text = "source: hf:org/chat, context: 1024, imatrix: chat.imatrix";
        let ids = |fleet: &Fleet| -> Vec<Digest> {
            fleet.plan().artifacts.iter().map(|artifact| artifact.id).collect()
        };
        let without = ids(&Fleet::new());
        let fleet = |text: &str, matrix| {
            with_imatrix(Fleet::with("source: hf:org/chat, context: 1024", text), matrix)
        };
        let (first, second) = (ids(&fleet(text, b"first")), ids(&fleet(text, b"second")));
        assert!(first.iter().all(|id| !without.contains(id) && !second.contains(id)));
        let plan = fleet(text, b"first").plan();
        assert!(
            plan.host(&name("shed")).unwrap().choices[0].why.contains("the importance matrix chat.imatrix")
        );
        // a host that runs weights made without one gets others
        let mut applied = Fleet::new();
        applied.apply();
        applied.change("source: hf:org/chat, context: 1024", text);
        assert!(!with_imatrix(applied, b"first").plan().is_empty());
    }

    #[test]
    fn one_pass_makes_with_one_importance_matrix() {
        let two = "chat: { source: hf:org/chat, context: 1024 }\n  other: { source: hf:org/chat, context: 1024, imatrix: m }";
        let text = super::super::testing::MANIFEST
            .replace("chat: { source: hf:org/chat, context: 1024 }", two)
            .replace("deploy:\n", "deploy:\n  - { model: other, on: [attic] }\n");
        let mut fleet = Fleet::of(&text);
        let source = fleet.models[&"chat".parse().unwrap()].as_ref().unwrap().source.clone();
        let other = fleet.models.get_mut(&"other".parse().unwrap()).unwrap().as_mut().unwrap();
        let matrix = PinnedFile { path: "m".to_owned(), bytes: Bytes(1), sha256: Digest::of(b"m") };
        (other.source, other.imatrix) = (source, Some(matrix.clone()));
        let plan = fleet.plan();
        let (mut fetches, mut matrices) = (0, Vec::new());
        for step in plan.steps() {
            match &step.action {
                Action::Fetch { .. } => fetches += 1,
                Action::Make { artifacts } => {
                    let used = artifacts.iter().map(|id| plan.artifact(id).unwrap().recipe.imatrix.clone());
                    let mut used: Vec<_> = used.collect();
                    used.dedup();
                    matrices.extend(used);
                }
                _ => {}
            }
        }
        matrices.sort();
        assert_eq!((fetches, matrices), (1, vec![None, Some(matrix)]));
        assert_eq!(super::super::check(&plan), [""; 0]);
    }

    #[test]
    fn an_importance_matrix_that_would_change_nothing_is_refused() {
        let text = "source: hf:org/chat, imatrix: chat.imatrix";
        let problems = with_imatrix(fleet(text, Quant::Q8_0), b"matrix").problems();
        assert_eq!(
            problems,
            [
                "chat: chat.gguf is used as it is, and the importance matrix chat.imatrix (line 5) would change nothing: leave `imatrix` out, or name the quant to be made"
            ]
        );
    }
}
